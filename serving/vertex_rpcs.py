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
}
ACCESS: Final[dict[str, Access]] = {
    **{f"/{package}.{method}": access for package in _PACKAGES for method, access in _PUBLIC_ACCESS.items()},
    f"/{_PRIVATE}/Match": "read",
    f"/{_PRIVATE}/BatchMatch": "read",
    f"/{_PRIVATE}/BatchGetEmbeddings": "read",
}


class VertexRpcs:
    """Vertex's services over one recommender. Belongs to one event loop."""

    def __init__(self, recommender: Recommender, *, match: Methods, index: Methods) -> None:
        """Answer from a recommender.

        Args:
            recommender: the use cases.
            match: the methods of the match service, whose messages Vertex's clients send too.
            index: those of the index service.
        """
        self._recommender = recommender
        self._match = match
        self._index = index

    def services(self) -> dict[str, Methods]:
        """Return the methods of each service, by its full name."""
        found: dict[str, Methods] = {}
        kind, _ = self._match["FindNeighbors"]
        match = {**self._match, "FindNeighbors": (kind, self._find_neighbors)}
        for package in _PACKAGES:
            found[f"{package}.MatchService"] = match
            found[f"{package}.IndexService"] = self._index
        found[_PRIVATE] = {
            "Match": (vx.MatchRequest, self._match_one),
            "BatchMatch": (vx.BatchMatchRequest, self._match_batch),
            "BatchGetEmbeddings": (vx.BatchGetEmbeddingsRequest, self._get_embeddings),
        }
        return {service: _as_vertex(methods) for service, methods in found.items()}

    async def _find_neighbors(
        self, request: pb.FindNeighborsRequest, record: RequestRecord, deadline: float
    ) -> Message:
        for query in request.queries:
            query.include_self = True  # Vertex searches for the vector that an id names, and finds whose it is
        return await self._match["FindNeighbors"][1](request, record, deadline)

    async def _match_one(self, request: vx.MatchRequest, record: RequestRecord, deadline: float) -> vx.MatchResponse:
        record.endpoint = "match"
        answer = await self._matched((request,), record, deadline)
        return private.match_message(answer.results[0])

    async def _match_batch(
        self, request: vx.BatchMatchRequest, record: RequestRecord, deadline: float
    ) -> vx.BatchMatchResponse:
        record.endpoint = "batch_match"
        response = vx.BatchMatchResponse()
        for batch in request.requests:
            try:
                with as_vertex():
                    answer = await self._matched(tuple(batch.requests), record, deadline)
                told = private.batch_message(batch.deployed_index_id, answer)
            except LikewiseError as error:  # the other batches have their own answers
                told = private.failure_message(batch.deployed_index_id, error)
            response.responses.append(told)
        return response

    async def _matched(self, requests: tuple[vx.MatchRequest, ...], record: RequestRecord, deadline: float) -> Answer:
        queries = private.read_matches(requests)
        wants_vectors = any(request.embedding_enabled for request in requests)
        answer = await self._recommender.find_neighbors(
            queries, deadline=deadline, detail="vectors" if wants_vectors else "id"
        )
        record.answered(answer, max(query.options.k for query in queries))
        return answer

    async def _get_embeddings(
        self, request: vx.BatchGetEmbeddingsRequest, record: RequestRecord, deadline: float
    ) -> vx.BatchGetEmbeddingsResponse:
        record.endpoint = "read_datapoints"
        answer = await self._recommender.read_datapoints(tuple(request.id), deadline=deadline)
        record.index_version, record.q = answer.version_id, len(request.id)
        return private.embeddings_message(answer)


def _as_vertex(methods: Methods) -> Methods:
    return {method: (kind, _named_as_vertex(work)) for method, (kind, work) in methods.items()}


def _named_as_vertex(work: Work) -> Work:
    async def answer(request: Any, record: RequestRecord, deadline: float) -> Message:
        with as_vertex():
            return await work(request, record, deadline)

    return answer
