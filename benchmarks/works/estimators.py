"""Textbook estimators beside scikit-learn's, on the same rows: whole fits, and the nearest neighbours' answers.

The rows are MNIST's where it is at hand, else bytes of its shape; or data that comes with scikit-learn.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from copy import deepcopy
from functools import cache
from itertools import product
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import one_hot

from benchmarks.pairing import Side, Work
from benchmarks.sides import Engine, repeated
from benchmarks.works.scripts import images

SEEN, ASKED, NEIGHBOURS = 12_000, 500, 3  # images of MNIST
COMPONENTS, ITERATIONS = 40, 50  # of PCA; LeCun et al. 1998 take 40
COUNTED = 1000  # rows at a time, for naive Bayes
CLUSTERS, EM_STEPS = 3, 60
GAMMA, C, SMO_STEPS = 0.001, 1.0, 300
GAMMAS, RIDGES = (0.001, 0.003, 0.01, 0.03, 0.1), (0.01, 0.1, 1.0, 10.0, 100.0)
NEWTON = 10


@cache
def rows() -> tuple[Tensor, Tensor]:
    """Pixels in 0 to 1 (images, 784), float64, and labels."""
    split = images()
    return split.image[:SEEN].flatten(1).double() / 255, split.label[:SEEN]


def fitting(fit: Callable[[], Tensor], weights: Mapping[str, Tensor] | None = None) -> Side:
    """A side whose work is a fit, which gives the numbers that are compared."""
    return Side(repeated(fit), fit, weights or {})


def everything(split: Any) -> Any:
    return split.batch(torch.arange(len(split)))


# ── Gaussian mixture ────────────────────────────────────────────────────────────────────────────────────────────────


def mixture() -> Side:
    from fuxian.contract import Stage
    from fuxian.data.tabular import iris
    from fuxian.methods.basics.gaussian_mixture import EM, GaussianMixture

    data = iris()
    x_NF = everything(data.train).x
    third_N = x_NF[:, 2].argsort().argsort() * CLUSTERS // len(x_NF)  # by the length of the petal
    begun = GaussianMixture(CLUSTERS, data.features)
    begun.maximize(x_NF, one_hot(third_N, CLUSTERS).double(), 1e-6)

    def fit() -> Tensor:
        model = deepcopy(begun)
        with Engine(Stage(model, data, EM(data.names, model, x_NF, 1e-6, EM_STEPS), steps=EM_STEPS)) as engine:
            engine(EM_STEPS)
        return model.mean_KF

    return fitting(fit, dict(begun.named_buffers()))


def mixture_peer(weights: Mapping[str, Tensor]) -> Side:
    from sklearn.datasets import load_iris
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.mixture import GaussianMixture

    warnings.simplefilter("ignore", ConvergenceWarning)  # all steps are taken
    model: Any = GaussianMixture(
        CLUSTERS, tol=0, max_iter=EM_STEPS, weights_init=weights["weight_K"].numpy(), means_init=weights["mean_KF"].numpy(),
        precisions_init=torch.linalg.inv(weights["cov_KFF"]).numpy(), init_params="random_from_data",
    )  # fmt: skip
    data: Any = load_iris()
    return fitting(lambda: torch.from_numpy(model.fit(data.data).means_))


# ── principal components ────────────────────────────────────────────────────────────────────────────────────────────


def components() -> Side:
    from fuxian.contract import Splits, Stage
    from fuxian.data.tabular import Table
    from fuxian.methods.basics.pca import PCA, OrthogonalIteration, covariance

    x_NF, label_N = rows()
    data = Splits(Table(x_NF, label_N))

    def fit() -> Tensor:
        cov_FF = covariance(x_NF)
        model = PCA(x_NF.mean(0), cov_FF, COMPONENTS)
        with Engine(Stage(model, data, OrthogonalIteration(cov_FF, (), ()), steps=ITERATIONS)) as engine:
            engine(ITERATIONS)
        return model.variance_D[:10]

    return fitting(fit)


def components_peer(weights: Mapping[str, Tensor]) -> Side:
    from sklearn.decomposition import PCA

    x = rows()[0].numpy()
    return fitting(lambda: torch.from_numpy(PCA(COMPONENTS).fit(x).explained_variance_[:10]))


# ── naive Bayes ─────────────────────────────────────────────────────────────────────────────────────────────────────


def bayes() -> Side:
    from fuxian.contract import Splits, Stage
    from fuxian.data.tabular import Table
    from fuxian.methods.basics.naive_bayes import Counting, NaiveBayes

    x_NF, label_N = rows()
    data = Splits(Table(x_NF, label_N))

    def fit() -> Tensor:
        model = NaiveBayes(10, x_NF.shape[1], 1e-9)
        with Engine(Stage(model, data, Counting((), ()), epochs=1, batch=COUNTED)) as engine:
            engine(len(x_NF) // COUNTED)
        return model.variance_CF

    return fitting(fit)


def bayes_peer(weights: Mapping[str, Tensor]) -> Side:
    from sklearn.naive_bayes import GaussianNB

    x, label = (of.numpy() for of in rows())

    def fit() -> Tensor:
        model = GaussianNB()
        for first in range(0, len(x), COUNTED):
            part = slice(first, first + COUNTED)
            model.partial_fit(x[part], label[part], classes=range(10))
            model.score(x[part], label[part])
        return torch.from_numpy(model.var_)

    return fitting(fit)


# ── nearest neighbours ──────────────────────────────────────────────────────────────────────────────────────────────


def neighbours() -> Side:
    from fuxian.methods.basics.nearest_neighbours import NearestNeighbours

    split = images()
    model = NearestNeighbours(split.image[:SEEN], split.label[:SEEN], 10, NEIGHBOURS, "whole")
    asked = everything(split.part(slice(SEEN, SEEN + ASKED))).image
    return fitting(lambda: model(asked))


def neighbours_peer(weights: Mapping[str, Tensor]) -> Side:
    from sklearn.neighbors import KNeighborsClassifier

    split = images()
    x, label = split.image[: SEEN + ASKED].flatten(1).double().numpy(), split.label[:SEEN].numpy()
    model = KNeighborsClassifier(NEIGHBOURS, algorithm="brute").fit(x[:SEEN], label)
    return fitting(lambda: torch.as_tensor(model.predict_proba(x[SEEN:])))


# ── kernels ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def vectors() -> Side:
    from fuxian.contract import Stage
    from fuxian.data.tabular import digits_halves
    from fuxian.methods.basics.kernels import SMO, machine

    data = digits_halves()
    test: Any = data.test
    asked = everything(test.split).x

    def fit() -> Tensor:
        model = machine(data, GAMMA)
        with Engine(Stage(model, data, SMO(model, data.names, C, 1e-3), steps=SMO_STEPS)) as engine:
            engine(SMO_STEPS)
        return model.votes(asked).argmax(1)

    return fitting(fit)


def vectors_peer(weights: Mapping[str, Tensor]) -> Side:
    from sklearn.svm import SVC

    from fuxian.data.tabular import digits_halves

    data = digits_halves()
    test: Any = data.test
    train, asked = everything(data.train), everything(test.split).x.numpy()
    x, label = train.x.numpy(), train.label.numpy()
    return fitting(lambda: torch.from_numpy(SVC(gamma=GAMMA, C=C).fit(x, label).predict(asked)))


def ridge() -> Side:
    from fuxian.contract import Stage
    from fuxian.methods.basics.kernel_ridge import KernelRidge, LeavingOut, patients

    data: Any = patients()
    train = everything(data.train)
    model = KernelRidge(train.x, train.label)

    def fit() -> Tensor:
        with Engine(Stage(model, data, LeavingOut("", GAMMAS, RIDGES), steps=len(GAMMAS))) as engine:
            engine(len(GAMMAS))
        return model.alpha_N

    fit()
    return fitting(fit, dict(gamma=model.gamma, ridge=model.ridge))


def ridge_peer(weights: Mapping[str, Tensor]) -> Side:
    from sklearn.kernel_ridge import KernelRidge

    from fuxian.methods.basics.kernel_ridge import patients

    train = everything(patients().train)
    x, y = train.x.numpy(), train.label.numpy()
    chosen = weights["gamma"].item(), weights["ridge"].item()

    def fit() -> Tensor:
        fits = {pair: KernelRidge(alpha=pair[1], kernel="rbf", gamma=pair[0]) for pair in product(GAMMAS, RIDGES)}
        for model in fits.values():
            model.fit(x, y - y.mean())
        return torch.from_numpy(fits[chosen].dual_coef_)

    return fitting(fit)


# ── logistic regression ─────────────────────────────────────────────────────────────────────────────────────────────


def logistic() -> Side:
    from fuxian.contract import Stage
    from fuxian.data.tabular import table
    from fuxian.methods.basics.linear_regression import Linear
    from fuxian.methods.basics.logistic_regression import Newton

    data = table("breast-cancer")

    def fit() -> Tensor:
        model = Linear(torch.zeros(data.features, dtype=torch.float64), 0.0)
        with Engine(Stage(model, data, Newton(data, 1 / (C * len(data.train))), steps=NEWTON)) as engine:
            engine(NEWTON)
        return model.w.detach()

    return fitting(fit)


def logistic_peer(weights: Mapping[str, Tensor]) -> Side:
    from sklearn.linear_model import LogisticRegression

    from fuxian.data.tabular import table

    train = everything(table("breast-cancer").train)
    x, label = train.x.numpy(), train.label.numpy()

    def fit() -> Tensor:
        model = LogisticRegression(C=C, solver="newton-cholesky", max_iter=NEWTON, tol=1e-10)
        return torch.from_numpy(model.fit(x, label).coef_[0])

    return fitting(fit)


WORKS = [
    Work(
        "gaussian-mixture", "60 steps of EM on iris", mixture, mixture_peer, "scikit-learn", method="gaussian_mixture",
        times=5, note="ours also keeps the likelihood and every Gaussian after each step",
    ),
    Work(
        "pca", "40 components of 12,000 images of MNIST", components, components_peer, "scikit-learn", method="pca",
        note="ours takes 50 steps of orthogonal iteration, scikit-learn all eigenvectors at once",
    ),
    Work(
        "naive-bayes", "naive Bayes on 12,000 images of MNIST, a thousand at a time", bayes, bayes_peer, "scikit-learn",
        method="naive_bayes", note="each side is asked for its error on the rows it has just seen",
    ),
    Work(
        "nearest-neighbours", "500 images of MNIST, each beside 12,000", neighbours, neighbours_peer, "scikit-learn",
        method="nearest_neighbours",
    ),
    Work(
        "kernels", "the 45 support vector machines of ten digits, 898 rows", vectors, vectors_peer, "scikit-learn",
        method="kernels", note="ours moves all of them in step, 300 times, each a pass over a kernel that is kept whole; "
        "LIBSVM ends each when it is done, and leaves out rows that no longer move",
    ),
    Work(
        "kernel-ridge", "kernel ridge regression of 422 rows, five widths and five ridges", ridge, ridge_peer,
        "scikit-learn", method="kernel_ridge", note="ours also finds the error of leaving out each row, and chooses by it",
    ),
    Work(
        "logistic-regression", "Newton’s steps of logistic regression, 30 numbers", logistic, logistic_peer,
        "scikit-learn", method="logistic_regression", times=5, note="ours takes ten steps; scikit-learn ends at 1e-10",
    ),
]  # fmt: skip
