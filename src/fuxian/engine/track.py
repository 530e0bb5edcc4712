"""A run shown by another program too: `run --track tensorboard`. A tracker is three calls, and TRACKERS names it.

What a tracker shows is made from `metrics.jsonl`, which a resume cuts where its checkpoint ends, and written anew when a
run goes on. So no curve lies over another, and the run itself does not change by a bit.
"""

from __future__ import annotations

import importlib.util
import json
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

from fuxian import catalog
from fuxian.engine import world
from fuxian.engine.watch import Watch
from fuxian.errors import WrongInput
from fuxian.knobs import listed, nearest


class Tracker(Protocol):
    """Made anew for a run's folder, in the place of what an earlier one left there."""

    def numbers(self, values: Mapping[str, float], step: int) -> None:
        """A line of the log: losses by player, or a validation; `train/loss`, `pretrain/val/accuracy`."""

    def picture(self, name: str, path: Path, step: int) -> None:
        """A PNG that an objective drew."""

    def end(self, knobs: Mapping[str, Any], metrics: Mapping[str, float], step: int) -> None:
        """The run is done: what it was made with, and what came of it."""


class TensorBoard:
    """Event files in `tensorboard/` of the run's folder: `tensorboard --logdir RUN`."""

    def __init__(self, folder: Path) -> None:
        from torch.utils.tensorboard import SummaryWriter

        # Emptied, not deleted: a TensorBoard that is looking waits for a file that is gone, and passes over an empty one;
        # then purge_step tells it to forget what it has read.
        for before in (folder / "tensorboard").glob("events.*"):
            os.truncate(before, 0)
        self.writer = SummaryWriter(str(folder / "tensorboard"), purge_step=0)

    def numbers(self, values: Mapping[str, float], step: int) -> None:
        for name, value in values.items():
            self.writer.add_scalar(name, value, step)
        self.writer.flush()

    def picture(self, name: str, path: Path, step: int) -> None:
        import numpy as np
        from PIL import Image

        with Image.open(path) as image:
            self.writer.add_image(name, np.asarray(image.convert("RGB")), step, dataformats="HWC")

    def end(self, knobs: Mapping[str, Any], metrics: Mapping[str, float], step: int) -> None:
        from torch.utils.tensorboard.summary import hparams

        plain = {name: value if isinstance(value, bool | int | float) else str(value) for name, value in knobs.items()}
        assert self.writer.file_writer is not None
        for summary in hparams(plain, dict(metrics)):  # the table of runs by their knobs
            self.writer.file_writer.add_summary(summary)
        for name, value in metrics.items():
            self.writer.add_scalar(name, value, step)
        self.writer.close()


TRACKERS = {"tensorboard": TensorBoard}  # each is also the name of the package that it needs


def check(track: str | None) -> None:
    """Raises WrongInput for a tracker that there is not, or whose package is not here."""
    if track is None:
        return
    if track not in TRACKERS:
        raise WrongInput(f"--track {track} is not one of {listed(TRACKERS)}{nearest(track, TRACKERS)}")
    if importlib.util.find_spec(track) is None:
        raise WrongInput(f"--track {track} needs the package {track}, which is not here; {catalog.install_command(track)}")


def tracked(track: str | None, watch: Watch) -> Watch:
    """`watch`, and a tracker beside it; of several processes the first one tracks."""
    check(track)
    return Tracked(watch, track) if track is not None and world.rank() == 0 else watch


class Tracked(Watch):
    """Tells `watch` all that it is told, and a tracker what has come into the log since."""

    def __init__(self, watch: Watch, track: str) -> None:
        self.watch, self.track = watch, track
        self.tracker: Tracker | None = None
        self.read = 0  # bytes of the log

    def started(self, folder: Path, info: Mapping[str, Any]) -> None:
        self.folder, self.info = folder, info
        self.watch.started(folder, info)

    def stage_started(self, stage: Mapping[str, Any]) -> None:
        self.tracker = self.tracker or self.begin()  # not before: a resume has cut the log by now
        self.watch.stage_started(stage)

    def stepped(self, step: int, losses: Mapping[str, float], rate: float, waited: float) -> None:
        self.follow()
        self.watch.stepped(step, losses, rate, waited)

    def evaluated(self, step: int, metrics: Mapping[str, float]) -> None:
        self.watch.evaluated(step, metrics)

    def stage_ended(self, stage: Mapping[str, Any], metrics: Mapping[str, float]) -> None:
        if self.tracker is not None:
            self.follow()
        self.watch.stage_ended(stage, metrics)

    def note(self, message: str) -> None:
        self.watch.note(message)

    def ended(self, folder: Path, info: Mapping[str, Any], metrics: Mapping[str, float]) -> None:
        tracker = self.tracker = self.tracker or self.begin()  # none: it was killed after its last stage
        self.follow()
        steps = {stage["name"]: stage["step"] for stage in info["stages"]}
        for path in sorted((folder / "pictures").glob("*.png")):
            stage = max((name for name in steps if path.stem.startswith(f"{name}-")), key=len)
            tracker.picture(f"{stage}/{path.stem[len(stage) + 1 :]}", path, steps[stage])
        knobs = {name: knob["value"] for name, knob in info["knobs"].items()} | {"seed": info["seed"]}
        found = {f"result/{name}": value for name, value in metrics.items() if math.isfinite(value)}  # not a curve's name
        tracker.end(knobs, found, info["stages"][-1]["step"])
        self.watch.ended(folder, info, metrics)

    def begin(self) -> Tracker:
        """A new tracker, told all that the log has."""
        self.tracker, self.read = TRACKERS[self.track](self.folder), 0
        self.follow()
        return self.tracker

    def follow(self) -> None:
        """Tells the tracker the lines that the log has got since it was last looked at; whole ones."""
        assert self.tracker is not None
        with (self.folder / "metrics.jsonl").open("rb") as log:
            log.seek(self.read)
            text = log.read()
        whole = text[: text.rfind(b"\n") + 1]
        self.read += len(whole)
        for line in map(json.loads, whole.splitlines()):
            values = {f"{line['stage']}/{name}": value for name, value in line.items() if name not in ("stage", "step")}
            self.tracker.numbers({name: value for name, value in values.items() if value is not None}, line["step"])
