"""Write docs/settings.md and likewise.example.toml from the settings tree."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from lifecycle.settings import PREFIX, Settings

ROOT = Path(__file__).resolve().parent.parent
HEAD = """# Settings

Settings are read once, from the TOML file that `likewise --settings FILE ...` names, then from the environment, which wins:
`serving.max_k` is `{prefix}SERVING__MAX_K`. An unknown name is refused with the nearest right one. `likewise.example.toml`
holds all of them with their defaults. This page is written by `make docs`.
"""


def page() -> str:
    """Return docs/settings.md."""
    parts = [HEAD.format(prefix=PREFIX)]
    for section, fields in _sections():
        parts.append(f"\n## {section}\n\n| setting | default | what for |\n|---|---|---|\n")
        parts += [f"| `{section}.{name}` | {_shown(default)} | {what} |\n" for name, default, what in fields]
    return "".join(parts)


def example() -> str:
    """Return likewise.example.toml, every setting at its default."""
    parts = ["# All settings at their defaults. Use it with: likewise --settings FILE ...\n"]
    for section, fields in _sections():
        parts.append(f"\n[{section}]\n")
        for name, default, what in fields:
            line = f"# {name} is not set\n" if default is None else f"{name} = {json.dumps(_plain(default))}\n"
            parts.append(f"# {what}\n{line}")
    return "".join(parts)


def _sections() -> list[tuple[str, list[tuple[str, Any, str]]]]:
    found = []
    for section, field in Settings.model_fields.items():
        model = field.annotation
        assert isinstance(model, type)
        assert issubclass(model, BaseModel)
        rows = [
            (name, held.get_default(call_default_factory=True), held.description or "")
            for name, held in model.model_fields.items()
        ]  # type: ignore[call-arg]
        found.append((section, rows))
    return found


def _plain(value: object) -> object:
    return str(value) if isinstance(value, Path) else value


def _shown(value: object) -> str:
    if isinstance(value, tuple):
        return ", ".join(f"`{part}`" for part in value)
    shown = json.dumps(value) if isinstance(value, bool) else _plain(value)
    return "not set" if value is None else f"`{shown}`"


if __name__ == "__main__":
    (ROOT / "docs" / "settings.md").write_text(page())
    (ROOT / "likewise.example.toml").write_text(example())
