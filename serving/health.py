"""Whether requests are welcome, and if not, why."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

from matching.live import LiveIndex
from serving.encoder_process import EncoderProcess

_PING_S = 1.0


@dataclass(frozen=True, slots=True)
class HealthState:
    """The parts of readiness; ready is all of them."""

    is_verified: bool
    is_warm: bool
    encoders_answer: bool
    is_draining: bool
    writes: str = "off"  # ok, or why none are taken; searches go on

    @property
    def is_ready(self) -> bool:
        """Whether requests are welcome."""
        return self.is_verified and self.is_warm and self.encoders_answer and not self.is_draining

    def as_json(self) -> dict[str, Any]:
        """Return the answer of /readyz."""
        return {
            "ready": self.is_ready,
            "verified": self.is_verified,
            "warm": self.is_warm,
            "encoders": self.encoders_answer,
            "draining": self.is_draining,
            "writes": self.writes,
        }


class Health:
    """Gathers readiness; the server tells it what happens. Belongs to one event loop."""

    def __init__(self, encoders: EncoderProcess, *, is_verified: bool, live: LiveIndex | None = None) -> None:
        self._encoders = encoders
        self._live = live
        self._is_verified = is_verified
        self._is_warm = False
        self._is_draining = False
        self._pinged = (-_PING_S, False)

    def warmed(self) -> None:
        """Note that every space has been searched once."""
        self._is_warm = True

    def draining(self) -> None:
        """Note that the service is ending: no new requests, please."""
        self._is_draining = True

    async def state(self) -> HealthState:
        """Return the state now; the encoder process is asked at most once a second."""
        at, answered = self._pinged
        if not self._encoders.is_ready:
            answered = False
        elif not answered or time.monotonic() - at >= _PING_S:
            answered = await self._encoders.ping(_PING_S)
            self._pinged = (time.monotonic(), answered)
        writes = "off" if self._live is None else self._live.failure or "ok"
        return HealthState(self._is_verified, self._is_warm, answered, self._is_draining, writes)
