"""What goes wrong without a word in a plain loop: each planted here, and seen to be caught or done right.

Calls into submodules, which a wrapper for several processes would not see, have no test: there is one process, no wrapper.
"""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fuxian import resume
from fuxian.contract import Objective
from fuxian.engine import state
from fuxian.engine.players import players_of
from fuxian.errors import ContractError, NotFinite
from fuxian.optim import Optimizer, adam, adamw, sgd

from . import toys


class Stale(Objective):
    """The generator's score is taken before the discriminator steps, and differentiated after."""

    def losses(self, model: Any, batch: Any) -> Iterator[tuple[str, Tensor]]:
        fake = model.generator(torch.randn(len(batch), 2))
        score = model.discriminator(fake).mean()
        yield "discriminator", model.discriminator(fake.detach()).mean() - model.discriminator(batch.x).mean()
        yield "generator", -score


@pytest.mark.parametrize("make", [sgd, adam, adamw])
def test_a_graph_from_before_a_fused_step_raises(make: Any, tmp_path: Path) -> None:
    players = dict(generator=make(0.1), discriminator=make(0.1))
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        toys.play(toys.one(model=toys.Pair, objective=Stale, optimizer=players), tmp_path)


@pytest.mark.parametrize("make", [lambda: sgd(0.1, momentum=0.9), lambda: adamw(0.05), lambda: adam(0.05)])
def test_moments_keep_the_layout_of_their_weights(make: Any, tmp_path: Path) -> None:
    def three_steps(model: nn.Module, player: Any) -> None:
        for _ in range(3):
            player.begin(0, 1, [])
            F.cross_entropy(model(x), y).backward()
            player.step()

    x, y = torch.randn(8, 6), torch.randint(3, (8,))
    first, objective = toys.Grid(), toys.Classify()
    player = players_of(first, objective, make())["model"]
    three_steps(first, player)
    state.write(tmp_path / "saved", {"weights": state.tensors_of(("", first)), "player": player.state()})

    saved = state.read(tmp_path / "saved")
    second = toys.Grid()
    state.copy_into(state.tensors_of(("", second)), saved["weights"], "weights")
    resumed = players_of(second, objective, make())["model"]
    resumed.load(saved["player"])
    assert (
        second.conv.weight.stride()
        == first.conv.weight.stride()
        != torch.empty_like(first.conv.weight).contiguous().stride()
    )
    three_steps(first, player)
    three_steps(second, resumed)
    for name, weight in first.named_parameters():
        assert torch.equal(weight, second.get_parameter(name)), name


class Counts(toys.Classify):
    def __init__(self, how: str) -> None:
        self.how = how
        self.seen, self._private, self.kept, self.names = 0, 0, torch.zeros(2), {"a": 1}
        self.register_buffer("lost", torch.zeros(2), persistent=False)
        self.register_buffer("held", torch.zeros(2))

    def losses(self, model: Any, batch: Any) -> Iterator[tuple[str, Tensor]]:
        if self.how == "seen":
            self.seen += 1
        if self.how == "_private":
            self._private += 1
        if self.how == "kept":
            self.kept = self.kept + 1
        if self.how == "lost":
            self.lost.add_(1)
        if self.how == "names":
            self.names["b"] = 2
        if self.how == "held":
            self.held.add_(1)
            self.batch = batch  # what a step makes anew may be kept
            self.logits = model(batch.x).detach()
        yield from super().losses(model, batch)


@pytest.mark.parametrize("how", ["seen", "_private", "kept", "lost", "names"])
def test_state_that_no_checkpoint_holds_is_named(how: str, tmp_path: Path) -> None:
    with pytest.raises(ContractError, match=f"Counts.{how} changed while a step ran"):
        toys.play(toys.one(objective=lambda: Counts(how)), tmp_path)


def test_buffers_may_change(tmp_path: Path) -> None:
    assert toys.play(toys.one(objective=lambda: Counts("held")), tmp_path).info["status"] == "done"


@pytest.mark.parametrize("draw", [random.random, np.random.rand, np.random.default_rng])
def test_draws_that_are_not_seeded_are_named(draw: Any, tmp_path: Path) -> None:
    class Draws(toys.Classify):
        def losses(self, model: Any, batch: Any) -> Iterator[tuple[str, Tensor]]:
            draw()
            yield from super().losses(model, batch)

    recipe = toys.one(objective=Draws)
    if draw is np.random.default_rng:  # a generator of its own moves no global state: the kill tests would find it
        toys.play(recipe, tmp_path)
        return
    with pytest.raises(ContractError, match=r"drew from `random` or `numpy\.random`"):
        toys.play(recipe, tmp_path)


def test_a_frozen_batch_norm_keeps_its_statistics(tmp_path: Path) -> None:
    held: list[nn.Sequential] = []

    def model() -> nn.Module:
        trunk = nn.Sequential(nn.Linear(6, 4), nn.BatchNorm1d(4)).requires_grad_(False).eval()
        held.append(nn.Sequential(trunk, nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3))))
        return held[-1]

    toys.play(toys.one(model=model), tmp_path)
    frozen, live = held[0][0][1], held[0][1][1]
    assert torch.equal(frozen.running_mean, torch.zeros(4))
    assert int(frozen.num_batches_tracked) == 0
    assert int(live.num_batches_tracked) == 4


class Root(Objective):
    """Its gradient is infinite at the third step, its loss never: weights become NaN behind a good loss."""

    def __init__(self) -> None:
        self.register_buffer("steps", torch.zeros(()))

    def losses(self, model: Any, batch: Any) -> Iterator[tuple[str, Tensor]]:
        self.steps += 1
        zero = model[0].weight.sum() * 0
        yield "model", zero.abs().sqrt() if self.steps == 3 else model(batch.x).square().mean()


def test_weights_that_are_not_finite_are_not_written(tmp_path: Path) -> None:
    with pytest.raises(NotFinite) as caught:
        toys.play(toys.one(objective=Root), tmp_path, name="run")
    assert "the weight 0.weight is not finite, though the loss was" in caught.value.message
    assert caught.value.lines["where"] == "stage train, after step 3, player model"
    assert sorted(p.name for p in (tmp_path / "run/checkpoints").iterdir()) == ["train-000001", "train-000002"]
    assert "step 2, the last checkpoint" in caught.value.lines["kept"]
    assert json.loads((tmp_path / "run/run.json").read_text())["stopped"]["reason"] == "not finite"


def gradients(accumulate: int, objective: type[Objective], optimizer: Optimizer, folder: Path) -> list[Tensor]:
    held: list[nn.Module] = []

    def model() -> nn.Module:
        held.append(toys.mlp())
        return held[-1]

    recipe = toys.one(model=model, objective=objective, optimizer=optimizer, batch=32, steps=2, accumulate=accumulate)
    toys.play(recipe, folder)
    return [weight.detach() for weight in held[0].parameters()]


@pytest.mark.parametrize("objective", [toys.Classify, toys.Tokens])
@pytest.mark.parametrize("accumulate", [3, 5, 32])
def test_a_mean_over_unequal_parts_is_that_of_the_batch(objective: Any, accumulate: int, tmp_path: Path) -> None:
    whole = gradients(1, objective, sgd(0.5), tmp_path / "whole")
    parts = gradients(accumulate, objective, sgd(0.5), tmp_path / "parts")
    for a, b in zip(whole, parts, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)


def test_players_accumulate_in_lockstep(tmp_path: Path) -> None:
    class Alternate(Objective):
        def losses(self, model: Any, batch: Any) -> Iterator[tuple[str, Tensor]]:
            fake = model.generator(batch.x[:, :2])
            real = model.discriminator(batch.x)
            yield "discriminator", F.softplus(-real).mean() + F.softplus(model.discriminator(fake.detach())).mean()
            yield "generator", F.softplus(-model.discriminator(fake)).mean()

    class Plain(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.generator, self.discriminator = toys.mlp(2, 6), toys.mlp(6, 1)
            held.append(self)

    held: list[nn.Module] = []
    players = dict(discriminator=sgd(0.5), generator=sgd(0.5))
    for accumulate in (1, 3):
        recipe = toys.one(model=Plain, objective=Alternate, optimizer=players, batch=32, accumulate=accumulate)
        toys.play(recipe, tmp_path)
    for a, b in zip(held[0].parameters(), held[1].parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)


def test_resume_takes_the_threads_that_the_run_began_with(tmp_path: Path) -> None:
    run = toys.play(toys.one(), tmp_path, name="run", limit=2)
    assert run.info["threads"] == torch.get_num_threads() == 1
    info = {**run.info, "status": "stopped", "threads": 2}
    (run.folder / "run.json").write_text(json.dumps(info))
    try:
        resume(run.folder)
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(1)
