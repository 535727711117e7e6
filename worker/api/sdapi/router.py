"""The routes of this API: what draws posts a job to the one queue and waits for it; the rest tells what is there."""

from __future__ import annotations

from typing import Any

import anyio
from fastapi import APIRouter, Request
from starlette.responses import Response

from worker.api.body import beside, read_body
from worker.api.document import IMAGE_TO_IMAGE_EXAMPLES, REFUSED, TEXT_TO_IMAGE_EXAMPLES, Schema, json_content
from worker.api.ending import until_ended
from worker.api.inline import with_pictures
from worker.api.request import openapi_body
from worker.api.sdapi import document, samplers
from worker.api.sdapi.bodies import ImageToImage, TextToImage, as_params, read
from worker.api.sdapi.current import CurrentJobs
from worker.api.sdapi.wire import embeddings_json, lora_json, model_json, pictures_json, progress_json, sampler_json
from worker.api.trace import read_trace
from worker.errors import FieldFault, InvalidRequest
from worker.jobs.facts import ModelFacts
from worker.jobs.params import JobParams
from worker.jobs.service import JobService


def answers(schema: Schema) -> dict[int | str, dict[str, Any]]:
    """What comes where nothing is wrong."""
    return {200: {"content": json_content(schema)}}


def router(service: JobService, facts: ModelFacts) -> APIRouter:
    """Routes under `/sdapi/v1`."""
    routes = APIRouter(prefix="/sdapi/v1", tags=["sdapi"], responses=REFUSED)
    jobs = CurrentJobs()
    limits = service.limits
    one_mask_at_a_time = anyio.CapacityLimiter(1)

    async def read_job(request: Request, form: type[TextToImage]) -> tuple[TextToImage, JobParams]:
        body = await read_body(request, limits)
        asked = await beside(body, lambda: read(form, body, limits))
        if not isinstance(asked, ImageToImage):
            return asked, as_params(asked, {}, facts, limits)
        pictures = await anyio.to_thread.run_sync(asked.read_mask, limits, limiter=one_mask_at_a_time)
        params = await beside(body, lambda: as_params(asked, pictures, facts, limits))
        return asked.without_pictures(), params

    async def draw(request: Request, form: type[TextToImage]) -> Response:
        asked, params = await read_job(request, form)
        trace_id, passed_on = read_trace(request)
        job, _ = service.submit(params, trace_id=trace_id)
        with jobs.watching(job) as watched:
            done = await until_ended(service, job, request.receive, watched.see)
        return with_pictures(pictures_json(job, done, asked, facts), done.images, passed_on)

    @routes.post(
        "/txt2img",
        summary="Draw pictures from a text",
        response_class=Response,
        responses=answers(document.PICTURES),
        openapi_extra=openapi_body(TextToImage, TEXT_TO_IMAGE_EXAMPLES),
    )
    async def text_to_image(request: Request) -> Response:
        """Waits for the pictures. A client that leaves cancels its job."""
        return await draw(request, TextToImage)

    @routes.post(
        "/img2img",
        summary="Draw pictures from a picture",
        response_class=Response,
        responses=answers(document.PICTURES),
        openapi_extra=openapi_body(ImageToImage, IMAGE_TO_IMAGE_EXAMPLES),
    )
    async def image_to_image(request: Request) -> Response:
        """As txt2img; with a mask, what is white in it is drawn again and the rest stays."""
        return await draw(request, ImageToImage)

    @routes.get("/progress", summary="How far the current job is", responses=answers(document.PROGRESS))
    async def progress(request: Request) -> dict[str, Any]:
        """Of the jobs that came through this API, the oldest. `skip_current_image=true` leaves the picture out."""
        skip = request.query_params.get("skip_current_image", "false").lower()
        if skip not in ("true", "false"):
            raise InvalidRequest(FieldFault("skip_current_image", "must be true or false"))
        return progress_json(jobs, with_image=skip == "false")

    @routes.post("/interrupt", summary="Cancel the current job", responses=answers(document.NOTHING))
    async def interrupt() -> dict[str, Any]:
        """Of the jobs that came through this API, the oldest; harmless where there is none."""
        if (watched := jobs.first()) is not None:
            service.cancel(watched.job.id)
        return {}

    @routes.get("/samplers", summary="The samplers", responses=answers(document.SAMPLERS))
    async def list_samplers() -> list[dict[str, Any]]:
        """By the names that front ends use, where they have one."""
        return [sampler_json(sampler) for sampler in facts.samplers]

    @routes.get("/schedulers", summary="The schedules of noise", responses=answers(document.SCHEDULERS))
    async def list_schedulers() -> list[dict[str, Any]]:
        """Automatic: as the sampler has it."""
        return [
            {"name": name.lower(), "label": name, "aliases": None, "default_rho": -1, "need_inner_model": False}
            for name in samplers.schedulers(facts.samplers)
        ]

    @routes.get("/sd-models", summary="The loaded model", responses=answers(document.MODELS))
    async def list_models() -> list[dict[str, Any]]:
        """One worker, one model."""
        return [model_json(facts)]

    @routes.get("/options", summary="The settings, to be read", responses=answers(document.OPTIONS))
    async def options() -> dict[str, Any]:
        """Those that this worker has; none can be changed."""
        return {"sd_model_checkpoint": facts.id, "samples_format": "png"}

    @routes.get("/embeddings", summary="The textual-inversion embeddings", responses=answers(document.EMBEDDINGS))
    async def list_embeddings() -> dict[str, Any]:
        """Prompts use the loaded ones by name; the skipped ones do not fit the model."""
        return embeddings_json(facts)

    @routes.get("/loras", summary="The LoRAs", responses=answers(document.LORAS))
    async def list_loras() -> list[dict[str, Any]]:
        """Those that fit the model; prompts ask for one by `<lora:name:scale>`."""
        return [lora_json(one) for one in facts.loras if one.fits]

    def offers_none(path: str, summary: str, answer: Any, schema: Schema) -> None:
        async def nothing() -> Any:
            return answer

        routes.add_api_route(path, nothing, summary=summary, name=path.strip("/"), responses=answers(schema))

    offers_none("/upscalers", "The upscalers: there are none", [], document.NONE)
    offers_none("/scripts", "The scripts: there are none", {"txt2img": [], "img2img": []}, document.SCRIPTS)
    return routes
