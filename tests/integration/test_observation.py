"""What a service's metrics say of its searches and writes: live recall, short results, the way of a write."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np

from tests.services import Service, Shop, Start
from tests.waiting import wait_until


def metric(service: Service, name: str, **labels: str) -> float:
    """Return a metric's value, 0 where it is not there yet."""
    for line in service.ask("GET", "/metrics")[2].decode().splitlines():
        found = re.fullmatch(r"(\w+)(?:\{(.*)\})? (\S+)", line)
        if found and found[1] == name and dict(re.findall(r'(\w+)="([^"]*)"', found[2] or "")) == labels:
            return float(found[3])
    return 0.0


def test_live_recall_is_that_of_the_answers(graph_shop: Shop, start_service: Start) -> None:
    """With next to no effort the graph misses neighbors, and the metric says so; with much of it, none."""
    rng = np.random.default_rng(3)
    with start_service(graph_shop, recall_share=0.5) as service:
        service.wait_until_ready()

        def ask(effort: int) -> None:
            vector = rng.normal(size=64).tolist()
            query = {
                "datapoint": {"featureVector": vector},
                "neighborCount": 20,
                "approximateNeighborCount": effort,
            }
            assert service.ask("POST", "/v1/findNeighbors", {"queries": [query]})[0] == 200

        def sampled() -> float:
            return metric(service, "likewise_recall_queries_total", plan="graph")

        while sampled() < 15:
            ask(2000)
        right = metric(service, "likewise_recall_right_neighbors_total", plan="graph")
        wanted = metric(service, "likewise_recall_wanted_neighbors_total", plan="graph")
        assert right / wanted > 0.97
        while sampled() < 60:
            ask(1)
        low, estimate, high = (
            metric(service, "likewise_live_recall", plan="graph", bound=bound) for bound in ("low", "estimate", "high")
        )
        assert low < estimate < high
        assert estimate < right / wanted


def test_short_results_are_told_apart(vector_service: Service) -> None:
    def ask(why: str, **query: object) -> None:
        before = metric(vector_service, "likewise_short_results_total", why=why)
        asked = {"datapoint": {"featureVector": [1.0] * 8}, **query}
        assert vector_service.ask("POST", "/v1/findNeighbors", {"queries": [asked]})[0] == 200
        assert metric(vector_service, "likewise_short_results_total", why=why) == before + 1

    rare = {"featureVector": [1.0] * 8, "restricts": [{"namespace": "color", "allowList": ["pink"]}]}
    ask("filter", datapoint=rare, neighborCount=5)
    ask("catalog", neighborCount=301)
    ask("crowding", neighborCount=50, perCrowdingAttributeNeighborCount=2)


def test_the_way_of_a_write_is_seen(vector_shop: Shop, start_service: Start, tmp_path: Path) -> None:
    with start_service(vector_shop, write_log=str(tmp_path)) as service:
        service.wait_until_ready()
        assert metric(service, "likewise_writes_stopped") == 0
        changes = [{"datapointId": f"new-{at}", "featureVector": [float(at)] * 8} for at in range(5)]
        for change in changes:
            assert service.ask("POST", "/v1/upsertDatapoints", {"datapoints": [change]})[0] == 200
        wait_until(lambda: metric(service, "likewise_unapplied_writes") == 0, limit_s=30)
        assert metric(service, "likewise_live_changes") == len(changes)
        wait_until(lambda: metric(service, "likewise_write_visible_seconds_count") >= 1, limit_s=30)
        assert metric(service, "likewise_write_log_bytes") > 0
        assert metric(service, "likewise_disk_free_bytes", of="log") > 0
        assert metric(service, "likewise_disk_free_bytes", of="store") > 0


def test_labels_of_metrics_do_not_come_from_callers(vector_service: Service) -> None:
    """Whatever is asked for, the series stay as few as they are."""

    def series() -> set[str]:
        text = vector_service.ask("GET", "/metrics")[2].decode()
        return {line.rpartition(" ")[0] for line in text.splitlines() if not line.startswith("#")}

    def ask(at: int) -> None:
        vector_service.ask("GET", f"/v1/nothing-{at}")
        vector_service.ask("GET", f"/v1/items/x{at}/similar")
        vector_service.ask("POST", f"/v1/e{at}:findNeighbors", {"queries": []})
        query = {"datapoint": {"datapointId": f"x{at}"}, "space": f"s{at}"}
        vector_service.ask("POST", "/v1/findNeighbors", {"queries": [query]})

    ask(0)
    before = series()
    for at in range(1, 40):
        ask(at)
    assert series() == before
