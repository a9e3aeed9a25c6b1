"""The use case of recommendations: from who asks on which page to a slate, over one immutable snapshot a request."""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Protocol, TypeVar

from matching.errors import InvalidInput, InvalidQuery, LikewiseError, LimitExceeded, Unavailable
from matching.recommend import Model
from serving.deployment import Snapshot
from serving.override import parse_override_keys
from serving.page_token import PageToken, as_of, digest_of, digest_of_items, digest_of_models, read_page
from serving.query import Route
from serving.recommender import Recommender, check_filter, check_k
from serving.served_models import ServedModels
from serving.served_rules import ServedRules
from serving.settings import RecommendSettings, ServingSettings
from serving.slate import CONTENT, Explanation, Filled, Filling, LeftOut, Place, RuleEffect, SlateQuery, explain
from serving.user_state import NOTHING, Recent, UserState

T = TypeVar("T")
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
        next_page_token: of the page after this one, "" where this is the last or there are no pages.
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
    next_page_token: str = ""


class HistoryObserver(Protocol):
    """Is told of recommendations without what is known of who asked; a service counts them."""

    def lost_history(self) -> None: ...


def unsigned(item_ids: Sequence[str], user_id: str, session: str) -> str:
    """Return an id that vouches for nothing."""
    return secrets.token_hex(8)


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
        sign: Callable[[Sequence[str], str, str], str] = unsigned,
        observer: HistoryObserver,
    ) -> None:
        """Answer from what the recommender serves.

        Args:
            user_key: the key under which the state knows a shop's user.
            sign: makes the id of a slate, of its items, the shop's user and the visit.
            observer: counts.
        """
        self._recommender = recommender
        self._models = models
        self._state = state
        self._rules = rules
        self._settings = settings
        self._limits = limits
        self._user_key = user_key
        self._sign = sign
        self._observer = observer
        file = settings.page_key_file
        self._page_keys = (secrets.token_bytes(32),) if file is None else parse_override_keys(file.read_bytes())
        self._following: asyncio.Task[None] | None = None

    @property
    def surfaces(self) -> Mapping[str, Mapping[str, float]]:
        """The weights of each surface that may be named; under "" those of requests that name none."""
        return {"": weights_of(self._settings, ""), **self._settings.surfaces}

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
            NotFound: no such endpoint, the variant's rules are not there, or the slate of a page token can no longer be made.
        """
        if query.page_token or query.depth:
            return await self._page(query, deadline, route)
        asked = await self._asked(query, route)
        return await self._recommender.in_thread(lambda: asked.slate(asked.run().told()), deadline)

    async def recommend_all(
        self, queries: Sequence[SlateQuery | InvalidInput], *, deadline: float, route: Route
    ) -> tuple[Slate | LikewiseError, ...]:
        """Fill a slate for each of several queries; one that cannot be answered leaves the others alone.

        Raises:
            LimitExceeded: too many queries.
            InvalidQuery: none.
        """
        if not queries:
            raise InvalidQuery("[recommend] the batch has no requests; expected at least one; add one to `requests`")
        if len(queries) > self._limits.max_queries:
            raise LimitExceeded(
                f"[recommend] {len(queries)} requests in one batch; at most {self._limits.max_queries}; split it"
            )

        async def one(query: SlateQuery | InvalidInput) -> Slate | LikewiseError:
            if isinstance(query, InvalidInput):
                return query
            try:
                return await self.recommend(query, deadline=deadline, route=route)
            except LikewiseError as error:
                return error

        return tuple(await asyncio.gather(*map(one, queries)))

    async def explain(
        self, query: SlateQuery, item_id: str, *, deadline: float, route: Route
    ) -> tuple[Slate, Explanation]:
        """Tell why an item has a place in the slate of a query, or why it has none; with the slate.

        Raises:
            InvalidQuery: as `recommend`, or no item is named.
            LimitExceeded, DeadlineExceeded, NotFound: as `recommend`.
        """
        if not item_id:
            raise InvalidQuery("[explain] the request names no item; expected an id; add itemId")
        asked = await self._asked(query, route)

        def work() -> tuple[Slate, Explanation]:
            filling = asked.run()
            filled = filling.told()
            return asked.slate(filled), explain(filling, filled, asked.recent, item_id)

        return await self._recommender.in_thread(work, deadline)

    async def rank(
        self, query: SlateQuery, item_ids: Sequence[str], *, deadline: float, route: Route
    ) -> tuple[Slate, Mapping[str, LeftOut]]:
        """Put given items in order, by the blend and the rules; those that nothing speaks for keep the caller's order.

        Returns:
            The items with a place, and why each of the others has none.

        Raises:
            InvalidQuery: as `recommend`, or no items are given.
            LimitExceeded: as `recommend`, or too many items are given.
            DeadlineExceeded, NotFound: as `recommend`.
        """
        if not item_ids:
            raise InvalidQuery("[rank] the request has no items to rank; expected at least one; add some to itemIds")
        if len(item_ids) > min(self._limits.max_ids, self._limits.max_k):
            most = min(self._limits.max_ids, self._limits.max_k)
            raise LimitExceeded(f"[rank] {len(item_ids):,} items; at most {most:,}; send fewer")
        only = tuple(dict.fromkeys(item_ids))
        asked = await self._asked(replace(query, only=only, k=len(only)), route)

        def work() -> tuple[Slate, Mapping[str, LeftOut]]:
            filling = asked.run()
            filled = filling.told()
            placed = {place.item_id for place in filled.places}
            return asked.slate(filled), {item: filling.why_not(item) for item in only if item not in placed}

        return await self._recommender.in_thread(work, deadline)

    async def _page(self, query: SlateQuery, deadline: float, route: Route) -> Slate:
        """Make the whole slate, as it was for the first page, and return a page of it."""
        token = read_page(query.page_token, query, self._page_keys) if query.page_token else None
        depth = query.depth if token is None else token.depth
        check_k(query.k, self._limits.max_k, "[recommend] k")
        asked = await self._asked(replace(query, k=depth), route)
        if token is not None:
            asked.now_ms = token.at_ms
        asked.recent = as_of(asked.recent, asked.now_ms, None if token is None else token.n_acts)

        def work() -> Slate:
            slate = asked.slate(asked.run().told())
            offset = 0 if token is None else token.offset
            here = PageToken(
                slate.version_id,
                slate.rules_id,
                digest_of_models(slate.models),
                digest_of(query),
                depth,
                asked.now_ms,
                len(asked.recent.items),
                digest_of_items([place.item_id for place in slate.places]),
                offset + query.k,
            )
            if token is not None:
                token.check_same(here)
            is_more = here.offset < len(slate.places)
            shown = slate.places[offset : here.offset]
            return replace(
                slate,
                recommendation_id=asked.signed(shown),
                places=shown,
                next_page_token=here.signed(self._page_keys[0]) if is_more else "",
            )

        return await self._recommender.in_thread(work, deadline)

    async def _asked(self, query: SlateQuery, route: Route) -> _Asked:
        self._check(query)
        weights = weights_of(self._settings, query.surface)
        snapshot = self._recommender.resolve(route)
        recent, is_known = await self._recent(query)
        now_ms = int(time.time() * 1000)
        is_behind = bool(self._models.refusals or self._rules.refusals or not is_known)
        return _Asked(self, query, weights, snapshot, self._models.models, recent, now_ms, is_behind)

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


def read_each(read: Callable[[T], SlateQuery], told: T) -> SlateQuery | InvalidInput:
    """Return one query of a batch, or why it cannot be read."""
    try:
        return read(told)
    except InvalidInput as error:
        return error


@dataclass(slots=True)
class _Asked:
    """A query, and everything it is answered from; what takes long is done in a thread."""

    of: Recommendations
    query: SlateQuery
    weights: Mapping[str, float]
    snapshot: Snapshot
    models: Mapping[str, Model]
    recent: Recent
    now_ms: int
    is_behind: bool
    rules_id: str = ""

    def run(self) -> Filling:
        """Make the slate."""
        rulebook = self.of._rules.book(str(self.snapshot.knobs.get("rules", "")))
        self.rules_id = rulebook.rules.rules_id
        filling = Filling.of(
            self.snapshot.version,
            self.query,
            self.recent,
            self.models,
            lambda items: self.of._models.rows(items, self.snapshot),
            self.weights,
            now_ms=self.now_ms,
            content_space=self.of._settings.content_space,
            rulebook=rulebook,
        )
        filling.run()
        return filling

    def signed(self, places: Sequence[Place]) -> str:
        """Return the id of an answer that shows some places."""
        return self.of._sign([place.item_id for place in places], self.query.user, self.query.session)

    def slate(self, filled: Filled) -> Slate:
        """Return the answer."""
        version = self.snapshot.version
        return Slate(
            self.signed(filled.places),
            version.version_id,
            self.snapshot.variant,
            {source: model.model_id for source, model in self.models.items()},
            filled.places,
            filled.n_matching,
            self.rules_id,
            filled.rules,
            bool(filled.lost or self.is_behind or version.lost),
        )
