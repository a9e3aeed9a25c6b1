"""An export: what is made, in which parts, and where it goes; parts that are finished are made once, whoever dies meanwhile."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Mapping
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass
from typing import Any, Protocol

import pyarrow as pa


@dataclass(frozen=True, slots=True)
class Job:
    """What is to be exported; two jobs of one digest make the same table.

    Attributes:
        kind: "neighbors" or "recommendations".
        version_id: of the index version.
        version_sha256: of that version's manifest.
        models: by source.
        asked: the settings, as JSON.
        n_items: items, or users, that are answered for.
        items_digest: of which they are.
        part_items: how many of them make a part.
    """

    kind: str
    version_id: str
    version_sha256: str
    models: Mapping[str, str]
    asked: Mapping[str, Any]
    n_items: int
    items_digest: str
    part_items: int

    def digest(self) -> str:
        """Return the SHA-256 of all of it, in hex."""
        return hashlib.sha256(json.dumps(asdict(self), sort_keys=True).encode()).hexdigest()

    @property
    def n_parts(self) -> int:
        """How many parts there are."""
        return -(-self.n_items // self.part_items)

    def places(self, part: int) -> slice:
        """Return which of the items a part is of."""
        return slice(part * self.part_items, min((part + 1) * self.part_items, self.n_items))


class Part(Protocol):
    """What a part holds."""

    def table(self) -> pa.Table:
        """Return a row for each answer."""
        ...


class Sink(AbstractContextManager[Any], Protocol):
    """Where an export goes. Parts may be written from several threads at once."""

    def pending(self) -> Job | None:
        """Return the job whose parts lie there, if one was begun and not finished."""
        ...

    def begin(self, job: Job) -> set[int]:
        """Take a job up and return the parts of it that are there already.

        Raises:
            AlreadyExists: another process writes there, or something else lies there.
        """
        ...

    def write(self, part: int, content: Part) -> int:
        """Keep a part, durable when it returns; return its rows."""
        ...

    def finish(self) -> int:
        """Make all parts seen at once; return the rows there are."""
        ...


@dataclass(frozen=True, slots=True)
class Exported:
    """What was done.

    Attributes:
        n_items: in the table.
        n_rows: in the table.
        n_kept: items whose parts were there already.
        seconds: spent on the others.
    """

    n_items: int
    n_rows: int
    n_kept: int
    seconds: float

    @property
    def items_per_s(self) -> float:
        """Items answered a second."""
        return (self.n_items - self.n_kept) / max(self.seconds, 1e-9)


def run(
    job: Job,
    sink: Sink,
    make: Callable[[slice], Part],
    *,
    threads: int,
    progress: Callable[[int], None] = lambda done: None,
) -> Exported:
    """Make the parts that are missing, each by one thread from its questions to its rows, and let all be seen.

    No more parts than threads are in memory at once.

    Args:
        sink: entered by the caller.
        make: answers for some of the items.
        threads: that make parts.
        progress: called with the items that are done.

    Raises:
        AlreadyExists: another process writes there, or something else lies there.
        LikewiseError: as `make` and the sink raise; finished parts are kept.
    """
    began = time.monotonic()
    kept = sink.begin(job)
    n_kept = done = sum(_length(job.places(part)) for part in kept)
    progress(done)

    def one(part: int) -> int:
        places = job.places(part)
        sink.write(part, make(places))
        return _length(places)

    missing = iter([part for part in range(job.n_parts) if part not in kept])
    with ThreadPoolExecutor(threads, thread_name_prefix="export") as pool:
        under_way: set[Future[int]] = set()
        for part in missing:
            under_way.add(pool.submit(one, part))
            if len(under_way) < threads:
                continue
            ended, under_way = wait(under_way, return_when=FIRST_COMPLETED)
            done += sum(each.result() for each in ended)
            progress(done)
        for each in under_way:
            done += each.result()
            progress(done)
    return Exported(job.n_items, sink.finish(), n_kept, time.monotonic() - began)


def _length(places: slice) -> int:
    return int(places.stop - places.start)
