"""`likewise rules`: the business rules of a shop."""

from __future__ import annotations

import time
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from lifecycle.serve_command import only_alias
from lifecycle.settings import load_settings, with_sources
from lifecycle.terminal import out, print_json, print_table
from lifecycle.version_commands import JsonOption, StoreOption
from matching.errors import GateRefused, InvalidInput
from matching.rules import NO_RULES, Rulebook, RuleSet, RuleStore, parse_rules
from matching.rules.lint import lint
from matching.store import Store
from matching.version import IndexVersion
from serving.slate import CONTENT, Filled

app = typer.Typer(help="Put, list, show, lint and dry-run the business rules of a shop.", no_args_is_help=True)

NameArgument = Annotated[str, typer.Argument(help="Alias or id of rules, or a .toml or .json file of them.")]
IndexOption = Annotated[
    str | None, typer.Option("--index", help="Alias or version of the items; the only alias if left out.")
]


@app.command("put")
def put(
    name: Annotated[str, typer.Argument(help="The alias; a service that applies it follows.")],
    file: Annotated[Path, typer.Argument(help="A .toml or .json file of rules.")],
    store: StoreOption,
    why: Annotated[str, typer.Option("--why", help="The reason, kept in the history.")] = "by hand",
    as_json: JsonOption = False,
) -> None:
    """Keep the rules of a file, and point an alias at them.

    Example: `likewise rules put shop rules.toml --why "winter sale" --store shop`
    """
    rules = _read(file)
    move = RuleStore(Store(store).path).put(name, rules, why=why)
    if as_json:
        print_json(asdict(move) | {"alias": name, "n_rules": len(rules.rules)})
    else:
        out.print(f"{name} now names {move.new}: {len(rules.rules)} rules", markup=False)


@app.command("alias")
def alias_rules(
    alias: Annotated[str, typer.Argument(help="The alias.")],
    store: StoreOption,
    to: Annotated[str, typer.Option("--to", help="Id of rules, or another alias.")],
    why: Annotated[str, typer.Option("--why", help="The reason, kept in the history.")] = "by hand",
    as_json: JsonOption = False,
) -> None:
    """Point an alias at other rules of the store: back to those before, or to those of another alias.

    Example: `likewise rules alias shop --to 20261121-101500-0123456789abcdef --why "roll back" --store shop`
    """
    move = RuleStore(Store(store).path).set_alias(alias, to, why=why)
    if as_json:
        print_json(asdict(move) | {"alias": alias})
    else:
        out.print(f"{alias} now names {move.new}", markup=False)


@app.command("list")
def list_rules(store: StoreOption, as_json: JsonOption = False) -> None:
    """List the rule sets, newest last, with the aliases that name them.

    Example: `likewise rules list --store shop`
    """
    held = RuleStore(Store(store).path)
    aliases = held.aliases()
    rows: list[dict[str, Any]] = [
        {
            "rules": rules_id,
            "aliases": [alias for alias, target in aliases.items() if target == rules_id],
            "n_rules": len(held.open(rules_id).rules),
        }
        for rules_id in held.sets()
    ]
    if as_json:
        print_json(rows)
        return
    print_table(
        f"{len(rows)} rule sets in {store}",
        ["rules", "aliases", ">number"],
        [(row["rules"], ", ".join(row["aliases"]), row["n_rules"]) for row in rows],
    )


@app.command("show")
def show(name: NameArgument, store: StoreOption, as_json: JsonOption = False) -> None:
    """Show the rules of a set, and when its alias was moved by whom and why.

    Example: `likewise rules show shop --store shop`
    """
    held = RuleStore(Store(store).path)
    rules = _opened(held, name)
    moves = [asdict(move) for move in held.history(name)] if name in held.aliases() else []
    if as_json:
        print_json({"rules_version": rules.rules_id, "rules": rules.told, "history": moves})
        return
    common = {"id", "kind", "surfaces", "from", "until", "context", "note"}
    print_table(
        f"rules {rules.rules_id or name}",
        ["id", "kind", "what", "when"],
        [
            (
                told["id"],
                told["kind"],
                ", ".join(f"{key}={value}" for key, value in told.items() if key not in common),
                ", ".join(f"{key}={told[key]}" for key in ("surfaces", "from", "until", "context") if key in told),
            )
            for told in rules.told
        ],
    )
    if moves:
        print_table("\nhistory", ["at", "by", "why", "to"], [(m["at"], m["by"], m["why"], m["new"]) for m in moves])


@app.command("lint")
def lint_rules(name: NameArgument, store: StoreOption, index: IndexOption = None, as_json: JsonOption = False) -> None:
    """Find conflicts, rules that are over and rules that match nothing in an index version; exit 1 where there are any.

    Example: `likewise rules lint rules.toml --store shop`
    """
    held = Store(store)
    findings = lint(_opened(RuleStore(held.path), name), _version(held, index).columns, now_ms=_now_ms())
    if as_json:
        print_json([asdict(each) for each in findings])
    elif findings:
        rows = [(each.problem, ", ".join(each.rule_ids), each.message) for each in findings]
        print_table("", ["problem", "rules", "what"], rows)
    else:
        out.print("no findings")
    if findings:
        raise GateRefused(f"[rules] {len(findings)} findings; expected none; correct the rules")


@app.command("dry-run")
def dry_run(
    context: typer.Context,
    name: NameArgument,
    store: StoreOption,
    request: Annotated[str, typer.Option("--request", help="Body of a /v1/recommend request, as JSON.")],
    against: Annotated[
        str | None, typer.Option("--against", help="Rules to compare with; none where left out.")
    ] = None,
    index: IndexOption = None,
    source: Annotated[
        list[str] | None, typer.Option("--source", help="NAME or NAME=WEIGHT, in place of recommend.sources.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Answer a request without rules, or under others, and under these: what moves, and what it costs. Nothing is changed.

    Users are not looked up: what the request says is all that is known of who asks.

    Example: `likewise rules dry-run rules.toml --request '{"items": ["mug"], "k": 5}' --store shop`
    """
    held = Store(store)
    rule_store = RuleStore(held.path)
    settings = load_settings(context.obj).recommend
    settings = settings if source is None else with_sources(settings, source)
    version = _version(held, index)
    before = NO_RULES if against is None else Rulebook(_opened(rule_store, against))
    slates = [
        _slate(held, version, request, settings.sources or {CONTENT: 1.0}, settings.content_space, each)
        for each in (before, Rulebook(_opened(rule_store, name)))
    ]
    _show_run(*slates, as_json=as_json)


def _slate(
    store: Store,
    version: IndexVersion,
    request: str,
    weights: dict[str, float],
    content_space: str | None,
    rulebook: Rulebook,
) -> Filled:
    from matching.recommend import ItemRows, ModelStore
    from serving.slate import fill
    from serving.user_state import NOTHING
    from serving.wire.recommend_json import parse_recommend
    from serving.wire.vertex_json import parse_body

    models = ModelStore(store.path)
    opened = {name: models.open(name) for name in weights if name != CONTENT}
    return fill(
        version,
        parse_recommend(parse_body(request.encode(), 20)),
        NOTHING,
        opened,
        lambda items: ItemRows.of(items, version.columns),
        weights,
        now_ms=_now_ms(),
        content_space=content_space,
        rulebook=rulebook,
    )


def _show_run(before: Filled, after: Filled, *, as_json: bool) -> None:
    if as_json:
        print_json({"before": asdict(before), "after": asdict(after)})
        return
    were = {place.item_id: at for at, place in enumerate(before.places, 1)}
    told = []
    for at in range(max(len(before.places), len(after.places))):
        was = before.places[at].item_id if at < len(before.places) else ""
        place = after.places[at] if at < len(after.places) else None
        item = "" if place is None else place.item_id
        moved = "" if was == item or place is None else f"from {were[item]}" if item in were else "new"
        told.append((at + 1, was, item, moved, "" if place is None else ", ".join(place.rules)))
    print_table("", [">place", "before", "after", "moved", "rules"], told)
    print_table(
        f"\n{before.n_matching:,} items could be shown before, {after.n_matching:,} after",
        ["rule", "kind", ">removed", ">brought", ">dropped", ">moved", ">cost"],
        [(e.rule_id, e.kind, e.removed, len(e.brought), len(e.dropped), e.moved, f"{e.cost:.4f}") for e in after.rules],
    )


def _opened(store: RuleStore, name: str) -> RuleSet:
    return _read(Path(name)) if name.endswith((".toml", ".json")) else store.open(name)


def _read(file: Path) -> RuleSet:
    try:
        content = file.read_bytes()
    except OSError as error:
        raise InvalidInput(f"[rules] {file} cannot be read: {error.strerror}; name a .toml or .json file") from None
    return parse_rules(content, is_json=file.suffix == ".json")


def _version(store: Store, index: str | None) -> IndexVersion:
    return store.open(index or only_alias(store))


def _now_ms() -> int:
    return int(time.time() * 1000)
