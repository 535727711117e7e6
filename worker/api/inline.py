"""Answers that hold finished pictures as base64, sent piece by piece: made at once, large ones would hold up every
stream, probe and cancel, and take several times their size."""

from __future__ import annotations

import base64
from collections.abc import AsyncIterator, Mapping, Sequence

from anyio.lowlevel import checkpoint
from starlette.responses import JSONResponse, Response, StreamingResponse

from worker.api.wire import Json
from worker.jobs.events import Image

PICTURE = "\0"
"""Stands for a picture in a body; no text of a client's holds it."""
PIECE_BYTES = 3 * 2**16
"""A multiple of three: the pieces' base64 is then the whole picture's."""


def with_pictures(body: Json, images: Sequence[Image], headers: Mapping[str, str]) -> Response:
    """`body` as JSON, each PICTURE in it being the next of `images`."""
    first, *others = bytes(JSONResponse(body).body).split(b'"\\u0000"')
    parts = list(zip((image.data for image in images), others, strict=False))
    size = len(first) + sum(4 * -(-len(data) // 3) + len(b'""') + len(text) for data, text in parts)

    async def pieces() -> AsyncIterator[bytes]:
        yield first
        for data, text in parts:
            yield b'"'
            for at in range(0, len(data), PIECE_BYTES):
                yield base64.b64encode(data[at : at + PIECE_BYTES])
                await checkpoint()
            yield b'"' + text

    headers = {"Content-Length": str(size), **headers}
    return StreamingResponse(pieces(), headers=headers, media_type=JSONResponse.media_type)
