"""One table from deliberate errors to HTTP statuses and gRPC codes."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from matching.errors import (
    AlreadyExists,
    CorruptArtifact,
    DeadlineExceeded,
    Forbidden,
    GateRefused,
    InvalidCatalog,
    InvalidContent,
    InvalidInput,
    InvalidQuery,
    LikewiseError,
    LimitExceeded,
    MissingExtra,
    NotFound,
    Overloaded,
    RateLimited,
    SpaceMismatch,
    StorageFull,
    TooManyInFlight,
    Unauthenticated,
    Unavailable,
)


@dataclass(frozen=True, slots=True)
class ErrorCode:
    """What the two transports say of one kind of error.

    Attributes:
        status: the gRPC code by name, which the HTTP body carries too.
        grpc: the gRPC code by number.
        http: the HTTP status.
    """

    status: str
    grpc: int
    http: int


INVALID_ARGUMENT: Final = ErrorCode("INVALID_ARGUMENT", 3, 400)
DEADLINE_EXCEEDED: Final = ErrorCode("DEADLINE_EXCEEDED", 4, 504)
NOT_FOUND: Final = ErrorCode("NOT_FOUND", 5, 404)
INTERNAL: Final = ErrorCode("INTERNAL", 13, 500)
UNAVAILABLE: Final = ErrorCode("UNAVAILABLE", 14, 503)

ERROR_CODES: Final[dict[type[LikewiseError], ErrorCode]] = {
    InvalidInput: INVALID_ARGUMENT,
    InvalidQuery: INVALID_ARGUMENT,
    InvalidContent: INVALID_ARGUMENT,
    InvalidCatalog: INVALID_ARGUMENT,
    SpaceMismatch: INVALID_ARGUMENT,
    LimitExceeded: ErrorCode("RESOURCE_EXHAUSTED", 8, 413),
    NotFound: NOT_FOUND,
    CorruptArtifact: ErrorCode("DATA_LOSS", 15, 500),
    AlreadyExists: ErrorCode("ALREADY_EXISTS", 6, 409),
    GateRefused: ErrorCode("FAILED_PRECONDITION", 9, 409),
    Unauthenticated: ErrorCode("UNAUTHENTICATED", 16, 401),
    Forbidden: ErrorCode("PERMISSION_DENIED", 7, 403),
    RateLimited: ErrorCode("RESOURCE_EXHAUSTED", 8, 429),
    TooManyInFlight: ErrorCode("RESOURCE_EXHAUSTED", 8, 429),
    Overloaded: ErrorCode("RESOURCE_EXHAUSTED", 8, 429),
    StorageFull: ErrorCode("RESOURCE_EXHAUSTED", 8, 507),
    MissingExtra: ErrorCode("UNIMPLEMENTED", 12, 501),
    Unavailable: UNAVAILABLE,
    DeadlineExceeded: DEADLINE_EXCEEDED,
}

# The caller sees these words and no others: their messages may hold paths.
_PRIVATE: Final[dict[type[LikewiseError], str]] = {
    CorruptArtifact: "[serving] the index version is damaged; expected intact files; look at the service's log",
    MissingExtra: "[serving] the service lacks a part this request needs; look at the service's log",
}
_UNKNOWN: Final = "[serving] the service failed on this request; look for its request id in the service's log"


def code_of(error: BaseException) -> ErrorCode:
    """Return the code of an error: its own, its nearest base's, or INTERNAL for what nobody raised on purpose."""
    for kind in type(error).__mro__:
        if kind in ERROR_CODES:
            return ERROR_CODES[kind]
    return INTERNAL


def refusal_reason(error: BaseException) -> str | None:
    """Return why a request was refused, as metrics call it, where its code does not tell."""
    return "caller_in_flight" if isinstance(error, TooManyInFlight) else None


@contextlib.contextmanager
def as_vertex() -> Iterator[None]:
    """Name an error within as Vertex does: for it, what is over a limit of one request is an invalid argument.

    Raises:
        InvalidQuery: in place of LimitExceeded.
    """
    try:
        yield
    except LimitExceeded as error:
        raise InvalidQuery(str(error)) from None


def public_message(error: BaseException) -> str:
    """Return what the caller may read of an error: never a stack trace, never a path of this machine."""
    for kind in type(error).__mro__:
        if kind in _PRIVATE:
            return _PRIVATE[kind]
    return str(error) if isinstance(error, LikewiseError) else _UNKNOWN
