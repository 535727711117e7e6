"""The commands that ask a worker something: `jobs`, `cancel`, `info`, `stream`."""

from __future__ import annotations

import argparse
import base64
import contextlib
import dataclasses
import itertools
import json
from typing import Any, assert_never

from worker.cli.arguments import PROGRAM
from worker.cli.exits import CANCELLED, DONE, FAILED, printable, say, status_of
from worker.cli.screen import within
from worker.client import Client, Refused, events
from worker.client.events import Event


def jobs(asked: argparse.Namespace, client: Client) -> int:
    """One line a job: id, status, steps done, when it was accepted, prompt. Raises ClientError."""
    found = list(itertools.islice(client.jobs(status=asked.status), max(0, asked.limit)))
    if asked.json:
        print(json.dumps([job.raw for job in found]))
        return DONE
    for job in found:
        steps = f"{job.step}/{job.steps}"
        print(f"{job.job_id}  {job.status:<9}  {steps:>7}  {job.created_at}  {printable(str(job.params['prompt']))}")
    return DONE


def cancel(asked: argparse.Namespace, client: Client) -> int:
    """Each job's id and what became of it. Raises ClientError."""
    cancelled, status = [], DONE
    for job_id in asked.job_id:
        try:
            job = client.cancel(job_id)
        except Refused as refused:  # one that is not known keeps no other from being cancelled
            say(PROGRAM, f"{job_id}: {refused}")
            status = status_of(refused)
            continue
        cancelled.append(job.raw)
        if not asked.json:
            print(f"{job.job_id}  {job.status if job.ended else 'cancelling'}", flush=True)
    if asked.json:
        print(json.dumps(cancelled))
    return status


def info(asked: argparse.Namespace, client: Client) -> int:
    """What the worker is and offers, a line for each thing. Raises ClientError."""
    told = client.info()
    if asked.json:
        print(json.dumps(told))
        return DONE
    worker, model = told["worker"], told["model"]
    queue, memory = worker["queue"], worker["memory"]
    rows: dict[str, object] = {
        "worker": f"{worker['id']} ({worker['implementation']} {worker['version']}), {worker['status']}",
        "device": f"{worker['device']} ({worker['backend']}){_memory(memory)}",
        "queue": f"{queue['waiting']} waiting, {queue['running']} running, room for {queue['capacity']}"
        + within(queue["eta_s"]),
        "model": f"{model['id']} ({model['family']}, {model['dtype']})",
        "size": f"{model['width']} x {model['height']}, multiples of {model['multiple']}",
        "defaults": f"{model['steps']} steps, guidance {model['guidance_scale']:g}, {model['sampler']}",
        "tasks": ", ".join(told["tasks"]),
        "samplers": ", ".join(told["samplers"]),
    }
    for name in ("upscalers", "loras", "controls", "embeddings"):
        if told.get(name):
            rows[name] = ", ".join(map(_offered, told[name]))
    for name, value in rows.items():
        print(f"{name:<10} {printable(str(value))}")
    return DONE


def stream(asked: argparse.Namespace, client: Client) -> int:
    """One line an event; with --json one object a line. Leaving early leaves the job alone. Raises ClientError."""
    job = client.job(asked.job_id)  # a worker that is not there is told at once; one that goes later is waited for
    status = {"failed": FAILED, "cancelled": CANCELLED}.get(job.status, DONE)  # of an end that was seen before
    with contextlib.closing(client.follow(asked.job_id, after=asked.after)) as happens:
        for event in happens:
            print(as_json(event) if asked.json else as_text(event), flush=True)
            match event:
                case events.Failed():
                    status = FAILED
                case events.Cancelled():
                    status = CANCELLED
    return status


def as_text(event: Event) -> str:
    """An event in one line."""
    match event:
        case events.Queued(position=position, eta_s=eta_s):
            told = f"queued, {position} ahead{within(eta_s)}"
        case events.Started(attempt=attempt):
            told = f"started, attempt {attempt}"
        case events.Progress(step=step, steps=steps, eta_s=eta_s):
            told = f"step {step} of {steps}{within(eta_s)}"
        case events.Preview(step=step, width=width, height=height):
            told = f"preview after step {step}, {width} x {height}"
        case events.Completed(images=images, timings=timings):
            told = f"completed in {timings.total_s} s: {', '.join(image.url for image in images)}"
        case events.Failed(code=code, message=message):
            told = f"failed: {message} ({code})"
        case events.Cancelled(reason=reason):
            told = f"cancelled ({reason})"
        case _:
            assert_never(event)
    return printable(f"{event.id:>4}  {told}")


def as_json(event: Event) -> str:
    """An event as the stream has it, its number and its name in front."""
    fields: dict[str, Any] = dataclasses.asdict(event)
    if isinstance(event, events.Preview):
        fields["image"] = base64.b64encode(fields.pop("data")).decode()
    return json.dumps({"id": fields.pop("id"), "type": type(event).__name__.lower()} | fields)


def _offered(one: str | dict[str, Any]) -> str:
    """A name, and whether the loaded model can do nothing with it."""
    if isinstance(one, str):
        return one
    return str(one["name"]) if one.get("fits", True) else f"{one['name']} (does not fit this model)"


def _memory(memory: dict[str, Any]) -> str:
    used, total = memory.get("used_bytes"), memory.get("total_bytes")
    if total is None:
        return ""
    return f", {total / 1e9:.1f} GB" if used is None else f", {used / 1e9:.1f} of {total / 1e9:.1f} GB used"
