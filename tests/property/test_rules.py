"""Slates under rules, against a slow and obvious reading of them: hard rules always hold, and no place is empty needlessly."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from matching.datapoint import Datapoint, NumericRestrict, Restrict
from matching.live import Change, Delete, LiveIndex, Upsert, WriteLog
from matching.recommend import Model, ModelStore
from matching.recommend.model_store import model_id_of
from matching.rules import Rulebook
from matching.rules.parsing import rules_of
from matching.sources.training import train
from matching.store import Store
from matching.version import IndexVersion
from serving.slate import Filled, Filling, SlateQuery, explain, fill
from serving.users_in_memory import UsersInMemory
from tests.acts import event
from tests.interactions import NOW, random_interactions
from tests.property.test_slate import rows_in
from tests.versions import build_version

KNOWN = random_interactions(6, n_items=50, n=900)
CATALOGUE = (*KNOWN.item_ids[:40], *(f"new-{at:02d}" for at in range(20)))
VECTORS = np.random.default_rng(3).normal(size=(len(CATALOGUE), 8)).astype(np.float32)
SOURCES = ("sequential-rules", "item-knn", "popular")


@dataclass(frozen=True)
class Shop:
    version: IndexVersion
    models: Mapping[str, Model]


def brands(item: str) -> tuple[str, ...]:
    number = sum(item.encode())
    if number % 7 == 0:
        return ()
    return ("z", "acme")[number % 2 :: 1] if number % 5 == 0 else (("acme", "bolt", "cord")[number % 3],)


def shirt(item: str) -> tuple[str, ...]:
    number = sum(item.encode())
    return () if number % 3 == 0 else (f"shirt-{number % 13}",)


def price(item: str) -> int:
    return 1 + sum(item.encode()) % 11


def datapoint(item: str) -> Datapoint:
    return Datapoint(
        item,
        (Restrict("brand", brands(item)), Restrict("shirt", shirt(item))),
        (NumericRestrict("price", price(item), "int64"),),
    )


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Shop:
    folder = tmp_path_factory.mktemp("rules")
    version = build_version(Store(folder, create=True), [datapoint(item) for item in CATALOGUE], VECTORS, "l2")
    store = ModelStore(folder)
    manifests = {name: train(store, name, KNOWN, now_ms=NOW) for name in SOURCES}
    return Shop(version, {name: store.open(name, model_id_of(told)) for name, told in manifests.items()})


ids = st.sampled_from(CATALOGUE)
brand = st.sampled_from(["acme", "bolt", "cord", "z", "nobody"])
selected = st.one_of(
    st.builds(lambda tokens: {"allow": {"brand": tokens}}, st.lists(brand, min_size=1, max_size=2)),
    st.builds(lambda tokens: {"deny": {"brand": tokens}}, st.lists(brand, min_size=1, max_size=1)),
    st.builds(lambda items: {"items": items}, st.lists(ids, min_size=1, max_size=12)),
    st.builds(lambda n: {"numbers": [{"namespace": "price", "op": "LESS", "value": n}]}, st.sampled_from([4, 6.5, 9])),
)
pinned = st.builds(lambda item, slot: {"kind": "pin", "item": item, "slot": slot}, ids, st.integers(1, 8))
tables = st.one_of(
    st.builds(lambda which: {"kind": "filter", **which}, selected),
    st.builds(lambda which: {"kind": "hide", **which}, selected),
    st.builds(lambda which, factor: {"kind": "boost", "factor": factor, **which}, selected, st.sampled_from([1.5, 4])),
    st.builds(lambda which, factor: {"kind": "bury", "factor": factor, **which}, selected, st.sampled_from([0, 0.5])),
    pinned,
    st.builds(lambda most, strict: {"kind": "cap", "namespace": "brand", "most": most, "strict": strict},
              st.integers(1, 4), st.booleans()),
    st.just({"kind": "collapse", "namespace": "shirt"}),
    st.just({"kind": "not_same", "namespace": "shirt"}),
    st.just({"kind": "in_stock", "number": "price", "at_least": 3}),
    st.just({"kind": "price_band", "number": "price", "low": 0.5, "high": 1.5}),
    st.builds(lambda relevance: {"kind": "diversity", "relevance": relevance}, st.sampled_from([0.3, 0.7])),
)  # fmt: skip
queries = st.builds(
    SlateQuery,
    user=st.sampled_from(["", "u"]),
    items=st.lists(ids, max_size=2).map(tuple),
    k=st.integers(1, 25),
    exclude=st.lists(ids, max_size=3).map(tuple),
)
weights = st.sampled_from([{}, {"item-knn": 1.0}, {"item-knn": 1.0, "sequential-rules": 0.5, "popular": 0.3}])
ask = settings(max_examples=120)


def acts() -> UsersInMemory:
    state = UsersInMemory()
    state.take([event("purchase", KNOWN.item_ids[at], user="u", at_s=NOW // 1000 - 60 + at) for at in (3, 9, 20)])
    return state


def slate(shop: Shop, query: SlateQuery, weighed: Mapping[str, float], told: Sequence[dict[str, Any]]) -> Filled:
    return fill(
        shop.version,
        query,
        acts().recent(query.user, ""),
        shop.models,
        rows_in(shop.version),
        weighed,
        now_ms=NOW,
        rulebook=Rulebook(rules_of(list(told))),
    )


def is_selected(item: str, told: Mapping[str, Any]) -> bool:
    own = set(brands(item))
    return (
        ("brand" not in told.get("allow", {}) or bool(own & set(told["allow"]["brand"])))
        and not own & set(told.get("deny", {}).get("brand", ()))
        and ("items" not in told or item in told["items"])
        and all(price(item) < each["value"] for each in told.get("numbers", ()))
    )


def may_be_shown(item: str, query: SlateQuery, rules: Sequence[dict[str, Any]]) -> bool:
    if item in query.items or item in query.exclude:
        return False
    for told in rules:
        kind = told["kind"]
        if kind in ("filter", "hide") and is_selected(item, told) == (kind == "hide"):
            return False
        if kind == "in_stock" and price(item) < 3:
            return False
        if kind == "not_same" and set(shirt(item)) & {token for each in query.items for token in shirt(each)}:
            return False
        if kind == "price_band" and query.items:
            around = price(query.items[-1])
            if not around * 0.5 <= price(item) <= around * 1.5:
                return False
    return True


def token_of(item: str, told: Mapping[str, Any]) -> str | None:
    """What an item counts as under a cap."""
    return min(brands(item) if told["namespace"] == "brand" else shirt(item), default=None)


def most_of(told: Mapping[str, Any]) -> int:
    return 1 if told["kind"] == "collapse" else int(told["most"])


def is_strict(told: Mapping[str, Any]) -> bool:
    return told["kind"] == "collapse" or bool(told["strict"])


def fits(item: str, shown: Sequence[str], caps: Sequence[dict[str, Any]]) -> bool:
    for told in caps:
        token = token_of(item, told)
        if token is not None and sum(token_of(each, told) == token for each in shown) >= most_of(told):
            return False
    return True


def named(rules: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{"id": f"r{at}", **told} for at, told in enumerate(rules)]


def caps_of(rules: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    return [told for told in rules if told["kind"] in ("cap", "collapse")]


@ask
@given(query=queries, weighed=weights, rules=st.lists(tables, max_size=6).map(named))
def test_hard_rules_hold_and_no_place_is_empty_that_could_be_taken(
    shop: Shop, query: SlateQuery, weighed: dict[str, float], rules: list[dict[str, Any]]
) -> None:
    filled = slate(shop, query, weighed, rules)
    shown = [place.item_id for place in filled.places]
    allowed = [item for item in CATALOGUE if may_be_shown(item, query, rules)]
    caps = caps_of(rules)
    yielded = max([effect.yielded for effect in filled.rules], default=0)
    assert filled.n_matching == len(allowed)
    assert len(set(shown)) == len(shown) <= query.k
    assert set(shown) <= set(allowed)
    for told in caps:
        counts = Counter(token_of(item, told) for item in shown)
        over = {token for token, n in counts.items() if token is not None and n > most_of(told)}
        assert not over or (not is_strict(told) and yielded)
    left = [item for item in allowed if item not in shown]
    if len(shown) < query.k:
        assert not [item for item in left if fits(item, shown, [told for told in caps if is_strict(told)])]
    if yielded:
        assert not [item for item in left if fits(item, shown, caps)]
    if not any(map(is_strict, caps)):
        assert len(shown) == min(query.k, len(allowed))
    assert filled == slate(shop, query, weighed, rules)
    assert [effect.rule_id for effect in filled.rules] == [told["id"] for told in rules]


@ask
@given(query=queries, weighed=weights, rules=st.lists(tables | pinned, max_size=7).map(named))
def test_pins_are_in_their_slots_where_they_may_be(
    shop: Shop, query: SlateQuery, weighed: dict[str, float], rules: list[dict[str, Any]]
) -> None:
    filled = slate(shop, query, weighed, rules)
    shown = [place.item_id for place in filled.places]
    held: dict[int, dict[str, Any]] = {}
    for told in rules:
        if told["kind"] == "pin" and told["item"] not in {each["item"] for each in held.values()}:
            held.setdefault(told["slot"], told)
    placed: list[str] = []
    for slot in sorted(held):
        item = held[slot]["item"]
        if slot <= query.k and may_be_shown(item, query, rules) and fits(item, placed, caps_of(rules)):
            placed.append(item)
            assert item in shown
            assert held[slot]["id"] in filled.places[shown.index(item)].rules
            assert shown.index(item) == slot - 1 or (slot > len(shown) and shown.index(item) < slot - 1)


@ask
@given(query=queries, weighed=weights, rules=st.lists(tables, max_size=6).map(named))
def test_the_blend_is_ordered_as_the_rules_read(
    shop: Shop, query: SlateQuery, weighed: dict[str, float], rules: list[dict[str, Any]]
) -> None:
    filled = slate(shop, query, weighed, rules)
    scores = blended(shop, query, weighed, rules)
    shown = [place.item_id for place in filled.places]
    wanted = arranged(scores, query, rules)
    assert [item for item in shown if item in wanted[: query.k]] == wanted
    plain = sorted(scores.values(), reverse=True)[: query.k]
    kept = sum(scores.get(item, 0.0) for item in wanted)
    assert sum(effect.cost for effect in filled.rules) == pytest.approx(sum(plain) - kept, abs=1e-9)
    for place in filled.places:
        expected = scores.get(place.item_id, 0.0) if place.sources[0] in weighed else 0.0
        assert place.score == pytest.approx(expected)


@settings(max_examples=40)
@given(query=queries, weighed=weights, rules=st.lists(tables, max_size=5).map(named))
def test_every_item_is_explained(
    shop: Shop, query: SlateQuery, weighed: dict[str, float], rules: list[dict[str, Any]]
) -> None:
    recent, book = acts().recent(query.user, ""), Rulebook(rules_of(rules))
    filling = Filling.of(
        shop.version, query, recent, shop.models, rows_in(shop.version), weighed, now_ms=NOW, rulebook=book
    )
    filling.run()
    filled = filling.told()
    shown = [place.item_id for place in filled.places]
    scores = blended(shop, query, weighed, rules)
    ranks = {item: at for at, item in enumerate(scores, 1)}
    for item in (*CATALOGUE, "nowhere"):
        told = explain(filling, filled, recent, item)
        assert told.message
        assert told.rank == ranks.get(item, 0)
        assert told.score == pytest.approx(scores.get(item, 0.0))
        assert told.score == pytest.approx(sum(each.contribution for each in told.sources))
        if item == "nowhere":
            assert told.outcome == "unknown"
        elif item in shown:
            assert (told.outcome, told.place) == ("shown", shown.index(item) + 1)
        elif not may_be_shown(item, query, rules):
            assert told.outcome == ("excluded" if item in (*query.items, *query.exclude) else "filtered")
            assert told.rules or told.outcome == "excluded"
            lone = [rule for rule in rules if rule["id"] in told.rules]
            assert told.outcome == "excluded" or not may_be_shown(item, query, lone)
        elif told.outcome == "removed":
            assert told.rules
        else:
            assert told.outcome == ("ranked_below" if item in scores else "not_retrieved")


def blended(
    shop: Shop, query: SlateQuery, weighed: Mapping[str, float], rules: Sequence[dict[str, Any]]
) -> dict[str, float]:
    """What each source gives to the items that may be shown: its weight to its best, less to others as their scores say."""
    recent = acts().recent(query.user, "")
    types = np.concatenate([recent.weights, np.ones(len(query.items), np.float32)])
    at_ms = np.concatenate([recent.at_ms, np.full(len(query.items), NOW)])
    scores: dict[str, float] = {}
    for source, weight in weighed.items():
        model = shop.models[source]
        asked = model.asked([*recent.items, *query.items], at_ms, types, NOW)
        every = np.full(-(-len(model.items) // 64), 2**64 - 1, np.uint64)
        found = model.candidates(asked, len(model.items), every)
        ranked = [(model.items.ids[at], score) for at, score in zip(found.items.tolist(), found.scores.tolist())]
        ranked = [each for each in ranked if each[0] in CATALOGUE and may_be_shown(each[0], query, rules)]
        for item, score in ranked[: 2 * query.k + 60]:
            scores[item] = scores.get(item, 0.0) + weight * (score / ranked[0][1])
    return dict(sorted(scores.items(), key=lambda each: (-each[1], each[0])))


def arranged(scores: Mapping[str, float], query: SlateQuery, rules: Sequence[dict[str, Any]]) -> list[str]:
    """Boosts and buries, then one place after the other: pins first, then the best that fits, then pins to their slots."""
    relevance = dict(scores)
    for told in rules:
        if told["kind"] in ("boost", "bury"):
            for item in relevance:
                relevance[item] *= told["factor"] if is_selected(item, told) else 1
    order = sorted(relevance, key=lambda item: -relevance[item])
    lambdas = [told["relevance"] for told in rules if told["kind"] == "diversity"]
    weight = lambdas[0] if lambdas else 1.0
    pins: dict[int, str] = {}
    for told in rules:
        if told["kind"] == "pin" and told["item"] not in pins.values():
            pins.setdefault(told["slot"], told["item"])
    chosen: list[str] = []
    slots: dict[str, int] = {}
    for slot in sorted(pins):
        allowed = slot <= query.k and may_be_shown(pins[slot], query, rules)
        if allowed and fits(pins[slot], chosen, caps_of(rules)):
            chosen.append(pins[slot])
            slots[pins[slot]] = slot
    left = [item for item in order if item not in chosen]
    greatest = max((relevance[item] for item in left), default=0.0) or 1.0
    while len(chosen) < query.k:
        fitting = [item for item in left if fits(item, chosen, caps_of(rules))]
        if not fitting:
            break
        best = min(fitting, key=lambda item: cost(item, chosen, 1 - relevance[item] / greatest, weight))
        chosen.append(best)
        left.remove(best)
    places = [item for item in chosen if item not in slots]
    for item, slot in sorted(slots.items(), key=lambda each: each[1]):
        places.insert(slot - 1, item)
    return places


def cost(item: str, chosen: Sequence[str], distance: float, weight: float) -> float:
    if weight == 1 or not chosen:
        return distance
    return weight * distance - (1 - weight) * min(unlike(item, other) for other in chosen)


def unlike(one: str, other: str) -> float:
    a, b = VECTORS[CATALOGUE.index(one)].astype(float), VECTORS[CATALOGUE.index(other)].astype(float)
    return float(1 - a @ b / np.sqrt((a @ a) * (b @ b)))


@settings(max_examples=25)
@given(
    writes=st.lists(
        st.tuples(st.sampled_from(["up", "down", "change"]), ids, st.lists(brand, max_size=2, unique=True)),
        min_size=1,
        max_size=8,
    )
)
def test_tokens_of_written_items_are_known_to_caps(
    shop: Shop, writes: list[tuple[str, str, list[str]]], tmp_path_factory: pytest.TempPathFactory
) -> None:
    held: dict[str, list[str]] = {item: list(brands(item)) for item in CATALOGUE}
    log = WriteLog.open(tmp_path_factory.mktemp("live") / "log")
    live = LiveIndex(shop.version, log)
    try:
        for kind, item, tokens in writes:
            written = Datapoint(item, (Restrict("brand", tuple(tokens)),) if tokens else ())
            if kind == "up":
                vector = VECTORS[:1] * len(held)
                write: Any = Upsert(written, {"vectors": vector}, {})
            elif kind == "change" and item in held:
                write = Change(written, frozenset({"restricts", "numeric_restricts"}))
            else:
                write = Delete(item)
            if isinstance(write, Delete):
                held.pop(item, None)
            else:
                held[item] = tokens
            live.wait(live.write([write]).last_sequence, deadline=time.monotonic() + 30)
        columns = live.snapshot.columns
        codes = columns.token_codes("brand")
        assert len(codes) == len(columns)
        found = {item: int(codes[columns.find(item)]) for item in held}
        for item, tokens in held.items():
            assert (found[item] < 0) == (not tokens)
        of_code = {(found[item], min(tokens)) for item, tokens in held.items() if tokens}
        assert len({code for code, _ in of_code}) == len({token for _, token in of_code}) == len(of_code)
        rows = np.array([columns.find(item) for item in held], np.int64)
        space = live.snapshot.spaces["vectors"]
        np.testing.assert_array_equal(space.centres(rows), [space.vectors_of(int(row)).mean(axis=0) for row in rows])
    finally:
        live.close()
        log.close()
