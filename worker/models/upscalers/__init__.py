"""Upscalers of the ESRGAN kind from an operator's folder: what they are told by, and the two networks they are."""
