"""DeepAR against the LSTM's equations a step at a time and torch.distributions; its samples against closed forms."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from scipy.stats import kstest, norm, t
from torch import Tensor, nn
from torch.distributions import Normal
from torch.distributions import StudentT as Student

import fuxian
from fuxian.data.series import SeriesSplits, Windows, generated
from fuxian.evaluation import measure
from fuxian.methods.forecasting.deepar import Chain, DeepAR, Gaussian, StudentT, recipe
from fuxian.objectives.forecasting import SampledForecast
from fuxian.optim import adam

from .compare import Differences, first_loss, in_both, parity, worst

SEASON, HIDDEN, DEPTH = 7, 6, 2


def windows(B: int = 3, L: int = 9, H: int = 4, C: int = 3) -> Windows:
    past, future, at = torch.randn(B, L, C) * 2, torch.randn(B, H, C), torch.tensor([9, 30, 61][:B])
    return Windows(past, future, at, past.new_empty(B, L + H, 0))


def made(likelihood: type[Gaussian], channels: int = 3) -> DeepAR:
    torch.manual_seed(0)
    return DeepAR(channels, SEASON, HIDDEN, DEPTH, likelihood)


class Reference(nn.Module):
    """One channel of one window at a time, the gates of Hochreiter & Schmidhuber written out, and torch.distributions."""

    def __init__(self, ours: DeepAR) -> None:
        super().__init__()
        self.named = {name: name.replace(".", "_") for name, _ in ours.named_parameters()}
        for name, weight in ours.named_parameters():
            setattr(self, self.named[name], nn.Parameter(torch.zeros_like(weight)))

    def forward(self, batch: Windows) -> Tensor:
        z = torch.cat([batch.past, batch.future], 1)
        return torch.stack(
            [
                torch.stack([self.series(z[b, :, c], int(at), batch.past.shape[1], c) for c in range(z.shape[2])], 1)
                for b, at in enumerate(batch.at)
            ]
        )

    def series(self, z: Tensor, at: int, seen: int, channel: int) -> Tensor:
        scale, weight = 1 + z[:seen].abs().sum() / seen, dict(self.named_parameters())
        state = [(z.new_zeros(HIDDEN), z.new_zeros(HIDDEN)) for _ in range(DEPTH)]
        found = []
        for step in range(1, len(z)):
            turn = 2 * math.pi * (at - seen + step) / SEASON
            inputs = torch.stack(
                [z[step - 1] / scale, scale.log(), z.new_tensor(math.sin(turn)), z.new_tensor(math.cos(turn))]
            )
            x = torch.cat([inputs, weight["channel_weight"][channel]])
            for layer in range(DEPTH):
                h, c = state[layer]
                w, u, b, v = (weight[f"lstm_{n}_l{layer}"] for n in ("weight_ih", "weight_hh", "bias_ih", "bias_hh"))
                i, f, g, o = (w @ x + b + u @ h + v).view(4, HIDDEN)
                c = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(g)
                x = torch.sigmoid(o) * torch.tanh(c)
                state[layer] = x, c
            out = weight["head_weight"] @ x + weight["head_bias"]
            place, width = scale * out[0], scale * torch.log1p(out[1].exp())
            told = Normal(place, width) if len(out) == 2 else Student(2 + torch.log1p(out[2].exp()), place, width)
            found.append(told.log_prob(z[step]))
        return torch.stack(found)


def compared() -> Differences:
    found = []
    for likelihood in (Gaussian, StudentT):
        ours, batch = made(likelihood), windows()
        reference = Reference(ours)
        objective = Chain(ours, "abc", np.zeros(3), np.ones(3), 2)
        found.append(
            parity(
                ours,
                reference,
                reference.named,
                outputs=lambda ours=ours, reference=reference, batch=batch: (ours.log_prob(batch), reference(batch)),
                losses=lambda _, expected, ours=ours, batch=batch, objective=objective: (
                    first_loss(objective, ours, batch),
                    -expected.mean(),
                ),
                spec=adam(0.001),
                optimizer=torch.optim.Adam(reference.parameters(), lr=0.001),
            )
        )
    return worst(*found)


def test_outputs_gradients_and_step(prove) -> None:
    prove("deepar", "parity", reference="the equations a step at a time, and torch.distributions", **in_both(compared))


def test_a_chain_told_its_numbers_one_by_one_has_the_likelihood_of_all_at_once() -> None:
    model, batch = made(StudentT).double(), windows()
    batch = Windows(batch.past.double(), batch.future.double(), batch.at, batch.marks.double())
    z, state, found = torch.cat([batch.past, batch.future], 1), None, []
    for step in range(1, z.shape[1]):
        at = batch.at[:, None] - 9 + step
        told, state = model.told(z[:, step - 1 : step], at, model.scale(batch.past), state)
        found.append(told.log_prob(z[:, step : step + 1]))
    torch.testing.assert_close(torch.cat(found, 1), model.log_prob(batch), rtol=0, atol=1e-12)
    only = next(
        value for name, value in Chain(model, "abc", np.zeros(3), np.ones(3), 2).evaluate(model, batch) if name == "nll"
    )
    torch.testing.assert_close(only, -torch.cat(found, 1)[:, -4:].mean((1, 2)), rtol=0, atol=1e-12)  # the future's alone


def test_without_noise_every_sample_is_the_mean_of_the_whole_history() -> None:
    """So each window and channel goes on from its own state, however many samples there are; no future is looked at."""
    model, batch = made(Gaussian), windows()
    with torch.no_grad():
        model.head.weight[1], model.head.bias[1] = 0, -40
        model.head.weight[0] *= 3
        drawn = model.draw(replace(batch, future=torch.full_like(batch.future, math.nan)), 5)
        z = batch.past
        for _ in range(4):
            step = batch.at[:, None] + torch.arange(-8, z.shape[1] - 8)
            told, _ = model.told(z, step, model.scale(batch.past))
            z = torch.cat([z, told.mean_BTC[:, -1:]], 1)
    assert drawn.shape == (3, 5, 4, 3)
    torch.testing.assert_close(drawn, z[:, None, 9:].expand_as(drawn), rtol=0, atol=1e-5)
    assert z[:, 9:].std(0).min() > 1e-3  # windows, and so their states, differ


class Regression(DeepAR):
    """z_t = 0.8 z_t-1 + 0.5 ε, ε of N(0, 1), with a state that is never looked at."""

    def told(self, last_BTC: Tensor, step_BT: Tensor, scale_B1C: Tensor, state: Any = None) -> tuple[Gaussian, Any]:
        zero = last_BTC.new_zeros(1, last_BTC.shape[0] * last_BTC.shape[2], 1)
        raw = math.log(math.expm1(0.5))  # softplus of it is 0.5
        return Gaussian(torch.stack([0.8 * last_BTC, torch.full_like(last_BTC, raw)], 3), torch.ones(())), (zero, zero)


def test_samples_of_a_first_order_chain_have_its_mean_and_spread() -> None:
    """Mean 0.8^h z, variance 0.25 (1 - 0.8^2h) / (1 - 0.8²), and neighbours correlated: by hand."""
    batch, h = windows(H=6), torch.arange(1, 7)
    drawn = Regression(3, SEASON, HIDDEN, DEPTH, Gaussian).draw(batch, 20_000)
    expected = 0.8 ** h[None, :, None] * batch.past[:, -1:]
    std = (0.25 * (1 - 0.64**h) / (1 - 0.64)).sqrt()
    assert (drawn.mean(1) - expected).abs().max() < 0.03
    assert (drawn.std(1) / std[None, :, None] - 1).abs().max() < 0.03
    off = drawn - expected[:, None]
    slope = (off[:, :, 1:] * off[:, :, :-1]).mean((1, 3)) / off[:, :, :-1].square().mean((1, 3))
    assert (slope - 0.8).abs().max() < 0.02  # a trajectory, not numbers drawn apart


def test_each_likelihood_draws_what_it_says() -> None:
    out, scale = torch.tensor([0.3, -0.4, 0.1]).expand(1, 4000, 1, 3), torch.tensor([[[2.0]]])
    place, width, k = 0.6, 2 * math.log1p(math.exp(-0.4)), 2 + math.log1p(math.exp(0.1))
    torch.manual_seed(0)
    for likelihood, law in ((Gaussian, norm(place, width)), (StudentT, t(k, place, width))):
        assert kstest(likelihood(out, scale).draw().flatten().numpy(), law.cdf).pvalue > 0.01


# ── samples judged ──────────────────────────────────────────────────────────────────────────────────────────────────


class Known(nn.Module):
    """Draws from what a generated series was drawn from, with a deviation of `times` it."""

    def __init__(self, data: SeriesSplits, times: float = 1.0) -> None:
        super().__init__()
        self.data, self.times = data, times

    def draw(self, batch: Windows, samples: int) -> Tensor:
        place, width = self.data.truth(batch)
        return place[:, None] + self.times * width[:, None] * torch.randn(len(place), samples, *place.shape[1:])


def test_nothing_is_better_than_what_the_future_was_drawn_from() -> None:
    """Its CRPS is σ / √π in the mean, and of S samples one in S more: Gneiting et al. 2005, eq. 5."""
    data: Any = SeriesSplits(generated("waves"), 48, 24)
    objective = SampledForecast(data.columns, data.mean, data.std, 50, data.truth)
    torch.manual_seed(0)
    found = measure(Known(data), objective, data.test, 100)
    _, width = data.truth(data.test.batch(torch.arange(len(data.test))))
    assert found["optimum_crps"] == pytest.approx(width.mean().item() / math.sqrt(math.pi), rel=0.05)
    assert found["crps"] == pytest.approx(1.02 * found["optimum_crps"], rel=0.005)
    assert found["mse"] == pytest.approx(1.02 * width.square().mean().item(), rel=0.1)
    assert found["crps_in_units"] == pytest.approx(found["crps"] * data.std[0], rel=1e-6)
    assert found["mae_in_units"] == pytest.approx(found["mae"] * data.std[0], rel=1e-6)
    assert found["covered"] == pytest.approx(1 - 2 * (0.95 + 0.05 * 50) / 51, abs=0.03)  # the mean of order statistics
    for times in (0.6, 1.6):
        worse = measure(Known(data, times), objective, data.test, 100)
        for name in ("crps", "wql", "energy_score", "qice", "calibration"):
            assert worse[name] > 1.02 * found[name], (times, name)


def test_what_is_told_is_in_the_numbers_of_the_data() -> None:
    data: Any = SeriesSplits(generated("waves"), 48, 24)
    rows = SampledForecast(data.columns, data.mean, data.std, 2000).predict(
        Known(data), data.test.batch(torch.tensor([5, 9]))
    )
    series, at = generated("waves"), data.borders[1] + 5
    assert series.location is not None
    assert series.deviation is not None
    assert [row["step"] for row in rows] == [*range(1, 25)] * 2
    for row, place, width in zip(rows, series.location[at : at + 24, 0], series.deviation[at : at + 24, 0], strict=False):
        told = row["y low"], row["y"], row["y high"]
        assert told == pytest.approx((place - 1.645 * width, place, place + 1.645 * width), abs=0.2 * width)


@pytest.mark.slow
def test_the_recipe_comes_near_the_optimum_and_not_below_it(tmp_path) -> None:
    run = fuxian.run("deepar", quick=True, parent=tmp_path)
    assert run.metrics["to_optimum"] == run.metrics["test/crps"] / run.metrics["test/optimum_crps"]
    assert 0.98 < run.metrics["to_optimum"] < 1.2
    drawn = {path.stem for path in (run.folder / "pictures").iterdir()}
    assert drawn == {f"train-{name}" for name in ("windows", "deviation", "horizon", "calibration")}


def test_the_recipe_is_the_protocol_of_estimator_py() -> None:
    stage: Any = next(recipe("waves", window=48, horizon=24))
    gaussian: Any = next(recipe("waves", "gaussian", 48, 24)).model
    every: Any = next(recipe("waves", window=48, horizon=24, windows="all")).data
    assert len(every.test) > 20 * len(stage.data.test)
    assert len(every.val) == len(stage.data.val)  # read as often as it is, every window of it would take hours
    assert isinstance(stage.model, DeepAR)
    assert (stage.model.lstm.num_layers, stage.model.lstm.hidden_size, stage.model.likelihood) == (2, 40, StudentT)
    assert (stage.optimizer.lr, stage.optimizer.clip) == (0.001, 10)
    assert (stage.batch, stage.evaluate_every, stage.select, stage.drop_last) == (32, 50, "-nll", False)
    assert (gaussian.likelihood, gaussian.head.out_features) == (Gaussian, 2)
