"""`likewise keys`: make, list, exchange and revoke the API keys of a service."""

from __future__ import annotations

from dataclasses import asdict
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Annotated, Any

import typer

from lifecycle.audit_commands import audit
from lifecycle.settings import load_settings
from lifecycle.terminal import err, out, print_json, print_table
from lifecycle.version_commands import JsonOption
from matching.errors import InvalidInput, NotFound
from serving.api_keys import SCOPES, ApiKey, KeyRing, Scope, change_keys, read_keys

app = typer.Typer(
    help="Make, list, exchange and revoke API keys; a running service follows at once.", no_args_is_help=True
)

FileOption = Annotated[
    Path | None, typer.Option("--file", help="Keys file; the setting auth.keys_file where it is left out.")
]
HolderArgument = Annotated[str, typer.Argument(help="Who holds the key: a shop, a job, a team.")]
DaysOption = Annotated[
    int | None, typer.Option("--days", min=1, help="Days until the key expires; never where it is left out.")
]


@app.command("create")
def create(
    context: typer.Context,
    name: HolderArgument,
    scope: Annotated[list[str], typer.Option("--scope", help="read, write or admin; may be given again.")],
    file: FileOption = None,
    days: DaysOption = None,
    as_json: JsonOption = False,
) -> None:
    """Make a key and print it, this once: the file keeps a hash. A holder may have two that live.

    Example: `likewise keys create shop-front --scope read --days 365 --file keys.json`
    """
    scopes = _scopes(scope)

    def add(ring: KeyRing) -> tuple[KeyRing, tuple[ApiKey, str]]:
        changed, key, text = ring.with_new(name, scopes, now=_now(), expires_at=_in(days))
        return changed, (key, text)

    key, text = change_keys(_file(context, file), add)
    audit(context, "keys create", f"{key.key_id} of {key.name} for {', '.join(key.scopes)}")
    _show_new(key, text, as_json=as_json)


@app.command("rotate")
def rotate(
    context: typer.Context,
    name: HolderArgument,
    file: FileOption = None,
    days: DaysOption = None,
    overlap_days: Annotated[
        int, typer.Option("--overlap-days", min=0, help="Days that the key before lives on; 0 ends it now.")
    ] = 7,
    as_json: JsonOption = False,
) -> None:
    """Make a holder's next key, with the scopes of the one before, and let that one expire.

    Example: `likewise keys rotate shop-front --overlap-days 7 --file keys.json`
    """

    def exchange(ring: KeyRing) -> tuple[KeyRing, tuple[ApiKey, str]]:
        live = [key for key in ring.keys if key.name == name and key.is_live(_now())]
        if not live:
            raise NotFound(f"[keys] {name!r} has no live key; expected one to exchange; use `likewise keys create`")
        before = live[-1]
        changed, key, text = ring.with_new(name, before.scopes, now=_now(), expires_at=_in(days))
        return changed.expiring(before.key_id, _now() + timedelta(days=overlap_days)), (key, text)

    key, text = change_keys(_file(context, file), exchange)
    audit(context, "keys rotate", f"{key.key_id} of {key.name}")
    _show_new(key, text, as_json=as_json)


@app.command("list")
def list_keys(context: typer.Context, file: FileOption = None, as_json: JsonOption = False) -> None:
    """List the keys: who holds them, what they may, until when.

    Example: `likewise keys list --file keys.json`
    """
    path = _file(context, file)
    rows: list[dict[str, Any]] = [_told(key) for key in read_keys(path).keys]
    if as_json:
        print_json(rows)
        return
    print_table(
        f"{len(rows)} keys in {path}",
        ["key", "holder", "scopes", "created", "expires", "live"],
        [
            (
                row["key_id"],
                row["name"],
                ", ".join(row["scopes"]),
                row["created_at"],
                row["expires_at"] or "never",
                "yes" if row["is_live"] else "no",
            )
            for row in rows
        ],
    )


@app.command("revoke")
def revoke(
    context: typer.Context,
    key_id: Annotated[str, typer.Argument(help="The key's id, as `likewise keys list` shows it.")],
    file: FileOption = None,
    as_json: JsonOption = False,
) -> None:
    """Take a key out of the file: whoever uses it is refused from now on.

    Example: `likewise keys revoke 5f0c1b7a9e42 --file keys.json`
    """

    def remove(ring: KeyRing) -> tuple[KeyRing, ApiKey]:
        key = ring.get(key_id)
        err.print(f"revoking {key.key_id} of {key.name} ({', '.join(key.scopes)})", markup=False)
        return ring.without(key_id), key

    key = change_keys(_file(context, file), remove)
    audit(context, "keys revoke", f"{key.key_id} of {key.name}")
    if as_json:
        print_json(_told(key))
    else:
        out.print(f"{key.key_id} is revoked", markup=False)


def _file(context: typer.Context, given: Path | None) -> Path:
    file = given or load_settings(context.obj).auth.keys_file
    if file is None:
        raise InvalidInput("[keys] no keys file is named; expected one; use --file, or set auth.keys_file")
    return file


def _scopes(given: list[str]) -> tuple[Scope, ...]:
    if wrong := sorted(set(given) - set(SCOPES)):
        raise InvalidInput(f"[keys] there is no scope {wrong[0]!r}; expected some of {', '.join(SCOPES)}; correct it")
    return tuple(scope for scope in SCOPES if scope in given)


def _show_new(key: ApiKey, text: str, *, as_json: bool) -> None:
    if as_json:
        print_json({**_told(key), "key": text})
        return
    out.print(text, markup=False)
    ends = f"until {key.expires_at}" if key.expires_at else "without an end"
    err.print(f"{key.key_id} of {key.name}: {', '.join(key.scopes)}, {ends}. It is not shown again.", markup=False)


def _told(key: ApiKey) -> dict[str, Any]:
    told = asdict(key)
    del told["sha256"]
    return {**told, "is_live": key.is_live(_now())}


def _in(days: int | None) -> datetime | None:
    return None if days is None else _now() + timedelta(days=days)


def _now() -> datetime:
    return datetime.now(timezone.utc)
