"""The models that a service asks, and the rows of their items in what it serves."""

from __future__ import annotations

import logging
import weakref
from collections.abc import Mapping, Sequence
from pathlib import Path

from embeddings.histories import load_history_encoder
from matching.errors import CorruptArtifact, NotFound, SpaceMismatch
from matching.recommend import ItemRows, Model, ModelItems, ModelStore
from serving.deployment import Snapshot

_log = logging.getLogger(__name__)


class ServedModels:
    """The champions of some sources. Thread-safe: what is asked is exchanged as a whole."""

    def __init__(self, store: Path, sources: Sequence[str]) -> None:
        """Open the champion of each source.

        Raises:
            NotFound: a source has none.
            CorruptArtifact: one is damaged.
            SpaceMismatch: one has an encoder of another space.
            MissingExtra: one has an encoder, and onnxruntime is not installed.
        """
        self._store = ModelStore(store, load_encoder=load_history_encoder)
        self._stamps = {source: self._store.stamp(source) for source in sources}
        self._models: Mapping[str, Model] = {source: self._store.open(source) for source in sources}
        self._rows: weakref.WeakKeyDictionary[object, dict[ModelItems, ItemRows]] = weakref.WeakKeyDictionary()
        self.refusals: Mapping[str, str] = {}

    @property
    def models(self) -> Mapping[str, Model]:
        """By source; a mapping that never changes."""
        return self._models

    def look(self) -> None:
        """Open the champions that are others by now; one that is refused leaves the one before, see `refusals`."""
        for source, model in self._models.items():
            stamp = self._store.stamp(source)
            if stamp == self._stamps[source]:
                continue
            try:
                opened = self._store.open(source)
            except (NotFound, CorruptArtifact, SpaceMismatch) as error:
                _log.warning("model of %s is refused: %s", source, error)
                self.refusals = {**self.refusals, source: str(error)}
            else:
                _log.info("asks %s of %s in place of %s", opened.model_id, source, model.model_id)
                self._models = {**self._models, source: opened}
                self.refusals = {name: why for name, why in self.refusals.items() if name != source}
            self._stamps[source] = stamp

    def rows(self, items: ModelItems, snapshot: Snapshot) -> ItemRows:
        """Return the rows of a model's items; they are looked up once for a version, and then for what it took in."""
        owner: object = snapshot.live or snapshot.version.columns
        held = self._rows.setdefault(owner, {})
        known = held.get(items)
        columns = snapshot.version.columns
        rows = ItemRows.of(items, columns) if known is None else known.grown(columns)
        if rows is not known:
            used = {model.items for model in self._models.values()}
            self._rows[owner] = {each: held[each] for each in held.keys() & used} | {items: rows}
        return rows
