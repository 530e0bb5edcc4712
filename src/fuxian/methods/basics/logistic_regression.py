"""Logistic regression: the probability of one of two classes, from a weighted sum of an example's numbers.

中文     逻辑回归
Source   Cox, The Regression Analysis of Binary Sequences, J. R. Stat. Soc. B 20(2), 1958: the model
         the notes, sec. 5-7: the logistic function; `Dataset` and `DataLoader`, batches of 32, two workers
         Hastie, Tibshirani & Friedman, The Elements of Statistical Learning, 2009: eq. 4.23-4.26 (Newton's step)
Paper    Smith et al., Using the ADAP Learning Algorithm to Forecast the Onset of Diabetes Mellitus, SCAMC 1988: the data
Departs  the notes' file has 759 of the 768 women, 1 where there is no diabetes, and a column's minimum as 0, the middle of
         its scale: so 371 women whose insulin nobody measured look average. The labels are turned back, the numbers stay
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from fuxian import figures
from fuxian.contract import Metric, Objective, Splits, Stage
from fuxian.data.tabular import Rows, Table, TableSplits, table
from fuxian.errors import WrongInput
from fuxian.evaluation import batches
from fuxian.facts import Claim, Within
from fuxian.methods.basics.linear_regression import Linear
from fuxian.objectives.classification import ranked
from fuxian.optim import sgd

PAPER = None
SOURCE = "Cox, The Regression Analysis of Binary Sequences, J. R. Stat. Soc. B 20(2), 1958; the notes, sec. 5-7"
CLAIMS = [
    Claim("descent/test/loss", None, where="the notes give none", seeds=5, better="lower"),
    # exact: half of the last digit
    Claim("test/loss", 0.45292402, where="scikit-learn's LogisticRegression", tolerance=5e-9, seeds=1, better="equal"),
    Claim("test/auc", 0.87142857, where="scikit-learn's LogisticRegression", tolerance=5e-9, seeds=1, better="equal"),
    Claim("test/accuracy", 0.76, where="Smith et al. 1988, sensitivity and specificity", seeds=1,
          comparison="theirs are the last 192 of all 768 women, with the numbers that were measured"),
]  # fmt: skip
QUICK = dict(data="breast-cancer", epochs=10, workers=0)

ENDS, TICKS = torch.tensor([0.0, 1.0]), torch.linspace(0, 1, 6)

# Shape letters: N examples, F features, G groups of examples.


class Patients(Dataset):
    """The notes' Dataset: how many there are, and one of them by its number."""

    def __init__(self, rows: Table) -> None:
        self.rows = rows

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        return self.rows.x[index], self.rows.label[index]


class Loaded:
    """A split whose batches are put together by the workers of a DataLoader, an equal part of each batch by each.

    The order is the one that is asked for, and not the loader's own: so the numbers are those of the rows in memory.
    """

    def __init__(self, rows: Table, workers: int) -> None:
        self.rows, self.workers = rows, workers
        self.asked: list[list[int]] = []  # of the next batch
        chance = torch.Generator()  # what the loader draws for its workers must not come from the run's own stream
        self.loader = DataLoader(
            Patients(rows), batch_sampler=self.asked, num_workers=workers, persistent_workers=True, generator=chance
        )

    def __len__(self) -> int:
        return len(self.rows)

    def batch(self, indices: Tensor) -> Rows:
        self.asked[:] = [part.tolist() for part in indices.tensor_split(self.workers) if len(part)]
        x, label = zip(*self.loader, strict=True)
        return Rows(torch.cat(x), torch.cat(label))


class AreaUnderROC(Metric):
    """How often an example of class 1 has the larger logit, of all pairs with one of class 0; an equal one counts half.

    Hanley & McNeil, Radiology 143(1), 1982.
    """

    def __init__(self) -> None:
        self.pairs: list[Tensor] = []

    def update(self, z_N: Tensor, label_N: Tensor) -> None:
        self.pairs.append(torch.stack([z_N.double(), label_N.double()], 1).cpu())
        self.count += len(label_N)

    def value(self) -> float:
        z_N, label_N = torch.cat(self.pairs).unbind(1)
        above = z_N[label_N == 1][:, None] - z_N[label_N == 0]
        return float(((above > 0).double() + (above == 0).double() / 2).mean())


class Logistic(Objective):
    """-log of the probability that the model gives to what is true."""

    def __init__(self, data: TableSplits) -> None:
        self.columns, self.names = data.columns, data.names

    def inputs(self, batch: Rows) -> tuple[Tensor, ...]:
        return (batch.x,)

    def cost(self, model: Linear, batch: Rows) -> Tensor:
        """-y log σ(z) - (1 - y) log σ(-z), which is log(1 + exp z) - y z: (N,), finite for every z."""
        z_N = model(batch.x)
        return F.softplus(z_N) - batch.label * z_N

    def metrics(self, model: Linear) -> dict[str, Metric]:
        return {"auc": AreaUnderROC()}

    def evaluate(self, model: Linear, batch: Rows) -> Iterator[tuple[Any, ...]]:
        z_N = model(batch.x)
        yield "loss", self.cost(model, batch)
        yield "accuracy", ((z_N > 0) == (batch.label == 1)).double()
        yield "auc", z_N, batch.label

    def predict(self, model: Linear, batch: Rows) -> list[dict[str, Any]]:
        p_N = model(batch.x).sigmoid()
        return ranked(torch.stack([1 - p_N, p_N], 1), self.names)


class Descent(Logistic):
    """The mean cost of a batch, by its gradient."""

    def losses(self, model: Linear, batch: Rows) -> Iterator[tuple[str, Tensor]]:
        yield "model", self.cost(model, batch).mean()

    def pictures(self, model: Any, split: Any) -> dict[str, Any]:
        """The logistic function, and its derivative: a bell, near zero where the function saturates."""
        z = torch.linspace(-8, 8, 161)
        curves = {"σ(z)": (z, z.sigmoid()), "σ′(z)": (z, z.sigmoid() * (1 - z.sigmoid()))}
        return {"logistic": figures.lines(curves, x="z, the weighted sum", y="probability, and its derivative by z")}


class Newton(Logistic):
    """The mean cost and `l2` / 2 |w|², least at one place: a step is a least squares whose weights are p (1 - p)."""

    def __init__(self, data: TableSplits, l2: float) -> None:
        super().__init__(data)
        self.l2 = l2

    def whole(self, model: Linear, batch: Rows) -> Tensor:
        return self.cost(model, batch).mean() + self.l2 / 2 * model.w.square().sum()

    def update(self, model: Linear, batch: Rows) -> dict[str, Tensor]:
        x_ND = torch.cat([batch.x, torch.ones_like(batch.x[:, :1])], 1)  # D: the features, and one for b
        l2_D = torch.cat([model.w * 0 + self.l2, model.w.new_zeros(1)])  # b has none
        before_D, before = torch.cat([model.w, model.b[None]]), self.whole(model, batch)
        p_N = model(batch.x).sigmoid()
        gradient_D = (x_ND * (p_N - batch.label)[:, None]).mean(0) + l2_D * before_D  # eq. 4.24
        weighed_ND = x_ND * (p_N * (1 - p_N))[:, None]
        hessian_DD = (weighed_ND[:, :, None] * x_ND[:, None]).mean(0) + l2_D.diag()  # eq. 4.25
        step_D, share = torch.linalg.solve(hessian_DD, gradient_D), 1.0  # eq. 4.26
        while True:
            after_D = before_D - share * step_D
            model.w.copy_(after_D[:-1])
            model.b.copy_(after_D[-1])
            if self.whole(model, batch) <= before or share < 1e-3:
                return {"loss": self.whole(model, batch)}
            share /= 2  # it went too far: sec. 4.4.1

    def pictures(self, model: Any, split: Any) -> dict[str, Any]:
        """What each number speaks for; how well the two are told apart; whether a probability is a share."""
        (batch,) = batches(split, None)
        z_N, is_N = model(batch.x).cpu(), batch.label.cpu() == 1
        return {
            "weights": self.weights(model.w.detach().cpu()),
            "roc": self.roc(z_N, is_N),
            "calibration": self.calibration(z_N.sigmoid(), is_N),
        }

    def weights(self, w_F: Tensor) -> Any:
        """A dot for each number, the largest weights on top; of more than twelve the twelve largest."""
        order = w_F.abs().argsort(descending=True)[:12].flip(0)
        drawing, axes = figures.figure(height=60 + 22 * len(order))
        colours = figures.PALETTE
        at = torch.arange(len(order))
        axes.hlines(at, 0, w_F[order], color=colours["rule"], linewidth=2)
        axes.axvline(0, color=colours["ink"], linewidth=0.8)
        axes.plot(w_F[order], at, "o", color=colours["blue"], markersize=6)
        axes.set_yticks(at, [self.columns[i] for i in order.tolist()])
        axes.grid(False)
        title = f"log odds of “{self.names[1]}” for one deviation more"
        axes.set_title(title, loc="right", fontsize=12, color=colours["soft"])
        axes.set_xlabel("weight", loc="right")
        axes.locator_params(axis="x", nbins=5)
        return drawing

    def roc(self, z_N: Tensor, is_N: Tensor) -> Any:
        """For every threshold the share of each class that lies above it."""
        is_N = is_N[z_N.argsort(descending=True)].double()
        found, false = (torch.cat([s.new_zeros(1), s.cumsum(0) / s.sum()]) for s in (is_N, 1 - is_N))
        no, yes = self.names
        drawing = figures.lines(
            {"this model": (false, found), "by chance": (ENDS, ENDS)}, height=300,
            x=f"share of “{no}” taken for “{yes}”", y=f"share of “{yes}” that is found",
        )  # fmt: skip
        drawing.axes[0].set_xticks(TICKS)
        return drawing

    def calibration(self, p_N: Tensor, is_N: Tensor) -> Any:
        """Eight groups of equal size, by probability: what was said of them, and what is true of them."""
        groups = [rows for rows in p_N.argsort().tensor_split(8) if len(rows)]
        said_G, true_G = (torch.stack([of[rows].double().mean() for rows in groups]) for of in (p_N, is_N))
        y = f"share that is “{self.names[1]}”, in eight groups"
        drawing = figures.lines({"as said": (ENDS, ENDS)}, x="probability that the model gives", y=y, height=300)
        drawing.axes[0].plot(said_G, true_G, "o", color=figures.PALETTE["ink"], markersize=6)
        drawing.axes[0].set_xticks(TICKS)
        return drawing


def two_classes(data: TableSplits) -> TableSplits:
    """Raises WrongInput where the rows to learn from are not of two classes."""
    (batch,) = batches(data.train, None)
    if data.classes != 2 or len(batch.label.unique()) != 2:
        known = ", ".join(data.names[i] for i in batch.label.unique().tolist() if i >= 0) or "no class"
        raise WrongInput(
            f"{data.name}: the rows to learn from are of {known}; logistic regression tells two classes apart",
            do="rows of two classes; of more, softmax_regression",
        )
    return data


def recipe(
    data: Literal["pima", "breast-cancer"] | Path = "pima",  # rows of numbers of two classes
    workers: Annotated[int, Within(0, 8)] = 2,        # processes that load batches; 0: from memory; the notes, sec. 7
    batch: int = 32,                                  # examples a step; the notes, sec. 7
    epochs: int = 100,                                # of descent
    lr: float = 0.1,                                  # SGD
    c: Annotated[float, Within(0, above=True)] = 1.0,  # L2 of the exact fit is 1/(C N); scikit-learn's default
    newton_steps: Annotated[int, Within(1)] = 10,     # of the exact fit; the error is squared by each
) -> Iterator[Stage]:  # fmt: skip
    rows = two_classes(table(data))
    train: Any = rows.train
    fed = Splits(Loaded(train, workers) if workers else train, rows.val, rows.test, name=rows.name, hashes=rows.hashes)
    start = lambda: Linear(torch.zeros(rows.features, dtype=torch.float64), 0.0)
    yield Stage(start(), fed, Descent(rows), sgd(lr), epochs=epochs, batch=batch, name="descent")
    exact = Newton(rows, l2=1 / (c * len(train)))
    yield Stage(start(), rows, exact, steps=newton_steps, name="exact")
