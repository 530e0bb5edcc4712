"""DLinear on a series of ETTh1's size: an epoch of training, beside the usual script.

The script is the one that its authors' code is: a data set that cuts a window at a time, a loader, the series taken apart
by a moving average in each step.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import Dataset

from benchmarks.pairing import Side, Work
from benchmarks.sides import Engine, in_order, repeated
from benchmarks.works.scripts import loader

WINDOW, HORIZON, BATCH, LR = 336, 96, 32, 0.005


def series() -> Any:
    """ETTh1 where it is at hand, else noise of its shape."""
    from fuxian.data.series import Series, SeriesSplits, series_data
    from fuxian.errors import DataMissing

    try:
        return series_data("etth1", WINDOW, HORIZON)
    except DataMissing:
        values = np.random.default_rng(1).normal(size=(14_400, 7))
        return SeriesSplits(Series("noise", values, tuple("abcdefg"), (8_640, 11_520, 14_400), {}), WINDOW, HORIZON)


def ours() -> Side:
    from fuxian.contract import Splits, Stage
    from fuxian.methods.forecasting.linear import DLinear, LinearForecast
    from fuxian.optim import adam

    data, model = series(), DLinear(WINDOW, HORIZON)
    weights = {name: weight.detach().clone() for name, weight in model.named_parameters()}
    objective = LinearForecast(data.columns, data.mean, data.std)
    engine = Engine(Stage(model, Splits(data.train), objective, adam(LR), epochs=20, batch=BATCH, drop_last=True))

    def losses() -> Tensor:
        return torch.stack([loss for _, loss in objective.losses(model, data.train.batch(torch.arange(64)))])

    return Side(lambda epochs: engine(epochs * engine.running.per_epoch), losses, weights)


class OneByOne(Dataset[tuple[Tensor, Tensor]]):
    """A window and what comes after it, cut when it is asked for."""

    def __init__(self, rows: np.ndarray) -> None:
        self.rows = rows

    def __len__(self) -> int:
        return len(self.rows) - WINDOW - HORIZON + 1

    def __getitem__(self, index: int) -> tuple[Any, Any]:
        end = index + WINDOW
        return self.rows[index:end], self.rows[end : end + HORIZON]


class TakenApart(nn.Module):
    """Both maps of the published model, each of its own part of the windows."""

    def __init__(self) -> None:
        super().__init__()
        self.seasonal, self.trend = nn.Linear(WINDOW, HORIZON), nn.Linear(WINDOW, HORIZON)
        self.pool = nn.AvgPool1d(25, stride=1)

    def forward(self, x: Tensor) -> Tensor:
        ends = x[:, :1].repeat(1, 12, 1), x[:, -1:].repeat(1, 12, 1)
        trend = self.pool(torch.cat([ends[0], x, ends[1]], 1).permute(0, 2, 1)).permute(0, 2, 1)
        seasonal = x - trend
        return (self.seasonal(seasonal.permute(0, 2, 1)) + self.trend(trend.permute(0, 2, 1))).permute(0, 2, 1)


def peer(weights: Mapping[str, Tensor]) -> Side:
    data = OneByOne(series().train.rows.numpy())
    model = TakenApart()
    in_order(model, weights)
    optimizer = torch.optim.Adam(model.parameters(), LR, fused=True)
    batches = loader(data, BATCH)
    total = 0.0

    def epoch() -> None:
        nonlocal total
        model.train()
        for past, future in batches:
            optimizer.zero_grad()
            loss = F.mse_loss(model(past.float()), future.float())
            total += loss.item()
            loss.backward()
            optimizer.step()

    def losses() -> Tensor:
        past, future = (torch.stack([torch.as_tensor(data[i][part]) for i in range(64)]) for part in (0, 1))
        return F.mse_loss(model(past.float()), future.float())[None]

    return Side(repeated(epoch), losses)


WORKS = [
    Work("linear", "an epoch of DLinear on ETTh1, 8,209 windows", ours, peer, "the usual script", 0.2, method="linear"),
]
