"""Trains the built-in model from nothing: `python -m worker.models.builtin.training`.

The pictures are drawn by `scenes`, so no data set is needed. Serving never imports this package.
"""
