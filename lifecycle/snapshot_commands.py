"""`likewise snapshot` and `likewise restore`: a copy of what a service needs, and back."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from lifecycle.snapshot import Snapshot, restore_snapshot, take_snapshot
from lifecycle.terminal import ProgressBar, out, print_json
from matching.live.retention import LEAST_KEPT
from matching.store import Store

JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON.")]


def snapshot(
    store: Annotated[Path, typer.Option("--store", help="Directory of the store.")],
    to: Annotated[Path, typer.Option("--out", help="Folder of the snapshot; made here.")],
    log: Annotated[Path | None, typer.Option("--log", help="Folder of write logs, where there are any.")] = None,
    keep: Annotated[
        int, typer.Option("--keep", min=LEAST_KEPT, help="Versions of each alias: what it names, and those before.")
    ] = LEAST_KEPT,
    as_json: JsonOption = False,
) -> None:
    """Copy aliases, the versions they name and the write logs, while the service runs.

    Example: `likewise snapshot --store shop --log writes --out backup/monday`
    """
    with ProgressBar() as progress:
        taken = take_snapshot(Store(store), log, to, n_kept=keep, progress=progress)
    _tell(taken, f"took {to}", as_json=as_json)


def restore(
    source: Annotated[Path, typer.Option("--from", help="Folder of the snapshot.")],
    store: Annotated[Path, typer.Option("--store", help="Directory of the store; must be empty or missing.")],
    log: Annotated[Path | None, typer.Option("--log", help="Folder of write logs; must be empty or missing.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Verify a snapshot, every byte of it, and put it where a service finds it.

    Example: `likewise restore --from backup/monday --store shop --log writes`
    """
    with ProgressBar() as progress:
        taken = restore_snapshot(source, store, log, progress=progress)
    _tell(taken, f"restored {source}, taken {taken.created_at}", as_json=as_json)


def _tell(taken: Snapshot, what: str, *, as_json: bool) -> None:
    if as_json:
        told = asdict(taken)
        del told["files"]
        print_json({**told, "n_files": len(taken.files), "n_bytes": taken.n_bytes})
        return
    out.print(
        f"{what}: {len(taken.versions)} versions, {len(taken.files)} files, {taken.n_bytes:,} bytes", markup=False
    )
    for alias, version in taken.aliases.items():
        out.print(f"{alias} names {version}", markup=False)
    for name, (first, last) in taken.logs.items():
        out.print(f"log {name} holds the writes {first:,} to {last:,}", markup=False)
