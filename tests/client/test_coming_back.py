"""What a client lives through: lost connections, killed workers, full queues, proxies with answers of their own."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest

from tests.client.between import Answers, CutsWhenTold, LosesFirstAnswer, event, standing, stream_of
from tests.fakes import StepByStep
from tests.process import WorkerProcess
from tests.serving import ServedWorker, smaller
from worker.client import BadAnswer, Client, Completed, Event, Progress, Queued, Refused, Started, Unreachable
from worker.client.patience import LONGEST_S, Patience
from worker.client.protocol import Following

Serve = Callable[..., ServedWorker]
PROMPT = "a red circle"
AWAY = (503, {"Retry-After": "7"}, b'{"code": "draining", "detail": "The worker is shutting down"}')
BAD_GATEWAY = (502, {"Content-Type": "text/html"}, b"<html>bad gateway</html>")
JOB = {
    "job_id": "a",
    "status": "queued",
    "position": 0,
    "eta_s": None,
    "progress": {"step": 0, "steps": 4},
    "params": {},
    "images": [],
    "warnings": [],
    "error": None,
    "timings": {},
    "attempt": 0,
    "created_at": "",
    "labels": {},
}
ENDING = event(3, "cancelled", '"reason": "requested"')


class Waits(list[float]):
    """A sleep that does not, and remembers how long it should have been."""

    def __call__(self, seconds: float) -> None:
        self.append(seconds)


def test_every_event_comes_once_however_often_the_line_breaks(serve: Serve) -> None:
    worker = serve(StepByStep())
    with standing(CutsWhenTold(worker.port)) as line, Client(line.url) as client:
        seen: list[Event] = []
        for happened in client.stream(PROMPT, steps=6):
            seen.append(happened)
            if isinstance(happened, Started | Progress):
                line.cut()
                worker.runner.allow()
    assert [one.id for one in seen] == list(range(1, len(seen) + 1))
    assert [one.step for one in seen if isinstance(one, Progress)] == [1, 2, 3, 4, 5, 6]
    assert isinstance(seen[-1], Completed)
    assert line.connections >= 7


def test_a_post_whose_answer_was_lost_is_one_job(serve: Serve) -> None:
    worker = serve()
    with standing(LosesFirstAnswer(worker.port)) as line, Client(line.url) as client:
        drawn = client.generate_all(PROMPT)
        assert line.lost
        assert [job.job_id for job in client.jobs()] == [drawn.job_id]


def test_a_job_outlives_its_worker_and_so_does_its_reader(tmp_path: Path) -> None:
    with WorkerProcess(tmp_path, step_s=0.05) as worker, Client(str(worker.client.base_url)) as client:
        seen: list[Event] = []
        killed = False
        for happened in client.stream(PROMPT, steps=40):
            seen.append(happened)
            if isinstance(happened, Progress) and happened.step == 3 and not killed:
                killed = True
                worker.kill()
                worker.start()
        assert isinstance(seen[-1], Completed)
        assert [one.id for one in seen] == sorted({one.id for one in seen})
        assert [one.attempt for one in seen if isinstance(one, Started)] == [1, 2]
        assert client.fetch(seen[-1].images[0]).size == (64, 64)


def test_a_worker_that_asks_for_two_seconds_gets_them(tmp_path: Path) -> None:
    waits = Waits()
    with WorkerProcess(tmp_path, step_s=0.05) as worker:

        def restart(seconds: float) -> None:
            waits.append(seconds)
            if len(waits) == 1:
                worker.start(step_s=0.001)

        with Client(str(worker.client.base_url), sleep=restart) as client:
            seen: list[Event] = []
            for happened in client.stream(PROMPT, steps=100):
                seen.append(happened)
                if isinstance(happened, Started) and happened.attempt == 1:
                    worker.terminate()
    assert isinstance(seen[-1], Completed)
    assert 2.0 <= waits[0] <= 2.5


def test_a_stream_goes_on_behind_503_and_gateways() -> None:
    first = stream_of(event(1, "queued", '"position": 0, "eta_s": null'), "retry: 1500\n\n")
    with standing(Answers(first, AWAY, BAD_GATEWAY, stream_of(event(2, "started", '"attempt": 1'), ENDING))) as server:
        waits = Waits()
        with Client(server.url, sleep=waits) as client:
            kinds = [type(one).__name__ for one in client.follow("a")]
    assert kinds == ["Queued", "Started", "Cancelled"]
    assert [asked[2].get("last-event-id") for asked in server.asked] == [None, "1", "1", "1"]
    assert 1.5 <= waits[0] <= 1.875
    assert 7.0 <= waits[1] <= 8.75
    assert waits[2] <= 2.0


def test_events_that_came_before_and_kinds_from_the_future_are_passed_over() -> None:
    queued = event(1, "queued", '"position": 0, "eta_s": null')
    answer = stream_of(
        queued, queued, event(2, "invented", '"later": true'), ENDING, event(4, "started", '"attempt": 2')
    )
    with standing(Answers(answer)) as server, Client(server.url) as client:
        assert [one.id for one in client.follow("a")] == [1, 3]


def test_a_post_is_repeated_word_for_word_under_its_key() -> None:
    job = json.dumps(JOB).encode()
    with standing(Answers(AWAY, BAD_GATEWAY, (202, {}, job))) as server, Client(server.url, sleep=Waits()) as client:
        assert client.submit(PROMPT, seed=1).job_id == "a"
    posts = [(headers["idempotency-key"], body) for _, _, headers, body in server.asked]
    assert len(set(posts)) == 1
    assert len(posts[0][0]) >= 32


def test_a_full_queue_is_waited_for_as_long_as_it_says(serve: Serve) -> None:
    worker = serve(StepByStep(), limits=smaller(queue_capacity=1))
    worker.post()
    worker.runner.wait_for_calls(1)
    worker.post()
    waits = Waits()

    def free(seconds: float) -> None:
        waits.append(seconds)
        worker.runner.allow_all()
        worker.stream(worker.on_loop(lambda: worker.service.store.newest_first()[0].id))

    with Client(worker.url, sleep=free) as client:
        assert client.generate(PROMPT).size == (64, 64)
    assert len(waits) == 1
    assert waits[0] >= 1.0


def test_a_full_queue_is_waited_for_within_bounds(serve: Serve) -> None:
    worker = serve(StepByStep(), limits=smaller(queue_capacity=1))
    worker.post()
    worker.runner.wait_for_calls(1)
    worker.post()
    waits = Waits()
    with Client(worker.url, busy_s=0.5, sleep=waits) as client, pytest.raises(Refused) as refused:
        client.generate(PROMPT)
    assert (refused.value.status, refused.value.retriable, waits) == (429, True, [])
    assert refused.value.retry_after_s
    assert refused.value.retry_after_s >= 1


def test_a_worker_that_stays_away_is_given_up() -> None:
    queued = event(1, "queued", '"position": 0, "eta_s": null')
    with standing(Answers(stream_of(queued))) as server, Client(server.url, patience_s=0.3) as client:
        events = client.follow("a")
        assert isinstance(next(events), Queued)
        server.close()
        with pytest.raises(Unreachable, match="no worker answers"):
            next(events)


@pytest.mark.parametrize(
    "answer",
    [
        (200, {"Content-Type": "text/html"}, b"<html>welcome</html>"),
        stream_of(event(1, "started", '"attempted": 1')),
        stream_of("id: one\nevent: started\ndata: {}\n\n"),
        stream_of("id: 1\nevent: started\ndata: no json\n\n"),
        stream_of(event(1, "preview", '"step": 1, "steps": 2, "width": 1, "height": 1, "format": "png", "image": "*"')),
    ],
)
def test_what_is_no_worker_is_told_from_one(answer: tuple[int, dict[str, str], bytes]) -> None:
    with standing(Answers(answer, answer)) as server, Client(server.url, patience_s=0) as client:
        with pytest.raises(BadAnswer):
            list(client.follow("a"))
        if answer[1]["Content-Type"] == "text/html":
            with pytest.raises(BadAnswer):
                client.info()


def test_a_job_that_a_restart_has_lost_is_told() -> None:
    gone = (404, {}, b'{"code": "job_not_found", "detail": "The worker knows no job of this id"}')
    queued = event(1, "queued", '"position": 0, "eta_s": null')
    with standing(Answers(stream_of(queued), gone)) as server, Client(server.url, sleep=Waits()) as client:
        events = client.follow("a")
        next(events)
        with pytest.raises(Refused) as refused:
            next(events)
    assert (refused.value.code, refused.value.status) == ("job_not_found", 404)


def test_patience_grows_and_ends() -> None:
    now = [0.0]
    patience = Patience(60.0, now=lambda: now[0])
    assert all((patience.wait_s() or 0.0) <= LONGEST_S for _ in range(100))
    now[0] = 60.5
    assert patience.wait_s() is None
    patience.refreshed()
    assert (patience.wait_s() or 0.0) <= 0.25
    assert patience.wait_s(61.0) is None
    assert 30.0 <= (patience.wait_s(30.0) or 0.0) <= 37.5


def test_a_stream_that_only_keeps_alive_is_a_sign_of_life() -> None:
    now = [0.0]
    following = Following(httpx.URL("http://worker"), 0, 60.0)
    following._patience = Patience(60.0, now=lambda: now[0])
    following.wait_s()
    now[0] = 50.0
    assert following.feed(b": ping\n\n") == []
    now[0] = 100.0
    following.wait_s()
    now[0] = 161.0
    with pytest.raises(Unreachable):
        following.wait_s()


def test_an_ending_comes_through_whatever_its_number() -> None:
    """A disk may have lost what was told before it."""
    with standing(Answers(stream_of(ENDING))) as server, Client(server.url, sleep=Waits()) as client:
        assert [told.id for told in client.follow("a", after=99)] == [3]
