"""Non-stationary Transformer: each window is standardized, and attention is told what that took away.

中文     非平稳 Transformer
Paper    Liu, Wu, Wang & Long, NeurIPS 2022, arXiv:2205.14415: sec. 3.1 (series stationarization), sec. 3.2
         (de-stationary attention), Table 2 (result)
Code     thuml/Nonstationary_Transformers @ c4ec406: ns_models/ns_Transformer.py, exp/exp_main.py, run.py,
         scripts/Exchange_script/ns_Transformer.sh; figures/main_results.png is Table 2, of one run each
Departs  every window of val counts. Theirs leave out its last, short batch (data_factory.py); a date is told by the numbers
         of `calendar`, not by theirs of the hour, the weekday, and the day of the month and of the year (timefeatures.py)
"""

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fuxian.contract import Stage
from fuxian.data.series import Windows, series_data
from fuxian.errors import WrongInput
from fuxian.facts import Claim, Paper, Within
from fuxian.objectives.forecasting import SquaredError
from fuxian.optim import adam, patience, steps

PAPER = Paper("Non-stationary Transformers: Exploring the Stationarity in Time Series Forecasting", "Liu et al.", 2022,
              venue="NeurIPS", arxiv="2205.14415")  # fmt: skip
# Theirs are single runs. The tolerance is about a tenth of the error, and a twentieth of the absolute one.
CLAIMS = [
    Claim("test/mse", 0.111, where="Table 2, exchange rate, 96", seeds=3, better="lower",
          knobs=dict(data="exchange-rate", projector=16, width=64, hidden=256, heads=2),
          comparison="64 units, theirs 512"),
    Claim("test/mae", 0.237, where="Table 2, exchange rate, 96", seeds=3, better="lower",
          knobs=dict(data="exchange-rate", projector=16, width=64, hidden=256, heads=2),
          comparison="64 units, theirs 512"),
    Claim("test/mse", 0.111, where="Table 2, exchange rate, 96", tolerance=0.011, seeds=3, better="lower",
          knobs=dict(data="exchange-rate", projector=16), needs="hours of two cores, or a GPU"),
    Claim("test/mae", 0.237, where="Table 2, exchange rate, 96", tolerance=0.012, seeds=3, better="lower",
          knobs=dict(data="exchange-rate", projector=16), needs="hours of two cores, or a GPU"),
    Claim("test/mse", 0.219, where="Table 2, exchange rate, 192", tolerance=0.022, seeds=3, better="lower",
          knobs=dict(data="exchange-rate", horizon=192, projector=16), needs="hours of two cores, or a GPU"),
    Claim("test/mae", 0.335, where="Table 2, exchange rate, 192", tolerance=0.017, seeds=3, better="lower",
          knobs=dict(data="exchange-rate", horizon=192, projector=16), needs="hours of two cores, or a GPU"),
]  # fmt: skip
QUICK = dict(data="waves", window=48, horizon=24, width=16, depth=1, hidden=32, heads=2, projector=8, lr=0.005, epochs=1)

# Shape letters: B windows, L steps of the past, S steps that the decoder begins with (the last half of them), H steps
# ahead, T steps, N steps that are attended to, C channels, M marks of a step (of its date), D units.


class Embedding(nn.Module):
    """A step with its two neighbours, its place (sines and cosines) and its date: (B, T, C) to (B, T, D). Embed.py."""

    place_TD: Tensor

    def __init__(self, channels: int, marks: int, width: int, steps: int, dropout: float) -> None:
        super().__init__()
        self.value = nn.Conv1d(channels, width, 3, padding=1, padding_mode="circular", bias=False)
        nn.init.kaiming_normal_(self.value.weight, nonlinearity="leaky_relu")
        self.date = nn.Linear(marks, width, bias=False) if marks else None
        self.dropout = nn.Dropout(dropout)
        rate = torch.exp(torch.arange(0, width, 2) * (-math.log(10_000) / width))
        turn = torch.arange(steps)[:, None] * rate
        self.register_buffer("place_TD", torch.stack([turn.sin(), turn.cos()], 2).flatten(1)[:, :width], persistent=False)

    def forward(self, x_BTC: Tensor, marks_BTM: Tensor | None) -> Tensor:
        x_BTD = self.value(x_BTC.transpose(1, 2)).transpose(1, 2) + self.place_TD[: x_BTC.shape[1]]
        if self.date is not None and marks_BTM is not None:
            x_BTD = x_BTD + self.date(marks_BTM)
        return self.dropout(x_BTD)


class Factor(nn.Module):
    """What de-stationary attention is told of a past and one of its statistics (B, 1, C): sec. 3.2, the MLPs of τ and Δ."""

    def __init__(self, channels: int, window: int, hidden: int, outputs: int) -> None:
        super().__init__()
        self.series = nn.Conv1d(window, 1, 3, padding=1, padding_mode="circular", bias=False)
        self.mlp = nn.Sequential(
            nn.Linear(2 * channels, hidden), nn.ReLU(), nn.Linear(hidden, hidden), nn.ReLU(),
            nn.Linear(hidden, outputs, bias=False),
        )  # fmt: skip

    def forward(self, past_BLC: Tensor, statistic_B1C: Tensor) -> Tensor:
        return self.mlp(torch.cat([self.series(past_BLC), statistic_B1C], 1).flatten(1))


class Attention(nn.Module):
    """softmax((τ Q K^T + 1 Δ^T) / √d) V: sec. 3.2. Without Δ each step sees itself and those before it."""

    def __init__(self, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.query, self.value, self.output = (nn.Linear(width, width) for _ in range(3))
        self.key = nn.Linear(width, width, bias=False)  # one would add the same to all scores of a query
        self.heads, self.dropout = heads, dropout

    def forward(self, x_BTD: Tensor, of_BND: Tensor, tau_B1: Tensor, delta_BN: Tensor | None) -> Tensor:
        q = tau_B1[:, :, None] * self.query(x_BTD)
        q, k, v = (y.unflatten(2, (self.heads, -1)).transpose(1, 2) for y in (q, self.key(of_BND), self.value(of_BND)))
        added = None if delta_BN is None else delta_BN[:, None, None] / math.sqrt(q.shape[3])
        dropout = self.dropout if self.training else 0.0
        out = F.scaled_dot_product_attention(q, k, v, added, dropout, is_causal=added is None)
        return self.output(torch.cat(out.unbind(1), 2))  # flatten here is a view that ONNX cannot take


class EncoderLayer(nn.Module):
    """Attention, then two layers with a GELU between; each is added, then normed. Transformer_EncDec.py."""

    def __init__(self, width: int, hidden: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.attention = Attention(width, heads, dropout)
        self.feed = nn.Sequential(nn.Linear(width, hidden), nn.GELU(), nn.Dropout(dropout), nn.Linear(hidden, width))
        self.norm_1, self.norm_2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x_BTD: Tensor, of_BND: Tensor, tau_B1: Tensor, delta_BN: Tensor) -> Tensor:
        x_BTD = self.norm_1(x_BTD + self.dropout(self.attention(x_BTD, of_BND, tau_B1, delta_BN)))
        return self.norm_2(x_BTD + self.dropout(self.feed(x_BTD)))


class DecoderLayer(EncoderLayer):
    """The same of what the encoder has seen, after a step has looked at those before it."""

    def __init__(self, width: int, hidden: int, heads: int, dropout: float) -> None:
        super().__init__(width, hidden, heads, dropout)
        self.before, self.norm_0 = Attention(width, heads, dropout), nn.LayerNorm(width)

    def forward(self, x_BTD: Tensor, of_BND: Tensor, tau_B1: Tensor, delta_BN: Tensor) -> Tensor:
        x_BTD = self.norm_0(x_BTD + self.dropout(self.before(x_BTD, x_BTD, tau_B1, None)))
        return super().forward(x_BTD, of_BND, tau_B1, delta_BN)


class Seen(NamedTuple):
    """What is known of a past: the encoder's output, its standardized second half, its statistics, the two factors."""

    memory_BLD: Tensor
    start_BSC: Tensor
    mean_B1C: Tensor
    std_B1C: Tensor
    tau_B1: Tensor
    delta_BL: Tensor


class NonstationaryTransformer(nn.Module):
    """A past (B, L, C) and the marks (B, L + H, M) of all its steps and those ahead, to a future (B, H, C). Fig. 2.

    Raises WrongInput where width cannot be split into heads.
    """

    def __init__(
        self, channels: int, marks: int, window: int, horizon: int, width: int, depth: int, hidden: int, heads: int,
        dropout: float, projector: int,
    ) -> None:  # fmt: skip
        super().__init__()
        if width % heads:
            raise WrongInput(f"width={width} cannot be split into {heads} heads", do="make it a multiple of heads")
        self.window, self.horizon, self.start = window, horizon, window // 2  # run.py, label_len
        self.tau = Factor(channels, window, projector, 1)
        self.delta = Factor(channels, window, projector, window)
        self.embed_past = Embedding(channels, marks, width, window, dropout)
        self.embed_future = Embedding(channels, marks, width, self.start + horizon, dropout)
        self.encoder = nn.ModuleList(EncoderLayer(width, hidden, heads, dropout) for _ in range(depth))
        self.decoder = DecoderLayer(width, hidden, heads, dropout)
        self.encoded, self.decoded = nn.LayerNorm(width), nn.LayerNorm(width)
        self.head = nn.Linear(width, channels)

    def encode(self, past_BLC: Tensor, marks_BTM: Tensor | None = None) -> Seen:
        """The past less its mean, over its deviation (sec. 3.1, normalization); both factors are of it as it came."""
        mean_B1C = past_BLC.mean(1, keepdim=True)
        std_B1C = (past_BLC.var(1, unbiased=False, keepdim=True) + 1e-5).sqrt()
        tau_B1, delta_BL = self.tau(past_BLC, std_B1C).exp(), self.delta(past_BLC, mean_B1C)
        x_BLC = (past_BLC - mean_B1C) / std_B1C
        x_BLD = self.embed_past(x_BLC, None if marks_BTM is None else marks_BTM[:, : self.window])
        for layer in self.encoder:
            x_BLD = layer(x_BLD, x_BLD, tau_B1, delta_BL)
        return Seen(self.encoded(x_BLD), x_BLC[:, -self.start :], mean_B1C, std_B1C, tau_B1, delta_BL)

    def decode(self, seen: Seen, marks_BTM: Tensor | None = None) -> Tensor:
        """(B, S + H, C): the second half of the past, told again, and the future; zeros stand for what is ahead.

        Mean and deviation come back in the end: sec. 3.1, de-normalization.
        """
        x_BTC = F.pad(seen.start_BSC, (0, 0, 0, self.horizon))
        x_BTD = self.embed_future(x_BTC, None if marks_BTM is None else marks_BTM[:, self.window - self.start :])
        x_BTD = self.decoder(x_BTD, seen.memory_BLD, seen.tau_B1, seen.delta_BL)
        return self.head(self.decoded(x_BTD)) * seen.std_B1C + seen.mean_B1C

    def forward(self, past_BLC: Tensor, marks_BTM: Tensor | None = None) -> Tensor:
        return self.decode(self.encode(past_BLC, marks_BTM), marks_BTM)[:, self.start :]


class Dated(SquaredError):
    """The squared error of a forecast that is told the dates too, where they are known."""

    def inputs(self, batch: Windows) -> tuple[Tensor, ...]:
        return (batch.past, batch.marks) if batch.marks.shape[2] else (batch.past,)


def recipe(
    data: Literal["etth1", "etth2", "ettm1", "exchange-rate", "waves", "linear-noise", "quadratic-noise"] | Path
    = "etth1",                                 # a series, in the order of time
    window: Annotated[int, Within(2)] = 96,    # steps of the past that are seen; Table 2
    horizon: Annotated[int, Within(1)] = 96,   # steps ahead that are told; 96, 192, 336, 720
    windows: Literal["all", "blocks", "rolling"] = "all",  # of val and test: all, those that share no step, 5 in a row
    width: int = 512,                          # units of a step; run.py, d_model
    depth: int = 2,                            # layers of the encoder; the decoder has one
    hidden: int = 2048,                        # units between the two linear layers; run.py, d_ff
    heads: int = 8,                            # of each attention; run.py
    dropout: float = 0.05,                     # probability; run.py
    projector: Annotated[int, Within(1)] = 128,  # units of each of two layers for τ and Δ; run.py; 16 for exchange rates
    lr: float = 0.0001,                        # Adam, halved each epoch from the third on; run.py, lradj type1
    batch: int = 32,                           # windows a step; run.py
    epochs: int = 10,                          # at most: it stops when three have brought nothing; run.py, patience
) -> Iterator[Stage]:  # fmt: skip
    series = series_data(data, window, horizon, windows, dates=True)
    model = NonstationaryTransformer(
        series.channels, series.marks, window, horizon, width, depth, hidden, heads, dropout, projector
    )
    objective = Dated(series.columns, series.mean, series.std)
    epoch = len(series.train) // batch
    halved = steps([epoch * i for i in range(2, epochs)], by=0.5)  # tools.py, adjust_learning_rate
    yield Stage(model, series, objective, adam(lr, schedule=halved), epochs=epochs, batch=batch, drop_last=True,
                select="-mse", stop=patience("-mse", 3))  # fmt: skip  # exp_main.py
