"""Keys of users: the same for one secret, strangers for another; the secret is for its owner alone."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from matching.errors import InvalidInput
from matching.user_keys import UserKeys


def test_a_key_is_of_the_secret_and_tells_nothing_of_the_id() -> None:
    keys = UserKeys(b"s" * 32)
    assert keys.key("ann@example.org") == UserKeys(b"s" * 32).key("ann@example.org") == keys.key("ann@example.org")
    assert keys.key("ann@example.org") != keys.key("bob")
    assert keys.key("ann@example.org") != UserKeys(b"t" * 32).key("ann@example.org")
    assert len(keys.key("é" * 1000)) == 32
    assert keys.key("") == ""
    assert keys.fingerprint != UserKeys(b"t" * 32).fingerprint
    with pytest.raises(InvalidInput, match="the secret has 3 bytes; expected 32 to 64"):
        UserKeys(b"abc")


def test_a_missing_secret_is_made_once_and_for_its_owner(tmp_path: Path) -> None:
    file = tmp_path / "users.key"
    with ThreadPoolExecutor(8) as pool:
        made = {keys.fingerprint for keys in pool.map(lambda _: UserKeys.of_file(file), range(16))}
    assert len(made) == 1
    assert file.stat().st_mode & 0o777 == 0o600
    assert list(tmp_path.iterdir()) == [file]
    file.chmod(0o640)
    with pytest.raises(InvalidInput, match=r"others may read .*users\.key; expected mode 0600"):
        UserKeys.of_file(file)


def test_what_is_no_secret_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "users.key"
    file.write_text("not hex")
    file.chmod(0o600)
    with pytest.raises(InvalidInput, match="is no secret; expected 64 hex digits"):
        UserKeys.of_file(file)
    with pytest.raises(InvalidInput, match="expected a file to read or make"):
        UserKeys.of_file(tmp_path / "missing" / "users.key")
