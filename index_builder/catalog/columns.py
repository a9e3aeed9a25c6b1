"""Columns: which column of a catalogue plays which part, found by name or given by option."""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from matching.errors import InvalidCatalog, InvalidInput

# Names are compared without case, spaces and punctuation, first match wins.
ALIASES: Mapping[str, tuple[str, ...]] = {
    "id": ("product_id", "id", "item_id", "sku", "article_id", "article_number", "asin", "uniq_id", "handle"),
    "title": ("title", "name", "product_name", "product_title", "product_display_name", "display_name", "item_name"),
    "description": (
        "description",
        "product_description",
        "long_description",
        "body_html",
        "body",
        "details",
        "summary",
    ),
    "category": ("category", "category_name", "product_type", "product_category", "department", "subcategory"),
    "category_path": (
        "category_path",
        "categories",
        "breadcrumbs",
        "breadcrumb",
        "google_product_category",
        "taxonomy",
    ),
    "brand": ("brand", "brand_name", "manufacturer", "vendor", "maker"),
    "price": (
        "price",
        "amount",
        "unit_price",
        "list_price",
        "sale_price",
        "current_price",
        "variant_price",
        "median_price",
    ),
    "currency": ("currency", "currency_code", "price_currency"),
    "pictures": (
        "image_path",
        "image_paths",
        "pictures",
        "picture",
        "images",
        "image",
        "image_file",
        "image_url",
        "image_link",
        "image_src",
        "photo",
        "photos",
    ),
    "crowding": (
        "crowding_tag",
        "item_group_id",
        "group_id",
        "parent_id",
        "parent_sku",
        "parent_asin",
        "product_family",
    ),
    "attributes": ("attributes", "properties", "specs", "specifications"),
}
PARTS = tuple(ALIASES)
_OTHER_PART_NAMES = {"product_id": "id", "image_path": "pictures", "image": "pictures", "images": "pictures"}


@dataclass(frozen=True, slots=True)
class ColumnMapping:
    """Which column holds which part; parts that are not given are found by their usual names.

    Attributes:
        given: part to column, as the caller wrote it. An empty column name says that the part is absent.
    """

    given: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def parse(cls, option: str) -> ColumnMapping:
        """Read `title=name,price=amount`.

        Raises:
            InvalidInput: an entry is not PART=COLUMN, names no part, or a part comes twice.
        """
        given: dict[str, str] = {}
        for entry in filter(None, (entry.strip() for entry in option.split(","))):
            part, equals, column = (text.strip() for text in entry.partition("="))
            if not equals:
                raise InvalidInput(
                    f"[columns] {entry!r} is not PART=COLUMN; expected for example title=name,price=amount"
                )
            part = _OTHER_PART_NAMES.get(part, part)
            if part not in ALIASES:
                raise InvalidInput(
                    f"[columns] {part!r} is no part of a product{nearest(part, PARTS)}; "
                    f"expected one of {', '.join(PARTS)}"
                )
            if part in given:
                raise InvalidInput(f"[columns] {part!r} is given twice, as {given[part]!r} and {column!r}; keep one")
            given[part] = column
        return cls(given)

    def resolve(self, columns: Sequence[str], *, source: str) -> dict[str, str]:
        """Return part to column for a file that has these columns.

        Raises:
            InvalidCatalog: a given column does not exist, or no column can be the id.
        """
        for part, column in self.given.items():
            if column and column not in columns:
                raise InvalidCatalog(
                    f"[columns] {source} has no column {column!r} for {part}{nearest(column, columns)}; "
                    f"its columns are {_listed(columns)}"
                )
        found = self.complete({part: column for part, column in self.given.items() if column}, columns)
        if "id" not in found:
            raise InvalidCatalog(
                f"[columns] {source} has no column for the product id; expected one of {', '.join(ALIASES['id'])}; "
                f"its columns are {_listed(columns)}: name the right one with id=COLUMN"
            )
        return found

    def complete(self, found: Mapping[str, str], columns: Sequence[str]) -> dict[str, str]:
        """Return `found` with the parts added that some free column of these has a usual name for."""
        complete = dict(found)
        taken = set(complete.values())
        by_name: dict[str, str] = {}
        for column in columns:
            if column not in taken:
                by_name.setdefault(_folded(column), column)
        for part, names in ALIASES.items():
            if part in complete or part in self.given:
                continue
            for name in names:
                free = by_name.get(_folded(name))
                if free is not None and free not in complete.values():
                    complete[part] = free
                    break
        return complete


def nearest(name: str, known: Sequence[str]) -> str:
    """Return `; did you mean 'x'?` for the known name most like `name`, or an empty text."""
    by_fold = {_folded(candidate): candidate for candidate in known}
    close = difflib.get_close_matches(_folded(name), by_fold, n=1, cutoff=0.5)
    return f"; did you mean {by_fold[close[0]]!r}?" if close else ""


def _folded(name: str) -> str:
    return re.sub(r"[^a-z0-9]", "", name.lower())


def _listed(columns: Sequence[str]) -> str:
    shown = ", ".join(columns[:40])
    return f"{shown}, and {len(columns) - 40} more" if len(columns) > 40 else shown or "none"
