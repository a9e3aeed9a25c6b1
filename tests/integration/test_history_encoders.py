"""Encoders of histories: they learn what is there to learn, survive a kill, and are served as they were trained."""

from __future__ import annotations

import signal
import subprocess
import sys
from dataclasses import replace
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from numpy.typing import NDArray

from embeddings.histories import OnnxHistoryEncoder, load_history_encoder, training
from embeddings.histories.examples import Examples, question_before
from embeddings.histories.training import EncodedSource, Learned, learn, train
from embeddings.settings import HistoryTrainingSettings, TwoTowerSettings
from matching.datapoint import Datapoint
from matching.errors import CorruptArtifact, InvalidInput, SpaceMismatch
from matching.interactions import DAY_MS, Interactions
from matching.recommend import Model, ModelStore
from matching.recommend.model_store import model_id_of
from matching.store import Store
from tests.commands import likewise
from tests.services import Shop
from tests.versions import build_version
from tests.waiting import wait_until

if TYPE_CHECKING:
    from tests.services import Start

pytest.importorskip("torch")
N_ITEMS, LENGTH = 60, 12
CHANCES = np.array([0.6, 0.3, 0.1])
NOW = LENGTH * DAY_MS
SMALL: dict[str, Any] = {"dim": 32, "new_only": False, "max_items": 12, "dropout": 0.0, "learning_rate": 0.01}
SETTINGS = {
    "sasrec": HistoryTrainingSettings(**SMALL, max_epochs=12, validation_days=1),
    "two-tower": TwoTowerSettings(**SMALL, max_epochs=12, validation_days=1, n_negatives=256),
}
QUICK = HistoryTrainingSettings(**SMALL, max_epochs=2, validation_days=1)


def chains(seed: int, n_users: int = 500) -> tuple[Interactions, NDArray[np.int64]]:
    """Users who step from item to item by chance: after each item comes one of three, each by its chance."""
    rng = np.random.default_rng(seed)
    after = np.stack([rng.permutation(N_ITEMS)[:3] for _ in range(N_ITEMS)])
    steps = np.empty((n_users, LENGTH), np.int32)
    steps[:, 0] = rng.integers(0, N_ITEMS, n_users)
    for at in range(1, LENGTH):
        steps[:, at] = after[steps[:, at - 1], rng.choice(3, n_users, p=CHANCES)]
    at_ms = np.repeat(np.arange(LENGTH), n_users) * DAY_MS
    n = n_users * LENGTH
    known = Interactions(
        tuple(f"u{at:04d}" for at in range(n_users)),
        tuple(f"i{at:03d}" for at in range(N_ITEMS)),
        np.tile(np.arange(n_users, dtype=np.int32), LENGTH),
        steps.T.ravel(),
        at_ms,
        np.ones(n, np.float32),
        np.zeros(n, np.float32),
    )
    return known, after


KNOWN, AFTER = chains(0)


@pytest.fixture(scope="module", params=sorted(SETTINGS))
def trained(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Model, ModelStore]:
    folder = tmp_path_factory.mktemp("store")
    store = ModelStore(folder, load_encoder=load_history_encoder)
    manifest = train(store, request.param, KNOWN, SETTINGS[request.param], now_ms=NOW)
    store.set_alias(request.param, model_id_of(manifest), why="test")
    return store.open(request.param), store


def everything(model: Model) -> NDArray[np.uint64]:
    return np.packbits(np.arange(64) < len(model.items), bitorder="little").view(np.uint64)


def asked(model: Model, items: list[str]) -> Any:
    n = len(items)
    return model.asked(items, np.zeros(n, np.int64), np.ones(n, np.float32), NOW)


def test_what_comes_next_is_learned(trained: tuple[Model, ModelStore]) -> None:
    model, _ = trained
    right = 0
    for item in range(N_ITEMS):
        found = model.candidates(asked(model, ["i000", f"i{item:03d}"]), 3, everything(model))
        assert found.scores[0] == 1
        assert (np.diff(found.scores) <= 0).all()
        assert (found.scores > 0).all()
        right += len(set(AFTER[item].tolist()) & set(found.items.tolist()))
    # Of random ones 9 would be right. A mean of items knows no order: groups are what it learns, not chains.
    assert right > (0.85 * 3 * N_ITEMS if model.source == "sasrec" else 27)


def test_candidates_are_the_best_of_what_the_scoreboard_scores(trained: tuple[Model, ModelStore]) -> None:
    model, _ = trained
    arrays = {name: np.asarray(model._arrays[name]) for name in ("vectors", "onnx", "weights")}
    encoder = load_history_encoder(model.manifest, arrays)
    learned = Learned(encoder, np.arange(N_ITEMS), b"", b"", 0, ())
    rng = np.random.default_rng(0)
    for user in range(10):
        history = KNOWN.history(user)
        allowed = rng.random(64) < 0.5
        bitmap = np.packbits(allowed & (np.arange(64) < N_ITEMS), bitorder="little").view(np.uint64)
        scores = EncodedSource("slow", learned, N_ITEMS).scores([history], NOW)[0]
        found = model.candidates(asked(model, [KNOWN.item_ids[item] for item in history.items]), 7, bitmap)
        expected = np.sort(scores[allowed[:N_ITEMS]])[::-1][:7]
        np.testing.assert_allclose(scores[found.items], expected, rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(found.scores, np.exp(expected - expected[0]), rtol=1e-3)


def test_the_reason_is_the_likest_item_of_the_history(trained: tuple[Model, ModelStore]) -> None:
    model, _ = trained
    history = asked(model, ["i003", "no such item", "i009", "i003"])
    assert history.items.tolist() == [3, 9, 3]
    vectors = np.asarray(model._arrays["vectors"])
    for item, reason in zip(range(20), model.because(history, np.arange(20)).tolist()):
        cosines = {at: vectors[at] @ vectors[item] / np.linalg.norm(vectors[at]) for at in (3, 9)}
        assert reason == max(cosines, key=lambda at: cosines[at])
    assert len(model.candidates(asked(model, ["no such item"]), 3, everything(model)).items) == 0


def test_only_the_newest_items_are_read(trained: tuple[Model, ModelStore]) -> None:
    model, _ = trained
    long = [f"i{at % N_ITEMS:03d}" for at in range(100)]
    assert asked(model, long).items.tolist() == [at % N_ITEMS for at in range(88, 100)]


def test_a_model_says_what_it_was_learned_from_and_keeps_its_weights(trained: tuple[Model, ModelStore]) -> None:
    from safetensors.numpy import load

    model, store = trained
    manifest = model.manifest
    assert manifest.form == "encoder"
    assert len(manifest.space_id) == 32
    assert manifest.from_bytes(manifest.to_bytes()) == manifest
    assert manifest.metrics["validation_ndcg_at_10"] > (0.5 if model.source == "sasrec" else 0.15)
    assert 1 <= manifest.metrics["n_epochs"] <= 12
    weights = load(np.asarray(model._arrays["weights"]).tobytes())
    own = weights["items.own.weight"]
    if model.source == "two-tower":
        own = own / np.linalg.norm(own, axis=1, keepdims=True)
    np.testing.assert_allclose(own, np.asarray(model._arrays["vectors"]), rtol=1e-5, atol=1e-6)
    plain = ModelStore(store._path.parent).open(model.source)
    with pytest.raises(InvalidInput, match="opened without its encoder"):
        plain.candidates(asked(plain, ["i001"]), 3, everything(plain))


def test_vectors_and_graphs_of_two_trainings_never_meet(trained: tuple[Model, ModelStore]) -> None:
    model, _ = trained
    arrays = dict(model._arrays)
    other = learn(KNOWN, QUICK, question=None)
    with pytest.raises(SpaceMismatch, match=r"belongs to the space .* expected one space"):
        load_history_encoder(model.manifest, {**arrays, "onnx": np.frombuffer(other.graph, np.uint8)})
    with pytest.raises(SpaceMismatch, match="makes vectors of the space"):
        Model(model.model_id, model.manifest, model.items, arrays, encoder=other.encoder)
    with pytest.raises(CorruptArtifact, match="cannot load a graph of 7 bytes"):
        OnnxHistoryEncoder(b"nothing", other.encoder.vectors, max_items=5, space_id=other.encoder.space_id)


def test_many_items_are_searched_by_a_graph(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(training, "MAX_SCANNED", 10)
    store = ModelStore(tmp_path, load_encoder=load_history_encoder)
    name = model_id_of(train(store, "sasrec", KNOWN, QUICK, now_ms=NOW))
    model = store.open("sasrec", name)
    file = tmp_path / "models" / "sasrec" / name / "model.graph"
    assert model.manifest.graph is not None
    assert file.exists()
    scanned = Model(model.model_id, model.manifest, model.items, model._arrays, encoder=model._encoder)
    few = np.packbits((np.arange(64) % 3 == 0) & (np.arange(64) < N_ITEMS), bitorder="little").view(np.uint64)
    for item in range(0, N_ITEMS, 7):
        for bitmap in (everything(model), few):
            history = asked(model, [f"i{item:03d}"])
            by_graph, by_scan = (each.candidates(history, 5, bitmap) for each in (model, scanned))
            assert by_graph.items.tolist() == by_scan.items.tolist()
            np.testing.assert_allclose(by_graph.scores, by_scan.scores, rtol=0.02)
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    with pytest.raises(CorruptArtifact, match=r"model\.graph is not the file that was sealed"):
        store.open("sasrec", name)


def fitted(settings: HistoryTrainingSettings, **more: Any) -> Any:
    from embeddings.histories.fitting import Fit

    return Fit(Examples.of(KNOWN), settings, "test", settings.max_epochs, **more).result()


def test_the_same_twice_and_another_seed_another() -> None:
    first, second, other = (
        fitted(QUICK.model_copy(update={"seed": seed, "dropout": 0.2})).network.state_dict() for seed in (0, 0, 1)
    )
    assert all(tensor.equal(second[name]) for name, tensor in first.items())
    assert not other["items.own.weight"].equal(first["items.own.weight"])


def test_it_stops_when_nothing_is_gained_near_what_can_be_known() -> None:
    from embeddings.histories.fitting import ndcg

    asked = question_before(KNOWN, NOW, days=1, new_only=False)
    assert asked is not None
    settings = SETTINGS["sasrec"].model_copy(update={"max_epochs": 60, "patience": 3, "dropout": 0.2})
    found = fitted(settings, question=asked)
    assert len(found.reached) == found.n_epochs + 3 < 60
    assert found.reached[found.n_epochs - 1] > max(found.reached) - 1e-4
    assert ndcg(found.network, Examples.of(KNOWN), asked) == found.reached[found.n_epochs - 1]
    # KNOWN holds what is asked; the same chains told by others are the honest question
    others = question_before(chains(0, n_users=900)[0], NOW, days=1, new_only=False)
    assert others is not None
    fresh = replace(others, histories=others.histories[500:], targets=others.targets[500:])
    oracle = float((CHANCES / np.log2(np.arange(2, 5))).sum())
    popular = 4.54 / N_ITEMS  # all items are as likely; the gains of the first ten places are 4.54 in all
    assert ndcg(found.network, Examples.of(KNOWN), fresh) > 0.9 * oracle > 5 * popular


def events_file(path: Path, known: Interactions) -> Path:
    start = datetime(2024, 1, 1, tzinfo=timezone.utc).timestamp()
    pq.write_table(
        pa.table(
            {
                "user_id": [known.user_ids[user] for user in known.users],
                "item_id": [known.item_ids[item] for item in known.items],
                "event_type": ["purchase"] * len(known),
                "timestamp": [datetime.fromtimestamp(start + at / 1000, timezone.utc) for at in known.at_ms.tolist()],
            }
        ),
        path,
    )
    return path


def settings_file(folder: Path, **more: object) -> Path:
    told = {**SMALL, "validation_days": 1, **more}
    file = folder / "settings.toml"
    file.write_text("[sasrec]\n" + "".join(f"{name} = {str(value).lower()}\n" for name, value in told.items()))
    return file


def test_a_killed_training_goes_on_to_the_same_model(tmp_path: Path) -> None:
    events = events_file(tmp_path / "events.parquet", KNOWN)
    settings = settings_file(tmp_path, max_epochs=4, checkpoint_steps=3, batch_items=512)
    whole, killed = (Store(tmp_path / name, create=True).path for name in ("whole", "killed"))
    command = ["--settings", str(settings), "train", "sasrec", "--events", str(events), "--store"]
    likewise(*command, whole)
    unfinished = killed / "models" / "sasrec"
    for n_files in (1, 2):  # while it is watched, and while it learns everything
        process = subprocess.Popen(
            [sys.executable, "-m", "lifecycle", *command, str(killed)],
            stderr=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
        )
        wait_until(lambda n=n_files: len(list(unfinished.glob("*.safetensors"))) >= n, limit_s=120)
        process.send_signal(signal.SIGKILL)
        assert process.wait(30) == -signal.SIGKILL
        assert not ModelStore(killed).models("sasrec")
    likewise(*command, killed)
    first, second = (ModelStore(store).open("sasrec") for store in (whole, killed))
    assert all(np.array_equal(array, second._arrays[name]) for name, array in first._arrays.items())
    assert not list(unfinished.glob("*.safetensors"))


def test_new_items_have_vectors_by_what_they_share_with_others() -> None:
    """Items 0 to 59 in three groups; users stay in one; the catalogue has an item more a group, that nobody took."""
    rng = np.random.default_rng(0)
    n_users = 300
    group = rng.integers(0, 3, n_users)
    items = (rng.integers(0, 20, (LENGTH, n_users)) * 3 + group).astype(np.int32)
    known = Interactions(
        tuple(f"u{at:04d}" for at in range(n_users)),
        tuple(f"i{at:03d}" for at in range(63)),
        np.tile(np.arange(n_users, dtype=np.int32), LENGTH),
        items.ravel(),
        np.repeat(np.arange(LENGTH), n_users) * DAY_MS,
        np.ones(items.size, np.float32),
        np.zeros(items.size, np.float32),
    )
    features = [[f"group {at % 3}", f"size {at % 5}"] for at in range(63)]
    settings = SETTINGS["two-tower"].model_copy(update={"leave_out": 0.3, "max_epochs": 8})
    learned = learn(known, settings, question=None, features=features)
    assert learned.known.tolist() == list(range(63))
    scores = EncodedSource("two-tower", learned, 63).scores([known.history(user) for user in range(60)], NOW)
    new = scores[:, 60:]
    assert (np.argmax(new, axis=1) == group[:60]).mean() > 0.95
    without = learn(known, settings, question=None)
    assert without.known.max() < 60


def test_the_command_trains_and_a_service_follows(tmp_path: Path, start_service: Start) -> None:
    store = Store(tmp_path / "store", create=True)
    vectors = np.random.default_rng(0).normal(size=(N_ITEMS, 8)).astype(np.float32)
    build_version(store, [Datapoint(item) for item in KNOWN.item_ids], vectors, "cosine", alias="shop")
    events = events_file(tmp_path / "events.parquet", KNOWN)
    settings = settings_file(tmp_path, max_epochs=8)
    answer = likewise("--settings", settings, "train", "sasrec", "--events", events, "--store", store.path)
    assert answer["n_items"] == N_ITEMS
    with start_service(Shop(store.path, "shop"), recommend={"sources": {"sasrec": 1.0}}) as service:
        service.wait_until_ready()
        right = 0
        for item in range(20):
            code, _, slate = service.ask("POST", "/v1/recommend", {"items": ["i001", f"i{item:03d}"], "k": 3})
            assert code == 200, slate
            assert slate["models"]["sasrec"] == answer["model"]
            assert {each["sources"][0] for each in slate["items"]} == {"sasrec"}
            assert "fits what you did last, as i" in slate["items"][0]["reason"]
            right += len({each["itemId"] for each in slate["items"]} & {f"i{at:03d}" for at in AFTER[item]})
        assert right > 40
        loaded = Path(f"/proc/{service.process.pid}/maps")
        if loaded.exists():
            assert "libtorch" not in loaded.read_text()
            assert "onnxruntime" in loaded.read_text()


def test_the_scoreboard_measures_them_where_they_are_named(tmp_path: Path) -> None:
    events = events_file(tmp_path / "events.parquet", KNOWN)
    settings = settings_file(tmp_path, max_epochs=6)
    asked = ["evaluate", events, "--cut", "2024-01-12", "--days", "1", "--repeats", "--source", "sasrec"]
    board = likewise("--settings", settings, *asked)
    rows = {row["source"]: row for row in board["rows"]}
    assert rows["sasrec"]["metrics"]["ndcg@10"]["mean"] > 2 * rows["popular"]["metrics"]["ndcg@10"]["mean"]
    assert not rows["sasrec"]["is_baseline"]
    assert "two-tower" not in rows
