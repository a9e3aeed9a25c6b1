"""What callers ask and what they are answered, the same for HTTP and gRPC."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from embeddings.encoder import Content
from matching.datapoint import Datapoint, Filter, NumericType, SparseRows
from matching.errors import InvalidQuery
from matching.fusion import Fusion

Detail = Literal["id", "metadata", "vectors"]


@dataclass(frozen=True, slots=True)
class Route:
    """Whom a request is for, and on whose behalf.

    Attributes:
        endpoint: the endpoint's name; "" is the first one that is served.
        variant: one variant by its name; "", or a name that it does not have, follows the traffic split.
        unit_id: the user, session or device that is assigned to a variant; "" when nobody knows.
        override: a signed permission to be answered by one variant, as `serving.override` makes it.
        request_id: decides which shadows see a copy; "" takes chance.
    """

    endpoint: str = ""
    variant: str = ""
    unit_id: str = ""
    override: str = ""
    request_id: str = ""


ANY: Final = Route()


@dataclass(frozen=True, slots=True)
class Options:
    """How a search is to be answered.

    Attributes:
        k: how many neighbors.
        space: which space to search; None takes the one that suits the query.
        filter: what the neighbors must pass.
        crowding_cap: how many neighbors may share a crowding tag; 0 is no limit.
        exact: take no approximate step.
        effort: candidates of the approximate step; None takes what the operating table says.
        recall_target: recall to aim at, over 0 and at most 1; None takes the build's.
        include_self: whether a query by id may find the datapoint itself.
        rrf_alpha: fuse dense and sparse rankings by reciprocal ranks, with this share of the dense side: 0 sparse alone, 1
            dense alone. None adds a sparse side to the score of the dense one, by the weight of the space.
        score_alpha: the same by scores in place of ranks; at most one of the two.
    """

    k: int = 10
    space: str | None = None
    filter: Filter = field(default_factory=Filter)
    crowding_cap: int = 0
    exact: bool = False
    effort: int | None = None
    recall_target: float | None = None
    include_self: bool = False
    rrf_alpha: float | None = None
    score_alpha: float | None = None

    @property
    def fusion(self) -> Fusion | None:
        """How two rankings become one, None where both sides make one score.

        Raises:
            InvalidQuery: both alphas are given, or one is not within 0 and 1.
        """
        if self.rrf_alpha is not None and self.score_alpha is not None:
            raise InvalidQuery(
                "[search] rankings are fused by ranks (rrf) or by scores (weighted), not both; choose one"
            )
        if self.rrf_alpha is not None:
            return Fusion("rrf", self.rrf_alpha)
        return None if self.score_alpha is None else Fusion("score", self.score_alpha)


@dataclass(frozen=True, slots=True)
class NeighborQuery:
    """One query of a batch: by vector, by sparse vector, by both, or by the id of an indexed datapoint.

    Attributes:
        datapoint_id: names the query in the answer; without a vector of either kind, the datapoint to start from.
        vector: float32[dim], or None.
        sparse: one row, in a space that has a sparse side; alone it asks that side alone.
        options: how it is to be answered.
    """

    datapoint_id: str = ""
    vector: NDArray[np.float32] | None = None
    sparse: SparseRows | None = None
    options: Options = field(default_factory=Options)


class Found(NamedTuple):
    """One neighbor of an answer; `datapoint`, `vectors` (float32[m, dim]) and the `sparse` row are there when asked for.

    `sparse_distance` is the negated inner product of the sparse sides, where dense and sparse were searched apart; `distance` is
    then 0 for a datapoint or a query without a dense vector.
    """

    datapoint_id: str
    distance: float
    crowding_tag: str | None
    sparse_distance: float | None = None
    datapoint: Datapoint | None = None
    vectors: NDArray[np.float32] | None = None
    sparse: SparseRows | None = None


@dataclass(frozen=True, slots=True)
class Result:
    """The answer to one query.

    Attributes:
        query_id: the query's datapoint id, "" when it had none.
        neighbors: nearest first.
        space: the space that was searched.
        plan: how it was searched, as the index version names it.
        effort: the candidates or lists that the approximate step looked at, None where there was none.
        n_matching: datapoints that pass the filter.
        coverage: share of the space's datapoints that were searched; below 1 where a shard cannot be read.
    """

    query_id: str
    neighbors: tuple[Found, ...]
    space: str
    plan: str
    effort: int | None
    n_matching: int
    coverage: float

    @property
    def exact(self) -> bool:
        """Whether no approximate step took part."""
        return self.plan == "exact"


@dataclass(frozen=True, slots=True)
class Answer:
    """The results of one request, in the order of its queries, all from one index version and variant."""

    version_id: str
    results: tuple[Result, ...]
    variant: str = ""

    @property
    def coverage(self) -> float:
        """The least share of the datapoints that one of the queries was asked of."""
        return min(result.coverage for result in self.results)

    @property
    def is_degraded(self) -> bool:
        """Whether a shard could not be read, so that neighbors may be missing."""
        return self.coverage < 1.0


@dataclass(frozen=True, slots=True)
class ReadAnswer:
    """Datapoints in the order asked, each with its vectors (float32[m, dim]) and its sparse row in one space."""

    version_id: str
    space: str
    datapoints: tuple[Datapoint, ...]
    vectors: tuple[NDArray[np.float32], ...]
    sparse: tuple[SparseRows | None, ...]


@dataclass(frozen=True, slots=True)
class Window:
    """Some of the datapoints that pass a filter, spread over the catalogue, in an order that a version keeps."""

    version_id: str
    n_matching: int
    datapoints: tuple[Datapoint, ...]


@dataclass(frozen=True, slots=True)
class NumericFacet:
    """The range of one numeric namespace, and the type a restrict on it must have."""

    least: float
    greatest: float
    type: NumericType


@dataclass(frozen=True, slots=True)
class Facets:
    """Counts of the tokens of each namespace, most frequent first, and the ranges of the numeric ones."""

    version_id: str
    tokens: dict[str, dict[str, int]]
    numbers: dict[str, NumericFacet]


@dataclass(frozen=True, slots=True)
class DatapointWrite:
    """A datapoint to put in.

    Attributes:
        vectors: space to float32[dim]; the name "" stands for the only space of the version.
        sparse: one row beside the dense vector of the only space.
        content: what the encoders of the version make its vectors of, in place of both.
    """

    datapoint: Datapoint
    vectors: Mapping[str, NDArray[np.float32]] = field(default_factory=dict)
    sparse: SparseRows | None = None
    content: Content | None = None


@dataclass(frozen=True, slots=True)
class Written:
    """A write that is on disk.

    Attributes:
        version_token: a request that gives it as `min_version` sees the write.
        is_repeat: the request id was known, and nothing was written again.
    """

    version_id: str
    version_token: int
    is_repeat: bool


@dataclass(frozen=True, slots=True)
class SpaceInfo:
    """One space of the served version."""

    name: str
    space_id: str
    modality: str | None
    metric: str
    dim: int
    plan: str
    n_vectors: int
    recall: float | None


@dataclass(frozen=True, slots=True)
class VersionInfo:
    """The served version; version_token is that of the newest write that searches see, 0 before the first."""

    version_id: str
    created_at: str
    n_datapoints: int
    version_token: int
    spaces: tuple[SpaceInfo, ...]
