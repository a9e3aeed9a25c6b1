"""The settings tree: every section beside its owner, read once from a TOML file and the environment."""

from __future__ import annotations

import difflib
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel, Field, ValidationError
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict

from embeddings.settings import EncodeSettings, HistoryTrainingSettings, TwoTowerSettings
from index_builder.settings import BuildSettings
from lifecycle.runs.settings import RunsSettings
from matching.errors import InvalidInput
from serving.settings import (
    AuthSettings,
    EventSettings,
    RecommendSettings,
    ServingSettings,
    TlsSettings,
    TracingSettings,
)

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

PREFIX = "LIKEWISE__"


class Settings(BaseSettings):
    """All settings. A value in the environment, `LIKEWISE__SECTION__NAME`, wins over the file."""

    model_config = SettingsConfigDict(
        frozen=True,
        extra="forbid",
        env_prefix=PREFIX,
        env_nested_delimiter="__",
        nested_model_default_partial_update=True,
    )

    build: BuildSettings = Field(default_factory=BuildSettings)
    encode: EncodeSettings = Field(default_factory=EncodeSettings)
    serving: ServingSettings = Field(default_factory=ServingSettings)
    recommend: RecommendSettings = Field(default_factory=RecommendSettings)
    sasrec: HistoryTrainingSettings = Field(default_factory=HistoryTrainingSettings)
    two_tower: TwoTowerSettings = Field(default_factory=TwoTowerSettings)
    events: EventSettings = Field(default_factory=EventSettings)
    auth: AuthSettings = Field(default_factory=AuthSettings)
    tls: TlsSettings = Field(default_factory=TlsSettings)
    tracing: TracingSettings = Field(default_factory=TracingSettings)
    runs: RunsSettings = Field(default_factory=RunsSettings)

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Let the environment win over the file, and read nothing else."""
        return env_settings, init_settings


def load_settings(file: Path | None = None) -> Settings:
    """Read the settings from a TOML file and the environment.

    Raises:
        InvalidInput: a key is unknown (names the nearest right one) or a value is not of its kind.
    """
    raw: dict[str, Any] = {}
    if file is not None:
        try:
            raw = tomllib.loads(file.read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
            raise InvalidInput(f"[settings] {file} cannot be read as TOML: {error}") from error
    for name in os.environ:
        where = name[len(PREFIX) :].lower().replace("__", ".")
        if name.startswith(PREFIX) and where not in known_settings():
            raise InvalidInput(f"[settings] the environment names {name}; {_nearest(where)}")
    try:
        return Settings(**raw)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        if first["type"] == "extra_forbidden":
            raise InvalidInput(f"[settings] there is no setting {where}; {_nearest(where)}") from error
        given = repr(first.get("input"))
        if "://" in given and "@" in given:  # it may hold a password
            given = "an address with credentials"
        raise InvalidInput(f"[settings] {where} is {given}: {first['msg']}") from None


def with_log(settings: ServingSettings, write_log: str) -> ServingSettings:
    """Return settings with another write log.

    Raises:
        InvalidInput: it is an address that no broker can have.
    """
    try:
        return ServingSettings(**{**settings.model_dump(), "write_log": write_log})
    except ValidationError as error:
        raise InvalidInput(f"[settings] --log is wrong: {error.errors()[0]['msg']}") from error


def with_sources(settings: RecommendSettings, given: Sequence[str]) -> RecommendSettings:
    """Return settings with other sources: NAME or NAME=WEIGHT each, 1 where no weight is told.

    Raises:
        InvalidInput: a weight is no number of 0 or more.
    """
    named = {name: weight for name, _, weight in (each.partition("=") for each in given)}
    try:
        sources = {name: float(weight or 1) for name, weight in named.items()}
        return RecommendSettings(**{**settings.model_dump(), "sources": sources})
    except ValueError:
        raise InvalidInput(
            f"[settings] --source {' '.join(given)}; expected NAME or NAME=WEIGHT with a weight of 0 or more; correct it"
        ) from None


def with_events(settings: EventSettings, log: str) -> EventSettings:
    """Return settings with another log of events.

    Raises:
        InvalidInput: it is an address that no log can have.
    """
    try:
        return EventSettings(**{**settings.model_dump(), "log": log})
    except ValidationError as error:
        raise InvalidInput(f"[settings] --events is wrong: {error.errors()[0]['msg']}") from None


def known_settings() -> dict[str, str]:
    """Return what every setting is for, by `section.name`."""
    known: dict[str, str] = {}
    for section, field in Settings.model_fields.items():
        assert isinstance(field.annotation, type)
        assert issubclass(field.annotation, BaseModel)
        known |= {f"{section}.{name}": held.description or "" for name, held in field.annotation.model_fields.items()}
    return known


def _nearest(where: str) -> str:
    near = difflib.get_close_matches(where, known_settings(), 1, 0.3)
    return f"did you mean {near[0]}?" if near else "docs/settings.md lists all of them"
