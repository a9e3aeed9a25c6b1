"""Fixtures for all tests."""

pytest_plugins = ["tests.brokers", "tests.databases", "tests.versions"]
