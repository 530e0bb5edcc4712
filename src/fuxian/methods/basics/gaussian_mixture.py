"""Gaussian mixture: points drawn from several Gaussians, whose parameters are found by expectation and maximization.

中文     高斯混合模型与 EM 算法
Paper    Dempster, Laird & Rubin, J. Royal Statistical Society B 39(1), 1977: sec. 4.3 (mixtures), theorem 1 (never lower)
         Bishop, Pattern Recognition and Machine Learning, 2006: eq. 9.23 to 9.28 (both steps), sec. 9.2.2 (k-means first)
         scikit-learn's GaussianMixture: the floor under each variance
Departs  a fixed number of steps in place of a test for convergence. The floor makes a step end beside the maximum: at 1e-6
         the likelihood still never falls, at 0.01 it may, by 3e-5 nats
"""

from collections.abc import Iterator
from math import log, pi
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
from fuxian.metrics.clustering import AdjustedRandIndex

PAPER = Paper("Maximum Likelihood from Incomplete Data via the EM Algorithm", "Dempster, Laird & Rubin", 1977,
              venue="J. Royal Statistical Society B")  # fmt: skip
CLAIMS = [
    Claim("train/ari", 0.904, where="scikit-learn's GaussianMixture on iris", tolerance=0.0005, seeds=5, better="equal"),
    Claim("largest_fall", 0.0, where="Dempster et al., theorem 1: the likelihood never falls", tolerance=1e-9, seeds=5,
          better="lower"),
]  # fmt: skip
QUICK = dict(steps=30)

# Shape letters: N points, F features, K components, S steps.


class GaussianMixture(nn.Module):
    """Points (N, F) to the probabilities (N, K) that they are of each component."""

    weight_K: Tensor
    mean_KF: Tensor
    cov_KFF: Tensor
    whiten_KFF: Tensor  # the inverse of each covariance's Cholesky factor

    def __init__(self, clusters: int, features: int) -> None:
        super().__init__()
        self.register_buffer("weight_K", torch.full((clusters,), 1 / clusters, dtype=torch.float64))
        self.register_buffer("mean_KF", torch.zeros(clusters, features, dtype=torch.float64))
        self.register_buffer("cov_KFF", torch.eye(features, dtype=torch.float64).repeat(clusters, 1, 1))
        self.register_buffer("whiten_KFF", self.cov_KFF.clone())

    def log_joint(self, x_NF: Tensor) -> Tensor:
        """ln of weight · N(x; mean, covariance): (N, K)."""
        white_KNF = (x_NF - self.mean_KF[:, None]) @ self.whiten_KFF.mT
        half_log_det_K = -self.whiten_KFF.diagonal(dim1=1, dim2=2).log().sum(1)
        density_KN = -0.5 * white_KNF.square().sum(2) - (half_log_det_K + 0.5 * x_NF.shape[1] * log(2 * pi))[:, None]
        return self.weight_K.log() + density_KN.T

    def log_likelihood(self, x_NF: Tensor) -> Tensor:
        """ln p(x) (N,), in nats. Eq. 9.28."""
        return self.log_joint(x_NF).logsumexp(1)

    def forward(self, x_NF: Tensor) -> Tensor:
        return self.log_joint(x_NF).softmax(1)  # eq. 9.23

    def maximize(self, x_NF: Tensor, member_NK: Tensor, floor: float) -> None:
        """The parameters that are likeliest, given how much of each point is in each component. Raises WrongInput."""
        count_K = member_NK.sum(0).clamp_min(10 * torch.finfo(x_NF.dtype).eps)
        mean_KF = member_NK.T @ x_NF / count_K[:, None]  # eq. 9.24
        apart_KNF = x_NF - mean_KF[:, None]
        cov_KFF = (apart_KNF * member_NK.T[:, :, None]).mT @ apart_KNF / count_K[:, None, None]  # eq. 9.25
        cov_KFF += floor * torch.eye(x_NF.shape[1]).to(x_NF)
        root_KFF, failed_K = torch.linalg.cholesky_ex(cov_KFF)
        if failed_K.any():
            k = int(failed_K.nonzero()[0, 0])
            raise WrongInput(
                f"the covariance of component {k + 1} is singular: in some direction its points do not differ, and their "
                "likelihood has no bound",
                do="--floor 1e-6, or fewer --clusters",
            )
        self.weight_K.copy_(count_K / count_K.sum())  # eq. 9.26
        self.mean_KF.copy_(mean_KF)
        self.cov_KFF.copy_(cov_KFF)
        self.whiten_KFF.copy_(torch.linalg.inv(root_KFF))


class EM(Objective):
    """Expectation, then maximization; and the likelihood, and where the Gaussians lay, before each step."""

    plane_F2: Tensor
    likelihood_S: Tensor  # mean of ln p, nats; NaN where it has not come yet
    centre_SK2: Tensor  # of each Gaussian, in that plane: of the first two principal components
    spread_SK22: Tensor
    at: Tensor

    def __init__(self, names: tuple[str, ...], model: GaussianMixture, x_NF: Tensor, floor: float, steps: int) -> None:
        self.names, self.floor = names, floor
        clusters, features = model.mean_KF.shape
        plane_F2 = torch.zeros(features, 2, dtype=torch.float64)
        plane_F2[:, : min(2, *x_NF.shape)] = torch.linalg.svd(x_NF - x_NF.mean(0), full_matrices=False).Vh[:2].T
        self.register_buffer("plane_F2", plane_F2)
        self.register_buffer("likelihood_S", torch.full((steps + 1,), torch.nan, dtype=torch.float64))
        self.register_buffer("centre_SK2", torch.zeros(steps + 1, clusters, 2, dtype=torch.float64))
        self.register_buffer("spread_SK22", torch.zeros(steps + 1, clusters, 2, 2, dtype=torch.float64))
        self.register_buffer("at", torch.tensor(0))
        self.note(model, x_NF)

    def inputs(self, batch: Rows) -> tuple[Tensor, ...]:
        return (batch.x,)

    def note(self, model: GaussianMixture, x_NF: Tensor) -> Tensor:
        """Keeps where the model is, and returns its likelihood."""
        self.likelihood_S[self.at] = model.log_likelihood(x_NF).mean()
        self.centre_SK2[self.at] = model.mean_KF @ self.plane_F2
        self.spread_SK22[self.at] = self.plane_F2.T @ model.cov_KFF @ self.plane_F2
        self.at += 1
        return self.likelihood_S[self.at - 1]

    def update(self, model: GaussianMixture, batch: Rows) -> dict[str, Tensor]:
        model.maximize(batch.x, model(batch.x), self.floor)
        return {"log_likelihood": self.note(model, batch.x)}

    def metrics(self, model: GaussianMixture) -> dict[str, Any]:
        return {"ari": AdjustedRandIndex()} if self.names else {}

    def evaluate(self, model: GaussianMixture, batch: Rows) -> Iterator[tuple[Any, ...]]:
        yield "log_likelihood", model.log_likelihood(batch.x)
        if self.names:
            yield "ari", batch.label, model(batch.x).argmax(1)

    def predict(self, model: GaussianMixture, batch: Rows) -> list[dict[str, Any]]:
        best = zip(*(column.tolist() for column in model(batch.x).max(1)), strict=True)
        return [{"component": k + 1, "probability": probability} for probability, k in best]

    def pictures(self, model: Any, split: Any) -> dict[str, Any]:
        """The Gaussians over the points, step by step, in two principal components; and the likelihood along the way."""
        (batch,) = batches(split, None)
        plane_N2, steps = batch.x @ self.plane_F2, int(self.at)
        components = [f"component {k + 1}" for k in range(len(model.weight_K))]
        chosen = sorted({0, *(round((steps - 1) ** (i / 10)) for i in range(11) if steps > 1)})
        found_N = model(batch.x).argmax(1)
        frames = [self.ellipses(plane_N2, found_N, components, step) for step in chosen]
        step_S = torch.arange(steps)
        drawn = {
            "fit": figures.animation(frames) if len(frames) > 1 else frames[0],
            "likelihood": figures.lines({"": (step_S, self.likelihood_S[:steps])}, x="steps of EM",
                                        y="mean log-likelihood of a point, nats"),
        }  # fmt: skip
        if self.names:
            drawn["classes"] = self.ellipses(plane_N2, batch.label, self.names, steps - 1)
        return drawn

    def ellipses(self, plane_N2: Tensor, group_N: Tensor, names: Any, step: int) -> Figure:
        """Points by group, and one and two standard deviations of each Gaussian after so many steps."""
        when = f"after {step} step{'s' * (step != 1)} of EM"
        drawing = figures.scatter(plane_N2, group_N, names, x="first component", y=f"second component, {when}")
        axes = drawing.axes[0]
        low_2, high_2 = plane_N2.aminmax(dim=0)
        margin = 0.12 * float((high_2 - low_2).max()) or 1.0
        (left, bottom), (right, top) = (low_2 - margin).tolist(), (high_2 + margin).tolist()
        axes.set_aspect("equal", adjustable="box")
        axes.set(xlim=(left, right), ylim=(bottom, top))  # the same in each frame
        angle = torch.linspace(0, 2 * pi, 73, dtype=torch.float64)
        circle_2A = torch.stack([angle.cos(), angle.sin()])
        gaussians = zip(self.centre_SK2[step].cpu(), self.spread_SK22[step].cpu(), strict=True)
        for k, (centre_2, spread_22) in enumerate(gaussians):
            size_2, turn_22 = torch.linalg.eigh(spread_22)
            ellipse_2A = turn_22 @ (size_2.clamp_min(0).sqrt()[:, None] * circle_2A)
            for radius, width in ((1, 1.6), (2, 0.8)):
                axes.plot(*(centre_2[:, None] + radius * ellipse_2A), color=figures.PALETTE["ink"], linewidth=width,
                          linestyle=figures.DASHES[k % len(figures.DASHES)])  # fmt: skip
        return drawing


def recipe(
    data: Literal["iris"] | Path = "iris",            # points in a plane or a space, without their classes
    clusters: Annotated[int, Within(1)] = 3,          # K, the Gaussians
    starts: Annotated[int, Within(1)] = 10,           # of k-means, whose best is begun from
    kmeans_steps: Annotated[int, Within(1)] = 30,     # of Lloyd's; iris converges within 20
    steps: Annotated[int, Within(1)] = 60,            # of EM; iris converges within 30
    floor: Annotated[float, Within(0)] = 1e-6,        # added to each variance; scikit-learn's reg_covar
) -> Iterator[Stage]:  # fmt: skip
    points = table(data, whole=True)
    x_NF = points.train.batch(torch.arange(len(points.train))).x
    if clusters > len(x_NF.unique(dim=0)):
        raise WrongInput(f"--clusters {clusters}: {points.name} has {len(x_NF.unique(dim=0))} different points")
    kmeans = KMeans(torch.stack([plus_plus(x_NF, clusters) for _ in range(starts)]))
    yield Stage(kmeans, points, Lloyd(points.names), steps=kmeans_steps, name="k-means")
    nearest_N = kmeans(x_NF.to(kmeans.centre_SKF.device)).cpu()
    model = GaussianMixture(clusters, points.features)
    model.maximize(x_NF, nn.functional.one_hot(nearest_N, clusters).double(), floor)
    em = EM(points.names, model, x_NF, floor, steps)
    yield Stage(model, points, em, steps=steps, name="mixture")
    likelihood_S = em.likelihood_S[: em.at]
    return {"largest_fall": max(0.0, float((likelihood_S[:-1] - likelihood_S[1:]).max()))}
