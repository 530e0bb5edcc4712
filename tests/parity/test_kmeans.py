"""k-means against scikit-learn's Lloyd from the same starts, in float64."""

from __future__ import annotations

import numpy as np
import pytest
import sklearn
import torch
from sklearn.cluster import KMeans as Reference
from sklearn.metrics import adjusted_rand_score

from fuxian.data.tabular import iris
from fuxian.evaluation import measure
from fuxian.methods.basics.kmeans import KMeans, Lloyd, plus_plus, squared_distances
from fuxian.metrics.clustering import AdjustedRandIndex

from .compare import relative


def points() -> torch.Tensor:
    return iris().train.batch(torch.arange(150)).x


def test_every_start_ends_where_scikit_learn_ends(prove) -> None:
    x = points()
    torch.manual_seed(0)
    starts = torch.stack([plus_plus(x, 3) for _ in range(10)])
    model, batch = KMeans(starts.clone()), iris().train.batch(torch.arange(150))
    Lloyd(()).update(model, batch)
    once, step = model.centre_SKF.clone(), 0.0
    for _ in range(99):
        Lloyd(()).update(model, batch)
    centres, inertias, worst = [], [], 0.0
    for start, centre in zip(starts, once, strict=True):
        reference = Reference(3, init=start.numpy(), n_init=1, max_iter=1, tol=0, algorithm="lloyd").fit(x.numpy())
        step = max(step, relative(centre, torch.from_numpy(reference.cluster_centers_)))
    for start, centre in zip(starts, model.centre_SKF, strict=True):
        reference = Reference(3, init=start.numpy(), n_init=1, max_iter=100, tol=0, algorithm="lloyd").fit(x.numpy())
        centres.append(reference.cluster_centers_)
        inertias.append(reference.inertia_)
        worst = max(worst, relative(centre, torch.from_numpy(reference.cluster_centers_)))
    assert worst < 1e-10
    assert relative(model.inertia_S, torch.tensor(inertias, dtype=torch.float64)) < 1e-10
    assert step < 1e-10
    assert min(inertias) == pytest.approx(78.8514, abs=1e-4)
    assert len({round(value, 3) for value in inertias}) > 1, "one optimum only: the starts prove little"
    labels = Reference(3, init=centres[int(np.argmin(inertias))], n_init=1, max_iter=1).fit(x.numpy()).labels_
    assert model(x).tolist() == labels.tolist()
    data = iris()
    measured = measure(model, Lloyd(data.names), data.train, 40)  # what a claim stands on, in batches, the last one short
    assert measured["inertia"] == pytest.approx(min(inertias), rel=1e-12)
    assert measured["ari"] == pytest.approx(adjusted_rand_score(batch.label.numpy(), labels), rel=1e-12)
    prove("kmeans", "parity", reference=f"scikit-learn {sklearn.__version__}", outputs=worst, step=step, dtype="float64")


def test_one_step_by_hand() -> None:
    x = torch.tensor([[0.0], [1.0], [4.0], [6.0]], dtype=torch.float64)
    model = KMeans(torch.tensor([[[0.0], [3.0], [100.0]]], dtype=torch.float64))
    Lloyd(()).update(model, type("B", (), {"x": x})())
    assert model.centre_SKF.flatten().tolist() == [0.5, 5.0, 100.0]  # the empty third keeps its centre
    assert model.inertia_S.tolist() == [0.25 + 0.25 + 1 + 1]


def test_plus_plus_draws_in_proportion_to_the_squared_distance() -> None:
    x = torch.tensor([[0.0], [1.0], [3.0]], dtype=torch.float64)
    torch.manual_seed(0)
    second = torch.stack([pair for _ in range(20_000) if (pair := plus_plus(x, 2))[0] == 0])[:, 1, 0]
    share = (second == 3).double().mean().item()
    assert share == pytest.approx(9 / 10, abs=0.01)
    assert not (second == 0).any()


@pytest.mark.parametrize("seed", range(5))
def test_adjusted_rand_index(seed: int) -> None:
    torch.manual_seed(seed)
    label, cluster = torch.randint(3, (60,)), torch.randint(4, (60,))
    metric = AdjustedRandIndex()
    metric.update(label[:40], cluster[:40])
    metric.update(label[40:], cluster[40:])
    assert metric.value() == pytest.approx(adjusted_rand_score(label, cluster), abs=1e-12)


def test_distances() -> None:
    x, centre = torch.randn(7, 3), torch.randn(2, 4, 3)
    torch.testing.assert_close(squared_distances(x, centre), torch.cdist(x.expand(2, 7, 3), centre).square())
