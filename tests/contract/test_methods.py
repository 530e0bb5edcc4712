"""What every method that ships must be able to do. A method that is added is tested here without a change, but for one
row: its exact number of weights."""

from __future__ import annotations

from pathlib import Path

import pytest

from fuxian import catalog

from .. import kills

METHODS = [pytest.param(entry, id=entry.key) for entry in catalog.methods()]
each = pytest.mark.parametrize("entry", METHODS)


@pytest.mark.kill
@each
def test_killed_and_resumed_equals_uninterrupted(entry: catalog.Entry, tmp_path: Path) -> None:
    job = kills.Job(entry.key, dict(quick=True, limit=6))
    assert kills.check(job, tmp_path) >= 6
