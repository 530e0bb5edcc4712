"""`python -m fuxian` is the command `fuxian`."""

from __future__ import annotations

import sys

from fuxian.cli import main

if __name__ == "__main__":  # worker processes import this file too
    sys.exit(main())
