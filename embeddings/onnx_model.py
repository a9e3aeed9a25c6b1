"""One ONNX graph behind ONNX Runtime: arrays in, one array out."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import cast

import numpy as np
from numpy.typing import NDArray

from matching.errors import CorruptArtifact, MissingExtra


class OnnxModel:
    """A loaded graph with a fixed number of threads. Thread-safe: ONNX Runtime sessions may run at the same time.

    Raises:
        MissingExtra: onnxruntime is not installed.
        CorruptArtifact: the file is not a graph that ONNX Runtime reads.
    """

    def __init__(self, graph: Path | bytes, *, n_threads: int) -> None:
        try:
            import onnxruntime  # type: ignore[import-untyped]
        except ImportError as error:
            raise MissingExtra(
                "[load model] onnxruntime is not installed; expected it wherever contents are encoded; run: pip install "
                "'likewise[encode]'"
            ) from error
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = n_threads
        options.inter_op_num_threads = 1
        options.log_severity_level = 3
        # Threads that spin between operators take the cores from the search beside them.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        try:
            read = graph if isinstance(graph, bytes) else str(graph)
            self._session = onnxruntime.InferenceSession(read, options, providers=["CPUExecutionProvider"])
        except Exception as error:  # onnxruntime's own exception types are private
            raise CorruptArtifact(
                f"[load model] ONNX Runtime cannot load {_named(graph)}: {error}; expected an exported graph; remove its folder "
                "and it is exported again"
            ) from error

    @property
    def metadata(self) -> Mapping[str, str]:
        """What whoever wrote the graph says of it."""
        return cast("Mapping[str, str]", self._session.get_modelmeta().custom_metadata_map)

    def run(self, inputs: Mapping[str, NDArray[np.generic]]) -> NDArray[np.float32]:
        """Return the graph's single output for its named inputs."""
        return cast(NDArray[np.float32], self._session.run(None, dict(inputs))[0])


def _named(graph: Path | bytes) -> str:
    return f"a graph of {len(graph):,} bytes" if isinstance(graph, bytes) else str(graph)
