"""Parity: the same weights in ours and in an independent reference give the same outputs, gradients and optimizer step."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn

from fuxian.contract import Objective
from fuxian.engine.players import Player
from fuxian.optim import Optimizer, adam

TOLERANCE = {torch.float32: 1e-5, torch.float64: 1e-10}  # relative to the largest value of the reference


@dataclass(frozen=True)
class Differences:
    """The largest relative difference of each kind."""

    outputs: float
    gradients: float
    step: float
    dtype: str

    facts = property(asdict)


def in_both(compare: Callable[[], Differences]) -> dict[str, Any]:
    """What `compare` finds while torch's default is float32, and while it is float64: facts for `prove`."""
    found, before = [], torch.get_default_dtype()
    for dtype in TOLERANCE:
        torch.set_default_dtype(dtype)
        try:
            found.append(compare().facts)
        finally:
            torch.set_default_dtype(before)
        assert found[-1]["dtype"] in str(dtype), f"{found[-1]} is not of {dtype}"
    return {"found": found}


def relative(ours: Tensor, reference: Tensor) -> float:
    """The largest difference, relative to the reference's largest value."""
    assert ours.shape == reference.shape, (ours.shape, reference.shape)
    return ((ours - reference).abs().max() / reference.abs().max().clamp_min(1e-12)).item()


def parity(
    ours: nn.Module,
    reference: nn.Module,
    pairs: Mapping[str, Callable[[Tensor], Tensor]] | Mapping[str, str],
    *,
    outputs: Callable[[], tuple[Tensor, Tensor]],
    losses: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]],
    spec: Optimizer,
    optimizer: torch.optim.Optimizer,
    transposed: frozenset[str] = frozenset(),
) -> Differences:
    """Copies our weights into the reference, compares, asserts the tolerance of their precision, and returns what it saw.

    `pairs` maps our parameters' names to the reference's; those in `transposed` are stored the other way round there. Both
    must be complete: a weight of either side that is not named fails.
    """
    mine, theirs = dict(ours.named_parameters()), dict(reference.named_parameters())
    assert set(pairs) == set(mine), set(pairs) ^ set(mine)
    assert set(pairs.values()) == set(theirs), set(pairs.values()) ^ set(theirs)
    turn = {name: (lambda t: t.T) if name in transposed else (lambda t: t) for name in mine}
    with torch.no_grad():
        for name, other in pairs.items():
            theirs[other].copy_(turn[name](mine[name]))
    out, expected = outputs()
    loss, expected_loss = losses(out, expected)
    player = Player("model", spec, mine, alone=True)
    player.begin(0, 1, [])
    optimizer.zero_grad()
    loss.backward()
    expected_loss.backward()
    gradients = max(relative(mine[n].grad, turn[n](theirs[o].grad)) for n, o in pairs.items())
    before = {name: weight.detach().clone() for name, weight in mine.items()}
    player.step()
    optimizer.step()
    moved = max(relative(mine[n] - before[n], turn[n](theirs[o].detach()) - before[n]) for n, o in pairs.items())
    weights = max(relative(mine[n], turn[n](theirs[o])) for n, o in pairs.items())
    assert moved < 0.1, "the steps differ by more than rounding"  # a step of Adam is a sign where gradients are tiny
    found = Differences(relative(out, expected), gradients, weights, str(out.dtype).removeprefix("torch."))
    limit = TOLERANCE[out.dtype]
    assert found.outputs < limit, found
    assert found.gradients < limit, found
    assert found.step < limit, found
    return found


def first_loss(objective: Objective, model: Callable[..., Tensor], batch: object) -> Tensor:
    """The loss of the objective's first player."""
    return next(iter(objective.losses(model, batch)))[1]


def worst(*found: Differences) -> Differences:
    """The largest of each kind, of comparisons in one precision."""
    most = {kind: max(getattr(one, kind) for one in found) for kind in ("outputs", "gradients", "step")}
    return Differences(**most, dtype=found[0].dtype)


def of_draws(ours: Any, reference: Any, objective: Objective, batch: Any) -> Differences:
    """`parity` of the errors that `ours.denoising_error(batch)` and `reference(batch)` find at the same draws.

    Adam's eps is large, since a gradient may be near zero.
    """

    def seeded(found: Callable[[], Tensor]) -> Tensor:
        torch.manual_seed(1)
        return found()

    return parity(
        ours,
        reference,
        reference.named,
        outputs=lambda: (seeded(lambda: ours.denoising_error(batch)), seeded(lambda: reference(batch))),
        losses=lambda _, expected: (seeded(lambda: first_loss(objective, ours, batch)), expected.mean()),
        spec=adam(0.001, eps=1e-4),
        optimizer=torch.optim.Adam(reference.parameters(), lr=0.001, eps=1e-4),
    )
