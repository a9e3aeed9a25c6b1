"""One line of JSON a request. Vectors, texts and pictures of queries never reach it."""

from __future__ import annotations

import logging
import re
import secrets
import sys
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path

import orjson

from matching.errors import LimitExceeded
from serving.audit_log import AuditHandler
from serving.auth import Principal
from serving.query import ANY, Answer, Route
from serving.tracing import RequestTrace

_requests = logging.getLogger("serving.requests")
_audit = logging.getLogger("serving.audit")
MAX_UNIT_CHARS = 256
_ID = re.compile(r"[A-Za-z0-9._:-]{1,64}")


@dataclass(slots=True)
class RequestRecord:
    """What is known of one request; the layers it passes fill it in."""

    request_id: str
    transport: str
    endpoint: str = "other"
    index_version: str | None = None
    q: int | None = None
    k: int | None = None
    plan: str | None = None
    coverage: float | None = None
    variant: str | None = None
    principal: Principal | None = None
    trace: RequestTrace | None = None
    route: Route = ANY

    @property
    def who(self) -> str | None:
        """The caller's name, None where it is not known."""
        return None if self.principal is None else self.principal.name

    @property
    def is_degraded(self) -> bool:
        """Whether the answer is of a part of the datapoints."""
        return self.coverage is not None and self.coverage < 1.0

    def answered(self, answer: Answer, k: int) -> None:
        """Note what an answer says of itself."""
        self.index_version, self.q, self.k = answer.version_id, len(answer.results), k
        self.variant = answer.variant
        self.coverage = answer.coverage if self.coverage is None else min(answer.coverage, self.coverage)
        plans = {result.plan for result in answer.results}
        self.plan = plans.pop() if len(plans) == 1 else "mixed"


def request_id_from(given: str | None) -> str:
    """Return the caller's request id when it is fit for a log, else a new one."""
    if given is not None and _ID.fullmatch(given):
        return given
    return secrets.token_hex(8)


def route_from(unit_id: str | None, override: str | None, endpoint: str | None, request_id: str) -> Route:
    """Return the route that headers or metadata name.

    Raises:
        LimitExceeded: the unit id is too long.
    """
    if unit_id is not None and len(unit_id) > MAX_UNIT_CHARS:
        raise LimitExceeded(
            f"[route] the unit id has {len(unit_id):,} characters; at most {MAX_UNIT_CHARS}; send a shorter one"
        )
    return Route(endpoint or "", "", unit_id or "", override or "", request_id)


def log_request(record: RequestRecord, code: str, latency_ms: float) -> None:
    """Write the line of a request, and end its span with what stands in it."""
    is_logged = _requests.isEnabledFor(logging.INFO)
    if not is_logged and record.trace is None:
        return
    line = {
        "request_id": record.request_id,
        "transport": record.transport,
        "endpoint": record.endpoint,
        "code": code,
        "variant": record.variant,
        "index_version": record.index_version,
        "q": record.q,
        "k": record.k,
        "latency_ms": round(latency_ms, 3),
        "plan": record.plan,
        "degraded": record.is_degraded,
        "coverage": record.coverage,
    }
    if record.trace is not None:
        record.trace.end(line)
        line["trace_id"] = record.trace.trace_id
    if is_logged:
        # Made here, because Logger.info would first walk the stack for a file and a line that nobody reads.
        _requests.handle(logging.LogRecord(_requests.name, logging.INFO, "", 0, line, None, None))


def log_audit(record: RequestRecord, action: str, code: str) -> None:
    """Write who did, or tried, what needs the scope admin; these lines are written even where requests are not."""
    line = {
        "request_id": record.request_id,
        "transport": record.transport,
        "who": record.who,
        "key_id": None if record.principal is None else record.principal.key_id,
        "action": action[:300],
        "object": record.endpoint,
        "version": record.index_version,
        "code": code,
    }
    _audit.info(line)


class JsonLines(logging.Formatter):
    """A log record as one line of JSON; a message that is a mapping already is joined in."""

    def format(self, record: logging.LogRecord) -> str:
        at = datetime.fromtimestamp(record.created, timezone.utc).isoformat(timespec="milliseconds")
        line: dict[str, object] = {"time": at, "level": record.levelname, "logger": record.name}
        if isinstance(record.msg, dict):
            line |= record.msg
        else:
            line["message"] = record.getMessage()
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return orjson.dumps(line).decode()


def audit_to(file: Path) -> None:
    """Append what needs the scope admin to a hash-chained file as well."""
    _audit.handlers = [AuditHandler(file)]


def log_to_stderr(*, requests: bool) -> None:
    """Send the service's log to standard error as lines of JSON; for programs that are nothing but a service."""
    # Lines tell neither thread nor process, and finding them out is half of what a line costs.
    logging.logThreads = logging.logProcesses = logging.logMultiprocessing = False
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonLines())
    for name in ("serving", "uvicorn.error", "matching", "embeddings", "opentelemetry"):
        logger = logging.getLogger(name)
        logger.handlers = [handler]
        logger.propagate = False
        logger.setLevel(logging.INFO if name == "serving" else logging.WARNING)
    _requests.setLevel(logging.INFO if requests else logging.WARNING)
