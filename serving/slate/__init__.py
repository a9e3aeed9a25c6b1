"""Slates: what a shop's page asks, how its places are filled, and why each item has its place."""

from serving.slate.effect import RuleEffect
from serving.slate.pipeline import Filled, Filling, fill
from serving.slate.place import Place
from serving.slate.query import SlateQuery
from serving.slate.source import ANY, CONTENT

__all__ = ["ANY", "CONTENT", "Filled", "Filling", "Place", "RuleEffect", "SlateQuery", "fill"]
