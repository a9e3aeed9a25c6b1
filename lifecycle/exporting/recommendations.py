"""The user-to-item table: the slate of every user, as a service would fill it."""

from __future__ import annotations

import functools
import hashlib
import threading
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final

import pyarrow as pa

from lifecycle.exporting.job import Job
from matching.errors import InvalidInput
from matching.recommend import ItemRows, Model, ModelItems
from matching.rules import Rulebook
from matching.version import IndexVersion
from serving.slate import Place, SlateQuery, fill
from serving.user_state import UserState

KIND: Final = "recommendations"
_FIELDS: Final[list[tuple[str, pa.DataType]]] = [
    ("user_id", pa.large_string()),
    ("rank", pa.int32()),
    ("item_id", pa.large_string()),
    ("score", pa.float64()),
    ("sources", pa.list_(pa.large_string())),
    ("reason", pa.large_string()),
    ("because", pa.large_string()),
    ("rules", pa.list_(pa.large_string())),
]
SCHEMA: Final = pa.schema(_FIELDS)


@dataclass(frozen=True, slots=True)
class SlateParts:
    """The slates of some users."""

    users: Sequence[str]
    slates: Sequence[Sequence[Place]]

    def table(self) -> pa.Table:
        """Return user_id, rank from 1 on, item_id, score, sources, reason, because and rules, a row a place."""
        places = [place for slate in self.slates for place in slate]
        counts = [len(slate) for slate in self.slates]
        columns = {
            "user_id": [user for user, n in zip(self.users, counts, strict=True) for _ in range(n)],
            "rank": [rank for n in counts for rank in range(1, n + 1)],
            "item_id": [place.item_id for place in places],
            "score": [place.score for place in places],
            "sources": [place.sources for place in places],
            "reason": [place.reason for place in places],
            "because": [place.because for place in places],
            "rules": [place.rules for place in places],
        }
        return pa.table(columns, schema=SCHEMA)


@dataclass(frozen=True, slots=True)
class Moment:
    """Of what time the answers are.

    Attributes:
        at_ms: what counts as now, milliseconds since 1970.
        sequence: the last event of the log that is known, 0 for none.
    """

    at_ms: int
    sequence: int

    @classmethod
    def of(cls, asked: Mapping[str, Any]) -> Moment:
        """Return that of a job."""
        return cls(asked["at_ms"], asked["sequence"])


class RecommendationExport:
    """Answers for users over a sealed version. Thread-safe."""

    def __init__(
        self,
        version: IndexVersion,
        models: Mapping[str, Model],
        weights: Mapping[str, float],
        query: SlateQuery,
        users: Sequence[tuple[str, str]],
        state: UserState,
        moment: Moment,
        *,
        content_space: str | None,
        rulebook: Rulebook,
    ) -> None:
        """Prepare.

        Args:
            query: what is asked for each user.
            users: as the table names them, and as the state knows them.
            content_space, rulebook: as in `fill`.

        Raises:
            InvalidInput: there are no users.
        """
        if not users:
            raise InvalidInput(
                "[export] there are no users; expected some; give --users, or --events with events of users"
            )
        self._version = version
        self._models = models
        self._weights = weights
        self._query = query
        self._users = users
        self._state = state
        self._moment = moment
        self._content_space = content_space
        self._rulebook = rulebook
        self._looking = threading.Lock()
        self._rows_of = functools.cache(lambda items: ItemRows.of(items, version.columns))

    def job(self, part_items: int, version_sha256: str) -> Job:
        """Return what is to be made, of the version whose manifest has that digest."""
        asked: dict[str, Any] = {
            "weights": dict(self._weights),
            "content_space": self._content_space,
            "rules": self._rulebook.rules.rules_id,
            **asdict(self._query),
            **asdict(self._moment),
        }
        digest = hashlib.sha256("\n".join(f"{shown}\t{key}" for shown, key in self._users).encode()).hexdigest()
        return Job(
            kind=KIND,
            version_id=self._version.version_id,
            version_sha256=version_sha256,
            models={source: model.model_id for source, model in self._models.items()},
            asked=asked,
            n_items=len(self._users),
            items_digest=digest,
            part_items=part_items,
        )

    def part(self, places: slice) -> SlateParts:
        """Answer for some of the users."""
        users = self._users[places]
        return SlateParts([shown for shown, _ in users], [self._slate(key) for _, key in users])

    def _slate(self, user: str) -> Sequence[Place]:
        return fill(
            self._version,
            self._query,
            self._state.recent(user, ""),
            self._models,
            self._rows,
            self._weights,
            now_ms=self._moment.at_ms,
            content_space=self._content_space,
            rulebook=self._rulebook,
        ).places

    def _rows(self, items: ModelItems) -> ItemRows:
        with self._looking:
            return self._rows_of(items)
