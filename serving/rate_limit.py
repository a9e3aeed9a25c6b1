"""How often one caller may ask."""

from __future__ import annotations

from collections import OrderedDict
from typing import Final

_MAX_CALLERS: Final = 10_000


class TokenBuckets:
    """A token bucket for each caller: `burst` tokens at most, `per_s` new ones a second. Belongs to one event loop.

    The callers that asked last are remembered, 10,000 of them; who is forgotten begins with a full bucket.
    """

    def __init__(self, *, per_s: float, burst: int) -> None:
        self._per_s = per_s
        self._burst = float(burst)
        self._held: OrderedDict[str, tuple[float, float]] = OrderedDict()  # caller -> tokens left, when

    def take(self, caller: str, now: float) -> float:
        """Take a token and return 0.0, or take none and return the seconds until there is one.

        Args:
            caller: who asks.
            now: seconds on a clock that only goes forward.
        """
        left, at = self._held.get(caller, (self._burst, now))
        left = min(self._burst, left + (now - at) * self._per_s)
        is_enough = left >= 1 - 1e-9
        self._held[caller] = (left - 1 if is_enough else left, now)
        self._held.move_to_end(caller)
        if len(self._held) > _MAX_CALLERS:
            self._held.popitem(last=False)
        return 0.0 if is_enough else (1 - left) / self._per_s
