"""TimeGrad against LSTM cells and convolutions a step at a time; its noise against Gaussian conditioning, in float64."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import fuxian
from fuxian.data.series import Windows
from fuxian.errors import WrongInput
from fuxian.methods.forecasting.timegrad import Denoising, EpsilonTheta, Process, TimeGrad, recipe

from .compare import Differences, in_both, of_draws, worst

SEASON, LAGS, CONTEXT, HIDDEN, CONDITION, WIDTH, LAYERS, STEPS = 7, (1, 3), 4, 6, 5, 4, 3, 11


def windows(B: int = 3, L: int = 9, H: int = 4, C: int = 3) -> Windows:
    past, future = torch.randn(B, L, C), torch.randn(B, H, C)
    return Windows(past, future, torch.tensor([9, 30, 61][:B]), past.new_empty(B, L + H, 0))


def betas(steps: int = STEPS) -> Tensor:
    return torch.linspace(1e-4, 0.3, steps, dtype=torch.float64)


def made(channels: int = 3) -> TimeGrad:
    """A model that has forgotten its zeros, so that no part of it is silent."""
    torch.manual_seed(0)
    rnn = nn.LSTM(len(LAGS) * channels + 2, HIDDEN, 2, batch_first=True)
    epsilon = EpsilonTheta(channels, HIDDEN, CONDITION, WIDTH, LAYERS, STEPS)
    nn.init.normal_(epsilon.last.weight)
    return TimeGrad(channels, 9, CONTEXT, SEASON, LAGS, rnn, epsilon, Process(betas()))


class Reference(nn.Module):
    """LSTM cells told one step at a time, and circular convolutions of one step's numbers at a time."""

    def __init__(self, ours: TimeGrad, channels: int) -> None:
        super().__init__()
        self.cells = nn.ModuleList(nn.LSTMCell(n, HIDDEN) for n in (len(LAGS) * channels + 2, HIDDEN))
        self.named = {}
        for name, weight in ours.named_parameters():
            if name.startswith("rnn."):
                kind, layer = name.removeprefix("rnn.").rsplit("_l", 1)
                self.named[name] = f"cells.{layer}.{kind}"
            else:
                self.named[name] = name.replace(".", "_")
                setattr(self, self.named[name], nn.Parameter(torch.zeros_like(weight)))

    def linear(self, name: str, x: Tensor) -> Tensor:
        weight = dict(self.named_parameters())
        return F.linear(x, weight[f"epsilon_{name}_weight"], weight[f"epsilon_{name}_bias"])

    def convolution(self, name: str, x_1FP: Tensor, apart: int, also_P: Tensor | float = 0.0) -> Tensor:
        """A weight beyond those of its three taps is that of one more number of each place."""
        named, taps = dict(self.named_parameters()), 3 * x_1FP.shape[1]
        weight, bias = named[f"epsilon_{name}_weight"], named[f"epsilon_{name}_bias"]
        found = F.conv1d(x_1FP, weight[:, :taps].unflatten(1, (3, -1)).transpose(1, 2), bias, dilation=apart)
        return found + weight[:, taps:].sum(1)[:, None] * also_P

    def noise_in(self, x_C: Tensor, t: int, h_D: Tensor) -> Tensor:
        up = self.linear("up_1", self.linear("up_0", h_D))
        up = F.leaky_relu(self.linear("up_3", F.leaky_relu(up, 0.4)), 0.4)
        angle = t * 10.0 ** (torch.arange(16) * 4.0 / 16)
        step = F.silu(self.linear("steps_layers_0", torch.cat([angle.sin(), angle.cos()])))
        step = F.silu(self.linear("steps_layers_2", step))
        wrapped = lambda x: torch.stack([x[p % len(x)] for p in range(-2, len(x) + 2)])
        x = F.leaky_relu(self.linear("first", wrapped(x_C)[:, None]), 0.4).T[None]  # (1, F, P)
        total = torch.zeros_like(x)
        for layer in range(LAYERS):
            apart = (1, 2)[layer % 2]
            y = x + self.linear(f"layers_{layer}_step", step)[None, :, None]
            y = self.convolution(
                f"layers_{layer}_convolution", F.pad(y, (apart, apart), mode="circular"), apart, wrapped(up)
            )
            y = torch.sigmoid(y[:, :WIDTH]) * torch.tanh(y[:, WIDTH:])
            y = F.leaky_relu(self.linear(f"layers_{layer}_out", y.transpose(1, 2)).transpose(1, 2), 0.4)
            x, total = (x + y[:, :WIDTH]) / 2**0.5, total + y[:, WIDTH:]
        x = F.leaky_relu(self.convolution("skip", total / LAYERS**0.5, 1), 0.4)
        return self.convolution("last", x, 1)[0, 0]

    def forward(self, batch: Windows) -> Tensor:
        """The squared errors (B, context + H) at the noise that is drawn now."""
        z, L = torch.cat([batch.past, batch.future], 1), batch.past.shape[1]
        (B, T, C), first = z.shape, L - CONTEXT
        t, noise = torch.randint(STEPS, (B * (T - first),)), torch.randn(B * (T - first), C)
        bar, found = (1 - betas()).cumprod(0).to(z), []
        for b in range(B):
            state = [(z.new_zeros(1, HIDDEN), z.new_zeros(1, HIDDEN)) for _ in self.cells]
            for p in range(first, T):
                turn = 2 * math.pi * (int(batch.at[b]) - L + p) / SEASON
                x = torch.cat([*(z[b, p - lag] for lag in LAGS), z.new_tensor([math.sin(turn), math.cos(turn)])])[None]
                for layer, cell in enumerate(self.cells):
                    state[layer] = cell(x, state[layer])
                    x = state[layer][0]
                row = b * (T - first) + p - first
                noisy = bar[t[row]].sqrt() * z[b, p] + (1 - bar[t[row]]).sqrt() * noise[row]
                found.append((self.noise_in(noisy, int(t[row]), x[0]) - noise[row]).square().mean())
        return torch.stack(found).view(B, -1)


def compared() -> Differences:
    found = []
    for channels in (1, 3):
        ours, batch = made(channels), windows(B=2, H=2, C=channels)
        found.append(of_draws(ours, Reference(ours, channels), Denoising(), batch))
    return worst(*found)


def test_outputs_gradients_and_step(prove) -> None:
    prove("timegrad", "parity", reference="torch's LSTM cells and convolutions, a step at a time", **in_both(compared))


# ── the noise ───────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.usefixtures("_double")
def test_a_step_back_is_the_gaussian_before_given_both_ends() -> None:
    """x_t-1 given x_t and x_0, from their joint covariance: told the noise that there is, this is what is drawn."""
    torch.manual_seed(0)
    beta, process, x_0 = betas(), Process(betas()), torch.randn(5, 3)
    bar = (1 - beta).cumprod(0)
    exact = lambda x, t: (x - bar[t].sqrt() * x_0) / (1 - bar[t]).sqrt()
    start = torch.randn(5, 3)
    torch.manual_seed(1)
    way = [*process.back(start, exact)]
    assert len(way) == STEPS + 1
    torch.testing.assert_close(way[-1], x_0, rtol=0, atol=1e-12)
    torch.manual_seed(1)
    for t in range(STEPS - 1, 0, -1):
        mean, variance = bar[t - 1].sqrt() * x_0, 1 - bar[t - 1]  # of x_t-1 given x_0
        across = (1 - beta[t]).sqrt() * variance  # its covariance with x_t, of variance 1 - bar[t]
        mean = mean + across / (1 - bar[t]) * (way[STEPS - 1 - t] - bar[t].sqrt() * x_0)
        deviation = (variance - across**2 / (1 - bar[t])).sqrt()
        torch.testing.assert_close(way[STEPS - t], mean + deviation * torch.randn(5, 3), rtol=0, atol=1e-12)


@pytest.mark.usefixtures("_double")
def test_noise_that_is_put_in_at_once_is_that_of_all_steps() -> None:
    torch.manual_seed(0)
    process, x, signal, variance = Process(betas()), torch.randn(STEPS, 2, 3), 1.0, 0.0
    noise = torch.randn_like(x)
    noised = process.noised(x, torch.arange(STEPS), noise)
    for t, beta in enumerate(betas().tolist()):
        signal, variance = math.sqrt(1 - beta) * signal, (1 - beta) * variance + beta
        torch.testing.assert_close(noised[t], signal * x[t] + math.sqrt(variance) * noise[t], rtol=0, atol=1e-12)


@pytest.mark.usefixtures("_double")
def test_samples_of_a_gaussian_have_the_mean_and_spread_of_the_linear_chain() -> None:
    """Of N(2, 0.5²) the noise that is to be expected is linear in x, and so is each step: mean and spread by hand."""
    torch.manual_seed(0)
    beta, slope = torch.linspace(1e-4, 0.1, 100), lambda t: (1 - bar[t]).sqrt() / (bar[t] / 4 + 1 - bar[t])
    bar = (1 - beta).cumprod(0)
    *_, drawn = Process(beta).back(torch.randn(100_000), lambda x, t: slope(t) * (x - bar[t].sqrt() * 2))
    mean, variance = torch.tensor(0.0), torch.tensor(1.0)
    for t in reversed(range(100)):
        taken = (beta[t] / (1 - bar[t]).sqrt() * slope(t)).item()
        mean = (mean - taken * (mean - bar[t].sqrt() * 2)) / (1 - beta[t]).sqrt()
        variance = variance * (1 - taken) ** 2 / (1 - beta[t])
        variance += beta[t] * (1 - bar[t - 1]) / (1 - bar[t]) if t else 0.0
    assert drawn.mean().item() == pytest.approx(mean.item(), abs=0.005)
    assert drawn.std().item() == pytest.approx(variance.sqrt().item(), abs=0.005)
    assert mean.item() == pytest.approx(2, abs=0.02)
    assert 0.47 < variance.sqrt() < 0.5  # eq. 7 is of one x_0: what it does not know is missing from the spread


# ── the chain ───────────────────────────────────────────────────────────────────────────────────────────────────────


class Told(nn.Module):
    """The noise that leaves 3 h, the first numbers of the state, when one step takes it out."""

    def spread(self, h_ND: Tensor) -> Tensor:
        return h_ND

    def forward(self, x_NC: Tensor, t_N: Tensor, h_ND: Tensor) -> Tensor:
        assert t_N.tolist() == [0]
        return (x_NC - math.sqrt(0.7) * 3 * h_ND[:, : x_NC.shape[1]]) / math.sqrt(0.3)


def test_what_is_drawn_is_fed_back_and_no_future_is_looked_at() -> None:
    """Each window goes on from its own state, however many samples there are: one pass of the LSTM over all of it."""
    model, batch = made(), windows()
    model.epsilon, model.process = Told(), Process(torch.tensor([0.3]))  # type: ignore[assignment]
    with torch.no_grad():
        drawn = model.draw(replace(batch, future=torch.full_like(batch.future, math.nan)), 5)
    assert drawn.shape == (3, 5, 4, 3)
    z = torch.cat([batch.past, drawn[:, 2]], 1)
    rows = torch.arange(5, 13)  # the context, and the four steps ahead
    turn = 2 * math.pi * (batch.at[:, None] - 9 + rows)[..., None] / SEASON
    h, _ = model.rnn(torch.cat([z[:, rows - 1], z[:, rows - 3], turn.sin(), turn.cos()], 2))
    torch.testing.assert_close(drawn, 3 * h[:, None, 4:, :3].expand_as(drawn), rtol=0, atol=1e-5)
    assert drawn.std(0).min() > 1e-3  # windows, and so their states, differ


@pytest.mark.slow
def test_the_recipe_comes_near_the_optimum_and_not_below_it(tmp_path) -> None:
    run = fuxian.run("timegrad", quick=True, parent=tmp_path)
    assert run.metrics["to_optimum"] == run.metrics["test/crps"] / run.metrics["test/optimum_crps"]
    assert 0.98 < run.metrics["to_optimum"] < 2
    drawn = {path.stem for path in (run.folder / "pictures").iterdir()}
    assert drawn == {f"forecast-{name}" for name in ("windows", "deviation", "horizon", "calibration", "denoising")}


def test_the_recipe_is_the_setting_of_nsdiff() -> None:
    stages = recipe("waves")
    stage: Any = next(stages)
    model, optimizer = stage.model, stage.optimizer
    assert (model.context, model.lags, model.rnn.num_layers, model.rnn.hidden_size) == (24, (1, 24, 144), 2, 40)
    assert model.rnn.dropout == 0.1
    assert (model.process.steps, model.process.factors[-1][0]) == (100, pytest.approx(0.9**-0.5))
    assert [layer.apart for layer in model.epsilon.layers] == [1, 2] * 4
    assert (optimizer.lr, optimizer.decay, optimizer.clip) == (0.001, 5e-4, 5)
    assert (stage.batch, stage.epochs, stage.select, stage.drop_last) == (32, 10, "-loss", False)


def test_lags_that_a_window_does_not_hold_are_refused() -> None:
    with pytest.raises(WrongInput, match="a window of 100 has no number 144 steps before a context of 24"):
        next(recipe("waves", window=100))
