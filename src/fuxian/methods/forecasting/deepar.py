"""DeepAR: an LSTM that tells the distribution of the next number, and draws futures one number after another.

中文     自回归循环网络概率预测
Paper    Salinas, Flunkert & Gasthaus, 2017, arXiv:1704.04110: eq. 1, 2, sec. 3.1 (likelihood), 3.3 (scale), 3.4 (features)
Code     awslabs/gluonts @ 002b410: torch/model/deepar/module.py, estimator.py (not the authors'): Student's t, which the
         paper does not have, two layers of 40, Adam at 0.001, gradients clipped at 10, 100 samples; @ 2934b32:
         evaluations/README.md has what its ancestor measured of the exchange rates
Departs  numbers have a sign here: the scale of a window is 1 + mean |z|; dates are not given: the features of time are the
         sine and cosine of the place in the season; no lags but the last number, and no dropout, which module.py has
"""

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.distributions import Chi2

from fuxian.contract import Stage
from fuxian.data.series import Windows, series_data
from fuxian.facts import Claim, Paper, Within
from fuxian.objectives.forecasting import SampledForecast
from fuxian.optim import adam

PAPER = Paper("DeepAR: Probabilistic Forecasting with Autoregressive Recurrent Networks", "Salinas et al.", 2020,
              venue="International Journal of Forecasting", arxiv="1704.04110")  # fmt: skip
CLAIMS = [
    Claim("test/crps", None, where="the paper has neither this series nor this protocol", seeds=1, better="lower"),
    # Five runs, which spread by 0.003. 20 epochs see as many windows of a channel as its 30,000 batches of 32.
    Claim("test/wql", 0.010, where="GluonTS, evaluations, exchange rate, 30 days", tolerance=0.003, seeds=5, better="lower",
          knobs=dict(data="exchange-rate", window=30, horizon=30, windows="rolling", season=5, epochs=20)),
    # What the future was drawn from has 1, of 100 samples 1.01. Tolerance: that, and what 1,680 numbers leave unknown.
    Claim("to_optimum", 1.0, where="by arithmetic: σ / √π, waves", tolerance=0.05, seeds=3, better="lower",
          knobs=dict(data="waves", likelihood="gaussian", window=48, horizon=24, windows="all", lr=0.005, epochs=8)),
    Claim("to_optimum", 1.0, where="by arithmetic: σ / √π, linear noise", seeds=1, better="lower",
          knobs=dict(data="linear-noise", likelihood="gaussian", window=48, horizon=24),
          comparison="level and noise of the test rows are larger than any that were learned from"),
    Claim("test/crps", None, where="of every window no number is published", seeds=1, better="lower",
          knobs=dict(windows="all")),
]  # fmt: skip
QUICK = dict(data="waves", window=48, horizon=24, samples=25, hidden=20, depth=1, lr=0.01, epochs=2)

# Shape letters: B windows, S samples, L steps of the past, H steps ahead, T steps, C channels, N series (B C or B S C),
# F inputs of a step, D hidden units, U layers, P parameters of a distribution.

State = tuple[Tensor, Tensor]  # h and c (depth, N, D)


class Gaussian:
    """ν μ and ν σ, σ = log(1 + exp(…)): linear in h but for that, and ν the scale of the series. Sec. 3.1, 3.3."""

    PARAMETERS = 2

    def __init__(self, out_BTCP: Tensor, scale_B1C: Tensor) -> None:
        self.mean_BTC = scale_B1C * out_BTCP[..., 0]
        self.std_BTC = scale_B1C * F.softplus(out_BTCP[..., 1]).clamp_min(torch.finfo(out_BTCP.dtype).eps)

    def log_prob(self, z_BTC: Tensor) -> Tensor:
        off_BTC = (z_BTC - self.mean_BTC) / self.std_BTC
        return -off_BTC.square() / 2 - self.std_BTC.log() - math.log(2 * math.pi) / 2

    def draw(self) -> Tensor:
        return self.mean_BTC + self.std_BTC * torch.randn_like(self.mean_BTC)


class StudentT(Gaussian):
    """The same with heavy tails: more than two degrees of freedom k, so that it has a variance. gluonts, StudentTOutput."""

    PARAMETERS = 3

    def __init__(self, out_BTCP: Tensor, scale_B1C: Tensor) -> None:
        super().__init__(out_BTCP, scale_B1C)
        self.k_BTC = 2 + F.softplus(out_BTCP[..., 2])

    def log_prob(self, z_BTC: Tensor) -> Tensor:
        k, off_BTC = self.k_BTC, (z_BTC - self.mean_BTC) / self.std_BTC
        whole_BTC = torch.lgamma((k + 1) / 2) - torch.lgamma(k / 2) - (k * math.pi).log() / 2 - self.std_BTC.log()
        return whole_BTC - (k + 1) / 2 * torch.log1p(off_BTC.square() / k)

    def draw(self) -> Tensor:
        """A normal number over the root of a mean of k squares of others."""
        squares_BTC = Chi2(self.k_BTC, validate_args=False).sample() / self.k_BTC
        return self.mean_BTC + self.std_BTC * torch.randn_like(self.mean_BTC) / squares_BTC.sqrt()


class DeepAR(nn.Module):
    """p(z_t | z_<t) = ℓ(z_t | θ(h_t)), h_t = h(h_t-1, z_t-1, x_t): eq. 1. One net for all channels, each a series."""

    def __init__(self, channels: int, season: int, hidden: int, depth: int, likelihood: type[Gaussian]) -> None:
        super().__init__()
        self.season, self.likelihood = season, likelihood
        self.channel = nn.Embedding(channels, min(50, (channels + 1) // 2))  # sec. 3.4, the item; its size: module.py
        self.lstm = nn.LSTM(4 + self.channel.embedding_dim, hidden, depth, batch_first=True)
        self.head = nn.Linear(hidden, likelihood.PARAMETERS)

    @staticmethod
    def scale(past_BLC: Tensor) -> Tensor:
        """ν (B, 1, C) = 1 + mean |z| of the past. Sec. 3.3."""
        return 1 + past_BLC.abs().mean(1, keepdim=True)

    def inputs(self, last_BTC: Tensor, step_BT: Tensor, scale_B1C: Tensor) -> Tensor:
        """(B C, T, F): z_t-1 / ν and log ν, the place of t in the season, the channel. Sec. 3.4."""
        turn_BTC = (2 * math.pi / self.season * step_BT.to(last_BTC))[..., None].expand_as(last_BTC)
        numbers = last_BTC / scale_B1C, scale_B1C.log().expand_as(last_BTC), turn_BTC.sin(), turn_BTC.cos()
        channel_BTCF = self.channel.weight.expand(*last_BTC.shape[:2], -1, -1)
        return torch.cat([torch.stack(numbers, 3), channel_BTCF], 3).transpose(1, 2).flatten(0, 1)

    def told(
        self, last_BTC: Tensor, step_BT: Tensor, scale_B1C: Tensor, state: State | None = None
    ) -> tuple[Gaussian, State]:
        """The distributions of the numbers at `step_BT`, of which `last_BTC` come one step before; the state after them."""
        h_NTD, after = self.lstm(self.inputs(last_BTC, step_BT, scale_B1C), state)
        out_BTCP = self.head(h_NTD).unflatten(0, (-1, last_BTC.shape[2])).transpose(1, 2)
        return self.likelihood(out_BTCP, scale_B1C), after

    def forward(
        self, last_BC: Tensor, step_B: Tensor, scale_BC: Tensor, h_BCUD: Tensor, c_BCUD: Tensor
    ) -> dict[str, Tensor]:
        """One step, as `draw` takes it: what is told of the numbers (B, C) at `step`, and the LSTM's state after it.

        h and c are its state before it: zeros where it begins.
        """
        h_UND, c_UND = (x.flatten(0, 1).transpose(0, 1).contiguous() for x in (h_BCUD, c_BCUD))
        told, after = self.told(last_BC[:, None], step_B[:, None], scale_BC[:, None], (h_UND, c_UND))
        h_BCUD, c_BCUD = (x.transpose(0, 1).unflatten(0, last_BC.shape) for x in after)
        numbers = {name.removesuffix("_BTC"): x_BTC[:, 0] for name, x_BTC in vars(told).items()}
        return {**numbers, "h_after": h_BCUD, "c_after": c_BCUD}

    def log_prob(self, batch: Windows) -> Tensor:
        """(B, L + H - 1, C), in nats: of every number but the first, given those before it."""
        z_BTC = torch.cat([batch.past, batch.future], 1)
        first, end = 1 - batch.past.shape[1], batch.future.shape[1]
        step_BT = batch.at[:, None] + torch.arange(first, end, device=z_BTC.device)
        return self.told(z_BTC[:, :-1], step_BT, self.scale(batch.past))[0].log_prob(z_BTC[:, 1:])

    def draw(self, batch: Windows, samples: int) -> Tensor:
        """(B, S, H, C) from the chain: each number is drawn, and the next is told of it. Sec. 3.2, ancestral sampling.

        All windows, samples and channels go side by side.
        """
        B, L, C = batch.past.shape
        step_BT = batch.at[:, None] + torch.arange(1 - L, 0, device=batch.at.device)
        _, state = self.told(batch.past[:, :-1], step_BT, self.scale(batch.past))
        h, c = (x.unflatten(1, (B, C)).repeat_interleave(samples, 1).flatten(1, 2) for x in state)
        last, scale, step = (
            x.repeat_interleave(samples, 0) for x in (batch.past[:, -1:], self.scale(batch.past), batch.at[:, None])
        )
        drawn = []
        for ahead in range(batch.future.shape[1]):
            told, (h, c) = self.told(last, step + ahead, scale, (h, c))
            last = told.draw()
            drawn.append(last)
        return torch.cat(drawn, 1).unflatten(0, (B, samples))


class Chain(SampledForecast):
    """The likelihood of eq. 2, over the past too, as module.py; nll is of the future alone, in nats a number.

    Exported is one step of the chain.
    """

    def __init__(self, model: DeepAR, *args: Any) -> None:
        super().__init__(*args)
        self.state = model.lstm.num_layers, model.lstm.hidden_size

    def inputs(self, batch: Windows) -> tuple[Tensor, ...]:
        last_BC = batch.past[:, -1]
        return last_BC, batch.at, DeepAR.scale(batch.past)[:, 0], *torch.rand(2, *last_BC.shape, *self.state).mul(2).sub(1)

    def about(self) -> dict[str, Any]:
        return {"scale": "of a column: 1 + mean |number| of the past"}

    def losses(self, model: DeepAR, batch: Windows) -> Iterator[tuple[str, Tensor]]:
        yield "model", -model.log_prob(batch).mean()

    def evaluate(self, model: DeepAR, batch: Windows) -> Iterator[tuple[Any, ...]]:
        yield "nll", -model.log_prob(batch)[:, -batch.future.shape[1] :].mean((1, 2))
        yield from super().evaluate(model, batch)


def recipe(
    data: Literal["etth1", "etth2", "ettm1", "exchange-rate", "waves", "linear-noise", "quadratic-noise"] | Path
    = "etth1",                                        # a series, in the order of time
    likelihood: Literal["student-t", "gaussian"] = "student-t",  # of the next number; gluonts; the paper has the other
    window: Annotated[int, Within(2)] = 168,          # steps of the past that are seen
    horizon: Annotated[int, Within(1)] = 192,         # steps ahead that are told
    windows: Literal["all", "blocks", "rolling"] = "blocks",  # of test: all, those that share no step, 5 in a row
    samples: Annotated[int, Within(2)] = 100,         # futures drawn of each window; estimator.py
    season: Annotated[int, Within(1)] = 24,           # steps; a day of ETTh is 24, of ETTm 96
    hidden: Annotated[int, Within(1)] = 40,           # units of a layer; estimator.py
    depth: Annotated[int, Within(1)] = 2,             # layers; estimator.py
    lr: float = 0.001,                                # Adam; estimator.py
    batch: int = 32,                                  # windows a step, of all channels; estimator.py
    epochs: int = 2,                                  # of every window; the weights are kept that are likeliest on val
) -> Iterator[Stage]:  # fmt: skip
    series = series_data(data, window, horizon, windows, validation="blocks")
    model = DeepAR(series.channels, season, hidden, depth, {"student-t": StudentT, "gaussian": Gaussian}[likelihood])
    truth = series.truth if series.location is not None else None
    objective = Chain(model, series.columns, series.mean, series.std, samples, truth)
    found = yield Stage(
        model, series, objective, adam(lr, clip=10), epochs=epochs, batch=batch, select="-nll", evaluate_every=50
    )  # estimator.py, num_batches_per_epoch
    return {"to_optimum": found["test/crps"] / found["test/optimum_crps"]} if truth else {}
