"""`run --track tensorboard`: what it shows, read back by TensorBoard itself; that it changes nothing; kill and resume."""

from __future__ import annotations

import importlib.util
import json
import math
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("tensorboard", reason="tensorboard is not here")

from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

import fuxian as package
from fuxian.engine.track import TRACKERS, TensorBoard
from fuxian.engine.watch import Watch

Fuxian = Callable[..., tuple[int, str, str]]


def read(folder: Path) -> EventAccumulator:
    all_of_it = {"scalars": 0, "images": 0}
    return EventAccumulator(str(folder / "tensorboard"), size_guidance=all_of_it, purge_orphaned_data=False).Reload()


def curves(folder: Path) -> dict[str, list[tuple[int, float]]]:
    events = read(folder)
    return {tag: [(e.step, e.value) for e in events.Scalars(tag)] for tag in events.Tags()["scalars"]}


def logged(folder: Path) -> dict[str, list[tuple[int, float]]]:
    """The curves that `metrics.jsonl` has."""
    found: dict[str, list[tuple[int, float]]] = {}
    for line in map(json.loads, (folder / "metrics.jsonl").read_text().splitlines()):
        for name in line.keys() - {"stage", "step"}:
            found.setdefault(f"{line['stage']}/{name}", []).append((line["step"], line[name]))
    return found


def agree(folder: Path) -> bool:
    ours, theirs = logged(folder), curves(folder)
    return all(
        [step for step, _ in theirs[tag]] == [step for step, _ in points]
        and all(math.isclose(a, b, rel_tol=1e-6) for (_, a), (_, b) in zip(theirs[tag], points, strict=True))
        for tag, points in ours.items()
    )


@pytest.fixture
def pictured(here: Path) -> Path:
    """The line with two stages of two players each, and two pictures."""
    text = (here / "line.py").read_text()
    losses = [
        '        yield "0", (model(batch.x) - batch.y).square().mean()',
        '        yield "1", (model(batch.x) - batch.y).abs().mean()',
        "",
        "    def pictures(self, model, split):",
        "        return {'dots': torch.rand(1, 4, 6), 'drawn': torch.zeros(3, 2, 2)}",
    ]
    text = text.replace('        yield "model", (model(batch.x) - batch.y).square().mean()', "\n".join(losses))
    text = text.replace("nn.Linear(1, 1), points", "nn.Sequential(nn.Linear(1, 1), nn.Linear(1, 1)), points")
    text = text.replace("Squares(), sgd(lr)", "Squares(), {'0': sgd(lr), '1': sgd(lr)}")
    stage = text[text.index("    yield Stage(") :]
    first, last = (stage.replace("batch=3", f'batch=3, name="{name}"') for name in ("pre", "pre-fine"))
    (here / "line.py").write_text(text.replace(stage, first + last))
    return here / "line.py"


def test_losses_by_player_validation_metrics_knobs_and_pictures(fuxian: Fuxian, pictured: Path, here: Path) -> None:
    code, out, err = fuxian("run", "line.py", "--quick", "--track", "tensorboard", "--name", "one")
    assert (code, err) == (0, "")
    assert "\ncurves  tensorboard --logdir runs/line/one\n" in out
    folder = here / "runs/line/one"
    found = curves(folder)
    assert {"pre/0/loss", "pre/1/loss", "pre-fine/0/loss", "pre-fine/val/error"} <= set(found)
    assert agree(folder)
    metrics = json.loads((folder / "result.json").read_text())["metrics"]
    assert found["result/test/error"] == [(4, pytest.approx(metrics["test/error"]))]
    events = read(folder)
    assert set(events.Tags()["images"]) == {
        f"{stage}/{name}" for stage in ("pre", "pre-fine") for name in ("dots", "drawn")
    }
    (dots,) = events.Images("pre-fine/dots")
    assert (dots.step, dots.width / dots.height) == (4, 1.5)
    start = events.summary_metadata["_hparams_/session_start_info"]
    assert b"momentum" in start.plugin_data.content
    assert b"seed" in start.plugin_data.content
    assert json.loads((folder / "run.json").read_text())["track"] == "tensorboard"


def test_nothing_changes_in_the_numbers(fuxian: Fuxian, here: Path) -> None:
    for name, words in {"with": ["--track", "tensorboard"], "without": []}.items():
        assert fuxian("run", "line.py", "--name", name, *words)[0] == 0
    runs = here / "runs/line"
    for file in ("metrics.jsonl", "result.json"):
        assert (runs / "with" / file).read_bytes() == (runs / "without" / file).read_bytes()
    assert not (runs / "without/tensorboard").exists()
    assert json.loads((runs / "without/run.json").read_text())["track"] is None


def test_each_seed_has_curves_of_its_own(fuxian: Fuxian, here: Path) -> None:
    out = fuxian("run", "line.py", "--seeds", "2", "--quick", "--track", "tensorboard", "--name", "both")[1]
    assert "curves  tensorboard --logdir runs/line/both\n" in out
    for seed in (0, 1):
        assert agree(here / f"runs/line/both/seed-{seed}")
    assert json.loads((here / "runs/line/both/seeds.json").read_text())["options"]["track"] == "tensorboard"


class Kill(Watch):
    """Ends the process the hard way once so many validations are done, with a checkpoint some steps behind."""

    def __init__(self, after: int) -> None:
        self.left = after

    def evaluated(self, step: int, metrics: Any) -> None:
        self.left -= 1
        if not self.left:
            os.kill(os.getpid(), signal.SIGKILL)


KILLED = """
import sys; sys.path.insert(0, {tests!r})
from test_track import Kill
import fuxian
fuxian.run("line.py", name="killed", track="tensorboard", save_seconds=0.02, epochs=400, watch=Kill(after=300))
"""


@pytest.mark.kill
def test_after_a_kill_no_curve_lies_over_another(fuxian: Fuxian, here: Path) -> None:
    text = (here / "line.py").read_text()
    slow = '        __import__("time").sleep(0.001)\n        yield "model"'
    (here / "line.py").write_text(text.replace('        yield "model"', slow))
    done = subprocess.run([sys.executable, "-c", KILLED.format(tests=str(Path(__file__).parent))], check=False, timeout=120)
    assert done.returncode == -signal.SIGKILL
    folder = here / "runs/line/killed"
    shown = max(step for step, _ in curves(folder)["train/loss"])
    checkpoint = max(int(path.name.rpartition("-")[2]) for path in (folder / "checkpoints").glob("train-*[0-9]"))
    assert shown > 0
    assert 0 < checkpoint < json.loads((folder / "run.json").read_text())["stages"][0]["steps"]
    assert fuxian("resume", "runs/line/killed")[0] == 0
    assert agree(folder)
    steps = [step for step, _ in curves(folder)["train/loss"]]
    assert steps == sorted(set(steps))
    assert sorted(path.stat().st_size > 0 for path in (folder / "tensorboard").iterdir()) == [False, True]
    package.run("line.py", name="whole", epochs=400)
    for file in ("metrics.jsonl", "result.json"):
        assert (folder / file).read_bytes() == (here / "runs/line/whole" / file).read_bytes()


def test_a_tensorboard_that_is_looking_forgets_what_is_written_anew(here: Path) -> None:
    first = TensorBoard(here)
    for step in range(1, 6):
        first.numbers({"loss": 1.0}, step)
    first.writer.close()
    looking = EventAccumulator(str(here / "tensorboard"), purge_orphaned_data=True)
    assert [event.step for event in looking.Reload().Scalars("loss")] == [1, 2, 3, 4, 5]
    time.sleep(1.1)  # event files are told apart by the second
    second = TensorBoard(here)
    for step in range(1, 4):
        second.numbers({"loss": 0.5}, step)
    second.writer.close()
    assert [(event.step, event.value) for event in looking.Reload().Scalars("loss")] == [(1, 0.5), (2, 0.5), (3, 0.5)]


def test_wrong_input_is_one_line(fuxian: Fuxian, here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    message = "fuxian: --track tensorbord is not one of tensorboard; the nearest is tensorboard\n"
    assert fuxian("run", "line.py", "--track", "tensorbord") == (2, "", message)
    there = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *a: None if name in TRACKERS else there(name, *a))
    monkeypatch.setattr("importlib.metadata.requires", lambda _: ["tensorboard>=2.16; extra == 'track'"])
    code, out, err = fuxian("run", "line.py", "--track", "tensorboard")
    needs = "--track tensorboard needs the package tensorboard, which is not here"
    assert (code, out, err) == (2, "", f'fuxian: {needs}; pip install "fuxian[track]"\n')
    assert not (here / "runs").exists()
