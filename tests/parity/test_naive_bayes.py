"""Naive Bayes against scikit-learn's GaussianNB, at once and in parts, and Bayes' theorem by hand, in float64."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import sklearn
import torch
from sklearn.naive_bayes import GaussianNB

import fuxian
from fuxian.data.tabular import Rows, table
from fuxian.errors import DataMissing
from fuxian.methods.basics.naive_bayes import Counting, NaiveBayes, cab, posterior

from .compare import relative


def fitted(rows: Rows, smoothing: float = 1e-9, *, classes: int = 10, parts: int = 1) -> NaiveBayes:
    model = NaiveBayes(classes, rows.x.shape[1], smoothing)
    for part in rows.chunk(parts):
        Counting((), ()).update(model, part)
    return model


def every(split: Any) -> Rows:
    return split.batch(torch.arange(len(split)))


def worst(model: NaiveBayes, reference: Any, x: torch.Tensor) -> float:
    """The largest difference of means, variances, priors and joint densities."""
    return max(
        relative(model.mean_CF, torch.from_numpy(reference.theta_)),
        relative(model.variance_CF, torch.from_numpy(reference.var_)),
        relative(model.count_C / model.count_C.sum(), torch.from_numpy(reference.class_prior_)),
        relative(model(x).log().clamp_min(-700), torch.from_numpy(reference.predict_log_proba(x.numpy())).clamp_min(-700)),
    )


@pytest.mark.parametrize("parts", [1, 7])
@pytest.mark.parametrize("name", ["iris-halves", "digits"])
def test_means_variances_and_probabilities_are_those_of_scikit_learn(name: str, parts: int, prove) -> None:
    data = table(name)
    train, test = every(data.train), every(data.test)
    model = fitted(train, classes=data.classes, parts=parts)  # in parts, as if at once
    reference = GaussianNB().fit(train.x.numpy(), train.label.numpy())
    found = worst(model, reference, test.x)
    assert found < 1e-10
    if (name, parts) == ("digits", 7):
        prove("naive_bayes", "parity", reference=f"scikit-learn {sklearn.__version__}", outputs=found, dtype="float64")


def test_each_part_is_a_step_of_partial_fit() -> None:
    train = every(table("iris-halves").train)
    model, reference = NaiveBayes(3, 4, smoothing=0), GaussianNB(var_smoothing=0)
    for part in train.chunk(5):
        Counting((), ()).update(model, part)
        reference.partial_fit(part.x.numpy(), part.label.numpy(), classes=[0, 1, 2])
        assert worst(model, reference, train.x) < 1e-10


def test_two_samples_put_together_by_hand() -> None:
    x = torch.tensor([[1.0], [3.0], [11.0]], dtype=torch.float64)
    model = fitted(Rows(x, torch.zeros(3, dtype=torch.int64)), 0, classes=1, parts=2)  # {1, 3} and {11}
    assert (model.count_C.item(), model.mean_CF.item()) == (3, 5)
    assert model.squares_CF.item() == pytest.approx(2 + 54)  # of each about its mean, and 2 · 1 / 3 · (11 - 2)²


def test_the_theorem() -> None:
    assert cab(torch.tensor([0.15]).double()).item() == pytest.approx(12 / 29)
    joint = torch.tensor([[0.1, 0.3], [0.2, 0.4]]).double()  # of two classes (across) and two things seen
    prior = joint.sum(0)
    torch.testing.assert_close(posterior(prior.log(), (joint / prior).log()), joint / joint.sum(1, keepdim=True))


def test_a_class_that_has_not_come_yet_has_no_probability() -> None:
    model = fitted(Rows(torch.randn(6, 2).double(), torch.zeros(6, dtype=torch.int64)), classes=3)
    assert model(torch.randn(4, 2).double()).tolist() == [[1, 0, 0]] * 4


def test_one_row_of_each_class() -> None:
    x = torch.tensor([[0.0, 5.0], [2.0, 5.0]], dtype=torch.float64)
    model = fitted(Rows(x, torch.tensor([0, 1])), classes=2, parts=2)
    assert model(torch.tensor([[0.9, 5.0], [1.1, 5.0]]).double()).argmax(1).tolist() == [0, 1]  # the nearer one


def test_a_constant_feature_tells_nothing(tmp_path: Path) -> None:
    torch.manual_seed(0)
    label = torch.arange(60) % 2
    x = torch.randn(60, 2).double() + 2 * label[:, None]
    constant = torch.cat([x, torch.full((60, 1), 7.0)], 1)
    torch.testing.assert_close(fitted(Rows(constant, label), classes=2)(constant), fitted(Rows(x, label), classes=2)(x))
    np.savez(tmp_path / "rows.npz", x=constant.numpy(), label=label.numpy())
    run = fuxian.run("naive_bayes", data=tmp_path / "rows.npz", parent=tmp_path)
    assert run.metrics["test/error"] < 0.3


def test_rows_that_are_all_the_same_leave_what_was_known_before() -> None:
    label = torch.tensor([0, 1, 1, 1])
    model = fitted(Rows(torch.ones(4, 3).double(), label), classes=2, parts=2)
    assert model(torch.ones(1, 3).double())[0].tolist() == pytest.approx([0.25, 0.75])


def test_a_single_class_is_refused(tmp_path: Path) -> None:
    np.savez(tmp_path / "one.npz", x=np.random.default_rng(0).normal(size=(9, 3)), label=np.zeros(9, dtype=int))
    with pytest.raises(DataMissing, match="a single class, 0; there must be 2 or more"):
        fuxian.run("naive_bayes", data=tmp_path / "one.npz", parent=tmp_path)
