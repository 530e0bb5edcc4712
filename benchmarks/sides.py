"""What both sides are made of: a stage in our engine, and the steps of a plain script."""

from __future__ import annotations

import itertools
import json
import tempfile
from collections.abc import Callable, Iterable, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn


class Fixed:
    """A split whose every batch is the same one: what is compared is the step."""

    def __init__(self, batch: Any) -> None:
        self.only = batch

    def __len__(self) -> int:
        return len(self.only)

    def batch(self, indices: Tensor) -> Any:
        return self.only


class Engine:
    """A stage driven by the engine's own loop, so many steps at a call, as in a run; checkpoints left out."""

    def __init__(self, stage: Any) -> None:
        from fuxian.engine import loop
        from fuxian.engine.device import kept_memory
        from fuxian.engine.folder import RunFolder
        from fuxian.engine.running import Running, Settings
        from fuxian.engine.signals import Signals
        from fuxian.engine.watch import Watch

        self.all = ExitStack()
        self.all.enter_context(kept_memory())
        self.folder = self.all.enter_context(RunFolder(Path(self.all.enter_context(tempfile.TemporaryDirectory()))))
        self.running = Running(stage, "train", self.folder, Settings(save_seconds=1e9))
        self.running.save = lambda: None  # type: ignore[method-assign]
        self.signals, self.watch, self.train = Signals(), Watch(), loop.train

    def __call__(self, steps: int) -> None:
        self.running.last = self.running.step + steps
        self.train(self.running, self.signals, self.watch)

    def __enter__(self) -> Engine:
        return self

    def __exit__(self, *_: object) -> None:
        self.all.close()

    def losses(self, steps: int) -> Tensor:
        """Of the first steps, of which there are 20 at most: those that the log has a line for each."""
        self(steps)
        self.folder.flush_log()
        lines = map(json.loads, (self.folder.path / "metrics.jsonl").read_text().splitlines())
        return torch.tensor([line["loss"] for line in lines if "loss" in line])


def repeated(step: Callable[[], object]) -> Callable[[int], None]:
    """`run` of a side whose work is one call."""

    def run(times: int) -> None:
        for _ in range(times):
            step()

    return run


def stepping(
    model: nn.Module, optimizer: torch.optim.Optimizer, loss: Callable[[], Tensor], clip: float | None = None
) -> Callable[[], float]:
    """A step of a plain script, which gives its loss; `clip` is the largest 2-norm of the gradient."""
    model.train()

    def step() -> float:
        optimizer.zero_grad()
        value = loss()
        value.backward()
        if clip is not None:
            nn.utils.clip_grad_norm_(model.parameters(), clip)
        optimizer.step()
        return value.item()

    return step


def losses(step: Callable[[], float], steps: int) -> Tensor:
    return torch.tensor([step() for _ in range(steps)])


@torch.no_grad()
def in_order(model: nn.Module, weights: Mapping[str, Tensor], transposed: Iterable[type] = ()) -> None:
    """Copies our weights into a peer's model, whose parameters come in the same order; some modules store them the other
    way round."""
    turned = {id(part.weight) for part in model.modules() if isinstance(part, tuple(transposed))}
    for ours, theirs in itertools.zip_longest(weights.values(), model.parameters()):
        value = ours.T if id(theirs) in turned else ours
        assert value.shape == theirs.shape, (value.shape, theirs.shape)
        theirs.copy_(value)
