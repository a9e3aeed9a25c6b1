"""Sources of candidates: from a history to scores of items."""

from matching.profile import Profile
from matching.sources.buy_again import BuyAgain
from matching.sources.ials import Ials
from matching.sources.item_table import ItemTable, fit_ease, fit_item_knn, fit_sequential_rules
from matching.sources.new_arrivals import NewArrivals
from matching.sources.popular import Popular
from matching.sources.session_knn import SessionKnn
from matching.sources.source import NO_CANDIDATE, Source
from matching.sources.trending import Trending

__all__ = [
    "NO_CANDIDATE",
    "BuyAgain",
    "Ials",
    "ItemTable",
    "NewArrivals",
    "Popular",
    "Profile",
    "SessionKnn",
    "Source",
    "Trending",
    "fit_ease",
    "fit_item_knn",
    "fit_sequential_rules",
]
