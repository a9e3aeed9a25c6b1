"""What an endpoint promises of its units, over chains of changes of weights, coverage, and variants that come and go."""

from __future__ import annotations

import json
from collections import Counter

from hypothesis import given, settings
from hypothesis import strategies as st

from serving.endpoint import N_BUCKETS, Endpoint, Variant

NAMES = "abcde"
Owners = list[str | None]


@st.composite
def traffic(draw: st.DrawFn) -> tuple[list[Variant], float]:
    """Some of five variants in any order, any weights that make 1, a shadow now and then, and a coverage."""
    names = draw(st.permutations(NAMES))[: draw(st.integers(1, len(NAMES)))]
    step = draw(st.sampled_from([1, 100, 1_000]))
    cuts = sorted(draw(st.lists(st.integers(0, N_BUCKETS // step), min_size=len(names) - 1, max_size=len(names) - 1)))
    edges = [0, *(cut * step for cut in cuts), N_BUCKETS]
    arms = [Variant(name, (stop - start) / N_BUCKETS) for name, start, stop in zip(names, edges, edges[1:])]
    if draw(st.booleans()):
        arms.append(Variant("shadow", mirror=0.5))
    return arms, draw(st.sampled_from([1.0, 0.5, 0.2, 0.0])) if draw(st.booleans()) else draw(
        st.integers(0, N_BUCKETS)
    ) / N_BUCKETS


def owners(endpoint: Endpoint) -> Owners:
    return [piece.variant for piece in endpoint.ranges for _ in range(piece.start, piece.stop)]


def mine(held: Owners, party: str | None) -> set[int]:
    return {bucket for bucket, owner in enumerate(held) if owner == party}


def check_sizes(endpoint: Endpoint) -> None:
    count = Counter(owners(endpoint))
    for variant in endpoint.variants:
        assert (
            count[variant.name] == round(variant.weight * N_BUCKETS) * round(endpoint.coverage * N_BUCKETS) // N_BUCKETS
        )
    assert count["shadow"] == 0
    assert set(count) <= {None, *(variant.name for variant in endpoint.variants)}


@settings(max_examples=60, deadline=None)
@given(st.lists(traffic(), min_size=2, max_size=6))
def test_units_move_only_where_sizes_make_them(chain: list[tuple[list[Variant], float]]) -> None:
    (first, coverage), *changes = chain
    endpoint = Endpoint.create("home", first, coverage=coverage)
    check_sizes(endpoint)
    for arms, coverage in changes:
        changed = endpoint.with_traffic(arms, coverage=coverage, control=arms[0].name)
        check_sizes(changed)
        before, after = owners(endpoint), owners(changed)
        n_must_move = 0
        for party in {*before, *after}:
            had, has = mine(before, party), mine(after, party)
            if len(has) >= len(had):
                assert had <= has, "who does not shrink keeps all its units"
            else:
                assert has < had, "who shrinks gets nobody new"
                n_must_move += len(had) - len(has)
        assert sum(a != b for a, b in zip(before, after)) == n_must_move, "nobody else moves"
        endpoint = changed
    assert Endpoint.from_json(json.loads(json.dumps(endpoint.as_json()))) == endpoint


@settings(max_examples=40, deadline=None)
@given(traffic(), traffic(), st.integers(1, 3_000), st.integers(1, 3_000))
def test_who_came_last_leaves_first(
    start: tuple[list[Variant], float], other: tuple[list[Variant], float], first: int, second: int
) -> None:
    """A variant that grows twice and shrinks by the same steps has the units it had, whatever the others do meanwhile."""

    def split(size: int, rest: list[Variant]) -> list[Variant]:
        """Give `grower` a size, and what is left to the others as their weights say."""
        left = N_BUCKETS - size
        parts = [round(variant.weight * left) for variant in rest]
        parts[0] += left - sum(parts)
        return [Variant("grower", size / N_BUCKETS)] + [
            Variant(variant.name, part / N_BUCKETS) for variant, part in zip(rest, parts) if part >= 0
        ]

    one, two = ([variant for variant in arms if not variant.is_shadow] for arms, _ in (start, other))
    sizes = [500, 500 + first, 500 + first + second, 500 + first, 500]
    steps = [split(size, rest) for size, rest in zip(sizes, (one, two, one, two, one))]
    if any(sum(round(v.weight * N_BUCKETS) for v in step) != N_BUCKETS for step in steps):
        return  # rounding left somebody with less than nothing
    endpoint = Endpoint.create("home", steps[0])
    held = [mine(owners(endpoint), "grower")]
    for step in steps[1:]:
        endpoint = endpoint.with_traffic(step, control="grower")
        held.append(mine(owners(endpoint), "grower"))
    assert held[0] < held[1] < held[2]
    assert held[3] == held[1]
    assert held[4] == held[0]


@settings(max_examples=30, deadline=None)
@given(traffic(), st.lists(st.integers(0, N_BUCKETS), min_size=1, max_size=6))
def test_raising_coverage_moves_nobody_who_was_in(start: tuple[list[Variant], float], steps: list[int]) -> None:
    arms, _ = start
    endpoint = Endpoint.create("home", arms, coverage=0.0)
    for step in sorted(steps):
        raised = endpoint.with_traffic(arms, coverage=step / N_BUCKETS)
        before, after = owners(endpoint), owners(raised)
        assert all(b == a for b, a in zip(before, after) if b is not None)
        fresh = Endpoint.create("home", arms, coverage=step / N_BUCKETS)
        assert after == owners(fresh), "the way to a coverage does not matter"
        endpoint = raised


@settings(max_examples=30, deadline=None)
@given(traffic(), traffic(), st.text(max_size=20))
def test_only_names_weights_and_coverage_matter(
    start: tuple[list[Variant], float], then: tuple[list[Variant], float], unit: str
) -> None:
    def dressed(arms: list[Variant]) -> list[Variant]:
        return [Variant(arm.name, arm.weight, arm.mirror, f"index-{at}", {"effort": at}) for at, arm in enumerate(arms)]

    plain = Endpoint.create("home", start[0], coverage=start[1]).with_traffic(
        then[0], coverage=then[1], control=then[0][0].name
    )
    other = Endpoint.create("home", dressed(start[0]), coverage=start[1]).with_traffic(
        dressed(then[0]), coverage=then[1], control=then[0][0].name
    )
    assert plain.ranges == other.ranges
    mine, theirs = plain.assign(unit), other.assign(unit)
    assert (mine.variant.name, mine.why, mine.bucket) == (theirs.variant.name, theirs.why, theirs.bucket)
