"""`likewise train`: from events to a model that `likewise serve` asks."""

from __future__ import annotations

from datetime import datetime, timezone
from pathlib import Path
from typing import Annotated, Final

import typer

from lifecycle.event_commands import interactions_from
from lifecycle.run_commands import keep_record
from lifecycle.settings import load_settings
from lifecycle.terminal import ProgressBar, err, out, print_json
from lifecycle.version_commands import JsonOption, StoreOption
from matching.errors import InvalidInput, MissingExtra
from matching.interactions import EVENT_WEIGHTS
from matching.recommend.model_store import CHALLENGER, CHAMPION, ModelStore, model_id_of
from matching.store import Store, check_name

_OF_PURCHASES: Final = frozenset(["bought-together", "buy-again"])


def train(
    context: typer.Context,
    source: Annotated[
        str,
        typer.Argument(
            help="popular, trending, new-arrivals, sequential-rules, item-knn, session-knn, ease, ease-trending, ials, "
            "ials-trending, bought-together, buy-again, sasrec or two-tower."
        ),
    ],
    store: StoreOption,
    events: Annotated[
        str,
        typer.Option(
            "--events",
            help="Parquet file of events, or a log of them (SQLite file or postgresql://user@host/database).",
        ),
    ],
    until: Annotated[
        datetime | None, typer.Option("--until", help="Learn from events before this date only; all where left out.")
    ] = None,
    weight: Annotated[
        list[str] | None, typer.Option("--weight", help="TYPE=WEIGHT of a type of event; others are left out.")
    ] = None,
    catalog: Annotated[
        Path | None,
        typer.Option(
            "--catalog",
            help="Catalogue from whose features sasrec and two-tower know new items.",
        ),
    ] = None,
    alias: Annotated[
        str | None,
        typer.Option(
            "--alias",
            help="Name to point at the model; champion is what services ask. Where it is left out: champion, or challenger "
            "if `likewise evaluate --store` found the source not promotable.",
        ),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Train a source of recommendations and keep the model in the store; a service that asks the source follows its champion.

    Example: `likewise train sequential-rules --events events.parquet --store shop`
    """
    from lifecycle.encoder_training import encoder_settings, train_encoder

    try:
        from matching.sources.training import train as fit
    except ImportError as error:
        raise MissingExtra(f"[train] {error.name} is not installed; install likewise[recommend]") from error
    settings = load_settings(context.obj)
    held = Store(store)
    models = ModelStore(held.path)
    if alias is None:
        alias = _earned(models, source)
    check_name(alias)
    weights = weights_of(weight) if weight else EVENT_WEIGHTS
    if source in _OF_PURCHASES and not weight:
        weights = {"purchase": 1.0}
    with ProgressBar() as bar:
        bar.begin("reading", None)
        interactions = interactions_from(events, weights, bar.advance)
    for reason, n in interactions.left_out.items():
        if n:
            err.print(f"{n:,} events left out: {reason}")
    now_ms = (
        int(interactions.at_ms[-1]) + 1 if until is None else int(until.replace(tzinfo=timezone.utc).timestamp() * 1000)
    )
    encoders = encoder_settings(settings)
    if source in encoders:
        manifest = train_encoder(
            models,
            source,
            interactions,
            encoders[source],
            now_ms=now_ms,
            catalog=catalog,
            checkpoints=held.path / "models" / source / "unfinished",
        )
    else:
        manifest = fit(models, source, interactions, now_ms=now_ms)
    model_id = model_id_of(manifest)
    models.set_alias(source, model_id, alias=alias, why="trained")
    keep_record(held, settings.runs, source)
    told = {
        "source": source,
        "model": model_id,
        "alias": alias,
        "n_items": manifest.n_items,
        "n_bytes": manifest.file.n_bytes,
        **manifest.metrics,
    }
    if as_json:
        print_json(told)
        return
    out.print(
        f"{source} {model_id}: {manifest.n_items:,} items from {int(manifest.metrics['n_events']):,} events in "
        f"{manifest.metrics['fit_seconds']:.1f} s, {manifest.file.n_bytes:,} bytes, now {alias}",
        markup=False,
    )


def _earned(models: ModelStore, source: str) -> str:
    """The alias of a new model where none is named: one that was measured and did not win waits."""
    verdict = models.verdict(source)
    if verdict is None or verdict.is_promotable:
        return CHAMPION
    err.print(
        f"{source} is not promotable: {verdict.metric} over {verdict.over} was {verdict.mean:+.4f} ({verdict.low:+.4f} to "
        f"{verdict.high:+.4f}) at {verdict.cut}; it becomes {CHALLENGER}; say --alias {CHAMPION} to serve it all the same"
    )
    return CHALLENGER


def weights_of(given: list[str]) -> dict[str, float]:
    """Return the weights that TYPE=WEIGHT options mean.

    Raises:
        InvalidInput: one is not of that form.
    """
    weights = {}
    for each in given:
        kind, _, number = each.partition("=")
        try:
            weights[kind] = float(number)
        except ValueError as error:
            raise InvalidInput(f"[weight] --weight {each!r} is not TYPE=WEIGHT; write --weight purchase=1") from error
    return weights
