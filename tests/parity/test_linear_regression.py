"""Linear regression: the notes' numbers to the digit, torch's own layers and SGD, numpy's and scikit-learn's answers."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import sklearn
import torch
from sklearn.datasets import load_diabetes
from sklearn.linear_model import LinearRegression
from sklearn.metrics import mean_squared_error, r2_score
from torch import nn

import fuxian
from fuxian.data.tabular import Rows, diabetes
from fuxian.engine.players import Player
from fuxian.errors import WrongInput
from fuxian.evaluation import measure
from fuxian.methods.basics.linear_regression import Descent, LeastSquares, Linear, least_squares, three_points
from fuxian.optim import sgd

from .compare import first_loss, relative


def all_of(split: Any) -> Rows:
    return split.batch(torch.arange(len(split)))


def zero(features: int = 1) -> Linear:
    return Linear(torch.zeros(features, dtype=torch.float64), 0.0)


def by_arithmetic(divide: int, epochs: int = 100, lr: float = 0.01) -> tuple[float, float]:
    """Python's numbers alone: the gradients of Σ (w x + b - y)² / divide."""
    w = b = 0.0
    for _ in range(epochs):
        errors = [(x, w * x + b - 2 * x) for x in (1, 2, 3)]
        w, b = w - lr * sum(2 * e * x for x, e in errors) / divide, b - lr * sum(2 * e for _, e in errors) / divide
    return w, b


@pytest.mark.parametrize(("loss", "divide", "rounded"), [("sum", 1, (1.8428, 0.3575)), ("mean", 3, (1.7451, 0.5795))])
def test_a_hundred_epochs_from_zero(loss: str, divide: int, rounded: tuple[float, float], tmp_path) -> None:
    run = fuxian.run("linear_regression", loss=loss, parent=tmp_path)
    w, b = by_arithmetic(divide)
    assert (run.metrics["w"], run.metrics["b"]) == (pytest.approx(w, rel=1e-12), pytest.approx(b, rel=1e-12))
    assert (round(w, 4), round(b, 4)) == rounded
    assert run.metrics["at_4"] == pytest.approx(4 * w + b, rel=1e-12)
    assert run.metrics["descent/train/mse"] == pytest.approx(sum((w * x + b - 2 * x) ** 2 for x in (1, 2, 3)) / 3)
    if loss == "sum":
        assert round(run.metrics["at_4"], 4) == 7.7285
        assert "7.7285" in (run.folder / "pictures" / "descent-line.svg").read_text()


@pytest.mark.parametrize("loss", ["sum", "mean"])
def test_outputs_gradients_and_step_are_those_of_torchs_linear(loss: str, prove) -> None:
    torch.manual_seed(0)
    ours, reference = Linear(torch.randn(3).double(), 0.7), nn.Linear(3, 1).double()
    reference.weight.data.copy_(ours.w.data[None])
    reference.bias.data.copy_(ours.b.data[None])
    batch = Rows(torch.randn(7, 3).double(), torch.randn(7).double())
    optimizer = torch.optim.SGD(reference.parameters(), lr=0.01)
    player = Player("model", sgd(0.01), dict(ours.named_parameters()), alone=True)
    outputs = relative(ours(batch.x), reference(batch.x)[:, 0])
    first_loss(Descent("x", "y", loss, ours, 1), ours, batch).backward()
    nn.MSELoss(reduction=loss)(reference(batch.x), batch.label[:, None]).backward()  # size_average=False is "sum" today
    mine, theirs = ([p.grad.flatten() for p in net.parameters() if p.grad is not None] for net in (ours, reference))
    gradients = [relative(one, other) for one, other in zip(mine, theirs, strict=True)]
    player.step()
    optimizer.step()
    step = relative(ours.w, reference.weight[0]), relative(ours.b, reference.bias[0])
    found = dict(outputs=outputs, gradients=max(gradients), step=max(step))
    assert max(found.values()) < 1e-10, found
    if loss == "sum":
        prove("linear_regression", "parity", reference="torch.nn.Linear, MSELoss and SGD", dtype="float64", **found)


@pytest.mark.parametrize("columns", [("bmi",), ("bmi", "bp", "s5")])
def test_the_closed_form_is_that_of_numpy_and_of_scikit_learn(columns: tuple[str, ...]) -> None:
    data, model = diabetes(columns), zero(len(columns))
    fit = LeastSquares("x", "y")
    with torch.no_grad():
        fit.update(model, all_of(data.train))
    x, y = (
        np.asarray(part) for part in load_diabetes(return_X_y=True)
    )  # in scikit-learn's own scale: what is predicted does not depend on it
    x = x[:, [("age", "sex", "bmi", "bp", "s1", "s2", "s3", "s4", "s5", "s6").index(column) for column in columns]]
    reference = LinearRegression().fit(x[:-20], y[:-20])
    expected = reference.predict(x[-20:])
    assert relative(model(all_of(data.test).x).detach(), torch.from_numpy(expected)) < 1e-10
    table = all_of(data.train)
    ones = np.ones((len(table), 1))
    solved, *_ = np.linalg.lstsq(np.hstack([table.x.numpy(), ones]), table.label.numpy(), rcond=None)
    ours = torch.cat([model.w.detach(), model.b.detach()[None]])
    assert relative(ours, torch.from_numpy(solved)) < 1e-10
    assert data.test is not None
    measured = measure(model, fit, data.test, 7)  # in batches, the last one short
    assert measured["mse"] == pytest.approx(mean_squared_error(y[-20:], expected), rel=1e-10)
    assert measured["r2"] == pytest.approx(r2_score(y[-20:], expected), rel=1e-10)
    if columns == ("bmi",):
        assert (round(measured["mse"], 2), round(measured["r2"], 2)) == (2548.07, 0.47), sklearn.__version__


@pytest.mark.slow
def test_descent_ends_at_the_closed_form_and_its_path_is_kept(tmp_path) -> None:
    run = fuxian.run("linear_regression", epochs=3000, parent=tmp_path)
    w, b = least_squares(all_of(three_points().train))
    assert (w.item(), b) == (pytest.approx(2, abs=1e-12), pytest.approx(0, abs=1e-12))
    assert run.metrics["w"] == pytest.approx(2, abs=1e-8)
    assert run.metrics["at_4"] == pytest.approx(8, abs=1e-8)
    path: Any = fuxian.load(run, stage="descent").objective.path
    for epoch in (0, 1, 2, 100):
        assert path[epoch].tolist() == pytest.approx(by_arithmetic(1, epoch), rel=1e-12)


@pytest.mark.parametrize(
    "x", [[[1.0]], [[2.0], [2.0], [2.0]], [[1.0, 2.0], [2.0, 4.0], [3.0, 6.0]]], ids=["one", "constant", "twice"]
)
def test_points_that_determine_no_line(x: list[list[float]]) -> None:
    rows = torch.tensor(x, dtype=torch.float64)
    with pytest.raises(WrongInput, match=r"points determine \d of \d weights"):
        least_squares(Rows(rows, rows[:, 0]))


def test_a_column_that_there_is_not() -> None:
    with pytest.raises(WrongInput, match="diabetes has no column weight"):
        diabetes(("weight",))


def test_a_rate_above_two_over_the_curvature_stops_the_run(tmp_path) -> None:
    curvature = torch.linalg.eigvalsh(2 * torch.tensor([[14.0, 6.0], [6.0, 3.0]])).max().item()  # Σ x², Σ x, N
    assert 2 / curvature == pytest.approx(0.0601, abs=5e-5)
    costs = {lr: fuxian.run("linear_regression", lr=lr, parent=tmp_path, name=f"{lr}").metrics for lr in (0.060, 0.0602)}
    below, above = (row["descent/train/mse"] for row in costs.values())
    assert below < 56 / 3 < above  # where it began
