"""Variational inference: the evidence and the posterior against scipy, scikit-learn and a sum over the plane; the bound and
its gradient against torch.distributions, where every expectation is a quadrature that is exact for squares."""

from __future__ import annotations

import math
from typing import Any, cast

import numpy as np
import pytest
import scipy.stats
import torch
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.gaussian_process.kernels import DotProduct
from torch import Tensor, nn
from torch.distributions import MultivariateNormal, Normal, kl_divergence

import fuxian
from fuxian.evaluation import measure
from fuxian.methods.basics.variational_inference import (
    Bound,
    Full,
    Gaussian,
    Line,
    MeanField,
    petals,
    with_one,
)

from .compare import relative

LINE = Line(noise=0.3, prior=1.4)


def flowers(count: int = 15) -> tuple[Tensor, Tensor]:
    batch = petals(count).train.batch(torch.arange(count))
    return with_one(batch.x), batch.label


def torchs(q: Gaussian) -> MultivariateNormal:
    return MultivariateNormal(q.mean_TD, scale_tril=q.factor_TDD)


def scattered(family: type[MeanField], seed: int) -> MeanField:
    """A q that is nowhere near the posterior."""
    torch.manual_seed(seed)
    model = family(2, 1.0)
    for weight in model.parameters():
        nn.init.normal_(weight)
    return model


def quadrature(q: MultivariateNormal, x_ND: Tensor, y_N: Tensor) -> Tensor:
    """∫ q log p(y | θ): three Gauss-Hermite nodes along each axis are exact for polynomials up to the fifth degree."""
    node, weight = (torch.from_numpy(part) for part in np.polynomial.hermite.hermgauss(3))
    at_P2, share_P = torch.cartesian_prod(node, node), torch.cartesian_prod(weight, weight).prod(1) / math.pi
    theta_P2 = q.mean + math.sqrt(2) * at_P2 @ q.scale_tril.T
    return share_P @ Normal(theta_P2 @ x_ND.T, LINE.noise).log_prob(y_N).sum(1)


@pytest.mark.parametrize("count", [1, 2, 15, 150])
def test_evidence(count: int) -> None:
    x_ND, y_N = flowers(count)
    ours = float(LINE.log_evidence(x_ND, y_N))
    together: Any = LINE.prior**2 * (x_ND @ x_ND.T).numpy() + LINE.noise**2 * np.eye(count)
    assert ours == pytest.approx(scipy.stats.multivariate_normal(cov=together).logpdf(y_N.numpy()), rel=1e-10)
    true = LINE.after(x_ND, y_N)
    axes = [mean + std * torch.linspace(-8, 8, 400, dtype=torch.float64) for mean, std in
            zip(true.mean_TD, torchs(true).stddev, strict=True)]  # fmt: skip
    theta_P2 = torch.cartesian_prod(*axes)
    prior = torchs(LINE.before(x_ND))
    joint_P = Normal(theta_P2 @ x_ND.T, LINE.noise).log_prob(y_N).sum(1) + prior.log_prob(theta_P2)
    cell = (axes[0][1] - axes[0][0]) * (axes[1][1] - axes[1][0])
    assert ours == pytest.approx(float(joint_P.logsumexp(0) + cell.log()), abs=1e-8)


def test_posterior_is_a_gaussian_process_of_a_linear_kernel() -> None:
    x_ND, y_N = flowers()
    process = GaussianProcessRegressor(LINE.prior**2 * DotProduct(1.0), alpha=LINE.noise**2, optimizer=cast(Any, None))
    process.fit(x_ND[:, :1].numpy(), y_N.numpy())
    asked_N1 = torch.linspace(0, 8, 9, dtype=torch.float64)[:, None]
    mean, std = (torch.from_numpy(part) for part in process.predict(asked_N1.numpy(), return_std=True))
    true = LINE.after(x_ND, y_N)
    assert relative(with_one(asked_N1) @ true.mean_TD, mean) < 1e-8
    assert relative(true.square_along(with_one(asked_N1)).sqrt(), std) < 1e-6  # it takes differences of large numbers
    assert float(LINE.log_evidence(x_ND, y_N)) == pytest.approx(process.log_marginal_likelihood_value_, rel=1e-8)


@pytest.mark.parametrize("family", [MeanField, Full])
@pytest.mark.parametrize("seed", range(3))
def test_bound_gap_and_gradient(family: type[MeanField], seed: int, prove) -> None:
    x_ND, y_N = flowers()
    model = scattered(family, seed)
    q, reference = model.q(), torchs(model.q())
    prior, true = torchs(LINE.before(x_ND)), torchs(LINE.after(x_ND, y_N))
    assert q.entropy_T.item() == pytest.approx(reference.entropy().item(), rel=1e-12)
    bound = quadrature(reference, x_ND, y_N) - kl_divergence(reference, prior)
    outputs = relative(LINE.elbo(q, x_ND, y_N), bound)
    gap = LINE.log_evidence(x_ND, y_N) - bound
    assert gap > 0
    outputs = max(outputs, relative(q.kl(LINE.after(x_ND, y_N)), kl_divergence(reference, true)))
    outputs = max(outputs, relative(gap, kl_divergence(reference, true)))
    outputs = max(outputs, relative(-LINE.free_energy(q, x_ND, y_N), bound))
    ours = torch.autograd.grad(LINE.free_energy(model.q(), x_ND, y_N), list(model.parameters()))
    theirs = torch.autograd.grad(-bound, list(model.parameters()))
    gradients = max(relative(one, other) for one, other in zip(ours, theirs, strict=True))
    assert max(outputs, gradients) < 1e-10
    if family is Full and seed == 0:
        prove("variational_inference", "parity", reference=f"torch.distributions {torch.__version__}", outputs=outputs,
              gradients=gradients, dtype="float64")  # fmt: skip


def test_many_gaussians_at_once_are_each_of_them() -> None:
    x_ND, y_N = flowers()
    several = [scattered(Full, seed).q() for seed in range(4)]
    together = Gaussian(*(torch.stack(part) for part in zip(*several, strict=True)))
    true = LINE.after(x_ND, y_N)
    for measured in (
        lambda q: LINE.elbo(q, x_ND, y_N), lambda q: LINE.free_energy(q, x_ND, y_N), lambda q: q.kl(true),
        lambda q: q.square_along(x_ND), lambda q: q.entropy_T,
    ):  # fmt: skip
        torch.testing.assert_close(measured(together), torch.stack([measured(q) for q in several]), rtol=1e-12, atol=1e-12)


def test_what_is_measured_in_batches_is_the_bound() -> None:
    data, model = petals(15), scattered(Full, 0)
    found = measure(model, Bound(LINE, model, 1), data.train, 4)
    assert found == {"elbo": pytest.approx(LINE.elbo(model.q(), *flowers()).item(), rel=1e-12)}


@pytest.mark.slow
@pytest.mark.parametrize(
    "knobs", [{}, dict(flowers=1, steps=60), dict(flowers=150, noise=0.5)], ids=["default", "1", "150"]
)
def test_full_covariance_reaches_the_evidence_and_mean_field_stays_below(knobs: dict[str, Any], tmp_path) -> None:
    run = fuxian.run("variational_inference", parent=tmp_path, **knobs)
    found = run.metrics
    assert found["full/train/elbo"] == pytest.approx(found["log_evidence"], abs=1e-6)
    line = Line(knobs.get("noise", 0.2), 1.0)
    x_ND, y_N = flowers(knobs.get("flowers", 15))
    precision_DD, true = torch.linalg.inv(torchs(line.after(x_ND, y_N)).covariance_matrix), line.after(x_ND, y_N)
    best = Gaussian(true.mean_TD, precision_DD.diagonal().rsqrt().diag())
    gap = kl_divergence(torchs(best), torchs(true)).item()
    assert gap > 0.1
    assert found["mean_field_gap"] == pytest.approx(gap, abs=1e-6)
    assert found["closed_form_gap"] == pytest.approx(gap, abs=1e-8)
    assert found["log_evidence"] - found["mean-field/train/elbo"] == pytest.approx(gap, abs=1e-6)
    assert max(found["identity_error"], found["free_energy_error"]) < 1e-9
    assert found["steps_above"] == 0
    objective: Any = fuxian.load(run, stage="full").objective
    way = objective.path()
    assert torch.equal(way.mean_TD[0], torch.zeros(2, dtype=torch.float64))  # it began as the prior
    assert torch.equal(way.factor_TDD[0], torch.eye(2, dtype=torch.float64))
    for ours, expected in zip((part[-1] for part in way), true, strict=True):
        assert relative(ours, expected) < 1e-3
