"""Rules written by hand against a model that learns: the same flowers, the same test, both confusion matrices.

中文     手写规则与机器学习
Source   the notes: rules are precise and explain themselves, a learned model is flexible and adapts
         Fisher, Annals of Eugenics 7(2), 1936: the flowers
Departs  whoever wrote the rules had seen all 150 flowers, so they know more of the test than the model does; the model is
         shown the two lengths that the rules read, the petal's; one flower is in the set twice, and is taken once
"""

from collections.abc import Iterator, Sequence
from typing import Annotated, Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fuxian import figures
from fuxian.contract import Objective, Stage
from fuxian.data.tabular import Rows, Table, TableSplits, iris
from fuxian.evaluation import batches
from fuxian.facts import Claim, Within
from fuxian.objectives.classification import ranked
from fuxian.optim import adam

PAPER = None
SOURCE = "the notes, learning English: grammar rules first, or immersion"
CLAIMS = [
    Claim("test/accuracy", None, where="the notes give no number: learned from 90 flowers", seeds=20),
    Claim("rules/test/accuracy", None, where="the notes give no number: the rules", seeds=20),
    Claim("learn-6/test/accuracy", None, where="the notes give no number: learned from 6 flowers", seeds=20),
    Claim("rules/test/accuracy", None, where="the notes give no number: rules in cm, flowers in inches", seeds=20,
          knobs=dict(unit="inch")),
    Claim("test/accuracy", None, where="the notes give no number: learned, flowers in inches", seeds=20,
          knobs=dict(unit="inch")),
]  # fmt: skip
QUICK = dict(steps=150)

SETOSA, VERSICOLOR, VIRGINICA = range(3)
PETAL_LENGTH, PETAL_WIDTH = 2, 3  # columns, in cm

# Shape letters: N flowers, F = 4 lengths, P = the 2 of the petal, C = 3 species.


class Rules(nn.Module):
    """Lengths (N, F) in cm to certainties (N, C), 0 or 1. Two ifs, read off a plot of the petals."""

    LONG, WIDE = 2.5, 1.7  # cm

    def forward(self, x_NF: Tensor) -> Tensor:
        short, wide = x_NF[:, PETAL_LENGTH] < self.LONG, x_NF[:, PETAL_WIDTH] > self.WIDE
        species_N = torch.where(short, SETOSA, torch.where(wide, VIRGINICA, VERSICOLOR))
        return F.one_hot(species_N, 3).to(x_NF.dtype)


class Learned(nn.Module):
    """Lengths (N, F) to probabilities (N, C): softmax of one matrix, of the petal's in deviations from what it has seen."""

    mean_P: Tensor
    std_P: Tensor

    def __init__(self, seen_NF: Tensor) -> None:
        super().__init__()
        petal_NP = seen_NF[:, [PETAL_LENGTH, PETAL_WIDTH]]
        self.register_buffer("mean_P", petal_NP.mean(0))
        self.register_buffer("std_P", petal_NP.std(0, correction=0).clamp_min(1e-6))  # the same in all: it stays 0
        self.linear = nn.Linear(2, 3, dtype=seen_NF.dtype)

    def forward(self, x_NF: Tensor) -> Tensor:
        petal_NP = x_NF[:, [PETAL_LENGTH, PETAL_WIDTH]]
        return self.linear((petal_NP - self.mean_P) / self.std_P).softmax(1)


class Species(Objective):
    """Cross-entropy to learn by, accuracy to be judged by. `curve` is {flowers: accuracy} of the models before this one."""

    def __init__(
        self, names: Sequence[str], unit: str, curve: dict[int, float] | None = None, rules: float = 0.0, last: int = 0
    ) -> None:
        self.names, self.unit, self.curve, self.rules, self.last = tuple(names), unit, dict(curve or {}), rules, last

    def inputs(self, batch: Rows) -> tuple[Tensor, ...]:
        return (batch.x,)

    def losses(self, model: Any, batch: Rows) -> Iterator[tuple[str, Tensor]]:
        yield "model", F.nll_loss(model(batch.x).log(), batch.label)

    def evaluate(self, model: Any, batch: Rows) -> Iterator[tuple[str, Tensor]]:
        yield "accuracy", (model(batch.x).argmax(1) == batch.label).double()

    def predict(self, model: Any, batch: Rows) -> list[dict[str, Any]]:
        return ranked(model(batch.x), self.names)

    def pictures(self, model: Any, split: Any) -> dict[str, Any]:
        (batch,) = batches(split, None, split.device)
        species_N = model(batch.x).argmax(1)
        matrix_CC = torch.bincount(3 * batch.label + species_N, minlength=9).view(3, 3)
        drawn: dict[str, Any] = {"confusion": figures.confusion(matrix_CC, self.names)}
        if self.last or isinstance(model, Rules):
            drawn["petals"] = self.petals(model, batch)
        if self.last:
            accuracy = 100 * float((species_N == batch.label).double().mean())
            flowers, percent = [*self.curve, self.last], [*(100 * a for a in self.curve.values()), accuracy]
            curves = {"learned": (flowers, percent), "rules": (flowers, [100 * self.rules] * len(flowers))}
            drawn["flowers"] = figures.lines(curves, x="flowers learned from", y="right of the test flowers, %")
        return drawn

    def petals(self, model: Any, batch: Rows) -> Any:
        """The flowers in the plane of the petals, and where the model changes its mind."""
        length, width = batch.x[:, PETAL_LENGTH].cpu(), batch.x[:, PETAL_WIDTH].cpu()
        across, up = (torch.linspace(0, 1.08 * float(side.max()), 240, dtype=side.dtype) for side in (length, width))
        plane = torch.zeros(240, 240, 4, dtype=length.dtype)
        plane[..., PETAL_LENGTH], plane[..., PETAL_WIDTH] = across, up[:, None]
        region = model(plane.flatten(0, 1).to(batch.x)).argmax(1).view(240, 240).cpu()
        drawing, axes = figures.figure(height=300)
        for c, (name, marker) in enumerate(zip(self.names, "os^", strict=True)):
            colour, mine = figures.PALETTE[figures.SERIES[c]], batch.label.cpu() == c
            fill = "none" if c == VERSICOLOR else colour
            axes.plot(length[mine], width[mine], marker, color=colour, markersize=5, markerfacecolor=fill)
            right = (float(length[mine].max()), float(width[mine].median()))
            axes.annotate(name, right, (8, -4), textcoords="offset points", color=colour, weight="bold")
            if 0 < int((region == c).sum()) < region.numel():
                axes.contour(across, up, (region == c).double(), [0.5], colors=figures.PALETTE["soft"], linewidths=1)
        axes.set_title(f"petal width, {self.unit}", loc="left", fontsize=12, color=figures.PALETTE["soft"])
        axes.set_xlabel(f"petal length, {self.unit}", loc="right")
        axes.grid(False)
        return drawing


def drawn_apart(unit: str, train: int) -> TableSplits:
    """Iris: so many flowers of each species to train on, drawn for each run, and the others to test; in cm or inches."""
    data: Any = iris()
    table: Any = data.train
    first = [row for row in range(len(table)) if not (table.x[:row] == table.x[row]).all(1).any()]  # equal ones once
    x, label = table.x[first] / (2.54 if unit == "inch" else 1), table.label[first]
    order = [(label == c).nonzero().flatten() for c in range(3)]
    order = [rows[torch.randperm(len(rows))] for rows in order]
    # species in turn, so that the first flowers, however few, have as many of each
    mine, others = torch.stack([rows[:train] for rows in order], 1).flatten(), torch.cat([rows[train:] for rows in order])
    return TableSplits(Table(x[mine], label[mine]), None, Table(x[others], label[others]), name="iris",
                       columns=data.columns, names=data.names, hashes=data.hashes)  # fmt: skip


def recipe(
    data: Literal["iris"] = "iris",                     # 149 flowers, four lengths of each; the rules are for these
    unit: Literal["cm", "inch"] = "cm",                 # of the lengths; the rules think in cm
    train: Annotated[int, Within(1, 40)] = 30,          # flowers of each species to learn from; the others test
    steps: int = 400,                                   # of learning, all its flowers in each
    lr: float = 0.05,                                   # Adam
) -> Iterator[Stage]:  # fmt: skip
    flowers = drawn_apart(unit, train)
    whole: Any = flowers.train
    test: Any = flowers.test
    ruled = yield Stage(Rules(), flowers, Species(flowers.names, unit), steps=0, name="rules")
    curve: dict[int, float] = {}
    for each in sorted({n for n in (1, 2, 5, 10, 20) if n < train} | {train}):
        count = 3 * each
        some = TableSplits(Table(whole.x[:count], whole.label[:count]), None, test, name="iris", columns=flowers.columns,
                           names=flowers.names, hashes=flowers.hashes)  # fmt: skip
        objective = Species(flowers.names, unit, curve, ruled["test/accuracy"], count if each == train else 0)
        learned = yield Stage(Learned(whole.x[:count]), some, objective, adam(lr), steps=steps, name=f"learn-{count}")
        curve[count] = learned["test/accuracy"]
    return {"gain": curve[3 * train] - ruled["test/accuracy"]}
