"""`python -m mobilenets`, which is also how `torchrun -m mobilenets` starts each process."""

from __future__ import annotations

import sys

from mobilenets.cli import main

if __name__ == "__main__":
    sys.exit(main())
