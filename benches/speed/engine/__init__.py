"""Rows measured on the engine itself: torch and diffusers, no web framework, no server."""
