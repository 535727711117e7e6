"""The stream of a job, byte by byte where it matters, read from a real server on a real port."""

from __future__ import annotations

import base64
import contextlib
import json
import logging
import re
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from io import BytesIO

import httpx
import pytest
from PIL import Image

from tests.conftest import eventually
from tests.fakes import DrawsNoise, FailsToOpen, LosesDevice, NeverEnds, StepByStep
from tests.serving import WAIT_S, ServedWorker, SseEvent, events_of
from worker.api import stream
from worker.connection import STALL_S

Serve = Callable[..., ServedWorker]

KEYS = {
    "queued": {"type", "job_id", "position", "eta_s"},
    "started": {"type", "job_id", "attempt"},
    "progress": {"type", "job_id", "step", "steps", "percent", "eta_s"},
    "preview": {"type", "job_id", "step", "steps", "image", "format", "width", "height"},
    "completed": {"type", "job_id", "images", "warnings", "timings"},
    "failed": {"type", "job_id", "code", "message", "retriable"},
    "cancelled": {"type", "job_id", "reason"},
}
ENDINGS = ("completed", "failed", "cancelled")
IMAGE = {"index", "url", "seed", "width", "height", "format", "bytes"}


def check_whole(events: list[SseEvent], job_id: str) -> list[SseEvent]:
    """What holds for the whole stream of any job."""
    assert [event.id for event in events] == list(range(1, len(events) + 1))
    for event in events:
        assert set(event.data) == KEYS[event.name]
        assert (event.data["type"], event.data["job_id"]) == (event.name, job_id)
    assert events[0].name == "queued"
    assert [event.name in ENDINGS for event in events] == [False] * (len(events) - 1) + [True]
    steps = [event.data["step"] for event in events if event.name == "progress"]
    assert steps == list(range(1, len(steps) + 1))
    return events


@contextlib.contextmanager
def reading(worker: ServedWorker, job_id: str, **query: str) -> Iterator[Iterator[SseEvent]]:
    """A reader of its own connection; leaving the block is leaving the stream."""
    with worker.new_client() as client, client.stream("GET", f"/v1/jobs/{job_id}/stream", params=query) as response:
        assert response.status_code == 200
        yield events_of(response)


def readers_of(worker: ServedWorker, job_id: str) -> int:
    return worker.known(job_id).log.readers


# What comes, and in which order.


def test_a_job_of_four_steps(serve: Serve) -> None:
    worker = serve(StepByStep(allowed=4))
    job_id = worker.post(steps=4, seed=5, num_images=2)["job_id"]
    events = check_whole(worker.stream(job_id), job_id)
    assert [event.name for event in events] == ["queued", "started"] + ["progress"] * 4 + ["completed"]
    assert (events[0].data["position"], events[0].data["eta_s"]) == (0, None)
    assert events[1].data["attempt"] == 1
    assert [event.data["percent"] for event in events[2:6]] == [25.0, 50.0, 75.0, 100.0]
    assert {event.data["steps"] for event in events[2:6]} == {4}
    assert all(event.data["eta_s"] >= 0 for event in events[2:6])
    images = events[-1].data["images"]
    assert [set(image) for image in images] == [IMAGE] * 2
    assert [image["seed"] for image in images] == [5, 6]
    job = worker.job(job_id)
    assert (images, events[-1].data["timings"]) == (job["images"], job["timings"])


def test_the_headers_keep_proxies_from_holding_it_back(instant: ServedWorker) -> None:
    job_id = instant.post()["job_id"]
    response = instant.client.get(f"/v1/jobs/{job_id}/stream", headers={"Accept-Encoding": "gzip, br, deflate, zstd"})
    assert response.headers["content-type"].partition(";")[0] == "text/event-stream"
    assert response.headers["x-accel-buffering"] == "no"
    assert "content-encoding" not in response.headers
    assert "content-length" not in response.headers
    assert response.headers["cache-control"] in ("no-store", "no-cache")


def test_every_event_is_three_lines_and_a_blank_one(instant: ServedWorker) -> None:
    job_id = instant.finish(preview={"every": 1})["job_id"]
    raw = instant.client.get(f"/v1/jobs/{job_id}/stream").content
    assert b"\r" not in raw
    blocks = raw.split(b"\n\n")
    assert blocks.pop() == b""
    for number, block in enumerate(blocks, 1):
        found = re.fullmatch(rb"id: (\d+)\nevent: ([a-z]+)\ndata: (\{[ -~]*\})", block)
        assert found, block[:200]
        assert int(found[1]) == number
        assert json.loads(found[3])["type"] == found[2].decode()


@pytest.mark.parametrize(
    "text", ["\r\n\n\nevent: completed\n\n", "\u2028\u2029\x85\x0b\x0c\x1c", "\x01\x7f", "data: x", "😀"]
)
def test_no_text_of_a_client_breaks_a_data_line(instant: ServedWorker, text: str) -> None:
    job = instant.finish(prompt=text, labels={text: text, "nul-like": "\\u0000\\x00"})
    check_whole(instant.stream(job["job_id"]), job["job_id"])
    assert job["labels"] == {text: text, "nul-like": "\\u0000\\x00"}
    assert job["params"]["prompt"] == text


def test_progress_comes_while_the_job_runs(serve: Serve) -> None:
    worker = serve(StepByStep())
    with reading(worker, worker.post(steps=3)["job_id"]) as events:
        assert [next(events).name for _ in range(2)] == ["queued", "started"]
        for step in (1, 2, 3):
            worker.runner.allow(1)
            event = next(events)
            assert (event.name, event.data["step"]) == ("progress", step)
        assert next(events).name == "completed"
        assert list(events) == []


def test_position_is_told_again_when_it_changes_and_at_most_once_a_second(serve: Serve) -> None:
    worker = serve(StepByStep(), max_rows=2)
    worker.post()
    worker.runner.wait_for_calls(1)
    others = [worker.post()["job_id"] for _ in range(2)]
    job_id = worker.post()["job_id"]
    with reading(worker, job_id) as events:
        assert next(events).data["position"] == 2
        told_at = worker.known(job_id).told_at
        for other in others:
            worker.client.delete(f"/v1/jobs/{other}")
        again = next(events)
        assert (again.name, again.data["position"]) == ("queued", 0)
        assert worker.known(job_id).told_at - told_at >= 1.0
        worker.runner.allow_all()
        assert next(events).name == "started"


def test_a_job_of_higher_priority_pushes_others_back_and_they_are_told(serve: Serve) -> None:
    worker = serve(StepByStep(), max_rows=2)
    worker.post()
    worker.runner.wait_for_calls(1)
    with reading(worker, worker.post()["job_id"]) as events:
        assert next(events).data["position"] == 0
        worker.post(priority="high")
        assert next(events).data["position"] == 1


# Previews.


def test_there_are_no_previews_unless_asked_for(instant: ServedWorker) -> None:
    assert "preview" not in {event.name for event in instant.stream(instant.post()["job_id"])}


@pytest.mark.parametrize(("form", "pillow_name"), [("jpeg", "JPEG"), ("webp", "WEBP")])
def test_previews_come_every_so_many_steps_in_the_asked_size_and_format(
    instant: ServedWorker, form: str, pillow_name: str
) -> None:
    job = instant.post(steps=7, width=128, height=64, preview={"every": 2, "size": 32, "format": form})
    events = check_whole(instant.stream(job["job_id"]), job["job_id"])
    previews = [event.data for event in events if event.name == "preview"]
    assert sorted(preview["step"] for preview in previews) == [2, 4, 6]
    for preview in previews:
        assert (preview["format"], preview["width"], preview["height"], preview["steps"]) == (form, 32, 16, 7)
        picture = Image.open(BytesIO(base64.b64decode(preview["image"], validate=True)))
        assert (picture.format, picture.size) == (pillow_name, (32, 16))


def test_a_preview_is_never_larger_than_the_picture(instant: ServedWorker) -> None:
    events = instant.stream(instant.post(preview={"every": 1, "size": 1024})["job_id"])
    assert {event.data["width"] for event in events if event.name == "preview"} == {64}


# Endings.


def test_inline_puts_the_pictures_into_the_ending(instant: ServedWorker) -> None:
    job = instant.finish(num_images=2, output={"inline": True})
    images = instant.stream(job["job_id"])[-1].data["images"]
    for image in images:
        assert set(image) == IMAGE | {"image"}
        assert base64.b64decode(image["image"], validate=True) == instant.client.get(image["url"]).content
    assert [set(image) for image in job["images"]] == [IMAGE] * 2


@pytest.mark.parametrize(("runner", "code"), [(FailsToOpen(), "engine_failed"), (LosesDevice(2), "engine_failed")])
@pytest.mark.filterwarnings("default")
def test_a_failure_is_an_ending(serve: Serve, runner: FailsToOpen, code: str) -> None:
    worker = serve(runner)
    job_id = worker.post()["job_id"]
    ending = check_whole(worker.stream(job_id), job_id)[-1]
    assert (ending.name, ending.data["code"]) == ("failed", code)


def test_a_cancelled_job_ends_its_open_stream(serve: Serve) -> None:
    worker = serve(StepByStep())
    job_id = worker.post()["job_id"]
    with reading(worker, job_id) as events:
        next(events)
        worker.runner.wait_for_calls(1)
        worker.client.delete(f"/v1/jobs/{job_id}")
        worker.runner.allow(1)
        ending = list(events)[-1]
        assert (ending.name, ending.data["reason"]) == ("cancelled", "requested")


# Coming back.


def test_every_event_id_continues_without_gap_or_repeat(instant: ServedWorker) -> None:
    job_id = instant.finish(steps=6, preview={"every": 2})["job_id"]
    whole = instant.stream(job_id)
    for after in range(len(whole)):
        assert instant.stream(job_id, after=after) == whole[after:]
        with reading(instant, job_id, last_event_id=str(after)) as events:
            assert list(events) == whole[after:]


def test_a_reader_that_comes_back_while_the_job_runs_misses_nothing(serve: Serve) -> None:
    worker = serve(StepByStep())
    job_id = worker.post(steps=6)["job_id"]
    seen: list[SseEvent] = []
    while not seen or seen[-1].name != "completed":
        worker.runner.allow(1)
        with reading(worker, job_id, last_event_id=str(len(seen))) as events:
            seen.append(next(events))
        eventually(lambda: readers_of(worker, job_id) == 0)
    assert seen == check_whole(worker.stream(job_id), job_id)


def test_the_header_goes_before_the_query(instant: ServedWorker) -> None:
    job_id = instant.finish()["job_id"]
    response = instant.client.get(f"/v1/jobs/{job_id}/stream?last_event_id=1", headers={"Last-Event-ID": "3"})
    assert response.content.startswith(b"id: 4\nevent: ")


def test_a_late_reader_gets_everything(instant: ServedWorker) -> None:
    job_id = instant.finish()["job_id"]
    first = check_whole(instant.stream(job_id), job_id)
    assert first == check_whole(instant.stream(job_id), job_id)


def test_who_has_seen_the_end_gets_no_content(instant: ServedWorker) -> None:
    job_id = instant.finish()["job_id"]
    last = instant.stream(job_id)[-1].id
    for after in (last, last + 1, 10**17):
        response = instant.client.get(f"/v1/jobs/{job_id}/stream", headers={"Last-Event-ID": str(after)})
        assert (response.status_code, response.content) == (204, b"")
    assert instant.client.get(f"/v1/jobs/{job_id}/stream?last_event_id={last}").status_code == 204


@pytest.mark.parametrize("last", ["x", "-1", "1.0", "1" * 30, "٣", "0x1", " ", "1 2"])
def test_an_id_that_no_event_can_have_is_refused(instant: ServedWorker, last: str) -> None:
    job_id = instant.finish()["job_id"]
    assert instant.client.get(f"/v1/jobs/{job_id}/stream", params={"last_event_id": last}).status_code == 422


def test_a_reader_ahead_of_a_job_that_goes_on_sees_its_end(serve: Serve) -> None:
    """As after a disk that had lost what was told."""
    worker = serve(StepByStep())
    job_id = worker.post()["job_id"]
    worker.runner.wait_for_calls(1)
    with reading(worker, job_id, last_event_id="99") as events:
        worker.runner.allow_all()
        assert [event.name for event in events][-1] == "completed"
    assert worker.client.get(f"/v1/jobs/{job_id}/stream?last_event_id=99").status_code == 204


def test_many_readers_see_the_same(serve: Serve) -> None:
    worker = serve(StepByStep())
    job_id = worker.post(steps=5)["job_id"]
    with contextlib.ExitStack() as stack:
        early = [stack.enter_context(reading(worker, job_id)) for _ in range(5)]
        worker.runner.allow(2)
        worker.runner.wait_for_calls(3)
        late = [stack.enter_context(reading(worker, job_id)) for _ in range(5)]
        eventually(lambda: readers_of(worker, job_id) == 10)
        worker.runner.allow(3)
        streams = [list(events) for events in early + late]
    check_whole(streams[0], job_id)
    assert streams == [streams[0]] * 10
    eventually(lambda: readers_of(worker, job_id) == 0)


# Leaving.


def test_by_default_a_job_goes_on_when_its_readers_leave(serve: Serve) -> None:
    worker = serve(StepByStep())
    job_id = worker.post()["job_id"]
    with reading(worker, job_id) as events:
        next(events)
    eventually(lambda: readers_of(worker, job_id) == 0)
    worker.runner.allow_all()
    assert worker.stream(job_id)[-1].name == "completed"


def test_a_job_may_be_cancelled_when_the_last_of_two_readers_leaves(serve: Serve) -> None:
    worker = serve(StepByStep())
    job_id = worker.post(on_disconnect="cancel", steps=9)["job_id"]
    with reading(worker, job_id) as one:
        next(one)
        with reading(worker, job_id) as two:
            next(two)
            eventually(lambda: readers_of(worker, job_id) == 2)
        eventually(lambda: readers_of(worker, job_id) == 1)
        worker.runner.allow(2)
        worker.runner.wait_for_calls(3)
        assert worker.known(job_id).cancel_reason is None
    eventually(lambda: worker.known(job_id).cancel_reason is not None)
    worker.runner.allow(1)
    ending = check_whole(worker.stream(job_id), job_id)[-1]
    assert (ending.name, ending.data["reason"]) == ("cancelled", "disconnected")
    assert len(worker.runner.calls) == 3


def test_a_waiting_job_is_cancelled_when_its_reader_leaves(serve: Serve) -> None:
    worker = serve(NeverEnds(), max_rows=2)
    worker.post()
    worker.runner.wait_for_calls(1)
    job_id = worker.post(on_disconnect="cancel")["job_id"]
    with reading(worker, job_id) as events:
        next(events)
    eventually(lambda: worker.job(job_id)["status"] == "cancelled")
    assert worker.stream(job_id)[-1].data["reason"] == "disconnected"


def test_a_reader_that_is_gone_before_the_first_byte_has_left_too(serve: Serve) -> None:
    worker = serve(NeverEnds(), max_rows=2)
    worker.post()
    job_id = worker.post(on_disconnect="cancel")["job_id"]
    with socket.create_connection(("127.0.0.1", worker.port)) as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))  # a reset at once
        connection.sendall(f"GET /v1/jobs/{job_id}/stream HTTP/1.1\r\nHost: x\r\n\r\n".encode())
    eventually(lambda: worker.job(job_id)["status"] == "cancelled")


def test_reading_to_the_end_is_not_leaving(serve: Serve) -> None:
    worker = serve()
    job = worker.finish(on_disconnect="cancel")
    assert job["status"] == "completed"


def test_open_streams_are_counted(serve: Serve) -> None:
    worker = serve(StepByStep())
    with reading(worker, worker.post()["job_id"]) as events:
        next(events)
        assert "sdw_streams_open 1.0" in worker.client.get("/metrics").text
    eventually(lambda: "sdw_streams_open 0.0" in worker.client.get("/metrics").text)


def test_a_stream_cannot_be_posted_to(instant: ServedWorker) -> None:
    response = instant.client.post("/v1/jobs/job_0/stream")
    assert (response.status_code, response.json()["code"]) == (405, "method_not_allowed")


def test_a_reader_that_was_cut_off_hard_is_noticed(serve: Serve) -> None:
    """No farewell: the socket is closed with unread data, which resets the connection."""
    worker = serve(StepByStep())
    job_id = worker.post()["job_id"]
    client = httpx.Client(base_url=worker.url, timeout=WAIT_S, trust_env=False)
    response = client.send(client.build_request("GET", f"/v1/jobs/{job_id}/stream"), stream=True)
    eventually(lambda: readers_of(worker, job_id) == 1)
    response.close()
    client.close()
    eventually(lambda: readers_of(worker, job_id) == 0)


def test_readers_that_are_gone_before_the_first_event_make_no_noise(
    instant: ServedWorker, caplog: pytest.LogCaptureFixture
) -> None:
    job_id = instant.post(steps=100)["job_id"]
    instant.stream(job_id)
    for _ in range(30):
        with socket.create_connection(("127.0.0.1", instant.port)) as connection:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))  # a reset at once
            connection.sendall(f"GET /v1/jobs/{job_id}/stream HTTP/1.1\r\nHost: x\r\n\r\n".encode())
            connection.recv(1)
    eventually(lambda: readers_of(instant, job_id) == 0)
    assert not [record.getMessage() for record in caplog.records if record.name == "asyncio"]


def test_a_reader_that_does_not_read_is_cut_and_may_come_back(serve: Serve, caplog: pytest.LogCaptureFixture) -> None:
    worker = serve(DrawsNoise(), stall_s=1.0)
    job_id = worker.post(num_images=2, width=1024, height=1024, output={"inline": True})["job_id"]
    eventually(lambda: worker.job(job_id)["status"] == "completed")
    with socket.socket() as stalled:
        stalled.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        stalled.settimeout(WAIT_S)
        stalled.connect(("127.0.0.1", worker.port))
        stalled.sendall(f"GET /v1/jobs/{job_id}/stream HTTP/1.1\r\nHost: x\r\n\r\n".encode())
        assert stalled.recv(12) == b"HTTP/1.1 200"
        eventually(lambda: worker.connections() == 1)  # our own, by which we ask
        assert b"".join(iter(lambda: stalled.recv(65536), b""))[-5:] != b"0\r\n\r\n", "it did not end, it broke off"
    assert b"\nevent: completed\n" in worker.client.get(f"/v1/jobs/{job_id}/stream").content
    assert not [record for record in caplog.records if record.levelno >= logging.ERROR]


def test_a_reader_that_is_slow_and_steady_is_not_cut(serve: Serve) -> None:
    worker = serve(DrawsNoise(), stall_s=0.5)
    job_id = worker.post(num_images=2, width=1024, height=1024, output={"inline": True})["job_id"]
    eventually(lambda: worker.job(job_id)["status"] == "completed")
    never = threading.Event()
    with socket.socket() as slow:
        slow.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65536)
        slow.settimeout(WAIT_S)
        slow.connect(("127.0.0.1", worker.port))
        slow.sendall(f"GET /v1/jobs/{job_id}/stream HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode())
        read, began = b"", time.monotonic()
        while piece := slow.recv(65536):
            read += piece
            if time.monotonic() - began < 2.0:  # four times as long as it may stand still
                never.wait(0.1)
    assert read[-5:] == b"0\r\n\r\n", "it ended, and did not break off"
    assert b"\nevent: completed\n" in read


def test_whoever_does_not_read_a_picture_is_cut_too(serve: Serve) -> None:
    worker = serve(DrawsNoise(), stall_s=0.2)
    job = worker.finish(num_images=1, width=1024, height=1024)
    with socket.socket() as stalled:
        stalled.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        stalled.connect(("127.0.0.1", worker.port))
        stalled.sendall(f"GET {job['images'][0]['url']} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
        eventually(lambda: worker.connections() == 2)
        eventually(lambda: worker.connections() == 1)  # our own, by which we ask


def test_a_comment_keeps_a_silent_stream_alive(serve: Serve) -> None:
    worker = serve(NeverEnds(), ping_s=0.05)
    with worker.client.stream("GET", worker.post()["sse_url"]) as response:
        lines = response.iter_lines()
        comments = [next(line for line in lines if line.startswith(":")) for _ in range(3)]
    assert all(comment.startswith(": ping") for comment in comments)


def test_the_usual_times_are_those_of_the_contract() -> None:
    assert (stream.PING_S, STALL_S) == (15, 10)
