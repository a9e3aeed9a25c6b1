# mypy: ignore-errors
from google.protobuf import field_mask_pb2 as _field_mask_pb2
from google.protobuf import struct_pb2 as _struct_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class IndexDatapoint(_message.Message):
    __slots__ = ("datapoint_id", "feature_vector", "restricts", "crowding_tag", "numeric_restricts", "sparse_embedding", "embedding_metadata", "feature_vectors", "content")
    class FeatureVectorsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: IndexDatapoint.FeatureVector
        def __init__(self, key: _Optional[str] = ..., value: _Optional[_Union[IndexDatapoint.FeatureVector, _Mapping]] = ...) -> None: ...
    class Content(_message.Message):
        __slots__ = ("text", "image")
        TEXT_FIELD_NUMBER: _ClassVar[int]
        IMAGE_FIELD_NUMBER: _ClassVar[int]
        text: str
        image: bytes
        def __init__(self, text: _Optional[str] = ..., image: _Optional[bytes] = ...) -> None: ...
    class FeatureVector(_message.Message):
        __slots__ = ("values",)
        VALUES_FIELD_NUMBER: _ClassVar[int]
        values: _containers.RepeatedScalarFieldContainer[float]
        def __init__(self, values: _Optional[_Iterable[float]] = ...) -> None: ...
    class Restriction(_message.Message):
        __slots__ = ("namespace", "allow_list", "deny_list")
        NAMESPACE_FIELD_NUMBER: _ClassVar[int]
        ALLOW_LIST_FIELD_NUMBER: _ClassVar[int]
        DENY_LIST_FIELD_NUMBER: _ClassVar[int]
        namespace: str
        allow_list: _containers.RepeatedScalarFieldContainer[str]
        deny_list: _containers.RepeatedScalarFieldContainer[str]
        def __init__(self, namespace: _Optional[str] = ..., allow_list: _Optional[_Iterable[str]] = ..., deny_list: _Optional[_Iterable[str]] = ...) -> None: ...
    class NumericRestriction(_message.Message):
        __slots__ = ("namespace", "value_int", "value_float", "value_double", "op")
        class Operator(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
            __slots__ = ()
            OPERATOR_UNSPECIFIED: _ClassVar[IndexDatapoint.NumericRestriction.Operator]
            LESS: _ClassVar[IndexDatapoint.NumericRestriction.Operator]
            LESS_EQUAL: _ClassVar[IndexDatapoint.NumericRestriction.Operator]
            EQUAL: _ClassVar[IndexDatapoint.NumericRestriction.Operator]
            GREATER_EQUAL: _ClassVar[IndexDatapoint.NumericRestriction.Operator]
            GREATER: _ClassVar[IndexDatapoint.NumericRestriction.Operator]
            NOT_EQUAL: _ClassVar[IndexDatapoint.NumericRestriction.Operator]
        OPERATOR_UNSPECIFIED: IndexDatapoint.NumericRestriction.Operator
        LESS: IndexDatapoint.NumericRestriction.Operator
        LESS_EQUAL: IndexDatapoint.NumericRestriction.Operator
        EQUAL: IndexDatapoint.NumericRestriction.Operator
        GREATER_EQUAL: IndexDatapoint.NumericRestriction.Operator
        GREATER: IndexDatapoint.NumericRestriction.Operator
        NOT_EQUAL: IndexDatapoint.NumericRestriction.Operator
        NAMESPACE_FIELD_NUMBER: _ClassVar[int]
        VALUE_INT_FIELD_NUMBER: _ClassVar[int]
        VALUE_FLOAT_FIELD_NUMBER: _ClassVar[int]
        VALUE_DOUBLE_FIELD_NUMBER: _ClassVar[int]
        OP_FIELD_NUMBER: _ClassVar[int]
        namespace: str
        value_int: int
        value_float: float
        value_double: float
        op: IndexDatapoint.NumericRestriction.Operator
        def __init__(self, namespace: _Optional[str] = ..., value_int: _Optional[int] = ..., value_float: _Optional[float] = ..., value_double: _Optional[float] = ..., op: _Optional[_Union[IndexDatapoint.NumericRestriction.Operator, str]] = ...) -> None: ...
    class CrowdingTag(_message.Message):
        __slots__ = ("crowding_attribute",)
        CROWDING_ATTRIBUTE_FIELD_NUMBER: _ClassVar[int]
        crowding_attribute: str
        def __init__(self, crowding_attribute: _Optional[str] = ...) -> None: ...
    class SparseEmbedding(_message.Message):
        __slots__ = ("values", "dimensions")
        VALUES_FIELD_NUMBER: _ClassVar[int]
        DIMENSIONS_FIELD_NUMBER: _ClassVar[int]
        values: _containers.RepeatedScalarFieldContainer[float]
        dimensions: _containers.RepeatedScalarFieldContainer[int]
        def __init__(self, values: _Optional[_Iterable[float]] = ..., dimensions: _Optional[_Iterable[int]] = ...) -> None: ...
    DATAPOINT_ID_FIELD_NUMBER: _ClassVar[int]
    FEATURE_VECTOR_FIELD_NUMBER: _ClassVar[int]
    RESTRICTS_FIELD_NUMBER: _ClassVar[int]
    CROWDING_TAG_FIELD_NUMBER: _ClassVar[int]
    NUMERIC_RESTRICTS_FIELD_NUMBER: _ClassVar[int]
    SPARSE_EMBEDDING_FIELD_NUMBER: _ClassVar[int]
    EMBEDDING_METADATA_FIELD_NUMBER: _ClassVar[int]
    FEATURE_VECTORS_FIELD_NUMBER: _ClassVar[int]
    CONTENT_FIELD_NUMBER: _ClassVar[int]
    datapoint_id: str
    feature_vector: _containers.RepeatedScalarFieldContainer[float]
    restricts: _containers.RepeatedCompositeFieldContainer[IndexDatapoint.Restriction]
    crowding_tag: IndexDatapoint.CrowdingTag
    numeric_restricts: _containers.RepeatedCompositeFieldContainer[IndexDatapoint.NumericRestriction]
    sparse_embedding: IndexDatapoint.SparseEmbedding
    embedding_metadata: _struct_pb2.Struct
    feature_vectors: _containers.MessageMap[str, IndexDatapoint.FeatureVector]
    content: IndexDatapoint.Content
    def __init__(self, datapoint_id: _Optional[str] = ..., feature_vector: _Optional[_Iterable[float]] = ..., restricts: _Optional[_Iterable[_Union[IndexDatapoint.Restriction, _Mapping]]] = ..., crowding_tag: _Optional[_Union[IndexDatapoint.CrowdingTag, _Mapping]] = ..., numeric_restricts: _Optional[_Iterable[_Union[IndexDatapoint.NumericRestriction, _Mapping]]] = ..., sparse_embedding: _Optional[_Union[IndexDatapoint.SparseEmbedding, _Mapping]] = ..., embedding_metadata: _Optional[_Union[_struct_pb2.Struct, _Mapping]] = ..., feature_vectors: _Optional[_Mapping[str, IndexDatapoint.FeatureVector]] = ..., content: _Optional[_Union[IndexDatapoint.Content, _Mapping]] = ...) -> None: ...

class FindNeighborsRequest(_message.Message):
    __slots__ = ("index_endpoint", "deployed_index_id", "queries", "return_full_datapoint", "min_version")
    class Query(_message.Message):
        __slots__ = ("datapoint", "neighbor_count", "per_crowding_attribute_neighbor_count", "approximate_neighbor_count", "fraction_leaf_nodes_to_search_override", "rrf", "weighted", "exact", "space", "recall_target", "include_self")
        class RRF(_message.Message):
            __slots__ = ("alpha",)
            ALPHA_FIELD_NUMBER: _ClassVar[int]
            alpha: float
            def __init__(self, alpha: _Optional[float] = ...) -> None: ...
        class Weighted(_message.Message):
            __slots__ = ("alpha",)
            ALPHA_FIELD_NUMBER: _ClassVar[int]
            alpha: float
            def __init__(self, alpha: _Optional[float] = ...) -> None: ...
        DATAPOINT_FIELD_NUMBER: _ClassVar[int]
        NEIGHBOR_COUNT_FIELD_NUMBER: _ClassVar[int]
        PER_CROWDING_ATTRIBUTE_NEIGHBOR_COUNT_FIELD_NUMBER: _ClassVar[int]
        APPROXIMATE_NEIGHBOR_COUNT_FIELD_NUMBER: _ClassVar[int]
        FRACTION_LEAF_NODES_TO_SEARCH_OVERRIDE_FIELD_NUMBER: _ClassVar[int]
        RRF_FIELD_NUMBER: _ClassVar[int]
        WEIGHTED_FIELD_NUMBER: _ClassVar[int]
        EXACT_FIELD_NUMBER: _ClassVar[int]
        SPACE_FIELD_NUMBER: _ClassVar[int]
        RECALL_TARGET_FIELD_NUMBER: _ClassVar[int]
        INCLUDE_SELF_FIELD_NUMBER: _ClassVar[int]
        datapoint: IndexDatapoint
        neighbor_count: int
        per_crowding_attribute_neighbor_count: int
        approximate_neighbor_count: int
        fraction_leaf_nodes_to_search_override: float
        rrf: FindNeighborsRequest.Query.RRF
        weighted: FindNeighborsRequest.Query.Weighted
        exact: bool
        space: str
        recall_target: float
        include_self: bool
        def __init__(self, datapoint: _Optional[_Union[IndexDatapoint, _Mapping]] = ..., neighbor_count: _Optional[int] = ..., per_crowding_attribute_neighbor_count: _Optional[int] = ..., approximate_neighbor_count: _Optional[int] = ..., fraction_leaf_nodes_to_search_override: _Optional[float] = ..., rrf: _Optional[_Union[FindNeighborsRequest.Query.RRF, _Mapping]] = ..., weighted: _Optional[_Union[FindNeighborsRequest.Query.Weighted, _Mapping]] = ..., exact: _Optional[bool] = ..., space: _Optional[str] = ..., recall_target: _Optional[float] = ..., include_self: _Optional[bool] = ...) -> None: ...
    INDEX_ENDPOINT_FIELD_NUMBER: _ClassVar[int]
    DEPLOYED_INDEX_ID_FIELD_NUMBER: _ClassVar[int]
    QUERIES_FIELD_NUMBER: _ClassVar[int]
    RETURN_FULL_DATAPOINT_FIELD_NUMBER: _ClassVar[int]
    MIN_VERSION_FIELD_NUMBER: _ClassVar[int]
    index_endpoint: str
    deployed_index_id: str
    queries: _containers.RepeatedCompositeFieldContainer[FindNeighborsRequest.Query]
    return_full_datapoint: bool
    min_version: int
    def __init__(self, index_endpoint: _Optional[str] = ..., deployed_index_id: _Optional[str] = ..., queries: _Optional[_Iterable[_Union[FindNeighborsRequest.Query, _Mapping]]] = ..., return_full_datapoint: _Optional[bool] = ..., min_version: _Optional[int] = ...) -> None: ...

class FindNeighborsResponse(_message.Message):
    __slots__ = ("nearest_neighbors", "index_version", "variant", "degraded", "coverage")
    class Neighbor(_message.Message):
        __slots__ = ("datapoint", "distance", "sparse_distance")
        DATAPOINT_FIELD_NUMBER: _ClassVar[int]
        DISTANCE_FIELD_NUMBER: _ClassVar[int]
        SPARSE_DISTANCE_FIELD_NUMBER: _ClassVar[int]
        datapoint: IndexDatapoint
        distance: float
        sparse_distance: float
        def __init__(self, datapoint: _Optional[_Union[IndexDatapoint, _Mapping]] = ..., distance: _Optional[float] = ..., sparse_distance: _Optional[float] = ...) -> None: ...
    class NearestNeighbors(_message.Message):
        __slots__ = ("id", "neighbors", "plan", "n_matching", "exact", "space", "effort")
        ID_FIELD_NUMBER: _ClassVar[int]
        NEIGHBORS_FIELD_NUMBER: _ClassVar[int]
        PLAN_FIELD_NUMBER: _ClassVar[int]
        N_MATCHING_FIELD_NUMBER: _ClassVar[int]
        EXACT_FIELD_NUMBER: _ClassVar[int]
        SPACE_FIELD_NUMBER: _ClassVar[int]
        EFFORT_FIELD_NUMBER: _ClassVar[int]
        id: str
        neighbors: _containers.RepeatedCompositeFieldContainer[FindNeighborsResponse.Neighbor]
        plan: str
        n_matching: int
        exact: bool
        space: str
        effort: int
        def __init__(self, id: _Optional[str] = ..., neighbors: _Optional[_Iterable[_Union[FindNeighborsResponse.Neighbor, _Mapping]]] = ..., plan: _Optional[str] = ..., n_matching: _Optional[int] = ..., exact: _Optional[bool] = ..., space: _Optional[str] = ..., effort: _Optional[int] = ...) -> None: ...
    NEAREST_NEIGHBORS_FIELD_NUMBER: _ClassVar[int]
    INDEX_VERSION_FIELD_NUMBER: _ClassVar[int]
    VARIANT_FIELD_NUMBER: _ClassVar[int]
    DEGRADED_FIELD_NUMBER: _ClassVar[int]
    COVERAGE_FIELD_NUMBER: _ClassVar[int]
    nearest_neighbors: _containers.RepeatedCompositeFieldContainer[FindNeighborsResponse.NearestNeighbors]
    index_version: str
    variant: str
    degraded: bool
    coverage: float
    def __init__(self, nearest_neighbors: _Optional[_Iterable[_Union[FindNeighborsResponse.NearestNeighbors, _Mapping]]] = ..., index_version: _Optional[str] = ..., variant: _Optional[str] = ..., degraded: _Optional[bool] = ..., coverage: _Optional[float] = ...) -> None: ...

class ReadIndexDatapointsRequest(_message.Message):
    __slots__ = ("index_endpoint", "deployed_index_id", "ids", "min_version")
    INDEX_ENDPOINT_FIELD_NUMBER: _ClassVar[int]
    DEPLOYED_INDEX_ID_FIELD_NUMBER: _ClassVar[int]
    IDS_FIELD_NUMBER: _ClassVar[int]
    MIN_VERSION_FIELD_NUMBER: _ClassVar[int]
    index_endpoint: str
    deployed_index_id: str
    ids: _containers.RepeatedScalarFieldContainer[str]
    min_version: int
    def __init__(self, index_endpoint: _Optional[str] = ..., deployed_index_id: _Optional[str] = ..., ids: _Optional[_Iterable[str]] = ..., min_version: _Optional[int] = ...) -> None: ...

class ReadIndexDatapointsResponse(_message.Message):
    __slots__ = ("datapoints", "index_version")
    DATAPOINTS_FIELD_NUMBER: _ClassVar[int]
    INDEX_VERSION_FIELD_NUMBER: _ClassVar[int]
    datapoints: _containers.RepeatedCompositeFieldContainer[IndexDatapoint]
    index_version: str
    def __init__(self, datapoints: _Optional[_Iterable[_Union[IndexDatapoint, _Mapping]]] = ..., index_version: _Optional[str] = ...) -> None: ...

class UpsertDatapointsRequest(_message.Message):
    __slots__ = ("index", "datapoints", "update_mask", "request_id")
    INDEX_FIELD_NUMBER: _ClassVar[int]
    DATAPOINTS_FIELD_NUMBER: _ClassVar[int]
    UPDATE_MASK_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    index: str
    datapoints: _containers.RepeatedCompositeFieldContainer[IndexDatapoint]
    update_mask: _field_mask_pb2.FieldMask
    request_id: str
    def __init__(self, index: _Optional[str] = ..., datapoints: _Optional[_Iterable[_Union[IndexDatapoint, _Mapping]]] = ..., update_mask: _Optional[_Union[_field_mask_pb2.FieldMask, _Mapping]] = ..., request_id: _Optional[str] = ...) -> None: ...

class RemoveDatapointsRequest(_message.Message):
    __slots__ = ("index", "datapoint_ids", "request_id")
    INDEX_FIELD_NUMBER: _ClassVar[int]
    DATAPOINT_IDS_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    index: str
    datapoint_ids: _containers.RepeatedScalarFieldContainer[str]
    request_id: str
    def __init__(self, index: _Optional[str] = ..., datapoint_ids: _Optional[_Iterable[str]] = ..., request_id: _Optional[str] = ...) -> None: ...

class WriteResponse(_message.Message):
    __slots__ = ("version_token", "is_repeat", "index_version")
    VERSION_TOKEN_FIELD_NUMBER: _ClassVar[int]
    IS_REPEAT_FIELD_NUMBER: _ClassVar[int]
    INDEX_VERSION_FIELD_NUMBER: _ClassVar[int]
    version_token: int
    is_repeat: bool
    index_version: str
    def __init__(self, version_token: _Optional[int] = ..., is_repeat: _Optional[bool] = ..., index_version: _Optional[str] = ...) -> None: ...

class SearchRequest(_message.Message):
    __slots__ = ("text", "image", "datapoint_id", "k", "restricts", "numeric_restricts", "crowding_cap", "space", "exact", "recall_target", "rrf_alpha", "score_alpha")
    TEXT_FIELD_NUMBER: _ClassVar[int]
    IMAGE_FIELD_NUMBER: _ClassVar[int]
    DATAPOINT_ID_FIELD_NUMBER: _ClassVar[int]
    K_FIELD_NUMBER: _ClassVar[int]
    RESTRICTS_FIELD_NUMBER: _ClassVar[int]
    NUMERIC_RESTRICTS_FIELD_NUMBER: _ClassVar[int]
    CROWDING_CAP_FIELD_NUMBER: _ClassVar[int]
    SPACE_FIELD_NUMBER: _ClassVar[int]
    EXACT_FIELD_NUMBER: _ClassVar[int]
    RECALL_TARGET_FIELD_NUMBER: _ClassVar[int]
    RRF_ALPHA_FIELD_NUMBER: _ClassVar[int]
    SCORE_ALPHA_FIELD_NUMBER: _ClassVar[int]
    text: str
    image: bytes
    datapoint_id: str
    k: int
    restricts: _containers.RepeatedCompositeFieldContainer[IndexDatapoint.Restriction]
    numeric_restricts: _containers.RepeatedCompositeFieldContainer[IndexDatapoint.NumericRestriction]
    crowding_cap: int
    space: str
    exact: bool
    recall_target: float
    rrf_alpha: float
    score_alpha: float
    def __init__(self, text: _Optional[str] = ..., image: _Optional[bytes] = ..., datapoint_id: _Optional[str] = ..., k: _Optional[int] = ..., restricts: _Optional[_Iterable[_Union[IndexDatapoint.Restriction, _Mapping]]] = ..., numeric_restricts: _Optional[_Iterable[_Union[IndexDatapoint.NumericRestriction, _Mapping]]] = ..., crowding_cap: _Optional[int] = ..., space: _Optional[str] = ..., exact: _Optional[bool] = ..., recall_target: _Optional[float] = ..., rrf_alpha: _Optional[float] = ..., score_alpha: _Optional[float] = ...) -> None: ...

class SearchResponse(_message.Message):
    __slots__ = ("result", "index_version", "variant", "degraded", "coverage")
    RESULT_FIELD_NUMBER: _ClassVar[int]
    INDEX_VERSION_FIELD_NUMBER: _ClassVar[int]
    VARIANT_FIELD_NUMBER: _ClassVar[int]
    DEGRADED_FIELD_NUMBER: _ClassVar[int]
    COVERAGE_FIELD_NUMBER: _ClassVar[int]
    result: FindNeighborsResponse.NearestNeighbors
    index_version: str
    variant: str
    degraded: bool
    coverage: float
    def __init__(self, result: _Optional[_Union[FindNeighborsResponse.NearestNeighbors, _Mapping]] = ..., index_version: _Optional[str] = ..., variant: _Optional[str] = ..., degraded: _Optional[bool] = ..., coverage: _Optional[float] = ...) -> None: ...

class GetVersionRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class Version(_message.Message):
    __slots__ = ("version_id", "created_at", "n_datapoints", "spaces", "version_token")
    class Space(_message.Message):
        __slots__ = ("name", "space_id", "modality", "metric", "dim", "plan", "n_vectors", "recall")
        NAME_FIELD_NUMBER: _ClassVar[int]
        SPACE_ID_FIELD_NUMBER: _ClassVar[int]
        MODALITY_FIELD_NUMBER: _ClassVar[int]
        METRIC_FIELD_NUMBER: _ClassVar[int]
        DIM_FIELD_NUMBER: _ClassVar[int]
        PLAN_FIELD_NUMBER: _ClassVar[int]
        N_VECTORS_FIELD_NUMBER: _ClassVar[int]
        RECALL_FIELD_NUMBER: _ClassVar[int]
        name: str
        space_id: str
        modality: str
        metric: str
        dim: int
        plan: str
        n_vectors: int
        recall: float
        def __init__(self, name: _Optional[str] = ..., space_id: _Optional[str] = ..., modality: _Optional[str] = ..., metric: _Optional[str] = ..., dim: _Optional[int] = ..., plan: _Optional[str] = ..., n_vectors: _Optional[int] = ..., recall: _Optional[float] = ...) -> None: ...
    VERSION_ID_FIELD_NUMBER: _ClassVar[int]
    CREATED_AT_FIELD_NUMBER: _ClassVar[int]
    N_DATAPOINTS_FIELD_NUMBER: _ClassVar[int]
    SPACES_FIELD_NUMBER: _ClassVar[int]
    VERSION_TOKEN_FIELD_NUMBER: _ClassVar[int]
    version_id: str
    created_at: str
    n_datapoints: int
    spaces: _containers.RepeatedCompositeFieldContainer[Version.Space]
    version_token: int
    def __init__(self, version_id: _Optional[str] = ..., created_at: _Optional[str] = ..., n_datapoints: _Optional[int] = ..., spaces: _Optional[_Iterable[_Union[Version.Space, _Mapping]]] = ..., version_token: _Optional[int] = ...) -> None: ...

class Variant(_message.Message):
    __slots__ = ("name", "weight", "mirror", "index", "knobs", "index_version")
    class Knobs(_message.Message):
        __slots__ = ("effort", "recall_target", "exact", "crowding_cap", "rules")
        EFFORT_FIELD_NUMBER: _ClassVar[int]
        RECALL_TARGET_FIELD_NUMBER: _ClassVar[int]
        EXACT_FIELD_NUMBER: _ClassVar[int]
        CROWDING_CAP_FIELD_NUMBER: _ClassVar[int]
        RULES_FIELD_NUMBER: _ClassVar[int]
        effort: int
        recall_target: float
        exact: bool
        crowding_cap: int
        rules: str
        def __init__(self, effort: _Optional[int] = ..., recall_target: _Optional[float] = ..., exact: _Optional[bool] = ..., crowding_cap: _Optional[int] = ..., rules: _Optional[str] = ...) -> None: ...
    NAME_FIELD_NUMBER: _ClassVar[int]
    WEIGHT_FIELD_NUMBER: _ClassVar[int]
    MIRROR_FIELD_NUMBER: _ClassVar[int]
    INDEX_FIELD_NUMBER: _ClassVar[int]
    KNOBS_FIELD_NUMBER: _ClassVar[int]
    INDEX_VERSION_FIELD_NUMBER: _ClassVar[int]
    name: str
    weight: float
    mirror: float
    index: str
    knobs: Variant.Knobs
    index_version: str
    def __init__(self, name: _Optional[str] = ..., weight: _Optional[float] = ..., mirror: _Optional[float] = ..., index: _Optional[str] = ..., knobs: _Optional[_Union[Variant.Knobs, _Mapping]] = ..., index_version: _Optional[str] = ...) -> None: ...

class Endpoint(_message.Message):
    __slots__ = ("name", "variants", "control", "coverage", "generation", "refused")
    NAME_FIELD_NUMBER: _ClassVar[int]
    VARIANTS_FIELD_NUMBER: _ClassVar[int]
    CONTROL_FIELD_NUMBER: _ClassVar[int]
    COVERAGE_FIELD_NUMBER: _ClassVar[int]
    GENERATION_FIELD_NUMBER: _ClassVar[int]
    REFUSED_FIELD_NUMBER: _ClassVar[int]
    name: str
    variants: _containers.RepeatedCompositeFieldContainer[Variant]
    control: str
    coverage: float
    generation: int
    refused: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, name: _Optional[str] = ..., variants: _Optional[_Iterable[_Union[Variant, _Mapping]]] = ..., control: _Optional[str] = ..., coverage: _Optional[float] = ..., generation: _Optional[int] = ..., refused: _Optional[_Iterable[str]] = ...) -> None: ...

class ListEndpointsRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class ListEndpointsResponse(_message.Message):
    __slots__ = ("endpoints",)
    ENDPOINTS_FIELD_NUMBER: _ClassVar[int]
    endpoints: _containers.RepeatedCompositeFieldContainer[Endpoint]
    def __init__(self, endpoints: _Optional[_Iterable[_Union[Endpoint, _Mapping]]] = ...) -> None: ...

class GetEndpointRequest(_message.Message):
    __slots__ = ("name",)
    NAME_FIELD_NUMBER: _ClassVar[int]
    name: str
    def __init__(self, name: _Optional[str] = ...) -> None: ...

class SetTrafficRequest(_message.Message):
    __slots__ = ("name", "variants", "coverage", "control", "why")
    NAME_FIELD_NUMBER: _ClassVar[int]
    VARIANTS_FIELD_NUMBER: _ClassVar[int]
    COVERAGE_FIELD_NUMBER: _ClassVar[int]
    CONTROL_FIELD_NUMBER: _ClassVar[int]
    WHY_FIELD_NUMBER: _ClassVar[int]
    name: str
    variants: _containers.RepeatedCompositeFieldContainer[Variant]
    coverage: float
    control: str
    why: str
    def __init__(self, name: _Optional[str] = ..., variants: _Optional[_Iterable[_Union[Variant, _Mapping]]] = ..., coverage: _Optional[float] = ..., control: _Optional[str] = ..., why: _Optional[str] = ...) -> None: ...

class PromoteRequest(_message.Message):
    __slots__ = ("name", "version", "why", "variant")
    NAME_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    WHY_FIELD_NUMBER: _ClassVar[int]
    VARIANT_FIELD_NUMBER: _ClassVar[int]
    name: str
    version: str
    why: str
    variant: str
    def __init__(self, name: _Optional[str] = ..., version: _Optional[str] = ..., why: _Optional[str] = ..., variant: _Optional[str] = ...) -> None: ...

class RollbackRequest(_message.Message):
    __slots__ = ("name", "why", "variant")
    NAME_FIELD_NUMBER: _ClassVar[int]
    WHY_FIELD_NUMBER: _ClassVar[int]
    VARIANT_FIELD_NUMBER: _ClassVar[int]
    name: str
    why: str
    variant: str
    def __init__(self, name: _Optional[str] = ..., why: _Optional[str] = ..., variant: _Optional[str] = ...) -> None: ...

class AliasMove(_message.Message):
    __slots__ = ("at", "by", "old_version", "new_version", "why")
    AT_FIELD_NUMBER: _ClassVar[int]
    BY_FIELD_NUMBER: _ClassVar[int]
    OLD_VERSION_FIELD_NUMBER: _ClassVar[int]
    NEW_VERSION_FIELD_NUMBER: _ClassVar[int]
    WHY_FIELD_NUMBER: _ClassVar[int]
    at: str
    by: str
    old_version: str
    new_version: str
    why: str
    def __init__(self, at: _Optional[str] = ..., by: _Optional[str] = ..., old_version: _Optional[str] = ..., new_version: _Optional[str] = ..., why: _Optional[str] = ...) -> None: ...

class RecommendRequest(_message.Message):
    __slots__ = ("user_id", "session_id", "items", "basket", "surface", "k", "restricts", "numeric_restricts", "exclude", "exclude_seen", "exclude_bought", "depth", "page_token")
    USER_ID_FIELD_NUMBER: _ClassVar[int]
    SESSION_ID_FIELD_NUMBER: _ClassVar[int]
    ITEMS_FIELD_NUMBER: _ClassVar[int]
    BASKET_FIELD_NUMBER: _ClassVar[int]
    SURFACE_FIELD_NUMBER: _ClassVar[int]
    K_FIELD_NUMBER: _ClassVar[int]
    RESTRICTS_FIELD_NUMBER: _ClassVar[int]
    NUMERIC_RESTRICTS_FIELD_NUMBER: _ClassVar[int]
    EXCLUDE_FIELD_NUMBER: _ClassVar[int]
    EXCLUDE_SEEN_FIELD_NUMBER: _ClassVar[int]
    EXCLUDE_BOUGHT_FIELD_NUMBER: _ClassVar[int]
    DEPTH_FIELD_NUMBER: _ClassVar[int]
    PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    user_id: str
    session_id: str
    items: _containers.RepeatedScalarFieldContainer[str]
    basket: _containers.RepeatedScalarFieldContainer[str]
    surface: str
    k: int
    restricts: _containers.RepeatedCompositeFieldContainer[IndexDatapoint.Restriction]
    numeric_restricts: _containers.RepeatedCompositeFieldContainer[IndexDatapoint.NumericRestriction]
    exclude: _containers.RepeatedScalarFieldContainer[str]
    exclude_seen: bool
    exclude_bought: bool
    depth: int
    page_token: str
    def __init__(self, user_id: _Optional[str] = ..., session_id: _Optional[str] = ..., items: _Optional[_Iterable[str]] = ..., basket: _Optional[_Iterable[str]] = ..., surface: _Optional[str] = ..., k: _Optional[int] = ..., restricts: _Optional[_Iterable[_Union[IndexDatapoint.Restriction, _Mapping]]] = ..., numeric_restricts: _Optional[_Iterable[_Union[IndexDatapoint.NumericRestriction, _Mapping]]] = ..., exclude: _Optional[_Iterable[str]] = ..., exclude_seen: _Optional[bool] = ..., exclude_bought: _Optional[bool] = ..., depth: _Optional[int] = ..., page_token: _Optional[str] = ...) -> None: ...

class RecommendResponse(_message.Message):
    __slots__ = ("items", "recommendation_id", "index_version", "models", "variant", "degraded", "n_matching", "rules_version", "rules", "next_page_token")
    class Item(_message.Message):
        __slots__ = ("item_id", "score", "sources", "reason", "because", "rules")
        ITEM_ID_FIELD_NUMBER: _ClassVar[int]
        SCORE_FIELD_NUMBER: _ClassVar[int]
        SOURCES_FIELD_NUMBER: _ClassVar[int]
        REASON_FIELD_NUMBER: _ClassVar[int]
        BECAUSE_FIELD_NUMBER: _ClassVar[int]
        RULES_FIELD_NUMBER: _ClassVar[int]
        item_id: str
        score: float
        sources: _containers.RepeatedScalarFieldContainer[str]
        reason: str
        because: str
        rules: _containers.RepeatedScalarFieldContainer[str]
        def __init__(self, item_id: _Optional[str] = ..., score: _Optional[float] = ..., sources: _Optional[_Iterable[str]] = ..., reason: _Optional[str] = ..., because: _Optional[str] = ..., rules: _Optional[_Iterable[str]] = ...) -> None: ...
    class RuleEffect(_message.Message):
        __slots__ = ("rule_id", "kind", "removed", "brought", "dropped", "moved", "cost", "yielded")
        RULE_ID_FIELD_NUMBER: _ClassVar[int]
        KIND_FIELD_NUMBER: _ClassVar[int]
        REMOVED_FIELD_NUMBER: _ClassVar[int]
        BROUGHT_FIELD_NUMBER: _ClassVar[int]
        DROPPED_FIELD_NUMBER: _ClassVar[int]
        MOVED_FIELD_NUMBER: _ClassVar[int]
        COST_FIELD_NUMBER: _ClassVar[int]
        YIELDED_FIELD_NUMBER: _ClassVar[int]
        rule_id: str
        kind: str
        removed: int
        brought: _containers.RepeatedScalarFieldContainer[str]
        dropped: _containers.RepeatedScalarFieldContainer[str]
        moved: int
        cost: float
        yielded: int
        def __init__(self, rule_id: _Optional[str] = ..., kind: _Optional[str] = ..., removed: _Optional[int] = ..., brought: _Optional[_Iterable[str]] = ..., dropped: _Optional[_Iterable[str]] = ..., moved: _Optional[int] = ..., cost: _Optional[float] = ..., yielded: _Optional[int] = ...) -> None: ...
    class ModelsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    ITEMS_FIELD_NUMBER: _ClassVar[int]
    RECOMMENDATION_ID_FIELD_NUMBER: _ClassVar[int]
    INDEX_VERSION_FIELD_NUMBER: _ClassVar[int]
    MODELS_FIELD_NUMBER: _ClassVar[int]
    VARIANT_FIELD_NUMBER: _ClassVar[int]
    DEGRADED_FIELD_NUMBER: _ClassVar[int]
    N_MATCHING_FIELD_NUMBER: _ClassVar[int]
    RULES_VERSION_FIELD_NUMBER: _ClassVar[int]
    RULES_FIELD_NUMBER: _ClassVar[int]
    NEXT_PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    items: _containers.RepeatedCompositeFieldContainer[RecommendResponse.Item]
    recommendation_id: str
    index_version: str
    models: _containers.ScalarMap[str, str]
    variant: str
    degraded: bool
    n_matching: int
    rules_version: str
    rules: _containers.RepeatedCompositeFieldContainer[RecommendResponse.RuleEffect]
    next_page_token: str
    def __init__(self, items: _Optional[_Iterable[_Union[RecommendResponse.Item, _Mapping]]] = ..., recommendation_id: _Optional[str] = ..., index_version: _Optional[str] = ..., models: _Optional[_Mapping[str, str]] = ..., variant: _Optional[str] = ..., degraded: _Optional[bool] = ..., n_matching: _Optional[int] = ..., rules_version: _Optional[str] = ..., rules: _Optional[_Iterable[_Union[RecommendResponse.RuleEffect, _Mapping]]] = ..., next_page_token: _Optional[str] = ...) -> None: ...

class ExplainRequest(_message.Message):
    __slots__ = ("request", "item_id")
    REQUEST_FIELD_NUMBER: _ClassVar[int]
    ITEM_ID_FIELD_NUMBER: _ClassVar[int]
    request: RecommendRequest
    item_id: str
    def __init__(self, request: _Optional[_Union[RecommendRequest, _Mapping]] = ..., item_id: _Optional[str] = ...) -> None: ...

class ExplainResponse(_message.Message):
    __slots__ = ("item_id", "outcome", "place", "score", "rank", "last_score", "sources", "rules", "filters", "message", "index_version", "variant", "rules_version")
    class Outcome(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
        __slots__ = ()
        OUTCOME_UNSPECIFIED: _ClassVar[ExplainResponse.Outcome]
        SHOWN: _ClassVar[ExplainResponse.Outcome]
        UNKNOWN: _ClassVar[ExplainResponse.Outcome]
        EXCLUDED: _ClassVar[ExplainResponse.Outcome]
        FILTERED: _ClassVar[ExplainResponse.Outcome]
        NOT_RETRIEVED: _ClassVar[ExplainResponse.Outcome]
        REMOVED: _ClassVar[ExplainResponse.Outcome]
        RANKED_BELOW: _ClassVar[ExplainResponse.Outcome]
    OUTCOME_UNSPECIFIED: ExplainResponse.Outcome
    SHOWN: ExplainResponse.Outcome
    UNKNOWN: ExplainResponse.Outcome
    EXCLUDED: ExplainResponse.Outcome
    FILTERED: ExplainResponse.Outcome
    NOT_RETRIEVED: ExplainResponse.Outcome
    REMOVED: ExplainResponse.Outcome
    RANKED_BELOW: ExplainResponse.Outcome
    class SourceShare(_message.Message):
        __slots__ = ("source", "rank", "depth", "contribution", "is_fallback")
        SOURCE_FIELD_NUMBER: _ClassVar[int]
        RANK_FIELD_NUMBER: _ClassVar[int]
        DEPTH_FIELD_NUMBER: _ClassVar[int]
        CONTRIBUTION_FIELD_NUMBER: _ClassVar[int]
        IS_FALLBACK_FIELD_NUMBER: _ClassVar[int]
        source: str
        rank: int
        depth: int
        contribution: float
        is_fallback: bool
        def __init__(self, source: _Optional[str] = ..., rank: _Optional[int] = ..., depth: _Optional[int] = ..., contribution: _Optional[float] = ..., is_fallback: _Optional[bool] = ...) -> None: ...
    ITEM_ID_FIELD_NUMBER: _ClassVar[int]
    OUTCOME_FIELD_NUMBER: _ClassVar[int]
    PLACE_FIELD_NUMBER: _ClassVar[int]
    SCORE_FIELD_NUMBER: _ClassVar[int]
    RANK_FIELD_NUMBER: _ClassVar[int]
    LAST_SCORE_FIELD_NUMBER: _ClassVar[int]
    SOURCES_FIELD_NUMBER: _ClassVar[int]
    RULES_FIELD_NUMBER: _ClassVar[int]
    FILTERS_FIELD_NUMBER: _ClassVar[int]
    MESSAGE_FIELD_NUMBER: _ClassVar[int]
    INDEX_VERSION_FIELD_NUMBER: _ClassVar[int]
    VARIANT_FIELD_NUMBER: _ClassVar[int]
    RULES_VERSION_FIELD_NUMBER: _ClassVar[int]
    item_id: str
    outcome: ExplainResponse.Outcome
    place: int
    score: float
    rank: int
    last_score: float
    sources: _containers.RepeatedCompositeFieldContainer[ExplainResponse.SourceShare]
    rules: _containers.RepeatedScalarFieldContainer[str]
    filters: _containers.RepeatedScalarFieldContainer[str]
    message: str
    index_version: str
    variant: str
    rules_version: str
    def __init__(self, item_id: _Optional[str] = ..., outcome: _Optional[_Union[ExplainResponse.Outcome, str]] = ..., place: _Optional[int] = ..., score: _Optional[float] = ..., rank: _Optional[int] = ..., last_score: _Optional[float] = ..., sources: _Optional[_Iterable[_Union[ExplainResponse.SourceShare, _Mapping]]] = ..., rules: _Optional[_Iterable[str]] = ..., filters: _Optional[_Iterable[str]] = ..., message: _Optional[str] = ..., index_version: _Optional[str] = ..., variant: _Optional[str] = ..., rules_version: _Optional[str] = ...) -> None: ...

class RankRequest(_message.Message):
    __slots__ = ("request", "item_ids")
    REQUEST_FIELD_NUMBER: _ClassVar[int]
    ITEM_IDS_FIELD_NUMBER: _ClassVar[int]
    request: RecommendRequest
    item_ids: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, request: _Optional[_Union[RecommendRequest, _Mapping]] = ..., item_ids: _Optional[_Iterable[str]] = ...) -> None: ...

class RankResponse(_message.Message):
    __slots__ = ("slate", "left_out")
    class LeftOut(_message.Message):
        __slots__ = ("item_id", "why")
        ITEM_ID_FIELD_NUMBER: _ClassVar[int]
        WHY_FIELD_NUMBER: _ClassVar[int]
        item_id: str
        why: str
        def __init__(self, item_id: _Optional[str] = ..., why: _Optional[str] = ...) -> None: ...
    SLATE_FIELD_NUMBER: _ClassVar[int]
    LEFT_OUT_FIELD_NUMBER: _ClassVar[int]
    slate: RecommendResponse
    left_out: _containers.RepeatedCompositeFieldContainer[RankResponse.LeftOut]
    def __init__(self, slate: _Optional[_Union[RecommendResponse, _Mapping]] = ..., left_out: _Optional[_Iterable[_Union[RankResponse.LeftOut, _Mapping]]] = ...) -> None: ...

class BatchRecommendRequest(_message.Message):
    __slots__ = ("requests",)
    REQUESTS_FIELD_NUMBER: _ClassVar[int]
    requests: _containers.RepeatedCompositeFieldContainer[RecommendRequest]
    def __init__(self, requests: _Optional[_Iterable[_Union[RecommendRequest, _Mapping]]] = ...) -> None: ...

class BatchRecommendResponse(_message.Message):
    __slots__ = ("results",)
    class Error(_message.Message):
        __slots__ = ("code", "status", "message")
        CODE_FIELD_NUMBER: _ClassVar[int]
        STATUS_FIELD_NUMBER: _ClassVar[int]
        MESSAGE_FIELD_NUMBER: _ClassVar[int]
        code: int
        status: str
        message: str
        def __init__(self, code: _Optional[int] = ..., status: _Optional[str] = ..., message: _Optional[str] = ...) -> None: ...
    class Result(_message.Message):
        __slots__ = ("slate", "error")
        SLATE_FIELD_NUMBER: _ClassVar[int]
        ERROR_FIELD_NUMBER: _ClassVar[int]
        slate: RecommendResponse
        error: BatchRecommendResponse.Error
        def __init__(self, slate: _Optional[_Union[RecommendResponse, _Mapping]] = ..., error: _Optional[_Union[BatchRecommendResponse.Error, _Mapping]] = ...) -> None: ...
    RESULTS_FIELD_NUMBER: _ClassVar[int]
    results: _containers.RepeatedCompositeFieldContainer[BatchRecommendResponse.Result]
    def __init__(self, results: _Optional[_Iterable[_Union[BatchRecommendResponse.Result, _Mapping]]] = ...) -> None: ...

class Event(_message.Message):
    __slots__ = ("event_id", "event_type", "user_id", "session_id", "items", "at_ms", "query", "recommendation_id")
    class Item(_message.Message):
        __slots__ = ("item_id", "quantity", "value", "position", "propensity")
        ITEM_ID_FIELD_NUMBER: _ClassVar[int]
        QUANTITY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        POSITION_FIELD_NUMBER: _ClassVar[int]
        PROPENSITY_FIELD_NUMBER: _ClassVar[int]
        item_id: str
        quantity: float
        value: float
        position: int
        propensity: float
        def __init__(self, item_id: _Optional[str] = ..., quantity: _Optional[float] = ..., value: _Optional[float] = ..., position: _Optional[int] = ..., propensity: _Optional[float] = ...) -> None: ...
    EVENT_ID_FIELD_NUMBER: _ClassVar[int]
    EVENT_TYPE_FIELD_NUMBER: _ClassVar[int]
    USER_ID_FIELD_NUMBER: _ClassVar[int]
    SESSION_ID_FIELD_NUMBER: _ClassVar[int]
    ITEMS_FIELD_NUMBER: _ClassVar[int]
    AT_MS_FIELD_NUMBER: _ClassVar[int]
    QUERY_FIELD_NUMBER: _ClassVar[int]
    RECOMMENDATION_ID_FIELD_NUMBER: _ClassVar[int]
    event_id: str
    event_type: str
    user_id: str
    session_id: str
    items: _containers.RepeatedCompositeFieldContainer[Event.Item]
    at_ms: int
    query: str
    recommendation_id: str
    def __init__(self, event_id: _Optional[str] = ..., event_type: _Optional[str] = ..., user_id: _Optional[str] = ..., session_id: _Optional[str] = ..., items: _Optional[_Iterable[_Union[Event.Item, _Mapping]]] = ..., at_ms: _Optional[int] = ..., query: _Optional[str] = ..., recommendation_id: _Optional[str] = ...) -> None: ...

class WriteEventsRequest(_message.Message):
    __slots__ = ("events",)
    EVENTS_FIELD_NUMBER: _ClassVar[int]
    events: _containers.RepeatedCompositeFieldContainer[Event]
    def __init__(self, events: _Optional[_Iterable[_Union[Event, _Mapping]]] = ...) -> None: ...

class WriteEventsResponse(_message.Message):
    __slots__ = ("results",)
    class Status(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
        __slots__ = ()
        STATUS_UNSPECIFIED: _ClassVar[WriteEventsResponse.Status]
        ACCEPTED: _ClassVar[WriteEventsResponse.Status]
        DUPLICATE: _ClassVar[WriteEventsResponse.Status]
        REJECTED: _ClassVar[WriteEventsResponse.Status]
    STATUS_UNSPECIFIED: WriteEventsResponse.Status
    ACCEPTED: WriteEventsResponse.Status
    DUPLICATE: WriteEventsResponse.Status
    REJECTED: WriteEventsResponse.Status
    class Result(_message.Message):
        __slots__ = ("event_id", "status", "reason", "message")
        EVENT_ID_FIELD_NUMBER: _ClassVar[int]
        STATUS_FIELD_NUMBER: _ClassVar[int]
        REASON_FIELD_NUMBER: _ClassVar[int]
        MESSAGE_FIELD_NUMBER: _ClassVar[int]
        event_id: str
        status: WriteEventsResponse.Status
        reason: str
        message: str
        def __init__(self, event_id: _Optional[str] = ..., status: _Optional[_Union[WriteEventsResponse.Status, str]] = ..., reason: _Optional[str] = ..., message: _Optional[str] = ...) -> None: ...
    RESULTS_FIELD_NUMBER: _ClassVar[int]
    results: _containers.RepeatedCompositeFieldContainer[WriteEventsResponse.Result]
    def __init__(self, results: _Optional[_Iterable[_Union[WriteEventsResponse.Result, _Mapping]]] = ...) -> None: ...
