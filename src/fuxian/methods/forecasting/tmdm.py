"""TMDM: a Transformer tells the mean of what comes, and a diffusion whose noise lies about that mean tells the rest.

中文     Transformer 调制扩散模型
Paper    Li, Chen, Hu, Chen, Sun & Zhou, ICLR 2024, openreview.net/forum?id=qae04YACHs; process and net are CARD's: Han,
         Zheng & Zhou, NeurIPS 2022, arXiv:2206.07275
         Ye, Xu & Gui, ICML 2025, arXiv:2505.04278 (NsDiff): Table 2, which has TMDM on ETTh1, from 168 steps to 192
Code     LiYuxin321/TMDM @ e44bde8, model9_NS_transformer: ns_models/ns_Transformer.py (mean), diffusion_models/model.py
         (net) and diffusion_utils.py (process), exp/exp_main.py (loss); wwy155/NsDiff @ 0686624, experiments/TMDM.py and
         configs/tmdm.yml: the settings of that table. The last variance is the .yml's 0.02, as nothing reads the 0.5 of
         TMDM.py: y_T still has 0.6 of y_0, and is drawn as if it had nothing. The authors' own code takes 1,000 steps,
         after which 0.006 is left
Departs  the Transformer has 64 units and two heads, theirs 512 and eight. z is drawn once, with a tenth of its deviation:
         what the mean of a hundred draws has. Only the steps ahead are denoised, as the net sees each step alone. Its
         embedding of the past, which nothing reads, is left out, and so are the biases that torch_timeseries 0.1.10 gives
         the embeddings of the Transformer
"""

import math
from collections import deque
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fuxian import figures
from fuxian.contract import Stage
from fuxian.data.series import Windows, series_data
from fuxian.facts import Claim, Paper, Within
from fuxian.methods.forecasting.nonstationary_transformer import NonstationaryTransformer
from fuxian.metrics.forecast import quantiles
from fuxian.objectives.forecasting import LEVELS, DiffusedForecast, places
from fuxian.optim import adam, patience

PAPER = Paper("Transformer-Modulated Diffusion Models for Probabilistic Multivariate Time Series Forecasting", "Li et al.",
              2024, venue="ICLR")  # fmt: skip
# All stand on eight windows. Tolerance: what NsDiff's own numbers in that table moved by when others ran its code (0.392 to
# 0.415 of CRPS, 0.0147 to 0.0278 of QICE: its issue 5).
CLAIMS = [
    Claim("test/crps", 0.452, where="NsDiff's Table 2, ETTh1, TMDM", seeds=1, better="lower",
          comparison="the Transformer has 64 units, theirs 512"),
    Claim("test/qice", 0.02821, where="NsDiff's Table 2, ETTh1, TMDM", seeds=1, better="lower",
          comparison="the Transformer has 64 units, theirs 512"),
    Claim("test/crps", 0.452, where="NsDiff's Table 2, ETTh1, TMDM", tolerance=0.023, seeds=3, better="lower",
          knobs=dict(width=512, hidden=1024, heads=8), needs="a GPU, or hours of two cores"),
    Claim("test/qice", 0.02821, where="NsDiff's Table 2, ETTh1, TMDM", tolerance=0.013, seeds=3, better="lower",
          knobs=dict(width=512, hidden=1024, heads=8), needs="a GPU, or hours of two cores"),
    Claim("test/crps", None, where="of every window no number is published", seeds=1, better="lower",
          knobs=dict(windows="all")),
]  # fmt: skip
QUICK = dict(data="waves", window=48, horizon=24, samples=25, width=16, depth=1, hidden=32, heads=2, projector=8,
             denoising=20, beta=0.3, lr=0.005, epochs=2)  # fmt: skip

UNITS = 128  # of each layer of the net that denoises; model.py
KL = 0.01  # weight of the latent's divergence; k_z
TRAJECTORIES = 16  # that a processor denoises side by side: as many as stay in its cache, which takes half the time

# Shape letters: B windows, S samples, L steps of the past, H steps ahead, P steps of both, T steps of the second half of
# the past and H, C channels, N trajectories (B S), D units, U units of the net that denoises. A noising step t is counted
# from 0, as there.


class Net(nn.Module):
    """The noise in y_t, of one step of the series alone: a net of y_t and f(x), each unit times a number of its own for t.

    model.py, ConditionalGuidedModel.
    """

    def __init__(self, channels: int, denoising: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(inputs, UNITS) for inputs in (2 * channels, UNITS, UNITS))
        self.times = nn.ModuleList(
            nn.Embedding(denoising, UNITS, _weight=torch.rand(denoising, UNITS)) for _ in self.layers
        )
        self.last = nn.Linear(UNITS, channels)

    def forward(self, y_BTC: Tensor, f_BTC: Tensor, t_B: Tensor) -> Tensor:
        """(B, T, C) each, of one t for each row, or one for all (1,)."""
        x_BTU = torch.cat([y_BTC, f_BTC], 2)
        for layer, table in zip(self.layers, self.times, strict=True):
            x_BTU = F.softplus(layer(x_BTU) * table(t_B)[:, None])
        return self.last(x_BTU)


class TMDM(nn.Module):
    """f(x), decoded from a latent z of what the encoder has seen; and y_0 in noise about f(x), of variance β_t at step t.

    q(y_t | y_t-1) = N(√α_t y_t-1 + (1 - √α_t) f(x), β_t), α_t = 1 - β_t; p(y_T) = N(f(x), 1). diffusion_utils.py.
    """

    table: Tensor

    def __init__(
        self, transformer: NonstationaryTransformer, width: int, channels: int, denoising: int, beta: float
    ) -> None:
        super().__init__()
        self.transformer, self.net = transformer, Net(channels, denoising)
        self.mean, self.log_var, self.out = (
            nn.Sequential(nn.Linear(width, width), nn.ReLU(), nn.Linear(width, width)) for _ in range(3)
        )
        betas = torch.linspace(1e-4, beta, denoising, dtype=torch.float64)
        alpha_bar = (1 - betas).cumprod(0)
        before = torch.cat([torch.ones(1, dtype=torch.float64), alpha_bar[:-1]])
        # q(y_t-1 | y_t, y_0): what its mean has of y_0, y_t and f(x), γ_0, γ_1 and γ_2, and its deviation; p_sample. At the
        # first step they are 1, 0, 0 and 0: what is left is y_0.
        of_clean = betas * before.sqrt() / (1 - alpha_bar)
        of_noisy = (1 - before) * (1 - betas).sqrt() / (1 - alpha_bar)
        of_mean = 1 + (alpha_bar.sqrt() - 1) * ((1 - betas).sqrt() + before.sqrt()) / (1 - alpha_bar)
        deviation = (betas * (1 - before) / (1 - alpha_bar)).sqrt()
        table = torch.stack([alpha_bar.sqrt(), (1 - alpha_bar).sqrt(), of_clean, of_noisy, of_mean, deviation])
        self.factors = table.T.tolist()
        self.register_buffer("table", table.to(torch.get_default_dtype()), persistent=False)

    def told(self, past_BLC: Tensor, marks_BPM: Tensor | None) -> tuple[Tensor, Tensor]:
        """f(x) (B, T, C), and KL(q(z|x) ‖ N(0, 1)) for each number of z, the mean. Out of training z is its own mean.

        ns_Transformer.py.
        """
        seen = self.transformer.encode(past_BLC, marks_BPM)
        z_BLD, log_var_BLD = self.mean(seen.memory_BLD), self.log_var(seen.memory_BLD)
        kl = (z_BLD.square() + log_var_BLD.exp() - 1 - log_var_BLD).mean() / 2
        if self.training:
            z_BLD = z_BLD + (log_var_BLD / 2).exp() / 10 * torch.randn_like(z_BLD)
        return self.transformer.decode(seen._replace(memory_BLD=self.out(z_BLD)), marks_BPM), kl

    def noised(self, y_BTC: Tensor, f_BTC: Tensor, t_B: Tensor, noise_BTC: Tensor) -> Tensor:
        """y_t of y_0 at once: √ᾱ_t y_0 + (1 - √ᾱ_t) f(x) + √(1 - ᾱ_t) ε. q_sample."""
        signal, noise = self.table[:2, t_B, None, None]
        return signal * y_BTC + (1 - signal) * f_BTC + noise * noise_BTC

    def mean_before(self, y_NHC: Tensor, f_NHC: Tensor, t_N: Tensor, factors: Sequence[Any]) -> Tensor:
        """The mean of y_t-1 given y_t, for t (N,) or (1,). `factors` are of t, but for its deviation. p_sample."""
        signal, noise, of_clean, of_noisy, of_mean = factors
        clean_NHC = (y_NHC - (1 - signal) * f_NHC - noise * self.net(y_NHC, f_NHC, t_N)) / signal
        return of_clean * clean_NHC + of_noisy * y_NHC + of_mean * f_NHC

    def forward(self, y_BSHC: Tensor, t_B: Tensor, past_BLC: Tensor, marks_BPM: Tensor | None = None) -> dict[str, Tensor]:
        """One step, as `draw` takes it: mean and deviation (B, S, H, C) of y_t-1, given y_t; and f(x) (B, H, C)."""
        f_BHC = self.told(past_BLC, marks_BPM)[0][:, -y_BSHC.shape[2] :]
        B, S = y_BSHC.shape[:2]  # of any S: repeat_interleave becomes ONNX of one
        f_NHC, t_N = (x[:, None].expand(B, S, *x.shape[1:]).flatten(0, 1) for x in (f_BHC, t_B))
        *factors, deviation_N11 = self.table[:, t_N, None, None]
        mean_NHC = self.mean_before(y_BSHC.flatten(0, 1), f_NHC, t_N, factors)
        mean_BSHC, deviation_BSHC = (x.expand_as(f_NHC).view_as(y_BSHC) for x in (mean_NHC, deviation_N11))
        return {"mean": mean_BSHC, "deviation": deviation_BSHC, "f": f_BHC}

    def denoised(self, f_NHC: Tensor) -> Iterator[Tensor]:
        """y_T, …, y_0 (N, H, C), one for each f(x), side by side. p_sample_loop."""
        y_NHC = f_NHC + torch.randn_like(f_NHC)
        yield y_NHC
        for t in reversed(range(len(self.factors))):
            *factors, deviation = self.factors[t]
            y_NHC = self.mean_before(y_NHC, f_NHC, torch.tensor([t], device=f_NHC.device), factors)
            if t:
                y_NHC = y_NHC + deviation * torch.randn_like(y_NHC)
            yield y_NHC

    def draw(self, batch: Windows, samples: int) -> Tensor:
        """(B, S, H, C): what is left when all noise is taken out. f(x) is told once a window."""
        f_NHC = self.told(batch.past, batch.marks)[0][:, -batch.future.shape[1] :].repeat_interleave(samples, 0)
        parts = f_NHC.split(TRAJECTORIES) if f_NHC.device.type == "cpu" else [f_NHC]
        drawn = [deque(self.denoised(part), maxlen=1).pop() for part in parts]  # the last of each
        return torch.cat(drawn).unflatten(0, (-1, samples))


class Modulated(DiffusedForecast):
    """The noise of y_t, f(x) as the mean of y_0 (of variance 1), and the latent: one loss for all. exp_main.py, train."""

    def losses(self, model: TMDM, batch: Windows) -> Iterator[tuple[str, Tensor]]:
        f_BTC, kl = model.told(batch.past, batch.marks)
        y_BTC = torch.cat([batch.past, batch.future], 1)[:, -f_BTC.shape[1] :]
        t_B = self.pairs(len(y_BTC), len(model.factors)).to(y_BTC.device)
        noise_BTC = torch.randn_like(y_BTC)
        guess_BTC = model.net(model.noised(y_BTC, f_BTC, t_B, noise_BTC), f_BTC, t_B)
        nll = ((y_BTC - f_BTC).square().mean() + math.log(2 * math.pi)) / 2
        yield "model", (guess_BTC - noise_BTC).square().mean() + nll + KL * kl

    @staticmethod
    def pairs(count: int, steps: int) -> Tensor:
        """`count` noising steps: half are drawn, and the others lie as far from the end as these from the beginning."""
        t = torch.randint(steps, (count // 2 + 1,))
        return torch.cat([t, steps - 1 - t])[:count]

    def pictures(self, model: TMDM, split: Any) -> dict[str, Any]:
        """One window while it is denoised: the last channel of y_T, y_T/2, y_T/4 and y_0 about what came."""
        batch = split.batch(places(split, 1, self.mean.device)).to(self.mean.device)
        f_BTC, _ = model.told(batch.past, batch.marks)
        future_H = self.in_units(batch.future)[0]
        ahead, steps = torch.arange(1, len(future_H) + 1), len(model.factors)
        shown = dict.fromkeys([0, steps // 2, steps - steps // 4, steps])
        way = enumerate(model.denoised(f_BTC[:, -len(future_H) :].expand(self.samples, -1, -1).contiguous()))
        bands = {n: quantiles(self.in_units(y)[None], torch.tensor(LEVELS))[:, 0] for n, y in way if n in shown}
        fans = {f"t = {steps - n}": ((ahead, future_H), (ahead, band)) for n, band in bands.items()}
        drawn = figures.fan(fans, LEVELS, x="steps ahead", y=self.columns[-1])
        return super().pictures(model, split) | {"denoising": drawn}


def recipe(
    data: Literal["etth1", "etth2", "ettm1", "exchange-rate", "waves", "linear-noise", "quadratic-noise"] | Path
    = "etth1",                                     # a series, in the order of time
    window: Annotated[int, Within(2)] = 168,       # steps of the past that are seen; NsDiff's Table 2
    horizon: Annotated[int, Within(1)] = 192,      # steps ahead that are told; the same
    windows: Literal["all", "blocks", "rolling"] = "blocks",  # of test: all, those that share no step, 5 in a row
    samples: Annotated[int, Within(2)] = 100,      # futures drawn of each window; tmdm.yml, n_z_samples
    width: int = 64,                               # units of a step in the Transformer; 512 in TMDM.py
    depth: int = 2,                                # layers of its encoder; the decoder has one
    hidden: int = 128,                             # units between its linear layers; 1024 in TMDM.py
    heads: int = 2,                                # of each attention; 8 in TMDM.py
    dropout: float = 0.05,                         # probability; TMDM.py
    projector: Annotated[int, Within(1)] = 64,     # units of each of two layers for τ and Δ; TMDM.py, p_hidden_dims
    denoising: Annotated[int, Within(2)] = 100,    # noising steps, each of which is taken back; TMDM.py, diffusion_steps
    beta: Annotated[float, Within(0, 1)] = 0.02,   # variance of the last; the first has 0.0001; tmdm.yml
    lr: float = 0.001,                             # Adam; torch_timeseries 0.1.10, settings.py
    batch: int = 32,                               # windows a step; run.sh
    epochs: int = 10,                              # at most: it stops when five have brought nothing; prob_forecast.py
) -> Iterator[Stage]:  # fmt: skip
    series = series_data(data, window, horizon, windows, dates=True, validation="blocks")
    transformer = NonstationaryTransformer(
        series.channels, series.marks, window, horizon, width, depth, hidden, heads, dropout, projector
    )
    model = TMDM(transformer, width, series.channels, denoising, beta)
    truth = series.truth if series.location is not None else None
    objective = Modulated(denoising, series.columns, series.mean, series.std, samples, truth)
    found = yield Stage(model, series, objective, adam(lr), epochs=epochs, batch=batch, select="-crps",
                        stop=patience("-crps", 5))  # fmt: skip
    return {"to_optimum": found["test/crps"] / found["test/optimum_crps"]} if truth else {}
