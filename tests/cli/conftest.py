"""Users' files, shelves of methods, and ways to call the command."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from fuxian import catalog
from fuxian.cli import main

# A file of a user's own that the engine runs in a blink: a line through six points.
LINE = '''"""A line through points."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from fuxian import Batch, Claim, Objective, Paper, Splits, Stage
from fuxian.optim import sgd

PAPER = Paper("On lines", "Gauss & Legendre", 1809)
CLAIMS = [Claim("test/error", 0.0, where="Table 1", tolerance=0.5, seeds=2, better="lower")]
QUICK = dict(epochs=2)


@dataclass(frozen=True)
class Points(Batch):
    x: Tensor  # (batch, 1)
    y: Tensor  # (batch, 1)


class Some:
    def __init__(self, count: int) -> None:
        self.x = torch.linspace(0, 1, count)[:, None]

    def __len__(self) -> int:
        return len(self.x)

    def batch(self, indices: Tensor) -> Points:
        return Points(self.x[indices], 2 * self.x[indices])


class Squares(Objective):
    def losses(self, model, batch):
        yield "model", (model(batch.x) - batch.y).square().mean()

    def evaluate(self, model, batch):
        yield "error", (model(batch.x) - batch.y).abs()[:, 0]


def recipe(
    kind: Literal["line", "curve"] = "line",  # what is fitted; eq. 1
    epochs: int = 20,  # passes over the points
    lr: float = 0.1,  # of gradient descent
    momentum: float | None = None,  # none: plain descent
    shuffle: bool = True,  # has no effect
) -> Iterator[Stage]:
    points = Splits(Some(6), Some(4), Some(5), name="points")
    yield Stage(nn.Linear(1, 1), points, Squares(), sgd(lr), epochs=epochs, batch=3)
'''


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder to stand in, with `line.py`, and an environment that says nothing."""
    for name in ("FUXIAN_RUNS", "FUXIAN_DATA", "NO_COLOR", "FORCE_COLOR", "COLUMNS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    (tmp_path / "line.py").write_text(LINE, encoding="utf-8")
    return tmp_path


@pytest.fixture
def shelf(here: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Shipped methods of our own: graph/gcn, graph/gat, vision/lenet."""
    for name in ("graph/gcn", "graph/gat", "vision/lenet"):
        (here / "methods" / name).parent.mkdir(parents=True, exist_ok=True)
        text = LINE.replace("epochs: int = 20,", "hidden: int = 16, dropout: float = 0.5, epochs: int = 20,")
        (here / "methods" / f"{name}.py").write_text(text, encoding="utf-8")
    monkeypatch.setattr(catalog, "METHODS", here / "methods")
    return here / "methods"


Said = tuple[int, str, str]  # exit code, stdout, stderr


@pytest.fixture
def fuxian(capfd: pytest.CaptureFixture[str]) -> Callable[..., Said]:
    """Runs the command in this process."""

    def call(*words: str) -> Said:
        capfd.readouterr()
        code = main(words)
        said = capfd.readouterr()
        return code, said.out, said.err

    return call


@pytest.fixture
def outside(here: Path) -> Callable[..., Said]:
    """Runs Python in a process of its own: `outside("-m", "fuxian", "list")`."""

    def call(*words: str, **environment: str) -> Said:
        done = subprocess.run(
            [sys.executable, *words], capture_output=True, env={**os.environ, **environment}, check=False, timeout=120
        )
        return done.returncode, done.stdout.decode(), done.stderr.decode()

    return call
