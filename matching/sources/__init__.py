"""Sources of candidates: from a history to scores of items."""

from matching.profile import Profile
from matching.sources.ials import Ials
from matching.sources.item_table import ItemTable, fit_ease, fit_item_knn, fit_sequential_rules
from matching.sources.popular import Popular
from matching.sources.source import NO_CANDIDATE, Source
from matching.sources.trending import Trending

__all__ = [
    "NO_CANDIDATE",
    "Ials",
    "ItemTable",
    "Popular",
    "Profile",
    "Source",
    "Trending",
    "fit_ease",
    "fit_item_knn",
    "fit_sequential_rules",
]
