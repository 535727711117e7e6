"""What the OpenAPI document shows of this API's answers; each schema is whole."""

from __future__ import annotations

from worker.api.document import NUMBER, TEXT, WHOLE, Schema, every, or_null, thing

SWITCH: Schema = {"type": "boolean"}


def by_name(schema: Schema) -> Schema:
    """An object whose names are not known beforehand."""
    return {"type": "object", "additionalProperties": schema}


PICTURES = thing(
    images=every({**TEXT, "description": "base64"}),
    parameters=thing(
        "what was asked for, defaults filled in",
        prompt=TEXT,
        negative_prompt=TEXT,
        seed=WHOLE,
        steps=WHOLE,
        cfg_scale=NUMBER,
        width=WHOLE,
        height=WHOLE,
        sampler_name=TEXT,
        denoising_strength=or_null(NUMBER),
        batch_size=WHOLE,
        n_iter=WHOLE,
    ),
    info={**TEXT, "description": "JSON: the parameters with the seed of each picture"},
)
PROGRESS = thing(
    "all zero where there is no job",
    progress={**NUMBER, "description": "from 0 to 1"},
    eta_relative={**NUMBER, "description": "seconds"},
    state=thing(
        skipped=SWITCH,
        interrupted=SWITCH,
        stopping_generation=SWITCH,
        job=TEXT,
        job_count=WHOLE,
        job_no=WHOLE,
        job_timestamp=TEXT,
        sampling_step=WHOLE,
        sampling_steps=WHOLE,
    ),
    current_image=or_null({**TEXT, "description": "base64"}),
    textinfo=or_null(TEXT),
)
SAMPLERS = every(thing(name=TEXT, aliases=every(TEXT), options=thing()))
SCHEDULERS = every(
    thing(name=TEXT, label=TEXT, aliases=or_null(every(TEXT)), default_rho=NUMBER, need_inner_model=SWITCH)
)
MODELS = every(
    thing(
        title=TEXT,
        model_name=TEXT,
        hash=or_null(TEXT),
        sha256=or_null(TEXT),
        filename=TEXT,
        config=or_null(TEXT),
    )
)
OPTIONS = thing(sd_model_checkpoint=TEXT, samples_format=TEXT)
EMBEDDING = thing(
    step=or_null(WHOLE), sd_checkpoint=or_null(TEXT), sd_checkpoint_name=or_null(TEXT), vectors=or_null(WHOLE)
)
EMBEDDINGS = thing(loaded=by_name(EMBEDDING), skipped=by_name(EMBEDDING))
LORAS = every(thing(name=TEXT, alias=TEXT, path=TEXT, metadata=thing(ss_tag_frequency=by_name(by_name(WHOLE)))))
NOTHING = thing()
NONE = {**every(NOTHING), "maxItems": 0}
SCRIPTS = thing(txt2img=every(TEXT), img2img=every(TEXT))
