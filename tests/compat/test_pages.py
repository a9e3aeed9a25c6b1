"""The programs of docs/vertex.md run as they are printed, but for address, name and the number of dimensions."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest

from serving import vertex_routes, vertex_rpcs
from tests.compat.catalog import DIM, Catalog

if TYPE_CHECKING:
    from tests.services import Service

PAGE = (Path(__file__).parents[2] / "docs" / "vertex.md").read_text()
PROGRAMS = re.findall(r"```python\n(.*?)```", PAGE, re.S)
_TELL = {
    0: "print(*[neighbor.id for neighbor in neighbors])",
    1: "print(*[one.datapoint.datapoint_id for one in answer.nearest_neighbors[0].neighbors])",
}


@pytest.mark.parametrize("at", range(len(PROGRAMS)))
def test_programs_run(service: Service, catalog: Catalog, at: int) -> None:
    program = f"{PROGRAMS[at]}\n{_TELL[at]}\n"
    for printed, real in (
        ("http://localhost:8080", service.http),
        ("localhost:8081", service.grpc),
        ("indexEndpoints/shop", "indexEndpoints/things"),
        ('Endpoint("shop")', 'Endpoint("things")'),
        ("* 384", f"* {DIM}"),
    ):
        program = program.replace(printed, real)
    ran = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=120)
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout.split() == [name for name, _ in catalog.nearest(np.full(DIM, 0.1, np.float32), 5)]


def test_every_method_and_route_is_in_the_table_with_its_scope() -> None:
    rows = [
        line
        for line in PAGE.splitlines()
        if line.startswith("| `") and line.endswith((" read |", " write |", " admin |"))
    ]
    for method, access in vertex_rpcs.ACCESS.items():
        name = method.rpartition("/")[2]
        assert any(f"{name}`" in row and row.endswith(f" {access} |") for row in rows), method
    for route, access in vertex_routes.ACCESS.items():
        verb, path = route.split(" ")
        printed = re.sub(r"/v1(beta1)?/projects/\{project\}/locations/\{location\}", "...", path)
        printed = re.sub(r"\{\w+\}", "NAME", printed)
        assert any(f"`{verb} {printed}`" in row and row.endswith(f" {access} |") for row in rows), route
