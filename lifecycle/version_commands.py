"""`likewise versions`: what a store holds, and which version each alias names."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from index_builder.compare import compare_versions
from lifecycle.compact_command import compact_version, truncate_log_of
from lifecycle.terminal import out, print_json, print_table
from matching.manifest import Manifest
from matching.store import AliasMove, Store
from serving.trial import try_version

app = typer.Typer(
    help="List, show, verify, promote, roll back, alias, compare and compact index versions.", no_args_is_help=True
)
app.command("compact")(compact_version)
app.command("truncate-log")(truncate_log_of)

StoreOption = Annotated[Path, typer.Option("--store", help="Directory of the store.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON.")]
NameArgument = Annotated[str, typer.Argument(help="An alias or a version id.")]


@app.command("list")
def list_versions(store: StoreOption, as_json: JsonOption = False) -> None:
    """List the versions, newest last, with the aliases that name them.

    Example: `likewise versions list --store shop`
    """
    held = Store(store)
    aliases = held.aliases()
    rows: list[dict[str, Any]] = []
    for version_id in held.versions():
        manifest = held.manifest(version_id)
        names = [alias for alias, target in aliases.items() if target == version_id]
        rows.append({"version": version_id, "aliases": names, **_summary(manifest)})
    if as_json:
        print_json(rows)
        return
    print_table(
        f"{len(rows)} versions in {store}",
        ["version", "aliases", "created", ">datapoints", "spaces", ">bytes"],
        [
            (
                row["version"],
                ", ".join(row["aliases"]),
                row["created_at"],
                f"{row['n_datapoints']:,}",
                ", ".join(f"{name} ({plan})" for name, plan in row["spaces"].items()),
                f"{row['n_bytes']:,}",
            )
            for row in rows
        ],
    )


@app.command("show")
def show_version(name: NameArgument, store: StoreOption, as_json: JsonOption = False) -> None:
    """Show what a version holds, how it was made and how well it answers.

    Example: `likewise versions show shop --store shop`
    """
    held = Store(store)
    version_id = held.resolve(name)
    manifest = held.manifest(version_id)
    if as_json:
        print_json({"version": version_id, **json.loads(manifest.to_bytes())})
        return
    out.print(
        f"[bold]{version_id}[/] created {manifest.created_at}, seed {manifest.seed}, parent {manifest.parent or 'none'}"
    )
    source = manifest.source
    out.print(f"source {source.get('path', 'in memory')}, {source.get('digest', 'no digest')}", markup=False)
    out.print(f"{manifest.n_datapoints:,} datapoints, {source.get('n_rejected_rows', 0):,} rows rejected")
    print_table(
        "\nspaces",
        ["space", ">dim", ">vectors", "metric", "plan", "recall@10", "why"],
        [
            (
                space.name,
                space.dim,
                f"{space.n_vectors:,}",
                space.metric,
                space.plan.name,
                f"{space.recall.mean:.3f} [{space.recall.low:.3f}, {space.recall.high:.3f}]",
                space.plan.why,
            )
            for space in manifest.spaces
        ],
    )
    for space in manifest.spaces:
        points = [p for p in space.operating_table if p.recall_target == space.recall_target]
        if points:
            print_table(
                f"\n{space.name} at recall {space.recall_target:g}: up to {space.exact_below:,} matches are scanned",
                [">k", ">matching", ">effort", ">recall"],
                [(p.k, f"{p.selectivity:.0%}", p.effort or "exact", f"{p.recall:.3f}") for p in points],
            )


@app.command("verify")
def verify_version(name: NameArgument, store: StoreOption, as_json: JsonOption = False) -> None:
    """Hold every byte of a version against what was sealed; exit 3 where one differs.

    Example: `likewise versions verify shop --store shop`
    """
    held = Store(store)
    version_id = held.resolve(name)
    n_bytes = held.verify(version_id)
    if as_json:
        print_json({"version": version_id, "n_bytes": n_bytes, "is_intact": True})
    else:
        out.print(f"{version_id} is intact: {n_bytes:,} bytes checked")


@app.command("alias")
def alias_version(
    alias: Annotated[str, typer.Argument(help="The alias.")],
    store: StoreOption,
    to: Annotated[
        str | None, typer.Option("--to", help="Version id, or another alias; without it the history is shown.")
    ] = None,
    why: Annotated[str, typer.Option("--why", help="The reason, kept in the history.")] = "by hand",
    as_json: JsonOption = False,
) -> None:
    """Point an alias at a version, or show where it pointed.

    Example: `likewise versions alias shop --to 20261121-101500-0123456789abcdef --why "roll back" --store shop`
    """
    held = Store(store)
    moves = held.history(alias) if to is None else (held.set_alias(alias, to, why=why),)
    _show_moves(alias, moves, as_json=as_json)


@app.command("promote")
def promote_version(
    alias: Annotated[str, typer.Argument(help="The alias.")],
    store: StoreOption,
    to: Annotated[str, typer.Option("--to", help="Version id, or another alias.")],
    why: Annotated[str, typer.Option("--why", help="The reason, kept in the history.")],
    limit_s: Annotated[float, typer.Option("--limit", min=1, help="Seconds that trying it may take.")] = 300.0,
    as_json: JsonOption = False,
) -> None:
    """Try a version in a process of its own, every block and canary queries, and point an alias at it; exit 1 where refused.

    Example: `likewise versions promote shop --to 20261121-101500-0123456789abcdef --why "nightly build" --store shop`
    """
    held = Store(store)
    version_id = held.resolve(to)
    try_version(held.directory(version_id), limit_s=limit_s)
    _show_moves(alias, (held.set_alias(alias, version_id, why=why),), as_json=as_json)


@app.command("rollback")
def rollback_version(
    alias: Annotated[str, typer.Argument(help="The alias.")],
    store: StoreOption,
    why: Annotated[str, typer.Option("--why", help="The reason, kept in the history.")] = "roll back",
    as_json: JsonOption = False,
) -> None:
    """Point an alias at the version before, in one move; each time one further back.

    Example: `likewise versions rollback shop --why "odd answers" --store shop`
    """
    held = Store(store)
    _show_moves(alias, (held.set_alias(alias, held.version_before(alias), why=why),), as_json=as_json)


@app.command("diff")
def diff_versions(
    old: NameArgument,
    new: Annotated[str, typer.Argument(help="The other alias or version id.")],
    store: StoreOption,
    sample: Annotated[int, typer.Option("--sample", min=1, help="Datapoints whose neighbors are compared.")] = 200,
    as_json: JsonOption = False,
) -> None:
    """Compare two versions: datapoints gained, lost and changed, settings, recall, and how many neighbors stay.

    Example: `likewise versions diff shop 20261121-101500-0123456789abcdef --store shop`
    """
    held = Store(store)
    difference = compare_versions(held.open(old), held.open(new), n_sampled=sample)
    if as_json:
        print_json(asdict(difference))
        return
    out.print(f"{difference.old} -> {difference.new}")
    print_table(
        "\ndatapoints",
        ["", ">number", "examples"],
        [
            ("gained", f"{difference.n_gained:,}", ", ".join(difference.gained)),
            ("lost", f"{difference.n_lost:,}", ", ".join(difference.lost)),
            ("changed", f"{difference.n_changed:,}", ", ".join(difference.changed)),
            ("the same", f"{difference.n_same:,}", ""),
        ],
    )
    print_table(
        "\nspaces",
        ["space", "comparable", "plan", "recall@10", ">neighbors kept"],
        [
            (
                space.name,
                "yes" if space.is_comparable else "no: another space_id",
                " -> ".join(dict.fromkeys(space.plans)),
                " -> ".join(f"{r:.3f}" for r in space.recalls),
                "" if space.neighbors_kept is None else f"{space.neighbors_kept:.1%}",
            )
            for space in difference.spaces
        ],
    )
    if difference.settings:
        print_table(
            "\nbuild settings", ["setting", "old", "new"], [(n, a, b) for n, (a, b) in difference.settings.items()]
        )


def _show_moves(alias: str, moves: Sequence[AliasMove], *, as_json: bool) -> None:
    if as_json:
        print_json([asdict(move) for move in moves])
        return
    print_table(
        f"alias {alias}",
        ["at", "by", "from", "to", "why"],
        [(move.at, move.by, move.old, move.new, move.why) for move in moves],
    )


def _summary(manifest: Manifest) -> dict[str, Any]:
    return {
        "created_at": manifest.created_at,
        "n_datapoints": manifest.n_datapoints,
        "spaces": {space.name: space.plan.name for space in manifest.spaces},
        "n_bytes": sum(file.n_bytes for file in manifest.files.values()),
    }
