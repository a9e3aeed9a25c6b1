"""A running service, asked over HTTP as anybody would ask it."""

from __future__ import annotations

import json
import re
import socket
import ssl
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime, timezone
from typing import Any, Final

from lifecycle.doctor.finding import Finding
from lifecycle.doctor.guards import check_url, judge_end

_TIMEOUT_S: Final = 10.0
_MOST_SKEW_S: Final = 5.0
_MOST_UNAPPLIED: Final = 10_000
_LEAST_FREE_BYTES: Final = 64 * 2**20
_LINE: Final = re.compile(r"(\w+)(?:\{(.*)\})? (\S+)")
_LABEL: Final = re.compile(r'(\w+)="([^"]*)"')
_NOT_READY: Final = {
    "verified": "a file of its version was damaged: put it back as it was, or promote another version",
    "warm": "it is warming up: ask again in a moment",
    "encoders": "its encoders do not answer: look at the service's log; vectors and items are answered all the same",
}


@dataclass(frozen=True, slots=True)
class _Asked:
    status: int
    body: bytes
    began: float
    took_s: float


class ServiceCheck:
    """Asks one service."""

    def __init__(self, url: str, *, key: str | None = None, trust: ssl.SSLContext | None = None) -> None:
        """Look at a service.

        Args:
            url: `http://host:port`.
            key: an API key that may read.
            trust: whose certificates to take, the system's when None.

        Raises:
            InvalidInput: the address is not one of HTTP.
        """
        check_url(url)
        self._url = url.rstrip("/")
        self._headers = {} if key is None else {"x-api-key": key}
        self._trust = trust or ssl.create_default_context()

    def findings(self) -> Iterator[Finding]:
        """Yield what is so; a service that does not answer is one finding."""
        try:
            alive = self._ask("/healthz")
        except (OSError, urllib.error.URLError) as error:
            cure = "start it, or correct the address; its log says why it ended"
            if isinstance(getattr(error, "reason", error), ssl.SSLError):
                cure = "name the authority of its certificate with --ca-file, or mend the certificate"
            yield Finding("service", "error", f"{self._url} does not answer: {error}", cure)
            return
        if alive.status != 200:
            yield Finding(
                "service", "error", f"{self._url}/healthz answers {alive.status}", "is it Likewise that runs there?"
            )
            return
        yield Finding("service", "ok", f"{self._url} answers")
        if self._url.startswith("https://"):
            yield self._certificate()
        yield from self._readiness()
        yield from self._metrics()

    def _readiness(self) -> Iterator[Finding]:
        asked = self._ask("/readyz")
        state: dict[str, Any] = json.loads(asked.body)
        if state.get("draining"):
            yield Finding("service.ready", "error", "it is shutting down", "ask another replica, or start it again")
        elif not state.get("ready"):
            for part, cure in _NOT_READY.items():
                if not state.get(part):
                    yield Finding("service.ready", "error", f"it is not ready: {part} is false", cure)
        else:
            yield Finding("service.ready", "ok", "it is ready")
        replica = state.get("replica", "off")
        if replica not in ("ok", "off"):
            cure = "wait until it has caught up; if it never does, look at its log, or start it again"
            yield Finding("service.replica", "error", f"it leaves the rotation: {replica}", cure)
        writes = state.get("writes", "off")
        if writes not in ("ok", "off"):
            cure = "mend the disk, then start the service again: it goes on from the log"
            if replica != "off":
                cure = "start the broker, or mend the network: writes go on by themselves, unless the stream itself is wrong"
            yield Finding("service.writes", "error", f"it takes no writes: {writes}", cure)
        for endpoint, held in state.get("endpoints", {}).items():
            for lost in held["lost"]:
                share = min(held["coverage"].values())
                found = f"{endpoint} answers from {share:.4g} of its datapoints: {lost}"
                cure = "put the file back as it was: the service takes it up by itself; or build again"
                yield Finding("service.version", "error", found, cure)
            for refused in held["refused"]:
                cure = "it serves the version before; build again, or roll the alias back"
                yield Finding(
                    "service.version", "error", f"{endpoint} does not serve what was asked for: {refused}", cure
                )

    def _metrics(self) -> Iterator[Finding]:
        asked = self._ask("/metrics")
        if asked.status in (401, 403):
            cure = "set LIKEWISE_KEY to a key with the scope read"
            yield Finding(
                "service.metrics", "warning", f"/metrics answers {asked.status}, so nothing else was looked at", cure
            )
            return
        values = _values(asked.body.decode())
        told = next(iter(values.get("likewise_time_seconds", {}).values()), None)
        if told is not None:
            skew = told - (asked.began + asked.took_s / 2)
            if abs(skew) > _MOST_SKEW_S + asked.took_s:
                found = f"its clock and this one differ by {skew:+.1f} s"
                yield Finding(
                    "service.clock", "error", found, "mend time synchronisation: tokens and keys expire by it"
                )
            else:
                yield Finding("service.clock", "ok", f"its clock and this one differ by {skew:+.1f} s")
        yield from _judged(values)

    def _certificate(self) -> Finding:
        address = urllib.parse.urlsplit(self._url)
        host, port = address.hostname or "", address.port or 443
        with (
            socket.create_connection((host, port), _TIMEOUT_S) as plain,
            self._trust.wrap_socket(plain, server_hostname=host) as held,
        ):
            told: Any = held.getpeercert()
        ends = datetime.fromtimestamp(ssl.cert_time_to_seconds(told["notAfter"]), timezone.utc)
        return judge_end("service.certificate", "its certificate", ends, datetime.now(timezone.utc))

    def _ask(self, path: str) -> _Asked:
        request = urllib.request.Request(self._url + path, headers=self._headers)  # noqa: S310 - the scheme was checked
        began, since = time.time(), time.monotonic()
        try:
            with urllib.request.urlopen(request, timeout=_TIMEOUT_S, context=self._trust) as answer:  # noqa: S310
                status, body = answer.status, answer.read()
        except urllib.error.HTTPError as error:
            with error:
                status, body = error.code, error.read()
        return _Asked(status, body, began, time.monotonic() - since)


def _judged(values: Mapping[str, Mapping[frozenset[tuple[str, str]], float]]) -> Iterator[Finding]:
    for labels, free in values.get("likewise_disk_free_bytes", {}).items():
        of = dict(labels)["of"]
        if free < _LEAST_FREE_BYTES:
            yield Finding("service.disk", "error", f"{free:,.0f} bytes are free for the {of}", "free some of its disk")
    unapplied = sum(values.get("likewise_unapplied_writes", {}).values())
    if unapplied > _MOST_UNAPPLIED:
        cure = "write more slowly, or give it more CPU"
        yield Finding("service.writes", "warning", f"{unapplied:,.0f} writes are on disk and not searched yet", cure)
    short = values.get("likewise_short_results_total", {}).get(frozenset({("why", "search")}), 0)
    if short:
        cure = "keep the version and report it: a search must find all that pass the filter"
        yield Finding("service.search", "error", f"{short:,.0f} queries got fewer neighbors than there are", cure)


def _values(text: str) -> dict[str, dict[frozenset[tuple[str, str]], float]]:
    """Return the metrics of an exposition by name and labels."""
    held: dict[str, dict[frozenset[tuple[str, str]], float]] = {}
    for line in text.splitlines():
        if found := _LINE.fullmatch(line):
            held.setdefault(found[1], {})[frozenset(_LABEL.findall(found[2] or ""))] = float(found[3])
    return held
