"""A player: some weights, their optimizer, and all that happens on one of their steps."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.graph import increment_version
from torch.optim.swa_utils import get_ema_multi_avg_fn

from fuxian.contract import History, Objective
from fuxian.errors import ContractError
from fuxian.optim import Optimizer


class Player:
    """One optimizer over the weights that it steps. `alone` says that no other player trains in this stage."""

    def __init__(self, name: str, spec: Optimizer, named: Mapping[str, nn.Parameter], alone: bool) -> None:
        self.name = name
        self.spec = spec
        self.named = dict(named)
        self.weights = list(named.values())
        self.optimizer = spec.make(spec.groups(list(named.items())))
        # With several players a loss reaches weights of another: `inputs` keeps its gradients away from them (and saves
        # their computation). With one player it would only cost time.
        self.inputs = None if alone else self.weights
        self.average = [w.detach().clone() for w in self.weights] if spec.ema is not None else None
        self._update_average = get_ema_multi_avg_fn(spec.ema) if spec.ema is not None else None
        self.wants_closure = isinstance(self.optimizer, torch.optim.LBFGS)

    def begin(self, step: int, total: int, history: History) -> None:
        """Sets the rate for this step (0 at the first) and drops the gradients of the last one."""
        if self.spec.schedule is not None:
            factor = self.spec.schedule(step, total, history)
            for group in self.optimizer.param_groups:
                group["lr"] = self.spec.lr * factor
        for weight in self.weights:
            weight.grad = None

    def step(self) -> None:
        """Clips, steps, averages."""
        if self.spec.clip is not None:
            self._clip(self.spec.clip)
        self.optimizer.step()
        self.after_step()

    def after_step(self) -> None:
        # Fused optimizers on a CPU leave the version counters as they were, so a graph from before the step would be
        # differentiated with weights from after it, silently. With the counters moved, torch raises its own error.
        increment_version(self.weights)
        if self.average is not None and self._update_average is not None:
            self._update_average(self.average, self.weights, 0)  # type: ignore[arg-type]

    def _clip(self, limit: float) -> None:
        """Scales the gradient to a 2-norm of at most `limit`; Pascanu et al. 2013, algorithm 1."""
        gradients = [w.grad for w in self.weights if w.grad is not None]
        if gradients and gradients[0].device.type != "cpu":  # no synchronization: always scale
            nn.utils.clip_grads_with_norm_(self.weights, limit, nn.utils.get_total_norm(gradients))
        elif (norm := math.hypot(*(torch.linalg.vector_norm(g).item() for g in gradients))) > limit:
            for gradient in gradients:
                gradient.mul_(limit / (norm + 1e-6))

    # State is kept by the names of the weights: a module moved elsewhere is then an error, not a mix-up.

    def state(self) -> dict[str, Any]:
        by_name = {name: dict(self.optimizer.state[w]) for name, w in self.named.items() if w in self.optimizer.state}
        average = dict(zip(self.named, self.average, strict=True)) if self.average is not None else None
        return {"optimizer": by_name, "average": average}

    def carry(self, state: dict[str, Any]) -> None:
        """Goes on with the moments of the last stage's player; an average begins anew."""
        moments = [(name, value) for name, of in state["optimizer"].items() for value in of.values()]
        shapes = {name: [weight.shape, torch.Size()] for name, weight in self.named.items()}  # a step count has none
        strange = [n for n, value in moments if isinstance(value, Tensor) and value.shape not in shapes.get(n, ())]
        if strange:
            raise ContractError(
                f"player {self.name} carries on from the stage before, whose weight {strange[0]} it does not step",
                do="keep the model, or leave carries= out",
            )
        self._load_moments(state)

    def load(self, state: dict[str, Any]) -> None:
        self._load_moments(state)
        if self.average is not None:
            for average, saved in zip(self.average, state["average"].values(), strict=True):
                average.copy_(saved)

    def _load_moments(self, state: dict[str, Any]) -> None:
        for name, saved in state["optimizer"].items():
            weight = self.named[name]
            self.optimizer.state[weight] = {key: _like(weight, value) for key, value in saved.items()}
            if self.optimizer.defaults.get("fused") and "step" in saved:  # counted where the kernel runs
                self.optimizer.state[weight]["step"] = saved["step"].to(weight.device)


def _like(weight: Tensor, saved: Any) -> Any:
    """A saved moment in the layout of its weight: fused kernels walk raw memory and ignore strides."""
    if isinstance(saved, Tensor) and saved.dim() and saved.shape == weight.shape:
        return torch.empty_like(weight, dtype=saved.dtype).copy_(saved)
    if isinstance(saved, Tensor):
        return saved.to(weight.device) if saved.dim() else saved
    return [_like(weight, value) for value in saved] if isinstance(saved, list) else saved


def players_of(
    model: nn.Module, objective: Objective, optimizer: Optimizer | Mapping[str, Optimizer] | None
) -> dict[str, Player]:
    """The players of a stage by name. Raises ContractError where a trainable weight belongs to none."""
    if optimizer is None:
        return {}
    specs = {"model": optimizer} if isinstance(optimizer, Optimizer) else dict(optimizer)
    names = {id(p): n for n, p in model.named_parameters() if p.requires_grad}
    names |= {id(p): f"objective.{n}" for n, p in objective.named_parameters() if p.requires_grad}
    weights = {id(p): p for module in (model, objective) for p in module.parameters() if p.requires_grad}
    if not weights:
        raise ContractError(
            f"{type(model).__name__} has no trainable weight, and the stage has an optimizer",
            do="leave optimizer out, or let a parameter require gradients",
        )
    owned: dict[str, list[int]] = {}
    for name, spec in specs.items():
        if not isinstance(spec, Optimizer):
            raise ContractError(
                f"the optimizer of player {name} is a {type(spec).__name__}",
                do="use a specification of fuxian.optim: adam(lr), adamw(lr), sgd(lr), …",
            )
        if name == "model" and not spec.parts:
            owned[name] = list(weights)
            continue
        parts = [submodule(model, objective, part, name) for part in spec.parts or (name,)]
        inside = {id(p) for part in parts for p in part.parameters()}
        owned[name] = [key for key in weights if key in inside]
        if not owned[name]:
            raise ContractError(f"player {name} has no trainable weight")
    orphans = [names[key] for key in weights if not any(key in keys for keys in owned.values())]
    if orphans:
        raise ContractError(
            f"no player steps {', '.join(orphans[:3])}{' and others' if len(orphans) > 3 else ''}",
            do="name the submodule in a player's of=, or freeze it with requires_grad_(False)",
        )
    return {
        name: Player(name, specs[name], {names[key]: weights[key] for key in keys}, alone=len(specs) == 1)
        for name, keys in owned.items()
    }


def submodule(model: nn.Module, objective: Objective, part: str, player: str) -> nn.Module:
    for owner in (model, objective):
        try:
            return owner.get_submodule(part)
        except AttributeError:
            pass
    there = ", ".join(name for name, _ in model.named_children())
    raise ContractError(f"player {player} steps {part}, and the model has no such submodule; it has {there or 'none'}")


class Spectator:
    """Who yields losses in a stage without an optimizer: they are logged, and nothing is stepped."""

    wants_closure = False
    weights: list[nn.Parameter] = []

    def __init__(self, name: str) -> None:
        self.name = name
