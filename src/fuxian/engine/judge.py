"""How a stage is judged: on `val` while it trains, on `test` once at its end."""

from __future__ import annotations

from collections.abc import Callable
from math import isnan
from time import perf_counter
from typing import Any

from torch import nn

from fuxian import saving
from fuxian.contract import History, Sealed, defines
from fuxian.engine import seeds, state, world
from fuxian.engine.running import Running
from fuxian.engine.signals import Signals
from fuxian.engine.watch import Watch
from fuxian.errors import ContractError
from fuxian.evaluation import Reading, judging, measure
from fuxian.optim import signed

Result = dict[str, float]


def due(running: Running) -> bool:
    """Whether this step is to be validated and is not yet."""
    step = running.step
    return running.validates and step > running.evaluated and (step % running.evaluate_every == 0 or step == running.last)


def validate(running: Running, signals: Signals, watch: Watch) -> None:
    """One row of history: the weights as they would be judged now. Keeps them if they are the best so far."""
    assert running.data is not None
    val = running.data.val
    with running.judged():

        def by_the_first() -> Result:
            with signals.at_once():
                return measured(running, "val", val, {}, watch)

        row = world.shared(by_the_first)
        world.align(running.model, running.objective)  # an evaluation may have changed a buffer
        if kept(running, row):
            weights = {n: t.detach().clone() for n, t in running.tensors(frozen=False).items()}
            running.best = {"row": row, "step": running.step, "weights": weights}
    running.flush()
    running.history.append(row)
    running.evaluated = running.step
    named = {f"val/{name}": value for name, value in row.items()}
    running.folder.log(running.name, running.step, named)
    watch.evaluated(running.step, named)


def kept(running: Running, row: Result) -> bool:
    """Whether the stage's `select` keeps the weights that gave this row, the newest."""
    select = running.stage.select
    if select is None:
        return False
    if not isinstance(select, str):
        return asked("select", select, [*running.history, row])
    name, sign = signed(select)
    if name not in row:
        raise ContractError(f"select={select!r}, and the validation measures {', '.join(row)}")
    score = sign * row[name]
    return not isnan(score) and (running.best is None or score > sign * running.best["row"][name])


def stopping(running: Running) -> bool:
    """What the stage's own rule says of its history. Asked again after a resume: the rule is a pure function."""
    stop = running.stage.stop
    return stop is not None and running.evaluated == running.step > 0 and asked("stop", stop, running.history)


def asked(name: str, rule: Callable[[History], bool], history: History) -> bool:
    """What a rule of the stage says of a validation history."""
    try:
        return bool(rule(history))
    except KeyError as error:
        there = ", ".join(history[-1])
        raise ContractError(f"{name}= asks for {error}, and the validation measures {there}") from None


def final(running: Running, signals: Signals, watch: Watch) -> tuple[Result, dict[str, float]]:
    """Metrics of the judged weights, and what each stands on: `val/…`, and `test/…` or else `train/…`."""
    found = world.shared(lambda: _final(running, signals, watch))
    world.align(running.model, running.objective)
    return found


def _final(running: Running, signals: Signals, watch: Watch) -> tuple[Result, dict[str, float]]:
    data = running.data
    if data is None or not defines(running.objective, "evaluate"):
        return {}, {}
    splits = {"val": data.val, "test": data.test} if data.test is not None else {"val": data.val, "train": data.train}
    saved = running.folder.reading(running.name, running.step)
    done: dict[str, list[Result]] = saved["done"] if saved else {}  # by split: its metrics, and what each stands on
    with signals.at_once():
        for name, split in splits.items():
            if split is not None and name not in done:
                counts: dict[str, float] = {}
                done[name] = [measured(running, name, split, counts, watch, done), counts]
    result, counts = (
        {f"{name}/{key}": value for name, both in done.items() for key, value in both[part].items()} for part in (0, 1)
    )
    return result, counts


def measured(
    running: Running, name: str, split: Any, counts: dict[str, float], watch: Watch, done: dict[str, Any] | None = None
) -> Result:
    """The metrics of a split. `done`, the splits before it, makes it a final reading.

    One that takes long is saved on the way: a resume goes on from there, with the same bits.
    """
    of, batch, begun, saved_at = len(split), running.stage.batch, None, perf_counter()
    seeds.seed_all(running.stream("evaluate"))
    saved = running.folder.reading(running.name, running.step) if done is not None else None
    if saved and saved["split"] == name:
        begun = saved["reading"]
        state.copy_into(running.buffers(), saved["buffers"], f"buffers of stage {running.name}")
        seeds.set_chance(saved["chance"])

    def told(reading: Reading) -> None:
        nonlocal saved_at
        watch.reading(name, reading.examples, of)
        if done is None or perf_counter() - saved_at < running.settings.save_seconds:
            return
        if now := reading.state():
            chance, buffers = seeds.chance(), running.buffers()
            tree = {"done": done, "split": name, "reading": now, "chance": chance, "buffers": buffers}
            running.folder.save_reading(running.name, running.step, tree)
        saved_at = perf_counter()

    with running.autocast():
        return measure(running.model, running.objective, split, batch, counts=counts, told=told, begun=begun)


def draw(running: Running, split: Any) -> None:
    """Saves the objective's pictures of a split."""
    if world.rank() > 0:
        return
    seeds.seed_all(running.stream("pictures"))
    with judging(running.model, running.objective):
        for name, figure in running.objective.pictures(running.model, split).items():
            saving.save(figure, running.folder.path / "pictures" / f"{running.name}-{name}")


def lock(running: Running, locked: bool) -> None:
    """While the stage trains its test split cannot be read, by whoever holds it."""
    if running.data is not None and isinstance(running.data.test, Sealed):
        running.data.test.locked = locked


def train_mode(*modules: nn.Module) -> None:
    """Training mode, but for frozen parts: a batch norm without a trainable weight keeps the statistics that it has."""
    for module in modules:
        module.train()
        for part in module.modules():
            weights = list(part.parameters())
            if weights and not any(w.requires_grad for w in weights):
                part.eval()
