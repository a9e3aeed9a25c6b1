"""Builds the native test programs with the package's own CMakeLists.txt and runs them at every SIMD level."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

import pytest

SOURCES = Path(__file__).parents[2] / "cpp_ext"
N_CHECKS = {"test_kernels": 100_000, "test_diversity": 50_000, "test_graph kernels": 5_000, "test_space": 10_000}
"""Checks that a program with its arguments makes at least."""


def build(folder: Path, *options: str, target: str = "all") -> Path:
    """Configure and build in a folder; returns the folder of the programs."""
    cmake = shutil.which("cmake")
    if cmake is None:
        pytest.skip("no cmake on the PATH: pip install cmake")
    options = ("-DLIKEWISE_PYTHON=OFF", "-DLIKEWISE_TESTS=ON", *options)
    if shutil.which("ninja"):
        options = ("-G", "Ninja", *options)
    make = ["--build", str(folder), "--parallel", "2", "--target", target]
    for command in (["-S", str(SOURCES), "-B", str(folder), *options], make):
        done = subprocess.run([cmake, *command], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
    return folder


def run(command: list[str], level: str) -> tuple[str, int]:
    """Run the program under a SIMD cap; returns the level that it reports and its number of checks."""
    environment = {**os.environ, "LIKEWISE_SIMD": level}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 0, done.stdout + done.stderr
    used, n_checks = done.stdout.split()
    return used, int(n_checks)


def check_levels(programs: Path, levels: Sequence[str], emulator: Sequence[str] = ()) -> None:
    """Run every program at each of these levels."""
    for name, least in N_CHECKS.items():
        program, *arguments = name.split()
        for level in levels:
            used, n_checks = run([*emulator, str(programs / program), *arguments], level)
            assert used == level
            assert n_checks > least


def test_kernels_are_clean_under_sanitizers(tmp_path: Path) -> None:
    if not any(shutil.which(compiler) for compiler in ("c++", "g++", "clang++")):
        pytest.skip("no C++ compiler on the PATH")
    programs = build(tmp_path, "-DCMAKE_BUILD_TYPE=Debug", "-DLIKEWISE_SANITIZE=address,undefined,float-cast-overflow")
    is_arm = os.uname().machine in ("aarch64", "arm64")
    levels = ("scalar", "neon") if is_arm else ("scalar", "avx2", "avx512", "avx512_vnni")
    for name, least in N_CHECKS.items():
        command = name.split()
        done: set[str] = set()
        for level in levels:
            used, n_checks = run([str(programs / command[0]), *command[1:]], level)
            assert used in levels[: levels.index(level) + 1]
            assert n_checks > least
            done.add(used)
            if used != level:
                break  # this CPU ends below; a higher cap changes nothing
        assert "scalar" in done
    _, n_checks = run([str(programs / "test_graph")], levels[-1])
    assert n_checks > 20_000
    if (programs / "test_http2").exists():  # nghttp2 is there
        _, n_checks = run([str(programs / "test_http2")], levels[-1])
        assert n_checks > 10_000


@pytest.mark.slow
def test_searches_and_mutations_do_not_race(tmp_path: Path) -> None:
    if not any(shutil.which(compiler) for compiler in ("c++", "g++", "clang++")):
        pytest.skip("no C++ compiler on the PATH")
    options = ("-DCMAKE_BUILD_TYPE=Debug", "-DLIKEWISE_SANITIZE=thread")
    programs = build(tmp_path, *options, target="test_graph")
    for level in ("scalar", "neon" if os.uname().machine in ("aarch64", "arm64") else "avx512_vnni"):
        _, n_checks = run([str(programs / "test_graph"), "threads"], level)
        assert n_checks > 500


@pytest.mark.slow
def test_damage_found_by_a_fuzzer_does_no_harm(tmp_path: Path) -> None:
    if not shutil.which("clang++"):
        pytest.skip("no clang on the PATH: apt-get install clang libclang-rt-dev")
    options = ("-DLIKEWISE_FUZZ=ON", "-DCMAKE_BUILD_TYPE=Debug", "-DCMAKE_CXX_COMPILER=clang++")
    programs = build(tmp_path, *options, "-DLIKEWISE_SANITIZE=address,undefined", target="fuzz_graph")
    (tmp_path / "corpus").mkdir()
    limits = ["-seed=1", "-max_total_time=60", "-max_len=400", "-len_control=0", "-rss_limit_mb=4000"]
    command = [str(programs / "fuzz_graph"), str(tmp_path / "corpus"), *limits]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path)
    assert done.returncode == 0, done.stderr[-8000:]
    assert int(done.stderr.rsplit("Done ", 1)[1].split()[0]) > 200


@pytest.mark.slow
def test_neon_kernels_agree_under_emulation(tmp_path: Path) -> None:
    if not shutil.which("aarch64-linux-gnu-g++"):
        pytest.skip("no AArch64 compiler on the PATH: apt-get install g++-aarch64-linux-gnu")
    if not shutil.which("qemu-aarch64"):
        pytest.skip("no AArch64 emulator on the PATH: apt-get install qemu-user")
    programs = build(
        tmp_path,
        "-DCMAKE_SYSTEM_NAME=Linux",
        "-DCMAKE_SYSTEM_PROCESSOR=aarch64",
        "-DCMAKE_CXX_COMPILER=aarch64-linux-gnu-g++",
    )
    check_levels(programs, ("scalar", "neon"), ["qemu-aarch64", "-L", "/usr/aarch64-linux-gnu"])


@pytest.mark.slow
def test_avx512_kernels_agree_under_emulation(tmp_path: Path) -> None:
    if os.uname().machine != "x86_64":
        pytest.skip("the emulation of AVX-512 needs AVX2")
    if not Path("/usr/include/simde/x86/avx512.h").exists():
        pytest.skip("no SIMDe: apt-get install libsimde-dev")
    programs = build(tmp_path, "-DLIKEWISE_EMULATE=ON")
    check_levels(programs, ("avx512", "avx512_vnni"))
