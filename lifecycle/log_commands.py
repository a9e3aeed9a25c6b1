"""`likewise log`: what can be done with a write log that cannot be opened."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from lifecycle.audit_commands import audit
from lifecycle.terminal import out, print_json
from lifecycle.version_commands import JsonOption
from matching.live import Repair, plan_repair, repair

app = typer.Typer(help="Repair a write log.", no_args_is_help=True)


@app.command("repair")
def repair_log(
    context: typer.Context,
    folder: Annotated[Path, typer.Argument(help="Folder of one log: LOG/ENDPOINT.")],
    yes: Annotated[bool, typer.Option("--yes", help="Do it; without it only what would be done is printed.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Keep what is whole of a damaged log, at the same sequences; damaged files stay beside it as *.damaged.

    No service may write to it meanwhile. Each lost record becomes one that changes nothing.

    Example: `likewise log repair writes/shop --yes`
    """
    plan = plan_repair(folder)
    if not as_json:
        _tell(plan)
    is_done = yes and bool(plan.damaged)
    if is_done:
        plan = repair(folder)
        audit(context, "log repair", f"{folder.name}: {plan.n_lost} of {plan.n_lost + plan.n_kept} records lost")
    if as_json:
        print_json({**asdict(plan), "n_kept": plan.n_kept, "n_lost": plan.n_lost, "is_repaired": is_done})
    elif is_done:
        out.print("repaired; start the service, then send again what was lost")
    elif plan.damaged:
        out.print("nothing was changed; add --yes to do it")


def _tell(plan: Repair) -> None:
    if not plan.damaged:
        out.print(f"nothing is damaged: it holds the records {plan.first_sequence:,} to {plan.last_sequence:,}")
        return
    for name in plan.damaged:
        out.print(f"{name} is kept as {name}.damaged and written anew", markup=False)
    out.print(f"{plan.n_kept:,} records are whole, {plan.first_sequence:,} to {plan.last_sequence:,}")
    for first, last in plan.lost:
        out.print(f"lost: {first:,} to {last:,}; a version whose log_sequence is {last:,} or more has them in it")
    if plan.forgets_requests:
        out.print("lost: the request ids of records that were truncated; a repeat of those is taken as new")
