"""How answers look in this API: one place for every name that its front ends see."""

from __future__ import annotations

import json

from worker.api.inline import PICTURE
from worker.api.sdapi import samplers
from worker.api.sdapi.bodies import TextToImage
from worker.api.sdapi.current import CurrentJobs
from worker.api.wire import Json, in_base64
from worker.jobs.events import Completed
from worker.jobs.facts import LoraFacts, ModelFacts
from worker.jobs.job import Job
from worker.jobs.params import JobParams


def pictures_json(job: Job, done: Completed, asked: TextToImage, facts: ModelFacts) -> Json:
    """A place for each picture, what was asked for with defaults filled in, and that as a JSON text with the seeds."""
    parameters = _parameters(job.params)
    seeds = [image.seed for image in done.images]
    info = parameters | {
        "all_prompts": [job.params.prompt] * len(seeds),
        "all_negative_prompts": [parameters["negative_prompt"]] * len(seeds),
        "all_seeds": seeds,
        "sd_model_name": facts.id,
        "job_timestamp": job.created_at.strftime("%Y%m%d%H%M%S"),
        "index_of_first_image": 0,
    }
    return {
        "images": [] if asked.send_images is False else [PICTURE] * len(done.images),
        "parameters": parameters | {"batch_size": asked.batch_size or 1, "n_iter": asked.n_iter or 1},
        "info": json.dumps(info),
    }


def progress_json(jobs: CurrentJobs, *, with_image: bool) -> Json:
    """How far the current job is; all zero where there is none."""
    watched = jobs.first()
    state = {
        "skipped": False,
        "interrupted": False,
        "stopping_generation": False,
        "job": "",
        "job_count": len(jobs),
        "job_no": 0,
        "job_timestamp": "0",
        "sampling_step": 0,
        "sampling_steps": 0,
    }
    answer: Json = {"progress": 0.0, "eta_relative": 0.0, "state": state, "current_image": None, "textinfo": None}
    if watched is None:
        return answer
    job, preview = watched.job, watched.preview
    state |= {
        "job": job.params.task.value,
        "job_timestamp": job.created_at.strftime("%Y%m%d%H%M%S"),
        "interrupted": job.cancel_reason is not None,
        "sampling_step": job.progress.step,
        "sampling_steps": job.progress.steps,
    }
    image = in_base64(preview.data) if with_image and preview is not None else None
    part = round(job.progress.step / job.progress.steps, 4)
    return answer | {"progress": part, "eta_relative": job.eta_s or 0.0, "current_image": image}


def model_json(facts: ModelFacts) -> Json:
    """The loaded model; its place on the disk is nobody's business."""
    return {
        "title": facts.id,
        "model_name": facts.id,
        "hash": None,
        "sha256": None,
        "filename": facts.id,
        "config": None,
    }


def sampler_json(sampler: str) -> Json:
    """A sampler by the front ends' name, and by the worker's own."""
    return {"name": samplers.shown(sampler), "aliases": [sampler], "options": {}}


def lora_json(lora: LoraFacts) -> Json:
    """One adapter; its place on disk is nobody's business."""
    words = dict.fromkeys(lora.trigger_words, 1)
    return {"name": lora.name, "alias": lora.name, "path": "", "metadata": {"ss_tag_frequency": {lora.name: words}}}


def embeddings_json(facts: ModelFacts) -> Json:
    """By name, those that fit the model and those that do not."""
    loaded: Json = {}
    skipped: Json = {}
    for one in facts.embeddings:
        shown = {"step": None, "sd_checkpoint": None, "sd_checkpoint_name": None, "vectors": one.vectors}
        (loaded if one.fits else skipped)[one.name] = shown
    return {"loaded": loaded, "skipped": skipped}


def _parameters(params: JobParams) -> Json:
    return {
        "prompt": params.prompt,
        "negative_prompt": params.negative_prompt or "",
        "seed": params.seed,
        "steps": params.steps,
        "cfg_scale": params.guidance_scale,
        "width": params.width,
        "height": params.height,
        "sampler_name": samplers.shown(params.sampler),
        "denoising_strength": params.strength,
    }
