"""`python -m worker.demo`."""

import sys

from worker.demo.run import main

sys.exit(main())
