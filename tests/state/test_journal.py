"""The journal by itself: what is written comes back, and what cannot be written loses nothing."""

from __future__ import annotations

import contextlib
import json
import resource
import shutil
import sqlite3
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

from tests.fakes import PREVIEW, make_params
from worker.errors import ConfigurationError, DiskUnavailable, StorageFull
from worker.jobs.events import (
    Cancelled,
    CancelReason,
    Completed,
    Event,
    Failed,
    Image,
    Preview,
    Progress,
    Queued,
    Started,
    Timings,
)
from worker.jobs.job import Job, Status
from worker.jobs.params import ControlParams, ImageFormat, OnDisconnect, Picture, Priority
from worker.state import journal as journal_module
from worker.state.journal import SqliteJournal

PICTURES = (Image(0, 1, 64, 64, ImageFormat.PNG, b"first"), Image(1, 2, 64, 64, ImageFormat.PNG, b"second"))
LIVES: dict[str, tuple[Event, ...]] = {
    "waiting": (),
    "running": (Started(1), Progress(1, 4, 0.5), Preview(1, 4, 8, 8, ImageFormat.JPEG, b"gone"), Progress(2, 4, None)),
    "completed": (Started(1), Completed(PICTURES, Timings(0.1, 0.2, 0.3, 0.4, 1.0), ("prompt: cut",))),
    "failed": (Started(1), Failed("nan_output", "no numbers", True, Timings(total_s=2.0))),
    "cancelled": (Cancelled(CancelReason.TIMEOUT, Timings(queue_s=1.0)),),
}


@pytest.fixture
def journal(tmp_path: Path) -> Iterator[SqliteJournal]:
    opened = SqliteJournal(tmp_path / "state", "fake")
    yield opened
    opened.close()


def reopen(journal: SqliteJournal, tmp_path: Path, model_id: str = "fake") -> SqliteJournal:
    journal.close()
    return SqliteJournal(tmp_path / "state", model_id)


def live(journal: SqliteJournal, *events: Event, key: str | None = None, **changes: object) -> Job:
    """A job that is accepted and has lived through `events`, all of it written."""
    job = Job(make_params(**changes))
    journal.accept(job, job.record(Queued(3, 1.5)), key, b"digest")
    for event in events:
        if isinstance(event, Completed):
            journal.keep_images(job.id, event.images)
        journal.record([(job, job.record(event))])
    return job


def owners(tmp_path: Path, ending: str = "") -> set[str]:
    """The jobs of whose pictures something lies there."""
    files = (tmp_path / "state" / "images").iterdir()
    return {file.name.split(".")[0] for file in files if file.name.endswith(ending)}


@pytest.mark.parametrize("life", LIVES)
async def test_every_life_comes_back(journal: SqliteJournal, tmp_path: Path, life: str) -> None:
    job = live(journal, *LIVES[life], key="key", preview=PREVIEW, labels={"a": "b"}, priority=Priority.LOW)
    again = reopen(journal, tmp_path)
    (kept,) = again.restore().jobs
    again.close()
    assert kept.job.params == job.params
    assert (kept.key, kept.digest, kept.model_id) == ("key", b"digest", "fake")
    assert kept.kills == (life == "running")
    for name in (
        "id",
        "status",
        "attempt",
        "progress",
        "images",
        "warnings",
        "failure",
        "cancel_reason",
        "timings",
        "created_at",
    ):
        assert getattr(kept.job, name) == getattr(job, name), name
    assert kept.job.log.last_id == job.log.last_id
    if job.ended:
        before = [(entry.id, entry.event) async for entry in job.log.follow(0)]
        after = [(entry.id, entry.event) async for entry in kept.job.log.follow(0)]
        assert after == before


async def test_a_preview_leaves_its_number(journal: SqliteJournal, tmp_path: Path) -> None:
    live(journal, *LIVES["running"])
    again = reopen(journal, tmp_path)
    (kept,) = again.restore().jobs
    again.close()
    kept.job.record(Cancelled(CancelReason.REQUESTED))
    assert [entry.id async for entry in kept.job.log.follow(0)] == [1, 2, 3, 5, 6]


def test_every_start_counts_what_ran(journal: SqliteJournal, tmp_path: Path) -> None:
    live(journal, *LIVES["running"])
    for kills in (1, 2, 3):
        journal = reopen(journal, tmp_path)
        (kept,) = journal.restore().jobs
        assert kept.kills == kills
        for event in (Queued(0, None), Started(kills + 1)):
            journal.record([(kept.job, kept.job.record(event))])
    journal.close()


def test_a_start_that_ended_before_it_put_back_what_ran_is_not_counted(journal: SqliteJournal, tmp_path: Path) -> None:
    live(journal, *LIVES["running"])
    stopped = reopen(journal, tmp_path)
    stopped.restore()
    stopped._lock.close()  # as when the process ends while it still prepares
    failed = SqliteJournal(tmp_path / "state", "fake")
    failed.restore()
    failed.close()
    again = SqliteJournal(tmp_path / "state", "fake")
    (kept,) = again.restore().jobs
    assert kept.kills == 1
    again.record([(kept.job, kept.job.record(Queued(0, None)))])
    again._lock.close()
    with contextlib.closing(sqlite3.connect(tmp_path / "state/jobs.sqlite3")) as database:
        assert database.execute("SELECT kills FROM jobs").fetchall() == [(1,)]


def test_order_of_acceptance(journal: SqliteJournal, tmp_path: Path) -> None:
    jobs = [live(journal, on_disconnect=OnDisconnect.CANCEL) for _ in range(20)]
    again = reopen(journal, tmp_path)
    assert [kept.job.id for kept in again.restore().jobs] == [job.id for job in jobs]
    again.close()


def test_forgotten_jobs_leave_their_ids_and_nothing_else(journal: SqliteJournal, tmp_path: Path) -> None:
    gone, stays = live(journal, *LIVES["completed"]), live(journal, *LIVES["completed"])
    journal.forget([gone.id])
    journal.tidy()
    journal.checkpoint()
    assert owners(tmp_path) == {stays.id}
    again = reopen(journal, tmp_path)
    restored = again.restore()
    again.close()
    assert [kept.job.id for kept in restored.jobs] == [stays.id]
    assert restored.expired == [gone.id]
    with sqlite3.connect(tmp_path / "state" / "jobs.sqlite3") as database:
        left = database.execute("SELECT DISTINCT jobs.id FROM events LEFT JOIN jobs ON events.job = jobs.number")
        assert left.fetchall() == [(stays.id,)]


def test_many_forgotten_jobs_are_written_down_without_being_asked(journal: SqliteJournal, tmp_path: Path) -> None:
    jobs = [live(journal, *LIVES["cancelled"]) for _ in range(journal_module.FORGET_AT_ONCE + 1)]
    for job in jobs:
        journal.forget([job.id])
    with sqlite3.connect(tmp_path / "state" / "jobs.sqlite3") as database:
        assert database.execute("SELECT id FROM jobs").fetchall() == [(jobs[-1].id,)]


def test_what_was_forgotten_in_the_last_moment_comes_back(journal: SqliteJournal, tmp_path: Path) -> None:
    job = live(journal, *LIVES["completed"])
    journal.forget([job.id])
    journal._lock.close()  # as when the process dies
    again = SqliteJournal(tmp_path / "state", "fake")
    (kept,) = again.restore().jobs
    again.close()
    assert kept.job.images == PICTURES
    assert kept.job.warnings == ("prompt: cut",)


def test_only_so_many_forgotten_ids_are_kept(
    journal: SqliteJournal, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(journal_module, "REMEMBERED_IDS", 3)
    jobs = [live(journal, *LIVES["cancelled"]) for _ in range(6)]
    for job in jobs:
        journal.forget([job.id])
    again = reopen(journal, tmp_path)
    assert again.restore().expired == [job.id for job in jobs[-3:]]
    again.close()


def test_pictures_that_belong_to_nobody_are_removed_at_the_start(journal: SqliteJournal, tmp_path: Path) -> None:
    completed, running = live(journal, *LIVES["completed"]), live(journal, *LIVES["running"])
    journal.keep_images(running.id, PICTURES)  # and then the process died
    (tmp_path / "state" / "images" / f"{completed.id}.0.png.part").write_bytes(b"half")
    again = reopen(journal, tmp_path)
    again.restore()
    again.close()
    assert owners(tmp_path) == {completed.id}
    assert len(list((tmp_path / "state" / "images").iterdir())) == len(PICTURES)


def test_what_it_did_not_write_itself_stays(journal: SqliteJournal, tmp_path: Path) -> None:
    """A state directory may have been named by mistake."""
    kept = [tmp_path / "state" / "images" / name for name in ("holiday.jpg", "job_notes.png", "job_12.png")]
    for file in kept:
        file.write_bytes(b"somebody's")
    again = reopen(journal, tmp_path)
    again.restore()
    again.close()
    assert all(file.exists() for file in kept)


def test_pictures_are_all_there_or_none(
    journal: SqliteJournal, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    flushed: list[int] = []

    def fails_at_the_second(number: int) -> None:
        flushed.append(number)
        if len(flushed) == 2:
            raise OSError(28, "No space left on device")

    monkeypatch.setattr("worker.state.pictures.os.fsync", fails_at_the_second)
    job = live(journal, *LIVES["completed"])
    assert not owners(tmp_path)
    again = reopen(journal, tmp_path)
    (kept,) = again.restore().jobs
    again.close()
    assert (kept.job.id, kept.job.status) == (job.id, Status.QUEUED), "to be drawn again"
    assert kept.kills == 0, "it ended no process"
    assert kept.job.log.last_id == job.log.last_id


def test_a_picture_is_on_the_disk_before_it_has_its_name(
    journal: SqliteJournal, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names: list[set[str]] = []
    monkeypatch.setattr("worker.state.pictures.os.fsync", lambda number: names.append(owners(tmp_path, ".png")))
    job = Job(make_params())
    journal.keep_images(job.id, PICTURES[:1])
    assert names == [set(), {job.id}], "the file, and then the folder"


@contextlib.contextmanager
def another_writer(journal: SqliteJournal, tmp_path: Path) -> Iterator[None]:
    """While it lasts nothing can be written."""
    other = sqlite3.connect(tmp_path / "state" / "jobs.sqlite3", isolation_level=None)
    journal._database.execute("PRAGMA busy_timeout = 0")
    other.execute("BEGIN IMMEDIATE")
    yield
    other.execute("ROLLBACK")
    other.close()


def test_what_cannot_be_written_is_written_with_what_comes_next(journal: SqliteJournal, tmp_path: Path) -> None:
    job = live(journal, Started(1))
    with another_writer(journal, tmp_path):
        journal.record([(job, job.record(Progress(1, 4, None)))])
        refused = Job(make_params())
        with pytest.raises(StorageFull):
            journal.accept(refused, refused.record(Queued(0, None)), None, b"")
    journal.record([(job, job.record(Progress(2, 4, None)))])
    again = reopen(journal, tmp_path)
    (kept,) = again.restore().jobs
    again.close()
    assert (kept.job.progress.step, kept.job.log.last_id) == (2, 4)


def test_pictures_make_room_although_nothing_can_be_written(journal: SqliteJournal, tmp_path: Path) -> None:
    job = live(journal, *LIVES["completed"])
    with another_writer(journal, tmp_path):
        journal.forget([job.id])
        journal.tidy()
        journal.checkpoint()
        assert not owners(tmp_path)
    again = reopen(journal, tmp_path)
    restored = again.restore()
    again.close()
    assert (list(restored.jobs), restored.expired) == ([], [job.id])


def test_a_start_on_a_full_disk_is_a_start(journal: SqliteJournal, tmp_path: Path) -> None:
    job = live(journal, *LIVES["running"])
    (tmp_path / "state" / "images" / "job_0.0.png").write_bytes(b"of nobody")
    again = reopen(journal, tmp_path)
    with another_writer(again, tmp_path):
        (kept,) = again.restore().jobs
        assert (kept.job.id, kept.kills) == (job.id, 1)
        assert not owners(tmp_path)
    again.record([(kept.job, kept.job.record(Queued(0, None)))])
    again.close()
    with contextlib.closing(sqlite3.connect(tmp_path / "state/jobs.sqlite3")) as database:
        assert database.execute("SELECT kills FROM jobs").fetchall() == [(1,)], "written down once there was room"


def test_no_job_is_accepted_where_there_is_little_room(
    journal: SqliteJournal, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(journal_module, "RESERVE_BYTES", 1 << 62)
    with pytest.raises(StorageFull):
        live(journal)
    again = reopen(journal, tmp_path)
    assert not again.restore().jobs
    again.close()


def test_room_is_left_for_what_the_log_has_yet_to_bring_over(
    journal: SqliteJournal, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    live(journal, image=Picture(8, 8, 3, b"x" * 3_000_000), strength=0.5)
    free = journal_module.RESERVE_BYTES + 2_000_000
    monkeypatch.setattr(journal_module.shutil, "disk_usage", lambda folder: SimpleNamespace(free=free))
    with pytest.raises(StorageFull):
        live(journal)
    journal.checkpoint()
    live(journal)


def test_an_ending_does_not_write_the_job_s_pictures_once_more(journal: SqliteJournal, tmp_path: Path) -> None:
    job = live(journal, image=Picture(8, 8, 3, b"x" * 3_000_000), strength=0.5)
    journal.checkpoint()
    journal.record([(job, job.record(Cancelled(CancelReason.REQUESTED)))])
    assert (tmp_path / "state" / "jobs.sqlite3-wal").stat().st_size < 2_000_000


def test_what_the_database_does_not_need_goes_back_to_the_disk(
    journal: SqliteJournal, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(journal_module, "SPARE_PAGES", 10)
    database = tmp_path / "state" / "jobs.sqlite3"
    jobs = [live(journal, image=Picture(8, 8, 3, b"x" * 1_000_000), strength=0.5) for _ in range(5)]
    journal.checkpoint()
    assert database.stat().st_size > 5_000_000
    journal.record([(job, job.record(Cancelled(CancelReason.REQUESTED))) for job in jobs])
    journal.checkpoint()
    journal.checkpoint()
    assert database.stat().st_size < 500_000


def test_a_start_without_room_for_the_log_may_be_tried_again(journal: SqliteJournal, tmp_path: Path) -> None:
    live(journal)
    journal.close()
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, before[1]))
    try:
        with pytest.raises(DiskUnavailable) as refused:
            SqliteJournal(tmp_path / "state", "fake")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert refused.value.exit_status == 1
    SqliteJournal(tmp_path / "state", "fake").close()


def test_a_job_that_cannot_be_read_is_left_out_and_the_others_stay(journal: SqliteJournal, tmp_path: Path) -> None:
    strange, lacks_a_picture, stays = live(journal), live(journal, *LIVES["completed"]), live(journal)
    journal._database.execute("UPDATE jobs SET params = '{}' WHERE id = ?", (strange.id,))
    (tmp_path / "state" / "images" / f"{lacks_a_picture.id}.1.png").unlink()
    again = reopen(journal, tmp_path)
    restored = again.restore()
    again.close()
    assert [kept.job.id for kept in restored.jobs] == [stays.id]
    assert set(restored.expired) == {strange.id, lacks_a_picture.id}


@pytest.mark.parametrize("damaged", [b"sec", b"", b"sEcond"], ids=["cut", "empty", "changed"])
def test_a_damaged_picture_is_one_that_is_gone(
    journal: SqliteJournal, tmp_path: Path, caplog: pytest.LogCaptureFixture, damaged: bytes
) -> None:
    hurt, stays = live(journal, *LIVES["completed"]), live(journal, *LIVES["completed"])
    (tmp_path / "state" / "images" / f"{hurt.id}.1.png").write_bytes(damaged)
    again = reopen(journal, tmp_path)
    restored = again.restore()
    again.close()
    assert [kept.job.id for kept in restored.jobs] == [stays.id]
    assert restored.expired == [hurt.id]
    assert caplog.messages == [f"the job {hurt.id} of the state directory cannot be read: ValueError"]
    assert owners(tmp_path) == {stays.id}


def test_pictures_of_earlier_versions_which_wrote_no_checksum_come_back(journal: SqliteJournal, tmp_path: Path) -> None:
    job = live(journal, *LIVES["completed"])
    ((content,),) = journal._database.execute("SELECT content FROM events WHERE kind = 'Completed'").fetchall()
    event = json.loads(content)
    assert [(image.pop("bytes"), len(image.pop("sha256"))) for image in event["images"]] == [(5, 64), (6, 64)]
    journal._database.execute("UPDATE events SET content = ? WHERE kind = 'Completed'", (json.dumps(event),))
    again = reopen(journal, tmp_path)
    (kept,) = again.restore().jobs
    again.close()
    assert kept.job.images == job.images


def test_the_log_of_writes_does_not_grow_for_ever(journal: SqliteJournal, tmp_path: Path) -> None:
    sizes = []
    for _ in range(20):
        for _ in range(20):
            live(journal, *LIVES["running"], prompt="x" * 2000)
        journal.checkpoint()
        sizes.append((tmp_path / "state" / "jobs.sqlite3-wal").stat().st_size)
    assert max(sizes) <= 2 * sizes[0]


def test_nor_where_it_is_never_quiet(journal: SqliteJournal, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A reader keeps a checkpoint from its end, as a writer in the middle of it keeps the log from beginning anew."""
    monkeypatch.setattr(journal_module, "LONG_LOG_PAGES", 20)
    log = tmp_path / "state" / "jobs.sqlite3-wal"
    live(journal)
    with contextlib.closing(sqlite3.connect(tmp_path / "state/jobs.sqlite3", isolation_level=None)) as reader:
        reader.execute("BEGIN")
        reader.execute("SELECT count(*) FROM jobs").fetchone()
        while log.stat().st_size < 200_000:
            live(journal, *LIVES["running"], prompt="x" * 2000)
            journal.record([])
        reader.execute("COMMIT")
    journal.checkpoint()
    assert log.stat().st_size < 10_000


def test_the_log_begins_anew_on_the_other_thread(journal: SqliteJournal, tmp_path: Path) -> None:
    """Whoever writes to its beginning waits for the disk."""
    for _ in range(20):
        live(journal, *LIVES["running"])
    head = (tmp_path / "state" / "jobs.sqlite3-wal").read_bytes()[:32]
    journal.checkpoint()
    begun = (tmp_path / "state" / "jobs.sqlite3-wal").read_bytes()
    assert begun[:32] != head
    journal.checkpoint()
    assert (tmp_path / "state" / "jobs.sqlite3-wal").read_bytes() == begun, "and not again while nothing is written"


@pytest.mark.parametrize("content", [b"no database at all" * 100, b"\x00" * 5000])
def test_a_file_that_is_no_database_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "jobs.sqlite3").write_bytes(content)
    with pytest.raises(ConfigurationError, match="--state-dir holds a database that cannot be used"):
        SqliteJournal(tmp_path, "fake")


@pytest.mark.parametrize("lost", [Path.unlink, lambda file: file.write_bytes(b"")], ids=["gone", "empty"])
def test_a_log_without_its_database_is_refused_and_kept(
    journal: SqliteJournal, tmp_path: Path, lost: Callable[[Path], object]
) -> None:
    job = live(journal, *LIVES["completed"])
    folder = tmp_path / "left"
    shutil.copytree(tmp_path / "state", folder)  # as when the process was killed
    database = folder / "jobs.sqlite3"
    held = database.read_bytes()
    lost(database)
    for _ in range(2):  # the first one leaves everything as it was
        with pytest.raises(ConfigurationError, match="is empty or gone: put it back"):
            SqliteJournal(folder, "fake")
    database.write_bytes(held)
    recovered = SqliteJournal(folder, "fake")
    (kept,) = recovered.restore().jobs
    recovered.close()
    assert kept.job.images == job.images


def test_pictures_beside_a_new_database_are_told_before_they_are_removed(
    journal: SqliteJournal, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    live(journal, *LIVES["completed"])
    journal.close()
    (tmp_path / "state" / "jobs.sqlite3").unlink()
    again = SqliteJournal(tmp_path / "state", "fake")
    again.restore()
    again.close()
    assert caplog.messages == ["2 picture(s) of the state directory, whose database is new, are removed"]
    assert not owners(tmp_path)


def test_another_versions_file_is_refused(tmp_path: Path) -> None:
    with sqlite3.connect(tmp_path / "jobs.sqlite3") as database:
        database.execute("PRAGMA user_version = 99")
    with pytest.raises(ConfigurationError, match="another version"):
        SqliteJournal(tmp_path, "fake")


def test_a_directory_that_cannot_be_made_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(ConfigurationError, match="--state-dir cannot be used"):
        SqliteJournal(tmp_path / "file" / "state", "fake")


def test_one_directory_one_worker(journal: SqliteJournal, tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="in use by another worker"):
        SqliteJournal(tmp_path / "state", "fake")


def test_prompts_and_pictures_are_for_the_owner_alone(tmp_path: Path) -> None:
    folder = tmp_path / "open to all"
    folder.mkdir(mode=0o755)
    journal = SqliteJournal(folder, "fake")
    live(journal, *LIVES["completed"])
    private = [*folder.glob("jobs.sqlite3*"), folder / "images"]
    assert len(private) == 4
    assert not [file.name for file in private if file.stat().st_mode & 0o077]
    journal.close()


def test_status_after_a_put_back(journal: SqliteJournal, tmp_path: Path) -> None:
    live(journal, *LIVES["running"], Queued(0, None))
    again = reopen(journal, tmp_path)
    (kept,) = again.restore().jobs
    again.close()
    assert (kept.job.status, kept.kills) == (Status.QUEUED, 0)


def test_pictures_are_kept_until_the_job_has_ended(journal: SqliteJournal, tmp_path: Path) -> None:
    sent = Picture(8, 6, 5, b"\x00\xffpic")
    waiting = live(journal, image=sent, mask=sent, strength=0.5)
    ended = live(journal, *LIVES["completed"], image=sent, strength=0.5, controls=(ControlParams("c", sent, 1, 0, 1),))
    journal = reopen(journal, tmp_path)
    kept = {one.job.id: one.job for one in journal.restore().jobs}
    journal.close()
    assert kept[waiting.id].params == waiting.params
    assert kept[waiting.id].params.mask == sent
    assert ended.params.image == Picture(8, 6, 5, b"")
    assert kept[ended.id].params == ended.params
    with contextlib.closing(sqlite3.connect(tmp_path / "state/jobs.sqlite3")) as database:
        (text,) = database.execute("SELECT params FROM jobs WHERE id = ?", (ended.id,)).fetchone()
    assert '"data":""' in text
