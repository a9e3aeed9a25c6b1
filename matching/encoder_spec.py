"""What an index version remembers of the encoder that filled one of its spaces."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class EncoderSpec:
    """All that is needed to make the same encoder again, as an index version keeps it.

    Attributes:
        kind: names the encoder class to `embeddings.load_encoder`.
        params: JSON values only: model name or path, its digest, pooling, weights.
        arrays: fitted parameters (whitening matrix, inverse document frequencies), by name.
    """

    kind: str
    params: Mapping[str, object]
    arrays: Mapping[str, NDArray[np.generic]] = field(default_factory=dict)
