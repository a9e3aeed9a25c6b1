"""`likewise audit`: prove and read the file that says who changed what."""

from __future__ import annotations

import getpass
from pathlib import Path
from typing import Annotated

import typer

from lifecycle.settings import load_settings
from lifecycle.terminal import out, print_json, print_table
from lifecycle.version_commands import JsonOption
from matching.errors import CorruptArtifact, InvalidInput
from serving.audit_log import AuditLog

app = typer.Typer(help="Prove and read the audit log; the setting auth.audit_file turns it on.", no_args_is_help=True)
FileOption = Annotated[
    Path | None, typer.Option("--file", help="Audit log; the setting auth.audit_file where it is left out.")
]


@app.command("verify")
def verify(
    context: typer.Context,
    file: FileOption = None,
    expect: Annotated[
        str | None, typer.Option("--expect", help="Digest of a line that must still be there, kept elsewhere.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Prove every line, and print the digest of the last one: keep it elsewhere, for --expect.

    Example: `likewise audit verify --file audit.jsonl`
    """
    path = _file(context, file)
    number, digest, digests = 0, "", set()
    for entry in AuditLog(path).entries():
        number, digest = entry.number, entry.digest
        digests.add(digest)
    if expect is not None and expect not in digests:
        raise CorruptArtifact(
            f"[audit] no line of {path} has the digest {expect}; expected it there; lines were cut off: compare with a copy"
        )
    if as_json:
        print_json({"lines": number, "digest": digest})
    else:
        out.print(f"{number} lines, unbroken; the last digest is {digest or 'none'}", markup=False)


@app.command("list")
def list_entries(context: typer.Context, file: FileOption = None, as_json: JsonOption = False) -> None:
    """List who did what, oldest first; each line is proved.

    Example: `likewise audit list --file audit.jsonl`
    """
    entries = list(AuditLog(_file(context, file)).entries())
    if as_json:
        print_json([{"number": e.number, "at": e.at, **e.told, "digest": e.digest} for e in entries])
        return
    print_table(
        "",
        [">line", "at", "who", "action", "object", "version", "result"],
        [
            (e.number, e.at, *(e.told.get(name) for name in ("who", "action", "object", "version", "code")))
            for e in entries
        ],
    )


def audit(context: typer.Context, action: str, about: str) -> None:
    """Append what a command did, where the settings name an audit log.

    Raises:
        Unavailable: it cannot be written.
    """
    file = load_settings(context.obj).auth.audit_file
    if file is not None:
        AuditLog(file).append({"who": f"os:{getpass.getuser()}", "action": action, "object": about, "code": "OK"})


def _file(context: typer.Context, given: Path | None) -> Path:
    file = given or load_settings(context.obj).auth.audit_file
    if file is None:
        raise InvalidInput("[audit] no audit log is named; expected one; use --file, or set auth.audit_file")
    return file
