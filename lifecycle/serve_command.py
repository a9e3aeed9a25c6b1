"""`likewise serve`: answer over HTTP and gRPC until told to stop."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from lifecycle.settings import load_settings, with_events, with_log, with_sources
from lifecycle.version_commands import JsonOption, StoreOption
from matching.errors import InvalidInput
from matching.store import Store


def serve(
    context: typer.Context,
    store: StoreOption,
    name: Annotated[
        list[str] | None,
        typer.Option(
            "--name",
            help="Endpoint, alias or version id; may be left out where the store has one alias. Several may be given: requests "
            "that name no endpoint go to the first.",
        ),
    ] = None,
    host: Annotated[
        str, typer.Option("--host", help="Address to listen on; other than 127.0.0.1 needs authentication and TLS.")
    ] = "127.0.0.1",
    http_port: Annotated[
        int, typer.Option("--http-port", min=0, max=65535, help="0 takes a free port and prints it.")
    ] = 8080,
    grpc_port: Annotated[
        int, typer.Option("--grpc-port", min=0, max=65535, help="0 takes a free port and prints it.")
    ] = 8081,
    log: Annotated[
        str | None,
        typer.Option(
            "--log",
            help="Folder of the write log, or nats://host:port of a broker; without one the service takes no writes.",
        ),
    ] = None,
    source: Annotated[
        list[str] | None,
        typer.Option(
            "--source",
            help="NAME or NAME=WEIGHT of a trained source, or content, in recommendations; 0 only fills places that are left. "
            "In place of recommend.sources.",
        ),
    ] = None,
    events: Annotated[
        str | None,
        typer.Option(
            "--events",
            help="SQLite file of the log of events, or postgresql://user@host/database; without one no events are taken.",
        ),
    ] = None,
    table: Annotated[
        list[Path] | None,
        typer.Option(
            "--table",
            help="Folder that `likewise export neighbors --format sealed` wrote, to answer similar items from; several may be "
            "given. In place of serving.tables.",
        ),
    ] = None,
    quiet: Annotated[bool, typer.Option("--quiet", help="Write no line for each request.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Serve a version over HTTP and gRPC, with a page at /, until interrupted.

    Example: `likewise serve --store shop --name shop --http-port 8080 --grpc-port 8081`
    """
    from serving.server import serve as run

    held = Store(store)
    first, *others = name or [only_alias(held)]
    settings = load_settings(context.obj)
    serving = settings.serving if log is None else with_log(settings.serving, log)
    if table is not None:
        serving = serving.model_copy(update={"tables": tuple(table)})
    run(
        held,
        first,
        also=others,
        settings=serving,
        events=settings.events if events is None else with_events(settings.events, events),
        auth=settings.auth,
        tls=settings.tls,
        tracing=settings.tracing,
        recommend=settings.recommend if source is None else with_sources(settings.recommend, source),
        host=host,
        http_port=http_port,
        grpc_port=grpc_port,
        model_dir=settings.encode.model_dir,
        as_json=as_json,
        log_requests=not quiet,
    )


def only_alias(store: Store) -> str:
    """Return the one alias of a store.

    Raises:
        InvalidInput: it has none, or several.
    """
    aliases = sorted(store.aliases())
    if len(aliases) != 1:
        held = f"aliases {', '.join(aliases)}" if aliases else "no alias"
        raise InvalidInput(f"[serve] store {store.path} has {held}; say which version with --name")
    return aliases[0]
