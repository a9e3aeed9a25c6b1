"""The RPCs by which endpoints are looked at and changed."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Final

from google.protobuf.message import Message

from matching.store import AliasMove
from serving.auth import Access
from serving.deployment import Deployment
from serving.endpoint import Knob, Variant
from serving.recommender import Recommender
from serving.request_log import RequestRecord
from serving.wire import likewise_pb2 as pb

Work = Callable[[Any, RequestRecord, float], Awaitable[Message]]
SERVICE: Final = "likewise.v1.EndpointService"
ACCESS: Final[dict[str, Access]] = {
    f"/{SERVICE}/ListEndpoints": "admin",
    f"/{SERVICE}/GetEndpoint": "admin",
    f"/{SERVICE}/SetTraffic": "admin",
    f"/{SERVICE}/Promote": "admin",
    f"/{SERVICE}/Rollback": "admin",
}


class EndpointRpcs:
    """Methods over the deployments of one recommender. Belongs to one event loop."""

    def __init__(self, recommender: Recommender) -> None:
        self._recommender = recommender

    def methods(self) -> Mapping[str, tuple[type[Any], Work]]:
        """Return message type and work of each method."""
        return {
            "ListEndpoints": (pb.ListEndpointsRequest, self._list),
            "GetEndpoint": (pb.GetEndpointRequest, self._get),
            "SetTraffic": (pb.SetTrafficRequest, self._set_traffic),
            "Promote": (pb.PromoteRequest, self._promote),
            "Rollback": (pb.RollbackRequest, self._rollback),
        }

    async def _list(self, request: pb.ListEndpointsRequest, record: RequestRecord, deadline: float) -> Message:
        record.endpoint = "list_endpoints"
        return pb.ListEndpointsResponse(endpoints=[_message(each) for each in self._recommender.deployments])

    async def _get(self, request: pb.GetEndpointRequest, record: RequestRecord, deadline: float) -> Message:
        record.endpoint = "get_endpoint"
        return _message(self._recommender.deployment(request.name))

    async def _set_traffic(self, request: pb.SetTrafficRequest, record: RequestRecord, deadline: float) -> Message:
        record.endpoint = "set_traffic"
        deployment = self._recommender.deployment(request.name)
        variants = [
            deployment.endpoint.arm(
                each.name,
                weight=each.weight,
                mirror=each.mirror,
                index=each.index if each.HasField("index") else None,
                knobs=_knobs(each.knobs) if each.HasField("knobs") else None,
            )
            for each in request.variants
        ]
        await deployment.set_traffic(
            variants,
            why=request.why or "by API",
            by=record.who or "api",
            coverage=request.coverage if request.HasField("coverage") else None,
            control=request.control if request.HasField("control") else None,
        )
        return _message(deployment)

    async def _promote(self, request: pb.PromoteRequest, record: RequestRecord, deadline: float) -> Message:
        record.endpoint = "promote"
        move = await self._recommender.deployment(request.name).promote(
            request.version, why=request.why or "by API", by=record.who or "api", variant=request.variant
        )
        record.index_version = move.new
        return _move(move)

    async def _rollback(self, request: pb.RollbackRequest, record: RequestRecord, deadline: float) -> Message:
        record.endpoint = "rollback"
        move = await self._recommender.deployment(request.name).rollback(
            why=request.why or "roll back by API", by=record.who or "api", variant=request.variant
        )
        record.index_version = move.new
        return _move(move)


def _knobs(knobs: pb.Variant.Knobs) -> dict[str, Knob]:
    return {field.name: value for field, value in knobs.ListFields()}


def _message(deployment: Deployment) -> pb.Endpoint:
    endpoint, versions = deployment.endpoint, deployment.versions
    return pb.Endpoint(
        name=endpoint.name,
        variants=[_variant(each, versions[each.name], endpoint.name) for each in endpoint.variants],
        control=endpoint.control,
        coverage=endpoint.coverage,
        generation=endpoint.generation,
        refused=deployment.refusals,
    )


def _variant(variant: Variant, version_id: str, endpoint: str) -> pb.Variant:
    knobs: dict[str, Any] = dict(variant.knobs)
    return pb.Variant(
        name=variant.name,
        weight=variant.weight,
        mirror=variant.mirror,
        index=variant.index or endpoint,
        knobs=pb.Variant.Knobs(**knobs) if knobs else None,
        index_version=version_id,
    )


def _move(move: AliasMove) -> pb.AliasMove:
    return pb.AliasMove(at=move.at, by=move.by, old_version=move.old or "", new_version=move.new, why=move.why)
