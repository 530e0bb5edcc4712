"""DLinear and NLinear against models/DLinear.py and NLinear.py written with torch's pooling, steps before channels."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import fuxian
from fuxian.data.series import SeriesSplits, generated
from fuxian.methods.forecasting.linear import DLinear, LinearForecast, NLinear, of_trend, recipe
from fuxian.optim import adam

from .compare import Differences, first_loss, in_both, parity, worst

WINDOW, HORIZON = 40, 12


class Reference(nn.Module):
    """(batch, window, channels): the ends repeated, an average pool, and the weights by einsum."""

    def __init__(self, decomposed: bool) -> None:
        super().__init__()
        self.decomposed = decomposed
        self.weight, self.bias = nn.Parameter(torch.zeros(HORIZON, WINDOW)), nn.Parameter(torch.zeros(HORIZON))
        if decomposed:
            self.pool = nn.AvgPool1d(25, stride=1)
            self.trend_weight = nn.Parameter(torch.zeros(HORIZON, WINDOW))
            self.trend_bias = nn.Parameter(torch.zeros(HORIZON))

    def forward(self, past: Tensor) -> Tensor:
        def mapped(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
            return torch.einsum("blc,hl->bhc", x, weight) + bias[:, None]

        if not self.decomposed:
            last = past[:, -1, None]
            return mapped(past - last, self.weight, self.bias) + last
        ends = past[:, :1].repeat(1, 12, 1), past[:, -1:].repeat(1, 12, 1)
        smooth = self.pool(torch.cat([ends[0], past, ends[1]], 1).transpose(1, 2)).transpose(1, 2)
        return mapped(past - smooth, self.weight, self.bias) + mapped(smooth, self.trend_weight, self.trend_bias)


def compared() -> Differences:
    found = []
    data: Any = SeriesSplits(generated("waves"), WINDOW, HORIZON)
    batch = data.train.batch(torch.arange(0, 60, 5))
    for make in (DLinear, NLinear):
        torch.manual_seed(0)
        ours, reference = make(WINDOW, HORIZON), Reference(make is DLinear)
        past, future = torch.randn(12, WINDOW, 3), torch.randn(12, HORIZON, 3)
        batch = replace(batch, past=past, future=future)
        first, *second = ("seasonal", "trend") if make is DLinear else ("linear",)
        pairs = {f"{first}.weight": "weight", f"{first}.bias": "bias"}
        pairs |= {f"{name}.{part}": f"trend_{part}" for name in second for part in ("weight", "bias")}
        objective = LinearForecast(("a", "b", "c"), np.zeros(3), np.ones(3))
        found.append(
            parity(
                ours,
                reference,
                pairs,
                outputs=lambda ours=ours, reference=reference, past=past: (ours(past), reference(past)),
                losses=lambda out, expected, ours=ours, batch=batch, objective=objective: (
                    first_loss(objective, ours, batch),
                    F.mse_loss(expected, batch.future),
                ),
                spec=adam(0.005),
                optimizer=torch.optim.Adam(reference.parameters(), lr=0.005),
            )
        )
    return worst(*found)


def test_outputs_gradients_and_step(prove) -> None:
    prove("linear", "parity", reference="the official models by pooling and einsum", **in_both(compared))


def test_the_trend_by_hand() -> None:
    """25 steps, 12 to each side; beyond the ends their values go on."""
    x = torch.arange(3, 43, dtype=torch.float64) ** 2
    longer = np.concatenate([np.full(12, x[0]), x.numpy(), np.full(12, x[-1])])
    expected = [longer[i : i + 25].mean() for i in range(40)]
    assert (of_trend(torch.eye(len(x), dtype=x.dtype)) @ x).tolist() == pytest.approx(expected, rel=1e-12)


def test_a_level_that_is_added_to_the_past_is_added_to_nlinears_future() -> None:
    torch.manual_seed(0)
    past = torch.randn(2, WINDOW, 3, dtype=torch.float64)
    model = NLinear(WINDOW, HORIZON).double()
    torch.testing.assert_close(model(past + 7), model(past) + 7, rtol=0, atol=1e-12)
    constant = model(torch.full((1, WINDOW, 1), 5.0, dtype=torch.float64))
    torch.testing.assert_close(constant[0, :, 0], 5 + model.linear.bias, rtol=0, atol=1e-12)


def test_the_recipe_is_the_protocol_of_exp_main_py() -> None:
    stage: Any = next(recipe("waves", window=48, horizon=24, lr=0.01, batch=32, epochs=10))
    assert (type(stage.model), stage.epochs, stage.batch, stage.select) == (DLinear, 10, 32, "-mse")
    assert stage.drop_last
    assert stage.optimizer.lr == 0.01
    assert stage.optimizer.decay == 0
    epoch = 1609 // 32  # training windows
    assert len(stage.data.train) == 1609
    for number in range(10):  # tools.py, type1: after epoch n (from 1) it is lr * 0.5 ** (n - 1)
        expected = 0.5 ** max(0, number - 1)
        for step in (epoch * number, epoch * (number + 1) - 1):
            assert stage.optimizer.schedule(step, 10 * epoch, []) == expected
    improved, not_yet, stopped = [3.0, 2.0, 1.0, 1.1], [1.0, 1.1, 1.2], [1.0, 1.1, 1.2, 1.05]
    for history, stops in ((improved, False), (not_yet, False), (stopped, True)):
        assert stage.stop([{"mse": value} for value in history]) == stops
    other: Any = next(recipe("waves", model="nlinear", window=48, horizon=24, windows="blocks"))
    assert (type(other.model), len(other.data.test)) == (NLinear, 7)


def test_it_comes_near_what_no_forecast_can_be_better_than(tmp_path) -> None:
    """Of waves the best error is the noise's own variance, which is known."""
    run = fuxian.run("linear", quick=True, parent=tmp_path, window=96, epochs=10, model="dlinear", lr=0.002)
    data: Any = SeriesSplits(generated("waves"), 96, 24)
    _, deviation = data.truth(data.test.batch(torch.arange(len(data.test))))
    best = deviation.square().mean().item()
    assert best < run.metrics["test/mse"] < 1.35 * best  # a linear map of noise that it cannot tell from the wave
    assert run.metrics["as_published/mse"] == pytest.approx(run.metrics["test/mse"], rel=0.05)
