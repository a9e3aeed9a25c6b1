"""`likewise search`: ask a version in the store, without a service."""

from __future__ import annotations

import contextlib
import re
import time
from pathlib import Path
from typing import Annotated, cast

import numpy as np
import typer
from numpy.typing import NDArray

from embeddings.settings import EncodeSettings
from lifecycle.settings import load_settings
from lifecycle.terminal import out, print_json, print_table
from lifecycle.version_commands import JsonOption, StoreOption
from matching.datapoint import Filter, NumericRestrict, NumericType, Operator, Restrict, SparseRows
from matching.errors import InvalidInput, InvalidQuery
from matching.fusion import Fusion
from matching.hybrid import search_hybrid
from matching.store import Store
from matching.version import IndexVersion, SearchResult

_NUMBER = re.compile(r"([^<>=!]+?)\s*(<=|>=|!=|<|>|=)\s*(\S+)")
_OPERATORS: dict[str, Operator] = {
    "<": "LESS",
    "<=": "LESS_EQUAL",
    "=": "EQUAL",
    ">=": "GREATER_EQUAL",
    ">": "GREATER",
    "!=": "NOT_EQUAL",
}


def search(
    context: typer.Context,
    store: StoreOption,
    name: Annotated[str, typer.Option("--name", help="Alias or version id.")],
    text: Annotated[str | None, typer.Option("--text", help="Ask with a text.")] = None,
    image: Annotated[Path | None, typer.Option("--image", help="Ask with a picture file (JPEG, PNG or WebP).")] = None,
    datapoint_id: Annotated[str | None, typer.Option("--id", help="Ask with an item: what is like it?")] = None,
    vector: Annotated[
        Path | None, typer.Option("--vector", help="Ask with a vector: .npy of float32[d], or JSON list in a file.")
    ] = None,
    k: Annotated[int, typer.Option("-k", "--k", min=1, help="How many neighbors.")] = 10,
    restrict: Annotated[
        list[str] | None, typer.Option("--restrict", help="ns=a,b allows tokens, ns=!a denies one; repeat for AND.")
    ] = None,
    number: Annotated[list[str] | None, typer.Option("--number", help="Such as 'price<=20'; repeat for AND.")] = None,
    crowding: Annotated[
        int, typer.Option("--crowding", min=0, help="At most so many results a crowding tag; 0 for any.")
    ] = 0,
    space: Annotated[
        str | None, typer.Option("--space", help="The space to search; chosen by what is asked otherwise.")
    ] = None,
    exact: Annotated[bool, typer.Option("--exact", help="Scan instead of searching the index.")] = False,
    recall_target: Annotated[float | None, typer.Option("--recall-target", help="Recall to search for.")] = None,
    rrf: Annotated[
        float | None,
        typer.Option("--rrf", help="Fuse dense and sparse rankings by ranks: 0 sparse alone, 1 dense alone."),
    ] = None,
    weighted: Annotated[float | None, typer.Option("--weighted", help="Fuse them by scores instead.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Find the nearest datapoints of a text, a picture, an item or a vector.

    Example: `likewise search --store shop --name shop --text "red rain jacket" -k 5 --number "price<=80"`

    Example: `likewise search --store shop --name shop --text "sony ps-lx350h" --rrf 0.5`
    """
    asked = [text is not None, image is not None, datapoint_id is not None, vector is not None]
    if sum(asked) != 1:
        raise InvalidInput(f"[search] {sum(asked)} of --text, --image, --id and --vector are given; give one")
    version = Store(store).open(name)
    chosen = space or _space_for(version, text=text is not None, image=image is not None, item=datapoint_id is not None)
    wanted = filter_of(version, restrict or [], number or [])
    fusion = _fusion(rrf, weighted, is_text=text is not None)
    start = time.perf_counter()
    knobs = {
        "space": chosen,
        "filter": wanted,
        "crowding_cap": crowding,
        "exact": exact,
        "recall_target": recall_target,
    }
    if datapoint_id is not None:
        result = version.search_by_id([datapoint_id], k, **knobs)  # type: ignore[arg-type]
    else:
        vectors, sparse = (
            _vector(vector)
            if vector is not None
            else _encoded(version, chosen, text, image, load_settings(context.obj).encode)
        )
        start = time.perf_counter()
        if fusion is not None:
            result = search_hybrid(version, k, fusion=fusion, vectors=vectors, sparse=sparse, **knobs)  # type: ignore[arg-type]
        else:
            result = version.search(vectors, k, sparse=sparse, **knobs)  # type: ignore[arg-type]
    _show(version, result, chosen, (time.perf_counter() - start) * 1e3, as_json=as_json)


def _fusion(rrf: float | None, weighted: float | None, *, is_text: bool) -> Fusion | None:
    if rrf is None and weighted is None:
        return None
    if rrf is not None and weighted is not None:
        raise InvalidInput("[search] --rrf and --weighted are given; give one")
    if not is_text:
        raise InvalidInput("[search] --rrf and --weighted fuse the two sides of a text; give --text, or leave them out")
    return Fusion("rrf", rrf) if rrf is not None else Fusion("score", weighted or 0.0)


def _space_for(version: IndexVersion, *, text: bool, image: bool, item: bool) -> str:
    order = ["text"] if text else ["image"] if image else ["fused", "text", "image"] if item else []
    named = next((name for name in order if name in version.spaces), None)
    if named is None and len(version.spaces) == 1:
        named = next(iter(version.spaces))
    if named is None:
        raise InvalidInput(
            f"[search] version {version.version_id} has spaces {sorted(version.spaces)}; choose with --space"
        )
    return named


def _encoded(
    version: IndexVersion, space: str, text: str | None, image: Path | None, settings: EncodeSettings
) -> tuple[NDArray[np.float32], SparseRows | None]:
    from embeddings import TextEncoder, load_encoder
    from embeddings.encoder import Content

    spec = version.space(space).encoder
    if spec is None:
        raise InvalidQuery(
            f"[search] space {space!r} of version {version.version_id} was built from ready vectors and has no encoder; "
            "ask with --vector or --id"
        )
    content = Content(text=text) if image is None else Content(image=_read(image))
    with contextlib.closing(load_encoder(spec, model_dir=settings.model_dir, n_threads=settings.threads)) as encoder:
        sparse = encoder.sparse([text]) if isinstance(encoder, TextEncoder) and text is not None else None
        return encoder.encode([content]), sparse


def _vector(file: Path) -> tuple[NDArray[np.float32], None]:
    import json

    data = _read(file)
    try:
        values = (
            np.load(file, allow_pickle=False) if data[:6] == b"\x93NUMPY" else np.array(json.loads(data), np.float32)
        )
    except (ValueError, UnicodeDecodeError) as error:
        raise InvalidInput(
            f"[search] {file} holds no vector: {error}; give a .npy file or a JSON list of numbers"
        ) from error
    return np.atleast_2d(values.astype(np.float32)), None


def _read(file: Path) -> bytes:
    try:
        return file.read_bytes()
    except OSError as error:
        raise InvalidInput(f"[search] {file} cannot be read: {error.strerror}") from error


def filter_of(version: IndexVersion, restricts: list[str], numbers: list[str]) -> Filter:
    """Return the filter that --restrict and --number options mean.

    Raises:
        InvalidInput: one cannot be read, or names no namespace of the version.
    """
    tokens = []
    for option in restricts:
        namespace, equals, listed = option.partition("=")
        if not equals or namespace not in version.namespaces():
            raise InvalidInput(
                f"[search] --restrict {option!r} names no namespace of the version; expected ns=a,b with one of "
                f"{', '.join(version.namespaces()) or '(none)'}"
            )
        parts = [part.strip() for part in listed.split(",") if part.strip()]
        allow = tuple(part for part in parts if not part.startswith("!"))
        tokens.append(Restrict(namespace, allow, tuple(part[1:] for part in parts if part.startswith("!"))))
    types = version.numeric_types()
    compared = []
    for option in numbers:
        found = _NUMBER.fullmatch(option.strip())
        if found is None or found[1] not in types:
            raise InvalidInput(
                f"[search] --number {option!r} cannot be read; expected such as 'price<=20' with one of "
                f"{', '.join(sorted(types)) or '(no numeric namespace)'}"
            )
        compared.append(
            NumericRestrict(found[1], _value(found[3], types[found[1]]), types[found[1]], _OPERATORS[found[2]])
        )
    return Filter(tuple(tokens), tuple(compared))


def _value(text: str, kind: NumericType) -> int | float:
    try:
        return int(text) if kind == "int64" else float(text)
    except ValueError as error:
        raise InvalidInput(f"[search] {text!r} is no {kind} number") from error


def _show(version: IndexVersion, result: SearchResult, space: str, took_ms: float, *, as_json: bool) -> None:
    neighbors = result.neighbors[0]
    found = version.datapoints([n.datapoint_id for n in neighbors])
    if as_json:
        print_json(
            {
                "index_version": result.version_id,
                "space": space,
                "plan": result.plan,
                "effort": result.effort,
                "n_matching": result.n_matching,
                "took_ms": round(took_ms, 3),
                "neighbors": [{**n._asdict(), "metadata": dict(d.metadata)} for n, d in zip(neighbors, found)],
            }
        )
        return
    effort = f" {result.effort}" if result.effort else ""
    out.print(
        f"{len(neighbors)} of {result.n_matching:,} matching, space {space}, plan {result.plan}{effort}, {took_ms:.1f} ms, "
        f"version {result.version_id}"
    )
    print_table(
        "",
        [">", ">distance", "id", "title", "category", ">price"],
        [
            (
                rank,
                f"{n.distance:.4f}",
                n.datapoint_id,
                cast(str, d.metadata.get("title") or ""),
                d.metadata.get("category"),
                d.metadata.get("price"),
            )
            for rank, (n, d) in enumerate(zip(neighbors, found), 1)
        ],
    )
