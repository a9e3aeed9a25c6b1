"""What the benchmarks share: data, the machine, interleaved timing, results as JSON."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

import cpp_ext

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks" / "results"


def data_dir() -> Path:
    """Return the folder of real data, or end with what to do."""
    if not os.environ.get("LIKEWISE_DATA"):
        sys.exit(
            "set LIKEWISE_DATA to the folder of real catalogues and vectors; this benchmark measures nothing without it"
        )
    return Path(os.environ["LIKEWISE_DATA"])


def package_summaries(n: int = 200_000) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Return base float32[n, 384] and queries float32[1000, 384], unit vectors."""
    directory = data_dir() / "vectors" / "package_summaries_384"
    base, queries = (_decoded(np.load(directory / f"{name}.u8.npy", mmap_mode="r")[:n]) for name in ("base", "queries"))
    return base, queries


def _decoded(codes: NDArray[np.uint8]) -> NDArray[np.float32]:
    vectors = (codes.astype(np.float32) - 128) * np.float32(0.0019)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    return vectors


def interleaved(contestants: Mapping[str, Callable[[], object]], *, repeats: int = 5) -> dict[str, list[float]]:
    """Time contestants in turns, A B A B, after one warm-up each; return the CPU seconds of each repeat.

    CPU time of this process, so that other work on a shared machine costs least.
    """
    for run in contestants.values():
        run()
    spent: dict[str, list[float]] = {name: [] for name in contestants}
    for _ in range(repeats):
        for name, run in contestants.items():
            start = time.process_time()
            run()
            spent[name].append(time.process_time() - start)
    return spent


def recall(found: NDArray[np.int64], true: NDArray[np.integer], k: int = 10) -> float:
    """Return recall@k; a neighbor named twice counts once."""
    return float(np.mean([len(set(f[:k].tolist()) & set(t[:k].tolist())) / k for f, t in zip(found, true)]))


def reset_peak() -> float:
    """Forget the peak of this process's resident memory; return what is resident now, in MiB. Linux only."""
    Path("/proc/self/clear_refs").write_text("5")
    return _status_mib("VmRSS")


def peak_mib() -> float:
    """Return the peak of this process's resident memory since `reset_peak`, in MiB."""
    return _status_mib("VmHWM")


def _status_mib(name: str) -> float:
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith(name)).split()[1]) / 1024


def machine() -> dict[str, object]:
    """Say what was measured on."""
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    cpu = next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.processor())
    commit = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], cwd=ROOT, capture_output=True, text=True
    ).stdout.strip()
    return {
        "cpu": cpu,
        "cores": os.cpu_count(),
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
        "load": round(os.getloadavg()[0], 2),
        "python": platform.python_version(),
        "numpy": np.__version__,
        "kernels": cpp_ext.backend(),
        "commit": commit,
    }


def write(name: str, figures: Mapping[str, object]) -> Path:
    """Write figures and machine to results/NAME.json, print them, and return the path."""
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"{name}.json"
    path.write_text(json.dumps({"machine": machine(), **figures}, indent=1) + "\n")
    print(path.read_text())
    return path
