"""`likewise versions compact`: the writes of a log, folded into the next version."""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Annotated

import typer

from index_builder.compact import compact
from lifecycle.settings import Settings, load_settings, with_log
from lifecycle.terminal import ProgressBar, out, print_json
from matching.errors import AlreadyExists, GateRefused
from matching.live import Log, truncate_log
from matching.live.retention import LEAST_KEPT
from matching.store import Store
from serving.write_log import open_log

LogOption = Annotated[
    str, typer.Option("--log", help="Folder of write logs, an endpoint's lies in LOG/ENDPOINT; or nats://host:port.")
]
EndpointOption = Annotated[
    str | None,
    typer.Option("--endpoint", help="Whose log it is; where it is left out, that of an endpoint named ALIAS."),
]


def compact_version(
    context: typer.Context,
    alias: Annotated[str, typer.Argument(help="The alias whose version takes the writes in.")],
    store: Annotated[Path, typer.Option("--store", help="Directory of the store.")],
    log: LogOption,
    endpoint: EndpointOption = None,
    up_to: Annotated[
        int | None,
        typer.Option("--up-to", min=1, help="Last write to take in; by default the newest known to be on disk."),
    ] = None,
    promote: Annotated[bool, typer.Option("--promote", help="Point the alias at the new version.")] = False,
    nice: Annotated[
        int, typer.Option("--nice", min=0, max=19, help="How far to step back behind other processes.")
    ] = 10,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Write the next version of ALIAS: what it is now and the writes of its log, in one sealed version.

    A service may append to the log meanwhile.

    Example: `likewise versions compact shop --store shop --log writes --promote`
    """
    os.nice(nice)
    held = Store(store)
    base = held.history(alias)[-1].new
    settings = load_settings(context.obj)
    with (
        _alone(held, alias),
        _opened(settings, log, endpoint or alias, read_only=True) as written,
        ProgressBar() as progress,
    ):
        built = compact(held, base, written, settings=settings.build, progress=progress, last_sequence=up_to)
    manifest = built.manifest
    n_writes = manifest.log_sequence - int(str(manifest.source["first_sequence"])) + 1
    if promote:
        try:
            held.set_alias(alias, built.version_id, why=f"{n_writes:,} writes taken in", instead_of=base)
        except AlreadyExists as error:
            raise GateRefused(
                f"[compact] {alias} was moved meanwhile, and {built.version_id} was made of {base}; it is published and not "
                "promoted: compact again"
            ) from error
    if as_json:
        print_json(
            {
                "version": built.version_id,
                "base": base,
                "log_sequence": manifest.log_sequence,
                "n_writes": n_writes,
                "n_datapoints": manifest.n_datapoints,
                "is_promoted": promote,
                "seconds": {stage: round(seconds, 2) for stage, seconds in built.seconds.items()},
            }
        )
        return
    out.print(f"published {built.version_id}: {base} and the writes up to {manifest.log_sequence:,}", markup=False)
    out.print(f"{manifest.n_datapoints:,} datapoints; {n_writes:,} writes taken in")
    out.print(f"{alias} names it now" if promote else f"{alias} names {base} as before", markup=False)


def truncate_log_of(
    context: typer.Context,
    aliases: Annotated[list[str], typer.Argument(help="The aliases whose versions take the log's writes.")],
    store: Annotated[Path, typer.Option("--store", help="Directory of the store.")],
    log: LogOption,
    endpoint: EndpointOption = None,
    keep: Annotated[
        int, typer.Option("--keep", min=LEAST_KEPT, help="Versions of each alias that must stay servable.")
    ] = LEAST_KEPT,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Drop the files of a log whose writes the newest versions of ALIASES all have in them.

    The service that writes to the log must have ended, unless the log is a stream.

    Example: `likewise versions truncate-log shop --store shop --log writes --keep 3`
    """
    held = Store(store)
    with _opened(load_settings(context.obj), log, endpoint or aliases[0], read_only=False) as written:
        before = written.first_sequence, written.n_bytes
        first = truncate_log(held, aliases, written, keep)
        n_bytes = before[1] - written.n_bytes
        last = written.last_sequence
    if as_json:
        print_json({"first_sequence": first, "last_sequence": last, "n_dropped": first - before[0], "n_bytes": n_bytes})
    else:
        out.print(f"{first - before[0]:,} writes, {n_bytes:,} bytes dropped; the log holds {first:,} to {last:,}")


@contextlib.contextmanager
def _alone(store: Store, alias: str) -> Iterator[None]:
    """Keep a second compaction of an alias away.

    Raises:
        AlreadyExists: one is under way.
    """
    with (store.path / "aliases" / f"{alias}.jsonl").open("rb") as history:
        try:
            fcntl.flock(history, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise AlreadyExists(f"[compact] {alias} is being compacted already; wait for that to end") from None
        yield


def _opened(settings: Settings, log: str, endpoint: str, *, read_only: bool) -> AbstractContextManager[Log]:
    opened = open_log(with_log(settings.serving, log), endpoint, read_only=read_only)
    assert opened is not None
    return opened
