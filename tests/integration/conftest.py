"""Fixtures of the tests that need a running service."""

from tests.services import channel, graph_shop, start_service, text_service, text_shop, vector_service, vector_shop

__all__ = ["channel", "graph_shop", "start_service", "text_service", "text_shop", "vector_service", "vector_shop"]
