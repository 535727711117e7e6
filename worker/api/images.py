"""Finished pictures by URL, with what caches and download managers need: ETag, Range, immutability."""

from __future__ import annotations

import hashlib
import re

from fastapi import APIRouter, Request
from starlette.responses import Response

from worker.api.document import REFUSED, Schema
from worker.errors import ImageNotFound, PreconditionFailed, RangeNotSatisfiable
from worker.jobs.service import JobService

ENTITY_TAG = re.compile(r'(W/)?("[^"]*")')
CACHE_CONTROL = "private, max-age=31536000, immutable"


def router(service: JobService) -> APIRouter:
    """`GET /v1/jobs/{job_id}/images/{index}`; HEAD too."""
    routes = APIRouter(tags=["jobs"], responses=REFUSED)
    picture: Schema = {"content": {"image/png": {}, "image/webp": {}, "image/jpeg": {}}}

    @routes.head("/v1/jobs/{job_id}/images/{index}", include_in_schema=False)
    @routes.get(
        "/v1/jobs/{job_id}/images/{index}",
        summary="Fetch a finished picture",
        response_class=Response,
        responses={
            200: picture,
            206: picture | {"description": "the part that was asked for"},
            304: {"description": "the client's copy is the same"},
        },
    )
    async def get_image(request: Request, job_id: str, index: str) -> Response:
        """The bytes; 206 for a `Range`, 304 where the client's copy is the same, 412 where `If-Match` names another."""
        job = service.store.get(job_id)
        image = next((image for image in job.images if str(image.index) == index), None)
        if image is None:
            raise ImageNotFound
        etag = f'"{hashlib.sha256(image.data).hexdigest()[:32]}"'
        headers = {
            "ETag": etag,
            "Cache-Control": CACHE_CONTROL,
            "Accept-Ranges": "bytes",
            "Content-Disposition": f'inline; filename="{job.id}-{image.index}.{image.format.value}"',
        }
        if_match = request.headers.getlist("if-match")
        if if_match and not _matches(if_match, etag, weakly=False):
            raise PreconditionFailed
        if _matches(request.headers.getlist("if-none-match"), etag, weakly=True):
            return Response(status_code=304, headers=headers)
        data, status = image.data, 200
        asked = request.headers.get("range")
        # RFC 9110, 14.2: a Range says nothing with any method but GET.
        if asked is not None and request.method == "GET" and request.headers.get("if-range", etag) == etag:
            part = _parse_range(asked, len(data))
            if part is not None:
                start, end = part
                headers["Content-Range"] = f"bytes {start}-{end - 1}/{len(data)}"
                data, status = data[start:end], 206
        headers["Content-Length"] = str(len(data))
        body = b"" if request.method == "HEAD" else data
        return Response(body, status_code=status, headers=headers, media_type=image.format.media_type)

    return routes


def _matches(given: list[str], etag: str, *, weakly: bool) -> bool:
    """Whether a list of entity tags, in one header or in several, names this one (RFC 9110, 8.8.3.2), or any by `*`."""
    header = ",".join(given)
    if header.strip() == "*":
        return True
    return any(tag == etag and (weakly or not weak) for weak, tag in ENTITY_TAG.findall(header))


def _parse_range(header: str, size: int) -> tuple[int, int] | None:
    """One byte range as (start, end); None where RFC 9110, 14.2 lets it be ignored. Raises RangeNotSatisfiable."""
    found = re.fullmatch(r"bytes=(\d{0,15})-(\d{0,15})", header.strip())
    if found is None or found.groups() == ("", ""):
        return None
    first, last = found.groups()
    if first == "":
        start, end = max(0, size - int(last)), size
    else:
        start, end = int(first), min(size, int(last) + 1 if last else size)
        if last and int(last) < start:
            return None
    if start >= size or start >= end:
        refused = RangeNotSatisfiable()
        refused.headers = {"Content-Range": f"bytes */{size}"}
        raise refused
    return start, end
