"""Kernel ridge regression: a plane through points of more dimensions than there are rows, solved in one unknown a row.

Its width and its ridge are chosen by leaving each row out, which costs no more than one solution.

中文     核岭回归
Paper    Saunders, Gammerman & Vovk, ICML 1998: the dual form of ridge regression
Code     scikit-learn 1.9, kernel_ridge.py and linear_model/_ridge.py: _solve_cholesky_kernel, and _RidgeGCV for leaving out
Departs  the mean of what is to be told is taken off first, and added again: no kernel here has a constant
"""

from collections.abc import Iterator
from typing import Annotated, Any, Literal

import torch
from torch import Tensor, nn

from fuxian import figures
from fuxian.contract import Stage
from fuxian.data.tabular import Rows, Table, TableSplits, diabetes
from fuxian.errors import WrongInput
from fuxian.facts import Claim, Paper, Within
from fuxian.methods.basics.kernels import gaussian, products, square, squared_distances
from fuxian.methods.basics.linear_regression import Regression

PAPER = Paper("Ridge Regression Learning Algorithm in Dual Variables", "Saunders, Gammerman & Vovk", 1998, venue="ICML")
CLAIMS = [  # of what is exact the tolerances are those of float64, relative to the largest number
    Claim("left_out_mse", None, where="diabetes, ten features: nobody publishes it", seeds=1, better="lower"),
    Claim("left_out_gap", 0.0, where="by hand: 20 rows left out in turn, and solved again", tolerance=1e-9, seeds=1,
          better="lower"),
    Claim("feature_gap", 0.0, where="by hand: a ridge on all products of two features", tolerance=1e-9, seeds=1,
          better="lower"),
    Claim("test/mse", None, where="the last 20 diabetes patients, ten features: nobody publishes it", seeds=1,
          better="lower"),
]  # fmt: skip
QUICK = dict(gammas=(0.1, 0.01), ridges=(1.0, 10.0))
SEEDLESS = True

PATIENTS = ("age", "sex", "bmi", "bp", "s1", "s2", "s3", "s4", "s5", "s6")

# Shape letters: B rows asked, N training rows, F features, G widths, R ridges.


def solve(kernel_NN: Tensor, y_N: Tensor, ridge: float) -> tuple[Tensor, Tensor]:
    """α = (K + λ I)⁻¹ y of the least |y - K α|² + λ αᵀ K α, and y less what is told of each row when it is left out; (N,).

    The first is _solve_cholesky_kernel. Of a row that is left out the error is α over its place on the diagonal of
    (K + λ I)⁻¹: _RidgeGCV. Raises WrongInput where the matrix has no inverse.
    """
    factor_NN, wrong = torch.linalg.cholesky_ex(kernel_NN + ridge * torch.eye(len(y_N)).to(y_N))
    if wrong:
        raise WrongInput(
            f"with a ridge of {ridge:g} the rows are too much alike to be solved for", do="larger --ridges or --gammas"
        )
    inverse_NN = torch.cholesky_inverse(factor_NN)
    alpha_N = (inverse_NN * y_N).sum(1)
    return alpha_N, alpha_N / inverse_NN.diagonal()


class KernelRidge(nn.Module):
    """Rows (B, F) to what is told of them (B,): Σ α k(x, row), and the mean."""

    x_NF: Tensor
    alpha_N: Tensor
    mean: Tensor
    gamma: Tensor
    ridge: Tensor

    def __init__(self, x_NF: Tensor, y_N: Tensor) -> None:
        super().__init__()
        self.register_buffer("x_NF", x_NF.clone())
        self.register_buffer("alpha_N", torch.zeros_like(y_N))
        self.register_buffer("mean", y_N.mean())
        self.register_buffer("gamma", torch.ones_like(self.mean))
        self.register_buffer("ridge", torch.ones_like(self.mean))

    def forward(self, x_BF: Tensor) -> Tensor:
        kernel_BN = (-self.gamma * squared_distances(x_BF, self.x_NF)).exp()
        return (kernel_BN * self.alpha_N).sum(1) + self.mean


class LeavingOut(Regression):
    """One width a step, with all ridges; what leaves the least error of rows that are left out is kept."""

    error_GR: Tensor  # mean square of rows that are left out; NaN where it was not tried yet

    def __init__(self, y: str, gammas: tuple[float, ...], ridges: tuple[float, ...]) -> None:
        super().__init__("", y)
        self.gammas, self.ridges = gammas, ridges
        self.register_buffer("error_GR", torch.full((len(gammas), len(ridges)), torch.nan, dtype=torch.float64))

    def least(self) -> Tensor:
        """Of what was tried."""
        return self.error_GR[~self.error_GR.isnan()].min()

    def update(self, model: KernelRidge, batch: Rows) -> dict[str, Tensor]:
        g = int((~self.error_GR.isnan()).all(1).sum())  # widths that were tried
        gamma, y_N = self.gammas[g], batch.label - model.mean
        kernel_NN = gaussian(batch.x, batch.x, gamma)
        for r, ridge in enumerate(self.ridges):
            alpha_N, left_out_N = solve(kernel_NN, y_N, ridge)
            error = left_out_N.square().mean()
            if not (self.error_GR <= error).any():
                model.alpha_N.copy_(alpha_N)
                model.gamma.fill_(gamma)
                model.ridge.fill_(ridge)
            self.error_GR[g, r] = error
        return {"loss": self.least()}

    def pictures(self, model: Any, split: Any) -> dict[str, Any]:
        """What is told against what was measured; and what the choice was made by."""
        at = torch.tensor(self.ridges, dtype=torch.float64).log10()
        curves = {f"γ = {gamma:g}": (at, error_R.sqrt()) for gamma, error_R in zip(self.gammas, self.error_GR, strict=True)}
        chosen = figures.lines(curves, x="log₁₀ of the ridge", y="root mean square error of rows left out")
        return {**super().pictures(model, split), "chosen": chosen}


def patients() -> TableSplits:
    """All ten features of the diabetes patients, each less its mean and over its deviation of the training rows."""
    whole: Any = diabetes(PATIENTS)
    train, test = (split.batch(torch.arange(len(split))) for split in (whole.train, whole.test))
    mean_F, std_F = train.x.mean(0), train.x.std(0, unbiased=False)
    seen, asked = (Table((part.x - mean_F) / std_F, part.label) for part in (train, test))
    return TableSplits(seen, None, asked, name=whole.name, columns=whole.columns, names=(), hashes=whole.hashes,
                       mean=mean_F.tolist(), std=std_F.tolist())  # fmt: skip


def left_out_gap(model: KernelRidge, rows: Rows, count: int) -> float:
    """How far `solve` is from leaving out each of the first `count` rows by hand; of the largest error among them."""
    y_N = rows.label - model.mean
    kernel_NN, ridge = gaussian(rows.x, rows.x, float(model.gamma)), float(model.ridge)
    _, quick_N = solve(kernel_NN, y_N, ridge)
    gaps = []
    for i in range(count):
        kept_M = torch.arange(len(y_N)) != i
        alpha_M, _ = solve(kernel_NN[kept_M][:, kept_M], y_N[kept_M], ridge)
        gaps.append(y_N[i] - (kernel_NN[i, kept_M] * alpha_M).sum() - quick_N[i])
    return float(torch.stack(gaps).abs().max() / quick_N[:count].abs().max())


def feature_gap(rows: Rows, ridge: float) -> float:
    """How far the dual of (x · z)² is from the ridge on all products of two features; of the largest number told.

    There the weights are (ΦᵀΦ + λ I)⁻¹ Φᵀ y: one unknown a product, and not a row.
    """
    y_N, phi_NP = rows.label - rows.label.mean(), products(rows.x)
    kernel_NN = square(rows.x, rows.x)
    dual_N = kernel_NN @ solve(kernel_NN, y_N, ridge)[0]
    weight_P = torch.linalg.solve(phi_NP.T @ phi_NP + ridge * torch.eye(phi_NP.shape[1]).to(y_N), phi_NP.T @ y_N)
    return float((phi_NP @ weight_P - dual_N).abs().max() / dual_N.abs().max())


def recipe(
    data: Literal["diabetes"] = "diabetes",           # ten features, and how far the disease went in a year
    gammas: Annotated[tuple[float, ...], Within(0, above=True)] = (0.001, 0.003, 0.01, 0.03, 0.1),  # exp(-γ |x - z|²)
    ridges: Annotated[tuple[float, ...], Within(0, above=True)] = (0.01, 0.1, 1.0, 10.0, 100.0),  # λ, of |f|² in K's space
) -> Iterator[Stage]:  # fmt: skip
    if not gammas or not ridges:
        raise WrongInput("there is no width or no ridge to choose from", do="--gammas 0.01 --ridges 1")
    splits: Any = patients()
    rows = splits.train.batch(torch.arange(len(splits.train)))
    model = KernelRidge(rows.x, rows.label)
    choice = LeavingOut("progression after a year", gammas, ridges)
    yield Stage(model, splits, choice, steps=len(gammas))
    return {
        "left_out_mse": float(choice.least()),
        "gamma": float(model.gamma),
        "ridge": float(model.ridge),
        "left_out_gap": left_out_gap(model, rows, 20),
        "feature_gap": feature_gap(rows, 1.0),
    }
