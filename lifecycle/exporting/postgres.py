"""A table of PostgreSQL as the place of an export: parts are copied beside it, then all of it takes its name at once."""

from __future__ import annotations

import json
import threading
from collections.abc import Sequence
from dataclasses import asdict
from types import TracebackType
from typing import Any, Final

import psycopg
import pyarrow as pa
from psycopg import sql

from lifecycle.exporting.job import Job, Part
from lifecycle.exporting.lines import copied
from matching.errors import AlreadyExists, InvalidInput, StorageFull, Unavailable

_PARTS: Final = sql.Identifier("likewise_export_parts")
_MARK: Final = "likewise export "
_TYPES: Final = ((pa.types.is_list, "text[]"), (pa.types.is_int32, "integer"), (pa.types.is_float32, "real"))
_DISK_FULL: Final = "53100"


class PostgresSink:
    """Copies the parts of an export into a database, each in a transaction that also notes it. Thread-safe.

    What had the name before is seen until the last part is there; it must be an export too.
    """

    def __init__(self, address: str, table: str, schema: pa.Schema, key: Sequence[str]) -> None:
        """Connect.

        Args:
            address: `postgresql://user@host:port/database`.
            table: to make, or to make anew.
            schema: of the parts.
            key: its primary key.

        Raises:
            InvalidInput: the address is none.
            Unavailable: the database cannot be reached.
        """
        self._address = address
        self._table = table
        self._schema = schema
        self._key = key
        self._job: Job | None = None
        self._own = threading.local()
        self._connections: list[psycopg.Connection[Any]] = []
        self._listing = threading.Lock()
        self._main = self._connected()

    def __enter__(self) -> PostgresSink:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for connection in self._connections:
            connection.close()

    def pending(self) -> Job | None:
        """Return the job whose parts lie in the database, if one was begun and not finished."""
        with self._told():
            if not _first(self._main.execute("SELECT to_regclass('likewise_export_parts') IS NOT NULL")):
                return None
            begun = sql.SQL("SELECT told FROM {} WHERE target = %s AND part < 0").format(_PARTS)
            told = _first(self._main.execute(begun, [self._table]))
        return None if told is None else Job(**json.loads(told))

    def begin(self, job: Job) -> set[int]:
        """Take a job up: keep the finished parts of the same one, and drop those of another.

        Raises:
            AlreadyExists: another process exports to this table, or it is none of ours.
            Unavailable: the database cannot be reached.
        """
        self._job = job
        with self._told(), self._main.transaction():
            locked = self._main.execute("SELECT pg_try_advisory_lock(hashtextextended(%s, 0))", [_MARK + self._table])
            if not _first(locked):
                raise AlreadyExists(
                    f"[export] another process exports to table {self._table}; expected none; wait for it to end"
                )
            self._check_ours()
            self._main.execute(
                sql.SQL(
                    "CREATE TABLE IF NOT EXISTS {} (target text, job text, part integer, n_rows bigint, told text, "
                    "PRIMARY KEY (target, job, part))"
                ).format(_PARTS)
            )
            others = self._main.execute(
                sql.SQL("DELETE FROM {} WHERE target = %s AND job <> %s RETURNING job").format(_PARTS),
                [self._table, job.digest()],
            )
            for old in {row[0] for row in others.fetchall()}:
                self._main.execute(sql.SQL("DROP TABLE IF EXISTS {}").format(self._staged(old)))
            self._main.execute(
                sql.SQL("CREATE TABLE IF NOT EXISTS {} ({})").format(
                    self._staged(job.digest()),
                    sql.SQL(", ").join(
                        sql.SQL("{} {} NOT NULL").format(sql.Identifier(field.name), sql.SQL(_type_of(field.type)))
                        for field in self._schema
                    ),
                )
            )
            done = self._main.execute(
                sql.SQL("SELECT part FROM {} WHERE target = %s AND job = %s AND part >= 0").format(_PARTS),
                [self._table, job.digest()],
            )
            kept = {int(row[0]) for row in done.fetchall()}
            # a job is known from its beginning, so that what is left of it can be found
            self._main.execute(
                sql.SQL("INSERT INTO {} VALUES (%s, %s, -1, 0, %s) ON CONFLICT DO NOTHING").format(_PARTS),
                [self._table, job.digest(), json.dumps(asdict(job))],
            )
        return kept

    def write(self, part: int, content: Part) -> int:
        """Copy a part and note it, in one transaction."""
        assert self._job is not None, "begin() comes first"
        digest, table = self._job.digest(), content.table()
        rows = copied(table)
        connection = getattr(self._own, "connection", None)
        with self._told():
            if connection is None:
                connection = self._own.connection = self._connected()
            with connection.transaction(), connection.cursor() as cursor:
                copy = sql.SQL("COPY {} FROM STDIN (FORMAT csv)").format(self._staged(digest))
                with cursor.copy(copy) as target:
                    target.write(rows)
                cursor.execute(
                    sql.SQL("INSERT INTO {} VALUES (%s, %s, %s, %s)").format(_PARTS),
                    [self._table, digest, part, table.num_rows],
                )
        return int(table.num_rows)

    def finish(self) -> int:
        """Give what was copied its key and its name, in place of what had it."""
        job = self._job
        assert job is not None, "begin() comes first"
        table, staged = sql.Identifier(self._table), self._staged(job.digest())
        with self._told(), self._main.transaction():
            total = self._main.execute(
                sql.SQL("DELETE FROM {} WHERE target = %s AND job = %s RETURNING n_rows").format(_PARTS),
                [self._table, job.digest()],
            )
            n_rows = sum(int(row[0]) for row in total.fetchall())
            self._main.execute(sql.SQL("DROP TABLE IF EXISTS {}").format(table))
            self._main.execute(sql.SQL("ALTER TABLE {} RENAME TO {}").format(staged, table))
            self._main.execute(
                sql.SQL("ALTER TABLE {} ADD PRIMARY KEY ({})").format(
                    table, sql.SQL(", ").join(map(sql.Identifier, self._key))
                )
            )
            told = _MARK + json.dumps({"job": job.digest(), "n_rows": n_rows, **asdict(job)}, sort_keys=True)
            self._main.execute(sql.SQL("COMMENT ON TABLE {} IS {}").format(table, sql.Literal(told)))
        return n_rows

    def _staged(self, digest: str) -> sql.Identifier:
        return sql.Identifier(f"{self._table}__{digest[:12]}")

    def _check_ours(self) -> None:
        found = self._main.execute(
            "SELECT obj_description(to_regclass(%s), 'pg_class'), to_regclass(%s) IS NOT NULL",
            [f'"{self._table}"', f'"{self._table}"'],
        ).fetchone()
        comment, is_there = found or (None, False)
        if is_there and not str(comment or "").startswith(_MARK):
            raise AlreadyExists(
                f"[export] table {self._table} is there and was not exported; expected none, or an export to replace; choose "
                "another with --table"
            )

    def _connected(self) -> psycopg.Connection[Any]:
        try:
            connection = psycopg.connect(self._address, connect_timeout=5, autocommit=True)
        except psycopg.ProgrammingError:
            raise InvalidInput(
                "[export] the address is none of PostgreSQL; expected postgresql://user@host/database; correct it"
            ) from None
        except psycopg.OperationalError as error:
            raise Unavailable(
                f"[export] the database cannot be reached: {_line(error)}; see that it answers"
            ) from error
        with self._listing:
            self._connections.append(connection)
        return connection

    def _told(self) -> _Told:
        return _Told()


class _Told:
    """Turns what the driver raises into our errors."""

    def __enter__(self) -> None:
        return None

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if not isinstance(error, psycopg.Error):
            return
        if error.sqlstate == _DISK_FULL:
            raise StorageFull("[export] the disk of the database is full; make room and export again") from error
        raise Unavailable(
            f"[export] the database refused: {_line(error)}; finished parts are kept: export again"
        ) from error


def _type_of(kind: pa.DataType) -> str:
    for is_one, name in _TYPES:
        if is_one(kind):
            return name
    return "double precision" if pa.types.is_float64(kind) else "text"


def _first(cursor: psycopg.Cursor[Any]) -> Any:
    row = cursor.fetchone()
    return row[0] if row else None


def _line(error: Exception) -> str:
    return str(error).splitlines()[0] if str(error) else type(error).__name__
