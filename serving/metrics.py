"""What a service counts, each thing in one place. Labels are bounded sets, never an id."""

from __future__ import annotations

import contextlib
import functools
import shutil
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector, generate_latest

from matching.live import LiveIndex
from matching.version import IndexVersion, SearchResult
from serving.admission import Admission
from serving.event_follower import EventLag
from serving.event_intake import KNOWN_TYPES
from serving.freshness import Freshness
from serving.lag import Lag
from serving.live_recall import LiveRecall
from serving.query import NeighborQuery

_SECONDS = (0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0)
_REASONS = {  # of answers that are refusals; HTTP status or gRPC code
    "401": "unauthenticated",
    "403": "forbidden",
    "408": "slow_client",
    "413": "limit",
    "429": "rate_limit",
    "503": "unavailable",
    "504": "deadline",
    "507": "storage_full",
    "UNAUTHENTICATED": "unauthenticated",
    "PERMISSION_DENIED": "forbidden",
    "RESOURCE_EXHAUSTED": "limit",
    "UNAVAILABLE": "unavailable",
    "DEADLINE_EXCEEDED": "deadline",
}
CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"


class Metrics:
    """The counters of one service. Thread-safe."""

    def __init__(self) -> None:
        self._registry = registry = CollectorRegistry()
        self._watched: list[Callable[[], None]] = []
        ProcessCollector(registry=registry)
        self._requests = Counter(
            "likewise_requests", "Requests answered", ["transport", "endpoint", "code"], registry=registry
        )
        self._request_seconds = Histogram(
            "likewise_request_seconds",
            "Time from a request's first byte to its answer's last",
            ["transport", "endpoint"],
            buckets=_SECONDS,
            registry=registry,
        )
        self._refused = Counter(
            "likewise_refused_requests",
            "Requests, connections and calls that were refused, by why",
            ["transport", "reason"],
            registry=registry,
        )
        self._queries = Counter(
            "likewise_queries", "Queries searched, a batch counts each", ["plan"], registry=registry
        )
        self._search_seconds = Histogram(
            "likewise_search_seconds", "Time of one search call", ["plan"], buckets=_SECONDS, registry=registry
        )
        self._encoded = Counter(
            "likewise_encoded_contents", "Contents encoded for queries", ["space"], registry=registry
        )
        self._encode_seconds = Histogram(
            "likewise_encode_seconds",
            "Time of one batch in the encoder process",
            ["space"],
            buckets=_SECONDS,
            registry=registry,
        )
        self._encoder_restarts = Counter(
            "likewise_encoder_restarts", "Times the encoder process was started again", registry=registry
        )
        self._encoder_waiting = Gauge(
            "likewise_encoder_waiting_contents", "Contents that wait to be encoded", registry=registry
        )
        self._in_flight = Gauge("likewise_in_flight_requests", "Requests and calls under way", registry=registry)
        self._waiting = Gauge(
            "likewise_waiting_requests", "Requests that are there and not answered yet", ["lane"], registry=registry
        )
        self._wait_seconds = Gauge(
            "likewise_wait_seconds",
            "How long a new request would wait, as the service estimates",
            ["lane"],
            registry=registry,
        )
        self._is_ready = Gauge("likewise_ready", "1 while the service takes requests", registry=registry)
        self._datapoints = Gauge("likewise_index_datapoints", "Datapoints of the served version", registry=registry)
        self._created = Gauge(
            "likewise_index_created_timestamp_seconds", "When the served version was built", registry=registry
        )
        self._time = Gauge("likewise_time_seconds", "The service's clock, seconds since 1970", registry=registry)
        self._short = Counter(
            "likewise_short_results", "Queries that got fewer neighbors than they asked for", ["why"], registry=registry
        )
        self._recall_queries = Counter(
            "likewise_recall_queries", "Answered queries that were asked again, exactly", ["plan"], registry=registry
        )
        self._recall_wanted = Counter(
            "likewise_recall_wanted_neighbors",
            "Neighbors that those queries should have got",
            ["plan"],
            registry=registry,
        )
        self._recall_right = Counter(
            "likewise_recall_right_neighbors", "Neighbors of them that they got", ["plan"], registry=registry
        )
        self._recall = Gauge(
            "likewise_live_recall",
            "Recall of the newest such queries, with its 95 % confidence interval",
            ["plan", "bound"],
            registry=registry,
        )
        self._visible_seconds = Histogram(
            "likewise_write_visible_seconds",
            "From the acknowledgement of a write to the first search that sees it, of a sample",
            buckets=_SECONDS,
            registry=registry,
        )
        self._unapplied = Gauge(
            "likewise_unapplied_writes", "Writes on disk that no search sees yet", registry=registry
        )
        self._changes = Gauge(
            "likewise_live_changes", "Writes since the base that the next version has to take in", registry=registry
        )
        self._write_failure = Gauge(
            "likewise_writes_stopped", "1 while no writes are taken any more", registry=registry
        )
        self._log_bytes = Gauge("likewise_write_log_bytes", "What the write log takes on disk", registry=registry)
        self._free_bytes = Gauge(
            "likewise_disk_free_bytes",
            "What is free on the disk of the write log or the store",
            ["of"],
            registry=registry,
        )
        self._position = Gauge(
            "likewise_log_position", "The last write of the stream that searches see", registry=registry
        )
        self._lag_writes = Gauge(
            "likewise_log_lag_writes", "Writes that the stream is known to hold beyond it, at least", registry=registry
        )
        self._lag_seconds = Gauge(
            "likewise_log_lag_seconds", "Time since this replica was level with its stream", registry=registry
        )
        self._is_log_reachable = Gauge(
            "likewise_log_reachable", "1 while the broker of the stream answers", registry=registry
        )
        self._freshness: Freshness | None = None
        self._live_recall: LiveRecall | None = None
        self._answers = Counter(
            "likewise_variant_answers", "Searches answered by a variant", ["served", "variant"], registry=registry
        )
        self._degraded = Counter(
            "likewise_degraded_answers",
            "Searches answered from a part of the datapoints",
            ["served", "variant"],
            registry=registry,
        )
        self._coverage = Gauge(
            "likewise_coverage",
            "Share of the datapoints that searches see, 0 where they are refused",
            ["served", "variant"],
            registry=registry,
        )
        self._versions: dict[str, tuple[int, float]] = {}
        self._covered: dict[str, Mapping[str, float]] = {}
        self._mirrored = Counter(
            "likewise_shadow_requests", "Copies of requests for a shadow", ["variant", "outcome"], registry=registry
        )
        self._switches = Counter(
            "likewise_version_switches", "Times what is served was exchanged", ["served"], registry=registry
        )
        self._events = Counter(
            "likewise_events", "Events told, by what became of them", ["event_type", "outcome"], registry=registry
        )
        self._odd_events = Counter("likewise_odd_events", "Events that are odd, by why", ["reason"], registry=registry)
        self._lost_histories = Counter(
            "likewise_lost_histories",
            "Recommendations without what is known of who asked, because Redis did not answer",
            registry=registry,
        )
        self._event_lag = Gauge(
            "likewise_event_log_lag_events",
            "Events and erasures in the log of events that recommendations do not know of yet",
            registry=registry,
        )
        self._event_lag_seconds = Gauge(
            "likewise_event_log_lag_seconds",
            "Time since what is known of users was level with the log of events",
            registry=registry,
        )
        self._is_event_log_reachable = Gauge(
            "likewise_event_log_reachable",
            "1 while the log of events, and what keeps the users, answer",
            registry=registry,
        )
        self._of_event = functools.cache(self._events.labels)
        self._refusals = Counter(
            "likewise_version_refusals", "Versions that were asked for and not served", ["served"], registry=registry
        )
        self._serving = Gauge(
            "likewise_variant_version",
            "1 for what is served",
            ["served", "variant", "index_version"],
            registry=registry,
        )
        self._served: dict[str, Mapping[str, str]] = {}
        # prometheus_client checks labels anew each time; they are few, so what it finds is kept.
        self._of_request = functools.cache(
            lambda transport, endpoint, code: (
                self._requests.labels(transport, endpoint, code),
                self._request_seconds.labels(transport, endpoint),
                self._refused.labels(transport, _REASONS[code]) if code in _REASONS else None,
            )
        )
        self._of_refusal = functools.cache(self._refused.labels)
        self._of_variant = functools.cache(self._answers.labels)
        self._of_plan = functools.cache(lambda plan: (self._queries.labels(plan), self._search_seconds.labels(plan)))

    def requested(self, transport: str, endpoint: str, code: str, seconds: float, *, reason: str | None = None) -> None:
        """Count an answered request; `reason` is why it was refused, where its code does not tell."""
        counter, histogram, refused = self._of_request(transport, endpoint, code)
        counter.inc()
        histogram.observe(seconds)
        if reason is not None:
            self._of_refusal(transport, reason).inc()
        elif refused is not None:
            refused.inc()

    def refused(self, transport: str, reason: str) -> None:
        """Count what was refused before it was a request: at the head, at the door, or for want of a reader."""
        self._of_refusal(transport, reason).inc()

    def searched(self, plan: str, n_queries: int, seconds: float) -> None:
        """Count a search call."""
        counter, histogram = self._of_plan(plan)
        counter.inc(n_queries)
        histogram.observe(seconds)

    def sample(self, live_recall: LiveRecall | None, freshness: Freshness) -> None:
        """Hand searches and writes on to what looks closer at a sample of them."""
        self._live_recall, self._freshness = live_recall, freshness

    def found(self, version: IndexVersion, queries: Sequence[NeighborQuery], space: str, result: SearchResult) -> None:
        """Count queries that got fewer neighbors than they asked for, and hand them on."""
        for query, neighbors in zip(queries, result.neighbors, strict=True):
            if len(neighbors) < query.options.k:
                self._short.labels(_why_short(query, result.n_matching)).inc()
        if self._live_recall is not None:
            self._live_recall.found(version, queries, space, result)

    def recalled(self, plan: str, n_right: int, n_wanted: int) -> None:
        """Count a query that was asked again."""
        self._recall_queries.labels(plan).inc()
        self._recall_right.labels(plan).inc(n_right)
        self._recall_wanted.labels(plan).inc(n_wanted)

    def wrote(self, live: LiveIndex, sequence: int) -> None:
        """Hand an acknowledged write on."""
        if self._freshness is not None:
            self._freshness.acknowledged(live, sequence)

    def visible(self, seconds: float) -> None:
        """Count a write that searches see now."""
        self._visible_seconds.observe(seconds)

    def lives(self, lives: Iterable[LiveIndex]) -> None:
        """Set how far what takes writes has come."""
        held = tuple(lives)
        self._unapplied.set(sum(live.n_unapplied for live in held))
        self._changes.set(sum(live.n_written for live in held))
        self._write_failure.set(any(live.failure is not None for live in held))

    def follows(self, lags: Iterable[Lag]) -> None:
        """Set how far behind their streams the deployments of this replica are."""
        for lag in sorted(lags, key=lambda lag: lag.seconds):  # the worst is told
            self._position.set(lag.position)
            self._lag_writes.set(lag.n_writes)
            self._lag_seconds.set(lag.seconds)
            self._is_log_reachable.set(lag.is_reachable)

    def stores(self, folders: Mapping[str, Path | None]) -> None:
        """Set what disks have left, by what lies on them: `log`, `store`."""
        for of, folder in folders.items():
            if folder is not None and folder.is_dir():
                self._free_bytes.labels(of).set(shutil.disk_usage(folder).free)
        log = folders.get("log")
        self._log_bytes.set(0 if log is None else _bytes_on_disk(log))

    def encoded(self, space: str, n_contents: int, seconds: float) -> None:
        """Count a batch that the encoder process finished."""
        self._encoded.labels(space).inc(n_contents)
        self._encode_seconds.labels(space).observe(seconds)

    def restarted(self) -> None:
        """Count a new start of the encoder process."""
        self._encoder_restarts.inc()

    def answered(self, endpoint: str, variant: str, *, is_degraded: bool) -> None:
        """Count a search that a variant answered."""
        self._of_variant(endpoint, variant).inc()
        if is_degraded:
            self._degraded.labels(endpoint, variant).inc()

    def covers(self, endpoint: str, coverage: Mapping[str, float]) -> None:
        """Set what share of its datapoints each variant can search."""
        for variant in self._covered.get(endpoint, {}).keys() - coverage.keys():
            self._coverage.remove(endpoint, variant)
        for variant, share in coverage.items():
            self._coverage.labels(endpoint, variant).set(share)
        self._covered[endpoint] = dict(coverage)

    def mirrored(self, variant: str, outcome: str) -> None:
        """Count a copy of a request for a shadow."""
        self._mirrored.labels(variant, outcome).inc()

    def switched(self, endpoint: str, versions: Mapping[str, str]) -> None:
        """Set which version each variant answers from."""
        before = self._served.get(endpoint)
        for variant, version_id in (before or {}).items():
            self._serving.remove(endpoint, variant, version_id)
        for variant, version_id in versions.items():
            self._serving.labels(endpoint, variant, version_id).set(1)
        self._switches.labels(endpoint).inc(before is not None)
        self._served[endpoint] = dict(versions)

    def took_events(self, event_type: str, outcome: str, n: int) -> None:
        """Count events: accepted, duplicate, or why they were rejected."""
        self._of_event(event_type if event_type in KNOWN_TYPES else "other", outcome).inc(n)

    def odd_event(self, reason: str) -> None:
        """Count an event that is odd: `unknown_item`, `ahead`, `unverified`."""
        self._odd_events.labels(reason).inc()

    def lost_history(self) -> None:
        """Count a recommendation without what is known of who asked."""
        self._lost_histories.inc()

    def followed(self, lag: EventLag) -> None:
        """Set how far what is known of users is behind the log of events."""
        self._event_lag.set(lag.n_events)
        self._event_lag_seconds.set(lag.seconds)
        self._is_event_log_reachable.set(lag.is_reachable)

    def refused_version(self, endpoint: str) -> None:
        """Count a version that was asked for and is not served."""
        self._refusals.labels(endpoint).inc()

    def serves(self, endpoint: str, n_datapoints: int, created_timestamp_s: float) -> None:
        """Set what is being served: the datapoints of all endpoints, and when the oldest of their versions was built."""
        self._versions[endpoint] = n_datapoints, created_timestamp_s
        self._datapoints.set(sum(n for n, _ in self._versions.values()))
        self._created.set(min(created for _, created in self._versions.values()))

    def watch(self, update: Callable[[], None]) -> None:
        """Call something before each exposition: it sets what can be read at any time and need not be counted."""
        self._watched.append(update)

    def loaded(self, admission: Admission) -> None:
        """Set what is under way."""
        self._in_flight.set(admission.n_in_flight)
        for lane, (n_waiting, wait_s) in admission.waits().items():
            self._waiting.labels(lane).set(n_waiting)
            self._wait_seconds.labels(lane).set(wait_s)

    def exposition(self, *, is_ready: bool, n_waiting: int) -> bytes:
        """Return everything in Prometheus's text format."""
        self._time.set(time.time())
        for update in self._watched:
            update()
        if self._live_recall is not None:
            for plan, recall in self._live_recall.estimates().items():
                for bound, value in (("estimate", recall.estimate), ("low", recall.low), ("high", recall.high)):
                    self._recall.labels(plan, bound).set(value)
        self._is_ready.set(is_ready)
        self._encoder_waiting.set(n_waiting)
        return generate_latest(self._registry)


def _why_short(query: NeighborQuery, n_matching: int) -> str:
    if n_matching < query.options.k:
        return "filter" if query.options.filter else "catalog"
    if query.options.crowding_cap:
        return "crowding"
    is_sparse_alone = query.vector is None and query.sparse is not None
    return "sparse" if is_sparse_alone or query.options.fusion is not None else "search"


def _bytes_on_disk(folder: Path) -> int:
    total = 0
    for file in folder.rglob("*"):
        with contextlib.suppress(FileNotFoundError):  # truncated meanwhile
            total += file.stat().st_blocks * 512
    return total
