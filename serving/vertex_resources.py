"""Endpoints, variants and versions as the resources that clients of Vertex AI Vector Search get, list and deploy.

    projects/P/locations/L/indexEndpoints/NAME   the endpoint NAME, or the alias NAME where none is configured
    projects/P/locations/L/indexes/NAME          what it answers from: an alias or version id that a variant names
    a deployed index                             a variant; its id is the variant's name

Project and location are the caller's own business: whatever a request says of them, the answer says too.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime
from typing import Final, Literal, TypeVar

from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.message import Message
from google.protobuf.struct_pb2 import Value
from google.protobuf.timestamp_pb2 import Timestamp

from matching.datapoint import Metric
from matching.errors import AlreadyExists, InvalidInput, InvalidQuery, NotFound
from serving.deployment import Deployment
from serving.endpoint import Variant
from serving.query import Route
from serving.recommender import Recommender
from serving.wire import vertex_pb2 as vx

Collection = Literal["indexEndpoints", "indexes"]
T = TypeVar("T", vx.Index, vx.IndexEndpoint)
_DISTANCES: Final[dict[Metric, str]] = {
    "ip": "DOT_PRODUCT_DISTANCE",
    "cosine": "COSINE_DISTANCE",
    "l2": "SQUARED_L2_DISTANCE",
}
_MAX_PAGE: Final = 100
_FILTER: Final = re.compile(r'display_?[nN]ame\s*=\s*(?:"([^"]*)"|([\w.-]+))')


def split_name(name: str, collection: Collection) -> tuple[str, str]:
    """Return parent and last segment of a resource's name.

    Raises:
        InvalidQuery: it is no name of such a resource.
    """
    parent, _, last = name.rpartition("/")
    place, _, held = parent.rpartition("/")
    if held != collection or not last:
        raise InvalidQuery(
            f"[request] {name[:200]!r} names no resource of {collection}; expected projects/P/locations/L/{collection}/NAME"
        )
    return place, last


class VertexResources:
    """The resources of one service. Belongs to one event loop."""

    def __init__(self, recommender: Recommender, *, domain_name: str = "") -> None:
        """Tell of what a recommender serves; `domain_name` is where callers should find the match service."""
        self._recommender = recommender
        self.domain_name = domain_name

    def route(self, base: Route, index_endpoint: str, deployed_index_id: str) -> Route:
        """Return whom a request for an index endpoint is for.

        Raises:
            InvalidQuery: `index_endpoint` is no name.
        """
        endpoint = split_name(index_endpoint, "indexEndpoints")[1] if index_endpoint else base.endpoint
        return replace(base, endpoint=endpoint, variant=deployed_index_id)

    def write_route(self, base: Route, index: str) -> Route:
        """Return whom a write to an index is for: the endpoint of that name, else one with a variant that answers from it.

        Raises:
            InvalidQuery: `index` is no name.
            NotFound: nothing here answers from it.
        """
        return replace(base, endpoint=self._holder(split_name(index, "indexes")[1]).name) if index else base

    def get_index(self, name: str) -> vx.Index:
        """Return an index.

        Raises:
            InvalidQuery: `name` is no name.
            NotFound: nothing here answers from it.
        """
        parent, last = split_name(name, "indexes")
        return self._index(parent, last)

    def list_indexes(self, request: vx.ListRequest) -> vx.ListIndexesResponse:
        """Return the indexes that variants answer from.

        Raises:
            InvalidQuery: the filter or the page token is not one that is known.
        """
        held = {_index_of(deployment, variant) for deployment, variant in self._variants()}
        found, token = _page([self._index(request.parent, name) for name in sorted(held)], request)
        return vx.ListIndexesResponse(indexes=found, next_page_token=token)

    def get_endpoint(self, name: str) -> vx.IndexEndpoint:
        """Return an index endpoint.

        Raises:
            InvalidQuery: `name` is no name.
            NotFound: it is not served here.
        """
        parent, last = split_name(name, "indexEndpoints")
        return self._endpoint(parent, self._recommender.deployment(last))

    def list_endpoints(self, request: vx.ListRequest) -> vx.ListIndexEndpointsResponse:
        """Return the index endpoints.

        Raises:
            InvalidQuery: the filter or the page token is not one that is known.
        """
        told = [self._endpoint(request.parent, deployment) for deployment in self._recommender.deployments]
        found, token = _page(told, request)
        return vx.ListIndexEndpointsResponse(index_endpoints=found, next_page_token=token)

    async def deploy(self, request: vx.DeployIndexRequest, *, by: str) -> vx.DeployIndexResponse:
        """Add a variant that answers from an index, without traffic: only requests that name it reach it.

        Raises:
            InvalidQuery: a name is none.
            NotFound: there is no such endpoint, alias or version.
            AlreadyExists: the endpoint has such a variant.
            InvalidInput: the id is not fit for a variant's name.
            GateRefused: the version was refused, and nothing has changed.
        """
        deployment, parent = self._deployment(request.index_endpoint)
        asked = request.deployed_index
        _, index = split_name(asked.index, "indexes")
        variants = deployment.endpoint.variants
        if any(variant.name == asked.id for variant in variants):
            raise AlreadyExists(
                f"[deploy] endpoint {deployment.name!r} has a variant {asked.id!r}; expected a new id; choose another"
            )
        await deployment.set_traffic((*variants, Variant(asked.id, index=index)), why="deployIndex", by=by)
        return vx.DeployIndexResponse(deployed_index=self._deployed(parent, deployment, asked.id))

    async def undeploy(self, request: vx.UndeployIndexRequest, *, by: str) -> vx.UndeployIndexResponse:
        """Take a variant away that has no traffic.

        Raises:
            InvalidQuery: the endpoint's name is none.
            NotFound: there is no such endpoint or variant.
            InvalidInput: the variant has traffic, or is the control.
        """
        deployment, _ = self._deployment(request.index_endpoint)
        gone = deployment.endpoint.variant(request.deployed_index_id)
        if gone.weight or gone.name == deployment.endpoint.control:
            raise InvalidInput(
                f"[deploy] variant {gone.name!r} of endpoint {deployment.name!r} has {gone.weight:.2%} of the traffic"
                f"{' and is the control' if gone.name == deployment.endpoint.control else ''}; expected one that nobody needs; "
                "move its traffic to another first"
            )
        left = [variant for variant in deployment.endpoint.variants if variant.name != gone.name]
        await deployment.set_traffic(left, why="undeployIndex", by=by)
        return vx.UndeployIndexResponse()

    def mutate(self, request: vx.DeployIndexRequest) -> vx.DeployIndexResponse:
        """Return a variant as it is: what Vertex lets callers change, machines and replicas, is not ours to change.

        Raises:
            InvalidQuery: the endpoint's name is none.
            NotFound: there is no such endpoint or variant.
        """
        deployment, parent = self._deployment(request.index_endpoint)
        variant = deployment.endpoint.variant(request.deployed_index.id)
        return vx.DeployIndexResponse(deployed_index=self._deployed(parent, deployment, variant.name))

    def _deployment(self, name: str) -> tuple[Deployment, str]:
        parent, endpoint = split_name(name, "indexEndpoints")
        return self._recommender.deployment(endpoint), parent

    def _variants(self) -> list[tuple[Deployment, Variant]]:
        """Return the variants that answer; a shadow never does."""
        return [
            (deployment, variant)
            for deployment in self._recommender.deployments
            for variant in deployment.endpoint.variants
            if not variant.is_shadow
        ]

    def _holder(self, name: str) -> Deployment:
        for deployment in self._recommender.deployments:
            if deployment.name == name:
                return deployment
        for deployment, variant in self._variants():
            if _index_of(deployment, variant) == name:
                return deployment
        known = sorted({_index_of(deployment, variant) for deployment, variant in self._variants()})
        raise NotFound(f"[request] no index {name[:200]!r} is served here; expected one of {', '.join(known)}")

    def _index(self, parent: str, name: str) -> vx.Index:
        holder = self._holder(name)
        using = [(one, variant) for one, variant in self._variants() if _index_of(one, variant) == name]
        chosen = next((variant.name for one, variant in using if one is holder), "")
        version = self._recommender.version(Route(endpoint=holder.name, variant=chosen))
        space = version.spaces[0]
        metadata = Value()
        config = metadata.struct_value.get_or_create_struct("config")
        config.update({"dimensions": space.dim, "distanceMeasureType": _DISTANCES[space.metric]})  # type: ignore[index]
        born = _timestamp(version.created_at)
        return vx.Index(
            name=f"{parent}/indexes/{name}",
            display_name=name,
            description=f"index version {version.version_id}",
            metadata=metadata,
            deployed_indexes=[
                vx.DeployedIndexRef(
                    index_endpoint=f"{parent}/indexEndpoints/{one.name}",
                    deployed_index_id=variant.name,
                    display_name=variant.name,
                )
                for one, variant in using
            ],
            etag=version.version_id,
            create_time=born,
            update_time=born,
            index_stats=vx.IndexStats(vectors_count=space.n_vectors),
            index_update_method="STREAM_UPDATE" if holder.takes_writes else "BATCH_UPDATE",
        )

    def _endpoint(self, parent: str, deployment: Deployment) -> vx.IndexEndpoint:
        variants = [variant for variant in deployment.endpoint.variants if not variant.is_shadow]
        born = _timestamp(self._recommender.version(Route(endpoint=deployment.name)).created_at)
        return vx.IndexEndpoint(
            name=f"{parent}/indexEndpoints/{deployment.name}",
            display_name=deployment.name,
            deployed_indexes=[self._deployed(parent, deployment, variant.name) for variant in variants],
            etag=str(deployment.endpoint.generation),
            create_time=born,
            update_time=born,
            public_endpoint_enabled=True,
            public_endpoint_domain_name=self.domain_name,
        )

    def _deployed(self, parent: str, deployment: Deployment, name: str) -> vx.DeployedIndex:
        variant = deployment.endpoint.variant(name)
        born = _timestamp(self._recommender.version(Route(endpoint=deployment.name, variant=name)).created_at)
        return vx.DeployedIndex(
            id=name,
            index=f"{parent}/indexes/{_index_of(deployment, variant)}",
            display_name=name,
            create_time=born,
            private_endpoints=vx.IndexPrivateEndpoints(match_grpc_address=re.sub(r":\d+$", "", self.domain_name)),
            index_sync_time=born,
        )


def done_operation(parent: str, response: Message, type_name: str) -> vx.Operation:
    """Return an operation that has ended, with what it ended with as a message of Google's name for it."""
    packed = AnyMessage(type_url=f"type.googleapis.com/{type_name}", value=response.SerializeToString())
    return vx.Operation(name=f"{parent}/operations/{secrets.token_hex(8)}", done=True, response=packed)


def _index_of(deployment: Deployment, variant: Variant) -> str:
    return variant.index or deployment.name


def _timestamp(iso: str) -> Timestamp:
    moment = Timestamp()
    moment.FromDatetime(datetime.fromisoformat(iso))
    return moment


def _page(told: Sequence[T], request: vx.ListRequest) -> tuple[Sequence[T], str]:
    """Return the page that a request asks for, and the token of the next one."""
    if request.filter:
        wanted = _FILTER.fullmatch(request.filter.strip())
        if wanted is None:
            raise InvalidQuery(f'[request] filter is {request.filter[:200]!r}; expected display_name="NAME", or none')
        told = [one for one in told if one.display_name in wanted.groups()]
    if request.page_token and not re.fullmatch(r"\d{1,9}", request.page_token, re.ASCII):
        raise InvalidQuery(f"[request] page_token is {request.page_token[:200]!r}; expected one that an answer gave")
    start = int(request.page_token or 0)
    stop = start + min(request.page_size if request.page_size > 0 else _MAX_PAGE, _MAX_PAGE)
    return told[start:stop], str(stop) if stop < len(told) else ""
