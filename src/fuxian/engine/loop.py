"""The loop: plain PyTorch, one for every method. A recipe is driven by

    metrics = None
    while True:
        stage = recipe.send(metrics)                  # seeded; between yields a recipe may use what is trained
        metrics = restored(stage) or trained(stage)

and a stage is trained by taking a batch and then, for each loss that the objective yields: schedule, zero, backward, clip,
step, average. What depends on chance is seeded by (seed, stage, stream) + step, so a run that was killed at any instruction
and resumed ends with the same bits.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping
from inspect import isgenerator
from time import perf_counter
from typing import Any

import torch
from torch import Tensor

from fuxian.contract import Stage, defines
from fuxian.engine import guard, judge, seeds, world
from fuxian.engine.folder import check_stage_name
from fuxian.engine.judge import Result, train_mode
from fuxian.engine.players import Player, Spectator
from fuxian.engine.running import Running
from fuxian.engine.signals import CODES, Signals, Stopped
from fuxian.engine.watch import Watch
from fuxian.errors import ContractError

FIRST = 20  # steps with a line each in the log
SHOW_SECONDS = 0.1  # between signs of life
DRAW_SECONDS = 60.0  # between pictures while a stage trains


def drive(
    recipe: Generator[Stage, Result | None, Mapping[str, float] | None], seed: int, play: Callable[[Stage, str], Result]
) -> tuple[dict[str, Result], dict[str, float], list[Stage]]:
    """Runs a recipe to its end; `play` trains or restores a stage. Returns metrics by stage, the recipe's own, stages."""
    results: dict[str, Result] = {}
    stages: list[Stage] = []
    metrics: Result | None = None
    while True:
        seeds.seed_all(seeds.stream(seed, "", "recipe") + len(stages))
        try:
            stage = recipe.send(metrics)
        except StopIteration as end:
            if not stages:
                raise ContractError("the recipe yielded no stage") from None
            return results, _returned(end.value), stages
        if not isinstance(stage, Stage):
            raise ContractError(f"the recipe yielded a {type(stage).__name__}, not a Stage")
        name = check_stage_name(stage.name, list(results))
        stages.append(stage)
        metrics = results[name] = play(stage, name)
        for module in (stage.model, stage.objective):
            module.eval()
            module.zero_grad()  # what a recipe adds to must be the same, whether the stage was trained or restored


def _returned(value: Any) -> dict[str, float]:
    if value is None:
        return {}
    if isinstance(value, Mapping) and all(isinstance(number, float | int) for number in value.values()):
        return {str(name): float(number) for name, number in value.items()}
    raise ContractError("a recipe returns {metric: number}, or nothing")


def train(running: Running, signals: Signals, watch: Watch) -> None:
    """Trains a stage from the step where it is to its last, validating and saving on the way.

    Raises Stopped, with everything saved, when a signal asks for it.
    """
    began = saved = drawn = shown = perf_counter()
    first = running.step
    judge.lock(running, True)
    train_mode(running.model, running.objective)
    running.save()
    try:
        asked, _ = _together(signals, False)
        while True:
            if judge.due(running):
                judge.validate(running, signals, watch)
                if perf_counter() - drawn > DRAW_SECONDS:
                    with running.judged():
                        judge.draw(running, running.data.val if running.data else None)
                    drawn = perf_counter()
                train_mode(running.model, running.objective)
            if running.step >= running.last or judge.stopping(running):
                running.flush()
                running.save()  # judging changes the weights: a stop from here on goes back to this
                return
            if asked:
                raise Stopped
            if running.step == first:
                with guard.watched(running.model, running.objective):
                    _step(running)
            else:
                _step(running)
            now = perf_counter()
            if now - shown > SHOW_SECONDS:
                losses = {
                    running.in_log(name): float(value) for step, name, value in running.pending if step == running.step
                }
                watch.stepped(running.step, losses, (running.step - first) / (now - began), running.waited / (now - began))
                running.folder.flush_log()
                shown = now
            if running.step <= FIRST or running.step % running.log_every == 0:
                running.flush()
            due = now - saved > running.settings.save_seconds
            asked, due = _together(signals, due) if running.several else (signals.asked, due)
            if due:
                running.save()
                saved = perf_counter()
    except Stopped:
        running.save()
        raise
    finally:
        judge.lock(running, False)


def _together(signals: Signals, due: bool) -> tuple[str, bool]:
    """What signal asks for a stop, and whether a checkpoint is due: the same in all processes, whose clocks differ."""
    if world.size() > 1:
        names = ["", *CODES]
        asked, saving = world.highest(names.index(signals.asked), due)
        signals.asked = names[int(asked)]
        return signals.asked, bool(saving)
    return signals.asked, due


def _step(running: Running) -> None:
    """One step: a batch, then every player's turn."""
    began = perf_counter()
    batch_stream, loss_stream = running.streams
    seeds.seed_torch(batch_stream + running.step)
    batch = running.next_batch()
    running.waited += perf_counter() - began
    seeds.seed_torch(loss_stream + running.step)
    if defines(running.objective, "update"):
        with torch.no_grad():
            numbers = running.objective.update(running.model, batch)
        if not isinstance(numbers, Mapping):
            raise ContractError(f"{type(running.objective).__name__}.update returns {{name: number}}, to be logged")
        for name, value in numbers.items():
            running.note(name, value)
    else:
        _turns(running, batch)
        if running.several:
            world.align(running.model, running.objective)
    running.step += 1


def _turns(running: Running, batch: Any) -> None:
    """Takes one loss at a time: its player steps, then the objective goes on.

    The generators of all micro-batches advance in lockstep, so accumulating equals one large batch for several players too.
    """
    parts: list[Any] = batch.chunk(running.stage.accumulate) if running.stage.accumulate > 1 else [batch]
    objective = running.objective
    losses = [objective.losses(running.model, part) for part in parts]
    if not isgenerator(losses[0]):
        raise ContractError(f"{type(objective).__name__}.losses is no generator", do="write `yield player, loss` in it")
    taken = False  # whether any player had a turn
    while True:
        player, value, weight = None, 0.0, 0.0
        for part, micro in zip(parts, losses, strict=True):
            with running.autocast():
                yielded: Any = next(micro, None)
            if yielded is None and micro is losses[0]:
                if any(next(other, None) is not None for other in losses[1:]):
                    raise _uneven()
                if not taken:
                    raise ContractError(f"{type(objective).__name__}.losses yielded nothing: no player has learned")
                return
            if yielded is None or (player is not None and yielded[0] != player.name):
                raise _uneven()
            if player is None:
                player = _player(running, yielded)
                if isinstance(player, Player):
                    player.begin(running.step, running.total, running.history)
            loss = _checked(running, player, yielded[1])
            share = running.share * (len(part) / len(batch) if len(parts) > 1 else 1.0)
            if len(yielded) == 3:  # a sum and what it weighs: divided when all parts are in
                share = float(share > 0)
                weight += share * float(yielded[2])
            if isinstance(player, Player):
                if player.wants_closure:
                    loss, weight, share = _closure_step(running, player, batch, len(parts)), 0.0, 1.0
                else:
                    (loss if share == 1.0 else loss * share).backward(inputs=player.inputs)
            number = loss.item() if loss.device.type == "cpu" else loss.detach()
            value = value + number * share
        assert player is not None
        if running.several and not player.wants_closure:
            number = list(running.players).index(player.name) if running.players else 0
            value, weight = world.summed(number, player.weights, value, weight)
        if weight:
            value = value / weight
            _divide(player, weight)
        taken = True
        running.note(player.name, value)  # stops the run if it is not finite, before the weights move
        if isinstance(player, Player) and not player.wants_closure:
            player.step()


def _divide(player: Player | Spectator, weight: Any) -> None:
    for gradient in [w.grad for w in player.weights if w.grad is not None]:
        gradient /= weight


def _uneven() -> ContractError:
    return ContractError(
        "the micro-batches of one step yield different players", do="let losses yield the same for any batch"
    )


def _player(running: Running, yielded: Any) -> Player | Spectator:
    name = type(running.objective).__name__
    if not isinstance(yielded, tuple) or len(yielded) not in (2, 3) or not isinstance(yielded[0], str):
        raise ContractError(f"{name}.losses yielded a {type(yielded).__name__}; it yields (player, loss)")
    if not running.players:
        return Spectator(yielded[0])
    if yielded[0] not in running.players:
        there = ", ".join(running.players)
        raise ContractError(f"{name} yielded a loss for a player {yielded[0]!r}; the stage's optimizer has: {there}")
    return running.players[yielded[0]]


def _checked(running: Running, player: Player | Spectator, loss: Any) -> Tensor:
    if not isinstance(loss, Tensor) or loss.dim():
        found = f"shape {tuple(loss.shape)}" if isinstance(loss, Tensor) else f"a {type(loss).__name__}"
        raise ContractError(f"the loss of player {player.name} has {found}; it must be a tensor with one number, shape ()")
    if running.players and not loss.requires_grad:
        raise ContractError(f"the loss of player {player.name} depends on no trainable weight")
    return loss


def _closure_step(running: Running, player: Player, batch: Any, parts: int) -> Tensor:
    """L-BFGS evaluates its loss several times a step: afresh, at the step's own seed."""
    if len(running.players) > 1 or parts > 1:
        raise ContractError("an optimizer that wants a closure takes one player and no accumulation")

    def closure() -> Tensor:
        seeds.seed_torch(running.streams[1] + running.step)
        with running.autocast():
            _, loss, *weight = next(iter(running.objective.losses(running.model, batch)))
        share = float(running.share > 0) if weight else running.share
        player.begin(running.step, running.total, running.history)
        (loss if share == 1.0 else loss * share).backward()
        total, weighs = world.summed(1, player.weights, loss.detach() * share, float(weight[0]) * share if weight else 0.0)
        if weight:
            total = total / weighs
            _divide(player, weighs)
        return torch.as_tensor(total)

    loss = player.optimizer.step(closure)  # type: ignore[arg-type]
    player.after_step()
    return loss.detach()  # type: ignore[union-attr]
