"""What a worker with a state directory still has after `kill -9`, after SIGTERM, and on a full disk."""

from __future__ import annotations

import concurrent.futures
import subprocess
import sys
import threading
from pathlib import Path

import httpx

from tests.conftest import eventually
from tests.process import WorkerProcess
from tests.serving import ENDINGS, WAIT_S


def test_after_a_kill_everything_accepted_is_there_and_goes_on(tmp_path: Path) -> None:
    with WorkerProcess(tmp_path) as worker:
        done = worker.post(steps=2, num_images=2, seed=7, key="done")["job_id"]
        worker.stream(done)
        told, pictures = worker.stream(done), [worker.picture(done, index) for index in (0, 1)]
        running = [worker.post(steps=150)["job_id"] for _ in range(8)]
        waiting = [worker.post(steps=3, labels={"number": str(number)})["job_id"] for number in range(5)]
        seen = [worker.wait_for(job_id, "progress") for job_id in running]
        before = [worker.job(job_id)["params"] for job_id in (*running, *waiting)]
        worker.kill()
        worker.start(step_s=0.001)

        assert worker.stream(done) == told
        assert [worker.picture(done, index) for index in (0, 1)] == pictures
        assert worker.job(done)["status"] == "completed"
        assert (
            worker.client.get(f"/v1/jobs/{done}/stream", headers={"Last-Event-ID": str(told[-1].id)}).status_code == 204
        )
        again = worker.try_post(steps=2, num_images=2, seed=7, key="done")
        assert (again.status_code, again.json()["job_id"]) == (200, done)

        for job_id, last in zip(running, seen, strict=True):
            events = worker.stream(job_id, after=last.id)
            ids = [event.id for event in events]
            assert ids == list(range(last.id + 1, last.id + 1 + len(ids))), "no gap, no repeat"
            attempts = [event.data["attempt"] for event in events if event.name == "started"]
            assert attempts == [2]
            assert [event.name for event in events if event.name in ENDINGS] == ["completed"]
            assert worker.stream(job_id)[0].id == 1
        for job_id in waiting:
            events = worker.stream(job_id)
            assert [event.data["attempt"] for event in events if event.name == "started"] == [1]
        assert [worker.job(job_id)["params"] for job_id in (*running, *waiting)] == before
        started = [worker.job(job_id)["started_at"] for job_id in (*running, *waiting)]
        assert started == sorted(started), "in the order of acceptance"


def test_a_job_that_ran_when_the_worker_was_killed_twice_is_not_tried_again(tmp_path: Path) -> None:
    with WorkerProcess(tmp_path) as worker:
        job_id = worker.post(steps=150)["job_id"]
        last = 0
        for attempt in (1, 2):
            assert worker.wait_for(job_id, "started", after=last).data["attempt"] == attempt
            last = worker.wait_for(job_id, "progress", after=last).id
            worker.kill()
            worker.start()
        ending = worker.stream(job_id)[-1]
        assert (ending.name, ending.data["code"], ending.data["retriable"]) == ("failed", "poisoned", False)
        assert worker.job(job_id)["error"]["code"] == "poisoned"
        follows = worker.post(steps=2)["job_id"]
        assert worker.stream(follows)[-1].name == "completed"


def test_a_drain_leaves_what_it_cannot_finish_and_its_readers_come_back(tmp_path: Path) -> None:
    with WorkerProcess(tmp_path) as worker:
        jobs = [worker.post(steps=150)["job_id"] for _ in range(10)]
        worker.wait_for(jobs[0], "progress")
        seen: dict[str, list[int]] = {job_id: [] for job_id in jobs}

        def read(job_id: str) -> None:
            last = max(seen[job_id], default=0)
            seen[job_id] += [event.id for event in worker.stream(job_id, after=last)]

        for restart in range(3):  # more often than a job may be killed
            readers = [threading.Thread(target=read, args=(job_id,)) for job_id in jobs]
            for reader in readers:
                reader.start()
            worker.wait_for(jobs[0], "progress", after=max(seen[jobs[0]], default=0))
            assert worker.terminate() in (0, -15, 143)
            for reader in readers:
                reader.join()
            worker.start(step_s=0.001 if restart == 2 else None)
        for job_id in jobs:
            read(job_id)
            assert seen[job_id] == list(range(1, len(seen[job_id]) + 1)), "no gap, no repeat"
            assert worker.job(job_id)["status"] == "completed"
        assert worker.job(jobs[0])["attempt"] == 4


def test_a_drain_leaves_nothing_that_a_client_of_another_api_was_refused(tmp_path: Path) -> None:
    with WorkerProcess(tmp_path, step_s=0.1) as worker, concurrent.futures.ThreadPoolExecutor(3) as pool:

        def ask(stream: bool) -> httpx.Response:
            body = {"prompt": "x", "num_inference_steps": 150, "stream": stream}
            address = f"http://127.0.0.1:{worker.port}/v1/images/generations"
            return httpx.post(address, json=body, timeout=WAIT_S, trust_env=False)

        asked = [pool.submit(ask, stream) for stream in (False, True)]
        eventually(lambda: len(worker.client.get("/v1/jobs").json()["jobs"]) == 2)
        left = [worker.post(steps=150)["job_id"] for _ in range(8)]  # of whom the last has to wait
        asked.append(pool.submit(ask, False))
        eventually(lambda: len(worker.client.get("/v1/jobs").json()["jobs"]) == 11)
        refused = [job["job_id"] for job in worker.client.get("/v1/jobs").json()["jobs"] if job["job_id"] not in left]
        worker.wait_for(refused[-1], "progress")
        worker.terminate()
        for status, answer in zip((503, 200, 503), (one.result() for one in asked), strict=True):
            assert answer.status_code == status
            assert '"code":"draining"' in answer.text
        worker.start(step_s=0.001)
        assert [worker.stream(job_id)[-1].data.get("reason") for job_id in refused] == ["shutdown"] * 3
        assert {worker.stream(job_id)[-1].name for job_id in left} == {"completed"}


def test_a_running_job_is_finished_within_the_drains_budget(tmp_path: Path) -> None:
    with WorkerProcess(tmp_path, drain_s=20.0) as worker:
        job_id = worker.post(steps=20)["job_id"]
        worker.wait_for(job_id, "progress")
        worker.terminate()
        worker.start()
        job = worker.job(job_id)
        assert (job["status"], job["attempt"]) == ("completed", 1)
        assert worker.picture(job_id)


def test_cancelled_stays_cancelled(tmp_path: Path) -> None:
    with WorkerProcess(tmp_path) as worker:
        jobs = [worker.post(steps=150)["job_id"] for _ in range(10)]
        worker.wait_for(jobs[0], "progress")
        for job_id in (jobs[0], jobs[-1]):
            worker.client.delete(f"/v1/jobs/{job_id}")
            assert worker.stream(job_id)[-1].name == "cancelled"
        worker.kill()
        worker.start()
        for job_id in (jobs[0], jobs[-1]):
            assert worker.stream(job_id)[-1].data["reason"] == "requested"


def test_a_time_limit_goes_on_while_the_worker_is_away(tmp_path: Path) -> None:
    with WorkerProcess(tmp_path) as worker:
        job_id = worker.post(steps=150, timeout_s=1)["job_id"]
        worker.kill()
        threading.Event().wait(1.0)
        worker.start()
        ending = worker.stream(job_id)[-1]
        assert (ending.name, ending.data["reason"]) == ("cancelled", "timeout")


def test_on_a_full_disk_new_jobs_are_refused_and_running_ones_end(tmp_path: Path) -> None:
    with WorkerProcess(tmp_path, step_s=0.02, file_bytes=150_000) as worker:
        running = [worker.post(steps=100, width=512, height=512)["job_id"] for _ in range(4)]
        worker.wait_for(running[0], "progress")
        refused = None
        for _ in range(500):
            refused = worker.try_post(prompt="x" * 4000, steps=100)
            if refused.status_code != 202:
                break
        assert refused is not None
        assert (refused.status_code, refused.json()["code"]) == (503, "storage_full")
        assert "retry-after" in refused.headers
        for job_id in running:
            assert worker.stream(job_id)[-1].name == "completed"
            assert len(worker.picture(job_id)) > 500_000, "it is there, though it could not be written"
        assert worker.client.get("/health").status_code == 200
        worker.kill()
        assert not list((tmp_path / "images").glob("*.part"))
        worker.start(step_s=0.001)
        for job_id in running:  # could not be written down as completed, and so is drawn again
            assert worker.stream(job_id)[-1].name == "completed"
            assert worker.job(job_id)["attempt"] == 2


def test_a_directory_has_one_worker(tmp_path: Path) -> None:
    with WorkerProcess(tmp_path) as worker:
        second = subprocess.run(
            [
                sys.executable,
                "-c",
                "import worker.main as m; m.sys.exit(m.cpu())",
                "--port",
                "0",
                "--state-dir",
                tmp_path,
            ],
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert second.returncode == 2
        assert "--state-dir is in use by another worker" in second.stderr
        assert worker.client.get("/health").status_code == 200
