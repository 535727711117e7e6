"""What an orchestrator knows of a worker: `WorkerInfo`, the same words in `/v1/info` and in heartbeats."""

from __future__ import annotations

from enum import StrEnum
from typing import Literal

from pydantic import BaseModel, ConfigDict


class WorkerStatus(StrEnum):
    """Whether a worker can take work."""

    STARTING = "starting"
    READY = "ready"
    BUSY = "busy"
    STOPPING = "stopping"
    STOPPED = "stopped"


class QueueInfo(BaseModel):
    """How much is waiting and running; `eta_s` is seconds until all of it is done, None while unknown."""

    model_config = ConfigDict(frozen=True)

    waiting: int
    running: int
    capacity: int
    eta_s: float | None


class MemoryInfo(BaseModel):
    """The device's memory in bytes; None where the device does not tell."""

    model_config = ConfigDict(frozen=True)

    total_bytes: int | None
    used_bytes: int | None


class WorkerInfo(BaseModel):
    """One worker. `instance_id` is new at every start of its process."""

    model_config = ConfigDict(frozen=True)

    id: str
    instance_id: str
    url: str
    model_id: str
    backend: Literal["cpu", "cuda", "mps"]
    device: str
    status: WorkerStatus
    implementation: str
    version: str
    tasks: list[str]
    queue: QueueInfo
    memory: MemoryInfo
