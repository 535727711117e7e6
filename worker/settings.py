"""What an operator can set, from flags and from `SDW_…` in the environment; flags win.

Frozen once read. Unknown flags and unknown `SDW_…` variables are refused, so that nothing is ignored silently.
"""

from __future__ import annotations

import argparse
import os
import re
import socket
from pathlib import Path
from typing import Any, Literal, NoReturn

from pydantic import Field, HttpUrl, SecretStr, ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict

from worker import __version__
from worker.errors import ConfigurationError

PREFIX = "SDW_"


class Settings(BaseSettings):
    """One field for each flag; the descriptions are what `--help` shows."""

    model_config = SettingsConfigDict(env_prefix=PREFIX, frozen=True, extra="forbid")

    model: str = Field("builtin", description="'builtin', a diffusers folder, or a checkpoint in one safetensors file")
    model_configuration: str | None = Field(
        None,
        description="where a checkpoint in one file has its configurations and tokenizer from: a diffusers folder, or "
        "a kind that ships with the worker, such as sdxl-turbo (default: the kind that the file shows itself to be)",
    )
    model_sha256: str | None = Field(
        None, description="checksum that the model's weights must have; 'inspect --sha256' tells a model's"
    )
    host: str = Field("127.0.0.1", description="address to listen on; any other than loopback needs a token")
    port: int = Field(8600, ge=0, le=65535, description="port to listen on; 0 takes a free one")
    worker_id: str = Field(default_factory=socket.gethostname, description="name of this worker", max_length=200)
    queue_capacity: int = Field(64, ge=1, le=100_000, description="jobs that may wait")
    numerics: Literal["fast", "exact"] = Field(
        "fast", description="exact: the same bytes alone and in any company, at the price of --max-rows rows each step"
    )
    max_rows: int | None = Field(
        None,
        ge=2,
        le=1024,
        description="rows in one model call; a job with guidance has two an image (default: as many as pay on this "
        "device, measured while it is idle; 16 until then and in exact numerics; on mps 4)",
    )
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = Field("auto", description="what the model computes in")
    weights_dtype: Literal["auto", "float8_e4m3fn"] = Field(
        "auto",
        description="what weights are kept in: auto: what the model computes in; float8_e4m3fn: half of that or less, "
        "cast for each call, which costs time",
    )
    offload: Literal["none", "model", "auto"] = Field(
        "auto",
        description="model: text encoders, denoiser and VAE lie on the CPU and are moved to the device one at a time, "
        "when they are called; auto: where not all of them fit",
    )
    compile: Literal["none", "default", "reduce-overhead"] = Field(
        "none",
        description="compile the calls made most often, in a process beside, in this mode of torch.compile; "
        "reduce-overhead also replays them as CUDA graphs. Jobs with LoRAs or ControlNets are drawn without",
    )
    device_index: int = Field(0, ge=0, description="which CUDA device")
    orchestrator_url: HttpUrl | None = Field(
        None, description="where heartbeats go; --callback-url is another name for it"
    )
    advertise_url: HttpUrl | None = Field(
        None, description="what heartbeats give as this worker's address (default: where it listens)"
    )
    embedding_dir: Path | None = Field(
        None, description="folder of textual-inversion embeddings (safetensors), which prompts name as words"
    )
    lora_dir: Path | None = Field(None, description="folder of LoRA adapters (safetensors), which jobs name")
    lora_cache_bytes: int = Field(
        1_000_000_000, ge=0, description="bytes of LoRA weights that stay in memory beside those in use"
    )
    safety_checker: Path | None = Field(
        None, description="folder of a safety checker (StableDiffusionSafetyChecker), which looks at every picture"
    )
    on_unsafe: Literal["blur", "fail"] = Field("blur", description="what becomes of a picture that it flags")
    c2pa_cert: Path | None = Field(
        None,
        description="certificate chain (PEM) that content credentials (C2PA) are signed with, the signer's own first",
    )
    c2pa_key: Path | None = Field(None, description="its private key (PEM)")
    control_dir: Path | None = Field(
        None, description="folder of ControlNets (diffusers folders, safetensors files), which jobs name"
    )
    upscaler_dir: Path | None = Field(
        None, description="folder of upscalers of the ESRGAN kind (safetensors), which jobs name"
    )
    state_dir: Path | None = Field(
        None, description="where accepted jobs and finished pictures are kept, so that they outlive the process"
    )
    retain_s: float = Field(3600.0, gt=0, description="seconds for which ended jobs and their pictures are kept")
    retain_jobs: int = Field(500, ge=1, description="ended jobs that are kept at most")
    retain_bytes: int = Field(512_000_000, ge=1, description="bytes of pictures that are kept at most")
    drain_s: float = Field(25.0, ge=0, le=3600, description="seconds that running jobs get to finish at shutdown")
    token_file: Path | None = Field(None, description="file whose lines are the accepted bearer tokens")
    token: SecretStr | None = Field(None, description="bearer token; by environment only")
    orchestrator_token: SecretStr | None = Field(None, description="sent to the orchestrator; by environment only")
    metrics_auth: bool = Field(False, description="ask for the token on /metrics too")
    cors_origins: str = Field(
        "", description="origins, by commas, whose pages may use the worker; such as https://studio.example"
    )
    sdapi: bool = Field(False, description="answer under /sdapi/v1 too, for the front ends that speak it")
    log_level: Literal["debug", "info", "warning", "error"] = Field("info", description="how much is logged")
    log_format: Literal["text", "json"] = Field("text", description="how it is logged")
    log_prompts: bool = Field(False, description="log the prompt of each job too")

    @property
    def origins(self) -> list[str]:
        """Those of `cors_origins`."""
        return [origin.strip() for origin in self.cors_origins.split(",") if origin.strip()]


CLIENTS_OWN = (f"{PREFIX}URL",)
"""What `worker.client` reads: a worker may be started where its clients run, and that is no setting of its own."""
ENVIRONMENT_ONLY = ("token", "orchestrator_token")
CHOICES = ("compile", "dtype", "weights_dtype", "log_level", "log_format", "numerics", "offload", "on_unsafe")
ORIGIN = re.compile(r"\*|https?://[^/\s,@?#]+")
"""RFC 6454, 6.2: scheme, host and port, without a path; or any at all."""
OTHER_NAMES = {"orchestrator_url": "callback_url", "model_configuration": "model_config"}


def read_settings(backend: str, arguments: list[str]) -> Settings:
    """Parse flags and environment. Raises ConfigurationError; `--help` and `--version` end the process."""
    known = {PREFIX + name.upper() for name in (*Settings.model_fields, *OTHER_NAMES.values())} | {*CLIENTS_OWN}
    if unknown := sorted(name for name in os.environ if name.startswith(PREFIX) and name not in known):
        raise ConfigurationError(f"unknown environment variable {', '.join(unknown)}")
    if arguments[:1] == ["serve"]:  # the only command there is, and so the default
        arguments = arguments[1:]
    flags = {name: value for name, value in vars(_parser(backend).parse_args(arguments)).items() if value is not None}
    for name, other in OTHER_NAMES.items():
        if (value := os.environ.get(PREFIX + other.upper())) is not None:
            if PREFIX + name.upper() in os.environ:
                raise ConfigurationError(f"{PREFIX}{name.upper()} and {PREFIX}{other.upper()} are the same setting")
            flags.setdefault(name, value)
    for name, field in Settings.model_fields.items():
        told = flags.get(name, os.environ.get(PREFIX + name.upper()))
        # An empty path is the folder that one happens to be in.
        if told == "" and (field.annotation == Path | None or name == "worker_id"):
            raise ConfigurationError(f"--{_flag(name)} is empty")
    try:
        settings = Settings(**flags)
    except ValidationError as invalid:
        faults = [f"--{_flag(str(fault['loc'][0]))}: {fault['msg']}" for fault in invalid.errors()]
        raise ConfigurationError("; ".join(faults)) from None
    if settings.token is not None and not settings.token.get_secret_value().strip():
        raise ConfigurationError("SDW_TOKEN is empty")
    if (secret := settings.orchestrator_token) is not None:
        if settings.orchestrator_url is None:
            raise ConfigurationError("SDW_ORCHESTRATOR_TOKEN is set, but there is no --orchestrator-url")
        # What a header can carry: RFC 9110, 5.5.
        if not (text := secret.get_secret_value().strip()).isascii() or not text.isprintable() or not text:
            raise ConfigurationError("SDW_ORCHESTRATOR_TOKEN is empty or holds what no header can carry")
    if wrong := [origin for origin in settings.origins if not ORIGIN.fullmatch(origin)]:
        raise ConfigurationError(f"--cors-origins: {wrong[0]!r} is no origin, such as https://studio.example")
    for name in ("orchestrator_url", "advertise_url"):
        url = getattr(settings, name)
        if url is not None and (url.query is not None or url.fragment is not None):
            raise ConfigurationError(f"--{_flag(name)}: a path may follow the host, but no query and no fragment")
        if url is not None and (url.username is not None or url.password is not None):
            raise ConfigurationError(f"--{_flag(name)}: a name or password does not belong into an address")
    if settings.token is not None and settings.token_file is not None:
        raise ConfigurationError("SDW_TOKEN and --token-file exclude each other")
    return settings


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise ConfigurationError(f"{message}; see --help")


def _flag(name: str) -> str:
    return name.replace("_", "-")


def _parser(backend: str) -> argparse.ArgumentParser:
    parser = _Parser(
        prog=f"sd-worker-{backend}",
        description="Serves one Stable Diffusion model over HTTP and Server-Sent Events until it is stopped.",
        epilog="'inspect FILE' says what a checkpoint or an adapter is. "
        "Each flag can also be set in the environment, e.g. SDW_PORT=8600. The token goes by SDW_TOKEN or "
        "--token-file, the orchestrator's by SDW_ORCHESTRATOR_TOKEN; never as a flag.",
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"sd-worker {__version__}")
    for name, field in Settings.model_fields.items():
        if name in ENVIRONMENT_ONLY:
            continue
        names = [f"--{_flag(each)}" for each in (name, OTHER_NAMES.get(name)) if each is not None]
        if field.annotation is bool:
            parser.add_argument(*names, dest=name, action="store_const", const=True, help=field.description)
            continue
        choices: Any = getattr(field.annotation, "__args__", None) if name in CHOICES else None
        default = "the host's name" if field.default_factory else field.default
        shown = f" (default: {default})" if default not in (None, "") else ""
        metavar = None if choices else name.rsplit("_", 1)[-1].upper()
        parser.add_argument(*names, dest=name, choices=choices, metavar=metavar, help=f"{field.description}{shown}")
    return parser
