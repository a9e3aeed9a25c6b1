"""Resolve everything that the project needs and write the versions to constraints.txt."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path

EXTRAS = ("cpu", "encode", "models", "serve", "dev")
HEAD = "# The versions that are tested together; `make` installs exactly these. Refresh with `make lock`.\n"
NOT_LOCKED = "likewise"


def main() -> None:
    """Ask pip for a resolution without installing anything."""
    root = Path(__file__).resolve().parent.parent
    with tempfile.TemporaryDirectory() as directory:
        report = Path(directory) / "report.json"
        pip = [
            sys.executable,
            "-m",
            "pip",
            "install",
            "--dry-run",
            "--ignore-installed",
            "--quiet",
            "--report",
            str(report),
        ]
        subprocess.run([*pip, f"{root}[{','.join(EXTRAS)}]", "cmake", "scikit-build-core", "nanobind"], check=True)
        installs = [entry["metadata"] for entry in json.loads(report.read_text())["install"]]
    lines = {_line(entry) for entry in installs if entry["name"].lower() != NOT_LOCKED}
    faiss = next(line for line in lines if line.startswith("faiss-cpu=="))
    lines.add(faiss.replace("faiss-cpu", "faiss-gpu"))
    (root / "constraints.txt").write_text(HEAD + "".join(sorted(lines)))


def _line(metadata: dict[str, str]) -> str:
    name = metadata["name"].lower().replace("_", "-")
    version = metadata["version"].split("+")[0]  # a local build, such as torch's for the CPU, stands for its release
    needs_311 = any(
        part.strip().startswith((">=3.11", ">=3.12")) for part in metadata.get("requires_python", "").split(",")
    )
    return f"{name}=={version}" + ("; python_version >= '3.11'" if needs_311 else "") + "\n"


if __name__ == "__main__":
    main()
