"""The limits and times of a service."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field


class ServingSettings(BaseModel):
    """The `serving` section of the settings."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    max_k: int = Field(default=1000, ge=1, description="neighbors a query may ask for")
    max_queries: int = Field(default=100, ge=1, description="queries in one find-neighbors request")
    max_ids: int = Field(default=1000, ge=1, description="datapoint ids in one read")
    max_text_chars: int = Field(default=2000, ge=1, description="characters of a text query")
    max_image_bytes: int = Field(default=10 * 2**20, ge=1024, description="bytes of an uploaded picture")
    max_json_bytes: int = Field(default=8 * 2**20, ge=1024, description="bytes of a JSON body or a gRPC message")
    max_json_depth: int = Field(default=32, ge=4, description="nesting of a JSON body")
    max_restricts: int = Field(default=64, ge=1, description="namespaces a query may restrict")
    max_tokens: int = Field(
        default=1024, ge=1, description="allow and deny tokens of one query, all namespaces together"
    )
    receive_deadline_s: float = Field(default=10.0, gt=0, description="a request must have arrived in full by then")
    request_deadline_s: float = Field(default=10.0, gt=0, description="a request is answered, or refused, by then")
    max_connections: int = Field(default=1000, ge=1, description="HTTP connections held at once")
    search_threads: int = Field(default=2, ge=1, description="threads for searches too long for the event loop")
    inline_multiply_adds: int = Field(
        default=2_000_000, ge=0, description="a search of at most this many multiply-adds runs on the event loop"
    )
    encoder_threads: int = Field(default=1, ge=1, description="threads of the encoder process")
    encoder_queue: int = Field(default=64, ge=1, description="contents that wait to be encoded; more are refused")
    encoder_batch: int = Field(default=16, ge=1, description="contents encoded together")
    encoder_stuck_s: float = Field(default=30.0, gt=0, description="an encoder silent for this long is replaced")
    drain_s: float = Field(default=5.0, ge=0, le=8, description="what requests in flight have left after SIGTERM")
