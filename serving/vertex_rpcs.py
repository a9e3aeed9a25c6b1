"""The RPCs that clients of Vertex AI Vector Search call, answered by the use cases."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Final

from google.protobuf.message import Message

from matching.errors import LikewiseError
from serving.auth import Access
from serving.error_codes import as_vertex
from serving.query import Answer
from serving.recommender import Recommender
from serving.request_log import RequestRecord
from serving.vertex_resources import VertexResources, done_operation
from serving.wire import likewise_pb2 as pb
from serving.wire import vertex_pb2 as vx
from serving.wire import vertex_private as private

Work = Callable[[Any, RequestRecord, float], Awaitable[Message]]
Methods = Mapping[str, tuple[type[Any], Work]]
_PACKAGES: Final = ("google.cloud.aiplatform.v1", "google.cloud.aiplatform.v1beta1")
_PRIVATE: Final = "google.cloud.aiplatform.container.v1.MatchService"
_PUBLIC_ACCESS: Final[dict[str, Access]] = {
    "MatchService/FindNeighbors": "read",
    "MatchService/ReadIndexDatapoints": "read",
    "IndexService/UpsertDatapoints": "write",
    "IndexService/RemoveDatapoints": "write",
    "IndexService/GetIndex": "read",
    "IndexService/ListIndexes": "read",
    "IndexEndpointService/GetIndexEndpoint": "read",
    "IndexEndpointService/ListIndexEndpoints": "read",
    "IndexEndpointService/DeployIndex": "admin",
    "IndexEndpointService/UndeployIndex": "admin",
    "IndexEndpointService/MutateDeployedIndex": "admin",
}
ACCESS: Final[dict[str, Access]] = {
    **{f"/{package}.{method}": access for package in _PACKAGES for method, access in _PUBLIC_ACCESS.items()},
    f"/{_PRIVATE}/Match": "read",
    f"/{_PRIVATE}/BatchMatch": "read",
    f"/{_PRIVATE}/BatchGetEmbeddings": "read",
}


class VertexRpcs:
    """Vertex's services over one recommender. Belongs to one event loop."""

    def __init__(self, recommender: Recommender, resources: VertexResources, *, match: Methods, index: Methods) -> None:
        """Answer from a recommender.

        Args:
            recommender: the use cases.
            resources: what names mean.
            match: the methods of the match service, whose messages Vertex's clients send too.
            index: those of the index service.
        """
        self._recommender = recommender
        self._resources = resources
        self._match = match
        self._index = index

    def services(self) -> dict[str, Methods]:
        """Return the methods of each service, by its full name."""
        found: dict[str, Methods] = {}
        for package in _PACKAGES:
            found[f"{package}.MatchService"] = {
                method: (kind, self._routed(work)) for method, (kind, work) in self._match.items()
            }
            found[f"{package}.IndexService"] = {
                **{method: (kind, self._routed_write(work)) for method, (kind, work) in self._index.items()},
                "GetIndex": (vx.GetRequest, self._get_index),
                "ListIndexes": (vx.ListRequest, self._list_indexes),
            }
            found[f"{package}.IndexEndpointService"] = {
                "GetIndexEndpoint": (vx.GetRequest, self._get_endpoint),
                "ListIndexEndpoints": (vx.ListRequest, self._list_endpoints),
                "DeployIndex": (vx.DeployIndexRequest, self._deploying(package)),
                "UndeployIndex": (vx.UndeployIndexRequest, self._undeploying(package)),
                "MutateDeployedIndex": (vx.DeployIndexRequest, self._mutating(package)),
            }
        found[_PRIVATE] = {
            "Match": (vx.MatchRequest, self._match_one),
            "BatchMatch": (vx.BatchMatchRequest, self._match_batch),
            "BatchGetEmbeddings": (vx.BatchGetEmbeddingsRequest, self._get_embeddings),
        }
        return {service: _as_vertex(methods) for service, methods in found.items()}

    def _routed(self, work: Work) -> Work:
        async def answer(request: Any, record: RequestRecord, deadline: float) -> Message:
            record.route = self._resources.route(record.route, request.index_endpoint, request.deployed_index_id)
            if isinstance(request, pb.FindNeighborsRequest):
                for query in request.queries:
                    query.include_self = True  # Vertex searches for the vector that an id names, and finds whose it is
            return await work(request, record, deadline)

        return answer

    def _routed_write(self, work: Work) -> Work:
        async def answer(request: Any, record: RequestRecord, deadline: float) -> Message:
            record.route = self._resources.write_route(record.route, request.index)
            return await work(request, record, deadline)

        return answer

    async def _get_index(self, request: vx.GetRequest, record: RequestRecord, deadline: float) -> Message:
        record.endpoint = "get_index"
        return self._resources.get_index(request.name)

    async def _list_indexes(self, request: vx.ListRequest, record: RequestRecord, deadline: float) -> Message:
        record.endpoint = "list_indexes"
        return self._resources.list_indexes(request)

    async def _get_endpoint(self, request: vx.GetRequest, record: RequestRecord, deadline: float) -> Message:
        record.endpoint = "get_index_endpoint"
        return self._resources.get_endpoint(request.name)

    async def _list_endpoints(self, request: vx.ListRequest, record: RequestRecord, deadline: float) -> Message:
        record.endpoint = "list_index_endpoints"
        return self._resources.list_endpoints(request)

    def _deploying(self, package: str) -> Work:
        async def deploy(request: vx.DeployIndexRequest, record: RequestRecord, deadline: float) -> Message:
            record.endpoint = "deploy_index"
            response = await self._resources.deploy(request, by=record.who or "anybody")
            return done_operation(request.index_endpoint, response, f"{package}.DeployIndexResponse")

        return deploy

    def _undeploying(self, package: str) -> Work:
        async def undeploy(request: vx.UndeployIndexRequest, record: RequestRecord, deadline: float) -> Message:
            record.endpoint = "undeploy_index"
            response = await self._resources.undeploy(request, by=record.who or "anybody")
            return done_operation(request.index_endpoint, response, f"{package}.UndeployIndexResponse")

        return undeploy

    def _mutating(self, package: str) -> Work:
        async def mutate(request: vx.DeployIndexRequest, record: RequestRecord, deadline: float) -> Message:
            record.endpoint = "mutate_deployed_index"
            response = self._resources.mutate(request)
            return done_operation(request.index_endpoint, response, f"{package}.MutateDeployedIndexResponse")

        return mutate

    async def _match_one(self, request: vx.MatchRequest, record: RequestRecord, deadline: float) -> vx.MatchResponse:
        record.endpoint = "match"
        answer = await self._matched(request.deployed_index_id, (request,), record, deadline)
        return private.match_message(answer.results[0])

    async def _match_batch(
        self, request: vx.BatchMatchRequest, record: RequestRecord, deadline: float
    ) -> vx.BatchMatchResponse:
        record.endpoint = "batch_match"
        response = vx.BatchMatchResponse()
        for batch in request.requests:
            try:
                with as_vertex():
                    answer = await self._matched(batch.deployed_index_id, tuple(batch.requests), record, deadline)
                told = private.batch_message(batch.deployed_index_id, answer)
            except LikewiseError as error:  # the other batches have their own answers
                told = private.failure_message(batch.deployed_index_id, error)
            response.responses.append(told)
        return response

    async def _matched(
        self, deployed_index_id: str, requests: tuple[vx.MatchRequest, ...], record: RequestRecord, deadline: float
    ) -> Answer:
        queries = private.read_matches(requests)
        wants_vectors = any(request.embedding_enabled for request in requests)
        answer = await self._recommender.find_neighbors(
            queries,
            deadline=deadline,
            detail="vectors" if wants_vectors else "id",
            route=self._resources.route(record.route, "", deployed_index_id),
        )
        record.answered(answer, max(query.options.k for query in queries))
        return answer

    async def _get_embeddings(
        self, request: vx.BatchGetEmbeddingsRequest, record: RequestRecord, deadline: float
    ) -> vx.BatchGetEmbeddingsResponse:
        record.endpoint = "read_datapoints"
        answer = await self._recommender.read_datapoints(
            tuple(request.id),
            deadline=deadline,
            route=self._resources.route(record.route, "", request.deployed_index_id),
        )
        record.index_version, record.q = answer.version_id, len(request.id)
        return private.embeddings_message(answer)


def _as_vertex(methods: Methods) -> Methods:
    return {method: (kind, _named_as_vertex(work)) for method, (kind, work) in methods.items()}


def _named_as_vertex(work: Work) -> Work:
    async def answer(request: Any, record: RequestRecord, deadline: float) -> Message:
        with as_vertex():
            return await work(request, record, deadline)

    return answer
