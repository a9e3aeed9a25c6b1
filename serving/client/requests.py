"""What a service is asked, as HTTP has it: a call is a method, a path, a body and how to read the answer."""

from __future__ import annotations

import urllib.parse
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, TypedDict, TypeVar

from matching.datapoint import Datapoint, Filter, NumericRestrict
from matching.events import EventItem
from serving.client.answers import (
    EventOutcome,
    Neighbors,
    Recommended,
    ServedVersion,
    WriteDone,
    datapoint_of,
)

T = TypeVar("T")
_FIELDS = {"int64": "valueInt", "float32": "valueFloat", "float64": "valueDouble"}


class NeighborKnobs(TypedDict, total=False):
    """How neighbors are searched; `full` asks for all that is known of them."""

    space: str
    filter: Filter
    crowding_cap: int
    exact: bool
    recall_target: float | None
    full: bool
    min_version: int


class SearchKnobs(TypedDict, total=False):
    """How a text is searched."""

    space: str
    filter: Filter
    crowding_cap: int
    exact: bool


class SlateKnobs(TypedDict, total=False):
    """What a page tells of itself and of who looks, and what it wants."""

    user_id: str
    session_id: str
    items: Sequence[str]
    basket: Sequence[str]
    surface: str
    k: int
    filter: Filter
    exclude: Sequence[str]
    exclude_seen: bool
    exclude_bought: bool
    depth: int
    page_token: str


def new_id() -> str:
    """Return an id that nobody else has."""
    return uuid.uuid4().hex


@dataclass(frozen=True, slots=True)
class Call(Generic[T]):
    """One call; asked again with the same body it does the same thing once."""

    method: str
    path: str
    body: Mapping[str, Any] | None
    read: Callable[[Mapping[str, Any]], T]


@dataclass(frozen=True, slots=True)
class ShopEvent:
    """What one person did once.

    Attributes:
        event_type: view, click, add_to_cart, purchase, wishlist, remove, return, search, impression, or another.
        user_id: the shop's own id; this or `session_id` is needed.
        items: ids, or items with quantity, value, position and propensity.
        at_ms: when, milliseconds since 1970; None for when it arrives.
        event_id: the same when it is told again; made where it is left out.
    """

    event_type: str
    user_id: str = ""
    session_id: str = ""
    items: Sequence[str | EventItem] = ()
    at_ms: int | None = None
    query: str = ""
    recommendation_id: str = ""
    event_id: str = field(default_factory=new_id)

    def as_json(self) -> dict[str, Any]:
        """Return it as the service reads it."""
        items = [_item(EventItem(each) if isinstance(each, str) else each) for each in self.items]
        told: dict[str, Any] = {"eventId": self.event_id, "eventType": self.event_type, "items": items}
        named = {"userId": self.user_id, "sessionId": self.session_id, "atMs": self.at_ms}
        named |= {"query": self.query, "recommendationId": self.recommendation_id}
        return told | {name: value for name, value in named.items() if value not in ("", None)}


@dataclass(frozen=True, slots=True)
class ItemWrite:
    """A datapoint to put in.

    Attributes:
        vector: of the only space.
        vectors: of several spaces, by name.
        text: in place of vectors: the encoders of the service make them of it.
    """

    datapoint: Datapoint
    vector: Sequence[float] | None = None
    vectors: Mapping[str, Sequence[float]] = field(default_factory=dict)
    text: str = ""

    def as_json(self) -> dict[str, Any]:
        """Return it as the service reads it."""
        point = self.datapoint
        told: dict[str, Any] = {"datapointId": point.datapoint_id, **filter_json(_filter_of(point))}
        if point.crowding_tag is not None:
            told["crowdingTag"] = {"crowdingAttribute": point.crowding_tag}
        if point.metadata:
            told["embeddingMetadata"] = dict(point.metadata)
        if self.vector is not None:
            told["featureVector"] = list(self.vector)
        if self.vectors:
            told["featureVectors"] = {name: {"values": list(values)} for name, values in self.vectors.items()}
        if self.text:
            told["content"] = {"text": self.text}
        return told


def filter_json(wanted: Filter) -> dict[str, Any]:
    """Return the two lists of a filter."""
    told: dict[str, Any] = {}
    if wanted.restricts:
        told["restricts"] = [
            {"namespace": each.namespace, "allowList": list(each.allow), "denyList": list(each.deny)}
            for each in wanted.restricts
        ]
    if wanted.numeric_restricts:
        told["numericRestricts"] = [_number(each) for each in wanted.numeric_restricts]
    return told


def find_neighbors(
    queries: Sequence[str | Sequence[float]],
    k: int,
    *,
    space: str = "",
    filter: Filter = Filter(),
    crowding_cap: int = 0,
    exact: bool = False,
    recall_target: float | None = None,
    full: bool = False,
    min_version: int = 0,
) -> Call[tuple[Neighbors, ...]]:
    """Neighbors of items by id, or of vectors: one result a query."""
    knobs: dict[str, Any] = {"neighborCount": k}
    given = {
        "space": space,
        "perCrowdingAttributeNeighborCount": crowding_cap,
        "exact": exact,
        "recallTarget": recall_target,
    }
    knobs |= {name: value for name, value in given.items() if value}
    asked = []
    for query in queries:
        point = {"datapointId": query} if isinstance(query, str) else {"featureVector": [float(each) for each in query]}
        asked.append({"datapoint": point | filter_json(filter), **knobs})
    body: dict[str, Any] = {"queries": asked}
    if full:
        body["returnFullDatapoint"] = True
    if min_version:
        body["minVersion"] = min_version
    return Call("POST", "/v1/findNeighbors", body, _results)


def search(
    text: str, k: int, *, space: str = "", filter: Filter = Filter(), crowding_cap: int = 0, exact: bool = False
) -> Call[Neighbors]:
    """Neighbors of a text, with what is known of them."""
    body: dict[str, Any] = {"text": text, "k": k, **filter_json(filter)}
    body |= {
        name: value for name, value in {"space": space, "crowdingCap": crowding_cap, "exact": exact}.items() if value
    }
    return Call("POST", "/v1/search", body, lambda told: Neighbors.of_json(told, told))


def recommend(
    *,
    user_id: str = "",
    session_id: str = "",
    items: Sequence[str] = (),
    basket: Sequence[str] = (),
    surface: str = "",
    k: int = 10,
    filter: Filter = Filter(),
    exclude: Sequence[str] = (),
    exclude_seen: bool = False,
    exclude_bought: bool = False,
    depth: int = 0,
    page_token: str = "",
) -> Call[Recommended]:
    """A slate for a page of a shop; with a depth the first of its pages, with a token the next one."""
    given = {
        "userId": user_id,
        "sessionId": session_id,
        "items": list(items),
        "basket": list(basket),
        "surface": surface,
        "exclude": list(exclude),
        "excludeSeen": exclude_seen,
        "excludeBought": exclude_bought,
        "depth": depth,
        "pageToken": page_token,
    }
    body = {"k": k, **filter_json(filter), **{name: value for name, value in given.items() if value}}
    return Call("POST", "/v1/recommend", body, Recommended.of_json)


def tell(events: Sequence[ShopEvent]) -> Call[tuple[EventOutcome, ...]]:
    """Events, each kept once by its id."""
    body = {"events": [event.as_json() for event in events]}
    return Call("POST", "/v1/events", body, lambda told: tuple(map(EventOutcome.of_json, told["results"])))


def upsert(writes: Sequence[ItemWrite], request_id: str | None) -> Call[WriteDone]:
    """Datapoints put in, all or none."""
    body = {"datapoints": [write.as_json() for write in writes], "requestId": request_id or new_id()}
    return Call("POST", "/v1/upsertDatapoints", body, WriteDone.of_json)


def remove(ids: Sequence[str], request_id: str | None) -> Call[WriteDone]:
    """Datapoints deleted; they need not be there."""
    body = {"datapointIds": list(ids), "requestId": request_id or new_id()}
    return Call("POST", "/v1/removeDatapoints", body, WriteDone.of_json)


def read(ids: Sequence[str], min_version: int) -> Call[tuple[Datapoint, ...]]:
    """Datapoints by id, in the order asked."""
    body: dict[str, Any] = {"ids": list(ids)} | ({"minVersion": min_version} if min_version else {})
    return Call("POST", "/v1/readIndexDatapoints", body, lambda told: tuple(map(datapoint_of, told["datapoints"])))


def similar(item_id: str, k: int) -> Call[Neighbors]:
    """Neighbors of an item, with what is known of them."""
    path = f"/v1/items/{urllib.parse.quote(item_id, safe='')}/similar?k={k}"
    return Call("GET", path, None, lambda told: Neighbors.of_json(told, told))


def version() -> Call[ServedVersion]:
    """What is served."""
    return Call("GET", "/v1/versions/current", None, ServedVersion.of_json)


def _results(told: Mapping[str, Any]) -> tuple[Neighbors, ...]:
    return tuple(Neighbors.of_json(each, told) for each in told["nearestNeighbors"])


def _filter_of(point: Datapoint) -> Filter:
    return Filter(point.restricts, point.numeric_restricts)


def _number(number: NumericRestrict) -> dict[str, Any]:
    value = str(number.value) if number.type == "int64" else number.value
    told: dict[str, Any] = {"namespace": number.namespace, _FIELDS[number.type]: value}
    return told if number.op is None else told | {"op": number.op}


def _item(item: EventItem) -> dict[str, Any]:
    given = {"itemId": item.item_id, "quantity": item.quantity, "value": item.value}
    given |= {"position": item.position, "propensity": item.propensity}
    return {name: value for name, value in given.items() if value is not None}
