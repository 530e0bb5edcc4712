"""Gradient descent: every step against the closed form, the limit of the rate, the saddle, and what is counted, exactly."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import fuxian
from fuxian.engine.run import Run
from fuxian.evaluation import batches
from fuxian.methods.basics.gradient_descent import (
    RATES,
    Descent,
    Walker,
    closed_form,
    hessian,
    petals,
    pushes,
    rises,
    saddle,
    squares,
)
from fuxian.optim import sgd

from .compare import first_loss, relative


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return fuxian.run("gradient_descent", epochs=4, parent=tmp_path_factory.mktemp("runs"))


def test_forty_steps_equal_torch_and_the_closed_form(prove) -> None:
    data = petals()
    (batch,) = batches(data.train, None)
    start = (-0.9, 0.1)
    model: Any = nn.ModuleDict({"w": Walker(start)})
    descent = Descent(squares, model, 40)
    layer = nn.Linear(2, 1, bias=False).double()
    layer.weight.data.copy_(torch.tensor([start], dtype=torch.float64))
    reference = torch.optim.SGD(layer.parameters(), lr=0.1)
    optimizer = sgd(0.1).make([dict(params=list(model.parameters()))])
    worst = dict(outputs=0.0, gradients=0.0, step=0.0)
    for _ in range(40):
        losses = descent.losses(model, batch)
        _, loss = next(losses)
        expected = nn.functional.mse_loss(layer(batch.given), batch.desired)
        for one in (optimizer, reference):
            one.zero_grad()
        loss.backward()
        (expected_gradient,) = torch.autograd.grad(expected, [layer.weight])
        layer.weight.grad = expected_gradient
        worst["outputs"] = max(worst["outputs"], relative(loss.detach(), expected.detach()))
        worst["gradients"] = max(worst["gradients"], relative(model["w"].w.grad, expected_gradient[0]))
        optimizer.step()
        reference.step()
        assert next(losses, None) is None
        worst["step"] = max(worst["step"], relative(model["w"].w.detach(), layer.weight.detach()[0]))
    assert max(worst.values()) < 1e-10, worst
    curvature, least = hessian(data)
    torch.testing.assert_close(
        descent.paths()["w"],
        closed_form(torch.tensor(start, dtype=torch.float64), least, curvature, 0.1, 40),
        rtol=0,
        atol=1e-12,
    )
    prove("gradient_descent", "parity", reference="torch's linear layer and SGD over 40 steps", dtype="float64", **worst)


def test_the_second_derivative_and_the_least_are_those_of_autograd_and_numpy() -> None:
    data = petals()
    (batch,) = batches(data.train, None)
    curvature, least = hessian(data)
    expected = torch.autograd.functional.hessian(lambda w: squares(w[None], batch).mean(), least)
    torch.testing.assert_close(curvature, expected)
    solved = np.linalg.lstsq(batch.given.numpy(), batch.desired.numpy(), rcond=None)[0][:, 0]
    torch.testing.assert_close(least, torch.from_numpy(solved))


@pytest.mark.parametrize(("share", "diverges"), [(0.999, False), (1.001, True)])
def test_the_limit_of_the_rate_is_two_over_the_largest_eigenvalue(share: float, diverges: bool) -> None:
    data = petals()
    (batch,) = batches(data.train, None)
    curvature, least = hessian(data)
    limit = 2 / torch.linalg.eigvalsh(curvature)[-1].item()
    path = closed_form(least + 0.5, least, curvature, share * limit, 8000)
    excess = squares(path, batch).mean(1) - squares(least[None], batch).mean()
    assert bool(excess[-1] > 1e4 * excess[0]) is diverges
    assert bool(excess[-1] < 1e-4 * excess[0]) is not diverges


@pytest.mark.slow
def test_a_rate_that_is_too_large_is_seen_and_no_other(made: Run) -> None:
    found = {name: made.metrics[f"{name}_rises"] for name in RATES}
    assert found == {"tenth": 0, "midway": 0, "below": 0, "above": 60}
    assert made.metrics["closed_form_gap"] < 1e-11
    assert rises(torch.tensor([3.0, 2.0, 2.5, 2.5, 2.6])) == 2


@pytest.mark.slow
def test_all_examples_stay_on_the_ridge_and_one_leaves_it(made: Run) -> None:
    stages: Any = fuxian.load(made).stages
    ridge, noise = (next(s.model for s in stages if s.name == name)[name].w.tolist() for name in ("ridge", "noise"))
    assert ridge[1] == 0.0  # not nearly: exactly
    assert ridge[0] == pytest.approx(1.4 * 0.9**200, rel=1e-9)  # 1 - 2 lr a step
    assert abs(noise[1]) == pytest.approx(1, abs=0.3)
    assert made.metrics["ridge/train/loss"] == pytest.approx(0, abs=1e-15)
    assert made.metrics["noise/train/loss"] < -0.4


def test_the_saddle_is_one_and_its_samples_average_to_it() -> None:
    (batch,) = batches(pushes().train, None)
    for point, value in (((0.0, 0.0), 0.0), ((0.0, 1.0), -0.5), ((0.0, -1.0), -0.5)):
        w = torch.tensor(point, dtype=torch.float64, requires_grad=True)
        mean = saddle(w[None], batch).mean()
        assert mean.item() == value
        assert torch.autograd.grad(mean, w)[0].abs().max() == 0
    curvature = torch.autograd.functional.hessian(lambda w: saddle(w[None], batch).mean(), torch.zeros(2).double())
    torch.testing.assert_close(curvature, torch.diag(torch.tensor([2.0, -2.0]).double()))


@pytest.mark.slow
def test_epochs_batches_and_iterations_are_counted(made: Run) -> None:
    """4 epochs of 150 examples: a step each of all, five of 32 (the last of 22), 150 of one."""
    stages = {stage["name"]: stage["step"] for stage in made.info["stages"]}
    for name, batch in (("batch", 150), ("mini-batch", 32), ("single", 1)):
        assert stages[name] == made.metrics[f"{name}_iterations"] == 4 * math.ceil(150 / batch)


def test_the_expected_step_of_one_example_is_that_of_all() -> None:
    """Robbins & Monro: and the mean of 32 drawn without replacement scatters by σ²/32 · (150 - 32)/149."""
    (batch,) = batches(petals().train, None)
    w = torch.tensor([[-0.9, 0.1]], dtype=torch.float64, requires_grad=True)
    each = torch.stack([torch.autograd.grad(cost, w, retain_graph=True)[0][0] for cost in squares(w, batch)[0]])
    whole = torch.autograd.grad(squares(w, batch).mean(), w)[0][0]
    torch.testing.assert_close(each.mean(0), whole)
    chance = torch.Generator().manual_seed(0)
    drawn = torch.stack([each[torch.randperm(150, generator=chance)[:32]].mean(0) for _ in range(20_000)])
    expected = each.var(0, correction=0) / 32 * (150 - 32) / 149
    torch.testing.assert_close(drawn.var(0), expected, rtol=0.05, atol=0)


def test_the_mean_cost_of_a_batch_is_what_is_descended() -> None:
    (batch,) = batches(petals().train, None)
    model: Any = nn.ModuleDict({"w": Walker((1.0, 2.0))})
    by_hand = ((batch.given[:, 0] + 2 * batch.given[:, 1] - batch.desired[:, 0]) ** 2).mean()
    assert first_loss(Descent(squares, model, 1), model, batch).item() == pytest.approx(by_hand.item(), rel=1e-12)
