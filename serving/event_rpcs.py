"""The RPC by which a shop tells what people did."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from google.protobuf.message import Message

from matching.events import EventItem
from serving.auth import Access
from serving.endpoint_rpcs import Work
from serving.event_intake import EventIntake, ToldEvent
from serving.event_routes import taking
from serving.request_log import RequestRecord
from serving.wire import likewise_pb2 as pb

SERVICE: Final = "likewise.v1.EventService"
ACCESS: Final[dict[str, Access]] = {f"/{SERVICE}/WriteEvents": "write"}
_STATUS: Final = {
    "accepted": pb.WriteEventsResponse.ACCEPTED,
    "duplicate": pb.WriteEventsResponse.DUPLICATE,
    "rejected": pb.WriteEventsResponse.REJECTED,
}


class EventRpcs:
    """A method over the intake of a service. Belongs to one event loop."""

    def __init__(self, intake: EventIntake | None) -> None:
        self._intake = intake

    def methods(self) -> Mapping[str, tuple[type[Any], Work]]:
        """Return message type and work of each method."""
        return {"WriteEvents": (pb.WriteEventsRequest, self._write)}

    async def _write(self, request: pb.WriteEventsRequest, record: RequestRecord, deadline: float) -> Message:
        record.endpoint, record.q = "write_events", len(request.events)
        results = await taking(self._intake).take([_told(each) for each in request.events], deadline=deadline)
        return pb.WriteEventsResponse(
            results=[
                pb.WriteEventsResponse.Result(
                    event_id=each.event_id, status=_STATUS[each.status], reason=each.reason, message=each.message
                )
                for each in results
            ]
        )


def _told(event: pb.Event) -> ToldEvent:
    return ToldEvent(
        event.event_id,
        event.event_type,
        event.user_id,
        event.session_id,
        tuple(map(_item, event.items)),
        event.at_ms if event.HasField("at_ms") else None,
        event.query,
        event.recommendation_id,
    )


def _item(item: pb.Event.Item) -> EventItem:
    return EventItem(
        item.item_id,
        item.quantity if item.HasField("quantity") else 1,
        item.value if item.HasField("value") else None,
        item.position if item.HasField("position") else None,
        item.propensity if item.HasField("propensity") else None,
    )
