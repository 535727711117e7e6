"""The whole training, stage by stage; what is finished is not done again."""

from __future__ import annotations

import argparse
import json
import random
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from diffusers import DPMSolverMultistepScheduler, StableDiffusionPipeline
from rich.console import Console
from transformers import CLIPTokenizer

from worker.models.builtin.training import autoencoder, denoiser, scenes, text_encoder
from worker.models.builtin.training.stage import Stage
from worker.models.builtin.training.tokenizer import write_json, write_tokenizer
from worker.models.registry import DEFAULTS_FILE

DEFAULT_OUT = Path(__file__).resolve().parent.parent / "weights"
DEFAULTS = {"steps": 20, "guidance_scale": 2.5}
"""What the finished model draws best with; the judge uses these."""
CAPTIONS_PER_PICTURE = 2
CHUNK = 1000


def main() -> None:
    """Train, save and say where."""
    parser = argparse.ArgumentParser(prog="python -m worker.models.builtin.training", description=__doc__)
    parser.add_argument("--out", type=Path, default=DEFAULT_OUT, help="where the model folder is written")
    parser.add_argument("--work", type=Path, default=Path(".training"), help="checkpoints, so that it can resume")
    parser.add_argument("--start", type=Path, help="a finished model folder to go on from, instead of from nothing")
    parser.add_argument("--pictures", type=int, default=40_000)
    parser.add_argument("--text-steps", type=int, default=1_200)
    parser.add_argument("--vae-steps", type=int, default=3_200)
    parser.add_argument("--decoder-steps", type=int, default=2_000)
    parser.add_argument("--unet-steps", type=int, default=16_000)
    parser.add_argument("--seed", type=int, default=20)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    arguments = parser.parse_args()
    arguments.work.mkdir(parents=True, exist_ok=True)
    device = torch.device(arguments.device)
    torch.manual_seed(arguments.seed)
    console = Console()

    def stage(name: str, steps: int, rate: float) -> Stage:
        return Stage(name, steps, arguments.work, device, arguments.seed, rate)

    write_tokenizer(arguments.work / "tokenizer")
    tokenizer = CLIPTokenizer.from_pretrained(arguments.work / "tokenizer")
    encoder, vae, unet = text_encoder.build(tokenizer), autoencoder.build(), denoiser.build()
    if arguments.start is not None:
        finished = StableDiffusionPipeline.from_pretrained(arguments.start, local_files_only=True)
        encoder, vae, unet = finished.text_encoder, finished.vae, finished.unet
    encoder = text_encoder.train(stage("text encoder", arguments.text_steps, 1e-3), tokenizer, encoder)

    console.log(f"drawing {arguments.pictures} pictures")
    pictures, weights, captions = draw(arguments.pictures, arguments.seed)
    vae_stage = stage("autoencoder", arguments.vae_steps, 2e-3)
    if arguments.start is not None:
        autoencoder.whiten(vae, autoencoder.encode(vae, pictures[:2048], vae_stage).float().to(device))
    vae = autoencoder.train(vae_stage, vae, pictures, weights)
    vae = autoencoder.train_decoder(stage("decoder", arguments.decoder_steps, 1e-3), vae, pictures, weights)
    autoencoder.whiten(vae, autoencoder.encode(vae, pictures[:2048], vae_stage).float().to(device))
    console.log(f"autoencoder: {autoencoder.psnr(vae, pictures[:128], vae_stage):.1f} dB")

    latents = kept(arguments.work / "latents.pt", partial(autoencoder.encode, vae, pictures, vae_stage))
    del pictures
    ids = torch.stack([text_encoder.tokenize(tokenizer, texts).short() for texts in captions])
    nothing = text_encoder.tokenize(tokenizer, [""])[0].short()
    unet_stage = stage("denoiser", arguments.unet_steps, 1e-3)
    unet = denoiser.train(unet_stage, unet, latents, weights, encoder, ids, nothing)

    scheduler = DPMSolverMultistepScheduler(**denoiser.SCHEDULE, timestep_spacing="trailing", steps_offset=1)
    pipeline = StableDiffusionPipeline(
        vae=vae, text_encoder=encoder, tokenizer=tokenizer, unet=unet, scheduler=scheduler,
        safety_checker=None, feature_extractor=None, requires_safety_checker=False,
    )  # fmt: skip
    pipeline.to(dtype=torch.float16).save_pretrained(arguments.out, safe_serialization=True)
    write_tokenizer(arguments.out / "tokenizer")
    # transformers loads in the type that the configuration names, diffusers in fp32: one pipeline needs one type.
    amend_json(arguments.out / "text_encoder" / "config.json", {"dtype": "float32"})
    # What samplers of other classes read from the same file, as Stable Diffusion's own has it.
    amend_json(
        arguments.out / "scheduler" / "scheduler_config.json",
        {"clip_sample": False, "set_alpha_to_one": False, "skip_prk_steps": True},
        without=("lambda_min_clipped",),  # minus infinity, which is the default and no JSON
    )
    write_json(arguments.out / DEFAULTS_FILE, DEFAULTS)
    recipe = {key: value for key, value in vars(arguments).items() if key not in ("out", "work", "device")}
    write_json(arguments.out / "recipe.json", recipe | {"start": arguments.start is not None})
    console.log(f"saved to {arguments.out}")


def draw(count: int, seed: int) -> tuple[npt.NDArray[np.uint8], torch.Tensor, list[list[str]]]:
    """Pictures  # [count, 128, 128, 3], what each place counts  # [count, 1, 16, 16], and captions."""
    chunks = [(seed * 1_000_003 + start, min(CHUNK, count - start)) for start in range(0, count, CHUNK)]
    with ProcessPoolExecutor() as pool:
        parts = list(pool.map(_draw_chunk, chunks))
    weights = denoiser.place_weights(torch.from_numpy(np.concatenate([part[1] for part in parts])).float()).half()
    return np.concatenate([part[0] for part in parts]), weights, [texts for part in parts for texts in part[2]]


def _draw_chunk(chunk: tuple[int, int]) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.float16], list[list[str]]]:
    seed, count = chunk
    rng = random.Random(seed)
    pictures, covered, captions = [], [], []
    for _ in range(count):
        scene = scenes.draw_scene(rng)
        picture, mask = scenes.render(scene)
        pictures.append(picture)
        covered.append(mask.astype(np.float16))
        captions.append([scenes.describe(scene, rng).text for _ in range(CAPTIONS_PER_PICTURE)])
    return np.stack(pictures), np.stack(covered), captions


def amend_json(path: Path, changes: dict[str, object], without: tuple[str, ...] = ()) -> None:
    """Set some entries of a JSON object in a file, and take some out."""
    entries = json.loads(path.read_text(encoding="utf-8")) | changes
    write_json(path, {name: value for name, value in entries.items() if name not in without})


def kept(path: Path, make: Callable[[], torch.Tensor]) -> torch.Tensor:
    """What `make` gives, kept in a file for the next run that resumes."""
    if not path.exists():
        torch.save(make(), path)
    tensor: torch.Tensor = torch.load(path, weights_only=True)
    return tensor


if __name__ == "__main__":
    main()
