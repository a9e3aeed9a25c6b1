"""Encrypted listeners, and clients that must show a certificate: HTTP and gRPC by the same table."""

from __future__ import annotations

import contextlib
import socket
import ssl
import time
import urllib.error
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import grpc
import pytest

from matching.errors import InvalidInput
from matching.store import Store
from serving.listener import http_tls
from serving.server import serve
from serving.settings import AuthSettings, ServingSettings, TlsSettings
from serving.wire import likewise_pb2 as pb
from serving.wire.likewise_pb2_grpc import SearchServiceStub
from tests.certificates import Authority, Certificate
from tests.integration.test_auth import Keys

if TYPE_CHECKING:
    from tests.services import Service, Shop, Start


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("certificates")


@pytest.fixture(scope="module")
def ours(folder: Path) -> Authority:
    return Authority(folder, "ours")


@pytest.fixture(scope="module")
def theirs(folder: Path) -> Authority:
    return Authority(folder, "theirs")


@pytest.fixture(scope="module")
def server(ours: Authority) -> Certificate:
    return ours.certificate("server")


@pytest.fixture(scope="module")
def tls(server: Certificate) -> dict[str, str]:
    return {"certificate_file": str(server.chain), "key_file": str(server.key)}


@pytest.fixture(scope="module")
def encrypted(vector_shop: Shop, start_service: Start, tls: dict[str, str], ours: Authority) -> Iterator[Service]:
    with start_service(vector_shop, tls=tls, trust=ours.trust(), receive_deadline_s=1.0) as service:
        service.wait_until_ready()
        yield service


@pytest.fixture(scope="module")
def mutual(vector_shop: Shop, start_service: Start, tls: dict[str, str], ours: Authority) -> Iterator[Service]:
    client = ours.certificate("front", is_client=True)
    tls = {**tls, "client_ca_file": str(ours.file)}
    with start_service(vector_shop, tls=tls, trust=ours.trust(client)) as service:
        service.wait_until_ready()
        yield service


def over_http(service: Service, trust: ssl.SSLContext | None) -> bool:
    service = type(service)(**{**vars(service), "tls": trust})
    try:
        return bool(service.ask("GET", "/v1/versions/current")[0] == 200)
    except (urllib.error.URLError, ConnectionError, ssl.SSLError):
        return False


def over_grpc(service: Service, authority: Authority, client: Certificate | None) -> bool:
    shown: dict[str, Any] = {}
    if client is not None:
        shown = {"private_key": client.key.read_bytes(), "certificate_chain": client.chain.read_bytes()}
    trusted = grpc.ssl_channel_credentials(authority.file.read_bytes(), **shown)
    with grpc.secure_channel(service.grpc, trusted) as channel:
        call = SearchServiceStub(channel).GetVersion.future(pb.GetVersionRequest(), timeout=5)
        assert call.code() in (grpc.StatusCode.OK, grpc.StatusCode.UNAVAILABLE)
        return bool(call.code() == grpc.StatusCode.OK)


def test_both_listeners_are_encrypted_by_the_same_certificate(
    encrypted: Service, ours: Authority, theirs: Authority
) -> None:
    assert encrypted.http.startswith("https://127.0.0.1:")
    assert over_http(encrypted, ours.trust())
    assert over_grpc(encrypted, ours, None)
    assert not over_http(encrypted, theirs.trust()), "a client that trusts others does not talk to us"
    assert not over_grpc(encrypted, theirs, None)


def test_nobody_is_answered_in_the_clear(encrypted: Service) -> None:
    host, port = encrypted.http.removeprefix("https://").split(":")
    with socket.create_connection((host, int(port)), 5) as connection:
        connection.sendall(b"GET /healthz HTTP/1.1\r\nHost: a\r\n\r\n")
        with contextlib.suppress(ConnectionError):
            assert b"HTTP" not in connection.recv(65536)
    with grpc.insecure_channel(encrypted.grpc) as channel, pytest.raises(grpc.RpcError) as refused:
        SearchServiceStub(channel).GetVersion(pb.GetVersionRequest(), timeout=5)
    assert refused.value.code() == grpc.StatusCode.UNAVAILABLE


def test_old_protocols_are_refused(encrypted: Service, ours: Authority) -> None:
    for version, is_served in ((ssl.TLSVersion.TLSv1_3, True), (ssl.TLSVersion.TLSv1_2, True)):
        context = ours.trust()
        context.minimum_version = context.maximum_version = version
        assert over_http(encrypted, context) is is_served
    with pytest.warns(DeprecationWarning, match="TLSv1_1 is deprecated"):
        context.minimum_version = context.maximum_version = ssl.TLSVersion.TLSv1_1
    context.set_ciphers("ALL:@SECLEVEL=0")
    assert not over_http(encrypted, context)


def test_a_handshake_that_does_not_come_loses_its_connection(encrypted: Service) -> None:
    host, port = encrypted.http.removeprefix("https://").split(":")
    began = time.monotonic()
    with socket.create_connection((host, int(port)), 30) as connection:
        connection.sendall(b"\x16\x03\x01")
        with contextlib.suppress(ConnectionError):
            assert connection.recv(100) == b""
    assert time.monotonic() - began < 25, "the connection should have been closed, not left to the client's own limit"


def test_clients_show_a_certificate_of_our_authority_or_are_not_answered(
    mutual: Service, ours: Authority, theirs: Authority
) -> None:
    clients = {
        "ours": (ours.certificate("client", is_client=True), True),
        "theirs": (theirs.certificate("stranger", is_client=True), False),
        "expired": (ours.certificate("late", is_client=True, days=-1), False),
        "none": (None, False),
    }
    for name, (client, is_answered) in clients.items():
        assert over_http(mutual, ours.trust(client)) is is_answered, name
        assert over_grpc(mutual, ours, client) is is_answered, name


def test_every_address_is_served_with_authentication_and_tls(
    vector_shop: Shop, start_service: Start, tls: dict[str, str], ours: Authority, tmp_path: Path
) -> None:
    keys = Keys(tmp_path / "keys.json", {})
    text = keys.add("shop", "read")
    auth = {"keys_file": str(keys.file)}
    with start_service(vector_shop, host="0.0.0.0", auth=auth, tls=tls, trust=ours.trust()) as service:
        assert service.http.startswith("https://0.0.0.0:")
        service.http = service.http.replace("0.0.0.0", "127.0.0.1")
        service.wait_until_ready()
        assert service.ask("GET", "/v1/versions/current")[0] == 401
        assert service.ask("GET", "/v1/versions/current", headers={"x-api-key": text})[0] == 200


def test_every_address_is_served_where_the_risk_is_accepted(vector_shop: Shop, start_service: Start) -> None:
    with start_service(vector_shop, host="0.0.0.0", accept_insecure_network=True) as service:
        service.http = service.http.replace("0.0.0.0", "127.0.0.1")
        service.wait_until_ready()
        assert service.ask("GET", "/v1/versions/current")[0] == 200


@pytest.mark.parametrize("host", ["0.0.0.0", "::"])
def test_an_unguarded_address_is_refused_before_anything_is_bound(vector_shop: Shop, host: str) -> None:
    with pytest.raises(InvalidInput, match=r"serving\.accept_insecure_network = true"):
        serve(Store(vector_shop.store), "vectors", settings=ServingSettings(), auth=AuthSettings(), host=host)


def test_ipv6_is_served(vector_shop: Shop, start_service: Start, tls: dict[str, str], ours: Authority) -> None:
    try:
        with socket.socket(socket.AF_INET6) as probe:
            probe.bind(("::1", 0))
    except OSError:
        pytest.skip("this machine has no IPv6")
    with start_service(vector_shop, host="::1", tls=tls, trust=ours.trust()) as service:
        service.wait_until_ready()
        assert service.http.startswith("https://[::1]:")
        assert over_grpc(service, ours, None)


def test_certificates_that_are_none_are_refused(ours: Authority, server: Certificate, tmp_path: Path) -> None:
    other = ours.certificate("other")
    nonsense = tmp_path / "nonsense.pem"
    nonsense.write_text("nonsense")
    locked = tmp_path / "locked.key"
    from cryptography.hazmat.primitives import serialization

    key = serialization.load_pem_private_key(server.key.read_bytes(), None)
    pem, pkcs8 = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8
    locked.write_bytes(key.private_bytes(pem, pkcs8, serialization.BestAvailableEncryption(b"secret")))
    for chain, secret, message in (
        (server.chain, other.key, "do not make a certificate"),
        (nonsense, server.key, "do not make a certificate"),
        (server.chain, nonsense, "do not make a certificate"),
        (server.chain, locked, "do not make a certificate"),
        (tmp_path / "none", server.key, r"tls\.certificate_file is .*none: No such file"),
        (server.chain, tmp_path / "none", r"tls\.key_file is .*none: No such file"),
    ):
        with pytest.raises(InvalidInput, match=message):
            http_tls(TlsSettings(certificate_file=chain, key_file=secret))
    with pytest.raises(InvalidInput, match="holds no authority"):
        http_tls(TlsSettings(certificate_file=server.chain, key_file=server.key, client_ca_file=nonsense))
