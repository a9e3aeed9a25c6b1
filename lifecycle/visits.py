"""Visits that the people of a shop might have made: generated for the demo, where nobody visited yet."""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from matching.version import IndexVersion

_DAYS: Final = 60
_LATELY_DAYS: Final = 14
_NEIGHBORS: Final = 8
_PARTNERS: Final = 3  # products of other categories that are bought with one
_VISITS: Final = 8_000
_BLOCK: Final = 512
_SCHEMA: Final = pa.schema(
    [  # type: ignore[arg-type]
        ("event_id", pa.string()),
        ("user_id", pa.string()),
        ("session_id", pa.string()),
        ("item_id", pa.string()),
        ("event_type", pa.string()),
        ("timestamp", pa.timestamp("ms", tz="UTC")),
        ("quantity", pa.float64()),
        ("price", pa.float64()),
    ]
)


@dataclass(frozen=True, slots=True)
class _Shop:
    """What visitors meet.

    Attributes:
        ids: of the products.
        prices: nan where there is none.
        alike: int64[n, _NEIGHBORS], rows of the products that are most alike in content.
        shelves: rows of each category, the most wanted first.
        category: of each row.
        risen: rows that are wanted more lately, by category.
        partners: rows of other categories that go with each row.
    """

    ids: Sequence[str]
    prices: Sequence[float]
    alike: np.ndarray[Any, np.dtype[np.int64]]
    shelves: Mapping[str, Sequence[int]]
    category: Sequence[str]
    risen: Mapping[str, Sequence[int]]
    partners: Sequence[Sequence[int]]


def write_visits(version: IndexVersion, file: Path, *, until: datetime, seed: int = 0) -> int:
    """Write 60 days of generated events over the products of a version and return how many; the same seed gives the same.

    A visitor has a few categories that they like. A visit begins at a product that many want in one of them, goes on to products
    that are alike or on the same shelf, and may end with a purchase, to which something of another category is added.
    Some products are wanted more in the last 14 days.

    Args:
        version: has a category, and may have a price, in the metadata of its datapoints.
        file: Parquet, as `likewise train` reads it; replaced where it is there.
        until: when the last visit begins at the latest; with a time zone.
        seed: fixes the visits.
    """
    rng = random.Random(seed)  # noqa: S311
    rows = list(_visits(rng, _shop(rng, version), until))
    rows.sort(key=lambda row: row["timestamp"])
    for at, row in enumerate(rows):
        row["event_id"] = f"generated-{at}"
    pq.write_table(pa.Table.from_pylist(rows, schema=_SCHEMA), file)
    return len(rows)


def _shop(rng: random.Random, version: IndexVersion) -> _Shop:
    points = [version.columns.datapoint(row) for row in range(len(version.columns))]
    category = [str(point.metadata.get("category") or "") for point in points]
    prices = [
        float(price) if isinstance(price := point.metadata.get("price"), (int, float)) else np.nan for point in points
    ]
    shelves: dict[str, list[int]] = {}
    for row in rng.sample(range(len(points)), len(points)):
        shelves.setdefault(category[row], []).append(row)
    risen = {name: rng.sample(rows, max(1, len(rows) // 30)) for name, rows in shelves.items()}
    names = sorted(shelves)
    near = {name: _others(rng, name, names) for name in names}
    partners = [[_wanted(rng, shelves[rng.choice(near[name])]) for _ in range(_PARTNERS)] for name in category]
    return _Shop([point.datapoint_id for point in points], prices, _alike(version), shelves, category, risen, partners)


def _others(rng: random.Random, name: str, names: Sequence[str]) -> Sequence[str]:
    others = [other for other in names if other != name]
    return rng.sample(others, min(2, len(others))) or names


def _alike(version: IndexVersion) -> np.ndarray[Any, np.dtype[np.int64]]:
    """Return the rows that are most alike in the first space that has vectors of all; each row is its own neighbor elsewhere."""
    n = len(version.columns)
    found = np.repeat(np.arange(n)[:, None], _NEIGHBORS, axis=1)
    for space in version.spaces.values():
        vectors = [space.vectors_of(row) for row in range(n)]
        has = np.array([row for row, own in enumerate(vectors) if len(own)], np.int64)
        if not len(has):
            continue
        matrix = np.stack([np.asarray(vectors[row][0], np.float32) for row in has.tolist()])
        matrix /= np.maximum(np.linalg.norm(matrix, axis=1, keepdims=True), 1e-9)
        k = min(_NEIGHBORS, len(has) - 1)
        for start in range(0, len(has) if k > 0 else 0, _BLOCK):
            scores = matrix[start : start + _BLOCK] @ matrix.T
            scores[np.arange(len(scores)), np.arange(start, start + len(scores))] = -np.inf
            found[has[start : start + _BLOCK], :k] = has[np.argpartition(-scores, k - 1, axis=1)[:, :k]]
        break
    return found


def _wanted(rng: random.Random, rows: Sequence[int]) -> int:
    """Draw a row; those in front are wanted most."""
    return rows[int(len(rows) * rng.random() ** 2.5)]


def _visits(rng: random.Random, shop: _Shop, until: datetime) -> Iterator[dict[str, Any]]:
    names = sorted(shop.shelves)
    weights = [len(shop.shelves[name]) ** 0.5 for name in names]
    n_users = min(2_000, max(100, len(shop.ids) // 2))
    tastes = [rng.choices(names, weights, k=3) for _ in range(n_users)]
    for visit in range(_VISITS):
        user = min(n_users - 1, int(n_users * rng.random() ** 1.6))
        days = _DAYS * rng.random()
        when = until - timedelta(days=days)
        seen = _walk(rng, shop, rng.choice(tastes[user]), is_late=days < _LATELY_DAYS)
        told = {"user_id": f"visitor-{user}", "session_id": f"visit-{visit}", "quantity": 1.0}
        for row, event_type in _acts(rng, shop, seen):
            when += timedelta(seconds=rng.randint(5, 120))
            own = {"item_id": shop.ids[row], "event_type": event_type, "price": shop.prices[row]}
            yield {**told, **own, "timestamp": when}


def _walk(rng: random.Random, shop: _Shop, category: str, *, is_late: bool) -> list[int]:
    shelf = shop.shelves[category]
    seen = [rng.choice(shop.risen[category]) if is_late and rng.random() < 0.4 else _wanted(rng, shelf)]
    for _ in range(min(12, int(rng.expovariate(1 / 4)))):
        step = rng.random()
        if step < 0.65:
            seen.append(int(rng.choice(shop.alike[seen[-1]])))
        elif step < 0.85:
            seen.append(_wanted(rng, shelf))
        else:
            seen.append(rng.choice(shop.partners[seen[-1]]))
    return seen


def _acts(rng: random.Random, shop: _Shop, seen: Sequence[int]) -> Iterator[tuple[int, str]]:
    basket: list[int] = []
    for row in seen:
        yield row, "view"
        if rng.random() < 0.3:
            yield row, "add_to_cart"
            basket.append(row)
    if basket and rng.random() < 0.6:
        basket += [rng.choice(shop.partners[row]) for row in basket if rng.random() < 0.7]
        for row in dict.fromkeys(basket):
            yield row, "purchase"
