"""Tables."""

from typing import Any

import numpy as np
import pytest
import torch
from sklearn.datasets import load_breast_cancer, load_digits, load_iris
from sklearn.model_selection import train_test_split

from fuxian.data import sources
from fuxian.data.images import digits
from fuxian.data.tabular import iris, table
from fuxian.errors import WrongInput


def test_iris():
    data, published = iris(), load_iris()
    assert (len(data.train), data.val, data.test) == (150, None, None)
    assert (data.features, data.classes, data.names) == (4, 3, ("setosa", "versicolor", "virginica"))
    order = torch.tensor([149, 0, 75])
    batch = data.train.batch(order)
    assert batch.x.dtype == torch.float64
    assert batch.x.tolist() == published.data[order].tolist()
    assert batch.label.tolist() == published.target[order].tolist() == [2, 0, 1]
    assert [len(part) for part in batch.chunk(2)] == [2, 1]
    assert iris(torch.float32).train.batch(order).x.dtype == torch.float32
    assert iris().hashes == data.hashes


def test_a_whole_table_is_not_copied_and_its_order_counts():
    rows = iris().train
    whole = torch.arange(len(rows))
    assert rows.batch(whole).x.data_ptr() == rows.x.data_ptr()
    assert rows.batch(whole).label.data_ptr() == rows.label.data_ptr()
    for other in (whole.flip(0), whole[:-1], torch.cat([whole[1:], whole[:1]])):
        assert torch.equal(rows.batch(other).x, rows.x[other])
        assert torch.equal(rows.batch(other).label, rows.label[other])


def test_pixels_are_rows_in_the_splits_of_the_images():
    data = table("digits")
    published: Any = load_digits()
    splits: Any = (data.train, data.val, data.test)
    assert [len(part) for part in splits] == [1257, 180, 360]
    assert (data.features, data.classes, data.columns[9]) == (64, 10, "pixel 2,2")
    rows = torch.cat([part.batch(torch.arange(len(part))).x for part in splits])
    assert sorted(rows.sum(1).tolist()) == pytest.approx(sorted(published.data.sum(1) / 16), abs=0.1)  # kept as bytes
    image: Any = digits().train.batch(torch.tensor([7]))
    assert data.train.batch(torch.tensor([7])).x[0].tolist() == pytest.approx(image.image.flatten().tolist(), abs=1e-7)
    assert data.train.batch(torch.tensor([7])).label == image.label
    with pytest.raises(WrongInput, match="there is no table named 'wine'"):
        table("wine")


def test_halves_are_those_of_the_user_guide():
    data = table("iris-halves")
    published: Any = load_iris()
    parts: Any = train_test_split(published.data, published.target, test_size=0.5, random_state=0)
    train: Any = data.train.batch(torch.arange(75))
    assert (len(data.train), data.val, len(data.test or ())) == (75, None, 75)
    assert (train.x.tolist(), train.label.tolist()) == (parts[0].tolist(), parts[2].tolist())


def test_breast_cancer():
    data: Any = table("breast-cancer")
    published: Any = load_breast_cancer()
    assert (len(data.train), data.val, len(data.test), data.features) == (455, None, 114, 30)
    train, test = (split.batch(torch.arange(len(split))) for split in (data.train, data.test))
    mean, std = (torch.tensor(of, dtype=torch.float64) for of in (data.mean, data.std))
    numbers = torch.cat([train.x, test.x]) * std + mean
    torch.testing.assert_close(numbers, torch.from_numpy(published.data))
    assert [data.names[i] for i in train.label[:20]] == list(published.target_names[published.target[:20]])
    torch.testing.assert_close(train.x.mean(0), torch.zeros(30).double(), rtol=0, atol=1e-12)
    torch.testing.assert_close(train.x.std(0, correction=0), torch.ones(30).double())


def test_pima_s_labels_are_turned_back(monkeypatch):
    """In a file of the form: 8 numbers and a 1 where there is no diabetes; the last 192 rows are tested on."""
    rows = np.random.default_rng(0).uniform(-1, 1, (200, 8))
    healthy = np.arange(200) % 3 == 0
    text = "".join(
        ",".join(f"{value:.6f}" for value in (*row, well)) + "\n" for row, well in zip(rows, healthy, strict=True)
    )
    monkeypatch.setattr(sources, "read", lambda name: {"diabetes.csv": text.encode()})
    data: Any = table("pima")
    train, test = (split.batch(torch.arange(len(split))) for split in (data.train, data.test))
    assert (len(train), len(test), data.names) == (8, 192, ("no diabetes", "diabetes"))
    assert torch.cat([train.label, test.label]).tolist() == [1 - int(well) for well in healthy]


def test_pima(published):
    """Counts of the 759 rows, and what is odd in the file."""
    data: Any = table("pima")
    rows = np.loadtxt(published / "pima-diabetes" / "diabetes.csv.gz", delimiter=",")
    train, test = (split.batch(torch.arange(len(split))) for split in (data.train, data.test))
    assert (len(train), data.val, len(test), data.features, data.names[1]) == (567, None, 192, 8, "diabetes")
    label = torch.cat([train.label, test.label])
    assert label.bincount().tolist() == [496, 263]  # of 768 women 268 had diabetes: it is the rarer class
    assert label.tolist() == [1 - int(value) for value in rows[:, -1]]
    mean, std = (torch.tensor(of, dtype=torch.float64) for of in (data.mean, data.std))
    numbers = torch.cat([train.x, test.x]) * std + mean
    torch.testing.assert_close(numbers, torch.from_numpy(rows[:, :-1]), rtol=0, atol=1e-12)
    assert rows[:, :-1].min() > -1  # no column has its minimum where it belongs
    assert [(rows[:, i] == 0).sum() for i in (3, 4)] == [224, 371]  # skin fold and insulin: not measured
