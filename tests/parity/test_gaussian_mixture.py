"""Gaussian mixtures: steps of EM against scikit-learn's from the same start; the likelihood never falls; in float64."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import sklearn
import torch
from sklearn.exceptions import ConvergenceWarning
from sklearn.mixture import GaussianMixture as Reference
from torch.distributions import MultivariateNormal
from torch.nn.functional import one_hot

import fuxian
from fuxian.data.tabular import Rows, iris
from fuxian.errors import WrongInput
from fuxian.methods.basics.gaussian_mixture import EM, GaussianMixture

from .compare import relative


def flowers() -> torch.Tensor:
    train: Any = iris().train
    return train.x


def begun(x: torch.Tensor, clusters: int, floor: float = 1e-6, seed: int = 0) -> GaussianMixture:
    """A mixture whose components have a third of the points each, or so, by chance."""
    member = torch.randint(clusters, (len(x),), generator=torch.Generator().manual_seed(seed))
    model = GaussianMixture(clusters, x.shape[1])
    model.maximize(x, one_hot(member, clusters).to(x), floor)
    return model


def stepped(model: GaussianMixture, x: torch.Tensor, steps: int, floor: float = 1e-6) -> torch.Tensor:
    """The likelihood before the first step and after each."""
    em = EM((), model, x, floor, steps)
    for _ in range(steps):
        em.update(model, Rows(x, torch.zeros(len(x))))
    return em.likelihood_S


@pytest.mark.parametrize("steps", [1, 2, 40])
def test_steps_are_those_of_scikit_learn(steps: int, prove) -> None:
    x = flowers()
    model = begun(x, 3)
    reference: Any = Reference(
        3, tol=0, max_iter=steps, reg_covar=1e-6, weights_init=model.weight_K, means_init=model.mean_KF.numpy(),
        precisions_init=torch.linalg.inv(model.cov_KFF).numpy(), init_params="random_from_data",
    )  # fmt: skip
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        reference.fit(x.numpy())
    likelihood = stepped(model, x, steps)
    worst = max(
        relative(model.weight_K, torch.from_numpy(reference.weights_)),
        relative(model.mean_KF, torch.from_numpy(reference.means_)),
        relative(model.cov_KFF, torch.from_numpy(reference.covariances_)),
        relative(model(x), torch.from_numpy(reference.predict_proba(x.numpy()))),
        relative(model.log_likelihood(x), torch.from_numpy(reference.score_samples(x.numpy()))),
        relative(likelihood[-2], torch.tensor(reference.lower_bound_, dtype=x.dtype)),  # of its last expectation
    )
    assert worst < 1e-10, worst
    if steps == 40:
        prove("gaussian_mixture", "parity", reference=f"scikit-learn {sklearn.__version__}", outputs=worst, dtype="float64")


def test_densities_are_those_of_torch() -> None:
    x = flowers()
    model = begun(x, 3)
    parts = MultivariateNormal(model.mean_KF, model.cov_KFF).log_prob(x[:, None])
    torch.testing.assert_close(model.log_joint(x), parts + model.weight_K.log())
    torch.testing.assert_close(model.log_likelihood(x).exp(), (parts.exp() * model.weight_K).sum(1))


@pytest.mark.parametrize("seed", range(5))
def test_the_likelihood_never_falls(seed: int) -> None:
    torch.manual_seed(seed)
    x = torch.cat([torch.randn(60, 3) * torch.rand(3) + 4 * torch.randn(3) for _ in range(4)]).double()
    likelihood = stepped(begun(x, 4, floor=0, seed=seed), x, 60, floor=0)
    assert (likelihood.diff() > -1e-12).all()
    assert likelihood[-1] > likelihood[0] + 0.1


def test_one_component_is_mean_and_covariance() -> None:
    x = flowers()
    model = begun(x, 1, floor=0)
    torch.testing.assert_close(model.mean_KF[0], x.mean(0))
    torch.testing.assert_close(model.cov_KFF[0], torch.cov(x.T, correction=0))
    assert stepped(model, x, 3, floor=0).diff().abs().max() < 1e-12


def test_iris(tmp_path: Path) -> None:
    """The published figure, and the likelihood of scikit-learn where it has converged."""
    run = fuxian.run("gaussian_mixture", steps=40, parent=tmp_path)
    assert run.metrics["train/ari"] == pytest.approx(0.9039, abs=5e-5)
    assert run.metrics["train/log_likelihood"] == pytest.approx(-1.2012365, abs=1e-6)
    assert run.metrics["k-means/train/ari"] == pytest.approx(0.73, abs=0.02)
    assert run.metrics["largest_fall"] < 1e-9


def test_a_fall_would_be_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    step = EM.update

    def worse(em: EM, model: GaussianMixture, batch: Rows) -> Any:
        said = step(em, model, batch)
        if em.at == 5:
            em.likelihood_S[4] -= 0.25
        return said

    monkeypatch.setattr(EM, "update", worse)
    run = fuxian.run("gaussian_mixture", steps=6, parent=tmp_path)
    assert run.metrics["largest_fall"] == pytest.approx(0.25, abs=0.05)


def test_a_singular_covariance(tmp_path: Path) -> None:
    """Of a constant feature: with a floor the answer of scikit-learn; without, one line."""
    x = torch.cat([flowers(), torch.full((150, 1), 3.0)], 1)
    floored = begun(x, 2)
    stepped(floored, x, 5)
    assert floored.cov_KFF[:, 4, 4].tolist() == pytest.approx([1e-6, 1e-6])
    assert torch.isfinite(floored.log_likelihood(x)).all()
    np.savez(tmp_path / "flat.npz", x=x.numpy())
    with pytest.raises(WrongInput, match="the covariance of component 1 is singular: in some direction its"):
        fuxian.run("gaussian_mixture", data=tmp_path / "flat.npz", floor=0, parent=tmp_path)


def test_more_components_than_points(tmp_path: Path) -> None:
    np.savez(tmp_path / "few.npz", x=np.array([[0.0, 1.0], [2.0, 3.0], [2.0, 3.0]]))
    with pytest.raises(WrongInput, match=r"--clusters 3: few\.npz has 2 different points"):
        fuxian.run("gaussian_mixture", data=tmp_path / "few.npz", parent=tmp_path)
    run = fuxian.run("gaussian_mixture", data=tmp_path / "few.npz", clusters=2, steps=3, parent=tmp_path)
    model: Any = fuxian.load(run).model  # each point alone: nothing left to learn
    assert sorted(model.weight_K.tolist()) == pytest.approx([1 / 3, 2 / 3])


@pytest.mark.parametrize("features", [1, 2])
def test_a_line_and_a_single_point_are_drawn(features: int, tmp_path: Path) -> None:
    np.savez(tmp_path / "one.npz", x=np.ones((1, features)))
    run = fuxian.run("gaussian_mixture", data=tmp_path / "one.npz", clusters=1, steps=2, parent=tmp_path)
    assert {path.stem for path in (run.folder / "pictures").glob("mixture-*")} == {"mixture-fit", "mixture-likelihood"}
