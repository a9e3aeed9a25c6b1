"""`likewise export`: tables of answers, made before anybody asks."""

from __future__ import annotations

import re
from collections.abc import Mapping
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer

from lifecycle.exporting.folder import FORMS, FolderSink
from lifecycle.exporting.job import Exported, Job, run
from lifecycle.exporting.neighbors import PART_ITEMS, NeighborExport
from lifecycle.exporting.recommendations import SCHEMA, Moment, RecommendationExport
from lifecycle.search_command import filter_of
from lifecycle.settings import load_settings, with_events, with_sources
from lifecycle.terminal import ProgressBar, out, print_json
from lifecycle.version_commands import JsonOption, StoreOption
from matching.errors import InvalidInput, MissingExtra
from matching.files import sha256_of
from matching.manifest import FILE_NAME as MANIFEST
from matching.neighbor_table import Asked
from matching.recommend import ModelStore
from matching.store import Store
from matching.version import IndexVersion

if TYPE_CHECKING:
    from collections.abc import Callable

    import pyarrow as pa

    from lifecycle.exporting.job import Part, Sink

_TABLE: Final = re.compile(r"[a-z_][a-z0-9_]{0,48}")
app = typer.Typer(
    help="Write tables of answers: Parquet, JSON Lines, PostgreSQL, or to be served.", no_args_is_help=True
)


class Form(str, Enum):
    """How parts are written."""

    parquet = "parquet"
    jsonl = "jsonl"
    sealed = "sealed"


assert tuple(form.value for form in Form) == FORMS

NameOption = Annotated[str, typer.Option("--name", help="Alias or version id.")]
OutputOption = Annotated[
    str, typer.Option("--output", help="Folder to make, or postgresql://user@host/database (PGPASSWORD or ~/.pgpass).")
]
FormOption = Annotated[
    Form, typer.Option("--format", help="Of the files in the folder; sealed is what `likewise serve --table` maps.")
]
RestrictOption = Annotated[
    list[str] | None, typer.Option("--restrict", help="ns=a,b allows tokens, ns=!a denies one; repeat for AND.")
]
NumberOption = Annotated[list[str] | None, typer.Option("--number", help="Such as 'price<=20'; repeat for AND.")]
ThreadsOption = Annotated[int, typer.Option("--threads", min=1, max=256, help="Threads that search.")]
PartOption = Annotated[
    int, typer.Option("--part-items", min=1, help="Items in a part; so many for each thread are in memory at once.")
]


@app.command("neighbors")
def export_neighbors(
    store: StoreOption,
    name: NameOption,
    output: OutputOption,
    k: Annotated[int, typer.Option("-k", "--k", min=1, max=10_000, help="Neighbors of each item.")] = 50,
    space: Annotated[str | None, typer.Option("--space", help="The space to search; as for similar items.")] = None,
    restrict: RestrictOption = None,
    number: NumberOption = None,
    crowding: Annotated[
        int, typer.Option("--crowding", min=0, help="At most so many neighbors a crowding tag; 0 for any.")
    ] = 0,
    exact: Annotated[bool, typer.Option("--exact", help="Scan instead of searching the index.")] = False,
    recall_target: Annotated[float | None, typer.Option("--recall-target", help="Recall to search for.")] = None,
    form: FormOption = Form.parquet,
    table: Annotated[str, typer.Option("--table", help="Table of the database.")] = "likewise_neighbors",
    threads: ThreadsOption = 1,
    part_items: PartOption = PART_ITEMS,
    as_json: JsonOption = False,
) -> None:
    """Write the nearest items of every item of a version; the same that a service answers from it.

    Whole or not at all. Run again after a crash, it goes on where it was.

    Example: `likewise export neighbors --store shop --name shop -k 50 --output shop-neighbors --threads 2`

    Example: `likewise export neighbors --store shop --name shop --output postgresql://shop@db/shop --table similar_items`
    """
    from serving.recommender import space_for

    held = Store(store)
    version = held.open(name)
    asked = Asked(
        k,
        space_for(version, "id", space),
        filter_of(version, restrict or [], number or []),
        crowding,
        exact,
        recall_target=recall_target,
    )
    export = NeighborExport(version, asked)
    job = export.job(part_items, _digest(held, version))
    schema = export.part(slice(0, 1)).table().schema
    with _sink(output, form.value, table, schema, ("item_id", "rank")) as sink:
        done = _run(job, sink, export.part, threads)
    _show(job, done, output, as_json=as_json)


class FileForm(str, Enum):
    """How parts that no service maps are written."""

    parquet = "parquet"
    jsonl = "jsonl"


@app.command("recommendations")
def export_recommendations(
    context: typer.Context,
    store: StoreOption,
    name: NameOption,
    output: OutputOption,
    events: Annotated[
        str | None,
        typer.Option(
            "--events", help="Log of events (SQLite file or postgresql://): what users did, and who they are."
        ),
    ] = None,
    users: Annotated[
        Path | None,
        typer.Option("--users", help="Text file with an id a line, as the shop tells them; else all of the log."),
    ] = None,
    k: Annotated[int, typer.Option("-k", "--k", min=1, max=1000, help="Places of each user.")] = 20,
    source: Annotated[
        list[str] | None,
        typer.Option("--source", help="NAME or NAME=WEIGHT, as of `likewise serve`; in place of recommend.sources."),
    ] = None,
    surface: Annotated[
        str, typer.Option("--surface", help="Whose weights are taken; those for all where left out.")
    ] = "",
    rules: Annotated[
        str | None,
        typer.Option("--rules", help="Alias or id of the rules of the shop; recommend.rules where left out."),
    ] = None,
    restrict: RestrictOption = None,
    number: NumberOption = None,
    exclude_seen: Annotated[
        bool, typer.Option("--exclude-seen", help="Nothing that the user did anything with.")
    ] = False,
    exclude_bought: Annotated[bool, typer.Option("--exclude-bought", help="Nothing that they bought.")] = False,
    form: Annotated[FileForm, typer.Option("--format", help="Of the files in the folder.")] = FileForm.parquet,
    table: Annotated[str, typer.Option("--table", help="Table of the database.")] = "likewise_recommendations",
    threads: ThreadsOption = 1,
    part_users: Annotated[int, typer.Option("--part-users", min=1, help="Users in a part.")] = 1000,
    as_json: JsonOption = False,
) -> None:
    """Write what a service would recommend to each user, from the champions of its sources.

    Whole or not at all. Run again after a crash, it goes on where it was, as of the time when it began.

    Example: `likewise export recommendations --store shop --name shop --events events.sqlite --source ease --output for-users`
    """
    from lifecycle.exporting.users import known_users
    from serving.recommendations import weights_of
    from serving.served_rules import ServedRules
    from serving.slate import CONTENT, SlateQuery

    settings = load_settings(context.obj)
    recommend = settings.recommend if source is None else with_sources(settings.recommend, source)
    held = Store(store)
    version = held.open(name)
    sha256 = _digest(held, version)
    book = ServedRules(held.path, recommend.rules if rules is None else rules).book()
    weights = weights_of(recommend, surface)
    models = ModelStore(held.path)
    opened = {each: models.open(each) for each in weights if each != CONTENT}
    query = SlateQuery(
        surface=surface,
        k=k,
        filter=filter_of(version, restrict or [], number or []),
        exclude_seen=exclude_seen,
        exclude_bought=exclude_bought,
    )
    logged = None if events is None else with_events(settings.events, events)
    with _sink(output, form.value, table, SCHEMA, ("user_id", "rank")) as sink:

        def job_at(moment: Moment | None) -> RecommendationExport:
            told, state, then = known_users(logged, users, recommend, moment)
            space = recommend.content_space
            return RecommendationExport(
                version, opened, weights, query, told, state, then, content_space=space, rulebook=book
            )

        pending = sink.pending()
        export = None if pending is None else job_at(Moment.of(pending.asked))
        if export is None or pending is None or export.job(part_users, sha256).digest() != pending.digest():
            export = job_at(None)
        job = export.job(part_users, sha256)
        done = _run(job, sink, export.part, threads)
    _show(job, done, output, as_json=as_json)


def _digest(store: Store, version: IndexVersion) -> str:
    return sha256_of(store.directory(version.version_id) / MANIFEST)


def _run(job: Job, sink: Sink, make: Callable[[slice], Part], threads: int) -> Exported:
    with ProgressBar() as bar:
        bar.begin(f"exporting {job.kind}", job.n_items)
        return run(job, sink, make, threads=threads, progress=bar.advance)


def _sink(output: str, form: str, table: str, schema: pa.Schema, key: tuple[str, ...]) -> Sink:
    if "://" not in output:
        return FolderSink(Path(output), form)
    if not output.startswith(("postgresql://", "postgres://")):
        raise InvalidInput(
            f"[export] {output.partition('://')[0]}:// is no place to export to; expected a folder or postgresql://; correct it"
        )
    if not _TABLE.fullmatch(table):
        raise InvalidInput(f"[export] {table!r} cannot be a table's name; expected at most 49 of a-z, 0-9 and _")
    try:
        from lifecycle.exporting.postgres import PostgresSink
    except ImportError as error:
        raise MissingExtra(f"[export] {error.name} is not installed; pip install likewise[events]") from error
    return PostgresSink(output, table, schema, key)


def _show(job: Job, done: Exported, output: str, *, as_json: bool) -> None:
    where = output.rpartition("@")[2] if "://" in output else output
    told: Mapping[str, object] = {
        "output": where,
        "index_version": job.version_id,
        "models": dict(job.models),
        "n_items": done.n_items,
        "n_rows": done.n_rows,
        "n_kept": done.n_kept,
        "seconds": round(done.seconds, 3),
        "items_per_s": round(done.items_per_s, 1),
    }
    if as_json:
        print_json(told)
        return
    kept = f", {done.n_kept:,} of them were there" if done.n_kept else ""
    out.print(
        f"{done.n_items:,} {'users' if job.kind == 'recommendations' else 'items'}{kept}, {done.n_rows:,} rows to {where} in "
        f"{done.seconds:.1f} s, {done.items_per_s:,.0f} a second",
        markup=False,
    )
