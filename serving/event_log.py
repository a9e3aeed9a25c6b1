"""The log of events of a service, as its settings name it."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from matching.errors import MissingExtra
from matching.user_keys import UserKeys
from serving.event_follower import EventFollower
from serving.event_intake import EventIntake, EventObserver
from serving.recommender import Recommender
from serving.settings import EventSettings, ServingSettings
from serving.user_state import UserState
from serving.write_log import broker_of

if TYPE_CHECKING:
    from matching.event_log import SqlEventLog
    from serving.event_stream import EventStream


def open_event_log(where: Path | str) -> SqlEventLog:
    """Open a log of events.

    Raises:
        InvalidInput: an address of something else.
        Unavailable: the database cannot be reached.
        CorruptArtifact: it is no log of events.
        MissingExtra: what talks with databases is not installed.
    """
    try:
        from matching.event_log import SqlEventLog
    except ImportError as error:
        raise MissingExtra(
            f"[events] {error.name} is not installed here, which a log of events needs; pip install likewise[events]"
        ) from error
    return SqlEventLog.open(where)


@contextlib.contextmanager
def opened_intake(
    settings: EventSettings, recommender: Recommender, observer: EventObserver, state: UserState
) -> Iterator[tuple[EventIntake, EventFollower] | None]:
    """Open the log and the secret that the settings name, and keep a state level with it; None where they name no log.

    Raises:
        InvalidInput: a setting is wrong, or the secret's file.
        Unavailable: the database cannot be reached.
        CorruptArtifact: it is no log of events.
        MissingExtra: what talks with databases is not installed.
    """
    if settings.log is None:
        yield None
        return

    def knows_item(item_id: str) -> bool:
        versions = (deployment.control.version for deployment in recommender.deployments)
        return any(version.columns.find(item_id) >= 0 for version in versions)

    keys = UserKeys.of_file(settings.user_keys)
    with open_event_log(settings.log) as log:
        follower = EventFollower(log, state, period_s=settings.follow_s)
        intake = EventIntake(log, keys, settings=settings, knows_item=knows_item, observer=observer)
        intake.listen(follower.settle)
        try:
            yield intake, follower
        finally:
            intake.close()
            follower.close()


def follow_stream(
    settings: EventSettings, serving: ServingSettings, intake: EventIntake, observer: EventObserver
) -> EventStream:
    """Take events from the stream that the settings name, until it is closed.

    Raises:
        InvalidInput: a file of credentials or certificates cannot be read.
        MissingExtra: what talks with a broker is not installed.
    """
    assert settings.stream is not None
    try:
        from serving.event_stream import EventStream
    except ImportError as error:
        raise MissingExtra(
            f"[events] {error.name} is not installed here, which a stream of events needs; pip install likewise[replicas]"
        ) from error
    broker = broker_of(settings.stream, serving)
    return EventStream(broker, settings.stream_name, intake, max_batch=settings.max_batch, observer=observer)
