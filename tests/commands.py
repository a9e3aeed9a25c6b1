"""The command line, run inside the test's process."""

from __future__ import annotations

import contextlib
import io
import json
from pathlib import Path
from typing import Any

from lifecycle.cli import run


def likewise(*arguments: str | Path, status: int = 0) -> Any:
    """Run a command; return its JSON, or what it wrote to stderr where it was to fail."""
    told, complained = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(told), contextlib.redirect_stderr(complained):
        found = run([*map(str, arguments), *(["--json"] if status == 0 else [])])
    assert found == status, told.getvalue() + complained.getvalue()
    return json.loads(told.getvalue()) if status == 0 else complained.getvalue()
