"""Google's own client, pointed at a service of ours."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import grpc
from google.auth.credentials import AnonymousCredentials
from google.cloud import aiplatform_v1, aiplatform_v1beta1

from matching.datapoint import Datapoint, Filter
from tests.services import Service

PARENT = "projects/shop/locations/us-central1"
_MODULES: dict[str, Any] = {"v1": aiplatform_v1, "v1beta1": aiplatform_v1beta1}
WAYS = [(version, transport) for version in _MODULES for transport in ("grpc", "rest")]
_FIELDS = {"int64": "value_int", "float32": "value_float", "float64": "value_double"}


@dataclass
class Google:
    """The three generated clients of one API version, over one transport."""

    version: str
    transport: str
    types: Any
    match: Any
    index: Any
    endpoint: Any

    def query(self, datapoint: Any, wanted: Filter | None = None, **options: Any) -> Any:
        """Return a query of this API version."""
        point = {**self.filter(wanted or Filter()), **datapoint}
        return self.types.FindNeighborsRequest.Query(datapoint=point, **options)

    def filter(self, wanted: Filter) -> dict[str, Any]:
        """Return the restricts of a datapoint that ask for what passes a filter."""
        return {
            "restricts": [
                {"namespace": one.namespace, "allow_list": one.allow, "deny_list": one.deny} for one in wanted.restricts
            ],
            "numeric_restricts": [
                {"namespace": one.namespace, _FIELDS[one.type]: one.value, "op": one.op}
                for one in wanted.numeric_restricts
            ],
        }

    def datapoint(self, datapoint: Datapoint, vector: Any) -> Any:
        """Return a datapoint to put in."""
        held = self.filter(Filter(datapoint.restricts, datapoint.numeric_restricts))
        for number in held["numeric_restricts"]:
            del number["op"]
        tag = {} if datapoint.crowding_tag is None else {"crowding_tag": {"crowding_attribute": datapoint.crowding_tag}}
        return self.types.IndexDatapoint(
            datapoint_id=datapoint.datapoint_id,
            feature_vector=vector,
            embedding_metadata=dict(datapoint.metadata),
            **held,
            **tag,
        )


def open_google(service: Service, version: str, transport: str, channel: grpc.Channel) -> Google:
    """Return clients of a service that asks for no credentials."""
    module = _MODULES[version]

    def client(name: str) -> Any:
        kind = getattr(module, name)
        if transport == "grpc":
            return kind(transport=kind.get_transport_class("grpc")(channel=channel))
        return kind(transport="rest", credentials=AnonymousCredentials(), client_options={"api_endpoint": service.http})

    return Google(
        version,
        transport,
        module.types,
        client("MatchServiceClient"),
        client("IndexServiceClient"),
        client("IndexEndpointServiceClient"),
    )
