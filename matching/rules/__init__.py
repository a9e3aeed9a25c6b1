"""Business rules: which items may be shown, and where; parsed from files, kept in the store, applied to candidates."""

from matching.rules.arrangement import Arrangement, Effect, alike_in
from matching.rules.parsing import parse_rules
from matching.rules.rule import Rule, RuleSet
from matching.rules.rule_store import RuleStore
from matching.rules.rulebook import NO_RULES, Holding, Rulebook

__all__ = [
    "NO_RULES",
    "Arrangement",
    "Effect",
    "Holding",
    "Rule",
    "RuleSet",
    "RuleStore",
    "Rulebook",
    "alike_in",
    "parse_rules",
]
