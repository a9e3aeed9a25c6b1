"""What the documentation promises is there: settings, commands, metrics, links."""

from __future__ import annotations

import re
import shlex
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer

from lifecycle.cli import app
from lifecycle.settings import Settings, known_settings, load_settings
from matching.errors import InvalidInput

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tools"))
import document_settings  # noqa: E402

PAGES = sorted([ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").glob("*.md")])
COMMAND = typer.main.get_command(app)


def commands(group: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    if hasattr(group, "commands"):
        for name, command in group.commands.items():
            yield from commands(command, (*path, name))
    else:
        yield path, group


def shown_commands() -> list[tuple[str, str]]:
    """Every `likewise ...` line in the fenced blocks of the pages."""
    found = []
    for page in PAGES:
        for block in re.findall(r"```(?:sh|bash|console)?\n(.*?)```", page.read_text(), re.S):
            for line in block.replace("\\\n", " ").splitlines():
                if line.strip().startswith("likewise "):
                    found.append((page.name, line.strip()))
    return found


def test_settings_page_and_example_file_are_fresh() -> None:
    assert (ROOT / "docs" / "settings.md").read_text() == document_settings.page(), "run make docs"
    assert (ROOT / "likewise.example.toml").read_text() == document_settings.example(), "run make docs"


def test_example_file_loads_and_is_all_defaults(monkeypatch: pytest.MonkeyPatch) -> None:
    assert load_settings(ROOT / "likewise.example.toml") == Settings()
    monkeypatch.setenv("LIKEWISE__BUILD__SEED", "7")
    assert load_settings(ROOT / "likewise.example.toml").build.seed == 7


def test_the_environment_names_the_model_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LIKEWISE__ENCODE__MODEL_DIR", str(tmp_path))
    assert load_settings().encode.model_dir == tmp_path


def test_every_setting_says_what_for() -> None:
    assert len(known_settings()) > 20
    assert not [name for name, what in known_settings().items() if len(what) < 8]


def test_unknown_settings_are_refused_with_the_nearest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "wrong.toml"
    file.write_text("[build]\nrecal_target = 0.9\n")
    with pytest.raises(InvalidInput, match=r"no setting build\.recal_target; did you mean build\.recall_target\?"):
        load_settings(file)
    file.write_text("[build]\nrecall_target = 1.5\n")
    with pytest.raises(InvalidInput, match=r"build\.recall_target is 1\.5"):
        load_settings(file)
    file.write_text("[build\n")
    with pytest.raises(InvalidInput, match="cannot be read as TOML"):
        load_settings(file)
    monkeypatch.setenv("LIKEWISE__SERVING__MAXK", "3")
    with pytest.raises(InvalidInput, match=r"LIKEWISE__SERVING__MAXK; did you mean serving\.max_k\?"):
        load_settings()


@pytest.mark.parametrize(
    ("path", "command"), list(commands(COMMAND)), ids=lambda v: " ".join(v) if isinstance(v, tuple) else ""
)
def test_every_command_shows_an_example_and_prints_json(path: tuple[str, ...], command: Any) -> None:
    assert "Example: `likewise " in (command.help or ""), path
    for option in command.params:
        assert option.param_type_name == "argument" or getattr(option, "help", None), (path, option.name)
    names = {name for option in command.params for name in option.opts}
    assert "--json" in names or path == ("demo",), path


@pytest.mark.parametrize(("page", "line"), shown_commands())
def test_shown_commands_parse(page: str, line: str) -> None:
    parse(shlex.split(line, comments=True)[1:])


@pytest.mark.parametrize(
    ("path", "command"), list(commands(COMMAND)), ids=lambda v: " ".join(v) if isinstance(v, tuple) else ""
)
def test_examples_in_the_help_parse(path: tuple[str, ...], command: Any) -> None:
    for example in re.findall(r"Example: `likewise (.*?)`", command.help or "", re.S):
        parse(shlex.split(example))


def parse(arguments: list[str]) -> None:
    """Let click read a command line without running it."""
    command: Any = COMMAND
    context = None
    while hasattr(command, "commands"):
        name = arguments[0]
        assert name in command.commands, f"no command {name}"
        context = typer.Context(command, context, name)
        command, arguments = command.commands[name], arguments[1:]
    command.make_context("likewise", [a for a in arguments if a != "&"], context)


def test_every_metric_is_documented() -> None:
    from serving import metrics

    source = Path(str(metrics.__file__)).read_text()
    names = set(re.findall(r'"(likewise_[a-z_]+)"', source))
    assert len(names) > 4
    text = (ROOT / "docs" / "serving.md").read_text()
    assert not [name for name in names if name not in text]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", page.read_text()):
        if "://" not in target:
            assert (page.parent / target).exists(), target
