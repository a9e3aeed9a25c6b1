"""What becomes of one row: texts, prices, paths, columns, datapoints."""

from __future__ import annotations

import math

import pytest

from index_builder.catalog.catalog import Product, _price_of_text
from index_builder.catalog.columns import ColumnMapping
from index_builder.catalog.facets import Facets, FacetSurvey
from matching.datapoint import NumericRestrict, Restrict
from matching.errors import InvalidCatalog, InvalidInput


def test_text_joins_what_the_title_does_not_say() -> None:
    product = Product("1", title="Acme Anvil", description="Heavy.", category="Tools", brand="ACME")
    assert product.text == "Acme Anvil. Tools. Heavy"
    assert Product("1", description="Only this").text == "Only this"
    assert Product("1", title="Same", description="same").text == "Same"
    assert Product("1").text == ""


def test_datapoint_holds_filters_tag_and_metadata() -> None:
    product = Product(
        "7",
        title="Linen Shirt",
        category="Shirts",
        category_path=("Clothing", "Shirts"),
        brand="Saltmarsh",
        price=39.5,
        currency="EUR",
        pictures=("a.jpg",),
        attributes={"color": ["red", "blue"], "stock": 4, "note": "x", "odd": "text in a number column"},
        facets=Facets(restricts=("color",), numbers=("stock", "odd")),
    )
    datapoint = product.datapoint()
    assert datapoint.restricts == (
        Restrict("category", ("Shirts",)),
        Restrict("brand", ("Saltmarsh",)),
        Restrict("category_path", ("Clothing", "Clothing > Shirts")),
        Restrict("color", ("red", "blue")),
    )
    assert datapoint.numeric_restricts == (NumericRestrict("price", 39.5), NumericRestrict("stock", 4.0))
    assert datapoint.crowding_tag == "Saltmarsh"
    assert datapoint.metadata["pictures"] == ["a.jpg"]
    assert "description" not in datapoint.metadata
    assert Product("7", brand="Saltmarsh", crowding="family-1").datapoint().crowding_tag == "family-1"
    assert Product("7", price=0.0).datapoint().numeric_restricts == (NumericRestrict("price", 0.0),)


@pytest.mark.parametrize(
    ("text", "price"),
    [
        ("19.99", 19.99),
        ("19,99", 19.99),
        ("$1,299.00", 1299.0),
        ("1.299,00 EUR", 1299.0),
        ("EUR 12", 12.0),
        ("1,299", 1299.0),
        ("1 299,50 zł", 1299.5),
        ("-3", -3.0),
        (".5", 0.5),
        ("call us", None),
        ("12-15", None),
        ("1.2.3", None),
    ],
)
def test_price_texts(text: str, price: float | None) -> None:
    assert _price_of_text(text) == price


def test_price_text_nan_is_not_a_price() -> None:
    assert math.isnan(_price_of_text("NaN") or 0.0)


def test_columns_are_found_by_their_usual_names() -> None:
    found = ColumnMapping().resolve(["SKU", "Product Name", "Image-Path", "Amount", "colour"], source="shop.csv")
    assert found == {"id": "SKU", "title": "Product Name", "pictures": "Image-Path", "price": "Amount"}


def test_given_columns_win_and_can_be_absent() -> None:
    mapping = ColumnMapping.parse("id=code, title=name,price=,image=photo")
    found = mapping.resolve(["id", "code", "name", "title", "price", "photo"], source="shop.csv")
    assert found == {"id": "code", "title": "name", "pictures": "photo"}


def test_wrong_column_names_the_nearest() -> None:
    with pytest.raises(
        InvalidCatalog, match=r"no column 'nmae' for title; did you mean 'name'\?; its columns are id, name"
    ):
        ColumnMapping.parse("title=nmae").resolve(["id", "name"], source="shop.csv")
    with pytest.raises(InvalidCatalog, match=r"no column for the product id; .*name the right one with id=COLUMN"):
        ColumnMapping().resolve(["name"], source="shop.csv")


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ("titel=name", r"'titel' is no part of a product; did you mean 'title'\?"),
        ("title", "'title' is not PART=COLUMN"),
        ("title=a,title=b", "'title' is given twice, as 'a' and 'b'"),
    ],
)
def test_wrong_option(option: str, message: str) -> None:
    with pytest.raises(InvalidInput, match=message):
        ColumnMapping.parse(option)


def test_facets_are_the_columns_of_few_short_texts() -> None:
    survey = FacetSurvey()
    for n in range(200):
        survey.add(
            {"color": ("red", "blue")[n % 2], "model": f"M-{n}", "stock": n, "sale": n % 3 == 0, "note": "x" * 80}
        )
    assert survey.facets() == Facets(restricts=("color", "sale"), numbers=("stock",))


def test_facets_do_not_depend_on_order() -> None:
    rows = [{"a": str(n % 7), "b": f"t{n}", "c": n if n % 50 else "n/a"} for n in range(300)]
    forward, backward = FacetSurvey(), FacetSurvey()
    for row, other in zip(rows, reversed(rows), strict=True):
        forward.add(row)
        backward.add(other)
    assert forward.facets() == backward.facets()
    assert forward.facets().numbers == ("a", "c")
