"""An index version that is ready to answer: opened, caught up with its write log, with its encoders running, and warm."""

from __future__ import annotations

import asyncio
import hashlib
import json
import logging
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import Executor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from embeddings.encoder import Content
from matching.encoder_spec import EncoderSpec
from matching.errors import GateRefused, InvalidQuery, SpaceMismatch, Unavailable
from matching.live import LiveIndex, Log
from matching.store import Store
from matching.version import IndexVersion
from serving.encoder_process import Encoded, EncoderObserver, EncoderProcess
from serving.settings import ServingSettings
from serving.trial import try_version

T = TypeVar("T")
_log = logging.getLogger(__name__)
_CANARY = "a black leather shoe"
_GLANCE_S = 0.05


@dataclass(frozen=True, slots=True)
class RunningEncoders:
    """An encoder process, and the digest of what it encodes with."""

    process: EncoderProcess
    digest: str


@dataclass(slots=True, eq=False)
class OpenedVersion:
    """A version as it is served; several variants may share it.

    Attributes:
        sealed: the version as it was built, without what cannot be read of it now.
        live: the same with the writes since, None where the service takes none.
        encoders: of its spaces.
        failure: why nothing may be answered from it; None while all is well.
    """

    sealed: IndexVersion
    live: LiveIndex | None
    encoders: RunningEncoders
    failure: str | None = None

    @property
    def version_id(self) -> str:
        """The id of the version."""
        return self.sealed.version_id

    @property
    def newest(self) -> IndexVersion:
        """What a request that begins now is answered from."""
        return self.sealed if self.live is None else self.live.snapshot

    @property
    def coverage(self) -> float:
        """Share of its datapoints that searches see, in the space where that is least; 0 where nothing may be answered."""
        return 0.0 if self.failure else min(space.coverage for space in self.newest.spaces.values())

    def look_again(self, *, partial: bool, again: bool) -> bool:
        """Leave out the shards that were written over, and take back those that are whole again; for one thread at a time.

        Args:
            partial: answer from the other shards; else nothing may be answered.
            again: read lost files too that nobody has touched.

        Returns:
            Whether something has changed.
        """
        now = self.sealed.look_again(again=again)
        failure = now.failure or (now.lost[0] if now.lost and not partial else None)
        if now is self.sealed and failure == self.failure:
            return False
        if failure:
            self.failure = failure  # before anything is searched that would not say what it lacks
        if now is not self.sealed:
            if self.live is not None:
                self.live.rebase(now)
            self.sealed = now
        self.failure = failure
        return True


class Opener:
    """Opens versions off the event loop that it belongs to."""

    def __init__(
        self,
        store: Store,
        *,
        settings: ServingSettings,
        log: Log | None,
        check: Callable[[IndexVersion], None],
        threads: Executor,
        model_dir: Path | None = None,
        observer: EncoderObserver | None = None,
    ) -> None:
        """Prepare to open versions of a store.

        Args:
            store: where they lie.
            settings: limits and times.
            log: of the writes that each of them takes in, or none.
            check: raises where a version is not to be served, before any write joins it.
            threads: where files are read and logs applied.
            model_dir: where exported models lie, the encoders' default when None.
            observer: is told what encoder processes do.
        """
        self._store = store
        self._settings = settings
        self._log = log
        self._check = check
        self._threads = threads
        self._model_dir = model_dir
        self._observer = observer
        self._given_up = threading.Event()

    def give_up(self) -> None:
        """End the trial that is under way."""
        self._given_up.set()

    async def open_untried(self, version_id: str, running: Iterable[RunningEncoders] = ()) -> OpenedVersion:
        """Open a version, every block of it checked, and start its encoders without waiting for them.

        Where the settings allow partial answers, shards that cannot be read are left out.

        Raises:
            NotFound: there is no such version, or the log no longer has the writes that it lacks.
            CorruptArtifact: it, or the log, is damaged.
            SpaceMismatch: the writes cannot join it.
        """
        partial = self._settings.partial_answers
        sealed = await self._in_thread(lambda: self._store.open(version_id, verify=True, partial=partial))
        for why in sealed.lost:
            _log.error("version %s is served without a shard: %s", version_id, why)
        self._check(sealed)
        live = await self._in_thread(lambda: self._followed(sealed))
        return OpenedVersion(sealed, live, await self._encoders(sealed, running))

    async def open(self, version_id: str, running: Iterable[RunningEncoders]) -> OpenedVersion:
        """Try a version in a process of its own, open it, and return it once it could answer at full speed.

        Args:
            version_id: the version.
            running: encoders that are used again where they are those of the version.

        Raises:
            GateRefused: it answers wrongly, kills the process that tries it, or takes longer than `serving.activation_s`.
            NotFound: there is no such version, or the log no longer has the writes that it lacks.
            CorruptArtifact: it is damaged.
            SpaceMismatch: the writes cannot join it.
        """
        until = time.monotonic() + self._settings.activation_s
        running = tuple(running)
        directory = self._store.directory(version_id)
        limit_s = self._settings.activation_s
        await self._in_thread(lambda: try_version(directory, limit_s=limit_s, given_up=self._given_up))
        # every block was just checked
        sealed = await self._in_thread(lambda: self._store.open(version_id, verify=False))
        self._check(sealed)
        encoders = await self._encoders(sealed, running)
        live: LiveIndex | None = None
        try:
            await _check_encoders(sealed, encoders.process, until)
            live = await self._in_thread(lambda: self._followed(sealed))
            opened = OpenedVersion(sealed, live, encoders)
            await self._in_thread(lambda: warm(opened.newest))
        except BaseException:
            if live is not None:
                await self._in_thread(live.close)
            if encoders not in running:
                await encoders.process.stop()
            raise
        return opened

    def _followed(self, sealed: IndexVersion) -> LiveIndex | None:
        return None if self._log is None else LiveIndex(sealed, self._log)

    async def _encoders(self, sealed: IndexVersion, running: Iterable[RunningEncoders]) -> RunningEncoders:
        specs = {name: space.encoder for name, space in sealed.spaces.items() if space.encoder is not None}
        digest = await self._in_thread(lambda: _digest(specs))
        for known in running:
            if known.digest == digest:
                return known
        process = EncoderProcess(specs, settings=self._settings, model_dir=self._model_dir, observer=self._observer)
        process.start()
        return RunningEncoders(process, digest)

    async def _in_thread(self, work: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._threads, work)


def warm(version: IndexVersion) -> None:
    """Search every space once, approximately and exactly, so that no caller pays for the first touch."""
    for name, space in version.spaces.items():
        if space.n_vectors:
            first = np.zeros((1, space.dim), np.float32)
            first[0, 0] = 1.0
            version.search(first, 10, space=name)
            version.search(first, 10, space=name, exact=True)


def form_of(version: IndexVersion) -> dict[str, list[Any]]:
    """Return what vectors must be to join a version: by space, how long, under which metric, of which encoder."""
    return {
        name: [space.dim, space.metric, space.space_id if space.encoder is not None else None]
        for name, space in version.spaces.items()
    }


def check_form(form: Mapping[str, list[Any]], version: IndexVersion) -> None:
    """Check that vectors of a form can join a version.

    Args:
        form: as `form_of` returned it, or JSON has kept it.
        version: what they would join.

    Raises:
        SpaceMismatch: they cannot.
    """
    for name, wanted in form_of(version).items():
        is_optional = version.spaces[name].entry.is_grouped
        if (held := form.get(name)) != wanted and not (held is None and is_optional):
            raise SpaceMismatch(
                f"[deploy] version {version.version_id} wants vectors of {wanted} in space {name!r}, the writes of this endpoint "
                f"have {held}; expected the same length, metric and encoder; serve it under an endpoint with a log of its own"
            )


async def _check_encoders(sealed: IndexVersion, encoders: EncoderProcess, until: float) -> None:
    """Wait until the encoders run, and check that what they make of a text fits its space."""
    while not encoders.is_ready:
        if encoders.refused.is_set():
            raise GateRefused(f"[deploy] version {sealed.version_id}: {encoders.refusal}")
        if time.monotonic() >= until:
            raise GateRefused(
                f"[deploy] the encoders of version {sealed.version_id} were not ready in time; expected them within "
                "serving.activation_s; allow more time, or look at the log"
            )
        await asyncio.sleep(_GLANCE_S)
    for name, space in sealed.spaces.items():
        if space.encoder is None:
            continue
        try:
            encoded = await _encode(encoders, name, until)
        except InvalidQuery:  # it reads no text
            continue
        if encoded.vector.shape != (space.dim,) or not np.isfinite(encoded.vector).all():
            raise GateRefused(
                f"[deploy] the encoder of space {name!r} makes {encoded.vector.shape[0]} numbers of a text; version "
                f"{sealed.version_id} holds {space.dim}, all finite; build it again with that encoder"
            )


async def _encode(encoders: EncoderProcess, space: str, until: float) -> Encoded:
    while True:
        try:
            return await encoders.encode(space, Content(text=_CANARY), deadline=until)
        except Unavailable:  # requests fill its queue
            if time.monotonic() >= until:
                raise
            await asyncio.sleep(_GLANCE_S)


def _digest(specs: Mapping[str, EncoderSpec]) -> str:
    digest = hashlib.sha256()
    for name, spec in sorted(specs.items()):
        digest.update(json.dumps([name, spec.kind, spec.params], sort_keys=True, default=str).encode())
        for part, array in sorted(spec.arrays.items()):
            digest.update(f"{part} {array.dtype} {array.shape}".encode())
            digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()
