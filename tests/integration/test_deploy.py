"""What lies in deploy/ fits the service: queries name metrics and labels that there are, files are what their programs read."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from lifecycle.settings import load_settings
from tests.services import Service

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"
_SUFFIXES = {"counter": ("",), "gauge": ("",), "histogram": ("_bucket", "_sum", "_count"), "untyped": ("",)}


def queries() -> Iterator[tuple[str, str]]:
    board = json.loads((DEPLOY / "grafana.json").read_text())
    for panel in board["panels"]:
        for target in panel["targets"]:
            yield f"panel {panel['title']}", target["expr"]
    for variable in board["templating"]["list"]:
        yield f"variable {variable['name']}", variable["definition"]
    for rule in rules():
        yield f"alert {rule['alert']}", rule["expr"]


def rules() -> list[dict[str, Any]]:
    return [rule for group in yaml.safe_load((DEPLOY / "alerts.yml").read_text())["groups"] for rule in group["rules"]]


@pytest.fixture(scope="module")
def known(vector_service: Service) -> set[str]:
    """The names of all series that the running service has or may have."""
    text = vector_service.ask("GET", "/metrics")[2].decode()
    kinds = dict(re.findall(r"(?m)^# TYPE (\w+) (\w+)$", text))
    return {name + suffix for name, kind in kinds.items() for suffix in _SUFFIXES[kind]}


@pytest.mark.parametrize(("where", "query"), list(queries()), ids=[where for where, _ in queries()])
def test_every_query_names_metrics_that_there_are(known: set[str], where: str, query: str) -> None:
    named = set(re.findall(r"\b(?:likewise|process)_\w+", query))
    assert named or query.startswith("up{")
    assert named <= known, where
    assert query.count("(") == query.count(")")
    assert query.count("{") == query.count("}")


def test_every_metric_of_ours_is_on_the_dashboard_or_in_an_alert(known: set[str]) -> None:
    told = " ".join(query for _, query in queries())
    kept_for_others = {"likewise_recall_queries_total", "likewise_encoded_contents_total"}
    unseen = {
        name
        for name in known
        if name.startswith("likewise_") and not name.endswith(("_created", "_sum", "_count")) and name not in told
    }
    assert unseen == kept_for_others


def test_every_alert_has_a_section_of_the_runbook_and_every_section_an_alert() -> None:
    sections = re.findall(r"(?m)^## (Likewise\w+)$", (ROOT / "docs" / "runbook.md").read_text())
    assert sections == [rule["alert"] for rule in rules()]
    for rule in rules():
        assert rule["labels"]["severity"] in ("page", "ticket")
        assert rule["annotations"]["summary"]


def test_the_dashboard_is_laid_out_without_overlaps() -> None:
    taken: set[tuple[int, int]] = set()
    panels = json.loads((DEPLOY / "grafana.json").read_text())["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    for panel in panels:
        at = panel["gridPos"]
        cells = {(x, y) for x in range(at["x"], at["x"] + at["w"]) for y in range(at["y"], at["y"] + at["h"])}
        assert not cells & taken, panel["title"]
        assert at["x"] + at["w"] <= 24
        taken |= cells


def test_the_settings_load(monkeypatch: pytest.MonkeyPatch) -> None:
    assert load_settings(DEPLOY / "likewise.toml").auth.audit_file is not None
    compose = yaml.safe_load((DEPLOY / "compose.yml").read_text())
    for name, value in compose["services"]["likewise"]["environment"].items():
        monkeypatch.setenv(name, value)
    assert load_settings().serving.accept_insecure_network


def test_compose_publishes_to_this_machine_alone_and_mounts_what_there_is() -> None:
    services = yaml.safe_load((DEPLOY / "compose.yml").read_text())["services"]
    for service in services.values():
        assert all(port.startswith("127.0.0.1:") for port in service["ports"])
        assert service["cap_drop"] == ["ALL"]
        for volume in service["volumes"]:
            source = volume.split(":")[0]
            assert not source.startswith(".") or (DEPLOY / source).exists(), source
    assert (DEPLOY / services["likewise"]["build"]["context"] / services["likewise"]["build"]["dockerfile"]).is_file()


def test_the_dockerfile_has_no_findings_and_copies_what_there_is() -> None:
    hadolint = shutil.which("hadolint", path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    assert hadolint is not None
    linted = subprocess.run([hadolint, DEPLOY / "Dockerfile"], capture_output=True, text=True)
    assert (linted.returncode, linted.stdout) == (0, "")
    content = (DEPLOY / "Dockerfile").read_text()
    copied = re.findall(r"(?m)^COPY (?!--from)(.+) \S+$", content)
    assert all((ROOT / name).exists() for names in copied for name in names.split())
    assert "USER 10001" in content


def test_the_unit_is_one_and_has_no_privileges() -> None:
    unit = (DEPLOY / "likewise.service").read_text()
    for line in ("NoNewPrivileges=yes", "ProtectSystem=strict", "CapabilityBoundingSet=", "PrivateDevices=yes"):
        assert f"\n{line}\n" in unit
    if (systemd := shutil.which("systemd-analyze")) is None:
        pytest.skip("systemd is not installed here")
    told = subprocess.run([systemd, "verify", DEPLOY / "likewise.service"], capture_output=True, text=True).stderr
    assert [line for line in told.splitlines() if "likewise.service" in line and "is not executable" not in line] == []
