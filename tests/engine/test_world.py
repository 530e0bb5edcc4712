"""Several processes do what one does, stop together, and never drift apart in silence."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor, nn

from fuxian.contract import Batch, Objective, Splits, Stage
from fuxian.data.images import image_data
from fuxian.engine import launch
from fuxian.methods.generative.cgan import CGAN, Adversarial
from fuxian.methods.generative.vae import VAE, Bound
from fuxian.methods.vision.lenet import recipe as lenet
from fuxian.optim import adam, adamw, cosine, lbfgs, sgd

from .. import kills
from . import toys

# ── recipes without draws of their own in a step: there processes differ ────────────────────────────────────────────


@dataclass(frozen=True)
class Noised(Batch):
    x: Tensor  # (batch, 6)
    y: Tensor  # (batch,)
    z: Tensor  # (batch, 2): noise that belongs to the example


class NoisedSplit(toys.RowSplit):
    def batch(self, indices: Tensor) -> Any:
        z = torch.sin(7.0 * torch.arange(len(self)))[indices]
        return Noised(self.x[indices], self.y[indices], torch.stack([z, z.cos()], 1))


def noised() -> Splits:
    data: Any = toys.rows()
    return Splits(NoisedSplit(data.train.x, data.train.y), data.val, data.test)


def plain() -> Iterator[Stage]:
    yield Stage(
        toys.mlp(), toys.rows(), toys.Classify(), adam(0.01, schedule=cosine(3), clip=0.5, ema=0.9), epochs=3, batch=16
    )


def accumulated() -> Iterator[Stage]:
    yield Stage(toys.mlp(), toys.rows(), toys.Classify(), adamw(0.01), epochs=2, batch=14, accumulate=3)


def weighted() -> Iterator[Stage]:
    """Sums and weights; the last batch of 50 holds one example, fewer than there are processes."""
    yield Stage(toys.mlp(), toys.rows(), toys.Tokens(), adam(0.01), epochs=2, batch=7, accumulate=2)


class Submodules(Objective):
    """Calls parts of the model, never the whole; a layer that no loss reaches; a layer that only some batches reach."""

    def losses(self, model: Any, batch: Any) -> Iterator[tuple[str, Tensor]]:
        fake = model.generator(batch.z)
        real, made = model.discriminator(batch.x), model.discriminator(fake.detach())
        few = (batch.y == 0) & (batch.x[:, 0] > 1)  # none in some parts of a batch: then its weights have no gradient
        sometimes = (model.sometimes(batch.x)[:, 0].square() * few).mean() if few.any() else 0.0
        yield "discriminator", F.softplus(-real).mean() + F.softplus(made).mean() + sometimes
        yield "generator", F.softplus(-model.discriminator(fake)).mean()

    def evaluate(self, model: Any, batch: Any) -> Iterator[tuple[Any, ...]]:
        yield "real", model.discriminator(batch.x)[:, 0]


class Parts(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.generator, self.discriminator = nn.Linear(2, 6), toys.mlp(outputs=1)
        self.never, self.sometimes = nn.Linear(6, 1), nn.Linear(6, 1)


def submodules() -> Iterator[Stage]:
    players = dict(
        generator=adam(0.01, ema=0.9), discriminator=adam(0.01, of=("discriminator", "never", "sometimes"), decay=0.1)
    )
    yield Stage(Parts(), noised(), Submodules(), players, epochs=2, batch=16)


class Penalty(Submodules):
    """A gradient of a gradient."""

    def losses(self, model: Any, batch: Any) -> Iterator[tuple[str, Tensor]]:
        x = batch.x.clone().requires_grad_()
        (slope,) = torch.autograd.grad(model.discriminator(x).sum(), x, create_graph=True)
        yield "discriminator", model.discriminator(batch.x).mean() + (slope.norm(dim=1) - 1).square().mean()


def penalty() -> Iterator[Stage]:
    pair = Parts()
    pair.generator, pair.never, pair.sometimes = (nn.Identity() for _ in range(3))
    yield Stage(pair, noised(), Penalty(), dict(discriminator=adam(0.01)), epochs=2, batch=16)


def second_order() -> Iterator[Stage]:
    yield Stage(toys.mlp(), toys.rows(), toys.Classify(), lbfgs(history=3, iterations=4), steps=4)


def digits_cgan() -> Iterator[Stage]:
    """The method's own model and losses, with noise of the example."""
    images: Any = image_data("digits")
    model = CGAN(2, 10, 64, dropout=0.0)

    class Carried(Adversarial):
        def losses(self, model: Any, batch: Any) -> Iterator[tuple[str, Tensor]]:
            z = torch.stack([batch.image.sum((1, 2, 3)).sin(), batch.image.sum((1, 2, 3)).cos()], 1)
            model.draw = lambda label: model.generator(z, model.onehot(label))
            yield from super().losses(model, batch)
            del model.draw

        def evaluate(self, model: Any, batch: Any) -> Iterator[tuple[Any, ...]]:
            yield "real", model.discriminator(batch.image.flatten(1), model.onehot(batch.label))

        def metrics(self, model: Any) -> dict[str, Any]:
            return {}

        def pictures(self, model: Any, split: Any) -> dict[str, Any]:
            return {}

    yield Stage(model, images, Carried(2, 10, 8), dict(discriminator=adam(2e-3), generator=adam(1e-3)), epochs=1, batch=50)


def digits_vae() -> Iterator[Stage]:
    """The method's own model and bound, with noise of the example."""
    images: Any = image_data("digits")

    class Carried(Bound):
        def noise(self, batch: Any, like: Tensor) -> Tensor:
            return torch.sin(batch.image.sum((1, 2, 3))[:, None] * torch.arange(1, like.shape[1] + 1))

    yield Stage(VAE(64, 32, 4), images, Carried((1, 8, 8)), adam(1e-3), epochs=1, batch=50)


def digits_lenet() -> Iterator[Stage]:
    yield from lenet(data="digits", epochs=2)


def gan() -> Iterator[Stage]:
    """Batch norm of each process's own part, dropout and noise of its own draws."""
    players = dict(generator=adam(0.01, ema=0.9, clip=1.0), discriminator=adam(0.01))
    yield Stage(toys.Pair(), toys.rows(), toys.Adversarial(), players, epochs=2, batch=10, evaluate_every=3)


class Drawn(toys.Classify):
    """A loss that is what the process draws."""

    def losses(self, model: Any, batch: Any) -> Iterator[tuple[str, Tensor]]:
        yield "model", 0 * model(batch.x).sum() + torch.rand(())


def drawn() -> Iterator[Stage]:
    yield Stage(toys.mlp(), toys.rows(), Drawn(), sgd(0.1), steps=4, batch=16)


SAME: list[Callable[[], Iterator[Stage]]] = [
    plain, accumulated, weighted, submodules, penalty, second_order, digits_cgan, digits_vae, digits_lenet,
    toys.lloyd,
]  # fmt: skip


def file_of(recipe: Callable[..., Any], folder: Path) -> str:
    path = folder / f"{recipe.__name__}.py"
    home = recipe.__module__
    path.write_text(
        f'"""A toy."""\nimport {home} as home\n\ndef recipe():\n    return (yield from home.{recipe.__name__}())\n'
    )
    return str(path)


def curve(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def assert_same_curve(one: Path, several: Path, within: float) -> None:
    ours, theirs = curve(one), curve(several)
    assert len(ours) == len(theirs) > 2
    for a, b in zip(ours, theirs, strict=True):
        assert a.keys() == b.keys()
        for name in a.keys() - {"stage"}:
            assert b[name] == pytest.approx(a[name], abs=within, rel=within), (a, b)
    metrics = [json.loads((folder / "result.json").read_text())["metrics"] for folder in (one, several)]
    assert metrics[1] == pytest.approx(metrics[0], abs=within, rel=within)
    weights = [load_file(folder / "checkpoints/train-done/tensors.safetensors") for folder in (one, several)]
    for name, weight in weights[0].items():
        torch.testing.assert_close(weights[1][name], weight, atol=10 * within, rtol=10 * within)


def assert_one_truth(folder: Path, processes: int) -> None:
    """Every process ended with the same bits."""
    first = (folder / "digest.json").read_text()
    for rank in range(1, processes):
        assert (folder / f"digest-{rank}.json").read_text() == first


@pytest.mark.slow
@pytest.mark.parametrize(("recipe", "processes"), [*((recipe, 2) for recipe in SAME), (plain, 3), (weighted, 3)])
def test_several_processes_give_the_curve_of_one(recipe: Any, processes: int, tmp_path: Path) -> None:
    job = kills.Job(file_of(recipe, tmp_path))
    assert kills.play(job, tmp_path / "one") == 0
    assert kills.play_together(job, tmp_path / "several", processes) == [0] * processes
    assert_same_curve(tmp_path / "one", tmp_path / "several", 1e-4)
    assert_one_truth(tmp_path / "several", processes)
    assert json.loads((tmp_path / "several" / "run.json").read_text())["processes"] == processes


@pytest.mark.slow
@pytest.mark.parametrize("options", [dict(precision="bf16"), dict(compile=True)], ids=["bf16", "compile"])
def test_precision_and_compilation_compose(options: dict[str, Any], tmp_path: Path) -> None:
    job = kills.Job(file_of(accumulated, tmp_path), options)
    assert kills.play(job, tmp_path / "one") == 0
    assert kills.play_together(job, tmp_path / "several", 2) == [0, 0]
    assert_same_curve(tmp_path / "one", tmp_path / "several", 1e-4 if "compile" in options else 2e-2)


@pytest.mark.parametrize("toy", [gan, toys.teacher, toys.strides, toys.tasks, toys.picture])
def test_processes_end_with_the_same_bits_whatever_they_draw(toy: Any, tmp_path: Path) -> None:
    """Dropout and noise of their own, batch norm of their own part, queues, frozen parts, stages that use one another."""
    assert kills.play_together(kills.Job(file_of(toy, tmp_path)), tmp_path / "run", 2) == [0, 0]
    assert_one_truth(tmp_path / "run", 2)


def test_processes_draw_numbers_of_their_own(tmp_path: Path) -> None:
    job = kills.Job(file_of(drawn, tmp_path))
    assert kills.play(job, tmp_path / "one") == 0
    assert kills.play_together(job, tmp_path / "two", 2) == [0, 0]
    for one, two in zip(curve(tmp_path / "one"), curve(tmp_path / "two"), strict=True):
        assert "loss" not in one or abs(one["loss"] - two["loss"]) > 1e-6  # the mean of both, not the first's again


@pytest.mark.kill
@pytest.mark.parametrize("toy", [gan, toys.tasks])
@pytest.mark.parametrize("rank", [0, 1])
def test_killed_and_resumed_equals_uninterrupted(toy: Any, rank: int, tmp_path: Path) -> None:
    job = kills.Job(file_of(toy, tmp_path))
    assert kills.play_together(job, tmp_path / "alone", 2) == [0, 0]
    for number, line in enumerate((30, 300)):  # in the first step; in a later one, or in the next task
        folder = tmp_path / f"killed-{number}"
        codes = kills.play_together(job, folder, 2, {rank: kills.Kill(kills.STEP, line)})
        assert codes[rank] == -signal.SIGKILL
        assert codes[1 - rank] == 70  # told that the other is gone, not left waiting
        assert kills.play_together(job, folder, 2, again=True) == [0, 0]
        different = {k for k, v in kills.outcome(tmp_path / "alone").items() if kills.outcome(folder).get(k) != v}
        assert not different
        assert_one_truth(folder, 2)


@pytest.mark.slow
def test_resumed_with_another_number_of_processes(tmp_path: Path) -> None:
    job = kills.Job(file_of(plain, tmp_path))
    assert kills.play(job, tmp_path / "one") == 0
    for name, first, then in (("fewer", 2, 1), ("more", 1, 2)):
        folder, kill = tmp_path / name, kills.Kill(("loop.py:_step",), 60)
        if first == 2:
            assert -9 in kills.play_together(job, folder, 2, {0: kill})
            assert kills.play(job, folder, again=True) == 0
        else:
            assert kills.play(job, folder, kill) == -9
            assert kills.play_together(job, folder, 2, again=True) == [0, 0]
        assert_same_curve(tmp_path / "one", folder, 1e-4)
        assert json.loads((folder / "run.json").read_text())["processes"] == then


@pytest.mark.parametrize("rank", [0, 1])
def test_a_signal_to_one_stops_all_and_saves(rank: int, tmp_path: Path) -> None:
    job, kill = kills.Job(file_of(plain, tmp_path)), kills.Kill(("loop.py:_step",), 40, signal.SIGTERM)
    folder = tmp_path / "run"
    assert kills.play_together(job, folder, 2, {rank: kill}) == [143, 143]
    assert json.loads((folder / "run.json").read_text())["status"] == "stopped"
    assert kills.play_together(job, folder, 2, again=True) == [0, 0]
    assert kills.play(job, tmp_path / "one") == 0
    assert_same_curve(tmp_path / "one", folder, 1e-4)


# ── what goes wrong is said ─────────────────────────────────────────────────────────────────────────────────────────


class Drifts(toys.Classify):
    """Changes a frozen weight by its own part of the batch, which nobody sums."""

    def losses(self, model: Any, batch: Any) -> Iterator[tuple[str, Tensor]]:
        model.offset.data.add_(batch.x.mean())
        yield "model", F.cross_entropy(model(batch.x), batch.y)


def drifts() -> Iterator[Stage]:
    model = toys.mlp()
    model.offset = nn.Parameter(torch.zeros(()), requires_grad=False)
    yield Stage(model, toys.rows(), Drifts(), sgd(0.1), steps=4, batch=16)


class Fails(toys.Classify):
    """Only the first process evaluates: what it meets, the other must hear of."""

    def evaluate(self, model: Any, batch: Any) -> Iterator[tuple[Any, ...]]:
        yield "accuracy", torch.zeros(())


def fails() -> Iterator[Stage]:
    yield Stage(toys.mlp(), toys.rows(), Fails(), sgd(0.1), steps=4, batch=16)


def small_batch() -> Iterator[Stage]:
    yield Stage(toys.mlp(), toys.rows(), toys.Classify(), sgd(0.1), steps=4, batch=1)


class Unlike(Objective):
    """The players of a step depend on the batch."""

    def losses(self, model: Any, batch: Any) -> Iterator[tuple[str, Tensor]]:
        first = int(os.environ["RANK"])
        for name in ("generator", "discriminator")[:: -1 if first else 1]:
            yield name, model.get_submodule(name)(batch.z if name == "generator" else batch.x).mean()


def unlike() -> Iterator[Stage]:
    pair = Parts()
    pair.generator, pair.never, pair.sometimes = nn.Linear(2, 2), nn.Identity(), nn.Identity()
    pair.discriminator = nn.Linear(6, 1)
    yield Stage(pair, noised(), Unlike(), dict(generator=adam(0.01), discriminator=adam(0.01)), steps=2, batch=16)


def not_finite() -> Iterator[Stage]:
    yield Stage(toys.mlp(outputs=6), toys.rows(), toys.Rebuild(), sgd(1e30), steps=9, batch=16)


@pytest.mark.parametrize(
    ("recipe", "codes"),
    [(drifts, [1, 1]), (fails, [2, 70]), (small_batch, [2, 2]), (not_finite, [3, 3])],
    ids=lambda given: getattr(given, "__name__", ""),
)
def test_an_error_ends_all_with_its_own_code(recipe: Any, codes: list[int], tmp_path: Path) -> None:
    found = kills.play_together(kills.Job(file_of(recipe, tmp_path)), tmp_path / "run", 2)
    assert found == codes
    assert json.loads((tmp_path / "run" / "run.json").read_text())["status"] == "failed"


def test_turns_of_different_players_are_not_added_up(tmp_path: Path) -> None:
    found = kills.play_together(kills.Job(file_of(unlike, tmp_path)), tmp_path / "run", 2)
    assert 0 not in found


# ── torchrun itself ─────────────────────────────────────────────────────────────────────────────────────────────────


def torchrun(*words: str, folder: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "-m", "fuxian", *words]
    environment = {**os.environ, "FUXIAN_RUNS": str(folder), "OMP_NUM_THREADS": "1", "PYTHONPATH": os.getcwd()}
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=240)


@pytest.mark.slow
def test_torchrun_prints_and_writes_once(tmp_path: Path) -> None:
    done = torchrun("run", "lenet", "--quick", "--limit", "5", "--seeds", "2", "--json", "--name", "two", folder=tmp_path)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)  # one object, of one process
    assert found["seeds"] == [0, 1]
    assert Path(found["report"]).is_file()
    assert (tmp_path / "vision.lenet" / "two" / "seed-1" / "result.json").is_file()
    again = torchrun("resume", str(tmp_path / "vision.lenet" / "two"), folder=tmp_path)
    assert again.stdout.count("report ") == 1, again.stdout
    wrong = torchrun("list", folder=tmp_path)
    assert wrong.returncode == 1  # torchrun's own
    assert wrong.stderr.count("call fuxian list without it") == 1


def test_a_scheduler_is_not_torchrun(monkeypatch: pytest.MonkeyPatch) -> None:
    """Some set WORLD_SIZE and RANK for programs of their own: this one is alone, and prints."""
    for name, value in dict(WORLD_SIZE="4", RANK="1").items():
        monkeypatch.setenv(name, value)
    assert not launch.launched()
    assert not launch.follows()
    for name, value in dict(LOCAL_RANK="1", MASTER_ADDR="127.0.0.1", MASTER_PORT="29500").items():
        monkeypatch.setenv(name, value)
    assert launch.launched()
    assert launch.follows()
