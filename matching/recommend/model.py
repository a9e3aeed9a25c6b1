"""A trained source as it is kept and asked: items, what was learned of them, and how it was made.

Whatever the source, what was learned has one of three forms, and each is asked by native kernels in the space of the model's own
items, so that one file serves every index version: see `item_rows` for how those items become datapoints.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Final, Literal, NamedTuple, cast

import numpy as np
from numpy.typing import NDArray

import cpp_ext
from matching.errors import CorruptArtifact
from matching.interactions import History
from matching.manifest import SealedFile
from matching.profile import Profile

Array = NDArray[np.generic]
Bitmap = NDArray[np.uint64]
Form = Literal["scores", "table", "factors"]
FORMAT: Final = 1
_DTYPES: Final[Mapping[Form, Mapping[str, str]]] = {
    "scores": {"scores": "float32"},
    "table": {"offsets": "int64", "items": "int32", "weights": "float32"},
    "factors": {"factors": "float32", "gram": "float32"},
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
    """A history as a model is asked: items int64[m] of its own, each once, and their weights float32[m], above 0."""

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
        form: of what was learned: a score an item, a table from item to items, or a vector an item.
        settings: with which it was trained.
        profile: how a history is weighed when it asks.
        items_digest: of the ids of its items.
        events_sha256: of the file of events.
        first_ms, last_ms: when the first and the last event was that counted, milliseconds since 1970.
        metrics: counts of what was learned from, and how long it took.
        file: of the arrays.
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
            return cls(**told | {"profile": Profile(**profile), "file": SealedFile(**told["file"])})
        except (KeyError, TypeError) as error:
            raise ValueError(f"{error!r} in place of a manifest") from error


class Model:
    """A trained source over arrays that may be mapped. Immutable and thread-safe."""

    def __init__(self, model_id: str, manifest: ModelManifest, items: ModelItems, arrays: Mapping[str, Array]) -> None:
        """Hold arrays against the manifest.

        Raises:
            CorruptArtifact: they are not of its form.
        """
        self.model_id = model_id
        self.manifest = manifest
        self.items = items
        self._arrays = arrays
        self._check()

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

        Args:
            asked: by this model's `asked`.
            n: 1 or more.
            allowed: bitmap over the model's items.
        """
        if len(self.items) == 0 or (self.is_personal and not len(asked.items)):
            return Candidates(np.empty(0, np.int64), np.empty(0, np.float32))
        n = min(n, len(self.items))
        if self.manifest.form == "factors":
            return self._nearest(asked, n, allowed)
        items, negated = cpp_ext.best_scores(self._scores(asked), n, allowed)
        return Candidates(items, -negated)

    def because(self, asked: Asked, items: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return which item of the history counted most for each of some candidates, int64[n]; -1 where none can be told."""
        found = np.full(len(items), -1, np.int64)
        if self.manifest.form == "scores" or not len(asked.items) or not len(items):
            return found
        if self.manifest.form == "factors":
            factors = cast("NDArray[np.float32]", self._arrays["factors"])
            parts = (factors[asked.items] * asked.weights[:, None]) @ factors[items].T
            return cast("NDArray[np.int64]", asked.items[np.argmax(parts, axis=0)])
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
        if self.manifest.form == "scores":
            return cast("NDArray[np.float32]", self._arrays["scores"])
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
        left = known.T @ known + np.float32(told["unobserved"]) * cast("NDArray[np.float32]", self._arrays["gram"])
        penalty = told["penalty"] * (len(known) + told["unobserved"] * len(factors)) ** told["exponent"]
        left[np.diag_indices(len(left))] += np.float32(penalty)
        vector = np.linalg.solve(left, known.sum(axis=0)).astype(np.float32)
        items, distances = cpp_ext.scan(factors, vector[None], n, metric="ip", mask=allowed)
        kept = (items[0] >= 0) & (distances[0] < 0)
        return Candidates(items[0][kept], -distances[0][kept])

    def _check(self) -> None:
        n, form = len(self.items), self.manifest.form
        wanted = _DTYPES[form]
        held = {name: self._arrays[name].dtype.name for name in wanted if name in self._arrays}
        is_right = held == wanted and n == self.manifest.n_items
        if is_right and form == "table":
            offsets = self._arrays["offsets"]
            n_listed = len(self._arrays["items"])
            is_right = offsets.shape == (n + 1,) and n_listed == len(self._arrays["weights"]) == int(offsets[-1])
        elif is_right:
            is_right = len(self._arrays[form]) == n
        if not is_right:
            raise CorruptArtifact(
                f"[model] {self.model_id} of {self.source} holds arrays {held} of {n:,} items; expected {wanted} of "
                f"{self.manifest.n_items:,}; train it again"
            )
