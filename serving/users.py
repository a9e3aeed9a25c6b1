"""What keeps the users of a service, as its settings name it."""

from __future__ import annotations

from matching.errors import InvalidInput, MissingExtra
from matching.user_keys import UserKeys
from serving.settings import EventSettings, RecommendSettings
from serving.user_state import UserState
from serving.users_in_memory import UsersInMemory


def open_users(settings: RecommendSettings, events: EventSettings) -> UserState:
    """Return an empty memory, or the Redis that the settings name; whether that answers shows when it is asked.

    Raises:
        InvalidInput: there is no log of events to fill it from, or a setting is wrong.
        MissingExtra: what talks with Redis is not installed.
    """
    if settings.redis is None:
        return UsersInMemory(settings.max_acts, settings.max_users)
    if events.log is None:
        raise InvalidInput(
            "[users] recommend.redis is set and events.log is not; expected a log that tells what users do; start with --events"
        )
    try:
        from serving.users_in_redis import UsersInRedis
    except ImportError as error:
        raise MissingExtra(
            f"[users] {error.name} is not installed here, which users in Redis need; pip install likewise[replicas]"
        ) from error
    password = None
    if settings.redis_password_file is not None:
        try:
            password = settings.redis_password_file.read_text().strip()
        except (OSError, UnicodeDecodeError) as error:
            raise InvalidInput(
                f"[users] {settings.redis_password_file} cannot be read; expected the password of recommend.redis"
            ) from error
    return UsersInRedis(
        settings.redis,
        name=UserKeys.of_file(events.user_keys).fingerprint,
        max_acts=settings.max_acts,
        ttl_s=settings.redis_ttl_s,
        timeout_s=settings.redis_timeout_s,
        user=settings.redis_user,
        password=password,
    )
