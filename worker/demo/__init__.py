"""Draws one picture through a real worker, as any client would: `python -m worker.demo`."""
