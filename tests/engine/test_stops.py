"""How a run stops before its end: signals, losses that are not finite, no memory, a folder in use."""

from __future__ import annotations

import json
import os
import random
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from fuxian import resume, run
from fuxian.contract import Stage
from fuxian.engine import state
from fuxian.engine.folder import RunFolder
from fuxian.errors import Interrupted, NotFinite, OutOfRoom, RunUnusable, WrongInput
from fuxian.optim import adam, sgd

from .. import kills
from . import toys

FILES = ("metrics.jsonl", "result.json", "checkpoints/train-done/tensors.safetensors")


class Signalled(toys.Classify):
    """Sends this process a signal: in the third step, or in the second evaluation."""

    def __init__(self, where: str, number: int) -> None:
        self.where, self.number = where, number
        self.register_buffer("steps", torch.zeros(()))
        self.evaluations: list[Tensor] = []

    def losses(self, model: Any, batch: Any) -> Iterator[tuple[str, Tensor]]:
        self.steps += 1
        if self.where == "step" and self.steps == 3:
            os.kill(os.getpid(), self.number)
        yield from super().losses(model, batch)

    def evaluate(self, model: Any, batch: Any) -> Iterator[tuple[Any, ...]]:
        if self.where == "evaluation" and self.steps == 4:
            os.kill(os.getpid(), self.number)
        yield from super().evaluate(model, batch)


@pytest.mark.parametrize("where", ["step", "evaluation"])
@pytest.mark.parametrize(("number", "name", "code"), [(signal.SIGINT, "Ctrl-C", 130), (signal.SIGTERM, "SIGTERM", 143)])
def test_a_signal_saves_and_a_resume_ends_with_the_same_bits(
    where: str, number: int, name: str, code: int, tmp_path: Path
) -> None:
    sent: list[int] = []

    def recipe(where: str = where) -> Iterator[Stage]:
        objective = Signalled("nowhere" if sent else where, number)
        spec = adam(0.05, ema=0.8)
        yield toys.stage(toys.mlp(dropout=0.3), objective, optimizer=spec, steps=8, evaluate_every=2, select="-loss")

    wanted = toys.play(lambda: recipe("nowhere"), tmp_path / "alone", name="run").folder
    handlers = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    with pytest.raises(Interrupted) as caught:
        toys.play(recipe, tmp_path / "stopped", name="run", save_seconds=100.0)
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == handlers
    folder, step = tmp_path / "stopped/run", 3 if where == "step" else 4
    assert caught.value.code == code
    assert caught.value.message == f"stopped by {name} at stage train, step {step} of 8"
    assert caught.value.lines["saved"] == f"{folder}/checkpoints/train-{step:06d}, verified"
    assert caught.value.lines["do"].startswith(f"fuxian resume {folder}")
    info = json.loads((folder / "run.json").read_text())
    assert info["status"] == "stopped"
    assert {**info["stopped"], "message": ""} == {"reason": name, "message": "", "stage": "train", "step": step}
    sent.append(1)
    assert resume(folder)[0].info["status"] == "done"
    for file in FILES:
        assert (folder / file).read_bytes() == (wanted / file).read_bytes(), file


class Long(toys.Tokens):
    """Its evaluation draws from every source of chance and changes a buffer; a signal comes in the batch that is named."""

    def __init__(self, read: list[int], stops_at: int | None = None) -> None:
        self.read, self.stops_at = read, stops_at
        self.register_buffer("seen", torch.zeros(()))

    def evaluate(self, model: Any, batch: Any) -> Iterator[tuple[Any, ...]]:
        self.read.append(len(batch))
        if len(self.read) == self.stops_at:
            os.kill(os.getpid(), signal.SIGTERM)
        self.seen += len(batch)
        yield from super().evaluate(model, batch)
        yield "chance", torch.rand(len(batch)) + np.random.rand() + random.random() + self.seen  # noqa: NPY002


@pytest.mark.parametrize(
    ("stops_at", "again"),  # val after the last step, val and test at the end: 23, 23 and 17 examples, five at a time
    [(8, [5, 5, 3, 5, 5, 5, 2]), (12, [5, 5, 2]), (14, [2])],
)
def test_a_long_final_reading_goes_on_where_it_was(stops_at: int, again: list[int], tmp_path: Path) -> None:
    read: list[int] = []

    def recipe(stops_at: int | None = stops_at) -> Iterator[Stage]:
        objective = Long(read, None if len(read) >= stops_at else stops_at) if stops_at else Long([])
        yield toys.stage(objective=objective, steps=2, batch=5, evaluate_every=2)

    wanted = toys.play(lambda: recipe(None), tmp_path / "alone", name="run").folder
    with pytest.raises(Interrupted, match="step 2 of 2"):
        toys.play(recipe, tmp_path / "stopped", name="run")
    folder, before = tmp_path / "stopped/run", len(read)
    assert before == stops_at
    assert resume(folder)[0].info["status"] == "done"
    assert read[before:] == [5, 5, 5, 5, 3, *again]  # a checkpoint a step: the last is from before its validation
    for file in FILES:
        assert (folder / file).read_bytes() == (wanted / file).read_bytes(), file
    assert not (folder / "checkpoints/train-reading").exists()


@pytest.mark.parametrize("spoiled", ["damaged", "step", "network"])
def test_a_reading_that_cannot_be_trusted_begins_again(
    spoiled: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its file is damaged, it is of another step, or a metric holds what cannot be saved."""
    read: list[int] = []

    def recipe(stops_at: int | None = 14) -> Iterator[Stage]:
        yield toys.stage(objective=Long(read, None if len(read) >= 14 else stops_at), steps=2, batch=5, evaluate_every=2)

    if spoiled == "network":
        monkeypatch.setattr(toys.Spread, "__init__", lambda self: vars(self).update(seen=[], of=torch.nn.Linear(1, 1)))
    with pytest.raises(Interrupted):
        toys.play(recipe, tmp_path, name="run")
    reading = tmp_path / "run/checkpoints/train-reading"
    assert reading.exists() == (spoiled != "network")
    if spoiled == "damaged":
        (reading / "state.json").write_text("{}")
    if spoiled == "step":
        state.write(reading, {**state.read(reading), "step": 1})
    assert resume(tmp_path / "run")[0].info["status"] == "done"
    assert read[14:] == [5, 5, 5, 5, 3] * 2 + [5, 5, 5, 2]


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_child_that_is_signalled_from_outside(number: int, code: int, tmp_path: Path) -> None:
    job = kills.Job(toys.file_of(toys.gan, tmp_path))
    kills.alone(job, tmp_path / "alone")
    assert kills.play(job, tmp_path / "killed", kills.Kill(kills.STEP, 150, number)) == code
    assert json.loads((tmp_path / "killed/run.json").read_text())["status"] == "stopped"
    assert kills.play(job, tmp_path / "killed", kills.Kill(kills.EVALUATION, 150, number), again=True) == code
    assert kills.play(job, tmp_path / "killed", again=True) == 0
    assert kills.outcome(tmp_path / "killed") == kills.outcome(tmp_path / "alone")


def test_a_signal_between_stages_stops_before_the_next(tmp_path: Path) -> None:
    sent: list[int] = []

    def recipe() -> Iterator[Stage]:
        yield toys.stage(name="one")
        if not sent:
            sent.append(1)
            os.kill(os.getpid(), signal.SIGTERM)
        yield toys.stage(name="two")

    with pytest.raises(Interrupted, match="at stage two, step 0 of 4"):
        toys.play(recipe, tmp_path, name="run")
    assert resume(tmp_path / "run")[0].info["status"] == "done"


# ── not finite ──────────────────────────────────────────────────────────────────────────────────────────────────────


class Blows(toys.Adversarial):
    def __init__(self, value: float) -> None:
        self.blow = value
        super().__init__()

    def losses(self, model: Any, batch: Any) -> Iterator[tuple[str, Tensor]]:
        for player, loss in super().losses(model, batch):
            yield player, loss + self.blow if self.rounds == 6 and player == "generator" else loss


@pytest.mark.parametrize(("value", "word"), [(float("nan"), "NaN"), (float("inf"), "infinite")])
def test_a_loss_that_is_not_finite_is_placed(value: float, word: str, tmp_path: Path) -> None:
    players = dict(generator=adam(0.01), discriminator=adam(0.01))
    recipe = toys.one(model=toys.Pair, objective=lambda: Blows(value), optimizer=players, steps=9)
    with pytest.raises(NotFinite) as caught:
        toys.play(recipe, tmp_path, name="run")
    error = caught.value
    assert error.message == f"the loss is {word}"
    assert error.lines["where"] == "stage train, step 6, player generator, batch 2 of epoch 2"  # four batches an epoch
    assert error.lines["kept"] == f"step 5, the last checkpoint: {tmp_path}/run/checkpoints/train-000005"
    assert error.code == 3
    assert sorted(p.name for p in (tmp_path / "run/checkpoints").iterdir()) == ["train-000004", "train-000005"]
    last = json.loads((tmp_path / "run/metrics.jsonl").read_text().splitlines()[-1])
    assert last["step"] == 5


def test_what_helps_against_it_names_the_rate(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(
        '"""Mine."""\n\nfrom tests.engine import toys\nfrom fuxian.optim import sgd\n\n\n'
        "def recipe(\n    lr: float = 0.1,  # rate\n):\n"
        "    yield toys.stage(objective=toys.Rebuild(), model=toys.mlp(outputs=6), optimizer=sgd(lr), steps=200)\n"
    )
    with pytest.raises(NotFinite) as caught:
        run(tmp_path / "mine.py", parent=tmp_path, lr=1e9)
    assert caught.value.lines["do"] == "lower --lr (it is 1000000000.0; the default is 0.1), then run again"


def test_a_metric_that_is_not_finite_does_not_stop_a_run(tmp_path: Path) -> None:
    class Undefined(toys.Classify):
        def __init__(self) -> None:
            self.register_buffer("steps", torch.zeros(()))

        def losses(self, model: Any, batch: Any) -> Iterator[tuple[str, Tensor]]:
            self.steps += 1
            yield from super().losses(model, batch)

        def evaluate(self, model: Any, batch: Any) -> Iterator[tuple[Any, ...]]:
            yield "score", torch.full((len(batch),), float("nan") if self.steps < 2 else -float(self.steps))
            yield "never", torch.full((len(batch),), float("nan"))

    made = toys.play(toys.one(objective=Undefined, evaluate_every=1, select="score"), tmp_path)
    assert made.metrics["val/score"] == -2.0  # the best of NaN, -2, -3, -4
    assert made.metrics["val/never"] != made.metrics["val/never"]
    result = json.loads((made.folder / "result.json").read_text())
    assert result["metrics"]["val/never"] is None
    assert result["stages"]["train"]["val/never"] is None


# ── no memory ───────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"),
        RuntimeError("[enforce fail at alloc_cpu.cpp] . DefaultCPUAllocator: can't allocate memory: you tried to allocate"),
    ],
)
def test_no_memory_is_told_with_what_helps(error: BaseException, tmp_path: Path) -> None:
    class Hungry(toys.Classify):
        def losses(self, model: Any, batch: Any) -> Iterator[tuple[str, Tensor]]:
            raise error
            yield

    with pytest.raises(OutOfRoom) as caught:
        toys.play(toys.one(objective=Hungry), tmp_path, name="run")
    assert caught.value.message == "out of memory"
    assert "--precision bf16" in caught.value.lines["do"]
    assert json.loads((tmp_path / "run/run.json").read_text())["stopped"]["reason"] == "out of memory"


def test_another_error_is_not_called_one_of_memory(tmp_path: Path) -> None:
    class Wrong(toys.Classify):
        def losses(self, model: Any, batch: Any) -> Iterator[tuple[str, Tensor]]:
            yield "model", model(batch.x[:, :2]).sum()

    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
        toys.play(toys.one(objective=Wrong), tmp_path, name="run")
    assert json.loads((tmp_path / "run/run.json").read_text())["stopped"]["reason"] == "error"


# ── one process a run ───────────────────────────────────────────────────────────────────────────────────────────────


def test_a_run_that_another_process_holds_is_left_alone(tmp_path: Path) -> None:
    job, folder = kills.Job(toys.file_of(toys.plain, tmp_path)), tmp_path / "run"
    assert kills.play(job, folder, kills.Kill(kills.STEP, 100)) == -signal.SIGKILL
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    with RunFolder(folder):
        assert kills.play(job, folder, again=True) == RunUnusable.code
        assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before
    assert kills.play(job, folder, again=True) == 0


def test_nothing_is_overwritten(tmp_path: Path) -> None:
    made = toys.play(toys.one(), tmp_path, name="run")
    before = (made.folder / "run.json").read_bytes()
    with pytest.raises(WrongInput, match="exists already, and nothing is overwritten"):
        toys.play(toys.one(optimizer=sgd(0.2)), tmp_path, name="run")
    assert (made.folder / "run.json").read_bytes() == before


def test_a_folder_that_is_no_run(tmp_path: Path) -> None:
    with pytest.raises(WrongInput, match="is no run folder"):
        resume(tmp_path)


def test_a_done_run_is_not_run_again(tmp_path: Path) -> None:
    made = toys.play(toys.one(), tmp_path)
    before = {path: path.stat().st_mtime_ns for path in made.folder.rglob("*")}
    assert resume(made.folder)[0].metrics == made.metrics
    assert {path: path.stat().st_mtime_ns for path in made.folder.rglob("*")} == before


def test_a_file_that_has_changed_is_refused(tmp_path: Path) -> None:
    made = toys.play(toys.one(), tmp_path, name="run")
    (made.folder / "run.json").write_text(json.dumps({**made.info, "status": "stopped"}))
    path = Path(made.info["file"])
    path.write_text(path.read_text() + "\n# changed\n")
    with pytest.raises(RunUnusable, match="has changed since this run began"):
        resume(made.folder)
    assert resume(made.folder, changed_code=True)[0].metrics == made.metrics
