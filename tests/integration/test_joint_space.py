"""A joint space: built, sealed, served, written to; learned, or by a CLIP-type model."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("onnxruntime")
pytest.importorskip("torch", reason="the models are exported with torch")

from embeddings import Content, load_encoder
from index_builder.catalog.catalog import open_catalog
from index_builder.sample.shop import write_sample_shop
from matching.store import Store
from tests.commands import likewise
from tests.models import save_tiny_clip, save_tiny_text_model
from tests.services import Service, Shop, Start


@pytest.fixture(scope="module")
def catalog(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_sample_shop(tmp_path_factory.mktemp("drawn"), n_products=160, seed=3)


@pytest.fixture(scope="module")
def products(catalog: Path) -> list[Any]:
    """Products with a text and pictures."""
    read = open_catalog(catalog, images_dir=catalog.parent)
    return [each for batch in read for each in batch.products if each.text and each.pictures]


@pytest.fixture(scope="module")
def shop(catalog: Path, tmp_path_factory: pytest.TempPathFactory) -> Shop:
    """A drawn shop with a joint space that was learned on it."""
    store = tmp_path_factory.mktemp("joint") / "store"
    made = ("--catalog", catalog, "--images", catalog.parent, "--plan", "flat")
    likewise("build", *made, "--joint", "--store", store, "--name", "shop")
    return Shop(store, "shop", catalog.parent)


@pytest.fixture(scope="module")
def service(shop: Shop, start_service: Start, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    with start_service(shop, write_log=str(tmp_path_factory.mktemp("log"))) as running:
        running.wait_until_ready()
        yield running


def test_the_version_says_how_well_texts_and_pictures_find_each_other(shop: Shop) -> None:
    manifest = Store(shop.store).manifest("shop")
    joint = next(space for space in manifest.spaces if space.name == "joint")
    told = manifest.source["joint"]
    assert isinstance(told, dict)
    assert told["n_texts"] >= 20
    assert 0 < told["text_to_picture_at_1"] <= told["text_to_picture_at_10"] <= 1
    assert (joint.modality, joint.best_of, joint.is_grouped, joint.dim) == ("joint", 1, True, 384)
    assert joint.n_vectors > joint.n_datapoints
    assert joint.space_id not in {space.space_id for space in manifest.spaces if space.name != "joint"}


def test_an_item_owns_a_vector_of_its_text_and_one_of_each_picture(shop: Shop, products: list[Any]) -> None:
    version = Store(shop.store).open("shop")
    spec = version.spaces["joint"].encoder
    assert spec is not None
    encoder = load_encoder(spec, n_workers=1)
    try:
        assert encoder.space_id == version.spaces["joint"].space_id
        for product in products[:3]:
            pictures = [(catalog_of(shop) / path).read_bytes() for path in product.pictures]
            expected = encoder.encode([Content(product.text), *(Content(image=each) for each in pictures)])
            (held,) = version.vectors([product.product_id], "joint")
            np.testing.assert_allclose(held, expected, atol=2e-3)
    finally:
        encoder.close()


def test_a_text_finds_an_item_by_its_picture_and_a_picture_one_by_its_text(
    service: Service, shop: Shop, products: list[Any]
) -> None:
    """Over HTTP, of items that were written while the service ran."""
    product = products[0]
    picture = (catalog_of(shop) / product.pictures[0]).read_bytes()
    shown = {"text": "quetzalcoatlus", "image": base64.b64encode(picture).decode()}
    token = write(service, {"told": {"text": product.text}, "shown": shown})["versionToken"]
    held = read(service, ["told", "shown"], token)
    assert {name: len(vectors) for name, vectors in held.items()} == {"told": 1, "shown": 2}
    (built,) = Store(shop.store).open("shop").vectors([product.product_id], "joint")
    np.testing.assert_allclose(held["told"][0], built[0], atol=2e-3)
    np.testing.assert_allclose(held["shown"][1], built[1], atol=2e-3)

    by_text, by_picture = ask(service, "joint", product.text), ask(service, "joint", picture)
    assert {"told", product.product_id} == set(by_text[:2])
    assert {"shown", product.product_id} == set(by_picture[:2])
    assert by_text.index("shown") < 40 < ask(service, "text", product.text).index("shown")
    assert by_picture.index("told") < 40


def test_a_clip_type_model_takes_the_place_of_heads(catalog: Path, tmp_path: Path) -> None:
    model = save_tiny_clip(tmp_path / "clip")
    made = ("--catalog", catalog, "--images", catalog.parent, "--plan", "flat", "--store", tmp_path / "store")
    likewise("build", *made, "--joint-model", model, "--name", "shop")
    version = Store(tmp_path / "store").open("shop")
    space = version.spaces["joint"]
    assert (space.dim, space.modality, space.entry.best_of) == (16, "joint", 1)
    assert {name: each.dim for name, each in version.spaces.items()} == {
        "text": 384,
        "image": 1280,
        "fused": 1664,
        "joint": 16,
    }
    assert space.encoder is not None
    assert space.encoder.kind == "sentence-transformers"
    assert space.n_vectors == version.spaces["text"].n_vectors + version.spaces["image"].n_vectors
    assert "joint" not in version.manifest.source


def test_what_cannot_make_a_joint_space_is_refused_and_nothing_is_published(catalog: Path, tmp_path: Path) -> None:
    made = ("--catalog", catalog, "--plan", "flat", "--store", tmp_path / "store", "--name", "shop", "--joint")
    assert "texts and 0 pictures; expected both; give --images" in likewise("build", *made, status=2)
    texts = save_tiny_text_model(tmp_path / "texts" / "tiny")
    told = likewise("build", *made, "--images", catalog.parent, "--joint-model", texts, status=2)
    assert "the joint model reads text; expected texts and pictures" in told
    few = write_sample_shop(tmp_path / "few", n_products=40, seed=3)
    made = ("--catalog", few, "--images", few.parent, *made[2:])
    assert "have text and picture; expected 100 or more" in likewise("build", *made, status=2)
    assert Store(tmp_path / "store").versions() == ()
    vectors = ("build", "--vectors", tmp_path / "v.npy", "--store", tmp_path / "store", "--name", "shop", "--joint")
    assert "--joint takes texts and pictures; expected --catalog" in likewise(*vectors, status=2)


def catalog_of(shop: Shop) -> Path:
    assert shop.images is not None
    return shop.images


def write(service: Service, contents: dict[str, dict[str, str]]) -> Any:
    points = [{"datapointId": name, "content": content} for name, content in contents.items()]
    status, _, told = service.ask("POST", "/v1/upsertDatapoints", {"datapoints": points})
    assert status == 200, told
    return told


def read(service: Service, ids: list[str], token: str) -> dict[str, np.ndarray]:
    body = {"ids": ids, "space": "joint", "minVersion": token}
    status, _, told = service.ask("POST", "/v1/readIndexDatapoints", body)
    assert status == 200, told
    return {
        one["datapointId"]: np.array(one["featureVector"], np.float32).reshape(-1, 384) for one in told["datapoints"]
    }


def ask(service: Service, space: str, asked: str | bytes) -> list[str]:
    if isinstance(asked, str):
        status, _, told = service.ask("POST", "/v1/search", {"text": asked, "space": space, "k": 170})
    else:
        status, _, told = service.ask("POST", f"/v1/search/image?space={space}&k=170", asked)
    assert status == 200, told
    assert told["space"] == space
    return [one["datapoint"]["datapointId"] for one in told["neighbors"]]
