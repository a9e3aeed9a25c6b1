"""What serves one endpoint: its variants, the versions behind them, and how both are exchanged under load.

    alias moved, endpoint changed, or asked to  ->  tried in another process -> opened, caught up with the log, encoders
    running, warm  ->  (the alias is moved)  ->  one reference is exchanged  ->  what nobody needs any more is closed

A request takes the reference once, and is answered from it however long it takes. Whatever fails on the way, what was served
is served on, and why is told; the same move is not tried again.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import secrets
import time
from collections.abc import Callable, Coroutine, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any, Final, Protocol, TypeVar

from matching.errors import CorruptArtifact, GateRefused, InvalidInput, LikewiseError, Unavailable
from matching.live import LiveIndex, Log
from matching.live.disk import is_full, publish
from matching.store import AliasMove, Store
from matching.version import IndexVersion
from serving.encoder_process import EncoderObserver, EncoderProcess
from serving.endpoint import Endpoint, Knob, Variant
from serving.grown import Grown
from serving.lag import Lag, LagMeter
from serving.memory import check_room
from serving.opened_version import OpenedVersion, Opener, RunningEncoders, check_form, form_of, warm
from serving.override import parse_override_keys, read_override
from serving.query import Route
from serving.settings import ServingSettings
from serving.watched_file import WatchedFile
from serving.write_log import open_log

T = TypeVar("T")
_log = logging.getLogger(__name__)
_LOST_S: Final = 1.0  # between two looks at a lost file that nobody has touched,
_LOST_SHARE: Final = 0.05  # which take no more than this share of a core
_STOP_S: Final = 1.0  # beyond the deadline of a request, encoders that nobody asks any more are ended


@dataclass(frozen=True, slots=True)
class Snapshot:
    """What one request is answered from: an index version, the process that holds its encoders, and whose turn it is.

    Attributes:
        version: immutable.
        encoders: of its spaces.
        variant: the variant that answers.
        live: takes writes, and waits for them; None where the service takes none.
        knobs: how searches are answered where the caller does not say.
        is_shadow: nobody sees the answer.
    """

    version: IndexVersion
    encoders: EncoderProcess
    variant: str = ""
    live: LiveIndex | None = None
    knobs: Mapping[str, Knob] = field(default_factory=dict)
    is_shadow: bool = False


class SwitchObserver(EncoderObserver, Protocol):
    """Is told what becomes of versions; a service counts it."""

    def switched(self, endpoint: str, versions: Mapping[str, str]) -> None: ...

    def refused_version(self, endpoint: str) -> None: ...

    def serves(self, endpoint: str, n_datapoints: int, created_timestamp_s: float) -> None: ...

    def covers(self, endpoint: str, coverage: Mapping[str, float]) -> None: ...


@dataclass(frozen=True, slots=True)
class _Wanted:
    """What the store says should be served: by variant, the version, and a name for having been asked for it."""

    endpoint: Endpoint
    versions: Mapping[str, str]
    asked: Mapping[str, tuple[str, int, str]]
    n_changes: int


@dataclass(frozen=True, slots=True)
class _Served:
    """What is served; never changed, only exchanged."""

    endpoint: Endpoint
    arms: Mapping[str, OpenedVersion]
    n_changes: int
    shadows: tuple[Variant, ...] = ()

    @property
    def control(self) -> OpenedVersion:
        return self.arms[self.endpoint.control]

    @property
    def versions(self) -> dict[str, str]:
        return {name: opened.version_id for name, opened in self.arms.items()}


def endpoint_of(store: Store, name: str) -> tuple[Endpoint, int]:
    """Return an endpoint as a store has it, and how often it was changed; never: one variant of that name, of its alias.

    Raises:
        CorruptArtifact: its history is damaged.
        InvalidInput: this cannot be a name.
    """
    changes = store.endpoint_history(name)
    if changes:
        return Endpoint.from_json(changes[-1].told), len(changes)
    return Endpoint.create(name, [Variant(name, 1.0, index=name)]), 0


class Deployment:
    """Serves one endpoint. Belongs to one event loop; what takes long is done in a thread of its own."""

    def __init__(
        self,
        store: Store,
        name: str,
        *,
        settings: ServingSettings,
        observer: SwitchObserver,
        model_dir: Path | None = None,
        override_keys_file: Path | None = None,
    ) -> None:
        """Prepare to serve `name`: a configured endpoint, an alias, or the id of a version.

        Raises:
            InvalidInput: the file of override keys cannot be read.
        """
        self.name = name
        self._store = store
        self._settings = settings
        self._observer = observer
        self._model_dir = model_dir
        self._keys = None if override_keys_file is None else WatchedFile(override_keys_file, parse_override_keys)
        self._threads = ThreadPoolExecutor(1, thread_name_prefix="deploy")
        self._looking = ThreadPoolExecutor(1, thread_name_prefix="look")  # a switch may hold up the other for minutes
        self._switching = asyncio.Lock()
        self._tasks: set[asyncio.Task[Any]] = set()
        self._held = contextlib.ExitStack()  # the write log
        self._log: Log | None = None
        self._lag = LagMeter(max_seconds=settings.max_lag_s, max_writes=settings.max_lag_writes)
        self._refused: dict[tuple[str, int, str], str] = {}
        self._stamp: object = None
        self._opener: Opener | None = None
        self._state: _Served | None = None

    async def open(self) -> None:
        """Open what the store says. A version that is refused gives way to those that its alias named before.

        Raises:
            NotFound: there is no such endpoint, alias or version.
            CorruptArtifact: all versions that could be served, or the log, are damaged.
            GateRefused: all of them are refused.
            Unavailable: another process writes to the log.
        """
        wanted = await self._in_thread(self._wanted)
        await self._in_thread(lambda: self._open_log(wanted))
        self._opener = Opener(
            self._store,
            settings=self._settings,
            log=self._log,
            check=self._check_writes,
            threads=self._threads,
            model_dir=self._model_dir,
            observer=self._observer,
        )
        arms: dict[str, OpenedVersion] = {}
        try:
            for name in wanted.versions:
                arms[name] = await self._open_newest(wanted, name, arms)
            for opened in arms.values():
                self._check_writes(opened.sealed, arms.values())
        except BaseException:
            await self._close(set(arms.values()))
            raise
        self._exchange(wanted, arms)
        if self._log is not None:
            self._note_form()

    async def close(self) -> None:
        """End encoders, stop following the log and close it. Snapshots can be searched on."""
        if self._opener is not None:
            self._opener.give_up()
        for task in tuple(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if self._state is not None:
            await self._close(set(self._state.arms.values()))
        for threads in (self._threads, self._looking):
            threads.shutdown(wait=True)
        self._held.close()

    def follow(self) -> None:
        """Follow the store, and watch over the files of what is served, from now on."""
        self._spawn(self._follow())
        self._spawn(self._look_again())

    @property
    def _served(self) -> _Served:
        assert self._state is not None, "open() comes first"
        return self._state

    @property
    def endpoint(self) -> Endpoint:
        """The endpoint as it is served; where none is configured, one with a single variant of the same name."""
        return self._served.endpoint

    @property
    def versions(self) -> dict[str, str]:
        """The version that each variant answers from."""
        return self._served.versions

    @property
    def coverage(self) -> dict[str, float]:
        """The share of its datapoints that searches of each variant see; 0 where they are refused."""
        return {name: opened.coverage for name, opened in self._served.arms.items()}

    @property
    def lost(self) -> tuple[str, ...]:
        """Why files of what is served cannot be read, each reason once."""
        return tuple(dict.fromkeys(why for arm in self._served.arms.values() for why in arm.sealed.lost))

    @property
    def refusals(self) -> tuple[str, ...]:
        """Why versions that the store asks for are not served."""
        return tuple(self._refused.values())

    @property
    def control(self) -> Snapshot:
        """What answers when nothing else is said, and what writes go through."""
        return self._snapshot(self._served, self._served.endpoint.variant(self._served.endpoint.control))

    @property
    def all_encoders(self) -> tuple[EncoderProcess, ...]:
        """The encoder processes of all variants, each once."""
        return tuple(dict.fromkeys(arm.encoders.process for arm in self._served.arms.values()))

    @property
    def failure(self) -> str | None:
        """Why writes are refused; None while they are taken, or where there is no log."""
        lives = (arm.live for arm in self._served.arms.values())
        return next((live.failure for live in lives if live is not None and live.failure), None)

    @property
    def takes_writes(self) -> bool:
        """Whether there is a log."""
        return self._log is not None

    @property
    def log(self) -> Log | None:
        """Of the writes; None where none are taken."""
        return self._log

    @property
    def aliases(self) -> tuple[str, ...]:
        """What the variants answer from, where all of them name aliases; nothing where one names a version."""
        known = self._store.aliases()
        names = {variant.index or self.name for variant in self._served.endpoint.variants}
        return tuple(sorted(names)) if names <= known.keys() else ()

    def grown(self) -> tuple[Grown, ...]:
        """Return how far each alias has grown beyond its version; those that have not, or name another now, are left out."""
        served, found = self._served, {}
        aliases = self._store.aliases()
        for variant in served.endpoint.variants:
            alias, opened = variant.index or self.name, served.arms[variant.name]
            if opened.live is None or aliases.get(alias) != opened.version_id or opened.sealed.lost:
                continue
            sequence = opened.live.snapshot.sequence
            if sequence > opened.sealed.manifest.log_sequence:
                found[alias] = Grown(
                    alias=alias,
                    variant=variant.name,
                    version_id=opened.version_id,
                    n_datapoints=opened.sealed.n_datapoints,
                    n_written=opened.live.n_written,
                    sequence=sequence,
                )
        return tuple(found.values())

    @property
    def lag(self) -> Lag | None:
        """How far behind its stream this replica is; None where nobody else writes to its log."""
        live = self.control.live
        if live is None or self._settings.log_folder is not None:
            return None
        return self._lag.measure(live)

    def resolve(self, route: Route) -> Snapshot:
        """Return what answers a request.

        Raises:
            Forbidden: it carries an override that does not hold.
            NotFound: its override names a variant that is gone.
            Unavailable: files of its version cannot be read.
        """
        served = self._served
        variant = self._variant(served.endpoint, route)
        if (why := served.arms[variant.name].failure) is not None:
            raise Unavailable(f"[search] {why}; nothing is answered until the file is whole again; ask another replica")
        return self._snapshot(served, variant)

    def shadows(self, request_id: str) -> tuple[Snapshot, ...]:
        """Return what is to see a copy of a request."""
        served = self._served
        if not served.shadows:
            return ()
        chosen = served.endpoint.shadows_of(request_id or secrets.token_hex(8))
        return tuple(self._snapshot(served, shadow) for shadow in chosen)

    def warm(self) -> None:
        """Search every space of every variant once."""
        for opened in set(self._served.arms.values()):
            warm(opened.newest)

    async def promote(
        self, version: str, *, why: str, by: str, variant: str = "", instead_of: str | None = None
    ) -> AliasMove:
        """Let a variant answer from another version: load, verify and warm it, then move the alias, then switch.

        Args:
            version: a version id, or an alias.
            why: the reason, kept in the alias's history.
            by: who asks.
            variant: whose alias is moved, control's where it is left out; all variants that name it switch.
            instead_of: the version that the alias must name up to then, any when None.

        Raises:
            NotFound: no such version or variant.
            AlreadyExists: somebody else has moved the alias meanwhile.
            InvalidInput: the variant names a version and no alias.
            GateRefused: the version was refused; the alias is where it was, and what was served is served on.
            CorruptArtifact: likewise, for it is damaged.
            Unavailable: the service ends.
        """
        return await self._shielded(self._promote(lambda _: self._store.resolve(version), why, by, variant, instead_of))

    async def rollback(self, *, why: str, by: str, variant: str = "") -> AliasMove:
        """Let a variant answer from the version before; each time one further back.

        Raises:
            NotFound: there is none before, or no such variant.
            InvalidInput: the variant names a version and no alias.
            GateRefused: the version was refused; the alias is where it was, and what was served is served on.
            CorruptArtifact: likewise, for it is damaged.
            Unavailable: the service ends.
        """
        return await self._shielded(self._promote(self._store.version_before, why, by, variant))

    async def set_traffic(
        self,
        variants: Sequence[Variant],
        *,
        why: str,
        by: str,
        coverage: float | None = None,
        control: str | None = None,
    ) -> Endpoint:
        """Change variants, weights or coverage, moving as few units as that allows.

        Raises:
            InvalidInput: the split is not valid.
            NotFound: a variant names no alias or version.
            AlreadyExists: somebody else has changed the endpoint meanwhile.
            GateRefused: a version was refused, and nothing has changed.
            CorruptArtifact: likewise, for it is damaged.
            Unavailable: the service ends.
        """
        return await self._shielded(self._set_traffic(variants, why, by, coverage, control))

    def _variant(self, endpoint: Endpoint, route: Route) -> Variant:
        if route.override:
            keys = () if self._keys is None else self._keys.value
            override = read_override(route.override, keys, now=time.time())
            return endpoint.assign(route.unit_id, override=override).variant
        if route.variant:
            for variant in endpoint.variants:
                if variant.name == route.variant and not variant.is_shadow:
                    return variant
        if len(endpoint.variants) == 1:
            return endpoint.variants[0]
        return endpoint.assign(route.unit_id).variant

    def _snapshot(self, served: _Served, variant: Variant) -> Snapshot:
        opened = served.arms[variant.name]
        return Snapshot(
            opened.newest, opened.encoders.process, variant.name, opened.live, variant.knobs, variant.is_shadow
        )

    def _wanted(self) -> _Wanted:
        """Read what the store says.

        Raises:
            NotFound: a name in it stands for nothing.
            CorruptArtifact: a history is damaged.
        """
        return self._wanting(*endpoint_of(self._store, self.name))

    def _wanting(self, endpoint: Endpoint, n_changes: int, moved: Mapping[str, str] | None = None) -> _Wanted:
        """Return what an endpoint wants, with aliases as they are, or as if they were moved."""
        versions: dict[str, str] = {}
        asked: dict[str, tuple[str, int, str]] = {}
        aliases = self._store.aliases()
        for variant in endpoint.variants:
            index = variant.index or self.name
            is_moved = moved is not None and index in moved
            versions[variant.name] = moved[index] if moved and is_moved else self._store.resolve(index)
            n_moves = len(self._store.history(index)) + is_moved if index in aliases else 0
            asked[variant.name] = (index, n_moves, versions[variant.name])
        return _Wanted(endpoint, versions, asked, n_changes)

    async def _open_newest(self, wanted: _Wanted, name: str, arms: Mapping[str, OpenedVersion]) -> OpenedVersion:
        """Open the version of a variant, or the newest of those before it that can be served."""
        assert self._opener is not None
        version_id = wanted.versions[name]
        candidates = [version_id]
        index = wanted.asked[name][0]
        if index in self._store.aliases():
            moves = self._store.history(index)
            candidates += [move.new for move in reversed(moves)]
        candidates = list(dict.fromkeys(candidates))
        running = [arm.encoders for arm in arms.values()]
        for known in arms.values():
            if known.version_id == version_id:
                return known
        refusal: LikewiseError | None = None
        for candidate in candidates:
            try:
                return await self._open_one(
                    candidate, running, is_tried=candidate != candidates[-1] or refusal is not None
                )
            except LikewiseError as error:
                _log.error("endpoint %s: version %s is refused: %s", self.name, candidate, error)
                refusal = refusal or error
                self._refused.setdefault(wanted.asked[name], str(refusal))
                self._observer.refused_version(self.name)
        assert refusal is not None
        raise refusal

    async def _open_one(self, version_id: str, running: Sequence[RunningEncoders], *, is_tried: bool) -> OpenedVersion:
        """Open a version at the start; one with damage in a part of it where that may be left out."""
        assert self._opener is not None
        if is_tried:
            try:
                return await self._opener.open(version_id, running)
            except CorruptArtifact:
                if not self._settings.partial_answers:
                    raise
        return await self._opener.open_untried(version_id, running)

    async def _follow(self) -> None:
        while True:
            await asyncio.sleep(self._settings.follow_s)
            try:
                async with self._switching:
                    await self._catch_up()
            except Exception as error:  # the top of this task: the store may be out of reach for a while
                if not isinstance(error, LikewiseError):
                    _log.exception("endpoint %s cannot follow the store", self.name)
                self._refuse(("", self._served.n_changes, self.name), str(error))

    async def _look_again(self) -> None:
        """Watch over the files of what is served; a lost one that nobody touches is read again now and then."""
        loop = asyncio.get_running_loop()
        pause_s, again_at = self._settings.follow_s, 0.0
        while True:
            await asyncio.sleep(pause_s)
            began = time.monotonic()
            is_due = began >= again_at
            try:
                look = partial(self._look, again=is_due)
                await loop.run_in_executor(self._looking, look)
            except Exception:  # the top of this task
                _log.exception("endpoint %s cannot look at its files", self.name)
            if is_due:
                again_at = time.monotonic() + max(_LOST_S, (time.monotonic() - began) / _LOST_SHARE)

    def _look(self, *, again: bool) -> None:
        for opened in set(self._served.arms.values()):
            if not opened.look_again(partial=self._settings.partial_answers, again=again):
                continue
            told = "; ".join(opened.sealed.lost) or "all files are whole again"
            _log.log(
                logging.ERROR if opened.sealed.lost else logging.WARNING,
                "endpoint %s: version %s answers from %.4g of its datapoints: %s",
                self.name,
                opened.version_id,
                opened.coverage,
                told,
            )
        self._observer.covers(self.name, self.coverage)

    async def _catch_up(self) -> None:
        """Serve what the store says, as far as it is not refused."""
        served = self._served
        stamp = self._store.stamp([variant.index or self.name for variant in served.endpoint.variants], self.name)
        if stamp == self._stamp:
            return
        self._stamp = stamp  # whatever comes of it: the same state is not tried again
        wanted = await self._in_thread(self._wanted)
        self._refused = {asked: why for asked, why in self._refused.items() if asked in wanted.asked.values()}
        arms: dict[str, OpenedVersion] = {}
        try:
            for name, version_id in self._allowed(wanted).items():
                try:
                    arms[name] = await self._opened(version_id, (*served.arms.values(), *arms.values()))
                except LikewiseError as error:
                    if name not in served.arms:
                        raise
                    self._refuse(wanted.asked[name], str(error))
                    arms[name] = served.arms[name]
        except BaseException:
            await self._close(set(arms.values()) - set(served.arms.values()))
            raise
        if (wanted.endpoint, wanted.n_changes, arms) != (served.endpoint, served.n_changes, served.arms):
            self._exchange(wanted, arms)

    def _allowed(self, wanted: _Wanted) -> dict[str, str]:
        """Return the version of each variant: what is wanted, or what is served where that was refused."""
        arms = self._served.arms
        return {
            name: arms[name].version_id if wanted.asked[name] in self._refused and name in arms else version_id
            for name, version_id in wanted.versions.items()
        }

    async def _promote(
        self, target_of: Callable[[str], str], why: str, by: str, variant: str, instead_of: str | None = None
    ) -> AliasMove:
        async with self._switching:
            served = self._served
            chosen = served.endpoint.variant(variant or served.endpoint.control)
            alias = chosen.index or self.name
            if alias not in await self._in_thread(self._store.aliases):
                raise InvalidInput(
                    f"[deploy] variant {chosen.name!r} of endpoint {self.name!r} names {alias!r}, which is no alias; expected "
                    "one to move; name an alias with `likewise endpoints traffic`"
                )
            target = await self._in_thread(lambda: target_of(alias))
            wanted = await self._in_thread(
                lambda: self._wanting(served.endpoint, served.n_changes, moved={alias: target})
            )
            moves: list[AliasMove] = []

            def commit() -> None:
                moves.append(self._store.set_alias(alias, target, why=why, by=by, instead_of=instead_of))

            await self._switch(wanted, commit)
            return moves[0]

    async def _set_traffic(
        self, variants: Sequence[Variant], why: str, by: str, coverage: float | None, control: str | None
    ) -> Endpoint:
        async with self._switching:
            served = self._served
            endpoint = served.endpoint.with_traffic(variants, coverage=coverage, control=control)
            n_before = served.n_changes
            wanted = await self._in_thread(lambda: self._wanting(endpoint, n_before + 1))

            def commit() -> None:
                self._store.set_endpoint(self.name, endpoint.as_json(), n_before=n_before, why=why, by=by)

            await self._switch(wanted, commit)
            return endpoint

    async def _switch(self, wanted: _Wanted, commit: Callable[[], None]) -> None:
        """Open all that is wanted, make it last by `commit`, and serve it; where anything fails nothing has changed."""
        served = self._served
        arms: dict[str, OpenedVersion] = {}
        try:
            for name, version_id in self._allowed(wanted).items():
                arms[name] = await self._opened(version_id, (*served.arms.values(), *arms.values()))
            await self._in_thread(commit)
        except BaseException as error:
            await self._close(set(arms.values()) - set(served.arms.values()))
            if isinstance(error, LikewiseError):
                _log.error("endpoint %s: %s", self.name, error)
                self._observer.refused_version(self.name)
            raise
        self._exchange(wanted, arms)

    async def _opened(self, version_id: str, known: Sequence[OpenedVersion]) -> OpenedVersion:
        """Return a version ready to be served, the one that is known where there is one.

        Raises:
            GateRefused: it is refused.
            NotFound: there is no such version, or the log no longer has the writes that it lacks.
            CorruptArtifact: it is damaged.
            SpaceMismatch: the writes of this endpoint cannot join it.
        """
        for one in known:
            if one.version_id == version_id:
                return one
        assert self._opener is not None
        held = self._served.control.sealed.n_datapoints
        manifest = await self._in_thread(lambda: self._store.manifest(version_id))
        if manifest.n_datapoints == 0 < held:
            raise GateRefused(
                f"[deploy] version {version_id} has no datapoints, and what it would replace has {held:,}; expected some; "
                "build it again"
            )
        served = {one.version_id: one.sealed.manifest for one in known}
        check_room(version_id, manifest, served.values(), budget_bytes=self._settings.version_memory_bytes)
        _log.info("endpoint %s: trying version %s", self.name, version_id)
        opened = await self._opener.open(version_id, [one.encoders for one in known])
        try:
            self._check_writes(opened.sealed, known)  # those that are opened with it too
            await self._in_thread(lambda: self._reach(opened))
        except BaseException:
            await self._close({opened})
            raise
        return opened

    def _reach(self, opened: OpenedVersion) -> None:
        """Wait until a version has all writes that searches see now."""
        serving = self._served.control.live
        if serving is not None and opened.live is not None:
            deadline = time.monotonic() + self._settings.activation_s
            opened.live.wait(serving.snapshot.sequence, deadline=deadline)

    def _exchange(self, wanted: _Wanted, arms: Mapping[str, OpenedVersion]) -> None:
        """Exchange what is served, in one step, and let what nobody needs any more be closed."""
        before = self._state
        shadows = tuple(variant for variant in wanted.endpoint.variants if variant.is_shadow)
        self._state = served = _Served(wanted.endpoint, arms, wanted.n_changes, shadows)
        self._refused = {asked: why for asked, why in self._refused.items() if asked[2] not in served.versions.values()}
        self._stamp = None  # the names may be others now: look at the store once more
        created = datetime.fromisoformat(served.control.sealed.created_at).timestamp()
        self._observer.serves(self.name, served.control.sealed.n_datapoints, created)
        self._observer.switched(self.name, served.versions)
        self._observer.covers(self.name, self.coverage)
        _log.info("endpoint %s serves %s", self.name, served.versions)
        if before is not None:
            self._spawn(self._retire(set(before.arms.values()) - set(arms.values())))

    async def _retire(self, unused: set[OpenedVersion]) -> None:
        """Close versions that no new request meets; requests under way need their encoders, and nothing else, to go on."""
        processes = self._unused_encoders(unused)
        await self._close_live(unused)
        unused.clear()
        if processes:
            await asyncio.sleep(self._settings.request_deadline_s + _STOP_S)
            for process in processes:
                await process.stop()

    async def _close(self, unused: set[OpenedVersion]) -> None:
        await self._close_live(unused)
        for process in self._unused_encoders(unused):
            await process.stop()

    async def _close_live(self, unused: set[OpenedVersion]) -> None:
        for opened in unused:
            if opened.live is not None:
                await self._in_thread(opened.live.close)

    def _unused_encoders(self, unused: set[OpenedVersion]) -> set[EncoderProcess]:
        arms = set() if self._state is None else set(self._state.arms.values()) - unused
        return {one.encoders.process for one in unused} - {arm.encoders.process for arm in arms}

    def _refuse(self, asked: tuple[str, int, str], why: str) -> None:
        if self._refused.get(asked) != why:
            self._refused[asked] = why
            self._observer.refused_version(self.name)
            _log.error("endpoint %s: %s; what was served is served on", self.name, why)

    def _open_log(self, wanted: _Wanted) -> None:
        first = self._store.manifest(wanted.versions[wanted.endpoint.control]).log_sequence + 1
        log = open_log(self._settings, self.name, first_sequence=first, up_to_damage=True)
        if log is not None:
            self._log = self._held.enter_context(log)

    def _check_writes(self, sealed: IndexVersion, others: Iterable[OpenedVersion] = ()) -> None:
        """Check that the writes of this endpoint, those in the log and those to come, can join a version.

        Raises:
            SpaceMismatch: they cannot.
        """
        if self._log is None:
            return
        if self._log.last_sequence > sealed.manifest.log_sequence:
            with contextlib.suppress(FileNotFoundError):
                check_form(json.loads(self._form_file().read_bytes()), sealed)
        served = () if self._state is None else self._state.arms.values()
        for other in (*served, *others):
            check_form(form_of(other.sealed), sealed)

    def _note_form(self) -> None:
        """Keep which form writes have. On a full disk it is as it was: nothing is written in another form there either."""
        told = json.dumps(form_of(self.control.version)).encode()
        if self._form_file().is_file() and self._form_file().read_bytes() == told:
            return
        try:
            publish(self._form_file(), told)
        except OSError as error:
            if not is_full(error):
                raise
            _log.error("endpoint %s: the form of its writes cannot be kept: %s", self.name, error.strerror)

    def _form_file(self) -> Path:
        return (self._settings.log_folder or self._store.path) / f"{self.name}.form.json"

    def _spawn(self, work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        task: asyncio.Task[T] = asyncio.get_running_loop().create_task(work, name=f"deploy-{self.name}")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def _shielded(self, work: Coroutine[Any, Any, T]) -> T:
        """Go on with work whose caller goes away: half a switch helps nobody."""
        task = self._spawn(work)
        try:
            return await asyncio.shield(task)
        except asyncio.CancelledError:
            if task.cancelled():
                raise Unavailable("[deploy] the service is shutting down; ask another replica") from None
            raise

    async def _in_thread(self, work: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._threads, work)
