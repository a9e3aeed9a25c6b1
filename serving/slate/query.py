"""What a shop's page asks."""

from __future__ import annotations

from dataclasses import dataclass, field

from matching.datapoint import Filter
from serving.user_state import Recent


@dataclass(frozen=True, slots=True)
class SlateQuery:
    """What a shop's page asks.

    Attributes:
        user: the shop's own id of who looks; "" where nobody knows.
        session: the visit.
        items: what the page shows, the most important last.
        basket: what lies in it.
        surface: whose weights are taken; "" those for all.
        k: how many places.
        filter: what the items must pass.
        exclude: ids that are not wanted.
        exclude_seen: nothing that the user did anything with, as far as that is remembered.
        exclude_bought: nothing that they bought.
        depth: places of all pages together, where the slate is asked for by pages of k; 0 for one page alone.
        page_token: of the page before.
        only: ids that are to be ranked, and nothing else; none for the whole catalogue.
    """

    user: str = ""
    session: str = ""
    items: tuple[str, ...] = ()
    basket: tuple[str, ...] = ()
    surface: str = ""
    k: int = 10
    filter: Filter = field(default_factory=Filter)
    exclude: tuple[str, ...] = ()
    exclude_seen: bool = False
    exclude_bought: bool = False
    depth: int = 0
    page_token: str = ""
    only: tuple[str, ...] = ()

    @property
    def context(self) -> tuple[str, ...]:
        """The items of the request, the most important last; they never come back."""
        return (*self.basket, *self.items)

    def left_out(self, recent: Recent) -> list[str]:
        """Return the ids that are not to be shown, given what the user and the visit did."""
        seen = recent.items if self.exclude_seen else ()
        is_bought = recent.is_bought.tolist() if self.exclude_bought else ()
        bought = [item for item, is_so in zip(recent.items, is_bought) if is_so]
        return list({*self.context, *self.exclude, *seen, *bought})
