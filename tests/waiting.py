"""Waiting for what another thread or process does."""

from __future__ import annotations

import time
from collections.abc import Callable


def wait_until(holds: Callable[[], bool], what: str = "what is waited for", limit_s: float = 60) -> None:
    """Wait until something holds; fail where it never does."""
    until = time.monotonic() + limit_s
    while not holds():
        assert time.monotonic() < until, f"never: {what}"
        time.sleep(0.02)
