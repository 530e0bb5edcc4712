"""Tables."""

from typing import Any

import pytest
import torch
from sklearn.datasets import load_digits, load_iris
from sklearn.model_selection import train_test_split

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
