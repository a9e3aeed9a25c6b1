"""Compare two index versions: what came, went and changed, and whether neighbors stayed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from matching.errors import NotFound
from matching.version import IndexVersion

_K = 10
_N_EXAMPLES = 3


@dataclass(frozen=True, slots=True)
class SpaceDifference:
    """One space in two versions; `neighbors_kept` is the mean share of the ten neighbors that both name."""

    name: str
    is_comparable: bool
    plans: tuple[str, str]
    recalls: tuple[float, float]
    neighbors_kept: float | None
    n_sampled: int


@dataclass(frozen=True, slots=True)
class VersionDifference:
    """Two versions side by side; the lists hold examples."""

    old: str
    new: str
    n_gained: int
    n_lost: int
    n_changed: int
    n_same: int
    gained: tuple[str, ...]
    lost: tuple[str, ...]
    changed: tuple[str, ...]
    settings: Mapping[str, tuple[object, object]]
    spaces: tuple[SpaceDifference, ...]


def compare_versions(old: IndexVersion, new: IndexVersion, *, n_sampled: int = 200) -> VersionDifference:
    """Compare two open versions. Neighbors are those of datapoints that both hold, with the default plan of each.

    Args:
        n_sampled: how many common datapoints are asked for their neighbors, spread evenly over the ids.
    """
    gained: list[str] = []
    lost: list[str] = []
    changed: list[str] = []
    common: list[str] = []
    a = b = 0
    while a < old.n_datapoints or b < new.n_datapoints:  # both are sorted by id
        left = old.columns.datapoint_id(a) if a < old.n_datapoints else None
        right = new.columns.datapoint_id(b) if b < new.n_datapoints else None
        if left == right:
            assert left is not None
            common.append(left)
            if old.columns.datapoint(a) != new.columns.datapoint(b):
                changed.append(left)
            a, b = a + 1, b + 1
        elif right is None or (left is not None and left.encode() < right.encode()):
            lost.append(str(left))
            a += 1
        else:
            gained.append(right)
            b += 1
    before, after = _settings(old), _settings(new)
    return VersionDifference(
        old.version_id,
        new.version_id,
        len(gained),
        len(lost),
        len(changed),
        len(common) - len(changed),
        tuple(gained[:_N_EXAMPLES]),
        tuple(lost[:_N_EXAMPLES]),
        tuple(changed[:_N_EXAMPLES]),
        {k: (before.get(k), after.get(k)) for k in sorted(before | after) if before.get(k) != after.get(k)},
        tuple(_space(old, new, name, common, n_sampled) for name in sorted(set(old.spaces) & set(new.spaces))),
    )


def _space(old: IndexVersion, new: IndexVersion, name: str, common: list[str], n_sampled: int) -> SpaceDifference:
    asked = [common[at] for at in np.unique(np.linspace(0, len(common) - 1, n_sampled).astype(int))] if common else []
    kept = []
    for datapoint_id in asked:
        found = [_neighbors(version, datapoint_id, name) for version in (old, new)]
        if all(found):
            kept.append(len(found[0] & found[1]) / max(len(found[0]), len(found[1])))
    return SpaceDifference(
        name,
        old.spaces[name].space_id == new.spaces[name].space_id,
        (old.spaces[name].plan_name, new.spaces[name].plan_name),
        (old.spaces[name].recall, new.spaces[name].recall),
        float(np.mean(kept)) if kept else None,
        len(kept),
    )


def _neighbors(version: IndexVersion, datapoint_id: str, space: str) -> set[str]:
    try:
        vectors = version.vectors([datapoint_id], space)[0]
    except NotFound:
        return set()
    if not len(vectors):
        return set()
    result = version.search_by_id([datapoint_id], _K, space=space)
    return {neighbor.datapoint_id for neighbor in result.neighbors[0]}


def _settings(version: IndexVersion) -> dict[str, object]:
    held = version.manifest.build.get("settings")
    return dict(held) if isinstance(held, dict) else {}
