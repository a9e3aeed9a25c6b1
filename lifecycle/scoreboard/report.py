"""The scoreboard as one page that needs nothing else: table, plots, verdict."""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from lifecycle.scoreboard.board import Board, Row
from matching.errors import MissingExtra

_STYLE: Final = """
body { font: 15px/1.5 system-ui, sans-serif; max-width: 72rem; margin: 2rem auto; padding: 0 1rem; color: #1c2430; }
h1 { font-size: 1.5rem; } h2 { font-size: 1.1rem; margin-top: 2rem; }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; }
th, td { padding: .3rem .6rem; text-align: right; border-bottom: 1px solid #e3e7ec; white-space: nowrap; }
th:first-child, td:first-child { text-align: left; } tr.best td { background: #eef4ff; }
small { color: #66707d; } img { max-width: 100%; } .yes { color: #14804a; font-weight: 600; } .no { color: #b3261e; }
.wide { overflow-x: auto; }
"""


def write_report(board: Board, path: Path, *, title: str) -> None:
    """Write the page.

    Raises:
        MissingExtra: matplotlib, which draws, is not installed.
    """
    folds = "".join(
        f"<li>{html.escape(fold['cut'])}: {fold['n_events']:,} events before, {fold['n_users']:,} users asked about "
        f"({fold['n_cold_users']:,} without a history), {fold['n_targets']:,} items to find, {fold['n_cold_targets']:,} of them "
        f"never seen before</li>"
        for fold in board.folds
    )
    overall = list(board.rows[0].overall)
    figures = [[f"{row.overall[name]:.4g}" for name in overall] for row in board.rows]
    path.write_text(
        f"<!doctype html><html lang=en><meta charset=utf-8><meta name=viewport content='width=device-width'>"
        f"<title>{html.escape(title)}</title><style>{_STYLE}</style><h1>{html.escape(title)}</h1>"
        f"<p>{_verdict(board)}</p><ul>{folds}</ul>"
        f"<img alt='{html.escape(board.primary)} of each source with its interval' src='{_plot(board)}'>"
        f"<h2>Users with a history</h2><div class=wide>{_metrics_table(board)}</div>"
        f"<p><small>Means over users, all items ranked; in small print the middle 95 % of 2,000 bootstrap samples of users. "
        f"Cold: {html.escape(board.primary)} of users without a history.</small></p>"
        f"<h2>All answers together</h2><div class=wide>{_table(board, overall, figures)}</div>",
        "utf-8",
    )


def _verdict(board: Board) -> str:
    winners = [row.source for row in board.rows if row.is_promotable]
    best = html.escape(board.best_baseline)
    if winners:
        return f"<span class=yes>Promotable: {html.escape(', '.join(winners))}.</span> The best baseline is {best}."
    return f"<span class=no>Nothing beats the best baseline, {best}, for certain: not promotable.</span>"


def _metrics_table(board: Board) -> str:
    names = list(board.rows[0].metrics)
    rows = [
        [
            *(f"{cell.mean:.4g}<br><small>{cell.low:.4g} … {cell.high:.4g}</small>" for cell in row.metrics.values()),
            "" if row.cold is None else f"{row.cold:.4g}",
            _over(row),
        ]
        for row in board.rows
    ]
    return _table(board, [*names, "cold", f"over {board.best_baseline}"], rows)


def _table(board: Board, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """One row a source, the best baseline marked; columns are escaped here, cells are HTML."""
    head = "".join(f"<th>{html.escape(column)}</th>" for column in ["source", *columns])
    body = ""
    for row, cells in zip(board.rows, rows, strict=True):
        name = html.escape(row.source) + (" <small>baseline</small>" if row.is_baseline else "")
        mark = " class=best" if row.source == board.best_baseline else ""
        body += f"<tr{mark}><td>{name}</td>" + "".join(f"<td>{cell}</td>" for cell in cells) + "</tr>"
    return f"<table><tr>{head}</tr>{body}</table>"


def _over(row: Row) -> str:
    if row.over_best is None:
        return ""
    mark = "<span class=yes>promotable</span>" if row.is_promotable else "<span class=no>not promotable</span>"
    over = row.over_best
    return f"{over.mean:+.4f}<br><small>{over.low:+.4f} … {over.high:+.4f}, p {row.p_adjusted:.3g}</small><br>{mark}"


def _plot(board: Board) -> str:
    """Each source's primary metric with its interval, beside how much of the catalogue it shows."""
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise MissingExtra("[evaluate] the page needs matplotlib; install likewise[recommend]") from error
    rows = list(reversed(board.rows))
    figure = Figure(figsize=(10, 0.45 * len(rows) + 1.2), layout="constrained")
    means, shown = figure.subplots(1, 2, sharey=True, width_ratios=[3, 2])
    for place, row in enumerate(rows):
        cell = row.metrics[board.primary]
        colour = "#14804a" if row.is_promotable else "#8a94a3" if row.is_baseline else "#b3261e"
        means.plot([cell.low, cell.high], [place, place], color=colour, linewidth=2)
        means.plot([cell.mean], [place], "o", color=colour)
        shown.barh(place, row.overall[_coverage(row)], color=colour)
    means.axvline(max(row.metrics[board.primary].mean for row in rows if row.is_baseline), color="#3b6fd4", linewidth=1)
    means.set_yticks(range(len(rows)), [row.source for row in rows])
    means.set_xlabel(f"{board.primary}, line: best baseline")
    shown.set_xlabel(f"{_coverage(rows[0])}: share of the items ever shown")
    for axes in (means, shown):
        axes.spines[["top", "right"]].set_visible(False)
    picture = io.BytesIO()
    figure.savefig(picture, format="svg", metadata={"Date": None})
    return "data:image/svg+xml;base64," + base64.b64encode(picture.getvalue()).decode()


def _coverage(row: Row) -> str:
    return next(name for name in row.overall if name.startswith("coverage"))


def as_rows(board: Board) -> list[list[Any]]:
    """The board as a table for a terminal: source, some metrics, difference to the best baseline, verdict."""
    k = board.primary.rsplit("@", 1)[1]
    rows = []
    for row in board.rows:
        over = (
            ""
            if row.over_best is None
            else f"{row.over_best.mean:+.4f} ({row.over_best.low:+.4f} to {row.over_best.high:+.4f})"
        )
        verdict = "baseline" if row.is_baseline else "promotable" if row.is_promotable else "not promotable"
        cells = [f"{row.metrics[f'{name}@{k}'].mean:.4f}" for name in ("hit", "recall", "ndcg", "mrr")]
        rows.append([row.source, *cells, f"{row.overall[f'coverage@{k}']:.3f}", over, verdict])
    return rows
