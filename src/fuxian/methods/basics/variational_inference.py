"""Variational inference: a posterior is found by optimization, below a bound that would touch log p(y) if it were exact.

The model is one whose answer is known, so that all can be checked: a petal's width from its length, by a line whose two
weights have a Gaussian prior, with noise of a known size. At every step log p(y) - ELBO is the KL to the true posterior.

中文     变分推断、证据下界、自由能
Paper    Jordan, Ghahramani, Jaakkola & Saul, Machine Learning 37, 1999: sec. 6 (a bound by a family of distributions)
         Neal & Hinton, A View of the EM Algorithm, 1998: sec. 2 (energy less entropy; their F is its negative)
         Bishop, Pattern Recognition and Machine Learning, 2006: eq. 3.53-3.54 (the posterior), eq. 10.2-10.4 (the bound
         and the gap), sec. 10.1.2 (what independent weights make of a Gaussian)
Departs  noise and prior are known numbers, where Bishop's sec. 10.3 infers the prior too; the expectations, which are in
         closed form here, are descended by L-BFGS, where Jordan et al. solve for one factor at a time
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from math import log, pi
from typing import Annotated, Any, Literal, NamedTuple

import torch
from matplotlib.figure import Figure
from torch import Tensor, nn

from fuxian import figures
from fuxian.contract import Metric, Objective, Stage
from fuxian.data.tabular import Rows, Table, TableSplits, iris
from fuxian.evaluation import batches
from fuxian.facts import Claim, Paper, Within
from fuxian.metrics.clustering import Total
from fuxian.optim import lbfgs

PAPER = Paper("An Introduction to Variational Methods for Graphical Models", "Jordan et al.", 1999,
              venue="Machine Learning")  # fmt: skip
CLAIMS = [  # exact: all of it is Gaussian
    Claim("train/elbo", -4.511800581, where="log p(y) of the 15 flowers, in closed form", tolerance=1e-6, seeds=1,
          better="equal"),
    Claim("mean_field_gap", 0.854456457, where="½ log(Π Λᵢᵢ / det Λ): Bishop, sec. 10.1.2", tolerance=1e-6, seeds=1,
          better="equal"),
    Claim("identity_error", 0.0, where="log p(y) = ELBO + KL at every step: Bishop, eq. 10.2", tolerance=1e-9, seeds=1,
          better="lower"),
    Claim("free_energy_error", 0.0, where="free energy = -ELBO at every step", tolerance=1e-9, seeds=1, better="lower"),
    Claim("steps_above", 0.0, where="ELBO ≤ log p(y) at every step", seeds=1, better="lower"),
]  # fmt: skip
QUICK = dict(steps=12)
SEEDLESS = True

# Shape letters: N flowers, D = 2 weights, a slope and an intercept; T steps and the start, or nothing.


class Gaussian(NamedTuple):
    """N(mean, factor factorᵀ), or T of them."""

    mean_TD: Tensor
    factor_TDD: Tensor  # lower triangular, positive on the diagonal

    @property
    def log_det_T(self) -> Tensor:
        """Of the factor: half of the covariance's."""
        return self.factor_TDD.diagonal(dim1=-2, dim2=-1).log().sum(-1)

    @property
    def entropy_T(self) -> Tensor:
        """-∫ q log q: how wide it is, in nats."""
        return self.mean_TD.shape[-1] / 2 * (1 + log(2 * pi)) + self.log_det_T

    def square_along(self, x_ND: Tensor) -> Tensor:
        """The variance (T, N) of every x · θ."""
        return (x_ND[:, :, None] * self.factor_TDD[..., None, :, :]).sum(-2).square().sum(-1)

    def kl(self, other: "Gaussian") -> Tensor:
        """KL(self ‖ other), (T,), in nats."""
        apart_TDD = torch.linalg.solve_triangular(other.factor_TDD, self.factor_TDD, upper=False)
        shift_TD1 = torch.linalg.solve_triangular(other.factor_TDD, (self.mean_TD - other.mean_TD)[..., None], upper=False)
        squares_T = apart_TDD.square().sum((-2, -1)) + shift_TD1.square().sum((-2, -1))
        return (squares_T - self.mean_TD.shape[-1]) / 2 + other.log_det_T - self.log_det_T


@dataclass(frozen=True)
class Line:
    """y = x · θ + noise: θ ~ N(0, prior²), the noise ~ N(0, noise²)."""

    noise: float  # cm
    prior: float

    def before(self, x_ND: Tensor) -> Gaussian:
        """p(θ)"""
        eye_DD = torch.eye(x_ND.shape[1], dtype=x_ND.dtype, device=x_ND.device)
        return Gaussian(torch.zeros_like(eye_DD[0]), self.prior * eye_DD)

    def precision(self, x_ND: Tensor) -> Tensor:
        """Λ of the posterior, (D, D): XᵀX / noise² + 1 / prior²; eq. 3.54."""
        products_DD = (x_ND[:, :, None] * x_ND[:, None, :]).sum(0)  # sums: the same bits in every run
        return products_DD / self.noise**2 + torch.eye(x_ND.shape[1]).to(x_ND) / self.prior**2

    def after(self, x_ND: Tensor, y_N: Tensor) -> Gaussian:
        """p(θ | y): N(Λ⁻¹ Xᵀy / noise², Λ⁻¹); eq. 3.53."""
        covariance_DD = torch.linalg.inv(self.precision(x_ND))
        pull_D = (x_ND * y_N[:, None]).sum(0) / self.noise**2
        return Gaussian((covariance_DD * pull_D).sum(1), torch.linalg.cholesky(covariance_DD))

    def log_evidence(self, x_ND: Tensor, y_N: Tensor) -> Tensor:
        """log p(y), where θ is integrated out: the flowers together are N(0, noise² + prior² X Xᵀ)."""
        covariance_NN = self.prior**2 * (x_ND[:, None] * x_ND[None]).sum(-1) + self.noise**2 * torch.eye(len(y_N)).to(y_N)
        factor_NN = torch.linalg.cholesky(covariance_NN)
        square = torch.linalg.solve_triangular(factor_NN, y_N[:, None], upper=False).square().sum()
        return -square / 2 - factor_NN.diagonal().log().sum() - len(y_N) / 2 * log(2 * pi)

    def likelihood(self, q: Gaussian, x_ND: Tensor, y_N: Tensor) -> Tensor:
        """∫ q log p(yₙ | θ), (T, N)."""
        miss_TN = y_N - (q.mean_TD[..., None, :] * x_ND).sum(-1)
        return -(miss_TN**2 + q.square_along(x_ND)) / (2 * self.noise**2) - log(self.noise) - log(2 * pi) / 2

    def elbo(self, q: Gaussian, x_ND: Tensor, y_N: Tensor) -> Tensor:
        """∫ q log p(y | θ) - KL(q ‖ p(θ)), (T,); eq. 10.3."""
        return self.likelihood(q, x_ND, y_N).sum(-1) - q.kl(self.before(x_ND))

    def free_energy(self, q: Gaussian, x_ND: Tensor, y_N: Tensor) -> Tensor:
        """∫ q E - entropy, (T,), where a state's energy E(θ) is -log p(y, θ). Neal & Hinton, sec. 2."""
        square_T = q.mean_TD.square().sum(-1) + q.factor_TDD.square().sum((-2, -1))
        log_prior_T = -square_T / (2 * self.prior**2) - x_ND.shape[1] * (log(self.prior) + log(2 * pi) / 2)
        return -self.likelihood(q, x_ND, y_N).sum(-1) - log_prior_T - q.entropy_T


def with_one(x_NF: Tensor) -> Tensor:
    """(N, D): the features and a one, whose weight is the height of the line."""
    return torch.cat([x_NF, torch.ones_like(x_NF[:, :1])], 1)


class MeanField(nn.Module):
    """q of independent weights; it begins as the prior. Features (N, F) to the line's mean and deviation there (N, 2)."""

    def __init__(self, weights: int, prior: float) -> None:
        super().__init__()
        self.mean = nn.Parameter(torch.zeros(weights, dtype=torch.float64))
        self.log_std = nn.Parameter(torch.full_like(self.mean, log(prior)))

    def q(self) -> Gaussian:
        return Gaussian(self.mean, self.log_std.exp().diag())

    def forward(self, x_NF: Tensor) -> Tensor:
        x_ND, q = with_one(x_NF), self.q()
        return torch.stack([(x_ND * q.mean_TD).sum(1), q.square_along(x_ND).sqrt()], 1)


class Full(MeanField):
    """q whose weights may depend on each other."""

    def __init__(self, weights: int, prior: float) -> None:
        super().__init__(weights, prior)
        self.below = nn.Parameter(torch.zeros(weights * (weights - 1) // 2, dtype=torch.float64))

    def q(self) -> Gaussian:
        mean_D, diagonal_DD = super().q()
        row, column = torch.tril_indices(len(mean_D), len(mean_D), -1, device=mean_D.device)
        return Gaussian(mean_D, diagonal_DD.index_put((row, column), self.below))


class Elbo(Total):
    """A sum over flowers, less what is counted once: the KL to the prior."""

    def __init__(self, kl: float) -> None:
        super().__init__()
        self.kl = kl

    def value(self) -> float:
        return super().value() - self.kl


class Bound(Objective):
    """The free energy, made smaller; where q has been is kept."""

    way: Tensor  # mean and factor side by side, (T, D, 1 + D)
    step: Tensor

    def __init__(self, line: Line, model: Any, steps: int) -> None:
        self.line = line
        now = self.now(model.q())
        self.register_buffer("way", torch.full((steps + 1, *now.shape), torch.nan, dtype=now.dtype))
        self.register_buffer("step", torch.tensor(0))
        self.way[0] = now

    @staticmethod
    def now(q: Gaussian) -> Tensor:
        return torch.cat([q.mean_TD[:, None], q.factor_TDD], 1).detach()

    def inputs(self, batch: Rows) -> tuple[Tensor, ...]:
        return (batch.x,)

    def losses(self, model: Any, batch: Rows) -> Iterator[tuple[str, Tensor]]:
        yield "model", self.line.free_energy(model.q(), with_one(batch.x), batch.label)
        self.step += 1
        self.way[self.step] = self.now(model.q())

    def metrics(self, model: Any) -> dict[str, Metric]:
        q = model.q()
        return {"elbo": Elbo(float(q.kl(self.line.before(q.mean_TD[None]))))}

    def evaluate(self, model: Any, batch: Rows) -> Iterator[tuple[str, Tensor]]:
        yield "elbo", self.line.likelihood(model.q(), with_one(batch.x), batch.label)

    def predict(self, model: Any, batch: Rows) -> list[dict[str, Any]]:
        return [{"petal width, cm": mean, "of the line ±": std} for mean, std in model(batch.x).tolist()]

    def path(self) -> Gaussian:
        way = self.way[: int(self.step) + 1].cpu()
        return Gaussian(way[..., 0], way[..., 1:])


class Beside(Bound):
    """Drawn with another that has been trained before: both ways, and what each makes of the line."""

    def __init__(self, line: Line, model: Any, steps: int, other: Bound) -> None:
        super().__init__(line, model, steps)
        self.other = (other,)  # in a tuple: it is no part of this one's state

    def paths(self) -> dict[str, Gaussian]:
        return {"mean-field": self.other[0].path(), "full": self.path()}

    def pictures(self, model: Any, split: Any) -> dict[str, Any]:
        (batch,) = batches(split, None, "cpu")
        x_ND, y_N = with_one(batch.x), batch.label
        true, log_p, paths = self.line.after(x_ND, y_N), float(self.line.log_evidence(x_ND, y_N)), self.paths()
        steps = {name: torch.arange(len(q.mean_TD)) for name, q in paths.items()}
        rising = {name: self.line.elbo(q, x_ND, y_N) for name, q in paths.items()}
        curves = {name: (steps[name], torch.where(elbo > log_p - 30, elbo, torch.nan)) for name, elbo in rising.items()}
        limit = {"log p(y)": (steps["mean-field"], [log_p] * len(steps["mean-field"]))}
        length = torch.linspace(0, 8, 81, dtype=x_ND.dtype)
        independent = Gaussian(*(part[-1] for part in paths["mean-field"]))
        wide = {name: q.square_along(with_one(length[:, None])).sqrt()
                for name, q in {"true posterior": true, "mean-field": independent}.items()}  # fmt: skip
        frames = torch.linspace(0, len(steps["mean-field"]) - 1, 12).round().long().tolist()
        return {
            "posterior": figures.animation([self.ellipses(true, paths, t) for t in frames]),
            "elbo": figures.lines(curves | limit, x="step", y="ELBO, nats; what is lower by 30 is left out"),
            "gap": figures.lines({name: (steps[name], q.kl(true)) for name, q in paths.items()}, x="step", log=True,
                                 y="log p(y) - ELBO = KL to the posterior, nats"),
            "line": figures.lines({name: (length, std) for name, std in wide.items()}, x="petal length, cm",
                                  y="standard deviation of the line there, cm"),
        }  # fmt: skip

    def ellipses(self, true: Gaussian, paths: Mapping[str, Gaussian], t: int) -> Figure:
        """One and two standard deviations: the posterior grey, each q a line."""
        turn_P = torch.linspace(0, 2 * pi, 73, dtype=torch.float64)
        circle_P2 = torch.stack([turn_P.cos(), turn_P.sin()], 1)
        drawing, axes = figures.figure(height=350)
        true_P2 = circle_P2 @ true.factor_TDD.T
        for wide in (2, 1):
            axes.fill(*(true.mean_TD + wide * true_P2).T, color=figures.PALETTE["soft"], alpha=0.25, linewidth=0)
        for i, (name, q) in enumerate(paths.items()):
            at = min(t, len(q.mean_TD) - 1)
            for wide in (1, 2):
                q_P2 = q.mean_TD[at] + wide * circle_P2 @ q.factor_TDD[at].T
                axes.plot(*q_P2.T, color=figures.PALETTE[figures.SERIES[i]], linestyle=figures.DASHES[i], linewidth=1.6,
                          label=name if wide == 1 else None)  # fmt: skip
        low_2, high_2 = (true.mean_TD + side * 4 * true_P2.amax(0) for side in (-1, 1))
        axes.set(xlim=(float(low_2[0]), float(high_2[0])), ylim=(float(low_2[1]), float(high_2[1])))
        axes.grid(False)
        axes.set_title(f"intercept, cm; step {t}", loc="left", fontsize=12, color=figures.PALETTE["soft"])
        axes.set_xlabel("slope", loc="right")
        axes.legend(loc="lower left", frameon=False)
        return drawing


def petals(flowers: int) -> TableSplits:
    """Iris: the petal's width from its length, in cm, of so many flowers, taken evenly from all three species."""
    whole = iris()
    table: Any = whole.train
    length_N1, width_N1 = table.x[torch.arange(flowers) * len(table) // flowers][:, 2:].split(1, dim=1)
    return TableSplits(Table(length_N1, width_N1[:, 0]), name="iris", columns=whole.columns[2:3], names=(),
                       hashes=whole.hashes)  # fmt: skip


def recipe(
    data: Literal["iris"] = "iris",                     # a petal's width from its length
    flowers: Annotated[int, Within(1, 150)] = 15,       # so few that the posterior is wide enough to be seen
    noise: Annotated[float, Within(0.001)] = 0.2,       # standard deviation about the line, cm
    prior: Annotated[float, Within(0, above=True)] = 1.0,  # standard deviation of both weights
    steps: int = 25,                                    # of each q: L-BFGS, three line searches in each
) -> Iterator[Stage]:  # fmt: skip
    some, line = petals(flowers), Line(noise, prior)
    independent, full = MeanField(some.features + 1, prior), Full(some.features + 1, prior)
    one = Bound(line, independent, steps)
    yield Stage(independent, some, one, lbfgs(iterations=3), steps=steps, name="mean-field")
    both = Beside(line, full, steps, one)
    yield Stage(full, some, both, lbfgs(iterations=3), steps=steps, name="full")
    (batch,) = batches(some.train, None, "cpu")
    x_ND, y_N = with_one(batch.x), batch.label
    log_p, true, precision_DD = line.log_evidence(x_ND, y_N), line.after(x_ND, y_N), line.precision(x_ND)
    paths = both.paths().values()
    elbo = torch.cat([line.elbo(q, x_ND, y_N) for q in paths])
    kl = torch.cat([q.kl(true) for q in paths])
    free_energy = torch.cat([line.free_energy(q, x_ND, y_N) for q in paths])
    return {
        "log_evidence": float(log_p),
        "mean_field_gap": float(one.path().kl(true)[-1]),
        "closed_form_gap": float(precision_DD.diagonal().log().sum() - precision_DD.logdet()) / 2,
        "identity_error": float((log_p - elbo - kl).abs().max()),
        "free_energy_error": float((free_energy + elbo).abs().max()),
        "steps_above": float((elbo > log_p + 1e-9).sum()),
    }
