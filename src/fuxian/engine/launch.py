"""Whether `torchrun` started this process, from the variables that it sets. No torch: the command line asks before it."""

from __future__ import annotations

import os

_SET = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")


def launched() -> bool:
    """Started as one of several; a scheduler that sets some of the variables is not `torchrun`."""
    return all(name in os.environ for name in _SET) and os.environ["WORLD_SIZE"] != "1"


def follows() -> bool:
    """Started as one of several, and not the first."""
    return launched() and os.environ["RANK"] != "0"
