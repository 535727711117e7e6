"""The whole training, stage by stage; what is finished is not done again."""

from __future__ import annotations

import argparse
import json
import random
import shutil
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from diffusers import DPMSolverMultistepScheduler, StableDiffusionPipeline
from rich.console import Console
from transformers import CLIPTokenizer

from worker.models.builtin.training import autoencoder, codes, denoiser, scenes, text_encoder
from worker.models.builtin.training.captions import describe
from worker.models.builtin.training.stage import Stage
from worker.models.builtin.training.tokenizer import write_json, write_tokenizer
from worker.models.registry import DEFAULTS_FILE

DEFAULT_OUT = Path(__file__).resolve().parent.parent / "weights"
DEFAULTS = {"steps": 20, "guidance_scale": 2.5, "dtype": "float32"}
"""What the finished model draws best with; the judge uses these."""
VAE_PICTURES = 10_000
ANY_COLOURS = 0.15
"""The share of the VAE's pictures that are not in the ten colours."""
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
    parser.add_argument("--vae-steps", type=int, default=3_000)
    parser.add_argument("--unet-steps", type=int, default=12_000)
    parser.add_argument("--seed", type=int, default=20)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    arguments = parser.parse_args()
    arguments.work.mkdir(parents=True, exist_ok=True)
    device = torch.device(arguments.device)
    torch.manual_seed(arguments.seed)
    console = Console()

    def stage(name: str, steps: int, rate: float) -> Stage:
        return Stage(name, steps, arguments.work, device, arguments.seed, rate)

    if arguments.start is None:
        write_tokenizer(arguments.work / "tokenizer")
    else:  # a text encoder knows its own tokens only
        shutil.copytree(arguments.start / "tokenizer", arguments.work / "tokenizer", dirs_exist_ok=True)
    tokenizer = CLIPTokenizer.from_pretrained(arguments.work / "tokenizer")
    encoder, vae, unet = text_encoder.build(tokenizer), autoencoder.build(), denoiser.build()
    if arguments.start is not None:
        finished = StableDiffusionPipeline.from_pretrained(arguments.start, local_files_only=True)
        encoder, vae, unet = finished.text_encoder, finished.vae, finished.unet
    encoder = text_encoder.train(stage("text encoder", arguments.text_steps, 1e-3), tokenizer, encoder)

    console.log(f"drawing {VAE_PICTURES} pictures for the VAE")
    shown = draw(VAE_PICTURES, arguments.seed + 1, any_colours=ANY_COLOURS)
    if arguments.start is not None:
        denoiser.adopt(unet, *autoencoder.adopt(vae, shown.pictures[:1024], shown.latents[:1024]))
    vae = autoencoder.train(stage("vae", arguments.vae_steps, 2e-3), vae, shown.pictures, shown.latents, shown.weights)
    console.log(f"vae: {autoencoder.survey(vae, shown.pictures[:128], shown.latents[:128])}")
    del shown

    console.log(f"drawing {arguments.pictures} pictures for the denoiser")
    asked = draw(arguments.pictures, arguments.seed)
    ids = torch.stack([text_encoder.tokenize(tokenizer, texts).short() for texts in asked.captions])
    nothing = text_encoder.tokenize(tokenizer, [""])[0].short()
    unet_stage = stage("denoiser", arguments.unet_steps, 1e-3)
    unet = denoiser.train(unet_stage, unet, asked.latents, asked.weights, encoder, ids, nothing)

    scheduler = DPMSolverMultistepScheduler(**denoiser.SCHEDULE, timestep_spacing="trailing", steps_offset=1)
    pipeline = StableDiffusionPipeline(
        vae=vae, text_encoder=encoder, tokenizer=tokenizer, unet=unet, scheduler=scheduler,
        safety_checker=None, feature_extractor=None, requires_safety_checker=False,
    )  # fmt: skip
    pipeline.to(dtype=torch.float16).save_pretrained(arguments.out, safe_serialization=True)
    shutil.copytree(arguments.work / "tokenizer", arguments.out / "tokenizer", dirs_exist_ok=True)
    for part in ("vae", "unet"):  # where it was loaded from is nobody's business
        amend_json(arguments.out / part / "config.json", {}, without=("_name_or_path",))
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


@dataclass(frozen=True)
class Drawn:
    """What stages learn from, scene by scene."""

    pictures: npt.NDArray[np.uint8]  # [n, 128, 128, 3]
    latents: torch.Tensor  # [n, 4, 16, 16]
    weights: torch.Tensor  # [n, 1, 16, 16]: what a place counts
    captions: list[list[str]]


def draw(count: int, seed: int, any_colours: float = 0.0) -> Drawn:
    """`count` scenes at random, that share of them in `any_colours`."""
    chunks = [(seed * 1_000_003 + start, min(CHUNK, count - start), any_colours) for start in range(0, count, CHUNK)]
    with ProcessPoolExecutor() as pool:
        pictures, latents, covered, captions = zip(*pool.map(_draw_chunk, chunks), strict=True)
    weights = torch.cat([denoiser.place_weights(torch.from_numpy(chunk).float()).half() for chunk in covered])
    texts = [of_picture for chunk in captions for of_picture in chunk]
    return Drawn(np.concatenate(pictures), torch.from_numpy(np.concatenate(latents)), weights, texts)


def _draw_chunk(
    chunk: tuple[int, int, float],
) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.float16], npt.NDArray[np.float16], list[list[str]]]:
    seed, count, any_colours = chunk
    rng = random.Random(seed)
    pictures, latents, covered, captions = [], [], [], []
    for _ in range(count):
        scene = scenes.draw_scene(rng)
        if rng.random() < any_colours:
            scene = scenes.recoloured(scene, rng)
        picture, masks = scenes.render(scene)
        pictures.append(picture)
        latents.append(codes.encode(scene, masks))
        covered.append(np.maximum.reduce(masks).astype(np.float16))
        captions.append([describe(scene, rng).text for _ in range(CAPTIONS_PER_PICTURE)])
    return np.stack(pictures), np.stack(latents), np.stack(covered), captions


def amend_json(path: Path, changes: dict[str, object], without: tuple[str, ...] = ()) -> None:
    """Set some entries of a JSON object in a file, and take some out."""
    entries = json.loads(path.read_text(encoding="utf-8")) | changes
    write_json(path, {name: value for name, value in entries.items() if name not in without})


if __name__ == "__main__":
    main()
