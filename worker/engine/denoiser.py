"""The runner that computes: opens, steps and finishes drawings with a model, on the model's device.

Knows tensors, samplers and guidance; knows nothing of queues, jobs' lives or any family's name.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import torch

from worker.engine import preview
from worker.engine.compiling import Compiling
from worker.engine.control import stacked
from worker.engine.device_errors import mapped_errors
from worker.engine.device_waiting import wait_for
from worker.engine.latent_drawing import LatentDrawing
from worker.engine.model_call import ModelCall
from worker.engine.opening import Opening
from worker.engine.runner import Pixels
from worker.engine.sampling.plan import X, advance, stack_tables
from worker.engine.timed_calls import TimedCalls
from worker.errors import NanOutput
from worker.jobs.params import JobParams

if TYPE_CHECKING:
    from worker.models.base import Model


class Denoiser:
    """`load_model` makes the model; it is called once, on the engine's thread, with a progress callback.

    With `fixed_rows` the model always sees so many rows, the rest of them padding. Another number of rows takes other
    kernels, which round otherwise; with the same number a picture's bytes are the same alone and in any company.
    `on_prompt` hears of every prompt whether its encoding was kept from an earlier job, `on_padding` how many rows of
    a call were padding, `on_adapters` how many LoRA adapters are in memory, and their bytes, `on_prompts_kept` how many
    bytes the kept encodings take. `before_timing` is called before a call is timed, so that what it needs is there.
    With `compiling` the calls that are made most often are compiled beside.
    """

    def __init__(
        self,
        load_model: Callable[[Callable[[float], None]], Model],
        *,
        fixed_rows: int | None = None,
        compiling: Compiling | None = None,
        on_prompt: Callable[[bool], None] = lambda hit: None,
        on_padding: Callable[[int], None] = lambda rows: None,
        on_adapters: Callable[[int, int], None] = lambda count, size_bytes: None,
        on_prompts_kept: Callable[[int], None] = lambda size_bytes: None,
        before_timing: Callable[[], None] = lambda: None,
    ) -> None:
        self._load_model = load_model
        self._fixed_rows = fixed_rows
        self._compiling = compiling
        self._on_prompt = on_prompt
        self._on_padding = on_padding
        self._on_adapters = on_adapters
        self._on_prompts_kept = on_prompts_kept
        self._before_timing = before_timing

    def load(self, report: Callable[[float], None]) -> None:
        """Load the model, and fit the preview map to its VAE."""
        self._model = self._load_model(lambda share: report(0.95 * share))
        self._call = ModelCall(self._model, self._fixed_rows, self._compiling, self._on_padding)
        self._opening = Opening(
            self._model,
            self._call,
            exact=self._fixed_rows is not None,
            on_prompt=self._on_prompt,
            on_adapters=self._on_adapters,
            on_prompts_kept=self._on_prompts_kept,
        )
        self._colour_map = preview.fit(self._model)
        self._timed_calls = TimedCalls(self._model)
        if self._model.device.type == "cuda":
            torch.cuda.set_device(self._model.device)  # the one that is asked whether it is lost
        report(1.0)

    @torch.inference_mode()
    def open(self, params: JobParams) -> Iterator[LatentDrawing]:
        """One drawing an image, or a tile of it, as soon as it is made."""
        with mapped_errors():
            for drawing in self._opening.open(params):
                wait_for(self._model.device)
                yield drawing

    @torch.inference_mode()
    def step(self, batch: Sequence[LatentDrawing]) -> None:
        """One forward for all rows: first every drawing's prompt row, then the negative rows of those that have one."""
        with mapped_errors():
            device = self._model.device
            guided = [k for k, drawing in enumerate(batch) if drawing.negative is not None]
            # All that comes from the host goes first, so that the device need not wait for it between two kernels.
            chosen = torch.tensor(guided, device=device)
            table = torch.from_numpy(stack_tables([(one.plan, one.call) for one in batch])).to(device)
            scale, timesteps, guidance_scale = torch.from_numpy(_numbers(batch)).to(device)  # each [n]
            state = _stack_states(batch, table.shape[1])  # [n, slots, C, h, w]
            drawn = _draw_noise(batch)
            noise = None if drawn is None else drawn.to(device)

            rows = state[:, X] * scale[:, None, None, None]
            texts = [one.prompt for one in batch] + [one.negative for one in batch if one.negative is not None]
            frames = [one.frame for one in batch] + [batch[k].frame for k in guided]
            seen = [{**text.tensors, **frame} for text, frame in zip(texts, frames, strict=True)]
            tensors = {name: torch.cat([row[name] for row in seen]) for name in seen[0]}
            if batch[0].controls:
                owners = [*range(len(batch)), *guided]
                tensors |= stacked([one.controls for one in batch], [one.call for one in batch], owners, device)
            if guided:
                rows = torch.cat([rows, rows[chosen]])
                timesteps = torch.cat([timesteps, timesteps[chosen]])
            adapters = [one.adapters for one in (*batch, *(batch[k] for k in guided))]
            plain = not batch[0].controls and not any(one.adapters.loras for one in batch)
            output = self._call.predict(
                rows, timesteps, tensors, adapters, kind=batch[0].kind, compiled=batch[0].compiled, plain=plain
            )

            prediction = output[: len(batch)]
            if guided:
                # Ho and Salimans, "Classifier-Free Diffusion Guidance", 2022, with one scale a drawing.
                scales = guidance_scale[chosen, None, None, None]
                negative = output[len(batch) :]
                prediction = prediction.clone()
                prediction[chosen] = negative + scales * (prediction[chosen] - negative)
            following = advance(state, prediction, noise, table)

            states = following.unbind()
            for drawing, its_state in zip(batch, states, strict=True):
                if drawing.kept is not None:
                    after = drawing.call + 1
                    signal, level = float(drawing.plan.signal[after]), float(drawing.plan.level[after])
                    its_state[X] = drawing.kept.put_back(its_state[X], signal, level)
            wait_for(device)  # until then it may still fail, and no drawing have changed
            for drawing, its_state in zip(batch, states, strict=True):
                drawing.state = its_state[: drawing.plan.slots]
                drawing.noise = None
                drawing.step = int(drawing.plan.steps_done[drawing.call])
                drawing.call += 1
                if drawing.done:
                    drawing.end_calls()

    @torch.inference_mode()
    def prepare(self) -> bool:
        """Go on with compiled calls for the batches to come."""
        with mapped_errors():
            return self._call.attend(self._timed_calls.memory.free_bytes)

    @torch.inference_mode()
    def time_call(self, rows: int) -> tuple[float, int | None]:
        """Of latents at random, with nothing asked for."""
        with mapped_errors():
            self._before_timing()
            return self._timed_calls.time(rows)

    def let_go(self) -> bool:
        """Encoded prompts, adapters and ControlNets that no drawing uses."""
        return self._opening.let_go()

    @torch.inference_mode()
    def preview(self, drawing: LatentDrawing) -> Pixels:
        """From the predicted clean latent, which is clear long before the noisy one."""
        with mapped_errors():
            return preview.apply(drawing.predicted, self._colour_map)

    @torch.inference_mode()
    def finish(self, drawing: LatentDrawing) -> Pixels:
        """Decode; what is not finite is decoded once more in fp32. Raises NanOutput, OutOfMemory."""
        with mapped_errors():
            latent = drawing.latent[None]
            pixels = self._model.decode(latent).float()
            if not torch.isfinite(pixels).all():
                pixels = self._model.decode(latent, precise=True).float()
                if not torch.isfinite(pixels).all():
                    raise NanOutput
            scaled = (pixels[0].permute(1, 2, 0) / 2 + 0.5).clamp(0, 1) * 255
            finished: Pixels = scaled.round().to(torch.uint8).cpu().numpy()
            return finished


def _numbers(batch: Sequence[LatentDrawing]) -> npt.NDArray[np.float32]:
    """What every drawing's latent is multiplied by for the model, its timestep and its guidance scale.  # [3, n]"""
    calls = [(one.plan.input_scale[one.call], one.plan.timesteps[one.call], one.guidance_scale) for one in batch]
    return np.ascontiguousarray(np.array(calls, dtype=np.float32).T)


def _stack_states(batch: Sequence[LatentDrawing], slots: int) -> torch.Tensor:
    """All drawings' slots, with zeros where one has fewer.  # [n, slots, C, h, w]"""
    states = [one.state for one in batch]
    if any(len(state) < slots for state in states):
        states = [torch.cat([state, state.new_zeros((slots - len(state), *state.shape[1:]))]) for state in states]
    return torch.stack(states)


def _draw_noise(batch: Sequence[LatentDrawing]) -> torch.Tensor | None:
    """Each drawing's own noise for this call, zeros for those that take none; None if nobody does.  # [n, C, h, w]"""
    for one in batch:
        if one.noise is None and one.plan.noisy[one.call]:
            one.noise = torch.randn((1, *one.state.shape[1:]), generator=one.generator)[0]
    drawn = [one.noise for one in batch]
    if all(noise is None for noise in drawn):
        return None
    return torch.stack([torch.zeros(batch[0].state.shape[1:]) if noise is None else noise for noise in drawn])
