"""What is measured of the engine, whoever keeps it."""

from __future__ import annotations

from typing import Protocol


class Meter(Protocol):
    """All figures are seconds of one thing; rows are those of one model call."""

    def stepped(self, seconds: float, rows: int) -> None:
        """One model call over `rows` rows."""

    def encoded_text(self, seconds: float) -> None:
        """One job's text."""

    def decoded(self, seconds: float) -> None:
        """One image's latents."""

    def encoded_image(self, seconds: float) -> None:
        """One image or preview, in a thread of the encoding pool."""
