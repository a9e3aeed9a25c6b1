"""What the choice under caps, quotas and MMR promises one by one: worked examples, costs, messages."""

from __future__ import annotations

import re
from collections.abc import Callable
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from cpp_ext import _native as native
from cpp_ext import reference


@pytest.fixture(params=[native, reference], ids=["native", "numpy"])
def engine(request: pytest.FixtureRequest) -> ModuleType:
    module: ModuleType = request.param
    return module


def i32(*values: object) -> np.ndarray:
    return np.array(values, np.int32)


def nearest_first(n: int) -> tuple[np.ndarray, np.ndarray]:
    """Rows 0, 1, 2 ... at distances 0, 1, 2 ..."""
    return np.arange(n)[None], np.arange(n, dtype=np.float32)[None]


def lists(answer: reference.Diversified) -> list[Any]:
    return [part[0].tolist() for part in answer]


BRANDS = i32([0, 0, 0, 1, 1, -1, -1])
SELLERS = i32([0, 0, 1, 0, 1, 0, 1])


def test_without_rules_it_is_the_nearest(engine: ModuleType) -> None:
    assert lists(engine.diversify(*nearest_first(3), 2)) == [[0, 1], [0, 0], [0, 0], []]
    assert lists(engine.diversify(*nearest_first(3), 5)) == [[0, 1, 2, -1, -1], [0, 0], [0, 0], []]


def test_each_capped_column_is_charged_with_what_it_costs(engine: ModuleType) -> None:
    answer = engine.diversify(*nearest_first(7), 4, tags=i32(BRANDS[0], SELLERS[0]), caps=i32(1, 2))
    # Brands leave 0, 3, 5, 6 of 0, 1, 2, 3; sellers then take the third of theirs, 5, and find no other.
    assert lists(answer) == [[0, 3, 6, -1], [5, 1, 0, 0], [2, 1, 0, 0], []]
    assert answer[1].sum() == (0 + 3 + 6) - (0 + 1 + 2)


def test_quotas_are_filled_at_the_least_cost(engine: ModuleType) -> None:
    quotas = i32((0, 1, 2, 9), (0, 0, 0, 1))
    answer = engine.diversify(*nearest_first(7), 3, tags=BRANDS, quotas=quotas)
    assert lists(answer) == [[0, 3, 4], [0, 4, 0], [0, 2, 0], [0, 0]]


def test_the_reserve_is_mended_around_a_nearer_candidate(engine: ModuleType) -> None:
    # Row 0 takes the only place of seller 7, which row 2 was to fill its quota from: row 4 steps in.
    tags = i32([5, 5, 1, 5, 1], [7, 8, 7, 8, 9])
    answer = engine.diversify(*nearest_first(5), 3, tags=tags, caps=i32(0, 1), quotas=i32((0, 1, 1, 3)))
    assert lists(answer)[0] == [0, 1, 4]
    assert lists(answer)[3] == [0]


def test_a_candidate_that_would_empty_a_quota_is_passed_over(engine: ModuleType) -> None:
    tags = i32([5, 5, 1, 5], [7, 8, 7, 8])
    answer = engine.diversify(*nearest_first(4), 2, tags=tags, caps=i32(0, 1), quotas=i32((0, 1, 1, 3)))
    assert lists(answer) == [[1, 2], [0, 0, 2, 0], [0, 0, 1, 0], [0]]


def test_what_cannot_be_filled_is_told_and_costs_no_place(engine: ModuleType) -> None:
    answer = engine.diversify(*nearest_first(7), 4, tags=BRANDS, quotas=i32((0, 1, 3, 9), (0, 8, 2, 2)))
    assert lists(answer) == [[0, 1, 3, 4], [0, 2, 0], [0, 1, 0], [1, 2]]
    answer = engine.diversify(*nearest_first(7), 3, tags=BRANDS, quotas=i32((0, 1, 2, 9), (0, 0, 2, 9)))
    assert lists(answer)[0] == [0, 3, 4]
    assert lists(answer)[3] == [0, 1]


def test_one_that_serves_two_quotas_saves_a_place(engine: ModuleType) -> None:
    tags = i32([1, 1, -1, -1, 1, 1], [-1, -1, 1, 1, 1, 1])
    answer = engine.diversify(*nearest_first(6), 2, tags=tags, quotas=i32((0, 1, 2, 9), (1, 1, 2, 9)))
    assert lists(answer) == [[4, 5], [0, 0, 8, 0], [0, 0, 2, 0], [0, 0]]


def test_a_quota_stands_in_place_of_the_cap(engine: ModuleType) -> None:
    answer = engine.diversify(*nearest_first(7), 4, tags=BRANDS, caps=i32(1), quotas=i32((0, 0, 0, 3)))
    assert lists(answer) == [[0, 1, 2, 3], [8, -8, 0], [2, 2, 0], [0]]


def test_mmr_of_a_worked_example(engine: ModuleType) -> None:
    vectors = np.array([[4, 0], [4, 0], [0, 4], [-4, 0]], np.float32)
    rows, distances = np.arange(4)[None], np.array([[0, 0.25, 0.5, 0.75]], np.float32)
    for weight, chosen in ((1.0, [0, 1, 2]), (0.5, [0, 3, 2]), (0.9, [0, 1, 2]), (0, [0, 3, 2])):
        answer = engine.diversify(rows, distances, 3, vectors=vectors, mmr_lambda=weight)
        assert lists(answer)[0] == chosen, weight
    # Row 1 costs .75 * .25 - .25 * 0, row 2 costs .75 * .5 - .25 * 1, row 3 costs .75 * .75 - .25 * 2.
    answer = engine.diversify(rows, distances, 2, vectors=vectors, mmr_lambda=0.75)
    assert lists(answer) == [[0, 3], [0, 0.5], [0, 1], []]
    answer = engine.diversify(rows, distances, 2, vectors=vectors, metric="ip", mmr_lambda=0.5)
    assert lists(answer)[0] == [0, 3]
    answer = engine.diversify(rows, distances, 2, vectors=vectors, metric="l2", mmr_lambda=0.5)
    assert lists(answer)[0] == [0, 3]


def test_all_rules_at_once(engine: ModuleType) -> None:
    vectors = np.array([[1, 0], [1, 0], [0, 1], [-1, 0], [1, 0], [0, 1], [-1, 0]], np.float32)
    rows, distances = nearest_first(7)
    options: dict[str, Any] = {"tags": i32(BRANDS[0], SELLERS[0]), "caps": i32(2, 0), "quotas": i32((0, 1, 1, 1))}
    answer = engine.diversify(rows, distances, 4, **options)
    assert lists(answer) == [[0, 1, 3, 5], [2, 0, 1, 0], [1, 0, 1, 0], [0]]
    answer = engine.diversify(rows, distances, 4, vectors=vectors, mmr_lambda=0.4, **options)
    assert lists(answer) == [[0, 3, 2, 5], [2, 0, 1, 1], [1, 0, 1, 1], [0]]


def test_missing_candidates_are_skipped(engine: ModuleType) -> None:
    rows = np.array([[3, -1, 1, 2, 0]])
    distances = np.array([[0, 5, 1, np.nan, np.inf]], np.float32)
    assert lists(engine.diversify(rows, distances, 3, tags=i32([0, 0, 0, 0]), caps=i32(2)))[0] == [0, 2, -1]


ROWS, DISTANCES = nearest_first(3)
TAGS = i32([0, 1, 2])
BAD_CALLS: list[tuple[Callable[[Any], object], type[Exception], str]] = [
    (
        lambda e: e.diversify(ROWS, DISTANCES[:, :2].copy(), 1),
        ValueError,
        "[diversify] distances has shape (1, 2); expected (q=1, c=3)",
    ),
    (lambda e: e.diversify(ROWS, DISTANCES, 0), ValueError, "[diversify] k is 0; expected 1 <= k <= 1048576"),
    (
        lambda e: e.diversify(ROWS, DISTANCES, 1, tags=TAGS[0]),
        ValueError,
        "[diversify] tags has shape (3,); expected (t, n)",
    ),
    (
        lambda e: e.diversify(ROWS, DISTANCES, 1, tags=TAGS, caps=i32(1, 2)),
        ValueError,
        "[diversify] caps has shape (2,); expected (t=1,)",
    ),
    (
        lambda e: e.diversify(ROWS, DISTANCES, 1, tags=TAGS, caps=i32(-1)),
        ValueError,
        "[diversify] caps holds -1; expected 0 (no cap) or more",
    ),
    (
        lambda e: e.diversify(ROWS, DISTANCES, 1, caps=i32(1)),
        ValueError,
        "[diversify] caps is given and tags is None; expected tags int32[t, n] with caps; pass both or neither",
    ),
    (
        lambda e: e.diversify(ROWS, DISTANCES, 1, quotas=i32((0, 0, 1, 1))),
        ValueError,
        "[diversify] quotas is given and tags is None; expected tags int32[t, n] with quotas; pass both or neither",
    ),
    (
        lambda e: e.diversify(ROWS, DISTANCES, 1, tags=TAGS, quotas=i32((0, 0, 1))),
        ValueError,
        "[diversify] quotas has shape (1, 3); expected (m, fields=4)",
    ),
    (
        lambda e: e.diversify(ROWS, DISTANCES, 1, tags=TAGS, quotas=i32(*((0, tag, 0, 1) for tag in range(129)))),
        ValueError,
        "[diversify] quotas holds 129 quotas; expected at most 128",
    ),
    *(
        (
            lambda e, quota=quota: e.diversify(ROWS, DISTANCES, 1, tags=TAGS, quotas=i32((0, 0, 1, 1), quota)),
            ValueError,
            f"[diversify] quotas holds {quota}; expected a column below 1, a tag of 0 or more and 0 <= least <= most",
        )
        for quota in ((1, 0, 1, 1), (-1, 0, 1, 1), (0, -1, 1, 1), (0, 1, -1, 1), (0, 1, 2, 1))
    ),
    (
        lambda e: e.diversify(ROWS, DISTANCES, 1, tags=TAGS, quotas=i32((0, 0, 1, 1), (0, 0, 2, 2))),
        ValueError,
        "[diversify] quotas holds (0, 0, 2, 2), a second quota of its tag; expected one quota a tag",
    ),
    (
        lambda e: e.diversify(ROWS, DISTANCES, 1, metric="dot"),
        ValueError,
        "[diversify] metric is 'dot'; expected one of 'ip', 'cosine', 'l2'",
    ),
    (
        lambda e: e.diversify(ROWS, DISTANCES, 1, mmr_lambda=1.5),
        ValueError,
        "[diversify] mmr_lambda is 1.5; expected 0 <= mmr_lambda <= 1",
    ),
    (
        lambda e: e.diversify(ROWS, DISTANCES, 1, mmr_lambda=float("nan")),
        ValueError,
        "[diversify] mmr_lambda is nan; expected 0 <= mmr_lambda <= 1",
    ),
    (
        lambda e: e.diversify(ROWS, DISTANCES, 1, mmr_lambda="half"),
        TypeError,
        "[diversify] mmr_lambda is str; expected a number",
    ),
    (
        lambda e: e.diversify(ROWS, DISTANCES, 1, mmr_lambda=0.5),
        ValueError,
        "[diversify] mmr_lambda is 0.5 and vectors is None; expected vectors float32[n, d] with MMR; "
        "pass them or leave mmr_lambda at 1",
    ),
    (
        lambda e: e.diversify(ROWS, DISTANCES, 1, vectors=np.zeros((3, 0), np.float32)),
        ValueError,
        "[diversify] vectors has dimension 0; expected d >= 1",
    ),
    (
        lambda e: e.diversify(ROWS, DISTANCES, 1, tags=TAGS, vectors=np.zeros((4, 2), np.float32)),
        ValueError,
        "[diversify] vectors has shape (4, 2); expected (n=3, d)",
    ),
    (
        lambda e: e.diversify(ROWS + 1, DISTANCES, 1, tags=TAGS),
        IndexError,
        "[diversify] rows holds 3; expected -1 or 0 <= row < 3",
    ),
    (
        lambda e: e.diversify(ROWS - 2, DISTANCES, 1),
        IndexError,
        "[diversify] rows holds -2; expected -1 or 0 <= row",
    ),
    (
        lambda e: e.diversify(ROWS, -DISTANCES / 8, 1),
        ValueError,
        "[diversify] distances of query 0 falls to -0.125 at position 1; "
        "expected finite ones, nearest first; sort the candidates by distance",
    ),
    (
        lambda e: e.diversify(ROWS, DISTANCES - np.float32(np.inf), 1),
        ValueError,
        "[diversify] distances of query 0 falls to -inf at position 0; "
        "expected finite ones, nearest first; sort the candidates by distance",
    ),
]


@pytest.mark.parametrize(("call", "error", "message"), BAD_CALLS, ids=[message for _, _, message in BAD_CALLS])
def test_bad_arguments_are_named(
    engine: ModuleType, call: Callable[[ModuleType], object], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=f"^{re.escape(message)}$"):
        call(engine)


def test_128_exchanges_deep(engine: ModuleType) -> None:
    # Quota i can be filled from seller i or i + 1; the nearest candidate takes seller 0, and all have to shift by one.
    n = 128
    tags = i32([999, *range(n), *range(n)], [0, *range(n), *range(1, n + 1)])
    quotas = i32(*((0, i, 1, 1) for i in range(n)))
    answer = engine.diversify(*nearest_first(2 * n + 1), n + 1, tags=tags, caps=i32(0, 1), quotas=quotas)
    assert answer[0][0].tolist() == [0, *range(n + 1, 2 * n + 1)]
    assert not answer[3].any()
