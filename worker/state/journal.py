"""The journal as an SQLite file in WAL mode, with one writer: the event loop's thread, once it was read.

A commit hands the pages to the system and waits for no disk, so it takes some tens of microseconds and survives
the process, however that ends; only a power cut can lose the last moments. Bringing the log into the database
file, which does wait, is done on another thread and connection, and so is what begins the log anew.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import logging
import shutil
import sqlite3
import time
from collections.abc import Iterable, Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from worker.errors import ConfigurationError, DiskUnavailable, StartError, StorageFull
from worker.jobs.events import Completed, Image, Queued
from worker.jobs.job import Job, Status
from worker.jobs.journal import Kept, Restored
from worker.jobs.log import Entry
from worker.jobs.store import REMEMBERED_IDS
from worker.state.codec import checksum, read_event, read_params, write_event, write_params
from worker.state.pictures import Pictures

logger = logging.getLogger(__name__)

DATABASE = "jobs.sqlite3"
LOG = f"{DATABASE}-wal"
VERSION = 2
RESERVE_BYTES = 32_000_000
"""With less room on the disk no new job is accepted, so that those that run can be written to their end."""
LOCK_S = 5.0
LONG_LOG_PAGES = 16_000
"""Of 4 KiB. A log that was not quiet for long enough to begin anew is cut while the writer waits."""
SPARE_PAGES = 2_000
"""What the database may hold beyond what is in it; the rest is given back to the disk."""
GIVEN_BACK_PAGES = 500
"""In one go, which the writer may have to wait for."""
GIVEN_BACK_TIMES = 20
"""Each time the house is kept."""
BETWEEN_S = 0.02
"""For a writer that waits to come in: it looks again and again, and sleeps meanwhile."""
MARK_PAGES = 1
"""What beginning the log anew writes by itself, and nobody else."""
FORGET_AT_ONCE = 32
"""So many forgotten jobs are written down together, or fewer when the house is tidied."""

SCHEMA = """
CREATE TABLE jobs (
    number INTEGER PRIMARY KEY, id TEXT NOT NULL, created_at TEXT NOT NULL, params TEXT NOT NULL,
    queued TEXT NOT NULL, model_id TEXT NOT NULL, key TEXT, digest BLOB NOT NULL, trace_id TEXT,
    kills INTEGER NOT NULL DEFAULT 0
) STRICT;
CREATE TABLE events (
    job INTEGER NOT NULL REFERENCES jobs (number) ON DELETE CASCADE, id INTEGER NOT NULL, at TEXT NOT NULL,
    kind TEXT NOT NULL, content TEXT, PRIMARY KEY (job, id)
) STRICT, WITHOUT ROWID;
CREATE TABLE expired (number INTEGER PRIMARY KEY, id TEXT NOT NULL) STRICT;
"""
PRAGMAS = (
    *("synchronous = NORMAL", "foreign_keys = ON", "wal_autocheckpoint = 0"),
    "secure_delete = FAST",  # some builds of SQLite write zeros over whatever is let go of: megabytes for each picture
    f"journal_size_limit = {RESERVE_BYTES // 32}",  # of a log that has begun anew, whose file would stay as it was
)
INSERT_JOB = "INSERT INTO jobs VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, 0)"
"""With the job's first event, so that accepting is one statement: between two of them another thread may come in."""
COUNT_KILL = "UPDATE jobs SET kills = kills + 1 WHERE number = ?"
UPDATE_PARAMS = "UPDATE jobs SET params = ? WHERE number = ?"
INSERT_EVENT = "INSERT INTO events VALUES (?, ?, ?, ?, ?)"

Statement = tuple[str, tuple[Any, ...]]


class SqliteJournal:
    """In `folder`, which no other worker may use. Raises StartError if it cannot be had."""

    durable = True

    def __init__(self, folder: Path, model_id: str) -> None:
        self._folder = folder
        self._model_id = model_id
        self._behind: list[Statement] = []
        self._kills: list[Statement] = []
        self._numbers: dict[str, int] = {}
        self._last_number = 0
        self._unkept: set[str] = set()
        self._checksums: dict[str, list[str]] = {}
        self._forgotten: list[str] = []
        self._unneeded: list[str] = []
        try:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._lock = (folder / "lock").open("w")
            self._pictures = Pictures(folder / "images")
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            self._is_new = _size(folder / DATABASE) == 0
            if self._is_new and _size(folder / LOG):  # which SQLite would throw away, with all that is in it
                self._lock.close()
                raise ConfigurationError(
                    f"--state-dir holds {LOG}, but {DATABASE} is empty or gone: put it back, or move both away"
                )
            (folder / DATABASE).touch(mode=0o600)  # it holds prompts; SQLite gives its other files the same mode
        except BlockingIOError:
            self._lock.close()
            raise ConfigurationError("--state-dir is in use by another worker") from None
        except OSError as error:
            kind = DiskUnavailable if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EIO) else ConfigurationError
            raise kind(f"--state-dir cannot be used: {error.strerror}") from None
        try:
            self._database = self._connect()
            self._prepare()
        except sqlite3.Error as error:
            self._lock.close()
            raise _unusable(error) from None

    def restore(self) -> Restored:
        """As `Journal` has it. A job that cannot be understood any more is left out, and told in the log.

        Raises StartError where the database cannot be read at all.
        """
        try:
            kept = list(self._read_jobs())
            if self._is_new and (unnamed := self._pictures.count()):
                logger.warning("%d picture(s) of the state directory, whose database is new, are removed", unnamed)
            # First what makes room: the disk may be full.
            self._pictures.keep_only({one.job.id for one in kept if one.job.status is Status.COMPLETED})
            running = [self._numbers[one.job.id] for one in kept if one.job.status is Status.RUNNING]
            self.tidy()
            # Written with what comes next: a process that ends before it has put them back is none that died with them.
            self._kills = [(COUNT_KILL, (number,)) for number in running]
            expired = [job_id for (job_id,) in self._database.execute("SELECT id FROM expired ORDER BY number")]
        except sqlite3.Error as error:
            raise _unusable(error) from None
        return Restored(kept, expired)

    def accept(self, job: Job, first: Entry, key: str | None, digest: bytes) -> None:
        """As `Journal` has it."""
        number = self._last_number + 1
        accepted = (
            number,
            job.id,
            job.created_at.isoformat(),
            write_params(job.params),
            write_event(first.event)[1],
            self._model_id,
            key,
            digest,
            job.trace_id,
        )
        try:
            # What the log holds will be written once more, into the database.
            log_bytes = (self._folder / LOG).stat().st_size
            if shutil.disk_usage(self._folder).free < RESERVE_BYTES + log_bytes:
                raise StorageFull
            self._write([(INSERT_JOB, accepted)])
        except (sqlite3.Error, OSError) as error:
            logger.warning("no job can be written to the state directory: %s", error)
            raise StorageFull from None
        self._numbers[job.id] = self._last_number = number

    def record(self, entries: Iterable[tuple[Job, Entry]]) -> None:
        """As `Journal` has it."""
        now = datetime.now(UTC)
        statements: list[Statement] = []
        for job, entry in entries:
            number = self._numbers[job.id]
            if job.id in self._unkept and isinstance(entry.event, Completed):
                # The next process draws it again, and shall not take it for the cause of this one's end.
                statements.append(_event(number, Entry(entry.id, Queued(0, None)), now))
                continue
            statements.append(_event(number, entry, now, self._checksums.pop(job.id, ()) if entry.is_ending else ()))
            if entry.is_ending and job.params.has_pictures:  # whose bytes the job has let go of
                statements.append((UPDATE_PARAMS, (write_params(job.params), number)))
        self._write_or_keep(statements)

    def keep_images(self, job_id: str, images: Sequence[Image]) -> None:
        """As `Journal` has it."""
        try:
            self._pictures.write(job_id, images)
            # Not when it is recorded: that is on the event loop, and these are megabytes.
            self._checksums[job_id] = [checksum(image.data) for image in images]
        except OSError as error:
            self._unkept.add(job_id)
            logger.warning("pictures cannot be written to the state directory: %s", error.strerror)

    def forget(self, job_ids: Sequence[str]) -> None:
        """As `Journal` has it."""
        self._forgotten += job_ids
        if len(self._forgotten) >= FORGET_AT_ONCE:
            self.tidy()

    def tidy(self) -> None:
        """As `Journal` has it. On a full disk it is written when there is room, which may be that of their pictures."""
        forgotten, self._forgotten = self._forgotten, []
        if not forgotten:
            return
        statements: list[Statement] = []
        for job_id in forgotten:
            self._unkept.discard(job_id)
            statements.append(("DELETE FROM jobs WHERE number = ?", (self._numbers.pop(job_id),)))
            statements.append(("INSERT INTO expired (id) VALUES (?)", (job_id,)))
        statements.append(
            ("DELETE FROM expired WHERE number <= (SELECT max(number) FROM expired) - ?", (REMEMBERED_IDS,))
        )
        self._write_or_keep(statements)
        self._unneeded += forgotten

    def checkpoint(self) -> None:
        """As `Journal` has it, without holding up the writer."""
        while self._unneeded:
            self._pictures.remove(self._unneeded.pop())
        with contextlib.suppress(sqlite3.Error), contextlib.closing(self._connect()) as database:
            _, pages, done = database.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchone()
            if pages > LONG_LOG_PAGES:
                database.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()  # little is left to bring over
            if pages > LONG_LOG_PAGES or MARK_PAGES < pages == done:
                # Whoever writes next begins the log anew, and waits for the disk to have its head.
                database.execute(f"PRAGMA user_version = {VERSION}")
            for _ in range(GIVEN_BACK_TIMES):
                (free,) = database.execute("PRAGMA freelist_count").fetchone()
                if free <= SPARE_PAGES:
                    break
                # `execute` makes one step of a statement without columns, which gives back one page.
                database.executescript(f"PRAGMA incremental_vacuum({GIVEN_BACK_PAGES})")
                time.sleep(BETWEEN_S)

    def close(self) -> None:
        """As `Journal` has it."""
        self.tidy()
        with contextlib.suppress(sqlite3.Error):
            if self._behind:
                self._write_or_keep([])
            self._database.close()
        self._lock.close()

    def _connect(self) -> sqlite3.Connection:
        # Opened by one thread and handed to another; never used by two at a time.
        database = sqlite3.connect(
            self._folder / DATABASE, timeout=LOCK_S, isolation_level=None, check_same_thread=False
        )
        for pragma in PRAGMAS:
            database.execute(f"PRAGMA {pragma}")
        return database

    def _prepare(self) -> None:
        self._database.execute("PRAGMA auto_vacuum = INCREMENTAL")  # of a new file; another one stays as it is
        self._database.execute("PRAGMA journal_mode = WAL")
        (version,) = self._database.execute("PRAGMA user_version").fetchone()
        if version == 0:
            self._database.executescript(f"BEGIN; {SCHEMA} PRAGMA user_version = {VERSION}; COMMIT;")
        elif version != VERSION:
            raise sqlite3.DatabaseError("it was written by another version of the worker")
        with contextlib.suppress(sqlite3.OperationalError):  # on a full disk it goes on as it is
            self._database.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()

    def _read_jobs(self) -> Iterator[Kept]:
        events: dict[int, list[tuple[int, str, str, str | None]]] = {}
        for number, event_id, at, kind, content in self._database.execute("SELECT * FROM events ORDER BY job, id"):
            events.setdefault(number, []).append((event_id, at, kind, content))
        rows = self._database.execute("SELECT * FROM jobs ORDER BY number").fetchall()
        for number, job_id, created_at, params, queued, model_id, key, digest, trace_id, kills in rows:
            self._numbers[job_id] = self._last_number = number
            try:
                job = Job(read_params(params), job_id, datetime.fromisoformat(created_at), trace_id)
                self._replay(job, [(1, created_at, Queued.__name__, queued), *events.get(number, [])])
            except (ValueError, RuntimeError, OSError) as error:
                logger.warning("the job %s of the state directory cannot be read: %s", job_id, type(error).__name__)
                self.forget([job_id])
                continue
            yield Kept(job, key, digest, kills + (job.status is Status.RUNNING), model_id)

    def _replay(self, job: Job, events: Iterable[tuple[int, str, str, str | None]]) -> None:
        def picture(index: int, form: str) -> bytes:
            return self._pictures.read(job.id, index, form)

        for number, at, kind, content in events:
            while job.log.last_id < number - 1:
                job.log.skip()
            if content is None:
                job.log.skip()
            else:
                job.record(read_event(kind, content, picture), datetime.fromisoformat(at))

    def _write_or_keep(self, statements: list[Statement]) -> None:
        """What cannot be written is kept for the next time."""
        try:
            self._write(statements)
        except sqlite3.Error as error:
            if not self._behind:
                logger.warning("the state directory cannot be written to; the worker goes on without: %s", error)
            self._behind += statements

    def _write(self, statements: list[Statement]) -> None:
        """These, behind what could not be written before; all or nothing."""
        everything = [*self._kills, *self._behind, *statements]
        if len(everything) == 1:  # a statement alone is a transaction by itself
            self._database.execute(*everything[0])
        elif everything:
            with self._transaction():
                for statement, values in everything:
                    self._database.execute(statement, values)
        self._kills.clear()
        self._behind.clear()

    @contextlib.contextmanager
    def _transaction(self) -> Iterator[None]:
        self._database.execute("BEGIN IMMEDIATE")
        try:
            yield
            self._database.execute("COMMIT")
        except BaseException:
            with contextlib.suppress(sqlite3.Error):  # SQLite has rolled back by itself
                self._database.execute("ROLLBACK")
            raise


def _size(file: Path) -> int:
    """0 where there is none. Raises OSError."""
    try:
        return file.stat().st_size
    except FileNotFoundError:
        return 0


def _unusable(error: sqlite3.Error) -> StartError:
    # In the lowest byte of an extended code is what all of its kind have in common.
    if getattr(error, "sqlite_errorcode", 0) & 0xFF in (sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR):
        return DiskUnavailable(f"--state-dir has no room, or its disk fails: {error}")
    return ConfigurationError(f"--state-dir holds a database that cannot be used: {error}")


def _event(number: int, entry: Entry, at: datetime, checksums: Sequence[str] = ()) -> Statement:
    return INSERT_EVENT, (number, entry.id, at.isoformat(), *write_event(entry.event, checksums))
