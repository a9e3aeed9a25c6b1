"""The report of `likewise catalog check`: what a catalogue holds, what was refused and why, as numbers and as a drawing."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

from index_builder.catalog.catalog import Catalog, Decode, Product
from index_builder.catalog.facets import MAX_COLUMNS
from index_builder.catalog.rejects import Reject, RejectCode, RejectsFile
from matching.errors import InvalidContent

if TYPE_CHECKING:
    from rich.console import Console, RenderableType

N_TOP = 12
N_BINS = 24
_SAMPLE = 50_000
_MAX_DISTINCT = 50_000
_DECODE_BATCH = 64
_PARTS = ("title", "description", "category", "category_path", "brand", "price", "currency", "pictures")


@dataclass(frozen=True, slots=True)
class Spread:
    """How numbers lie: exact ends, quantiles and a histogram of at most 50,000 of them drawn at random.

    Attributes:
        bins: counts in `N_BINS` equal steps from `least` to `high`, everything above in the last one.
        high: the 98 % quantile: a few dear products must not flatten the drawing.
    """

    n: int
    least: float
    p5: float
    p25: float
    median: float
    p75: float
    p95: float
    most: float
    high: float
    bins: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class CatalogSummary:
    """What a catalogue holds.

    Attributes:
        columns: part to column, as found.
        restricts, numbers: attribute columns that can be filtered by.
        rejects: count by code.
        examples: the first rejects of each code.
        top_categories, top_brands: name and count, the most frequent first.
        n_categories, n_brands: how many different ones there are (counted up to 50,000).
        fill: share of the products that have a value, by part or attribute column.
        reject_limit: the share of rejects that a build would allow.
        refusal: the message with which a build would refuse this catalogue, or None.
    """

    path: str
    digest: str
    n_bytes: int
    columns: dict[str, str]
    restricts: tuple[str, ...]
    numbers: tuple[str, ...]
    n_rows: int
    n_products: int
    n_rejected_rows: int
    rejects: dict[str, int]
    examples: tuple[Reject, ...]
    n_with_text: int
    n_with_pictures: int
    n_pictures: int
    n_rejected_pictures: int
    pictures_checked: str
    text_chars: Spread | None
    price: Spread | None
    currencies: dict[str, int]
    n_categories: int
    top_categories: tuple[tuple[str, int], ...]
    n_brands: int
    top_brands: tuple[tuple[str, int], ...]
    fill: dict[str, float]
    reject_limit: float
    refusal: str | None

    def to_json(self) -> dict[str, object]:
        """Return the summary as JSON values."""
        return asdict(self)


def check_catalog(catalog: Catalog, *, rejects: RejectsFile, decode: Decode | None = None) -> CatalogSummary:
    """Read a whole catalogue, as a build would, and sum it up.

    Args:
        catalog: what is checked.
        rejects: takes the rejects; its limit decides whether a build would refuse. It is not closed.
        decode: takes the bytes of some pictures and returns for each the reason why it cannot be decoded, or None.
            Without it pictures are looked for and weighed, not decoded.

    Raises:
        InvalidCatalog: a file is damaged in a way that hides how many rows are lost.
    """
    from matching.errors import GateRefused

    tally = _Tally()
    for batch in catalog:
        rejects.add(batch.rejects, n_rows=batch.n_rows, n_pictures=batch.n_pictures)
        bad: dict[str, set[str]] = {}
        if decode is not None and catalog.pictures is not None:
            for reject, path in _undecodable(catalog, batch.products, decode):
                rejects.add([reject])
                bad.setdefault(reject.datapoint_id or "", set()).add(path)
        for product in batch.products:
            tally.add(product, len(product.pictures) - len(bad.get(product.product_id, ())))
    refusal = None
    try:
        rejects.check()
    except GateRefused as refused:
        refusal = str(refused).partition("\n")[0]
    n_products = max(tally.n_products, 1)
    return CatalogSummary(
        path=str(catalog.path),
        digest=catalog.digest,
        n_bytes=sum(file.n_bytes for file in catalog.files),
        columns=catalog.columns,
        restricts=catalog.facets.restricts,
        numbers=catalog.facets.numbers,
        n_rows=rejects.n_rows,
        n_products=tally.n_products,
        n_rejected_rows=rejects.n_rejected_rows,
        rejects={code.value: n for code, n in rejects.counts.most_common()},
        examples=tuple(example for code, _ in rejects.counts.most_common() for example in rejects.examples[code]),
        n_with_text=tally.n_with_text,
        n_with_pictures=tally.n_with_pictures,
        n_pictures=rejects.n_pictures,
        n_rejected_pictures=rejects.n_rejected_pictures,
        pictures_checked="no" if catalog.pictures is None else "present" if decode is None else "decoded",
        text_chars=tally.text_chars.spread(),
        price=tally.price.spread(),
        currencies=dict(tally.currencies.most_common(N_TOP)),
        n_categories=len(tally.categories),
        top_categories=tuple(tally.categories.most_common(N_TOP)),
        n_brands=len(tally.brands),
        top_brands=tuple(tally.brands.most_common(N_TOP)),
        fill={name: n / n_products for name, n in tally.filled.items()},
        reject_limit=rejects.max_reject_frac,
        refusal=refusal,
    )


def render_summary(summary: CatalogSummary, console: Console) -> None:
    """Draw a summary in a terminal; it fits 80 columns."""
    from rich.console import Group
    from rich.markup import escape
    from rich.panel import Panel
    from rich.table import Table

    head = Table.grid(padding=(0, 2))
    head.add_column(style="dim")
    head.add_column()
    head.add_row("file", f"{escape(summary.path)}  [dim]{_bytes(summary.n_bytes)}, sha256 {summary.digest[:16]}[/dim]")
    named = [part if part == column else f"{part}={column}" for part, column in summary.columns.items()]
    head.add_row("columns", escape(", ".join(named)))
    head.add_row("filters", escape(", ".join((*summary.restricts, *summary.numbers)) or "category, brand, price alone"))
    head.add_row("rows", _outcome(summary.n_rows, summary.n_products, summary.n_rejected_rows, "products"))
    if summary.pictures_checked == "no":
        head.add_row("pictures", "[dim]left out: no images folder was given[/dim]")
    else:
        n_good = summary.n_pictures - summary.n_rejected_pictures
        told = _outcome(summary.n_pictures, n_good, summary.n_rejected_pictures, summary.pictures_checked)
        head.add_row("pictures", f"{told}; {summary.n_with_pictures:,} products have one")
    if summary.text_chars is not None:
        chars = summary.text_chars
        told = f"{summary.n_with_text:,} products; median {chars.median:,.0f} characters, 95 % up to {chars.p95:,.0f}"
        head.add_row("texts", f"{told}, longest {chars.most:,.0f}")
    console.print(Panel(head, title="[bold]catalogue[/bold]", title_align="left", border_style="cyan"))

    left: list[RenderableType] = []
    if summary.top_categories:
        title = f"categories ({summary.n_categories:,})"
        left += [_bars(title, summary.top_categories, summary.n_products, "cyan"), ""]
    if summary.top_brands:
        left += [_bars(f"brands ({summary.n_brands:,})", summary.top_brands, summary.n_products, "magenta"), ""]
    fill = sorted(summary.fill.items(), key=lambda item: -item[1])[: 2 * N_TOP]
    shares = tuple((name, round(share * summary.n_products)) for name, share in fill)
    drawings = Table.grid(padding=(0, 3))
    drawings.add_row(Group(*left), _bars("columns with a value", shares, summary.n_products, "green", share=True))
    console.print(drawings)
    for name, spread, unit in (
        ("price", summary.price, " ".join(summary.currencies)),
        ("text length", summary.text_chars, "characters"),
    ):
        if spread is not None:
            console.print(_histogram(name, spread, unit))

    if summary.rejects:
        table = Table(title="rejects", title_justify="left", title_style="bold red", border_style="red", expand=True)
        table.add_column("count", justify="right", no_wrap=True)
        table.add_column("code", no_wrap=True)
        table.add_column("for example", overflow="fold", ratio=1)
        for code, n in summary.rejects.items():
            example = next(reject for reject in summary.examples if reject.code.value == code)
            table.add_row(f"{n:,}", code, escape(f"{example.file} {example.place}: {example.reason}"))
        console.print(table)
    if summary.refusal is None:
        console.print(f"[green]a build would take it[/green] [dim](at most {summary.reject_limit:.2%} rejects)[/dim]")
    else:
        console.print(f"[red]a build would refuse it[/red]: {escape(summary.refusal)}")


def _undecodable(catalog: Catalog, products: Sequence[Product], decode: Decode) -> Iterator[tuple[Reject, str]]:
    """Yield a reject, and the path, for each picture that cannot be decoded."""
    assert catalog.pictures is not None
    named = [(product.product_id, path) for product in products for path in product.pictures]
    for start in range(0, len(named), _DECODE_BATCH):
        chunk: list[tuple[str, str]] = []
        data: list[bytes] = []
        for product_id, path in named[start : start + _DECODE_BATCH]:
            try:
                data.append(catalog.pictures.read(path))
                chunk.append((product_id, path))
            except InvalidContent as error:
                yield Reject(path, "picture", product_id, RejectCode.PICTURE_MISSING, str(error)), path
        for (product_id, path), reason in zip(chunk, decode(data), strict=True):
            if reason is not None:
                yield Reject(path, "picture", product_id, RejectCode.PICTURE_UNDECODABLE, reason), path


class _Tally:
    """Sums over products in bounded memory."""

    def __init__(self) -> None:
        self.n_products = self.n_with_text = self.n_with_pictures = 0
        self.text_chars, self.price = _Numbers(), _Numbers()
        self.categories: Counter[str] = Counter()
        self.brands: Counter[str] = Counter()
        self.currencies: Counter[str] = Counter()
        self.filled: Counter[str] = Counter(dict.fromkeys(_PARTS, 0))

    def add(self, product: Product, n_pictures: int) -> None:
        self.n_products += 1
        self.n_with_pictures += n_pictures > 0
        text = product.text
        if text:
            self.n_with_text += 1
            self.text_chars.add(len(text))
        if product.price is not None:
            self.price.add(product.price)
        for counter, name in (
            (self.categories, product.category),
            (self.brands, product.brand),
            (self.currencies, product.currency),
        ):
            if name and (name in counter or len(counter) < _MAX_DISTINCT):
                counter[name] += 1
        for part in _PARTS:
            value = getattr(product, part)
            self.filled[part] += n_pictures > 0 if part == "pictures" else value is not None and value != ()
        for name in product.attributes:
            if name in self.filled or len(self.filled) < MAX_COLUMNS:
                self.filled[name] += 1


class _Numbers:
    """A stream of numbers: exact ends, and a uniform sample of a bounded size (reservoir sampling)."""

    def __init__(self) -> None:
        self._n = 0
        self._least, self._most = float("inf"), float("-inf")
        self._sample: list[float] = []
        self._rng = random.Random(0)  # noqa: S311

    def add(self, value: float) -> None:
        self._n += 1
        self._least, self._most = min(self._least, value), max(self._most, value)
        if len(self._sample) < _SAMPLE:
            self._sample.append(value)
        elif (at := self._rng.randrange(self._n)) < _SAMPLE:
            self._sample[at] = value

    def spread(self) -> Spread | None:
        if not self._n:
            return None
        ordered = sorted(self._sample)

        def quantile(share: float) -> float:
            return ordered[min(len(ordered) - 1, int(share * len(ordered)))]

        high = quantile(0.98)
        bins = [0] * N_BINS
        width = (high - self._least) or 1.0
        for value in ordered:
            bins[min(N_BINS - 1, int((value - self._least) / width * N_BINS))] += 1
        five, quarter, median, three, most = (quantile(share) for share in (0.05, 0.25, 0.5, 0.75, 0.95))
        return Spread(self._n, self._least, five, quarter, median, three, most, self._most, high, tuple(bins))


# Drawing.


def _bars(
    title: str, counts: Sequence[tuple[str, int]], total: int, colour: str, *, share: bool = False
) -> RenderableType:
    from rich.table import Table
    from rich.text import Text

    table = Table(
        title=title, title_justify="left", title_style="bold", box=None, padding=(0, 1, 0, 0), show_header=False
    )
    table.add_column(max_width=20, no_wrap=True, overflow="ellipsis")
    table.add_column(width=12)
    table.add_column(justify="right")
    top = total if share else max((n for _, n in counts), default=1)
    for name, n in counts:
        percent = 100 * n / max(total, 1)
        told = (
            (f"{percent:.0f} %" if n in (0, total) else f"{min(max(percent, 0.1), 99.9):.1f} %") if share else f"{n:,}"
        )
        table.add_row(Text(name), Text(_bar(n / max(top, 1), 12), style=colour), told)
    return table


def _bar(share: float, width: int) -> str:
    eighths = round(share * width * 8)
    if share > 0:
        eighths = max(eighths, 1)
    full, rest = divmod(eighths, 8)
    return "█" * full + (" ▏▎▍▌▋▊▉"[rest] if rest else "")


def _histogram(name: str, spread: Spread, unit: str) -> RenderableType:
    from rich.text import Text

    top = max(spread.bins)
    levels = " ▁▂▃▄▅▆▇█"
    line = "".join(levels[0 if not n else max(1, round(8 * n / top))] for n in spread.bins)
    text = Text(f"{name:<12}", style="bold")
    text.append(f"{spread.least:,.10g} ", style="dim")
    text.append(line, style="yellow")
    text.append(f" {spread.high:,.10g}{'+' if spread.most > spread.high else ''} {unit}", style="dim")
    text.append(f"   median {spread.median:,.10g}, middle half {spread.p25:,.10g} to {spread.p75:,.10g}")
    return text


def _outcome(n_all: int, n_good: int, n_bad: int, what: str) -> str:
    told = f"{n_all:,} read, [green]{n_good:,} {what}[/green]"
    return f"{told}, [red]{n_bad:,} rejected ({n_bad / max(n_all, 1):.2%})[/red]" if n_bad else f"{told}, none rejected"


def _bytes(n: int) -> str:
    for unit in ("bytes", "KiB", "MiB"):
        if n < 1024:
            return f"{n:,.0f} {unit}" if unit == "bytes" else f"{n:,.1f} {unit}"
        n /= 1024  # type: ignore[assignment]
    return f"{n:,.1f} GiB"
