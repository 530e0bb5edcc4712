"""Optimizers, learning-rate schedules and stopping rules, as specifications.

A specification is all that happens on one player's step. Schedules are pure functions of the step and of the
validation history, stopping rules of the history alone, so neither has state to save.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import nn
from typing_extensions import TypedDict, Unpack

from fuxian.contract import History
from fuxian.errors import ContractError

Schedule = Callable[[int, int, History], float]  # (step from 0, steps of the stage, history) -> factor of the rate
Decay = float | Sequence[tuple[nn.Module | nn.Parameter | Iterable[nn.Parameter], float]]


@dataclass(frozen=True)
class Optimizer:
    """One player's step: rate, weight decay, gradient clipping, average of the weights, and whose weights they are.

    decay     one rate for all weights, or [(module or parameters, rate), …] and zero for the others
    clip      largest 2-norm of the player's gradient; None: not clipped
    ema       decay of the exponential moving average that is judged in place of the last weights; None: no average
    of        names of the submodules that this player steps; default: the submodule of the player's own name
    carries   whether moments and step count go on from the stage before, of its player of this name
    """

    make: Callable[[list[dict[str, Any]]], torch.optim.Optimizer]
    lr: float
    decay: Decay = 0.0
    clip: float | None = None
    ema: float | None = None
    schedule: Schedule | None = None
    of: str | Sequence[str] = ()
    carries: bool = False

    @property
    def parts(self) -> tuple[str, ...]:
        return (self.of,) if isinstance(self.of, str) else tuple(self.of)

    def groups(self, named: Sequence[tuple[str, nn.Parameter]]) -> list[dict[str, Any]]:
        """Parameter groups of torch: one for each rate of weight decay."""
        if isinstance(self.decay, float | int):
            return [dict(params=[p for _, p in named], weight_decay=float(self.decay))]
        rates = {id(p): 0.0 for _, p in named}
        for part, rate in self.decay:
            for p in (
                [part] if isinstance(part, nn.Parameter) else part.parameters() if isinstance(part, nn.Module) else part
            ):
                if id(p) not in rates:
                    raise ContractError("decay= names a weight that this player does not step")
                rates[id(p)] = rate
        return [
            dict(params=[p for _, p in named if rates[id(p)] == rate], weight_decay=rate)
            for rate in dict.fromkeys(rates.values())
        ]


class Step(TypedDict, total=False):
    """What every optimizer takes besides its own numbers: the fields of `Optimizer`."""

    decay: Decay
    clip: float | None
    ema: float | None
    schedule: Schedule | None
    of: str | Sequence[str]
    carries: bool


def adam(lr: float, *, betas: tuple[float, float] = (0.9, 0.999), eps: float = 1e-8, **step: Unpack[Step]) -> Optimizer:
    """Adam; `decay` is coupled: added to the gradient as L2. Kingma & Ba 2015, arXiv:1412.6980, algorithm 1."""
    return Optimizer(lambda groups: torch.optim.Adam(groups, lr=lr, betas=betas, eps=eps, fused=True), lr, **step)


def adamw(lr: float, *, betas: tuple[float, float] = (0.9, 0.999), eps: float = 1e-8, **step: Unpack[Step]) -> Optimizer:
    """Adam with decoupled weight decay. Loshchilov & Hutter 2019, arXiv:1711.05101, algorithm 2."""
    return Optimizer(lambda groups: torch.optim.AdamW(groups, lr=lr, betas=betas, eps=eps, fused=True), lr, **step)


def sgd(lr: float, *, momentum: float = 0.0, nesterov: bool = False, **step: Unpack[Step]) -> Optimizer:
    """Stochastic gradient descent; `decay` is coupled: added to the gradient as L2."""
    make = lambda groups: torch.optim.SGD(groups, lr=lr, momentum=momentum, nesterov=nesterov, fused=True)
    return Optimizer(make, lr, **step)


def rmsprop(lr: float, *, alpha: float = 0.99, eps: float = 1e-8, momentum: float = 0.0, **step: Unpack[Step]) -> Optimizer:
    """RMSprop as torch has it. Tieleman & Hinton 2012, lecture 6.5."""
    make = lambda groups: torch.optim.RMSprop(groups, lr=lr, alpha=alpha, eps=eps, momentum=momentum)
    return Optimizer(make, lr, **step)


def lbfgs(lr: float = 1.0, *, history: int = 10, iterations: int = 20, of: str | Sequence[str] = ()) -> Optimizer:
    """L-BFGS with a strong-Wolfe line search: one step evaluates the loss up to 1.25 × `iterations` times."""
    make = lambda groups: torch.optim.LBFGS(
        [p for group in groups for p in group["params"]],
        lr=lr, history_size=history, max_iter=iterations, line_search_fn="strong_wolfe",
    )  # fmt: skip
    return Optimizer(make, lr, of=of)


# ── schedules ───────────────────────────────────────────────────────────────────────────────────────────────────────


def _warm(step: int, warmup: int) -> float:
    return min(1.0, (step + 1) / warmup) if warmup else 1.0


def cosine(warmup: int = 0, floor: float = 0.0) -> Schedule:
    """Linear warm-up over `warmup` steps, then half a cosine down to `floor` (a factor) at the last step."""

    def factor(step: int, total: int, history: History) -> float:
        if step < warmup:
            return _warm(step, warmup)
        progress = (step - warmup) / max(1, total - warmup)
        return floor + (1 - floor) * 0.5 * (1 + math.cos(math.pi * progress))

    return factor


def linear(warmup: int = 0, floor: float = 0.0) -> Schedule:
    """Linear warm-up over `warmup` steps, then a straight line down to `floor` (a factor) at the last step."""

    def factor(step: int, total: int, history: History) -> float:
        if step < warmup:
            return _warm(step, warmup)
        return 1 - (1 - floor) * (step - warmup) / max(1, total - warmup)

    return factor


def exponential(per_step: float, floor: float = 0.0) -> Schedule:
    """`per_step` to the power of the step, not below `floor` (a factor)."""
    return lambda step, total, history: max(floor, per_step**step)


def steps(at: Sequence[int], by: float = 0.1, warmup: int = 0) -> Schedule:
    """Multiplied `by` at each of the steps `at`."""
    return lambda step, total, history: _warm(step, warmup) * by ** sum(step >= drop for drop in at)


# ── stopping rules ──────────────────────────────────────────────────────────────────────────────────────────────────


def signed(metric: str) -> tuple[str, int]:
    """`"accuracy"` is ("accuracy", 1), higher is better; `"-loss"` is ("loss", -1)."""
    return (metric[1:], -1) if metric.startswith("-") else (metric, 1)


def patience(metric: str, evaluations: int) -> Callable[[History], bool]:
    """Stops when `metric` ("accuracy", "-loss") has not improved for so many evaluations. Prechelt 1998."""
    name, sign = signed(metric)

    def stop(history: History) -> bool:
        values = [sign * row[name] for row in history]
        return len(values) - 1 - values.index(max(values)) >= evaluations

    return stop


def worse_than_mean(metric: str, of: int, better: Literal["lower", "higher"] = "lower") -> Callable[[History], bool]:
    """Stops when the newest value is worse than the mean of the `of` before it. tkipf/gcn @ 39a4089, train.py."""
    sign = 1 if better == "lower" else -1

    def stop(history: History) -> bool:
        *before, last = [row[metric] for row in history]
        return len(before) > of and sign * last > sign * sum(before[-of:]) / of

    return stop
