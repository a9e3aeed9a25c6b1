"""What the process that tries a version says, and what becomes of one that says nothing."""

from __future__ import annotations

import threading

import numpy as np
import pytest

from matching.datapoint import Datapoint, SparseRows
from matching.errors import GateRefused, Unavailable
from matching.store import Store
from serving.trial import check_answers, try_version
from tests.versions import MakeVersion


@pytest.mark.parametrize("metric", ["cosine", "ip", "l2"])
@pytest.mark.parametrize("plan", ["flat", "graph", "hnsw"])
def test_sound_versions_of_every_kind_pass(
    make_version: MakeVersion, rng: np.random.Generator, metric: str, plan: str
) -> None:
    vectors = rng.standard_normal((600, 24)).astype(np.float32)
    vectors[100:130] = vectors[100]  # more twins than are asked for: an item need not find itself, but one as near
    points = [Datapoint(f"{at:03}") for at in range(600)]
    check_answers(make_version(points, vectors, metric=metric, plan=plan, recall_target=0.9))


def test_versions_of_several_vectors_an_item_pass(make_version: MakeVersion, rng: np.random.Generator) -> None:
    owners = np.sort(rng.integers(0, 200, 500))
    points = [Datapoint(f"{at:03}") for at in range(200)]
    vectors = rng.standard_normal((500, 16)).astype(np.float32)
    check_answers(make_version(points, vectors, owners=owners, best_of=2, plan="flat"))
    check_answers(make_version(points[:1], vectors[:1], plan="flat"))


def test_a_sparse_side_does_not_confuse_it(make_version: MakeVersion, rng: np.random.Generator) -> None:
    n = 120
    sparse = SparseRows(
        np.arange(0, 3 * n + 1, 3, dtype=np.int64),
        np.tile(np.array([1, 5, 9], np.int64), n),
        np.full(3 * n, 0.5774, np.float32),
    )
    vectors = rng.standard_normal((n, 16)).astype(np.float32)
    check_answers(make_version([Datapoint(f"{at}") for at in range(n)], vectors, sparse=sparse, alpha=0.7, plan="flat"))


def test_a_trial_ends_when_its_time_or_the_service_does(
    store: Store, make_version: MakeVersion, rng: np.random.Generator
) -> None:
    version = make_version([Datapoint("a"), Datapoint("b")], rng.standard_normal((2, 4)).astype(np.float32))
    directory = store.directory(version.version_id)
    with pytest.raises(GateRefused, match=r"was not tried within 0\.001 s; expected an answer; allow more time"):
        try_version(directory, limit_s=0.001)
    given_up = threading.Event()
    given_up.set()
    with pytest.raises(Unavailable, match="shutting down"):
        try_version(directory, limit_s=60, given_up=given_up)
    try_version(directory, limit_s=60)
