"""One process that serves one index version over HTTP and gRPC, from verification to the last drained request."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import signal
import socket
import sys
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

from matching.errors import Unavailable
from matching.live import LiveIndex, WriteLog
from matching.store import Store
from matching.version import IndexVersion
from serving.admission import Admission
from serving.auth import Gate
from serving.encoder_process import EncoderProcess
from serving.health import Health
from serving.listener import check_exposure, grpc_tls, http_tls
from serving.metrics import Metrics
from serving.observation import Observation
from serving.recommender import Recommender, Snapshot
from serving.request_log import log_to_stderr
from serving.settings import AuthSettings, ServingSettings, TlsSettings

if TYPE_CHECKING:
    import ssl

    from serving.grpc import GrpcApi

_log = logging.getLogger(__name__)
_NOTICE_S = 0.2  # between "not ready" and closed doors
_HEALTH_PERIOD_S = 0.5
# How long a thread that takes writes may keep a search waiting for the interpreter; Python's own is 5 ms.
SWITCH_S = 2e-5


def serve(
    store: Store,
    name: str,
    *,
    settings: ServingSettings,
    auth: AuthSettings | None = None,
    tls: TlsSettings | None = None,
    host: str = "127.0.0.1",
    http_port: int = 8080,
    grpc_port: int = 8081,
    model_dir: Path | None = None,
    as_json: bool = False,
    log_requests: bool = True,
) -> None:
    """Serve a version until SIGTERM or SIGINT, then drain and return.

    Prints where it listens on standard output: `HTTP http://host:port` and `gRPC host:port`, or one JSON object.

    Args:
        store: where the version lies.
        name: an alias or a version id, resolved once.
        settings: limits and times.
        auth: who may ask, everybody when None.
        tls: how connections are encrypted, not at all when None.
        host: the address to listen on; one that other machines can reach needs both, or the settings to accept its risk.
        http_port: 0 takes a free one.
        grpc_port: 0 takes a free one.
        model_dir: where exported models lie, the encoders' default when None.
        as_json: print `{"http": ..., "grpc": ..., "index_version": ...}` instead.
        log_requests: write a line to standard error for every request.

    Raises:
        NotFound: no such version.
        InvalidInput: the address is not guarded, or a file of keys or certificates is wrong.
        CorruptArtifact: the version or its write log on disk is damaged; nothing was served.
        Unavailable: a port is taken, another process writes to the log, or the version's encoders cannot be loaded here.
    """
    import uvloop

    log_to_stderr(requests=log_requests)
    sys.setswitchinterval(SWITCH_S)
    tls = tls or TlsSettings()
    gate, context = Gate(auth or AuthSettings()), http_tls(tls)
    check_exposure(host, has_auth=gate.is_on, has_tls=context is not None, is_accepted=settings.accept_insecure_network)
    with contextlib.ExitStack() as held:
        listener = held.enter_context(_bound(host, http_port))
        version = store.open(name, verify=True)
        live = None
        if settings.write_log is not None:
            log = held.enter_context(WriteLog.open(settings.write_log / version.version_id))
            live = LiveIndex(version, log)
            held.callback(live.close)
        uvloop.run(
            _serve(
                name,
                version,
                live=live,
                store=store.path,
                settings=settings,
                gate=gate,
                context=context,
                tls=tls,
                host=host,
                listener=listener,
                grpc_port=grpc_port,
                model_dir=model_dir,
                as_json=as_json,
            )
        )


async def _serve(
    name: str,
    version: IndexVersion,
    *,
    live: LiveIndex | None,
    store: Path,
    settings: ServingSettings,
    gate: Gate,
    context: ssl.SSLContext | None,
    tls: TlsSettings,
    host: str,
    listener: socket.socket,
    grpc_port: int,
    model_dir: Path | None,
    as_json: bool,
) -> None:
    from serving.grpc import GrpcApi
    from serving.http import HttpApi
    from serving.http_connection import http_server

    stopping = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopping.set)

    metrics = Metrics()
    metrics.serves(version.n_datapoints, datetime.fromisoformat(version.created_at).timestamp())
    specs = {name: space.encoder for name, space in version.spaces.items() if space.encoder is not None}
    encoders = EncoderProcess(specs, settings=settings, model_dir=model_dir, observer=metrics)
    snapshot = Snapshot(version, encoders, variant=name)
    recommender = Recommender(snapshot, settings=settings, observer=metrics, live=live, endpoint=name)
    health = Health(encoders, is_verified=True, live=live)
    dim = next(iter(version.spaces.values())).dim
    admission = Admission(settings)
    observation = Observation(metrics, recommender, admission, settings=settings, store=store)
    http = HttpApi(recommender, health=health, metrics=metrics, gate=gate, settings=settings, example_vector_dim=dim)
    grpc_api = GrpcApi(recommender, gate=gate, metrics=metrics, settings=settings, admission=admission)
    try:
        grpc_port = grpc_api.bind(host, grpc_port, grpc_tls(tls))
    except RuntimeError:
        raise Unavailable(f"[serve] gRPC port {grpc_port} of {host} is taken or not ours; choose another") from None

    encoders.start()
    await grpc_api.start()
    server = http_server(http.app(), settings=settings, metrics=metrics, admission=admission, tls=context)
    running = asyncio.create_task(server.serve(sockets=[listener]), name="http")
    while not server.started and not running.done():
        await asyncio.sleep(0.005)
    scheme = "http" if context is None else "https"
    http_url = f"{scheme}://{_shown(host)}:{listener.getsockname()[1]}"
    _announce(http_url, f"{_shown(host)}:{grpc_port}", version.version_id, as_json=as_json)
    try:
        await loop.run_in_executor(None, recommender.warm)
        health.warmed()
        watching = asyncio.create_task(_tell_grpc(health, grpc_api), name="health")
        ends = [running, asyncio.ensure_future(stopping.wait()), asyncio.ensure_future(encoders.refused.wait())]
        await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
        watching.cancel()
    finally:
        _log.info("draining")
        health.draining()
        await grpc_api.set_ready(False)
        await asyncio.sleep(_NOTICE_S)
        server.should_exit = True
        await asyncio.gather(running, grpc_api.stop(settings.drain_s))
        await encoders.stop()
        recommender.close()
        observation.close()
        _log.info("stopped")
    if encoders.refused.is_set():
        raise Unavailable(encoders.refusal)


async def _tell_grpc(health: Health, grpc_api: GrpcApi) -> None:
    was_ready = False
    while True:
        is_ready = (await health.state()).is_ready
        if is_ready != was_ready:
            await grpc_api.set_ready(is_ready)
            _log.info("ready" if is_ready else "not ready")
            was_ready = is_ready
        await asyncio.sleep(_HEALTH_PERIOD_S)


@contextlib.contextmanager
def _bound(host: str, port: int) -> Iterator[socket.socket]:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind((host, port))
        except OSError as error:
            raise Unavailable(f"[serve] HTTP port {port} of {host}: {error.strerror}; choose another") from None
        yield listener


def _shown(host: str) -> str:
    return f"[{host}]" if ":" in host else host


def _announce(http: str, grpc: str, version_id: str, *, as_json: bool) -> None:
    if as_json:
        sys.stdout.write(json.dumps({"http": http, "grpc": grpc, "index_version": version_id}) + "\n")
    else:
        sys.stdout.write(f"HTTP {http}\ngRPC {grpc}\n")
    sys.stdout.flush()
