"""What earlier programs wrote: versions, logs and snapshots keep loading, and answer as they did.

`artefacts/release-1` holds a version of manifest format 1 with its log. `artefacts/snapshot-1` is a snapshot of format 1 of the
same shop after a compaction, with a version of manifest format 2. They are never written anew: a new format gets one more folder.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from index_builder.progress import Silent
from lifecycle.snapshot import restore_snapshot
from matching.datapoint import Filter, NumericRestrict, Restrict, SparseRows
from matching.errors import CorruptArtifact
from matching.live import Delete, LiveIndex, WriteLog
from matching.live.segment import HEADER_BYTES, crc32c
from matching.store import Store
from matching.version import IndexVersion

ARTEFACTS = Path(__file__).parent / "artefacts"
AXIS = np.eye(8, dtype=np.float32)


def ids(version: IndexVersion, axis: int, k: int, **how: object) -> list[str]:
    return [n.datapoint_id for n in version.search(AXIS[[axis]], k, space="vectors", **how).neighbors[0]]  # type: ignore[arg-type]


@pytest.fixture
def release(tmp_path: Path) -> Path:
    return Path(shutil.copytree(ARTEFACTS / "release-1", tmp_path / "release"))


def test_a_version_of_the_first_format_answers(release: Path) -> None:
    store = Store(release / "store")
    assert store.verify("shop") > 0
    version = store.open("shop")
    assert (json.loads((store.directory("shop") / "manifest.json").read_text())["format"], version.n_datapoints) == (
        1,
        70,
    )
    assert version.manifest.log_sequence == 0
    assert version.space("vectors").plan_name == "graph"
    for how in ({"exact": True}, {"effort": 70}):
        assert sorted(ids(version, 3, 9, **how)) == [f"item-{at:02}" for at in range(3, 70, 8)]
    cheap = Filter((Restrict("axis", ("a3",)),), (NumericRestrict("price", 10.0, "float64", "LESS"),))
    assert sorted(ids(version, 3, 9, filter=cheap)) == ["item-03", "item-11", "item-19"]
    side = SparseRows(np.array([0, 1]), np.array([3]), np.ones(1, np.float32))
    assert set(ids(version, 3, 2, sparse=side)) == {"item-03", "item-43"}
    assert version.datapoints(["item-11"])[0].metadata == {"title": "Item 11"}


def test_its_log_is_followed_and_goes_on(release: Path) -> None:
    base = Store(release / "store").open("shop")
    with WriteLog.open(release / "logs" / "shop") as log:
        live = LiveIndex(base, log)
        assert (log.first_sequence, live.snapshot.sequence) == (1, 9)
        assert live.snapshot.n_datapoints == 70 + 1 - 7
        assert live.snapshot.datapoints(["new"])[0].crowding_tag == "t9"
        assert live.snapshot.datapoints(["item-08"])[0].numeric_restricts[0].value == 99.5
        assert live.write([Delete("x")], request_id="clean-5").is_repeat
        assert live.write([Delete("x")], request_id="clean-6").last_sequence == 10
        live.close()


def test_a_snapshot_of_the_first_format_is_restored(tmp_path: Path) -> None:
    taken = restore_snapshot(ARTEFACTS / "snapshot-1", tmp_path / "store", tmp_path / "logs", progress=Silent())
    assert taken.logs == {"shop": (1, 9)}
    store = Store(tmp_path / "store")
    assert [store.manifest(version).log_sequence for version in store.versions()] == [0, 7]
    found = []
    for version in store.versions():
        with WriteLog.open(tmp_path / "logs" / "shop") as log:
            live = LiveIndex(store.open(version), log)
            [near] = live.snapshot.search(AXIS[:1], 8, space="vectors", exact=True).neighbors
            found.append([(n.datapoint_id, n.distance) for n in near])
            assert live.snapshot.n_datapoints == 64
            live.close()
    assert found[0] == found[1]
    assert found[0][0] == ("new", 0)


@pytest.mark.parametrize(
    ("file", "says"),
    [("head", "head: format 2 is not 1"), ("00000000000000000001.log", "segment format 2 is not 1")],
)
def test_a_log_of_a_newer_format_is_refused(release: Path, file: str, says: str) -> None:
    """Sealed as a newer program would; without that the byte is damage."""
    path = release / "logs" / "shop" / file
    content = path.read_bytes()
    n_sealed = (HEADER_BYTES if path.suffix else len(content)) - 4
    sealed = content[:8] + b"\2" + content[9:n_sealed]
    path.write_bytes(sealed + crc32c(sealed).to_bytes(4, "little") + content[n_sealed + 4 :])
    for read_only in (True, False):
        with pytest.raises(CorruptArtifact, match=says):
            WriteLog.open(path.parent, read_only=read_only)
