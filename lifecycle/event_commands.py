"""`likewise events`: the log of events brought in, taken out, looked at, and rid of a user."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import asdict
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer

from lifecycle.audit_commands import audit
from lifecycle.settings import load_settings, with_events
from lifecycle.terminal import ProgressBar, err, out, print_json, print_table
from lifecycle.version_commands import JsonOption
from matching.errors import NotFound
from matching.event_files import export_events, import_events, read_event_log
from matching.interactions import Interactions, open_events, read_events
from matching.user_keys import UserKeys
from serving.event_log import open_event_log
from serving.settings import EventSettings

if TYPE_CHECKING:
    from matching.event_log import SqlEventLog

_SQLITE: Final = b"SQLite format 3\0"

app = typer.Typer(help="Bring events in and out, count them, erase a user.", no_args_is_help=True)
LogArgument = Annotated[str, typer.Argument(help="SQLite file of the log, or postgresql://user@host/database.")]


@app.command("import")
def import_log(
    context: typer.Context,
    log: LogArgument,
    file: Annotated[Path, typer.Argument(help="Parquet file: an export, or user_id, item_id, event_type, timestamp.")],
    as_json: JsonOption = False,
) -> None:
    """Put the events of a Parquet file into a log, which is made where it is missing; once, however often it is done.

    Example: `likewise events import shop-events.sqlite events.parquet`
    """
    settings = _settings(context, log)
    keys = UserKeys.of_file(settings.user_keys)
    total = open_events(file).metadata.num_rows
    with _opened(settings, is_new=True) as held, ProgressBar() as bar:
        bar.begin("importing", total)
        imported = import_events(held, file, keys, now_ms=int(time.time() * 1e3), progress=bar.advance)
    if as_json:
        print_json(asdict(imported))
        return
    out.print(f"{imported.n_accepted:,} events are new, {imported.n_duplicates:,} were there")
    for why, n in imported.left_out.items():
        err.print(f"{n:,} rows left out: {why}")


@app.command("export")
def export_log(
    context: typer.Context,
    log: LogArgument,
    file: Annotated[Path, typer.Argument(help="Parquet file to write, a row an item.")],
    after: Annotated[int, typer.Option("--after", min=0, help="Sequence where the export before ended.")] = 0,
    as_json: JsonOption = False,
) -> None:
    """Write the events of a log as Parquet, while services write to it; users are their keyed hashes.

    Example: `likewise events export shop-events.sqlite events.parquet`
    """
    settings = _settings(context, log)
    keys = UserKeys.of_file(settings.user_keys)
    with _opened(settings) as held, ProgressBar() as bar:
        bar.begin("exporting", None)
        n_rows, last = export_events(held, file, keys=keys, after=after, progress=bar.advance)
    if as_json:
        print_json({"n_rows": n_rows, "sequence": last})
    else:
        out.print(f"wrote {n_rows:,} rows to {file}, up to sequence {last}", markup=False)


@app.command("erase")
def erase_user(
    context: typer.Context,
    log: LogArgument,
    user: Annotated[str, typer.Option("--user", help="Id of the user, as the shop tells it.")],
    as_json: JsonOption = False,
) -> None:
    """Remove every trace of a user from a log and never take an event of them again; it cannot be undone.

    Example: `likewise events erase shop-events.sqlite --user ann`
    """
    settings = _settings(context, log)
    key = UserKeys.of_file(settings.user_keys).key(user)
    with _opened(settings) as held:
        n_gone = held.erase(key)
    audit(context, "events erase", f"{n_gone} events of one user")
    if as_json:
        print_json({"n_events": n_gone})
    else:
        out.print(f"{n_gone:,} events are gone; what comes of this user is not taken any more")


@app.command("stats")
def count_events(context: typer.Context, log: LogArgument, as_json: JsonOption = False) -> None:
    """Count what a log holds.

    Example: `likewise events stats shop-events.sqlite`
    """
    with _opened(_settings(context, log)) as held:
        stats = held.stats()
    if as_json:
        print_json(asdict(stats))
        return
    first, last = ("never" if at is None else _date(at) for at in (stats.first_ms, stats.last_ms))
    n_events = sum(stats.n_events.values())
    title = f"{n_events:,} events of {stats.n_users:,} users from {first} to {last}, {stats.n_erased:,} erased"
    print_table(title, ["type", ">events"], [(kind, f"{n:,}") for kind, n in stats.n_events.items()])


def interactions_from(
    events: str, weights: Mapping[str, float], progress: Callable[[int], None] = lambda n: None
) -> Interactions:
    """Return the events of a Parquet file, or of a log, as interactions; `progress` is told how many rows are read.

    Raises:
        InvalidInput: it is neither, or nothing is left of it.
        Unavailable: the database cannot be reached.
    """
    path = Path(events)
    if "://" not in events and not _is_sqlite(path):
        return read_events(path, weights=weights, progress=progress)
    with open_event_log(events) as log:
        return read_event_log(log, weights=weights, progress=progress)


def _is_sqlite(path: Path) -> bool:
    if not path.is_file():
        return False
    with path.open("rb") as file:
        return file.read(len(_SQLITE)) == _SQLITE


def _settings(context: typer.Context, log: str) -> EventSettings:
    return with_events(load_settings(context.obj).events, log)


def _opened(settings: EventSettings, *, is_new: bool = False) -> AbstractContextManager[SqlEventLog]:
    log = settings.log
    assert log is not None
    if isinstance(log, Path) and not is_new and not log.is_file():
        raise NotFound(f"[events] there is no log {log}; expected one; likewise events import makes it")
    return open_event_log(log)


def _date(at_ms: int) -> str:
    return datetime.fromtimestamp(at_ms / 1e3, timezone.utc).date().isoformat()
