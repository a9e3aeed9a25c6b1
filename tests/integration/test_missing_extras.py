"""A plain install says which extra it needs, and does without what it can."""

from __future__ import annotations

import contextlib
import io
import sys
from pathlib import Path

import numpy as np
import pytest

from lifecycle.cli import run
from matching.datapoint import Datapoint
from matching.errors import MissingExtra
from tests.versions import MakeVersion


def test_flat_and_graph_versions_need_no_faiss(
    make_version: MakeVersion, monkeypatch: pytest.MonkeyPatch, rng: np.random.Generator
) -> None:
    monkeypatch.setitem(sys.modules, "faiss", None)
    vectors = rng.standard_normal((100, 8)).astype(np.float32)
    points = [Datapoint(f"{at}") for at in range(100)]
    version = make_version(points, vectors)
    assert version.manifest.build["faiss"] is None
    assert version.search(vectors[7:8], 1, space="vectors").neighbors[0][0].datapoint_id == "7"
    graph = make_version(points, vectors, plan="graph", recall_target=0.5)
    assert graph.search(vectors[7:8], 1, space="vectors", effort=16).neighbors[0][0].datapoint_id == "7"
    with pytest.raises(MissingExtra, match=r"pip install likewise\[cpu\]"):
        make_version(points, vectors, plan="hnsw")


def test_serving_names_its_extra(
    make_version: MakeVersion, monkeypatch: pytest.MonkeyPatch, rng: np.random.Generator, tmp_path: Path
) -> None:
    make_version([Datapoint("a"), Datapoint("b")], rng.standard_normal((2, 4)).astype(np.float32), alias="x")
    for name in [name for name in sys.modules if name.startswith("serving.")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "prometheus_client", None)
    complaint = io.StringIO()
    with contextlib.redirect_stderr(complaint):
        status = run(["serve", "--store", str(tmp_path / "store"), "--name", "x"])
    assert status == 3
    assert "prometheus_client is not installed here" in complaint.getvalue()
    assert "likewise[cpu,encode,serve]" in complaint.getvalue()
