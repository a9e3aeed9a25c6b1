"""A gRPC question to a running service, as another program would ask it."""

from __future__ import annotations

from typing import Any, cast


def ask_text(address: str, text: str, *, k: int, timeout_s: float = 30.0) -> tuple[str, ...]:
    """Wait until the service says that it is serving, and return the ids of the k nearest datapoints of a text.

    Args:
        address: `host:port` of the gRPC service.
        timeout_s: how long to wait for it, and then for the answer.

    Raises:
        Unavailable: the service does not answer, or says that it is not serving.
    """
    import grpc
    from grpc_health.v1 import health_pb2, health_pb2_grpc

    from matching.errors import Unavailable
    from serving.wire import likewise_pb2, likewise_pb2_grpc

    health_stub: Any = health_pb2_grpc.HealthStub  # generated code carries no types
    search_stub: Any = likewise_pb2_grpc.SearchServiceStub
    try:
        with grpc.insecure_channel(address) as channel:
            for health in health_stub(channel).Watch(health_pb2.HealthCheckRequest(), timeout=timeout_s):
                if health.status == health_pb2.HealthCheckResponse.SERVING:
                    break
            answer = search_stub(channel).Search(likewise_pb2.SearchRequest(text=text, k=k), timeout=timeout_s)
    except grpc.RpcError as error:
        raise Unavailable(f"[ask] the service at {address} refused: {error}") from error
    return tuple(cast(str, neighbor.datapoint.datapoint_id) for neighbor in answer.result.neighbors)
