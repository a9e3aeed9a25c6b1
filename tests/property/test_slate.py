"""Slates: filters and exclusions always hold, no place is empty that could be filled, none is there twice."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from matching.datapoint import Datapoint, Filter, NumericRestrict, Restrict
from matching.live import Delete, LiveIndex, Upsert, WriteLog
from matching.recommend import ItemRows, Model, ModelStore
from matching.recommend.model_store import model_id_of
from matching.sources.training import train
from matching.store import Store
from matching.version import IndexVersion
from serving.slate import SlateQuery, fill
from serving.users_in_memory import UsersInMemory
from tests.acts import event
from tests.interactions import NOW, random_interactions
from tests.versions import build_version

KNOWN = random_interactions(6, n_items=60, n=900)
SOURCES = ("popular", "sequential-rules", "item-knn", "bought-together", "ials")
# The catalogue has items that no model knows, and lacks some that models know.
CATALOGUE = (*KNOWN.item_ids[:45], *(f"new-{at:02d}" for at in range(30)))
Built = tuple[IndexVersion, dict[str, Model]]


def datapoint(item_id: str) -> Datapoint:
    number = sum(item_id.encode())
    return Datapoint(
        item_id,
        (Restrict("color", (("red", "blue", "green")[number % 3],)),),
        (NumericRestrict("price", number % 11, "int64"),),
    )


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Built:
    folder = tmp_path_factory.mktemp("slates")
    vectors = np.random.default_rng(1).normal(size=(len(CATALOGUE), 8)).astype(np.float32)
    version = build_version(Store(folder, create=True), [datapoint(item) for item in CATALOGUE], vectors, "cosine")
    store = ModelStore(folder)
    models = {}
    for source in SOURCES:
        model_id = model_id_of(train(store, source, KNOWN, now_ms=NOW))
        models[source] = store.open(source, model_id)
    return version, models


ids = st.sampled_from((*KNOWN.item_ids, *CATALOGUE[45:], "nowhere"))
restricts = st.builds(
    Restrict,
    st.just("color"),
    st.sampled_from([("red",), ("red", "blue"), ()]),
    st.sampled_from([(), ("red",)]),
)
numbers = st.builds(
    NumericRestrict, st.just("price"), st.integers(0, 10), st.just("int64"), st.sampled_from(["LESS", "GREATER"])
)
filters = st.builds(Filter, st.lists(restricts, max_size=1).map(tuple), st.lists(numbers, max_size=1).map(tuple))
queries = st.builds(
    SlateQuery,
    user=st.sampled_from(["", "u"]),
    items=st.lists(ids, max_size=3).map(tuple),
    basket=st.lists(ids, max_size=3).map(tuple),
    k=st.integers(1, 90),
    filter=filters,
    exclude=st.lists(ids, max_size=5).map(tuple),
    exclude_seen=st.booleans(),
    exclude_bought=st.booleans(),
)
weights = st.dictionaries(st.sampled_from([*SOURCES, "content"]), st.sampled_from([0.0, 0.5, 1.0]))
acts = st.lists(st.tuples(st.sampled_from(["view", "purchase"]), ids), max_size=6)


def passes(item: Datapoint, wanted: Filter) -> bool:
    (color,) = item.restricts[0].allow
    price = item.numeric_restricts[0].value
    for restrict in wanted.restricts:
        if (restrict.allow and color not in restrict.allow) or color in restrict.deny:
            return False
    return all(price < each.value if each.op == "LESS" else price > each.value for each in wanted.numeric_restricts)


def rows_in(version: IndexVersion) -> Callable[..., ItemRows]:
    return lambda items: ItemRows.of(items, version.columns)


@given(query=queries, weighed=weights, done=acts)
def test_a_slate_holds_what_may_be_shown_and_no_hole(
    built: Built, query: SlateQuery, weighed: dict[str, float], done: list[tuple[str, str]]
) -> None:
    version, models = built
    state = UsersInMemory()
    state.take([event(kind, item, user="u", at_s=NOW // 1000 - 60 + at) for at, (kind, item) in enumerate(done)])
    recent = state.recent(query.user, "")
    filled = fill(version, query, recent, models, rows_in(version), weighed, now_ms=NOW)
    out = {*query.items, *query.basket, *query.exclude}
    if query.user:
        out |= {item for kind, item in done if query.exclude_seen or (query.exclude_bought and kind == "purchase")}
    allowed = {item for item in CATALOGUE if passes(datapoint(item), query.filter)} - out
    shown = [place.item_id for place in filled.places]
    assert filled.n_matching == len(allowed)
    assert len(shown) == len(set(shown)) == min(query.k, len(allowed))
    assert set(shown) <= allowed
    assert all(place.sources and place.reason for place in filled.places)
    scores = [place.score for place in filled.places]
    assert scores == sorted(scores, reverse=True)
    for place in filled.places:
        assert place.because in {"", *recent.items, *query.items, *query.basket}
        blended = {source for source in place.sources if weighed.get(source)}
        assert (place.score > 0) == bool(blended)
    everywhere = fill(version, query, recent, models, rows_in(version), weighed, now_ms=NOW)
    assert everywhere == filled


def test_one_source_alone_is_its_own_ranking(built: Built) -> None:
    version, models = built
    history = UsersInMemory()
    history.take([event("purchase", KNOWN.item_ids[3], user="u", at_s=NOW // 1000 - 60)])
    recent = history.recent("u", "")
    model = models["item-knn"]
    filled = fill(version, SlateQuery(k=5), recent, models, rows_in(version), {"item-knn": 2.0}, now_ms=NOW)
    asked = model.asked(recent.items, recent.at_ms, recent.weights, NOW)
    every = np.full(1, 2**64 - 1, np.uint64)
    found = model.candidates(asked, 60, every)
    best = [model.items.ids[item] for item in found.items]
    served = [at for at, item in enumerate(best) if item in CATALOGUE]
    shares = found.scores[served] / found.scores[served[0]]
    assert [place.item_id for place in filled.places] == [item for item in best if item in CATALOGUE][:5]
    assert {place.because for place in filled.places} == {KNOWN.item_ids[3]}
    assert filled.places[0].reason == f"chosen by those who chose {KNOWN.item_ids[3]}"
    np.testing.assert_allclose([place.score for place in filled.places], 2 * shares[:5])


def test_what_the_page_shows_counts_and_a_visitor_of_nothing_gets_what_is_popular(built: Built) -> None:
    version, models = built

    def sources(**asked: Any) -> list[str]:
        query, recent = SlateQuery(k=75, **asked), UsersInMemory().recent("", "")
        weighed = {"bought-together": 1.0, "popular": 0.0}
        filled = fill(version, query, recent, models, rows_in(version), weighed, now_ms=NOW)
        return [place.sources[0] for place in filled.places]

    nobody = sources()
    assert nobody[0] == "popular"
    assert nobody[-1] == "any"
    page = sources(items=(KNOWN.item_ids[0],))
    assert page[0] == "bought-together"
    assert list(dict.fromkeys(page))[:2] == ["bought-together", "sequential-rules"]
    unknown = sources(items=("new-07",))  # no model knows it: its content speaks
    assert unknown[0] == "content"


@given(st.lists(st.tuples(st.sampled_from(["up", "new", "down"]), st.integers(0, 59)), min_size=1, max_size=12))
def test_items_are_found_where_live_writes_put_them(built: Built, writes: list[tuple[str, int]]) -> None:
    version, models = built
    items = models["popular"].items
    there = set(CATALOGUE)
    rng = np.random.default_rng(3)
    with tempfile.TemporaryDirectory() as folder:
        log = WriteLog.open(Path(folder) / "log")
        live = LiveIndex(version, log)
        try:
            held = ItemRows.of(items, live.snapshot.columns)
            for kind, at in writes:
                item_id = KNOWN.item_ids[at]
                vector = rng.normal(size=(1, 8)).astype(np.float32)
                write = Delete(item_id) if kind == "down" else Upsert(datapoint(item_id), {"vectors": vector}, {})
                there = there - {item_id} if kind == "down" else there | {item_id}
                live.wait(live.write([write]).last_sequence, deadline=time.monotonic() + 30)
                held = held.grown(live.snapshot.columns)
            columns = live.snapshot.columns
            allowed = held.allowed(columns.matching(Filter()), len(columns))
            found = {items.ids[at] for at in range(len(items)) if int(allowed[at // 64]) >> (at % 64) & 1}
            assert found == there & set(items.ids)
            for item_id in found:
                assert held.rows[items.find(item_id)] == columns.find(item_id)
        finally:
            live.close()
            log.close()
