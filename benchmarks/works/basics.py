"""Whole runs of the small textbook methods: k-means on iris beside scikit-learn, back-propagation beside autograd."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from benchmarks.pairing import Side, Work
from benchmarks.sides import Engine, repeated

CLUSTERS, STARTS, LLOYD = 3, 10, 100  # the recipe's
BITS, HIDDEN, NETS, LR, MOMENTUM = 6, 2, 20, 0.1, 0.9


# ── k-means ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def kmeans() -> Side:
    from fuxian.contract import Stage
    from fuxian.data.tabular import iris
    from fuxian.methods.basics.kmeans import KMeans, Lloyd, plus_plus

    data = iris()
    x = data.train.batch(torch.arange(len(data.train))).x

    def fitted() -> Tensor:
        model = KMeans(torch.stack([plus_plus(x, CLUSTERS) for _ in range(STARTS)]))
        with Engine(Stage(model, data, Lloyd(data.names), steps=LLOYD)) as engine:
            engine(LLOYD)
        return model.inertia_S.min()

    return Side(repeated(fitted), fitted)


def kmeans_peer(weights: Mapping[str, Tensor]) -> Side:
    from sklearn.cluster import KMeans
    from sklearn.datasets import load_iris

    x = load_iris().data

    def fitted() -> Tensor:
        model = KMeans(CLUSTERS, init="k-means++", n_init=STARTS, max_iter=LLOYD, tol=0, algorithm="lloyd")
        return torch.tensor(model.fit(x).inertia_)

    return Side(repeated(fitted), fitted)


# ── back-propagation ────────────────────────────────────────────────────────────────────────────────────────────────


def backpropagation() -> Side:
    from fuxian.contract import Stage
    from fuxian.methods.basics.backpropagation import BackPropagation, TwoLayers, symmetry

    model = TwoLayers(NETS, BITS, HIDDEN, 1, 0.3)
    weights = {name: getattr(model, name).clone() for name in ("w_SHI", "b_SH", "w_SJH", "b_SJ")}
    engine = Engine(Stage(model, symmetry(BITS), BackPropagation(model, LR, MOMENTUM), steps=6000))

    def after() -> Tensor:
        engine(100)
        return torch.cat([getattr(model, name).flatten() for name in weights])

    return Side(engine, after, weights)


def backpropagation_peer(weights: Mapping[str, Tensor]) -> Side:
    from fuxian.methods.basics.backpropagation import symmetry

    data = symmetry(BITS).train
    x, d = data.given, data.desired
    w1, b1, w2, b2 = parameters = [torch.nn.Parameter(weight) for weight in weights.values()]
    optimizer = torch.optim.SGD(parameters, LR, MOMENTUM, fused=True)

    def sweep() -> tuple[float, float]:
        optimizer.zero_grad()
        y = ((x @ w1.mT + b1[:, None]).sigmoid() @ w2.mT + b2[:, None]).sigmoid()
        error = (y - d).square().flatten(1).sum(1) / 2
        error.sum().backward()
        optimizer.step()
        return error.min().item(), error.median().item()

    def after() -> Tensor:
        repeated(sweep)(100)
        return torch.cat([parameter.flatten() for parameter in parameters])

    return Side(repeated(sweep), after)


WORKS = [
    Work(
        "kmeans", "ten starts of k-means on iris", kmeans, kmeans_peer, "scikit-learn", method="kmeans", times=20,
        note="ours takes 100 steps of each start, all at once; scikit-learn ends a start as soon as nothing moves",
    ),
    Work(
        "backpropagation", "a sweep of back-propagation, 20 nets at once", backpropagation, backpropagation_peer,
        "torch’s autograd", method="backpropagation", times=1000, threads=1, agree=1e-9,
        note="ours also reads the error after each step, which chooses the best net",
    ),
]  # fmt: skip
