"""The use case of recommendations: from who asks on which page to a slate, over one immutable snapshot a request."""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol

from matching.errors import InvalidQuery, LimitExceeded, Unavailable
from matching.rules import Rulebook
from serving.query import Route
from serving.recommender import Recommender, check_filter, check_k
from serving.served_models import ServedModels
from serving.served_rules import ServedRules
from serving.settings import RecommendSettings, ServingSettings
from serving.slate import CONTENT, Filled, Place, RuleEffect, SlateQuery, fill
from serving.user_state import NOTHING, Recent, UserState

MAX_NAME_CHARS = 1000


@dataclass(frozen=True, slots=True)
class Slate:
    """An answer.

    Attributes:
        recommendation_id: for events that speak of it.
        models: the model of each source that was asked.
        n_matching: items that pass the filter and the rules of what may be shown, and are not excluded.
        rules_id: the rule set that was applied, "" for none.
        rules: what those that held did.
        is_degraded: a source or what keeps the users could not be asked, or an older model or rule set answers.
    """

    recommendation_id: str
    version_id: str
    variant: str
    models: Mapping[str, str]
    places: tuple[Place, ...]
    n_matching: int
    rules_id: str
    rules: tuple[RuleEffect, ...]
    is_degraded: bool


class HistoryObserver(Protocol):
    """Is told of recommendations without what is known of who asked; a service counts them."""

    def lost_history(self) -> None: ...


class Recommendations:
    """Slates for a shop's pages. Belongs to one event loop."""

    def __init__(
        self,
        recommender: Recommender,
        models: ServedModels,
        state: UserState,
        *,
        rules: ServedRules,
        settings: RecommendSettings,
        limits: ServingSettings,
        user_key: Callable[[str], str] = str,
        observer: HistoryObserver,
    ) -> None:
        """Answer from what the recommender serves.

        Args:
            user_key: the key under which the state knows a shop's user.
            observer: counts.
        """
        self._recommender = recommender
        self._models = models
        self._state = state
        self._rules = rules
        self._settings = settings
        self._limits = limits
        self._user_key = user_key
        self._observer = observer
        self._following: asyncio.Task[None] | None = None

    def follow(self) -> None:
        """Ask the newest champion of each source, and apply the newest rules, from now on."""
        self._following = asyncio.create_task(self._follow(), name="models")

    async def close(self) -> None:
        """Follow no more."""
        if self._following is not None:
            self._following.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._following

    async def recommend(self, query: SlateQuery, *, deadline: float, route: Route) -> Slate:
        """Fill a slate: min(k, matches) places, whatever is known of who asks.

        Raises:
            InvalidQuery: no such surface, or the filter contradicts the version.
            LimitExceeded: too many places or ids, or a name is too long.
            DeadlineExceeded: the time ran out.
            NotFound: no such endpoint, or the variant's rules are not there.
        """
        self._check(query)
        weights = weights_of(self._settings, query.surface)
        snapshot = self._recommender.resolve(route)
        models, refusals = self._models.models, self._models.refusals
        recent, is_known = await self._recent(query)
        now_ms = int(time.time() * 1000)

        def work() -> tuple[Rulebook, Filled]:
            rulebook = self._rules.book(str(snapshot.knobs.get("rules", "")))
            return rulebook, fill(
                snapshot.version,
                query,
                recent,
                models,
                lambda items: self._models.rows(items, snapshot),
                weights,
                now_ms=now_ms,
                content_space=self._settings.content_space,
                rulebook=rulebook,
            )

        rulebook, filled = await self._recommender.in_thread(work, deadline)
        return Slate(
            secrets.token_hex(8),
            snapshot.version.version_id,
            snapshot.variant,
            {source: model.model_id for source, model in models.items()},
            filled.places,
            filled.n_matching,
            rulebook.rules.rules_id,
            filled.rules,
            bool(filled.lost or refusals or self._rules.refusals or snapshot.version.lost or not is_known),
        )

    async def _recent(self, query: SlateQuery) -> tuple[Recent, bool]:
        """What is known of who asks, and whether what keeps it answered."""
        asked = self._user_key(query.user), query.session
        try:
            if self._state.is_remote:
                return await asyncio.to_thread(self._state.recent, *asked), True
            return self._state.recent(*asked), True
        except Unavailable:
            self._observer.lost_history()
            return NOTHING, False

    def _weights(self, surface: str) -> Mapping[str, float]:
        weights: Mapping[str, float] = self._settings.sources or {CONTENT: 1.0}
        if not surface:
            return weights
        named = self._settings.surfaces.get(surface)
        if named is None:
            raise InvalidQuery(
                f"[recommend] surface {surface[:100]!r} is not configured; expected one of "
                f"{', '.join(self._settings.surfaces) or 'none'}; leave it out or set recommend.surfaces"
            )
        return named

    def _check(self, query: SlateQuery) -> None:
        check_k(query.k, self._limits.max_k, "[recommend] k")
        check_filter(query.filter, self._limits.max_restricts, self._limits.max_tokens)
        n_ids = len(query.items) + len(query.basket) + len(query.exclude)
        if n_ids > self._limits.max_ids:
            raise LimitExceeded(
                f"[recommend] {n_ids:,} items, basket and exclude together; at most {self._limits.max_ids:,}; send fewer"
            )
        for name in (query.user, query.session):
            if len(name) > MAX_NAME_CHARS:
                raise LimitExceeded(
                    f"[recommend] user or session has {len(name):,} characters; at most {MAX_NAME_CHARS:,}; send a shorter one"
                )

    async def _follow(self) -> None:
        while True:
            await asyncio.sleep(self._limits.follow_s)
            await asyncio.to_thread(self._models.look)
            await asyncio.to_thread(self._rules.look)


def weights_of(settings: RecommendSettings, surface: str) -> Mapping[str, float]:
    """Return the weights of a surface, of those for all where it is "".

    Raises:
        InvalidQuery: no such surface is configured.
    """
    weights: Mapping[str, float] = settings.sources or {CONTENT: 1.0}
    if not surface:
        return weights
    named = settings.surfaces.get(surface)
    if named is None:
        raise InvalidQuery(
            f"[recommend] surface {surface[:100]!r} is not configured; expected one of "
            f"{', '.join(settings.surfaces) or 'none'}; leave it out or set recommend.surfaces"
        )
    return named
