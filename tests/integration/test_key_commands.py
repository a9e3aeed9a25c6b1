"""`likewise keys`, as it is typed: texts shown once, files of mode 600, two live keys a holder."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from lifecycle.cli import USAGE, run
from serving.api_keys import KeyRing, read_keys


def command(*arguments: str, umask: int = 0o022, **env: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "lifecycle", "keys", *arguments],
        capture_output=True,
        text=True,
        umask=umask,
        env={**os.environ, **env},
        cwd=Path(__file__).parents[2],
    )


def told(capsys: pytest.CaptureFixture[str], *arguments: str) -> Any:
    assert run(["keys", *arguments, "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def test_a_key_is_printed_once_and_kept_as_a_hash_in_a_file_of_the_owner_s(tmp_path: Path) -> None:
    file = tmp_path / "keys.json"
    done = command("create", "shop", "--scope", "read", "--scope", "write", "--file", str(file), umask=0)
    assert done.returncode == 0, done.stderr
    text = done.stdout.strip()
    assert file.stat().st_mode & 0o777 == 0o600
    key = read_keys(file).find(text)
    assert key is not None
    assert (key.name, key.scopes, key.expires_at) == ("shop", ("read", "write"), None)
    assert text not in file.read_text()
    assert text not in done.stderr
    assert "It is not shown again" in done.stderr
    listed = command("list", LIKEWISE__AUTH__KEYS_FILE=str(file))
    assert listed.returncode == 0
    assert key.key_id in listed.stdout
    assert text not in listed.stdout
    assert key.sha256 not in listed.stdout
    assert sorted(found.name for found in tmp_path.iterdir()) == ["keys.json", "keys.json.lock"], "no draft is left"


def test_keys_are_exchanged_and_revoked(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = str(tmp_path / "keys.json")
    first = told(capsys, "create", "shop", "--scope", "read", "--days", "30", "--file", file)
    assert set(first) == {"key_id", "name", "scopes", "created_at", "expires_at", "is_live", "key"}
    second = told(capsys, "rotate", "shop", "--overlap-days", "2", "--file", file)
    assert second["scopes"] == ["read"]
    rows = {row["key_id"]: row for row in told(capsys, "list", "--file", file)}
    assert rows[first["key_id"]]["expires_at"] < first["expires_at"], "the one before ends after the overlap"
    assert rows[first["key_id"]]["is_live"]
    assert rows[second["key_id"]]["expires_at"] is None
    assert run(["keys", "rotate", "shop", "--file", file]) == USAGE
    refused = capsys.readouterr().err
    assert f"{first['key_id']} and {second['key_id']}; at most 2; revoke one first" in refused
    assert told(capsys, "revoke", first["key_id"], "--file", file)["key_id"] == first["key_id"]
    third = told(capsys, "rotate", "shop", "--overlap-days", "0", "--file", file)
    rows = {row["key_id"]: row["is_live"] for row in told(capsys, "list", "--file", file)}
    assert rows == {second["key_id"]: False, third["key_id"]: True}
    ring = read_keys(Path(file))
    assert ring.find(first["key"]) is None
    assert ring.find(third["key"]) is not None


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("create", "shop", "--scope", "root", "--file", "F"), "there is no scope 'root'; expected some of read, write, admin"),
        (("create", "a shop", "--scope", "read", "--file", "F"), "'a shop' cannot be a name"),
        (("create", "shop", "--scope", "read"), "no keys file is named; expected one; use --file, or set auth.keys_file"),
        (("rotate", "shop", "--file", "F"), "'shop' has no live key"),
        (("revoke", "0123456789ab", "--file", "F"), "no key '0123456789ab'"),
    ],
)  # fmt: skip
def test_what_is_refused(
    arguments: tuple[str, ...], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "keys.json"
    assert run(["keys", *(str(file) if part == "F" else part for part in arguments)]) == USAGE
    assert message in " ".join(capsys.readouterr().err.split())
    assert not file.exists()


def test_a_damaged_file_is_not_written_over(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "keys.json"
    file.write_text("{")
    assert run(["keys", "create", "shop", "--scope", "read", "--file", str(file)]) == USAGE
    assert "not a keys file" in capsys.readouterr().err
    assert file.read_text() == "{"


def test_many_who_change_the_file_at_once_lose_nothing(tmp_path: Path) -> None:
    file = tmp_path / "keys.json"
    code = (
        "import sys, datetime; from pathlib import Path; from serving.api_keys import change_keys\n"
        "for at in range(20):\n"
        "    now = datetime.datetime.now(datetime.timezone.utc)\n"
        "    change_keys(Path(sys.argv[1]), lambda r: (r.with_new(f'{sys.argv[2]}-{at}', ['read'], now=now)[0], None))\n"
    )
    root = Path(__file__).parents[2]
    running = [subprocess.Popen([sys.executable, "-c", code, str(file), name], cwd=root) for name in ("a", "b", "c")]
    while any(process.poll() is None for process in running):
        if file.exists():
            KeyRing.parse(file.read_bytes())  # whoever reads meanwhile reads a whole file
    assert [process.returncode for process in running] == [0, 0, 0]
    assert len(read_keys(file).keys) == 60


def test_the_command_line_refuses_an_unguarded_address(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "versions").mkdir()
    assert run(["serve", "--store", str(tmp_path), "--name", "x", "--host", "0.0.0.0"]) == USAGE
    assert "0.0.0.0 can be reached from other machines" in capsys.readouterr().err
