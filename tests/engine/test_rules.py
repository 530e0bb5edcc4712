"""Each rule of the contract, broken once: the engine says which, in words that name what to change."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fuxian.contract import Metric, Objective, Sealed, Splits, Stage
from fuxian.errors import ContractError
from fuxian.evaluation import measure
from fuxian.optim import adam, lbfgs, patience, sgd

from . import toys


def losses(body: Callable[[Any, Any], Any]) -> Callable[[], Objective]:
    """An objective whose `losses` is that function of model and batch."""
    return lambda: type("Mine", (Objective,), {"losses": lambda self, model, batch: body(model, batch)})()


def one_loss(loss: Callable[[Any, Any], Any], player: str = "model") -> Callable[[], Objective]:
    def body(model: Any, batch: Any) -> Iterator[Any]:
        yield player, loss(model, batch)

    return losses(body)


def nothing(model: Any, batch: Any) -> Iterator[Any]:
    yield from ()


def bare(model: Any, batch: Any) -> Iterator[Any]:
    yield model(batch.x).sum()


def uneven(model: Any, batch: Any) -> Iterator[Any]:
    yield "model", model(batch.x).sum()
    if len(batch) > 5:
        yield "model", model(batch.x).sum()


def turned(model: Any, batch: Any) -> Iterator[Any]:
    first = ("0", "3") if len(batch) > 5 else ("3", "0")
    for player in first:
        yield player, model(batch.x).sum()


class Silent(toys.Classify):
    def update(self, model: Any, batch: Any) -> Any:
        return None

    losses = Objective.losses


class Idle(Objective):
    pass


def frozen() -> nn.Module:
    return toys.mlp().requires_grad_(False)


def no_validation() -> Splits:
    return toys.rows(val=None)


CASES: dict[str, tuple[dict[str, Any], str]] = {
    "unknown player": (dict(objective=one_loss(lambda m, b: m(b.x).sum(), "critic")), "a player 'critic'; .* has: model"),
    "not scalar": (dict(objective=one_loss(lambda m, b: m(b.x).sum(1))), r"has shape \(16,\); it must be .* one number"),
    "not a tensor": (dict(objective=one_loss(lambda m, b: 1.0)), "the loss of player model has a float"),
    "without gradient": (dict(objective=one_loss(lambda m, b: m(b.x).sum().detach())), "depends on no trainable weight"),
    "bare loss": (dict(objective=losses(bare)), r"yielded a Tensor; it yields \(player, loss\)"),
    "no generator": (dict(objective=losses(lambda m, b: m(b.x).sum())), "Mine.losses is no generator"),
    "yields nothing": (dict(objective=losses(nothing)), "yielded nothing: no player has learned"),
    "nothing to learn by": (dict(objective=Idle), "Idle defines neither losses nor update"),
    "update returns nothing": (dict(objective=Silent, optimizer=None), r"Silent.update returns \{name: number\}"),
    "update and optimizer": (
        dict(model=toys.Grid, objective=toys.Lloyd),
        "Lloyd defines update, and stage train has an opt",
    ),
    "orphan": (dict(optimizer={"0": sgd(0.1)}), "no player steps 3.weight, 3.bias\n"),
    "no such submodule": (
        dict(optimizer={"critic": sgd(0.1)}),
        "player critic steps critic, and the model has no such sub",
    ),
    "player without weights": (dict(optimizer={"model": sgd(0.1), "1": sgd(0.1)}), "player 1 has no trainable weight"),
    "no trainable weight": (dict(model=frozen), "Sequential has no trainable weight, and the stage has an optimizer"),
    "torch's own optimizer": (dict(optimizer={"model": 0.1}), "the optimizer of player model is a float"),
    "uneven parts": (dict(objective=losses(uneven), accumulate=3), "micro-batches of one step yield different players"),
    "turned parts": (
        dict(objective=losses(turned), accumulate=3, optimizer={"0": sgd(0.1), "3": sgd(0.1)}),
        "micro-batches of one step yield different players",
    ),
    "closure and parts": (dict(optimizer=lbfgs(), accumulate=2), "wants a closure takes one player and no accumulation"),
    "select without val": (dict(data=no_validation(), select="-loss"), "stage train has select= and nothing to look at"),
    "stop without val": (
        dict(data=no_validation(), stop=patience("-loss", 2)),
        "stage train has stop= and nothing to look",
    ),
    "select what is not": (dict(select="f1"), "select='f1', and the validation measures loss, accuracy"),
    "a rule that asks for what is not": (
        dict(select=lambda history: history[-1]["f1"] > 0),
        "select= asks for 'f1', and the validation measures loss, accuracy",
    ),
    "stop at what is not": (
        dict(stop=patience("f1", 1), steps=8),
        "stop= asks for 'f1', and the validation measures loss, accuracy",
    ),
    "data of another kind": (dict(data=lambda: [1]), "the data of stage train is a list, not Splits"),
    "no examples": (dict(data=toys.rows(train=0)), "the training split of stage train is empty"),
    "name": (dict(name="Pre train"), "'Pre train' is no name for a stage"),
}


@pytest.mark.parametrize("case", CASES)
def test_a_broken_rule_is_named(case: str, tmp_path: Path) -> None:
    changes, words = CASES[case]
    with pytest.raises(ContractError, match=words):
        toys.play(toys.one(**changes), tmp_path)


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        (dict(steps=1, epochs=1), "exactly one of epochs= and steps="),
        (dict(), "exactly one of epochs= and steps="),
        (dict(epochs=0), "epochs must be a whole number of 1 or more, not 0"),
        (dict(steps=1, batch=0), "batch must be a whole number of 1 or more"),
        (dict(steps=2.5), "steps must be a whole number"),
        (dict(steps=1, objective=nn.Identity()), "objective must be an Objective"),
        (dict(steps=1, model=abs), "model must be a torch.nn.Module"),
        (dict(steps=1, data=[1, 2]), "data must be Splits"),
        (dict(epochs=1, data=None), "without data has no epochs"),
        (dict(steps=1, data=None, accumulate=2), "without data has nothing to accumulate"),
    ],
)
def test_a_stage_that_cannot_be_is_refused(fields: dict[str, Any], words: str) -> None:
    with pytest.raises(ContractError, match=words):
        Stage(**{"model": toys.mlp(), "data": toys.rows(), "objective": toys.Classify(), **fields})


def no_stage() -> Iterator[Stage]:
    yield from ()


def not_a_stage() -> Iterator[Any]:
    yield toys.mlp()


def twice() -> Iterator[Stage]:
    yield toys.stage(name="one")
    yield toys.stage(name="one")


def nameless() -> Iterator[Stage]:
    yield toys.stage()
    yield toys.stage()


def returns_text() -> Iterator[Stage]:
    yield toys.stage()
    return {"accuracy": "high"}


@pytest.mark.parametrize(
    ("recipe", "words"),
    [
        (no_stage, "the recipe yielded no stage"),
        (not_a_stage, "the recipe yielded a Sequential, not a Stage"),
        (twice, "two stages are named one"),
        (nameless, "two stages are named train"),
        (returns_text, r"a recipe returns \{metric: number\}, or nothing"),
    ],
)
def test_a_recipe_that_cannot_be_run(recipe: Any, words: str, tmp_path: Path) -> None:
    with pytest.raises(ContractError, match=words):
        toys.play(recipe, tmp_path)


@pytest.mark.parametrize("touch", [lambda s: s.batch(torch.arange(2)), lambda s: s.x])
def test_the_test_split_is_sealed_while_its_stage_trains(touch: Any, tmp_path: Path) -> None:
    data = toys.rows()

    class Peeks(toys.Classify):
        def losses(self, model: Any, batch: Any) -> Iterator[tuple[str, Tensor]]:
            touch(data.test)
            yield from super().losses(model, batch)

    with pytest.raises(ContractError, match="was read while its stage was training"):
        toys.play(toys.one(objective=Peeks, data=data), tmp_path)
    touch(data.test)  # open again


def test_a_copy_of_a_sealed_split_is_as_locked() -> None:
    split = Sealed(toys.rows().train)
    assert len(copy.deepcopy(split).batch(torch.arange(2))) == 2
    split.locked = True
    with pytest.raises(ContractError, match="was read while its stage was training"):
        copy.deepcopy(split).batch(torch.arange(2))


# ── the evaluation guard ────────────────────────────────────────────────────────────────────────────────────────────


class Dropped(toys.RowSplit):
    """Leaves out the last, short batch."""

    def batch(self, indices: Tensor) -> toys.Rows:
        return super().batch(indices if len(indices) == 16 else indices[:0])


class Subset(toys.RowSplit):
    def batch(self, indices: Tensor) -> toys.Rows:
        return super().batch(indices[indices % 3 > 0])


class Rows(toys.Classify):
    def __init__(self, what: str) -> None:
        self.what = what

    def evaluate(self, model: Any, batch: Any) -> Iterator[Any]:
        loss = F.cross_entropy(model(batch.x), batch.y, reduction="none")
        yield from {
            "mean": [("loss", loss.mean())],
            "kept": [("loss", loss[:5])],
            "full only": [("loss", loss)] if len(batch) == 16 else [],
            "twice": [("loss", loss), ("loss", loss)],
            "matrix": [("loss", loss[:, None])],
            "number": [("loss", float(loss.mean()))],
            "weights": [("loss", loss, loss.new_ones(()))],
            "nothing": [],
            "metric": [("count", loss[:1])],
            "uncounted": [("bare", loss)],
        }[self.what]

    def metrics(self, model: Any) -> dict[str, Metric]:
        return {"metric": {"count": toys.Spread()}, "uncounted": {"bare": Bare()}}.get(self.what, {})


class Bare(Metric):
    def update(self, *values: Any) -> None: ...

    def value(self) -> float:
        return 1.0


@pytest.mark.parametrize(
    ("what", "words"),
    [
        ("mean", "evaluate yielded a single number, a mean of means as loss for a batch of 16"),
        ("kept", r"evaluate yielded shape \(5,\) as loss for a batch of 16"),
        ("full only", "loss was measured on 16 of 23 examples; each counts once"),
        ("twice", "loss was measured on 46 of 23 examples; each counts once"),
        ("matrix", r"evaluate yielded shape \(16, 1\)"),
        ("number", "tensors of one row an example"),
        ("weights", "a single number, a mean of means"),
        ("nothing", "Rows.evaluate yielded nothing"),
        ("metric", "count was measured on 2 of 23 examples"),
        ("uncounted", "bare does not say what it stands on"),
    ],
)
def test_an_evaluation_that_does_not_count_every_example_is_refused(what: str, words: str, tmp_path: Path) -> None:
    with pytest.raises(ContractError, match=words):
        toys.play(toys.one(objective=lambda: Rows(what)), tmp_path)


@pytest.mark.parametrize(("kind", "words"), [(Dropped, "16 of 23 examples"), (Subset, "15 of 23 examples")])
def test_a_split_that_gives_fewer_examples_than_it_has_is_refused(kind: Any, words: str, tmp_path: Path) -> None:
    plain = toys.rows()
    assert isinstance(plain.val, toys.RowSplit)
    data = Splits(plain.train, kind(plain.val.x, plain.val.y), plain.test)
    with pytest.raises(ContractError, match=words):
        toys.play(toys.one(data=data), tmp_path)


def test_metrics_stand_on_all_examples(tmp_path: Path) -> None:
    run = toys.play(toys.one(objective=toys.Tokens, optimizer=adam(0.01)), tmp_path)
    data = toys.rows()
    assert isinstance(data.val, toys.RowSplit)
    assert run.counts["val/loss"] == float((1 + data.val.y).sum())
    assert run.counts["val/spread"] == 23
    assert run.counts["test/spread"] == 17


@pytest.mark.parametrize("objective", [toys.Classify, toys.Tokens])
def test_the_size_of_a_batch_changes_no_measure(objective: Any) -> None:
    """23 examples, the last batch short: a mean of batch means would be another number for each size."""
    torch.manual_seed(0)
    model, split = toys.mlp(), toys.rows().val
    assert split is not None
    whole = measure(model, objective(), split)
    for size in (1, 5, 16):
        assert measure(model, objective(), split, size) == pytest.approx(whole, rel=1e-6)
