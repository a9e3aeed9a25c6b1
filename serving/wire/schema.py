"""The HTTP API's shapes and examples, for its OpenAPI document.

No request passes through these models: `vertex_json` reads and writes bodies, and tests hold the two together.
"""

from __future__ import annotations

from typing import Any, Final, Literal

from pydantic import BaseModel, ConfigDict, Field

OperatorName = Literal["LESS", "LESS_EQUAL", "EQUAL", "GREATER_EQUAL", "GREATER", "NOT_EQUAL"]


class _Shape(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)


class Restriction(_Shape):
    namespace: str
    allowList: list[str] = Field(default=[], description="also allow_list, allow, allow_tokens")  # noqa: N815
    denyList: list[str] = Field(default=[], description="also deny_list, deny, deny_tokens")  # noqa: N815


class NumericRestriction(_Shape):
    namespace: str
    valueInt: str | int | None = None  # noqa: N815
    valueFloat: float | None = None  # noqa: N815
    valueDouble: float | None = None  # noqa: N815
    op: OperatorName | None = Field(default=None, description="required in a query")


class CrowdingTag(_Shape):
    crowdingAttribute: str  # noqa: N815


class SparseEmbedding(_Shape):
    values: list[float]
    dimensions: list[int | str]


class IndexDatapoint(_Shape):
    datapointId: str = ""  # noqa: N815
    featureVector: list[float] | None = Field(default=None, description="of several vectors, one after the other")  # noqa: N815
    restricts: list[Restriction] = []
    numericRestricts: list[NumericRestriction] = []  # noqa: N815
    crowdingTag: CrowdingTag | None = None  # noqa: N815
    sparseEmbedding: SparseEmbedding | None = None  # noqa: N815
    embeddingMetadata: dict[str, Any] = {}  # noqa: N815


class Alpha(_Shape):
    alpha: float = Field(default=0.0, description="share of the dense side: 0 sparse alone, 1 dense alone")


class Query(_Shape):
    datapoint: IndexDatapoint = Field(
        description="by vector, by sparse vector, by both, or with datapointId alone by an indexed datapoint"
    )
    neighborCount: int = 10  # noqa: N815
    perCrowdingAttributeNeighborCount: int = Field(default=0, description="0: no limit")  # noqa: N815
    approximateNeighborCount: int = Field(default=0, description="0: what the operating table says")  # noqa: N815
    fractionLeafNodesToSearchOverride: float = Field(default=0.0, description="checked, and without effect")  # noqa: N815
    exact: bool = False
    space: str | None = Field(default=None, description="default: fused, else text, else the only one")
    recallTarget: float | None = None  # noqa: N815
    includeSelf: bool = Field(default=False, description="of a query by id")  # noqa: N815
    rrf: Alpha | None = Field(default=None, description="fuse the dense and the sparse ranking by reciprocal ranks")
    weighted: Alpha | None = Field(default=None, description="fuse them by scores; rrf or weighted, not both")


class FindNeighborsRequest(_Shape):
    queries: list[Query]
    returnFullDatapoint: bool = False  # noqa: N815
    minVersion: str | None = Field(default=None, description="version token of a write to know of")  # noqa: N815
    indexEndpoint: str | None = Field(default=None, description="accepted, not interpreted")  # noqa: N815
    deployedIndexId: str | None = Field(default=None, description="accepted, not interpreted")  # noqa: N815


class WrittenContent(_Shape):
    text: str | None = None
    image: str | None = Field(default=None, description="a JPEG, PNG or WebP file in base64")


class WrittenDatapoint(IndexDatapoint):
    featureVectors: dict[str, list[float]] = Field(  # noqa: N815
        default={}, description="of a version with several spaces: space to vector"
    )
    content: WrittenContent | None = Field(
        default=None, description="in place of vectors, of a version with encoders: they make them of it"
    )


class UpsertDatapointsRequest(_Shape):
    datapoints: list[WrittenDatapoint] = Field(description="a datapoint takes the place of what has its id")
    updateMask: str | None = Field(  # noqa: N815
        default=None, description="all_restricts: change restricts and numbers alone"
    )
    requestId: str | None = Field(default=None, description="repeating a request with it changes nothing")  # noqa: N815
    index: str | None = Field(default=None, description="accepted, not interpreted")


class RemoveDatapointsRequest(_Shape):
    datapointIds: list[str]  # noqa: N815
    requestId: str | None = Field(default=None, description="repeating a request with it changes nothing")  # noqa: N815
    index: str | None = Field(default=None, description="accepted, not interpreted")


class WriteResponse(_Shape):
    versionToken: str = Field(description="a request with it as minVersion sees the write")  # noqa: N815
    isRepeat: bool = Field(description="the request id was known; nothing was written again")  # noqa: N815
    indexVersion: str  # noqa: N815


class Neighbor(_Shape):
    datapoint: IndexDatapoint
    distance: float = Field(description="smaller is nearer: -dot (ip), 1 - cos (cosine), squared L2 (l2)")
    sparseDistance: float | None = Field(  # noqa: N815
        default=None, description="-dot of the sparse sides, where dense and sparse were searched apart"
    )


class NearestNeighbors(_Shape):
    id: str
    neighbors: list[Neighbor]
    space: str
    plan: str = Field(description="exact, graph or ivf")
    effort: int | None = Field(description="candidates or lists the approximate step looked at")
    nMatching: int = Field(description="datapoints that pass the restricts")  # noqa: N815
    exact: bool


class FindNeighborsResponse(_Shape):
    nearestNeighbors: list[NearestNeighbors]  # noqa: N815
    indexVersion: str  # noqa: N815
    variant: str = Field(description="of the endpoint, that answered")
    degraded: bool = Field(description="a shard could not be read, so that neighbors may be missing")
    coverage: float = Field(description="share of the datapoints that were searched")


class SearchRequest(_Shape):
    text: str
    k: int = 10
    space: str | None = Field(default=None, description="default: text")
    restricts: list[Restriction] = []
    numericRestricts: list[NumericRestriction] = []  # noqa: N815
    crowdingCap: int = Field(default=0, description="neighbors that may share a crowding tag; 0: no limit")  # noqa: N815
    exact: bool = False
    recallTarget: float | None = None  # noqa: N815
    rrfAlpha: float | None = Field(  # noqa: N815
        default=None, description="fuse dense and sparse by ranks: 0 sparse alone, 1 dense alone"
    )
    scoreAlpha: float | None = Field(default=None, description="or by scores")  # noqa: N815


class SearchResponse(_Shape):
    indexVersion: str  # noqa: N815
    variant: str = Field(description="of the endpoint, that answered")
    degraded: bool = Field(description="a shard could not be read, so that neighbors may be missing")
    coverage: float = Field(description="share of the datapoints that were searched")
    tookMs: float  # noqa: N815
    neighbors: list[Neighbor]
    space: str
    plan: str
    effort: int | None
    nMatching: int  # noqa: N815
    exact: bool


class ReadIndexDatapointsRequest(_Shape):
    ids: list[str]
    space: str | None = Field(default=None, description="whose vectors to return")
    minVersion: str | None = Field(default=None, description="version token of a write to know of")  # noqa: N815
    indexEndpoint: str | None = None  # noqa: N815
    deployedIndexId: str | None = None  # noqa: N815


class ReadIndexDatapointsResponse(_Shape):
    datapoints: list[IndexDatapoint]
    space: str
    indexVersion: str  # noqa: N815


class BrowseResponse(_Shape):
    indexVersion: str  # noqa: N815
    nMatching: int  # noqa: N815
    datapoints: list[IndexDatapoint]


class TokenCount(_Shape):
    token: str
    count: int


class NumericRange(_Shape):
    least: float
    greatest: float
    field: Literal["valueInt", "valueFloat", "valueDouble"] = Field(description="what a restrict must send")


class FacetsResponse(_Shape):
    indexVersion: str  # noqa: N815
    tokens: dict[str, list[TokenCount]]
    numbers: dict[str, NumericRange]


class Space(_Shape):
    name: str
    spaceId: str  # noqa: N815
    modality: str | None
    metric: str
    dim: int
    plan: str
    nVectors: int  # noqa: N815
    recall: float | None


class VersionResponse(_Shape):
    versionId: str  # noqa: N815
    createdAt: str  # noqa: N815
    nDatapoints: int  # noqa: N815
    versionToken: str = Field(description="of the newest write that searches see")  # noqa: N815
    spaces: list[Space]


class ErrorDetail(_Shape):
    code: int
    status: str
    message: str
    request_id: str


class ErrorResponse(_Shape):
    error: ErrorDetail


FILTER_PARAMETER: Final = {
    "name": "filter",
    "in": "query",
    "schema": {"type": "string"},
    "description": 'JSON: {"restricts": [...], "numericRestricts": [...]}',
}
RESTRICT_PARAMETER: Final = {
    "name": "restrict",
    "in": "query",
    "schema": {"type": "array", "items": {"type": "string"}},
    "description": "namespace=token; tokens of one namespace are alternatives",
}


def search_parameters(k: int) -> list[dict[str, Any]]:
    """Return the query-string parameters that searches without a JSON body take, with the default `k`."""
    return [
        {"name": "k", "in": "query", "schema": {"type": "integer", "default": k}, "description": "how many neighbors"},
        {"name": "space", "in": "query", "schema": {"type": "string"}, "description": "which space to search"},
        {"name": "crowdingCap", "in": "query", "schema": {"type": "integer", "default": 0}},
        {"name": "exact", "in": "query", "schema": {"type": "boolean", "default": False}},
        {"name": "recallTarget", "in": "query", "schema": {"type": "number"}},
        RESTRICT_PARAMETER,
        FILTER_PARAMETER,
    ]
