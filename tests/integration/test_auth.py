"""Who may ask what, over real listeners: every route and method by every kind of credential, limits, and what is logged."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import http.client
import json
import logging
import shutil
import socket
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from matching.errors import Forbidden, InvalidInput, RateLimited, Unauthenticated
from serving import grpc as grpc_front
from serving import http as http_front
from serving.admission import Admission
from serving.api_keys import KeyRing, Scope, change_keys
from serving.auth import Credentials, Gate
from serving.intake import TICKET, Intake
from serving.metrics import Metrics
from serving.settings import AuthSettings, ServingSettings
from serving.wire import likewise_pb2 as pb
from serving.wire.likewise_pb2_grpc import MatchServiceStub, SearchServiceStub
from tests.certificates import jwks, public_jwk, rsa_key
from tests.integration.test_jwt_verifier import AUDIENCE, ISSUER, token
from tests.services import Shop

if TYPE_CHECKING:
    from tests.services import Service, Start

FIND = {"queries": [{"datapoint": {"datapointId": "item-0042"}, "neighborCount": 2}]}


@dataclass
class Keys:
    """A keys file, and the texts that it took hashes of."""

    file: Path
    texts: dict[str, str]

    def add(self, name: str, *scopes: Scope, days: float | None = None, born: float = 0.0) -> str:
        """Make a key, `born` days ago, for `days` days."""
        now = datetime.now(timezone.utc) - timedelta(days=born)
        ends = None if days is None else now + timedelta(days=days)

        def make(ring: KeyRing) -> tuple[KeyRing, str]:
            changed, _, text = ring.with_new(name, scopes, now=now, expires_at=ends)
            return changed, text

        self.texts[name] = change_keys(self.file, make)
        return self.texts[name]

    def revoke(self, name: str) -> None:
        """Take a key away."""
        change_keys(self.file, lambda ring: (ring.without(self.texts[name][3:15]), None))


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Keys:
    made = Keys(tmp_path_factory.mktemp("keys") / "keys.json", {})
    made.add("reader", "read")
    made.add("writer", "write")
    made.add("admin", "admin")
    made.add("everything", "read", "write", "admin")
    made.add("expired", "read", "write", "admin", days=1, born=2)
    return made


@pytest.fixture(scope="module")
def signer(tmp_path_factory: pytest.TempPathFactory) -> Any:
    key = rsa_key()
    file = tmp_path_factory.mktemp("jwks") / "jwks.json"
    file.write_bytes(jwks(public_jwk(key)))
    file.chmod(0o600)
    return SimpleNamespace(key=key, file=file)


@pytest.fixture(scope="module")
def guarded(vector_shop: Shop, start_service: Start, keys: Keys, signer: Any) -> Iterator[Service]:
    auth = {
        "keys_file": str(keys.file),
        "jwks_file": str(signer.file),
        "jwt_issuer": ISSUER,
        "jwt_audience": AUDIENCE,
    }
    with start_service(vector_shop, auth=auth) as service:
        service.wait_until_ready()
        yield service


def bearer(text: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {text}"}


def basic(text: str) -> dict[str, str]:
    return {"Authorization": "Basic " + base64.b64encode(f"me:{text}".encode()).decode()}


def credentials(keys: Keys, signer: Any) -> dict[str, tuple[dict[str, str], set[str]]]:
    """Every kind of credential, and the scopes it has; None of them where it is not valid."""
    texts, key = keys.texts, signer.key
    invalid: set[str] = set()
    return {
        "none": ({}, invalid),
        "empty": (bearer(""), invalid),
        "wrong": (bearer(texts["reader"][:-1] + "~"), invalid),
        "unknown": (bearer("lw_0123456789ab_" + "A" * 43), invalid),
        "expired": (bearer(texts["expired"]), invalid),
        "reader": (bearer(texts["reader"]), {"known", "read"}),
        "reader as Vertex's client writes it": ({"Authorization": f"Bearer: {texts['reader']}"}, {"known", "read"}),
        "reader by x-api-key": ({"x-api-key": texts["reader"]}, {"known", "read"}),
        "reader twice": ({**bearer(texts["reader"]), "x-api-key": texts["reader"]}, invalid),
        "writer": (bearer(texts["writer"]), {"known", "write"}),
        "admin": (bearer(texts["admin"]), {"known", "admin"}),
        "everything": (bearer(texts["everything"]), {"known", "read", "write", "admin"}),
        "token": (bearer(token(key)), {"known", "read", "write"}),
        "token without scopes": (bearer(token(key, scope=None)), {"known"}),
        "token of another": (bearer(token(rsa_key())), invalid),
        "expired token": (bearer(token(key, exp=int(time.time()) - 60)), invalid),
        "digest": ({"Authorization": "Digest x"}, invalid),
        "no scheme": ({"Authorization": texts["reader"]}, invalid),
        "huge": (bearer("a" * 10_000), invalid),
    }


def expected(access: str, scopes: set[str]) -> str | None:
    """What a request is refused with, None where it is not."""
    if access == "open" or access in scopes:
        return None
    return "PERMISSION_DENIED" if scopes else "UNAUTHENTICATED"


def test_every_route_by_every_credential(guarded: Service, keys: Keys, signer: Any) -> None:
    routes = [(*route.split(" "), access) for route, access in http_front.ACCESS.items()]
    routes += [("GET", "/no/such/path", "known"), ("DELETE", "/v1/search", "known"), ("GET", "/v1/search", "known")]
    statuses = {"UNAUTHENTICATED": 401, "PERMISSION_DENIED": 403}
    for method, path, access in routes:
        path = path.replace("{datapoint_id:path}", "item-0042").replace("{path:path}", "red/one%20two.png")
        body = FIND if path == "/v1/findNeighbors" else {"x": 1} if method == "POST" else None
        for name, (headers, scopes) in credentials(keys, signer).items():
            status, told, answer = guarded.ask(method, path, body, headers)
            refusal = expected(access, scopes)
            if refusal is None:
                assert status not in (401, 403, 429, 500), (method, path, name, answer)
            else:
                assert (status, answer["error"]["status"]) == (statuses[refusal], refusal), (method, path, name)
                assert ("www-authenticate" in told) == (status == 401)
                assert "[auth]" in answer["error"]["message"]
    assert guarded.ask("POST", "/v1/findNeighbors", FIND, bearer(keys.texts["reader"]))[0] == 200


def test_every_method_by_every_credential(guarded: Service, keys: Keys, signer: Any) -> None:
    methods = [*grpc_front.ACCESS.items(), ("/likewise.v1.SearchService/Nothing", "known"), ("/a.B/C", "known")]
    with grpc.insecure_channel(guarded.grpc) as channel:
        for method, access in methods:
            for name, (headers, scopes) in credentials(keys, signer).items():
                if name in ("huge", "empty"):
                    continue  # over the limit of metadata; gRPC strips the space that ends "Bearer "
                metadata = [(key.lower(), value) for key, value in headers.items()]
                call = channel.stream_stream(method)(iter([b""]), timeout=5, metadata=metadata)
                try:
                    for _ in call:
                        break  # a watch would go on
                    code = "OK"
                except grpc.RpcError as error:
                    code = error.code().name
                call.cancel()
                refusal = expected(access, scopes)
                if refusal is not None:
                    assert code == refusal, (method, name)
                else:
                    assert code in ("OK", "INVALID_ARGUMENT", "NOT_FOUND", "UNIMPLEMENTED"), (method, name, code)


def test_refused_calls_carry_their_id_and_reason(guarded: Service, keys: Keys) -> None:
    with grpc.insecure_channel(guarded.grpc) as channel:
        stub = MatchServiceStub(channel)
        asked = pb.ReadIndexDatapointsRequest(ids=["item-0042"])
        with pytest.raises(grpc.RpcError) as refused:
            stub.ReadIndexDatapoints(asked, metadata=[("x-request-id", "who-1")])
        assert "the request has 0 credentials; expected one" in refused.value.details()
        assert ("x-request-id", "who-1") in [tuple(pair) for pair in refused.value.trailing_metadata()]
        with pytest.raises(grpc.RpcError) as refused:
            stub.ReadIndexDatapoints(asked, metadata=[("authorization", f"Bearer {keys.texts['writer']}")])
        assert "the credential has write; expected read" in refused.value.details()
        answer = stub.ReadIndexDatapoints(asked, metadata=[("x-api-key", keys.texts["reader"])])
        assert answer.datapoints[0].datapoint_id == "item-0042"
    line = guarded.log_line("who-1")
    assert (line["transport"], line["code"]) == ("grpc", "UNAUTHENTICATED")
    metrics = guarded.ask("GET", "/metrics", headers=bearer(keys.texts["reader"]))[2].decode()
    assert 'likewise_requests_total{code="UNAUTHENTICATED",endpoint="other",transport="grpc"}' in metrics
    assert 'likewise_requests_total{code="401",endpoint="other",transport="http"}' in metrics


def test_a_refused_body_is_not_waited_for(guarded: Service) -> None:
    host, port = guarded.http.removeprefix("http://").split(":")
    head = b"POST /v1/search/image HTTP/1.1\r\nHost: a\r\nContent-Length: 9000000\r\n\r\n"
    with socket.create_connection((host, int(port)), 5) as connection:
        connection.sendall(head)  # and no byte of the body
        answer = b""
        while part := connection.recv(65536):
            answer += part
    assert answer.startswith(b"HTTP/1.1 401")
    assert b"connection: close" in answer
    with grpc.insecure_channel(guarded.grpc) as channel:
        never = (time.sleep(60) for _ in range(1))
        call = channel.stream_stream("/likewise.v1.MatchService/FindNeighbors")(never, timeout=5)
        with pytest.raises(grpc.RpcError) as refused:
            list(call)
        assert refused.value.code() == grpc.StatusCode.UNAUTHENTICATED


def test_a_browser_is_asked_for_a_key_and_the_key_works_for_what_the_page_asks(guarded: Service, keys: Keys) -> None:
    status, told, _ = guarded.ask("GET", "/", headers={"Accept": "text/html"})
    assert status == 401
    assert told.get_all("www-authenticate") == ['Basic realm="likewise", charset="UTF-8"', 'Bearer realm="likewise"']
    status, told, _ = guarded.ask("GET", "/v1/facets", headers={"Accept": "*/*"})
    assert told.get_all("www-authenticate") == ['Bearer realm="likewise"'], "a program gets no dialog"
    for path in ("/", "/page/page.js", "/images/red/one%20two.png", "/v1/versions/current"):
        assert guarded.ask("GET", path, headers=basic(keys.texts["reader"]))[0] == 200
    assert guarded.ask("POST", "/v1/findNeighbors", FIND, basic(keys.texts["reader"]))[0] == 200
    assert guarded.ask("GET", "/", headers=basic("wrong"))[0] == 401
    assert guarded.ask("GET", "/", headers={"Authorization": "Basic %%%"})[0] == 401


def test_health_stays_open(guarded: Service) -> None:
    assert guarded.ask("GET", "/healthz")[0] == 200
    assert guarded.ask("GET", "/readyz")[0] == 200
    with grpc.insecure_channel(guarded.grpc) as channel:
        answer = health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(), timeout=5)
        assert answer.status == health_pb2.HealthCheckResponse.SERVING
        listing = iter([reflection_pb2.ServerReflectionRequest(list_services="")])
        with pytest.raises(grpc.RpcError) as refused:
            list(reflection_pb2_grpc.ServerReflectionStub(channel).ServerReflectionInfo(listing, timeout=5))
        assert refused.value.code() == grpc.StatusCode.UNAUTHENTICATED


def test_keys_change_without_a_restart(guarded: Service, keys: Keys) -> None:
    asked = pb.GetVersionRequest()

    def works(text: str) -> bool:
        status = guarded.ask("GET", "/v1/versions/current", headers=bearer(text))[0]
        with grpc.insecure_channel(guarded.grpc) as channel:
            try:
                SearchServiceStub(channel).GetVersion(asked, metadata=[("x-api-key", text)], timeout=5)
                code = "OK"
            except grpc.RpcError as error:
                code = error.code().name
        assert (status, code) in ((200, "OK"), (401, "UNAUTHENTICATED"))
        return status == 200

    first = keys.add("rotated", "read")
    assert works(first)
    old_id = first[3:15]
    second = keys.add("rotated", "read")
    assert works(first)
    assert works(second), "two live keys of one holder"
    change_keys(keys.file, lambda ring: (ring.expiring(old_id, datetime.now(timezone.utc)), None))
    assert not works(first)
    assert works(second)
    keys.revoke("rotated")
    assert not works(second)


def test_a_broken_keys_file_changes_nothing_and_is_told_once(guarded: Service, keys: Keys) -> None:
    whole = keys.file.read_bytes()
    n_before = len([line for line in guarded.log_lines() if line["level"] == "ERROR"])
    try:
        keys.file.write_bytes(b'{"format": 1')
        for _ in range(3):
            assert guarded.ask("GET", "/v1/versions/current", headers=bearer(keys.texts["reader"]))[0] == 200
            assert guarded.ask("GET", "/v1/versions/current")[0] == 401
    finally:
        keys.file.write_bytes(whole)
    told = [line["message"] for line in guarded.log_lines() if line["level"] == "ERROR"][n_before:]
    assert len(told) == 1
    assert "not a keys file" in told[0]
    assert "stays in force" in told[0]


def test_no_credential_reaches_the_log(guarded: Service, keys: Keys, signer: Any) -> None:
    made = token(signer.key)
    for headers in (bearer(made), bearer(made + "x"), bearer(keys.texts["reader"]), basic(keys.texts["reader"])):
        guarded.ask("GET", "/v1/versions/current", headers=headers)
    log = guarded.log.read_text()
    assert made not in log
    assert not [name for name, text in keys.texts.items() if text[16:] in log]


def test_no_key_lies_on_the_disk(vector_shop: Shop, start_service: Start, keys: Keys, tmp_path: Path) -> None:
    """Not in the keys file, the audit log, the write log, or the store, whatever was asked with it."""
    shop = Shop(Path(shutil.copytree(vector_shop.store, tmp_path / "store")), vector_shop.name)
    auth = {"keys_file": str(keys.file), "audit_file": str(tmp_path / "audit.jsonl")}
    with start_service(shop, auth=auth, write_log=str(tmp_path / "log")) as service:
        service.wait_until_ready()
        for text in keys.texts.values():
            for headers in (bearer(text), basic(text), {"x-api-key": text}):
                point = {"datapointId": "new", "featureVector": [1.0] * 8}
                service.ask("POST", "/v1/upsertDatapoints", {"datapoints": [point]}, headers)
                service.ask("POST", "/v1/endpoints/vectors:rollback", {"why": "test"}, headers)
                service.ask("POST", "/v1/findNeighbors", FIND, headers)
        log = service.log
    files = [log, keys.file, *(file for file in tmp_path.rglob("*") if file.is_file())]
    assert len(files) > 8
    assert (tmp_path / "audit.jsonl").stat().st_size > 0
    told = {file: file.read_bytes() for file in files}
    secrets = [text[16:].encode() for text in keys.texts.values()]
    assert not [file for file, content in told.items() if any(secret in content for secret in secrets)]


def test_a_caller_that_asks_too_often_waits_and_others_do_not(
    vector_shop: Shop, start_service: Start, keys: Keys
) -> None:
    auth = {"keys_file": str(keys.file), "requests_per_s": 0.01, "burst": 3}
    reader, other = bearer(keys.texts["reader"]), bearer(keys.texts["everything"])
    with start_service(vector_shop, auth=auth) as service:
        service.wait_until_ready()
        codes = [service.ask("POST", "/v1/findNeighbors", FIND, reader)[0] for _ in range(4)]
        assert codes == [200, 200, 200, 429]
        status, told, answer = service.ask("GET", "/v1/facets", headers=reader)
        assert (status, answer["error"]["status"]) == (429, "RESOURCE_EXHAUSTED")
        assert 1 <= int(told["retry-after"]) <= 100
        assert "too many requests; expected a pause of" in answer["error"]["message"]
        assert service.ask("POST", "/v1/findNeighbors", FIND, other)[0] == 200
        assert service.ask("GET", "/readyz")[0] == 200
        with grpc.insecure_channel(service.grpc) as channel:
            stub = SearchServiceStub(channel)
            with pytest.raises(grpc.RpcError) as refused:
                stub.GetVersion(pb.GetVersionRequest(), metadata=[("x-api-key", keys.texts["reader"])])
            assert refused.value.code() == grpc.StatusCode.RESOURCE_EXHAUSTED
            trailing = dict(tuple(pair) for pair in refused.value.trailing_metadata())
            assert 0 < int(trailing["retry-after-ms"]) <= 100_000
            for _ in range(2):
                stub.GetVersion(pb.GetVersionRequest(), metadata=[("x-api-key", keys.texts["everything"])])
            with pytest.raises(grpc.RpcError):
                stub.GetVersion(pb.GetVersionRequest(), metadata=[("x-api-key", keys.texts["everything"])])
        address = service.http.removeprefix("http://")
        with contextlib.closing(http.client.HTTPConnection(address, timeout=5)) as kept:
            for _ in range(3):  # the connection outlives a refusal of small requests
                kept.request("POST", "/v1/findNeighbors", json.dumps(FIND), reader)
                first = kept.sock
                answer = kept.getresponse()
                assert (answer.status, answer.getheader("connection")) == (429, None)
                answer.read()
                assert kept.sock is first
        host, port = address.split(":")
        with socket.create_connection((host, int(port)), 5) as connection:
            head = f"POST /v1/findNeighbors HTTP/1.1\r\nHost: a\r\nx-api-key: {keys.texts['reader']}\r\n"
            connection.sendall(f"{head}Content-Length: 9000000\r\n\r\n".encode())
            answer = b""
            while part := connection.recv(65536):
                answer += part
            assert b"connection: close" in answer


def test_a_caller_with_too_much_under_way_waits_and_others_do_not(
    vector_shop: Shop, start_service: Start, keys: Keys
) -> None:
    auth = {"keys_file": str(keys.file), "max_in_flight": 2}
    reader, other = bearer(keys.texts["reader"]), bearer(keys.texts["everything"])

    def ask(headers: dict[str, str]) -> tuple[int, Any, Any]:
        return service.ask("POST", "/v1/findNeighbors", FIND, headers)

    def ask_until_it_is(status: int) -> None:
        for _ in range(200):  # what is under way begins and ends a moment after the client says so
            if ask(reader)[0] == status:
                return
            time.sleep(0.02)
        raise AssertionError(f"never answered with {status}")

    with start_service(vector_shop, auth=auth) as service, contextlib.ExitStack() as held:
        service.wait_until_ready()
        host, port = service.http.removeprefix("http://").split(":")
        head = f"POST /v1/findNeighbors HTTP/1.1\r\nHost: a\r\nx-api-key: {keys.texts['reader']}\r\nContent-Length: 9\r\n\r\n"
        waiting = held.enter_context(socket.create_connection((host, int(port)), 5))
        waiting.sendall(head.encode())  # and no byte of the body
        channel = held.enter_context(grpc.insecure_channel(service.grpc))
        metadata = [("x-api-key", keys.texts["reader"])]
        never = iter(lambda: time.sleep(60) or b"", None)
        call = channel.stream_stream("/likewise.v1.MatchService/FindNeighbors")(never, metadata=metadata)
        ask_until_it_is(429)
        status, told, answer = ask(reader)
        assert (status, answer["error"]["status"], told["retry-after"]) == (429, "RESOURCE_EXHAUSTED", "1")
        assert "2 requests of this caller are under way; at most 2 (auth.max_in_flight)" in answer["error"]["message"]
        with pytest.raises(grpc.RpcError) as refused:
            SearchServiceStub(channel).GetVersion(pb.GetVersionRequest(), metadata=metadata, timeout=5)
        assert refused.value.code() == grpc.StatusCode.RESOURCE_EXHAUSTED
        assert "at most 2 (auth.max_in_flight)" in refused.value.details()
        assert ask(other)[0] == 200
        metrics = service.ask("GET", "/metrics", headers=other)[2].decode()
        assert 'likewise_refused_requests_total{reason="caller_in_flight",transport="grpc"} 1.0' in metrics
        assert 'likewise_refused_requests_total{reason="caller_in_flight",transport="http"}' in metrics
        assert 'likewise_refused_requests_total{reason="rate_limit",transport="http"} 0.0' in metrics
        call.cancel()
        ask_until_it_is(200)
        second = held.enter_context(socket.create_connection((host, int(port)), 5))
        second.sendall(head.encode())
        ask_until_it_is(429)
        waiting.close()
        ask_until_it_is(200)


def test_without_settings_everybody_may_ask(vector_service: Service) -> None:
    assert vector_service.ask("POST", "/v1/findNeighbors", FIND)[0] == 200
    assert vector_service.ask("POST", "/v1/findNeighbors", FIND, bearer("whatever"))[0] == 200


@pytest.mark.parametrize(
    ("auth", "message"),
    [
        ({"keys_file": "/no/such/keys"}, "/no/such/keys cannot be read: No such file"),
        ({"jwks_file": "/no/such/jwks"}, "without an issuer and an audience"),
        ({"requests_per_s": 1.0}, "callers are not known; expected keys or tokens to count by"),
        ({"max_in_flight": 2}, "auth.max_in_flight is 2, and callers are not known"),
    ],
)
def test_settings_that_guard_nothing_are_refused(auth: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidInput, match=message):
        Gate(AuthSettings(**auth))


def test_basic_credentials_only_read(keys: Keys) -> None:
    gate = Gate(AuthSettings(keys_file=keys.file))
    given = Credentials(authorization=basic(keys.texts["everything"])["Authorization"])
    assert gate.identify(given, "read") is not None
    for access in ("write", "admin", "known"):
        with pytest.raises(Unauthenticated, match="Basic credentials may only read"):
            gate.identify(given, access)  # type: ignore[arg-type]


def test_a_holder_s_two_keys_share_one_allowance(tmp_path: Path) -> None:
    made = Keys(tmp_path / "keys.json", {})
    texts = [made.add("shop", "read"), made.add("shop", "read")]
    gate = Gate(AuthSettings(keys_file=made.file, requests_per_s=0.001, burst=3))
    holders = [gate.identify(Credentials(api_key=text), "read") for text in texts]
    for holder in (*holders, holders[0]):
        gate.admit(holder, "read")
    for holder in holders:
        with pytest.raises(RateLimited, match="too many requests"):
            gate.admit(holder, "read")


def test_admin_actions_are_audited_over_http(keys: Keys, caplog: pytest.LogCaptureFixture) -> None:
    """No route needs admin yet; whichever comes is told of, refused or not."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 204, "headers": []})
        await send({"type": "http.response.body", "body": b""})

    intake = Intake(
        app,
        settings=ServingSettings(),
        metrics=Metrics(),
        gate=Gate(AuthSettings(keys_file=keys.file)),
        access_of=lambda method, path: "admin" if path.startswith("/v1/admin") else "read",
        image_path="/v1/search/image",
    )

    async def nothing() -> dict[str, Any]:
        return {"type": "http.request", "body": b""}

    async def ignored(message: Any) -> None:
        pass

    def ask(path: str, text: str | None) -> None:
        headers = [] if text is None else [(b"x-api-key", text.encode())]
        ticket = Admission(ServingSettings()).admit("other", left_s=1.0)
        scope = {"type": "http", "method": "POST", "path": path, "headers": headers, TICKET: ticket}
        asyncio.run(intake(scope, nothing, ignored))

    with caplog.at_level(logging.INFO, "serving.audit"):
        ask("/v1/admin/promote", keys.texts["admin"])
        ask("/v1/admin/promote", keys.texts["reader"])
        ask("/v1/admin/promote", None)
        ask("/v1/other", keys.texts["everything"])
    told: Any = [record.msg for record in caplog.records if record.name == "serving.audit"]
    assert [(line["who"], line["action"], line["code"]) for line in told] == [
        ("key:admin", "POST /v1/admin/promote", "204"),
        ("key:reader", "POST /v1/admin/promote", "403"),
        (None, "POST /v1/admin/promote", "401"),
    ]
    assert [line["key_id"] for line in told] == [keys.texts["admin"][3:15], keys.texts["reader"][3:15], None]


def test_admin_actions_are_audited_over_grpc(
    keys: Keys, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    method = "/likewise.v1.SearchService/GetVersion"
    monkeypatch.setitem(grpc_front.ACCESS, method, "admin")
    served = SimpleNamespace(
        version_id="v1", created_at="2026-01-05T00:00:00+00:00", n_datapoints=0, version_token=0, spaces=()
    )
    recommender: Any = SimpleNamespace(version=lambda *_: served)

    async def ask() -> None:
        api = grpc_front.GrpcApi(
            recommender,
            recommendations=recommender,
            gate=Gate(AuthSettings(keys_file=keys.file)),
            metrics=Metrics(),
            settings=ServingSettings(),
        )
        port = api.bind("127.0.0.1", 0)
        await api.start()
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
            call = channel.unary_unary(method)
            for name in ("admin", "reader", "everything"):
                asked = call(b"", metadata=(("x-api-key", keys.texts[name]),))
                is_refused = await asked.code() == grpc.StatusCode.PERMISSION_DENIED
                assert is_refused == (name == "reader")
        await api.stop(0)

    with caplog.at_level(logging.INFO, "serving.audit"):
        asyncio.run(ask())
    told: Any = [record.msg for record in caplog.records if record.name == "serving.audit"]
    assert [(line["who"], line["action"], line["code"]) for line in told] == [
        ("key:admin", method, "OK"),
        ("key:reader", method, "PERMISSION_DENIED"),
        ("key:everything", method, "OK"),
    ]


def test_a_route_or_method_without_an_entry_keeps_the_service_from_starting(monkeypatch: pytest.MonkeyPatch) -> None:
    gate, settings, nobody = Gate(AuthSettings()), ServingSettings(), SimpleNamespace()
    monkeypatch.delitem(grpc_front.ACCESS, "/likewise.v1.SearchService/Search")

    async def start() -> None:
        told: Any = nobody
        grpc_front.GrpcApi(told, recommendations=told, gate=gate, metrics=Metrics(), settings=settings)

    with pytest.raises(KeyError, match="SearchService/Search"):
        asyncio.run(start())
    with pytest.raises(KeyError, match="GET /new"):
        http_front._access_of(_api_with_a_new_route())


def _api_with_a_new_route() -> Any:
    from fastapi import FastAPI

    api = FastAPI(docs_url=None, redoc_url=None)
    api.add_api_route("/new", lambda: None)
    return api


def test_the_gate_tells_expired_keys_from_unknown_ones(keys: Keys) -> None:
    gate = Gate(AuthSettings(keys_file=keys.file))
    with pytest.raises(Unauthenticated, match=r"key [0-9a-f]{12} expired at .*; expected one that lives"):
        gate.identify(Credentials(api_key=keys.texts["expired"]), "read")
    with pytest.raises(Unauthenticated, match="no key is like the one given"):
        gate.identify(Credentials(api_key="lw_x"), "read")
    admin = gate.identify(Credentials(api_key=keys.texts["admin"]), "read")
    with pytest.raises(Forbidden, match="the credential has admin; expected read"):
        gate.admit(admin, "read")


def test_vertex_s_surface_has_an_entry_for_each_route_and_method_and_no_other() -> None:
    from serving import vertex_routes, vertex_rpcs

    nobody: Any = SimpleNamespace()
    routes = vertex_routes.VertexRoutes(nobody, settings=ServingSettings()).routes()
    answered = {f"{method} {route.path}" for route in routes for method in (route.methods or set()) - {"HEAD"}}
    assert answered == set(vertex_routes.ACCESS) <= set(http_front.ACCESS)
    likewise: Any = {"FindNeighbors": (None, None), "ReadIndexDatapoints": (None, None)}
    index: Any = {"UpsertDatapoints": (None, None), "RemoveDatapoints": (None, None)}
    services = vertex_rpcs.VertexRpcs(nobody, nobody, match=likewise, index=index).services()
    methods = {f"/{service}/{method}" for service, held in services.items() for method in held}
    assert methods == set(vertex_rpcs.ACCESS) <= set(grpc_front.ACCESS)
