"""Time series: windows of the past, each with the future that is to be told. One protocol for all forecasting methods.

Rows are in the order of time, and so are the splits: train, then val, then test. Mean and deviation are of the training
rows. A window of a split has its whole future there; its past may lie before. Every such window counts.

Shape letters: T steps, C channels, M marks of the calendar, N windows, L window and horizon together.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from typing_extensions import Self

from fuxian.contract import Batch, Splits
from fuxian.data import own, sheets
from fuxian.data.sources import digest_of, hashes, read
from fuxian.errors import DataMissing, WrongInput
from fuxian.numbers import plural

note = logging.getLogger("fuxian.data").info


@dataclass(frozen=True)
class Windows(Batch):
    past: Tensor  # (batch, window, channels) float32, standardized
    future: Tensor  # (batch, horizon, channels) float32, standardized; NaN where nobody knows it yet
    at: Tensor  # (batch,) int64: the step of the series that the future begins with
    marks: Tensor  # (batch, window + horizon, marks) float32: the date of each step, as `calendar` has it; or no marks


class WindowSplit:
    """The windows in `rows` (T, C), the steps of a series from `first` on: one begins `stride` steps after another.

    `marks` (T, M) go with the rows. What is left at the end is too short for a window.
    """

    def __init__(self, rows: Tensor, marks: Tensor, first: int, window: int, horizon: int, stride: int = 1) -> None:
        self.rows, self.marks, self.first, self.window, self.horizon = rows, marks, first, window, horizon
        self.stride = stride

    def view(self, rows: Tensor) -> Tensor:
        """(N, columns of rows, L): every window there is, none copied."""
        return rows.unfold(0, self.window + self.horizon, self.stride)

    @property
    def device(self) -> torch.device:
        return self.rows.device

    def to(self, device: torch.device | str) -> Self:
        """Moves this split, as a module's `to` does."""
        self.rows, self.marks = self.rows.to(device), self.marks.to(device)
        return self

    def __len__(self) -> int:
        return max(0, (len(self.rows) - self.window - self.horizon) // self.stride + 1)

    def batch(self, indices: Tensor) -> Windows:
        both, marks = (self.view(rows)[indices].transpose(1, 2) for rows in (self.rows, self.marks))
        at = self.first + self.window + indices * self.stride
        return Windows(both[:, : self.window], both[:, self.window :], at, marks)

    def head(self, count: int) -> WindowSplit:
        """The first `count` windows."""
        end = (count - 1) * self.stride + self.window + self.horizon
        return WindowSplit(self.rows[:end], self.marks[:end], self.first, self.window, self.horizon, self.stride)


@dataclass(frozen=True)
class Series:
    """Numbers in the order of time, and where they are cut.

    `values` (T, C) float64 in their own units; `borders` where train, val and test end; `moments` (T,) float64, in seconds
    since 1970, where dates are known. Of a series that was generated, `location` and `deviation` (T, C) are those of the
    normal distribution that each number was drawn from.
    """

    name: str
    values: np.ndarray
    columns: tuple[str, ...]
    borders: tuple[int, int, int]
    hashes: dict[str, str]
    moments: np.ndarray | None = None
    location: np.ndarray | None = None
    deviation: np.ndarray | None = None


class SeriesSplits(Splits):
    """Windows of `window` steps and the `horizon` steps after each, of `channels` numbers named `columns`.

    With windows="blocks" val and test are cut into blocks of window and horizon, one after another, as NsDiff's
    `fast_val` and `fast_test` do (torch_timeseries 0.1.10, dataloader/wrapper.py, MultivariateFast): at 168 and 192, 8 of
    the 2,689 test windows of ETTh1. With windows="rolling" the borders are GluonTS's too, which `rolling` has: a future
    follows the one before. Training is of all windows in all three. What a model sees is (number - mean) / std of its
    column, both of the training rows. With `dates` its windows have the marks of `calendar`, if dates are known; with
    `validation` val is cut as this says, where reading it whole after each epoch takes too long.
    Raises WrongInput where a split has no room for a window.
    """

    def __init__(
        self, series: Series, window: int, horizon: int, windows: str = "all", dates: bool = False, validation: str = ""
    ) -> None:
        self.columns, self.channels = series.columns, len(series.columns)
        self.window, self.horizon, self.windows = window, horizon, windows
        self.borders = rolling(series, horizon) if windows == "rolling" else series.borders
        begins = (0, self.borders[0] - window, self.borders[1] - window)
        for name, begin, end in zip(own.PARTS, begins, self.borders, strict=True):
            if end - begin < window + horizon:
                raise WrongInput(
                    f"{series.name}: {plural(end - begin, 'row')} for {name}, the past before its first included; a window "
                    f"of {window:,} and a horizon of {horizon:,} take {window + horizon:,}",
                    do="a smaller --window or --horizon",
                )
        self.mean, self.std = own.standard(series.values[: self.borders[0]])
        rows = torch.from_numpy((series.values - self.mean) / self.std).float()
        self.step = 0.0  # between two moments, in seconds; 0 where no date is known, or wanted
        marks = rows.new_empty(len(rows), 0)
        if dates and series.moments is not None:
            self.step = float(np.median(np.diff(series.moments)))
            marks = calendar(series.moments, self.step)
        self.marks = marks.shape[1]
        strides = {"all": 1, "blocks": window + horizon, "rolling": horizon}
        val = windows if windows == "rolling" else validation or windows
        parts = [
            WindowSplit(rows[begin:end], marks[begin:end], begin, window, horizon, strides[cut])
            for begin, end, cut in zip(begins, self.borders, ("all", val, windows), strict=True)
        ]
        super().__init__(*parts, name=series.name, hashes=series.hashes)
        self.location = self.deviation = None
        if series.location is not None and series.deviation is not None:
            self.location = torch.from_numpy((series.location - self.mean) / self.std).float()
            self.deviation = torch.from_numpy(series.deviation / self.std).float()

    def truth(self, batch: Windows) -> tuple[Tensor, Tensor]:
        """What the future of a generated series is drawn from: location and deviation (batch, horizon, channels).

        They are standardized as the batch is. Raises WrongInput where nobody knows them.
        """
        if self.location is None or self.deviation is None:
            raise WrongInput(f"nobody knows what {self.name} was drawn from", do=f"one of {', '.join(GENERATED)}")
        step = batch.at[:, None].cpu() + torch.arange(self.horizon)
        return self.location[step].to(batch.past), self.deviation[step].to(batch.past)

    def about(self) -> dict[str, Any]:
        return {
            "values": "steps of a series, in and out, each column as (number - mean) / std",
            "columns": self.columns,
            "window": self.window,
            "horizon": self.horizon,
            "windows": self.windows,
            "mean": self.mean.tolist(),
            "std": self.std.tolist(),
            "marks": MARKS[: self.marks],
        }

    def read(self, words: Sequence[str]) -> Windows:
        """The last rows of each `.csv` that has the same columns: what is to be told comes after them."""
        pasts, ends, marks = [], [], []
        for word in words:
            own.kind(Path(word), ".csv")
            sheet = sheets.sheet(Path(word))
            if lacking := [column for column in self.columns if column not in sheet.columns]:
                raise WrongInput(f"{word} has no column {lacking[0]}; {self.name} has {', '.join(self.columns)}")
            moments = _dates(sheet, _time_of(sheet))
            values = sheet.numbers(self.columns)
            if len(values) < self.window:
                raise WrongInput(f"{word} has {plural(len(values), 'row')}; the model looks at the last {self.window:,}")
            pasts.append(torch.from_numpy((values[-self.window :] - self.mean) / self.std).float())
            ends.append(len(values))
            if self.step:
                if moments is None:
                    raise WrongInput(f"{word} has no dates; the model has learned from those of {self.name}")
                ahead = moments[-1] + self.step * np.arange(1, self.horizon + 1)
                marks.append(calendar(np.concatenate([moments[-self.window :], ahead]), self.step))
        past = torch.stack(pasts)
        future = past.new_full((len(past), self.horizon, self.channels), math.nan)
        none = past.new_empty(len(past), self.window + self.horizon, 0)
        return Windows(past, future, torch.tensor(ends), torch.stack(marks) if marks else none)


def series_data(
    name: str | Path, window: int, horizon: int, windows: str = "all", dates: bool = False, validation: str = ""
) -> SeriesSplits:
    """Windows of a series by name: etth1, etth2, ettm1, exchange-rate, one of GENERATED; or one's own (`own_series`)."""
    if isinstance(name, Path):
        return SeriesSplits(own_series(name), window, horizon, windows, dates, validation)
    if name not in GENERATED and name not in ("etth1", "etth2", "ettm1", "exchange-rate"):
        raise WrongInput(f"there is no series named {name!r}", do="etth1, etth2, ettm1, exchange-rate, or a path")
    series = generated(name) if name in GENERATED else published(name)
    return SeriesSplits(series, window, horizon, windows, dates, validation)


MARKS = ("year", "month", "day", "weekday", "hour", "minute")


def calendar(moments: np.ndarray, step: float) -> Tensor:
    """(T, M) float32, of `MARKS` the first: the hour only where a step is shorter than a day, the minute, than an hour.

    Each from its least to its greatest is about one, but the year. `moments` and `step` are in seconds. The numbers are
    those that NsDiff and TMDM are given: torch_timeseries 0.1.10, utils/timefeatures.py, timeenc=3.
    """
    second = moments.astype("datetime64[s]")
    year, month, day, hour, minute = (second.astype(f"datetime64[{unit}]") for unit in "YMDhm")
    marks = [
        (year.astype(int) + 1970 - 1012) / 2024,
        ((month - year).astype(int) + 1 - 6) / 12,
        ((day - month).astype(int) + 1 - 15) / 30,
        ((day.astype(int) + 3) % 7 - 3.5) / 7,  # 1970 began on a Thursday
        ((hour - day).astype(int) - 12) / 24,
        ((minute - hour).astype(int) - 30) / 60,
    ]
    finest = 4 + (step < 86_400) + (step < 3_600)
    return torch.from_numpy(np.stack(marks[:finest], 1)).float()


def parted(steps: int) -> tuple[int, int, int]:
    """70 % to train, 20 % to test, what is between them to validate. cure-lab/LTSF-Linear @ 0c11366, data_loader.py."""
    return int(0.7 * steps), steps - int(0.2 * steps), steps


ROLLS = 5  # GluonTS has 5 windows of the exchange rates, of sets by the hour 7


def rolling(series: Series, horizon: int) -> tuple[int, int, int]:
    """Where train, val and test end as GluonTS cuts them: test is `ROLLS` futures after four fifths of the steps.

    awslabs/gluonts @ 0c7d746, dataset/repository/_lstnet.py, whose last training step is the one at int(0.8 T). It trains
    on all before test; here the `ROLLS` futures before test are val. What comes after test is not used.
    """
    end = int(0.8 * len(series.values)) + 1
    if (most := (len(series.values) - end) // ROLLS) < horizon:
        raise WrongInput(
            f"{series.name}: {plural(len(series.values) - end, 'row')} after four fifths; {ROLLS} futures of {horizon:,} "
            f"take {ROLLS * horizon:,}",
            do=f"--horizon {most}, or fewer" if most else "--windows all",
        )
    return end - ROLLS * horizon, end, end + ROLLS * horizon


def published(name: str) -> Series:
    """ETTh1, ETTh2 (hours), ETTm1 (quarters of an hour): 12, 4 and 4 months of 30 days; the exchange rates: `parted` days.

    As cure-lab/LTSF-Linear @ 0c11366, data_loader.py, cuts them. Of ETT, what comes after these 20 months is not used.
    The exchange rates are of working days, and their file has no dates: as in the .csv of others, days from 1990 on.
    Raises DataMissing when a file cannot be had.
    """
    (content,) = read(name).values()
    if name == "exchange-rate":
        values = np.loadtxt(BytesIO(content), delimiter=",")
        columns = ("Australia", "Britain", "Canada", "Switzerland", "China", "Japan", "New Zealand", "Singapore")
        days = np.datetime64("1990-01-01") + np.arange(len(values))
        return Series(name, values, columns, parted(len(values)), hashes(name), _seconds(days))
    first = content.partition(b"\n")[0].decode()
    columns = tuple(first.strip().split(",")[1:])  # date is the first
    values = np.loadtxt(BytesIO(content), delimiter=",", skiprows=1, usecols=range(1, len(columns) + 1))
    moments = np.loadtxt(BytesIO(content), "datetime64[s]", delimiter=",", skiprows=1, usecols=0)
    month = 30 * 24 * (4 if name == "ettm1" else 1)
    return Series(name, values, columns, (12 * month, 16 * month, 20 * month), hashes(name), _seconds(moments))


def _seconds(dates: np.ndarray) -> np.ndarray:
    return dates.astype("datetime64[s]").astype(np.float64)


# y = f(t) + g(t) ε, ε of N(0, 1): how many steps t, f and g. Here it is known what no forecast can be better than.
# The noise that grows is NsDiff's: wwy155/NsDiff @ 0686624, datasets/gaussian_ns.py and gaussian_ns2.py.
Law = Callable[[np.ndarray], np.ndarray]
GENERATED: dict[str, tuple[int, Law, Law]] = {
    "waves": (2400, lambda t: np.sin(math.pi * t / 12), lambda t: 0.3 + 0.2 * np.cos(math.pi * t / 12)),
    "linear-noise": (7588, lambda t: 1 + 9 * t / 7587, lambda t: 1 + 9 * t / 7587),
    "quadratic-noise": (7588, lambda t: 1 + 9 * t / 7587, lambda t: (1 + 9 * t / 7587) ** 2),
}


def generated(name: str) -> Series:
    """One channel of one of `GENERATED`, the same numbers each time, `parted`."""
    steps, f, g = GENERATED[name]
    t = np.arange(steps)[:, None]
    noise = torch.randn(steps, 1, dtype=torch.float64, generator=torch.Generator().manual_seed(0)).numpy()
    values = f(t) + g(t) * noise
    return Series(name, values, ("y",), parted(steps), {name: digest_of(values)}, None, f(t), g(t))


def own_series(path: Path) -> Series:
    """A series of one's own: a `.csv` of numbers, a row a step, `parted`.

    `--time` names the column of dates or numbers that orders the rows; where it is not given, that is the first column of
    dates, and without one the rows are taken as they come. `--target` names the column that is to be told, from itself
    alone; where it is not given, all are. A gap in time is said, and stepped over. Raises DataMissing and WrongInput.
    """
    own.kind(path, ".csv")
    sheet = sheets.sheet(path)
    time, target = _time_of(sheet), sheet.target()
    if target and target == time:
        raise WrongInput(f"--target {target}: {own.shown(path)} is ordered by this column", do="--target another")
    columns = (target,) if target else tuple(column for column in sheet.columns if column != time)
    if not columns:
        raise DataMissing(f"{own.shown(path)} has no column beside {time}")
    values = sheet.numbers(columns)
    return Series(path.name, values, columns, parted(len(values)), own.recorded(path, sheet.sha256), _dates(sheet, time))


def _dates(sheet: sheets.Sheet, time: str) -> np.ndarray | None:
    """(T,) float64, in seconds since 1970: of a column of dates; None of one of numbers, or where there is no column."""
    return sheet.moments(time) if time and sheets.as_number(sheet.cells(time)[0]) is None else None


def _time_of(sheet: sheets.Sheet) -> str:
    """The column that the rows are in the order of, which is checked, and its gaps are said; "" where there is none."""
    first = [cell.strip() for cell in sheet.rows[0]]
    dates = [sheets.as_number(cell) is None and sheets.as_moment(cell) is not None for cell in first]
    time = sheet.time() or (sheet.columns[dates.index(True)] if any(dates) else "")
    if not time:
        return ""
    lengths = np.diff(sheet.moments(time))
    usual = float(np.median(lengths)) if len(lengths) else 0.0
    if gaps := int((lengths > 1.5 * usual).sum()):
        longest = int(lengths.argmax())
        note(
            f"{sheet.where(longest + 1, time)}: a gap of {lengths[longest] / usual:,.1f} steps, the longest of {gaps:,}; "
            "a row counts as a step, however long after the one before"
        )
    return time
