"""Facets: which columns become token restricts and numeric restricts."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TypeGuard

from matching.datapoint import NumericRestrict, Restrict

MAX_TOKEN_CHARS = 64
MAX_TOKENS = 1000
MAX_COLUMNS = 256
NUMBER = re.compile(r"-?(0|[1-9]\d{0,17})(\.\d+)?([eE][+-]?\d{1,3})?")
NOT_A_NUMBER = re.compile(r"[+-]?(nan|inf|infinity)", re.IGNORECASE)
_MOSTLY = 0.95


@dataclass(frozen=True, slots=True)
class Facets:
    """The columns of a source that can be filtered by.

    Attributes:
        restricts: columns whose texts become tokens.
        numbers: columns whose numbers become float64 numeric restricts. A number is float64 whatever the file says, so
            the same catalogue gives the same datapoints in every format.
    """

    restricts: tuple[str, ...] = ()
    numbers: tuple[str, ...] = ()

    def restricts_of(self, values: Mapping[str, object]) -> tuple[Restrict, ...]:
        """Return the token restricts of one record."""
        found = ((name, tuple(dict.fromkeys(tokens_of(values.get(name))))) for name in self.restricts)
        return tuple(Restrict(name, allow=tokens) for name, tokens in found if tokens)

    def numeric_restricts_of(self, values: Mapping[str, object]) -> tuple[NumericRestrict, ...]:
        """Return the numeric restricts of one record."""
        found = ((name, values.get(name)) for name in self.numbers)
        return tuple(NumericRestrict(name, float(value)) for name, value in found if is_number(value))


class FacetSurvey:
    """Looks at every record once and proposes facets; the answer does not depend on the order of the records.

    A column of texts becomes a token namespace when it has at most `MAX_TOKENS` different texts of at most
    `MAX_TOKEN_CHARS` characters, and fewer than one for every five records (20 are always allowed): colours do, model
    numbers do not. Memory is bounded: at most `MAX_COLUMNS` columns are looked at, the rest stays metadata. Not
    thread-safe.
    """

    def __init__(self) -> None:
        self.n_records = 0
        self._columns: dict[str, _Column] = {}

    def add(self, values: Mapping[str, object]) -> None:
        """Look at one record."""
        self.n_records += 1
        for name, value in values.items():
            if value is None or value == "":
                continue
            column = self._columns.get(name)
            if column is None:
                if len(self._columns) >= MAX_COLUMNS:
                    continue
                column = self._columns[name] = _Column()
            column.add(value)

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns that had a value in some record."""
        return tuple(self._columns)

    def kinds(self) -> dict[str, str]:
        """Return what the texts of each column mean: `number`, `bool` or `text`. For files that hold texts alone."""
        return {name: column.kind() for name, column in self._columns.items()}

    def facets(self) -> Facets:
        """Return the proposal, columns in alphabetical order."""
        names = sorted(self._columns)
        return Facets(
            restricts=tuple(name for name in names if self._columns[name].is_facet()),
            numbers=tuple(name for name in names if self._columns[name].is_numeric()),
        )


class _Column:
    __slots__ = ("n_bools", "n_numbers", "n_numeric_texts", "n_texts", "n_values", "tokens")

    def __init__(self) -> None:
        self.n_values = self.n_numbers = self.n_bools = self.n_texts = self.n_numeric_texts = 0
        self.tokens: set[str] | None = set()

    def add(self, value: object) -> None:
        self.n_values += 1
        if is_number(value):
            self.n_numbers += 1
            return
        if isinstance(value, bool):
            self.n_bools += 1
        elif isinstance(value, str):
            self.n_texts += 1
            self.n_bools += value.strip().lower() in ("true", "false")
            self.n_numeric_texts += bool(NUMBER.fullmatch(value.strip()) or NOT_A_NUMBER.fullmatch(value.strip()))
        if self.tokens is not None:
            empty = True
            for token in tokens_of(value):
                empty = False
                self.tokens.add(token)
            if empty or len(self.tokens) > MAX_TOKENS:
                self.tokens = None

    def kind(self) -> str:
        if self.n_texts and self.n_bools == self.n_texts:
            return "bool"
        return "number" if self.n_numeric_texts and self.n_numeric_texts >= _MOSTLY * self.n_values else "text"

    def is_numeric(self) -> bool:
        return max(self.n_numbers, self.n_numeric_texts) >= _MOSTLY * self.n_values

    def is_facet(self) -> bool:
        return bool(
            not self.is_numeric() and self.tokens is not None and 0 < len(self.tokens) <= max(20, self.n_values / 5)
        )


def is_number(value: object) -> TypeGuard[int | float]:
    """True for an int or a float, and not for a bool."""
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def tokens_of(value: object) -> Iterator[str]:
    """Yield the tokens of a text, a bool, or a list of those; nothing when one of them is too long for a token."""
    values = value if isinstance(value, (list, tuple)) else (value,)
    tokens = []
    for part in values:
        if isinstance(part, bool):
            tokens.append("true" if part else "false")
        elif isinstance(part, str) and 0 < len(part.strip()) <= MAX_TOKEN_CHARS:
            tokens.append(part.strip())
        else:
            return
    yield from tokens
