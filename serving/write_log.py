"""The log that an endpoint's writes go to: a folder of this process, or a stream that several replicas follow."""

from __future__ import annotations

import logging
import re
import ssl
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING

from matching.errors import CorruptArtifact, InvalidInput, MissingExtra
from matching.live import Log, WriteLog
from serving.settings import ServingSettings

if TYPE_CHECKING:
    from matching.live.stream_log import Broker

_log = logging.getLogger(__name__)


def open_log(
    settings: ServingSettings,
    endpoint: str,
    *,
    first_sequence: int = 1,
    read_only: bool = False,
    up_to_damage: bool = False,
) -> AbstractContextManager[Log] | None:
    """Open the write log of an endpoint, None where the settings name none.

    Args:
        first_sequence: of a new log; one that is there keeps its own.
        read_only: do not keep others from writing to a folder; a stream has any number of writers.
        up_to_damage: read what lies before the damage of a folder's log, see `WriteLog.open`, in place of refusing it.

    Raises:
        MissingExtra: the settings name a broker, and the package to talk with it is not installed.
        InvalidInput: a file of credentials or certificates cannot be read.
        Unavailable: another process writes to the folder, or no broker answers.
        CorruptArtifact: records are damaged or missing.
    """
    if settings.write_log is None:
        return None
    if isinstance(settings.write_log, Path):
        folder = settings.write_log / endpoint
        try:
            return WriteLog.open(folder, first_sequence=first_sequence, read_only=read_only)
        except CorruptArtifact as damage:
            if not up_to_damage:
                raise
            _log.error("no writes are taken, and those behind the damage are not there: %s", damage)
            return WriteLog.open(folder, read_only=True, up_to_damage=True)
    try:
        from matching.live.stream_log import StreamLog
    except ImportError as error:
        raise MissingExtra(
            f"[open] {error.name} is not installed here, which a write log on a broker needs; pip install likewise[replicas]"
        ) from error
    broker = broker_of(settings.write_log, settings)
    return StreamLog.open(
        broker,
        stream_name(endpoint),
        first_sequence=first_sequence,
        n_copies=settings.log_copies,
        duplicate_window_s=settings.log_duplicate_window_s,
        append_timeout_s=settings.log_timeout_s,
        open_timeout_s=max(10.0, settings.log_timeout_s),
    )


def broker_of(servers: str, settings: ServingSettings) -> Broker:
    """Return brokers, several with commas between, and who asks them.

    Raises:
        InvalidInput: a file of credentials or certificates cannot be read.
        ImportError: the package to talk with them is not installed.
    """
    from matching.live.stream_log import Broker

    password = settings.log_password_file
    credentials = settings.log_credentials_file
    return Broker(
        tuple(servers.split(",")),
        user=settings.log_user,
        password=None if password is None else _secret(password),
        credentials_file=None if credentials is None else str(credentials),
        tls=_tls(settings),
    )


def stream_name(endpoint: str) -> str:
    """Return the name of an endpoint's stream: `likewise-` and the name, bytes beyond letters, digits, `-` and `_` as `=XX`."""
    return "likewise-" + re.sub(rb"[^A-Za-z0-9_-]", lambda found: b"=%02X" % found[0][0], endpoint.encode()).decode()


def _secret(file: Path) -> str:
    try:
        return file.read_text().strip()
    except OSError as error:
        raise InvalidInput(f"[open] log_password_file {file}: {error.strerror}; expected a readable file") from None


def _tls(settings: ServingSettings) -> ssl.SSLContext | None:
    if settings.log_ca_file is None and settings.log_certificate_file is None:
        return None
    try:
        context = ssl.create_default_context(cafile=settings.log_ca_file)
        if settings.log_certificate_file is not None:
            context.load_cert_chain(settings.log_certificate_file, settings.log_key_file)
    except (OSError, ssl.SSLError) as error:
        raise InvalidInput(
            f"[open] log_ca_file, log_certificate_file or log_key_file: {error}; expected readable PEM files"
        ) from None
    return context
