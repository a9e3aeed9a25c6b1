"""Keys, certificates and the audit log that a configuration names."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Final

from lifecycle.doctor.finding import Finding, guarded
from matching.errors import InvalidInput
from serving.api_keys import KeyRing
from serving.audit_log import AuditLog
from serving.listener import http_tls
from serving.settings import AuthSettings, TlsSettings
from serving.watched_file import WatchedFile

_SOON: Final = timedelta(days=30)


def check_guards(auth: AuthSettings, tls: TlsSettings, *, now: datetime | None = None) -> Iterator[Finding]:
    """Look at what says who may ask and how connections are encrypted."""
    at = now or datetime.now(timezone.utc)
    if auth.keys_file is not None:
        keys_file = auth.keys_file
        cure = "make one with `likewise keys create`, or correct auth.keys_file"
        yield from guarded("keys", lambda: _check_keys(keys_file, at), cure)
    if tls.certificate_file is not None or tls.key_file is not None:
        cure = "correct tls.certificate_file and tls.key_file; the service does not start with these"
        yield from guarded("certificate", lambda: _check_certificate(tls, at), cure)
    if auth.audit_file is not None and auth.audit_file.exists():
        audit_file = auth.audit_file
        yield from guarded("audit", lambda: _check_audit(audit_file), "keep the file, compare it with a copy")


def _check_keys(file: Path, at: datetime) -> Iterator[Finding]:
    ring = WatchedFile(file, KeyRing.parse).value
    live = [key for key in ring.keys if key.is_live(at)]
    if not live:
        yield Finding("keys", "error", f"none of {len(ring.keys)} keys in {file} lives", "likewise keys create NAME")
    for name in sorted({key.name for key in live}):
        ends = [key.expires_at for key in live if key.name == name]
        last = max((datetime.fromisoformat(end) for end in ends if end is not None), default=at)
        if None not in ends and last - at < _SOON:
            found = f"the last key of {name} expires at {last.isoformat()}"
            yield Finding("keys", "warning", found, f"likewise keys rotate {name}, and hand the new key out")
    gone = sorted({key.name for key in ring.keys} - {key.name for key in live})
    if gone and live:
        yield Finding("keys", "warning", f"all keys of {', '.join(gone)} have expired", "rotate them, or revoke them")
    if live:
        yield Finding("keys", "ok", f"{len(live)} keys in {file} live")


def _check_certificate(tls: TlsSettings, at: datetime) -> Iterator[Finding]:
    from cryptography import x509

    http_tls(tls)  # the key is that of the certificate, and both can be read
    assert tls.certificate_file is not None
    ends = min(one.not_valid_after_utc for one in x509.load_pem_x509_certificates(tls.certificate_file.read_bytes()))
    yield judge_end("certificate", f"the certificate in {tls.certificate_file}", ends, at)


def judge_end(check: str, what: str, ends: datetime, at: datetime) -> Finding:
    """Return what the end of a certificate means."""
    cure = "put a new one in its place and start the service again"
    if ends <= at:
        return Finding(check, "error", f"{what} expired at {ends.isoformat()}", cure)
    if ends - at < _SOON:
        return Finding(check, "warning", f"{what} expires at {ends.isoformat()}", cure)
    return Finding(check, "ok", f"{what} is good until {ends.isoformat()}")


def _check_audit(file: Path) -> Iterator[Finding]:
    number = 0
    for entry in AuditLog(file).entries():
        number = entry.number
    yield Finding("audit", "ok", f"{number} lines of {file} are an unbroken chain")


def check_url(url: str) -> None:
    """Check that an address is one of HTTP.

    Raises:
        InvalidInput: it is not.
    """
    if not url.startswith(("http://", "https://")):
        raise InvalidInput(
            f"[doctor] the address is {url!r}; expected http://HOST:PORT or https://HOST:PORT; correct it"
        )
