"""Makes drawings of what a job asks for: its texts encoded, its sampler planned, its noise drawn; each kept for others.

Reads what it needs of a model off the model, and knows nothing of batches.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Mapping
from copy import deepcopy
from typing import TYPE_CHECKING

import torch

from worker.engine import sampling
from worker.engine.beginning import Source
from worker.engine.cache import Cache
from worker.engine.control import Controls, open_controls, said_of
from worker.engine.latent_drawing import LatentDrawing
from worker.engine.model_call import ModelCall
from worker.engine.sampling.plan import Plan, X
from worker.engine.sampling.read_off import read_off
from worker.engine.sampling.schedule import NoiseSchedule, UnsupportedSchedule
from worker.engine.sampling.schedules import Schedule, read_schedule
from worker.errors import InvalidInput, ModelUnusable
from worker.jobs.params import JobParams, LoraParams
from worker.jobs.tiling import cut, drawn_size

if TYPE_CHECKING:
    from worker.models.base import AdapterSet, Conditioning, Model


class Opening:
    """With `exact`, drawings of different adapters share no call. Raises ModelUnusable where the model's scheduler
    cannot be read.

    `on_prompt` hears of every prompt whether its encoding was kept from an earlier job, `on_adapters` how many LoRA
    adapters are in memory, and their bytes, `on_prompts_kept` how many bytes the kept encodings take.
    """

    def __init__(
        self,
        model: Model,
        call: ModelCall,
        *,
        exact: bool,
        on_prompt: Callable[[bool], None],
        on_adapters: Callable[[int, int], None],
        on_prompts_kept: Callable[[int], None],
    ) -> None:
        self._model = model
        self._call = call
        self._exact = exact
        self._on_adapters = on_adapters
        self._on_prompts_kept = on_prompts_kept
        try:
            self._schedule = read_schedule(model.scheduler_config)
        except UnsupportedSchedule as unsupported:
            raise ModelUnusable(f"the model's scheduler configuration is not supported: {unsupported}") from None
        self._prompts = Cache(self._encode_prompt, on_get=on_prompt)
        self._plans = Cache(self._plan)
        # Some take a quarter of a second to make; a plan is read off a copy.
        self._schedulers = Cache(model.scheduler)

    def open(self, params: JobParams) -> Iterator[LatentDrawing]:
        """One drawing an image, or a tile of it: image k takes its noise from the generator of seed + k, on the CPU in
        fp32. What a tile begins with is encoded when its drawing is asked for."""
        model = self._model
        adapters = model.adapters.load(params.loras)
        self._on_adapters(*model.adapters.held)
        loras = adapters.text_loras
        prompt = self._prompts.get((params.prompt, loras))
        guided = model.guides(params.guidance_scale)
        negative = self._prompts.get((params.negative_prompt, loras)) if guided else None
        warnings = _warnings(prompt, negative, adapters, unused=not guided and bool(params.negative_prompt))
        if negative is not None and negative.key != prompt.key:
            empty = self._prompts.get(("", loras))
            prompt, negative = prompt.as_long_as(negative, empty), negative.as_long_as(prompt, empty)
        self._on_prompts_kept(sum(one.size_bytes for one in self._prompts.values()))
        whole = drawn_size(params.width, params.height, model.facts.multiple)
        native = (model.facts.width, model.facts.height) if params.upscale else whole
        tiles = cut(*whole, *native, model.facts.multiple)
        width, height = tiles[0].width, tiles[0].height
        shape = model.latent_shape(width, height)
        schedule = self._schedule.of_size(*shape[1:])
        plan = self._plans.get((params.sampler, params.steps, params.first_step, schedule))
        frame = dict(model.frame(width, height, params.guidance_scale))
        controls = open_controls(model, params, width, height, plan.calls)
        warnings += said_of(controls)
        source = Source(model, params, *whole, tiles)
        compiled: bool | None = None
        for begun in source.begin(plan):
            own = frame if begun.masked is None else frame | {"masked": begun.masked.to(model.device)}
            state = torch.zeros((plan.slots, *shape))
            state[X] = begun.latent
            kind = _key(shape, own, prompt, negative, controls)
            if compiled is None:  # all of a job, or nothing
                compiled = self._call.begins_compiled(kind, adapters, controls)
            yield LatentDrawing(
                key=(kind, adapters.loras if self._exact else None, compiled),
                rows=2 if guided else 1,
                pixels=width * height,
                index=begun.index,
                seed=params.seed + begun.index,
                tile=begun.tile if len(tiles) > 1 else None,
                tiles=len(tiles),
                steps=plan.steps,
                plan=plan,
                state=state.to(model.device),
                generator=begun.generator,
                prompt=prompt,
                negative=negative,
                frame=own,
                warnings=warnings,
                guidance_scale=params.guidance_scale,
                adapters=adapters,
                kept=begun.kept and begun.kept.to(model.device),
                controls=controls,
                kind=kind,
                compiled=compiled,
            )

    def let_go(self) -> bool:
        """Drop what is only kept for later jobs and takes memory; whether there was any."""
        prompts, weights = self._prompts.let_go(), self._model.let_go()
        self._on_prompts_kept(0)
        self._on_adapters(*self._model.adapters.held)
        return prompts or weights

    def _encode_prompt(self, asked: tuple[str | None, tuple[LoraParams, ...]]) -> Conditioning:
        text, loras = asked
        adapters = self._model.adapters
        with adapters.active([adapters.load(loras)]):
            return self._model.encode_prompt(text)

    def _plan(self, asked: tuple[str, int, int, Schedule]) -> Plan:
        sampler, steps, first, schedule = asked
        if sampler in sampling.SAMPLERS:
            return sampling.planner(sampler)(schedule, steps, first)
        assert isinstance(schedule, NoiseSchedule), "flows have no sampler that is read off"
        try:
            return read_off(deepcopy(self._schedulers.get(sampler)), schedule, steps, first)
        except NotImplementedError:
            raise InvalidInput(f"The sampler {sampler} does not draw this model") from None
        except ValueError:
            raise InvalidInput(f"The sampler {sampler} does not make {steps} steps with this model") from None


def _key(
    shape: tuple[int, ...],
    frame: Mapping[str, torch.Tensor],
    prompt: Conditioning,
    negative: Conditioning | None,
    controls: Controls,
) -> Hashable:
    texts = frozenset(one.key for one in (prompt, negative) if one is not None)
    frames = frozenset((name, tuple(tensor.shape)) for name, tensor in frame.items())
    return shape, texts, frames, tuple(one.place for one in controls)


def _warnings(
    prompt: Conditioning, negative: Conditioning | None, adapters: AdapterSet, *, unused: bool
) -> tuple[str, ...]:
    """What is to be said of texts and adapters, each with the name of its field.

    `unused` is a negative prompt without a row.
    """
    told = [f"prompt: {one}" for one in prompt.warnings]
    if unused:
        told.append("negative_prompt: it has no effect without guidance by a second row")
    told += [f"negative_prompt: {one}" for one in (negative.warnings if negative else ())]
    return (*told, *(f"loras: {one}" for one in adapters.warnings))
