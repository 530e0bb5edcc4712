"""Information: the bits of an event, entropy, cross-entropy, and KL divergence, in which it matters what comes first.

中文     信息量、熵、交叉熵、KL 散度与独热编码
Paper    Shannon, Bell System Technical Journal 27, 1948: sec. 6 (entropy, the coin of Fig. 7)
         Kullback & Leibler, Annals of Mathematical Statistics 22(1), 1951: sec. 2 (mean information for discrimination)
         Bishop, Pattern Recognition and Machine Learning, 2006: Fig. 10.3 (the two fits), eq. 10.187 (moments)
         the notes, football: one in four to reach the final, one in two to win it, so one in eight for the title
Departs  the notes write KL(P‖Q) = -Σ P log Q = -H(P, Q): a sign is wrong and the entropy is lost; KL(P‖Q) = H(P, Q) - H(P).
         Bishop's humps lie in a plane, ours on a line; a fit begins by one of them: from the middle it stays across both
"""

from collections.abc import Iterator
from dataclasses import dataclass
from math import log
from typing import Annotated, Any, Literal

import torch
from torch import Tensor, nn

from fuxian import figures
from fuxian.contract import Batch, Objective, Splits, Stage
from fuxian.data.sources import digest_of
from fuxian.errors import WrongInput
from fuxian.evaluation import batches
from fuxian.facts import Claim, Paper, Within
from fuxian.metrics.clustering import Total
from fuxian.optim import adam, cosine

PAPER = Paper("A Mathematical Theory of Communication", "Shannon", 1948, venue="Bell System Technical Journal")
CLAIMS = [  # exact answers: tolerances are those of float64, and of a thousand steps of Adam
    Claim("moment_gap", 0.0, where="Bishop eq. 10.187: the forward fit has the moments", tolerance=1e-4, seeds=3,
          better="lower"),
    # each point of one hump is half as likely in p as in a fit of that hump alone; at a distance of 6 they touch a little
    Claim("train/reverse_kl", 0.6931, where="Bishop Fig. 10.3 b, c: one of two humps, ln 2", tolerance=0.01, seeds=3,
          better="equal"),
    Claim("bits_half", 1.0, where="the notes, f(1/2)", tolerance=1e-9, seeds=1, better="equal"),
    Claim("bits_quarter", 2.0, where="the notes, f(1/4)", tolerance=1e-9, seeds=1, better="equal"),
    Claim("bits_eighth", 3.0, where="the notes, f(1/8) = f(1/2) + f(1/4)", tolerance=1e-9, seeds=1, better="equal"),
    Claim("kl", 0.25, where="H(P, Q) - H(P) = 1.75 - 1.5 bits; the notes' formula gives -1.75", tolerance=1e-9, seeds=1,
          better="equal"),
    Claim("one_hot_distance", 1.4142135623730951, where="the notes, any two of three jobs", tolerance=1e-9, seeds=1,
          better="equal"),
]  # fmt: skip
QUICK = dict(steps=300)

# Shape letters: N events or points, D dimensions.


def information(p: Tensor) -> Tensor:
    """Bits of events of probability `p`: the only continuous f with f(a b) = f(a) + f(b) and f(1/2) = 1."""
    return -p.log2()


def entropy(p_N: Tensor) -> Tensor:
    """H(P) = -Σ P ln P, in nats; what cannot happen adds nothing. Sec. 6."""
    return -torch.xlogy(p_N, p_N).sum(-1)


def cross_entropy(p_N: Tensor, q_N: Tensor) -> Tensor:
    """H(P, Q) = -Σ P ln Q, in nats: infinite where Q rules out what P does not."""
    return -torch.xlogy(p_N, q_N).sum(-1)


def kl(p_N: Tensor, q_N: Tensor) -> Tensor:
    """KL(P‖Q) = Σ P ln (P / Q) = H(P, Q) - H(P), in nats: never below zero. Raises WrongInput."""
    for name, r_N in (("P", p_N), ("Q", q_N)):
        least, off = float(r_N.min()), float((r_N.sum(-1) - 1).abs().max())
        if least < 0 or not off < 1e-6:
            raise WrongInput(f"{name} is no distribution: its least is {least:g}, its sum is off 1 by {off:g}")
    return cross_entropy(p_N, q_N) - entropy(p_N)


def gaussian_kl(mean_D: Tensor, cov_DD: Tensor, other_mean_D: Tensor, other_cov_DD: Tensor) -> Tensor:
    """KL(N(mean, cov)‖N(other_mean, other_cov)) in nats, in closed form. Raises WrongInput."""
    roots_DD = []
    for cov in (cov_DD, other_cov_DD):
        root_DD, failed = torch.linalg.cholesky_ex(cov)
        if failed.any():
            raise WrongInput(f"a covariance is singular: its eigenvalues are {torch.linalg.eigvalsh(cov).tolist()}")
        roots_DD.append(root_DD)
    root_DD, other_DD = roots_DD
    far_D = torch.linalg.solve_triangular(other_DD, (other_mean_D - mean_D).unsqueeze(-1), upper=False)
    wide_DD = torch.linalg.solve_triangular(other_DD, root_DD, upper=False)  # their squares sum to tr Σq⁻¹ Σp
    logs = (other_DD.diagonal().log() - root_DD.diagonal().log()).sum()  # half of ln |Σq| / |Σp|
    return 0.5 * (wide_DD.square().sum() + far_D.square().sum() - len(mean_D)) + logs


def one_hot(codes_N: Tensor, classes: int) -> Tensor:
    """(N, classes): jobs 1, 2, 3 are 1 and 2 apart as numbers, and √2 as these rows, whichever two they are."""
    return torch.eye(classes, dtype=torch.float64)[codes_N]


# ── bits ────────────────────────────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True)
class Points(Batch):
    x: Tensor  # (N,) where a point is; float64
    p: Tensor  # (N,) its probability


class Listed:
    """Points or events with a probability each, in memory."""

    def __init__(self, x_N: Tensor, p_N: Tensor) -> None:
        self.x, self.p = x_N, p_N

    def __len__(self) -> int:
        return len(self.p)

    def batch(self, indices: Tensor) -> Points:
        return Points(self.x[indices], self.p[indices])


def listed(x_N: Tensor, p_N: Tensor, name: str) -> Splits:
    return Splits(Listed(x_N, p_N), name=name, hashes={name: digest_of(x_N.numpy(), p_N.numpy())})


def football() -> Splits:
    """To win the final once in it, to reach it, to win the title: the notes."""
    return listed(torch.arange(3).double(), torch.tensor([1 / 2, 1 / 4, 1 / 8]).double(), "football")


class Bits(nn.Module):
    """Probabilities (N,) to bits (N,)."""

    def forward(self, p_N: Tensor) -> Tensor:
        return information(p_N)


class Surprise(Objective):
    """Measures bits; nothing is learned."""

    def inputs(self, batch: Points) -> tuple[Tensor, ...]:
        return (batch.p,)

    def evaluate(self, model: Bits, batch: Points) -> Iterator[tuple[str, Tensor]]:
        yield "bits", model(batch.p)

    def pictures(self, model: Any, split: Any) -> dict[str, Any]:
        """The entropy of a coin; and the KL of two Gaussians as one moves away."""
        heads = torch.linspace(0, 1, 201).double()
        coin = entropy(torch.stack([heads, 1 - heads], 1)) / log(2)
        drawing, axes = figures.figure()
        axes.plot(heads, coin, color=figures.PALETTE["blue"])
        axes.set_title("entropy of a coin, bits", loc="left", fontsize=12, color=figures.PALETTE["soft"])
        axes.set_xlabel("probability of heads", loc="right")
        at, one = torch.linspace(0, 3, 61).double(), torch.eye(1).double()
        curves = {
            f"q {width}": (at, torch.stack([gaussian_kl(one[0] * 0, one, one[0] * m, one * std**2) for m in at]))
            for width, std in (("half as wide", 0.5), ("as wide", 1.0), ("twice as wide", 2.0))
        }
        moving = figures.lines(curves, x="distance of the means, standard deviations of p", y="KL(p‖q), nats")
        return {"coin": drawing, "moving": moving}


# ── two ways to fit ─────────────────────────────────────────────────────────────────────────────────────────────────


def humps(apart: float, points: int = 601) -> Splits:
    """Half N(-apart / 2, 1) and half N(apart / 2, 1), as probabilities of points that lie close together."""
    x_N = torch.linspace(-apart / 2 - 8, apart / 2 + 8, points, dtype=torch.float64)
    p_N = (-(x_N[:, None] - torch.tensor([-apart / 2, apart / 2]).double()).square() / 2).logsumexp(1).softmax(0)
    return listed(x_N, p_N, "humps")


class Normal(nn.Module):
    """A Gaussian with a mean and a standard deviation to learn: points (N,) to log densities (N,)."""

    def __init__(self, mean: Tensor, std: float) -> None:
        super().__init__()
        self.mean = nn.Parameter(mean)
        self.log_std = nn.Parameter(torch.full_like(mean, log(std)))

    def forward(self, x_N: Tensor) -> Tensor:
        return -0.5 * ((x_N - self.mean) / self.log_std.exp()).square() - self.log_std - 0.5 * log(2 * torch.pi)


class Fits(nn.Module):
    """`covering` is to have mass wherever p has, `seeking` to have none where p has none. (N,) to log densities (N, 2)."""

    def __init__(self, apart: float) -> None:
        super().__init__()
        draw = torch.randn((), dtype=torch.float64)
        start = apart / 2 * draw.sign() + 0.2 * draw  # by one hump; from the middle `seeking` ends across both
        self.covering, self.seeking = Normal(start.clone(), 2.0), Normal(start.clone(), 1.0)

    def forward(self, x_N: Tensor) -> Tensor:
        return torch.stack([self.covering(x_N), self.seeking(x_N)], 1)


class BothWays(Objective):
    """KL(p‖q) for the one, KL(q‖p) for the other, as sums over points that lie `spacing` apart."""

    def __init__(self, spacing: float) -> None:
        self.spacing = spacing

    def inputs(self, batch: Points) -> tuple[Tensor, ...]:
        return (batch.x,)

    def terms(self, model: Fits, batch: Points) -> Iterator[tuple[str, Tensor]]:
        """Of each fit: its name, and the terms of its KL at the points."""
        log_p = batch.p.log()
        for name, q in (("covering", model.covering), ("seeking", model.seeking)):
            log_q = q(batch.x) + log(self.spacing)  # of a point, not of a unit of length
            first, other = (log_p, log_q) if name == "covering" else (log_q, log_p)
            yield name, first.exp() * (first - other)

    def losses(self, model: Fits, batch: Points) -> Iterator[tuple[str, Tensor]]:
        for name, terms in self.terms(model, batch):
            yield name, terms.sum()

    def metrics(self, model: Fits) -> dict[str, Any]:
        return {"forward_kl": Total(), "reverse_kl": Total()}

    def evaluate(self, model: Fits, batch: Points) -> Iterator[tuple[str, Tensor]]:
        for name, (_, terms) in zip(("forward_kl", "reverse_kl"), self.terms(model, batch), strict=True):
            yield name, terms

    def pictures(self, model: Any, split: Any) -> dict[str, Any]:
        """p and both fits."""
        (batch,) = batches(split, None)
        drawing, axes = figures.figure()
        axes.fill_between(batch.x, batch.p / self.spacing, color=figures.PALETTE["rule"], linewidth=0)
        curves = {"p": (batch.p / self.spacing, "soft"), "least KL(p‖q)": (model.covering(batch.x).exp(), "blue"),
                  "least KL(q‖p)": (model.seeking(batch.x).exp(), "vermilion")}  # fmt: skip
        for (name, (density, colour)), dash in zip(curves.items(), figures.DASHES, strict=False):
            axes.plot(batch.x, density, color=figures.PALETTE[colour], linestyle=dash)
            top = int(density.argmax()) if name != "p" else int((batch.p * (batch.x * model.seeking.mean < 0)).argmax())
            axes.annotate(name, (float(batch.x[top]), float(density[top])), (0, 4), textcoords="offset points",
                          ha="center", color=figures.PALETTE[colour])  # fmt: skip
        axes.set_title("density", loc="left", fontsize=12, color=figures.PALETTE["soft"])
        axes.set_xlabel("x", loc="right")
        axes.margins(y=0.12)
        return {"fits": drawing}


def recipe(
    data: Literal["humps"] = "humps",                          # two Gaussians of the same weight; like Bishop's Fig. 10.3
    apart: Annotated[float, Within(0, 70)] = 6.0,              # between the humps, in their standard deviations
    lr: float = 0.1,                                           # Adam, down to zero along a cosine
    steps: int = 1000,                                         # of the two fits
) -> Iterator[Stage]:  # fmt: skip
    events = football()
    yield Stage(Bits(), events, Surprise(), steps=0, name="bits")
    bits = information(events.train.batch(torch.arange(3)).p).tolist()
    distance = torch.pdist(one_hot(torch.arange(3), 3))
    model, points = Fits(apart), humps(apart)
    whole = points.train.batch(torch.arange(len(points.train)))
    x_N, p_N = whole.x, whole.p
    fitting, step = BothWays(float(x_N[1] - x_N[0])), adam(lr, schedule=cosine())
    yield Stage(model, points, fitting, dict(covering=step, seeking=step), steps=steps, name="fits")
    mean = (p_N * x_N).sum()
    std = (p_N * (x_N - mean).square()).sum().sqrt()
    fit = model.covering
    moment_gap = max(abs(fit.mean.item() - mean.item()), abs(fit.log_std.exp().item() - std.item()))
    p_3, q_3 = torch.tensor([[0.5, 0.25, 0.25], [0.25, 0.25, 0.5]], dtype=torch.float64)
    in_bits = {"entropy": entropy(p_3), "cross_entropy": cross_entropy(p_3, q_3), "kl": kl(p_3, q_3),
               "kl_of_the_notes": -cross_entropy(p_3, q_3)}  # fmt: skip
    return {"moment_gap": moment_gap, **{name: float(nats) / log(2) for name, nats in in_bits.items()},
            "one_hot_distance": float(distance.max()),
            "one_hot_spread": float(distance.max() - distance.min()),
            **dict(zip(("bits_half", "bits_quarter", "bits_eighth"), bits, strict=True))}  # fmt: skip
