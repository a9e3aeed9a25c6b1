"""Fusion of two rankings against the formulas said slowly, and the depth that it needs."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from matching.errors import InvalidQuery
from matching.fusion import Fusion, Ranking, capped, fused, head_depth, rank_sparse

shares = st.sampled_from([0.0, 0.1, 0.25, 0.5, 0.75, 0.9, 1.0])


@st.composite
def sides(draw: st.DrawFn, *, below_zero: bool) -> Ranking:
    rows = draw(st.lists(st.integers(0, 40), max_size=25, unique=True))
    steps = draw(st.lists(st.sampled_from([0.0, 0.25, 1.0]), min_size=len(rows), max_size=len(rows)))
    distances = np.cumsum(np.asarray(steps, np.float32)) if rows else np.empty(0, np.float32)
    if below_zero and rows:
        distances = distances - distances[-1] - np.float32(0.5)
    return Ranking(np.asarray(rows, np.int64), distances.astype(np.float32))


def slowly(fusion: Fusion, dense: Ranking, sparse: Ranking) -> list[int]:
    scores: dict[int, float] = {}
    for side, share in ((dense, fusion.alpha), (sparse, 1 - fusion.alpha)):
        if share == 0:
            continue
        for rank, (row, distance) in enumerate(zip(side.rows.tolist(), side.distances.tolist()), start=1):
            if fusion.kind == "rrf":
                own = 1 / (60 + rank)
            elif side is sparse:
                own = distance / side.distances.tolist()[0]
            else:
                best, last = side.distances.tolist()[0], side.distances.tolist()[-1]
                own = 1.0 if best == last else (last - distance) / (last - best)
            scores[row] = scores.get(row, 0.0) + (share * own if 0 < fusion.alpha < 1 else -rank)
    return sorted(scores, key=lambda row: (-scores[row], row))


@given(st.sampled_from(["rrf", "score"]), shares, sides(below_zero=False), sides(below_zero=True))
def test_fused_is_the_formula(kind: str, alpha: float, dense: Ranking, sparse: Ranking) -> None:
    fusion = Fusion(kind, alpha)  # type: ignore[arg-type]
    assert fused(fusion, dense, sparse).tolist() == slowly(fusion, dense, sparse)


@given(
    st.integers(1, 12),
    st.fractions(Fraction(1, 50), Fraction(49, 50)),
    st.permutations(range(160)),
    st.permutations(range(160)),
)
def test_no_row_of_the_full_fusion_s_best_k_is_beyond_both_heads(
    k: int, alpha: Fraction, dense: list[int], sparse: list[int]
) -> None:
    scores = {
        row: alpha / (61 + dense.index(row)) + (1 - alpha) / (61 + sparse.index(row)) for row in range(len(dense))
    }
    best = sorted(scores, key=lambda row: (-scores[row], row))[:k]
    depth = head_depth(k)
    assert set(best) <= {*dense[:depth], *sparse[:depth]}


def test_the_depth_is_needed() -> None:
    """With equal shares, a row at rank 2 k + 60 of both sides ties with one at rank k of one side alone."""
    k = 5
    both, one_alone = Fraction(1, 60 + head_depth(k)), Fraction(1, 2 * (60 + k))
    assert both == one_alone


@given(
    st.lists(st.sampled_from([-1.0, 0.0, 0.5, 1.0, 2.0]), max_size=30),
    st.integers(1, 12),
    st.lists(st.booleans(), min_size=30, max_size=30),
    st.lists(st.integers(-1, 3), min_size=30, max_size=30),
    st.integers(0, 2),
)
def test_sparse_ranking_is_a_sort(scores: list[float], k: int, passing: list[bool], tags: list[int], cap: int) -> None:
    n = len(scores)
    found = rank_sparse(
        np.asarray(scores, np.float32),
        k,
        matching=np.packbits(np.resize(passing, 64)[None], axis=1, bitorder="little").view(np.uint64)[0][: -(-n // 64)],
        tags=np.asarray(tags[:n], np.int32),
        cap=cap,
    )
    expected: list[int] = []
    seen: dict[int, int] = {}
    for row in sorted(range(n), key=lambda row: (-scores[row], row)):
        if scores[row] <= 0 or not passing[row]:
            continue
        tag = tags[row]
        seen[tag] = seen.get(tag, 0) + 1
        if not cap or tag < 0 or seen[tag] <= cap:
            expected.append(row)
    assert found.rows.tolist() == expected[:k]
    assert found.distances.tolist() == [-scores[row] for row in expected[:k]]


@given(st.permutations(range(20)), st.lists(st.integers(-1, 4), min_size=20, max_size=20), st.integers(0, 3))
def test_a_cap_keeps_the_first_of_each_tag(rows: list[int], tags: list[int], cap: int) -> None:
    kept = capped(np.asarray(rows, np.int64), np.asarray(tags, np.int32), cap).tolist()
    own: dict[int, int] = {}
    expected = []
    for row in rows:
        own[tags[row]] = own.get(tags[row], 0) + 1
        if not cap or tags[row] < 0 or own[tags[row]] <= cap:
            expected.append(row)
    assert kept == expected


@pytest.mark.parametrize("alpha", [-0.1, 1.5, float("nan")])
def test_a_share_is_within_0_and_1(alpha: float) -> None:
    with pytest.raises(InvalidQuery, match=r"\[search\] alpha is .*expected 0 \(sparse alone\) to 1"):
        Fusion("rrf", alpha)
