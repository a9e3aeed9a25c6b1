"""`likewise build`: from a catalogue or ready vectors to a published index version."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Annotated, Literal

import typer

from index_builder.draft import Built
from index_builder.settings import BuildSettings
from lifecycle.run_commands import keep_record
from lifecycle.runs.record import INDEX
from lifecycle.settings import Settings, load_settings
from lifecycle.terminal import ProgressBar, out, print_json, print_table
from lifecycle.version_commands import JsonOption
from matching.errors import InvalidInput, NotFound
from matching.store import Store, check_name


def build(
    context: typer.Context,
    store: Annotated[Path, typer.Option("--store", help="Directory of the store; made where it is missing.")],
    name: Annotated[str, typer.Option("--name", help="Alias that will name the new version.")],
    catalog: Annotated[Path | None, typer.Option("--catalog", help="Products: Parquet, CSV or JSON Lines.")] = None,
    images: Annotated[
        Path | None, typer.Option("--images", help="Folder that the catalogue's picture paths start from.")
    ] = None,
    columns: Annotated[
        str | None, typer.Option("--columns", help="Which column is what, such as title=name,price=amount.")
    ] = None,
    vectors: Annotated[
        Path | None,
        typer.Option("--vectors", help="Ready vectors: Vertex JSON, CSV or Avro, .npy, Parquet; a file or a folder."),
    ] = None,
    metric: Annotated[
        Literal["ip", "cosine", "l2"], typer.Option("--metric", help="Metric of ready vectors.")
    ] = "cosine",
    plan: Annotated[
        Literal["auto", "flat", "graph", "hnsw", "ivfpq"] | None,
        typer.Option("--plan", help="How to index; auto chooses and says why."),
    ] = None,
    recall_target: Annotated[
        float | None, typer.Option("--recall-target", help="Floor of recall@10; a build below is refused.")
    ] = None,
    max_effort: Annotated[
        int | None,
        typer.Option("--max-effort", help="Greatest effort to reach it with: rows followed, efSearch, nprobe."),
    ] = None,
    max_reject_frac: Annotated[
        float | None, typer.Option("--max-reject-frac", help="Share of rejects that refuses a build.")
    ] = None,
    seed: Annotated[int | None, typer.Option("--seed", help="The same input and seed give the same index.")] = None,
    text_sparse: Annotated[
        Literal["ngrams", "bm25"] | None,
        typer.Option("--text-sparse", help="Sparse side of texts: character n-grams, or words weighed by BM25."),
    ] = None,
    text_model: Annotated[
        str | None,
        typer.Option("--text-model", help="A sentence-transformers model by path or name, instead of MiniLM."),
    ] = None,
    clip_model: Annotated[
        str | None,
        typer.Option("--clip-model", help="A CLIP-type model by path or name, for text and pictures in one space."),
    ] = None,
    joint: Annotated[
        bool | None,
        typer.Option("--joint/--no-joint", help="Make a space in which texts find pictures and pictures find texts."),
    ] = None,
    joint_model: Annotated[
        str | None,
        typer.Option(
            "--joint-model", help="A CLIP-type model by path or name for that space, instead of learned heads."
        ),
    ] = None,
    log_sequence: Annotated[
        int,
        typer.Option("--log-sequence", min=0, help="Version token of the last live write that the input has in it."),
    ] = 0,
    rejects: Annotated[Path | None, typer.Option("--rejects", help="Where to list rejects if the build fails.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Build, measure and publish an index version, and point NAME at it.

    Example: `likewise build --catalog products.parquet --images images --store shop --name shop`

    Example: `likewise build --vectors vectors.json --metric ip --store shop --name embeddings`
    """
    if (catalog is None) == (vectors is None):
        raise InvalidInput("[build] give either --catalog or --vectors")
    if catalog is None and (joint or joint_model is not None):
        raise InvalidInput("[build] --joint takes texts and pictures; expected --catalog and --images; leave it out")
    check_name(name)
    settings = load_settings(context.obj)
    chosen = _with(
        settings.build,
        plan,
        recall_target,
        max_effort,
        max_reject_frac,
        seed,
        text_sparse,
        joint if joint_model is None else True,
    )
    held = Store(store, create=True)
    try:
        parent = held.resolve(name)
    except NotFound:
        parent = None
    with ProgressBar() as progress:
        if catalog is not None:
            built = _from_catalog(
                held,
                catalog,
                images,
                columns,
                text_model,
                clip_model,
                joint_model,
                settings,
                chosen,
                progress,
                parent,
                log_sequence,
                rejects,
            )
        else:
            assert vectors is not None
            built = _from_vectors(held, vectors, metric, chosen, progress, parent, log_sequence, rejects)
    move = held.set_alias(name, built.version_id, why="built")
    keep_record(held, settings.runs, INDEX)
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
            (
                s.name,
                s.plan.name,
                f"{s.n_vectors:,}",
                s.dim,
                f"{s.recall.mean:.3f} [{s.recall.low:.3f}, {s.recall.high:.3f}]",
            )
            for s in manifest.spaces
        ],
    )


def _from_catalog(
    store: Store,
    catalog: Path,
    images: Path | None,
    columns: str | None,
    text_model: str | None,
    clip_model: str | None,
    joint_model: str | None,
    settings: Settings,
    chosen: BuildSettings,
    progress: ProgressBar,
    parent: str | None,
    log_sequence: int,
    rejects: Path | None,
) -> Built:
    from embeddings import EmbeddingCache, ImageEncoder, PictureLimits, SentenceTransformerEncoder, TextEncoder
    from embeddings.encoder import Encoder
    from index_builder.build import CatalogEncoders, build_from_catalog
    from index_builder.catalog.catalog import open_catalog
    from index_builder.catalog.columns import ColumnMapping

    encode = settings.encode
    limits = PictureLimits(max_bytes=encode.max_picture_bytes, max_pixels=encode.max_picture_pixels)
    mapping = None if columns is None else ColumnMapping.parse(columns)
    opened = open_catalog(catalog, columns=mapping, images_dir=images, max_picture_bytes=encode.max_picture_bytes)
    model_dir = encode.model_dir
    progress.begin("load encoders", None)
    text: Encoder
    image: Encoder | None = None
    if clip_model is not None:
        text = image = SentenceTransformerEncoder(
            clip_model, n_threads=encode.threads, n_workers=encode.picture_workers, limits=limits
        )
    else:
        text = (
            TextEncoder(model_dir=model_dir, n_threads=encode.threads, sparse=chosen.text_sparse)
            if text_model is None
            else SentenceTransformerEncoder(text_model, n_threads=encode.threads)
        )
        if images is not None:
            image = ImageEncoder(
                model_dir=model_dir, n_threads=encode.threads, n_workers=encode.picture_workers, limits=limits
            )
    both = image if clip_model is not None and chosen.joint else None
    if joint_model is not None:
        both = SentenceTransformerEncoder(
            joint_model, n_threads=encode.threads, n_workers=encode.picture_workers, limits=limits
        )
    with contextlib.ExitStack() as stack:
        for encoder in (text, image, both):
            if encoder is not None:
                stack.callback(encoder.close)
        cache = stack.enter_context(EmbeddingCache(encode.cache or store.path / "embeddings.sqlite"))
        return build_from_catalog(
            store,
            opened,
            CatalogEncoders(text, image, both),
            cache=cache,
            settings=chosen,
            progress=progress,
            parent=parent,
            log_sequence=log_sequence,
            rejects_path=rejects,
        )


def _from_vectors(
    store: Store,
    vectors: Path,
    metric: Literal["ip", "cosine", "l2"],
    chosen: BuildSettings,
    progress: ProgressBar,
    parent: str | None,
    log_sequence: int,
    rejects: Path | None,
) -> Built:
    from index_builder.build import build_from_vectors
    from index_builder.catalog.vector_files import open_vectors

    files = open_vectors(vectors, metric=metric)
    return build_from_vectors(
        store,
        files,
        metric=metric,
        settings=chosen,
        progress=progress,
        parent=parent,
        log_sequence=log_sequence,
        rejects_path=rejects,
    )


def _with(
    settings: BuildSettings,
    plan: str | None,
    recall_target: float | None,
    max_effort: int | None,
    max_reject_frac: float | None,
    seed: int | None,
    text_sparse: str | None,
    joint: bool | None,
) -> BuildSettings:
    given = {
        "plan": plan,
        "recall_target": recall_target,
        "max_effort": max_effort,
        "max_reject_frac": max_reject_frac,
        "seed": seed,
        "text_sparse": text_sparse,
        "joint": joint,
    }
    try:
        return BuildSettings(**{**settings.model_dump(), **{k: v for k, v in given.items() if v is not None}})
    except ValueError as error:
        raise InvalidInput(f"[build] {error}") from error
