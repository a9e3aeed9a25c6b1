"""The native kernels, or NumPy ones under the same names where the native module cannot be imported.

`cpp_ext.reference` documents every function; types come from there as well.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

__all__ = [
    "backend",
    "best_scores",
    "clear_rows",
    "compare",
    "count",
    "crc32c",
    "diversify",
    "intersect",
    "merge",
    "new_bitmap",
    "rescore",
    "rows_of",
    "scan",
    "set_rows",
    "sparse_scores",
    "union",
]

if not TYPE_CHECKING:
    try:
        from cpp_ext import _native as chosen
    except ImportError as error:
        from cpp_ext import reference as chosen

        logging.getLogger(__name__).warning(
            "[cpp_ext] the native kernels cannot be imported (%s); slow NumPy ones answer instead; "
            "reinstall likewise with a C++20 compiler at hand",
            error,
        )
    chosen.backend()  # an unknown LIKEWISE_SIMD fails here, not in the first search
    globals().update({name: getattr(chosen, name) for name in __all__})
else:
    from cpp_ext.reference import (
        backend,
        best_scores,
        clear_rows,
        compare,
        count,
        crc32c,
        diversify,
        intersect,
        merge,
        new_bitmap,
        rescore,
        rows_of,
        scan,
        set_rows,
        sparse_scores,
        union,
    )
