"""One process that serves endpoints over HTTP and gRPC, from verification to the last drained request."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import json
import logging
import signal
import socket
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from matching.errors import Unavailable
from matching.store import Store
from serving.admission import Admission
from serving.auth import Gate
from serving.compaction import Compaction
from serving.deployment import Deployment
from serving.event_log import follow_stream, opened_intake
from serving.health import Health
from serving.listener import check_exposure, http_tls
from serving.metrics import Metrics
from serving.observation import Observation
from serving.recommendations import Recommendations, unsigned
from serving.recommender import Recommender
from serving.request_log import audit_to, log_to_stderr
from serving.served_models import ServedModels
from serving.served_rules import ServedRules
from serving.settings import (
    AuthSettings,
    EventSettings,
    RecommendSettings,
    ServingSettings,
    TlsSettings,
    TracingSettings,
)
from serving.slate import CONTENT
from serving.tables import Tables
from serving.tracing import traced
from serving.users import open_users

if TYPE_CHECKING:
    import ssl

    from serving.event_intake import EventIntake
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
    also: Sequence[str] = (),
    settings: ServingSettings,
    events: EventSettings | None = None,
    auth: AuthSettings | None = None,
    tls: TlsSettings | None = None,
    tracing: TracingSettings | None = None,
    recommend: RecommendSettings | None = None,
    host: str = "127.0.0.1",
    http_port: int = 8080,
    grpc_port: int = 8081,
    model_dir: Path | None = None,
    as_json: bool = False,
    log_requests: bool = True,
) -> None:
    """Serve endpoints until SIGTERM or SIGINT, then drain and return.

    Prints where it listens on standard output: `HTTP http://host:port` and `gRPC host:port`, or one JSON object.

    Args:
        store: where its versions lie.
        name: an endpoint, an alias or a version id; where an alias moves, or the endpoint changes, the service follows.
        also: more of them, each with a write log of its own; a request that names none is answered by `name`.
        settings: limits and times.
        events: where events are kept, and which; none are taken when None.
        auth: who may ask, everybody when None.
        tls: how connections are encrypted, not at all when None.
        tracing: where traces of requests are sent, nowhere when None.
        recommend: the sources of recommendations and their weights; content neighbours alone when None.
        host: the address to listen on; one that other machines can reach needs both, or the settings to accept its risk.
        http_port: 0 takes a free one.
        grpc_port: 0 takes a free one.
        model_dir: where exported models lie, the encoders' default when None.
        as_json: print `{"http": ..., "grpc": ..., "index_version": ...}` instead.
        log_requests: write a line to standard error for every request.

    Raises:
        NotFound: no such version or rules, or a source has no champion.
        InvalidInput: the address is not guarded, or a file of keys or certificates is wrong.
        CorruptArtifact: the version or its write log on disk is damaged; nothing was served.
        Unavailable: a port is taken, another process writes to the log, or the version's encoders cannot be loaded here.
        MissingExtra: the settings ask for traces, and OpenTelemetry is not installed.
    """
    import uvloop

    log_to_stderr(requests=log_requests)
    if auth is not None and auth.audit_file is not None:
        audit_to(auth.audit_file)
    sys.setswitchinterval(SWITCH_S)
    tls = tls or TlsSettings()
    gate, context = Gate(auth or AuthSettings()), http_tls(tls)
    check_exposure(host, has_auth=gate.is_on, has_tls=context is not None, is_accepted=settings.accept_insecure_network)
    with contextlib.ExitStack() as held:
        held.enter_context(traced(tracing or TracingSettings()))
        listener = held.enter_context(_bound(host, http_port))
        uvloop.run(
            _serve(
                store,
                (name, *also),
                _Door(host, listener, grpc_port, gate, context, tls, as_json),
                settings=settings,
                events=events or EventSettings(),
                auth=auth or AuthSettings(),
                recommend=recommend or RecommendSettings(),
                model_dir=model_dir,
            )
        )


@dataclass(frozen=True, slots=True)
class _Door:
    """Where callers come in, and which of them may."""

    host: str
    listener: socket.socket
    grpc_port: int
    gate: Gate
    context: ssl.SSLContext | None
    tls: TlsSettings
    as_json: bool


async def _serve(
    store: Store,
    names: Sequence[str],
    door: _Door,
    *,
    settings: ServingSettings,
    events: EventSettings,
    auth: AuthSettings,
    recommend: RecommendSettings,
    model_dir: Path | None,
) -> None:
    sources = {*recommend.sources, *(name for weights in recommend.surfaces.values() for name in weights)} - {CONTENT}
    models = ServedModels(store.path, sorted(sources))
    rules = ServedRules(store.path, recommend.rules)
    state = open_users(recommend, events)
    tables = Tables.open(settings.tables)
    metrics = Metrics()
    deployments = []
    with contextlib.ExitStack() as looking:
        async with contextlib.AsyncExitStack() as held:
            held.callback(state.close)
            for name in dict.fromkeys(names):
                deployment = Deployment(
                    store,
                    name,
                    settings=settings,
                    observer=metrics,
                    model_dir=model_dir,
                    override_keys_file=auth.override_keys_file,
                )
                held.push_async_callback(deployment.close)
                await deployment.open()
                compaction = Compaction(deployment, store, settings=settings)
                held.push_async_callback(compaction.close)
                compaction.follow()
                deployments.append(deployment)
            recommender = Recommender(deployments, settings=settings, observer=metrics, tables=tables)
            held.push_async_callback(recommender.close)
            admission = Admission(settings, max_per_caller=auth.max_in_flight)
            observation = Observation(metrics, recommender, admission, settings=settings, store=store.path)
            looking.callback(observation.close)  # after the live indexes that it may wait for
            intake = None
            taking = held.enter_context(opened_intake(events, recommender, metrics, state))
            if taking is not None:
                intake, follower = taking
                await asyncio.to_thread(follower.follow, is_patient=recommend.redis is None)
                metrics.watch(lambda: metrics.followed(follower.lag))
                if events.stream is not None:
                    held.push_async_callback(follow_stream(events, settings, intake, metrics).close)
            recommendations = Recommendations(
                recommender,
                models,
                state,
                rules=rules,
                settings=recommend,
                limits=settings,
                user_key=str if intake is None else intake.user_key,
                sign=unsigned if intake is None else intake.sign,
                observer=metrics,
            )
            held.push_async_callback(recommendations.close)
            recommendations.follow()
            await _answer(
                recommender, recommendations, intake, door, metrics=metrics, admission=admission, settings=settings
            )


async def _answer(
    recommender: Recommender,
    recommendations: Recommendations,
    intake: EventIntake | None,
    door: _Door,
    *,
    metrics: Metrics,
    admission: Admission,
    settings: ServingSettings,
) -> None:
    """Answer over HTTP and gRPC until told to stop, or until the encoders cannot be loaded."""
    from serving.grpc import GrpcApi
    from serving.http import HttpApi
    from serving.http_connection import http_server

    stopping = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopping.set)

    snapshot = recommender.snapshot
    health = Health(recommender.deployments)
    dim = next(iter(snapshot.version.spaces.values())).dim
    http = HttpApi(
        recommender,
        recommendations=recommendations,
        events=intake,
        health=health,
        metrics=metrics,
        gate=door.gate,
        settings=settings,
        example_vector_dim=dim,
    )
    grpc_api = GrpcApi(
        recommender,
        recommendations=recommendations,
        events=intake,
        gate=door.gate,
        metrics=metrics,
        settings=settings,
        admission=admission,
    )
    try:
        grpc_port = grpc_api.bind(door.host, door.grpc_port, door.tls)
    except OSError:
        raise Unavailable(
            f"[serve] gRPC port {door.grpc_port} of {door.host} is taken or not ours; choose another"
        ) from None

    await grpc_api.start()
    server = http_server(http.app(), settings=settings, metrics=metrics, admission=admission, tls=door.context)
    running = asyncio.create_task(server.serve(sockets=[door.listener]), name="http")
    while not server.started and not running.done():
        await asyncio.sleep(0.005)
    scheme, host = "http" if door.context is None else "https", _shown(door.host)
    http_url = f"{scheme}://{host}:{door.listener.getsockname()[1]}"
    _announce(http_url, f"{host}:{grpc_port}", snapshot.version.version_id, as_json=door.as_json)
    try:
        for deployment in recommender.deployments:
            await loop.run_in_executor(None, deployment.warm)
            deployment.follow()
        # What is loaded stays: a collection that visits all of it holds up every request for tens of milliseconds.
        gc.collect()
        gc.freeze()
        health.warmed()
        watching = asyncio.create_task(_tell_grpc(health, grpc_api), name="health")
        first = [process for deployment in recommender.deployments for process in deployment.all_encoders]
        refusing = [asyncio.ensure_future(process.refused.wait()) for process in first]
        ends = [running, asyncio.ensure_future(stopping.wait()), *refusing]
        await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
        watching.cancel()
    finally:
        _log.info("draining")
        health.draining()
        await grpc_api.set_ready(False)
        await asyncio.sleep(_NOTICE_S)
        server.should_exit = True
        await asyncio.gather(running, grpc_api.stop(settings.drain_s))
        gc.unfreeze()
        _log.info("stopped")
    for process in first:
        if process.refused.is_set():
            raise Unavailable(process.refusal)


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
