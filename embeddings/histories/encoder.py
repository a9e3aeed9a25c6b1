"""A trained encoder of histories as it is served: an ONNX graph over the vectors of a model's items, without torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import cast

import numpy as np
from numpy.typing import NDArray

from embeddings.onnx_model import OnnxModel
from matching.errors import SpaceMismatch
from matching.recommend.model import Array, ModelManifest

SPACE_ID = "space_id"  # the graph's metadata under this name says whose vectors it reads and writes


class OnnxHistoryEncoder:
    """Histories into vectors of the space of their items. Thread-safe.

    Attributes:
        space_id: of the vectors that it reads and of those it returns.
        vectors: float32[n_items, dim], of the model's items.
    """

    def __init__(self, graph: bytes, vectors: NDArray[np.float32], *, max_items: int, space_id: str) -> None:
        """Load a graph.

        Args:
            graph: ONNX, from the vectors of the items of histories float32[b, t, dim], padded behind their ends, and their
                lengths int64[b], 1 or more, to float32[b, dim].
            max_items: so many of the newest items of a history are read.

        Raises:
            SpaceMismatch: the graph was not trained with these vectors.
            MissingExtra: onnxruntime is not installed.
            CorruptArtifact: the bytes are no graph.
        """
        self._model = OnnxModel(graph, n_threads=1)
        of_graph = self._model.metadata.get(SPACE_ID, "")
        if of_graph != space_id:
            raise SpaceMismatch(
                f"[load encoder] the graph belongs to the space {of_graph[:12] or 'without a name'}, the vectors of items to "
                f"{space_id[:12]}; expected one space; train the model again"
            )
        self.space_id = space_id
        self.vectors = vectors
        self._max_items = max_items

    def encode(self, histories: Sequence[NDArray[np.integer]]) -> NDArray[np.float32]:
        """Return float32[b, dim] for histories of items of the model, oldest first, one item or more each."""
        newest = [history[-self._max_items :] for history in histories]
        lengths = np.array([len(history) for history in newest], np.int64)
        read = np.zeros((len(newest), int(lengths.max()), self.vectors.shape[1]), np.float32)
        for row, history in enumerate(newest):
            read[row, : len(history)] = self.vectors[history]
        return self._model.run({"items": read, "lengths": lengths})


def load_history_encoder(manifest: ModelManifest, arrays: Mapping[str, Array]) -> OnnxHistoryEncoder:
    """Return the encoder of a model of the form "encoder".

    Raises:
        SpaceMismatch: its graph was not trained with its vectors.
        MissingExtra: onnxruntime is not installed.
        CorruptArtifact: its bytes are no graph.
    """
    return OnnxHistoryEncoder(
        arrays["onnx"].tobytes(),
        cast("NDArray[np.float32]", arrays["vectors"]),
        max_items=int(manifest.settings["max_items"]),
        space_id=manifest.space_id,
    )
