"""A user's program: Google's high-level classes and nothing of ours; it runs in a process of its own and prints what it got."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from typing import Any

from google.auth.credentials import AnonymousCredentials
from google.cloud import aiplatform
from google.cloud.aiplatform.matching_engine import matching_engine_index_endpoint as matching
from google.oauth2.credentials import Credentials


def main(asked: dict[str, Any]) -> dict[str, Any]:
    """Do all that a client does with an endpoint."""
    credentials = Credentials(token=asked["token"]) if asked["token"] else AnonymousCredentials()
    aiplatform.init(
        project="shop",
        location="us-central1",
        credentials=credentials,
        api_endpoint=asked["api_endpoint"],
        api_transport=asked["transport"],
    )
    endpoint = aiplatform.MatchingEngineIndexEndpoint("things")
    index = aiplatform.MatchingEngineIndex("things")
    told: dict[str, Any] = {
        "endpoint": endpoint.resource_name,
        "domain": endpoint.public_endpoint_domain_name,
        "deployed": [deployed.id for deployed in endpoint.deployed_indexes],
        "listed": [[one.resource_name for one in kind.list()] for kind in (type(endpoint), type(index))],
        "of index": [deployed.deployed_index_id for deployed in index.deployed_indexes],
    }
    vector, number = asked["vector"], matching.NumericNamespace
    told["by vector"] = neighbors(endpoint.find_neighbors(deployed_index_id="", queries=[vector], num_neighbors=5))
    told["by id"] = neighbors(
        endpoint.find_neighbors(deployed_index_id="", embedding_ids=["thing-017"], num_neighbors=5)
    )
    told["filtered"] = neighbors(
        endpoint.find_neighbors(
            deployed_index_id="things",
            queries=[vector, vector],
            num_neighbors=9,
            filter=[matching.Namespace("color", ["red", "blue"], ["sale"])],
            numeric_filter=[number("stock", value_int=0, op="NOT_EQUAL"), number("price", value_double=6.0, op="LESS")],
            per_crowding_attribute_neighbor_count=2,
            approx_num_neighbors=100,
            fraction_leaf_nodes_to_search_override=0.1,
        )
    )
    told["dense hybrid"] = neighbors(
        endpoint.find_neighbors(
            deployed_index_id="", queries=[matching.HybridQuery(dense_embedding=vector)], num_neighbors=5
        )
    )
    (full,) = endpoint.find_neighbors(
        deployed_index_id="", queries=[vector], num_neighbors=1, return_full_datapoint=True
    )[0]
    told["full"] = [full.id, list(full.feature_vector or ()), full.crowding_tag, dict(full.embedding_metadata or {})]
    read = endpoint.read_index_datapoints(deployed_index_id="", ids=["thing-003", "thing-001"])
    told["read"] = [[one.datapoint_id, list(one.feature_vector)] for one in read]

    point = {"datapoint_id": "new", "feature_vector": [9.0] * len(vector)}
    index.upsert_datapoints([aiplatform.gapic.IndexDatapoint(point)])
    told["put in"] = eventually(lambda: found(endpoint, "new"))
    point = {"datapoint_id": "new", "restricts": [{"namespace": "color", "allow_list": ["violet"]}]}
    index.upsert_datapoints([aiplatform.gapic.IndexDatapoint(point)], update_mask=["all_restricts"])
    told["changed"] = eventually(lambda: found(endpoint, "new", [matching.Namespace("color", ["violet"])]))
    index.remove_datapoints(["new"])
    told["removed"] = eventually(lambda: not found(endpoint, "new"))

    endpoint.deploy_index(index=index, deployed_index_id="second", deploy_request_timeout=60)
    told["two deployed"] = [deployed.id for deployed in endpoint.deployed_indexes]
    endpoint.mutate_deployed_index(deployed_index_id="second", min_replica_count=1)
    endpoint.undeploy_index(deployed_index_id="second", undeploy_request_timeout=60)
    fresh = aiplatform.MatchingEngineIndexEndpoint("things")  # the class keeps what it knew before an undeployment
    told["one deployed"] = [deployed.id for deployed in fresh.deployed_indexes]
    if asked["is_private"]:
        private = endpoint.match(
            deployed_index_id="things",
            queries=[vector],
            num_neighbors=5,
            filter=[matching.Namespace("color", ["red"])],
            signed_jwt=asked["token"],
        )
        told["private"] = neighbors(private)
    return told


def neighbors(answers: Any) -> list[list[list[Any]]]:
    return [[[neighbor.id, neighbor.distance] for neighbor in answer] for answer in answers]


def found(endpoint: Any, name: str, wanted: Any = None) -> bool:
    answer = endpoint.find_neighbors(deployed_index_id="", queries=[[9.0] * 12], num_neighbors=1, filter=wanted)
    return [neighbor.id for neighbor in answer[0]] == [name]


def eventually(holds: Callable[[], bool]) -> bool:
    """Ask again until it holds; the classes have no token to wait with."""
    for _ in range(400):
        if holds():
            return True
        time.sleep(0.02)
    return False


if __name__ == "__main__":
    print(json.dumps(main(json.loads(sys.argv[1]))))
