"""Small textbook methods: k-means beside scikit-learn, back-propagation beside autograd, optimizers beside torch's."""

from __future__ import annotations

from collections.abc import Mapping
from copy import deepcopy
from typing import Any

import torch
from torch import Tensor

from benchmarks.pairing import Side, Work
from benchmarks.sides import Engine, Fixed, repeated

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


# ── optimizers ──────────────────────────────────────────────────────────────────────────────────────────────────────

RATE = 0.01


def digits() -> tuple[Tensor, Tensor]:
    draw = torch.Generator().manual_seed(1)
    return torch.rand(128, 1, 28, 28, generator=draw), torch.randint(10, (128,), generator=draw)


def rules() -> Side:
    from fuxian.contract import Splits, Stage
    from fuxian.data.images import Images
    from fuxian.methods.basics.optimizers import RULES, Race, all_at

    start = torch.nn.Linear(784, 10)
    models: Any = torch.nn.ModuleDict({name: deepcopy(start) for name in RULES})
    race = Race(RULES, 10_000, 1)
    engine = Engine(Stage(models, Splits(Fixed(Images(*digits()))), race, all_at(dict.fromkeys(RULES, RATE)), steps=10_000))

    def after() -> Tensor:
        engine(20)
        return race.cost[:, 19]

    return Side(engine, after, dict(start.named_parameters()))


def rules_peer(weights: Mapping[str, Tensor]) -> Side:
    image, label = digits()
    models = [torch.nn.Linear(784, 10) for _ in range(7)]
    for model in models:
        model.load_state_dict(dict(weights))
    sgd, momentum, nag, adagrad, adadelta, rmsprop, adam = (model.parameters() for model in models)
    optimizers: list[torch.optim.Optimizer] = [
        torch.optim.SGD(sgd, RATE), torch.optim.SGD(momentum, RATE, 0.9), torch.optim.SGD(nag, RATE, 0.9, nesterov=True),
        torch.optim.Adagrad(adagrad, RATE), torch.optim.Adadelta(adadelta, RATE, 0.95, 1e-6),
        torch.optim.RMSprop(rmsprop, RATE, 0.9), torch.optim.Adam(adam, RATE),
    ]  # fmt: skip

    def step() -> list[float]:
        found = []
        for model, optimizer in zip(models, optimizers, strict=True):
            optimizer.zero_grad()
            loss = torch.nn.functional.cross_entropy(model(image.flatten(1)), label)
            loss.backward()
            optimizer.step()
            found.append(loss.item())
        return found

    return Side(repeated(step), lambda: torch.tensor([step() for _ in range(20)][-1]))


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
    Work(
        "optimizers", "a step of each of seven optimizers, of softmax regression", rules, rules_peer, "torch.optim",
        method="optimizers", times=50, note="torch's as they come, their updates written for whole lists of tensors",
    ),
]  # fmt: skip
