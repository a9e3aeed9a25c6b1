"""The log of events in a database: a SQLite file, or PostgreSQL where several services share it. One schema for both."""

from __future__ import annotations

import contextlib
import json
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.exc import DataError, DBAPIError, IntegrityError, ProgrammingError, SQLAlchemyError

from matching.errors import CorruptArtifact, InvalidInput, LikewiseError, StorageFull, Unavailable
from matching.events import Appended, Event, EventItem, Stretch
from matching.user_keys import user_digest, visit_digest

_FORMAT: Final = 1
_ASKED: Final = 500  # values that one question names
_PAGE: Final = 2_000
_WAIT_S: Final = 30  # for another process that writes to the same file
_POSTGRES: Final = ("postgresql://", "postgres://")
_DISK_FULL: Final = "53100"
_encoded = json.JSONEncoder(ensure_ascii=False, separators=(",", ":")).encode

_tables = sa.MetaData()
_sequence = sa.BigInteger().with_variant(sa.Integer, "sqlite")
_EVENTS: Final = sa.Table(
    "likewise_events",
    _tables,
    sa.Column("sequence", _sequence, primary_key=True, autoincrement=False),
    sa.Column("event_id", sa.Text, nullable=False, unique=True),
    sa.Column("event_type", sa.Text, nullable=False),
    sa.Column("user_key", sa.Text, nullable=False),
    sa.Column("session", sa.Text, nullable=False),
    sa.Column("items", sa.Text, nullable=False),
    sa.Column("at_ms", sa.BigInteger, nullable=False),
    sa.Column("received_ms", sa.BigInteger, nullable=False),
    sa.Column("query", sa.Text, nullable=False),
    sa.Column("recommendation_id", sa.Text, nullable=False),
    sa.Index("likewise_events_user", "user_key"),
)
# The digest of a user's key and not the key: nothing of them is left, and who comes again is known all the same.
_ERASED: Final = sa.Table(
    "likewise_erased_users",
    _tables,
    sa.Column("digest", sa.Text, primary_key=True),
    sa.Column("at_ms", sa.BigInteger, nullable=False),
)
# What followers of the log have to forget, and since which sequence: users, and the visits that were theirs.
_FORGOTTEN: Final = sa.Table(
    "likewise_forgotten",
    _tables,
    sa.Column("digest", sa.Text, primary_key=True),
    sa.Column("sequence", sa.BigInteger, nullable=False, index=True),
)
# One row. Who appends holds it, so that sequences become visible in their order, and none is given out twice.
_HEAD: Final = sa.Table(
    "likewise_event_log",
    _tables,
    sa.Column("only", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("format", sa.Integer, nullable=False),
    sa.Column("sequence", sa.BigInteger, nullable=False),
)


@dataclass(frozen=True, slots=True)
class EventStats:
    """What a log holds.

    Attributes:
        n_events: by type.
        n_users: users with an event.
        n_erased: users that were erased.
        first_ms: when the oldest happened, None where there is none.
        last_ms: when the newest happened.
        sequence: of the newest event or erasure that there ever was.
    """

    n_events: dict[str, int]
    n_users: int
    n_erased: int
    first_ms: int | None
    last_ms: int | None
    sequence: int


class _Waiting:
    """Events of one append on their way, and what became of them."""

    __slots__ = ("appended", "error", "events")

    def __init__(self, events: Sequence[Event]) -> None:
        self.events = tuple(events)
        self.appended: Appended | None = None
        self.error: BaseException | None = None


class SqlEventLog:
    """An `EventLog` in a database; made by `open`, a context manager.

    Thread-safe, and several processes may have it open. Appends that meet are committed together.
    """

    def __init__(self, engine: sa.Engine, name: str) -> None:
        self._engine = engine
        self._name = name
        self._writing = engine.execution_options(likewise_writes=True)
        self._committing = threading.Lock()
        self._queue_lock = threading.Lock()
        self._queue: list[_Waiting] = []
        # as the driver takes it: the rows are plain and many
        mark = "?" if self._is_sqlite else "%s"
        names = ", ".join(column.name for column in _EVENTS.columns)
        marks = ", ".join([mark] * len(_EVENTS.columns))
        self._insert = f"INSERT INTO {_EVENTS.name} ({names}) VALUES ({marks})"  # noqa: S608  names of our own
        self._tell: Callable[[Stretch], None] = lambda stretch: None

    @classmethod
    def open(cls, where: Path | str) -> SqlEventLog:
        """Open a log, or make a new one.

        Args:
            where: path of a SQLite file, or `postgresql://user:password@host:port/database`.

        Raises:
            InvalidInput: an address of something else.
            Unavailable: the database cannot be reached.
            CorruptArtifact: the file is something else, or of a newer format.
        """
        text = str(where)
        if text.startswith(_POSTGRES):
            url = sa.make_url(text).set(drivername="postgresql+psycopg")
            engine = sa.create_engine(url, pool_pre_ping=True, connect_args={"connect_timeout": 5})
            name = url.render_as_string(hide_password=True)
        elif "://" in text:
            scheme = text.partition("://")[0]
            raise InvalidInput(f"[events] {scheme}:// is no event log; expected a path or postgresql://; correct it")
        else:
            engine, name = _sqlite_engine(Path(text)), text
        log = cls(engine, name)
        try:
            log._prepare()
        except BaseException:
            log.close()
            raise
        return log

    def __enter__(self) -> SqlEventLog:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def tell(self, listener: Callable[[Stretch], None]) -> None:
        """Call something with what is appended here, in the log's order, before `append` returns; it must be quick."""
        self._tell = listener

    def append(self, events: Sequence[Event]) -> Appended:
        """Keep events, all or none; durable when it returns.

        Raises:
            InvalidInput: the database cannot hold a value.
            StorageFull: there is no space.
            Unavailable: the database cannot be reached.
        """
        mine = _Waiting(events)
        with self._queue_lock:
            self._queue.append(mine)
        with self._committing:
            if mine.appended is None and mine.error is None:
                with self._queue_lock:
                    group, self._queue = self._queue, []
                self._commit(group)
        if mine.error is not None:
            raise mine.error
        assert mine.appended is not None
        return mine.appended

    def read(self, after: int = 0) -> Iterator[tuple[int, Event]]:
        """Yield what was kept after a sequence, each with its own, ascending; a page in memory at a time.

        Raises:
            Unavailable: the database cannot be reached.
        """
        while True:
            wanted = sa.select(_EVENTS).where(_EVENTS.c.sequence > after).order_by(_EVENTS.c.sequence).limit(_PAGE)
            with self._told("read"), self._engine.begin() as connection:
                rows = connection.execute(wanted).all()
            for row in rows:
                yield row.sequence, _event_of(row)
            if len(rows) < _PAGE:
                return
            after = rows[-1].sequence

    def stretch(self, after: int, until: int | None = None) -> Stretch:
        """See `EventLog`."""
        with self._told("read"), self._engine.begin() as connection:
            head: int = connection.execute(sa.select(_HEAD.c.sequence)).scalar_one()
            end = head if until is None else min(until, head)
            if end <= after:
                return Stretch(after, after, (), frozenset(), head)
            within = sa.and_(_EVENTS.c.sequence > after, _EVENTS.c.sequence <= end)
            rows = connection.execute(sa.select(_EVENTS).where(within).order_by(_EVENTS.c.sequence).limit(_PAGE)).all()
            if len(rows) == _PAGE:
                end = rows[-1].sequence
            forgotten = sa.select(_FORGOTTEN.c.digest).where(
                _FORGOTTEN.c.sequence > after, _FORGOTTEN.c.sequence <= end
            )
            erased = frozenset(connection.scalars(forgotten))
        return Stretch(after, end, tuple([(row.sequence, _event_of(row)) for row in rows]), erased, head)

    def erase(self, user: str) -> int:
        """See `EventLog`."""
        if not user:
            raise InvalidInput("[erase] the user is empty; expected the key of one; nobody was erased")
        with self._told("erase"):
            n_gone = self._erase(user)
            with self._engine.connect() as held:
                # what was deleted is in old pages still
                tidy = "PRAGMA wal_checkpoint(TRUNCATE)" if self._is_sqlite else "VACUUM likewise_events"
                held.execution_options(isolation_level="AUTOCOMMIT").exec_driver_sql(tidy)
        return n_gone

    def _erase(self, user: str) -> int:
        """Who appends waits for the events alone that came while the log was looked through."""
        looked: tuple[set[str], int, list[int]] = set(), 0, []
        while True:
            with self._writing.begin() as connection:
                sequence = self._locked_sequence(connection) + 1
                visits = self._visits_of(connection, user)
                if visits <= looked[0]:
                    ours = [_EVENTS.c.user_key == user]
                    ours += [_EVENTS.c.sequence.in_(part) for part in _parts(looked[2])]
                    ours += [_of_nobody(part, looked[1]) for part in _parts(sorted(visits))]
                    n_gone = sum(connection.execute(sa.delete(_EVENTS).where(each)).rowcount for each in ours)
                    at_ms = int(time.time() * 1e3)
                    digest = user_digest(user)
                    connection.execute(self._insert_missing(_ERASED).values(digest=digest, at_ms=at_ms))
                    for each in (digest, *map(visit_digest, sorted(visits))):
                        connection.execute(sa.delete(_FORGOTTEN).where(_FORGOTTEN.c.digest == each))
                        connection.execute(sa.insert(_FORGOTTEN).values(digest=each, sequence=sequence))
                    connection.execute(sa.update(_HEAD).values(sequence=sequence))
                    return n_gone
            with self._engine.begin() as connection:
                head: int = connection.execute(sa.select(_HEAD.c.sequence)).scalar_one()
                visits = self._visits_of(connection, user)
                found: list[int] = []
                for part in _parts(sorted(visits)):
                    found += connection.scalars(sa.select(_EVENTS.c.sequence).where(_of_nobody(part, 0)))
                looked = visits, head, found

    def _visits_of(self, connection: sa.Connection, user: str) -> set[str]:
        wanted = sa.select(_EVENTS.c.session).where(_EVENTS.c.user_key == user, _EVENTS.c.session != "").distinct()
        return set(connection.scalars(wanted))

    def stats(self) -> EventStats:
        """Count what there is; reads all of it.

        Raises:
            Unavailable: the database cannot be reached.
        """
        kind, at_ms = _EVENTS.c.event_type, _EVENTS.c.at_ms
        with self._told("stats"), self._engine.begin() as connection:
            by_type = connection.execute(sa.select(kind, sa.func.count()).group_by(kind).order_by(kind)).all()
            users = sa.select(sa.func.count(sa.distinct(_EVENTS.c.user_key))).where(_EVENTS.c.user_key != "")
            first, last = connection.execute(sa.select(sa.func.min(at_ms), sa.func.max(at_ms))).one()
            return EventStats(
                {row[0]: row[1] for row in by_type},
                connection.execute(users).scalar_one(),
                connection.execute(sa.select(sa.func.count()).select_from(_ERASED)).scalar_one(),
                first,
                last,
                connection.execute(sa.select(_HEAD.c.sequence)).scalar_one(),
            )

    def close(self) -> None:
        """Give back connections; twice is once."""
        self._engine.dispose()

    @property
    def _is_sqlite(self) -> bool:
        return self._engine.dialect.name == "sqlite"

    def _prepare(self) -> None:
        with self._told("open"):
            try:
                self._make_tables()
            except (IntegrityError, ProgrammingError):  # another process made them just now
                self._make_tables()
            with self._engine.begin() as connection:
                found = connection.execute(sa.select(_HEAD.c.format)).scalar_one()
        if found != _FORMAT:
            raise CorruptArtifact(
                f"[events] {self._name} is of format {found}; expected {_FORMAT}; use the version of likewise that wrote it"
            )

    def _make_tables(self) -> None:
        with self._writing.begin() as connection:
            _tables.create_all(connection)
            connection.execute(self._insert_missing(_HEAD).values(only=1, format=_FORMAT, sequence=0))

    def _insert_missing(self, table: sa.Table) -> Any:
        insert = sqlite.insert if self._is_sqlite else postgresql.insert
        return insert(table).on_conflict_do_nothing()

    def _commit(self, group: Sequence[_Waiting]) -> None:
        try:
            with self._told("append"), self._writing.begin() as connection:
                appended, stretch = self._appended(connection, group)
        except LikewiseError as error:
            for waiting in group:
                waiting.error = error
        except BaseException as error:
            for waiting in group:
                waiting.error = Unavailable(f"[append] the log was interrupted: {error!r}; send the events again")
            raise
        else:
            if stretch.events:
                self._tell(stretch)
            for waiting, told in zip(group, appended, strict=True):
                waiting.appended = told

    def _appended(self, connection: sa.Connection, group: Sequence[_Waiting]) -> tuple[list[Appended], Stretch]:
        """Insert what is new of each append, in their order."""
        sequence = self._locked_sequence(connection)
        before = sequence
        events = [event for waiting in group for event in waiting.events]
        told: list[tuple[int, Event]] = []
        known = _found(connection, _EVENTS.c.event_id, {event.event_id for event in events})
        digests = {user: user_digest(user) for user in {event.user for event in events} if user}
        erased = _found(connection, _ERASED.c.digest, set(digests.values()))
        rows: list[tuple[Any, ...]] = []
        answers: list[Appended] = []
        for waiting in group:
            accepted: list[Event] = []
            for event in waiting.events:
                if event.event_id in known or digests.get(event.user) in erased:
                    continue
                known.add(event.event_id)
                sequence += 1
                rows.append(_row_of(sequence, event))
                accepted.append(event)
                told.append((sequence, event))
            answers.append(Appended(tuple(accepted), len(waiting.events) - len(accepted), sequence))
        if sequence > before:
            connection.exec_driver_sql(self._insert, rows)
            connection.execute(sa.update(_HEAD).values(sequence=sequence))
        return answers, Stretch(before, sequence, tuple(told), frozenset(), sequence)

    def _locked_sequence(self, connection: sa.Connection) -> int:
        sequence: int = connection.execute(sa.select(_HEAD.c.sequence).with_for_update()).scalar_one()
        return sequence

    @contextlib.contextmanager
    def _told(self, operation: str) -> Iterator[None]:
        """Turn what a driver raises into our errors; values of events are in none of them."""
        try:
            yield
        except DataError as error:
            raise InvalidInput(
                f"[{operation}] {self._name} cannot hold a value of an event; expected text without NUL and numbers in range"
            ) from error
        except DBAPIError as error:
            raise self._error_of(operation, error) from error
        except SQLAlchemyError as error:
            raise Unavailable(
                f"[{operation}] {self._name}: {type(error).__name__}; see that the database answers"
            ) from error

    def _error_of(self, operation: str, error: DBAPIError) -> LikewiseError:
        driver = error.orig
        why = str(driver).splitlines()[0] if str(driver) else type(driver).__name__
        if getattr(driver, "sqlstate", None) == _DISK_FULL or "disk is full" in why:
            return StorageFull(f"[{operation}] the disk of {self._name} is full; make room and send again")
        if "not a database" in why or "malformed" in why:
            return CorruptArtifact(
                f"[{operation}] {self._name}: {why}; expected an event log; restore it from a backup"
            )
        return Unavailable(f"[{operation}] {self._name}: {why}; see that the database answers, then send again")


def _sqlite_engine(file: Path) -> sa.Engine:
    if not file.parent.is_dir():
        raise InvalidInput(f"[events] the folder {file.parent} is missing; expected one that is there; make it")
    url = sa.URL.create("sqlite", database=str(file))
    engine = sa.create_engine(url, connect_args={"timeout": _WAIT_S, "check_same_thread": False})

    @sa.event.listens_for(engine, "connect")
    def _connected(connection: Any, _: object) -> None:
        connection.isolation_level = None  # transactions begin below, and not where the driver thinks best
        for pragma in ("journal_mode=WAL", "synchronous=FULL", "secure_delete=ON"):
            connection.execute(f"PRAGMA {pragma}")

    @sa.event.listens_for(engine, "begin")
    def _begun(connection: sa.Connection) -> None:
        if connection.get_isolation_level() != "AUTOCOMMIT":
            writes = connection.get_execution_options().get("likewise_writes", False)
            connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")

    return engine


def _found(connection: sa.Connection, column: sa.Column[str], values: set[str]) -> set[str]:
    """Which of some values a column has."""
    found: set[str] = set()
    for part in _parts(sorted(values)):
        found.update(connection.scalars(sa.select(column).where(column.in_(part))))
    return found


def _parts(values: list[Any]) -> list[list[Any]]:
    return [values[start : start + _ASKED] for start in range(0, len(values), _ASKED)]


def _of_nobody(visits: list[str], after: int) -> sa.ColumnElement[bool]:
    """Events beyond a sequence, in some visits, of nobody known."""
    return sa.and_(_EVENTS.c.sequence > after, _EVENTS.c.user_key == "", _EVENTS.c.session.in_(visits))


def _row_of(sequence: int, event: Event) -> tuple[Any, ...]:
    """The values of a row, in the order of the columns."""
    items = [[item.item_id, item.quantity, item.value, item.position, item.propensity] for item in event.items]
    return (
        sequence,
        event.event_id,
        event.event_type,
        event.user,
        event.session,
        _encoded(items),
        event.at_ms,
        event.received_ms,
        event.query,
        event.recommendation_id,
    )


def _event_of(row: Any) -> Event:
    _, event_id, kind, user, session, items, at_ms, received_ms, query, recommendation_id = row
    told = tuple(EventItem(*item) for item in json.loads(items))
    return Event(event_id, kind, user, session, told, at_ms, received_ms, query, recommendation_id)
