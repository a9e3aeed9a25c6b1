"""Where a service may listen, and how its listeners are encrypted."""

from __future__ import annotations

import ipaddress
import socket
import ssl
from pathlib import Path
from typing import Any

from matching.errors import InvalidInput
from serving.settings import TlsSettings


def check_exposure(host: str, *, has_auth: bool, has_tls: bool, is_accepted: bool) -> None:
    """Check that an address which other machines can reach is guarded.

    Args:
        host: where to listen: an address or a name.
        has_auth: whether callers must show who they are.
        has_tls: whether connections are encrypted.
        is_accepted: whether somebody has said that it may be reached unguarded.

    Raises:
        InvalidInput: it can be reached, and lacks authentication or TLS.
    """
    if (has_auth and has_tls) or is_accepted or is_loopback(host):
        return
    lacks = [what for what, has in (("authentication", has_auth), ("TLS", has_tls)) if not has]
    raise InvalidInput(
        f"[serve] {host or 'every address'} can be reached from other machines, without {' and '.join(lacks)}; expected both, "
        "or a loopback address; set auth.keys_file (`likewise keys create` makes one) or auth.jwks_file, and "
        "tls.certificate_file with tls.key_file, or listen on 127.0.0.1. On a private network behind a proxy that has both, "
        "take the risk with serving.accept_insecure_network = true"
    )


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach an address, or every address of a name."""
    if not host:
        return False  # all of them
    try:
        found = {info[4][0] for info in socket.getaddrinfo(host, None)}
    except (OSError, UnicodeError):
        return False  # not ours to judge; binding will tell
    return all(ipaddress.ip_address(str(address).partition("%")[0]).is_loopback for address in found)


def http_tls(settings: TlsSettings) -> ssl.SSLContext | None:
    """Return how HTTP connections are encrypted, None where they are not.

    Raises:
        InvalidInput: a file is missing or holds something else, or settings that need each other are not all there.
    """
    if _is_off(settings):
        return None
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    for name in ("certificate_file", "key_file", "client_ca_file"):
        _read(name, getattr(settings, name))
    try:
        # without a password OpenSSL would ask for one on the terminal
        context.load_cert_chain(str(settings.certificate_file), str(settings.key_file), password="")
    except (ssl.SSLError, ValueError) as error:
        raise InvalidInput(
            f"[tls] {settings.certificate_file} and {settings.key_file} do not make a certificate: {error}; expected a chain "
            "and its own private key in PEM, not encrypted; correct tls.certificate_file and tls.key_file"
        ) from error
    if settings.client_ca_file is not None:
        context.verify_mode = ssl.CERT_REQUIRED
        try:
            context.load_verify_locations(str(settings.client_ca_file))
        except ssl.SSLError as error:
            raise InvalidInput(
                f"[tls] {settings.client_ca_file} holds no authority: {error}; expected certificates in PEM; correct "
                "tls.client_ca_file"
            ) from error
    return context


def http2_tls(settings: TlsSettings) -> ssl.SSLContext | None:
    """Return how gRPC connections of our own are encrypted: as those of HTTP, and for HTTP/2 alone.

    Raises:
        InvalidInput: as `http_tls`.
    """
    context = http_tls(settings)
    if context is not None:
        context.set_alpn_protocols(["h2"])
    return context


def grpc_tls(settings: TlsSettings) -> Any:
    """Return how gRPC connections of grpcio are encrypted, None where they are not; `http_tls` has checked the files.

    Raises:
        InvalidInput: a file is missing, or settings that need each other are not all there.
    """
    import grpc

    if _is_off(settings):
        return None
    key, chain = _read("key_file", settings.key_file), _read("certificate_file", settings.certificate_file)
    assert key is not None
    assert chain is not None
    authorities = _read("client_ca_file", settings.client_ca_file)
    return grpc.ssl_server_credentials([(key, chain)], authorities, authorities is not None)


def _is_off(settings: TlsSettings) -> bool:
    given = (settings.certificate_file, settings.key_file)
    if None not in given:
        return False
    if given != (None, None) or settings.client_ca_file is not None:
        raise InvalidInput(
            f"[tls] tls.certificate_file is {given[0]}, tls.key_file {given[1]} and tls.client_ca_file "
            f"{settings.client_ca_file}; expected a certificate with its key, or nothing; set both"
        )
    return True


def _read(name: str, file: Path | None) -> bytes | None:
    if file is None:
        return None
    try:
        return file.read_bytes()
    except OSError as error:
        raise InvalidInput(
            f"[tls] tls.{name} is {file}: {error.strerror}; expected a file in PEM; correct it"
        ) from error
