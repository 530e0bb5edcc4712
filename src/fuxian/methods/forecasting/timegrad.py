"""TimeGrad: a recurrent net remembers the past; the numbers of the next step are noise from which it takes the noise out.

中文     自回归去噪扩散预测
Paper    Rasul, Seward, Schuster & Vollgraf, ICML 2021, arXiv:2101.12072: algorithms 1 and 2
         Ho, Jain & Abbeel, NeurIPS 2020, arXiv:2006.11239: eq. 4, 7, 11 (the noise, and a step back)
Code     zalandoresearch/pytorch-ts @ 7860c96: pts/model/time_grad (net), pts/modules/gaussian_diffusion.py
         wwy155/NsDiff @ 0686624: src/models/TimeGrad.py, src/experiments/TimeGrad.py (the setting), and what it stands on:
         torch_timeseries 0.1.10, core/experiments/settings.py (Adam, clipping, patience)
Departs  the weights are kept that denoise val best, where NsDiff's code keeps those whose samples have the least CRPS: that
         costs a forecast an epoch; the features of time are the sine and cosine of the place in the season; what is the
         same at every step (an embedding of the channels) is left to the biases, of which a gated convolution has one, and
         theirs two that add up: their sum goes twice as far; a window has no scale of its own, as columns are standardized:
         NsDiff's divides by one too, its `where` is the wrong way round
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fuxian import figures
from fuxian.contract import Objective, Stage
from fuxian.data.series import Windows, series_data
from fuxian.errors import WrongInput
from fuxian.facts import Claim, Paper, Within
from fuxian.metrics.forecast import quantiles
from fuxian.objectives.forecasting import LEVELS, SampledForecast, places
from fuxian.optim import adam, patience

PAPER = Paper("Autoregressive Denoising Diffusion Models for Multivariate Probabilistic Time Series Forecasting",
              "Rasul et al.", 2021, venue="ICML", arxiv="2101.12072")  # fmt: skip
CLAIMS = [
    Claim("test/crps", None, where="the paper has neither this series nor this protocol", seeds=1, better="lower"),
    Claim("to_optimum", 1.0, where="by arithmetic: σ / √π, waves", seeds=1, better="lower",
          knobs=dict(data="waves", window=48, horizon=24, lags=(1, 24), denoising=50, beta=0.2),
          comparison="the least that a forecast can have in the mean; 168 numbers are told"),
    Claim("to_optimum", 1.0, where="by arithmetic: σ / √π, linear noise", seeds=1, better="lower",
          knobs=dict(data="linear-noise", window=48, horizon=24, lags=(1, 24), epochs=2),
          comparison="level and noise of the test rows are larger than any that were learned from"),
]  # fmt: skip
QUICK = dict(data="waves", window=48, horizon=8, samples=20, lags=(1, 24), denoising=15, beta=0.5, layers=2, lr=0.005,
             epochs=1)  # fmt: skip

# Shape letters: B windows, S samples, L steps of the past, H steps ahead, C channels, N numbers' vectors (B steps, or B S),
# A lags, I inputs, D hidden units and U layers of the recurrent net, T noising steps, E numbers that stand for one, F
# features, P places of a ring. A noising step t is counted from 0, as in the code: the paper's n - 1.


class Process(nn.Module):
    """Noise is put in by T steps, the t-th of variance β_t, and taken out again. Ho et al. 2020."""

    signal: Tensor
    noise: Tensor

    def __init__(self, beta_T: Tensor) -> None:
        super().__init__()
        self.steps = len(beta_T)
        beta_T = beta_T.double()  # 1 - ᾱ is small at first
        alpha_bar_T = (1 - beta_T).cumprod(0)
        before_T = F.pad(alpha_bar_T[:-1], (1, 0), value=1.0)
        deviation_T = (beta_T * (1 - before_T) / (1 - alpha_bar_T)).sqrt()  # of eq. 7
        factors = ((1 - beta_T).rsqrt(), beta_T / (1 - alpha_bar_T).sqrt(), deviation_T)
        self.factors = [*zip(*(factor.tolist() for factor in factors), strict=True)]
        for name, value in dict(signal=alpha_bar_T.sqrt(), noise=(1 - alpha_bar_T).sqrt()).items():
            self.register_buffer(name, value.to(torch.get_default_dtype()), persistent=False)

    def about(self) -> dict[str, list[float]]:
        """Of each t, what a step back takes: x = of_x (x - of_noise noise) + deviation ε. For export."""
        return dict(zip(("of_x", "of_noise", "deviation"), map(list, zip(*self.factors, strict=True)), strict=True))

    def noised(self, x: Tensor, t: Tensor, noise: Tensor) -> Tensor:
        """x_t of x_0 (rows, …) in one step, of the rows' t: eq. 4."""
        shape = (-1, *[1] * (x.dim() - 1))
        return self.signal[t].view(shape) * x + self.noise[t].view(shape) * noise

    def back(self, x: Tensor, noise_in: Callable[[Tensor, Tensor], Tensor]) -> Iterator[Tensor]:
        """A noise x, then what each step back makes of it, the last of them x_0: eq. 11, algorithm 2 here.

        `noise_in(x, t)` tells the noise in x; t is one number for all rows, of shape (1,).
        """
        yield x
        for t in reversed(range(self.steps)):
            of_x, of_noise, deviation = self.factors[t]
            x = of_x * (x - of_noise * noise_in(x, torch.tensor([t], device=x.device)))
            if t:
                x = x + deviation * torch.randn_like(x)
            yield x


class Steps(nn.Module):
    """Noising steps (N,) to E numbers: sines and cosines of 10 to the `powers`, and two layers. DiffusionEmbedding."""

    table: Tensor

    def __init__(self, steps: int, powers: Tensor, width: int) -> None:
        super().__init__()
        angle = torch.arange(steps)[:, None] * 10.0**powers
        self.register_buffer("table", torch.cat([angle.sin(), angle.cos()], 1), persistent=False)
        self.layers = nn.Sequential(nn.Linear(2 * len(powers), width), nn.SiLU(), nn.Linear(width, width), nn.SiLU())

    def forward(self, t_N: Tensor) -> Tensor:
        return self.layers(self.table[t_N])


def beside(x_FPN: Tensor, apart: int) -> Tensor:
    """The features (3 F, P, N) of the places `apart` before, here and `apart` after, on a ring: what a convolution sees."""
    return torch.cat([x_FPN.roll(apart, 1), x_FPN, x_FPN.roll(-apart, 1)])


def mixed(layer: nn.Linear, x_FPN: Tensor) -> Tensor:
    """The layer at every place of every row, in one product."""
    return torch.addmm(layer.bias[:, None], layer.weight, x_FPN.flatten(1)).unflatten(1, x_FPN.shape[1:])


class Residual(nn.Module):
    """A gated convolution, its places `apart`; half of what it finds goes on, half is the result. epsilon_theta.py."""

    def __init__(self, width: int, steps: int, apart: int) -> None:
        super().__init__()
        self.apart = apart
        self.step = nn.Linear(steps, width)
        self.convolution = nn.Linear(3 * width + 1, 2 * width)  # the condition is one more of what it sees
        self.out = nn.Linear(width, 2 * width)
        nn.init.kaiming_uniform_(self.convolution.weight[:, :-1], a=math.sqrt(5))
        for weight in (self.convolution.weight[:, -1:], self.out.weight):
            nn.init.kaiming_normal_(weight)

    def forward(self, x_FPN: Tensor, condition_1PN: Tensor, step_NE: Tensor) -> tuple[Tensor, Tensor]:
        seen_FPN = torch.cat([beside(x_FPN + self.step(step_NE).T[:, None], self.apart), condition_1PN])
        gate_FPN, filter_FPN = mixed(self.convolution, seen_FPN).chunk(2)
        more_FPN, skip_FPN = F.leaky_relu(mixed(self.out, gate_FPN.sigmoid() * filter_FPN.tanh()), 0.4).chunk(2)
        return (x_FPN + more_FPN) / math.sqrt(2), skip_FPN


class EpsilonTheta(nn.Module):
    """Noisy numbers (N, C), their steps t (N,) or (1,) and what `spread` makes of a state, to the noise in them (N, C).

    The channels lie on a ring of C + 4 places, whose first and last two are again the ones from the other end.
    """

    ring: Tensor

    def __init__(self, channels: int, hidden: int, condition: int, width: int, layers: int, steps: int) -> None:
        super().__init__()
        half = max(1, channels // 2)
        self.up = nn.Sequential(
            nn.Linear(hidden, condition), nn.Linear(condition, half), nn.LeakyReLU(0.4),
            nn.Linear(half, channels), nn.LeakyReLU(0.4),
        )  # fmt: skip
        self.steps = Steps(steps, torch.arange(16) / 4, 64)
        self.first = nn.Linear(1, width)
        self.layers = nn.ModuleList(Residual(width, 64, apart=1 + i % 2) for i in range(layers))
        self.skip, self.last = nn.Linear(3 * width, width), nn.Linear(3 * width, 1)
        for layer in (self.first, self.skip):
            nn.init.kaiming_normal_(layer.weight)
        nn.init.zeros_(self.last.weight)
        self.register_buffer("ring", torch.arange(-2, channels + 2) % channels, persistent=False)

    def spread(self, h_ND: Tensor) -> Tensor:
        """(1, P, N): the state over the ring."""
        return self.up(h_ND).T[None, self.ring]

    def forward(self, x_NC: Tensor, t_N: Tensor, condition_1PN: Tensor) -> Tensor:
        step_NE = self.steps(t_N)
        x_FPN = F.leaky_relu(mixed(self.first, x_NC.T[None, self.ring]), 0.4)
        found_FPN = torch.zeros_like(x_FPN)
        for layer in self.layers:
            x_FPN, skip_FPN = layer(x_FPN, condition_1PN, step_NE)
            found_FPN = found_FPN + skip_FPN
        x_FPN = found_FPN / math.sqrt(len(self.layers))
        x_FPN = F.leaky_relu(mixed(self.skip, beside(x_FPN, 1)[:, 1:-1]), 0.4)
        return mixed(self.last, beside(x_FPN, 1)[:, 1:-1])[0].T


class TimeGrad(nn.Module):
    """An LSTM over the numbers `lags` steps before, and the net that takes noise out of the numbers of its step.

    It begins `context` steps before the future.
    """

    def __init__(self, channels: int, window: int, context: int, season: int, lags: tuple[int, ...], rnn: nn.LSTM,
                 epsilon: EpsilonTheta, process: Process) -> None:  # fmt: skip
        super().__init__()
        self.window, self.context, self.season, self.lags = window, context, season, lags
        self.rnn, self.epsilon, self.process = rnn, epsilon, process

    def told(self, before: Sequence[Tensor], step_BL: Tensor) -> Tensor:
        """(B, L, I): what the LSTM is told of the steps `step`, with the numbers (B, L, C) of each lag before them."""
        turn_BL1 = (2 * math.pi / self.season * step_BL.to(before[0]))[..., None]
        return torch.cat([*before, turn_BL1.sin(), turn_BL1.cos()], 2)

    def inputs(self, z_BLC: Tensor, at_B: Tensor, first: int, end: int) -> Tensor:
        """(B, end - first, I): the same of the steps `first` … `end` - 1 of z, whose `window`-th is `at`."""
        step_BL = at_B[:, None] + torch.arange(first - self.window, end - self.window, device=at_B.device)
        return self.told([z_BLC[:, first - lag : end - lag] for lag in self.lags], step_BL)

    def forward(
        self, x_NC: Tensor, t_N: Tensor, before_NAC: Tensor, step_N: Tensor, h_NUD: Tensor, c_NUD: Tensor
    ) -> dict[str, Tensor]:
        """One step, as `paths` takes it: the noise (N, C) in x at t, and the LSTM's state after the step of the series.

        `before` are the numbers of each lag before it, h and c its state before it: zeros where it begins.
        """
        state = h_NUD.transpose(0, 1).contiguous(), c_NUD.transpose(0, 1).contiguous()
        h_N1D, (h_UND, c_UND) = self.rnn(self.told(before_NAC[:, None].unbind(2), step_N[:, None]), state)
        noise_NC = self.epsilon(x_NC, t_N, self.epsilon.spread(h_N1D[:, 0]))
        return {"noise": noise_NC, "h_after": h_UND.transpose(0, 1), "c_after": c_UND.transpose(0, 1)}

    def denoising_error(self, batch: Windows) -> Tensor:
        """(B, context + H): the squared error of the noise that is told, at a random t of each step's. Algorithm 1."""
        z_BLC, first = torch.cat([batch.past, batch.future], 1), self.window - self.context
        h_BLD, _ = self.rnn(self.inputs(z_BLC, batch.at, first, z_BLC.shape[1]))
        x_NC = z_BLC[:, first:].flatten(0, 1)
        t_N, noise_NC = torch.randint(self.process.steps, (len(x_NC),), device=x_NC.device), torch.randn_like(x_NC)
        told_NC = self.epsilon(self.process.noised(x_NC, t_N, noise_NC), t_N, self.epsilon.spread(h_BLD.flatten(0, 1)))
        return (told_NC - noise_NC).square().mean(1).view(len(batch), -1)

    def paths(self, batch: Windows, samples: int) -> Iterator[Tensor]:
        """For each step ahead, the way of its numbers out of noise (T + 1, B S, C). The last are fed back: algorithm 2."""
        (B, L, C), H = batch.past.shape, batch.future.shape[1]
        _, state = self.rnn(self.inputs(batch.past, batch.at, L - self.context, L))
        state = tuple(part.repeat_interleave(samples, 1) for part in state)
        z_NLC = torch.cat([batch.past, batch.past.new_zeros(B, H, C)], 1).repeat_interleave(samples, 0)
        at_N = batch.at.repeat_interleave(samples)
        for step in range(L, L + H):
            h_N1D, state = self.rnn(self.inputs(z_NLC, at_N, step, step + 1), state)
            condition_1PN = self.epsilon.spread(h_N1D[:, 0])
            noise_in = lambda x_NC, t, condition_1PN=condition_1PN: self.epsilon(x_NC, t, condition_1PN)
            path_TNC = torch.stack([*self.process.back(torch.randn_like(z_NLC[:, step]), noise_in)])
            z_NLC[:, step] = path_TNC[-1]
            yield path_TNC

    def draw(self, batch: Windows, samples: int) -> Tensor:
        """(B, S, H, C): all windows and samples go side by side."""
        return torch.stack([path_TNC[-1] for path_TNC in self.paths(batch, samples)], 1).unflatten(0, (-1, samples))


class Denoising(Objective):
    """How a model with `denoising_error(batch)` (B, …) is trained: the mean of it; algorithm 1."""

    def losses(self, model: Any, batch: Windows) -> Iterator[tuple[str, Tensor]]:
        yield "model", model.denoising_error(batch).mean()

    def evaluate(self, model: Any, batch: Windows) -> Iterator[tuple[str, Tensor]]:
        yield "loss", model.denoising_error(batch).flatten(1).mean(1)


def out_of_noise(paths: Mapping[str, tuple[Tensor, Tensor]], y: str) -> Any:
    """What became of samples while noise was taken out of them, and the truth: `{title: (path (T + 1, S), truth)}`."""
    fans = {}
    for title, (path_TS, truth) in paths.items():
        taken = torch.arange(len(path_TS))
        fans[title] = (taken, truth.expand(len(taken))), (taken, quantiles(path_TS, torch.tensor(LEVELS)))
    return figures.fan(fans, LEVELS, x="noising steps taken back", y=y)


class Chain(SampledForecast):
    """Samples judged; and how those of one window come out of noise, at three steps ahead. Exported is one step of it."""

    def __init__(self, model: TimeGrad, *args: Any) -> None:
        super().__init__(*args)
        self.steps, self.lags, self.context = model.process.steps, model.lags, model.context
        self.state = model.rnn.num_layers, model.rnn.hidden_size
        self.factors = model.process.about()

    def inputs(self, batch: Windows) -> tuple[Tensor, ...]:
        x_NC, N = batch.future[:, 0], len(batch)
        t_N, before_NAC = torch.randint(self.steps, (N,)), batch.past[:, [-lag for lag in self.lags]]
        return x_NC + torch.randn_like(x_NC), t_N, before_NAC, batch.at, *torch.rand(2, N, *self.state).mul(2).sub(1)

    def about(self) -> dict[str, Any]:
        return {**self.factors, "lags": self.lags, "context": self.context}

    def pictures(self, model: TimeGrad, split: Any) -> dict[str, Any]:
        batch = split.batch(places(split, 1, self.mean.device)).to(self.mean.device)
        H, shown = batch.future.shape[1], {}
        for ahead, path_TNC in enumerate(model.paths(batch, self.samples), 1):
            if ahead in (1, (H + 1) // 2, H):
                shown[f"{ahead:,} ahead"] = self.in_units(path_TNC), self.in_units(batch.future[0, ahead - 1])
        return super().pictures(model, split) | {"denoising": out_of_noise(shown, self.columns[-1])}


def recipe(
    data: Literal["etth1", "etth2", "ettm1", "exchange-rate", "waves", "linear-noise", "quadratic-noise"] | Path
    = "etth1",                                        # a series, in the order of time
    window: Annotated[int, Within(2)] = 168,          # steps of the past that are seen
    horizon: Annotated[int, Within(1)] = 192,         # steps ahead that are told
    windows: Literal["all", "blocks", "rolling"] = "blocks",  # of val and test: all, those that share no step, 5 in a row
    samples: Annotated[int, Within(2)] = 100,         # futures drawn of each window
    season: Annotated[int, Within(1)] = 24,           # steps; a day of ETTh is 24, of ETTm 96
    lags: Annotated[tuple[int, ...], Within(1)] = (1, 24, 144),  # how long before are the numbers that the LSTM is told
    context: Annotated[int, Within(1)] = 24,          # steps of the past that it goes through
    hidden: Annotated[int, Within(1)] = 40,           # units of an LSTM layer
    depth: Annotated[int, Within(1)] = 2,             # LSTM layers
    dropout: Annotated[float, Within(0, 1)] = 0.1,    # probability, between LSTM layers
    condition: Annotated[int, Within(1)] = 100,       # numbers that the LSTM hands to the net that denoises
    width: Annotated[int, Within(1)] = 8,             # features of that net
    layers: Annotated[int, Within(1)] = 8,            # its residual layers, their places one and two apart in turn
    denoising: Annotated[int, Within(2)] = 100,       # noising steps, each of which is taken back
    beta: Annotated[float, Within(0, 1)] = 0.1,       # variance of the last; the first has 0.0001
    lr: float = 0.001,                                # Adam
    weight_decay: float = 5e-4,                       # L2
    batch: int = 32,                                  # windows a step
    epochs: int = 10,                                 # at most: it stops when five have brought nothing
) -> Iterator[Stage]:  # fmt: skip
    series = series_data(data, window, horizon, windows)
    if max(lags) + context > window:
        raise WrongInput(
            f"a window of {window:,} has no number {max(lags):,} steps before a context of {context:,}",
            do=f"--lags of at most {window - context:,}" if window > context else "a smaller --context",
        )
    model = TimeGrad(
        series.channels, window, context, season, lags,
        nn.LSTM(len(lags) * series.channels + 2, hidden, depth, batch_first=True, dropout=dropout if depth > 1 else 0.0),
        EpsilonTheta(series.channels, hidden, condition, width, layers, denoising),
        Process(torch.linspace(1e-4, beta, denoising, dtype=torch.float64)),
    )  # fmt: skip
    yield Stage(model, series, Denoising(), adam(lr, decay=weight_decay, clip=5), epochs=epochs, batch=batch,
                select="-loss", stop=patience("-loss", 5), name="train")  # fmt: skip
    truth = series.truth if series.location is not None else None
    objective = Chain(model, series.columns, series.mean, series.std, samples, truth)
    found = yield Stage(model, series, objective, steps=0, batch=batch, name="forecast")
    return {"to_optimum": found["test/crps"] / found["test/optimum_crps"]} if truth else {}
