"""What the engine's loop costs: microseconds a step over the same batches and the same optimizer, driven bare.

    python benchmarks/overhead.py

A tiny network (32-64-10, batches of 64, fused SGD), where a step is short and every microsecond shows. Both sides run in
one process with one thread, by turns, in processor time: what else the machine does counts little and meets both.
"""

from __future__ import annotations

import argparse
import contextlib
import statistics
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from time import process_time
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fuxian.contract import Batch, Objective, Splits, Stage
from fuxian.engine import loop
from fuxian.engine.folder import RunFolder
from fuxian.engine.running import Running, Settings
from fuxian.engine.signals import Signals
from fuxian.engine.watch import Watch
from fuxian.optim import Optimizer, cosine, sgd

BATCH, BATCHES = 64, 50
TARGETS = {"plain": 25.0, "clip, cosine, average, log": 60.0}  # microseconds a step


@dataclass(frozen=True)
class Rows(Batch):
    x: Tensor  # (batch, 32)
    y: Tensor  # (batch,)


class Ready:
    """Batches that were made beforehand, so that what is compared is the loop."""

    def __init__(self) -> None:
        torch.manual_seed(0)
        self.batches = [Rows(torch.randn(BATCH, 32), torch.randint(10, (BATCH,))) for _ in range(BATCHES)]
        self.next = 0

    def __len__(self) -> int:
        return BATCH * BATCHES

    def batch(self, indices: Tensor) -> Rows:
        self.next = (self.next + 1) % BATCHES
        return self.batches[self.next]


class Classify(Objective):
    def losses(self, model: Any, batch: Any) -> Iterator[tuple[str, Tensor]]:
        yield "model", F.cross_entropy(model(batch.x), batch.y)


def model() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(32, 64), nn.ReLU(), nn.Linear(64, 10))


def bare(steps: int) -> float:
    """Seconds that `steps` steps take in the shortest loop there is."""
    net, ready = model(), Ready()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.01, fused=True)
    began = process_time()
    for step in range(steps):
        batch = ready.batches[step % BATCHES]
        optimizer.zero_grad()
        F.cross_entropy(net(batch.x), batch.y).backward()
        optimizer.step()
    return process_time() - began


def engine(steps: int, spec: Optimizer) -> float:
    """Seconds that they take in the engine, checkpoints at the ends left out."""
    with tempfile.TemporaryDirectory() as place, RunFolder(Path(place)) as folder, Signals() as signals:
        stage = Stage(model(), Splits(Ready()), Classify(), spec, steps=steps, batch=BATCH)
        running = Running(stage, "train", folder, Settings(save_seconds=1e9))
        running.save = lambda: None  # type: ignore[method-assign]
        began = process_time()
        loop.train(running, signals, Watch())
        return process_time() - began


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--turns", type=int, default=9)
    given = parser.parse_args()
    torch.set_num_threads(1)
    specs = {
        "plain": sgd(0.01),
        "clip, cosine, average, log": sgd(0.01, clip=1.0, ema=0.999, schedule=cosine(warmup=100)),
    }
    for warm in [bare, *(lambda n, s=s: engine(n, s) for s in specs.values())]:
        with contextlib.suppress(KeyboardInterrupt):
            warm(200)
    floor: list[float] = []
    found: dict[str, list[float]] = {name: [] for name in specs}
    over: dict[str, list[float]] = {name: [] for name in specs}
    for _ in range(given.turns):
        for name, spec in specs.items():
            before, mine, after = bare(given.steps), engine(given.steps, spec), bare(given.steps)
            floor += [before * 1e6 / given.steps, after * 1e6 / given.steps]
            found[name].append(mine * 1e6 / given.steps)
            over[name].append((mine - (before + after) / 2) * 1e6 / given.steps)
    print(f"tiny MLP, batch {BATCH}, fused SGD, 1 thread, torch {torch.__version__}; µs a step, medians of {given.turns}")
    print(f"{'':36}{'step':>8}{'over':>8}{'target':>8}")
    print(f"{'bare loop':36}{statistics.median(floor):8.1f}")
    for name in specs:
        step, more = statistics.median(found[name]), statistics.median(over[name])
        missed = "" if more <= TARGETS[name] else "  missed"
        print(f"{'engine: ' + name:36}{step:8.1f}{more:+8.1f}{TARGETS[name]:8.0f}{missed}")


if __name__ == "__main__":
    main()
