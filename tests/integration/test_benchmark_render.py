"""The page of the benchmarks and its drawings, from figures in the shape that the benchmarks write."""

from __future__ import annotations

import importlib
import json
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"
MACHINE = {"cpu": "some", "cores": 2, "memory_gib": 1.0, "kernels": "scalar", "load": 0.1, "commit": "1234567"}
TARGETS = ("0.90", "0.95", "0.99")


@pytest.fixture(scope="module")
def render() -> Iterator[ModuleType]:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(BENCHMARKS))
        yield importlib.import_module("render")


def peer(speed: int) -> dict[str, Any]:
    points = [{"recall": recall, "qps": speed // n} for n, recall in ((1, 0.7), (2, 0.9), (4, 0.97), (8, 1.0))]
    way = {"highest_recall": 1.0, "qps_at": dict.fromkeys(TARGETS, speed), "points": points}
    return {
        "build": {"version": "1.2+ab", "cpu_s": 3.0},
        "all_in_memory_mib": 5,
        "resident_mib": 4,
        "single": way,
        "batch": way,
    }


def searched() -> dict[str, Any]:
    ways = ("single", "batch")
    figures = {
        "machine": MACHINE,
        "queries": 1000,
        "repeats": 3,
        "threads": 2,
        "peers": {"likewise": peer(9000), "likewise-mapped": peer(8000), "scann": peer(4500)},
        "best_peer": {way: {"0.95": {"peer": "scann", "qps": 4500}} for way in ways},
        "times_faster": {way: {"scann": {"0.95": 2.0}} for way in ways},
    }
    return {"data": {"some 200000 x 384 ip": figures, "other 5000 x 25 l2": figures}}


def filtered() -> dict[str, Any]:
    under = {"likewise": {"qps_at": 900, "highest_recall": 1.0}, "hnswlib": {"qps_at": None, "highest_recall": 0.4}}
    filters = {f"{kind} {share}%": {"peers": under} for kind in ("random", "far") for share in ("50", "0.1")}
    return {"data": {"some 200000 x 384 ip": {"machine": MACHINE, "filters": filters}}}


def test_recalls_are_stretched_towards_one_and_back(render: ModuleType) -> None:
    recalls = np.array([0.2, 0.8, 0.9, 0.99, 1.0])
    places = render.stretched(recalls)
    assert np.all(np.diff(places) > 0)
    assert places[3] - places[2] > places[2] - places[1]
    np.testing.assert_allclose(render.shrunk(places), recalls)


def test_a_curve_is_the_front_and_begins_where_the_panel_does(render: ModuleType) -> None:
    points = [{"recall": r, "qps": s} for r, s in ((0.6, 8000), (0.9, 2000), (0.92, 50), (0.95, 1000))]
    recalls, speeds = render.curve(points)
    assert recalls == [render.LEAST_RECALL, 0.9, 0.95]
    assert speeds[1:] == [2000, 1000]
    assert 2000 < speeds[0] < 8000
    assert render.curve([{"recall": 0.5, "qps": 10}]) == ([], [])


def test_every_peer_is_drawn_in_its_own_way(render: ModuleType) -> None:
    styles = render.strokes(importlib.import_module("peers").PEERS)
    assert len({(style["color"], str(style["linestyle"])) for style in styles.values()}) == len(styles)
    assert all(style["zorder"] > styles["scann"]["zorder"] for name, style in styles.items() if "likewise" in name)


def test_what_was_not_run_is_left_out(render: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    results, docs = tmp_path / "results", tmp_path / "docs"
    results.mkdir()
    docs.mkdir()
    monkeypatch.setattr(render.harness, "RESULTS", results)
    monkeypatch.setattr(render, "DOCS", docs)
    render.main()
    assert [file.name for file in docs.iterdir()] == ["benchmarks.md"]
    assert (docs / "benchmarks.md").read_text() == render.HEAD
    (results / "graph_search.json").write_text(json.dumps(searched()))
    (results / "filtered_search.json").write_text(json.dumps(filtered()))
    render.main()
    assert {file.name for file in docs.iterdir()} == {"benchmarks.md", "graph_search.png", "filtered_search.png"}
    page = (docs / "benchmarks.md").read_text()
    assert "### some, 200,000 x 384, ip\n" in page
    assert "| scann 1.2 | 4,500 |" in page
    assert "single 0.95 2.0x (scann); batch 0.95 2.0x (scann)" in page
    assert "| random 50% | 900 | (0.4) |" in page
    assert "benchmarks.png" not in page


def test_growth_and_bandwidth_have_their_tables(render: ModuleType) -> None:
    of = {
        "us_per_query": 20.5,
        "single": {"highest_recall": 0.998},
        "build": {"cpu_s": 3.0},
        "all_in_memory_mib": 5,
    }
    grown = {
        "machine": MACHINE,
        "recall": 0.95,
        "data": "generated",
        "dim": 128,
        "sizes": {"2000": of, "20000": of},
        "growth": [{"from": 2000, "to": 20000, "times_slower": 1.4}],
    }
    assert "grew 1.4 times from 2,000 to 20,000 rows" in render.graph_growth(grown)
    assert "| 20,000 | 20.5 | 0.998 | 3.0 | 5 |" in render.graph_growth(grown)
    read = {"mib": 10.0, "us_per_query": 1234.5, "gb_per_s": 8.5, "share_of_bandwidth": 0.425}
    scanned = {
        "machine": MACHINE,
        "n": 20_000,
        "dim": 128,
        "metric": "l2",
        "gb_per_s": 20.0,
        "buffer_mib": 1024,
        "readers_gb_per_s": {"maximum": 20.0},
        "scans": {"int8": read},
    }
    assert "| int8 | 10.0 | 1,234 | 8.5 | 42% |" in render.scan_bandwidth(scanned)


def test_tables_stand_beside_the_searches_that_find_as_much(render: ModuleType) -> None:
    times = {"wall_s": [40.0, 50.0], "cpu_s": [80.0, 90.0], "items_per_s": 4444.4, "time_over_ours": 1.0}
    peers = {"FAISS HNSW": {"ef_search": 130, "recall": 0.9512}, "FAISS HNSW SQ8": {"ef_search": None, "recall": 0.94}}
    of = {"likewise": times, "FAISS HNSW": {**times, "time_over_ours": 1.5}}
    figures = {"machine": MACHINE, "k": 50, "n_items": 200_000, "threads": 2, "recall": 0.951, "table_mib": 60.4}
    page = render.export({**figures, "peers": peers, "of": of})
    assert "| FAISS HNSW, efSearch 130, search alone | 0.9512 | 4,444 | 45.0 | 85.0 | 1.50x |" in page
    assert "SQ8" not in page
