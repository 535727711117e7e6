"""`python -m benches.speed`."""

import sys

from benches.speed.cli import main

sys.exit(main())
