"""MLflow: each model and index version of a store as a run and as a version of a registered model, with the store's aliases.

The store rules and MLflow mirrors it: recording compares the two and adds what is missing, so it may be lost, cut short or
repeated.
MLflow holds numbers and names alone. Models stay in the store, sealed, and are never read back through MLflow.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import logging
import os
import re
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Final, TypeVar
from urllib.parse import urlsplit, urlunsplit

from lifecycle.runs.record import Record, Recorded
from lifecycle.runs.settings import RunsSettings
from matching.errors import MissingExtra, NotFound, Unavailable
from matching.store import Store, check_name

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run as MlflowRun
    from mlflow.store.entities import PagedList

_Entity = TypeVar("_Entity")
_DIRECTORY: Final = "runs"
_MADE_ID: Final = "likewise.id"
_GROUP: Final = "likewise.group"
_PATH: Final = "likewise.path"
_DIGEST: Final = "likewise.data_digest"
_FINISHED: Final = "FINISHED"
_DIGEST_CHARS: Final = 36  # MLflow keeps no more of a data set's digest
_PARAMS_A_BATCH: Final = 100
_A_PAGE: Final = 200
# Read by MLflow when it is imported or asked.
_QUIET: Final = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_ALLOW_PICKLE_DESERIALIZATION": "false",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    "MLFLOW_CONFIGURE_LOGGING": "false",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0",
}


@dataclass(frozen=True, slots=True)
class Run:
    """One run, as MLflow tells it.

    Attributes:
        made_id: the model or index version that it made.
        aliases: those of MLflow that name it.
        data: of the data set: digest, and what was known of it.
    """

    run_id: str
    group: str
    made_id: str
    path: str
    started_at: datetime
    ended_at: datetime | None
    status: str
    aliases: tuple[str, ...]
    params: Mapping[str, str]
    metrics: Mapping[str, float]
    data: Mapping[str, object]


@dataclass(frozen=True, slots=True)
class Mirrored:
    """What was missing in MLflow and is there now; aliases that MLflow cannot hold are left out."""

    n_runs: int = 0
    n_aliases: int = 0
    left_out: tuple[str, ...] = ()

    def __add__(self, other: Mirrored) -> Mirrored:
        return Mirrored(self.n_runs + other.n_runs, self.n_aliases + other.n_aliases, (*self.left_out, *other.left_out))


class Tracking:
    """The runs of one store in MLflow: in a SQLite file of the store, or wherever the settings say. Not thread-safe.

    Raises:
        MissingExtra: mlflow is not installed.
    """

    def __init__(self, store: Store, settings: RunsSettings) -> None:
        self._directory = store.path.resolve() / _DIRECTORY
        self._directory.mkdir(exist_ok=True)
        self._uri = settings.tracking_uri or f"sqlite:///{self._directory / 'mlflow.sqlite'}"
        self._experiment = settings.experiment or re.sub(r"[^\w .-]", "_", store.path.resolve().name)
        self.where = _without_credentials(self._uri)
        os.environ.update(_QUIET, MLFLOW_HTTP_REQUEST_TIMEOUT=str(settings.timeout_s))
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                import mlflow
        except ImportError as error:
            raise MissingExtra(
                f"[runs] {error.name} is not installed, so no run is recorded; install likewise[mlops] and run `likewise runs "
                f"sync --store {store.path}`"
            ) from error
        for name in ("mlflow", "alembic"):
            logging.getLogger(name).setLevel(logging.WARNING)
        with self._asking():
            self._client: MlflowClient = mlflow.MlflowClient(self._uri, self._uri)

    def mirror(self, recorded: Sequence[Recorded]) -> Mirrored:
        """Add what MLflow lacks of the records, and point its aliases where the store's point; return how much that was.

        Raises:
            Unavailable: MLflow does not answer, or refuses.
        """
        with _locked(self._directory / "sync.lock"), self._asking():
            experiment = self._experiment_id()
            return sum((self._mirror_group(experiment, each) for each in recorded), Mirrored())

    def runs(self, group: str | None = None, *, n: int = 50) -> tuple[Run, ...]:
        """Return the newest runs, newest first.

        Raises:
            InvalidInput: the group cannot be one.
            Unavailable: MLflow does not answer, or refuses.
        """
        if group is not None:
            check_name(group)
        with self._asking():
            asked = "" if group is None else _of_group(group)
            found = self._client.search_runs(
                [self._experiment_id()], asked, max_results=n, order_by=["attributes.start_time DESC"]
            )
            return self._told(found)

    def run(self, name: str) -> Run:
        """Return the run of that id, or that made the model or index version of that id.

        Raises:
            InvalidInput: it cannot be an id.
            NotFound: there is none.
            Unavailable: MLflow does not answer, or refuses.
        """
        check_name(name)
        with self._asking():
            experiment = [self._experiment_id()]
            for asked in (f"attributes.run_id = '{name}'", f"tags.`{_MADE_ID}` = '{name}'"):
                if found := self._client.search_runs(experiment, asked, max_results=1):
                    return self._told(found)[0]
        raise NotFound(
            f"[runs] {self.where} has no run {name!r}, nor one of a model or version of that id; `likewise runs list` shows "
            "them, `likewise runs sync` records what is missing"
        )

    def _mirror_group(self, experiment: str, recorded: Recorded) -> Mirrored:
        if not recorded.records:
            return Mirrored()
        client, name = self._client, self._registered(recorded.group)
        asked = _of_group(recorded.group)
        runs: dict[str, MlflowRun] = {}
        for run in _all(lambda token: client.search_runs([experiment], asked, max_results=_A_PAGE, page_token=token)):
            runs[run.data.tags[_MADE_ID]] = run
        if not client.search_registered_models(f"name = '{name}'", max_results=1):
            client.create_registered_model(name, tags={_GROUP: recorded.group})
        versions = self._versions(name)
        n_runs = 0
        for record in recorded.records:
            begun = runs.get(record.made_id)
            if begun is not None and begun.info.status == _FINISHED and record.made_id in versions:
                continue
            run_id = self._record(experiment, begun, recorded.group, record)
            if record.made_id not in versions:
                versions[record.made_id] = self._register(name, run_id, recorded.group, record)
            n_runs += 1
        n_aliases, left_out = self._point(name, recorded, versions)
        return Mirrored(n_runs, n_aliases, left_out)

    def _record(self, experiment: str, begun: MlflowRun | None, group: str, record: Record) -> str:
        """Write a run down, or the rest of one that was cut short, and return its id."""
        if begun is not None and begun.info.status == _FINISHED:
            return str(begun.info.run_id)
        from mlflow.entities import Dataset, DatasetInput, InputTag, Metric, Param

        client, ended_ms = self._client, int(record.created_at.timestamp() * 1000)
        if begun is None:
            tags = {
                _MADE_ID: record.made_id,
                _GROUP: group,
                _PATH: str(record.path.resolve()),
                _DIGEST: record.data.digest,
            }
            started_ms = ended_ms - int(record.seconds * 1000)
            begun = client.create_run(experiment, started_ms, tags, f"{group} {record.made_id}")
        run_id = str(begun.info.run_id)
        params = [Param(name, value) for name, value in record.params.items()]
        for first in range(0, len(params), _PARAMS_A_BATCH):
            client.log_batch(run_id, params=params[first : first + _PARAMS_A_BATCH], synchronous=True)
        metrics = [Metric(name, value, ended_ms, 0) for name, value in record.metrics.items()]
        client.log_batch(run_id, metrics, synchronous=True)
        if record.data.digest:
            told = json.dumps(dict(record.data.told), sort_keys=True)
            data = Dataset(record.data.name, record.data.digest[:_DIGEST_CHARS], "likewise", told, profile=told)
            client.log_inputs(run_id, [DatasetInput(data, [InputTag("mlflow.data.context", "training")])])
        client.set_terminated(run_id, _FINISHED, ended_ms)
        return run_id

    def _register(self, name: str, run_id: str, group: str, record: Record) -> str:
        made = self._client.create_model_version(
            name,
            f"likewise:/{group}/{record.made_id}",  # no artefact of MLflow's: nothing is ever loaded by it
            run_id,
            tags={_MADE_ID: record.made_id, _PATH: str(record.path.resolve())},
            await_creation_for=0,
        )
        return str(made.version)

    def _point(self, name: str, recorded: Recorded, versions: Mapping[str, str]) -> tuple[int, tuple[str, ...]]:
        """Point aliases where the store's point; return how many were moved, and which MLflow cannot hold."""
        from mlflow.exceptions import MlflowException

        held = self._client.get_registered_model(name).aliases
        n_moved, left_out = 0, []
        for alias, made_id in recorded.aliases.items():
            wanted = versions.get(made_id)
            if wanted is None or str(held.get(alias)) == wanted:
                continue
            try:
                self._client.set_registered_model_alias(name, alias, wanted)
                n_moved += 1
            except MlflowException as error:
                if error.error_code != "INVALID_PARAMETER_VALUE":
                    raise
                left_out.append(f"{recorded.group}: {alias}")
        return n_moved, tuple(left_out)

    def _versions(self, name: str) -> dict[str, str]:
        """Return the version of a registered model that each model or index version is."""
        client, asked = self._client, f"name = '{name}'"
        pages = _all(lambda token: client.search_model_versions(asked, max_results=_A_PAGE, page_token=token))
        return {each.tags[_MADE_ID]: str(each.version) for each in pages if _MADE_ID in each.tags}

    def _told(self, found: Sequence[MlflowRun]) -> tuple[Run, ...]:
        """Return runs as they are shown; a run by other hands in the same experiment has no part in them."""
        ours = [run for run in found if {_MADE_ID, _GROUP} <= run.data.tags.keys()]
        aliases: dict[tuple[str, str], list[str]] = {}
        for group in {run.data.tags[_GROUP] for run in ours}:
            name = self._registered(group)
            if not self._client.search_registered_models(f"name = '{name}'", max_results=1):
                continue
            made_of = {version: made_id for made_id, version in self._versions(name).items()}
            for alias, version in sorted(self._client.get_registered_model(name).aliases.items()):
                aliases.setdefault((group, made_of.get(str(version), "")), []).append(alias)
        return tuple(
            _as_run(run, tuple(aliases.get((run.data.tags[_GROUP], run.data.tags[_MADE_ID]), ()))) for run in ours
        )

    def _registered(self, group: str) -> str:
        return f"{self._experiment}-{group}"

    def _experiment_id(self) -> str:
        found = self._client.get_experiment_by_name(self._experiment)
        if found is not None:
            return str(found.experiment_id)
        # Nothing is kept there; without a place of its own MLflow would name one below the working directory.
        location = None if self._uri.startswith("http") else (self._directory / "artifacts").as_uri()
        return str(self._client.create_experiment(self._experiment, location))

    @contextlib.contextmanager
    def _asking(self) -> Iterator[None]:
        """Turn whatever goes wrong in MLflow, its database and its connections into one error."""
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of MLflow about its own parts
                yield
        except NotFound:
            raise
        except Exception as error:
            told = str(error).strip().replace(self._uri, self.where) or type(error).__name__
            raise Unavailable(
                f"[runs] MLflow at {self.where} did not take or tell the runs: {told.splitlines()[0][:300]}; the store has all "
                "of them; run `likewise runs sync` when it answers again"
            ) from error


def _as_run(run: MlflowRun, aliases: tuple[str, ...]) -> Run:
    tags, info = run.data.tags, run.info
    data: dict[str, object] = {"digest": tags.get(_DIGEST, "")}
    for each in run.inputs.dataset_inputs if run.inputs else ():
        data |= {"name": each.dataset.name, **json.loads(each.dataset.profile or "{}")}
    return Run(
        info.run_id,
        tags[_GROUP],
        tags[_MADE_ID],
        tags.get(_PATH, ""),
        _when(info.start_time),
        None if info.end_time is None else _when(info.end_time),
        info.status,
        aliases,
        dict(sorted(run.data.params.items())),
        dict(sorted(run.data.metrics.items())),
        data,
    )


def _all(page: Callable[[str | None], PagedList[_Entity]]) -> Iterator[_Entity]:
    token: str | None = None
    while True:
        found = page(token)
        yield from found
        token = found.token
        if not token:
            return


def _when(ms: int) -> datetime:
    return datetime.fromtimestamp(ms / 1000, timezone.utc)


def _of_group(group: str) -> str:
    return f"tags.`{_GROUP}` = '{group}'"


def _without_credentials(uri: str) -> str:
    parts = urlsplit(uri)
    if "@" not in parts.netloc:
        return uri
    return urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2]))


@contextlib.contextmanager
def _locked(file: Path) -> Iterator[None]:
    with file.open("a") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
