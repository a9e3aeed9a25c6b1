"""A service for Google's client, which takes writes."""

from __future__ import annotations

from collections.abc import Iterator

import grpc
import pytest

from tests.compat.catalog import Catalog, make_catalog, publish
from tests.compat.google import WAYS, Google, open_google
from tests.services import Service, Shop, Start, channel, start_service

__all__ = ["channel", "start_service"]


@pytest.fixture(scope="session")
def catalog() -> Catalog:
    """What is served."""
    return make_catalog()


@pytest.fixture(scope="session")
def shop(catalog: Catalog, tmp_path_factory: pytest.TempPathFactory) -> Shop:
    """The catalogue as a published version."""
    folder = tmp_path_factory.mktemp("compat-shop")
    publish(catalog, folder / "store", alias="things")
    return Shop(folder / "store", "things")


@pytest.fixture(scope="module")
def service(shop: Shop, start_service: Start, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """The version, served with a write log of this module's own."""
    with start_service(shop, write_log=str(tmp_path_factory.mktemp("write-log"))) as running:
        running.wait_until_ready()
        yield running


@pytest.fixture(scope="module", params=WAYS, ids=lambda way: f"{way[0]} {way[1]}")
def google(request: pytest.FixtureRequest, service: Service, channel: grpc.Channel) -> Google:
    """Google's client, in each API version and over each transport."""
    return open_google(service, *request.param, channel)
