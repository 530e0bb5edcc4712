"""Elastic weight consolidation: a net learns one task after another, and holds on to the weights that earlier ones need.

中文     弹性权重巩固（连续学习）
Paper    Kirkpatrick et al., PNAS 114(13), 2017, arXiv:1612.00796: eq. 3 (the penalty)
         van de Ven & Tolias, 2019, arXiv:1904.07734: sec. 3 (three scenarios), sec. 5 (split MNIST, settings), Table 4
         Chaudhry et al., ECCV 2018, arXiv:1801.10112: eq. 3 (forgetting)
Code     GMvandeVen/continual-learning @ f0b1461: data.py, train.py, encoder.py and continual_learner.py are the protocol,
         param_values.py has λ for each scenario
Departs  joint training in the task scenario draws from all tasks in one batch, not a part of the batch from each; the
         Fisher information is divided by the number of images (theirs: by one less)
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fuxian import figures
from fuxian.contract import Metric, Objective, Stage
from fuxian.data.images import Images, ImageSplits, image_data
from fuxian.errors import WrongInput
from fuxian.evaluation import batches, judging, measure
from fuxian.facts import Claim, Paper, Within
from fuxian.optim import adam

PAPER = Paper("Overcoming Catastrophic Forgetting in Neural Networks", "Kirkpatrick et al.", 2017, venue="PNAS",
              arxiv="1612.00796")  # fmt: skip
CLAIMS = [
    # Table 4 of van de Ven & Tolias gives means of 20 runs with their standard errors s; a run assigns the digits to tasks
    # at random, so runs differ much. Two standard errors of the difference to a mean of 5 runs are 2 s √(1 + 20 / 5).
    # Means and s are quoted from memory of that table: it could not be looked up again.
    Claim("test/accuracy", 0.9864, where="1904.07734, Table 4, EWC, Task-IL", tolerance=0.0098, seeds=5),
    Claim("test/accuracy", 0.8719, where="1904.07734, Table 4, none, Task-IL", tolerance=0.042, seeds=5,
          knobs=dict(strategy="none")),
    Claim("test/accuracy", 0.9966, where="1904.07734, Table 4, joint, Task-IL", tolerance=0.0009, seeds=5,
          knobs=dict(strategy="joint")),
    Claim("test/accuracy", 0.6395, where="1904.07734, Table 4, EWC, Domain-IL", tolerance=0.085, seeds=5,
          knobs=dict(scenario="domain", strength=1e6)),
    Claim("test/accuracy", 0.5921, where="1904.07734, Table 4, none, Domain-IL", tolerance=0.091, seeds=5,
          knobs=dict(scenario="domain", strategy="none")),
    Claim("test/accuracy", 0.9842, where="1904.07734, Table 4, joint, Domain-IL", tolerance=0.0027, seeds=5,
          knobs=dict(scenario="domain", strategy="joint")),
    Claim("test/accuracy", 0.2001, where="1904.07734, Table 4, EWC, Class-IL", tolerance=0.0027, seeds=5,
          knobs=dict(scenario="class", strength=1e8)),
    Claim("test/accuracy", 0.1990, where="1904.07734, Table 4, none, Class-IL", tolerance=0.0009, seeds=5,
          knobs=dict(scenario="class", strategy="none")),
    Claim("test/accuracy", 0.9794, where="1904.07734, Table 4, joint, Class-IL", tolerance=0.0013, seeds=5,
          knobs=dict(scenario="class", strategy="joint")),
]  # fmt: skip
QUICK = dict(data="digits", hidden=100, steps=100, batch=32)

# Shape letters: B batch, X pixels, C classes, P parameters in one row, K tasks before this one, T tasks.


class MLP(nn.Module):
    """Images (B, channels, height, width) to logits (B, C), through two hidden layers. 1904.07734, sec. 5."""

    def __init__(self, pixels: int, hidden: int, classes: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList([nn.Linear(pixels, hidden), nn.Linear(hidden, hidden), nn.Linear(hidden, classes)])

    def traced(self, image: Tensor) -> tuple[list[Tensor], list[Tensor]]:
        """What goes into each layer, and what comes out of it; the last of these are the logits."""
        inputs, outputs = [image.flatten(1)], []
        for layer in self.layers:
            outputs.append(layer(inputs[-1]))
            inputs.append(outputs[-1].relu())
        return inputs[:-1], outputs

    def forward(self, image: Tensor) -> Tensor:
        return self.traced(image)[1][-1]


def row(model: nn.Module) -> Tensor:
    """All parameters of a model, (P,)."""
    return torch.cat([p.flatten() for p in model.parameters()])


class TaskAverage(Metric):
    """The mean over tasks of the share of right answers in each: tasks count alike, however many images they have."""

    def __init__(self, tasks: int) -> None:
        self.right_T, self.images_T = torch.zeros(2, tasks, dtype=torch.float64)

    def update(self, right_B: Tensor, task_B: Tensor) -> None:
        self.right_T += torch.bincount(task_B.cpu(), right_B.double().cpu(), len(self.right_T))
        self.images_T += torch.bincount(task_B.cpu(), minlength=len(self.images_T))
        self.count += len(task_B)

    def by_task(self) -> Tensor:
        """(T,), NaN for a task that no image was of."""
        return self.right_T / self.images_T

    def value(self) -> float:
        return self.by_task().nanmean().item()


class Stream(Objective):
    """Cross-entropy on the task at hand, and λ/2 Σₖ Fₖ (θ - θₖ)² over the tasks before it: eq. 3.

    Classes are numbered as they come in the stream, two a task. `memory` has F and θ, (P,) each, of every task that is to
    be held on to, `matrix` the accuracies after each task before this one.
    """

    fisher_P: Tensor
    centre_P: Tensor
    apart: Tensor

    def __init__(
        self,
        scenario: str,
        names: Sequence[str],
        seen: int,
        strength: float = 0.0,
        memory: Sequence[tuple[Tensor, Tensor]] = (),
        matrix: Sequence[Sequence[float]] = (),
    ) -> None:
        self.scenario, self.names, self.seen, self.strength = scenario, tuple(names), seen, strength
        self.matrix, self.remembers = tuple(map(tuple, matrix)), bool(memory)
        if self.remembers:  # a sum of parabolas is one: Σₖ Fₖ (θ - θₖ)² = F (θ - c)² + Σₖ Fₖ (θₖ - c)², F = Σₖ Fₖ
            fisher_KP, weight_KP = map(torch.stack, zip(*memory, strict=True))
            fisher_P = fisher_KP.sum(0)
            centre_P = (fisher_KP * weight_KP).sum(0) / fisher_P.clamp_min(torch.finfo(fisher_P.dtype).tiny)
            apart = (fisher_KP * (weight_KP - centre_P).square()).sum()
            for name, tensor in dict(fisher_P=fisher_P, centre_P=centre_P, apart=apart).items():
                self.register_buffer(name, tensor, persistent=False)  # made again at a resume: nothing to save

    def inputs(self, batch: Images) -> tuple[Tensor, ...]:
        return (batch.image,)

    def choice(self, logits_BC: Tensor, label_B: Tensor) -> tuple[Tensor, Tensor]:
        """The logits that compete for an image, and which of them is right. 1904.07734, Table 1 and 2."""
        if self.scenario == "task":  # it is told which task: one of two classes
            return logits_BC.unflatten(1, (-1, 2))[torch.arange(len(label_B)), label_B // 2], label_B % 2
        if self.scenario == "domain":  # the first or the second class of a task, and not told which: two outputs
            return logits_BC, label_B % 2
        return logits_BC[:, : 2 * self.seen], label_B  # class: one of all that have come so far

    def penalty(self, model: nn.Module) -> Tensor:
        return ((self.fisher_P * (row(model) - self.centre_P).square()).sum() + self.apart) / 2

    def losses(self, model: MLP, batch: Images) -> Iterator[tuple[str, Tensor]]:
        loss = F.cross_entropy(*self.choice(model(batch.image), batch.label))
        yield "model", loss + self.strength * self.penalty(model) if self.remembers else loss

    def metrics(self, model: MLP) -> dict[str, Metric]:
        return {"accuracy": TaskAverage(self.seen)}

    def evaluate(self, model: MLP, batch: Images) -> Iterator[tuple[Any, ...]]:
        logits, right = self.choice(model(batch.image), batch.label)
        yield "loss", F.cross_entropy(logits, right, reduction="none")
        yield "accuracy", logits.argmax(1) == right, batch.label // 2

    def fisher(self, model: MLP, split: Any) -> Tensor:
        """The diagonal of the Fisher information (P,): the mean square of each image's own gradient.

        Of -log p of the class that the model itself holds for likeliest (continual_learner.py, estimate_fisher). A linear
        layer's gradient is an outer product for each image, so its squares need no image apart: Goodfellow 2015,
        arXiv:1510.01799.
        """
        sums = [torch.zeros_like(p) for p in model.parameters()]
        with judging(model), torch.enable_grad():
            for batch in batches(split, 1000, sums[0].device):
                inputs, outputs = model.traced(batch.image)
                logits, _ = self.choice(outputs[-1], batch.label)
                loss = F.cross_entropy(logits, logits.argmax(1), reduction="sum")
                for i, (x, grad) in enumerate(zip(inputs, torch.autograd.grad(loss, outputs), strict=True)):
                    sums[2 * i] += grad.square().T @ x.detach().square()  # of a weight, then of a bias
                    sums[2 * i + 1] += grad.square().sum(0)
        return torch.cat([total.flatten() for total in sums]) / len(split)

    def pictures(self, model: MLP, split: Any) -> dict[str, Any]:
        """Accuracy on each task after each task, at the end of the stream; the last line is of this split."""
        if 2 * self.seen < len(self.names):
            return {}
        average = TaskAverage(self.seen)
        for batch in batches(split, 1000, next(model.parameters()).device):
            *_, (_, right, task) = self.evaluate(model, batch)
            average.update(right, task)
        matrix_TT = torch.full((self.seen, self.seen), torch.nan)
        for t, accuracies in enumerate([*self.matrix, average.by_task().tolist()]):
            matrix_TT[t, : len(accuracies)] = torch.tensor(accuracies)
        tasks = [f"{t + 1}  {', '.join(self.names[2 * t : 2 * t + 2])}" for t in range(self.seen)]
        title = "accuracy on each task across, after each task down, %"
        return {"accuracy": figures.heatmap(matrix_TT, tasks, [str(t + 1) for t in range(self.seen)], title=title)}


def of_tasks(split: Any, order: Tensor, first: int, last: int) -> Any:
    """A split's images of the tasks from `first` to before `last`, labelled by the place of their class in the stream."""
    place = order.argsort()[split.label]
    rows = (place >= 2 * first) & (place < 2 * last)
    part = split.part(rows)
    part.label = place[rows]
    return part


def forgetting(matrix: Sequence[Sequence[float]]) -> float:
    """How far each task but the last has fallen from its best, on average; 0 with one task. 1801.10112, eq. 3."""
    falls = [max(row[k] for row in matrix[k:-1]) - matrix[-1][k] for k in range(len(matrix) - 1)]
    return sum(falls) / max(1, len(falls))


def recipe(
    data: Literal["mnist", "fashion-mnist", "digits"] | Path = "mnist",  # images, an even number of classes
    scenario: Literal["task", "domain", "class"] = "task",  # what is known at the test, and asked for; 1904.07734, sec. 3
    strategy: Literal["ewc", "none", "joint"] = "ewc",  # none: naive; joint: trained on all tasks so far
    strength: Annotated[float, Within(0)] = 1e7,  # λ of EWC: 1e7 for task, 1e6 for domain, 1e8 for class; param_values.py
    hidden: int = 400,            # units of each of the two hidden layers; 1904.07734, sec. 5
    steps: int = 2000,            # of each task; 1904.07734, sec. 5
    batch: int = 128,             # images a step; 1904.07734, sec. 5
    lr: float = 1e-3,             # Adam; 1904.07734, sec. 5
) -> Iterator[Stage]:  # fmt: skip
    images = image_data(data)
    if images.classes % 2 or images.test is None:
        lacks = "no test split" if images.test is None else f"{images.classes} classes, and a task takes two"
        raise WrongInput(f"{images.name} has {lacks}", do="a set with a test split and an even number of classes")
    order = torch.randperm(images.classes)  # which classes make a task is drawn for each run (data.py)
    names = [images.names[c] for c in order]
    model = MLP(images.channels * images.size**2, hidden, 2 if scenario == "domain" else images.classes)
    memory: list[tuple[Tensor, Tensor]] = []
    matrix: list[list[float]] = []
    for task in range(images.classes // 2):
        train = of_tasks(images.train, order, 0 if strategy == "joint" else task, task + 1)
        test = of_tasks(images.test, order, 0, task + 1)  # of all tasks so far
        stream = ImageSplits(train, None, test, name=images.name, names=names, hashes=images.hashes)
        objective = Stream(scenario, names, task + 1, strength, memory, matrix)
        optimizer = adam(lr, carries=True)  # one for the whole stream: train.py
        yield Stage(model, stream, objective, optimizer, steps=steps, batch=batch, drop_last=True, name=f"task-{task + 1}")
        each = [of_tasks(images.test, order, k, k + 1) for k in range(task + 1)]
        matrix.append([measure(model, objective, split, 1000)["accuracy"] for split in each])
        if strategy == "ewc":  # one term a task: in Table 4 "Online EWC", one for all, is another row
            memory.append((objective.fisher(model, train), row(model).detach().clone()))
    return {
        "forgetting": forgetting(matrix),
        **{f"after-{t + 1}/task-{k + 1}/accuracy": matrix[t][k] for t in range(len(matrix)) for k in range(t + 1)},
    }
