"""Online: use cases over one index version, HTTP and gRPC in front of them, and a page."""

from serving.recommender import Recommender, Snapshot
from serving.server import serve
from serving.settings import ServingSettings

__all__ = ["Recommender", "ServingSettings", "Snapshot", "serve"]
