"""What users and visits did lately, in a Redis that replicas share: whoever sees an event first brings it there, once."""

from __future__ import annotations

import secrets
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, Final, TypeVar

import numpy as np
import orjson
import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from matching.errors import InvalidInput, Unavailable
from matching.events import Event, Stretch
from matching.user_keys import user_digest, visit_digest
from serving.user_state import CODES, UNDONE, Recent, recent_of

_SCRIPT: Final = (Path(__file__).parent / "users_in_redis.lua").read_text()
_AT_ONCE: Final = 500  # events that one call brings: Redis answers nobody else meanwhile
_PAUSE_S: Final = 1.0  # without asking a Redis that has failed
_FOLLOW_TIMEOUT_S: Final = 5.0
_DIGITS: Final = 30
_Told = TypeVar("_Told")


class UsersInRedis:
    """A `UserState` in Redis. Thread-safe, and several processes may have it open.

    One user is a string of JSON that ends by itself after `ttl_s`. Beside it stands up to which sequence the log is known; both
    change together, so a Redis that lost its newest writes, or all of them, is brought level from the log. An epoch in the
    names of the keys sets apart what was known before everything was forgotten.
    """

    is_remote: Final = True

    def __init__(
        self,
        url: str,
        *,
        name: str,
        max_acts: int,
        ttl_s: int,
        timeout_s: float,
        user: str | None = None,
        password: str | None = None,
    ) -> None:
        """Name a Redis; it is asked when it is needed.

        Args:
            url: `redis://host:port/database` or `rediss://...`.
            name: of the log whose users these are, before all keys.
            max_acts: remembered of one user.
            ttl_s: seconds after which one is forgotten of whom nothing is told.
            timeout_s: for what a request asks.
            user: who asks, where that is not `default`.
            password: of who asks.

        Raises:
            InvalidInput: the address is wrong.
        """
        self._log_key = f"likewise:{name}"
        self._max_acts = max_acts
        self._ttl_s = ttl_s
        self._epoch = ""
        self._lost_until = 0.0
        self._why = ""

        def connected(limit_s: float) -> redis.Redis:
            return redis.Redis.from_url(
                url,
                username=user,
                password=password,
                socket_timeout=limit_s,
                socket_connect_timeout=limit_s,
                retry=Retry(NoBackoff(), 1, supported_errors=(redis.ConnectionError,)),  # a connection that lay idle
            )

        try:
            self._asking, self._telling = connected(timeout_s), connected(_FOLLOW_TIMEOUT_S)
        except ValueError as error:
            raise InvalidInput(f"[users] {url}: {error}; expected redis://host:port/database; correct it") from error
        self._script = self._telling.register_script(_SCRIPT)
        self._following = threading.Lock()

    @property
    def sequence(self) -> int:
        """See `UserState`."""
        return int(self._asked(lambda: self._telling.hget(self._log_key, "sequence")) or 0)

    def follow(self, stretch: Stretch) -> int:
        """See `UserState`."""
        after, known = stretch.after, stretch.after
        parts = [stretch.events[at : at + _AT_ONCE] for at in range(0, len(stretch.events), _AT_ONCE)] or [()]
        with self._following:
            for part in parts:
                is_last = part is parts[-1]
                until = stretch.until if is_last else part[-1][0]
                erased = [digest[:_DIGITS] for digest in stretch.erased] if is_last else []
                known = self._told(after, until, part, erased)
                if known < until:
                    break
                after = until
        return known

    def clear(self) -> None:
        """See `UserState`; what is left under the epoch before ends by itself."""
        self._asked(lambda: self._telling.delete(self._log_key))

    def recent(self, user: str, session: str) -> Recent:
        """See `UserState`."""
        owners = [digest[:_DIGITS] for digest in _digests(user, session) if digest]
        found = self._asked(lambda: self._read(owners))
        acts = [act for text in found if text for act in _in_threes(orjson.loads(text))]
        if len(owners) > 1:
            acts.sort(key=lambda act: act[0])
        at_s, codes = (np.array([act[part] for act in acts], np.int64) for part in (0, 1))
        return recent_of([act[2] for act in acts], at_s, codes)

    def close(self) -> None:
        """See `UserState`."""
        self._asking.close()
        self._telling.close()

    def _read(self, owners: Sequence[str]) -> list[bytes | None]:
        for _ in range(2):  # a second time where the epoch is another than before
            pipe = self._asking.pipeline(transaction=False)
            pipe.hget(self._log_key, "epoch")
            for owner in owners:
                pipe.get(f"{self._log_key}:{self._epoch}:{owner}")
            epoch, *found = pipe.execute()
            now = (epoch or b"").decode()
            if now == self._epoch:
                return found
            self._epoch = now
        return [None] * len(owners)

    def _told(self, after: int, until: int, events: Iterable[tuple[int, Event]], erased: list[str]) -> int:
        told = orjson.dumps([_told_event(sequence, event, self._max_acts) for sequence, event in events])
        arguments: list[int | str | bytes] = [
            after,
            until,
            self._max_acts,
            self._ttl_s,
            secrets.token_hex(4),
            told,
            orjson.dumps(erased),
        ]
        return int(self._asked(lambda: self._script(keys=[self._log_key], args=arguments)))

    def _asked(self, ask: Callable[[], _Told]) -> _Told:
        if time.monotonic() < self._lost_until:
            raise Unavailable(f"[users] Redis does not answer: {self._why}; it is asked again in a moment")
        try:
            return ask()
        except redis.RedisError as error:
            self._why = type(error).__name__
            self._lost_until = time.monotonic() + _PAUSE_S
            raise Unavailable(f"[users] Redis does not answer: {self._why}; see that it runs") from error


def _digests(user: str, session: str) -> tuple[str, str]:
    return user_digest(user) if user else "", visit_digest(session) if session else ""


def _told_event(sequence: int, event: Event, max_acts: int) -> list[Any]:
    user, visit = _digests(event.user, event.session)
    undone, code = UNDONE.get(event.event_type, -1), CODES.get(event.event_type, -1)
    items = [item.item_id for item in event.items]
    at_s = min(max(event.at_ms // 1000, 0), 2**32 - 1)
    return [sequence, user[:_DIGITS], visit[:_DIGITS], undone, code, at_s, items if undone >= 0 else items[-max_acts:]]


def _in_threes(flat: list[Any]) -> Iterable[tuple[Any, ...]]:
    return zip(flat[::3], flat[1::3], flat[2::3], strict=True)
