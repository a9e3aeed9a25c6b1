"""Write the Python of the protocol files beside them; `python -m serving.wire.generate [FOLDER]`."""

from __future__ import annotations

import sys
from pathlib import Path

HERE = Path(__file__).parent
SOURCES = ("likewise", "vertex")


def generate(folder: Path) -> tuple[Path, ...]:
    """Write messages, stubs and service glue into `folder`; return what was written, sorted.

    Raises:
        RuntimeError: the protocol compiler refused a file.
    """
    from grpc_tools import protoc  # type: ignore[import-untyped]  # a development dependency

    root = HERE.parent.parent
    well_known = Path(protoc.__file__).parent / "_proto"
    sources = [str(HERE / f"{name}.proto") for name in SOURCES]
    package = folder / "serving" / "wire"
    package.mkdir(parents=True, exist_ok=True)
    outputs = [f"--{kind}_out={folder}" for kind in ("python", "pyi", "grpc_python")]
    code = protoc.main(["protoc", f"-I{root}", f"-I{well_known}", *outputs, *sources])
    if code != 0:
        raise RuntimeError(f"[serving.wire] protoc ended with {code} on {', '.join(sources)}; read what it printed")
    (package / "vertex_pb2_grpc.py").unlink()  # the file has no service: its messages serve Google's
    written = tuple(sorted(file for name in SOURCES for file in package.glob(f"{name}_pb2*") if file.is_file()))
    for file in written:
        file.write_text("# mypy: ignore-errors\n" + file.read_text())
    return written


if __name__ == "__main__":
    generate(Path(sys.argv[1]) if len(sys.argv) > 1 else HERE.parent.parent)
