"""The rules that a service applies, by alias; it follows where they move."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path

from matching.errors import CorruptArtifact, NotFound
from matching.rules import NO_RULES, Rulebook, RuleStore

_log = logging.getLogger(__name__)


class ServedRules:
    """Rule sets by the alias or id that a setting or a variant names. Thread-safe: each is exchanged as a whole."""

    def __init__(self, store: Path, default: str = "") -> None:
        """Open the default rules; "" for none.

        Raises:
            NotFound: there are none of that name.
            CorruptArtifact: their file is damaged.
        """
        self._store = RuleStore(store)
        self._default = default
        self._stamps: dict[str, tuple[int, int]] = {}
        self._books: dict[str, Rulebook] = {}
        self.refusals: Mapping[str, str] = {}
        if default:
            self.book(default)

    def book(self, name: str = "") -> Rulebook:
        """Return the rules of a name, the default ones for "".

        Raises:
            NotFound: there are none of that name.
            CorruptArtifact: their file is damaged, and none of the name were applied before.
        """
        name = name or self._default
        if not name:
            return NO_RULES
        book = self._books.get(name)
        if book is None:
            stamp = self._store.stamp(name)
            book = self._books[name] = Rulebook(self._store.open(name))
            self._stamps[name] = stamp
            _log.info("applies rules %s: %s", name, book.rules.rules_id)
        return book

    def look(self) -> None:
        """Open what aliases name by now; a set that is refused leaves the one before, see `refusals`."""
        for name in tuple(self._books):
            stamp = self._store.stamp(name)
            if stamp == self._stamps[name]:
                continue
            try:
                book = Rulebook(self._store.open(name))
            except (NotFound, CorruptArtifact) as error:
                _log.warning("rules %s are refused: %s", name, error)
                self.refusals = {**self.refusals, name: str(error)}
            else:
                _log.info("applies rules %s: %s", name, book.rules.rules_id)
                self._books[name] = book
                self.refusals = {held: why for held, why in self.refusals.items() if held != name}
            self._stamps[name] = stamp
