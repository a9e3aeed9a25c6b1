"""Trained sources as they are kept and asked: models in the store, and candidates of a history under a bitmap."""

from matching.recommend.blend import Blended, blend
from matching.recommend.item_rows import ItemRows
from matching.recommend.model import Asked, Candidates, Model, ModelItems, ModelManifest
from matching.recommend.model_store import ModelStore

__all__ = [
    "Asked",
    "Blended",
    "Candidates",
    "ItemRows",
    "Model",
    "ModelItems",
    "ModelManifest",
    "ModelStore",
    "blend",
]
