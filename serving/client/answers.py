"""What a service answers, typed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from matching.datapoint import Datapoint, NumericRestrict, NumericType, Restrict

_NUMBERS: dict[str, NumericType] = {"valueInt": "int64", "valueFloat": "float32", "valueDouble": "float64"}


@dataclass(frozen=True, slots=True)
class FoundItem:
    """One neighbor; a smaller distance is nearer.

    Attributes:
        datapoint: what is known of it; its id alone where the route tells no more.
        vector: of it, where it was asked for.
    """

    item_id: str
    distance: float
    datapoint: Datapoint
    vector: tuple[float, ...] | None = None
    sparse_distance: float | None = None


@dataclass(frozen=True, slots=True)
class Neighbors:
    """The answer to one query, nearest first.

    Attributes:
        query_id: the item that asked, "" for none.
        plan: how it was found: exact, graph, ivf or table.
        n_matching: datapoints that pass the filter.
        is_degraded: a shard could not be read.
    """

    query_id: str
    items: tuple[FoundItem, ...]
    space: str
    plan: str
    n_matching: int
    index_version: str
    variant: str
    is_degraded: bool

    @property
    def ids(self) -> tuple[str, ...]:
        """The ids, nearest first."""
        return tuple(item.item_id for item in self.items)

    @classmethod
    def of_json(cls, result: Mapping[str, Any], answer: Mapping[str, Any]) -> Neighbors:
        """Read a result of an answer."""
        return cls(
            result.get("id", ""),
            tuple(_found(each) for each in result["neighbors"]),
            result["space"],
            result["plan"],
            result["nMatching"],
            answer["indexVersion"],
            answer["variant"],
            answer["degraded"],
        )


@dataclass(frozen=True, slots=True)
class RecommendedItem:
    """One place of a slate; the score is 0 where the place was filled up."""

    item_id: str
    score: float
    sources: tuple[str, ...]
    reason: str
    because: str
    rules: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Recommended:
    """A slate.

    Attributes:
        recommendation_id: for events that speak of it.
        models: by source.
        rules_version: the rules that were applied, "" for none.
        next_page_token: of the page after this one, "" where there is none.
        told: the whole answer, as JSON.
    """

    items: tuple[RecommendedItem, ...]
    recommendation_id: str
    index_version: str
    variant: str
    models: Mapping[str, str]
    n_matching: int
    is_degraded: bool
    rules_version: str = ""
    next_page_token: str = ""
    told: Mapping[str, Any] = field(default_factory=dict, repr=False, compare=False)

    @property
    def ids(self) -> tuple[str, ...]:
        """The ids, best first."""
        return tuple(item.item_id for item in self.items)

    @classmethod
    def of_json(cls, told: Mapping[str, Any]) -> Recommended:
        """Read an answer."""
        items = [
            RecommendedItem(
                each["itemId"],
                each["score"],
                tuple(each["sources"]),
                each["reason"],
                each["because"],
                tuple(each.get("rules", ())),
            )
            for each in told["items"]
        ]
        return cls(
            tuple(items),
            told["recommendationId"],
            told["indexVersion"],
            told["variant"],
            told["models"],
            told["nMatching"],
            told["degraded"],
            told.get("rulesVersion", ""),
            told.get("nextPageToken", ""),
            told,
        )


@dataclass(frozen=True, slots=True)
class EventOutcome:
    """What became of one event; a reason and a message where it was rejected."""

    event_id: str
    status: Literal["accepted", "duplicate", "rejected"]
    reason: str = ""
    message: str = ""

    @classmethod
    def of_json(cls, told: Mapping[str, Any]) -> EventOutcome:
        """Read an outcome."""
        return cls(told["eventId"], told["status"], told.get("reason") or "", told.get("message") or "")


@dataclass(frozen=True, slots=True)
class WriteDone:
    """A write that is on disk; a request with its token as `min_version` sees it."""

    version_token: int
    is_repeat: bool
    index_version: str

    @classmethod
    def of_json(cls, told: Mapping[str, Any]) -> WriteDone:
        """Read an answer."""
        return cls(int(told["versionToken"]), told["isRepeat"], told["indexVersion"])


@dataclass(frozen=True, slots=True)
class ServedVersion:
    """What is served; `dims` is the length of the vectors of each space."""

    version_id: str
    created_at: str
    n_datapoints: int
    version_token: int
    dims: Mapping[str, int]

    @classmethod
    def of_json(cls, told: Mapping[str, Any]) -> ServedVersion:
        """Read an answer."""
        dims = {space["name"]: space["dim"] for space in told["spaces"]}
        return cls(told["versionId"], told["createdAt"], told["nDatapoints"], int(told["versionToken"]), dims)


def datapoint_of(told: Mapping[str, Any]) -> Datapoint:
    """Read a datapoint."""
    restricts = [
        Restrict(each["namespace"], tuple(each.get("allowList", ())), tuple(each.get("denyList", ())))
        for each in told.get("restricts", ())
    ]
    tag = told.get("crowdingTag")
    return Datapoint(
        told["datapointId"],
        tuple(restricts),
        tuple(_number(each) for each in told.get("numericRestricts", ())),
        None if tag is None else tag["crowdingAttribute"],
        told.get("embeddingMetadata", {}),
    )


def _number(told: Mapping[str, Any]) -> NumericRestrict:
    key = next(key for key in _NUMBERS if key in told)
    value = int(told[key]) if key == "valueInt" else float(told[key])
    return NumericRestrict(told["namespace"], value, _NUMBERS[key])


def _found(told: Mapping[str, Any]) -> FoundItem:
    datapoint = told["datapoint"]
    vector = datapoint.get("featureVector")
    return FoundItem(
        datapoint["datapointId"],
        told["distance"],
        datapoint_of(datapoint),
        None if vector is None else tuple(vector),
        told.get("sparseDistance"),
    )
