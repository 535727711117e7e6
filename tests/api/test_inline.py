"""Answers that hold pictures: one JSON text, in pieces that hold nobody up."""

from __future__ import annotations

import asyncio
import base64
import json
import os

from starlette.types import Message

from worker.api.inline import PICTURE, with_pictures
from worker.jobs.events import Image
from worker.jobs.params import ImageFormat

MOST_BYTES = 2**18


async def test_a_large_answer_comes_in_pieces_between_which_others_have_their_turn() -> None:
    pictures = [os.urandom(size) for size in (0, 1, 2, 3 * 2**16, 1_000_000)]
    images = [Image(index, 0, 64, 64, ImageFormat.PNG, data) for index, data in enumerate(pictures)]
    text = '"\\u0000" "\\\\u0000" ü'
    sent: list[Message] = []
    turns = 0

    async def send(message: Message) -> None:
        sent.append(message)

    async def receive() -> Message:
        await asyncio.Event().wait()
        raise AssertionError

    async def take_turns() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    other = asyncio.create_task(take_turns())
    body = {"before": text, "data": [{"b64": PICTURE}] * len(images), "after": text}
    answer = with_pictures(body, images, {"X-Request-Id": "job"})
    await answer({"type": "http", "asgi": {"spec_version": "2.3"}}, receive, send)
    other.cancel()

    assert (answer.headers["content-type"], answer.headers["x-request-id"]) == ("application/json", "job")
    pieces = [message.get("body", b"") for message in sent[1:]]
    assert max(map(len, pieces)) <= MOST_BYTES
    assert turns >= sum(map(len, pieces)) // MOST_BYTES
    whole = b"".join(pieces)
    assert len(whole) == int(answer.headers["content-length"])
    told = [{"b64": base64.b64encode(data).decode()} for data in pictures]
    assert json.loads(whole) == {"before": text, "data": told, "after": text}
