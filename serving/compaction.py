"""Compaction in the background: when writes have piled up, a process of low priority folds them into the next version.

The process reads the log beside this one and publishes a version; the deployment then tries it, moves the alias and switches. One
runs at a time. What fails is logged, what was served is served on, and it is tried again when as many writes more have come.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import subprocess
import sys
from collections.abc import Sequence
from typing import Final, Protocol

from matching.errors import LikewiseError
from matching.live import Log, truncate_log
from matching.store import AliasMove, Store
from serving.grown import Grown
from serving.settings import ServingSettings

_log = logging.getLogger(__name__)
_COMMAND: Final = (sys.executable, "-m", "lifecycle", "versions", "compact")
_NICE: Final = 19


class Growing(Protocol):
    """What `serving.deployment.Deployment` is to a compaction."""

    @property
    def name(self) -> str:
        """The endpoint."""

    @property
    def log(self) -> Log | None:
        """Of its writes."""

    @property
    def aliases(self) -> tuple[str, ...]:
        """The aliases whose versions take the writes; none where a variant names a version, which no rollback can leave."""

    def grown(self) -> Sequence[Grown]:
        """Return how far each of its aliases has grown beyond its version."""

    async def promote(
        self, version: str, *, why: str, by: str, variant: str = "", instead_of: str | None = None
    ) -> AliasMove:
        """Let a variant answer from another version."""


class Compaction:
    """Watches over one endpoint. Belongs to one event loop."""

    def __init__(self, deployment: Growing, store: Store, *, settings: ServingSettings) -> None:
        """Prepare to compact what a deployment serves from a store."""
        self._deployment = deployment
        self._store = store
        self._settings = settings
        self._not_before: dict[str, int] = {}  # version to writes, after it failed
        self._watching: asyncio.Task[None] | None = None

    def follow(self) -> None:
        """Watch from now on, unless the settings say never, or others write to the log too, of whom one has to do it."""
        if self._settings.log_folder is not None and self._settings.compact_after_writes:
            self._watching = asyncio.create_task(self._watch(), name="compaction")

    async def close(self) -> None:
        """End the process that is under way, and watch no more."""
        if self._watching is not None:
            self._watching.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._watching

    async def _watch(self) -> None:
        while True:
            await asyncio.sleep(self._settings.follow_s)
            for grown in await asyncio.get_running_loop().run_in_executor(None, self._deployment.grown):
                if self._is_due(grown):
                    await self._compact(grown)
                    break

    def _is_due(self, grown: Grown) -> bool:
        share = self._settings.compact_after_frac * grown.n_datapoints
        least = max(self._settings.compact_after_writes, share, self._not_before.get(grown.version_id, 0))
        return grown.n_written >= least

    async def _compact(self, grown: Grown) -> None:
        try:
            version, base = await self._next_version(grown)
            why = f"writes up to {grown.sequence:,} taken in"
            await self._deployment.promote(version, why=why, by="compaction", variant=grown.variant, instead_of=base)
            self._not_before.clear()
            await asyncio.get_running_loop().run_in_executor(None, self._truncate)
        except Exception as error:  # the top of this task: the next compaction may do better
            self._not_before[grown.version_id] = 2 * grown.n_written
            _log.error("endpoint %s: compaction of %s failed: %s", self._deployment.name, grown.alias, error)
            if not isinstance(error, LikewiseError):
                _log.debug("why", exc_info=True)

    async def _next_version(self, grown: Grown) -> tuple[str, str]:
        """Return the version that the process made, and the one that it was made of.

        Raises:
            RuntimeError: it made none, and said why.
        """
        assert self._settings.log_folder is not None
        place = ["--store", str(self._store.path), "--log", str(self._settings.log_folder)]
        which = [grown.alias, "--endpoint", self._deployment.name, "--up-to", str(grown.sequence)]
        _log.info("endpoint %s: compacting %s up to write %d", self._deployment.name, grown.alias, grown.sequence)
        process = subprocess.Popen(  # not by the event loop, whose way to fork wakes gRPC's handlers
            [*_COMMAND, *which, *place, "--nice", str(_NICE), "--json"],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env={**os.environ, "LIKEWISE__BUILD__THREADS": "1"},
        )
        try:
            told, errors = await asyncio.get_running_loop().run_in_executor(None, process.communicate)
        except asyncio.CancelledError:
            process.terminate()
            raise
        if process.returncode != 0:
            raise RuntimeError(errors.decode(errors="replace").strip().rpartition("\n")[2] or f"{process.returncode}")
        made = json.loads(told)
        return made["version"], made["base"]

    def _truncate(self) -> None:
        n_kept, log = self._settings.log_keeps_versions, self._deployment.log
        if n_kept is None or log is None or not self._deployment.aliases:
            return
        before = log.first_sequence
        first = truncate_log(self._store, self._deployment.aliases, log, n_kept)
        _log.info("endpoint %s: %d writes dropped, the log begins at %d", self._deployment.name, first - before, first)
