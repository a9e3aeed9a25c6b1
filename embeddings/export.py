"""Torch models into ONNX graphs, once a machine. Runs as a program: `python -m embeddings.export NAME WEIGHTS TARGET`.

The last line of its output is JSON: the versions used and the worst cosine between ONNX Runtime and torch over the probes.
This is the only place that imports torch for the models of `model_file`.
"""

from __future__ import annotations

import json
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

LEAST_COSINE = 0.999
_OPSET = 20
_Probe = dict[str, NDArray[np.generic]]


def export_text(weights: Path, target: Path) -> list[_Probe]:
    """Write MiniLM as token ids int64[b, t] and mask int64[b, t] -> unit vectors float32[b, 384]; return probes.

    The mean over the tokens and the normalisation are part of the graph.
    """
    import torch
    from transformers import BertModel, logging

    logging.set_verbosity_error()  # type: ignore[no-untyped-call]
    logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    bert = BertModel.from_pretrained(
        str(weights.parent), attn_implementation="eager", add_pooling_layer=False, local_files_only=True
    )
    bert.eval()  # type: ignore[no-untyped-call]

    class MeanOfTokens(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.bert = bert

        def forward(self, input_ids: Any, attention_mask: Any) -> Any:
            states = self.bert(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state
            mask = attention_mask.unsqueeze(-1).to(states.dtype)
            mean = (states * mask).sum(1) / mask.sum(1)
            return mean * torch.rsqrt((mean * mean).sum(-1, keepdim=True))

    model = MeanOfTokens().eval()
    batch, tokens = torch.export.Dim("batch"), torch.export.Dim("tokens", max=512)
    ids = torch.randint(1000, 20000, (2, 7), generator=torch.Generator().manual_seed(1))
    write_onnx(
        model,
        (ids, torch.ones_like(ids)),
        target,
        inputs=["input_ids", "attention_mask"],
        dynamic_shapes=({0: batch, 1: tokens}, {0: batch, 1: tokens}),
    )
    rng = np.random.default_rng(1)
    probes: list[_Probe] = []
    for n_tokens in (3, 16, 97, 256):
        lengths = np.r_[n_tokens, rng.integers(2, n_tokens + 1, 3)]
        mask = (np.arange(n_tokens) < lengths[:, None]).astype(np.int64)
        probes.append({"input_ids": rng.integers(1000, 30000, mask.shape) * mask, "attention_mask": mask})
    _compare(model, target, probes)
    return probes


def export_image(weights: Path, target: Path) -> list[_Probe]:
    """Write EfficientNet-Lite0 as pictures uint8[b, 224, 224, 3] -> unit vectors float32[b, 1280]; return probes.

    Scaling to (x - 127) / 128, as the network was trained, average pooling and normalisation are part of the graph.
    """
    import torch
    from efficientnet_lite_pytorch import EfficientNet  # type: ignore[import-untyped]

    network = EfficientNet.from_name("efficientnet-lite0")
    network.load_state_dict(torch.load(weights, map_location="cpu", weights_only=True))
    network.eval()

    class Pooled(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.network = network

        def forward(self, pictures: Any) -> Any:
            scaled = (pictures.to(torch.float32) - 127.0) / 128.0
            pooled = self.network.extract_features(scaled.permute(0, 3, 1, 2)).mean((2, 3))
            return pooled * torch.rsqrt((pooled * pooled).sum(-1, keepdim=True))

    model = Pooled().eval()
    rng = np.random.default_rng(1)
    coarse = rng.integers(0, 256, (4, 14, 14, 3), dtype=np.uint8)
    pictures = coarse.repeat(16, axis=1).repeat(16, axis=2)
    probes: list[_Probe] = [
        {"pictures": pictures},
        {"pictures": rng.integers(0, 256, (1, 224, 224, 3), dtype=np.uint8)},
    ]
    write_onnx(
        model,
        (torch.from_numpy(pictures[:2]),),
        target,
        inputs=["pictures"],
        dynamic_shapes=({0: torch.export.Dim("batch")},),
    )
    _compare(model, target, probes)
    return probes


_EXPORTS: dict[str, Callable[[Path, Path], list[_Probe]]] = {
    "all-MiniLM-L6-v2": export_text,
    "efficientnet-lite0": export_image,
}


def write_onnx(model: Any, example: tuple[Any, ...], target: Path, *, inputs: list[str], dynamic_shapes: Any) -> None:
    """Write a torch model as one self-contained ONNX file with the output `vectors`."""
    import torch

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the exporter warns of its own internals
        torch.onnx.export(
            model,
            example,
            str(target),
            input_names=inputs,
            # "embedding" would clash with the value that the exporter itself names after aten.embedding
            output_names=["vectors"],
            dynamo=True,
            dynamic_shapes=dynamic_shapes,
            opset_version=_OPSET,
            external_data=False,
            verbose=False,
        )


def _compare(model: Any, target: Path, probes: list[_Probe]) -> None:
    worst = worst_cosine(model, target, probes)
    if not worst >= LEAST_COSINE:
        raise SystemExit(f"the exported graph strays from torch: cosine {worst:.6f}; expected at least {LEAST_COSINE}")
    _measured["cosine_to_torch"] = round(worst, 7)


def worst_cosine(model: Any, target: Path, probes: list[_Probe]) -> float:
    """Return the smallest cosine, over all rows of all probes, between torch and ONNX Runtime."""
    import torch

    from embeddings.onnx_model import OnnxModel

    served = OnnxModel(target, n_threads=1)
    worst = 1.0
    for probe in probes:
        with torch.inference_mode():
            expected = model(*(torch.from_numpy(array) for array in probe.values())).numpy()
        got = served.run(probe)
        norms = np.linalg.norm(got, axis=1) * np.linalg.norm(expected, axis=1)
        worst = min(worst, float(((got * expected).sum(1) / norms).min()))
    return worst


_measured: dict[str, object] = {}


def main(arguments: list[str]) -> None:
    """Export the named model and write what was measured to standard output."""
    import onnxscript
    import torch

    name, weights, target = arguments
    torch.set_num_threads(1)
    _EXPORTS[name](Path(weights), Path(target))
    sys.stdout.write(json.dumps({**_measured, "torch": torch.__version__, "onnxscript": onnxscript.__version__}) + "\n")


if __name__ == "__main__":
    main(sys.argv[1:])
