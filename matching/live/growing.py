"""An array that one thread appends to while others read what was there when they looked."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Generic, TypeVar, cast

import numpy as np
from numpy.typing import ArrayLike, NDArray

T = TypeVar("T", bound=np.generic)
_FIRST = 16


class Growing(Generic[T]):
    """Rows of one width, appended by one thread.

    What was appended is never written again: a view stays as it is, whatever is appended later, and costs no copy.
    """

    def __init__(self, dtype: type[T], row: Sequence[int] = ()) -> None:
        """Begin without rows; `row` is the shape of one."""
        self._held: NDArray[T] = np.empty((_FIRST, *row), dtype)
        self._n = 0

    def __len__(self) -> int:
        return self._n

    def __getitem__(self, at: int) -> T:
        """Return one row."""
        return cast(T, self._held[at])

    def append(self, value: Any) -> None:
        """Append one row."""
        self._reserve(1)
        self._held[self._n] = value
        self._n += 1

    def extend(self, values: ArrayLike) -> None:
        """Append rows."""
        rows = np.asarray(values, self._held.dtype)
        self._reserve(len(rows))
        self._held[self._n : self._n + len(rows)] = rows
        self._n += len(rows)

    def view(self, n: int | None = None) -> NDArray[T]:
        """Return the first n rows, all of them when None; read-only."""
        held = self._held[: self._n if n is None else n]
        held.flags.writeable = False
        return held

    def below(self, limit: int) -> NDArray[T]:
        """Return the rows below a limit, of numbers that were appended in ascending order; read-only."""
        held = self.view()
        return held[: np.searchsorted(held, limit)]

    def _reserve(self, n: int) -> None:
        if self._n + n <= len(self._held):
            return
        larger = np.empty((max(2 * len(self._held), self._n + n), *self._held.shape[1:]), self._held.dtype)
        larger[: self._n] = self._held[: self._n]
        self._held = larger
