"""The heartbeat of a worker without an orchestrator; with nothing to import, so that such a worker starts sooner."""

from __future__ import annotations


class NoHeartbeat:
    """Tells nobody."""

    def changed(self) -> None:
        """Nobody wants to know."""

    async def run(self) -> None:
        """At once."""

    async def tell_last(self, timeout_s: float) -> None:
        """At once."""
