"""The use cases of the online service, over one immutable snapshot a request.

HTTP and gRPC translate bytes to the dataclasses of `serving.query` and back; what a request may ask and how it is answered is
here, once.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from typing import Literal, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

import cpp_ext
from embeddings.encoder import Content
from matching.datapoint import Filter, SparseRows
from matching.errors import (
    DeadlineExceeded,
    InvalidContent,
    InvalidInput,
    InvalidQuery,
    LimitExceeded,
    NotFound,
    Unavailable,
)
from matching.live import Appended, Change, Delete, LiveIndex, LiveVersion, Upsert, Write
from matching.live.write import FieldName
from matching.version import MAX_K, IndexVersion, SearchResult
from serving.deployment import Deployment, Snapshot
from serving.endpoint import Knob
from serving.lag import Lag
from serving.query import (
    ANY,
    Answer,
    DatapointWrite,
    Detail,
    Facets,
    Found,
    NeighborQuery,
    NumericFacet,
    Options,
    ReadAnswer,
    Result,
    Route,
    SpaceInfo,
    VersionInfo,
    Window,
    Written,
)
from serving.search import search_alike, sparse_told
from serving.settings import ServingSettings
from serving.shadows import ShadowObserver, Shadows
from serving.tables import Tables
from serving.tracing import carried, span, tell

T = TypeVar("T")
Asked = Literal["text", "image", "id"]
_new = tuple.__new__  # what a named tuple has of its own is a Python function
_UNTOLD = (None, None, None)  # the datapoint of a neighbor and its vectors
_SIGNS = 16  # a scan by signs in the graph index is at least so many times as fast as one of float32
_TELLING, _READING = 1_000, 100_000  # multiply-adds in the time that one neighbor takes, by id and with its datapoint
_MAX_FACET_TOKENS = 200
_WRITERS = 8  # writes that share one sync of the disk
_DEFAULTS = Options()
_RESTRICTS: frozenset[FieldName] = frozenset({"restricts", "numeric_restricts"})


class SearchObserver(ShadowObserver, Protocol):
    """Is told of every search and answer; a service counts them."""

    def searched(self, plan: str, n_queries: int, seconds: float) -> None: ...

    def found(
        self, version: IndexVersion, queries: Sequence[NeighborQuery], space: str, result: SearchResult
    ) -> None: ...

    def wrote(self, live: LiveIndex, sequence: int) -> None: ...

    def answered(self, endpoint: str, variant: str, *, is_degraded: bool) -> None: ...


class Recommender:
    """Neighbours of a text, a picture, an item or a vector. Belongs to one event loop."""

    def __init__(
        self,
        deployments: Sequence[Deployment],
        *,
        settings: ServingSettings,
        observer: SearchObserver | None = None,
        tables: Tables | None = None,
    ) -> None:
        """Answer for endpoints that are open; the first of them where a request names none.

        Args:
            tables: answers that were made before, if there are any.
        """
        self._tables = tables or Tables()
        self._deployments = {deployment.name: deployment for deployment in deployments}
        self._first = deployments[0]
        self._settings = settings
        self._observer = observer
        self._threads = ThreadPoolExecutor(settings.search_threads, thread_name_prefix="search")
        # They wait for the disk and not the CPU, and for each other's writes apart, so that no reader holds up a writer.
        self._writers = ThreadPoolExecutor(_WRITERS, thread_name_prefix="write")
        self._waiters = ThreadPoolExecutor(_WRITERS, thread_name_prefix="wait")
        self._unseen = ThreadPoolExecutor(1, thread_name_prefix="shadow")
        self._shadows = Shadows(settings.shadow_queue, observer)

    @property
    def snapshot(self) -> Snapshot:
        """What a request of nobody in particular that begins now is answered from."""
        return self._first.control

    def deployment(self, endpoint: str = "") -> Deployment:
        """Return what serves an endpoint, the first one for "".

        Raises:
            NotFound: it is not served here.
        """
        if not endpoint:
            return self._first
        found = self._deployments.get(endpoint)
        if found is None:
            raise NotFound(
                f"[route] endpoint {endpoint!r} is not served here; expected {', '.join(self._deployments)}; ask for that"
            )
        return found

    @property
    def deployments(self) -> tuple[Deployment, ...]:
        """What serves each endpoint, the first first."""
        return tuple(self._deployments.values())

    def resolve(self, route: Route) -> Snapshot:
        """Return what answers a route.

        Raises:
            NotFound: its endpoint is not served here, or its override names a variant that is gone.
            Forbidden: its override does not hold.
        """
        return self.deployment(route.endpoint).resolve(route)

    @property
    def lives(self) -> tuple[LiveIndex, ...]:
        """What takes writes."""
        controls = (deployment.control for deployment in self._deployments.values())
        return tuple(control.live for control in controls if control.live is not None)

    @property
    def lags(self) -> tuple[Lag, ...]:
        """How far behind their streams the deployments are that have one."""
        return tuple(lag for lag in (one.lag for one in self._deployments.values()) if lag is not None)

    async def close(self) -> None:
        """Wait for the searches and writes under way and refuse new ones."""
        await self._shadows.stop()
        for threads in (self._threads, self._writers, self._waiters, self._unseen):
            threads.shutdown(wait=True, cancel_futures=True)

    async def search_text(
        self, text: str, options: Options, *, deadline: float, detail: Detail = "metadata", route: Route = ANY
    ) -> Answer:
        """Return the neighbours of a text.

        Args:
            text: what a shopper typed.
            options: how to answer.
            deadline: when to give up, on `time.monotonic`'s clock.
            detail: what to tell of each neighbor.

        Raises:
            InvalidQuery: the text is empty, the options contradict the version, or the space takes no text.
            LimitExceeded: the text or the options are over a limit.
            Unavailable: the encoder process does not answer.
            DeadlineExceeded: the time ran out.
        """
        self._check_text(text, "search")
        return await self._search_content("text", Content(text=text), options, deadline, detail, route)

    async def search_image(
        self, image: bytes, options: Options, *, deadline: float, detail: Detail = "metadata", route: Route = ANY
    ) -> Answer:
        """Return the neighbours of a picture: the bytes of a JPEG, PNG or WebP file.

        Raises:
            InvalidContent: the bytes are not such a picture.
            InvalidQuery: the options contradict the version, or the space takes no picture.
            LimitExceeded: the picture or the options are over a limit.
            Unavailable: the encoder process does not answer.
            DeadlineExceeded: the time ran out.
        """
        self._check_image(image, "search")
        return await self._search_content("image", Content(image=image), options, deadline, detail, route)

    async def similar_items(
        self,
        datapoint_id: str,
        options: Options,
        *,
        deadline: float,
        detail: Detail = "metadata",
        route: Route = ANY,
    ) -> Answer:
        """Return the neighbours of an indexed datapoint, without itself unless the options say so.

        Raises:
            NotFound: no such datapoint.
            InvalidQuery: it has no vector in the space, or the options contradict the version.
            LimitExceeded: the options are over a limit.
            DeadlineExceeded: the time ran out.
        """
        query = NeighborQuery(datapoint_id, options=options)
        return await self.find_neighbors((query,), deadline=deadline, detail=detail, route=route)

    async def find_neighbors(
        self,
        queries: Sequence[NeighborQuery],
        *,
        deadline: float,
        detail: Detail = "id",
        min_version: int = 0,
        route: Route = ANY,
    ) -> Answer:
        """Return the neighbours of each query of a batch, by vector or by id.

        Args:
            queries: at least one.
            deadline: when to give up, on `time.monotonic`'s clock.
            detail: what to tell of each neighbor.
            min_version: version token of a write that the answer must know of.

        Raises:
            NotFound: a query's datapoint is not indexed.
            InvalidQuery: a query has neither vector nor id, or its options contradict the version.
            LimitExceeded: too many queries, or options over a limit.
            DeadlineExceeded: the time ran out.
            Unavailable: writes are no longer applied.
        """
        snapshot = await self._at_least(route, min_version, deadline)
        if not queries:
            raise InvalidQuery("[search] the request has no queries; expected at least one; add one to `queries`")
        if len(queries) > self._settings.max_queries:
            raise LimitExceeded(
                f"[search] {len(queries)} queries in one request; at most {self._settings.max_queries}; split the request"
            )
        answer = await self._find(snapshot, queries, detail, deadline)
        self._mirror(route, lambda shadow, until: self._find(shadow, queries, "id", until))
        return self._answered(route, answer)

    async def read_datapoints(
        self,
        datapoint_ids: Sequence[str],
        *,
        deadline: float,
        space: str | None = None,
        min_version: int = 0,
        route: Route = ANY,
    ) -> ReadAnswer:
        """Return datapoints in the order asked, with their vectors in one space, as of `min_version` or later.

        Raises:
            NotFound: one of them is not indexed.
            InvalidQuery: no ids, or no such space.
            LimitExceeded: too many ids.
            DeadlineExceeded: the time ran out.
        """
        version = (await self._at_least(route, min_version, deadline)).version
        if not datapoint_ids:
            raise InvalidQuery("[read] the request has no ids; expected at least one; add one to `ids`")
        if len(datapoint_ids) > self._settings.max_ids:
            raise LimitExceeded(
                f"[read] {len(datapoint_ids)} ids in one request; at most {self._settings.max_ids}; split the request"
            )
        name = space_for(version, "id", space)

        def read() -> ReadAnswer:
            return ReadAnswer(
                version.version_id,
                name,
                version.datapoints(datapoint_ids),
                version.vectors(datapoint_ids, name),
                sparse_told(version, datapoint_ids, name),
            )

        return await self.in_thread(read, deadline)

    async def upsert(
        self,
        writes: Sequence[DatapointWrite],
        *,
        deadline: float,
        restricts_only: bool = False,
        request_id: str | None = None,
        route: Route = ANY,
    ) -> Written:
        """Put datapoints in, all or none, and return when they are on disk.

        Args:
            writes: at least one; of several of one datapoint the last one holds.
            deadline: when to give up, on `time.monotonic`'s clock; the write may be done all the same.
            restricts_only: give datapoints that are there new restricts and numbers, and leave all else as it is.
            request_id: repeating a request with it changes nothing.

        Raises:
            InvalidInput: the service takes no writes, or one is not what the version holds.
            NotFound: with restricts_only, a datapoint is not there.
            LimitExceeded: too many datapoints.
            Unavailable: the disk takes no more.
            DeadlineExceeded: the time ran out.
        """
        self._check_writes(len(writes))
        encoded = await self._encoded_writes([] if restricts_only else writes, deadline, route)

        def prepare(live: LiveIndex) -> list[Write]:
            if restricts_only:
                return [Change(write.datapoint, _RESTRICTS) for write in writes]
            spaces = live.snapshot.spaces
            only = next(iter(spaces)) if len(spaces) == 1 else ""
            upserts: list[Write] = []
            for at, write in enumerate(writes):
                if at in encoded:
                    upserts.append(Upsert(write.datapoint, *encoded[at]))
                    continue
                vectors = {name or only: vector[None] for name, vector in write.vectors.items()}
                sparse = {} if write.sparse is None else {only: write.sparse}
                upserts.append(Upsert(write.datapoint, vectors, sparse))
            return upserts

        return await self._write(prepare, request_id, deadline, route)

    async def remove(
        self, datapoint_ids: Sequence[str], *, deadline: float, request_id: str | None = None, route: Route = ANY
    ) -> Written:
        """Delete datapoints, all or none, and return when that is on disk; they need not be there.

        Raises:
            InvalidInput: the service takes no writes, or an id is empty.
            LimitExceeded: too many ids.
            Unavailable: the disk takes no more.
            DeadlineExceeded: the time ran out; the write may be done all the same.
        """
        self._check_writes(len(datapoint_ids))
        deletes = [Delete(one) for one in datapoint_ids]
        return await self._write(lambda _: deletes, request_id, deadline, route)

    async def browse(self, wanted: Filter, n: int, *, offset: int = 0, deadline: float, route: Route = ANY) -> Window:
        """Return datapoints that pass a filter, spread over the whole catalogue: what a shop window shows before a query.

        Args:
            wanted: the filter.
            n: how many.
            offset: how many of the same order to leave out.
            deadline: when to give up, on `time.monotonic`'s clock.

        Raises:
            InvalidQuery: `n` or `offset` is out of range, or the filter contradicts the version.
            LimitExceeded: `n` or the filter is over a limit.
            DeadlineExceeded: the time ran out.
        """
        version = self.resolve(route).version
        check_k(n, self._settings.max_k)
        check_filter(wanted, self._settings.max_restricts, self._settings.max_tokens)
        if offset < 0:
            raise InvalidQuery(f"[browse] offset is {offset}; expected 0 or more")

        def read() -> Window:
            rows = cpp_ext.rows_of(version.columns.matching(wanted), len(version.columns))
            places = _spread(len(rows), offset, n)
            datapoints = tuple(version.columns.datapoint(int(rows[place])) for place in places)
            return Window(version.version_id, len(rows), datapoints)

        return await self.in_thread(read, deadline)

    async def items(self, datapoint_ids: Sequence[str], *, deadline: float, route: Route = ANY) -> Window:
        """Return what is known of datapoints besides their vectors, in the order asked, without those that are not there.

        Raises:
            LimitExceeded: too many ids.
            DeadlineExceeded: the time ran out.
        """
        version = self.resolve(route).version
        if len(datapoint_ids) > self._settings.max_ids:
            raise LimitExceeded(
                f"[items] {len(datapoint_ids)} ids in one request; at most {self._settings.max_ids}; split the request"
            )

        def read() -> Window:
            rows = [row for row in map(version.columns.find, datapoint_ids) if row >= 0]
            return Window(version.version_id, len(rows), tuple(version.columns.datapoint(row) for row in rows))

        return await self.in_thread(read, deadline)

    async def facets(
        self, namespaces: Sequence[str], numbers: Sequence[str], *, deadline: float, route: Route = ANY
    ) -> Facets:
        """Return the counts of tokens and the ranges of numbers; a namespace that no datapoint has is left out.

        Raises:
            LimitExceeded: too many namespaces.
            DeadlineExceeded: the time ran out.
        """
        version = self.resolve(route).version
        if len(namespaces) + len(numbers) > self._settings.max_restricts:
            raise LimitExceeded(
                f"[facets] {len(namespaces) + len(numbers)} namespaces; at most {self._settings.max_restricts}; ask for fewer"
            )

        def read() -> Facets:
            tokens: dict[str, dict[str, int]] = {}
            ranges: dict[str, NumericFacet] = {}
            types = version.numeric_types()
            for namespace in namespaces:
                try:
                    counts = version.facets(namespace)
                except NotFound:
                    continue
                tokens[namespace] = dict(list(counts.items())[:_MAX_FACET_TOKENS])
            for namespace in numbers:
                ends = version.numeric_range(namespace) if namespace in types else None
                if ends is not None:
                    ranges[namespace] = NumericFacet(*ends, types[namespace])
            return Facets(version.version_id, tokens, ranges)

        return await self.in_thread(read, deadline)

    def version(self, route: Route = ANY) -> VersionInfo:
        """Return what is being served."""
        version = self.resolve(route).version
        spaces = tuple(
            SpaceInfo(s.name, s.space_id, s.modality, s.metric, s.dim, s.plan_name, s.n_vectors, s.recall)
            for s in version.spaces.values()
        )
        token = version.sequence if isinstance(version, LiveVersion) else 0
        return VersionInfo(version.version_id, version.created_at, version.n_datapoints, token, spaces)

    async def _encoded_writes(
        self, writes: Sequence[DatapointWrite], deadline: float, route: Route
    ) -> dict[int, tuple[Mapping[str, NDArray[np.float32]], Mapping[str, SparseRows]]]:
        """Return, by its place, the dense and sparse sides of each write that brings content, as a build would make them.

        Raises:
            InvalidInput: one brings vectors too, or a space has no encoder.
            InvalidContent: a picture cannot be read.
            LimitExceeded: a text or a picture is over a limit.
            Unavailable: the encoder process does not answer.
            DeadlineExceeded: the time ran out.
        """
        bringing = [(at, write, write.content) for at, write in enumerate(writes) if write.content is not None]
        control = self.deployment(route.endpoint).control
        if not bringing or control.live is None:
            return {}
        jobs: list[tuple[int, str, Content]] = []
        dense: dict[int, dict[str, NDArray[np.float32]]] = {at: {} for at, _, _ in bringing}
        sparse: dict[int, dict[str, SparseRows]] = {at: {} for at, _, _ in bringing}
        for at, write, content in bringing:
            self._check_content(write, content)
            for name, space in control.version.spaces.items():
                if space.encoder is None:
                    raise InvalidInput(
                        f"[write] datapoint {write.datapoint.datapoint_id!r} brings content, and space {name!r} was built from "
                        "ready vectors and has no encoder; expected its vector"
                    )
                parts = _parts(content, control.encoders.accepts(name), space.modality)
                jobs += [(at, name, part) for part in parts]
        n_together = self._settings.encoder_batch  # so that searches find room in the encoders' queue
        for first in range(0, len(jobs), n_together):
            some = jobs[first : first + n_together]
            with span("encode", n=len(some)):
                made = await asyncio.gather(
                    *(
                        control.encoders.encode(name, part, deadline=deadline, is_document=True)
                        for _, name, part in some
                    )
                )
            for (at, name, _), own in zip(some, made, strict=True):
                before = dense[at].get(name, np.empty((0, len(own.vector)), np.float32))
                dense[at][name] = np.concatenate([before, own.vector[None]])
                if own.sparse is not None:
                    sparse[at][name] = own.sparse
        return {at: (dense[at], sparse[at]) for at in dense}

    def _check_content(self, write: DatapointWrite, content: Content) -> None:
        datapoint_id = write.datapoint.datapoint_id
        if write.vectors or write.sparse is not None:
            raise InvalidInput(f"[write] datapoint {datapoint_id!r} brings content and vectors; expected one of them")
        if content == Content():
            raise InvalidInput(
                f"[write] the content of datapoint {datapoint_id!r} is empty; expected a text or a picture"
            )
        if content.text is not None:
            self._check_text(content.text, "write")
        if content.image is not None:
            self._check_image(content.image, "write")

    def _check_text(self, text: str, operation: str) -> None:
        if not text.strip():
            raise InvalidQuery(
                f"[{operation}] the text is empty; expected a few words; send some, or an id or a picture"
            )
        if len(text) > self._settings.max_text_chars:
            raise LimitExceeded(
                f"[{operation}] the text has {len(text):,} characters; at most {self._settings.max_text_chars:,}; shorten it"
            )

    def _check_image(self, image: bytes, operation: str) -> None:
        if not image:
            raise InvalidContent(
                f"[{operation}] the picture is empty; expected the bytes of a JPEG, PNG or WebP file; send one"
            )
        if len(image) > self._settings.max_image_bytes:
            raise LimitExceeded(
                f"[{operation}] the picture has {len(image):,} bytes; at most {self._settings.max_image_bytes:,}; send a smaller "
                "one"
            )
        if not _is_picture(image):
            raise InvalidContent(
                f"[{operation}] {len(image):,} bytes begin with {image[:8].hex(' ')}; expected a JPEG, PNG or WebP file; convert "
                "it"
            )

    def _check_writes(self, n_writes: int) -> None:
        if n_writes == 0:
            raise InvalidInput("[write] the request has no datapoints; expected at least one; add one")
        if n_writes > self._settings.max_writes:
            raise LimitExceeded(
                f"[write] {n_writes:,} datapoints in one request; at most {self._settings.max_writes:,}; split the request"
            )

    async def _write(
        self, prepare: Callable[[LiveIndex], Sequence[Write]], request_id: str | None, deadline: float, route: Route
    ) -> Written:
        """Write through what control answers from; all variants of the endpoint follow the one log."""
        deployment = self.deployment(route.endpoint)
        while True:
            live = deployment.control.live
            if live is None:
                raise InvalidInput(
                    "[write] this service takes no writes; start it with a write log: `likewise serve --log`"
                )
            try:
                written = await self.in_thread(partial(_written, live, prepare, request_id), deadline, self._writers)
            except Unavailable:  # a version that is replaced at this moment is followed no more; nothing was written
                if deployment.control.live is live:
                    raise
                continue
            if self._observer is not None:
                self._observer.wrote(live, written.last_sequence)
            return Written(live.snapshot.version_id, written.last_sequence, written.is_repeat)

    async def _at_least(self, route: Route, min_version: int, deadline: float) -> Snapshot:
        """Return a snapshot that knows of a write."""
        while True:
            snapshot = self.resolve(route)
            live = snapshot.live
            if min_version <= 0:
                return snapshot
            if live is None:
                raise InvalidQuery(
                    f"[search] min_version is {min_version} and this service takes no writes; leave it out"
                )
            if (newest := live.snapshot).sequence >= min_version:
                return replace(snapshot, version=newest)
            wait = partial(live.wait, min_version, deadline=deadline)
            try:
                return replace(snapshot, version=await self.in_thread(wait, deadline, self._waiters))
            except Unavailable:  # likewise: what has replaced it knows of the write, or will
                if self.resolve(route).live is live:
                    raise

    async def _search_content(
        self, asked: Asked, content: Content, options: Options, deadline: float, detail: Detail, route: Route
    ) -> Answer:
        snapshot = self.resolve(route)
        name, query = await self._encoded(snapshot, asked, content, options, deadline)
        answer = await self._answer(snapshot, (query,), (name,), detail, deadline)

        async def again(shadow: Snapshot, until: float) -> Answer:
            if shadow.encoders is snapshot.encoders and name in shadow.version.spaces:
                return await self._answer(shadow, (query,), (name,), "id", until)
            its, encoded = await self._encoded(shadow, asked, content, options, until)
            return await self._answer(shadow, (encoded,), (its,), "id", until)

        self._mirror(route, again)
        return self._answered(route, answer)

    async def _encoded(
        self, snapshot: Snapshot, asked: Asked, content: Content, options: Options, deadline: float
    ) -> tuple[str, NeighborQuery]:
        """Return the space that suits a content, and the query that its encoder makes of it."""
        name = space_for(snapshot.version, asked, options.space)
        if snapshot.version.spaces[name].encoder is None:
            raise InvalidQuery(
                f"[search] space {name!r} was built from ready vectors and has no encoder; expected a query by vector or id"
            )
        self._check_options(options)  # before anything is encoded
        with span("encode", space=name, asked=asked):
            encoded = await snapshot.encoders.encode(name, content, deadline=deadline)
        return name, NeighborQuery(vector=encoded.vector, sparse=encoded.sparse, options=options)

    async def _find(
        self, snapshot: Snapshot, queries: Sequence[NeighborQuery], detail: Detail, deadline: float
    ) -> Answer:
        spaces = [self._checked_space(snapshot.version, query) for query in queries]
        most = self._settings.max_neighbors if detail == "id" else self._settings.max_full_neighbors
        check_total(sum([query.options.k for query in queries]), most)
        return await self._answer(snapshot, queries, spaces, detail, deadline)

    async def _answer(
        self,
        snapshot: Snapshot,
        queries: Sequence[NeighborQuery],
        spaces: Sequence[str],
        detail: Detail,
        deadline: float,
    ) -> Answer:
        if snapshot.knobs:
            queries = [replace(query, options=_turned(query.options, snapshot.knobs)) for query in queries]

        def search() -> Answer:
            return self._search(snapshot, queries, spaces, detail)

        if snapshot.is_shadow:
            return await self.in_thread(search, deadline, self._unseen)
        telling = _TELLING if detail == "id" else _READING
        cost = 0
        for query, space in zip(queries, spaces, strict=True):
            cost += _multiply_adds(snapshot.version, query, space) + telling * query.options.k
        reads_sparse = detail == "vectors" and any(snapshot.version.spaces[name].has_sparse for name in spaces)
        if reads_sparse or cost > self._settings.inline_multiply_adds:
            return await self.in_thread(search, deadline)
        _check_time(deadline)
        return search()

    def _answered(self, route: Route, answer: Answer) -> Answer:
        if self._observer is not None:
            name = self.deployment(route.endpoint).name
            self._observer.answered(name, answer.variant, is_degraded=answer.is_degraded)
        return answer

    def _mirror(self, route: Route, ask: Callable[[Snapshot, float], Awaitable[Answer]]) -> None:
        """Let the shadows of an endpoint see a copy of a request that was answered."""
        for shadow in self.deployment(route.endpoint).shadows(route.request_id):
            until = time.monotonic() + self._settings.request_deadline_s
            self._shadows.mirror(shadow.variant, partial(ask, shadow, until))

    async def in_thread(self, work: Callable[[], T], deadline: float, threads: ThreadPoolExecutor | None = None) -> T:
        """Return what work does in a thread, one for searches where none are given.

        Raises:
            DeadlineExceeded: it was not done in time.
            Unavailable: the service is shutting down.
        """

        def begin() -> T:
            _check_time(deadline)  # it may have waited for a thread
            return work()

        _check_time(deadline)
        try:
            future = asyncio.get_running_loop().run_in_executor(threads or self._threads, carried(begin))
        except RuntimeError:
            raise Unavailable("[search] the service is shutting down; ask another replica") from None
        is_late = False

        def give_up() -> None:  # asyncio.wait_for would want a task, which a request that has not waited yet is not
            nonlocal is_late
            is_late = future.cancel()

        timer = asyncio.get_running_loop().call_later(deadline - time.monotonic(), give_up)
        try:
            return await future
        except asyncio.CancelledError:
            if not is_late:
                raise
            raise DeadlineExceeded(
                "[search] no answer within the time given; allow more time or ask for less"
            ) from None
        finally:
            timer.cancel()

    def _search(
        self, snapshot: Snapshot, queries: Sequence[NeighborQuery], spaces: Sequence[str], detail: Detail
    ) -> Answer:
        """Search what can be searched together in one call each, and put the results in the order asked."""
        version = snapshot.version
        results: dict[int, Result] = {}
        for space, positions in _together(queries, spaces):
            asked = [queries[at] for at in positions]
            began = time.perf_counter()
            with span("search", space=space, q=len(asked), k=asked[0].options.k):
                found = self._found(version, asked, space)
                tell(plan=found.plan, effort=found.effort, n_matching=found.n_matching)
            if found.coverage < 1.0 and not self._settings.partial_answers:  # a file was written over at this moment
                raise Unavailable(
                    f"[search] {version.lost[0]}; ask again when the file is whole, or ask another replica"
                )
            if self._observer is not None and not snapshot.is_shadow:
                self._observer.searched(found.plan, len(asked), time.perf_counter() - began)
                self._observer.found(version, asked, space, found)
            for at, neighbors in zip(positions, found.neighbors, strict=True):
                told = tuple([_new(Found, neighbor + _UNTOLD) for neighbor in neighbors])
                told = _detailed(version, told, space, detail)
                query_id = queries[at].datapoint_id
                results[at] = Result(query_id, told, space, found.plan, found.effort, found.n_matching, found.coverage)
        return Answer(version.version_id, tuple(results[at] for at in range(len(queries))), snapshot.variant)

    def _found(self, version: IndexVersion, asked: Sequence[NeighborQuery], space: str) -> SearchResult:
        known = []
        for query in asked:
            told = self._tables.find(version, query, space)
            if told is None:  # a batch is answered by one of the two
                return search_alike(version, asked, space)
            known.append(told)
        return SearchResult.joined(known)

    def _checked_space(self, version: IndexVersion, query: NeighborQuery) -> str:
        """Check a query of a batch and return the space to search."""
        self._check_options(query.options)
        if query.vector is None and query.sparse is None and not query.datapoint_id:
            raise InvalidQuery(
                "[search] a query has no feature_vector, sparse_embedding or datapoint_id; expected one; add it"
            )
        return space_for(version, "id", query.options.space)

    def _check_options(self, options: Options) -> None:
        check_k(options.k, self._settings.max_k)
        check_filter(options.filter, self._settings.max_restricts, self._settings.max_tokens)
        if options.crowding_cap < 0:
            raise InvalidQuery(f"[search] the crowding cap is {options.crowding_cap}; expected 0 for none, or more")
        if options.effort is not None and options.effort < 1:
            raise InvalidQuery(f"[search] approximate_neighbor_count is {options.effort}; expected 1 or more, or none")
        if options.effort is not None and options.effort > MAX_K:
            raise LimitExceeded(
                f"[search] approximate_neighbor_count is {options.effort:,}; at most {MAX_K:,}; ask for fewer"
            )
        _ = options.fusion  # checks it
        if options.recall_target is not None and not 0.0 < options.recall_target <= 1.0:
            raise InvalidQuery(f"[search] recall_target is {options.recall_target}; expected more than 0 and at most 1")


def _together(queries: Sequence[NeighborQuery], spaces: Sequence[str]) -> list[tuple[str, list[int]]]:
    """Return the positions of queries that one search can answer, with their space."""
    if len(queries) == 1:
        return [(spaces[0], [0])]
    alike: dict[tuple[Options, str, bool, bool], list[int]] = {}
    for at, (query, space) in enumerate(zip(queries, spaces, strict=True)):
        alike.setdefault((query.options, space, query.vector is None, query.sparse is None), []).append(at)
    return [(space, positions) for (_, space, _, _), positions in alike.items()]


def check_k(k: int, limit: int, name: str = "[search] neighbor_count") -> None:
    """Check how many neighbors are asked for, in the field of that name.

    Raises:
        InvalidQuery: none, or fewer.
        LimitExceeded: more than the limit.
    """
    if k < 1:
        raise InvalidQuery(f"{name} is {k}; expected 1 or more; ask for some")
    if k > limit:
        raise LimitExceeded(f"{name} is {k:,}; at most {limit:,}; ask for fewer")


def check_total(n: int, limit: int) -> None:
    """Check how many neighbors all queries of a request ask for.

    Raises:
        LimitExceeded: more than the limit.
    """
    if n > limit:
        raise LimitExceeded(f"[search] all queries ask for {n:,} neighbors; at most {limit:,}; split the request")


def check_filter(wanted: Filter, max_restricts: int, max_tokens: int) -> None:
    """Check the size of a filter.

    Raises:
        LimitExceeded: too many namespaces, or too many tokens.
    """
    n_restricts = len(wanted.restricts) + len(wanted.numeric_restricts)
    if n_restricts > max_restricts:
        raise LimitExceeded(f"[search] the filter has {n_restricts:,} restricts; at most {max_restricts:,}; send fewer")
    n_tokens = sum([len(restrict.allow) + len(restrict.deny) for restrict in wanted.restricts])
    if n_tokens > max_tokens:
        raise LimitExceeded(f"[search] the filter has {n_tokens:,} tokens; at most {max_tokens:,}; send fewer")


def _written(live: LiveIndex, prepare: Callable[[LiveIndex], Sequence[Write]], request_id: str | None) -> Appended:
    with span("append"):
        written = live.write(prepare(live), request_id=request_id)
        tell(last_sequence=written.last_sequence, is_repeat=written.is_repeat)
    return written


def _turned(options: Options, knobs: Mapping[str, Knob]) -> Options:
    """Return options with a variant's knobs where the caller left the default."""
    searching = {name: value for name, value in knobs.items() if name != "rules"}  # those are of slates
    untouched = {name: value for name, value in searching.items() if getattr(options, name) == getattr(_DEFAULTS, name)}
    return replace(options, **untouched)  # type: ignore[arg-type]


def _detailed(version: IndexVersion, neighbors: tuple[Found, ...], space: str, detail: Detail) -> tuple[Found, ...]:
    if detail == "id" or not neighbors:
        return neighbors
    ids = [neighbor.datapoint_id for neighbor in neighbors]
    datapoints = version.datapoints(ids)
    if detail == "metadata":
        return tuple(n._replace(datapoint=datapoint) for n, datapoint in zip(neighbors, datapoints, strict=True))
    vectors, sparse = version.vectors(ids, space), sparse_told(version, ids, space)
    return tuple(
        n._replace(datapoint=datapoint, vectors=own, sparse=row)
        for n, datapoint, own, row in zip(neighbors, datapoints, vectors, sparse, strict=True)
    )


def _parts(content: Content, accepted: frozenset[str], modality: str | None) -> list[Content]:
    """Return what the encoder of a space makes a vector of each: in a joint space the text and the picture, else both as one."""
    text = content.text if "text" in accepted else None
    image = content.image if "image" in accepted else None
    parts = [Content(text=text), Content(image=image)] if modality == "joint" else [Content(text, image)]
    return [part for part in parts if part != Content()]


def space_for(version: IndexVersion, asked: Asked, named: str | None) -> str:
    """Return the named space, or the one that suits: text, image, or for an item what knows most of it."""
    spaces: Mapping[str, object] = version.spaces
    if named:
        if named not in spaces:
            raise InvalidQuery(
                f"[search] version {version.version_id} has no space {named!r}; it has {', '.join(spaces)}"
            )
        return named
    suiting = {"text": ("text", "fused"), "image": ("image", "fused"), "id": ("fused", "text")}[asked]
    for name in suiting:
        if name in spaces:
            return name
    if len(spaces) == 1:
        return next(iter(spaces))
    raise InvalidQuery(f"[search] none of the spaces {', '.join(spaces)} is the obvious one; name one in `space`")


def _multiply_adds(version: IndexVersion, query: NeighborQuery, name: str) -> int:
    """Return what a search may cost at worst: an index search is taken as free, a scan as all of its vectors."""
    space = version.spaces[name]
    plan = space.plan_name
    if query.options.exact or plan == "flat" or query.sparse is not None:
        return space.n_vectors * space.dim
    if query.options.filter:
        return space.n_vectors * space.dim // (_SIGNS if plan == "graph" else 1)
    return 0


def _spread(n: int, offset: int, count: int) -> list[int]:
    """Return entries offset .. offset + count of a fixed order of 0 .. n - 1 in which any run lies spread over all of it."""
    step = max(1, round(n * 0.6180339887))  # multiples of the golden ratio fill a circle evenly
    while math.gcd(step, n) > 1:
        step += 1
    return [(n // 2 + at * step) % n for at in range(offset, min(n, offset + count))]


def _check_time(deadline: float) -> None:
    if time.monotonic() >= deadline:
        raise DeadlineExceeded("[search] the time ran out before the search began; allow more time")


def _is_picture(image: bytes) -> bool:
    return image.startswith((b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n")) or (
        image[:4] == b"RIFF" and image[8:12] == b"WEBP"
    )
