"""Linear regression: a line through points, by gradient descent and in closed form.

中文     线性回归
Source   the notes, sec. 4: x = 1, 2, 3 and y = 2, 4, 6, the sum of squares, SGD at a rate of 0.01, 100 epochs, x = 4 → ?
         Hastie, Tibshirani & Friedman, The Elements of Statistical Learning, 2009: eq. 3.2 (squares), eq. 3.6 (solved)
         scikit-learn's example "Ordinary Least Squares": body mass index of diabetes patients, the last 20 to test
Departs  the path begins at w = b = 0, where torch's Linear draws; the notes' `size_average=False` is reduction="sum"
         today: with the mean, which they say makes no difference, a step is a third as long, and 100 end elsewhere
"""

from collections.abc import Iterator, Mapping
from typing import Any, Literal

import torch
from matplotlib.figure import Figure
from torch import Tensor, nn

from fuxian import figures
from fuxian.contract import Metric, Objective, Splits, Stage
from fuxian.data.sources import digest
from fuxian.data.tabular import Rows, Table, diabetes
from fuxian.errors import WrongInput
from fuxian.evaluation import batches
from fuxian.facts import Claim
from fuxian.optim import sgd

PAPER = None
SOURCE = "the notes, sec. 4: linear regression in PyTorch"
CLAIMS = [  # exact: tolerances are half of the last digit
    Claim("at_4", 7.7285, where="the notes, sec. 4, x = 4: 100 epochs by arithmetic", tolerance=5e-5, seeds=1,
          better="equal"),
    Claim("w", 1.8428, where="the notes, sec. 4, weight: 100 epochs by arithmetic", tolerance=5e-5, seeds=1,
          better="equal"),
    Claim("b", 0.3575, where="the notes, sec. 4, bias: 100 epochs by arithmetic", tolerance=5e-5, seeds=1, better="equal"),
    Claim("w", 1.7451, where="the mean in place of the notes' sum, by arithmetic", tolerance=5e-5, seeds=1, better="equal",
          knobs=dict(loss="mean")),
    Claim("b", 0.5795, where="the mean in place of the notes' sum, by arithmetic", tolerance=5e-5, seeds=1, better="equal",
          knobs=dict(loss="mean")),
    Claim("at_4", 8.0, where="the notes, sec. 4, at last", tolerance=1e-6, seeds=1,
          better="equal", knobs=dict(epochs=3000)),
    Claim("w", 2.0, where="the notes, sec. 4, at last", tolerance=1e-6, seeds=1, better="equal", knobs=dict(epochs=3000)),
    Claim("b", 0.0, where="the notes, sec. 4, at last", tolerance=1e-6, seeds=1, better="equal", knobs=dict(epochs=3000)),
    Claim("test/mse", 2548.07, where="scikit-learn, Ordinary Least Squares", tolerance=0.005, seeds=1, better="equal"),
    Claim("test/r2", 0.47, where="scikit-learn, Ordinary Least Squares", tolerance=0.005, seeds=1, better="equal"),
]  # fmt: skip
QUICK = dict(epochs=50)
SEEDLESS = True

# Shape letters: N examples, F features.


def three_points() -> Splits:
    """y = 2 x at 1, 2 and 3."""
    x_N1 = torch.tensor([[1.0], [2.0], [3.0]], dtype=torch.float64)
    y_N = 2 * x_N1[:, 0]
    hashes = {"three points": digest(x_N1.numpy().tobytes(), y_N.numpy().tobytes())}
    return Splits(Table(x_N1, y_N), name="three points", hashes=hashes)


class Linear(nn.Module):
    """ŷ = x · w + b: (N, F) to (N,)."""

    def __init__(self, w_F: Tensor, b: float) -> None:
        super().__init__()
        self.w = nn.Parameter(w_F)
        self.b = nn.Parameter(torch.tensor(b, dtype=w_F.dtype))

    def forward(self, x_NF: Tensor) -> Tensor:
        return (x_NF * self.w).sum(-1) + self.b  # a matrix product's last bits may differ from run to run


class R2(Metric):
    """1 - Σ (y - ŷ)² / Σ (y - mean of y)²: the share of the variance that is explained. Of one value there is none."""

    def __init__(self) -> None:
        self.pairs: list[Tensor] = []

    def update(self, y_N: Tensor, predicted_N: Tensor) -> None:
        self.pairs.append(torch.stack([y_N, predicted_N], 1).double().cpu())
        self.count += len(y_N)

    def value(self) -> float:
        y_N, predicted_N = torch.cat(self.pairs).unbind(1)
        return float(1 - (y_N - predicted_N).square().sum() / (y_N - y_N.mean()).square().sum())


class Regression(Objective):
    """What both ways of fitting share: how a line is judged and drawn. `x` and `y` name quantity and unit."""

    def __init__(self, x: str, y: str) -> None:
        self.x, self.y = x, y

    def inputs(self, batch: Rows) -> tuple[Tensor, ...]:
        return (batch.x,)

    def metrics(self, model: Linear) -> dict[str, Metric]:
        return {"r2": R2()}

    def evaluate(self, model: Linear, batch: Rows) -> Iterator[tuple[Any, ...]]:
        predicted_N = model(batch.x)
        yield "mse", (predicted_N - batch.label).square()
        yield "r2", batch.label, predicted_N

    def predict(self, model: Linear, batch: Rows) -> list[dict[str, float]]:
        return [{self.y.partition(",")[0]: value} for value in model(batch.x).tolist()]

    def pictures(self, model: Any, split: Any) -> dict[str, Any]:
        """The points and the line; of several features, what is predicted against what was measured."""
        (batch,) = batches(split, None)
        if batch.x.shape[1] == 1:
            return {"line": self.line(batch, {"least squares": model})}
        measured_N = batch.label.cpu()
        ends = torch.stack([measured_N.min(), measured_N.max()])
        drawing = figures.lines({"equal": (ends, ends)}, x=f"measured {self.y}", y=f"predicted {self.y}")
        drawing.axes[0].plot(measured_N, model(batch.x).cpu(), "o", color=figures.PALETTE["ink"], markersize=5)
        return {"predicted": drawing}

    def line(self, batch: Rows, models: Mapping[str, Linear], ask: float | None = None) -> Figure:
        """Points, and a line for each model, named at its end; and what the first says of `ask`."""
        x_N, colours = batch.x[:, 0].cpu(), figures.PALETTE
        low, high = float(x_N.min()), max(float(x_N.max()), ask or -torch.inf)
        ends = x_N.new_tensor([low, high]) + x_N.new_tensor([-0.05, 0.05]) * (high - low)
        lines = {name: (ends, model(ends[:, None].to(batch.x)).cpu()) for name, model in models.items()}
        drawing = figures.lines(lines, x=self.x, y=self.y)
        axes = drawing.axes[0]
        axes.plot(x_N, batch.label.cpu(), "o", color=colours["ink"], markersize=5)
        if ask is not None:
            says = float(next(iter(models.values()))(batch.x.new_tensor([[ask]])))
            axes.plot(ask, says, "o", color=colours["blue"], markerfacecolor=colours["paper"], markersize=7)
            axes.annotate(f"{says:.4f}", (ask, says), (-10, 4), ha="right", textcoords="offset points")
        return drawing


class Descent(Regression):
    """The sum or the mean of squares, and the way of w and b down its surface."""

    path: Tensor  # w and b before each step, (steps + 1, F + 1); NaN where it has not come yet
    at: Tensor

    def __init__(self, x: str, y: str, loss: str, model: Linear, steps: int) -> None:
        super().__init__(x, y)
        self.loss = loss
        self.register_buffer("path", torch.full((steps + 1, len(model.w) + 1), torch.nan, dtype=torch.float64))
        self.register_buffer("at", torch.tensor(0))

    def cost(self, squares_N: Tensor) -> Tensor:
        return squares_N.sum(-1) if self.loss == "sum" else squares_N.mean(-1)

    def losses(self, model: Linear, batch: Rows) -> Iterator[tuple[str, Tensor]]:
        self.path[self.at] = torch.cat([model.w.detach(), model.b.detach()[None]])  # before the step
        self.at += 1
        yield "model", self.cost((model(batch.x) - batch.label).square())

    def pictures(self, model: Any, split: Any) -> dict[str, Any]:
        """The line so far beside the closed form's; the way down the surface; the cost along it."""
        (batch,) = batches(split, None)
        best = Linear(*least_squares(batch))
        path = torch.cat([self.path[: self.at], torch.stack([model.w[0], model.b])[None]])
        epoch = torch.arange(len(path))
        cost = self.cost((path[:, :1] * batch.x[:, 0] + path[:, 1:] - batch.label).square())
        return {
            "line": self.line(batch, {f"{int(self.at)} epochs": model, "closed form": best}, ask=4.0),
            "surface": self.surface(batch, path.cpu(), best),
            "cost": figures.lines({"": (epoch, cost)}, x="epochs", y=f"{self.loss} of squares", log=True),
        }

    def surface(self, batch: Rows, path: Tensor, best: Linear) -> Figure:
        """Contours of the cost over w and b, the path on them, and a cross where it is least."""
        colours = figures.PALETTE
        least = torch.stack([best.w[0], best.b]).detach().cpu()
        low, high = (f(torch.cat([path, least[None]]), 0) for f in (torch.amin, torch.amax))
        low, high = low - 0.15 * (high - low) - 0.1, high + 0.15 * (high - low) + 0.1
        w, b = (torch.linspace(float(s), float(e), 121, dtype=torch.float64) for s, e in zip(low, high, strict=True))
        x_N, y_N = batch.x[:, 0].cpu(), batch.label.cpu()
        cost = self.cost((w[None, :, None] * x_N + b[:, None, None] - y_N).square())
        drawing, axes = figures.figure(height=330)
        levels = torch.logspace(-3, 0, 10, dtype=torch.float64) * cost.max()
        axes.contour(w, b, cost, levels=levels, colors=colours["soft"], linewidths=0.6)
        axes.plot(path[:, 0], path[:, 1], color=colours["blue"], marker="o", markersize=3, linewidth=1)
        axes.plot(*least, "x", color=colours["vermilion"], markersize=9, markeredgewidth=2)
        for at in (0, len(path) - 1):
            axes.annotate(f"{at}", tuple(path[at].tolist()), (8, 2), textcoords="offset points", color=colours["blue"])
        axes.annotate("least", tuple(least.tolist()), (8, -14), textcoords="offset points", color=colours["vermilion"])
        axes.grid(False)
        axes.set_title(f"b, and contours of the {self.loss} of squares", loc="left", fontsize=12, color=colours["soft"])
        axes.set_xlabel("w", loc="right")
        return drawing


def least_squares(batch: Rows) -> tuple[Tensor, float]:
    """The w (F,) and b of least Σ (y - x · w - b)²: (XᵀX)⁻¹ Xᵀy of eq. 3.6, of what is left without the means.

    Raises WrongInput where the points do not determine them: fewer than F + 1, or a feature that is the same in all.
    """
    x_NF, y_N = batch.x - batch.x.mean(0), batch.label - batch.label.mean()
    scale_F = x_NF.square().mean(0).sqrt().clamp_min(torch.finfo(x_NF.dtype).tiny)
    x_NF = x_NF / scale_F  # features of unlike units would make XᵀX ill
    if (rank := int(torch.linalg.matrix_rank(x_NF))) < x_NF.shape[1]:
        raise WrongInput(
            f"{len(x_NF)} points determine {rank + 1} of {x_NF.shape[1] + 1} weights: too few, or one feature follows from "
            "others",
            do="more points, or leave out a feature that is the same in every row",
        )
    products_FF = (x_NF[:, :, None] * x_NF[:, None, :]).sum(0)  # sums: the same bits in every run
    w_F = torch.linalg.solve(products_FF, (x_NF * y_N[:, None]).sum(0)) / scale_F
    return w_F, float(batch.label.mean() - (batch.x.mean(0) * w_F).sum())


class LeastSquares(Regression):
    """The closed form, in one step."""

    def update(self, model: Linear, batch: Rows) -> dict[str, Tensor]:
        w_F, b = least_squares(batch)
        model.w.copy_(w_F)
        model.b.fill_(b)
        return {"loss": (model(batch.x) - batch.label).square().mean()}


def recipe(
    loss: Literal["sum", "mean"] = "sum",             # of the squares; the notes take the sum
    epochs: int = 100,                                # of gradient descent, all three points a step; sec. 4
    lr: float = 0.01,                                 # SGD; sec. 4; from 0.0601 on, 2 over the curvature, it diverges
    w: float = 0.0,                                   # where the path begins
    b: float = 0.0,                                   # where the path begins
    features: tuple[str, ...] = ("bmi",),             # of the diabetes patients: age, sex, bmi, bp, s1 to s6
) -> Iterator[Stage]:  # fmt: skip
    line = Linear(torch.tensor([w], dtype=torch.float64), b)
    descent = Descent("x", "y", loss, line, epochs)
    yield Stage(line, three_points(), descent, sgd(lr), epochs=epochs, name="descent")
    patients = diabetes(features)
    model = Linear(torch.zeros(len(features), dtype=torch.float64), 0.0)
    exact = LeastSquares("body mass index, kg/m²" if features == ("bmi",) else features[0], "progression after a year")
    yield Stage(model, patients, exact, steps=1, name="diabetes")
    at_4 = line(torch.full_like(line.w, 4.0)[:, None])
    return {"w": line.w.item(), "b": line.b.item(), "at_4": at_4.item()}
