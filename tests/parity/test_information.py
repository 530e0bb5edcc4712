"""Information: the notes' numbers, torch's own entropies and divergences, integrals and samples, in float64."""

from __future__ import annotations

from itertools import product
from math import log, pi
from typing import Any

import pytest
import torch
from torch.distributions import Categorical, MultivariateNormal, Normal, kl_divergence

import fuxian
from fuxian.errors import WrongInput
from fuxian.methods.basics.information import (
    BothWays,
    Fits,
    cross_entropy,
    entropy,
    gaussian_kl,
    humps,
    information,
    kl,
    one_hot,
)

from .compare import relative


def distributions(events: int = 7) -> tuple[torch.Tensor, torch.Tensor]:
    torch.manual_seed(0)
    p, q = torch.rand(2, 5, events, dtype=torch.float64).softmax(-1)
    return p, q


def test_the_notes_football() -> None:
    half, quarter, eighth = information(torch.tensor([1 / 2, 1 / 4, 1 / 8]).double()).tolist()
    assert (half, quarter, eighth) == (1, 2, 3)
    assert eighth == half + quarter


def test_one_hot_rows_are_all_as_far_apart_and_numbers_are_not() -> None:
    rows = one_hot(torch.tensor([2, 0, 1]), 3)
    assert rows.tolist() == [[0, 0, 1], [1, 0, 0], [0, 1, 0]]
    assert [(a - b).norm().item() for a, b in product(rows, rows)].count(2**0.5) == 6
    assert torch.pdist(torch.tensor([[1.0], [2.0], [3.0]])).tolist() == [1, 2, 1]


def test_entropies_and_divergences_are_those_of_torch(prove) -> None:
    p, q = distributions()
    worst = max(
        relative(entropy(p), Categorical(p).entropy()),
        relative(cross_entropy(p, q), -(p * Categorical(q).logits).sum(-1)),
        relative(kl(p, q), kl_divergence(Categorical(p), Categorical(q))),
    )
    torch.manual_seed(1)
    for size in (1, 2, 5):
        mean, other = torch.randn(2, size, dtype=torch.float64)
        root, other_root = torch.randn(2, size, 2 * size, dtype=torch.float64)
        cov, other_cov = root @ root.T, other_root @ other_root.T
        reference = kl_divergence(MultivariateNormal(mean, cov), MultivariateNormal(other, other_cov))
        worst = max(worst, relative(gaussian_kl(mean, cov, other, other_cov), reference))
    assert worst < 1e-10
    prove("information", "parity", reference="torch.distributions", outputs=worst, dtype="float64")


def test_the_sign_is_not_that_of_the_notes() -> None:
    p, q = distributions()
    torch.testing.assert_close(kl(p, q), (p * (p / q).log()).sum(-1))
    torch.testing.assert_close(kl(p, q), cross_entropy(p, q) - entropy(p))
    assert (kl(p, q) > 0).all()
    assert (-cross_entropy(p, q) < 0).all(), "what the notes call KL is below zero"
    assert kl(p, p).abs().max() < 1e-15


def test_what_cannot_happen() -> None:
    sure, other = torch.tensor([1.0, 0.0]), torch.tensor([0.5, 0.5])
    assert entropy(sure) == 0
    assert kl(sure, other).item() == pytest.approx(log(2))
    assert kl(other, sure).item() == float("inf")
    assert information(torch.tensor(0.0)) == float("inf")


def test_gaussian_kl_is_its_integral_and_its_mean_over_samples() -> None:
    x = torch.linspace(-30, 30, 200_001).double()
    one = torch.eye(1).double()
    for m, std in ((0.0, 2.0), (1.5, 1.0), (-1.0, 3.0)):
        log_p = -0.5 * x.square() - 0.5 * log(2 * pi)
        log_q = -0.5 * ((x - m) / std).square() - log(std) - 0.5 * log(2 * pi)
        integral = torch.trapezoid(log_p.exp() * (log_p - log_q), x)
        closed = gaussian_kl(one[0] * 0, one, one[0] * m, one * std**2)
        assert closed.item() == pytest.approx(integral.item(), rel=1e-10)
        torch.manual_seed(0)
        drawn = torch.randn(400_000).double()
        terms = Normal(0.0, 1.0).log_prob(drawn) - Normal(m, std).log_prob(drawn)
        assert abs(closed - terms.mean()) < 4 * terms.std() / len(terms) ** 0.5


def test_a_singular_covariance_and_what_is_no_distribution() -> None:
    mean, cov = torch.zeros(2), torch.ones(2, 2)
    with pytest.raises(WrongInput, match="a covariance is singular: its eigenvalues are"):
        gaussian_kl(mean, torch.eye(2), mean, cov)
    with pytest.raises(WrongInput, match=r"Q is no distribution: its least is 0\.5, its sum 1\.5"):
        kl(torch.tensor([0.5, 0.5]), torch.tensor([0.5, 1.0]))
    with pytest.raises(WrongInput, match="P is no distribution: its least is -1, its sum 1"):
        kl(torch.tensor([-1.0, 2.0]), torch.tensor([0.5, 0.5]))


def test_losses_are_the_two_divergences_of_the_points() -> None:
    points = humps(6.0)
    batch = points.train.batch(torch.arange(len(points.train)))
    torch.manual_seed(0)
    model, fitting = Fits(6.0), BothWays(float(batch.x[1] - batch.x[0]))
    expected = {}
    for name, ours in (("covering", model.covering), ("seeking", model.seeking)):
        theirs = Normal(ours.mean, ours.log_std.exp())
        torch.testing.assert_close(ours(batch.x), theirs.log_prob(batch.x))
        q = theirs.log_prob(batch.x).exp() * fitting.spacing
        first, other = (batch.p, q) if name == "covering" else (q, batch.p)
        expected[name] = torch.xlogy(first, first).sum() - torch.xlogy(first, other).sum()
    for name, loss in fitting.losses(model, batch):
        torch.testing.assert_close(loss, expected[name])


def test_one_fit_has_the_moments_and_the_other_has_one_hump(tmp_path) -> None:
    run = fuxian.run("information", quick=True, parent=tmp_path)
    model: Any = fuxian.load(run).model
    assert run.metrics["moment_gap"] < 1e-2
    assert model.covering.log_std.exp().item() == pytest.approx((1 + 3**2) ** 0.5, abs=1e-2)
    assert abs(model.seeking.mean.item()) == pytest.approx(3, abs=0.05)
    assert run.metrics["train/reverse_kl"] == pytest.approx(log(2), abs=0.01)
    assert run.metrics["one_hot_spread"] == 0
