"""The family table: which line a checkpoint is of, by its configurations alone, and what is best for it."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import nullcontext
from typing import Any

import pytest

from worker.engine import sampling
from worker.engine.sampling.read_off import read_off
from worker.engine.sampling.schedule import NoiseSchedule
from worker.errors import ModelUnusable
from worker.jobs.facts import Guidance
from worker.jobs.params import Task
from worker.models.family import Family
from worker.models.registry import (
    ANY,
    FAMILIES,
    REPAINT,
    default_sampler,
    facts_of,
    family_of,
    refuse_unknown_noise,
    sizes,
)
from worker.models.schedulers import SCHEDULERS, make_scheduler
from worker.models.shipped import ShippedConfigs

UNET = {"in_channels": 4, "sample_size": 64, "block_out_channels": [320, 640, 1280, 1280], "cross_attention_dim": 768}
XL_UNET = UNET | {"sample_size": 128, "block_out_channels": [320, 640, 1280], "cross_attention_dim": 2048}
SD3_DENOISER = {"in_channels": 16, "sample_size": 128, "patch_size": 2, "num_layers": 24}
FLUX_DENOISER = {"in_channels": 64, "guidance_embeds": True}
VAE = {"latent_channels": 4, "block_out_channels": [128, 256, 512, 512]}
VAE_16 = VAE | {"latent_channels": 16}
EULER = {"_class_name": "EulerDiscreteScheduler", "timestep_spacing": "leading", "prediction_type": "epsilon"}
TRAILING = EULER | {"timestep_spacing": "trailing"}
FLOW = {"_class_name": "FlowMatchEulerDiscreteScheduler", "shift": 3.0}
SAMPLERS = ("ddim", "dpmpp_2m", "euler", "euler_a", "flow_euler", "lcm", "tcd")


class Configs(ShippedConfigs):
    """Configurations of a test's own."""

    def __init__(self, pipeline: str, **parts: Mapping[str, Any]) -> None:
        self.kind = "test"
        self._parts = {"index": {"_class_name": pipeline}, **{part: dict(value) for part, value in parts.items()}}


def sd(unet: Mapping[str, Any] = UNET, scheduler: Mapping[str, Any] = EULER, pipeline: str = "") -> Configs:
    return Configs(f"StableDiffusion{pipeline or 'Pipeline'}", unet=unet, vae=VAE, scheduler=scheduler)


def sdxl(unet: Mapping[str, Any] = XL_UNET, scheduler: Mapping[str, Any] = EULER) -> Configs:
    return sd(unet, scheduler, "XLPipeline")


def sd3(**changes: Any) -> Configs:
    return Configs("StableDiffusion3Pipeline", transformer=SD3_DENOISER | changes, vae=VAE_16, scheduler=FLOW)


def flux(**changes: Any) -> Configs:
    return Configs("FluxPipeline", transformer=FLUX_DENOISER | changes, vae=VAE_16, scheduler=FLOW)


# What it is, then: family, variant, side, multiple, steps, guidance, sampler
LINES: list[tuple[Configs, tuple[str, str, int, int, int, float, str]]] = [
    (sd(), ("sd", "1.x", 512, 64, 25, 7.5, "euler")),
    (sd(pipeline="Img2ImgPipeline"), ("sd", "1.x", 512, 64, 25, 7.5, "euler")),
    (sd(scheduler={"_class_name": "PNDMScheduler"}), ("sd", "1.x", 512, 64, 25, 7.5, "dpmpp_2m")),
    (sd(UNET | {"cross_attention_dim": 1024}), ("sd", "2.x", 512, 64, 25, 7.5, "euler")),
    (
        sd(
            UNET | {"cross_attention_dim": 1024, "sample_size": 96},
            {"_class_name": "DDIMScheduler", "prediction_type": "v_prediction"},
        ),
        ("sd", "2.x, v-prediction", 768, 64, 25, 7.5, "ddim"),
    ),
    (sd(UNET | {"in_channels": 9}), ("sd", "inpainting", 512, 64, 25, 7.5, "euler")),
    (sd(UNET | {"cross_attention_dim": 1024}, TRAILING), ("sd", "few steps", 512, 64, 4, 1.0, "euler")),
    (sd(UNET, {"_class_name": "LCMScheduler"}), ("sd", "few steps", 512, 64, 4, 1.0, "lcm")),
    (
        sd(UNET | {"time_cond_proj_dim": 256}, {"_class_name": "LCMScheduler"}),
        ("sd", "consistency", 512, 64, 4, 8.0, "lcm"),
    ),
    # A trailing spacing alone is none of few steps.
    (sd(UNET, TRAILING | {"prediction_type": "v_prediction"}), ("sd", "1.x", 512, 64, 25, 7.5, "euler")),
    (sd(UNET, TRAILING | {"rescale_betas_zero_snr": True}), ("sd", "1.x", 512, 64, 25, 7.5, "euler")),
    (sd(UNET, TRAILING | {"_class_name": "DDIMScheduler"}), ("sd", "1.x", 512, 64, 25, 7.5, "ddim")),
    (sdxl(), ("sdxl", "base", 1024, 32, 30, 5.0, "euler")),
    (sdxl(XL_UNET | {"in_channels": 9}), ("sdxl", "inpainting", 1024, 32, 30, 5.0, "euler")),
    (
        sdxl(XL_UNET | {"sample_size": 64}, TRAILING | {"_class_name": "EulerAncestralDiscreteScheduler"}),
        ("sdxl", "few steps", 512, 32, 4, 1.0, "euler_a"),
    ),
    (sdxl(XL_UNET, TRAILING), ("sdxl", "few steps", 1024, 32, 4, 1.0, "euler")),
    (sdxl(XL_UNET, TRAILING | {"prediction_type": "sample"}), ("sdxl", "few steps", 1024, 32, 4, 1.0, "euler")),
    (sdxl(XL_UNET, {"_class_name": "LCMScheduler"}), ("sdxl", "few steps", 1024, 32, 4, 1.0, "lcm")),
    (sdxl(XL_UNET, {"_class_name": "TCDScheduler"}), ("sdxl", "few steps", 1024, 32, 4, 1.0, "tcd")),
    (
        sdxl(XL_UNET | {"time_cond_proj_dim": 256}, {"_class_name": "LCMScheduler"}),
        ("sdxl", "consistency", 1024, 32, 4, 8.0, "lcm"),
    ),
    (sd3(), ("sd3", "3", 1024, 16, 28, 7.0, "flow_euler")),
    (sd3(qk_norm="rms_norm"), ("sd3", "3.5", 1024, 16, 28, 4.5, "flow_euler")),
    (flux(), ("flux", "dev", 1024, 16, 28, 3.5, "flow_euler")),
    (flux(guidance_embeds=False), ("flux", "schnell", 1024, 16, 4, 0.0, "flow_euler")),
]


@pytest.mark.parametrize(("configs", "expected"), LINES)
def test_a_checkpoint_is_what_its_configurations_say(
    configs: Configs, expected: tuple[str, str, int, int, int, float, str]
) -> None:
    family = family_of(configs)
    side, multiple = sizes(family, configs)
    found = (family.name, family.variant, side, multiple, family.steps, family.guidance_scale)
    assert (*found, default_sampler(family, configs)) == expected


def test_every_line_is_met() -> None:
    assert {id(family_of(configs)) for configs, _ in LINES} == {id(family) for family in FAMILIES}


def line(name: str, variant: str) -> Family:
    return next(family for family in FAMILIES if (family.name, family.variant) == (name, variant))


def test_nine_channels_repaint_and_do_nothing_else() -> None:
    for family in FAMILIES:
        assert family.tasks == (REPAINT if family.variant == "inpainting" else ANY)
    assert REPAINT == (Task.INPAINTING,)


def test_who_is_guided_how() -> None:
    assert line("flux", "dev").guidance is Guidance.EMBEDDED
    assert line("flux", "schnell").guidance is Guidance.NONE
    for family in FAMILIES:
        if family.name != "flux":
            assert family.guidance is (Guidance.EMBEDDED if family.variant == "consistency" else Guidance.ROWS)


def test_how_long_texts_are() -> None:
    lengths = {(family.name, family.variant): family.text_length for family in FAMILIES}
    assert {lengths[key] for key in lengths if key[0] in ("sd", "sdxl")} == {77}
    assert (lengths["flux", "dev"], lengths["flux", "schnell"], lengths["sd3", "3"]) == (512, 256, 256)


def test_flows_and_the_others_have_samplers_of_their_own() -> None:
    assert facts_of("x", flux(), line("flux", "dev"), "float32", SAMPLERS).samplers == ("flow_euler",)
    offered = facts_of("x", sdxl(), line("sdxl", "base"), "float32", SAMPLERS).samplers
    assert offered == tuple(name for name in SAMPLERS if name != "flow_euler")


def test_a_flow_without_a_sampler_is_refused() -> None:
    with pytest.raises(ModelUnusable, match="a flux model needs a sampler of its own kind"):
        facts_of("x", flux(), line("flux", "dev"), "float32", ("euler", "ddim"))


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction", "sample"])
def test_samplers_are_offered_that_draw_what_the_model_predicts(prediction: str) -> None:
    config = EULER | {"prediction_type": prediction}
    names = tuple(SCHEDULERS)
    offered = facts_of("x", sd(scheduler=config), line("sd", "1.x"), "float32", names).samplers
    for name in names:
        told = pytest.raises((NotImplementedError, ValueError), match="sample")
        with nullcontext() if name in offered else told:
            read_off(make_scheduler(name, config), NoiseSchedule.from_config(config), 5)


@pytest.mark.parametrize("name", ["use_karras_sigmas", "use_beta_sigmas", "invert_sigmas"])
def test_sigmas_of_flows_that_are_not_built_are_refused(name: str) -> None:
    flux = Configs("FluxPipeline", transformer=FLUX_DENOISER, vae=VAE_16, scheduler=FLOW | {name: True})
    with pytest.raises(ModelUnusable, match=f"the model's scheduler configuration is not supported: {name}"):
        refuse_unknown_noise(flux, sampling.read_noise)


def test_a_sampler_that_is_not_offered_gives_way() -> None:
    assert facts_of("x", sd(), line("sd", "1.x"), "float32", ("ddim", "dpmpp_2m")).sampler == "dpmpp_2m"
    assert facts_of("x", sd(), line("sd", "1.x"), "float32", ("ddim",)).sampler == "ddim"


@pytest.mark.parametrize(
    ("configs", "told"),
    [
        (Configs("AudioLDMPipeline"), "'AudioLDMPipeline' is not a pipeline that this worker serves"),
        (sd(UNET | {"in_channels": 8}), "a denoiser of 8 input channels on a latent of 4 is not served"),
        (flux(in_channels=384), "a denoiser of 384 input channels on a latent of 16 is not served"),
        (
            Configs(
                "StableDiffusion3Pipeline", transformer=SD3_DENOISER | {"in_channels": 33}, vae=VAE_16, scheduler=FLOW
            ),
            "a denoiser of 33 input channels on a latent of 16 is not served",
        ),
        (sdxl(scheduler=FLOW), "a sdxl model with the scheduler 'FlowMatchEulerDiscreteScheduler' is not served"),
        (
            Configs("FluxPipeline", transformer=FLUX_DENOISER, vae=VAE_16, scheduler=EULER),
            "a flux model with the scheduler 'EulerDiscreteScheduler' is not served",
        ),
        (sd({"cross_attention_dim": 768}), "the model's configuration lacks its sizes"),
        (sd(UNET | {"in_channels": "four"}), "the model's configuration lacks its sizes"),
        (sd(UNET | {"in_channels": [4]}), "the model's configuration lacks its sizes"),
    ],
)
def test_what_no_family_can_draw_is_refused(configs: Configs, told: str) -> None:
    with pytest.raises(ModelUnusable) as refused:
        family_of(configs)
    assert refused.value.detail.startswith(told)


def test_a_refiner_is_refused() -> None:
    configs = Configs("StableDiffusionXLImg2ImgPipeline", unet=XL_UNET, vae=VAE, scheduler=EULER)
    configs._parts["index"]["requires_aesthetics_score"] = True
    with pytest.raises(ModelUnusable, match="a refiner draws no pictures of its own"):
        family_of(configs)
