"""Runs that go well: streams of chance, limits, precision, what is judged, logged, recorded and loaded."""

from __future__ import annotations

import ctypes
import json
import resource
import subprocess
from collections.abc import Iterator
from importlib import import_module
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from fuxian import load, measure
from fuxian.contract import Stage
from fuxian.engine import seeds
from fuxian.engine.device import kept_memory
from fuxian.engine.watch import Watch
from fuxian.errors import ContractError
from fuxian.optim import adam, cosine, lbfgs, sgd

from . import toys

STREAMS = ("recipe", "data", "order", "batch", "losses", "evaluate", "pictures")


def test_streams_do_not_meet() -> None:
    """Also in the 32 bits that torch keeps, over a hundred thousand steps of some runs and stages."""
    starts = [seeds.stream(seed, stage, name) for seed in range(3) for stage in ("", "train", "two") for name in STREAMS]
    low = sorted(start % 2**32 for start in starts)
    assert min(b - a for a, b in pairwise(low)) > 100_000
    assert all(0 <= start < 2**62 for start in starts)
    assert seeds.stream(1, "a", "b") != seeds.stream(1, "", "ab")
    assert seeds.stream(0, "train", "batch") == 3118012111135306356  # every run's results hang on it


class Reader(Watch):
    def __init__(self) -> None:
        self.read: list[tuple[str, int, int]] = []

    def reading(self, split: str, done: int, of: int) -> None:
        self.read.append((split, done, of))


def test_a_reading_is_told_batch_by_batch(tmp_path: Path) -> None:
    """Of val after each of two epochs and at the end, of test at the end: 23 and 17 examples, 16 at a time."""
    watch = Reader()
    toys.play(toys.plain, tmp_path, watch=watch)
    val, test = [("val", 16, 23), ("val", 23, 23)], [("test", 16, 17), ("test", 17, 17)]
    assert watch.read == [*val * 3, *test]


def test_an_order_is_a_permutation_and_a_function_of_its_arguments() -> None:
    before = torch.get_rng_state()
    first = seeds.order(0, "train", 3, 1000)
    assert torch.equal(first.sort().values, torch.arange(1000))
    assert torch.equal(first, seeds.order(0, "train", 3, 1000))
    assert torch.equal(before, torch.get_rng_state())
    for other in (seeds.order(1, "train", 3, 1000), seeds.order(0, "two", 3, 1000), seeds.order(0, "train", 4, 1000)):
        assert not torch.equal(first, other)


@pytest.mark.parametrize(("drop_last", "sizes"), [(False, [16, 16, 16, 2]), (True, [16, 16, 16])])
def test_an_epoch_sees_each_example_once(drop_last: bool, sizes: list[int], tmp_path: Path) -> None:
    held: list[Any] = [[]]

    class Note(toys.Classify):
        def losses(self, model: Any, batch: Any) -> Iterator[tuple[str, Tensor]]:
            held[0].append(batch.x)
            yield from super().losses(model, batch)

    data = toys.rows()
    toys.play(toys.one(objective=Note, data=data, steps=None, epochs=2, drop_last=drop_last), tmp_path)
    assert [len(x) for x in held[0]] == sizes * 2
    if not drop_last:
        assert isinstance(data.train, toys.RowSplit)
        epochs = torch.cat(held[0][:4]), torch.cat(held[0][4:])
        for epoch in epochs:
            assert torch.equal(epoch.sort(0).values, data.train.x.sort(0).values)
        assert not torch.equal(*epochs)


def test_what_a_loss_draws_does_not_depend_on_what_the_data_drew(tmp_path: Path) -> None:
    seen: list[Tensor] = []

    class Note(toys.Classify):
        def losses(self, model: Any, batch: Any) -> Iterator[tuple[str, Tensor]]:
            seen.append(torch.rand(3))
            yield from super().losses(model, batch)

    for noise in (0.0, 0.1):
        toys.play(toys.one(objective=Note, data=toys.rows(noise=noise), steps=2), tmp_path)
    assert torch.equal(torch.stack(seen[:2]), torch.stack(seen[2:]))
    assert not torch.equal(seen[0], seen[1])


def test_the_same_seed_is_the_same_run_and_another_is_not(tmp_path: Path) -> None:
    runs = [toys.play(toys.gan, tmp_path / str(n), seed=seed) for n, seed in enumerate([0, 0, 1])]
    logs = [(run.folder / "metrics.jsonl").read_bytes() for run in runs]
    assert logs[0] == logs[1] != logs[2]


def test_the_result_does_not_depend_on_when_it_was_saved(tmp_path: Path) -> None:
    runs = [toys.play(toys.gan, tmp_path / str(n), save_seconds=seconds) for n, seconds in enumerate([0.0, 1e9])]
    for name in (
        "metrics.jsonl",
        "result.json",
        "checkpoints/train-done/tensors.safetensors",
        "pictures/train-samples.png",
    ):
        assert (runs[0].folder / name).read_bytes() == (runs[1].folder / name).read_bytes(), name


def test_schedules_see_the_full_total_under_a_limit(tmp_path: Path) -> None:
    rates: dict[int | None, list[float]] = {}
    for limit in (None, 3):
        seen: list[float] = []

        def note(step: int, total: int, history: Any, seen: list[float] = seen) -> float:
            seen.append(cosine(warmup=2)(step, total, history))
            return seen[-1]

        run = toys.play(toys.one(optimizer=sgd(0.1, schedule=note), steps=10), tmp_path, limit=limit)
        rates[limit] = seen
        assert (run.info["stages"][0]["steps"], run.info["stages"][0]["full_steps"]) == (limit or 10, 10)
    assert rates[3] == rates[None][:3]
    assert rates[None][0] == 0.5
    assert len(rates[None]) == 10


def test_the_log_has_a_line_a_step_then_means(tmp_path: Path) -> None:
    run = toys.play(toys.one(steps=1200, evaluate_every=500), tmp_path, limit=50, save_seconds=9.0)
    lines = [json.loads(line) for line in (run.folder / "metrics.jsonl").read_text().splitlines()]
    losses = [line["step"] for line in lines if "loss" in line]
    assert losses == [*range(1, 21), *range(21, 51, 3), 50]  # 1,200 steps in about 500 lines: every third
    assert [line["step"] for line in lines if "val/loss" in line] == [50]


def test_what_is_judged_is_what_is_loaded(tmp_path: Path) -> None:
    """Best, else average, else last: measured again it gives the same numbers, and it is not the live weights."""
    held: list[nn.Module] = []

    def recipe(**changes: Any) -> Any:
        def model() -> nn.Module:
            held.append(toys.mlp())
            return held[-1]

        return toys.one(model=model, steps=6, evaluate_every=1, **changes)

    found = {}
    for name, changes in {
        "last": dict(optimizer=sgd(2.0)),
        "average": dict(optimizer=sgd(2.0, ema=0.9)),
        "best": dict(optimizer=sgd(2.0), select="-loss"),
        "best average": dict(optimizer=sgd(2.0, ema=0.9), select="-loss"),
    }.items():
        run = toys.play(recipe(**changes), tmp_path, name=name.replace(" ", "-"))
        loaded = load(run)
        assert loaded.data is not None
        for part, split in (("val", loaded.data.val), ("test", loaded.data.test)):
            assert split is not None
            again = measure(loaded.model, loaded.objective, split, 16)
            assert {f"{part}/{key}": value for key, value in again.items()}.items() <= run.metrics.items()
        found[name] = run
    losses = {name: run.metrics["val/loss"] for name, run in found.items()}
    assert len(set(losses.values())) >= 3
    for name in ("best", "best average"):
        run = found[name]
        rows = [json.loads(line) for line in (run.folder / "metrics.jsonl").read_text().splitlines()]
        history = {row["step"]: row["val/loss"] for row in rows if "val/loss" in row}
        assert run.metrics["val/loss"] == min(history.values())
        assert history[run.info["stages"][0]["best_step"]] == min(history.values())


def test_a_rule_keeps_the_weights_that_it_says(tmp_path: Path) -> None:
    """It sees the history up to the newest evaluation; the weights judged are the last that it kept."""
    told: list[list[dict[str, float]]] = []

    def keep(history: list[dict[str, float]]) -> bool:
        told.append([dict(row) for row in history])
        return len(history) in (2, 3)

    run = toys.play(toys.one(steps=6, evaluate_every=1, optimizer=sgd(2.0), select=keep), tmp_path)
    rows = [json.loads(line) for line in (run.folder / "metrics.jsonl").read_text().splitlines()]
    history = {row["step"]: row["val/loss"] for row in rows if "val/loss" in row}
    assert [len(rows) for rows in told] == [1, 2, 3, 4, 5, 6]
    assert [row["loss"] for row in told[-1]] == list(history.values())
    assert (run.info["stages"][0]["best_step"], run.info["stages"][0]["select"]) == (3, "rule keep")
    assert run.metrics["val/loss"] == history[3]


def test_judging_changes_nothing_that_trains(tmp_path: Path) -> None:
    """Whether it is judged after each step or at the end only: the average in place of the weights, evaluation mode."""
    weights = []
    for every in (1, 100):
        spec = dict(generator=adam(0.01, ema=0.5), discriminator=adam(0.01, ema=0.5))
        recipe = toys.one(model=toys.Pair, objective=toys.Adversarial, optimizer=spec, steps=6, evaluate_every=every)
        weights.append(load(toys.play(recipe, tmp_path)).model.state_dict())
    for name, weight in weights[0].items():
        assert torch.equal(weight, weights[1][name]), name


def test_every_evaluation_of_a_run_draws_the_same_numbers(tmp_path: Path) -> None:
    class Drawn(toys.Classify):
        def evaluate(self, model: Any, batch: Any) -> Iterator[tuple[Any, ...]]:
            yield "drawn", torch.rand(len(batch))

    run = toys.play(toys.one(objective=Drawn, evaluate_every=1), tmp_path)
    lines = [json.loads(line) for line in (run.folder / "metrics.jsonl").read_text().splitlines()]
    drawn = [line["val/drawn"] for line in lines if "val/drawn" in line]
    assert drawn == [run.metrics["val/drawn"]] * 4


def test_an_average_is_the_sum_that_it_should_be(tmp_path: Path) -> None:
    seen: list[Tensor] = []

    class Note(toys.Classify):
        def losses(self, model: Any, batch: Any) -> Iterator[tuple[str, Tensor]]:
            seen.append(model[0].weight.detach().clone())
            yield from super().losses(model, batch)
            seen.append(model[0].weight.detach().clone())

    run = toys.play(toys.one(objective=Note, optimizer=sgd(0.5, ema=0.75), steps=3), tmp_path)
    wanted = seen[0]
    for after in seen[1::2]:
        wanted = 0.75 * wanted + 0.25 * after
    torch.testing.assert_close(load(run).model[0].weight, wanted)  # type: ignore[index]


def test_clipping_scales_the_gradient_to_the_limit(tmp_path: Path) -> None:
    seen: list[Tensor] = []

    class Note(toys.Classify):
        def losses(self, model: Any, batch: Any) -> Iterator[tuple[str, Tensor]]:
            before = [w.detach().clone() for w in model.parameters()]
            yield from super().losses(model, batch)
            seen.append(torch.cat([(w - b).flatten() for w, b in zip(model.parameters(), before, strict=True)]).norm())

    toys.play(toys.one(objective=Note, optimizer=sgd(1.0, clip=1e-3)), tmp_path)
    torch.testing.assert_close(torch.stack(seen), torch.full((4,), 1e-3), rtol=1e-3, atol=0.0)


def test_the_data_of_a_finished_stage_is_not_made_again(tmp_path: Path) -> None:
    made: list[int] = []
    run = toys.play(lambda: toys.sampled(lambda: made.append(1)), tmp_path)
    assert made == [1]
    load(run)
    assert made == [1]


def test_a_stage_of_no_steps_only_measures(tmp_path: Path) -> None:
    run = toys.play(toys.one(steps=0, optimizer=None), tmp_path)
    assert 0 <= run.metrics["test/accuracy"] <= 1
    assert (run.folder / "metrics.jsonl").read_text() == ""


def test_between_yields_models_are_judged_ones_and_in_evaluation_mode(tmp_path: Path) -> None:
    seen: list[Any] = []

    def recipe() -> Iterator[Stage]:
        model, objective = toys.mlp(dropout=0.5), toys.Classify()
        result: Any = yield toys.stage(model, objective, optimizer=adam(0.1, ema=0.9), name="one")
        seen.append((model.training, objective.training, [w.grad for w in model.parameters()]))
        assert result["val/loss"] == measure(model, objective, toys.rows().val, 16)["loss"]  # type: ignore[arg-type]
        yield toys.stage(model, objective, name="two")

    toys.play(recipe, tmp_path)
    assert seen == [(False, False, [None] * 4)]


def test_a_closure_draws_the_same_numbers_each_time(tmp_path: Path) -> None:
    """L-BFGS evaluates the loss of a step several times: it must be the same loss."""
    seen: list[float] = []

    class Note(toys.Classify):
        def losses(self, model: Any, batch: Any) -> Iterator[tuple[str, Tensor]]:
            seen.append(torch.rand(()).item())
            yield from super().losses(model, batch)

    toys.play(toys.one(objective=Note, optimizer=lbfgs(iterations=4), steps=2), tmp_path)
    assert len(seen) > 6
    assert len(set(seen)) == 2  # one a step


def test_frozen_weights_stay_as_they_are(tmp_path: Path) -> None:
    held: list[nn.Sequential] = []

    def model() -> nn.Module:
        held.append(toys.mlp())
        held[-1][0].requires_grad_(False)
        held.append(held[-1][0].weight.detach().clone())  # type: ignore[union-attr,arg-type]
        return held[0]

    toys.play(toys.one(model=model, optimizer=adam(0.1, decay=0.5, ema=0.5)), tmp_path)
    assert torch.equal(held[0][0].weight, held[1])  # type: ignore[arg-type]


def test_bf16_trains_in_bf16_and_keeps_float32_weights(tmp_path: Path) -> None:
    dtypes: set[torch.dtype] = set()

    class Note(toys.Classify):
        def losses(self, model: Any, batch: Any) -> Iterator[tuple[str, Tensor]]:
            dtypes.add(model(batch.x).dtype)
            yield from super().losses(model, batch)

    run = toys.play(toys.one(objective=Note), tmp_path, precision="bf16")
    assert dtypes == {torch.bfloat16}
    assert {w.dtype for w in load(run).model.parameters()} == {torch.float32}


@pytest.mark.slow
def test_compiled_modules_train(tmp_path: Path) -> None:
    class Names(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body, self.head = nn.Linear(6, 4), nn.Linear(4, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.body(x))

    players = dict(model=sgd(0.1), both=sgd(0.1, of=("body", "head")))
    plain = toys.play(toys.one(model=Names, optimizer=players), tmp_path)
    compiled = toys.play(toys.one(model=Names, optimizer=players), tmp_path, compile=True)
    assert compiled.metrics["val/loss"] == pytest.approx(plain.metrics["val/loss"], rel=1e-4)
    assert load(compiled).model.state_dict().keys() == load(plain).model.state_dict().keys()


@pytest.mark.parametrize("carries", [True, False])
def test_moments_go_on_from_the_stage_before_where_they_are_asked_to(carries: bool, tmp_path: Path) -> None:
    """Two stages of 5 steps on the whole split are then one of 10, to the bit."""

    def weights(*steps: int) -> list[Tensor]:
        torch.manual_seed(0)
        model = toys.mlp()

        def recipe() -> Iterator[Stage]:
            for i, count in enumerate(steps):
                optimizer = adam(0.01, carries=carries)
                yield Stage(model, toys.rows(), toys.Classify(), optimizer, steps=count, name=f"part-{i}")

        toys.play(recipe, tmp_path / f"{len(steps)}")
        return [p.detach() for p in model.parameters()]

    together = all(torch.equal(a, b) for a, b in zip(weights(5, 5), weights(10), strict=True))
    assert together is carries


def test_moments_that_were_not_kept_are_missed(tmp_path: Path) -> None:
    def recipe() -> Iterator[Stage]:
        model = toys.mlp()
        for name, carries in (("one", False), ("two", True)):
            yield Stage(model, toys.rows(), toys.Classify(), adam(0.01, carries=carries), steps=2, name=name)

    with pytest.raises(ContractError, match="stage two carries on, and the stage before kept no moments of it"):
        toys.play(recipe, tmp_path)


def test_moments_do_not_go_on_to_other_weights(tmp_path: Path) -> None:
    def recipe() -> Iterator[Stage]:
        for name, model in (("one", toys.mlp()), ("two", nn.Sequential(toys.mlp(), nn.Linear(3, 3)))):
            yield Stage(model, toys.rows(), toys.Classify(), adam(0.01, carries=True), steps=2, name=name)

    with pytest.raises(ContractError, match=r"carries on from the stage before, whose weight 0\.weight it does not step"):
        toys.play(recipe, tmp_path)


def test_a_record_that_is_written_leaves_the_checkout_clean(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("src", "results"):
        (tmp_path / name).mkdir()
    code, kept = tmp_path / "src/run.py", tmp_path / "results/one.json"
    who = ["-c", "user.name=a", "-c", "user.email=a@b.c"]
    for path in (code, kept):
        path.write_text("{}")
    for words in (["init", "-q"], ["add", "."], [*who, "commit", "-qm", "one"]):
        subprocess.run(["git", "-C", str(tmp_path), *words], check=True)
    module = import_module("fuxian.engine.run")
    monkeypatch.setattr(module, "__file__", str(code))
    head = subprocess.run(["git", "-C", str(tmp_path), "rev-parse", "HEAD"], capture_output=True, text=True, check=True)
    kept.write_text("{'claims': []}")
    assert module._commit() == (head.stdout.strip(), False)
    code.write_text("{} ")
    assert module._commit() == (head.stdout.strip(), True)


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "mallopt"), reason="not glibc")
def test_a_run_keeps_its_memory_from_step_to_step() -> None:
    pieces = lambda: [torch.ones(6_000_000) for _ in range(4)]
    pages = 4 * 24_000_000 // resource.getpagesize()
    faults = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    resident = lambda: int(Path("/proc/self/statm").read_text().split()[1])
    with kept_memory():
        pieces()
        before = faults()
        for _ in range(5):
            pieces()
        assert faults() - before < 5 * pages / 2  # else all of them, five times
        kept = resident()
    assert kept - resident() > 0.8 * pages
