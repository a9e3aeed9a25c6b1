"""What a training has reached, in a file that is whole or absent: after a kill it goes on from there."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from matching.files import sync

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a training is.

    Attributes:
        run: digest of everything that decides what is learned; another run does not go on from here.
        epoch, step: what comes next.
        reached: what was asked after each pass.
        best_epoch: passes after which the best was reached.
        is_done: nothing comes next.
    """

    run: str
    epoch: int = 0
    step: int = 0
    reached: tuple[float, ...] = ()
    best_epoch: int = 0
    is_done: bool = False


def write_checkpoint(path: Path, progress: Progress, tensors: Mapping[str, Tensor]) -> None:
    """Put a checkpoint in place of the one before, in one rename."""
    from safetensors.torch import save_file

    path.parent.mkdir(parents=True, exist_ok=True)
    work = path.with_suffix(".work")
    save_file(
        {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()},
        work,
        metadata={"progress": json.dumps(asdict(progress))},
    )
    sync(work)
    work.replace(path)
    sync(path.parent)


def read_checkpoint(path: Path, run: str) -> tuple[Progress, dict[str, Tensor]] | None:
    """Return what was kept of a run; None where nothing was, or of another run."""
    from safetensors import SafetensorError, safe_open

    if not path.exists():
        return None
    try:
        with safe_open(path, "pt") as file:
            told = json.loads((file.metadata() or {}).get("progress", "{}"))
            if told.get("run") != run:
                return None
            progress = Progress(**{**told, "reached": tuple(told["reached"])})
            return progress, {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, ValueError):
        return None
