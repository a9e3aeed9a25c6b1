"""The limits and times of a service, who may ask it, and how its listeners are encrypted."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator

from matching.errors import InvalidInput

Algorithm = Literal["RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA", "HS256"]


class AuthSettings(BaseModel):
    """The `auth` section of the settings: without a keys file and a JWKS file, everybody may ask everything."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    keys_file: Path | None = Field(default=None, description="API keys, made by `likewise keys`; none where not set")
    jwks_file: Path | None = Field(
        default=None, description="public keys (JWKS) of JSON Web Tokens; none where not set"
    )
    jwt_issuer: str | None = Field(default=None, description="issuer (`iss`) that a token must name")
    jwt_audience: str | None = Field(default=None, description="audience (`aud`) that a token must name")
    jwt_algorithms: tuple[Algorithm, ...] = Field(
        default=("RS256", "ES256", "EdDSA"), min_length=1, description="algorithms that may sign a token"
    )
    override_keys_file: Path | None = Field(
        default=None, description="keys that sign variant overrides, one a line; no override holds where not set"
    )
    requests_per_s: float | None = Field(
        default=None, gt=0, description="requests a second that one caller may ask; no limit where not set"
    )
    burst: int = Field(default=100, ge=1, description="requests that one caller may ask at once after a pause")
    max_in_flight: int | None = Field(
        default=None, ge=1, description="requests of one caller under way at once; no limit where not set"
    )
    audit_file: Path | None = Field(
        default=None, description="append-only, hash-chained file of who changed what; none where not set"
    )


class TracingSettings(BaseModel):
    """The `tracing` section of the settings: without a collector there are no traces."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    otlp_endpoint: str | None = Field(
        default=None,
        pattern="^https?://",
        description="where spans are sent (OTLP over HTTP), as in `http://collector:4318/v1/traces`; no traces where not set",
    )
    sample_ratio: float = Field(
        default=0.1,
        ge=0,
        le=1,
        description="share of requests that are traced, where the caller's `traceparent` does not say",
    )
    service_name: str = Field(default="likewise", min_length=1, description="what the spans call this service")


class TlsSettings(BaseModel):
    """The `tls` section of the settings, for the HTTP and the gRPC listener alike."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    certificate_file: Path | None = Field(default=None, description="certificate chain (PEM); no TLS where not set")
    key_file: Path | None = Field(default=None, description="the certificate's private key (PEM), not encrypted")
    client_ca_file: Path | None = Field(
        default=None, description="authorities (PEM) of client certificates; none are asked for where not set"
    )


class RecommendSettings(BaseModel):
    """The `recommend` section of the settings."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    sources: dict[str, float] = Field(
        default={},
        description="trained sources to ask, and `content`, with their weights in the blend; 0 only fills places that are left",
    )
    surfaces: dict[str, dict[str, float]] = Field(
        default={}, description="weights of a surface, as in `surfaces.basket`, in place of those for all"
    )
    content_space: str | None = Field(
        default=None,
        description="space of content neighbours; fused, text or image, or the only one, where not set",
    )
    rules: str = Field(
        default="",
        description="alias of the rules of the shop, put by `likewise rules put`; a variant's knob `rules` names others",
    )
    page_key_file: Path | None = Field(
        default=None,
        description="secrets that sign page tokens, one a line; replicas share it; made at each start where not set",
    )
    max_acts: int = Field(default=50, ge=1, le=1000, description="acts that are remembered of a user or a visit")
    max_users: int = Field(
        default=1_000_000,
        ge=1,
        description="users and visits whose acts are remembered in memory; Redis has redis_ttl_s",
    )
    redis: str | None = Field(
        default=None,
        pattern="^rediss?://[^@]+$",
        description="Redis that keeps them in place of the memory of each replica, as in `redis://host:6379/0`",
    )
    redis_user: str | None = Field(default=None, description="who asks it, where that is not `default`")
    redis_password_file: Path | None = Field(default=None, description="file with the password of who asks it")
    redis_timeout_s: float = Field(
        default=0.05, gt=0, le=10, description="a recommendation waits for it so long, and then goes on without history"
    )
    redis_ttl_s: int = Field(
        default=7_776_000, ge=60, description="it forgets a user or a visit of whom nothing was told for so long"
    )

    @field_validator("sources", "surfaces")
    @classmethod
    def _no_negative_weights(cls, value: dict[str, Any]) -> dict[str, Any]:
        tables = [each for each in value.values() if isinstance(each, dict)] or [value]
        if any(not 0 <= weight < float("inf") for table in tables for weight in table.values() if value):
            raise ValueError("expected weights of 0 or more")
        return value


class EventSettings(BaseModel):
    """The `events` section of the settings: without a log a service takes no events."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    log: Path | str | None = Field(
        default=None,
        description="SQLite file of the log of events, or `postgresql://user@host/database` that replicas share; a service "
        "without one takes no events",
    )
    user_key_file: Path | None = Field(
        default=None,
        description="secret of the keyed hashes that stand for users, made where it is missing; beside a SQLite log, as "
        "`LOG.key`, where not set",
    )
    max_batch: int = Field(default=1000, ge=1, description="events in one request")
    max_items: int = Field(default=200, ge=1, description="items of one event")
    max_age_s: float = Field(
        default=604_800.0, gt=0, description="events that happened longer ago are rejected as late"
    )
    max_ahead_s: float = Field(
        default=300.0, ge=0, description="clocks that are ahead by at most this are taken for now; others are rejected"
    )
    max_per_minute: int = Field(
        default=600, ge=1, description="events of one user, or session of nobody known, in a minute; more are rejected"
    )
    unknown_items: Literal["keep", "reject"] = Field(
        default="keep", description="what becomes of events whose items are not served; they are counted either way"
    )
    signed_impressions: bool = Field(
        default=False,
        description="keep a click or impression as `unverified_click` or `unverified_impression`, which count nowhere, unless "
        "its recommendationId was given out for its items to who acts",
    )
    follow_s: float = Field(
        default=0.2, gt=0, le=60, description="how often the log is asked what others have appended or erased"
    )

    stream: str | None = Field(
        default=None,
        pattern="^(nats|tls)://[^@/]+$",
        description="broker whose stream events are taken from too, as in `nats://host:4222`; serving.log_user and the files "
        "beside it say who asks",
    )
    stream_name: str = Field(
        default="likewise-events",
        pattern="^[A-Za-z0-9_-]+$",
        description="JetStream stream, and its subject where it is made, that holds request bodies of `/v1/events`",
    )

    @field_validator("log", mode="before")
    @classmethod
    def _file_or_address(cls, value: Any) -> Any:
        if not isinstance(value, str):
            return value
        if "://" not in value:
            return Path(value)
        scheme, _, rest = value.partition("://")
        if scheme != "postgresql" or not rest or ":" in rest.partition("@")[0] * ("@" in rest):
            raise ValueError(
                "expected a file, or postgresql://user@host/database without a password, which PGPASSWORD or ~/.pgpass holds"
            )
        return value

    @property
    def user_keys(self) -> Path:
        """The file of the secret.

        Raises:
            InvalidInput: it is not said, and there is no place for it.
        """
        if self.user_key_file is not None:
            return self.user_key_file
        if isinstance(self.log, Path):
            return self.log.with_name(f"{self.log.name}.key")
        raise InvalidInput(
            "[events] events.user_key_file is not set; expected a file that all replicas have; name one, it is made"
        )


class ServingSettings(BaseModel):
    """The `serving` section of the settings."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    max_k: int = Field(default=1000, ge=1, description="neighbors a query may ask for")
    tables: tuple[Path, ...] = Field(
        default=(),
        description="folders of neighbors that `likewise export neighbors --format sealed` wrote, to answer similar items from",
    )
    max_queries: int = Field(default=100, ge=1, description="queries in one find-neighbors request")
    max_neighbors: int = Field(default=20_000, ge=1, description="neighbors that the queries of one request ask for")
    max_full_neighbors: int = Field(
        default=2_000, ge=1, description="neighbors of one request that come with their datapoints"
    )
    max_ids: int = Field(default=1000, ge=1, description="datapoint ids in one read")
    write_log: Path | str | None = Field(
        default=None,
        description="folder of the write log, or `nats://host:port` (several with commas) of a broker whose streams replicas "
        "share; a service without one takes no writes",
    )
    log_user: str | None = Field(default=None, description="user of the broker")
    log_password_file: Path | None = Field(default=None, description="holds the user's password, and nothing else")
    log_credentials_file: Path | None = Field(
        default=None, description="JWT and seed for the broker, as `nsc` writes them"
    )
    log_ca_file: Path | None = Field(default=None, description="authorities (PEM) of the broker's certificate")
    log_certificate_file: Path | None = Field(default=None, description="certificate (PEM) to show to the broker")
    log_key_file: Path | None = Field(default=None, description="the certificate's private key (PEM), not encrypted")
    log_copies: int = Field(default=1, ge=1, le=5, description="brokers of a cluster that keep a new stream")
    log_duplicate_window_s: float = Field(
        default=600.0, gt=0, description="how long the broker of a new stream remembers request ids"
    )
    log_timeout_s: float = Field(
        default=5.0, gt=0, description="a write that the broker has not acknowledged by then fails"
    )
    max_lag_s: float = Field(
        default=5.0,
        ge=2,
        description="a replica that is behind its stream for longer is not ready until it has caught up",
    )
    max_lag_writes: int = Field(default=100_000, ge=1, description="likewise, by writes that it has not applied")
    follow_s: float = Field(default=0.5, gt=0, description="how often the store is asked whether an alias has moved")
    activation_s: float = Field(default=300.0, gt=0, description="a new version is tried, opened and warm by then")
    version_memory_bytes: int | None = Field(
        default=None,
        ge=0,
        description="memory for the versions served and the next one, which is refused where it would take more; what the "
        "machine and the control group leave where not set",
    )
    partial_answers: bool = Field(
        default=False,
        description="where a shard cannot be read, answer from the others and say so; else such a version is refused",
    )
    shadow_queue: int = Field(default=64, ge=1, description="requests that wait to be copied to a shadow; more are not")
    compact_after_writes: int = Field(
        default=100_000,
        ge=0,
        description="writes after which they are folded into the next version, in the background; never where 0",
    )
    compact_after_frac: float = Field(
        default=0.1, ge=0, description="and at least so large a share of the version's datapoints"
    )
    log_keeps_versions: int | None = Field(
        default=None,
        ge=2,
        description="versions of each alias that the log reaches back to after a compaction; nothing is dropped where not set",
    )
    vertex_domain_name: str = Field(
        default="",
        description="host and port that clients of Vertex are told as an endpoint's domain; as they found us where not set",
    )
    max_writes: int = Field(default=1000, ge=1, description="datapoints in one upsert or removal")
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
    send_deadline_s: float = Field(default=10.0, gt=0, description="a client must have taken what was sent by then")
    max_connections: int = Field(default=1000, ge=1, description="HTTP connections held at once")
    max_header_bytes: int = Field(
        default=32 * 1024, ge=1024, description="bytes of a request's address and headers, or of gRPC metadata"
    )
    max_in_flight: int = Field(default=512, ge=1, description="requests under way at once; more are refused")
    max_in_flight_bytes: int = Field(
        default=2**28, ge=1024, description="bodies of all requests under way, by what they announce; more are refused"
    )
    max_wait_s: float = Field(
        default=0.5, gt=0, description="a request that would wait longer for its turn is refused at once"
    )
    grpc_server: Literal["auto", "own", "grpcio"] = Field(
        default="auto",
        description="what answers gRPC: connections of our own over nghttp2, grpcio's server, or the first where there is it",
    )
    grpc_streams: int = Field(
        default=32,
        ge=1,
        description="gRPC calls at once on one connection; more wait at the client",
    )
    grpc_backlog: int = Field(
        default=64,
        ge=1,
        description="calls that wait for grpcio's server to look at them; more are cancelled, which costs next to nothing",
    )
    grpc_connection_age_s: int = Field(
        default=3600,
        ge=1,
        description="a gRPC connection is closed after that, so that callers spread over replicas again",
    )
    grpc_keepalive_s: int = Field(
        default=60, ge=1, description="a silent gRPC connection is asked after that whether it lives"
    )
    search_threads: int = Field(default=2, ge=1, description="threads for searches too long for the event loop")
    inline_multiply_adds: int = Field(
        default=2_000_000, ge=0, description="a search of at most this many multiply-adds runs on the event loop"
    )
    encoder_threads: int = Field(default=1, ge=1, description="threads of the encoder process")
    encoder_queue: int = Field(default=64, ge=1, description="contents that wait to be encoded; more are refused")
    encoder_batch: int = Field(default=16, ge=1, description="contents encoded together")
    encoder_stuck_s: float = Field(default=30.0, gt=0, description="an encoder silent for this long is replaced")
    recall_share: float = Field(
        default=0.02,
        ge=0,
        le=0.5,
        description="share of one core that measures live recall by exact searches; 0 for none",
    )
    drain_s: float = Field(default=5.0, ge=0, le=8, description="what requests in flight have left after SIGTERM")
    accept_insecure_network: bool = Field(
        default=False,
        description="listen beyond this machine without authentication or TLS: on a private network, behind a proxy with both",
    )

    @field_validator("write_log", mode="before")
    @classmethod
    def _folder_or_address(cls, value: Any) -> Any:
        if not isinstance(value, str):
            return value
        if "://" not in value:
            return Path(value)
        for server in value.split(","):
            scheme, _, rest = server.partition("://")
            if scheme not in ("nats", "tls") or not rest or set("@/?# ") & set(rest):
                raise ValueError(
                    "expected a folder, or nats://host:port or tls://host:port without credentials (log_user and "
                    "log_password_file, or log_credentials_file, say who asks)"
                )
        return value

    @property
    def log_folder(self) -> Path | None:
        """The folder of the write log, None where it is on a broker or there is none."""
        return self.write_log if isinstance(self.write_log, Path) else None
