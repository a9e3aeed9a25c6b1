"""`likewise build`: from a catalogue or ready vectors to a published index version."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from index_builder.settings import BuildSettings
from lifecycle.settings import Settings, load_settings
from lifecycle.terminal import ProgressBar, err, out, print_json, print_table
from lifecycle.version_commands import JsonOption
from matching.errors import InvalidInput, NotFound
from matching.store import Store, check_name


def build(
    context: typer.Context,
    store: Annotated[Path, typer.Option("--store", help="Directory of the store; made where it is missing.")],
    name: Annotated[str, typer.Option("--name", help="Alias that will name the new version.")],
    catalog: Annotated[Path | None, typer.Option("--catalog", help="Products: Parquet, CSV or JSON Lines.")] = None,
    images: Annotated[Path | None, typer.Option("--images", help="Folder that the catalogue's picture paths start from.")] = None,
    columns: Annotated[str | None, typer.Option("--columns", help="Which column is what, such as title=name,price=amount.")] = None,
    vectors: Annotated[
        Path | None, typer.Option("--vectors", help="Ready vectors: Vertex JSON, CSV or Avro, .npy, Parquet; a file or a folder.")
    ] = None,
    metric: Annotated[Literal["ip", "cosine", "l2"], typer.Option("--metric", help="Metric of ready vectors.")] = "cosine",
    plan: Annotated[
        Literal["auto", "flat", "hnsw", "ivfpq"] | None, typer.Option("--plan", help="How to index; auto chooses and says why.")
    ] = None,
    recall_target: Annotated[float | None, typer.Option("--recall-target", help="Floor of recall@10; a build below is refused.")] = None,
    max_effort: Annotated[int | None, typer.Option("--max-effort", help="Greatest efSearch or nprobe to reach it with.")] = None,
    max_reject_frac: Annotated[float | None, typer.Option("--max-reject-frac", help="Share of rejects that refuses a build.")] = None,
    seed: Annotated[int | None, typer.Option("--seed", help="The same input and seed give the same index.")] = None,
    text_model: Annotated[
        str | None, typer.Option("--text-model", help="A sentence-transformers model by path or name, instead of MiniLM.")
    ] = None,
    clip_model: Annotated[
        str | None, typer.Option("--clip-model", help="A CLIP-type model by path or name, for text and pictures in one space.")
    ] = None,
    rejects: Annotated[Path | None, typer.Option("--rejects", help="Where to list rejects if the build fails.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Build, measure and publish an index version, and point NAME at it.

    Example: `likewise build --catalog products.parquet --images images --store shop --name shop`

    Example: `likewise build --vectors vectors.json --metric ip --store shop --name embeddings`
    """
    if (catalog is None) == (vectors is None):
        raise InvalidInput("[build] give either --catalog or --vectors")
    check_name(name)
    settings = load_settings(context.obj)
    chosen = _with(settings.build, plan, recall_target, max_effort, max_reject_frac, seed)
    held = Store(store, create=True)
    try:
        parent = held.resolve(name)
    except NotFound:
        parent = None
    with ProgressBar() as progress:
        if catalog is not None:
            built = _from_catalog(held, catalog, images, columns, text_model, clip_model, settings, chosen, progress, parent, rejects)
        else:
            assert vectors is not None
            built = _from_vectors(held, vectors, metric, chosen, progress, parent, rejects)
    move = held.set_alias(name, built.version_id, why="built")
    manifest = built.manifest
    if as_json:
        print_json(
            {
                "version": built.version_id,
                "alias": name,
                "previous": move.old,
                "n_datapoints": manifest.n_datapoints,
                "n_rejected_rows": manifest.source.get("n_rejected_rows"),
                "n_rejected_pictures": manifest.source.get("n_rejected_pictures"),
                "spaces": [
                    {
                        "name": s.name,
                        "plan": s.plan.name,
                        "why": s.plan.why,
                        "params": dict(s.plan.params),
                        "n_vectors": s.n_vectors,
                        "dim": s.dim,
                        "recall": {"k": s.recall.k, "mean": s.recall.mean, "low": s.recall.low, "high": s.recall.high},
                    }
                    for s in manifest.spaces
                ],
                "seconds": {stage: round(seconds, 2) for stage, seconds in built.seconds.items()},
            }
        )
        return
    n_bad, n_bad_pictures = manifest.source.get("n_rejected_rows"), manifest.source.get("n_rejected_pictures") or 0
    out.print(f"published {built.version_id}; {name} names it now (before: {move.old or 'nothing'})", markup=False)
    out.print(f"{manifest.n_datapoints:,} datapoints; {n_bad:,} rows and {n_bad_pictures:,} pictures rejected")
    print_table(
        "",
        ["space", "plan", ">vectors", ">dim", "recall@10 (95 % confidence)"],
        [
            (s.name, s.plan.name, f"{s.n_vectors:,}", s.dim, f"{s.recall.mean:.3f} [{s.recall.low:.3f}, {s.recall.high:.3f}]")
            for s in manifest.spaces
        ],
    )


def _with(
    settings: BuildSettings,
    plan: str | None,
    recall_target: float | None,
    max_effort: int | None,
    max_reject_frac: float | None,
    seed: int | None,
) -> BuildSettings:
    given = {
        "plan": plan,
        "recall_target": recall_target,
        "max_effort": max_effort,
        "max_reject_frac": max_reject_frac,
        "seed": seed,
    }
    try:
        return BuildSettings(**{**settings.model_dump(), **{k: v for k, v in given.items() if v is not None}})
    except ValueError as error:
        raise InvalidInput(f"[build] {error}") from error
