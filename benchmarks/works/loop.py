"""What a loop costs above the step itself: ours, and those of Fabric, Accelerate, Lightning and Hugging Face's Trainer.

A tiny net (32-64-10, batches of 64, fused SGD), where a step is short and every microsecond shows. Each side runs a bare
loop over the same ready batches beside the loop that is measured, and what counts is the difference, in processor time.
"""

from __future__ import annotations

import contextlib
import logging
import tempfile
import warnings
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from time import process_time
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from benchmarks.pairing import Side, Work
from benchmarks.sides import Engine, in_order

BATCH, BATCHES, LR = 64, 50, 0.01
STEPS, FIRST = 2000, 100  # of a repeat; steps of a trainer before its clock starts, in which it sets itself up
FEATURES = dict(clip=1.0, ema=0.999)

Rows = tuple[Tensor, Tensor]
Loop = Callable[[nn.Module, torch.optim.Optimizer, DataLoader[Any]], None]


def ready() -> list[Rows]:
    draw = torch.Generator().manual_seed(1)
    return [(torch.randn(BATCH, 32, generator=draw), torch.randint(10, (BATCH,), generator=draw)) for _ in range(BATCHES)]


def net() -> nn.Module:
    return nn.Sequential(nn.Linear(32, 64), nn.ReLU(), nn.Linear(64, 10))


class Clocked(nn.Module):
    """The net, which reads the clock as it begins the first step that counts and the one after the last: what a trainer
    takes to set itself up is outside."""

    def __init__(self) -> None:
        super().__init__()
        self.net = net()
        self.taken, self.at = 0, {}

    def forward(self, x: Tensor) -> Tensor:
        if self.taken in (FIRST, FIRST + STEPS):
            self.at[self.taken] = process_time()
        self.taken += 1
        return self.net(x)

    def seconds(self) -> float:
        return self.at[FIRST + STEPS] - self.at[FIRST]


def sgd(model: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.SGD(model.parameters(), LR, fused=True)


def bare(net: nn.Module, optimizer: torch.optim.Optimizer, loader: Any) -> None:
    """The shortest loop there is."""
    for x, y in loader:
        optimizer.zero_grad()
        F.cross_entropy(net(x), y).backward()
        optimizer.step()


# ── ours ────────────────────────────────────────────────────────────────────────────────────────────────────────────


def ours(**features: Any) -> Side:
    from dataclasses import dataclass

    from fuxian.contract import Batch, Objective, Splits, Stage
    from fuxian.optim import cosine
    from fuxian.optim import sgd as spec

    @dataclass(frozen=True)
    class Pair(Batch):
        x: Tensor
        y: Tensor

    class Ready:
        """Batches in the order in which they were made."""

        def __init__(self) -> None:
            self.batches, self.next = [Pair(*rows) for rows in ready()], -1

        def __len__(self) -> int:
            return BATCH * BATCHES

        def batch(self, indices: Tensor) -> Pair:
            self.next = (self.next + 1) % BATCHES
            return self.batches[self.next]

    class Classify(Objective):
        def losses(self, model: Any, batch: Any) -> Iterator[tuple[str, Tensor]]:
            yield "model", F.cross_entropy(model(batch.x), batch.y)

    model = net()
    weights = {name: weight.detach().clone() for name, weight in model.named_parameters()}
    optimizer = spec(LR, **features, **(dict(schedule=cosine()) if features else {}))
    engine = Engine(Stage(model, Splits(Ready()), Classify(), optimizer, steps=STEPS, batch=BATCH))
    after = lambda: (engine(BATCHES), flat(model))[1]
    return Side(engine, after, weights, spent=lambda steps: timed(lambda: engine(steps)) - plainly(ready(), steps))


def timed(do: Callable[[], object]) -> float:
    began = process_time()
    do()
    return process_time() - began


def plainly(loader: Any, steps: int) -> float:
    """Processor time of so many steps of the bare loop over these batches."""
    model = net()
    optimizer = sgd(model)
    return timed(lambda: [bare(model, optimizer, loader) for _ in range(steps // len(loader))])


def flat(model: nn.Module) -> Tensor:
    return torch.cat([weight.detach().flatten() for weight in model.parameters()])


# ── theirs ──────────────────────────────────────────────────────────────────────────────────────────────────────────


class Again(Dataset[Any]):
    """So many ready batches, over and over."""

    def __init__(self, steps: int) -> None:
        self.batches, self.steps = ready(), steps

    def __len__(self) -> int:
        return self.steps

    def __getitem__(self, i: int) -> Rows:
        if i >= self.steps:
            raise IndexError
        return self.batches[i % BATCHES]


def peer(weights: Mapping[str, Tensor], loop: Loop) -> Side:
    warnings.filterwarnings("ignore")
    for name in ("lightning", "lightning.pytorch", "lightning.fabric", "transformers", "accelerate"):
        logging.getLogger(name).setLevel(logging.ERROR)

    def trained(loop: Loop, steps: int) -> Clocked:
        model = Clocked()
        in_order(model, weights)
        loop(model.train(), sgd(model), DataLoader(Again(steps), batch_size=None))
        assert model.taken == steps, (model.taken, steps)
        return model

    def spent(steps: int) -> float:
        assert steps == STEPS
        return trained(loop, FIRST + STEPS + 1).seconds() - trained(bare, FIRST + STEPS + 1).seconds()

    return Side(lambda steps: trained(loop, steps), lambda: flat(trained(loop, BATCHES)), spent=spent)


def fabric(net: nn.Module, optimizer: torch.optim.Optimizer, loader: DataLoader[Any]) -> None:
    from lightning.fabric import Fabric

    fabric = Fabric(accelerator="cpu", devices=1)
    model, optimizer = fabric.setup(net, optimizer)
    for x, y in fabric.setup_dataloaders(loader):
        optimizer.zero_grad()
        fabric.backward(F.cross_entropy(model(x), y))
        optimizer.step()


def accelerate(net: nn.Module, optimizer: torch.optim.Optimizer, loader: DataLoader[Any]) -> None:
    from accelerate import Accelerator

    accelerator = Accelerator(cpu=True)
    model, optimizer, loader = accelerator.prepare(net, optimizer, loader)
    for x, y in loader:
        optimizer.zero_grad()
        accelerator.backward(F.cross_entropy(model(x), y))
        optimizer.step()


def lightning(net: nn.Module, optimizer: torch.optim.Optimizer, loader: DataLoader[Any]) -> None:
    """Logs the loss, as ours does; without checkpoints and a progress bar."""
    from lightning.pytorch import LightningModule, Trainer
    from lightning.pytorch.loggers import CSVLogger

    class Module(LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.net = net

        def training_step(self, batch: Rows, _: int) -> Tensor:
            loss = F.cross_entropy(self.net(batch[0]), batch[1])
            self.log("loss", loss)
            return loss

        def configure_optimizers(self) -> torch.optim.Optimizer:
            return optimizer

    with tempfile.TemporaryDirectory() as place:
        Trainer(
            accelerator="cpu", devices=1, max_epochs=1, logger=CSVLogger(place), default_root_dir=place,
            enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False,
        ).fit(Module(), loader)  # fmt: skip


def trainer(net: nn.Module, optimizer: torch.optim.Optimizer, loader: DataLoader[Any]) -> None:
    """Logs the loss, as ours does; without clipping, checkpoints and a progress bar."""
    from transformers import Trainer, TrainingArguments

    class Loss(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = net

        def forward(self, x: Tensor, labels: Tensor) -> dict[str, Tensor]:
            return {"loss": F.cross_entropy(self.net(x), labels)}

    class Ready(Trainer):
        def get_train_dataloader(self) -> Any:
            named = DataLoader(loader.dataset, batch_size=None, collate_fn=lambda rows: dict(x=rows[0], labels=rows[1]))
            return self.accelerator.prepare(named)

    with tempfile.TemporaryDirectory() as place:
        arguments = TrainingArguments(
            output_dir=place, max_steps=len(loader.dataset), use_cpu=True, report_to=[], save_strategy="no",
            disable_tqdm=True, logging_steps=50, max_grad_norm=0.0,
        )  # fmt: skip
        constant = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda _: 1.0)
        with contextlib.redirect_stdout(None):
            Ready(Loss(), arguments, train_dataset=loader.dataset, optimizers=(optimizer, constant)).train()


def by_hand(net: nn.Module, optimizer: torch.optim.Optimizer, loader: DataLoader[Any]) -> None:
    """What the features are in plain torch: clip_grad_norm_, CosineAnnealingLR, AveragedModel, and a loss that is kept."""
    from torch.optim.lr_scheduler import CosineAnnealingLR
    from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

    schedule = CosineAnnealingLR(optimizer, STEPS)
    average = AveragedModel(net, multi_avg_fn=get_ema_multi_avg_fn(FEATURES["ema"]))
    kept = []
    for x, y in loader:
        optimizer.zero_grad()
        loss = F.cross_entropy(net(x), y)
        loss.backward()
        nn.utils.clip_grad_norm_(net.parameters(), FEATURES["clip"])
        optimizer.step()
        schedule.step()
        average.update_parameters(net)
        kept.append(loss.item())


def above(name: str, whose: str, against: str, loop: Loop, goal: float | None, **how: Any) -> Work:
    side = how.pop("features", {})
    return Work(
        f"loop-{name}", f"a step of the loop above the bare one, {whose}", partial(ours, **side), partial(peer, loop=loop),
        against, goal, times=STEPS, threads=1, **how,
    )  # fmt: skip


WORKS = [
    above("fabric", "beside Fabric’s", "lightning", fabric, 0.5, most=25e-6),
    above("accelerate", "beside Accelerate’s", "accelerate", accelerate, 0.15),
    above("lightning", "beside Lightning’s Trainer", "lightning", lightning, 0.05),
    above("trainer", "beside Hugging Face’s Trainer", "transformers", trainer, 0.05),
    above("features", "with clipping, cosine and averaged weights", "plain torch", by_hand, None, most=60e-6,
          features=FEATURES),
]  # fmt: skip
