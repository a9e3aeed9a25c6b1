"""A trained source as it is kept and asked: items, what was learned of them, and how it was made.

Whatever the source, what was learned has one of a few forms, and each is asked by native kernels in the space of the model's own
items, so that one file serves every index version: see `item_rows` for how those items become datapoints.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Final, Literal, NamedTuple, Protocol, TypeAlias, cast

import numpy as np
from numpy.typing import NDArray

import cpp_ext
from matching.errors import CorruptArtifact, InvalidInput, SpaceMismatch
from matching.graph_index import GraphIndex
from matching.interactions import History
from matching.manifest import SealedFile
from matching.profile import Profile
from matching.recommend.cycles import PURCHASE, Cycles
from matching.recommend.visits import votes

Array = NDArray[np.generic]
Bitmap = NDArray[np.uint64]
Form = Literal["scores", "table", "factors", "visits", "cycles", "encoder"]
FORMAT: Final = 1
_LEAST_LOG: Final = -80.0  # e to its power is above 0 in 32 bits
_DTYPES: Final[Mapping[Form, Mapping[str, str]]] = {
    "scores": {"scores": "float32"},
    "table": {"offsets": "int64", "items": "int32", "weights": "float32"},
    "factors": {"factors": "float32", "gram": "float32"},
    "encoder": {"vectors": "float32", "onnx": "uint8", "weights": "uint8"},
    "visits": {
        "visit_offsets": "int64",
        "visit_items": "int32",
        "offsets": "int64",
        "visits": "int32",
        "worths": "float32",
        "idf": "float32",
    },
    "cycles": {"chance": "float32", "log_days": "float32"},
}


class ModelItems:
    """The items that a model knows, by id; models trained on the same items share one. Immutable and thread-safe."""

    def __init__(self, ids: Sequence[str]) -> None:
        self.ids = tuple(ids)
        self._places = {item_id: place for place, item_id in enumerate(self.ids)}
        self.find = self._places.get

    def __len__(self) -> int:
        return len(self.ids)

    @staticmethod
    def digest(ids: Sequence[str]) -> str:
        """Return what tells one set of items from another."""
        return hashlib.sha256("\0".join(ids).encode()).hexdigest()


class Asked(NamedTuple):
    """A history as a model is asked: items int64[m] of its own and their weights float32[m], above 0.

    Each item once; but for an encoder, which reads them in their order, oldest first.
    """

    items: NDArray[np.int64]
    weights: NDArray[np.float32]


class Candidates(NamedTuple):
    """Items int64[n] of the model, best first, ties by item, and their scores float32[n], above 0."""

    items: NDArray[np.int64]
    scores: NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class ModelManifest:
    """Everything there is to know of a model without opening it.

    Attributes:
        source: what was trained: "popular", "sequential-rules" and so on.
        form: of what was learned: a score an item, a table from item to items, a vector an item, with the user's solved
            ("factors"; `lift` is what they were multiplied by) or encoded ("encoder"), past visits, or when an item is bought
            again.
        settings: with which it was trained.
        profile: how a history is weighed when it asks.
        items_digest: of the ids of its items.
        events_sha256: of the interactions that it learned from.
        first_ms, last_ms: when the first and the last event was that counted, milliseconds since 1970.
        metrics: counts of what was learned from, and how long it took.
        file: of the arrays.
        space_id: of an encoder's vectors, those of items and those it makes; "" of other forms.
        graph: index over an encoder's vectors where they are many.
    """

    source: str
    form: Form
    created_at: str
    code_version: str
    settings: Mapping[str, float]
    profile: Profile
    n_items: int
    items_digest: str
    events_sha256: str
    first_ms: int
    last_ms: int
    metrics: Mapping[str, float]
    file: SealedFile
    format: int = FORMAT
    space_id: str = ""
    graph: SealedFile | None = None

    def to_bytes(self) -> bytes:
        """Return the canonical JSON; a half-life without end is null there."""
        told = asdict(self)
        if told["profile"]["half_life_days"] == float("inf"):
            told["profile"]["half_life_days"] = None
        return (json.dumps(told, sort_keys=True, indent=1, allow_nan=False) + "\n").encode()

    @classmethod
    def from_bytes(cls, content: bytes) -> ModelManifest:
        """Return what `to_bytes` wrote.

        Raises:
            ValueError: it is of another format, or no manifest.
        """
        try:
            told = json.loads(content)
            if told["format"] != FORMAT:
                raise ValueError(f"format {told['format']}, this program reads {FORMAT}")
            profile = told.pop("profile")
            if profile["half_life_days"] is None:
                profile["half_life_days"] = float("inf")
            graph = None if told.get("graph") is None else SealedFile(**told["graph"])
            return cls(**told | {"profile": Profile(**profile), "file": SealedFile(**told["file"]), "graph": graph})
        except (KeyError, TypeError) as error:
            raise ValueError(f"{error!r} in place of a manifest") from error


class HistoryEncoder(Protocol):
    """Histories into vectors of the space of a model's items. Implementations are thread-safe."""

    @property
    def space_id(self) -> str:
        """Of the vectors that it makes."""
        ...

    def encode(self, histories: Sequence[NDArray[np.integer]]) -> NDArray[np.float32]:
        """Return float32[b, dim] for histories of items of the model, oldest first, one item or more each."""
        ...


LoadEncoder: TypeAlias = Callable[[ModelManifest, Mapping[str, Array]], HistoryEncoder]


class Model:
    """A trained source over arrays that may be mapped. Immutable and thread-safe."""

    def __init__(
        self,
        model_id: str,
        manifest: ModelManifest,
        items: ModelItems,
        arrays: Mapping[str, Array],
        *,
        encoder: HistoryEncoder | None = None,
        graph: GraphIndex | None = None,
    ) -> None:
        """Hold arrays against the manifest.

        Args:
            encoder: of a model of that form; without it such a model cannot be asked for candidates.
            graph: over its vectors.

        Raises:
            CorruptArtifact: they are not of its form.
            SpaceMismatch: the encoder makes vectors of another space than its items have.
        """
        self.model_id = model_id
        self.manifest = manifest
        self.items = items
        self._arrays = arrays
        self._encoder = encoder
        self._graph = graph
        self._check()
        if encoder is not None and encoder.space_id != manifest.space_id:
            raise SpaceMismatch(
                f"[model] the encoder of {model_id} makes vectors of the space {encoder.space_id[:12]}, its items have vectors "
                f"of {manifest.space_id[:12]}; expected one space; train the model again"
            )

    @property
    def source(self) -> str:
        """What was trained."""
        return self.manifest.source

    @property
    def is_personal(self) -> bool:
        """Whether its candidates depend on the history."""
        return self.manifest.form != "scores"

    def asked(
        self, history: Sequence[str], at_ms: NDArray[np.int64], weights: NDArray[np.float32], now_ms: int
    ) -> Asked:
        """Weigh a history, oldest first, as the source does; an item that comes twice counts as its best time.

        Args:
            history: ids; those that the model does not know are left out, and take their step in it all the same.
            at_ms: int64[h], since 1970.
            weights: float32[h], what the types of the events say.
            now_ms: when it is asked, milliseconds since 1970.
        """
        if self.manifest.form == "encoder":
            known = [item for item in map(self.items.find, history) if item is not None]
            newest = np.array(known[-int(self.manifest.settings["max_items"]) :], np.int64)
            return Asked(newest, np.ones(len(newest), np.float32))
        if self.manifest.form == "cycles":
            return self._due(history, at_ms, weights, now_ms)
        steps = np.zeros(len(history), np.int32)
        worth = self.manifest.profile.weigh(History(steps, at_ms, weights), now_ms)
        best: dict[int, float] = {}
        for item_id, weight in zip(history, worth.tolist(), strict=True):
            item = self.items.find(item_id)
            if item is not None and weight > best.get(item, 0.0):
                best[item] = weight
        return Asked(np.fromiter(best, np.int64, len(best)), np.fromiter(best.values(), np.float32, len(best)))

    def candidates(self, asked: Asked, n: int, allowed: Bitmap) -> Candidates:
        """Return the n items of the greatest scores above 0 among those of a bitmap; none where a history is needed and empty.

        An encoder's scores are e to the power of the difference to the best one's: 1 for the best, above 0 for all.

        Args:
            asked: by this model's `asked`.
            n: 1 or more.
            allowed: bitmap over the model's items.

        Raises:
            InvalidInput: the model was opened without its encoder.
        """
        if len(self.items) == 0 or (self.is_personal and not len(asked.items)):
            return Candidates(np.empty(0, np.int64), np.empty(0, np.float32))
        n = min(n, len(self.items))
        if self.manifest.form == "factors":
            return self._nearest(asked, n, allowed)
        if self.manifest.form == "encoder":
            return self._encoded(asked, n, allowed)
        items, negated = cpp_ext.best_scores(self._scores(asked), n, allowed)
        return Candidates(items, -negated)

    def because(self, asked: Asked, items: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return which item of the history counted most for each of some candidates, int64[n]; -1 where none can be told."""
        found = np.full(len(items), -1, np.int64)
        if self.manifest.form in ("scores", "visits") or not len(asked.items) or not len(items):
            return found
        if self.manifest.form == "cycles":
            return items
        if self.manifest.form == "factors":
            factors = cast("NDArray[np.float32]", self._arrays["factors"])
            parts = (factors[asked.items] * asked.weights[:, None]) @ factors[items].T
            return cast("NDArray[np.int64]", asked.items[np.argmax(parts, axis=0)])
        if self.manifest.form == "encoder":
            return self._likest(asked.items, items)
        offsets, listed, weights = (self._arrays[name] for name in ("offsets", "items", "weights"))
        firsts, lasts = offsets[asked.items], offsets[asked.items + 1]
        ends = zip(firsts.tolist(), lasts.tolist(), strict=True)
        places = np.stack([first + np.searchsorted(listed[first:last], items) for first, last in ends])
        is_there = places < lasts[:, None]
        places[~is_there] = 0
        is_there &= listed[places] == items
        parts = np.where(is_there, weights[places] * asked.weights[:, None], 0)
        best = np.argmax(parts, axis=0)
        told = parts[best, np.arange(len(items))] > 0
        found[told] = asked.items[best[told]]
        return found

    def _scores(self, asked: Asked) -> NDArray[np.float32]:
        form = self.manifest.form
        if form == "scores":
            return cast("NDArray[np.float32]", self._arrays["scores"])
        if form == "visits":
            return votes(self._arrays, self.manifest.settings, asked.items, asked.weights)
        if form == "cycles":
            scores = np.zeros(len(self.items), np.float32)
            scores[asked.items] = asked.weights
            return scores
        return cpp_ext.sparse_scores(
            cast("NDArray[np.int64]", self._arrays["offsets"]),
            cast("NDArray[np.int32]", self._arrays["items"]),
            cast("NDArray[np.float32]", self._arrays["weights"]),
            asked.items,
            asked.weights,
            len(self.items),
        )

    def _nearest(self, asked: Asked, n: int, allowed: Bitmap) -> Candidates:
        """Solve the user's vector from what they took, as training does, and return the items of the greatest products."""
        factors = cast("NDArray[np.float32]", self._arrays["factors"])
        told = self.manifest.settings
        known = factors[asked.items]
        if "lift" in self._arrays:
            known = known / cast("NDArray[np.float32]", self._arrays["lift"])[asked.items, None]
        left = known.T @ known + np.float32(told["unobserved"]) * cast("NDArray[np.float32]", self._arrays["gram"])
        penalty = told["penalty"] * (len(known) + told["unobserved"] * len(factors)) ** told["exponent"]
        left[np.diag_indices(len(left))] += np.float32(penalty)
        vector = np.linalg.solve(left, known.sum(axis=0)).astype(np.float32)
        items, distances = cpp_ext.scan(factors, vector[None], n, metric="ip", mask=allowed)
        kept = (items[0] >= 0) & (distances[0] < 0)
        return Candidates(items[0][kept], -distances[0][kept])

    def _encoded(self, asked: Asked, n: int, allowed: Bitmap) -> Candidates:
        """Encode the history and return the items of the greatest products."""
        if self._encoder is None:
            raise InvalidInput(
                f"[model] {self.model_id} of {self.source} was opened without its encoder; expected one; open the store with "
                "load_encoder"
            )
        vector = self._encoder.encode([asked.items])
        if self._graph is not None:
            items, distances = self._graph.search(vector, n, mask=allowed)
        else:
            vectors = cast("NDArray[np.float32]", self._arrays["vectors"])
            items, distances = cpp_ext.scan(vectors, vector, n, metric="ip", mask=allowed)
        kept = items[0] >= 0
        scores = np.exp(np.maximum(distances[0][:1] - distances[0][kept], _LEAST_LOG))
        return Candidates(items[0][kept], scores.astype(np.float32))

    def _likest(self, history: NDArray[np.int64], items: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return which item of a history has the vector of the greatest cosine with each item: int64[n]."""
        vectors = cast("NDArray[np.float32]", self._arrays["vectors"])
        known = vectors[history]
        lengths = np.maximum(np.linalg.norm(known, axis=1), 1e-12)
        return cast("NDArray[np.int64]", history[np.argmax((known / lengths[:, None]) @ vectors[items].T, axis=0)])

    def _due(
        self, history: Sequence[str], at_ms: NDArray[np.int64], weights: NDArray[np.float32], now_ms: int
    ) -> Asked:
        """What was bought, and the chance that it is bought again soon."""
        told = self.manifest.settings
        chance, log_days = (cast("NDArray[np.float32]", self._arrays[name]) for name in ("chance", "log_days"))
        items = np.array([self.items.find(item_id, -1) for item_id in history], np.int64)
        bought = (items >= 0) & (weights >= PURCHASE)
        cycles = Cycles(chance, log_days, told["spread"], told["horizon_days"])
        return Asked(*cycles.due(items[bought], at_ms[bought], now_ms))

    def _check(self) -> None:
        n, form = len(self.items), self.manifest.form
        wanted = _DTYPES[form]
        held = {name: self._arrays[name].dtype.name for name in wanted if name in self._arrays}
        is_right = held == wanted and n == self.manifest.n_items
        if is_right and form == "table":
            offsets = self._arrays["offsets"]
            n_listed = len(self._arrays["items"])
            is_right = offsets.shape == (n + 1,) and n_listed == len(self._arrays["weights"]) == int(offsets[-1])
        elif is_right and form == "visits":
            is_right = self._are_visits(n)
        elif is_right:
            is_right = all(
                len(self._arrays[name]) == n for name in wanted if name in ("scores", "factors", "chance", "log_days")
            )
            is_right &= form != "encoder" or len(self._arrays["vectors"]) == n
        if not is_right:
            raise CorruptArtifact(
                f"[model] {self.model_id} of {self.source} holds arrays {held} of {n:,} items; expected {wanted} of "
                f"{self.manifest.n_items:,}; train it again"
            )

    def _are_visits(self, n: int) -> bool:
        ends, offsets, listed = (self._arrays[name] for name in ("visit_offsets", "offsets", "visits"))
        n_told = len(self._arrays["visit_items"])
        return (
            offsets.shape == (n + 1,)
            and len(self._arrays["idf"]) == n
            and len(ends) > 0
            and int(ends[-1]) == n_told
            and int(offsets[-1]) == len(listed) == len(self._arrays["worths"])
        )
