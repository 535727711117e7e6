"""The heartbeat of a worker without an orchestrator; with nothing to import, so that such a worker starts sooner."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from shared_worker.contract import WorkerStatus


class NoHeartbeat:
    """Tells nobody."""

    def changed(self) -> None:
        """Nobody wants to know."""

    async def run(self) -> None:
        """At once."""

    async def tell_last(self, status: WorkerStatus, timeout_s: float) -> None:
        """At once."""
