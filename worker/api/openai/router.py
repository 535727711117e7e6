"""The routes of this API: each posts a job to the one queue and answers with what becomes of it."""

from __future__ import annotations

import asyncio
import functools
import time
from typing import Any

import anyio
from fastapi import APIRouter, Request
from pydantic import ValidationError
from starlette.responses import Response

from worker.api.body import field_faults, load_json, read_body
from worker.api.document import GENERATION_EXAMPLES, REFUSED_BY_OPENAI, json_content
from worker.api.ending import leave, until_ended
from worker.api.inline import with_pictures
from worker.api.masks import white_where_transparent
from worker.api.openai.bodies import NO_SUCH_MODEL, ImageRequest, as_params, names_model
from worker.api.openai.document import ANSWERS, MODEL, MODELS
from worker.api.openai.edits import openapi_edit, read_edit
from worker.api.openai.stream import frames
from worker.api.openai.wire import Kind, model_json, pictures_json
from worker.api.request import openapi_body
from worker.api.stream import EventStream, StreamTimes
from worker.api.trace import read_trace
from worker.errors import InvalidRequest, ModelMismatch
from worker.jobs.facts import ModelFacts
from worker.jobs.params import JobParams
from worker.jobs.service import JobService
from worker.metrics import Metrics


def router(service: JobService, facts: ModelFacts, metrics: Metrics, times: StreamTimes) -> APIRouter:
    """Routes under `/v1/images` and `/v1/models`."""
    routes = APIRouter(tags=["openai"], responses=REFUSED_BY_OPENAI)
    created = int(time.time())
    limits = service.limits
    one_mask_at_a_time = anyio.CapacityLimiter(1)

    async def draw(request: Request, kind: Kind, asked: ImageRequest, params: JobParams) -> Response:
        trace_id, passed_on = read_trace(request)
        job, _ = service.submit(params, trace_id=trace_id)
        headers = {"X-Request-Id": job.id} | passed_on
        if asked.stream:
            left = functools.partial(leave, service, job)
            return EventStream(frames(job, kind, asked), left, metrics, times, headers)
        done = await until_ended(service, job, request.receive)
        answer = pictures_json(job, done, asked, str(request.base_url).rstrip("/"))
        return with_pictures(answer, done.images, headers)

    @routes.post(
        "/v1/images/generations",
        summary="Draw pictures, as the OpenAI API has it",
        response_class=Response,
        responses=ANSWERS,
        openapi_extra=openapi_body(ImageRequest, GENERATION_EXAMPLES),
    )
    async def generate(request: Request) -> Response:
        """Waits for the pictures, or streams partial and finished ones. A client that leaves cancels its job."""
        body = await read_body(request, limits)
        load_json(body, limits, picture_fields=())
        try:
            asked = ImageRequest.model_validate_json(body)
        except ValidationError as invalid:
            raise InvalidRequest(*field_faults(invalid)) from None
        return await draw(request, "image_generation", asked, as_params(asked, {}, facts, limits))

    async def read(request: Request) -> tuple[ImageRequest, JobParams]:
        asked = await read_edit(request, limits)
        pictures = {}
        if asked.encoded_mask is not None:
            decode = functools.partial(white_where_transparent, asked.encoded_mask, limits)
            pictures["mask"] = await anyio.to_thread.run_sync(decode, limiter=one_mask_at_a_time)
        params = await asyncio.to_thread(as_params, asked, pictures, facts, limits)
        return asked.without_pictures(), params

    @routes.post(
        "/v1/images/edits",
        summary="Draw pictures from a picture, as the OpenAI API has it",
        response_class=Response,
        responses=ANSWERS,
        openapi_extra=openapi_edit(),
    )
    async def edit(request: Request) -> Response:
        """As generations; with a mask, what is transparent in it is drawn again and the rest stays."""
        asked, params = await read(request)
        return await draw(request, "image_edit", asked, params)

    @routes.head("/v1/models", include_in_schema=False)
    @routes.get(
        "/v1/models",
        summary="List the loaded model, as the OpenAI API has it",
        responses={200: {"content": json_content(MODELS)}},
    )
    async def list_models() -> dict[str, Any]:
        """One worker, one model."""
        return {"object": "list", "data": [model_json(facts.id, created)]}

    @routes.head("/v1/models/{model_id:path}", include_in_schema=False)
    @routes.get(
        "/v1/models/{model_id:path}",
        summary="Show the loaded model, as the OpenAI API has it",
        responses={200: {"content": json_content(MODEL)}},
    )
    async def show_model(model_id: str) -> dict[str, Any]:
        """404 for any other."""
        if not names_model(model_id, facts):
            raise ModelMismatch(NO_SUCH_MODEL)
        return model_json(facts.id, created)

    return routes
