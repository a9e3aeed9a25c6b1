"""`likewise evaluate`: which source would have known what came."""

from __future__ import annotations

from datetime import datetime, timezone
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import numpy as np
import typer

from lifecycle.event_commands import interactions_from
from lifecycle.settings import load_settings
from lifecycle.terminal import ProgressBar, err, print_json, print_table
from lifecycle.train_command import weights_of
from lifecycle.version_commands import JsonOption
from matching.errors import InvalidInput, MissingExtra
from matching.interactions import DAY_MS, EVENT_WEIGHTS, Interactions, read_sequences
from matching.recommend.model_store import ModelStore, Verdict
from matching.store import Store

if TYPE_CHECKING:
    from lifecycle.scoreboard.board import Board
    from lifecycle.scoreboard.fold import Fold


class Mode(str, Enum):
    """How to split what is known from what is asked."""

    time = "time"
    leave_one_out = "leave-one-out"


def evaluate(
    context: typer.Context,
    events: Annotated[
        str,
        typer.Argument(
            help="Parquet file of events, a log of them (SQLite file or postgresql://user@host/database), or with --mode "
            "leave-one-out a text file of sequences."
        ),
    ],
    cut: Annotated[
        datetime | None, typer.Option("--cut", help="Date from which on is asked; the events before it are known.")
    ] = None,
    days: Annotated[float, typer.Option("--days", help="How long after the cut counts.", min=0.01)] = 30,
    origins: Annotated[
        int, typer.Option("--origins", help="Cuts, each --days before the next; the last is --cut.", min=1, max=100)
    ] = 1,
    mode: Annotated[
        Mode, typer.Option("--mode", help="leave-one-out only compares with published figures.")
    ] = Mode.time,
    weight: Annotated[
        list[str] | None, typer.Option("--weight", help="TYPE=WEIGHT of a type of event; others are left out.")
    ] = None,
    source: Annotated[
        list[str] | None, typer.Option("--source", help="Challenger beside the baselines; all where none is named.")
    ] = None,
    repeats: Annotated[
        bool, typer.Option("--repeats/--new-only", help="Ask for items too that a user had before.")
    ] = False,
    seed: Annotated[int, typer.Option("--seed", help="Of the bootstrap.")] = 0,
    store: Annotated[
        Path | None,
        typer.Option("--store", help="Store in which `likewise train` is to know what was found of each source."),
    ] = None,
    output: Annotated[Path | None, typer.Option("--output", help="Page with plots to write, HTML.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Measure sources of recommendations on events: learn from what came before a cut, ask for what came after it.

    The baselines (popular, sequential rules, item-kNN, EASE, iALS) are always there. A challenger is promotable only where
    the interval of its difference to the best of them lies above 0.

    Example: `likewise evaluate events.parquet --cut 2011-10-09 --output scoreboard.html`
    """
    try:
        from lifecycle.encoder_training import encoder_settings
        from lifecycle.scoreboard.board import CHALLENGERS, measure
        from lifecycle.scoreboard.encoders import encoder_fits
        from lifecycle.scoreboard.report import as_rows, write_report
    except ImportError as error:
        raise MissingExtra(f"[evaluate] {error.name} is not installed; install likewise[recommend]") from error
    names = source or list(CHALLENGERS)
    challengers = {**CHALLENGERS, **encoder_fits(encoder_settings(load_settings(context.obj)))}
    unknown = [name for name in names if name not in challengers]
    if unknown:
        raise InvalidInput(f"[evaluate] no source {', '.join(unknown)}; there are {', '.join(challengers)}")
    interactions = _read(events, mode, weight)
    for reason, n in interactions.left_out.items():
        if n:
            err.print(f"{n:,} events left out: {reason}")
    folds = _folds(interactions, mode, cut, days, origins, repeats)
    with ProgressBar() as bar:
        stages: list[str] = []

        def show(stage: str, done: int, total: int) -> None:
            if stages[-1:] != [stage]:
                stages.append(stage)
                bar.begin(stage, total)
            bar.advance(done)

        board = measure(
            folds, {name: challengers[name] for name in names}, leave_out_seen=not repeats, seed=seed, progress=show
        )
    if store is not None:
        _keep_verdicts(board, store)
    if output is not None:
        write_report(board, output, title=f"Scoreboard of {Path(events).name}, {mode.value}")
        err.print(f"wrote {output}")
    if as_json:
        print_json({"mode": mode.value, "left_out": dict(interactions.left_out), **board.to_json()})
        return
    _tell_blend(board)
    columns = [
        "source",
        ">hit@10",
        ">recall@10",
        ">ndcg@10",
        ">mrr@10",
        ">coverage@10",
        f">{board.primary} over {board.best_baseline}",
        "",
    ]
    n_users = sum(fold["n_users"] for fold in board.folds)
    print_table(f"{n_users:,} users asked about in {len(board.folds)} folds, {mode.value}", columns, as_rows(board))


def _folds(
    interactions: Interactions, mode: Mode, cut: datetime | None, days: float, origins: int, repeats: bool
) -> list[Fold]:
    from lifecycle.scoreboard.fold import leave_one_out, time_folds

    if mode is Mode.leave_one_out:
        return [leave_one_out(interactions)]
    if cut is None:
        first, last = (np.datetime64(int(t), "ms").astype("datetime64[D]") for t in interactions.at_ms[[0, -1]])
        raise InvalidInput(
            f"[evaluate] --cut is missing; the events run from {first} to {last}; give a date in between"
        )
    cut_ms = int(cut.replace(tzinfo=timezone.utc).timestamp() * 1000)
    horizon_ms = int(days * DAY_MS)
    return list(time_folds(interactions, cut_ms=cut_ms, horizon_ms=horizon_ms, n_origins=origins, new_only=not repeats))


def _keep_verdicts(board: Board, store: Path) -> None:
    models = ModelStore(Store(store).path)
    for row in board.rows:
        if row.over_best is None:
            continue
        over = row.over_best
        at = datetime.now(timezone.utc).isoformat(timespec="seconds")
        cut = str(board.folds[-1]["cut"])
        models.keep_verdict(
            row.source, Verdict(at, cut, board.primary, board.best_baseline, over.mean, over.low, over.high)
        )


def _tell_blend(board: Board) -> None:
    for row in board.rows:
        if row.over_single is not None and row.weights:
            over = row.over_single
            weights = " ".join(f"--source {name}={weight:g}" for name, weight in row.weights.items())
            err.print(
                f"{row.source} over the best single source, {board.best_single}: {over.mean:+.4f} ({over.low:+.4f} to "
                f"{over.high:+.4f}); it is served by {weights}"
            )


def _read(events: str, mode: Mode, weight: list[str] | None) -> Interactions:
    path = Path(events)
    if path.suffix == ".txt":
        if mode is Mode.time:
            raise InvalidInput(
                f"[evaluate] {path} holds sequences without times; evaluate them with --mode leave-one-out"
            )
        return read_sequences(path)
    return interactions_from(events, weights_of(weight) if weight else EVENT_WEIGHTS)
