"""The datapoints that Google's client asks for, and the slow, plain way to answer it."""

from __future__ import annotations

import operator
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from matching.datapoint import Datapoint, Filter, NumericRestrict, Restrict

N, DIM = 400, 12
_COMPARE: dict[str, Callable[[float, float], bool]] = {
    "LESS": operator.lt,
    "LESS_EQUAL": operator.le,
    "EQUAL": operator.eq,
    "GREATER_EQUAL": operator.ge,
    "GREATER": operator.gt,
    "NOT_EQUAL": operator.ne,
}


@dataclass
class Catalog:
    """Datapoints and their vectors, float32[n, DIM]."""

    datapoints: list[Datapoint]
    vectors: NDArray[np.float32]

    def nearest(
        self, vector: NDArray[np.float32], k: int, wanted: Filter | None = None, cap: int = 0
    ) -> list[tuple[str, float]]:
        """Return ids and squared distances, nearest first."""
        distances = ((self.vectors.astype(np.float64) - vector.astype(np.float64)) ** 2).sum(axis=1)
        order = sorted(range(len(distances)), key=lambda row: (distances[row], self.datapoints[row].datapoint_id))
        taken: Counter[str | None] = Counter()
        found: list[tuple[str, float]] = []
        for row in order:
            datapoint = self.datapoints[row]
            tag = datapoint.crowding_tag
            if (wanted and not passes(datapoint, wanted)) or (cap and tag is not None and taken[tag] >= cap):
                continue
            taken[tag] += 1
            found.append((datapoint.datapoint_id, float(distances[row])))
        return found[:k]

    def vector(self, datapoint_id: str) -> NDArray[np.float32]:
        """Return the vector of a datapoint."""
        return self.vectors[[datapoint.datapoint_id for datapoint in self.datapoints].index(datapoint_id)]


def passes(datapoint: Datapoint, wanted: Filter) -> bool:
    """Tell whether a datapoint passes a filter, by Vertex's words: AND across namespaces, OR inside one, deny wins."""
    for asked in wanted.restricts:
        held = [restrict for restrict in datapoint.restricts if restrict.namespace == asked.namespace]
        tokens = {token for restrict in held for token in restrict.allow}
        refused = {token for restrict in held for token in restrict.deny}
        if tokens & set(asked.deny) or refused & set(asked.allow) or (asked.allow and not tokens & set(asked.allow)):
            return False
    for number in wanted.numeric_restricts:
        values = [held.value for held in datapoint.numeric_restricts if held.namespace == number.namespace]
        assert number.op is not None
        if not values or not _COMPARE[number.op](values[0], number.value):
            return False
    return True


def make_catalog() -> Catalog:
    """Return datapoints with tokens, denials, numbers of each type, tags of several kinds, and some with nothing."""
    rng = np.random.default_rng(11)
    datapoints = []
    for at in range(N):
        restricts = [Restrict("color", (("red", "blue", "green")[at % 3], *(["sale"] if at % 4 == 0 else [])))]
        if at % 5:
            restricts.append(Restrict("size", ("s", "m")[at % 2 :], ("xl",) if at % 7 == 0 else ()))
        numbers = (
            NumericRestrict("price", at % 40 / 4, "float64"),
            NumericRestrict("stock", at % 7, "int64"),
            NumericRestrict("weight", at % 9 / 2, "float32"),
        )
        tag = (None, "acme", "42", "007", "Äpfel")[at % 5]
        nothing = at % 50 == 49
        datapoints.append(
            Datapoint(
                f"thing-{at:03d}",
                () if nothing else tuple(restricts),
                () if nothing else numbers,
                tag,
                {"title": f"Thing {at}", "rank": at},
            )
        )
    return Catalog(datapoints, rng.normal(size=(N, DIM)).astype(np.float32))


def publish(catalog: Catalog, folder: Path, *, alias: str, is_new: bool = True) -> None:
    """Build a version of the catalogue in a store."""
    from index_builder.draft import Draft
    from index_builder.progress import Silent
    from index_builder.settings import BuildSettings
    from matching.store import Store

    draft = Draft(Store(folder, create=is_new), BuildSettings(plan="flat", threads=1), Silent())
    space = draft.new_space("vectors", DIM, space_id="test", metric="l2")
    for datapoint in catalog.datapoints:
        draft.columns.add(datapoint)
    space.vectors.append(catalog.vectors, np.arange(len(catalog.datapoints)))
    built = draft.finish(source={"kind": "test"}, parent=None)
    Store(folder).set_alias(alias, built.version_id, why="test")


def random_filter(rng: np.random.Generator) -> Filter:
    """Return a filter of up to two namespaces and two numbers."""

    def some(tokens: Sequence[str], most: int) -> tuple[str, ...]:
        return tuple(rng.permutation(tokens)[: rng.integers(0, most + 1)].tolist())

    restricts = [
        Restrict("color", some(("red", "blue", "green", "sale", "no such"), 3), some(("red", "sale"), 1)),
        Restrict("size", some(("s", "m", "xl"), 2), some(("m",), 1)),
    ]
    numbers = [
        NumericRestrict("price", float(rng.integers(0, 40)) / 4, "float64", op=str(rng.choice(list(_COMPARE)))),  # type: ignore[arg-type]
        NumericRestrict("stock", int(rng.integers(0, 7)), "int64", op=str(rng.choice(list(_COMPARE)))),  # type: ignore[arg-type]
        NumericRestrict("weight", float(rng.integers(0, 9)) / 2, "float32", op=str(rng.choice(list(_COMPARE)))),  # type: ignore[arg-type]
    ]
    return Filter(
        tuple(restrict for restrict in restricts if rng.random() < 0.5),
        tuple(number for number in numbers if rng.random() < 0.3),
    )
