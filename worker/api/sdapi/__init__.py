"""The `/sdapi/v1` shape that front ends of A1111 speak, over the same jobs: a thin adapter, off unless asked for."""
