"""What a worker says of itself, to its orchestrator and in `/v1/info`."""

from __future__ import annotations

from shared_worker.contract import MemoryInfo, QueueInfo, WorkerInfo, WorkerStatus
from shared_worker.device import Device, memory
from worker import __version__
from worker.jobs.engine import EngineState
from worker.jobs.facts import ModelFacts
from worker.jobs.service import JobService
from worker.settings import Settings

STATUSES = {
    EngineState.LOADING: WorkerStatus.STARTING,
    EngineState.READY: WorkerStatus.READY,
    EngineState.DRAINING: WorkerStatus.STOPPING,
    EngineState.FAILED: WorkerStatus.STOPPED,
    EngineState.STOPPED: WorkerStatus.STOPPED,
}


def describe_worker(
    settings: Settings, device: Device, facts: ModelFacts, service: JobService, url: str, instance_id: str
) -> WorkerInfo:
    """The worker at this moment; cheap, on the event loop."""
    snapshot = service.engine.snapshot()
    status = STATUSES[snapshot.state]
    if status is WorkerStatus.READY and snapshot.running:
        status = WorkerStatus.BUSY
    total_bytes, used_bytes = memory(device)
    return WorkerInfo(
        id=settings.worker_id,
        instance_id=instance_id,
        url=url,
        model_id=facts.id,
        backend=device.backend,
        device=device.name,
        status=status,
        implementation="sd-worker",
        version=__version__,
        tasks=[task.value for task in facts.tasks],
        queue=QueueInfo(
            waiting=len(snapshot.waiting),
            running=snapshot.running,
            capacity=settings.queue_capacity,
            eta_s=service.positions.eta_s(),
        ),
        memory=MemoryInfo(total_bytes=total_bytes, used_bytes=used_bytes),
    )
