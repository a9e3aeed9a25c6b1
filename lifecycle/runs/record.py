"""What a store says of its models and index versions, as runs record it.

A record is made from a sealed manifest alone, so that it can be made again whenever the place of the records was lost.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any, Final

from matching.errors import NotFound
from matching.manifest import Manifest
from matching.recommend.model import ModelManifest
from matching.recommend.model_store import ModelStore
from matching.store import Store

INDEX: Final = "index"


@dataclass(frozen=True, slots=True)
class DataSnapshot:
    """What was learned from, or indexed.

    Attributes:
        name: `events`, or the kind of source of an index version.
        digest: SHA-256 in hex.
        told: range in time, counts, sequence of the write log: what is known of it.
    """

    name: str
    digest: str
    told: Mapping[str, str | int | float]


@dataclass(frozen=True, slots=True)
class Record:
    """One training or build that came to an end.

    Attributes:
        made_id: id of the model, or of the index version.
        path: directory of it.
        seconds: how long it took.
    """

    made_id: str
    path: Path
    created_at: datetime
    seconds: float
    params: Mapping[str, str]
    metrics: Mapping[str, float]
    data: DataSnapshot


@dataclass(frozen=True, slots=True)
class Recorded:
    """All records of one source of models, or of the index versions, and what each alias names.

    Attributes:
        group: the source, or `INDEX`.
        aliases: alias to `made_id`.
    """

    group: str
    records: tuple[Record, ...]
    aliases: Mapping[str, str] = field(default_factory=dict)


def recorded(store: Store, group: str | None = None) -> Iterator[Recorded]:
    """Yield what a store says of each source and of its index versions, or of one of them.

    Raises:
        NotFound: the store has no such group.
        CorruptArtifact: a manifest or the history of an alias is damaged.
    """
    models = ModelStore(store.path)
    groups = {**dict.fromkeys(models.sources(), _models), INDEX: _versions}
    if group is not None and group not in groups:
        raise NotFound(f"[runs] the store has no models of {group!r}; there are {', '.join(groups)}; name one of them")
    for name, read in groups.items():
        if group in (None, name):
            yield read(store, models, name)


def _models(store: Store, models: ModelStore, source: str) -> Recorded:
    records = tuple(
        of_model(model_id, models.manifest(source, model_id), models.directory(source, model_id))
        for model_id in models.models(source)
    )
    return Recorded(source, records, models.aliases(source))


def _versions(store: Store, models: ModelStore, group: str) -> Recorded:
    records = tuple(
        of_version(version_id, store.manifest(version_id), store.directory(version_id))
        for version_id in store.versions()
    )
    return Recorded(group, records, store.aliases())


def of_model(model_id: str, manifest: ModelManifest, path: Path) -> Record:
    """Return the record of a model's training."""
    told: dict[str, Any] = json.loads(manifest.to_bytes())
    metrics = dict(told.pop("metrics"))
    metrics |= {"n_items": told.pop("n_items"), "n_bytes": told.pop("file")["n_bytes"]}
    created_at = datetime.fromisoformat(told.pop("created_at"))
    digest = told.pop("events_sha256")
    snapshot: dict[str, str | int | float] = {
        name: told.pop(name) for name in ("first_ms", "last_ms", "log_sequence") if name in told
    }
    snapshot |= {name: metrics[name] for name in ("n_events", "n_users") if name in metrics}
    seconds = metrics.get("fit_seconds", 0.0)
    return Record(
        model_id, path, created_at, seconds, _flat(told), _numbers(metrics), DataSnapshot("events", digest, snapshot)
    )


def of_version(version_id: str, manifest: Manifest, path: Path) -> Record:
    """Return the record of an index version's build."""
    source, build = manifest.source, manifest.build
    stages = {f"seconds {stage}": spent for stage, spent in _mapping(build.get("seconds")).items()}
    params: dict[str, Any] = {
        "code_version": manifest.code_version,
        "seed": manifest.seed,
        "parent": manifest.parent,
        "settings": build.get("settings"),
        "kernels": build.get("kernels"),
        "faiss": build.get("faiss"),
    }
    metrics: dict[str, Any] = {
        "n_datapoints": manifest.n_datapoints,
        "n_bytes": sum(file.n_bytes for file in manifest.files.values()),
        **{
            name: source[name]
            for name in ("n_rows", "n_rejected_rows", "n_pictures", "n_rejected_pictures")
            if name in source
        },
        **stages,
    }
    for space in manifest.spaces:
        params[space.name] = {
            "plan": space.plan.name,
            "params": dict(space.plan.params),
            "space_id": space.space_id,
            "metric": space.metric,
            "dim": space.dim,
            "encoder": None if space.encoder is None else space.encoder.kind,
        }
        metrics |= {
            f"{space.name}.n_vectors": space.n_vectors,
            f"{space.name}.recall_at_{space.recall.k}": space.recall.mean,
            f"{space.name}.recall_at_{space.recall.k}_low": space.recall.low,
        }
    snapshot: dict[str, str | int | float] = {
        "log_sequence": manifest.log_sequence,
        "n_datapoints": manifest.n_datapoints,
    }
    snapshot |= {name: str(source[name]) for name in ("path", "images_dir", "pictures_digest") if source.get(name)}
    return Record(
        version_id,
        path,
        datetime.fromisoformat(manifest.created_at),
        sum(spent for stage, spent in stages.items() if not stage.endswith(" cpu")),
        _flat(params),
        _numbers(metrics),
        DataSnapshot(str(source.get("kind", "")), str(source.get("digest", "")), snapshot),
    )


def _flat(told: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    """Return the values of nested mappings by their dotted names; what is not told is left out."""
    found: dict[str, str] = {}
    for name, value in told.items():
        if isinstance(value, Mapping):
            found |= _flat(value, f"{prefix}{name}.")
        elif value not in (None, ""):
            found[f"{prefix}{name}"] = value if isinstance(value, str) else json.dumps(value)
    return found


def _numbers(told: Mapping[str, Any]) -> dict[str, float]:
    return {name: float(value) for name, value in told.items() if isinstance(value, (int, float))}


def _mapping(told: object) -> Mapping[str, Any]:
    return told if isinstance(told, Mapping) else {}
