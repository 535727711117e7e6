"""sd-worker: one process that serves one diffusion model from one device."""

__version__ = "0.1.0"
