"""Google's client gets, lists, deploys and undeploys; a deployed index that is named answers, others follow the traffic."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import grpc
import numpy as np
import pytest
from google.api_core import exceptions
from google.cloud.aiplatform.matching_engine._protos import match_service_pb2 as gp
from google.cloud.aiplatform.matching_engine._protos.match_service_pb2_grpc import MatchServiceStub

from tests.compat.catalog import DIM, Catalog, N, publish
from tests.compat.google import PARENT, Google, open_google

if TYPE_CHECKING:
    from tests.services import Service, Shop, Start

ENDPOINT = f"{PARENT}/indexEndpoints/things"
VECTOR = np.random.default_rng(5).normal(size=DIM).astype(np.float32)
NUMBERS = itertools.count()


def renamed(catalog: Catalog) -> Catalog:
    """Return the same vectors under other ids, so that an answer tells which version gave it."""
    points = [replace(one, datapoint_id=one.datapoint_id.replace("thing", "other")) for one in catalog.datapoints]
    return Catalog(points, catalog.vectors)


@pytest.fixture(scope="module")
def service(catalog: Catalog, start_service: Start, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    from tests.services import Shop

    folder: Path = tmp_path_factory.mktemp("two-versions")
    publish(catalog, folder / "store", alias="things")
    publish(renamed(catalog), folder / "store", alias="others", is_new=False)
    with start_service(Shop(folder / "store", "things"), write_log=str(folder / "log")) as running:
        running.wait_until_ready()
        yield running


def first(google: Google, deployed_index_id: str = "", endpoint: str = ENDPOINT) -> str:
    asked = google.types.FindNeighborsRequest(
        index_endpoint=endpoint,
        deployed_index_id=deployed_index_id,
        queries=[google.query({"feature_vector": VECTOR.tolist()}, neighbor_count=1)],
    )
    return str(google.match.find_neighbors(asked).nearest_neighbors[0].neighbors[0].datapoint.datapoint_id)


def test_an_index_endpoint_is_got_and_listed(google: Google, service: Service) -> None:
    found = google.endpoint.get_index_endpoint(name=ENDPOINT)
    assert (found.name, found.display_name) == (ENDPOINT, "things")
    address = service.grpc if google.transport == "grpc" else service.http.removeprefix("http://")
    assert (found.public_endpoint_enabled, found.public_endpoint_domain_name) == (True, address)
    (deployed,) = found.deployed_indexes
    assert (deployed.id, deployed.index) == ("things", f"{PARENT}/indexes/things")
    index = google.index.get_index(name=deployed.index)
    assert deployed.index_sync_time >= index.update_time, "what is deployed is in sync"
    assert list(google.endpoint.list_index_endpoints(parent=PARENT)) == [found]
    listing = google.types.ListIndexEndpointsRequest(parent=PARENT, filter='display_name="no such"')
    assert list(google.endpoint.list_index_endpoints(listing)) == []


def test_an_index_is_got_and_listed(google: Google) -> None:
    name = f"{PARENT}/indexes/things"
    found = google.index.get_index(name=name)
    assert (found.name, found.display_name, found.index_stats.vectors_count) == (name, "things", N)
    assert found.index_update_method.name == "STREAM_UPDATE"
    assert found.metadata["config"]["dimensions"] == DIM
    assert found.metadata["config"]["distanceMeasureType"] == "SQUARED_L2_DISTANCE"
    (deployed,) = found.deployed_indexes
    assert (deployed.index_endpoint, deployed.deployed_index_id) == (ENDPOINT, "things")
    assert list(google.index.list_indexes(parent=PARENT)) == [found]
    listing = google.types.ListIndexesRequest(parent=PARENT, filter='displayName = "things"', page_size=1)
    assert list(google.index.list_indexes(listing)) == [found]


def test_a_deployed_index_answers_who_names_it_until_it_is_undeployed(
    google: Google, channel: grpc.Channel, catalog: Catalog
) -> None:
    own, other = catalog.nearest(VECTOR, 1)[0][0], renamed(catalog).nearest(VECTOR, 1)[0][0]
    name = f"second_{next(NUMBERS)}"
    deployed = {"id": name, "index": f"{PARENT}/indexes/others"}
    ended = google.endpoint.deploy_index(index_endpoint=ENDPOINT, deployed_index=deployed)
    assert ended.done()
    assert (ended.result().deployed_index.id, ended.result().deployed_index.index) == (name, deployed["index"])
    assert [one.id for one in google.endpoint.get_index_endpoint(name=ENDPOINT).deployed_indexes] == ["things", name]
    assert [one.display_name for one in google.index.list_indexes(parent=PARENT)] == ["others", "things"]
    listing = google.types.ListIndexesRequest(parent=PARENT, page_size=1)
    assert [len(page.indexes) for page in google.index.list_indexes(listing).pages] == [1, 1]
    index = google.index.get_index(name=deployed["index"])
    assert [one.deployed_index_id for one in index.deployed_indexes] == [name]

    assert first(google, name) == other
    assert first(google, "things") == first(google) == first(google, "no such") == own
    private = MatchServiceStub(channel)
    for asked, expected in ((name, other), ("things", own), ("", own), ("no such", own)):
        answer = private.Match(gp.MatchRequest(deployed_index_id=asked, float_val=VECTOR.tolist(), num_neighbors=1))
        assert answer.neighbor[0].id == expected
        read = gp.BatchGetEmbeddingsRequest(deployed_index_id=asked, id=[expected])
        assert private.BatchGetEmbeddings(read).embeddings[0].id == expected

    mutated = google.endpoint.mutate_deployed_index(index_endpoint=ENDPOINT, deployed_index=deployed).result()
    assert mutated.deployed_index.id == name
    with pytest.raises(exceptions.AlreadyExists if google.transport == "grpc" else exceptions.Conflict):
        google.endpoint.deploy_index(index_endpoint=ENDPOINT, deployed_index=deployed)

    assert google.endpoint.undeploy_index(index_endpoint=ENDPOINT, deployed_index_id=name).done()
    assert first(google, name) == own
    with pytest.raises(exceptions.NotFound, match=name):
        google.endpoint.undeploy_index(index_endpoint=ENDPOINT, deployed_index_id=name)


def test_refusals(google: Google) -> None:
    endpoint, index = google.endpoint, google.index
    nowhere, no_index = f"{PARENT}/indexEndpoints/nowhere", f"{PARENT}/indexes/nowhere"

    def deploy(**deployed: Any) -> Any:
        return endpoint.deploy_index(index_endpoint=ENDPOINT, deployed_index=deployed)

    for code, message, ask in (
        (404, "'nowhere' is not served here", lambda: endpoint.get_index_endpoint(name=nowhere)),
        (404, "'nowhere' is not served here", lambda: first(google, endpoint=nowhere)),
        (404, "no index 'nowhere'", lambda: index.get_index(name=no_index)),
        (404, "no index 'nowhere'", lambda: index.remove_datapoints({"index": no_index, "datapoint_ids": ["a"]})),
        (404, "nowhere", lambda: deploy(id="third", index=no_index)),
        (400, "is the control", lambda: endpoint.undeploy_index(index_endpoint=ENDPOINT, deployed_index_id="things")),
        (400, "", lambda: deploy(id="../third", index=f"{PARENT}/indexes/others")),
        (400, "expected display_name", lambda: list(index.list_indexes({"parent": PARENT, "filter": "labels.a=b"}))),
        (400, "page_token", lambda: list(index.list_indexes({"parent": PARENT, "page_token": "x"}))),
    ):
        with pytest.raises(exceptions.GoogleAPICallError) as refused:
            ask()
        assert refused.value.code == code, refused.value
        assert message in str(refused.value)
    assert [one.id for one in endpoint.get_index_endpoint(name=ENDPOINT).deployed_indexes] == ["things"]


def test_a_name_of_something_else_is_refused(channel: grpc.Channel, service: Service) -> None:
    google = open_google(service, "v1", "grpc", channel)
    for name in (f"{PARENT}/indexes/things", "things", f"{PARENT}/indexEndpoints/"):
        with pytest.raises(exceptions.InvalidArgument, match="names no resource of indexEndpoints"):
            first(google, endpoint=name)


def test_a_service_without_a_log_takes_no_writes_and_says_so(shop: Shop, start_service: Start) -> None:
    with start_service(shop) as service, grpc.insecure_channel(service.grpc) as channel:
        service.wait_until_ready()
        google = open_google(service, "v1", "grpc", channel)
        name = f"{PARENT}/indexes/things"
        assert google.index.get_index(name=name).index_update_method.name == "BATCH_UPDATE"
        point = google.types.IndexDatapoint(datapoint_id="new", feature_vector=VECTOR.tolist())
        with pytest.raises(exceptions.InvalidArgument, match="takes no writes"):
            google.index.upsert_datapoints({"index": name, "datapoints": [point]})
