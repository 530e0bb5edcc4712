"""Toy recipes, as unlike each other as methods are: what the engine must carry through any kill."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fuxian.contract import Batch, Metric, Objective, Splits, Stage
from fuxian.engine.run import Run, run
from fuxian.evaluation import batches, measure
from fuxian.optim import adam, adamw, cosine, exponential, lbfgs, patience, rmsprop, sgd


@dataclass(frozen=True)
class Rows(Batch):
    x: Tensor  # (batch, 6) float32
    y: Tensor  # (batch,) int64 in 0 to 2


class RowSplit:
    """Examples in memory. `noise` is added afresh to each batch: augmentation, which draws."""

    def __init__(self, x: Tensor, y: Tensor, noise: float = 0.0) -> None:
        self.x, self.y, self.noise = x, y, noise

    def __len__(self) -> int:
        return len(self.x)

    def batch(self, indices: Tensor) -> Rows:
        x = self.x[indices]
        return Rows(x + self.noise * torch.randn_like(x) if self.noise else x, self.y[indices])


def rows(train: int = 50, val: int | None = 23, test: int | None = 17, noise: float = 0.0) -> Splits:
    """Three clouds in six dimensions that a line can tell apart."""
    generator = torch.Generator().manual_seed(1)
    centres = 2 * torch.randn(3, 6, generator=generator)

    def split(count: int | None, noise: float = 0.0) -> RowSplit | None:
        if count is None:
            return None
        y = torch.randint(3, (count,), generator=generator)
        return RowSplit(centres[y] + torch.randn(count, 6, generator=generator), y, noise)

    made = split(train, noise)
    assert made is not None
    return Splits(made, split(val), split(test), name="clouds")


class Classify(Objective):
    def losses(self, model: Any, batch: Any) -> Iterator[tuple[str, Tensor]]:
        yield "model", F.cross_entropy(model(batch.x), batch.y)

    def evaluate(self, model: Any, batch: Any) -> Iterator[tuple[Any, ...]]:
        logits = model(batch.x)
        yield "loss", F.cross_entropy(logits, batch.y, reduction="none")
        yield "accuracy", (logits.argmax(1) == batch.y).float()

    def inputs(self, batch: Any) -> tuple[Tensor, ...]:
        return (batch.x,)


def mlp(inputs: int = 6, outputs: int = 3, dropout: float = 0.0) -> nn.Sequential:
    return nn.Sequential(nn.Linear(inputs, 8), nn.Tanh(), nn.Dropout(dropout), nn.Linear(8, outputs))


# ── one each ────────────────────────────────────────────────────────────────────────────────────────────────────────


def plain() -> Iterator[Stage]:
    yield Stage(mlp(dropout=0.5), rows(noise=0.1), Classify(), adam(0.01), epochs=2, batch=16)


def long() -> Iterator[Stage]:
    """Of many steps, so that after the first twenty a line of the log stands for several: losses wait for it."""
    yield Stage(mlp(dropout=0.5), rows(), Classify(), adam(0.01), steps=3000, batch=16, evaluate_every=10)


class Adversarial(Objective):
    """Two players, dropout in both, a moving average of one; a count kept as a buffer."""

    def __init__(self) -> None:
        self.register_buffer("rounds", torch.zeros((), dtype=torch.int64))

    def losses(self, model: Any, batch: Any) -> Iterator[tuple[str, Tensor]]:
        self.rounds.add_(1)
        fake = model.generator(torch.randn(len(batch), 2))
        real, made = model.discriminator(batch.x), model.discriminator(fake.detach())
        yield "discriminator", F.softplus(-real).mean() + F.softplus(made).mean()
        yield "generator", F.softplus(-model.discriminator(fake)).mean()

    def evaluate(self, model: Any, batch: Any) -> Iterator[tuple[Any, ...]]:
        yield "distance", (model.generator(torch.randn(len(batch), 2)) - batch.x).norm(dim=1)

    def pictures(self, model: Any, split: Any) -> Mapping[str, Any]:
        return {"samples": model.generator(torch.randn(5, 2)).sigmoid()[None]}


class Pair(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.generator = nn.Sequential(nn.Linear(2, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(0.2), nn.Linear(8, 6))
        self.discriminator = mlp(outputs=1, dropout=0.3)


def gan() -> Iterator[Stage]:
    players = dict(generator=adam(0.01, ema=0.9, clip=1.0), discriminator=rmsprop(0.01, momentum=0.5))
    yield Stage(Pair(), rows(), Adversarial(), players, epochs=2, batch=16, evaluate_every=3)


class Rebuild(Objective):
    def losses(self, model: Any, batch: Any) -> Iterator[tuple[str, Tensor]]:
        yield "model", F.mse_loss(model(batch.x), batch.x)

    def evaluate(self, model: Any, batch: Any) -> Iterator[tuple[Any, ...]]:
        yield "loss", (model(batch.x) - batch.x).square().mean(1)


def shared() -> Iterator[Stage]:
    """An encoder learns to rebuild, then to classify, its first layer frozen: both stages change the same module."""
    encoder = mlp(outputs=4)
    yield Stage(nn.Sequential(encoder, nn.Linear(4, 6)), rows(), Rebuild(), adamw(0.01), steps=5, batch=16, name="pretrain")
    encoder[0].requires_grad_(False)
    head = nn.Sequential(encoder, nn.BatchNorm1d(4), nn.Linear(4, 3))
    yield Stage(head, rows(), Classify(), sgd(0.1, momentum=0.9), steps=5, batch=16, name="fine-tune")


def carried() -> Iterator[Stage]:
    """A stream of three stages whose Adam goes on from one to the next."""
    model = mlp(dropout=0.3)
    for name in ("one", "two", "three"):
        yield Stage(model, rows(noise=0.1), Classify(), adam(0.01, ema=0.9, carries=True), steps=5, batch=16, name=name)


def early() -> Iterator[Stage]:
    """The best weights are kept, and it stops when they are not beaten: at this rate after a few evaluations."""
    yield Stage(
        mlp(), rows(), Classify(), sgd(3.0, momentum=0.5, ema=0.5), steps=40, batch=10, evaluate_every=2,
        select="-loss", stop=patience("-loss", 2),
    )  # fmt: skip


class Grid(nn.Module):
    """A convolution in channels_last with batch norm: moments and weights have strides of their own."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 2)
        self.norm = nn.BatchNorm2d(4)
        self.out = nn.Linear(8, 3)
        self.to(memory_format=torch.channels_last)

    def forward(self, x: Tensor) -> Tensor:
        image = x.view(-1, 3, 2, 1).repeat(1, 1, 1, 3).contiguous(memory_format=torch.channels_last)
        return self.out(self.norm(self.conv(image)).relu().flatten(1))


def strides() -> Iterator[Stage]:
    schedule = cosine(warmup=2)
    yield Stage(
        Grid(), rows(), Classify(), adamw(0.02, schedule=schedule, clip=0.5, decay=0.1), epochs=2, batch=16, drop_last=True
    )


class Centres(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("centre", torch.randn(3, 6))


class Lloyd(Objective):
    """No gradient: `update` moves buffers."""

    def update(self, model: Any, batch: Any) -> dict[str, Any]:
        near = torch.cdist(batch.x, model.centre).argmin(1)
        for k in range(3):
            if (near == k).any():
                model.centre[k].lerp_(batch.x[near == k].mean(0), 0.5)
        return {"inertia": torch.cdist(batch.x, model.centre).amin(1).sum(), "moved": 1}

    def evaluate(self, model: Any, batch: Any) -> Iterator[tuple[Any, ...]]:
        yield "inertia", torch.cdist(batch.x, model.centre).amin(1)


def lloyd() -> Iterator[Stage]:
    yield Stage(Centres(), rows(), Lloyd(), steps=6, batch=20)


class Tokens(Objective):
    """Parts of a batch weigh differently: a sum and its weight."""

    def losses(self, model: Any, batch: Any) -> Iterator[tuple[str, Tensor, Tensor]]:
        weight = 1.0 + batch.y
        loss = F.cross_entropy(model(batch.x), batch.y, reduction="none")
        yield "model", (loss * weight).sum(), weight.sum()

    def evaluate(self, model: Any, batch: Any) -> Iterator[tuple[Any, ...]]:
        weight = 1.0 + batch.y
        yield "loss", F.cross_entropy(model(batch.x), batch.y, reduction="none") * weight, weight
        yield "spread", model(batch.x)

    def metrics(self, model: Any) -> dict[str, Metric]:
        return {"spread": Spread()}


class Spread(Metric):
    """No mean over examples: the largest logit less the smallest."""

    def __init__(self) -> None:
        self.seen: list[Tensor] = []

    def update(self, *values: Any) -> None:
        self.seen.append(values[0])
        self.count += len(values[0])

    def value(self) -> float:
        low, high = torch.cat(self.seen).aminmax()
        return float(high - low)


def weighted() -> Iterator[Stage]:
    yield Stage(mlp(dropout=0.1), rows(), Tokens(), adam(0.01), epochs=2, batch=14, accumulate=3)


def second_order() -> Iterator[Stage]:
    yield Stage(mlp(dropout=0.1), rows(), Classify(), lbfgs(history=3, iterations=4), steps=4)


class Picture(nn.Module):
    """The model is the data: an image that is optimized."""

    def __init__(self) -> None:
        super().__init__()
        self.image = nn.Parameter(torch.rand(1, 4, 4))


class Smooth(Objective):
    def losses(self, model: Any, batch: Any) -> Iterator[tuple[str, Tensor]]:
        assert batch is None
        yield "model", model.image.diff().square().mean() + (model.image - torch.rand(1, 4, 4)).square().mean()

    def pictures(self, model: Any, split: Any) -> Mapping[str, Any]:
        return {"image": model.image}


def picture() -> Iterator[Stage]:
    yield Stage(Picture(), None, Smooth(), adam(0.1, schedule=exponential(0.9)), steps=6)


def decides() -> Iterator[Stage]:
    """How many stages there are depends on what they measure."""
    model = mlp()
    result: Any = yield Stage(model, rows(), Classify(), sgd(0.05), steps=2, batch=16, name="try-0")
    for number in range(1, 4):
        if result["val/accuracy"] > 0.9:
            break
        wider = sgd(0.05 * (1 + result["val/loss"]))
        result = yield Stage(model, rows(), Classify(), wider, steps=2, batch=16, name=f"try-{number}")


def sampled(log: Callable[[], None] = lambda: None) -> Iterator[Stage]:
    """The second stage learns from samples of the first one's generator, drawn when it begins."""
    pair, data = Pair(), rows()
    players = dict(generator=adam(0.01, ema=0.5), discriminator=adam(0.01))
    yield Stage(pair, data, Adversarial(), players, steps=4, batch=16, name="gan")

    def samples() -> Splits:
        log()
        with torch.no_grad():
            x = pair.generator(torch.randn(30, 2))
        return Splits(RowSplit(x, torch.randint(3, (30,))), data.val, data.test)

    yield Stage(mlp(dropout=0.2), samples, Classify(), adam(0.01), epochs=2, batch=16, name="classifier")


class Elastic(Classify):
    """Remembers what the weights were, and how much each mattered, between stages (EWC)."""

    def __init__(self, model: nn.Module) -> None:
        self.names = [name for name, _ in model.named_parameters()]
        for index, weight in enumerate(model.parameters()):
            self.register_buffer(f"old{index}", torch.zeros_like(weight))
            self.register_buffer(f"fisher{index}", torch.zeros_like(weight))

    def losses(self, model: Any, batch: Any) -> Iterator[tuple[str, Tensor]]:
        pull = sum(
            (self.get_buffer(f"fisher{i}") * (w - self.get_buffer(f"old{i}")).square()).sum()
            for i, w in enumerate(model.parameters())
        )
        yield "model", F.cross_entropy(model(batch.x), batch.y) + pull

    def remember(self, model: nn.Module, split: Any) -> None:
        for batch in batches(split, 8):  # gradients add up to those that are there: none, or a resume would differ
            F.nll_loss(model(batch.x).log_softmax(1), batch.y).backward()
        for index, weight in enumerate(model.parameters()):
            assert weight.grad is not None
            self.get_buffer(f"old{index}").copy_(weight.detach())
            self.get_buffer(f"fisher{index}").add_(weight.grad.square())


def tasks() -> Iterator[Stage]:
    """A continual stream, with metrics of the whole run."""
    model, seen, matrix = mlp(), [], []
    elastic = Elastic(model)
    for number in range(3):
        data = rows(train=40 + number)
        seen.append(data)
        yield Stage(model, data, elastic, sgd(0.1), steps=3, batch=16, name=f"task-{number}")
        elastic.remember(model, data.train)
        matrix.append([measure(model, elastic, task.val)["accuracy"] for task in seen])
    return {"average": sum(matrix[-1]) / 3, "forgetting": matrix[0][0] - matrix[-1][0]}


class Teacher(nn.Module):
    """A student and its teacher: frozen parameters that follow in place, as in MoCo and BYOL."""

    def __init__(self) -> None:
        super().__init__()
        self.student = mlp(outputs=4)
        self.teacher = copy.deepcopy(self.student).requires_grad_(False)


class Follow(Objective):
    """A queue of what the teacher said, its place in it, and a target that no player steps."""

    def __init__(self) -> None:
        self.register_buffer("queue", torch.randn(32, 4))
        self.register_buffer("place", torch.zeros((), dtype=torch.int64))

    def losses(self, model: Any, batch: Any) -> Iterator[tuple[str, Tensor]]:
        with torch.no_grad():
            for slow, fast in zip(model.teacher.parameters(), model.student.parameters(), strict=True):
                slow.data.lerp_(fast.data, 0.1)
            target = model.teacher(batch.x + 0.1 * torch.randn_like(batch.x))
        similar = model.student(batch.x) @ torch.cat([target, self.queue]).T
        yield "student", F.cross_entropy(similar, torch.arange(len(batch)))
        for row in target:
            self.queue[self.place % 32] = row
            self.place.add_(1)

    def evaluate(self, model: Any, batch: Any) -> Iterator[tuple[Any, ...]]:
        yield "loss", (model.student(batch.x) - model.teacher(batch.x)).square().mean(1)


def teacher() -> Iterator[Stage]:
    yield Stage(Teacher(), rows(), Follow(), dict(student=adam(0.01)), steps=6, batch=16, evaluate_every=2, select="-loss")


class Informed(nn.Module):
    """Three players, two of which share a part (InfoGAN); a weight that is tied; a parameter of the objective."""

    def __init__(self) -> None:
        super().__init__()
        self.generator = nn.Linear(6, 6)
        self.trunk = nn.Linear(6, 6)
        self.trunk.weight = self.generator.weight
        self.head = nn.Linear(6, 3)


class Inform(Objective):
    def __init__(self) -> None:
        self.scale = nn.Linear(1, 1)

    def losses(self, model: Any, batch: Any) -> Iterator[tuple[str, Tensor]]:
        yield "trunk", model.trunk(batch.x).square().mean()
        yield "generator", (model.generator(batch.x) - batch.x).square().mean()
        logits = model.head(model.trunk(model.generator(batch.x)))
        yield "info", F.cross_entropy(self.scale(logits[..., None])[..., 0], batch.y)

    def evaluate(self, model: Any, batch: Any) -> Iterator[tuple[Any, ...]]:
        yield "loss", F.cross_entropy(model.head(model.trunk(model.generator(batch.x))), batch.y, reduction="none")


def informed() -> Iterator[Stage]:
    players = dict(trunk=sgd(0.01), generator=adam(0.01), info=adam(0.01, of=("generator", "head", "scale"), ema=0.8))
    yield Stage(Informed(), rows(val=None), Inform(), players, steps=5, batch=16, accumulate=2)


TOYS: list[Callable[[], Iterator[Stage]]] = [
    plain, long, gan, shared, carried, early, strides, lloyd, weighted, second_order, picture, decides, sampled, tasks,
    teacher, informed,
]  # fmt: skip


HELD: dict[str, Callable[..., Any]] = {}  # recipes that a test made, for runs in its own process


def file_of(toy: Callable[..., Any], folder: Path) -> str:
    """A user's file whose recipe is that toy."""
    name = toy.__name__
    recipe = f"def recipe():\n    return (yield from toys.{name}())\n"
    return _write(folder / f"{name}.py", recipe)


def play(toy: Callable[..., Any], folder: Path, **options: Any) -> Run:
    """Runs a recipe in this process, in a new folder under `folder`; one checkpoint a step."""
    key = f"recipe{len(HELD)}"
    HELD[key] = toy
    path = _write(folder / f"{key}.py", f"def recipe():\n    return (yield from toys.HELD[{key!r}]())\n")
    return run(path, **{"parent": folder, "save_seconds": 0.0, **options})


def stage(model: nn.Module | None = None, objective: Objective | None = None, **changes: Any) -> Stage:
    """A stage of four steps, with these changes."""
    fields: dict[str, Any] = dict(data=rows(), optimizer=sgd(0.1), steps=4, batch=16)
    fields |= changes
    return Stage(model or mlp(), fields.pop("data"), objective or Classify(), **fields)


def one(**changes: Any) -> Callable[[], Iterator[Stage]]:
    """A recipe of one such stage, made anew each time: values that are functions make the field's value."""

    def recipe() -> Iterator[Stage]:
        yield stage(**{name: value() if name in ("model", "objective") else value for name, value in changes.items()})

    return recipe


def _write(path: Path, recipe: str) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f'"""A toy."""\n\nfrom tests.engine import toys\n\n\n{recipe}')
    return str(path)
