"""Naive forecasts against numpy, and the exchange rates' numbers, which are arithmetic."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

import fuxian
from fuxian import load
from fuxian.data.series import Series, SeriesSplits, generated, published
from fuxian.errors import DataMissing, WrongInput
from fuxian.evaluation import batches, measure
from fuxian.methods.forecasting.naive import Again, Climatology, Usual, recipe
from fuxian.metrics.forecast import crps
from fuxian.objectives.forecasting import PointForecast, whole_batches

from .compare import relative


def standardized(series: Series) -> np.ndarray:
    train = series.values[: series.borders[0]]
    return (series.values - train.mean(0)) / train.std(0)


def test_each_forecast_is_that_of_numpy(prove) -> None:
    """Every test window, step and channel: from rows of the whole series, by the formulas of the book."""
    series, window, horizon, season = generated("waves"), 48, 30, 24
    data: Any = SeriesSplits(series, window, horizon)
    y, units = standardized(series), (data.columns, data.mean, data.std)
    batch = data.test.batch(torch.arange(len(data.test)))
    at = batch.at.numpy()
    worst = 0.0
    for m in (1, 7, season):
        k = np.arange(horizon) // m + 1  # seasons back to what is known: sec. 5.2
        expected = y[at[:, None] + np.arange(horizon) - m * k]
        worst = max(worst, relative(Again(m, horizon)(batch.past), torch.from_numpy(expected).float()))

    usual = Climatology(season, horizon, data.channels)
    for part in batches(data.train, 32):
        Usual(*units).update(usual, part)
    seen = np.arange(window, series.borders[0] - horizon + 1)  # the steps that a training window's future begins with
    mean = np.stack([y[seen[seen % season == place]].mean(0) for place in range(season)])
    expected = mean[(at[:, None] + np.arange(horizon)) % season]
    worst = max(worst, relative(usual(batch.at), torch.from_numpy(expected).float()))
    assert usual.count_M.sum() == len(data.train) == len(seen)
    assert worst < 1e-5

    told = Again(season, horizon)
    error = told(batch.past).double() - batch.future.double()
    found = measure(told, PointForecast(*units), data.test, 100)
    assert found["mse"] == pytest.approx(error.square().mean().item(), rel=1e-5)
    assert found["mae"] == pytest.approx(error.abs().mean().item(), rel=1e-5)
    same = told(batch.past)[:, None].expand(-1, 4, -1, -1)  # samples that are all the one number
    assert found["crps"] == pytest.approx(crps(same, batch.future).mean().item(), rel=1e-5)
    assert found["mae_in_units"] == pytest.approx(error.abs().mean().item() * data.std[0], rel=1e-5)
    came = batch.future.double() * data.std[0] + data.mean[0]
    assert found["wql"] == pytest.approx((error.abs().sum() * data.std[0] / came.abs().sum()).item(), rel=1e-5)
    prove("naive", "parity", reference="numpy, from rows of the whole series", outputs=worst, dtype="float32")


def test_by_hand() -> None:
    past = torch.tensor([[[1.0], [2.0], [3.0], [4.0], [5.0]]])
    assert Again(1, 3)(past).flatten().tolist() == [5, 5, 5]
    assert Again(3, 7)(past).flatten().tolist() == [3, 4, 5, 3, 4, 5, 3]
    assert Again(3, 2)(past).flatten().tolist() == [3, 4]
    usual = Climatology(3, 4, 1)
    usual.sum_MC[:2, 0], usual.count_M[:2] = torch.tensor([6.0, 5.0]).double(), torch.tensor([2.0, 1.0]).double()
    assert usual(torch.tensor([4, 6])).flatten(1).tolist() == [[5, 0, 3, 5], [3, 5, 0, 3]]  # nothing was seen at 2


@pytest.mark.parametrize(
    ("horizon", "windows", "every", "printed"),
    [(96, 1422, 0.0811, 0.081), (192, 1326, 0.1671, 0.167), (336, 1182, 0.3057, 0.305), (720, 798, 0.8101, 0.823)],
)
def test_the_exchange_rates_are_exact_twice(
    horizon: int, windows: int, every: float, printed: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every window; and the table's, which left the last, short batch of 32 out."""
    monkeypatch.setenv("FUXIAN_OFFLINE", "1")
    try:
        series = published("exchange-rate")
    except DataMissing:
        pytest.skip("the exchange rates are not at hand")
    y = standardized(series)
    at = np.arange(series.borders[1], len(y) - horizon + 1)
    assert len(at) == windows
    errors = np.stack([((y[t : t + horizon] - y[t - 1]) ** 2).mean() for t in at])
    assert round(errors.mean(), 4) == every
    assert round(errors[: windows - windows % 32].mean(), 3) == printed

    data: Any = SeriesSplits(series, 96, horizon)
    last, objective = Again(1, horizon), PointForecast(data.columns, data.mean, data.std)
    assert measure(last, objective, data.test, 100)["mse"] == pytest.approx(errors.mean(), rel=1e-6)
    table = whole_batches(last, objective, data.test, 32)
    assert table["as_published/mse"] == pytest.approx(errors[: windows - windows % 32].mean(), rel=1e-6)


def test_without_a_whole_batch_there_is_nothing_as_published() -> None:
    data: Any = SeriesSplits(generated("waves"), 48, 24, "blocks")
    last, objective = Again(1, 24), PointForecast(data.columns, data.mean, data.std)
    assert len(data.test) == 7
    assert whole_batches(last, objective, data.test, 32) == {}
    some = whole_batches(last, objective, data.test, 3)
    assert some["as_published/mse"] == pytest.approx(measure(last, objective, data.test.head(6))["mse"], rel=1e-12)


@pytest.mark.slow
def test_the_recipe(tmp_path) -> None:
    run = fuxian.run("naive", quick=True, limit=5, parent=tmp_path)
    models: dict[str, Any] = {name: load(run, stage=name).model for name in ("climatology", "seasonal", "last")}
    assert (models["seasonal"].season, models["last"].season, len(models["climatology"].count_M)) == (24, 1, 24)
    assert models["climatology"].count_M.sum() == 5 * 32
    assert run.metrics["test/mse"] == run.metrics["last/test/mse"]
    assert run.metrics["as_published/mse"] != run.metrics["test/mse"]
    with pytest.raises(WrongInput, match="--season 96: a window of 48 steps holds no whole season"):
        next(recipe("waves", window=48, horizon=24, season=96))


def test_what_is_told_is_in_the_numbers_of_the_data() -> None:
    data: Any = SeriesSplits(generated("waves"), 48, 24)
    rows = PointForecast(data.columns, data.mean, data.std).predict(Again(1, 24), data.test.batch(torch.tensor([0, 9])))
    assert [row["step"] for row in rows] == [*range(1, 25)] * 2
    at = data.borders[1] - 1  # the last step that is known
    assert rows[0]["y"] == pytest.approx(generated("waves").values[at, 0], abs=1e-5)
    assert rows[24]["y"] == pytest.approx(generated("waves").values[at + 9, 0], abs=1e-5)
