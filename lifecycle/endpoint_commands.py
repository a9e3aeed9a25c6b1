"""`likewise endpoints`: what callers address, its variants and their traffic."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime, timezone
from pathlib import Path
from typing import Annotated, Any

import typer

from lifecycle.settings import load_settings
from lifecycle.terminal import out, print_json, print_table
from lifecycle.version_commands import JsonOption, StoreOption
from matching.errors import AlreadyExists, InvalidInput, NotFound
from matching.rules import RuleStore
from matching.store import Store
from serving.deployment import endpoint_of
from serving.endpoint import KNOBS, Endpoint, Knob, Variant
from serving.override import Override, parse_override_keys, sign_override

app = typer.Typer(
    help="Create, show and change endpoints: variants with a share of the traffic each; a running service follows.",
    no_args_is_help=True,
)

NameArgument = Annotated[str, typer.Argument(help="The endpoint.")]
VariantOption = Annotated[
    list[str] | None,
    typer.Option("--variant", help="NAME=WEIGHT, or NAME=WEIGHT@INDEX with an alias or version; may be given again."),
]
ShadowOption = Annotated[
    list[str] | None,
    typer.Option("--shadow", help="NAME=SHARE or NAME=SHARE@INDEX: sees copies of requests, never answers."),
]
KnobOption = Annotated[
    list[str] | None,
    typer.Option("--knob", help=f"VARIANT.KNOB=VALUE, where the caller says nothing; knobs are {', '.join(KNOBS)}."),
]
CoverageOption = Annotated[
    float | None, typer.Option("--coverage", min=0, max=1, help="Share of the units that are in the split.")
]
ControlOption = Annotated[
    str | None, typer.Option("--control", help="Who answers units outside of the split, and requests without one.")
]
WhyOption = Annotated[str, typer.Option("--why", help="The reason, kept in the history.")]


@app.command("create")
def create(
    name: NameArgument,
    store: StoreOption,
    variant: VariantOption = None,
    shadow: ShadowOption = None,
    knob: KnobOption = None,
    coverage: CoverageOption = None,
    control: ControlOption = None,
    why: WhyOption = "created",
    as_json: JsonOption = False,
) -> None:
    """Configure an endpoint. The weights of its variants make 1.

    Example: `likewise endpoints create home --variant control=0.9@shop --variant graph=0.1@shop-next --store shop`
    """
    held = Store(store)
    if held.endpoint_history(name):
        raise AlreadyExists(f"[endpoints] there is an endpoint {name!r}; expected a new name; use `endpoints traffic`")
    empty, _ = endpoint_of(held, name)
    arms = _with_knobs(_arms(empty, variant or [], shadow or []), knob or [])
    endpoint = Endpoint.create(name, arms, control=control, coverage=1.0 if coverage is None else coverage)
    _keep(held, endpoint, 0, why)
    _show(held, endpoint, as_json=as_json)


@app.command("traffic")
def traffic(
    name: NameArgument,
    store: StoreOption,
    variant: VariantOption = None,
    shadow: ShadowOption = None,
    knob: KnobOption = None,
    drop: Annotated[
        list[str] | None, typer.Option("--drop", help="A variant to take away; may be given again.")
    ] = None,
    coverage: CoverageOption = None,
    control: ControlOption = None,
    why: WhyOption = "by hand",
    as_json: JsonOption = False,
) -> None:
    """Change variants and their shares, moving as few units as that allows; variants that are not named stay.

    Example: `likewise endpoints traffic home --variant control=0.8 --variant graph=0.2 --why "it holds" --store shop`
    """
    held = Store(store)
    endpoint, n_before = endpoint_of(held, name)
    changed = {each.name: each for each in _arms(endpoint, variant or [], shadow or [])}
    dropped = set(drop or [])
    if missing := sorted(dropped - {each.name for each in endpoint.variants}):
        raise NotFound(f"[endpoints] {name!r} has no variant {missing[0]!r} to drop; look with `endpoints show`")
    arms = [changed.pop(each.name, each) for each in endpoint.variants if each.name not in dropped]
    arms = _with_knobs([*arms, *changed.values()], knob or [])
    if control is None and endpoint.control in dropped:
        control = next((each.name for each in arms if not each.is_shadow), None)
    endpoint = endpoint.with_traffic(arms, coverage=coverage, control=control)
    _keep(held, endpoint, n_before, why)
    _show(held, endpoint, as_json=as_json)


@app.command("show")
def show(name: NameArgument, store: StoreOption, as_json: JsonOption = False) -> None:
    """Show an endpoint's variants, their traffic, and when it was changed by whom and why.

    Example: `likewise endpoints show home --store shop`
    """
    held = Store(store)
    if not held.endpoint_history(name):
        raise NotFound(f"[endpoints] there is no endpoint {name!r}; expected one of {', '.join(held.endpoints())}")
    _show(held, endpoint_of(held, name)[0], as_json=as_json)


@app.command("list")
def list_endpoints(store: StoreOption, as_json: JsonOption = False) -> None:
    """List the endpoints that are configured.

    Example: `likewise endpoints list --store shop`
    """
    held = Store(store)
    endpoints = [endpoint_of(held, name)[0] for name in held.endpoints()]
    if as_json:
        print_json([_told(held, endpoint) for endpoint in endpoints])
        return
    print_table(
        f"{len(endpoints)} endpoints in {store}",
        ["endpoint", "variants", "control", ">coverage"],
        [(e.name, ", ".join(_share(v) for v in e.variants), e.control, f"{e.coverage:.2%}") for e in endpoints],
    )


@app.command("override")
def override(
    context: typer.Context,
    name: NameArgument,
    variant: Annotated[str, typer.Option("--variant", help="The variant that its bearer is answered by.")],
    store: StoreOption,
    minutes: Annotated[int, typer.Option("--minutes", min=1, help="How long it holds.")] = 60,
    file: Annotated[
        Path | None, typer.Option("--keys-file", help="Keys; the setting auth.override_keys_file where left out.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Sign an override: a request with it in the header x-likewise-override is answered by one variant.

    Example: `likewise endpoints override home --variant graph --keys-file override.keys --store shop`
    """
    endpoint, _ = endpoint_of(Store(store), name)
    if endpoint.variant(variant).is_shadow:
        raise InvalidInput(f"[endpoints] {variant!r} is a shadow and answers nobody; choose another variant")
    source = file or load_settings(context.obj).auth.override_keys_file
    if source is None:
        raise InvalidInput("[endpoints] there are no override keys; expected a file; name one with --keys-file")
    expires_at = int(time.time()) + 60 * minutes
    token = sign_override(Override(name, variant, expires_at), parse_override_keys(source.read_bytes())[0])
    if as_json:
        print_json({"override": token, "expires_at": datetime.fromtimestamp(expires_at, timezone.utc).isoformat()})
    else:
        out.print(token, markup=False, soft_wrap=True)


def _arms(endpoint: Endpoint, variants: Sequence[str], shadows: Sequence[str]) -> list[Variant]:
    return [_arm(endpoint, told, is_shadow=False) for told in variants] + [
        _arm(endpoint, told, is_shadow=True) for told in shadows
    ]


def _arm(endpoint: Endpoint, told: str, *, is_shadow: bool) -> Variant:
    name, has_share, rest = told.partition("=")
    share_text, _, index = rest.partition("@")
    try:
        share = float(share_text)
    except ValueError:
        share = -1.0
    if not has_share or share < 0:
        raise InvalidInput(f"[endpoints] {told!r} is no variant; expected NAME=WEIGHT or NAME=WEIGHT@INDEX; correct it")
    weight, mirror = (0.0, share) if is_shadow else (share, 0.0)
    return endpoint.arm(name, weight=weight, mirror=mirror, index=index or None, knobs=None)


def _with_knobs(variants: Sequence[Variant], knobs: Sequence[str]) -> list[Variant]:
    by_name = {variant.name: variant for variant in variants}
    for told in knobs:
        target, _, value = told.partition("=")
        name, _, knob = target.partition(".")
        if name not in by_name or knob not in KNOBS:
            raise InvalidInput(
                f"[endpoints] {told!r} is no knob; expected VARIANT.KNOB=VALUE with a knob of {', '.join(KNOBS)}; correct it"
            )
        variant = by_name[name]
        by_name[name] = replace(variant, knobs={**variant.knobs, knob: _value(told, knob, value)})
    return list(by_name.values())


def _value(told: str, knob: str, value: str) -> Knob:
    kind = KNOBS[knob]
    try:
        return {"true": True, "false": False}[value.lower()] if kind is bool else kind(value)
    except (KeyError, ValueError):
        raise InvalidInput(f"[endpoints] {told!r} is no {kind.__name__}; expected one; correct it") from None


def _keep(store: Store, endpoint: Endpoint, n_before: int, why: str) -> None:
    for variant in endpoint.variants:
        store.resolve(variant.index or endpoint.name)
        if "rules" in variant.knobs:
            RuleStore(store.path).resolve(str(variant.knobs["rules"]))
    store.set_endpoint(endpoint.name, endpoint.as_json(), n_before=n_before, why=why)


def _share(variant: Variant) -> str:
    return (
        f"{variant.name} {variant.mirror:.2%} mirrored" if variant.is_shadow else f"{variant.name} {variant.weight:.2%}"
    )


def _told(store: Store, endpoint: Endpoint) -> dict[str, Any]:
    versions = {each.name: store.resolve(each.index or endpoint.name) for each in endpoint.variants}
    return {key: value for key, value in endpoint.as_json().items() if key != "ranges"} | {"versions": versions}


def _show(store: Store, endpoint: Endpoint, *, as_json: bool) -> None:
    changes = store.endpoint_history(endpoint.name)
    if as_json:
        history = [{"at": change.at, "by": change.by, "why": change.why} for change in changes]
        print_json(_told(store, endpoint) | {"history": history})
        return
    print_table(
        f"endpoint {endpoint.name}: control {endpoint.control}, coverage {endpoint.coverage:.2%}",
        ["variant", ">share", "index", "version", "knobs"],
        [
            (
                each.name,
                _share(each).partition(" ")[2],
                each.index or endpoint.name,
                store.resolve(each.index or endpoint.name),
                ", ".join(f"{knob}={value}" for knob, value in each.knobs.items()),
            )
            for each in endpoint.variants
        ],
    )
    print_table("\nchanges", ["at", "by", "why"], [(change.at, change.by, change.why) for change in changes])
