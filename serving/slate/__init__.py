"""Slates: what a shop's page asks, how its places are filled, and why each item has its place."""

from serving.slate.effect import RuleEffect
from serving.slate.explanation import Explanation, SourceShare, explain
from serving.slate.pipeline import Filled, Filling, LeftOut, fill
from serving.slate.place import Place
from serving.slate.query import SlateQuery
from serving.slate.source import ANY, CONTENT

__all__ = [
    "ANY",
    "CONTENT",
    "Explanation",
    "Filled",
    "Filling",
    "LeftOut",
    "Place",
    "RuleEffect",
    "SlateQuery",
    "SourceShare",
    "explain",
    "fill",
]
