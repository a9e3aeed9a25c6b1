"""Runs in MLflow: what is recorded, that the store rules, and that MLflow may be lost."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("mlflow")

from index_builder.draft import Draft
from index_builder.progress import Silent
from index_builder.settings import BuildSettings
from lifecycle.runs.record import recorded
from lifecycle.runs.settings import RunsSettings
from lifecycle.runs.tracking import Tracking
from matching.datapoint import Datapoint
from matching.errors import NotFound, Unavailable
from matching.recommend.model_store import ModelStore, model_id_of
from matching.sources.training import train
from matching.store import Store
from tests.commands import likewise
from tests.interactions import NOW, random_interactions
from tests.mlflow_server import MlflowServer

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def no_runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A database as MLflow makes it, which takes it seconds."""
    store = Store(tmp_path_factory.mktemp("no-runs"), create=True)
    Tracking(store, RunsSettings())
    return store.path / "runs" / "mlflow.sqlite"


@pytest.fixture
def shop(tmp_path: Path, no_runs: Path) -> Store:
    """A store of one index version, `shop`."""
    store = Store(tmp_path / "shop", create=True)
    (store.path / "runs").mkdir()
    shutil.copy(no_runs, store.path / "runs")
    draft = Draft(store, BuildSettings(plan="flat", threads=1), Silent())
    space = draft.new_space("vectors", 4, space_id="test", metric="ip")
    for at in range(30):
        draft.columns.add(Datapoint(f"i{at:03d}"))
    space.vectors.append(np.random.default_rng(0).normal(size=(30, 4)).astype(np.float32), np.arange(30))
    built = draft.finish(source={"kind": "test", "digest": "d" * 64, "path": "somewhere"}, parent=None, log_sequence=7)
    store.set_alias("shop", built.version_id, why="test")
    return store


@pytest.fixture
def learn(shop: Store, tmp_path: Path) -> Any:
    """Return a function that trains a source on the events of a seed, and points an alias at the model."""
    models = ModelStore(shop.path)

    def learned(source: str, seed: int, alias: str = "champion") -> str:
        manifest = train(models, source, random_interactions(seed), now_ms=NOW)
        models.set_alias(source, model_id_of(manifest), alias=alias, why="test")
        return model_id_of(manifest)

    return learned


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MlflowServer]:
    running = MlflowServer(tmp_path_factory.mktemp("mlflow"))
    running.start()
    yield running
    running.kill()


def sync(store: Store, **settings: Any) -> Tracking:
    tracking = Tracking(store, RunsSettings(**settings))
    tracking.mirror(tuple(recorded(store)))
    return tracking


def aliases_of(tracking: Tracking, name: str) -> dict[str, str]:
    """The id that each alias of a registered model names, as MLflow itself tells it."""
    client = tracking._client
    found = client.get_registered_model(name).aliases
    return {alias: client.get_model_version(name, str(at)).tags["likewise.id"] for alias, at in found.items()}


def test_a_model_is_a_run_with_all_that_its_manifest_says(shop: Store, learn: Any, tmp_path: Path) -> None:
    model_id = learn("ials", 1)
    manifest = ModelStore(shop.path).manifest("ials")
    run = sync(shop).run(model_id)
    assert (run.group, run.made_id, run.status, run.aliases) == ("ials", model_id, "FINISHED", ("champion",))
    assert run.path == str(shop.path / "models" / "ials" / model_id)
    assert {name: run.params[f"settings.{name}"] for name in manifest.settings} == {
        name: json.dumps(value) for name, value in manifest.settings.items()
    }
    assert run.params["items_digest"] == manifest.items_digest
    assert run.params["profile.step_decay"] == json.dumps(manifest.profile.step_decay)
    assert run.metrics.items() >= dict(manifest.metrics).items()
    assert (run.metrics["n_items"], run.metrics["n_bytes"]) == (manifest.n_items, manifest.file.n_bytes)
    assert run.data["digest"] == random_interactions(1).digest()
    assert (run.data["first_ms"], run.data["last_ms"]) == (manifest.first_ms, manifest.last_ms)
    assert run.ended_at is not None
    assert run.ended_at.isoformat() == manifest.created_at
    assert (run.ended_at - run.started_at).total_seconds() == pytest.approx(
        manifest.metrics["fit_seconds"], abs=1.01e-3
    )


def test_an_index_version_is_a_run_too(shop: Store) -> None:
    version_id = shop.resolve("shop")
    run = sync(shop).run(version_id)
    assert (run.group, run.aliases, run.path) == ("index", ("shop",), str(shop.directory("shop")))
    assert run.metrics["n_datapoints"] == 30
    assert run.metrics["vectors.recall_at_10"] == 1
    assert (run.params["vectors.plan"], run.params["settings.plan"]) == ("flat", "flat")
    assert (run.data["digest"], run.data["log_sequence"], run.data["path"]) == ("d" * 64, 7, "somewhere")


def test_aliases_agree_with_those_of_the_store(shop: Store, learn: Any) -> None:
    first, second = learn("popular", 1), learn("popular", 2, "challenger")
    tracking = sync(shop)
    assert aliases_of(tracking, "shop-popular") == {"champion": first, "challenger": second}
    assert aliases_of(tracking, "shop-index") == {"shop": shop.resolve("shop")}

    version = {each.tags["likewise.id"]: each for each in tracking._client.search_model_versions("name='shop-popular'")}
    tracking._client.set_registered_model_alias("shop-popular", "champion", version[second].version)
    assert aliases_of(tracking, "shop-popular")["champion"] == second, "somebody moved it there by hand"
    assert tracking.mirror(tuple(recorded(shop))).n_aliases == 1
    assert aliases_of(tracking, "shop-popular")["champion"] == first, "the store rules"

    ModelStore(shop.path).set_alias("popular", second, why="test")
    tracking.mirror(tuple(recorded(shop, "popular")))
    assert aliases_of(tracking, "shop-popular") == {"champion": second, "challenger": second}
    assert {run.made_id: run.aliases for run in tracking.runs("popular")} == {
        first: (),
        second: ("challenger", "champion"),
    }


def test_an_alias_that_mlflow_cannot_hold_is_told_and_left_out(shop: Store, learn: Any) -> None:
    learn("popular", 1, "v1")
    learn("popular", 2, "a.b")
    learn("popular", 3)
    done = Tracking(shop, RunsSettings()).mirror(tuple(recorded(shop)))
    assert (done.n_runs, set(done.left_out)) == (4, {"popular: v1", "popular: a.b"})


def test_recording_twice_changes_nothing_and_what_was_lost_is_made_again(
    shop: Store, learn: Any, no_runs: Path
) -> None:
    learn("popular", 1)
    learn("ease", 1)
    tracking = sync(shop)
    before = tracking.runs()
    again = tracking.mirror(tuple(recorded(shop)))
    assert (again.n_runs, again.n_aliases) == (0, 0)
    assert tracking.runs() == before
    told = {run.made_id: asdict(run) | {"run_id": ""} for run in before}
    shutil.copy(no_runs, shop.path / "empty.sqlite")
    other = sync(shop, tracking_uri=f"sqlite:///{shop.path / 'empty.sqlite'}", experiment="shop")
    assert {run.made_id: asdict(run) | {"run_id": ""} for run in other.runs()} == told
    assert {run.run_id for run in other.runs()}.isdisjoint(run.run_id for run in before)


class Failing:
    """The real client, whose n-th call from now on is the last that is answered; a call of it may have been carried out."""

    def __init__(self, client: Any, n: int, is_done: bool) -> None:
        self._client, self._left, self._is_done = client, n, is_done

    def __getattr__(self, name: str) -> Any:
        call = getattr(self._client, name)

        def asked(*args: Any, **named: Any) -> Any:
            self._left -= 1
            if self._left < 0:
                if self._is_done and self._left == -1:
                    call(*args, **named)
                raise ConnectionError("cut")
            return call(*args, **named)

        return asked


@pytest.mark.parametrize("is_done", [False, True])
def test_a_recording_that_is_cut_short_anywhere_is_mended_by_the_next(shop: Store, learn: Any, is_done: bool) -> None:
    model_id = learn("popular", 1)
    tracking = Tracking(shop, RunsSettings())
    held, n_cuts = tracking._client, 0
    groups = tuple(recorded(shop, "popular"))
    whole = sync(shop, experiment="whole").run(model_id)
    while True:
        tracking._experiment = f"cut-{n_cuts}"
        tracking._client = Failing(held, n_cuts, is_done)  # type: ignore[assignment]
        try:
            tracking.mirror(groups)
        except Unavailable:
            tracking._client = held
            tracking.mirror(groups)
            n_cuts += 1
        else:
            break
        found = tracking.runs()
        (run,) = found
        assert asdict(run) | {"run_id": ""} == asdict(whole) | {"run_id": ""}, n_cuts
        registered = f"{tracking._experiment}-popular"
        (version,) = held.search_model_versions(f"name = '{registered}'")
        assert (version.tags["likewise.id"], version.run_id) == (model_id, run.run_id)
        assert aliases_of(tracking, registered) == {"champion": model_id}
        inputs = held.get_run(run.run_id).inputs
        assert inputs is not None
        assert len(inputs.dataset_inputs) == 1
    assert n_cuts >= 10


def test_there_is_no_run_of_a_name_that_nobody_made(shop: Store) -> None:
    with pytest.raises(NotFound, match=r"\[runs\] .* has no run 'nothing'"):
        sync(shop).run("nothing")


def test_a_server_is_used_where_the_settings_name_one(shop: Store, learn: Any, server: MlflowServer) -> None:
    model_id = learn("popular", 1)
    tracking = sync(shop, tracking_uri=server.url, experiment="on a server")
    assert Tracking(shop, RunsSettings()).runs() == (), "the store's own database"
    run = tracking.run(model_id)
    assert (run.status, run.aliases) == ("FINISHED", ("champion",))
    assert aliases_of(tracking, "on a server-popular") == {"champion": model_id}
    assert tracking.mirror(tuple(recorded(shop))).n_runs == 0


def test_a_server_that_is_gone_fails_no_training_and_is_mended_when_it_is_back(
    shop: Store, tmp_path: Path, server: MlflowServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    events = write_events(tmp_path / "events.parquet")
    monkeypatch.setenv("LIKEWISE__RUNS__RECORD", "true")
    monkeypatch.setenv("LIKEWISE__RUNS__TRACKING_URI", server.url.replace("//", "//me:secret@"))
    trained = ("train", "popular", "--events", events, "--store", shop.path)
    first = likewise(*trained)["model"]
    server.kill()
    code = "import sys; from lifecycle.cli import run; sys.exit(run(sys.argv[1:]))"
    done = subprocess.run(
        [sys.executable, "-c", code, *map(str, trained), "--json"], capture_output=True, text=True, cwd=ROOT
    )
    assert done.returncode == 0, done.stderr
    second = json.loads(done.stdout)["model"]
    assert ModelStore(shop.path).resolve("popular") == second != first
    assert "did not take or tell the runs" in done.stderr
    assert "likewise runs sync" in done.stderr
    assert "secret" not in done.stderr
    assert "did not take or tell" in likewise("runs", "list", "--store", shop.path, status=3)
    server.start()
    assert likewise("runs", "sync", "--store", shop.path)["n_runs"] == 2, "the model and the index version"
    runs = likewise("runs", "list", "--of", "popular", "--store", shop.path)
    assert {run["made_id"]: run["aliases"] for run in runs} == {first: [], second: ["champion"]}


_WATCHED = """
import json, sys, threading
asked, watched = [], ("socket.connect", "socket.getaddrinfo", "socket.sendto")
sys.addaudithook(lambda event, args: asked.append([event, repr(args)]) if event in watched else None)
from lifecycle.cli import run
status = run(sys.argv[1:])
print(json.dumps({"status": status, "asked": asked, "threads": [t.name for t in threading.enumerate()]}), file=sys.stderr)
"""


def test_training_with_runs_asks_no_network_starts_no_thread_and_writes_nowhere_else(
    shop: Store, tmp_path: Path
) -> None:
    events = write_events(tmp_path / "events.parquet")
    home = tmp_path / "home"
    home.mkdir()
    told = {k: v for k, v in os.environ.items() if not k.startswith(("PYTEST", "CI", "LIKEWISE", "MLFLOW", "XDG"))}
    done = subprocess.run(
        [sys.executable, "-c", _WATCHED, "train", "popular", "--events", events, "--store", shop.path, "--json"],
        capture_output=True,
        text=True,
        cwd=home,
        env=told | {"HOME": str(home), "PYTHONPATH": str(ROOT)},
    )
    *before, line = done.stderr.splitlines()
    assert json.loads(line) == {"status": 0, "asked": [], "threads": ["MainThread"]}
    assert before == ["reading"]  # the progress, and no warning
    assert json.loads(done.stdout)["alias"] == "champion"
    assert [file.name for file in home.rglob("*") if file.is_file()] == []
    assert {file.name for file in (shop.path / "runs").iterdir()} == {"mlflow.sqlite", "sync.lock"}


def test_builds_are_recorded_and_nothing_is_where_the_settings_say_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    vectors = tmp_path / "vectors.npy"
    np.save(vectors, np.random.default_rng(0).normal(size=(40, 4)).astype(np.float32))
    built = ("build", "--vectors", vectors, "--store", tmp_path / "shop", "--name", "shop")
    monkeypatch.setenv("LIKEWISE__RUNS__RECORD", "false")
    first = likewise(*built)["version"]
    assert not (tmp_path / "shop" / "runs").exists()
    monkeypatch.setenv("LIKEWISE__RUNS__RECORD", "true")
    second = likewise(*built)["version"]
    runs = likewise("runs", "list", "--store", tmp_path / "shop")
    assert {run["made_id"]: run["aliases"] for run in runs} == {first: [], second: ["shop"]}
    assert likewise("runs", "show", second, "--store", tmp_path / "shop")["params"]["seed"] == "0"


def test_what_a_server_says_is_shown_and_not_followed(shop: Store, capsys: pytest.CaptureFixture[str]) -> None:
    from lifecycle.cli import run

    tracking = sync(shop)
    made = tracking.runs()[0]
    tracking._client.log_param(made.run_id, "odd", "\x1b[2J[red]gone[/red]\x07")
    assert run(["runs", "show", made.run_id, "--store", str(shop.path)]) == 0
    told = capsys.readouterr().out
    assert "\x1b[2J" not in told
    assert "[red]gone[/red]" in told


def write_events(file: Path) -> Path:
    import pyarrow as pa
    import pyarrow.parquet as pq

    rng = np.random.default_rng(0)
    times = pa.array(np.sort(rng.integers(1_600_000_000_000, 1_610_000_000_000, 300)), pa.timestamp("ms", tz="UTC"))
    users, items = ([f"{kind}{at}" for at in rng.integers(0, 30, 300)] for kind in "ui")
    pq.write_table(
        pa.table({"user_id": users, "item_id": items, "event_type": ["purchase"] * 300, "timestamp": times}), file
    )
    return file
