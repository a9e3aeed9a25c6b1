# mypy: ignore-errors
import datetime

from google.protobuf import any_pb2 as _any_pb2
from google.protobuf import struct_pb2 as _struct_pb2
from google.protobuf import timestamp_pb2 as _timestamp_pb2
from serving.wire import likewise_pb2 as _likewise_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class Index(_message.Message):
    __slots__ = ("name", "display_name", "description", "metadata", "deployed_indexes", "etag", "create_time", "update_time", "index_stats", "index_update_method")
    class IndexUpdateMethod(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
        __slots__ = ()
        INDEX_UPDATE_METHOD_UNSPECIFIED: _ClassVar[Index.IndexUpdateMethod]
        BATCH_UPDATE: _ClassVar[Index.IndexUpdateMethod]
        STREAM_UPDATE: _ClassVar[Index.IndexUpdateMethod]
    INDEX_UPDATE_METHOD_UNSPECIFIED: Index.IndexUpdateMethod
    BATCH_UPDATE: Index.IndexUpdateMethod
    STREAM_UPDATE: Index.IndexUpdateMethod
    NAME_FIELD_NUMBER: _ClassVar[int]
    DISPLAY_NAME_FIELD_NUMBER: _ClassVar[int]
    DESCRIPTION_FIELD_NUMBER: _ClassVar[int]
    METADATA_FIELD_NUMBER: _ClassVar[int]
    DEPLOYED_INDEXES_FIELD_NUMBER: _ClassVar[int]
    ETAG_FIELD_NUMBER: _ClassVar[int]
    CREATE_TIME_FIELD_NUMBER: _ClassVar[int]
    UPDATE_TIME_FIELD_NUMBER: _ClassVar[int]
    INDEX_STATS_FIELD_NUMBER: _ClassVar[int]
    INDEX_UPDATE_METHOD_FIELD_NUMBER: _ClassVar[int]
    name: str
    display_name: str
    description: str
    metadata: _struct_pb2.Value
    deployed_indexes: _containers.RepeatedCompositeFieldContainer[DeployedIndexRef]
    etag: str
    create_time: _timestamp_pb2.Timestamp
    update_time: _timestamp_pb2.Timestamp
    index_stats: IndexStats
    index_update_method: Index.IndexUpdateMethod
    def __init__(self, name: _Optional[str] = ..., display_name: _Optional[str] = ..., description: _Optional[str] = ..., metadata: _Optional[_Union[_struct_pb2.Value, _Mapping]] = ..., deployed_indexes: _Optional[_Iterable[_Union[DeployedIndexRef, _Mapping]]] = ..., etag: _Optional[str] = ..., create_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., update_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., index_stats: _Optional[_Union[IndexStats, _Mapping]] = ..., index_update_method: _Optional[_Union[Index.IndexUpdateMethod, str]] = ...) -> None: ...

class IndexStats(_message.Message):
    __slots__ = ("vectors_count",)
    VECTORS_COUNT_FIELD_NUMBER: _ClassVar[int]
    vectors_count: int
    def __init__(self, vectors_count: _Optional[int] = ...) -> None: ...

class DeployedIndexRef(_message.Message):
    __slots__ = ("index_endpoint", "deployed_index_id", "display_name")
    INDEX_ENDPOINT_FIELD_NUMBER: _ClassVar[int]
    DEPLOYED_INDEX_ID_FIELD_NUMBER: _ClassVar[int]
    DISPLAY_NAME_FIELD_NUMBER: _ClassVar[int]
    index_endpoint: str
    deployed_index_id: str
    display_name: str
    def __init__(self, index_endpoint: _Optional[str] = ..., deployed_index_id: _Optional[str] = ..., display_name: _Optional[str] = ...) -> None: ...

class IndexEndpoint(_message.Message):
    __slots__ = ("name", "display_name", "deployed_indexes", "etag", "create_time", "update_time", "public_endpoint_enabled", "public_endpoint_domain_name")
    NAME_FIELD_NUMBER: _ClassVar[int]
    DISPLAY_NAME_FIELD_NUMBER: _ClassVar[int]
    DEPLOYED_INDEXES_FIELD_NUMBER: _ClassVar[int]
    ETAG_FIELD_NUMBER: _ClassVar[int]
    CREATE_TIME_FIELD_NUMBER: _ClassVar[int]
    UPDATE_TIME_FIELD_NUMBER: _ClassVar[int]
    PUBLIC_ENDPOINT_ENABLED_FIELD_NUMBER: _ClassVar[int]
    PUBLIC_ENDPOINT_DOMAIN_NAME_FIELD_NUMBER: _ClassVar[int]
    name: str
    display_name: str
    deployed_indexes: _containers.RepeatedCompositeFieldContainer[DeployedIndex]
    etag: str
    create_time: _timestamp_pb2.Timestamp
    update_time: _timestamp_pb2.Timestamp
    public_endpoint_enabled: bool
    public_endpoint_domain_name: str
    def __init__(self, name: _Optional[str] = ..., display_name: _Optional[str] = ..., deployed_indexes: _Optional[_Iterable[_Union[DeployedIndex, _Mapping]]] = ..., etag: _Optional[str] = ..., create_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., update_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., public_endpoint_enabled: _Optional[bool] = ..., public_endpoint_domain_name: _Optional[str] = ...) -> None: ...

class DeployedIndex(_message.Message):
    __slots__ = ("id", "index", "display_name", "create_time", "private_endpoints", "index_sync_time")
    ID_FIELD_NUMBER: _ClassVar[int]
    INDEX_FIELD_NUMBER: _ClassVar[int]
    DISPLAY_NAME_FIELD_NUMBER: _ClassVar[int]
    CREATE_TIME_FIELD_NUMBER: _ClassVar[int]
    PRIVATE_ENDPOINTS_FIELD_NUMBER: _ClassVar[int]
    INDEX_SYNC_TIME_FIELD_NUMBER: _ClassVar[int]
    id: str
    index: str
    display_name: str
    create_time: _timestamp_pb2.Timestamp
    private_endpoints: IndexPrivateEndpoints
    index_sync_time: _timestamp_pb2.Timestamp
    def __init__(self, id: _Optional[str] = ..., index: _Optional[str] = ..., display_name: _Optional[str] = ..., create_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., private_endpoints: _Optional[_Union[IndexPrivateEndpoints, _Mapping]] = ..., index_sync_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ...) -> None: ...

class IndexPrivateEndpoints(_message.Message):
    __slots__ = ("match_grpc_address",)
    MATCH_GRPC_ADDRESS_FIELD_NUMBER: _ClassVar[int]
    match_grpc_address: str
    def __init__(self, match_grpc_address: _Optional[str] = ...) -> None: ...

class GetRequest(_message.Message):
    __slots__ = ("name",)
    NAME_FIELD_NUMBER: _ClassVar[int]
    name: str
    def __init__(self, name: _Optional[str] = ...) -> None: ...

class ListRequest(_message.Message):
    __slots__ = ("parent", "filter", "page_size", "page_token")
    PARENT_FIELD_NUMBER: _ClassVar[int]
    FILTER_FIELD_NUMBER: _ClassVar[int]
    PAGE_SIZE_FIELD_NUMBER: _ClassVar[int]
    PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    parent: str
    filter: str
    page_size: int
    page_token: str
    def __init__(self, parent: _Optional[str] = ..., filter: _Optional[str] = ..., page_size: _Optional[int] = ..., page_token: _Optional[str] = ...) -> None: ...

class ListIndexesResponse(_message.Message):
    __slots__ = ("indexes", "next_page_token")
    INDEXES_FIELD_NUMBER: _ClassVar[int]
    NEXT_PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    indexes: _containers.RepeatedCompositeFieldContainer[Index]
    next_page_token: str
    def __init__(self, indexes: _Optional[_Iterable[_Union[Index, _Mapping]]] = ..., next_page_token: _Optional[str] = ...) -> None: ...

class ListIndexEndpointsResponse(_message.Message):
    __slots__ = ("index_endpoints", "next_page_token")
    INDEX_ENDPOINTS_FIELD_NUMBER: _ClassVar[int]
    NEXT_PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    index_endpoints: _containers.RepeatedCompositeFieldContainer[IndexEndpoint]
    next_page_token: str
    def __init__(self, index_endpoints: _Optional[_Iterable[_Union[IndexEndpoint, _Mapping]]] = ..., next_page_token: _Optional[str] = ...) -> None: ...

class DeployIndexRequest(_message.Message):
    __slots__ = ("index_endpoint", "deployed_index")
    INDEX_ENDPOINT_FIELD_NUMBER: _ClassVar[int]
    DEPLOYED_INDEX_FIELD_NUMBER: _ClassVar[int]
    index_endpoint: str
    deployed_index: DeployedIndex
    def __init__(self, index_endpoint: _Optional[str] = ..., deployed_index: _Optional[_Union[DeployedIndex, _Mapping]] = ...) -> None: ...

class DeployIndexResponse(_message.Message):
    __slots__ = ("deployed_index",)
    DEPLOYED_INDEX_FIELD_NUMBER: _ClassVar[int]
    deployed_index: DeployedIndex
    def __init__(self, deployed_index: _Optional[_Union[DeployedIndex, _Mapping]] = ...) -> None: ...

class UndeployIndexRequest(_message.Message):
    __slots__ = ("index_endpoint", "deployed_index_id")
    INDEX_ENDPOINT_FIELD_NUMBER: _ClassVar[int]
    DEPLOYED_INDEX_ID_FIELD_NUMBER: _ClassVar[int]
    index_endpoint: str
    deployed_index_id: str
    def __init__(self, index_endpoint: _Optional[str] = ..., deployed_index_id: _Optional[str] = ...) -> None: ...

class UndeployIndexResponse(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class Operation(_message.Message):
    __slots__ = ("name", "done", "response")
    NAME_FIELD_NUMBER: _ClassVar[int]
    DONE_FIELD_NUMBER: _ClassVar[int]
    RESPONSE_FIELD_NUMBER: _ClassVar[int]
    name: str
    done: bool
    response: _any_pb2.Any
    def __init__(self, name: _Optional[str] = ..., done: _Optional[bool] = ..., response: _Optional[_Union[_any_pb2.Any, _Mapping]] = ...) -> None: ...

class MatchRequest(_message.Message):
    __slots__ = ("deployed_index_id", "float_val", "num_neighbors", "restricts", "per_crowding_attribute_num_neighbors", "approx_num_neighbors", "embedding_enabled", "fraction_leaf_nodes_to_search_override", "embedding_id", "numeric_restricts", "sparse_embedding", "rrf")
    class RRF(_message.Message):
        __slots__ = ("alpha",)
        ALPHA_FIELD_NUMBER: _ClassVar[int]
        alpha: float
        def __init__(self, alpha: _Optional[float] = ...) -> None: ...
    DEPLOYED_INDEX_ID_FIELD_NUMBER: _ClassVar[int]
    FLOAT_VAL_FIELD_NUMBER: _ClassVar[int]
    NUM_NEIGHBORS_FIELD_NUMBER: _ClassVar[int]
    RESTRICTS_FIELD_NUMBER: _ClassVar[int]
    PER_CROWDING_ATTRIBUTE_NUM_NEIGHBORS_FIELD_NUMBER: _ClassVar[int]
    APPROX_NUM_NEIGHBORS_FIELD_NUMBER: _ClassVar[int]
    EMBEDDING_ENABLED_FIELD_NUMBER: _ClassVar[int]
    FRACTION_LEAF_NODES_TO_SEARCH_OVERRIDE_FIELD_NUMBER: _ClassVar[int]
    EMBEDDING_ID_FIELD_NUMBER: _ClassVar[int]
    NUMERIC_RESTRICTS_FIELD_NUMBER: _ClassVar[int]
    SPARSE_EMBEDDING_FIELD_NUMBER: _ClassVar[int]
    RRF_FIELD_NUMBER: _ClassVar[int]
    deployed_index_id: str
    float_val: _containers.RepeatedScalarFieldContainer[float]
    num_neighbors: int
    restricts: _containers.RepeatedCompositeFieldContainer[_likewise_pb2.IndexDatapoint.Restriction]
    per_crowding_attribute_num_neighbors: int
    approx_num_neighbors: int
    embedding_enabled: bool
    fraction_leaf_nodes_to_search_override: float
    embedding_id: str
    numeric_restricts: _containers.RepeatedCompositeFieldContainer[_likewise_pb2.IndexDatapoint.NumericRestriction]
    sparse_embedding: _likewise_pb2.IndexDatapoint.SparseEmbedding
    rrf: MatchRequest.RRF
    def __init__(self, deployed_index_id: _Optional[str] = ..., float_val: _Optional[_Iterable[float]] = ..., num_neighbors: _Optional[int] = ..., restricts: _Optional[_Iterable[_Union[_likewise_pb2.IndexDatapoint.Restriction, _Mapping]]] = ..., per_crowding_attribute_num_neighbors: _Optional[int] = ..., approx_num_neighbors: _Optional[int] = ..., embedding_enabled: _Optional[bool] = ..., fraction_leaf_nodes_to_search_override: _Optional[float] = ..., embedding_id: _Optional[str] = ..., numeric_restricts: _Optional[_Iterable[_Union[_likewise_pb2.IndexDatapoint.NumericRestriction, _Mapping]]] = ..., sparse_embedding: _Optional[_Union[_likewise_pb2.IndexDatapoint.SparseEmbedding, _Mapping]] = ..., rrf: _Optional[_Union[MatchRequest.RRF, _Mapping]] = ...) -> None: ...

class MatchResponse(_message.Message):
    __slots__ = ("neighbor", "embeddings")
    class Neighbor(_message.Message):
        __slots__ = ("id", "distance", "crowding_attribute", "sparse_distance")
        ID_FIELD_NUMBER: _ClassVar[int]
        DISTANCE_FIELD_NUMBER: _ClassVar[int]
        CROWDING_ATTRIBUTE_FIELD_NUMBER: _ClassVar[int]
        SPARSE_DISTANCE_FIELD_NUMBER: _ClassVar[int]
        id: str
        distance: float
        crowding_attribute: int
        sparse_distance: float
        def __init__(self, id: _Optional[str] = ..., distance: _Optional[float] = ..., crowding_attribute: _Optional[int] = ..., sparse_distance: _Optional[float] = ...) -> None: ...
    NEIGHBOR_FIELD_NUMBER: _ClassVar[int]
    EMBEDDINGS_FIELD_NUMBER: _ClassVar[int]
    neighbor: _containers.RepeatedCompositeFieldContainer[MatchResponse.Neighbor]
    embeddings: _containers.RepeatedCompositeFieldContainer[Embedding]
    def __init__(self, neighbor: _Optional[_Iterable[_Union[MatchResponse.Neighbor, _Mapping]]] = ..., embeddings: _Optional[_Iterable[_Union[Embedding, _Mapping]]] = ...) -> None: ...

class Embedding(_message.Message):
    __slots__ = ("id", "float_val", "restricts", "crowding_attribute", "numeric_restricts", "sparse_embedding", "embedding_metadata")
    ID_FIELD_NUMBER: _ClassVar[int]
    FLOAT_VAL_FIELD_NUMBER: _ClassVar[int]
    RESTRICTS_FIELD_NUMBER: _ClassVar[int]
    CROWDING_ATTRIBUTE_FIELD_NUMBER: _ClassVar[int]
    NUMERIC_RESTRICTS_FIELD_NUMBER: _ClassVar[int]
    SPARSE_EMBEDDING_FIELD_NUMBER: _ClassVar[int]
    EMBEDDING_METADATA_FIELD_NUMBER: _ClassVar[int]
    id: str
    float_val: _containers.RepeatedScalarFieldContainer[float]
    restricts: _containers.RepeatedCompositeFieldContainer[_likewise_pb2.IndexDatapoint.Restriction]
    crowding_attribute: int
    numeric_restricts: _containers.RepeatedCompositeFieldContainer[_likewise_pb2.IndexDatapoint.NumericRestriction]
    sparse_embedding: _likewise_pb2.IndexDatapoint.SparseEmbedding
    embedding_metadata: _struct_pb2.Struct
    def __init__(self, id: _Optional[str] = ..., float_val: _Optional[_Iterable[float]] = ..., restricts: _Optional[_Iterable[_Union[_likewise_pb2.IndexDatapoint.Restriction, _Mapping]]] = ..., crowding_attribute: _Optional[int] = ..., numeric_restricts: _Optional[_Iterable[_Union[_likewise_pb2.IndexDatapoint.NumericRestriction, _Mapping]]] = ..., sparse_embedding: _Optional[_Union[_likewise_pb2.IndexDatapoint.SparseEmbedding, _Mapping]] = ..., embedding_metadata: _Optional[_Union[_struct_pb2.Struct, _Mapping]] = ...) -> None: ...

class BatchMatchRequest(_message.Message):
    __slots__ = ("requests",)
    class BatchMatchRequestPerIndex(_message.Message):
        __slots__ = ("deployed_index_id", "requests", "low_level_batch_size")
        DEPLOYED_INDEX_ID_FIELD_NUMBER: _ClassVar[int]
        REQUESTS_FIELD_NUMBER: _ClassVar[int]
        LOW_LEVEL_BATCH_SIZE_FIELD_NUMBER: _ClassVar[int]
        deployed_index_id: str
        requests: _containers.RepeatedCompositeFieldContainer[MatchRequest]
        low_level_batch_size: int
        def __init__(self, deployed_index_id: _Optional[str] = ..., requests: _Optional[_Iterable[_Union[MatchRequest, _Mapping]]] = ..., low_level_batch_size: _Optional[int] = ...) -> None: ...
    REQUESTS_FIELD_NUMBER: _ClassVar[int]
    requests: _containers.RepeatedCompositeFieldContainer[BatchMatchRequest.BatchMatchRequestPerIndex]
    def __init__(self, requests: _Optional[_Iterable[_Union[BatchMatchRequest.BatchMatchRequestPerIndex, _Mapping]]] = ...) -> None: ...

class BatchMatchResponse(_message.Message):
    __slots__ = ("responses",)
    class Status(_message.Message):
        __slots__ = ("code", "message")
        CODE_FIELD_NUMBER: _ClassVar[int]
        MESSAGE_FIELD_NUMBER: _ClassVar[int]
        code: int
        message: str
        def __init__(self, code: _Optional[int] = ..., message: _Optional[str] = ...) -> None: ...
    class BatchMatchResponsePerIndex(_message.Message):
        __slots__ = ("deployed_index_id", "responses", "status")
        DEPLOYED_INDEX_ID_FIELD_NUMBER: _ClassVar[int]
        RESPONSES_FIELD_NUMBER: _ClassVar[int]
        STATUS_FIELD_NUMBER: _ClassVar[int]
        deployed_index_id: str
        responses: _containers.RepeatedCompositeFieldContainer[MatchResponse]
        status: BatchMatchResponse.Status
        def __init__(self, deployed_index_id: _Optional[str] = ..., responses: _Optional[_Iterable[_Union[MatchResponse, _Mapping]]] = ..., status: _Optional[_Union[BatchMatchResponse.Status, _Mapping]] = ...) -> None: ...
    RESPONSES_FIELD_NUMBER: _ClassVar[int]
    responses: _containers.RepeatedCompositeFieldContainer[BatchMatchResponse.BatchMatchResponsePerIndex]
    def __init__(self, responses: _Optional[_Iterable[_Union[BatchMatchResponse.BatchMatchResponsePerIndex, _Mapping]]] = ...) -> None: ...

class BatchGetEmbeddingsRequest(_message.Message):
    __slots__ = ("deployed_index_id", "id")
    DEPLOYED_INDEX_ID_FIELD_NUMBER: _ClassVar[int]
    ID_FIELD_NUMBER: _ClassVar[int]
    deployed_index_id: str
    id: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, deployed_index_id: _Optional[str] = ..., id: _Optional[_Iterable[str]] = ...) -> None: ...

class BatchGetEmbeddingsResponse(_message.Message):
    __slots__ = ("embeddings",)
    EMBEDDINGS_FIELD_NUMBER: _ClassVar[int]
    embeddings: _containers.RepeatedCompositeFieldContainer[Embedding]
    def __init__(self, embeddings: _Optional[_Iterable[_Union[Embedding, _Mapping]]] = ...) -> None: ...
