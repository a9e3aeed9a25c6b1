"""The import arrows, and the one home of each big dependency, read from the source itself."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
ALLOWED = {
    "cpp_ext": set(),
    "matching": {"cpp_ext"},
    "embeddings": {"cpp_ext", "matching"},
    "index_builder": {"cpp_ext", "matching", "embeddings"},
    "serving": {"cpp_ext", "matching", "embeddings"},
    "lifecycle": {"cpp_ext", "matching", "embeddings", "index_builder", "serving"},
}
HOMES = {
    "faiss": {"matching/faiss_index.py"},
    "torch": {"embeddings/"},
    "safetensors": {"embeddings/"},
    "transformers": {"embeddings/"},
    "sentence_transformers": {"embeddings/"},
    "onnxruntime": {"embeddings/onnx_model.py"},
    "tokenizers": {"embeddings/"},
    "PIL": {"embeddings/", "index_builder/sample"},
    "mlflow": {"lifecycle/runs/tracking.py"},
    "fastapi": {"serving/http.py"},
    "uvicorn": {"serving/"},
    "grpc": {"serving/"},
    "nats": {"matching/live/stream_log.py", "serving/event_stream.py"},
    "opentelemetry": {"serving/tracing.py"},
    "sqlalchemy": {"matching/event_log.py"},
    "redis": {"serving/users_in_redis.py"},
    "psycopg": {"lifecycle/exporting/postgres.py"},
    "jwt": {"serving/jwt_verifier.py"},
    "prometheus_client": {"serving/metrics.py"},
    "fastavro": {"index_builder/catalog/vector_files.py"},
    "typer": {"lifecycle/"},
    "rich": {"lifecycle/", "index_builder/catalog/catalog_report.py"},
    "pydantic_settings": {"lifecycle/settings.py"},
    "scipy": {"matching/sources/", "lifecycle/scoreboard/"},
    "matplotlib": {"lifecycle/scoreboard/report.py"},
    "nanobind": set(),
}
READ_LATE = {
    "lifecycle/exporting/postgres.py",
    "matching/event_log.py",
    "matching/live/stream_log.py",
    "serving/event_stream.py",
    "serving/http.py",
    "serving/grpc.py",
    "serving/grpc_admission.py",
    "serving/grpc_call.py",
    "serving/grpc_connection.py",
    "serving/http_connection.py",
    "serving/jwt_verifier.py",
    "serving/users_in_redis.py",
    "index_builder/sample/pictures.py",
    "embeddings/histories/network.py",
    "embeddings/histories/fitting.py",
}  # themselves imported where they are used
LAZY = {
    "torch",
    "safetensors",
    "transformers",
    "sentence_transformers",
    "onnxruntime",
    "faiss",
    "fastapi",
    "grpc",
    "uvicorn",
    "jwt",
    "mlflow",
    "nats",
    "opentelemetry",
    "redis",
    "sqlalchemy",
    "psycopg",
    "PIL",
}


def sources() -> Iterator[tuple[str, Path]]:
    for package in ALLOWED:
        for file in sorted((ROOT / package).rglob("*.py")):
            if not file.stem.endswith(("_pb2", "_pb2_grpc")):
                yield package, file


def imported(tree: ast.AST) -> Iterator[tuple[str, ast.stmt]]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((alias.name.split(".")[0], node) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            yield str(node.module).split(".")[0], node


def only_for_types(tree: ast.Module) -> set[ast.stmt]:
    """Statements under `if TYPE_CHECKING:`."""
    found: set[ast.stmt] = set()
    for node in tree.body:
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test):
            found.update(child for child in ast.walk(node) if isinstance(child, ast.stmt))
    return found


@pytest.mark.parametrize(("package", "file"), list(sources()), ids=lambda v: v.name if isinstance(v, Path) else v)
def test_imports_run_one_way_and_big_dependencies_stay_home(package: str, file: Path) -> None:
    tree = ast.parse(file.read_text())
    name = str(file.relative_to(ROOT))
    typing_only = only_for_types(tree)
    for module, node in imported(tree):
        if module in ALLOWED and module != package:
            assert module in ALLOWED[package], f"{name}:{node.lineno} imports {module}, against the arrows"
        if module in HOMES and node not in typing_only:
            assert any(name.startswith(home) for home in HOMES[module]), (
                f"{name}:{node.lineno} imports {module} away from home"
            )
        if module in LAZY and node not in typing_only and node in tree.body:
            assert name in READ_LATE, f"{name}:{node.lineno} imports {module} at the top"


def test_packages_only_re_export() -> None:
    for package in ALLOWED:
        tree = ast.parse((ROOT / package / "__init__.py").read_text())
        for node in tree.body:
            is_docstring = isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
            is_all = isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__"
            assert is_docstring or is_all or isinstance(node, ast.ImportFrom), f"{package}/__init__.py:{node.lineno}"


def test_no_dependency_ships_a_package_of_our_names() -> None:
    import importlib.metadata

    taken = importlib.metadata.packages_distributions()
    for package in ALLOWED:
        assert set(taken.get(package, ["likewise"])) == {"likewise"}
