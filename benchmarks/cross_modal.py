"""How well texts find pictures and pictures find texts of products that nothing was learned from: heads against what is simpler.

Five folds of products: whitening, heads and baselines learn from four and are asked about the fifth, all of whose pictures and
texts are candidates. Products that share a picture are in one fold. An answer is right where its product has an equal text.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import harness
import numpy as np
from numpy.typing import NDArray
from picture_quality import features
from sklearn.linear_model import LogisticRegression, Ridge

from embeddings import Content, EmbeddingCache, ImageEncoder, TextEncoder, embed
from embeddings.joint_heads import Pairs, fit_heads
from index_builder.catalog.catalog import open_catalog
from index_builder.cross_modal import CrossModal, measure, unaligned

N_FOLDS = 5
Space = tuple[NDArray[np.float32], NDArray[np.float32]]  # texts and pictures, of unit norm


def unit(rows: NDArray[np.floating]) -> NDArray[np.float32]:
    """Return rows at unit norm."""
    norms = np.linalg.norm(rows, axis=1, keepdims=True)
    return np.ascontiguousarray(rows / np.where(norms == 0, 1, norms), np.float32)


def by_class(learned: Pairs, held: Pairs, classes: NDArray[np.str_], seed: int) -> Space:
    """Both sides told apart by the catalogue's categories: how likely each is, from text and from picture."""
    del seed
    models = (
        LogisticRegression(C=10, max_iter=300).fit(learned.texts, classes),
        LogisticRegression(C=10, max_iter=300).fit(learned.pictures, classes[learned.of]),
    )
    return unit(models[0].predict_proba(held.texts)), unit(models[1].predict_proba(held.pictures))


def by_regression(learned: Pairs, held: Pairs, classes: NDArray[np.str_], seed: int) -> Space:
    """Vectors of texts as they are, those of pictures regressed onto them."""
    del classes, seed
    mean = learned.texts[learned.of].mean(axis=0)
    model = Ridge(alpha=10).fit(learned.pictures, unit(learned.texts - mean)[learned.of])
    return unit(held.texts - mean), unit(model.predict(held.pictures))


def by_heads(learned: Pairs, held: Pairs, classes: NDArray[np.str_], seed: int) -> Space:
    """What `likewise build --joint` makes."""
    del classes
    heads = fit_heads(learned, seed=seed)
    return heads.texts(held.texts), heads.pictures(held.pictures)


SPACES: dict[str, Callable[[Pairs, Pairs, NDArray[np.str_], int], Space]] = {
    "class labels": by_class,
    "regression": by_regression,
    "heads": by_heads,
}


def folds_of(owners: list[int], pictures: list[bytes], n: int) -> NDArray[np.int64]:
    """Return a fold for each of n products, the same for those that share a picture."""
    joined = list(range(n))

    def root(at: int) -> int:
        while joined[at] != at:
            at = joined[at]
        return at

    first: dict[bytes, int] = {}
    for owner, digest in zip(owners, pictures, strict=True):
        joined[root(owner)] = root(first.setdefault(digest, owner))
    folds = np.random.default_rng(0).integers(0, N_FOLDS, n)
    return folds[[root(at) for at in range(n)]]


def mean_of(parts: list[CrossModal]) -> dict[str, Any]:
    """Return the shares of all folds together."""
    told: dict[str, Any] = {"texts": sum(p.n_texts for p in parts), "pictures": sum(p.n_pictures for p in parts)}
    for name in asdict(parts[0]):
        if name.startswith(("text_to", "picture_to")):
            counts = [p.n_texts if name.startswith("text_to") else p.n_pictures for p in parts]
            told[name] = round(float(np.average([getattr(p, name) for p in parts], weights=counts)), 4)
    return told


def main() -> None:
    """Measure and write results/cross_modal.json."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--cache", type=Path, default=None, help="embedding cache to use between runs")
    options = parser.parse_args()
    directory = harness.data_dir() / "products_images"
    catalog = open_catalog(directory / "products.parquet", images_dir=directory)
    products = [product for batch in catalog for product in batch.products if product.text and product.pictures]
    listed = [(at, directory / path) for at, product in enumerate(products) for path in product.pictures]
    of, files = np.array([at for at, _ in listed]), [file for _, file in listed]
    cache = EmbeddingCache(options.cache) if options.cache else None
    image = ImageEncoder(n_threads=options.threads)
    raw = features(image, files, cache)
    (told,) = embed(
        [[Content(product.text) for product in products]], TextEncoder(n_threads=options.threads), cache=cache
    )
    digests = [Content(image=file.read_bytes()).digest() for file in files]
    folds = folds_of(of.tolist(), digests, len(products))
    _, same = np.unique([product.text for product in products], return_inverse=True)
    classes = np.array([product.category or "none" for product in products])
    shares_text = np.bincount(same)[same] > 1
    slices = {"all": np.ones(len(products), bool), "texts_of_several": shares_text, "texts_of_one": ~shares_text}
    found: dict[str, dict[str, list[CrossModal]]] = {}
    for fold in range(N_FOLDS):
        is_held = folds == fold
        whitened = image.fit(raw[~is_held[of]])
        pairs = Pairs(told.vectors, same, whitened.project(raw), of)
        learned, held = pairs.part(~is_held), pairs.part(is_held)
        for name, asks in slices.items():
            found.setdefault("unaligned", {}).setdefault(name, []).append(unaligned(held, asking=asks[is_held]))
        for method, make in SPACES.items():
            texts, pictures = make(learned, held, classes[~is_held], fold)
            for name, asks in slices.items():
                part = measure(texts, pictures, held, asking=asks[is_held])
                found.setdefault(method, {}).setdefault(name, []).append(part)
        print(f"fold {fold + 1} of {N_FOLDS}", flush=True)
    harness.write(
        "cross_modal",
        {
            "products": len(products),
            "pictures": len(files),
            "different_texts": len(np.unique(same)),
            "folds": N_FOLDS,
            "spaces": {
                method: {name: mean_of(parts) for name, parts in told.items()} for method, told in found.items()
            },
        },
    )
    image.close()


if __name__ == "__main__":
    main()
