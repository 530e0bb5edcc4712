"""k-means: points are grouped around the centres that they are nearest to.

中文     K 均值聚类
Paper    Lloyd, IEEE Trans. Inf. Theory 28(2), 1982: method I (assign, then average)
         Arthur & Vassilvitskii, SODA 2007: sec. 2.2 (k-means++, the starting centres)
Departs  a fixed number of steps in place of a test for convergence; a cluster without points keeps its centre
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
from torch import Tensor, nn

from fuxian import figures
from fuxian.contract import Objective, Stage
from fuxian.data.tabular import Rows, table
from fuxian.errors import WrongInput
from fuxian.evaluation import batches
from fuxian.facts import Claim, Paper, Within
from fuxian.metrics.clustering import AdjustedRandIndex, Total

PAPER = Paper("Least Squares Quantization in PCM", "Lloyd", 1982, venue="IEEE Trans. Inf. Theory")
CLAIMS = [  # a second optimum lies 0.004 above in inertia: the tolerance tells them apart
    Claim("train/inertia", 78.8514, where="scikit-learn's KMeans on iris", tolerance=0.001, seeds=5, better="lower"),
    Claim("train/ari", 0.730, where="scikit-learn's KMeans on iris", tolerance=0.001, seeds=5),
]
QUICK = dict(steps=30)

# Shape letters: N points, F features, K clusters, S starts.


def squared_distances(x_NF: Tensor, centre_SKF: Tensor) -> Tensor:
    """(S, N, K)"""
    return (x_NF[None, :, None] - centre_SKF[:, None]).square().sum(-1)


def plus_plus(x_NF: Tensor, clusters: int) -> Tensor:
    """Starting centres (K, F): each next one is a point drawn in proportion to its squared distance, sec. 2.2, step 1b."""
    centre_KF = x_NF[torch.randint(len(x_NF), (1,))]
    for _ in range(clusters - 1):
        nearest_N = squared_distances(x_NF, centre_KF[None])[0].min(1).values
        centre_KF = torch.cat([centre_KF, x_NF[torch.multinomial(nearest_N, 1)]])
    return centre_KF


class KMeans(nn.Module):
    """Several starts side by side; the one of least inertia is the model. Points (N, F) to clusters (N,)."""

    centre_SKF: Tensor
    inertia_S: Tensor

    def __init__(self, centre_SKF: Tensor) -> None:
        super().__init__()
        self.register_buffer("centre_SKF", centre_SKF)
        self.register_buffer("inertia_S", torch.full_like(centre_SKF[:, 0, 0], torch.inf))

    def distances(self, x_NF: Tensor) -> Tensor:
        """Squared distances (N, K) to the centres of the best start."""
        best_1KF = self.centre_SKF[self.inertia_S.argmin()][None]
        return squared_distances(x_NF, best_1KF)[0]

    def forward(self, x_NF: Tensor) -> Tensor:
        return self.distances(x_NF).argmin(1)


class Lloyd(Objective):
    """The sum of squared distances to the nearest centre, made smaller by two averages in turn.

    `names` are the known classes, which the clusters are only compared with; there may be none.
    """

    def __init__(self, names: tuple[str, ...]) -> None:
        self.names = names

    def inputs(self, batch: Rows) -> tuple[Tensor, ...]:
        return (batch.x,)

    def update(self, model: KMeans, batch: Rows) -> dict[str, Tensor]:
        nearest_SN = squared_distances(batch.x, model.centre_SKF).argmin(2)
        member_SNK = nn.functional.one_hot(nearest_SN, model.centre_SKF.shape[1]).to(batch.x)
        count_SK1 = member_SNK.sum(1).unsqueeze(2)
        mean_SKF = member_SNK.transpose(1, 2) @ batch.x / count_SK1.clamp_min(1)
        model.centre_SKF.copy_(torch.where(count_SK1 > 0, mean_SKF, model.centre_SKF))
        model.inertia_S.copy_(squared_distances(batch.x, model.centre_SKF).min(2).values.sum(1))
        return {"inertia": model.inertia_S.min()}

    def metrics(self, model: KMeans) -> dict[str, Any]:
        return {"inertia": Total()} | ({"ari": AdjustedRandIndex()} if self.names else {})

    def evaluate(self, model: KMeans, batch: Rows) -> Iterator[tuple[Any, ...]]:
        yield "inertia", model.distances(batch.x).min(1).values
        if self.names:
            yield "ari", batch.label, model(batch.x)

    def predict(self, model: KMeans, batch: Rows) -> list[dict[str, Any]]:
        nearest_N = model.distances(batch.x).min(1)
        return [
            {"cluster": k + 1, "distance": square**0.5}
            for square, k in zip(*(column.tolist() for column in nearest_N), strict=True)
        ]

    def pictures(self, model: Any, split: Any) -> dict[str, Any]:
        """The clusters and the known classes in the first two principal components."""
        (batch,) = batches(split, None)
        _, _, axes_FF = torch.linalg.svd(batch.x - batch.x.mean(0), full_matrices=False)
        plane_N2 = (batch.x - batch.x.mean(0)) @ axes_FF[:2].T
        clusters = [f"cluster {k + 1}" for k in range(model.centre_SKF.shape[1])]
        drawn = {"clusters": figures.scatter(plane_N2, model(batch.x), clusters)}
        if self.names:
            drawn["classes"] = figures.scatter(plane_N2, batch.label, self.names)
        return drawn


def recipe(
    data: Literal["iris"] | Path = "iris",            # points in a plane or a space, without their classes
    clusters: Annotated[int, Within(1)] = 3,          # K
    starts: Annotated[int, Within(1)] = 10,           # the best of so many is kept; one in two ends in the lesser optimum
    steps: Annotated[int, Within(1)] = 100,           # of Lloyd's; iris converges within 20
) -> Iterator[Stage]:  # fmt: skip
    points = table(data, whole=True)
    x_NF = points.train.batch(torch.arange(len(points.train))).x
    if clusters > len(x_NF.unique(dim=0)):
        raise WrongInput(f"--clusters {clusters}: {points.name} has {len(x_NF.unique(dim=0))} different points")
    model = KMeans(torch.stack([plus_plus(x_NF, clusters) for _ in range(starts)]))
    yield Stage(model, points, Lloyd(points.names), steps=steps)
