"""The command line: `likewise NOUN VERB`, results on stdout, everything else on stderr.

Exit status: 0 done, 1 refused by a gate, 2 the request is wrong, 3 a fault.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, cast

import typer

from lifecycle import (
    audit_commands,
    build_command,
    catalog_commands,
    demo,
    doctor_command,
    endpoint_commands,
    evaluate_command,
    event_commands,
    export_command,
    key_commands,
    log_commands,
    rule_commands,
    run_commands,
    search_command,
    serve_command,
    snapshot_commands,
    train_command,
    version_commands,
)
from lifecycle.terminal import err
from matching.errors import AlreadyExists, GateRefused, InvalidInput, LikewiseError, LimitExceeded, NotFound

_ClickError = cast(type[typer.BadParameter], typer.BadParameter.__mro__[2])  # typer shows only its leaves
DONE, REFUSED, USAGE, FAULT, INTERRUPTED = 0, 1, 2, 3, 130

app = typer.Typer(
    name="likewise",
    help="Vector similarity search and recommendations for shops.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="markdown",
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.add_typer(catalog_commands.app, name="catalog")
app.add_typer(version_commands.app, name="versions")
app.add_typer(endpoint_commands.app, name="endpoints")
app.add_typer(key_commands.app, name="keys")
app.add_typer(log_commands.app, name="log")
app.add_typer(rule_commands.app, name="rules")
app.add_typer(event_commands.app, name="events")
app.add_typer(export_command.app, name="export")
app.add_typer(audit_commands.app, name="audit")
app.add_typer(run_commands.app, name="runs")
app.command("build")(build_command.build)
app.command("search")(search_command.search)
app.command("serve")(serve_command.serve)
app.command("snapshot")(snapshot_commands.snapshot)
app.command("restore")(snapshot_commands.restore)
app.command("demo")(demo.demo)
app.command("doctor")(doctor_command.doctor)
app.command("evaluate")(evaluate_command.evaluate)
app.command("train")(train_command.train)


@app.callback()
def _options(
    context: typer.Context,
    settings: Annotated[
        Path | None,
        typer.Option("--settings", help="TOML file of settings; LIKEWISE__SECTION__NAME in the environment wins."),
    ] = None,
) -> None:
    context.obj = settings


def main() -> None:
    """Run the command line and exit with its status."""
    sys.exit(run(sys.argv[1:]))


def run(arguments: list[str]) -> int:
    """Run one command and return its exit status."""
    try:
        status = app(arguments, prog_name="likewise", standalone_mode=False)
    except (typer.Abort, KeyboardInterrupt):
        err.print("interrupted; nothing was published")
        return INTERRUPTED
    except _ClickError as error:
        error.show()
        return USAGE
    except GateRefused as error:
        err.print(str(error), style="red", markup=False)
        return REFUSED
    except (InvalidInput, NotFound, LimitExceeded, AlreadyExists) as error:
        err.print(str(error), style="red", markup=False)
        return USAGE
    except ModuleNotFoundError as error:
        err.print(
            f"[likewise] the package {error.name} is not installed here; install what serving, encoding and indexing need with "
            "pip install 'likewise[cpu,encode,serve]'",
            style="red",
            markup=False,
        )
        return FAULT
    except LikewiseError as error:
        err.print(str(error), style="red", markup=False)
        return FAULT
    except BrokenPipeError:
        return DONE
    except OSError as error:
        err.print(f"[system] {error}", style="red", markup=False)
        return FAULT
    except Exception:  # a fault of ours: told whole, and never taken for a refusal
        err.print_exception()
        return FAULT
    return status if isinstance(status, int) else DONE
