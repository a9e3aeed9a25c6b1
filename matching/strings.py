"""A column of strings as two arrays, in the layout of Arrow's large_string, so that it can be mapped and searched in place."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class StringColumn:
    """n byte strings; immutable and thread-safe.

    Attributes:
        offsets: int64[n + 1].
        data: uint8[offsets[n]], UTF-8.
    """

    offsets: NDArray[np.int64]
    data: NDArray[np.uint8]
    _ends: memoryview = field(
        init=False, repr=False, compare=False
    )  # a single element is read faster than from an array
    _text: memoryview = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_ends", np.ascontiguousarray(self.offsets).data)
        object.__setattr__(self, "_text", np.ascontiguousarray(self.data).data)

    @classmethod
    def pack(cls, values: Iterable[bytes]) -> StringColumn:
        """Pack byte strings in the order given."""
        parts = list(values)
        offsets = np.zeros(len(parts) + 1, np.int64)
        np.cumsum([len(part) for part in parts], out=offsets[1:])
        return cls(offsets, np.frombuffer(b"".join(parts), np.uint8))

    @classmethod
    def unpack(cls, arrays: Mapping[str, NDArray[np.generic]], name: str) -> StringColumn:
        """Take the column back out of a container's arrays."""
        return cls(arrays[f"{name}.offsets"].view(np.int64), arrays[f"{name}.bytes"].view(np.uint8))

    def arrays(self, name: str) -> dict[str, NDArray[np.generic]]:
        """Return the arrays that `unpack` reads."""
        return {f"{name}.offsets": self.offsets, f"{name}.bytes": self.data}

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def __getitem__(self, index: int) -> bytes:
        return bytes(self._text[self._ends[index] : self._ends[index + 1]])

    def texts(self, indices: Iterable[int]) -> list[str]:
        """Return some of the strings as text."""
        ends, text = self._ends, self._text
        return [str(text[ends[index] : ends[index + 1]], "utf-8") for index in indices]

    def find(self, value: bytes) -> int:
        """Return the position of `value` in a column sorted by bytes, or -1."""
        low, high = 0, len(self)
        while low < high:
            middle = (low + high) // 2
            if self[middle] < value:
                low = middle + 1
            else:
                high = middle
        return low if low < len(self) and self[low] == value else -1
