"""CSDI: the whole future is noise, taken out of all of it at once by attention over time and over channels.

中文     条件分数扩散插补
Paper    Tashiro, Song, Song & Ermon, NeurIPS 2021, arXiv:2107.03502: algorithms 1 and 2, figure 2
         Shen, Zhang, Zhao, Yi & Li, WACV 2021, arXiv:1812.01243 (attention whose cost is linear in the length)
Code     ermongroup/CSDI @ 7f24a43: diff_models.py (net), main_model.py (noise), config/base_forecasting.yaml (setting);
         lucidrains/linear-attention-transformer @ 24ecf20 (0.19.1), which it calls
         wwy155/NsDiff @ 0686624: src/experiments/CSDI.py (window, horizon, samples, epochs)
Departs  half as wide and as deep, as a forecast of theirs takes hours of two cores; what is to be told is always the
         future, so that mask, time and channel are the same for all windows; the weights are kept that denoise val best.
         NsDiff's copy is another model: its src/models/CSDI.py hands the net the future to train on the past, as the mask
         of what is observed is turned round, and only then asks it for the future
"""

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fuxian.contract import Stage
from fuxian.data.series import Windows, series_data
from fuxian.errors import WrongInput
from fuxian.facts import Claim, Paper, Within
from fuxian.methods.forecasting.timegrad import Denoising, Process, Steps, out_of_noise
from fuxian.objectives.forecasting import SampledForecast, places
from fuxian.optim import adam, steps

PAPER = Paper("CSDI: Conditional Score-based Diffusion Models for Probabilistic Time Series Imputation", "Tashiro et al.",
              2021, venue="NeurIPS", arxiv="2107.03502")  # fmt: skip
CLAIMS = [
    Claim("test/crps", None, where="the paper has neither this series nor this protocol", seeds=1, better="lower"),
    Claim("to_optimum", 1.0, where="by arithmetic: σ / √π, waves", seeds=1, better="lower",
          knobs=dict(data="waves", window=48, horizon=24, epochs=50),
          comparison="the least that a forecast can have in the mean; 168 numbers are told"),
    Claim("to_optimum", 1.0, where="by arithmetic: σ / √π, linear noise", seeds=1, better="lower",
          knobs=dict(data="linear-noise", window=48, horizon=24, epochs=2),
          comparison="level and noise of the test rows are larger than any that were learned from"),
]  # fmt: skip
QUICK = dict(data="waves", window=24, horizon=12, samples=10, denoising=15, width=16, heads=2, layers=2, lr=0.005,
             batch=16, epochs=3)  # fmt: skip

AT_ONCE = 1 << 16  # places (channels and steps of all rows) that are denoised side by side: 16 MB for each 64 features

# Shape letters: B windows, S samples, N rows (B or B S), L steps of the past, H steps ahead, C channels, P steps of both
# (L + H), F features, D features of a head, X sequences, I what the side information holds, E numbers that stand for a
# noising step t.


class LinearAttention(nn.Module):
    """Sequences (X, P, F): what all keys say of the values is summed up once, and each query takes from that.

    With norm before each part, and a wide layer after. linear_attention_transformer.py: SelfAttention, FeedForward.
    """

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width, bias=False), nn.Linear(width, width)
        self.wide, self.narrow = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x_XPF: Tensor) -> Tensor:
        q, k, v = self.qkv(self.norm1(x_XPF)).unflatten(2, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        summary_XHDD = k.softmax(2).mT @ v
        found = (q.softmax(3) / math.sqrt(q.shape[3])) @ summary_XHDD
        x_XPF = x_XPF + self.out(found.transpose(1, 2).flatten(2))
        return x_XPF + self.narrow(F.gelu(self.wide(self.norm2(x_XPF))))


class Residual(nn.Module):
    """Attention over time, then over channels; the side information gates it. diff_models.py, ResidualBlock."""

    def __init__(self, channels: int, width: int, heads: int, side: int, steps: int) -> None:
        super().__init__()
        self.step = nn.Linear(steps, width)
        self.time = LinearAttention(width, heads)
        self.channel = LinearAttention(width, heads) if channels > 1 else nn.Identity()
        self.middle, self.side, self.out = (nn.Linear(n, 2 * width) for n in (width, side, width))
        for layer in (self.middle, self.side, self.out):
            nn.init.kaiming_normal_(layer.weight)

    def forward(self, x_NCPF: Tensor, side_CPI: Tensor, step_NE: Tensor) -> tuple[Tensor, Tensor]:
        y_NCPF = x_NCPF + self.step(step_NE)[:, None, None]
        y_NCPF = self.time(y_NCPF.flatten(0, 1)).view_as(x_NCPF)
        y_NPCF = y_NCPF.transpose(1, 2)
        y_NCPF = self.channel(y_NPCF.flatten(0, 1)).view_as(y_NPCF).transpose(1, 2)
        gate_NCPF, filter_NCPF = (self.middle(y_NCPF) + self.side(side_CPI)).chunk(2, 3)
        more_NCPF, skip_NCPF = self.out(gate_NCPF.sigmoid() * filter_NCPF.tanh()).chunk(2, 3)
        return (x_NCPF + more_NCPF) / math.sqrt(2), skip_NCPF


class CSDI(nn.Module):
    """The net that tells the noise in a future, of what came before it; and how a future is drawn with it."""

    known: Tensor

    def __init__(
        self, channels: int, window: int, horizon: int, width: int, heads: int, layers: int, process: Process
    ) -> None:
        super().__init__()
        if width % heads:
            raise WrongInput(f"width={width} cannot be split among heads={heads}", do="make it a multiple of them")
        self.window, self.horizon, self.process = window, horizon, process
        self.steps = Steps(process.steps, torch.arange(64) / 63 * 4, 128)
        self.channel = nn.Embedding(channels, 16)
        self.first = nn.Linear(2, width)
        self.layers = nn.ModuleList(Residual(channels, width, heads, 128 + 16 + 1, 128) for _ in range(layers))
        self.skip, self.last = nn.Linear(width, width), nn.Linear(width, 1)
        for layer in (self.first, self.skip):
            nn.init.kaiming_normal_(layer.weight)
        nn.init.zeros_(self.last.weight)
        angle = torch.arange(window + horizon)[:, None] / 10_000 ** (torch.arange(64) / 64)  # main_model.py, time_embedding
        place = torch.stack([angle.sin(), angle.cos()], 2).flatten(1)
        past = (torch.arange(window + horizon) < window).to(place)[:, None]
        self.register_buffer("known", torch.cat([place, past], 1), persistent=False)

    def forward(self, x_NHC: Tensor, t_N: Tensor, past_NLC: Tensor) -> Tensor:
        """The noise (N, H, C) in a noisy future, of the noising steps t (N,) or (1,)."""
        both_NCP2 = torch.stack([F.pad(past_NLC.mT, (0, self.horizon)), F.pad(x_NHC.mT, (self.window, 0))], 3)
        x_NCPF, step_NE = self.first(both_NCP2).relu(), self.steps(t_N)
        C, P = x_NCPF.shape[1:3]
        side_CPI = torch.cat([self.known.expand(C, P, -1), self.channel.weight[:, None].expand(-1, P, -1)], 2)
        found_NCHF = x_NCPF.new_zeros(())
        for layer in self.layers:
            x_NCPF, skip_NCPF = layer(x_NCPF, side_CPI, step_NE)
            found_NCHF = found_NCHF + skip_NCPF[:, :, self.window :]
        return self.last(self.skip(found_NCHF / math.sqrt(len(self.layers))).relu()).squeeze(3).mT

    def denoising_error(self, batch: Windows, t_B: Tensor | None = None) -> Tensor:
        """(B, H, C): the squared error of the noise that is told, at a random step of each window. Algorithm 1."""
        if t_B is None:
            t_B = torch.randint(self.process.steps, (len(batch),), device=batch.past.device)
        noise_BHC = torch.randn_like(batch.future)
        noisy_BHC = self.process.noised(batch.future, t_B, noise_BHC)
        return (self(noisy_BHC, t_B, batch.past) - noise_BHC).square()

    def paths(self, past_NLC: Tensor) -> Iterator[Tensor]:
        """The ways of futures out of noise (T + 1, rows, H, C), of as many rows at once as `AT_ONCE` holds: algorithm 2."""
        C = past_NLC.shape[2]
        for past in past_NLC.split(max(1, AT_ONCE // (C * (self.window + self.horizon)))):
            noise_in = lambda x_NHC, t, past=past: self(x_NHC, t, past)
            start_NHC = past.new_empty(len(past), self.horizon, C).normal_()
            yield torch.stack([*self.process.back(start_NHC, noise_in)])

    def draw(self, batch: Windows, samples: int) -> Tensor:
        """(B, S, H, C)."""
        every = self.paths(batch.past.repeat_interleave(samples, 0))
        return torch.cat([path[-1] for path in every]).unflatten(0, (-1, samples))


class Imputation(Denoising):
    """Judged at every noising step, as main_model.py does: calc_loss_valid."""

    def evaluate(self, model: CSDI, batch: Windows) -> Iterator[tuple[str, Tensor]]:
        every = (torch.full_like(batch.at, t) for t in range(model.process.steps))
        yield "loss", torch.stack([model.denoising_error(batch, t_B).mean((1, 2)) for t_B in every]).mean(0)


class Imputed(SampledForecast):
    """Samples judged; and how those of one window come out of noise, at three steps ahead. Exported is one step of it."""

    def __init__(self, process: Process, *args: Any) -> None:
        super().__init__(*args)
        self.process = process

    def inputs(self, batch: Windows) -> tuple[Tensor, ...]:
        t_B = torch.randint(self.process.steps, (len(batch),), device=batch.past.device)
        return self.process.noised(batch.future, t_B, torch.randn_like(batch.future)), t_B, batch.past

    def about(self) -> dict[str, Any]:
        return self.process.about()

    def pictures(self, model: CSDI, split: Any) -> dict[str, Any]:
        batch = split.batch(places(split, 1, self.mean.device)).to(self.mean.device)
        path_TSH = self.in_units(torch.cat([*model.paths(batch.past.expand(self.samples, -1, -1))], 1))
        H, truth_H = path_TSH.shape[2], self.in_units(batch.future[0])
        shown = {f"{h:,} ahead": (path_TSH[:, :, h - 1], truth_H[h - 1]) for h in sorted({1, (H + 1) // 2, H})}
        return super().pictures(model, split) | {"denoising": out_of_noise(shown, self.columns[-1])}


def recipe(
    data: Literal["etth1", "etth2", "ettm1", "exchange-rate", "waves", "linear-noise", "quadratic-noise"] | Path
    = "etth1",                                        # a series, in the order of time
    window: Annotated[int, Within(1)] = 168,          # steps of the past that are seen
    horizon: Annotated[int, Within(1)] = 192,         # steps ahead that are told
    windows: Literal["all", "blocks", "rolling"] = "blocks",  # of val and test: all, those that share no step, 5 in a row
    samples: Annotated[int, Within(2)] = 100,         # futures drawn of each window
    denoising: Annotated[int, Within(2)] = 50,        # noising steps, each of which is taken back; base_forecasting.yaml
    beta: Annotated[float, Within(0, 1)] = 0.5,       # variance of the last; the first has 0.0001, the roots rise evenly
    width: Annotated[int, Within(1)] = 32,            # features of each number; 64 in base_forecasting.yaml
    heads: Annotated[int, Within(1)] = 4,             # of both attentions; 8
    layers: Annotated[int, Within(1)] = 2,            # residual layers; 4
    lr: float = 0.001,                                # Adam; a tenth after 3/4 of the epochs, again after 9/10; utils.py
    weight_decay: float = 1e-6,                       # L2; utils.py
    batch: int = 8,                                   # windows a step
    epochs: int = 10,                                 # the weights are kept that denoise val best; base_forecasting: 100
) -> Iterator[Stage]:  # fmt: skip
    series = series_data(data, window, horizon, windows)
    beta_T = torch.linspace(1e-4**0.5, beta**0.5, denoising, dtype=torch.float64).square()
    model = CSDI(series.channels, window, horizon, width, heads, layers, Process(beta_T))
    epoch = math.ceil(len(series.train) / batch)
    falls = steps([epoch * int(share * epochs) for share in (0.75, 0.9)])
    yield Stage(model, series, Imputation(), adam(lr, decay=weight_decay, schedule=falls), epochs=epochs, batch=batch,
                select="-loss", name="train")  # fmt: skip
    truth = series.truth if series.location is not None else None
    objective = Imputed(model.process, series.columns, series.mean, series.std, samples, truth)
    found = yield Stage(model, series, objective, steps=0, batch=batch, name="forecast")
    return {"to_optimum": found["test/crps"] / found["test/optimum_crps"]} if truth else {}
