"""Where a service may listen without guards."""

from __future__ import annotations

import itertools

import pytest

from matching.errors import InvalidInput
from serving.listener import check_exposure, grpc_tls, http_tls, is_loopback
from serving.settings import TlsSettings

HERE = ["127.0.0.1", "127.9.9.9", "::1", "localhost"]
REACHED = ["0.0.0.0", "::", "", "10.0.0.7", "192.168.1.2", "fe80::1", "8.8.8.8", "no-such-host.invalid", "a" * 300]


@pytest.mark.parametrize("host", HERE)
def test_loopback_needs_no_guards(host: str) -> None:
    assert is_loopback(host)
    check_exposure(host, has_auth=False, has_tls=False, is_accepted=False)


@pytest.mark.parametrize("host", REACHED)
def test_what_others_can_reach_needs_both_guards_or_one_accepted_risk(host: str) -> None:
    assert not is_loopback(host)
    for has_auth, has_tls in itertools.product((False, True), repeat=2):
        check_exposure(host, has_auth=has_auth, has_tls=has_tls, is_accepted=True)
        if has_auth and has_tls:
            check_exposure(host, has_auth=True, has_tls=True, is_accepted=False)
            continue
        with pytest.raises(InvalidInput, match="can be reached from other machines") as refused:
            check_exposure(host, has_auth=has_auth, has_tls=has_tls, is_accepted=False)
        told = str(refused.value)
        assert ("without authentication" in told) == (not has_auth)
        assert ("TLS; expected" in told) == (not has_tls)
        for setting in ("auth.keys_file", "tls.certificate_file", "serving.accept_insecure_network = true"):
            assert setting in told


@pytest.mark.parametrize("given", [{"certificate_file": "a"}, {"key_file": "a"}, {"client_ca_file": "a"}])
def test_half_of_a_certificate_is_refused(given: dict[str, str]) -> None:
    for read in (http_tls, grpc_tls):
        with pytest.raises(InvalidInput, match="expected a certificate with its key, or nothing; set both"):
            read(TlsSettings(**given))  # type: ignore[arg-type]
    assert http_tls(TlsSettings()) is None
    assert grpc_tls(TlsSettings()) is None
