"""What a person sees of the command line: results on stdout, progress and errors on stderr."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from contextlib import AbstractContextManager
from types import TracebackType

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    SpinnerColumn,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Table

out = Console(highlight=False, width=None if sys.stdout.isatty() else 200)
err = Console(stderr=True, highlight=False, soft_wrap=True)


def print_json(value: object) -> None:
    """Print one JSON document on stdout."""
    sys.stdout.write(json.dumps(value, indent=2, ensure_ascii=False, default=str) + "\n")


def print_table(title: str, columns: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """Print a table on stdout; columns that start with '>' are numbers and go to the right."""
    if title:
        out.print(title)  # a table's own title would be broken at the table's width
    table = Table(header_style="bold", box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for column in columns:
        table.add_column(
            column.removeprefix(">"),
            justify="right" if column.startswith(">") else "left",
            overflow="fold",
            no_wrap=column == "version",
        )
    for row in rows:
        table.add_row(*("" if cell is None else str(cell) for cell in row))
    out.print(table)


class ProgressBar(AbstractContextManager["ProgressBar"]):
    """Shows the stages of long work on stderr with rate and remaining time; a plain line each where it is no terminal."""

    def __init__(self) -> None:
        self._bar = Progress(
            SpinnerColumn(),
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[rate]}"),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            console=err,
        )
        self._task: TaskID | None = None
        self._stage = ""

    def __enter__(self) -> ProgressBar:
        if err.is_terminal:
            self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._end()
        if err.is_terminal:
            self._bar.stop()

    def begin(self, stage: str, total: int | None) -> None:
        """End the stage before and begin this one."""
        self._end()
        self._stage = stage
        if err.is_terminal:
            self._task = self._bar.add_task(stage, total=total, rate="")
        else:
            err.print(stage, style="dim")

    def advance(self, done: int, note: str = "") -> None:
        """Show how far the stage is."""
        if self._task is None:
            return
        task = self._bar.tasks[-1]
        rate = f"{task.speed:,.0f}/s" if task.speed else ""
        self._bar.update(self._task, completed=done or task.completed, description=f"{self._stage} {note}", rate=rate)

    def say(self, line: str) -> None:
        """Print a line that stays."""
        err.print(line)

    def _end(self) -> None:
        if self._task is not None:
            task = self._bar.tasks[-1]
            if task.total is None:
                self._bar.update(self._task, total=1)
            self._bar.update(self._task, completed=task.total or 1, description=self._stage)
            self._task = None
