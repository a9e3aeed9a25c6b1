"""A version is tried in a process of its own before a service lets it in: what kills that process is refused, and harms nobody.

The trial opens the version and checks every block, looks at every vector, and asks for neighbors whose answers are known:
sampled vectors must find themselves by exact search, and the approximate search must find what the exact one does.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import resource
import signal
import threading
import time
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from matching.errors import CorruptArtifact, GateRefused, LikewiseError, Unavailable
from matching.space import Space
from matching.version import IndexVersion
from serving.memory import available

N_CANARIES: Final = 100
_K: Final = 10
_FLOOR: Final = 0.9
_BELOW_TARGET: Final = 0.05  # what 100 queries may lack of a recall target by chance
_EFFORT: Final = 200
_ASTRAY: Final = 0.3
_ROWS: Final = 65_536
_GLANCE_S: Final = 0.2
_PROCESS_BYTES: Final = 1 << 30  # of the process itself: the interpreter, its threads and buffers


def try_version(directory: Path, *, limit_s: float, given_up: threading.Event | None = None) -> None:
    """Open and question the version in `directory` in another process; return when it may be served.

    Args:
        directory: where it lies.
        limit_s: how long that may take.
        given_up: set when nobody waits for the outcome any more.

    Raises:
        GateRefused: it answers wrongly, or the process that tried it died, ran out of memory or took too long.
        CorruptArtifact: a file of it is not what was sealed.
        Unavailable: it was given up.
    """
    context, room = multiprocessing.get_context("spawn"), available()
    ours, theirs = context.Pipe(duplex=False)
    process = context.Process(
        target=_run,
        args=(theirs, directory, None if room is None else room.n_bytes),
        name="likewise-trial",
        daemon=True,
    )
    process.start()
    theirs.close()
    told: tuple[str, str] | None = None
    until = time.monotonic() + limit_s
    try:
        while told is None and time.monotonic() < until:
            if given_up is not None and given_up.is_set():
                raise Unavailable("[trial] the service is shutting down; ask another replica")
            if ours.poll(_GLANCE_S):
                told = ours.recv()
    except EOFError:  # it died
        process.join()
        raise GateRefused(
            f"[trial] version {directory.name}: the process that tried it ended with {_ending(process.exitcode)}; expected an "
            "answer; build the version again, with the program that serves it"
        ) from None
    finally:
        if process.is_alive():
            process.kill()
        process.join()
        process.close()
        ours.close()
    if told is None:
        raise GateRefused(
            f"[trial] version {directory.name} was not tried within {limit_s:g} s; expected an answer; allow more time with "
            "serving.activation_s, or build it smaller"
        )
    kind, message = told
    if kind == "damaged":
        raise CorruptArtifact(message)
    if kind:
        raise GateRefused(message)


def check_answers(version: IndexVersion) -> None:
    """Check that a version holds sound vectors and answers canary queries of each of its spaces.

    Raises:
        GateRefused: it does not.
    """
    for space in version.spaces.values():
        _check_vectors(version, space)
        queries = _canaries(version, space)
        if len(queries):
            _check_canaries(version, space, queries)


def _check_vectors(version: IndexVersion, space: Space) -> None:
    for shard in space.shards:
        for start in range(0, len(shard.vectors), _ROWS):
            rows = shard.vectors[start : start + _ROWS]
            sums = np.einsum("nd,nd->n", rows, rows)  # not finite where a value is not
            wrong = ~np.isfinite(sums)
            if space.metric == "cosine":
                wrong |= np.abs(sums - 1) > 1e-2
            if wrong.any():
                at = start + int(np.flatnonzero(wrong)[0])
                expected = "1" if space.metric == "cosine" else "a finite one"
                raise GateRefused(
                    f"[trial] version {version.version_id}: vector {at} of space {space.name!r} has the squared norm "
                    f"{sums[at - start]:g}; expected {expected}; build it again from sound vectors"
                )


def _canaries(version: IndexVersion, space: Space) -> NDArray[np.float32]:
    """Return vectors of datapoints spread over the version, float32[at most N_CANARIES, dim]."""
    rows = np.unique(np.linspace(0, version.n_datapoints - 1, min(version.n_datapoints, N_CANARIES)).astype(int))
    owned = [space.vectors_of(int(row))[:1] for row in rows]
    return np.concatenate([np.empty((0, space.dim), np.float32), *owned])


def _check_canaries(version: IndexVersion, space: Space, queries: NDArray[np.float32]) -> None:
    exact = version.search(queries, _K, space=space.name, exact=True)
    fast = version.search(queries, _K, space=space.name)
    floor = min(_FLOOR, space.entry.recall_target - _BELOW_TARGET)
    if fast.plan == "exact" and any(shard.index is not None for shard in space.shards):
        # the index is for those who name an effort; how far one goes is not measured, only that it is the right index
        fast, floor = version.search(queries, _K, space=space.name, effort=_EFFORT), min(floor, _ASTRAY)
    slack = 1e-3 * (1 + np.abs(np.einsum("qd,qd->q", queries, queries)))
    own = -np.einsum("qd,qd->q", queries, queries) if space.metric == "ip" else np.zeros(len(queries))
    n_lost, recalls = 0, []
    for true, found, at_self, near in zip(exact.neighbors, fast.neighbors, own, slack, strict=True):
        n_lost += not true or (space.entry.best_of == 1 and true[0].distance > at_self + near)
        limit = true[-1].distance + near if true else -np.inf
        recalls.append(sum(neighbor.distance <= limit for neighbor in found) / max(len(true), 1))
    recall = float(np.mean(recalls))
    if n_lost or recall < floor:
        raise GateRefused(
            f"[trial] version {version.version_id}, space {space.name!r}: of {len(queries)} canary queries {n_lost} did not find "
            f"themselves, and recall@{_K} is {recall:.3f}; expected none and at least {floor:.3f}; build it again"
        )


def _ending(exit_code: int | None) -> str:
    if exit_code is not None and exit_code < 0:
        with contextlib.suppress(ValueError):
            return f"signal {signal.Signals(-exit_code).name}"
    return f"status {exit_code}"


# What follows runs in the process of the trial.


def _run(channel: Connection, directory: Path, available_bytes: int | None) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with contextlib.suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text("1000")  # where memory ends, this process ends, and not the service
    if available_bytes is not None:
        with contextlib.suppress(OSError, ValueError):
            limit = available_bytes + _PROCESS_BYTES
            resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
    os.nice(5)  # searches first
    try:
        check_answers(IndexVersion.open(directory, verify=True))
        told = ("", "")
    except CorruptArtifact as error:
        told = ("damaged", str(error))
    except LikewiseError as error:
        told = ("refused", str(error))
    except MemoryError:
        told = (
            "refused",
            f"[trial] version {directory.name} does not fit into memory; expected room; build it smaller",
        )
    except Exception as error:  # the top of this process
        told = ("refused", f"[trial] version {directory.name}: {type(error).__name__}: {error}; build it again")
    channel.send(told)
    channel.close()
