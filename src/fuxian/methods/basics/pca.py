"""Principal components: the few directions in which points differ most, and what can be told from those alone.

中文     主成分分析
Paper    Pearson, Philosophical Magazine 2(11), 1901: lines and planes of closest fit
         Hotelling, Journal of Educational Psychology 24, 1933: sec. 4 (by iteration), here on all components at once:
         Golub & Van Loan, Matrix Computations, 4th ed.: sec. 8.2.4 (orthogonal iteration, Rayleigh-Ritz)
         LeCun et al., Proc. IEEE 86(11), 1998: sec. III.C.3 (40 components and a polynomial of the second degree)
         the notes, to look at data: draw by features first; else by components; without classes, cluster first
Departs  the polynomial keeps the components themselves beside their products, and is fitted by least squares
"""

from collections.abc import Iterator
from itertools import combinations
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
from fuxian.objectives.classification import ranked

PAPER = Paper(
    "On Lines and Planes of Closest Fit to Systems of Points in Space", "Pearson", 1901, venue="Philosophical Magazine"
)
CLAIMS = [
    Claim("explained_1", 0.9246, where="scikit-learn's PCA on iris, first component", tolerance=0.0001, seeds=3),
    Claim("explained_2", 0.0531, where="scikit-learn's PCA on iris, second component", tolerance=0.0001, seeds=3),
    # an error of 3.3 % counted on 10,000 images has a standard error of 0.18 %
    Claim("test/error", 0.033, where="LeCun et al., Fig. 9: 40 PCA + quadratic", tolerance=0.002, seeds=1, better="lower",
          knobs=dict(data="mnist", components=40, steps=100)),
]  # fmt: skip
QUICK = dict(data="digits-halves", components=10, steps=20)

# Shape letters: N points, F features, D components, T terms of the polynomial, C classes.


class PCA(nn.Module):
    """Points (N, F) to their components (N, D), of the largest variance first."""

    mean_F: Tensor
    axes_FD: Tensor
    variance_D: Tensor
    total: Tensor

    def __init__(self, x_NF: Tensor, components: int) -> None:
        super().__init__()
        self.register_buffer("mean_F", x_NF.mean(0))
        self.register_buffer("axes_FD", torch.linalg.qr(torch.randn(x_NF.shape[1], components, dtype=x_NF.dtype)).Q)
        self.register_buffer("variance_D", (x_NF @ self.axes_FD).var(0))
        self.register_buffer("total", x_NF.var(0).sum())

    @property
    def explained_D(self) -> Tensor:
        """The share of all variance that each component has."""
        return self.variance_D / self.total

    def forward(self, x_NF: Tensor) -> Tensor:
        return x_NF @ self.axes_FD - self.mean_F @ self.axes_FD


class OrthogonalIteration(Objective):
    """The axes, multiplied by the covariance and made orthonormal again, turn into its first eigenvectors.

    What is left of an error in component d shrinks by λ_{D+1} / λ_d in each step.
    """

    def __init__(self, names: tuple[str, ...], columns: tuple[str, ...]) -> None:
        self.names, self.columns = names, columns

    def inputs(self, batch: Rows) -> tuple[Tensor, ...]:
        return (batch.x,)

    def update(self, model: PCA, batch: Rows) -> dict[str, Tensor]:
        product_FD = batch.x.T @ model(batch.x)  # centred on one side is enough: its columns sum to zero
        model.axes_FD.copy_(torch.linalg.qr(product_FD).Q)
        z_ND = model(batch.x)
        variance_D, turn_DD = torch.linalg.eigh(z_ND.T @ z_ND / max(1, len(z_ND) - 1))  # Rayleigh-Ritz
        model.axes_FD.copy_(model.axes_FD @ turn_DD.flip(1))
        model.variance_D.copy_(variance_D.flip(0))
        largest_D = model.axes_FD.gather(0, model.axes_FD.abs().argmax(0, keepdim=True))
        model.axes_FD.mul_(largest_D.sign())  # so that the sign is no matter of chance
        return {"explained": model.explained_D.sum()}

    def evaluate(self, model: PCA, batch: Rows) -> Iterator[tuple[str, Tensor]]:
        lost_NF = batch.x - model.mean_F - model(batch.x) @ model.axes_FD.T
        yield "residual", lost_NF.square().sum(1)

    def pictures(self, model: Any, split: Any) -> dict[str, Any]:
        """The notes' advice, in its order: by pairs of features, by two components, by clusters found without a class."""
        (batch,) = batches(split, None)
        names = self.names or ("points",)
        label = batch.label.clamp_min(0)
        z_ND = model(batch.x)
        drawn: dict[str, Any] = {}
        if 2 <= len(self.columns) <= 6:
            drawn["1-features"] = pairs(batch.x, label, self.columns)
        if z_ND.shape[1] > 1:
            share = [f"component {d + 1}, {100 * model.explained_D[d]:.1f} % of the variance" for d in range(2)]
            some = z_ND[:3000, :2], label[:3000]
            drawn["2-components"] = figures.scatter(*some, names, x=share[0], y=share[1])
            drawn["3-clusters"] = figures.scatter(some[0], clusters(batch.x[:3000], max(3, len(self.names))),
                                                  [f"cluster {k + 1}" for k in range(max(3, len(self.names)))],
                                                  x=share[0], y=share[1])  # fmt: skip
        return drawn


def clusters(x_NF: Tensor, count: int) -> Tensor:
    """Clusters (N,) of k-means, the best of ten starts."""
    if len(x_NF.unique(dim=0)) < count:
        return torch.zeros(len(x_NF), dtype=torch.int64)
    model = KMeans(torch.stack([plus_plus(x_NF, count) for _ in range(10)]))
    for _ in range(30):
        Lloyd(()).update(model, Rows(x_NF, x_NF[:, 0]))
    return model(x_NF)


def pairs(x_NF: Tensor, label_N: Tensor, columns: tuple[str, ...]) -> Figure:
    """Every pair of features against each other; a marker and a colour for each class."""
    couples = list(combinations(range(len(columns)), 2))
    across = min(3, len(couples))
    down = -(-len(couples) // across)
    drawing, first = figures.figure(height=40 + 140 * down)
    first.remove()
    for i, (a, b) in enumerate(couples):
        axes = drawing.add_subplot(down, across, i + 1)
        for k, marker in zip(label_N.unique().tolist(), "os^vDPX*", strict=False):
            axes.plot(x_NF[label_N == k, a], x_NF[label_N == k, b], marker, markersize=2.5, alpha=0.7,
                      color=figures.PALETTE[figures.SERIES[k % 8]])  # fmt: skip
        axes.set_title(columns[b], loc="left", fontsize=9, color=figures.PALETTE["soft"])
        axes.set_xlabel(columns[a], loc="right", fontsize=9, color=figures.PALETTE["soft"])
        axes.spines[["left", "right", "top"]].set_visible(False)
        axes.tick_params(labelsize=8, length=0, labelcolor=figures.PALETTE["soft"])
    return drawing


# ── a classifier on top ─────────────────────────────────────────────────────────────────────────────────────────────


class Quadratic(nn.Module):
    """Points (N, F) to scores (N, C): linear in 1, the D components and their D (D + 1) / 2 products. Sec. III.C.3."""

    weight_TC: Tensor

    def __init__(self, pca: PCA, classes: int) -> None:
        super().__init__()
        self.pca = pca
        self.components = pca.axes_FD.shape[1]
        terms = 1 + self.components + self.components * (self.components + 1) // 2
        self.register_buffer("weight_TC", torch.zeros(terms, classes, dtype=torch.float64))

    def terms(self, x_NF: Tensor) -> Tensor:
        """(N, T), float64"""
        z_ND = self.pca(x_NF).double()
        row, column = torch.triu_indices(self.components, self.components, device=z_ND.device).unbind(0)
        return torch.cat([torch.ones_like(z_ND[:, :1]), z_ND, z_ND[:, row] * z_ND[:, column]], 1)

    def forward(self, x_NF: Tensor) -> Tensor:
        return self.terms(x_NF) @ self.weight_TC


class LeastSquares(Objective):
    """Weights of the least sum of squares against one-hot classes, from sums over all batches seen so far."""

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
        return ranked(model(batch.x).clamp(0, 1), self.names)

    def pictures(self, model: Any, split: Any) -> dict[str, Any]:
        count = len(self.names)
        pair = [(batch.label, model(batch.x).argmax(1)) for batch in batches(split, 2000)]
        label, guess = (torch.cat(column) for column in zip(*pair, strict=True))
        matrix = torch.bincount(label * count + guess, minlength=count**2).view(count, count)
        return {"confusion": figures.confusion(matrix, self.names)}


def recipe(
    data: Literal["iris", "digits-halves", "mnist"] | Path = "iris",  # points in a space, with or without their classes
    components: Annotated[int, Within(1)] = 2,        # D; LeCun et al. take 40
    steps: Annotated[int, Within(1)] = 50,            # of orthogonal iteration; iris converges within 20
    batch: int = 10_000,                              # points at a time, for the classifier
) -> Iterator[Stage]:  # fmt: skip
    points = table(data, whole=True)
    x_NF = points.train.batch(torch.arange(len(points.train))).x
    most = min(len(x_NF) - 1, points.features)
    if components > most:
        raise WrongInput(f"--components {components}: {len(x_NF)} points of {points.features} numbers have at most {most}")
    if float(x_NF.var(0).sum()) == 0:
        raise WrongInput(f"all points of {points.name} are the same: there is no direction in which they differ")
    model = PCA(x_NF, components)
    yield Stage(model, points, OrthogonalIteration(points.names, points.columns), steps=steps, name="components")
    if points.classes > 1:
        classifier = Quadratic(model, points.classes)
        yield Stage(classifier, points, LeastSquares(classifier, points.names), epochs=1, batch=batch, name="classifier")
    return {f"explained_{d + 1}": float(share) for d, share in enumerate(model.explained_D[:3])}
