"""Likewise for programs: `Client` and `AsyncClient` ask a running service over HTTP, with types, deadlines and retries."""

from matching.datapoint import Datapoint, Filter, NumericRestrict, Restrict
from matching.events import EventItem
from serving.client.answers import (
    EventOutcome,
    FoundItem,
    Neighbors,
    Recommended,
    RecommendedItem,
    ServedVersion,
    WriteDone,
)
from serving.client.http_client import AsyncClient, Client
from serving.client.requests import ItemWrite, ShopEvent
from serving.client.retry import Retry

__all__ = [
    "AsyncClient",
    "Client",
    "Datapoint",
    "EventItem",
    "EventOutcome",
    "Filter",
    "FoundItem",
    "ItemWrite",
    "Neighbors",
    "NumericRestrict",
    "Recommended",
    "RecommendedItem",
    "Restrict",
    "Retry",
    "ServedVersion",
    "ShopEvent",
    "WriteDone",
]
