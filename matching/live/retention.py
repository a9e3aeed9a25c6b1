"""How much of a write log versions have in them, so that it may go."""

from __future__ import annotations

from collections.abc import Iterable

from matching.errors import InvalidInput
from matching.live.log import Log
from matching.store import Store

LEAST_KEPT = 2  # what serves, and what a rollback leads to


def kept_versions(store: Store, alias: str, n_kept: int = LEAST_KEPT) -> tuple[str, ...]:
    """Return the versions that an alias must be able to name: what it names now first, then where rollbacks lead.

    Versions that are no longer in the store do not count.

    Args:
        n_kept: how many; fewer are returned where the alias named fewer.

    Raises:
        InvalidInput: fewer than two are to be kept.
        NotFound: there is no such alias.
        CorruptArtifact: its history is damaged.
    """
    if n_kept < LEAST_KEPT:
        raise InvalidInput(
            f"[truncate] {n_kept} versions were to be kept; expected {LEAST_KEPT} or more: what serves, and what a rollback "
            "leads to"
        )
    there = set(store.versions())
    return tuple([version for version in store.way_back(alias) if version in there][:n_kept])


def covered_sequence(store: Store, aliases: Iterable[str], n_kept: int = LEAST_KEPT) -> int:
    """Return the last write that all versions have in them which the aliases must be able to name.

    It is 0, so that nothing may go, where an alias has named fewer than `n_kept` versions.

    Raises:
        InvalidInput: no aliases, or fewer than two versions are to be kept.
        NotFound: there is no such alias.
        CorruptArtifact: a history or a manifest is damaged.
    """
    covered: list[int] = []
    for alias in aliases:
        kept = kept_versions(store, alias, n_kept)
        if len(kept) < n_kept:
            return 0
        covered += [store.manifest(version).log_sequence for version in kept]
    if not covered:
        raise InvalidInput("[truncate] no alias was named; expected those whose versions take the log's writes")
    return min(covered)


def truncate_log(store: Store, aliases: Iterable[str], log: Log, n_kept: int = LEAST_KEPT) -> int:
    """Drop the files of a log whose records all versions have in them that the aliases must be able to name.

    Returns:
        The oldest sequence that is retained.

    Raises:
        InvalidInput: no aliases, or fewer than two versions are to be kept.
        NotFound: there is no such alias.
        CorruptArtifact: a history or a manifest is damaged.
        Unavailable: the log is closed, read-only or has failed; all records are there still.
    """
    covered = min(covered_sequence(store, aliases, n_kept), log.last_sequence)
    return log.truncate(covered) if covered >= log.first_sequence else log.first_sequence
