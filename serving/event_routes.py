"""The HTTP route by which a shop tells what people did."""

from __future__ import annotations

from typing import Final

from starlette.requests import Request
from starlette.responses import Response

from matching.errors import InvalidInput
from serving.auth import Access
from serving.event_intake import EventIntake
from serving.intake import DEADLINE, RECORD
from serving.request_log import RequestRecord
from serving.settings import ServingSettings
from serving.wire import event_json as wire
from serving.wire.vertex_json import parse_body

EVENTS: Final = "/v1/events"
ACCESS: Final[dict[str, Access]] = {f"POST {EVENTS}": "write"}


class EventRoutes:
    """A handler over the intake of a service. Belongs to one event loop."""

    def __init__(self, intake: EventIntake | None, *, settings: ServingSettings) -> None:
        self._intake = intake
        self._max_depth = settings.max_json_depth

    async def write(self, request: Request) -> Response:
        """Take events."""
        record: RequestRecord = request.scope[RECORD]
        record.endpoint = "write_events"
        told = wire.parse_events(parse_body(await request.body(), self._max_depth))
        record.q = len(told)
        results = await taking(self._intake).take(told, deadline=request.scope[DEADLINE])
        return Response(wire.results_body(results), media_type="application/json")


def taking(intake: EventIntake | None) -> EventIntake:
    """Return the intake of a service.

    Raises:
        InvalidInput: it has none.
    """
    if intake is None:
        raise InvalidInput("[events] this service takes no events; expected a log of them; start it with --events")
    return intake
