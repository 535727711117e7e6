"""SDXL, Stable Diffusion 3 and FLUX of toy size at their real structure, as the stock pipelines write and load them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import diffusers
import torch
from diffusers import FluxTransformer2DModel, SD3Transformer2DModel, UNet2DConditionModel

from tests.models import tiny_parts as parts
from tests.models.tiny import SCHEDULER_CONFIG, SIDE_PX, WIDTH
from worker.jobs.params import Task
from worker.models.registry import DEFAULTS_FILE

SDXL_SCHEDULER = SCHEDULER_CONFIG | {"_class_name": "EulerDiscreteScheduler", "timestep_spacing": "leading"}
FEW_STEPS_SCHEDULER = SDXL_SCHEDULER | {"timestep_spacing": "trailing"}
CONSISTENCY_SCHEDULER = SCHEDULER_CONFIG | {"_class_name": "LCMScheduler", "original_inference_steps": 50}
FLOW_SCHEDULER = {
    "_class_name": "FlowMatchEulerDiscreteScheduler",
    "_diffusers_version": "0.29.0",
    "num_train_timesteps": 1000,
    "shift": 3.0,
}
GROWING_SCHEDULER = FLOW_SCHEDULER | {
    "base_image_seq_len": 256,
    "base_shift": 0.5,
    "max_image_seq_len": 4096,
    "max_shift": 1.15,
    "use_dynamic_shifting": True,
}
CLASSES = ("StableDiffusion", "StableDiffusionXL", "StableDiffusion3", "Flux")
TASKS = {Task.TEXT_TO_IMAGE: "", Task.IMAGE_TO_IMAGE: "Img2Img", Task.INPAINTING: "Inpaint"}


def write_sd2(folder: Path, *, velocity: bool = True) -> Path:
    """Stable Diffusion 2, with v-prediction or without: another CLIP, whose width is the real one, since that tells
    what it is; projections that are linear layers, heads by level, attention in fp32."""
    with torch.random.fork_rng():
        torch.manual_seed(4)
        tokenizer = parts.clip_tokenizer(folder / "tokenizer", pad="!")
        unet = UNet2DConditionModel(
            sample_size=SIDE_PX // 2,
            block_out_channels=(32, 64),
            down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
            up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
            layers_per_block=1,
            cross_attention_dim=1024,
            attention_head_dim=(4, 8),
            use_linear_projection=True,
            upcast_attention=velocity,
            norm_num_groups=8,
        )
        with torch.no_grad():
            unet.conv_out.weight *= 3
            for name, parameter in unet.named_parameters():
                if "attn2" in name:
                    parameter *= 3
        diffusers.StableDiffusionPipeline(
            vae=parts.vae(),
            text_encoder=parts.clip(tokenizer, hidden_size=1024, num_attention_heads=16, hidden_act="gelu"),
            tokenizer=tokenizer,
            unet=unet,
            scheduler=diffusers.DDIMScheduler.from_config(SCHEDULER_CONFIG),
            safety_checker=None,
            feature_extractor=None,
            requires_safety_checker=False,
        ).save_pretrained(folder)
    prediction = {"prediction_type": "v_prediction"} if velocity else {}
    return _rescheduled(folder, SCHEDULER_CONFIG | prediction)


def write_sdxl(
    folder: Path,
    *,
    takes_mask: bool = False,
    scheduler: Mapping[str, Any] = SDXL_SCHEDULER,
    vae: Mapping[str, Any] | None = None,
    unet: Mapping[str, Any] | None = None,
    **config: Any,
) -> Path:
    """Two text encoders, of which the second projects; its tokenizer pads with another token."""
    with torch.random.fork_rng():
        torch.manual_seed(1)
        one = parts.clip_tokenizer(folder / "tokenizer")
        two = parts.clip_tokenizer(folder / "tokenizer_2", pad="!")
        denoiser = UNet2DConditionModel(
            **(unet or {}),
            sample_size=SIDE_PX // 2,
            in_channels=9 if takes_mask else 4,
            block_out_channels=(32, 64),
            down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
            up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
            layers_per_block=1,
            transformer_layers_per_block=(1, 2),
            cross_attention_dim=2 * WIDTH,
            attention_head_dim=(4, 8),
            use_linear_projection=True,
            addition_embed_type="text_time",
            addition_time_embed_dim=8,
            projection_class_embeddings_input_dim=WIDTH + 6 * 8,
            norm_num_groups=8,
        )
        with torch.no_grad():
            denoiser.conv_out.weight *= 3
            for name, parameter in denoiser.named_parameters():
                if "attn2" in name or "add_embedding" in name:
                    parameter *= 3
        kind = "StableDiffusionXLInpaintPipeline" if takes_mask else "StableDiffusionXLPipeline"
        getattr(diffusers, kind)(
            vae=parts.vae(scaling_factor=0.13025, **(vae or {})),
            text_encoder=parts.clip(one),
            text_encoder_2=parts.clip(two, projects=True),
            tokenizer=one,
            tokenizer_2=two,
            unet=denoiser,
            scheduler=diffusers.EulerDiscreteScheduler.from_config(SDXL_SCHEDULER),
            add_watermarker=False,
            **config,
        ).save_pretrained(folder)
    return _rescheduled(folder, scheduler)


def write_sd3(folder: Path, *, newer: bool = False, with_t5: bool = True, **scheduler: Any) -> Path:
    """Three text encoders, or without a T5; `newer` as 3.5 has it."""
    with torch.random.fork_rng():
        torch.manual_seed(2)
        one = parts.clip_tokenizer(folder / "tokenizer")
        two = parts.clip_tokenizer(folder / "tokenizer_2", pad="!")
        three = parts.t5_tokenizer() if with_t5 else None
        transformer = SD3Transformer2DModel(
            sample_size=SIDE_PX // 2,
            patch_size=2,
            in_channels=16,
            out_channels=16,
            num_layers=2,
            attention_head_dim=8,
            num_attention_heads=4,
            joint_attention_dim=parts.T5_WIDTH,
            caption_projection_dim=32,
            pooled_projection_dim=2 * WIDTH,
            pos_embed_max_size=24,
            **({"qk_norm": "rms_norm", "dual_attention_layers": (0,)} if newer else {}),
        )
        _speak_up(transformer)
        diffusers.StableDiffusion3Pipeline(
            transformer=transformer,
            scheduler=diffusers.FlowMatchEulerDiscreteScheduler.from_config(FLOW_SCHEDULER),
            vae=parts.vae(16, **parts.FLOW_VAE),
            text_encoder=parts.clip(one, projects=True),
            tokenizer=one,
            text_encoder_2=parts.clip(two, projects=True),
            tokenizer_2=two,
            text_encoder_3=three and parts.t5(three),
            tokenizer_3=three,
        ).save_pretrained(folder)
    return _rescheduled(folder, FLOW_SCHEDULER | scheduler)


def write_flux(folder: Path, *, dev: bool = True) -> Path:
    """As dev, which takes its guidance as an input and a shift that grows; or as schnell, which has neither."""
    with torch.random.fork_rng():
        torch.manual_seed(3)
        one, two = parts.clip_tokenizer(folder / "tokenizer"), parts.t5_tokenizer()
        transformer = FluxTransformer2DModel(
            in_channels=64,
            num_layers=1,
            num_single_layers=1,
            attention_head_dim=16,
            num_attention_heads=2,
            joint_attention_dim=parts.T5_WIDTH,
            pooled_projection_dim=WIDTH,
            guidance_embeds=dev,
            axes_dims_rope=(4, 4, 8),
        )
        _speak_up(transformer)
        diffusers.FluxPipeline(
            transformer=transformer,
            scheduler=diffusers.FlowMatchEulerDiscreteScheduler.from_config(FLOW_SCHEDULER),
            vae=parts.vae(16, **parts.FLOW_VAE),
            text_encoder=parts.clip(one),
            tokenizer=one,
            text_encoder_2=parts.t5(two),
            tokenizer_2=two,
        ).save_pretrained(folder)
    # FLUX's configuration names no size, and its usual one is a hundred times too large for these parts.
    (folder / DEFAULTS_FILE).write_text(json.dumps({"width": SIDE_PX, "height": SIDE_PX}), encoding="utf-8")
    return _rescheduled(folder, GROWING_SCHEDULER if dev else FLOW_SCHEDULER | {"shift": 1.0})


def load_stock(folder: Path, task: Task = Task.TEXT_TO_IMAGE, dtype: torch.dtype = torch.float32) -> Any:
    """The pipeline of the family that a folder is of, for a task, that everything is held against."""
    index = json.loads((folder / "model_index.json").read_text(encoding="utf-8"))
    kind = max((one for one in CLASSES if index["_class_name"].startswith(one)), key=len)
    cls = getattr(diffusers, f"{kind}{TASKS[task]}Pipeline")
    absent = {part: None for part in ("text_encoder_3", "tokenizer_3") if index.get(part) == [None, None]}
    pipeline = cls.from_pretrained(folder, dtype=dtype, **absent)
    pipeline.set_progress_bar_config(disable=True)
    if cls is diffusers.StableDiffusion3InpaintPipeline:
        # It alone forgets the VAE's shift when it decodes; what it hands over to be decoded is right.
        decode, shift = pipeline.vae.decode, pipeline.vae.config.shift_factor
        pipeline.vae.decode = lambda latents, **options: decode(latents + shift, **options)
    return pipeline


def _speak_up(transformer: torch.nn.Module) -> None:
    """Untrained parts hardly speak; so they are heard."""
    with torch.no_grad():
        for name, parameter in transformer.named_parameters():
            if "context_embedder" in name or "time_text_embed" in name or name.startswith("proj_out"):
                parameter *= 3


def _rescheduled(folder: Path, scheduler: Mapping[str, Any]) -> Path:
    (folder / "scheduler/scheduler_config.json").write_text(json.dumps(scheduler), encoding="utf-8")
    return folder
