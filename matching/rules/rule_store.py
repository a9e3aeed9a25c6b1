"""The rule sets of a store.

STORE/rules/sets/<rules_id>.json     sealed, never edited: what a file said
STORE/rules/aliases/<name>.jsonl     append-only history, as of index versions; the last line rules
"""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from dataclasses import asdict
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, Final

from matching.errors import AlreadyExists, CorruptArtifact, InvalidInput, NotFound
from matching.files import sync
from matching.journal import Journal
from matching.rules.parsing import rules_of
from matching.rules.rule import RuleSet
from matching.store import AliasMove, check_name, user_name

FORMAT: Final = 1


class RuleStore:
    """Rule sets and their aliases below the directory of a store. Thread-safe; several processes may share it."""

    def __init__(self, store: Path) -> None:
        self._path = Path(store) / "rules"

    def sets(self) -> tuple[str, ...]:
        """Return the ids of the rule sets, oldest first."""
        return tuple(sorted(file.stem for file in (self._path / "sets").glob("[0-9]*.json")))

    def aliases(self) -> dict[str, str]:
        """Return the rule set that each alias names."""
        names = sorted(file.name.removesuffix(".jsonl") for file in (self._path / "aliases").glob("*.jsonl"))
        return {name: self.resolve(name) for name in names}

    def put(self, alias: str, rules: RuleSet, *, why: str, instead_of: str | None = None) -> AliasMove:
        """Keep a rule set, and point an alias at it.

        Args:
            alias: it need not be there.
            instead_of: the set that it must name up to now, any when None.

        Raises:
            InvalidInput: the alias is not a valid name.
            AlreadyExists: somebody else has moved it meanwhile.
        """
        check_name(alias)
        created_at = datetime.now(timezone.utc).isoformat(timespec="seconds")
        told = {"format": FORMAT, "created_at": created_at, "rules": list(rules.told)}
        content = (json.dumps(told, ensure_ascii=False, sort_keys=True, indent=1) + "\n").encode()
        stamp = created_at[:19].replace("-", "").replace(":", "").replace("T", "-")
        rules_id = f"{stamp}-{hashlib.sha256(content).hexdigest()[:16]}"
        self._write(rules_id, content)
        return self.set_alias(alias, rules_id, why=why, instead_of=instead_of)

    def set_alias(self, alias: str, name: str, *, why: str, instead_of: str | None = None) -> AliasMove:
        """Point an alias at a rule set, and append who, when and why to its history.

        Raises:
            InvalidInput: the alias is not a valid name.
            NotFound: no such rule set.
            AlreadyExists: somebody else has moved it meanwhile.
        """
        target = self.resolve(name)

        def make(lines: tuple[dict[str, Any], ...]) -> dict[str, Any]:
            now = lines[-1]["new"] if lines else None
            if instead_of is not None and now != instead_of:
                raise AlreadyExists(
                    f"[rules] alias {alias!r} names {now} by now; expected {instead_of}: somebody else moved it meanwhile; "
                    "look at it and try again"
                )
            at = datetime.now(timezone.utc).isoformat(timespec="seconds")
            return asdict(AliasMove(at, user_name(), now, target, why))

        return AliasMove(**self._journal(alias).append(make))

    def history(self, alias: str) -> tuple[AliasMove, ...]:
        """Return the moves of an alias, oldest first; none where there is no such alias.

        Raises:
            CorruptArtifact: a line of the history is damaged.
        """
        return tuple(AliasMove(**line) for line in self._journal(alias).lines())

    def stamp(self, alias: str) -> tuple[int, int]:
        """Return what changes whenever an alias moves: cheap enough to be asked often."""
        return self._journal(alias).stamp()

    def resolve(self, name: str) -> str:
        """Return the id of the rule set that `name`, an alias or an id, stands for.

        Raises:
            NotFound: it is neither.
            CorruptArtifact: the alias's history is damaged.
        """
        sets = self.sets()
        if name in sets:
            return name
        moves = self.history(name)
        if moves and moves[-1].new in sets:
            return moves[-1].new
        names = sorted(file.name.removesuffix(".jsonl") for file in (self._path / "aliases").glob("*.jsonl"))
        raise NotFound(
            f"[rules] no rules {name!r}; there are the aliases {', '.join(names) or 'none'} and {len(sets)} sets; put some with "
            f"`likewise rules put {name} FILE`"
        )

    def open(self, name: str) -> RuleSet:
        """Read a rule set, by alias or id.

        Raises:
            NotFound: there is none.
            CorruptArtifact: its file is not what was kept.
        """
        rules_id = self.resolve(name)
        file = self._path / "sets" / f"{rules_id}.json"
        content = file.read_bytes()
        if not rules_id.endswith(hashlib.sha256(content).hexdigest()[:16]):
            raise CorruptArtifact(f"[rules] {file.name} was changed; restore it or put the rules again")
        told = json.loads(content)
        if told["format"] != FORMAT:
            raise CorruptArtifact(f"[rules] {file.name} has format {told['format']}; expected {FORMAT}; put it again")
        try:
            return rules_of(told["rules"], rules_id)
        except InvalidInput as error:  # a kind that a later program knows
            raise CorruptArtifact(f"[rules] {file.name} cannot be read here: {error}") from error

    def _write(self, rules_id: str, content: bytes) -> None:
        folder = self._path / "sets"
        folder.mkdir(parents=True, exist_ok=True)
        handle, work = tempfile.mkstemp(prefix="work-", dir=folder)
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            Path(work).chmod(0o644)
            Path(work).rename(folder / f"{rules_id}.json")
        except BaseException:
            Path(work).unlink(missing_ok=True)
            raise
        sync(folder)

    def _journal(self, alias: str) -> Journal:
        check_name(alias)
        return Journal(self._path / "aliases" / f"{alias}.jsonl", f"alias {alias!r} of rules")
