"""One thing that a look at an installation found."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal

from matching.errors import LikewiseError

Severity = Literal["ok", "warning", "error"]


@dataclass(frozen=True, slots=True)
class Finding:
    """What was looked at, what was found, and what to do about it.

    Attributes:
        check: what was looked at, as `store.alias`.
        severity: error for what fails callers now, warning for what will.
        found: what is so.
        cure: what to do; empty where nothing is wrong.
    """

    check: str
    severity: Severity
    found: str
    cure: str = ""


def guarded(check: str, look: Callable[[], Iterator[Finding]], cure: str) -> Iterator[Finding]:
    """Yield what a look finds; where it cannot look at all, that is the finding."""
    try:
        yield from look()
    except (LikewiseError, OSError) as error:
        yield Finding(check, "error", str(error), cure)
