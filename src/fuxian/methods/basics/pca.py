"""Principal components: the few directions in which points differ most, and what can be told from those alone.

中文     主成分分析
Paper    Pearson, Philosophical Magazine 2(11), 1901: lines and planes of closest fit
         Golub & Van Loan, Matrix Computations, 4th ed., 2013: sec. 8.2.4 (orthogonal iteration; here of the covariance)
         LeCun et al., Proc. IEEE 86(11), 1998: sec. III.C.3 (40 components, then a polynomial in 821 terms)
         the notes, on sorting data: draw it by its features; else by its components; without classes, cluster first
Departs  LeCun et al. do not say how the polynomial is fitted; here by least squares against one-hot classes. It is of
         projections that keep their mean, as their text reads: of centred ones, 821 terms err in 3.9 % of the images
"""

from collections.abc import Iterator
from itertools import combinations
from math import isqrt
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
from matplotlib.figure import Figure
from torch import Tensor, nn

from fuxian import figures
from fuxian.contract import Objective, Stage
from fuxian.data.tabular import Rows, table
from fuxian.errors import WrongInput
from fuxian.evaluation import batches
from fuxian.facts import Claim, Paper, Within
from fuxian.methods.basics.kmeans import KMeans, Lloyd, plus_plus

PAPER = Paper(
    "On Lines and Planes of Closest Fit to Systems of Points in Space", "Pearson", 1901, venue="Philosophical Magazine"
)
CLAIMS = [  # of iris exact: tolerances are half of the last digit
    Claim("explained_1", 0.9246, where="scikit-learn's PCA on iris, first component", tolerance=5e-5, seeds=3,
          better="equal"),
    Claim("explained_2", 0.0531, where="scikit-learn's PCA on iris, second component", tolerance=5e-5, seeds=3,
          better="equal"),
    # an error of 3.3 % counted on 10,000 images has a standard error of 0.18 %
    Claim("test/error", 0.033, where="LeCun et al. 1998, Fig. 9: 40 PCA + quadratic", tolerance=0.002, seeds=1,
          better="lower", knobs=dict(data="mnist", components=40, steps=300)),
]  # fmt: skip
QUICK = dict(data="digits", components=10, steps=20)

# Shape letters: N points, F features, D components, T terms of the polynomial, C classes.


def covariance(x_NF: Tensor) -> Tensor:
    """(F, F)"""
    apart_NF = x_NF - x_NF.mean(0)
    return apart_NF.T @ apart_NF / (len(x_NF) - 1)


class PCA(nn.Module):
    """Points (N, F) to their components (N, D), of the largest variance first."""

    mean_F: Tensor
    axes_FD: Tensor
    variance_D: Tensor
    total: Tensor

    def __init__(self, mean_F: Tensor, cov_FF: Tensor, components: int) -> None:
        super().__init__()
        start_FD = torch.linalg.qr(torch.randn(len(mean_F), components, dtype=mean_F.dtype)).Q
        self.register_buffer("mean_F", mean_F)
        self.register_buffer("axes_FD", start_FD)
        self.register_buffer("variance_D", (start_FD * (cov_FF @ start_FD)).sum(0))
        self.register_buffer("total", cov_FF.trace())

    @property
    def explained_D(self) -> Tensor:
        """The share of all variance that each component has."""
        return self.variance_D / self.total

    def forward(self, x_NF: Tensor) -> Tensor:
        return x_NF @ self.axes_FD - self.mean_F @ self.axes_FD


class OrthogonalIteration(Objective):
    """Axes that are multiplied by the covariance and made orthonormal again turn into its first eigenvectors.

    The error of axis d shrinks by λ_{D+1} / λ_d in each step.
    """

    cov_FF: Tensor

    def __init__(self, cov_FF: Tensor, names: tuple[str, ...], columns: tuple[str, ...]) -> None:
        self.names, self.columns = names, columns
        self.register_buffer("cov_FF", cov_FF)

    def inputs(self, batch: Rows) -> tuple[Tensor, ...]:
        return (batch.x,)

    def update(self, model: PCA, batch: Rows) -> dict[str, Tensor]:
        plane_FD = torch.linalg.qr(self.cov_FF @ model.axes_FD).Q
        variance_D, turn_DD = torch.linalg.eigh(plane_FD.T @ self.cov_FF @ plane_FD)  # Rayleigh-Ritz, sec. 8.2.4
        model.axes_FD.copy_(plane_FD @ turn_DD.flip(1))
        model.variance_D.copy_(variance_D.flip(0))
        largest_1D = model.axes_FD.gather(0, model.axes_FD.abs().argmax(0, keepdim=True))
        model.axes_FD.mul_(largest_1D.sign())  # so that the sign is no matter of chance
        return {"explained": model.explained_D.sum()}

    def evaluate(self, model: PCA, batch: Rows) -> Iterator[tuple[str, Tensor]]:
        lost_NF = batch.x - model.mean_F - model(batch.x) @ model.axes_FD.T
        yield "residual", lost_NF.square().sum(1)

    def predict(self, model: PCA, batch: Rows) -> list[dict[str, Any]]:
        return [{f"component {d + 1}": value for d, value in enumerate(row)} for row in model(batch.x).tolist()]

    def pictures(self, model: Any, split: Any) -> dict[str, Any]:
        """The notes' advice, in its order: by pairs of features, by two components, by clusters found without a class."""
        (batch,) = batches(split, None)
        x_NF, z_ND, label_N = batch.x.cpu(), model(batch.x).cpu(), batch.label.clamp_min(0).cpu()
        names = self.names or ("points",)
        share = [f"{100 * part:.1f} % of the variance" for part in model.explained_D]
        drawn: dict[str, Any] = {}
        if few := 2 <= len(self.columns) <= 6:
            drawn["1-features"] = pairs(x_NF, label_N, names, self.columns)
        if z_ND.shape[1] > 1:
            x, y = (f"component {d + 1}, {share[d]}" for d in range(2))
            plane_N2 = z_ND[:2000, :2]  # more make a picture heavy, and no clearer
            drawn["2-components"] = figures.scatter(plane_N2, label_N[:2000], names, x=x, y=y)
            if few:
                count = min(len(self.names) or 3, len(x_NF.unique(dim=0)))
                found = [f"cluster {k + 1}" for k in range(count)]
                drawn["3-clusters"] = figures.scatter(plane_N2, clusters(x_NF, count)[:2000], found, x=x, y=y)
        if z_ND.shape[1] > 2:
            shares = model.explained_D.cumsum(0).cpu()
            drawn["variance"] = figures.lines({"": (torch.arange(1, len(shares) + 1), shares)}, x="components",
                                              y="share of the variance")  # fmt: skip
        if self.columns[0].startswith("pixel"):
            side = isqrt(len(self.columns))
            axis_D1HW = model.axes_FD.T[:20].reshape(-1, 1, side, side).cpu()
            largest_D = axis_D1HW.abs().amax((1, 2, 3), keepdim=True)
            said = [part.partition(" of")[0] for part in share[:20]]
            drawn["axes"] = figures.labelled_images(0.5 - axis_D1HW / (2 * largest_D), said, columns=5)
        return drawn


def clusters(x_NF: Tensor, count: int) -> Tensor:
    """Clusters (N,) of k-means, the best of ten starts."""
    model, rows = KMeans(torch.stack([plus_plus(x_NF, count) for _ in range(10)])), Rows(x_NF, torch.zeros(len(x_NF)))
    for _ in range(30):
        Lloyd(()).update(model, rows)
    return model(x_NF)


def pairs(x_NF: Tensor, label_N: Tensor, names: tuple[str, ...], columns: tuple[str, ...]) -> Figure:
    """Every pair of features against each other; a marker and a colour for each class."""
    couples = list(combinations(range(len(columns)), 2))
    drawing, panels = figures.panels([(columns[a], columns[b]) for a, b in couples])
    for axes, couple in zip(panels, couples, strict=True):
        for k, name in enumerate(names):
            mark, colour = figures.MARKS[k % len(figures.MARKS)], figures.PALETTE[figures.SERIES[k % len(figures.SERIES)]]
            axes.plot(*x_NF[label_N == k][:, couple].T, mark, color=colour, label=name, markersize=3,
                      markerfacecolor="none", markeredgewidth=0.7)  # fmt: skip
    return figures.named(drawing)


# ── a classifier on top ─────────────────────────────────────────────────────────────────────────────────────────────


class Quadratic(nn.Module):
    """Points (N, F) to scores (N, C): linear in 1 and in all D (D + 1) / 2 products of two projections; 821 of 40."""

    weight_TC: Tensor

    def __init__(self, pca: PCA, classes: int) -> None:
        super().__init__()
        self.pca = pca
        self.components = pca.axes_FD.shape[1]
        terms = 1 + self.components * (self.components + 1) // 2
        self.register_buffer("weight_TC", torch.zeros(terms, classes, dtype=torch.float64))

    def terms(self, x_NF: Tensor) -> Tensor:
        """(N, T), float64"""
        z_ND = (x_NF @ self.pca.axes_FD).double()  # the mean was taken off to find the axes: sec. III.C.3
        row, column = torch.triu_indices(self.components, self.components, device=z_ND.device).unbind(0)
        return torch.cat([torch.ones_like(z_ND[:, :1]), z_ND[:, row] * z_ND[:, column]], 1)

    def forward(self, x_NF: Tensor) -> Tensor:
        return self.terms(x_NF) @ self.weight_TC


class LeastSquares(Objective):
    """Weights of the least sum of squares against one-hot classes, from sums over all batches so far."""

    gram_TT: Tensor
    moment_TC: Tensor

    def __init__(self, model: Quadratic, names: tuple[str, ...]) -> None:
        self.names = names
        terms, classes = model.weight_TC.shape
        self.register_buffer("gram_TT", torch.zeros(terms, terms, dtype=torch.float64))
        self.register_buffer("moment_TC", torch.zeros(terms, classes, dtype=torch.float64))

    def inputs(self, batch: Rows) -> tuple[Tensor, ...]:
        return (batch.x,)

    def update(self, model: Quadratic, batch: Rows) -> dict[str, Tensor]:
        t_NT = model.terms(batch.x)
        self.gram_TT += t_NT.T @ t_NT
        self.moment_TC += t_NT.T @ nn.functional.one_hot(batch.label, len(self.names)).double()
        inverse_TT = torch.linalg.pinv(self.gram_TT, hermitian=True)  # of the least norm, where points are too few
        model.weight_TC.copy_(inverse_TT @ self.moment_TC)
        return {"error": (model(batch.x).argmax(1) != batch.label).double().mean()}

    def evaluate(self, model: Quadratic, batch: Rows) -> Iterator[tuple[str, Tensor]]:
        yield "error", (model(batch.x).argmax(1) != batch.label).double()

    def predict(self, model: Quadratic, batch: Rows) -> list[dict[str, Any]]:
        best = zip(*(column.tolist() for column in model(batch.x).max(1)), strict=True)
        return [{"class": self.names[k], "score": score} for score, k in best]

    def pictures(self, model: Any, split: Any) -> dict[str, Any]:
        count = len(self.names)
        cell = torch.cat([batch.label * count + model(batch.x).argmax(1) for batch in batches(split, 2000)])
        return {"confusion": figures.confusion(torch.bincount(cell, minlength=count**2).view(count, count), self.names)}


def recipe(
    data: Literal["iris", "mnist", "fashion-mnist", "digits"] | Path = "iris",  # points, with or without their classes
    components: Annotated[int, Within(1)] = 2,        # D; LeCun et al. take 40
    steps: Annotated[int, Within(1)] = 50,            # of orthogonal iteration; iris converges within 20
    batch: int = 10_000,                              # points at a time, for the classifier
) -> Iterator[Stage]:  # fmt: skip
    points = table(data, whole=True)
    x_NF = points.train.batch(torch.arange(len(points.train))).x
    most = min(len(x_NF) - 1, points.features)
    if components > most:
        raise WrongInput(f"--components {components}: {len(x_NF)} points of {points.features} numbers have at most {most}")
    cov_FF = covariance(x_NF)
    if float(cov_FF.trace()) == 0:
        raise WrongInput(f"all points of {points.name} are the same: there is no direction in which they differ")
    model = PCA(x_NF.mean(0), cov_FF, components)
    finding = OrthogonalIteration(cov_FF, points.names, points.columns)
    yield Stage(model, points, finding, steps=steps, name="components")
    if points.classes > 1:
        classifier = Quadratic(model, points.classes)
        yield Stage(classifier, points, LeastSquares(classifier, points.names), epochs=1, batch=batch, name="classifier")
    return {f"explained_{d + 1}": share for d, share in enumerate(model.explained_D[:3].tolist())}
