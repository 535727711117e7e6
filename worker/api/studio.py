"""The studio: the page at `/` and the files it loads. Knows their names and bytes, nothing of what the page does."""

from __future__ import annotations

import gzip
import hashlib
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from importlib import resources
from importlib.resources.abc import Traversable

from fastapi import APIRouter, Request
from starlette.responses import Response

PAGE = "index.html"
MEDIA_TYPES = {
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".svg": "image/svg+xml",
}
ALWAYS_ASK = "no-cache"
FOR_EVER = "public, max-age=31536000, immutable"
"""For files whose names change with their content."""
# Finished pictures and previews are fetched, since they may need the token, and shown as blob: and data:.
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)


@dataclass(frozen=True)
class File:
    """One file, also in the form in which nearly every browser asks for it."""

    data: bytes
    compressed: bytes
    etag: str
    media_type: str
    cache_control: str


def load() -> dict[str, File]:
    """Every file of the built page by the path it is served at, and no other."""
    built = resources.files("worker.studio")
    files = {"/": _file(built / PAGE, ALWAYS_ASK)}
    for entry in (built / "assets").iterdir():
        files[f"/assets/{entry.name}"] = _file(entry, FOR_EVER)
    return files


def router(files: Mapping[str, File]) -> APIRouter:
    """GET and HEAD for each of the files."""
    routes = APIRouter(include_in_schema=False)
    for path, file in files.items():
        routes.add_api_route(path, _answer(file), methods=["GET", "HEAD"])
    return routes


def _answer(file: File) -> Callable[[Request], Awaitable[Response]]:
    async def answer(request: Request) -> Response:
        headers = {
            "ETag": file.etag,
            "Cache-Control": file.cache_control,
            "Content-Security-Policy": POLICY,
            "Vary": "Accept-Encoding",
        }
        if file.etag in request.headers.get("if-none-match", ""):
            return Response(status_code=304, headers=headers)
        data = file.data
        if "gzip" in request.headers.get("accept-encoding", ""):
            headers["Content-Encoding"] = "gzip"
            data = file.compressed
        headers["Content-Length"] = str(len(data))
        body = b"" if request.method == "HEAD" else data
        return Response(body, headers=headers, media_type=file.media_type)

    return answer


def _file(entry: Traversable, cache_control: str) -> File:
    data = entry.read_bytes()
    return File(
        data=data,
        compressed=gzip.compress(data, mtime=0),
        etag=f'W/"{hashlib.sha256(data).hexdigest()[:32]}"',
        media_type=MEDIA_TYPES[f".{entry.name.rpartition('.')[2]}"],
        cache_control=cache_control,
    )
