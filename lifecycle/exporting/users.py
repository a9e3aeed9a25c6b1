"""Whom slates are exported for, and what they did."""

from __future__ import annotations

import time
from pathlib import Path

from lifecycle.exporting.recommendations import Moment
from matching.errors import InvalidInput
from matching.user_keys import UserKeys
from serving.event_log import open_event_log
from serving.settings import EventSettings, RecommendSettings
from serving.users_in_memory import UsersInMemory

Named = tuple[str, str]  # as a table names a user, and as the state knows them


def known_users(
    events: EventSettings | None, users: Path | None, recommend: RecommendSettings, moment: Moment | None
) -> tuple[list[Named], UsersInMemory, Moment]:
    """Return users, what they did, and as of when.

    Args:
        events: whose log is read; nobody did anything where None.
        users: a file of ids, a line each; where None all users of the log, under their keyed hashes.
        moment: to know no later events than then did; now where None.

    Raises:
        InvalidInput: the file cannot be read.
        Unavailable: the log cannot be reached.
    """
    state = UsersInMemory(recommend.max_acts, recommend.max_users)
    if events is None or events.log is None:
        named = [(each, each) for each in _lines(users)]
        return named, state, moment or Moment(int(time.time() * 1000), 0)
    found: set[str] = set()
    last = 0
    with open_event_log(events.log) as log:
        for sequence, event in log.read():
            if moment is not None and sequence > moment.sequence:
                break
            last = sequence
            state.take((event,))
            if event.user:
                found.add(event.user)
    then = moment or Moment(int(time.time() * 1000), last)
    if users is None:
        return [(key, key) for key in sorted(found)], state, then
    keys = UserKeys.of_file(events.user_keys)
    return [(each, keys.key(each)) for each in _lines(users)], state, then


def _lines(file: Path | None) -> list[str]:
    if file is None:
        return []
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidInput(f"[export] {file} cannot be read: {error}; expected an id of a user a line") from error
    return sorted({line.strip() for line in lines} - {""})
