"""Fixtures of the tests that need a running service."""

from tests.services import start_service, vector_service, vector_shop

__all__ = ["start_service", "vector_service", "vector_shop"]
