"""Events as JSON, and what became of them. Each event is read alone: one that cannot be read leaves the others alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import orjson
from pydantic import Field, ValidationError

from matching.errors import InvalidQuery
from matching.events import EventItem
from serving.event_intake import EventResult, Malformed, ToldEvent
from serving.wire.endpoint_json import Shape


class EventItemShape(Shape):
    """An item of an event."""

    item_id: str
    quantity: float = 1
    value: float | None = Field(default=None, description="of all of them together, in the shop's currency")
    position: int | None = Field(default=None, description="in the list that was shown, 0 first")
    propensity: float | None = Field(default=None, description="with which it was shown there")


class EventShape(Shape):
    """What one person did once."""

    event_id: str = Field(description="the same when the event is sent again")
    event_type: str = Field(
        description="view, click, add_to_cart, purchase, wishlist, remove, return, search, impression, or another"
    )
    user_id: str = Field(default="", description="kept as a keyed hash alone")
    session_id: str = Field(default="", description="this or userId is needed")
    items: list[EventItemShape] = Field(default_factory=list)
    at_ms: int | None = Field(default=None, description="milliseconds since 1970; now where it is left out")
    query: str = ""
    recommendation_id: str = ""


class WriteEventsRequest(Shape):
    """Events, a batch."""

    events: list[EventShape]


class EventResultShape(Shape):
    """What became of an event."""

    event_id: str
    status: Literal["accepted", "duplicate", "rejected"]
    reason: str | None = Field(default=None, description="invalid, future, late, bot, unknown_item")
    message: str | None = None


class WriteEventsResponse(Shape):
    """What became of the events, in their order."""

    results: list[EventResultShape]


def parse_events(body: Mapping[str, Any]) -> list[ToldEvent | Malformed]:
    """Return the events of a body.

    Raises:
        InvalidQuery: it holds no list of them.
    """
    events = body.get("events")
    if not isinstance(events, list) or len(body) != 1:
        raise InvalidQuery('[request] the body is not {"events": [...]}; expected that and nothing else; correct it')
    return [_parsed(each) for each in events]


def results_body(results: Sequence[EventResult]) -> bytes:
    """Return the JSON of what became of events."""
    return orjson.dumps({"results": [_result(each) for each in results]})


def example(item_id: str) -> dict[str, Any]:
    """Return a request that this service accepts."""
    view = {
        "eventId": "visit-7/1",
        "eventType": "view",
        "sessionId": "visit-7",
        "items": [{"itemId": item_id or "item"}],
    }
    bought = {"itemId": item_id or "item", "quantity": 2, "value": 39.8}
    return {"events": [view, {**view, "eventId": "visit-7/2", "eventType": "purchase", "items": [bought]}]}


def _parsed(event: Any) -> ToldEvent | Malformed:
    try:
        shape = EventShape.model_validate(event)
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False, include_input=False)[0]
        where = ".".join(str(part) for part in first["loc"]) or "the event"
        event_id = event.get("eventId", event.get("event_id", "")) if isinstance(event, dict) else ""
        return Malformed(event_id[:256] if isinstance(event_id, str) else "", f"{where[:100]}: {first['msg']}")
    items = tuple(
        EventItem(each.item_id, each.quantity, each.value, each.position, each.propensity) for each in shape.items
    )
    return ToldEvent(
        shape.event_id,
        shape.event_type,
        shape.user_id,
        shape.session_id,
        items,
        shape.at_ms,
        shape.query,
        shape.recommendation_id,
    )


def _result(result: EventResult) -> dict[str, str]:
    told = {"eventId": result.event_id, "status": result.status}
    return told | {"reason": result.reason, "message": result.message} if result.reason else told
