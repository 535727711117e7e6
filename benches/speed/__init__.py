"""What is claimed of the worker's speed, measured: `bin/bench`, or `python -m benches.speed`."""
