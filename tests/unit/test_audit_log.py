"""The audit log: whatever is done to its lines afterwards is found."""

from __future__ import annotations

import json
import random
import threading
from pathlib import Path

import pytest

from lifecycle.cli import run
from matching.errors import CorruptArtifact, NotFound, Unavailable
from serving.audit_log import AuditLog

N = 200


def written(path: Path, n: int = N) -> AuditLog:
    log = AuditLog(path)
    for at in range(n):
        log.append({"who": f"key:shop-{at % 3}", "action": "POST /v1/x", "object": "é\ud800"[: at % 3], "code": "200"})
    return log


def test_lines_come_back_in_order(tmp_path: Path) -> None:
    log = written(tmp_path / "audit.jsonl", 5)
    entries = list(log.entries())
    assert [entry.number for entry in entries] == [1, 2, 3, 4, 5]
    assert entries[4].told == {"who": "key:shop-1", "action": "POST /v1/x", "object": "é", "code": "200"}
    assert (tmp_path / "audit.jsonl").stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("harm", ["edit", "delete", "swap", "double", "insert", "flip", "forge"])
def test_every_change_of_a_line_is_found(tmp_path: Path, harm: str) -> None:
    path = tmp_path / "audit.jsonl"
    log = written(path)
    whole = path.read_bytes()
    rng = random.Random(harm)
    for _ in range(40):
        lines = whole.splitlines(keepends=True)
        at = rng.randrange(N - 1)
        if harm == "edit":
            lines[at] = lines[at].replace(b"key:shop", b"key:chop")
        elif harm == "delete":
            del lines[at]
        elif harm == "swap":
            lines[at], lines[at + 1] = lines[at + 1], lines[at]
        elif harm == "double":
            lines.insert(at, lines[at])
        elif harm == "insert":
            lines.insert(at, b'{"number": 1}\n')
        elif harm == "flip":
            data = bytearray(lines[at])
            data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
            lines[at] = bytes(data)
        else:  # a line whose own digest is right, behind another one than before
            held = json.loads(lines[at])
            held["digest"] = "0" * 64
            lines[at] = json.dumps(held).encode() + b"\n"
        path.write_bytes(b"".join(lines))
        with pytest.raises(CorruptArtifact, match="does not follow from the line before it"):
            list(log.entries())


def test_a_torn_end_is_found_and_takes_no_line(tmp_path: Path) -> None:
    path = tmp_path / "audit.jsonl"
    log = written(path, 3)
    path.write_bytes(path.read_bytes()[:-5])
    with pytest.raises(CorruptArtifact, match="line 3"):
        list(log.entries())
    with pytest.raises(Unavailable, match="the last line is torn"):
        log.append({"who": "me"})


def test_several_writers_make_one_chain(tmp_path: Path) -> None:
    logs = [AuditLog(tmp_path / "audit.jsonl") for _ in range(4)]
    threads = [threading.Thread(target=lambda log=log: [log.append({"who": "me"}) for _ in range(25)]) for log in logs]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(list(logs[0].entries())) == 100


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(NotFound, match="there is no file"):
        list(AuditLog(tmp_path / "none").entries())
    with pytest.raises(Unavailable, match="takes no line"):
        AuditLog(tmp_path / "no" / "folder").append({})


def test_commands_that_change_keys_are_in_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    audit, keys = str(tmp_path / "audit.jsonl"), str(tmp_path / "keys.json")
    monkeypatch.setenv("LIKEWISE__AUTH__AUDIT_FILE", audit)
    assert run(["keys", "create", "shop", "--scope", "read", "--file", keys, "--json"]) == 0
    made = json.loads(capsys.readouterr().out)
    assert run(["keys", "rotate", "shop", "--file", keys]) == 0
    assert run(["keys", "revoke", made["key_id"], "--file", keys]) == 0
    capsys.readouterr()
    assert run(["audit", "verify", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["lines"] == 3
    assert made["key"] not in Path(audit).read_text()
    assert run(["audit", "list", "--json"]) == 0
    actions = [entry["action"] for entry in json.loads(capsys.readouterr().out)]
    assert actions == ["keys create", "keys rotate", "keys revoke"]
    assert run(["audit", "verify", "--expect", told["digest"]]) == 0
    lines = Path(audit).read_bytes().splitlines(keepends=True)
    Path(audit).write_bytes(b"".join(lines[:2]))
    assert run(["audit", "verify"]) == 0
    assert run(["audit", "verify", "--expect", told["digest"]]) == 3
    assert "lines were cut off" in capsys.readouterr().err
