"""The models of a store.

STORE/models/<source>/<model_id>/          sealed, never edited: model.json, model.likewise and, over many vectors, model.graph
STORE/models/<source>/aliases/<name>.jsonl  append-only history, as of index versions; the last line rules
STORE/models/<source>/verdicts.jsonl        append-only: what scoreboards found
"""

from __future__ import annotations

import getpass
import hashlib
import os
import shutil
import tempfile
import weakref
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import datetime, timezone
from pathlib import Path
from typing import Final

from matching.container import open_container, write_container
from matching.errors import CorruptArtifact, NotFound
from matching.files import sync
from matching.graph_index import GraphIndex
from matching.journal import Journal
from matching.manifest import SealedFile, seal
from matching.recommend.model import Array, LoadEncoder, Model, ModelItems, ModelManifest
from matching.store import AliasMove, check_name
from matching.strings import StringColumn

KIND: Final = "model"
CHAMPION: Final = "champion"  # the alias that is served
CHALLENGER: Final = "challenger"  # of a model that waits for a better verdict
_MANIFEST: Final = "model.json"
_ARRAYS: Final = "model.likewise"
_GRAPH: Final = "model.graph"
_WORK: Final = "work-"


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a scoreboard found of a source.

    Attributes:
        at: when, ISO 8601.
        cut: of its last fold.
        metric: that decided.
        over: the baseline that was to be beaten; `mean`, `low` and `high` are of the difference to it.
    """

    at: str
    cut: str
    metric: str
    over: str
    mean: float
    low: float
    high: float

    @property
    def is_promotable(self) -> bool:
        """Whether the whole interval lies above 0."""
        return self.low > 0


class ModelStore:
    """Models and their aliases below the directory of a store. Thread-safe; several processes may share it."""

    def __init__(self, store: Path, *, load_encoder: LoadEncoder | None = None) -> None:
        """Keep models below a store.

        Args:
            load_encoder: makes the encoders of models that have one; without it such models can be opened and not asked.
        """
        self._path = Path(store) / "models"
        self._load_encoder = load_encoder
        self._items: weakref.WeakValueDictionary[str, ModelItems] = weakref.WeakValueDictionary()

    def sources(self) -> tuple[str, ...]:
        """Return the sources that have models."""
        if not self._path.is_dir():
            return ()
        return tuple(sorted(entry.name for entry in self._path.iterdir() if self.models(entry.name)))

    def models(self, source: str) -> tuple[str, ...]:
        """Return the ids of a source's models, oldest first."""
        return tuple(sorted(found.parent.name for found in (self._path / source).glob(f"[0-9]*/{_MANIFEST}")))

    def aliases(self, source: str) -> dict[str, str]:
        """Return the model that each alias of a source names.

        Raises:
            CorruptArtifact: a line of the history of one is damaged.
        """
        names = sorted(file.stem for file in (self._path / source / "aliases").glob("*.jsonl"))
        return {name: moves[-1].new for name in names if (moves := self.history(source, name))}

    def directory(self, source: str, name: str = CHAMPION) -> Path:
        """Return where the model that `name`, an alias or a model's id, stands for lies.

        Raises:
            NotFound: it is neither.
            CorruptArtifact: the alias's history is damaged.
        """
        return self._path / source / self.resolve(source, name)

    def publish(
        self,
        ids: Sequence[str],
        arrays: Mapping[str, Array],
        describe: Callable[[], ModelManifest],
        *,
        graph: GraphIndex | None = None,
    ) -> ModelManifest:
        """Seal a model and move it into the store in one rename.

        Args:
            ids: of its items.
            arrays: as `Model` takes them.
            describe: the manifest, but for `file`, `graph`, `n_items` and `items_digest`; asked when the arrays are written.
            graph: over the vectors of an encoder.

        Returns:
            The manifest, whole; `model_id` names its directory.
        """
        self._path.mkdir(exist_ok=True)
        work = Path(tempfile.mkdtemp(prefix=_WORK, dir=self._path))
        try:
            packed = StringColumn.pack(item_id.encode() for item_id in ids).arrays("ids")
            write_container(work / _ARRAYS, KIND, {**packed, **arrays})
            if graph is not None:
                graph.save(work / _GRAPH)
            manifest = replace(
                describe(),
                n_items=len(ids),
                items_digest=ModelItems.digest(ids),
                file=seal(work / _ARRAYS),
                graph=None if graph is None else seal(work / _GRAPH),
            )
            check_name(manifest.source)
            with (work / _MANIFEST).open("xb") as file:
                file.write(manifest.to_bytes())
                file.flush()
                os.fsync(file.fileno())
            sync(work)
            target = self._path / manifest.source / model_id_of(manifest)
            target.parent.mkdir(exist_ok=True)
            work.chmod(0o755)
            work.rename(target)
            sync(target.parent)
            sync(self._path)
        except BaseException:
            shutil.rmtree(work, ignore_errors=True)
            raise
        return manifest

    def set_alias(self, source: str, name: str, *, why: str, alias: str = CHAMPION) -> AliasMove:
        """Point an alias of a source at one of its models, and append who, when and why to its history.

        Raises:
            InvalidInput: the alias is not a valid name.
            NotFound: no such model.
        """
        target = self.resolve(source, name)

        def make(lines: tuple[dict[str, object], ...]) -> dict[str, object]:
            before = lines[-1]["new"] if lines else None
            at = datetime.now(timezone.utc).isoformat(timespec="seconds")
            return asdict(AliasMove(at, _user(), before, target, why))  # type: ignore[arg-type]

        return AliasMove(**self._journal(source, alias).append(make))

    def history(self, source: str, alias: str = CHAMPION) -> tuple[AliasMove, ...]:
        """Return the moves of an alias, oldest first; none where there is no such alias.

        Raises:
            CorruptArtifact: a line of the history is damaged.
        """
        return tuple(AliasMove(**line) for line in self._journal(source, alias).lines())

    def keep_verdict(self, source: str, verdict: Verdict) -> None:
        """Append to what scoreboards found of a source.

        Raises:
            InvalidInput: the source is not a valid name.
        """
        self._path.mkdir(exist_ok=True)
        self._verdicts(source).append(lambda lines: asdict(verdict))

    def verdict(self, source: str) -> Verdict | None:
        """Return what a scoreboard found last of a source, None where none was asked.

        Raises:
            CorruptArtifact: a line of the history is damaged.
        """
        lines = self._verdicts(source).lines()
        return Verdict(**lines[-1]) if lines else None

    def stamp(self, source: str, alias: str = CHAMPION) -> tuple[int, int]:
        """Return what changes whenever an alias moves: cheap enough to be asked often."""
        return self._journal(source, alias).stamp()

    def resolve(self, source: str, name: str = CHAMPION) -> str:
        """Return the model that `name`, an alias or a model's id, stands for.

        Raises:
            NotFound: it is neither.
            CorruptArtifact: the alias's history is damaged.
        """
        models = self.models(source)
        if name in models:
            return name
        moves = self.history(source, name)
        if moves and moves[-1].new in models:
            return moves[-1].new
        raise NotFound(
            f"[model] source {source!r} has no model {name!r}; there are {', '.join(models) or 'none'}, of the sources "
            f"{', '.join(self.sources()) or 'none'}; train one with `likewise train {source}`"
        )

    def manifest(self, source: str, name: str = CHAMPION) -> ModelManifest:
        """Return the checked manifest of a model.

        Raises:
            NotFound: no such model.
            CorruptArtifact: it is not what was sealed.
        """
        directory = self.directory(source, name)
        content = (directory / _MANIFEST).read_bytes()
        if not directory.name.endswith(hashlib.sha256(content).hexdigest()[:16]):
            raise CorruptArtifact(f"[model] {_MANIFEST} of {directory.name} was changed; restore it or train again")
        try:
            return ModelManifest.from_bytes(content)
        except ValueError as error:
            raise CorruptArtifact(
                f"[model] {_MANIFEST} of {directory.name} holds {error}; use the program that wrote it, or train again"
            ) from error

    def open(self, source: str, name: str = CHAMPION, *, verify: bool = True) -> Model:
        """Map a model; with `verify` every block is checked before anything is believed.

        Raises:
            NotFound: no such model.
            CorruptArtifact: a file of it is not what was sealed.
            SpaceMismatch: its encoder was not trained with its vectors.
            MissingExtra: its encoder needs what is not installed.
        """
        model_id = self.resolve(source, name)
        manifest = self.manifest(source, model_id)
        directory = self._path / source / model_id
        _check_sealed(directory / _ARRAYS, manifest.file)
        arrays = open_container(directory / _ARRAYS, KIND, verify=verify)
        graph = None
        if manifest.graph is not None:
            _check_sealed(directory / _GRAPH, manifest.graph)
            graph = GraphIndex.open(directory / _GRAPH, verify=verify)
        items = self._items.get(manifest.items_digest)
        if items is None:
            column = StringColumn.unpack(arrays, "ids")
            items = self._items[manifest.items_digest] = ModelItems(column.texts(range(len(column))))
        load = self._load_encoder if manifest.form == "encoder" else None
        encoder = None if load is None else load(manifest, arrays)
        return Model(model_id, manifest, items, arrays, encoder=encoder, graph=graph)

    def _verdicts(self, source: str) -> Journal:
        check_name(source)
        return Journal(self._path / source / "verdicts.jsonl", f"verdicts of {source}")

    def _journal(self, source: str, alias: str) -> Journal:
        check_name(source)
        check_name(alias)
        return Journal(self._path / source / "aliases" / f"{alias}.jsonl", f"alias {alias!r} of {source}")


def model_id_of(manifest: ModelManifest) -> str:
    """Return the name of a model's directory: when it was made, and the digest of its manifest."""
    stamp = manifest.created_at[:19].replace("-", "").replace(":", "").replace("T", "-")
    return f"{stamp}-{hashlib.sha256(manifest.to_bytes()).hexdigest()[:16]}"


def _check_sealed(file: Path, sealed: SealedFile) -> None:
    try:
        is_right = sealed.is_of(file)
    except OSError as error:
        raise CorruptArtifact(f"[model] {file} cannot be read: {error}; restore it or train again") from error
    if not is_right:
        raise CorruptArtifact(f"[model] {file} is not the file that was sealed; restore it or train again")


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return f"uid {os.getuid()}"
