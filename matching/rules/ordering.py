"""Rules that move items: by their score, to a slot, by how many of a kind there may be, by how alike they are."""

from __future__ import annotations

from dataclasses import dataclass

from matching.rules.selection import Selection


@dataclass(frozen=True, slots=True)
class Weigh:
    """The score of what is selected is multiplied by a factor: a boost above 1, a bury below; 0 is behind all others."""

    selection: Selection
    factor: float


@dataclass(frozen=True, slots=True)
class Pin:
    """An item has a slot, 1 for the first, where it may be shown and the slate is that long."""

    item: str
    slot: int


@dataclass(frozen=True, slots=True)
class Cap:
    """At most so many items share a token of a namespace; of an item with several the first in their order counts.

    Attributes:
        is_strict: rather leave places empty; otherwise the cap gives way where nothing else is left to show.
    """

    namespace: str
    most: int
    is_strict: bool = False


@dataclass(frozen=True, slots=True)
class Diversity:
    """Maximal marginal relevance: each next item is chosen for its score and for being unlike those before.

    Attributes:
        relevance: weight of the score, 0.05 to 1; the rest is the weight of being unlike.
        space: of the vectors that tell what is alike; None for the one that suits.
    """

    relevance: float
    space: str | None = None


Ordering = Weigh | Pin | Cap | Diversity
