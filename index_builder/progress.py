"""Progress of long work: who does the work reports, who started it shows."""

from __future__ import annotations

from typing import Protocol


class Progress(Protocol):
    """Receives the stages of a build in order. Called from one thread."""

    def begin(self, stage: str, total: int | None) -> None:
        """A stage of `total` steps begins, None where the number is not known."""

    def advance(self, done: int, note: str = "") -> None:
        """`done` steps of the stage are done by now."""

    def say(self, line: str) -> None:
        """Something was decided that a person will want to know."""


class Silent:
    """Shows nothing."""

    def begin(self, stage: str, total: int | None) -> None:
        """Ignore."""

    def advance(self, done: int, note: str = "") -> None:
        """Ignore."""

    def say(self, line: str) -> None:
        """Ignore."""
