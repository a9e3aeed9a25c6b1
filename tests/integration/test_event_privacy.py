"""Who users are, and what they are called, is told to nobody: not in logs, metrics, traces, answers that refuse, or on disk."""

from __future__ import annotations

import contextlib
import json
import random
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest

from serving.wire import likewise_pb2 as pb
from serving.wire.likewise_pb2_grpc import EventServiceStub, RecommendationServiceStub
from tests.integration.test_tracing import Collector
from tests.services import Shop, Start
from tests.waiting import wait_until

CANARIES = (
    "canary.person@example.org",
    "+43 660 1234567 canary",
    "4111-1111-1111-1111-canary",
    "sk_live_canary51H8",
    "eyJhbGciOiJIUzI1NiJ9.canary.c2ln",
)
ITEM = [{"itemId": "item-0007"}]


@contextlib.contextmanager
def collecting() -> Iterator[Collector]:
    """Run a collector of traces."""
    with Collector() as collector:
        thread = threading.Thread(target=collector.serve_forever)
        thread.start()
        yield collector
        collector.shutdown()
        thread.join()


def bodies(user: str, number: int) -> list[tuple[str, Any]]:
    """Return requests of all kinds that name a user: good ones, and ones that are refused for each reason there is."""
    event = {"eventId": f"e{number}", "eventType": "view", "userId": user, "items": ITEM}
    return [
        ("/v1/events", {"events": [event]}),
        ("/v1/events", {"events": [event | {"eventId": "", "sessionId": "s"}]}),
        ("/v1/events", {"events": [event | {"atMs": 1}, event | {"atMs": 1 << 50}]}),
        ("/v1/events", {"events": [event | {"userId": [user]}, {"userId": user * 20}, user]}),
        ("/v1/events", {"events": [event | {"userId": user + "\0"}, event | {"items": user}]}),
        ("/v1/events", {"events": event, "userId": user}),
        ("/v1/events", json.dumps({"events": [event]}).encode()[:-3]),
        ("/v1/recommend", {"userId": user, "k": 3}),
        ("/v1/recommend", {"userId": user, "k": -1}),
        ("/v1/recommend", {"userId": user * 90, "k": 3}),
        ("/v1/recommend", {"userId": [user], "k": 3}),
        ("/v1/recommend", {"userId": {"id": user}, "surface": "none"}),
        ("/v1/recommend", {"userId": user, "surface": "none"}),
        ("/v1/recommend", {"userId": user, "restricts": "x"}),
    ]


@pytest.mark.parametrize("n_rounds", [4, pytest.param(75, marks=pytest.mark.slow)])
def test_no_user_is_told(vector_shop: Shop, start_service: Start, tmp_path: Path, n_rounds: int) -> None:
    chance = random.Random(5)
    log = tmp_path / "events.sqlite"
    n_asked = 0
    with (
        collecting() as collector,
        start_service(
            vector_shop,
            events={"log": str(log)},
            tracing={"otlp_endpoint": collector.endpoint, "sample_ratio": 1.0},
        ) as service,
    ):
        service.wait_until_ready()
        for number in range(n_rounds):
            user = chance.choice(CANARIES)
            for path, body in bodies(user, number):
                status, headers, answer = service.ask("POST", path, body)
                assert "canary" not in repr((status, str(headers), answer)), (body, answer)
                n_asked += 1
            answer = service.ask("GET", f"/v1/items/item-0007/similar?userId={user.split()[0]}")[2]
            assert "canary" not in repr(answer), answer
        with grpc.insecure_channel(service.grpc) as channel:
            for user in CANARIES:
                for asked in (pb.RecommendRequest(user_id=user, k=-1), pb.RecommendRequest(user_id=user * 90)):
                    with pytest.raises(grpc.RpcError) as told:
                        RecommendationServiceStub(channel).Recommend(asked)
                    assert "canary" not in str(told.value)
                events = [pb.Event(event_id="g", event_type="No Type", user_id=user)]
                assert "canary" not in str(EventServiceStub(channel).WriteEvents(pb.WriteEventsRequest(events=events)))
        metrics = service.ask("GET", "/metrics")[2]
        wait_until(lambda: len(collector.spans()) >= n_asked, "the traces")
        traces = b"".join(request.SerializeToString() for request in collector.requests)
    assert b"canary" not in metrics
    assert b"canary" not in traces
    assert b"canary" not in service.log.read_bytes()
    for file in log.parent.iterdir():
        assert b"canary" not in file.read_bytes(), file
