"""The command line `sd-worker`: pictures from a running worker, and what it is doing. A client like any other."""
