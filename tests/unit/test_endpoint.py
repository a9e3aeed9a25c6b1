"""Endpoints: GrowthBook's golden vectors, balance, control outside of the split, shadows, forced variants, refusals."""

from __future__ import annotations

import itertools
import json
from collections import Counter
from typing import Any

import numpy as np
import pytest
from scipy import stats

from matching.errors import Forbidden, InvalidInput, NotFound
from serving.endpoint import N_BUCKETS, Endpoint, Variant, bucket_of
from serving.override import Override


def endpoint(name: str = "home", coverage: float = 1.0, **weights: float) -> Endpoint:
    return Endpoint.create(name, [Variant(arm, weight) for arm, weight in weights.items()], coverage=coverage)


def ranges_of(held: Endpoint, variant: str | None) -> list[tuple[float, float]]:
    return [(p.start / N_BUCKETS, p.stop / N_BUCKETS) for p in held.ranges if p.variant == variant]


@pytest.mark.parametrize(
    ("seed", "unit", "expected"),
    [
        ("seed", "a", 0.0505),
        ("seed", "b", 0.2696),
        ("foo", "ab", 0.2575),
        ("foo", "def", 0.2019),
        ("89123klj", "8952klfjas09ujkasdf", 0.124),
        ("90850943850283058242805", "123", 0.7516),
    ],
)
def test_the_hash_is_growthbooks(seed: str, unit: str, expected: float) -> None:
    assert bucket_of(seed, unit) / N_BUCKETS == expected


def test_letters_beyond_ascii_are_hashed_as_utf_16() -> None:
    def slow(text: str) -> int:
        content = text.encode("utf-16-be")
        value = 2166136261
        for high, low in zip(content[::2], content[1::2]):
            value = (value ^ (high * 256 + low)) * 16777619 % 2**32
        return value

    for unit in ("Zoë", "日本", "🛒 basket", "\ud800"[:0] + "plain"):
        assert bucket_of("s", unit) == slow(str(slow("s" + unit))) % 10_000
    assert 0 <= bucket_of("s", "half \ud83d") < N_BUCKETS, "half a letter is a unit id too"


def test_ranges_are_growthbooks() -> None:
    half = endpoint(coverage=0.5, control=0.5, new=0.5)
    assert ranges_of(half, "control") == [(0, 0.25)]
    assert ranges_of(half, "new") == [(0.5, 0.75)]
    assert ranges_of(half, None) == [(0.25, 0.5), (0.75, 1)]
    for coverage in (0.6, 0.3, 1.0, 0.01, 0.0, 0.5, 0.7):
        arms = half.variants
        ramped = half.with_traffic(arms, coverage=coverage)
        expected = endpoint(coverage=coverage, control=0.5, new=0.5)
        for party in ("control", "new", None):
            assert sorted(buckets(ramped, party)) == sorted(buckets(expected, party))
        half = ramped


def buckets(held: Endpoint, variant: str | None) -> set[int]:
    return {at for p in held.ranges if p.variant == variant for at in range(p.start, p.stop)}


SPLITS = [{"a": 0.5, "b": 0.5}, {"a": 0.9, "b": 0.1}, {"a": 0.99, "b": 0.01}, {"a": 0.3334, "b": 0.3333, "c": 0.3333}]


def check_balance(ids: list[str], held: Endpoint) -> None:
    seen = Counter(held.assign(unit).variant.name for unit in ids)
    expected = [variant.weight * len(ids) for variant in held.variants]
    observed = [seen[variant.name] for variant in held.variants]
    assert stats.chisquare(observed, expected).pvalue > 0.001, (observed, expected)


@pytest.mark.parametrize("n_ids", [100_000, pytest.param(1_000_000, marks=pytest.mark.slow)])
@pytest.mark.parametrize(
    ("split", "written"), [*zip(SPLITS, itertools.cycle(["user-{:d}", "{:016x}"]))], ids=lambda each: str(each)
)
def test_the_split_is_balanced(split: dict[str, float], written: str, n_ids: int) -> None:
    ids = [written.format(at * 0x9E3779B97F4A7C15 % 2**64 if "x" in written else at) for at in range(n_ids)]
    check_balance(ids, endpoint(**split))
    check_balance(ids, endpoint(name="listing", **split))


@pytest.mark.parametrize("n_ids", [100_000, pytest.param(1_000_000, marks=pytest.mark.slow)])
def test_each_bucket_is_as_full_as_any_other(n_ids: int) -> None:
    counts = np.bincount([bucket_of("home", f"user-{at}") for at in range(n_ids)], minlength=N_BUCKETS)
    assert stats.chisquare(counts).pvalue > 0.001


def test_two_endpoints_split_independently() -> None:
    first, second = endpoint("home", a=0.5, b=0.5), endpoint("listing", a=0.5, b=0.5)
    n = 200_000
    arms = np.array(
        [(first.assign(u).variant.name == "a", second.assign(u).variant.name == "a") for u in map(str, range(n))]
    )
    phi = np.corrcoef(arms.T)[0, 1]
    assert abs(phi) < 0.005, phi


@pytest.mark.parametrize(
    "n_ids", [10_000, pytest.param(1_000_000, marks=[pytest.mark.slow, pytest.mark.timeout(1800)])]
)
def test_a_ramp_moves_units_into_the_treatment_and_nowhere_else(n_ids: int) -> None:
    """From 1 % to 50 %, over copies that other replicas or a restart read back; and the way back is the way there."""
    ids = [f"user-{at}" for at in range(n_ids)]
    held = endpoint(control=0.99, new=0.01)
    steps: list[set[str]] = []
    shares = [0.01, 0.02, 0.05, 0.1, 0.25, 0.5]
    for share in [*shares, *reversed(shares[:-1])]:
        held = held.with_traffic([Variant("control", 1 - share), Variant("new", share)])
        held = Endpoint.from_json(json.loads(json.dumps(held.as_json())))
        steps.append({unit for unit in ids if held.assign(unit).variant.name == "new"})
        assert stats.binomtest(len(steps[-1]), n_ids, share).pvalue > 1e-4
    there, back = steps[: len(shares)], steps[len(shares) :]
    for before, after in itertools.pairwise(there):
        assert before < after
    assert back == there[-2::-1], "who came last leaves first"


def test_units_outside_of_the_split_are_answered_by_control_and_are_no_exposure() -> None:
    held = endpoint(coverage=0.2, new=0.5, control=0.5).with_traffic(
        [Variant("new", 0.5), Variant("control", 0.5)], control="control"
    )
    seen = [held.assign(f"user-{at}") for at in range(5_000)]
    outside = [found for found in seen if found.why == "outside"]
    assert 0.77 < len(outside) / len(seen) < 0.83
    assert {found.variant.name for found in outside} == {"control"}
    assert not any(found.is_exposure for found in outside)
    assert all(found.is_exposure for found in seen if found.why == "traffic")
    assert {found.variant.name for found in seen if found.is_exposure} == {"control", "new"}


@pytest.mark.parametrize("unit", [None, ""])
def test_a_request_without_a_unit_is_answered_by_control(unit: str | None) -> None:
    found = endpoint(a=0.01, b=0.99).assign(unit)
    assert (found.variant.name, found.why, found.bucket, found.is_exposure) == ("a", "no_unit", None, False)


def test_an_assignment_is_the_same_elsewhere_and_later() -> None:
    held = endpoint(a=0.2, b=0.5, c=0.3).with_traffic(
        [Variant("b", 0.6), Variant("a", 0.15), Variant("d", 0.25)], control="b"
    )
    copy = Endpoint.from_json(json.loads(json.dumps(held.as_json())))
    assert copy == held
    assert all(copy.assign(str(at)) == held.assign(str(at)) for at in range(2_000))


def test_a_shadow_sees_its_share_of_requests_and_answers_nobody() -> None:
    arms = [Variant("control", 1.0), Variant("all", mirror=1.0), Variant("tenth", mirror=0.1)]
    held = Endpoint.create("home", arms)
    seen = Counter(shadow.name for at in range(20_000) for shadow in held.shadows_of(f"request-{at}"))
    assert seen["all"] == 20_000
    assert stats.binomtest(seen["tenth"], 20_000, 0.1).pvalue > 0.001
    assert {held.assign(f"user-{at}").variant.name for at in range(2_000)} == {"control"}
    assert held.shadows_of("request-1") == held.shadows_of("request-1")
    assert not held.variant("control").is_shadow
    with pytest.raises(Forbidden, match="'all' is a shadow and answers nobody"):
        held.assign("u", override=Override("home", "all", 1))


def test_an_override_forces_a_variant_of_its_own_endpoint_and_is_no_exposure() -> None:
    held = endpoint(a=1.0, b=0.0)
    found = held.assign("u", override=Override("home", "b", 1))
    assert (found.variant.name, found.why, found.is_exposure) == ("b", "override", False)
    assert held.assign(None, override=Override("home", "b", 1)).variant.name == "b"
    with pytest.raises(Forbidden, match="for endpoint 'other'; expected one for 'home'"):
        held.assign("u", override=Override("other", "b", 1))
    with pytest.raises(NotFound, match="no variant 'gone'; expected one of a, b"):
        held.assign("u", override=Override("home", "gone", 1))


@pytest.mark.parametrize(
    ("weights", "others", "message"),
    [
        ({"a": 0.5, "b": 0.4}, {}, r"make 0\.9 \(a 0\.5, b 0\.4\); expected 1"),
        ({}, {}, "expected one of no variant"),
        ({"a": 1.5}, {}, r"weight of variant 'a' is 1\.5; expected 0 to 1"),
        ({"a": float("nan")}, {}, "is nan; expected 0 to 1"),
        ({"a": 1 / 3}, {}, r"choose 0\.3333 or 0\.3334"),
        ({"a": 1.0}, {"coverage": 0.00005}, r"coverage of 'home' is 5e-05; .*choose 0 or 0\.0001"),
        ({"a": 1.0}, {"control": "b"}, "control of 'home' is 'b'; expected one of a"),
        ({"A b": 1.0}, {}, "'A b' cannot be a name"),
    ],
)
def test_what_is_refused(weights: dict[str, float], others: dict[str, object], message: str) -> None:
    with pytest.raises(InvalidInput, match=message):
        Endpoint.create("home", [Variant(name, weight) for name, weight in weights.items()], **others)  # type: ignore[arg-type]


def test_shadows_and_twins_are_refused() -> None:
    with pytest.raises(InvalidInput, match="a shadow never takes traffic"):
        Variant("s", weight=0.1, mirror=0.1)
    with pytest.raises(InvalidInput, match="2 variants 'a'"):
        Endpoint.create("home", [Variant("a", 0.5), Variant("a", 0.5)])
    with pytest.raises(InvalidInput, match="control of 'home' is 's'; expected one of a, and no shadow"):
        Endpoint.create("home", [Variant("a", 1.0), Variant("s", mirror=1.0)], control="s")


def test_a_written_endpoint_that_contradicts_itself_is_refused() -> None:
    told = endpoint(a=0.5, b=0.5).as_json()
    for change, message in (
        ({"ranges": [[0, 5000, "a", 0], [5001, 10000, "b", 0]]}, "where buckets go on at 5000"),
        ({"ranges": [[0, 4000, "a", 0], [4000, 10000, "b", 0]]}, "change weights by with_traffic"),
        ({"ranges": [[0, 5000, "a", 0], [5000, 10000, "b", 7]]}, "where buckets go on at 5000"),
        ({"ranges": [[0, 5000, "a", 0]]}, "change weights by with_traffic"),
        ({"colour": "red"}, "this is not an endpoint"),
        ({"variants": [{"weight": 1.0}]}, "this is not an endpoint"),
    ):
        with pytest.raises(InvalidInput, match=message):
            Endpoint.from_json({**told, **change})
    del told["seed"]
    with pytest.raises(InvalidInput, match="seed"):
        Endpoint.from_json(told)


def test_knobs_are_known_and_of_their_type() -> None:
    Variant("graph", 1.0, knobs={"effort": 200, "recall_target": 0.98, "exact": True, "crowding_cap": 2})
    wrong: list[dict[str, Any]] = [{"efort": 3}, {"effort": 2.5}, {"exact": 1}, {"recall_target": "0.9"}]
    for knobs in wrong:
        with pytest.raises(InvalidInput, match=r"has the knob .*; expected some of effort \(int\), recall_target"):
            Variant("graph", 1.0, knobs=knobs)


def test_an_arm_keeps_what_a_change_leaves_out() -> None:
    home = Endpoint.create("home", [Variant("graph", 1.0, index="shop", knobs={"exact": True})])
    kept = home.arm("graph", weight=0.5, mirror=0.0, index=None, knobs=None)
    assert (kept.weight, kept.index, kept.knobs) == (0.5, "shop", {"exact": True})
    assert home.arm("graph", weight=1.0, mirror=0.0, index="other", knobs={}) == Variant("graph", 1.0, index="other")
    assert home.arm("new", weight=0.0, mirror=0.5, index=None, knobs=None) == Variant("new", mirror=0.5)
