"""`likewise catalog`: look at a catalogue before it is built."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated

import typer

from embeddings.pictures import Framing, PictureDecoder, PictureLimits
from embeddings.settings import EncodeSettings
from index_builder.catalog.catalog import open_catalog
from index_builder.catalog.catalog_report import check_catalog, render_summary
from index_builder.catalog.columns import ColumnMapping
from index_builder.catalog.rejects import RejectsFile
from lifecycle.settings import load_settings
from lifecycle.terminal import err, out, print_json
from lifecycle.version_commands import JsonOption
from matching.errors import GateRefused, InvalidContent

_SIDE = 32  # decoding is what is tested; the pixels are thrown away

app = typer.Typer(help="Check a catalogue, or draw a sample one.", no_args_is_help=True)


@app.command("check")
def check(
    context: typer.Context,
    file: Annotated[Path, typer.Argument(help="Products: Parquet, CSV or JSON Lines; a file or a folder of parts.")],
    images: Annotated[Path | None, typer.Option("--images", help="Folder that picture paths start from.")] = None,
    columns: Annotated[
        str | None, typer.Option("--columns", help="Which column is what, such as title=name,price=amount.")
    ] = None,
    rejects: Annotated[
        Path | None, typer.Option("--rejects", help="Where to list every reject, as JSON Lines.")
    ] = None,
    max_reject_frac: Annotated[
        float | None, typer.Option("--max-reject-frac", help="Share of rejects that a build would allow.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Read a catalogue as a build would, and show what it holds and what would be rejected; exit 1 where a build would refuse it.

    Example: `likewise catalog check products.csv --images pictures --rejects rejects.jsonl`
    """
    settings = load_settings(context.obj)
    mapping = None if columns is None else ColumnMapping.parse(columns)
    catalog = open_catalog(
        file, columns=mapping, images_dir=images, max_picture_bytes=settings.encode.max_picture_bytes
    )
    limit = settings.build.max_reject_frac if max_reject_frac is None else max_reject_frac
    with RejectsFile(rejects, max_reject_frac=limit) as found:
        summary = check_catalog(
            catalog, rejects=found, decode=None if images is None else decode_pictures(settings.encode)
        )
    if as_json:
        print_json(summary.to_json())
    else:
        render_summary(summary, out)
    if summary.refusal is not None:
        raise GateRefused(summary.refusal)


@app.command("sample")
def sample(
    directory: Annotated[Path, typer.Argument(help="A new or empty folder.")],
    products: Annotated[int, typer.Option("--products", min=1, help="How many products to draw.")] = 2000,
    seed: Annotated[int, typer.Option("--seed", min=0, help="The same seed draws the same shop.")] = 0,
    as_json: JsonOption = False,
) -> None:
    """Draw a small shop: products with pictures, and a year of events.

    Example: `likewise catalog sample shop --products 500`
    """
    from index_builder.sample.shop import write_sample_shop

    err.print(f"drawing {products:,} products")
    path = write_sample_shop(directory, n_products=products, seed=seed)
    if as_json:
        print_json({"catalog": str(path), "images": str(path.parent), "events": str(path.parent / "events.parquet")})
    else:
        out.print(
            f"{path}\nbuild it with: likewise build --catalog {path} --images {path.parent} --store store --name shop"
        )


def decode_pictures(settings: EncodeSettings) -> Callable[[Sequence[bytes]], list[str | None]]:
    """Return what tells, for each picture file, why it cannot be decoded."""
    decoder = PictureDecoder(
        Framing(size=_SIDE, crop=1.0),
        n_workers=settings.picture_workers,
        limits=PictureLimits(max_bytes=settings.max_picture_bytes, max_pixels=settings.max_picture_pixels),
    )

    def reasons(pictures: Sequence[bytes]) -> list[str | None]:
        return [str(found) if isinstance(found, InvalidContent) else None for found in decoder.decode(pictures)]

    return reasons
