"""A run that is killed at any instruction and resumed ends with the same bits, whatever its recipe does."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from .. import kills
from . import toys


@pytest.mark.kill
@pytest.mark.parametrize("toy", toys.TOYS)
def test_killed_and_resumed_equals_uninterrupted(toy: Any, tmp_path: Path) -> None:
    job = kills.Job(toys.file_of(toy, tmp_path), dict(limit=28))
    assert kills.check(job, tmp_path, chains=4, least=12) >= 12
