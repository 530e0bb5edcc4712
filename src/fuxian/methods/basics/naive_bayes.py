"""Naive Bayes: what each class looks like, feature by feature, and Bayes' theorem to turn that round.

中文     贝叶斯定理与朴素贝叶斯
Source   the notes, what a VAE stands on: Bayes' theorem
         Hastie, Tibshirani & Friedman, The Elements of Statistical Learning, 2009: eq. 6.26 (features that do not depend)
         Chan, Golub & LeVeque, Updating Formulae and a Pairwise Algorithm for Computing Sample Variances,
         Stanford STAN-CS-79-773, 1979: the general formula (mean and sum of squares of two samples together)
         scikit-learn's GaussianNB: a small share of the largest variance is added to every one
Departs  that largest variance is of all rows so far; scikit-learn's partial_fit takes it from its last rows alone
"""

from collections.abc import Iterator
from math import isqrt, pi
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
from matplotlib.figure import Figure
from torch import Tensor, nn

from fuxian import figures
from fuxian.contract import Objective, Stage
from fuxian.data.tabular import Rows, table
from fuxian.evaluation import batches
from fuxian.facts import Claim, Within
from fuxian.objectives.classification import ranked

PAPER = None
SOURCE = "the notes, what a VAE stands on: Bayes' theorem"
CLAIMS = [
    Claim("test/error", 0.0533, where="scikit-learn's user guide, naive Bayes: 4 of 75 irises", tolerance=5e-5, seeds=3,
          better="equal"),
    Claim("cab", 0.4138, where="Tversky & Kahneman 1982: the cab was blue, 12/29", tolerance=5e-5, seeds=1, better="equal"),
    Claim("test/error", None, where="nobody publishes it: pixels of MNIST, which do depend on each other", seeds=1,
          better="lower", knobs=dict(data="mnist", batch=10_000)),
]  # fmt: skip
QUICK = dict(data="digits", batch=50)

# Shape letters: N rows, F features, C classes.


def posterior(log_prior_C: Tensor, log_likelihood_NC: Tensor) -> Tensor:
    """P(class | x) = P(class) p(x | class) / Σ P(class) p(x | class): (N, C). Bayes' theorem, of logarithms."""
    return (log_prior_C + log_likelihood_NC).softmax(-1)


def cab(blue_N: Tensor) -> Tensor:
    """P(blue | a witness says blue) (N,), where a share `blue_N` of cabs is blue and four words of his in five are true."""
    log_prior_N2 = torch.stack([blue_N, 1 - blue_N], 1).log()
    return posterior(log_prior_N2, blue_N.new_tensor([0.8, 0.2]).log())[:, 0]


class NaiveBayes(nn.Module):
    """A Gaussian of each feature in each class. Rows (N, F) to the probabilities of their classes (N, C)."""

    count_C: Tensor
    mean_CF: Tensor
    squares_CF: Tensor  # sums of squared distances to the mean

    def __init__(self, classes: int, features: int, smoothing: float) -> None:
        super().__init__()
        self.smoothing = smoothing
        self.register_buffer("count_C", torch.zeros(classes, dtype=torch.float64))
        self.register_buffer("mean_CF", torch.zeros(classes, features, dtype=torch.float64))
        self.register_buffer("squares_CF", torch.zeros(classes, features, dtype=torch.float64))

    @property
    def variance_CF(self) -> Tensor:
        """Of each class about its own mean; `smoothing` times the largest of all rows is added, so that none is zero."""
        count_C1, rows = self.count_C[:, None], self.count_C.sum()
        mean_F = (count_C1 * self.mean_CF).sum(0) / rows
        whole_F = (self.squares_CF + count_C1 * (self.mean_CF - mean_F).square()).sum(0) / rows
        floor = (self.smoothing * whole_F.max()).clamp_min(torch.finfo(whole_F.dtype).tiny ** 0.5)  # x²/σ² is finite
        return self.squares_CF / count_C1.clamp_min(1) + floor

    def log_likelihood(self, x_NF: Tensor) -> Tensor:
        """ln p(x | class) (N, C): a sum over features, as if none depended on another. Eq. 6.26."""
        each_C = zip(self.mean_CF, self.variance_CF, strict=True)  # one at a time: (N, C, F) would be large
        return torch.stack(
            [-0.5 * (x_NF - mean_F).square_().div_(var_F).add_((2 * pi * var_F).log()).sum(1) for mean_F, var_F in each_C],
            1,
        )

    def forward(self, x_NF: Tensor) -> Tensor:
        return posterior((self.count_C / self.count_C.sum()).log(), self.log_likelihood(x_NF))


class Counting(Objective):
    """Counts, means and sums of squares of the rows so far: each row is seen once, in any order."""

    def __init__(self, names: tuple[str, ...], columns: tuple[str, ...]) -> None:
        self.names, self.columns = names, columns

    def inputs(self, batch: Rows) -> tuple[Tensor, ...]:
        return (batch.x,)

    def update(self, model: NaiveBayes, batch: Rows) -> dict[str, Tensor]:
        seen_C1, zero_CF = model.count_C[:, None], torch.zeros_like(model.mean_CF)
        new_C1 = torch.bincount(batch.label, minlength=len(seen_C1))[:, None].to(batch.x)
        mean_CF = zero_CF.index_add(0, batch.label, batch.x) / new_C1.clamp_min(1)
        squares_CF = zero_CF.index_add(0, batch.label, (batch.x - mean_CF[batch.label]).square())
        share_C1 = new_C1 / (seen_C1 + new_C1).clamp_min(1)
        apart_CF = mean_CF - model.mean_CF
        model.squares_CF += squares_CF + apart_CF.square() * seen_C1 * share_C1  # Chan et al.
        model.mean_CF += apart_CF * share_C1
        model.count_C += new_C1[:, 0]
        return {"error": (model(batch.x).argmax(1) != batch.label).double().mean()}

    def evaluate(self, model: NaiveBayes, batch: Rows) -> Iterator[tuple[str, Tensor]]:
        yield "error", (model(batch.x).argmax(1) != batch.label).double()

    def predict(self, model: NaiveBayes, batch: Rows) -> list[dict[str, Any]]:
        return ranked(model(batch.x), self.names)

    def pictures(self, model: Any, split: Any) -> dict[str, Any]:
        """Bayes' theorem in a curve; what a class looks like to the model; where it is mistaken."""
        count = len(self.names)
        cell_N = torch.cat([batch.label * count + model(batch.x).argmax(1) for batch in batches(split, 1000)])
        drawn = {
            "theorem": base_rates(),
            "confusion": figures.confusion(torch.bincount(cell_N, minlength=count**2).view(count, count), self.names),
        }
        if len(self.columns) <= 6:
            drawn["densities"] = self.densities(model)
        elif self.columns[0].startswith("pixel") and (side := isqrt(len(self.columns))) ** 2 == len(self.columns):
            mean_C1HW = model.mean_CF.view(count, 1, side, side).cpu()
            drawn["means"] = figures.labelled_images(1 - mean_C1HW, self.names, columns=5)
        return drawn

    def densities(self, model: NaiveBayes) -> Figure:
        """Each feature's Gaussian in each class."""
        drawing, panels = figures.panels([(column, "density") for column in self.columns], across=2)
        mean_CF, std_CF = model.mean_CF.cpu(), model.variance_CF.sqrt().cpu()
        for f, axes in enumerate(panels):
            low, high = (mean_CF - 3 * std_CF)[:, f].min(), (mean_CF + 3 * std_CF)[:, f].max()
            x = torch.linspace(float(low), float(high), 201, dtype=torch.float64)
            for c, name in enumerate(self.names):
                density = torch.distributions.Normal(mean_CF[c, f], std_CF[c, f]).log_prob(x).exp()
                axes.plot(x, density, color=figures.PALETTE[figures.SERIES[c % len(figures.SERIES)]], label=name,
                          linestyle=figures.DASHES[c % len(figures.DASHES)])  # fmt: skip
        return figures.named(drawing)


def base_rates() -> Figure:
    """What a witness who is right four times in five makes certain, by how rare a thing is."""
    share = torch.linspace(0, 1, 101, dtype=torch.float64)[1:-1]
    drawing, axes = figures.figure()
    axes.plot(share, cab(share), color=figures.PALETTE["blue"])
    axes.plot([0, 1], [0.8, 0.8], color=figures.PALETTE["soft"], linestyle=figures.DASHES[1], linewidth=1)
    at, says = 0.15, float(cab(share.new_tensor([0.15])))
    axes.plot(at, says, "o", color=figures.PALETTE["blue"])
    axes.annotate(f"15 % blue: {says:.2f}", (at, says), (10, -4), textcoords="offset points")
    axes.annotate("how often the witness is right", (1, 0.8), (0, -14), ha="right", textcoords="offset points",
                  color=figures.PALETTE["soft"])  # fmt: skip
    axes.set_title("probability that a cab seen as blue is blue", loc="left", fontsize=12, color=figures.PALETTE["soft"])
    axes.set_xlabel("share of blue cabs", loc="right")
    return drawing


def recipe(
    data: Literal["iris-halves", "digits", "mnist", "fashion-mnist"] | Path = "iris-halves",  # rows with a class each
    smoothing: Annotated[float, Within(0, 1)] = 1e-9,  # of the largest variance, added to all; scikit-learn's
    batch: int = 25,                                   # rows at a time; the result is the same for any
) -> Iterator[Stage]:  # fmt: skip
    rows = table(data)
    model = NaiveBayes(rows.classes, rows.features, smoothing)
    yield Stage(model, rows, Counting(rows.names, rows.columns), epochs=1, batch=batch)
    return {"cab": float(cab(torch.tensor([0.15], dtype=torch.float64)))}
