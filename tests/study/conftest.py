"""A folder to stand in, with two files of a user's own that run in a blink."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from tests.cli.conftest import LINE

SLOW = '        __import__("time").sleep(0.01)\n        yield "model"'


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Holds `line.py` and `other.py`, which has a knob `bias` and no claim."""
    monkeypatch.delenv("FUXIAN_DATA", raising=False)
    monkeypatch.setenv("FUXIAN_RUNS", "runs")
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    (tmp_path / "line.py").write_text(LINE, encoding="utf-8")
    other = LINE.replace(
        "shuffle: bool = True,", "bias: bool = True, shuffle: bool = True, widths: tuple[int, ...] = (4, 4),"
    )
    other = other.replace("nn.Linear(1, 1)", "nn.Linear(1, 1, bias=bias)").replace("CLAIMS =", "UNUSED =")
    (tmp_path / "other.py").write_text(other, encoding="utf-8")
    return tmp_path


def slow(path: Path) -> None:
    """Makes each step of a file take ten milliseconds."""
    path.write_text(path.read_text().replace('        yield "model"', SLOW))
