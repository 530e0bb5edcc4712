"""Tables."""

import torch
from sklearn.datasets import load_iris

from fuxian.data.tabular import iris


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
