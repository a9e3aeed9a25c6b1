"""When a call is asked again: what a service refused, or nobody answered, after a pause, within the caller's time."""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

AGAIN: Final = frozenset([408, 425, 429, 502, 503])


@dataclass(frozen=True, slots=True)
class Retry:
    """How often and after which pauses; pauses grow twofold, by chance between none and whole.

    Attributes:
        attempts: calls in all, the first among them.
        pause_s: the longest pause after the first call.
        most_s: the longest of all.
    """

    attempts: int = 4
    pause_s: float = 0.1
    most_s: float = 5.0

    def wait_s(self, attempt: int, headers: Mapping[str, str]) -> float:
        """Return how long to wait after a call, the first being 0; never less than the service asks for."""
        chance = random.random()  # noqa: S311 - no secret
        return max(chance * min(self.pause_s * 2.0**attempt, self.most_s), _asked_s(headers))


def _asked_s(headers: Mapping[str, str]) -> float:
    for name, unit in (("retry-after-ms", 1e-3), ("retry-after", 1.0)):
        try:
            return max(float(headers[name]) * unit, 0.0)
        except (KeyError, ValueError):
            continue
    return 0.0
