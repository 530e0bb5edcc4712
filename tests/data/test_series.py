"""Series: borders, windows, what a model may see, and one's own."""

import csv
import json
from dataclasses import replace
from datetime import datetime, timedelta, timezone
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.preprocessing import StandardScaler

from fuxian.data import own, sheets
from fuxian.data import series as module
from fuxian.data.series import GENERATED, Series, generated, own_series, parted
from fuxian.data.sources import SOURCES
from fuxian.errors import FuxianError, WrongInput

SeriesSplits: Any = module.SeriesSplits
series_data: Any = module.series_data


def everything(split):
    return split.batch(torch.arange(len(split)))


def counting(steps=100, borders=(70, 80, 100), name="counting"):
    """A series whose numbers say where they stand: t, and 1000 + t."""
    t = np.arange(steps, dtype=np.float64)
    return Series(name, np.stack([t, 1000 + t], 1), ("t", "u"), borders, {name: "0"})


def steps(data, values):
    """Standardized numbers of `counting` as the steps that they are."""
    return (values.double() * torch.from_numpy(data.std) + torch.from_numpy(data.mean))[..., 0].round().long()


# ── windows ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_windows_by_hand():
    data = SeriesSplits(counting(), window=4, horizon=3)
    assert [len(data.train), len(data.val), len(data.test)] == [64, 8, 18]
    batch = data.val.batch(torch.tensor([2, 0]))
    assert steps(data, batch.past).tolist() == [[68, 69, 70, 71], [66, 67, 68, 69]]
    assert steps(data, batch.future).tolist() == [[72, 73, 74], [70, 71, 72]]
    assert batch.at.tolist() == [72, 70]
    assert (batch.past.dtype, batch.past.shape, batch.future.shape) == (torch.float32, (2, 4, 2), (2, 3, 2))
    assert (batch.past[..., 0] - batch.past[..., 1]).abs().max() < 1e-5  # each column by its own mean and deviation


def test_every_step_of_a_split_is_told_and_none_of_another():
    data = SeriesSplits(counting(), window=4, horizon=3)
    for split, begin, end in ((data.train, 4, 70), (data.val, 70, 80), (data.test, 80, 100)):
        told = steps(data, everything(split).future)
        assert sorted(set(told.flatten().tolist())) == list(range(begin, end))
        assert torch.equal(told[:, 0], everything(split).at)
        assert torch.equal(steps(data, everything(split).past)[:, -1], told[:, 0] - 1)


def test_blocks_share_no_step():
    data = SeriesSplits(counting(), window=4, horizon=3, windows="blocks")
    assert [len(data.train), len(data.val), len(data.test)] == [64, 2, 3]
    batch = everything(data.test)
    assert torch.cat([steps(data, batch.past), steps(data, batch.future)], 1).flatten().tolist() == list(range(76, 97))
    assert batch.at.tolist() == [80, 87, 94]


def test_rolling_tells_one_future_after_another_as_gluonts_cuts_them():
    data = SeriesSplits(counting(), window=4, horizon=3, windows="rolling", validation="blocks")
    assert data.borders == (66, 81, 96)  # _lstnet.py: test begins after the step at int(0.8 T)
    for split, begin, end in ((data.val, 66, 81), (data.test, 81, 96)):
        batch = everything(split)
        assert steps(data, batch.future).flatten().tolist() == list(range(begin, end))
        assert torch.equal(steps(data, batch.past)[:, -1], batch.at - 1)
    assert steps(data, everything(data.train).future).max() == 65
    assert data.mean[0] == np.arange(66).mean()


def test_rolling_needs_room_for_five_futures():
    with pytest.raises(WrongInput, match="counting: 19 rows after four fifths; 5 futures of 4 take 20") as told:
        SeriesSplits(counting(), window=4, horizon=4, windows="rolling")
    assert told.value.lines["do"] == "--horizon 3, or fewer"
    with pytest.raises(WrongInput, match="take 5") as told:
        SeriesSplits(counting(12, (8, 10, 12)), window=2, horizon=1, windows="rolling")
    assert told.value.lines["do"] == "--windows all"


def test_val_may_be_in_blocks_where_test_is_not():
    data = SeriesSplits(counting(), window=4, horizon=3, validation="blocks")
    assert [len(data.train), len(data.val), len(data.test)] == [64, 2, 18]


def test_the_first_windows_of_all():
    for windows in ("all", "blocks", "rolling"):
        test = SeriesSplits(counting(), 4, 3, windows).test
        some = test.head(2)
        assert len(some) == 2
        for one, other in zip(everything(some).chunk(1), [test.batch(torch.arange(2))], strict=True):
            assert torch.equal(one.past, other.past)
            assert torch.equal(one.at, other.at)


def test_windows_are_views_of_the_rows():
    data = SeriesSplits(counting(), 4, 3)
    for split in (data.train, data.val, data.test):
        assert split.view(split.rows).data_ptr() == split.rows.data_ptr()
    assert data.test.rows.untyped_storage().data_ptr() == data.train.rows.untyped_storage().data_ptr()


def test_the_future_changes_no_input_and_no_scale():
    """No leak: of two series that differ from a step on, nothing that stands before it differs."""
    draw = np.random.default_rng(0)
    values = draw.normal(size=(100, 2))
    for since in (70, 76, 85, 92):  # as train ends; in val; in test
        changed = values.copy()
        changed[since:] = draw.normal(50, 20, size=(100 - since, 2))
        one, other = (SeriesSplits(Series("x", v, ("a", "b"), (70, 80, 100), {}), 4, 3) for v in (values, changed))
        assert (one.mean == other.mean).all()
        assert (one.std == other.std).all()
        for name in own.PARTS:
            ours, theirs = everything(getattr(one, name)), everything(getattr(other, name))
            before = ours.at <= since
            assert torch.equal(ours.past[before], theirs.past[before])
            assert torch.equal(ours.future[ours.at + 3 <= since], theirs.future[ours.at + 3 <= since])
            assert name != "train" or bool(before.all())


def test_a_constant_column_is_zero_and_stays_finite():
    values = np.stack([np.arange(100.0), np.full(100, 0.1)], 1)  # the mean of a hundred tenths is not quite a tenth
    data = SeriesSplits(Series("x", values, ("a", "b"), (70, 80, 100), {}), 4, 3)
    assert data.std[1] == 1
    assert not everything(data.test).past[..., 1].any()
    assert own.standard(values)[0][1] == 0.1


def test_no_room_for_a_window():
    with pytest.raises(WrongInput, match=r"counting: 70 rows for train, .* a window of 60 and a horizon of 11 take 71"):
        SeriesSplits(counting(), 60, 11)
    with pytest.raises(WrongInput, match="counting: 14 rows for val, the past before its first included"):
        SeriesSplits(counting(), 4, 11)
    with pytest.raises(WrongInput, match="counting: 3 rows for train"):
        SeriesSplits(counting(borders=(3, 50, 100)), 4, 1)


# ── dates ───────────────────────────────────────────────────────────────────────────────────────────────────────────


def marks_by_hand(moment: datetime, count: int) -> list[float]:
    """torch_timeseries 0.1.10, utils/timefeatures.py, timeenc=3: "yh" has the first five, "yt" all."""
    m = moment
    found = [(m.year - 1012) / 2024, (m.month - 6) / 12, (m.day - 15) / 30, (m.weekday() - 3.5) / 7]
    return [*found, (m.hour - 12) / 24, (m.minute - 30) / 60][:count]


@pytest.mark.parametrize(("minutes", "count"), [(24 * 60, 4), (7 * 60, 5), (17, 6)])
def test_marks_by_hand(minutes, count):
    moments = [datetime(2015, 12, 30, 5, 11, tzinfo=timezone.utc) + i * timedelta(minutes=minutes) for i in range(100)]
    series = replace(counting(), moments=np.array([moment.timestamp() for moment in moments]))
    data = SeriesSplits(series, 4, 3, dates=True)
    assert data.marks == count
    for part in (data.train, data.val, data.test, data.test.head(2)):
        batch = everything(part)
        expected = [[marks_by_hand(moments[at + i], count) for i in range(-4, 3)] for at in batch.at.tolist()]
        np.testing.assert_allclose(batch.marks, expected, rtol=1e-6, atol=1e-7)


def test_no_marks_where_no_date_is_known_or_wanted():
    moments = 3600.0 * np.arange(100)
    for series, dates in ((counting(), True), (replace(counting(), moments=moments), False)):
        data = SeriesSplits(series, 4, 3, dates=dates)
        assert data.marks == 0
        assert everything(data.val).marks.shape == (8, 7, 0)


# ── published ───────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("name", "window", "horizon", "expected"),
    [
        ("etth1", 336, 96, (8209, 2785, 2785)),  # what LTSF-Linear's loaders print
        ("etth2", 336, 720, (7585, 2161, 2161)),
        ("ettm1", 336, 96, (34129, 11425, 11425)),
        ("exchange-rate", 96, 96, (5120, 665, 1422)),
        ("exchange-rate", 336, 720, (4256, 41, 798)),
        ("etth1", 168, 192, (8281, 2689, 2689)),
    ],
)
def test_published_windows(name, window, horizon, expected, published):
    data = series_data(name, window, horizon)
    assert (len(data.train), len(data.val), len(data.test)) == expected
    assert data.hashes == {next(iter(data.hashes)): SOURCES[name].files[0].content[1]}


@pytest.mark.parametrize(
    ("name", "first", "second"),
    [
        ("etth1", datetime(2016, 7, 1), datetime(2016, 7, 1, 1)),
        ("ettm1", datetime(2016, 7, 1), datetime(2016, 7, 1, 0, 15)),
        ("exchange-rate", datetime(1990, 1, 1), datetime(1990, 1, 2)),
    ],
)
def test_published_dates(name, first, second, published):
    data = series_data(name, 24, 24, dates=True)
    marks = data.train.batch(torch.tensor([0])).marks[0]
    expected = [marks_by_hand(moment, data.marks) for moment in (first, second)]
    np.testing.assert_allclose(marks[:2], expected, rtol=1e-6, atol=1e-7)


def test_blocks_are_eight_of_2689(published):
    data = series_data("etth1", 168, 192, "blocks")
    assert (len(data.train), len(data.val), len(data.test)) == (8281, 8, 8)
    assert everything(data.test).at.tolist() == [11520 + 360 * i for i in range(8)]


def test_standardized_as_scikit_learn_does(published):
    raw = module.published("etth1").values
    data = series_data("etth1", 24, 12)
    expected = StandardScaler().fit(raw[:8640]).transform(raw[:14400])
    batch = everything(data.test)
    torch.testing.assert_close(batch.future[:, 0], torch.from_numpy(expected[11520:14389]).float(), rtol=0, atol=1e-6)
    torch.testing.assert_close(batch.past[0], torch.from_numpy(expected[11496:11520]).float(), rtol=0, atol=1e-6)
    assert raw[0, 6] == 30.5310001373291
    assert raw[-1].shape == (7,)


def test_exchange_rates(published):
    series = module.published("exchange-rate")
    assert series.values.shape == (7588, 8)
    assert series.values[0, :2].tolist() == [0.7855, 1.611]
    assert series.borders == (5311, 6071, 7588)


# ── generated ───────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("name", GENERATED)
def test_a_generated_series_is_drawn_from_what_it_says(name):
    series = generated(name)
    noise = (series.values - series.location) / series.deviation
    assert abs(noise.mean()) < 3 / len(noise) ** 0.5
    assert noise.std() == pytest.approx(1, abs=0.04)
    for half in (noise[: len(noise) // 2], noise[len(noise) // 2 :]):
        assert half.std() == pytest.approx(1, abs=0.06)
    assert (series.values == generated(name).values).all()
    data = series_data(name, 48, 24)
    batch = data.test.batch(torch.tensor([3, 50]))
    location, deviation = data.truth(batch)
    rows = batch.at[:, None] + torch.arange(24)
    torch.testing.assert_close(
        location + deviation * torch.from_numpy(noise[rows.numpy()]).float(), batch.future, rtol=0, atol=1e-5
    )


def test_what_nobody_knows():
    data = SeriesSplits(counting(), 4, 3)
    with pytest.raises(WrongInput, match="nobody knows what counting was drawn from"):
        data.truth(everything(data.test))
    with pytest.raises(WrongInput, match="there is no series named 'etth9'"):
        series_data("etth9", 4, 3)


# ── one's own ───────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def dates(count, missing=()):
    days = (np.datetime64("2020-02-27") + np.arange(count + len(missing))).astype(str)
    return [day for i, day in enumerate(days) if i not in missing]


def write(path, rows=60, time=True, missing=(), change=None):
    """A `.csv` of days, OT = t and load = 100 - t."""
    table = [[day, str(t), str(100 - t)] for t, day in enumerate(dates(rows, missing))]
    if change:
        row, column, cell = change
        table[row - 2][column] = cell
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([row[not time :] for row in [["date", "OT", "load"], *table]])
    return path


def test_own_columns_and_parts(here):
    series = own_series(write(here / "a.csv"))
    assert series.columns == ("OT", "load")
    assert (series.values.shape, series.borders, parted(60)) == ((60, 2), (42, 48, 60), (42, 48, 60))
    assert series.values[:3].tolist() == [[0, 100], [1, 99], [2, 98]]
    with own.reading("load", {}, "date"):
        series = own_series(here / "a.csv")
    assert series.columns == ("load",)
    assert list(series.hashes) == ["a.csv"]
    assert own_series(write(here / "b.csv", time=False)).columns == ("OT", "load")


def test_rows_in_the_order_of_a_number(here):
    write(here / "a.csv")
    with own.reading(None, {}, "OT"):
        assert own_series(write(here / "b.csv", time=False)).columns == ("load",)
    with own.reading(None, {}, "load"), pytest.raises(FuxianError, match="row 3, column load: 99 comes after 100 of row 2"):
        own_series(here / "b.csv")


@pytest.mark.parametrize(
    "cells",
    [
        ("2020-01-01", "2020-01-02"),
        ("2020/01/01", "2020/01/02"),
        ("2016-07-01 00:00:00", "2016-07-01 01:00:00"),
        ("2016-07-01T00:00+02:00", "2016-07-01T00:00Z"),
        ("2016-07-01 00:00", "2016-07-01 00:00:01"),
    ],
)
def test_dates(cells):
    before, after = (sheets.as_moment(cell) for cell in cells)
    assert before is not None
    assert after is not None
    assert before < after
    assert sheets.as_moment("yesterday") is None
    assert sheets.as_moment("nan") is None
    assert sheets.as_moment("1970-01-02") == 86400


def test_a_gap_is_said_and_stepped_over(here, caplog):
    caplog.set_level("INFO", "fuxian.data")
    own_series(write(here / "a.csv"))
    assert not caplog.text
    series = own_series(write(here / "a.csv", missing=(5, 6, 20)))
    assert "./a.csv, row 7, column date: a gap of 3.0 steps, the longest of 2; a row counts as a step" in caplog.text
    assert len(series.values) == 60


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ((5, 0, "2020-02-28"), "./a.csv, row 5, column date: 2020-02-28 comes after 2020-02-29 of row 4"),
        ((5, 0, "2020-02-29"), "./a.csv, row 5, column date: 2020-02-29 is that of row 4"),
        ((5, 0, "soon"), "./a.csv, row 5, column date: 'soon' is neither a date, as 2016-07-01 13:00, nor a number"),
        ((5, 0, ""), "./a.csv, row 5, column date: the cell is empty"),
        ((5, 1, ""), "./a.csv, row 5, column OT: the cell is empty"),
        ((5, 1, "NaN"), "./a.csv, row 5, column OT: NaN is not a finite number"),
        ((5, 2, "high"), "./a.csv, row 5, column load: 'high' is not a number"),
    ],
)
def test_what_does_not_fit_is_one_line(here, change, message):
    path = write(here / "a.csv", change=change)
    with pytest.raises(FuxianError) as caught:
        own_series(path)
    assert message in caught.value.message
    assert "\n" not in caught.value.message
    assert caught.value.code in (2, 4)


@pytest.mark.parametrize(
    ("target", "time", "message"),
    [
        ("OTT", None, "--target OTT: ./a.csv has no such column; it has date, OT, load"),
        ("OT", "dat", "--time dat: ./a.csv has no such column; it has date, OT, load"),
        ("date", None, "--target date: ./a.csv is ordered by this column"),
    ],
)
def test_columns_that_are_not_there(here, target, time, message):
    path = write(here / "a.csv")
    with own.reading(target, {}, time), pytest.raises(WrongInput) as caught:
        own_series(path)
    assert message in caught.value.message


def test_too_short_for_a_window_and_nothing_but_dates(here):
    with pytest.raises(WrongInput, match=r"a\.csv: 13 rows for val, the past before its first included; a window of 7"):
        series_data(write(here / "a.csv"), 7, 7)
    (here / "b.csv").write_text("date\n2020-01-01\n2020-01-02\n")
    with pytest.raises(FuxianError, match=r"\./b\.csv has no column beside date"):
        own_series(here / "b.csv")
    (here / "c.csv").write_text("date,OT\n2020-01-01,3\n")
    with pytest.raises(WrongInput, match=r"c\.csv: 0 rows for train"):
        series_data(here / "c.csv", 7, 7)


def test_the_last_rows_are_what_is_told_from(here):
    data = series_data(write(here / "a.csv"), 5, 3)
    batch = data.read([str(here / "a.csv")] * 2)
    assert (batch.past.shape, batch.future.shape, batch.at.tolist()) == ((2, 5, 2), (2, 3, 2), [60, 60])
    own_units = batch.past[0].double() * torch.from_numpy(data.std) + torch.from_numpy(data.mean)
    torch.testing.assert_close(own_units[:, 0], torch.arange(55.0, 60.0, dtype=torch.float64), rtol=0, atol=1e-4)
    assert batch.future.isnan().all()
    with pytest.raises(WrongInput, match=r"short\.csv has 4 rows; the model looks at the last 5"):
        data.read([str(write(here / "short.csv", rows=4))])
    (here / "b.csv").write_text("x\n1\n")
    with pytest.raises(WrongInput, match=r"b\.csv has no column OT; a\.csv has OT, load"):
        data.read([str(here / "b.csv")])
    with pytest.raises(FuxianError, match="row 4, column date: 2020-02-01 comes after"):
        data.read([str(write(here / "c.csv", change=(4, 0, "2020-02-01")))])


def test_the_dates_to_come_go_on_from_the_last_one(here):
    data = series_data(write(here / "a.csv"), 5, 3, dates=True)
    batch = data.read([str(here / "a.csv")])
    assert torch.equal(batch.marks[:, :5], data.test.batch(torch.tensor([len(data.test) - 1])).marks[:, 3:])
    days = [datetime(2020, 4, 22) + timedelta(i) for i in range(8)]
    np.testing.assert_allclose(batch.marks[0], [marks_by_hand(day, 4) for day in days], rtol=1e-6, atol=1e-7)
    (here / "b.csv").write_text("OT,load\n" + "1,2\n" * 9)
    with pytest.raises(WrongInput, match=r"b\.csv has no dates; the model has learned from those of a\.csv"):
        data.read([str(here / "b.csv")])


def test_what_it_says_of_itself_is_enough_to_make_inputs(here):
    data = series_data(write(here / "a.csv"), 5, 3)
    about = json.loads(json.dumps(data.about()))
    raw = torch.arange(43.0, 48.0)[:, None] * torch.tensor([1.0, -1.0]) + torch.tensor([0.0, 100.0])
    expected = (raw - torch.tensor(about["mean"])) / torch.tensor(about["std"])
    torch.testing.assert_close(data.test.batch(torch.tensor([0])).past[0], expected, rtol=0, atol=1e-5)
    assert (about["window"], about["horizon"], about["columns"]) == (5, 3, ["OT", "load"])
