"""The routes that post, list, show and cancel jobs."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Request
from starlette.responses import JSONResponse, Response

from worker.api.body import beside, digest_of, parse_job, read_body
from worker.api.document import JOB, JOB_EXAMPLES, JOBS, REFUSED, TEXT, TRACE, header, json_content, one_of, query
from worker.api.request import JobRequest, openapi_body
from worker.api.trace import read_trace
from worker.api.wire import job_json
from worker.errors import FieldFault, InvalidRequest
from worker.jobs.facts import ModelFacts
from worker.jobs.job import Status
from worker.jobs.service import JobService

MAX_KEY_CHARACTERS = 255
MAX_PAGE = 1000


def router(service: JobService, facts: ModelFacts) -> APIRouter:
    """Routes under `/v1/jobs`."""
    routes = APIRouter(tags=["jobs"], responses=REFUSED)
    one = json_content(JOB)

    @routes.post(
        "/v1/jobs",
        status_code=202,
        summary="Post a job",
        responses={
            200: {"description": "the job that this Idempotency-Key already stands for", "content": one},
            202: {"content": one},
        },
        openapi_extra=openapi_body(JobRequest, JOB_EXAMPLES)
        | {
            "parameters": [
                TRACE,
                header(
                    "Idempotency-Key",
                    "makes repeats of this post harmless",
                    {**TEXT, "minLength": 1, "maxLength": MAX_KEY_CHARACTERS},
                ),
            ]
        },
    )
    async def post_job(request: Request) -> Response:
        """Accepts the job (202), or answers with the one that this Idempotency-Key already stands for (200)."""
        key = request.headers.get("idempotency-key")
        if key is not None and not 1 <= len(key) <= MAX_KEY_CHARACTERS:
            raise InvalidRequest(FieldFault("Idempotency-Key", f"must have 1 to {MAX_KEY_CHARACTERS} characters"))
        body = await read_body(request, service.limits)
        digest = b"" if key is None else await digest_of(body)  # without a key there is nothing to tell it from
        trace_id, passed_on = read_trace(request)
        # A repeat is not judged once more: a worker that came back may have another model by now.
        job, is_new = service.store.by_key(key, digest) if key is not None else None, False
        if job is None:
            params = await beside(body, lambda: parse_job(body, facts, service.limits))
            job, is_new = service.submit(params, key, digest, trace_id)
        return JSONResponse(
            job_json(job, None if is_new else service.positions.of(job)),  # a new one has just been told
            status_code=202 if is_new else 200,
            headers={"Location": f"/v1/jobs/{job.id}"} | passed_on,
        )

    @routes.head("/v1/jobs", include_in_schema=False)
    @routes.get(
        "/v1/jobs",
        summary="List the known jobs, newest first",
        responses={200: {"content": json_content(JOBS)}},
        openapi_extra={
            "parameters": [
                query("limit", "how many", {"type": "integer", "minimum": 1, "maximum": MAX_PAGE, "default": 100}),
                query("after", "the last id of the page before", {"type": "string"}),
                query("status", "these alone", one_of(*Status)),
            ]
        },
    )
    async def list_jobs(request: Request) -> dict[str, Any]:
        """Paged by `limit` and `after` (the last id of the page before), filtered by `status`."""
        limit, after, status = _page(request)
        jobs = service.store.newest_first()
        if after is not None:
            jobs = jobs[jobs.index(service.store.get(after)) + 1 :]
        jobs = [job for job in jobs if status is None or job.status is status]
        page, places = jobs[:limit], service.positions.all()
        return {
            "jobs": [job_json(job, places.get(job.id)) for job in page],
            "next": page[-1].id if len(jobs) > len(page) else None,
        }

    @routes.head("/v1/jobs/{job_id}", include_in_schema=False)
    @routes.get("/v1/jobs/{job_id}", summary="Show a job", responses={200: {"content": one}})
    async def get_job(job_id: str) -> dict[str, Any]:
        """The job as it stands now."""
        job = service.store.get(job_id)
        return job_json(job, service.positions.of(job))

    @routes.delete(
        "/v1/jobs/{job_id}",
        status_code=202,
        summary="Cancel a job",
        responses={200: {"description": "it had ended already", "content": one}, 202: {"content": one}},
    )
    async def cancel_job(job_id: str) -> Response:
        """202 while it takes effect, 200 when the job has already ended; harmless when repeated."""
        already = service.store.get(job_id).ended
        job = service.cancel(job_id)
        return JSONResponse(job_json(job, service.positions.of(job)), status_code=200 if already else 202)

    return routes


def _page(request: Request) -> tuple[int, str | None, Status | None]:
    query, faults = request.query_params, []
    limit, status = 100, None
    if unknown := set(query) - {"limit", "after", "status"}:
        faults.append(FieldFault("query", f"has {len(unknown)} unknown parameter(s)"))
    if "limit" in query:
        text = query["limit"]
        limit = int(text) if text.isascii() and text.isdecimal() and len(text) < 6 else 0
        if not 1 <= limit <= MAX_PAGE:
            faults.append(FieldFault("limit", f"must be from 1 to {MAX_PAGE}"))
    if "status" in query:
        if query["status"] in list(Status):
            status = Status(query["status"])
        else:
            faults.append(FieldFault("status", f"must be one of {', '.join(Status)}"))
    if faults:
        raise InvalidRequest(*faults)
    return limit, query.get("after"), status
