"""Gradient descent: all examples, one, or a few at each step; how large a step may be; and what noise is good for.

On real least squares with two weights, so that the whole surface can be seen. Seconds are in the report's table of stages;
what is compared here are epochs and iterations, which are the same on every machine.

中文     梯度下降：批量、随机、小批量
Source   Cauchy, Méthode générale pour la résolution des systèmes d'équations simultanées, 1847 (all examples)
         Robbins & Monro, A Stochastic Approximation Method, 1951 (one example: its expected step is that of all)
         Nesterov, Introductory Lectures on Convex Optimization, 2004: sec. 1.2.3 (the cost falls at any rate in (0, 2/L))
         Ge et al., COLT 2015, arXiv:1503.02101: sec. 3 (noise leaves a strict saddle)
         the notes: a cost that rises says that the rate is too large; one sample's noise may carry past a saddle
Departs  one sample at a time is drawn without replacement, each epoch in a new order, as in practice; the saddle is a
         function that we chose, and its samples are that function and a push each, which cancel
"""

from collections.abc import Callable, Iterator, Mapping
from typing import Annotated, Any, Literal

import torch
from torch import Tensor, nn

from fuxian import figures
from fuxian.contract import Objective, Splits, Stage
from fuxian.data.sources import digest
from fuxian.data.tabular import iris
from fuxian.evaluation import batches
from fuxian.facts import Claim, Within
from fuxian.methods.basics.backpropagation import AllCases, Cases
from fuxian.optim import sgd

PAPER = None
SOURCE = "Cauchy 1847; Robbins & Monro 1951; Nesterov, Introductory Lectures on Convex Optimization, 2004, sec. 1.2.3"
CLAIMS = [  # the first four are exact: gradient descent on a quadratic has a closed form, and the ridge stays a ridge
    Claim("batch/train/loss", 0.072887051694, where="closed form of 20 steps", tolerance=1e-9, seeds=1, better="equal"),
    Claim("closed_form_gap", 0.0, where="every step of four rates", tolerance=1e-9, seeds=1, better="lower"),
    Claim("below_rises", 0.0, where="the notes: never, below 2/L", tolerance=0.0, seeds=1, better="lower"),
    Claim("ridge/train/loss", 0.0, where="the saddle, which all examples stay on", tolerance=1e-9, seeds=1, better="equal"),
    # one sample at this rate wanders about the minimum: by the variance of lr σ² / 2λ a weight 0.012 above it
    Claim("noise/train/loss", -0.5, where="the minima beside the saddle", tolerance=0.05, seeds=5, better="lower"),
]
QUICK = dict(epochs=5)

# Shape letters: N examples, P points of the plane, T steps and the start.

Cost = Callable[[Tensor, Cases], Tensor]  # points (P, 2) and N examples to costs (P, N)

RATES = dict(tenth=0.1, midway=0.5, below=0.98, above=1.02)  # of 2/L


def along(w_P2: Tensor, x_N2: Tensor) -> Tensor:
    """Every w · x (P, N). As a matrix product its last bits would depend on where in memory the numbers lie."""
    return (w_P2[:, None] * x_N2).sum(-1)


def squares(w_P2: Tensor, batch: Cases) -> Tensor:
    """(x · w - y)²"""
    return (along(w_P2, batch.given) - batch.desired.T) ** 2


def saddle(w_P2: Tensor, batch: Cases) -> Tensor:
    """x² - y² + y⁴/2, and the sample's push along the plane: a saddle at 0, minima of -1/2 at y = ±1."""
    x_P1, y_P1 = w_P2.split(1, dim=1)
    return x_P1**2 - y_P1**2 + y_P1**4 / 2 + along(w_P2, batch.given)


def petals() -> Splits:
    """Iris: the petal's width from the lengths of sepal and petal, each less its mean: 150 flowers, two weights. In cm."""
    flowers: Any = iris().train
    x_N4 = flowers.x - flowers.x.mean(0)
    given_N2, desired_N1 = x_N4[:, [0, 2]], x_N4[:, [3]]
    return Splits(AllCases(given_N2, desired_N1), name="iris", hashes=iris().hashes)


def pushes() -> Splits:
    """Four samples of the saddle: their pushes are one unit left, right, down and up, and cancel exactly."""
    push_N2 = torch.tensor([[-1.0, 0], [1, 0], [0, -1], [0, 1]], dtype=torch.float64)
    return Splits(
        AllCases(push_N2, push_N2[:, :1] * 0), name="saddle", hashes={"saddle": digest(push_N2.numpy().tobytes())}
    )


def hessian(data: Splits) -> tuple[Tensor, Tensor]:
    """The least squares' second derivative (2, 2), and the weights (2,) where its cost is least."""
    (all_of_it,) = batches(data.train, None)
    x_N2, y_N1 = all_of_it.given, all_of_it.desired
    hessian_22 = 2 * (x_N2[:, :, None] * x_N2[:, None]).mean(0)
    return hessian_22, torch.linalg.solve(hessian_22, 2 * (x_N2 * y_N1).mean(0))


def closed_form(start_2: Tensor, least_2: Tensor, hessian_22: Tensor, lr: float, steps: int) -> Tensor:
    """Where gradient descent on a quadratic is after 0 to `steps` steps (T, 2): w* + (I - lr H)ᵗ (w₀ - w*).

    Each eigenvector's share shrinks by 1 - lr λ a step, and grows where lr > 2/λ: the limit is 2/L, L the largest λ.
    """
    value_2, vector_22 = torch.linalg.eigh(hessian_22)
    factor_T2 = (1 - lr * value_2) ** torch.arange(steps + 1, dtype=torch.float64)[:, None]
    return least_2 + (factor_T2 * (vector_22.T @ (start_2 - least_2))) @ vector_22.T


class Walker(nn.Module):
    """Two weights, a point of the plane. Examples (N, 2) to (N,)."""

    def __init__(self, start: tuple[float, float]) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.tensor(start, dtype=torch.float64))

    def forward(self, x_N2: Tensor) -> Tensor:
        return x_N2 @ self.w


class Descent(Objective):
    """The mean cost of a batch, for each walker of the model; every step of each is kept. `beside` are drawn with it."""

    path: Tensor
    step: Tensor

    def __init__(self, cost: Cost, model: Any, steps: int, beside: Mapping[str, "Descent"] | None = None) -> None:
        self.cost, self.names, self.beside = cost, list(model), beside or {}
        self.register_buffer("path", torch.full((len(model), steps + 1, 2), torch.nan, dtype=torch.float64))
        self.register_buffer("step", torch.tensor(0))
        for i, walker in enumerate(model.values()):
            self.path[i, 0] = walker.w.detach()

    def losses(self, model: Any, batch: Cases) -> Iterator[tuple[str, Tensor]]:
        for i, (name, walker) in enumerate(model.items()):
            yield name, self.cost(walker.w[None], batch).mean()
            self.path[i, self.step + 1] = walker.w.detach()
        self.step += 1

    def evaluate(self, model: Any, batch: Cases) -> Iterator[tuple[str, Tensor]]:
        for name, walker in model.items():
            yield "loss" if len(model) == 1 else f"{name}_loss", self.cost(walker.w[None], batch)[0]

    def paths(self) -> dict[str, Tensor]:
        """{name: (T, 2)}, of those beside it first."""
        mine = dict(zip(self.names, self.path[:, : int(self.step) + 1].cpu(), strict=True))
        return {name: path for other in self.beside.values() for name, path in other.paths().items()} | mine

    def costs(self, data: Any) -> dict[str, Tensor]:
        """{name: (T,)}: the cost of all examples at every step."""
        (all_of_it,) = batches(data, None)
        return {name: self.cost(path, all_of_it).mean(1) for name, path in self.paths().items()}


class OnTheSurface(Descent):
    """Drawn as paths over the plane: `least_2` is the lowest point, `reach` how far around it is shown."""

    def __init__(self, *given: Any, least_2: Tensor, reach: float, axes: tuple[str, str], **more: Any) -> None:
        super().__init__(*given, **more)
        self.least_2, self.reach, self.axes = least_2, reach, axes

    def pictures(self, model: Any, split: Any) -> dict[str, Any]:
        (all_of_it,) = batches(split, None)
        x, y = (centre + torch.linspace(-self.reach, self.reach, 41, dtype=torch.float64) for centre in self.least_2)
        plane_P2 = torch.cartesian_prod(y, x).flip(1)
        height = self.cost(plane_P2, all_of_it).mean(1).view(len(y), len(x))
        paths = self.paths()
        frames = [  # the same share of each path: the same number of examples seen
            figures.landscape(x, y, height, {name: path[: 1 + round((len(path) - 1) * share**2)] for name, path in
                                             paths.items()}, x=self.axes[0], y=self.axes[1])
            for share in torch.linspace(0, 1, 12).tolist()
        ]  # fmt: skip
        return {"paths": figures.animation(frames)}


class BySize(OnTheSurface):
    """Drawn as costs too: by epoch, and by iteration, where those beside it have seen more or fewer examples."""

    def pictures(self, model: Any, split: Any) -> dict[str, Any]:
        (all_of_it,) = batches(split, None)
        least = self.cost(self.least_2[None], all_of_it).mean()
        excess = {name: cost - least for name, cost in self.costs(split).items()}
        epochs = min(len(cost) - 1 for cost in excess.values())  # of all examples, a step is an epoch
        ends = {name: cost[:: max(1, (len(cost) - 1) // max(1, epochs))] for name, cost in excess.items()}
        by_epoch = {name: (torch.arange(len(cost)), cost) for name, cost in ends.items()}
        by_step = {name: (torch.arange(len(cost))[:101], cost[:101]) for name, cost in excess.items()}
        title = "cost above the least, cm²"
        return super().pictures(model, split) | {
            "cost-by-epoch": figures.lines(by_epoch, x="epochs: times that every example was seen", y=title, log=True),
            "cost-by-iteration": figures.lines(by_step, x="iterations: steps of the weights", y=title, log=True),
        }


class ByRate(Descent):
    """Drawn as the cost of every step."""

    def pictures(self, model: Any, split: Any) -> dict[str, Any]:
        named = {f"{RATES[name]:g} × 2/L": cost for name, cost in self.costs(split).items()}
        series = {name: (torch.arange(len(cost)), cost) for name, cost in named.items()}
        return {"rates": figures.lines(series, x="step, of all examples", y="cost, cm²", log=True)}


def rises(cost_T: Tensor) -> int:
    """At how many steps the cost rose, by more than rounding."""
    return int((cost_T[1:] > cost_T[:-1] * (1 + 1e-12)).sum())


def recipe(
    data: Literal["iris"] = "iris",                    # the petal's width from two lengths: a surface over two weights
    batch: int = 32,                                   # examples of the mini-batch
    lr: float = 0.05,                                  # of all three
    epochs: int = 20,                                  # times that each of the three sees every example
    rate_steps: Annotated[int, Within(1)] = 60,        # of all examples, at rates below and above 2/L
    saddle_steps: Annotated[int, Within(1)] = 200,     # from the ridge of the saddle
) -> Iterator[Stage]:  # fmt: skip
    flowers = petals()
    hessian_22, least_2 = hessian(flowers)
    limit = 2 / float(torch.linalg.eigvalsh(hessian_22)[-1])
    n = len(flowers.train)
    start = (-0.9, 0.15)
    shown: dict[str, Any] = dict(
        least_2=least_2, reach=0.9, axes=("weight of the sepal's length", "weight of the petal's length")
    )
    three: dict[str, Descent] = {}
    found: dict[str, float] = {}
    for name, size in {"batch": None, "mini-batch": batch, "single": 1}.items():
        steps = epochs * -(-n // (size or n))  # an epoch's last batch may be short
        model = nn.ModuleDict({name: Walker(start)})
        last = name == "single"  # it draws all three
        three[name] = BySize(squares, model, steps, dict(three), **shown) if last else Descent(squares, model, steps)
        yield Stage(model, flowers, three[name], {name: sgd(lr)}, epochs=epochs, batch=size, name=name)
        found[f"{name}_iterations"] = float(three[name].step)
    rates = nn.ModuleDict({name: Walker(start) for name in RATES})
    by_rate = ByRate(squares, rates, rate_steps)
    yield Stage(rates, flowers, by_rate, {name: sgd(share * limit) for name, share in RATES.items()}, steps=rate_steps,
                name="rates")  # fmt: skip
    gaps = []
    for name, path_T2 in by_rate.paths().items():
        expected_T2 = closed_form(
            torch.tensor(start, dtype=torch.float64), least_2, hessian_22, RATES[name] * limit, len(path_T2) - 1
        )
        gaps.append(float((path_T2 - expected_T2).abs().max()))
        found[f"{name}_rises"] = rises(by_rate.costs(flowers.train)[name])
    around: dict[str, Any] = dict(least_2=torch.zeros(2).double(), reach=1.6, axes=("x", "y"))
    ridge = nn.ModuleDict({"ridge": Walker((1.4, 0.0))})
    staying = Descent(saddle, ridge, saddle_steps)
    yield Stage(ridge, pushes(), staying, {"ridge": sgd(lr)}, steps=saddle_steps, name="ridge")
    noise = nn.ModuleDict({"noise": Walker((1.4, 0.0))})
    leaving = OnTheSurface(saddle, noise, saddle_steps, {"ridge": staying}, **around)
    yield Stage(noise, pushes(), leaving, {"noise": sgd(lr)}, steps=saddle_steps, batch=1, name="noise")
    return found | {"rate_limit": limit, "closed_form_gap": max(gaps)}
