"""Principal components against scikit-learn's PCA, and the classifier on top against its least squares, in float64."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import sklearn
import torch
from sklearn.decomposition import PCA as Reference
from sklearn.linear_model import LinearRegression
from sklearn.preprocessing import PolynomialFeatures

import fuxian
from fuxian.data.tabular import Rows, TableSplits, table
from fuxian.errors import WrongInput
from fuxian.methods.basics.pca import PCA, LeastSquares, OrthogonalIteration, Quadratic, covariance

from .compare import relative


def fitted(name: str, components: int, steps: int) -> tuple[PCA, Rows, TableSplits]:
    data = table(name)
    batch = data.train.batch(torch.arange(len(data.train)))
    torch.manual_seed(0)
    cov = covariance(batch.x)
    model = PCA(batch.x.mean(0), cov, components)
    for _ in range(steps):
        OrthogonalIteration(cov, (), ()).update(model, batch)
    return model, batch, data


@pytest.mark.parametrize(("name", "components", "steps"), [("iris", 2, 40), ("digits", 8, 400)])
def test_components_are_those_of_scikit_learn(name: str, components: int, steps: int, prove) -> None:
    model, batch, _ = fitted(name, components, steps)
    reference: Any = Reference(components, svd_solver="full").fit(batch.x.numpy())
    expected = torch.from_numpy(reference.components_.T.copy())
    sign = (expected * model.axes_FD).sum(0).sign()
    worst = max(
        relative(model.axes_FD, expected * sign),
        relative(model.variance_D, torch.from_numpy(reference.explained_variance_)),
        relative(model.explained_D, torch.from_numpy(reference.explained_variance_ratio_)),
        relative(model(batch.x), torch.from_numpy(reference.transform(batch.x.numpy())) * sign),
    )
    assert worst < 1e-10, worst
    if name == "iris":
        assert model.explained_D.tolist() == pytest.approx([0.9246, 0.0531], abs=5e-5)
        prove("pca", "parity", reference=f"scikit-learn {sklearn.__version__}", outputs=worst, dtype="float64")


def test_one_step_by_hand() -> None:
    x = torch.tensor([[-2.0, 0.0], [2.0, 0.0], [0.0, -1.0], [0.0, 1.0]], dtype=torch.float64) + 5
    model = PCA(x.mean(0), covariance(x), 1)
    model.axes_FD.copy_(torch.tensor([[1.0], [1.0]]) / 2**0.5)
    OrthogonalIteration(covariance(x), (), ()).update(model, Rows(x, torch.zeros(4)))
    assert model.axes_FD.flatten().tolist() == pytest.approx([4 / 17**0.5, 1 / 17**0.5])  # variances 8/3 and 2/3
    assert model.variance_D.item() == pytest.approx((16 * 8 + 2) / 17 / 3)


def test_a_residual_is_what_the_components_leave() -> None:
    model, batch, _ = fitted("iris", 2, 40)
    measured = dict(OrthogonalIteration(covariance(batch.x), (), ()).evaluate(model, batch))["residual"]
    reference = Reference(2).fit(batch.x.numpy())
    left = batch.x.numpy() - reference.inverse_transform(reference.transform(batch.x.numpy()))
    np.testing.assert_allclose(measured, (left**2).sum(1), atol=1e-10)


def test_the_classifier_is_least_squares_on_the_polynomial() -> None:
    model, batch, data = fitted("digits", 8, 60)
    classifier = Quadratic(model, 10)
    fitting = LeastSquares(classifier, data.names)
    for rows in torch.arange(len(batch)).split(400):  # in batches, as if at once
        fitting.update(classifier, data.train.batch(rows))
    assert classifier.weight_TC.shape == (1 + 36, 10)
    polynomial = PolynomialFeatures(2).fit_transform((batch.x @ model.axes_FD).numpy())
    polynomial = np.delete(polynomial, np.s_[1:9], 1)  # the projections themselves
    target = np.eye(10)[batch.label.numpy()]
    reference = LinearRegression(fit_intercept=False).fit(polynomial, target)
    expected = torch.from_numpy(reference.predict(polynomial))
    assert relative(classifier(batch.x), expected) < 1e-7  # the normal equations square the condition of the terms
    error = dict(fitting.evaluate(classifier, batch))["error"].mean().item()
    assert error == pytest.approx((expected.argmax(1) != batch.label).double().mean().item(), abs=1e-12)


def test_a_constant_feature_has_no_share(tmp_path: Path) -> None:
    torch.manual_seed(0)
    x = torch.randn(40, 3).numpy()
    x[:, 1] = 7
    np.savez(tmp_path / "points.npz", x=x)
    run = fuxian.run("pca", data=tmp_path / "points.npz", parent=tmp_path)
    model: Any = fuxian.load(run).model
    assert model.axes_FD[1].abs().max() < 1e-12
    assert run.metrics["explained_1"] + run.metrics["explained_2"] == pytest.approx(1, abs=1e-12)


@pytest.mark.parametrize(
    ("x", "components", "said"),
    [
        (np.ones((1, 3)), 2, "--components 2: 1 points of 3 numbers have at most 0"),
        (np.random.default_rng(0).normal(size=(9, 3)), 4, "--components 4: 9 points of 3 numbers have at most 3"),
        (np.ones((9, 3)), 2, "all points of points.npz are the same"),
    ],
)
def test_points_that_have_no_components(x: np.ndarray, components: int, said: str, tmp_path: Path) -> None:
    np.savez(tmp_path / "points.npz", x=x)
    with pytest.raises(WrongInput, match=said):
        fuxian.run("pca", data=tmp_path / "points.npz", components=components, parent=tmp_path)
