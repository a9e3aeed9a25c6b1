"""`likewise demo --check`, as `make demo CHECK=1` runs it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path


def test_demo_builds_serves_answers_and_is_quick_the_second_time(tmp_path: Path) -> None:
    environment = {name: value for name, value in os.environ.items() if name != "LIKEWISE_DATA"}
    command = [sys.executable, "-m", "lifecycle", "demo", "--check", "--directory", str(tmp_path)]
    for _ in range(2):
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=500)
        assert done.returncode == 0, done.stderr
        assert "HTTP and gRPC answered." in done.stdout
    assert "demo is built already" in done.stderr
