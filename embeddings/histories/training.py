"""From interactions to a sealed encoder of histories in the store, or to one that a scoreboard measures."""

from __future__ import annotations

import hashlib
import importlib.metadata
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Final

import numpy as np
from numpy.typing import NDArray

from embeddings.histories.encoder import SPACE_ID, OnnxHistoryEncoder
from embeddings.histories.examples import Examples, Question, question_before
from embeddings.settings import HistoryTrainingSettings
from matching.errors import GateRefused, InvalidInput, MissingExtra
from matching.graph_index import GraphIndex
from matching.interactions import History, Interactions
from matching.manifest import SealedFile
from matching.profile import Profile
from matching.recommend.model import Array, ModelManifest
from matching.recommend.model_store import ModelStore

if TYPE_CHECKING:
    from embeddings.histories.fitting import Fitted, Tell
    from embeddings.histories.network import HistoryNetwork

SOURCES: Final = ("sasrec", "two-tower")
MAX_SCANNED: Final = 50_000  # vectors of more items are searched by a graph
LEAST_COSINE: Final = 0.9999
_NEEDED: Final = ("torch", "onnx", "onnxscript", "safetensors")
_N_TOKENS: Final = 16  # features of an item that are read


@dataclass(frozen=True)
class Learned:
    """An encoder and the items it speaks of.

    Attributes:
        encoder: as it is served.
        known: int64[m], rows of `Interactions.item_ids`; row i of the encoder's vectors is of known[i].
        graph: ONNX.
        weights: all that was learned, as a safetensors file.
        n_epochs: passes over the events.
        reached: ndcg@10 after each pass of the training that was watched; none where nothing could be asked.
    """

    encoder: OnnxHistoryEncoder
    known: NDArray[np.int64]
    graph: bytes
    weights: bytes
    n_epochs: int
    reached: tuple[float, ...]


def learn(
    interactions: Interactions,
    settings: HistoryTrainingSettings,
    *,
    question: Question | None,
    features: Sequence[Sequence[str]] | None = None,
    checkpoints: Path | None = None,
    tell: Tell | None = None,
) -> Learned:
    """Train an encoder: first on what the question knows, to see when to stop, and then as long on everything.

    Where the question knows just as much as there is, the first training is the result.

    Args:
        question: None trains for `max_epochs`.
        features: of each item of `interactions.item_ids`, so that items that nobody took have vectors too.
        checkpoints: file to go on from after a kill, under one name a training.

    Raises:
        MissingExtra: what training needs is not installed.
        InvalidInput: nothing follows anything, or there is no such device.
        GateRefused: the ONNX graph strays from what was trained.
    """
    try:
        from embeddings.histories.fitting import Fit, tell_nobody
    except ImportError as error:
        raise MissingExtra(f"[train] {error.name} is not installed; install likewise[models]") from error
    tokens = None if features is None else tokens_of(features)
    apart_ms = int(settings.apart_minutes * 60_000)
    also = None if tokens is None else np.flatnonzero(tokens.any(axis=1))
    every = Examples.of(interactions, also, apart_ms=apart_ms)
    if not len(every.windows(settings.max_items)[0]):
        raise InvalidInput(
            "[train] no user has two events; expected some whose events follow each other; give more events"
        )

    def fit(stage: str, examples: Examples, n_epochs: int, asked: Question | None) -> Fitted:
        run = _digest(examples, settings, n_epochs, asked)
        file = None if checkpoints is None else checkpoints.with_name(f"{checkpoints.name}-{run[:12]}.safetensors")
        of_known = None if tokens is None else tokens[examples.known]
        return Fit(examples, settings, stage, n_epochs, asked, of_known, run, file, tell or tell_nobody).result()

    if question is None:
        fitted = fit("train", every, settings.max_epochs, None)
        return _exported(fitted.network, every, settings, fitted.n_epochs, ())
    before = Examples.of(question.train, also, apart_ms=apart_ms)
    watched = fitted = fit("train, watched", before, settings.max_epochs, question)
    if len(question.train) < len(interactions):
        fitted = fit("train on everything", every, watched.n_epochs, None)
    return _exported(fitted.network, every, settings, watched.n_epochs, watched.reached)


def train(
    store: ModelStore,
    source: str,
    interactions: Interactions,
    settings: HistoryTrainingSettings,
    *,
    now_ms: int,
    features: Sequence[Sequence[str]] | None = None,
    checkpoints: Path | None = None,
    tell: Tell | None = None,
) -> ModelManifest:
    """Train an encoder on what happened before `now_ms` and seal it with the vectors of its items; no alias is moved.

    Args:
        features: see `learn`.
        checkpoints: see `learn`; removed when the model is sealed.

    Raises:
        MissingExtra: what training needs is not installed.
        InvalidInput: nothing happened before, or nothing follows anything.
        GateRefused: the ONNX graph strays from what was trained.
    """
    before = interactions.between(0, now_ms)
    if not len(before):
        raise InvalidInput("[train] no event lies before --until; expected some to learn from; give a later date")
    began = time.perf_counter()
    question = question_before(before, now_ms, days=settings.validation_days, new_only=settings.new_only)
    learned = learn(before, settings, question=question, features=features, checkpoints=checkpoints, tell=tell)
    vectors = learned.encoder.vectors
    index = None
    if len(vectors) > MAX_SCANNED:
        index = GraphIndex.build(vectors, metric="ip", seed=settings.seed, threads=settings.threads)

    def describe() -> ModelManifest:
        return ModelManifest(
            source=source,
            form="encoder",
            created_at=datetime.now(timezone.utc).isoformat(timespec="seconds"),
            code_version=importlib.metadata.version("likewise"),
            settings={
                name: float(value) for name, value in settings.model_dump().items() if not isinstance(value, str)
            },
            profile=Profile(),
            n_items=0,
            items_digest="",
            events_sha256=before.digest(),
            first_ms=int(before.at_ms[0]),
            last_ms=int(before.at_ms[-1]),
            metrics={
                "n_events": len(before),
                "n_users": len(np.unique(before.users)),
                "n_epochs": learned.n_epochs,
                "validation_ndcg_at_10": max(learned.reached, default=0.0),
                "fit_seconds": round(time.perf_counter() - began, 3),
            },
            file=SealedFile(0, ""),
            space_id=learned.encoder.space_id,
        )

    arrays: dict[str, Array] = {
        "vectors": vectors,
        "onnx": np.frombuffer(learned.graph, np.uint8),
        "weights": np.frombuffer(learned.weights, np.uint8),
    }
    manifest = store.publish([before.item_ids[row] for row in learned.known], arrays, describe, graph=index)
    if checkpoints is not None:
        for file in checkpoints.parent.glob(f"{checkpoints.name}-*.safetensors"):
            file.unlink()
    return manifest


def tokens_of(features: Sequence[Sequence[str]]) -> NDArray[np.int64]:
    """Number the features of items: int64[n, 16], 1 or more, 0 where there is none; what only one item has says nothing."""
    n_with: dict[str, int] = {}
    for each in features:
        for feature in set(each):
            n_with[feature] = n_with.get(feature, 0) + 1
    numbers = {feature: at for at, feature in enumerate(sorted(f for f, n in n_with.items() if n > 1), 1)}
    tokens = np.zeros((len(features), _N_TOKENS), np.int64)
    for row, each in enumerate(features):
        # the rarest say most
        known = sorted({f for f in each if f in numbers}, key=lambda f: (n_with[f], f))[:_N_TOKENS]
        tokens[row, : len(known)] = [numbers[feature] for feature in known]
    return tokens


def _digest(examples: Examples, settings: HistoryTrainingSettings, n_epochs: int, question: Question | None) -> str:
    """Of everything that decides what is learned."""
    import torch

    told = f"{settings.model_dump_json()}|{n_epochs}|{question is not None}|{torch.__version__}|"
    sha = hashlib.sha256(told.encode())
    for array in (examples.known, examples.items, examples.ends, examples.weights):
        sha.update(np.ascontiguousarray(array).tobytes())
    return sha.hexdigest()


def _exported(
    network: HistoryNetwork,
    examples: Examples,
    settings: HistoryTrainingSettings,
    n_epochs: int,
    reached: tuple[float, ...],
) -> Learned:
    import torch
    from safetensors.torch import save

    network = network.to("cpu").eval()
    weights = save({name: tensor.contiguous() for name, tensor in network.state_dict().items()})
    with torch.inference_mode():
        vectors = network.items().numpy().copy()
    space_id = hashlib.sha256(settings.encoder.encode() + weights).hexdigest()[:32]
    graph = _graph(network, settings, space_id)
    encoder = OnnxHistoryEncoder(graph, vectors, max_items=settings.max_items, space_id=space_id)
    _compare(network, encoder, settings)
    return Learned(encoder, examples.known, graph, weights, n_epochs, reached)


def _graph(network: HistoryNetwork, settings: HistoryTrainingSettings, space_id: str) -> bytes:
    import onnx
    import torch

    from embeddings.export import write_onnx

    batch, items = torch.export.Dim("batch"), torch.export.Dim("items", max=settings.max_items)
    example = (torch.zeros(2, 2 if settings.max_items == 2 else 3, settings.dim), torch.tensor([2, 1]))
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "graph.onnx"
        write_onnx(
            network,
            example,
            file,
            inputs=["items", "lengths"],
            dynamic_shapes=({0: batch, 1: items}, {0: batch}),
        )
        graph = onnx.load(str(file))
    told = graph.metadata_props.add()
    told.key, told.value = SPACE_ID, space_id
    return graph.SerializeToString()


def _compare(network: HistoryNetwork, encoder: OnnxHistoryEncoder, settings: HistoryTrainingSettings) -> None:
    """Hold what is served against what was trained."""
    from embeddings.histories.fitting import encode_histories

    rng = np.random.default_rng(settings.seed)
    histories = [rng.integers(0, len(encoder.vectors), n) for n in (1, 2, settings.max_items, settings.max_items + 7)]
    got, expected = encoder.encode(histories), encode_histories(network, histories)
    norms = np.linalg.norm(got, axis=1) * np.linalg.norm(expected, axis=1)
    worst = float(((got * expected).sum(axis=1) / np.maximum(norms, 1e-12)).min())
    if not worst >= LEAST_COSINE:
        raise GateRefused(
            f"[train] the ONNX graph strays from what was trained: cosine {worst:.6f}; expected at least {LEAST_COSINE}; "
            "report it with the versions of torch and onnxscript"
        )


class EncodedSource:
    """An encoder as the scoreboard measures it: scores of all items. Immutable and thread-safe."""

    def __init__(self, name: str, learned: Learned, n_items: int) -> None:
        """Ask for items by their rows in `Interactions.item_ids`, of which there are n_items."""
        self.name = name
        self._learned = learned
        self._n_items = n_items
        self._place = np.full(n_items, -1, np.int64)
        self._place[learned.known] = np.arange(len(learned.known))

    def scores(self, histories: Sequence[History], now_ms: int) -> NDArray[np.float32]:
        """See `matching.sources.Source`."""
        scores = np.full((len(histories), self._n_items), -np.inf, np.float32)
        places = [self._place[history.items] for history in histories]
        asked = [place[place >= 0] for place in places]
        rows = np.flatnonzero([len(place) > 0 for place in asked])
        if len(rows):
            vectors = self._learned.encoder.encode([asked[row] for row in rows])
            scores[np.ix_(rows, self._learned.known)] = vectors @ self._learned.encoder.vectors.T
        return scores
