"""Whether requests are welcome, and if not, why."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from serving.deployment import Deployment
from serving.encoder_process import EncoderProcess

_PING_S = 1.0


@dataclass(frozen=True, slots=True)
class EndpointState:
    """What each variant answers from, and what is wrong with that.

    Attributes:
        versions: of each variant.
        refused: why versions that were asked for are not served.
        coverage: the share of its datapoints that searches of each variant see.
        lost: why the others cannot be read.
    """

    versions: Mapping[str, str]
    refused: tuple[str, ...]
    coverage: Mapping[str, float]
    lost: tuple[str, ...]

    def as_json(self) -> dict[str, Any]:
        """Return it as /readyz tells it."""
        return {
            "versions": dict(self.versions),
            "refused": list(self.refused),
            "coverage": dict(self.coverage),
            "lost": list(self.lost),
        }


@dataclass(frozen=True, slots=True)
class HealthState:
    """The parts of readiness; ready is all of them."""

    is_verified: bool
    is_warm: bool
    encoders_answer: bool
    is_draining: bool
    writes: str = "off"  # ok, or why none are taken; searches go on
    replica: str = "off"  # ok, or how far behind its stream it is
    endpoints: Mapping[str, EndpointState] = field(default_factory=dict)

    @property
    def is_ready(self) -> bool:
        """Whether requests are welcome."""
        is_there = self.is_verified and self.is_warm and self.encoders_answer
        return is_there and not self.is_draining and self.replica in ("off", "ok")

    def as_json(self) -> dict[str, Any]:
        """Return the answer of /readyz."""
        return {
            "ready": self.is_ready,
            "verified": self.is_verified,
            "warm": self.is_warm,
            "encoders": self.encoders_answer,
            "draining": self.is_draining,
            "writes": self.writes,
            "replica": self.replica,
            "endpoints": {name: state.as_json() for name, state in self.endpoints.items()},
        }


class Health:
    """Gathers readiness; the server tells it what happens. Belongs to one event loop."""

    def __init__(self, deployments: Sequence[Deployment]) -> None:
        """Watch deployments that are open, and so verified."""
        self._deployments = tuple(deployments)
        self._is_warm = False
        self._is_draining = False
        self._pinged: dict[EncoderProcess, float] = {}  # when each answered last

    def warmed(self) -> None:
        """Note that every space has been searched once."""
        self._is_warm = True

    def draining(self) -> None:
        """Note that the service is ending: no new requests, please."""
        self._is_draining = True

    async def state(self) -> HealthState:
        """Return the state now; an encoder process is asked at most once a second."""
        encoders = {process for deployment in self._deployments for process in deployment.all_encoders}
        self._pinged = {process: at for process, at in self._pinged.items() if process in encoders}
        answers = [await self._answers(process) for process in encoders]
        writing = [deployment for deployment in self._deployments if deployment.takes_writes]
        failures = [deployment.failure for deployment in writing if deployment.failure]
        writes = (failures[0] if failures else "ok") if writing else "off"
        lags = [lag for lag in (deployment.lag for deployment in self._deployments) if lag is not None]
        replica = str(max(lags, key=lambda lag: (lag.is_behind, lag.seconds))) if lags else "off"
        endpoints = {
            one.name: EndpointState(one.versions, one.refusals, one.coverage, one.lost) for one in self._deployments
        }
        is_verified = all(share > 0 for state in endpoints.values() for share in state.coverage.values())
        return HealthState(is_verified, self._is_warm, all(answers), self._is_draining, writes, replica, endpoints)

    async def _answers(self, process: EncoderProcess) -> bool:
        if not process.is_ready:
            self._pinged.pop(process, None)
            return False
        if time.monotonic() - self._pinged.get(process, -_PING_S) < _PING_S:
            return True
        if await process.ping(_PING_S):
            self._pinged[process] = time.monotonic()
            return True
        self._pinged.pop(process, None)
        return False
