"""FAISS on a CUDA device; opt in with -m gpu."""

from __future__ import annotations

import numpy as np
import pytest

from matching.datapoint import Datapoint
from matching.faiss_index import n_gpus
from tests.versions import MakeVersion


@pytest.mark.gpu
def test_codes_trained_on_gpu_are_served_on_cpu(make_version: MakeVersion, rng: np.random.Generator) -> None:
    if not n_gpus():
        pytest.skip("FAISS sees no CUDA device")
    vectors = rng.standard_normal((20_000, 32)).astype(np.float32)
    version = make_version([Datapoint(f"{at}") for at in range(len(vectors))], vectors, plan="ivfpq", recall_target=0.8)
    assert "trained on GPU" in version.spaces["vectors"].entry.plan.why
    result = version.search(vectors[:100], 1, space="vectors", effort=64)
    assert np.mean([near[0].datapoint_id == str(at) for at, near in enumerate(result.neighbors)]) >= 0.95
