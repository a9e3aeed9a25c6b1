"""How far what is served has grown beyond the version that it began from."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Grown:
    """An alias, and the writes that its version does not have in it.

    Attributes:
        alias: names the version.
        variant: of the endpoint that answers from it.
        version_id: the sealed version.
        n_datapoints: in it.
        n_written: writes since that changed something.
        sequence: the last of them; acknowledged, so on disk.
    """

    alias: str
    variant: str
    version_id: str
    n_datapoints: int
    n_written: int
    sequence: int
