"""Kernel ridge regression against scikit-learn's; leaving out by hand, and against its ridge of linear features."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import sklearn
import torch
from sklearn.kernel_ridge import KernelRidge as Theirs
from sklearn.linear_model import RidgeCV

import fuxian
from fuxian.errors import WrongInput
from fuxian.methods.basics.kernel_ridge import KernelRidge, LeavingOut, feature_gap, left_out_gap, patients, recipe, solve
from fuxian.methods.basics.kernels import gaussian

from .compare import relative


def everything() -> tuple[Any, Any]:
    splits = patients()
    train, test = (split.batch(torch.arange(len(split))) for split in (splits.train, splits.test))  # type: ignore[union-attr,arg-type]
    return train, test


def chosen(*pairs: tuple[float, float]) -> tuple[KernelRidge, LeavingOut]:
    """Of these widths and ridges the best."""
    train, _ = everything()
    gammas, ridges = (tuple(dict.fromkeys(one)) for one in zip(*pairs, strict=True))
    model, choice = KernelRidge(train.x, train.label), LeavingOut("y", gammas, ridges)
    for _ in gammas:
        choice.update(model, train)
    return model, choice


@pytest.mark.parametrize("pairs", [[(0.03, 1.0), (0.001, 0.1), (0.1, 10.0)]])
def test_what_is_told_is_scikit_learns(pairs: list[tuple[float, float]], prove) -> None:
    train, test = everything()
    mean, gaps = float(train.label.mean()), []
    for gamma, ridge in pairs:
        model, _ = chosen((gamma, ridge))
        theirs = Theirs(alpha=ridge, kernel="rbf", gamma=gamma).fit(train.x.numpy(), train.label.numpy() - mean)
        gaps.append(relative(model.alpha_N, torch.from_numpy(theirs.dual_coef_)))
        gaps.append(relative(model(test.x), torch.from_numpy(theirs.predict(test.x.numpy()) + mean)))
    assert max(gaps) < 1e-10
    prove("kernel_ridge", "parity", reference=f"scikit-learn {sklearn.__version__}", outputs=max(gaps), dtype="float64")


def test_rows_left_out_are_those_of_a_linear_ridge() -> None:
    train, _ = everything()
    y = train.label - train.label.mean()
    theirs = RidgeCV(alphas=[3.0], fit_intercept=False, store_cv_results=True).fit(train.x.numpy(), y.numpy())
    _, left_out = solve(train.x @ train.x.T, y, 3.0)
    np.testing.assert_allclose(left_out.square().numpy(), theirs.cv_results_[:, 0], rtol=1e-8)


def test_rows_left_out_by_hand_and_on_features() -> None:
    train, _ = everything()
    model, _ = chosen((0.03, 1.0))
    assert left_out_gap(model, train, 20) < 1e-9
    assert feature_gap(train, 1.0) < 1e-9


def test_the_least_error_of_rows_left_out_chooses() -> None:
    train, _ = everything()
    model, choice = chosen((0.3, 1.0), (0.01, 0.01), (0.03, 100.0))
    g, r = divmod(int(choice.error_GR.argmin()), 3)
    assert (float(model.gamma), float(model.ridge)) == pytest.approx((choice.gammas[g], choice.ridges[r]))
    y = train.label - train.label.mean()
    for i, gamma in enumerate(choice.gammas):
        errors = [solve(gaussian(train.x, train.x, gamma), y, ridge)[1].square().mean() for ridge in choice.ridges]
        assert choice.error_GR[i].tolist() == pytest.approx([float(error) for error in errors])
    alpha, _ = solve(gaussian(train.x, train.x, choice.gammas[g]), y, choice.ridges[r])
    assert torch.equal(model.alpha_N, alpha)  # and not those of what was tried last


def test_what_a_run_says(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FUXIAN_RUNS", str(tmp_path))
    run = fuxian.run("kernel_ridge")
    assert run.metrics["left_out_gap"] < 1e-9
    assert run.metrics["feature_gap"] < 1e-9
    train, test = everything()
    line = torch.linalg.lstsq(train.x, (train.label - train.label.mean())[:, None]).solution[:, 0]
    linear = (test.x @ line + train.label.mean() - test.label).square().mean()
    assert run.metrics["test/mse"] < float(linear)
    assert {path.stem for path in (run.folder / "pictures").iterdir()} >= {"train-predicted", "train-chosen"}


def test_rows_that_are_all_alike_need_a_ridge() -> None:
    alike = torch.ones(6, 6, dtype=torch.float64)
    with pytest.raises(WrongInput, match="a ridge of 1e-30 the rows are too much alike"):
        solve(alike, torch.arange(6.0).double(), 1e-30)
    torch.testing.assert_close(solve(alike, torch.ones(6).double(), 1.0)[0], torch.full((6,), 1 / 7).double())


def test_nothing_to_choose_from() -> None:
    with pytest.raises(WrongInput, match="no width or no ridge"):
        next(recipe(gammas=()))
