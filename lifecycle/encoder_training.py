"""`likewise train sasrec` and `two-tower`: an encoder of histories from events, and from the features of a catalogue."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Final

import numpy as np

from embeddings.histories.training import train
from embeddings.settings import HistoryTrainingSettings
from index_builder.catalog.catalog import Product, open_catalog
from lifecycle.settings import Settings
from lifecycle.terminal import ProgressBar
from matching.interactions import Interactions
from matching.recommend.model import ModelManifest
from matching.recommend.model_store import ModelStore

_WORD: Final = re.compile(r"\w+")


def encoder_settings(settings: Settings) -> dict[str, HistoryTrainingSettings]:
    """Return how each encoder is trained, by source."""
    return {"sasrec": settings.sasrec, "two-tower": settings.two_tower}


def train_encoder(
    store: ModelStore,
    source: str,
    interactions: Interactions,
    settings: HistoryTrainingSettings,
    *,
    now_ms: int,
    catalog: Path | None,
    checkpoints: Path,
) -> ModelManifest:
    """Train and seal an encoder with its progress on stderr; after a kill the same command goes on where it was.

    Raises:
        MissingExtra: what training needs is not installed.
        InvalidInput: there is nothing to learn from, or no such device.
        InvalidCatalog: the catalogue cannot be read.
    """
    features: list[Sequence[str]] | None = None
    if catalog is not None:
        by_id = {
            product.product_id: features_of(product) for batch in open_catalog(catalog) for product in batch.products
        }
        interactions = with_items(interactions, by_id)
        features = [by_id.get(item_id, ()) for item_id in interactions.item_ids]
    with ProgressBar() as bar:
        stages: list[str] = []

        def tell(stage: str, done: int, total: int, note: str) -> None:
            if stages[-1:] != [stage]:
                stages.append(stage)
                bar.begin(f"{source}: {stage}", total)
            bar.advance(done, note)

        return train(
            store,
            source,
            interactions,
            settings,
            now_ms=now_ms,
            features=features,
            checkpoints=checkpoints,
            tell=tell,
        )


def features_of(product: Product) -> list[str]:
    """Return what a product has in common with others: words of its title, category, brand and a band of its price."""
    found = [f"word {word.casefold()}" for word in _WORD.findall(product.title or "")]
    found += [f"category {name}" for name in {*product.category_path, product.category} if name]
    if product.brand:
        found.append(f"brand {product.brand}")
    if product.price:
        found.append(f"price {math.floor(2 * math.log2(product.price))}")
    return found


def with_items(interactions: Interactions, item_ids: Iterable[str]) -> Interactions:
    """Return the same interactions that know further items, of which nothing was done."""
    every = sorted({*interactions.item_ids, *item_ids})
    place = {item_id: row for row, item_id in enumerate(every)}
    new = np.array([place[item_id] for item_id in interactions.item_ids], np.int32)
    return replace(interactions, item_ids=tuple(every), items=new[interactions.items])
