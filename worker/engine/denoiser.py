"""The runner that computes: opens, steps and finishes drawings with a model, on the model's device.

Knows tensors, samplers and guidance; knows nothing of queues, jobs' lives or any family's name.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

from worker.engine import preview, sampling
from worker.engine.prompts import PromptCache
from worker.engine.runner import DeviceLost, Drawing, Pixels
from worker.engine.sampling.plan import Plan, advance
from worker.engine.sampling.schedule import NoiseSchedule, UnsupportedSchedule
from worker.errors import ModelUnusable, NanOutput, OutOfMemory
from worker.jobs.params import JobParams

if TYPE_CHECKING:
    from worker.models.base import Conditioning, Model

OUT_OF_MEMORY = ("can't allocate memory", "MPS backend out of memory", "CUBLAS_STATUS_ALLOC_FAILED")
STICKY_CUDA_ERRORS = ("device-side assert", "illegal memory access", "unspecified launch failure", "ECC error")


@dataclass(slots=True, eq=False, kw_only=True)
class LatentDrawing(Drawing):
    """A drawing's tensors. Latents and sampler history stay in fp32 on the device.  # [C, h, w]

    With guidance (`negative` is not None) it has two rows: the prompt's and the negative prompt's.
    """

    plan: Plan
    latent: torch.Tensor
    predicted: torch.Tensor
    """The clean latent as the last step predicted it; zeros before the first."""
    prompt: Conditioning
    negative: Conditioning | None
    guidance_scale: float


class Denoiser:
    """`load_model` makes the model; it is called once, on the engine's thread, with a progress callback."""

    def __init__(self, load_model: Callable[[Callable[[float], None]], Model]) -> None:
        self._load_model = load_model

    def load(self, report: Callable[[float], None]) -> None:
        """Load the model, and fit the preview map to its VAE."""
        self._model = self._load_model(lambda share: report(0.95 * share))
        try:
            self._schedule = NoiseSchedule.from_config(self._model.scheduler_config)
        except UnsupportedSchedule as unsupported:
            raise ModelUnusable(f"the model's scheduler configuration is not supported: {unsupported}") from None
        self._prompts = PromptCache(self._model.encode_prompt)
        self._colour_map, explained = preview.fit(self._model)
        self._decodes_previews = preview.wants_decoder(self._model, explained)
        report(1.0)

    @torch.inference_mode()
    def open(self, params: JobParams) -> list[LatentDrawing]:
        """One drawing an image: image k starts from the noise of seed + k, drawn on the CPU in fp32."""
        with _mapped_errors():
            plan = sampling.planner(params.sampler)(self._schedule, params.steps)
            prompt = self._prompts.get(params.prompt)
            guided = params.guidance_scale > 1.0
            negative = self._prompts.get(params.negative_prompt or "") if guided else None
            shape = self._model.latent_shape(params.width, params.height)
            key = (shape, frozenset(one.key for one in (prompt, negative) if one is not None))
            drawings = []
            for index in range(params.num_images):
                generator = torch.Generator().manual_seed(params.seed + index)
                noise = torch.randn((1, *shape), generator=generator)[0]
                latent = (noise * plan.initial_scale).to(self._model.device)
                drawings.append(
                    LatentDrawing(
                        key=key,
                        rows=2 if guided else 1,
                        index=index,
                        seed=params.seed + index,
                        steps=plan.steps,
                        plan=plan,
                        latent=latent,
                        predicted=torch.zeros_like(latent),
                        prompt=prompt,
                        negative=negative,
                        guidance_scale=params.guidance_scale,
                    )
                )
            return drawings

    @torch.inference_mode()
    def step(self, batch: Sequence[LatentDrawing]) -> None:
        """One forward for all rows: first every drawing's prompt row, then the negative rows of those that have one."""
        with _mapped_errors():
            device = self._model.device
            guided = [k for k, drawing in enumerate(batch) if drawing.negative is not None]
            table = torch.from_numpy(np.stack([one.plan.table[one.step] for one in batch])).to(device)  # [n, columns]
            timesteps = torch.tensor([float(one.plan.timesteps[one.step]) for one in batch], device=device)  # [n]
            x = torch.stack([one.latent for one in batch])  # [n, C, h, w]
            before = torch.stack([one.predicted for one in batch])

            rows = x * table[:, 0, None, None, None]
            conditionings = [one.prompt for one in batch] + [one.negative for one in batch if one.negative is not None]
            tensors = {
                name: torch.cat([conditioning.tensors[name] for conditioning in conditionings])
                for name in conditionings[0].tensors
            }
            if guided:
                rows = torch.cat([rows, rows[guided]])
                timesteps = torch.cat([timesteps, timesteps[guided]])
            output = self._model.predict(rows, timesteps, tensors).float()

            prediction = output[: len(batch)]
            if guided:
                # Ho and Salimans, "Classifier-Free Diffusion Guidance", 2022, with one scale a drawing.
                scales = torch.tensor([batch[k].guidance_scale for k in guided], device=device)[:, None, None, None]
                negative = output[len(batch) :]
                prediction = prediction.clone()
                prediction[guided] = negative + scales * (prediction[guided] - negative)
            x_next, x_0 = advance(x, prediction, before, None, table)

            for drawing, latent, predicted in zip(batch, x_next.unbind(), x_0.unbind(), strict=True):
                drawing.latent, drawing.predicted = latent, predicted
                drawing.step += 1

    @torch.inference_mode()
    def preview(self, drawing: LatentDrawing) -> Pixels:
        """From the predicted clean latent, which is clear long before the noisy one."""
        with _mapped_errors():
            if self._decodes_previews:
                return preview.to_pixels(self._model.decode(drawing.predicted[None]).float()[0].permute(1, 2, 0))
            return preview.apply(drawing.predicted, self._colour_map)

    @torch.inference_mode()
    def finish(self, drawing: LatentDrawing) -> Pixels:
        """Decode; what is not finite is decoded once more in fp32. Raises NanOutput, OutOfMemory."""
        with _mapped_errors():
            latent = drawing.latent[None]
            pixels = self._model.decode(latent).float()
            if not torch.isfinite(pixels).all():
                pixels = self._model.decode(latent, precise=True).float()
                if not torch.isfinite(pixels).all():
                    raise NanOutput
            scaled = (pixels[0].permute(1, 2, 0) / 2 + 0.5).clamp(0, 1) * 255
            finished: Pixels = scaled.round().to(torch.uint8).cpu().numpy()
            return finished


class _mapped_errors:  # noqa: N801 - reads as a statement
    """Turns the device's errors into the worker's."""

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        # Only CUDA has a class for it; the CPU's allocator and Metal's raise a plain RuntimeError.
        told = isinstance(error, RuntimeError) and any(sign in str(error) for sign in OUT_OF_MEMORY)
        if told or isinstance(error, (torch.OutOfMemoryError, MemoryError)):
            raise OutOfMemory("The device's memory does not hold this job; fewer or smaller images may fit") from None
        if isinstance(error, RuntimeError) and any(sign in str(error) for sign in STICKY_CUDA_ERRORS):
            raise DeviceLost("the device reported an error that it does not recover from") from error
