"""Naive forecasts: the last value again, the last season again, and what is usual at this time of the season.

中文     朴素预测：重复最后值、季节性朴素、气候平均
Source   Hyndman & Athanasopoulos, Forecasting: Principles and Practice, 3rd ed., 2021: sec. 5.2 (naïve, seasonal naïve)
         Zeng et al., AAAI 2023, arXiv:2205.13504: "Repeat"
Code     cure-lab/LTSF-Linear @ 0c11366: models/Stat_models.py, Naive_repeat; LTSF-Benchmark.md has its numbers
         awslabs/gluonts @ 3d71785: evaluations/exchange_rate/SeasonalNaivePredictor.json has that of a season of 5 days
Departs  every window counts. The published table leaves out the last, short batch of 32 (data_factory.py, drop_last, until
         6fe4c28), which is the difference between 0.810 and 0.823 at 720 steps: both are here, theirs as_published
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Literal

import torch
from torch import Tensor, nn

from fuxian.contract import Stage
from fuxian.data.series import Windows, series_data
from fuxian.errors import WrongInput
from fuxian.facts import Claim, Within
from fuxian.objectives.forecasting import PointForecast, whole_batches

PAPER = None
SOURCE = "Hyndman & Athanasopoulos, Forecasting: Principles and Practice, sec. 5.2"
CLAIMS = [  # exact: tolerances are half of the last digit
    Claim("climatology/test/mse", None, where="nobody publishes it", seeds=1, better="lower"),
    Claim("test/mse", 0.0811, where="by arithmetic, exchange rate, 96 steps, all 1,422 windows", tolerance=5e-5, seeds=1,
          better="equal", knobs=dict(data="exchange-rate")),
    Claim("test/mse", 0.1671, where="by arithmetic, exchange rate, 192 steps, all 1,326 windows", tolerance=5e-5, seeds=1,
          better="equal", knobs=dict(data="exchange-rate", horizon=192)),
    Claim("test/mse", 0.3057, where="by arithmetic, exchange rate, 336 steps, all 1,182 windows", tolerance=5e-5, seeds=1,
          better="equal", knobs=dict(data="exchange-rate", horizon=336)),
    Claim("test/mse", 0.8101, where="by arithmetic, exchange rate, 720 steps, all 798 windows", tolerance=5e-5, seeds=1,
          better="equal", knobs=dict(data="exchange-rate", horizon=720)),
    Claim("as_published/mse", 0.081, where="LTSF-Benchmark.md, Repeat, exchange rate, 96", tolerance=5e-4, seeds=1,
          better="equal", knobs=dict(data="exchange-rate")),
    Claim("as_published/mse", 0.167, where="LTSF-Benchmark.md, Repeat, exchange rate, 192", tolerance=5e-4, seeds=1,
          better="equal", knobs=dict(data="exchange-rate", horizon=192)),
    Claim("as_published/mse", 0.305, where="LTSF-Benchmark.md, Repeat, exchange rate, 336", tolerance=5e-4, seeds=1,
          better="equal", knobs=dict(data="exchange-rate", horizon=336)),
    Claim("as_published/mse", 0.823, where="LTSF-Benchmark.md, Repeat, exchange rate, 720", tolerance=5e-4, seeds=1,
          better="equal", knobs=dict(data="exchange-rate", horizon=720)),
    Claim("seasonal/test/wql", 0.01074975, where="GluonTS, evaluations, exchange rate, SeasonalNaive", tolerance=5e-9,
          seeds=1, better="equal", knobs=dict(data="exchange-rate", window=30, horizon=30, windows="rolling", season=5)),
    Claim("seasonal/test/crps", None, where="of NsDiff's task, every window, no number is published", seeds=1,
          better="lower", knobs=dict(window=168, horizon=192)),
]  # fmt: skip
QUICK = dict(data="waves", window=48, horizon=24)

# Shape letters: B windows, L steps of the past, H steps ahead, C channels, M steps of a season.


class Again(nn.Module):
    """The last `season` steps over and over: ŷ(T + h) = y(T + h - m k), the nearest that is known; of 1, the last value."""

    def __init__(self, season: int, horizon: int) -> None:
        super().__init__()
        self.season, self.horizon = season, horizon

    def forward(self, past_BLC: Tensor) -> Tensor:
        times = -(-self.horizon // self.season)
        return past_BLC[:, -self.season :].repeat(1, times, 1)[:, : self.horizon]


class Climatology(nn.Module):
    """The mean of all that was seen at the same place of the season. A place that was never seen has the mean of all, 0."""

    sum_MC: Tensor
    count_M: Tensor

    def __init__(self, season: int, horizon: int, channels: int) -> None:
        super().__init__()
        self.horizon = horizon
        self.register_buffer("sum_MC", torch.zeros(season, channels, dtype=torch.float64))
        self.register_buffer("count_M", torch.zeros(season, dtype=torch.float64))

    def forward(self, at_B: Tensor) -> Tensor:
        mean_MC = (self.sum_MC / self.count_M.clamp_min(1)[:, None]).float()
        place_BH = (at_B[:, None] + torch.arange(self.horizon, device=at_B.device)) % len(mean_MC)
        return mean_MC[place_BH]


class Usual(PointForecast):
    """What a climatology learns: the first step of each future, so that each counts once in an epoch."""

    def inputs(self, batch: Windows) -> tuple[Tensor, ...]:
        return (batch.at,)

    def update(self, model: Climatology, batch: Windows) -> dict[str, Tensor]:
        first_BC = batch.future[:, 0]
        surprise = (model(batch.at)[:, 0] - first_BC).square().mean()
        place_B = batch.at % len(model.count_M)
        model.sum_MC.index_add_(0, place_B, first_BC.double())
        model.count_M.index_add_(0, place_B, torch.ones_like(place_B, dtype=torch.float64))
        return {"loss": surprise}


def recipe(
    data: Literal["etth1", "etth2", "ettm1", "exchange-rate", "waves", "linear-noise", "quadratic-noise"] | Path
    = "etth1",                                        # a series, in the order of time
    window: Annotated[int, Within(1)] = 336,          # steps of the past that are seen
    horizon: Annotated[int, Within(1)] = 96,          # steps ahead that are told
    windows: Literal["all", "blocks", "rolling"] = "all",  # of val and test: all, those that share no step, 5 in a row
    season: Annotated[int, Within(1)] = 24,           # steps; a day of ETTh is 24, of ETTm 96
    batch: int = 32,                                  # windows a step of the climatology; what as_published drops
) -> Iterator[Stage]:  # fmt: skip
    series = series_data(data, window, horizon, windows)
    if season > window:
        raise WrongInput(f"--season {season}: a window of {window} steps holds no whole season")
    units = series.columns, series.mean, series.std
    usual = Climatology(season, horizon, series.channels)
    yield Stage(usual, series, Usual(*units), epochs=1, batch=batch, name="climatology")
    yield Stage(Again(season, horizon), series, PointForecast(*units), steps=0, batch=batch, name="seasonal")
    last = Again(1, horizon)
    objective = PointForecast(*units)
    yield Stage(last, series, objective, steps=0, batch=batch, name="last")
    return whole_batches(last, objective, series.test, batch)
