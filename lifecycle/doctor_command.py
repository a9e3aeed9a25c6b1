"""`likewise doctor`: what is wrong, and what to do."""

from __future__ import annotations

import os
import ssl
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Final

import typer

from lifecycle.doctor.finding import Finding
from lifecycle.doctor.guards import check_guards
from lifecycle.doctor.service import ServiceCheck
from lifecycle.doctor.storage import check_log, check_store
from lifecycle.settings import Settings, load_settings
from lifecycle.terminal import err, out, print_json
from lifecycle.version_commands import JsonOption
from matching.errors import InvalidInput

_MARKS: Final = {"ok": "[green]ok[/]     ", "warning": "[yellow]warning[/]", "error": "[red]error[/]  "}
_WRONG: Final = 1


def doctor(
    context: typer.Context,
    store: Annotated[Path | None, typer.Option("--store", help="Directory of a store to look at.")] = None,
    log: Annotated[
        Path | None, typer.Option("--log", help="Folder of write logs; serving.write_log where it is left out.")
    ] = None,
    url: Annotated[str | None, typer.Option("--url", help="A running service: http://HOST:PORT.")] = None,
    ca_file: Annotated[
        Path | None, typer.Option("--ca-file", help="Authorities of its certificate (PEM), if not the system's.")
    ] = None,
    as_json: JsonOption = False,
) -> int:
    """Look at a store, a write log, the settings and a running service; say what is wrong and what to do.

    Reads and changes nothing else; a service may be running. A key for it is taken from LIKEWISE_KEY. Exits with 1 where
    something is wrong, with 0 where all is well or only warnings were found.

    Example: `likewise doctor --store shop --log writes --url http://127.0.0.1:8080`
    """
    settings = load_settings(context.obj)
    findings = list(_findings(settings, store, log or settings.serving.log_folder, url, ca_file))
    if not findings:
        raise InvalidInput(
            "[doctor] there is nothing to look at; expected one of --store, --log, --url or settings; name one"
        )
    if as_json:
        print_json([asdict(finding) for finding in findings])
    else:
        for finding in findings:
            out.print(f"{_MARKS[finding.severity]}  {finding.check}: ", end="")
            out.print(finding.found, markup=False)
            if finding.cure:
                out.print(f"         {finding.cure}", markup=False)
    n_wrong = sum(finding.severity == "error" for finding in findings)
    if n_wrong:
        err.print(f"{n_wrong} of {len(findings)} checks found something wrong", markup=False)
    return _WRONG if n_wrong else 0


def _findings(
    settings: Settings, store: Path | None, log: Path | None, url: str | None, ca_file: Path | None
) -> Iterator[Finding]:
    if store is not None:
        yield from check_store(store)
    if log is not None:
        yield from check_log(log)
    yield from check_guards(settings.auth, settings.tls)
    if url is not None:
        trust = None if ca_file is None else ssl.create_default_context(cafile=str(ca_file))
        yield from ServiceCheck(url, key=os.environ.get("LIKEWISE_KEY"), trust=trust).findings()
