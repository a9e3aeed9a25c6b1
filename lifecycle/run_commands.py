"""`likewise runs`: what was trained and built, as MLflow tells it."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated, Any

import typer

from lifecycle.runs.record import recorded
from lifecycle.runs.settings import RunsSettings
from lifecycle.runs.tracking import Run, Tracking
from lifecycle.settings import load_settings
from lifecycle.terminal import err, out, print_json, print_table
from lifecycle.version_commands import JsonOption, StoreOption
from matching.errors import LikewiseError
from matching.store import Store

app = typer.Typer(help="List, show and mend the runs that MLflow holds of trainings and builds.", no_args_is_help=True)


@app.command("list")
def list_runs(
    context: typer.Context,
    store: StoreOption,
    group: Annotated[
        str | None, typer.Option("--of", help="A source of recommendations, or `index` for builds; all where left out.")
    ] = None,
    n: Annotated[int, typer.Option("--n", min=1, max=1000, help="How many, newest first.")] = 50,
    as_json: JsonOption = False,
) -> None:
    """List runs, newest first, with the aliases that name what they made.

    Example: `likewise runs list --of ease --store shop`
    """
    tracking = Tracking(Store(store), load_settings(context.obj).runs)
    runs = tracking.runs(group, n=n)
    if as_json:
        print_json([_as_json(run) for run in runs])
        return
    print_table(
        f"{len(runs)} runs in {_plain(tracking.where)}",
        ["made", "of", "aliases", "ended", ">seconds", "status", "run"],
        [
            [
                _plain(cell)
                for cell in (
                    run.made_id,
                    run.group,
                    ", ".join(run.aliases),
                    "" if run.ended_at is None else run.ended_at.isoformat(timespec="seconds"),
                    _seconds(run),
                    run.status.lower(),
                    run.run_id,
                )
            ]
            for run in runs
        ],
    )


@app.command("show")
def show_run(
    context: typer.Context,
    run_id: Annotated[str, typer.Argument(help="Id of the run, or of the model or index version that it made.")],
    store: StoreOption,
    as_json: JsonOption = False,
) -> None:
    """Show what one run was given, learned from, measured and made.

    Example: `likewise runs show 20261121-101500-0123456789abcdef --store shop`
    """
    run = Tracking(Store(store), load_settings(context.obj).runs).run(run_id)
    if as_json:
        print_json(_as_json(run))
        return
    told = {
        "made": run.made_id,
        "of": run.group,
        "aliases": ", ".join(run.aliases) or "none",
        "path": run.path,
        "ended": run.ended_at,
        "seconds": _seconds(run),
        "run": f"{run.run_id}, {run.status.lower()}",
    }
    for title, values in (("", told), ("\ndata", run.data), ("\nmetrics", run.metrics), ("\nparameters", run.params)):
        print_table(title, ["", ""], [(_plain(name), _plain(value)) for name, value in values.items()])


@app.command("sync")
def sync_runs(context: typer.Context, store: StoreOption, as_json: JsonOption = False) -> None:
    """Record what MLflow lacks of the store's models and index versions, and point its aliases where the store's point.

    Example: `likewise runs sync --store shop`
    """
    held = Store(store)
    tracking = Tracking(held, load_settings(context.obj).runs)
    done = tracking.mirror(tuple(recorded(held)))
    if as_json:
        print_json({"where": tracking.where, **asdict(done)})
        return
    out.print(f"{done.n_runs:,} runs recorded, {done.n_aliases:,} aliases moved in {tracking.where}", markup=False)
    for alias in done.left_out:
        err.print(f"MLflow takes no alias of that name: {alias}", markup=False)


def keep_record(store: Store, settings: RunsSettings, group: str) -> None:
    """Record what was just made; where MLflow cannot, say so and go on: the store has it, and the next run records it."""
    if not settings.record:
        return
    try:
        Tracking(store, settings).mirror(tuple(recorded(store, group)))
    except LikewiseError as error:
        err.print(str(error), style="yellow", markup=False)


def _as_json(run: Run) -> dict[str, Any]:
    return asdict(run) | {
        "started_at": run.started_at.isoformat(),
        "ended_at": None if run.ended_at is None else run.ended_at.isoformat(),
    }


def _seconds(run: Run) -> str:
    return "" if run.ended_at is None else f"{(run.ended_at - run.started_at).total_seconds():.1f}"


def _plain(value: object) -> str:
    """Return a text that a terminal shows and does not follow, whatever a server put into it."""
    from rich.markup import escape

    return escape("".join(each if each.isprintable() else "\N{REPLACEMENT CHARACTER}" for each in str(value)))
