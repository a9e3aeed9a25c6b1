"""Opening, filtering and searching index versions, and the store they lie in."""

from matching.datapoint import (
    Datapoint,
    Filter,
    Metric,
    Neighbor,
    NumericRestrict,
    Operator,
    Restrict,
    SparseRows,
)
from matching.encoder_spec import EncoderSpec
from matching.graph_index import GraphIndex
from matching.store import Store
from matching.version import IndexVersion, SearchResult

__all__ = [
    "Datapoint",
    "EncoderSpec",
    "Filter",
    "GraphIndex",
    "IndexVersion",
    "Metric",
    "Neighbor",
    "NumericRestrict",
    "Operator",
    "Restrict",
    "SearchResult",
    "SparseRows",
    "Store",
]
