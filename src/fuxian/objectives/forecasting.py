"""Forecasting: of one future or of samples of it, judged in standardized numbers and told in those of the data."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fuxian import figures
from fuxian.contract import Metric, Objective
from fuxian.evaluation import batches, measure
from fuxian.metrics.forecast import (
    QICE,
    CalibrationError,
    WeightedQuantileLoss,
    covered,
    crps,
    energy_score,
    gaussian_crps,
    quantiles,
)


class Forecast(Objective):
    """`columns` name the channels; `mean` and `std` are what they were standardized with."""

    mean: Tensor
    std: Tensor

    def __init__(self, columns: Sequence[str], mean: np.ndarray, std: np.ndarray) -> None:
        self.columns = tuple(columns)
        self.register_buffer("mean", torch.from_numpy(mean).float())
        self.register_buffer("std", torch.from_numpy(std).float())

    def unscaled(self, x: Tensor) -> Tensor:
        """Standardized numbers (…, channels) as they came, each channel in its own unit."""
        return x * self.std + self.mean

    def in_units(self, x: Tensor) -> Tensor:
        """The last channel of standardized numbers (…, channels), in its own unit."""
        return (x[..., -1] * self.std[-1] + self.mean[-1]).cpu()


def places(split: Any, count: int, device: Any) -> Tensor:
    """At most `count` windows from all over the split."""
    return torch.linspace(0, len(split) - 1, min(count, len(split))).long().to(device)


class PointForecast(Forecast):
    """How `model(past)` (batch, horizon, channels) is judged by what came, each channel and step alike; and drawn.

    mse and mae are of standardized numbers, as in the tables of papers; crps is beside those of distributions what mae is:
    of one that is a single number it is the absolute error (Gneiting & Raftery, JASA 102(477), 2007: sec. 4.2).
    mae_in_units and wql are of the numbers as they came, of which channels may share no unit.
    """

    def metrics(self, model: Any) -> Mapping[str, Metric]:
        return {"wql": WeightedQuantileLoss()}

    def inputs(self, batch: Any) -> tuple[Tensor, ...]:
        return (batch.past,)

    def evaluate(self, model: Any, batch: Any) -> Iterator[tuple[Any, ...]]:
        told = model(*self.inputs(batch))
        error = told - batch.future
        yield "mse", error.square().mean((1, 2))
        yield "mae", error.abs().mean((1, 2))
        yield "crps", error.abs().mean((1, 2))
        yield "mae_in_units", (error.abs() * self.std).mean((1, 2))
        yield "wql", self.unscaled(told)[:, None], self.unscaled(batch.future)

    def predict(self, model: Any, batch: Any) -> list[dict[str, Any]]:
        """A row for each step ahead, in the numbers of the data."""
        told = self.unscaled(model(*self.inputs(batch)))
        return [
            {"step": step, **dict(zip(self.columns, values, strict=True))}
            for window in told.tolist()
            for step, values in enumerate(window, 1)
        ]

    def pictures(self, model: Any, split: Any) -> dict[str, Any]:
        """Windows from all over the split, of the last channel; and how the error grows with the step."""
        device, column = self.mean.device, self.columns[-1]
        batch = split.batch(places(split, 3, device)).to(device)
        past, future, told = map(self.in_units, (batch.past, batch.future, model(*self.inputs(batch))))
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


LEVELS = (0.05, 0.25, 0.5, 0.75, 0.95)  # the quantiles that are drawn and told: half of the samples, and nine tenths
DRAWN = 64  # windows, at most, that the pictures of all steps stand on


class SampledForecast(Forecast):
    """How `model.draw(batch, samples)` (batch, samples, horizon, channels) is judged by what came; and drawn.

    Of standardized numbers, each step and channel alike: crps; mse and mae of the samples' mean; covered, the share in the
    central 90 % of the samples (of S that are drawn right 1 - 2 (0.95 + 0.05 S) / (S + 1): 0.88 of 100); energy_score of
    all numbers of a window together; qice and calibration of the whole split. Of the numbers as they came: crps_in_units,
    mae_in_units, wql.
    `truth(batch)`, of a series that was generated, is the location and deviation that the future is drawn from:
    optimum_crps is what they have themselves, and with S samples of them about one in S more.
    """

    def __init__(
        self,
        columns: Sequence[str],
        mean: np.ndarray,
        std: np.ndarray,
        samples: int,
        truth: Callable[[Any], tuple[Tensor, Tensor]] | None = None,
    ) -> None:
        super().__init__(columns, mean, std)
        self.samples, self.truth = samples, truth

    def metrics(self, model: Any) -> Mapping[str, Metric]:
        return {"wql": WeightedQuantileLoss(), "qice": QICE(), "calibration": CalibrationError()}

    def evaluate(self, model: Any, batch: Any) -> Iterator[tuple[Any, ...]]:
        drawn, future = model.draw(batch, self.samples), batch.future
        error, score = drawn.mean(1) - future, crps(drawn, future)
        yield "crps", score.mean((1, 2))
        yield "mse", error.square().mean((1, 2))
        yield "mae", error.abs().mean((1, 2))
        yield "crps_in_units", (score * self.std).mean((1, 2))
        yield "mae_in_units", (error.abs() * self.std).mean((1, 2))
        yield "wql", self.unscaled(drawn), self.unscaled(future)
        yield "covered", covered(drawn, future).mean((1, 2))
        yield "energy_score", energy_score(drawn, future)
        yield "qice", drawn, future
        yield "calibration", drawn, future
        if self.truth:
            yield "optimum_crps", gaussian_crps(*self.truth(batch), future).mean((1, 2))

    def predict(self, model: Any, batch: Any) -> list[dict[str, Any]]:
        """A row for each step ahead, in the numbers of the data: of each column the median, and the ends of the 90 %."""
        drawn = self.unscaled(model.draw(batch, self.samples))
        levels = {"": 0.5, " low": LEVELS[0], " high": LEVELS[-1]}
        told = quantiles(drawn, torch.tensor(list(levels.values()))).permute(1, 2, 3, 0)
        names = [column + ending for column in self.columns for ending in levels]
        return [
            {"step": step, **dict(zip(names, values, strict=True))}
            for window in told.flatten(2).tolist()
            for step, values in enumerate(window, 1)
        ]

    def pictures(self, model: Any, split: Any) -> dict[str, Any]:
        """Windows from all over the split, of the last channel; calibration; how the CRPS grows with the step."""
        device, truth = self.mean.device, self.truth
        batch = split.batch(places(split, 3, device)).to(device)
        drawn = model.draw(batch, self.samples)
        told, past, future = map(self.in_units, (drawn, batch.past, batch.future))
        ahead = torch.arange(1, future.shape[1] + 1)
        seen = past[:, -2 * len(ahead) :]
        steps = torch.arange(1 - seen.shape[1], len(ahead) + 1)
        names = [f"from step {at:,}" for at in batch.at.tolist()]
        bands = quantiles(told, torch.tensor(LEVELS))
        fans = {name: ((steps, torch.cat([seen[i], future[i]])), (ahead, bands[:, i])) for i, name in enumerate(names)}
        found = {"windows": figures.fan(fans, LEVELS, x="steps ahead", y=self.columns[-1])}
        if truth:
            deviation = (truth(batch)[1][..., -1] * self.std[-1]).cpu()
            known = {
                name: {"samples": (ahead, told[i].std(0)), "truth": (ahead, deviation[i])} for i, name in enumerate(names)
            }
            found["deviation"] = figures.multiples(known, x="steps ahead", y="standard deviation")

        calibration, crps_H = CalibrationError(), torch.zeros(len(ahead), dtype=torch.float64)
        optimum_H, where = torch.zeros_like(crps_H), places(split, DRAWN, device)
        for part in where.split(32):
            batch = split.batch(part).to(device)
            drawn = model.draw(batch, self.samples)
            calibration.update(drawn, batch.future)
            crps_H += crps(drawn, batch.future).double().mean(2).sum(0).cpu() / len(where)
            if truth:
                of_truth = gaussian_crps(*truth(batch), batch.future)
                optimum_H += of_truth.double().mean(2).sum(0).cpu() / len(where)
        curves = {"forecast": (ahead, crps_H), **({"truth": (ahead, optimum_H)} if truth else {})}
        expected, observed = (100 * share for share in calibration.curve)
        found["horizon"] = figures.lines(curves, x="steps ahead", y="CRPS, standardized")
        found["calibration"] = figures.lines(
            {"forecast": (expected, observed), "calibrated": (expected, expected)},
            x="quantile told, %",
            y="truths below it, %",
        )
        return found


class DiffusedForecast(SampledForecast):
    """The same of samples that come out of noise in `steps` steps, each `model(y, t, past, marks)`: that is exported."""

    def __init__(self, steps: int, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.steps = steps

    def inputs(self, batch: Any) -> tuple[Tensor, ...]:
        """Futures with noise in them, of another count of samples than of windows, as both may vary; dates where known."""
        count = len(batch)
        y = batch.future[:, None] + torch.randn(count, count + 1, *batch.future.shape[1:])
        return y, torch.randint(self.steps, (count,)), batch.past, *[batch.marks] * bool(batch.marks.shape[2])

    def about(self) -> Mapping[str, Any]:
        return {"steps": self.steps}


def whole_batches(model: Any, objective: Objective, split: Any, batch: int) -> dict[str, float]:
    """mse and mae as the tables of Zeng et al. count them, named as_published/…: without the last, short batch of windows.

    Their test loader dropped it until cure-lab/LTSF-Linear @ 6fe4c28 (15 March 2023), and the tables are older. Of the
    exchange rates at 720 steps these are 30 of 798 windows. Nothing where there is no whole batch.
    """
    if not (count := len(split) - len(split) % batch):
        return {}
    found = measure(model, objective, split.head(count), 512)
    return {f"as_published/{name}": found[name] for name in ("mse", "mae")}
