"""Forecasting: squared error to learn by; errors in standardized numbers and in those of the data to be judged by."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fuxian import figures
from fuxian.contract import Objective
from fuxian.evaluation import batches, measure


class PointForecast(Objective):
    """How `model(past)` (batch, horizon, channels) is judged by what came, each channel and step alike; and drawn.

    `columns` name the channels; `mean` and `std` are what they were standardized with. mse and mae are of standardized
    numbers, as in the tables of papers; mae_in_units is of the numbers as they came, of which channels may share no unit.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, columns: Sequence[str], mean: np.ndarray, std: np.ndarray) -> None:
        self.columns = tuple(columns)
        self.register_buffer("mean", torch.from_numpy(mean).float())
        self.register_buffer("std", torch.from_numpy(std).float())

    def inputs(self, batch: Any) -> tuple[Tensor, ...]:
        return (batch.past,)

    def evaluate(self, model: Any, batch: Any) -> Iterator[tuple[str, Tensor]]:
        error = model(*self.inputs(batch)) - batch.future
        yield "mse", error.square().mean((1, 2))
        yield "mae", error.abs().mean((1, 2))
        yield "mae_in_units", (error.abs() * self.std).mean((1, 2))

    def predict(self, model: Any, batch: Any) -> list[dict[str, Any]]:
        """A row for each step ahead, in the numbers of the data."""
        told = model(*self.inputs(batch)) * self.std + self.mean
        return [
            {"step": step, **dict(zip(self.columns, values, strict=True))}
            for window in told.tolist()
            for step, values in enumerate(window, 1)
        ]

    def pictures(self, model: Any, split: Any) -> dict[str, Any]:
        """Windows from all over the split, of the last channel; and how the error grows with the step."""
        device, column = self.mean.device, self.columns[-1]
        places = torch.linspace(0, len(split) - 1, min(3, len(split))).long().to(device)
        batch = split.batch(places).to(device)
        told = model(*self.inputs(batch))
        past, future, told = ((x * self.std + self.mean)[..., -1].cpu() for x in (batch.past, batch.future, told))
        ahead = torch.arange(1, future.shape[1] + 1)
        seen = past[:, -2 * len(ahead) :]
        before = torch.arange(1 - seen.shape[1], 1)
        panels = {
            f"from step {at:,}": {
                "truth": (torch.cat([before, ahead]), torch.cat([seen[i], future[i]])),
                "forecast": (ahead, told[i]),
            }
            for i, at in enumerate(batch.at.tolist())
        }
        model_H, last_H = (torch.zeros(len(ahead), dtype=torch.float64, device=device) for _ in range(2))
        for batch in batches(split, 512, device):
            model_H += (model(*self.inputs(batch)) - batch.future).double().square().mean(2).sum(0)
            last_H += (batch.past[:, -1:] - batch.future).double().square().mean(2).sum(0)
        curves = {"forecast": (ahead, model_H / len(split))}
        if not torch.equal(model_H, last_H):
            curves["last value again"] = (ahead, last_H / len(split))
        return {
            "windows": figures.multiples(panels, x="steps ahead", y=column),
            "horizon": figures.lines(curves, x="steps ahead", y="mean squared error, standardized"),
        }


class SquaredError(PointForecast):
    """What a point forecast is trained with: the mean over windows, steps and channels."""

    def losses(self, model: Any, batch: Any) -> Iterator[tuple[str, Tensor]]:
        yield "model", (model(*self.inputs(batch)) - batch.future).square().mean()


def whole_batches(model: Any, objective: Objective, split: Any, batch: int) -> dict[str, float]:
    """mse and mae as the tables of Zeng et al. count them, named as_published/…: without the last, short batch of windows.

    Their test loader dropped it until cure-lab/LTSF-Linear @ 6fe4c28 (15 March 2023), and the tables are older. Of the
    exchange rates at 720 steps these are 30 of 798 windows. Nothing where there is no whole batch.
    """
    if not (count := len(split) - len(split) % batch):
        return {}
    found = measure(model, objective, split.head(count), 512)
    return {f"as_published/{name}": found[name] for name in ("mse", "mae")}
