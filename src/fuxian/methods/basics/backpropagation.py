"""Back-propagation, written out by hand: one weight by arithmetic, then the two-layer net that finds symmetry.

中文     误差反向传播
Paper    Rumelhart, Hinton & Williams, Nature 323, 1986: eq. 1-2 (forward), eq. 4-7 (backward), eq. 9 (step), Fig. 1 (task)
         the notes, one weight: y = w x with x = 1, w = 10, wanted 2: loss 64, gradient 16, then w = 8.4
Departs  several starts side by side, and the one of least error is the model: about one in three ends in a minimum where
         every vector is called lopsided; when their net counted as having learned is not said, ours does once all outputs
         are on the right side of a half
"""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product
from typing import Annotated, Any, Literal

import torch
from matplotlib.figure import Figure
from torch import Tensor, nn

from fuxian import figures
from fuxian.contract import Batch, Objective, Splits, Stage
from fuxian.data.sources import digest
from fuxian.evaluation import batches
from fuxian.facts import Claim, Paper, Within
from fuxian.numbers import fixed

PAPER = Paper("Learning Representations by Back-Propagating Errors", "Rumelhart, Hinton & Williams", 1986, venue="Nature")
CLAIMS = [
    Claim("train/accuracy", 1.0, where="Fig. 1, all 64 vectors", tolerance=0.0, seeds=5),
    Claim("mirror_gap", 0.0, where="Fig. 1, equal and opposite", tolerance=0.01, seeds=5, better="lower"),
    # other solutions are not near: 1 : 1.5 : 2 works too, and its gap is 2
    Claim("ratio_gap", 0.0, where="Fig. 1, 1 : 2 : 4", tolerance=0.05, seeds=5, better="lower"),
    Claim("sweeps", 1425, where="Fig. 1, sweeps to learn", tolerance=0.0, seeds=5, better="lower",
          comparison="theirs is one start, and when it had learned is not said; ours: the median of the starts that learn"),
]  # fmt: skip
QUICK = dict(starts=5, sweeps=2500)

# Shape letters: N cases, I inputs, H hidden units, J outputs, S starts.


@dataclass(frozen=True)
class Cases(Batch):
    given: Tensor  # (N, I) float64
    desired: Tensor  # (N, J) float64


class AllCases:
    """Cases in memory; a sweep takes all of them."""

    def __init__(self, given: Tensor, desired: Tensor) -> None:
        self.given, self.desired = given, desired

    def __len__(self) -> int:
        return len(self.given)

    def batch(self, indices: Tensor) -> Cases:
        return Cases(self.given[indices], self.desired[indices])


def one_case() -> Splits:
    """x = 1, and 2 is wanted: the example of the notes."""
    return Splits(AllCases(torch.ones(1, 1).double(), torch.full((1, 1), 2.0).double()), name="one case")


def symmetry(bits: int) -> Splits:
    """All vectors of so many bits; wanted is 1 where one reads the same from both ends. Fig. 1."""
    given_NI = torch.tensor(list(product((0.0, 1.0), repeat=bits)), dtype=torch.float64)
    desired_N1 = (given_NI == given_NI.flip(1)).all(1, keepdim=True).double()
    hashes = {"symmetry": digest(given_NI.numpy().tobytes(), desired_N1.numpy().tobytes())}
    return Splits(AllCases(given_NI, desired_N1), name="symmetry", hashes=hashes)


# ── one weight ──────────────────────────────────────────────────────────────────────────────────────────────────────


class OneWeight(nn.Module):
    """y = w x."""

    w: Tensor

    def __init__(self, w: float) -> None:
        super().__init__()
        self.register_buffer("w", torch.tensor(w, dtype=torch.float64))

    def forward(self, x: Tensor) -> Tensor:
        return self.w * x


class ByArithmetic(Objective):
    """loss = (y₁ - y)², and its gradient by hand."""

    path: Tensor
    step: Tensor

    def __init__(self, lr: float, steps: int) -> None:
        self.lr = lr
        self.register_buffer("path", torch.full((steps,), torch.nan, dtype=torch.float64))  # w before each step
        self.register_buffer("step", torch.tensor(0))

    def inputs(self, batch: Cases) -> tuple[Tensor, ...]:
        return (batch.given,)

    def update(self, model: OneWeight, batch: Cases) -> dict[str, Tensor]:
        x, y1 = batch.given.squeeze(), batch.desired.squeeze()
        y = model.w * x
        loss = (y1 - y) ** 2
        gradient = 2 * (y1 - y) * -x  # dL/dw = dL/dy · dy/dw
        self.path[self.step] = model.w
        self.step += 1
        model.w -= self.lr * gradient
        return {"loss": loss, "gradient": gradient, "w": model.w.clone()}

    def evaluate(self, model: OneWeight, batch: Cases) -> Iterator[tuple[str, Tensor]]:
        yield "loss", (batch.desired - model(batch.given)).square().sum(1)

    def pictures(self, model: Any, split: Any) -> dict[str, Any]:
        """The weight on its way down the parabola."""
        (case,) = batches(split, None)
        w = torch.cat([self.path[: self.step], model.w[None]]).cpu()
        loss = lambda w: (case.desired.squeeze() - w * case.given.squeeze()) ** 2
        across = torch.linspace(-6, 10, 201, dtype=torch.float64)
        drawing, axes = figures.figure()
        axes.plot(across, loss(across), color=figures.PALETTE["rule"])
        axes.plot(w, loss(w), color=figures.PALETTE["blue"], marker="o", markersize=5, linewidth=1)
        for value in w[:4].tolist():
            axes.annotate(f"w = {value:g}", (value, float(loss(torch.tensor(value)))), (-8, 0), ha="right",
                          textcoords="offset points", color=figures.PALETTE["ink"])  # fmt: skip
        axes.set_title("loss", loc="left", fontsize=12, color=figures.PALETTE["soft"])
        axes.set_xlabel("weight w", loc="right")
        return {"parabola": drawing}


# ── two layers ──────────────────────────────────────────────────────────────────────────────────────────────────────


class TwoLayers(nn.Module):
    """Several starts side by side; the one of least error is the model. Inputs (N, I) to outputs (N, J) in 0 to 1."""

    w_SHI: Tensor
    b_SH: Tensor
    w_SJH: Tensor
    b_SJ: Tensor
    error_S: Tensor

    def __init__(self, starts: int, inputs: int, hidden: int, outputs: int, spread: float) -> None:
        super().__init__()
        shapes = dict(w_SHI=(hidden, inputs), b_SH=(hidden,), w_SJH=(outputs, hidden), b_SJ=(outputs,))
        for name, shape in shapes.items():  # uniform between -spread and spread: Fig. 1
            self.register_buffer(name, spread * (2 * torch.rand(starts, *shape, dtype=torch.float64) - 1))
        self.register_buffer("error_S", torch.full((starts,), torch.inf, dtype=torch.float64))

    def states(self, y_NI: Tensor) -> tuple[Tensor, Tensor]:
        """States of the hidden units (S, N, H) and of the outputs (S, N, J) of every start. Eq. 1, 2."""
        y_SNH = (y_NI @ self.w_SHI.mT + self.b_SH[:, None]).sigmoid()
        y_SNJ = (y_SNH @ self.w_SJH.mT + self.b_SJ[:, None]).sigmoid()
        return y_SNH, y_SNJ

    def gradients(self, y_NI: Tensor, d_NJ: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Outputs (S, N, J), and ∂E/∂w of E = ½ Σ (y - d)² by weight, summed over the cases. Eq. 3 to 7."""
        y_SNH, y_SNJ = self.states(y_NI)
        dy_SNJ = y_SNJ - d_NJ  # ∂E/∂y, eq. 4
        dx_SNJ = dy_SNJ * y_SNJ * (1 - y_SNJ)  # ∂E/∂x, eq. 5
        dy_SNH = dx_SNJ @ self.w_SJH  # eq. 7: back through the weights
        dx_SNH = dy_SNH * y_SNH * (1 - y_SNH)  # eq. 5, one layer down
        return y_SNJ, {
            "w_SJH": dx_SNJ.mT @ y_SNH,  # eq. 6
            "b_SJ": dx_SNJ.sum(1),  # a bias is a weight from a unit that is always 1
            "w_SHI": dx_SNH.mT @ y_NI,
            "b_SH": dx_SNH.sum(1),
        }

    @property
    def best(self) -> Tensor:
        return self.error_S.argmin()

    def forward(self, y_NI: Tensor) -> Tensor:
        return self.states(y_NI)[1][self.best]


class BackPropagation(Objective):
    """Eq. 9: Δw(t) = -ε ∂E/∂w(t) + α Δw(t - 1), once a sweep through all cases."""

    sweep: Tensor
    learned_S: Tensor

    def __init__(self, model: TwoLayers, lr: float, momentum: float) -> None:
        self.lr, self.momentum = lr, momentum
        for name in ("w_SHI", "b_SH", "w_SJH", "b_SJ"):
            self.register_buffer(f"delta_{name}", torch.zeros_like(getattr(model, name)))
        self.register_buffer("sweep", torch.tensor(0))
        self.register_buffer("learned_S", torch.zeros(len(model.error_S), dtype=torch.int64))  # the sweep; 0: not yet

    def inputs(self, batch: Cases) -> tuple[Tensor, ...]:
        return (batch.given,)

    def update(self, model: TwoLayers, batch: Cases) -> dict[str, Tensor]:
        y_SNJ, gradients = model.gradients(batch.given, batch.desired)
        for name, gradient in gradients.items():
            delta = getattr(self, f"delta_{name}")
            delta.mul_(self.momentum).sub_(self.lr * gradient)
            getattr(model, name).add_(delta)
        self.sweep += 1
        right_S = ((y_SNJ > 0.5) == (batch.desired > 0.5)).flatten(1).all(1)
        self.learned_S[right_S & (self.learned_S == 0)] = self.sweep
        _, y_SNJ = model.states(batch.given)
        model.error_S.copy_((y_SNJ - batch.desired).square().flatten(1).sum(1) / 2)
        return {"loss": model.error_S.min(), "median loss": model.error_S.median()}

    def evaluate(self, model: TwoLayers, batch: Cases) -> Iterator[tuple[str, Tensor]]:
        y_NJ = model(batch.given)
        yield "loss", (y_NJ - batch.desired).square().sum(1) / 2  # eq. 3 is their sum
        yield "accuracy", ((y_NJ > 0.5) == (batch.desired > 0.5)).all(1).double()

    def pictures(self, model: Any, split: Any) -> dict[str, Any]:
        best = model.best
        return {"network": network(model.w_SHI[best], model.b_SH[best], model.w_SJH[best], model.b_SJ[best])}


def network(w_HI: Tensor, b_H: Tensor, w_JH: Tensor, b_J: Tensor) -> Figure:
    """The net as in Fig. 1: weights on the arcs, biases in the units; blue excites, vermilion inhibits."""
    colours = figures.PALETTE
    paper = dict(boxstyle="square,pad=0.1", facecolor=colours["paper"], edgecolor="none")
    unit = dict(boxstyle="circle", facecolor=colours["wash"], edgecolor=colours["ink"])
    drawing, axes = figures.figure(height=330)
    layers = [
        [((i + 0.5) / count, level) for i in range(count)] for level, count in enumerate((w_HI.shape[1], *w_JH.T.shape))
    ]
    for level, weight in enumerate((w_HI, w_JH)):
        for j, (x1, y1) in enumerate(layers[level + 1]):
            for i, (x0, y0) in enumerate(layers[level]):
                value = float(weight[j, i])
                colour = colours["blue" if value > 0 else "vermilion"]
                axes.plot([x0, x1], [y0, y1], color=colour, linewidth=0.5 + 4 * abs(value) / float(weight.abs().max()))
                along = 0.5 if level else 0.25 + 0.2 * (j % 2)  # so that the numbers of two units do not meet
                at = (x0 + along * (x1 - x0), y0 + along * (y1 - y0))
                axes.text(*at, fixed(value, 1), color=colour, ha="center", va="center", bbox=paper)
    biases = [["  "] * w_HI.shape[1], *([fixed(float(bias), 1) for bias in b] for b in (b_H, b_J))]
    for units, inside in zip(layers, biases, strict=True):
        for (x, y), bias in zip(units, inside, strict=True):
            axes.text(x, y, bias, color=colours["ink"], ha="center", va="center", bbox=unit)
    axes.set(xlim=(0, 1), ylim=(-0.2, 2.2), xticks=[], yticks=[])
    axes.grid(False)
    axes.spines["bottom"].set_visible(False)
    return drawing


def mirror(w_HI: Tensor) -> tuple[float, float]:
    """How far a net's first weights are from Fig. 1: from equal and opposite about the middle, relative to the largest;
    and, of the magnitudes on one side in units of the least, from 1 : 2 : 4 …"""
    mirror_gap = (w_HI + w_HI.flip(1)).abs().max() / w_HI.abs().max()
    side_HK = w_HI[:, : w_HI.shape[1] // 2].abs().sort(1).values
    ratio_gap = (side_HK / side_HK[:, :1] - 2.0 ** torch.arange(side_HK.shape[1])).abs().max()
    return float(mirror_gap), float(ratio_gap)


def recipe(
    data: Literal["symmetry"] = "symmetry",               # every vector of so many bits: is it its own mirror image? Fig. 1
    bits: Annotated[int, Within(2, 12)] = 6,              # of a vector; Fig. 1
    hidden: int = 2,                                      # units; Fig. 1
    starts: Annotated[int, Within(1)] = 20,               # side by side; the one of least error is kept
    spread: Annotated[float, Within(0, above=True)] = 0.3,  # of the first weights, uniform about 0; Fig. 1
    lr: float = 0.1,                                      # ε of eq. 9, Fig. 1; of the one weight too, as in the notes
    momentum: Annotated[float, Within(0, 1)] = 0.9,       # α of eq. 9; Fig. 1
    sweeps: Annotated[int, Within(1)] = 6000,             # through all vectors; theirs had learned after 1,425
    steps: int = 10,                                      # of the one weight
) -> Iterator[Stage]:  # fmt: skip
    yield Stage(OneWeight(10.0), one_case(), ByArithmetic(lr, steps), steps=steps, name="one-weight")
    vectors = symmetry(bits)
    model = TwoLayers(starts, bits, hidden, 1, spread)
    learning = BackPropagation(model, lr, momentum)
    yield Stage(model, vectors, learning, steps=sweeps, name="two-layers")
    learned = learning.learned_S[learning.learned_S > 0].double()
    mirror_gap, ratio_gap = mirror(model.w_SHI[model.best].cpu())
    sweeps_to_learn = float(learned.median()) if len(learned) else float("nan")
    return {"sweeps": sweeps_to_learn, "learned": len(learned) / starts,
            "mirror_gap": mirror_gap, "ratio_gap": ratio_gap}  # fmt: skip
