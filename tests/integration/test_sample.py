"""The sample shop: the same seed gives the same bytes, and what it gives is a believable catalogue."""

from __future__ import annotations

import hashlib
import io
from collections import Counter
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from index_builder.catalog.catalog import open_catalog
from index_builder.sample.shop import write_sample_shop
from matching.errors import AlreadyExists, InvalidInput

N = 120


def digests(root: Path) -> dict[str, str]:
    files = sorted(path for path in root.rglob("*") if path.is_file())
    return {str(path.relative_to(root)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_sample_shop(tmp_path_factory.mktemp("sample") / "shop", n_products=N, seed=3).parent


def test_the_same_seed_gives_the_same_bytes(shop: Path, tmp_path: Path) -> None:
    again = write_sample_shop(tmp_path / "again", n_products=N, seed=3).parent
    assert digests(again) == digests(shop)
    other = write_sample_shop(tmp_path / "other", n_products=10, seed=4).parent
    assert digests(other)["products.parquet"] != digests(shop)["products.parquet"]


def test_it_is_a_catalogue_without_rejects(shop: Path) -> None:
    catalog = open_catalog(shop / "products.parquet", images_dir=shop)
    batches = list(catalog)
    products = [product for batch in batches for product in batch.products]
    assert all(batch.rejects == () for batch in batches)
    assert len(products) == N
    assert {"color", "material", "pattern"} <= set(catalog.facets.restricts)
    assert {"stock", "rating"} <= set(catalog.facets.numbers)
    assert "model_number" not in catalog.facets.restricts
    assert len({product.category for product in products}) >= 8
    assert len({product.text for product in products}) == N
    assert sum(len(product.pictures) == 2 for product in products) > N / 6


def test_pictures_are_small_jpegs_that_differ(shop: Path) -> None:
    from PIL import Image

    paths = sorted(shop.glob("images/*/*.jpg"))
    for path in paths[:30]:
        with Image.open(io.BytesIO(path.read_bytes())) as picture:
            assert (picture.format, picture.size) == ("JPEG", (224, 224))
    assert len({path.read_bytes() for path in paths}) == len(paths)


def test_colours_of_one_design_look_more_alike_than_other_things(shop: Path) -> None:
    from PIL import Image

    products = pq.read_table(shop / "products.parquet").to_pylist()
    drawn = [row for row in products if row["image_path"]]
    grey = {
        row["id"]: np.asarray(Image.open(shop / row["image_path"]).convert("L").resize((28, 28)), dtype=np.float64)
        for row in drawn
    }
    same, other = [], []
    for at, one in enumerate(drawn):
        for two in drawn[at + 1 :]:
            gap = float(np.abs(grey[one["id"]] - grey[two["id"]]).mean())
            (same if one["item_group_id"] == two["item_group_id"] else other).append(gap)
    assert np.median(same) < 0.7 * np.median(other)


def test_events_are_a_plausible_year(shop: Path) -> None:
    events = pq.read_table(shop / "events.parquet").to_pylist()
    products = {row["id"]: row for row in pq.read_table(shop / "products.parquet").to_pylist()}
    kinds = Counter(event["event_type"] for event in events)
    assert kinds["view"] > 3 * kinds["cart"] > 3 * kinds["purchase"] / 2 > 0
    assert [event["event_id"] for event in events] == list(range(len(events)))
    times = [event["timestamp"] for event in events]
    assert times == sorted(times)
    assert (times[-1] - times[0]).days > 300
    assert {event["item_id"] for event in events} <= set(products)
    assert all(event["price"] == products[event["item_id"]]["price"] for event in events)
    seen: set[tuple[str, str]] = set()
    for event in events:  # nobody puts in the cart what they did not look at, or buys what is not in it
        key = event["session_id"], event["item_id"]
        assert event["event_type"] == "view" or key in seen
        seen.add(key)
    counts = sorted(Counter(event["item_id"] for event in events).values(), reverse=True)
    assert sum(counts[: N // 10]) > 0.25 * len(events)
    assert all(products[event["item_id"]]["stock"] > 0 for event in events if event["event_type"] == "purchase")


def test_taste_can_be_learned(shop: Path) -> None:
    """What a user looked at in the first half of a year tells more about the second half than what is popular."""
    products = {row["id"]: row["category"] for row in pq.read_table(shop / "products.parquet").to_pylist()}
    events = [event for event in pq.read_table(shop / "events.parquet").to_pylist() if event["event_type"] == "view"]
    half = len(events) // 2
    own: dict[str, Counter[str]] = {}
    for event in events[:half]:
        own.setdefault(event["user_id"], Counter())[products[event["item_id"]]] += 1
    favourite = Counter(products[event["item_id"]] for event in events[:half]).most_common(1)[0][0]
    later = [event for event in events[half:] if event["user_id"] in own]
    by_taste = sum(products[e["item_id"]] == own[e["user_id"]].most_common(1)[0][0] for e in later) / len(later)
    by_popularity = sum(products[e["item_id"]] == favourite for e in later) / len(later)
    assert by_taste > 1.5 * by_popularity


def test_wrong_arguments(shop: Path, tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="n_products is 0; expected at least 1"):
        write_sample_shop(tmp_path / "x", n_products=0)
    with pytest.raises(AlreadyExists, match="is not empty; expected a new folder"):
        write_sample_shop(shop)
