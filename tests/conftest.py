"""Fixtures for all tests."""

import os

# MLflow takes seconds to start; tests of runs say so where they want it.
os.environ["LIKEWISE__RUNS__RECORD"] = "false"

pytest_plugins = ["tests.brokers", "tests.databases", "tests.redis_servers", "tests.versions"]
