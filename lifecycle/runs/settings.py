"""Where runs are recorded."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field


class RunsSettings(BaseModel):
    """The `runs` section of the settings."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    record: bool = Field(default=True, description="whether each training and build is recorded in MLflow when it ends")
    tracking_uri: str | None = Field(
        default=None,
        min_length=1,
        description="MLflow server (http://HOST:PORT) or its database; a SQLite file in STORE/runs where not set",
    )
    experiment: str | None = Field(
        default=None,
        pattern=r"^[\w][\w .-]{0,99}$",
        description="experiment that the runs belong to, and begin of the names of registered models; the name of the store's "
        "directory where not set. Stores that share a server need one each",
    )
    timeout_s: int = Field(default=10, ge=1, le=600, description="time that one request to an MLflow server may take")
