"""Real data, small index versions and the one seeded generator, as fixtures for all tests."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, settings
from numpy.typing import NDArray

from index_builder.draft import Draft
from index_builder.progress import Silent
from index_builder.settings import BuildSettings
from matching.datapoint import Datapoint, Metric, SparseRows
from matching.store import Store
from matching.version import IndexVersion

settings.register_profile("likewise", deadline=None, suppress_health_check=[HealthCheck.too_slow], derandomize=True)
settings.load_profile("likewise")

MakeVersion = Callable[..., IndexVersion]


@pytest.fixture(scope="session")
def data_dir() -> Path:
    """The real data that LIKEWISE_DATA names."""
    if not os.environ.get("LIKEWISE_DATA"):
        pytest.skip("LIKEWISE_DATA is not set: it names the folder of real catalogues and vectors")
    return Path(os.environ["LIKEWISE_DATA"])


@pytest.fixture
def rng() -> np.random.Generator:
    """The one seeded generator."""
    return np.random.default_rng(20260101)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """An empty store."""
    return Store(tmp_path / "store", create=True)


@pytest.fixture
def make_version(store: Store) -> MakeVersion:
    """Build and open a version from datapoints and vectors in memory, through the real builder."""

    def make(
        datapoints: Sequence[Datapoint],
        vectors: NDArray[np.float32],
        *,
        metric: Metric = "cosine",
        owners: NDArray[np.int64] | None = None,
        sparse: SparseRows | None = None,
        best_of: int = 1,
        alpha: float = 1.0,
        alias: str | None = None,
        **build: object,
    ) -> IndexVersion:
        return build_version(
            store,
            datapoints,
            vectors,
            metric,
            owners=owners,
            sparse=sparse,
            best_of=best_of,
            alpha=alpha,
            alias=alias,
            build=build,
        )

    return make


def build_version(
    store: Store,
    datapoints: Sequence[Datapoint],
    vectors: NDArray[np.float32],
    metric: Metric,
    *,
    owners: NDArray[np.int64] | None = None,
    sparse: SparseRows | None = None,
    best_of: int = 1,
    alpha: float = 1.0,
    alias: str | None = None,
    build: Mapping[str, object] | None = None,
) -> IndexVersion:
    """Build a version with one space, `vectors`."""
    draft = Draft(store, BuildSettings(**(build or {})), Silent())  # type: ignore[arg-type]
    space = draft.new_space("vectors", vectors.shape[1], space_id="test", metric=metric)
    space.best_of, space.alpha = best_of, alpha
    for datapoint in datapoints:
        draft.columns.add(datapoint)
    if metric == "cosine":
        vectors = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    space.vectors.append(vectors.astype(np.float32), np.arange(len(vectors)) if owners is None else owners)
    if sparse is not None:
        draft.new_sparse(space).append(sparse, np.arange(len(datapoints)))
    try:
        built = draft.finish(source={"kind": "test"}, parent=None)
    except Exception:
        draft.abandon()
        raise
    if alias is not None:
        store.set_alias(alias, built.version_id, why="test")
    return store.open(built.version_id)
