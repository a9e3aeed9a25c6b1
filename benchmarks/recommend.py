"""What does a slate cost in process, with five sources over 100,000 items, and a million users' state?

The catalogue and the events are generated: items and users belong to 500 tastes, and an item's popularity falls as 1 / rank
within its taste. A graph index holds 64 numbers an item. Each request is of another user with 20 remembered acts and one item on
the page; a third of them is under a filter that a tenth of the items passes. One thread; CPU of the process and wall time of each
request. The state of users is filled by events of 10 acts each, and its memory is what the process has grown by.
"""

from __future__ import annotations

import argparse
import json
import resource
import sys
import tempfile
import time
from pathlib import Path

sys.path.append(sys.path.pop(0))  # a benchmark beside this one is called as a package is

import harness
import numpy as np
from numpy.typing import NDArray

from index_builder.draft import Draft
from index_builder.progress import Silent
from index_builder.settings import BuildSettings
from matching.datapoint import Datapoint, Filter, Restrict
from matching.events import Event, EventItem
from matching.interactions import DAY_MS, Interactions
from matching.recommend import ItemRows, ModelStore
from matching.recommend.model_store import model_id_of
from matching.rules import Rulebook
from matching.rules.parsing import rules_of
from matching.sources.training import train
from matching.store import Store
from serving.slate import SlateQuery, fill
from serving.users_in_memory import UsersInMemory

NOW = 400 * DAY_MS
N_TASTES = 500
TRAINED = ("sequential-rules", "item-knn", "bought-together", "trending")
WEIGHTS = dict.fromkeys((*TRAINED, "content"), 1.0)

RULES = [
    {"id": "shown", "kind": "hide", "allow": {"brand": ["7"]}},
    {"id": "lifted", "kind": "boost", "factor": 1.5, "allow": {"tenth": ["3"]}},
    {"id": "brands", "kind": "cap", "namespace": "brand", "most": 2},
    {"id": "variants", "kind": "collapse", "namespace": "variant"},
    {"id": "mixed", "kind": "diversity"},
]


def events(rng: np.random.Generator, n_items: int, n_users: int, n_each: int) -> Interactions:
    """Return what users of one or two tastes each took, in visits."""
    by_taste = np.argsort(rng.integers(0, N_TASTES, n_items), kind="stable").reshape(N_TASTES, -1)
    chances = 1 / np.arange(1, by_taste.shape[1] + 1)
    taste = rng.integers(0, N_TASTES, (n_users, 2))[np.arange(n_users)[:, None], rng.integers(0, 2, (n_users, n_each))]
    places = rng.choice(by_taste.shape[1], (n_users, n_each), p=chances / chances.sum())
    visits = np.sort(rng.integers(0, NOW, (n_users, n_each)), axis=1) // (7 * DAY_MS) * (7 * DAY_MS)
    at_ms = (visits + np.arange(n_each) * 60_000).ravel()
    order = np.argsort(at_ms, kind="stable")
    users = np.repeat(np.arange(n_users, dtype=np.int32), n_each)
    items = by_taste[taste, places].ravel().astype(np.int32)
    ones: NDArray[np.float32] = np.ones(len(order), np.float32)
    user_ids, item_ids = (tuple(f"{at:07d}" for at in range(n)) for n in (n_users, n_items))
    return Interactions(user_ids, item_ids, users[order], items[order], at_ms[order], ones, ones)


def told(user: str, items: list[str], at_ms: list[int]) -> list[Event]:
    """Return a user's acts as events."""
    return [
        Event(f"{user}-{at}", "purchase", user, "", (EventItem(item),), at, at)
        for item, at in zip(items, at_ms, strict=True)
    ]


def state_of(n_users: int, n_acts: int, n_items: int) -> dict[str, float]:
    """Return what the state of so many users takes."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    began, state = time.process_time(), UsersInMemory(max_users=n_users)
    names = [f"{at:07d}" for at in range(n_items)]
    for user in range(n_users):
        items = tuple(EventItem(names[(user * 7919 + at * 104_729) % n_items]) for at in range(n_acts))
        state.take([Event("", "view", f"{user:032x}", "", items, NOW, NOW)])
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024
    seconds = time.process_time() - began
    return {"n_users": len(state), "acts_each": n_acts, "bytes_a_user": grown / n_users, "cpu_s": seconds}


def main() -> None:
    """Measure and print JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--items", type=int, default=100_000)
    parser.add_argument("--users", type=int, default=50_000)
    parser.add_argument("--requests", type=int, default=2000)
    parser.add_argument("--state-users", type=int, default=1_000_000)
    parser.add_argument("--rules", action="store_true", help="slates under a boost, a cap, a collapse and diversity")
    asked = parser.parse_args()
    result: dict[str, object] = {"machine": harness.machine(), "state": state_of(asked.state_users, 10, asked.items)}
    rng = np.random.default_rng(1)
    known = events(rng, asked.items, asked.users, 20)
    with tempfile.TemporaryDirectory() as folder:
        store = Store(Path(folder) / "store", create=True)
        draft = Draft(store, BuildSettings(plan="graph", threads=2), Silent())
        space = draft.new_space("vectors", 64, space_id="made", metric="cosine")
        for at, item in enumerate(known.item_ids):
            tokens = ("tenth", at % 10), ("brand", at % 300), ("variant", at // 3)
            draft.columns.add(Datapoint(item, tuple(Restrict(name, (str(token),)) for name, token in tokens)))
        vectors = rng.normal(size=(N_TASTES, 64))[rng.integers(N_TASTES, size=asked.items)]
        vectors = (vectors + rng.normal(size=vectors.shape) * 0.7).astype(np.float32)
        vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
        space.vectors.append(vectors, np.arange(asked.items))
        version = store.open(draft.finish(source={"kind": "benchmark"}, parent=None).version_id)
        models_of = ModelStore(store.path)
        models = {}
        for source in TRAINED:
            manifest = train(models_of, source, known, now_ms=NOW)
            models[source] = models_of.open(source, model_id_of(manifest))
            result[f"fit_s {source}"] = manifest.metrics["fit_seconds"]
        rows = ItemRows.of(models["trending"].items, version.columns)
        state = UsersInMemory()
        for user in range(asked.requests):
            history = known.history(user)
            state.take(told(str(user), [known.item_ids[item] for item in history.items], history.at_ms.tolist()))
        book = Rulebook(rules_of(RULES if asked.rules else []))
        spent, cpu = [], time.process_time()
        for user in range(asked.requests):
            tenth = Filter((Restrict("tenth", (str(user % 10),)),)) if user % 3 == 0 else Filter()
            page = (known.item_ids[int(known.history(user).items[0])],)
            query = SlateQuery(user=str(user), items=page, k=10, filter=tenth, exclude_bought=True)
            began = time.perf_counter()
            recent = state.recent(str(user), "")
            filled = fill(version, query, recent, models, lambda _: rows, WEIGHTS, now_ms=NOW, rulebook=book)
            spent.append(time.perf_counter() - began)
            assert len(filled.places) == 10
        p50, p99 = np.percentile(np.array(spent) * 1e3, [50, 99])
        cpu_ms = (time.process_time() - cpu) / asked.requests * 1e3
        result["recommend"] = {"n_requests": asked.requests, "p50_ms": p50, "p99_ms": p99, "cpu_ms": cpu_ms}
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
