"""Logistic regression: torch's own loss and SGD, scikit-learn's weights, and two workers give the same bits as memory."""

from __future__ import annotations

import math
import os
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss, roc_auc_score
from torch import nn

import fuxian
from fuxian.data.tabular import Rows, Table, TableSplits, table
from fuxian.errors import DataMissing, WrongInput
from fuxian.evaluation import measure
from fuxian.methods.basics.linear_regression import Linear
from fuxian.methods.basics.logistic_regression import AreaUnderROC, Descent, Loaded, Newton, two_classes
from fuxian.optim import sgd

from .compare import first_loss, parity, relative


def zero(features: int) -> Linear:
    return Linear(torch.zeros(features, dtype=torch.float64), 0.0)


def all_of(split: Any) -> Rows:
    return split.batch(torch.arange(len(split)))


def made_up(x: torch.Tensor, label: torch.Tensor, names: tuple[str, ...] = ("no", "yes")) -> TableSplits:
    columns = [f"x{i}" for i in range(x.shape[1])]
    return TableSplits(Table(x, label), name="made up", columns=columns, names=names, hashes={})


def fitted(data: TableSplits, c: float = 1.0, steps: int = 10) -> Linear:
    model, newton = zero(data.features), Newton(data, 1 / (c * len(data.train)))
    with torch.no_grad():
        for _ in range(steps):
            newton.update(model, all_of(data.train))
    return model


def theirs(data: TableSplits, c: float = 1.0) -> Any:
    batch = all_of(data.train)
    solver = LogisticRegression(C=c, solver="newton-cholesky", tol=1e-14, max_iter=1000)
    return solver.fit(batch.x.numpy(), batch.label.numpy())


class TorchsLinear(nn.Module):
    def __init__(self, features: int) -> None:
        super().__init__()
        self.w, self.b = nn.Parameter(torch.zeros(features).double()), nn.Parameter(torch.zeros(()).double())

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return nn.functional.linear(x, self.w[None], self.b[None])[:, 0]


def test_outputs_gradients_and_step(prove) -> None:
    data = table("breast-cancer")
    batch = data.train.batch(torch.arange(32))
    torch.manual_seed(0)
    ours, reference = Linear(torch.randn(30).double(), 0.3), TorchsLinear(30)
    found = parity(
        ours, reference, {"w": "w", "b": "b"},
        outputs=lambda: (ours(batch.x), reference(batch.x)),
        losses=lambda out, expected: (
            first_loss(Descent(data), ours, batch), nn.BCEWithLogitsLoss()(expected, batch.label.double())
        ),
        spec=sgd(0.1), optimizer=torch.optim.SGD(reference.parameters(), lr=0.1),
    )  # fmt: skip
    prove("logistic_regression", "parity", reference="torch's linear, BCEWithLogitsLoss and SGD", **found.facts)


@pytest.mark.parametrize("c", [0.01, 1.0, 100.0])
def test_the_exact_fit_has_scikit_learns_weights(c: float) -> None:
    data = table("breast-cancer")
    model, reference = fitted(data, c, steps=15), theirs(data, c)
    assert relative(model.w.detach(), torch.from_numpy(reference.coef_[0])) < 1e-8
    assert model.b.item() == pytest.approx(reference.intercept_[0], rel=1e-8)
    test: Any = data.test
    rows, found = all_of(test), measure(model, Newton(data, 0.0), test, 50)
    p = reference.predict_proba(rows.x.numpy())
    assert found["loss"] == pytest.approx(log_loss(rows.label.numpy(), p), rel=1e-8)
    assert found["auc"] == pytest.approx(roc_auc_score(rows.label.numpy(), p[:, 1]), rel=1e-12)
    assert found["accuracy"] == pytest.approx(reference.score(rows.x.numpy(), rows.label.numpy()), rel=1e-12)


def test_a_step_that_goes_too_far_is_halved() -> None:
    """From a start where the curvature is tiny a whole step raises the cost."""
    torch.manual_seed(0)
    x = torch.randn(60, 1).double()
    data = made_up(x, (x[:, 0] > 0.2).long())
    model, newton = Linear(torch.tensor([-6.0]).double(), 0.0), Newton(data, 1 / 60)
    with torch.no_grad():
        costs = [newton.whole(model, all_of(data.train))]
        for _ in range(20):
            costs.append(newton.update(model, all_of(data.train))["loss"])
            assert costs[-1] <= costs[-2]
    assert relative(model.w.detach(), torch.from_numpy(theirs(data).coef_[0])) < 1e-8


def test_the_error_is_squared_by_each_step() -> None:
    data = table("breast-cancer")
    least = fitted(data, steps=15).w.detach()
    errors = [relative(fitted(data, steps=n).w.detach(), least) for n in (4, 5, 6)]
    assert errors[1] < 20 * errors[0] ** 2
    assert errors[2] < 20 * errors[1] ** 2


@pytest.mark.parametrize("workers", [1, 2])
def test_workers_give_the_rows_in_the_order_that_is_asked_for(workers: int) -> None:
    rows: Any = table("breast-cancer").train
    loaded = Loaded(rows, workers)
    before = torch.random.get_rng_state()
    for indices in (torch.tensor([7, 3, 3, 400, 0]), torch.tensor([1]), torch.arange(len(rows)).flip(0)):
        batch, expected = loaded.batch(indices), rows.batch(indices)
        assert torch.equal(batch.x, expected.x)
        assert torch.equal(batch.label, expected.label)
    assert len(loaded) == len(rows)
    assert torch.equal(before, torch.random.get_rng_state())  # the loader draws nothing from the run's stream
    assert loaded.loader.num_workers == workers


def test_two_workers_and_memory_give_the_same_bits(tmp_path) -> None:
    runs = [
        fuxian.run("logistic_regression", quick=True, epochs=2, workers=workers, parent=tmp_path, name=f"{workers}")
        for workers in (0, 2)
    ]
    memory, loaded = ([(run.folder / "metrics.jsonl").read_bytes(), run.metrics] for run in runs)
    assert memory == loaded
    weights = [(run.folder / "checkpoints" / "descent-done" / "tensors.safetensors").read_bytes() for run in runs]
    assert weights[0] == weights[1]


def test_the_area_is_the_share_of_pairs_in_order() -> None:
    def area(z: list[float], label: list[int]) -> float:
        metric = AreaUnderROC()
        metric.update(torch.tensor(z[:2]), torch.tensor(label[:2]))
        metric.update(torch.tensor(z[2:]), torch.tensor(label[2:]))
        assert metric.count == len(z)
        return metric.value()

    assert area([0.1, 0.4, 0.35, 0.8], [0, 0, 1, 1]) == 0.75
    assert area([1.0, 1.0, 0.0, 2.0], [0, 1, 0, 0]) == (0.5 + 1 + 0) / 3


def test_a_large_sum_has_a_finite_cost_and_a_probability() -> None:
    data = made_up(torch.tensor([[1.0], [-1.0]]).double(), torch.tensor([0, 1]))
    model = Linear(torch.tensor([800.0]).double(), 0.0)
    assert Newton(data, 0.0).cost(model, all_of(data.train)).tolist() == [800, 800]
    (first, second) = Newton(data, 0.0).predict(model, all_of(data.train))
    assert (first["class"], first["probability"], second["class"]) == ("yes", 1.0, "no")
    at_one = Newton(data, 0.0).predict(Linear(torch.tensor([1.0]).double(), 0.0), all_of(data.train))[0]
    assert at_one["probability"] == pytest.approx(1 / (1 + math.exp(-1)))


def test_a_constant_feature_gets_no_weight() -> None:
    torch.manual_seed(0)
    x = torch.randn(50, 2).double()
    label = (x[:, 0] + 0.5 * torch.randn(50).double() > 0).long()
    alone, beside = fitted(made_up(x, label)), fitted(made_up(torch.cat([x, x[:, :1] * 0], 1), label))
    assert beside.w[2].item() == 0
    torch.testing.assert_close(beside.w[:2], alone.w, rtol=1e-12, atol=0)


def test_one_class_and_three_are_refused(tmp_path) -> None:
    x = torch.randn(6, 2).double()
    with pytest.raises(WrongInput, match="the rows to learn from are of no; logistic regression tells two classes apart"):
        two_classes(made_up(x, torch.zeros(6, dtype=torch.int64)))
    with pytest.raises(WrongInput, match=r"are of a, b, c; .*") as error:
        two_classes(made_up(x, torch.tensor([0, 1, 2] * 2), ("a", "b", "c")))
    assert "softmax_regression" in error.value.lines["do"]
    path = tmp_path / "one.csv"
    path.write_text("size,kind\n" + "".join(f"{i},oak\n" for i in range(20)))
    with pytest.raises(DataMissing, match=r"one.csv, column kind: a single class, oak"):
        fuxian.run("logistic_regression", data=path, target="kind", parent=tmp_path)


@pytest.mark.skipif("FUXIAN_DATA" not in os.environ, reason="the published files are not at hand")
def test_pima_has_the_claimed_numbers() -> None:
    data = table("pima")
    reference, test = theirs(data), all_of(data.test)
    p = reference.predict_proba(test.x.numpy())
    assert log_loss(test.label.numpy(), p) == pytest.approx(0.45292402, abs=5e-9)
    assert roc_auc_score(test.label.numpy(), p[:, 1]) == pytest.approx(0.87142857, abs=5e-9)
    assert relative(fitted(data).w.detach(), torch.from_numpy(reference.coef_[0])) < 1e-10
    best = data.columns[int(np.argmax(reference.coef_[0]))]
    assert best == "glucose"  # its weight is of the right sign: the labels are turned back
