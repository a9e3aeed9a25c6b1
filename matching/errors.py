"""Every error that Likewise raises on purpose.

LikewiseError
├── InvalidInput        (ValueError)    the caller's value is wrong
│   ├── InvalidQuery                    a search request cannot be answered as asked
│   ├── InvalidContent                  a text or picture cannot be encoded
│   ├── InvalidCatalog                  a catalogue or vector file as a whole cannot be read
│   └── SpaceMismatch                   vectors of two different spaces met
├── LimitExceeded       (ValueError)    over a stated limit
├── NotFound            (KeyError)      no such datapoint, version, alias or space
├── CorruptArtifact     (OSError)       bytes on disk are not the bytes that were sealed
├── AlreadyExists       (FileExistsError) a name is taken
├── GateRefused         (RuntimeError)  a build missed its floor: recall, rejects
├── Unauthenticated     (PermissionError) nobody knows who asks: no credential, or one that is not valid
├── Forbidden           (PermissionError) it is known who asks, and they may not
├── RateLimited         (RuntimeError)  one caller asks too often
│   └── TooManyInFlight                 one caller asks too much at once
├── Overloaded          (RuntimeError)  more requests wait than can be answered in time
├── StorageFull         (OSError)       there is no space to keep what was to be kept
├── MissingExtra        (ImportError)   an optional package is not installed
├── Unavailable         (RuntimeError)  not ready, or shutting down
└── DeadlineExceeded    (TimeoutError)  the caller's time ran out

Messages read `[operation] what was wrong, with its values; what was expected; what to do`.
"""

from __future__ import annotations


class LikewiseError(Exception):
    """Base of all deliberate errors."""


class InvalidInput(LikewiseError, ValueError):
    """The caller's value is wrong."""


class InvalidQuery(InvalidInput):
    """A search request cannot be answered as asked."""


class InvalidContent(InvalidInput):
    """A text or picture cannot be encoded."""


class InvalidCatalog(InvalidInput):
    """A catalogue or vector file as a whole cannot be read."""


class SpaceMismatch(InvalidInput):
    """Vectors of two different spaces met."""


class LimitExceeded(LikewiseError, ValueError):
    """A request is over a stated limit."""


class NotFound(LikewiseError, KeyError):
    """No such datapoint, version, alias or space."""

    def __str__(self) -> str:
        return str(self.args[0]) if self.args else ""  # KeyError would quote the message


class CorruptArtifact(LikewiseError, OSError):
    """Bytes on disk are not the bytes that were sealed."""


class AlreadyExists(LikewiseError, FileExistsError):
    """A name is already taken."""


class GateRefused(LikewiseError, RuntimeError):
    """A build missed its floor and is not published."""


class Unauthenticated(LikewiseError, PermissionError):
    """A request carries no credential, or one that is not valid."""


class Forbidden(LikewiseError, PermissionError):
    """Who asks is known, and may not do this."""


class RateLimited(LikewiseError, RuntimeError):
    """One caller asks more often than it may.

    Attributes:
        retry_after_s: when the next request will be let through.
    """

    def __init__(self, message: str, *, retry_after_s: float = 1.0) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class TooManyInFlight(RateLimited):
    """One caller has as many requests under way as it may."""


class Overloaded(LikewiseError, RuntimeError):
    """More requests wait than can be answered in time.

    Attributes:
        retry_after_s: when there may be room again.
    """

    def __init__(self, message: str, *, retry_after_s: float = 1.0) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class StorageFull(LikewiseError, OSError):
    """There is no space to keep what was to be kept."""


class MissingExtra(LikewiseError, ImportError):
    """An optional package is not installed."""


class Unavailable(LikewiseError, RuntimeError):
    """The service is not ready or is shutting down."""


class DeadlineExceeded(LikewiseError, TimeoutError):
    """The caller's time ran out before an answer was ready."""
