"""Optimizers: seven rules for a step, each from its paper; a race down a ravine, and one on handwritten digits.

中文     优化器：SGD、动量、NAG、Adagrad、Adadelta、RMSprop、Adam
Paper    Kingma & Ba, ICLR 2015, arXiv:1412.6980: algorithm 1 (Adam), sec. 6.1 and Fig. 1 (the race)
         Polyak, USSR Comput. Math. 4(5), 1964: the method of two steps (momentum)
         Nesterov, Soviet Math. Doklady 27, 1983, as Sutskever et al., ICML 2013, eq. 3-4 have it (NAG)
         Duchi, Hazan & Singer, JMLR 12, 2011: Fig. 1 with diagonal matrices (Adagrad)
         Zeiler 2012, arXiv:1212.5701: algorithm 1 (Adadelta)
         Tieleman & Hinton, Neural Networks for Machine Learning, lecture 6e, 2012 (RMSprop)
Departs  no L2, whose strength they do not give; their rates are the best of a dense grid that they do not give: ours, with
         the same decay of 1/√t, the best of 1 and 3 times powers of ten. The decay decides: Adagrad's rates fall by
         themselves, and without it Adagrad is the fastest of the three
"""

from collections.abc import Iterator, Mapping
from copy import deepcopy
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fuxian import figures
from fuxian.contract import Objective, Stage
from fuxian.data.images import image_data
from fuxian.facts import Claim, Paper, Within
from fuxian.optim import Optimizer, Schedule

PAPER = Paper("Adam: A Method for Stochastic Optimization", "Kingma & Ba", 2015, venue="ICLR", arxiv="1412.6980")
CLAIMS = [  # sec. 6.1: "Adam yields similar convergence as SGD with momentum and both converge faster than Adagrad"
    Claim("adam_cost", None, where="sec. 6.1, Fig. 1 left has curves and no numbers", seeds=3, better="lower"),
    Claim("adagrad_rank", 3.0, where="sec. 6.1, Fig. 1 left: Adam and NAG are both faster", seeds=3, better="equal"),
]
QUICK = dict(data="digits", epochs=12, steps=60)

# Letters: w a weight, g its gradient, s what is kept of it from step to step.


class FromItsPaper(torch.optim.Optimizer):
    """A rule for one weight, applied to all. `kept` names what a rule keeps; all of it is 0 at first. Decay is L2."""

    kept: tuple[str, ...] = ()

    def __init__(self, groups: Any, lr: float, weight_decay: float = 0.0, **numbers: float) -> None:
        super().__init__(groups, dict(lr=lr, weight_decay=weight_decay, **numbers))

    def rule(self, w: Tensor, g: Tensor, s: dict[str, Tensor], lr: float) -> None:
        """Moves `w` in place; each rule below is one. `g` has its decay; `s` has what `kept` names, and `step`, from 1."""
        raise NotImplementedError

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        for group in self.param_groups:
            numbers = {name: value for name, value in group.items() if name not in ("params", "weight_decay")}
            for w in group["params"]:
                if w.grad is None:
                    continue
                s = self.state[w]
                if not s:
                    s.update({name: torch.zeros_like(w) for name in self.kept}, step=torch.zeros((), dtype=torch.float64))
                s["step"] += 1
                self.rule(w, w.grad + group["weight_decay"] * w, s, **numbers)


class SGD(FromItsPaper):
    """Robbins & Monro 1951."""

    def rule(self, w: Tensor, g: Tensor, s: dict[str, Tensor], lr: float) -> None:
        w -= lr * g


class Momentum(FromItsPaper):
    """Polyak's heavy ball. torch keeps v = -move / lr, which differs as soon as the rate changes."""

    kept = ("move",)

    def rule(self, w: Tensor, g: Tensor, s: dict[str, Tensor], lr: float, momentum: float = 0.9) -> None:
        s["move"].mul_(momentum).sub_(lr * g)  # β (xₙ - xₙ₋₁) - α ∇f(xₙ)
        w += s["move"]


class NAG(FromItsPaper):
    """Nesterov's accelerated gradient: the gradient is that of θ + μ v, one step of momentum ahead.

    What is kept as the weights is that point, as torch does, and not θ: so the gradient is at hand.
    """

    kept = ("v",)

    def rule(self, w: Tensor, g: Tensor, s: dict[str, Tensor], lr: float, momentum: float = 0.9) -> None:
        s["v"].mul_(momentum).sub_(lr * g)  # v ← μ v - ε ∇f(θ + μ v), eq. 3
        w += momentum * s["v"] - lr * g  # eq. 4, θ ← θ + v, for w = θ + μ v


class Adagrad(FromItsPaper):
    """A rate for each weight that falls with all gradients that it had."""

    kept = ("sum",)

    def rule(self, w: Tensor, g: Tensor, s: dict[str, Tensor], lr: float, eps: float = 1e-10) -> None:
        s["sum"] += g**2
        w -= lr * g / (s["sum"].sqrt() + eps)  # H = δ I + diag(‖g₁..ₜ‖₂), Fig. 1; eps is δ


class Adadelta(FromItsPaper):
    """Steps in the unit of the weights: no rate is needed. ρ and ε of the paper's MNIST, sec. 4.1; torch's ρ is 0.9."""

    kept = ("g2", "step2")

    def rule(self, w: Tensor, g: Tensor, s: dict[str, Tensor], lr: float, rho: float = 0.95, eps: float = 1e-6) -> None:
        s["g2"].mul_(rho).add_((1 - rho) * g**2)  # E[g²], line 4
        change = -(s["step2"] + eps).sqrt() / (s["g2"] + eps).sqrt() * g  # - RMS[Δx] / RMS[g] · g, line 5
        s["step2"].mul_(rho).add_((1 - rho) * change**2)  # E[Δx²], line 6
        w += lr * change  # line 7, where lr is 1


class RMSprop(FromItsPaper):
    """The gradient over its own recent size. The lecture has 0.9 and no eps; torch 0.99 and an eps outside the root."""

    kept = ("g2",)

    def rule(self, w: Tensor, g: Tensor, s: dict[str, Tensor], lr: float, alpha: float = 0.9, eps: float = 1e-8) -> None:
        s["g2"].mul_(alpha).add_((1 - alpha) * g**2)  # MeanSquare(w, t), slide 29
        w -= lr * g / (s["g2"].sqrt() + eps)


class Adam(FromItsPaper):
    """Momentum and RMSprop, both corrected for their beginning at 0."""

    kept = ("m", "v")

    def rule(
        self, w: Tensor, g: Tensor, s: dict[str, Tensor], lr: float,
        beta1: float = 0.9, beta2: float = 0.999, eps: float = 1e-8,
    ) -> None:  # fmt: skip
        t = float(s["step"])
        s["m"].mul_(beta1).add_((1 - beta1) * g)
        s["v"].mul_(beta2).add_((1 - beta2) * g**2)
        m_hat, v_hat = s["m"] / (1 - beta1**t), s["v"] / (1 - beta2**t)
        w -= lr * m_hat / (v_hat.sqrt() + eps)  # algorithm 1's ε; the ε̂ of sec. 2's other order is ε √(1 - β₂ᵗ)


RULES: dict[str, type[FromItsPaper]] = dict(
    sgd=SGD, momentum=Momentum, nag=NAG, adagrad=Adagrad, adadelta=Adadelta, rmsprop=RMSprop, adam=Adam
)
# Of 1, 2 and 5 times powers of ten the one that is lowest after 300 steps, and at no step above its start; Adadelta's own.
RAVINE = dict(sgd=1e-3, momentum=5e-4, nag=5e-4, adagrad=0.2, adadelta=1.0, rmsprop=0.05, adam=0.2)
# Of 1 and 3 times powers of ten the one of least training cost on MNIST; Adadelta's own. At step t over √t.
RACE = dict(sgd=10.0, momentum=3.0, nag=3.0, adagrad=0.3, adadelta=1.0, rmsprop=0.1, adam=0.3)


def root(step: int, total: int, history: Any) -> float:
    """α_t = α/√t; sec. 6.1, as theorem 4.1 wants it."""
    return (step + 1) ** -0.5


def all_at(rates: Mapping[str, float], schedule: Schedule | None = None) -> dict[str, Optimizer]:
    """A player for each rule. Adadelta's steps have no rate, and so no schedule."""
    return {
        name: Optimizer(partial(RULES[name], lr=lr), lr, schedule=None if name == "adadelta" else schedule)
        for name, lr in rates.items()
    }


class Point(nn.Module):
    """A place (2,) on the plane."""

    def __init__(self, x: float, y: float) -> None:
        super().__init__()
        self.at = nn.Parameter(torch.tensor([x, y], dtype=torch.float64))


def rosenbrock(at: Tensor) -> Tensor:
    """(1 - x)² + 100 (y - x²)² of points (…, 2): a bent ravine, its lowest point at (1, 1). Rosenbrock 1960."""
    x, y = at.unbind(-1)
    return (1 - x) ** 2 + 100 * (y - x**2) ** 2


class Ravine(Objective):
    """Every point goes down by its own rule; where it was is kept."""

    path: Tensor
    step: Tensor

    def __init__(self, points: Any, steps: int) -> None:
        self.names = list(points)
        self.register_buffer("path", torch.zeros(len(points), steps + 1, 2, dtype=torch.float64))
        self.register_buffer("step", torch.tensor(0))
        for i, point in enumerate(points.values()):
            self.path[i, 0] = point.at.detach()

    def losses(self, model: Any, batch: None) -> Iterator[tuple[str, Tensor]]:
        for i, (name, point) in enumerate(model.items()):
            yield name, rosenbrock(point.at)
            self.path[i, self.step + 1] = point.at.detach()
        self.step += 1

    def pictures(self, model: Any, split: None) -> dict[str, Any]:
        x, y = torch.linspace(-1.8, 1.6, 45, dtype=torch.float64), torch.linspace(-0.8, 2.2, 45, dtype=torch.float64)
        height = rosenbrock(torch.cartesian_prod(y, x).flip(1)).view(45, 45).sqrt()
        frames = []
        for share in torch.linspace(0, 1, 12).tolist():
            so_far = 1 + round(int(self.step) * share**2)  # more frames of the beginning
            paths = {name: path[:so_far].cpu() for name, path in zip(self.names, self.path, strict=True)}
            frames.append(figures.landscape(x, y, height, paths, x=f"x, after {so_far - 1} steps", y="y"))
        heights = {n: rosenbrock(p[: int(self.step) + 1].cpu()) for n, p in zip(self.names, self.path, strict=True)}
        series = {name: (torch.arange(len(height)), height) for name, height in heights.items()}
        return {"ravine": figures.animation(frames), "height": figures.lines(series, x="step", y="height", log=True)}


class Race(Objective):
    """Cross-entropy of every model of `model` on the same batches; the cost of each step is kept."""

    cost: Tensor
    step: Tensor

    def __init__(self, names: Mapping[str, Any], steps: int, epochs: int) -> None:
        self.names, self.epochs = list(names), epochs
        self.register_buffer("cost", torch.zeros(len(names), steps))
        self.register_buffer("step", torch.tensor(0))

    def losses(self, model: Any, batch: Any) -> Iterator[tuple[str, Tensor]]:
        for i, (name, one) in enumerate(model.items()):
            loss = F.cross_entropy(one(batch.image.flatten(1)), batch.label)
            self.cost[i, self.step] = loss.detach()
            yield name, loss
        self.step += 1

    def evaluate(self, model: Any, batch: Any) -> Iterator[tuple[str, Tensor]]:
        for name, one in model.items():
            logits = one(batch.image.flatten(1))
            yield f"{name}_loss", F.cross_entropy(logits, batch.label, reduction="none")
            yield f"{name}_error", (logits.argmax(1) != batch.label).float()

    def by_epoch(self) -> dict[str, Tensor]:
        """{name: (epochs,)}: the mean cost of an epoch's batches, as they were met in training."""
        each = self.cost[:, : int(self.step)].split(self.cost.shape[1] // self.epochs, dim=1)
        return dict(zip(self.names, torch.stack([part.mean(1) for part in each], 1).cpu(), strict=True))

    def pictures(self, model: Any, split: Any) -> dict[str, Any]:
        series = {name: (torch.arange(1, len(cost) + 1), cost) for name, cost in self.by_epoch().items()}
        return {"training-cost": figures.lines(series, x="epoch", y="training cost, nats", log=True, height=330)}


def recipe(
    data: Literal["mnist", "fashion-mnist", "digits"] | Path = "mnist",  # images; sec. 6.1
    batch: int = 128,                                 # images a step; sec. 6.1
    epochs: int = 45,                                 # of the race; Fig. 1
    steps: Annotated[int, Within(1)] = 300,           # down the ravine
) -> Iterator[Stage]:  # fmt: skip
    points: Any = nn.ModuleDict({name: Point(-1.4, 1.6) for name in RULES})
    ravine = Ravine(points, steps)
    yield Stage(points, None, ravine, all_at(RAVINE), steps=steps, name="ravine")
    images = image_data(data)
    start = nn.Linear(images.channels * images.size**2, images.classes)  # logistic regression; sec. 6.1
    models: Any = nn.ModuleDict({name: deepcopy(start) for name in RULES})  # all begin alike
    race = Race(RULES, epochs * -(-len(images.train) // batch), epochs)
    yield Stage(models, images, race, all_at(RACE, root), epochs=epochs, batch=batch, name="race")
    found = {f"{name}_height": float(rosenbrock(point.at.detach())) for name, point in points.items()}
    cost = {name: float(of[-1]) for name, of in race.by_epoch().items()}
    rank = sorted(("adam", "nag", "adagrad"), key=cost.__getitem__).index("adagrad") + 1  # the three of Fig. 1, left
    return found | {f"{name}_cost": value for name, value in cost.items()} | {"adagrad_rank": float(rank)}
