"""The run folder: one execution, in one place, held by one process at a time. Its files: docs/run-folder.md."""

from __future__ import annotations

import json
import math
import os
import re
import shutil
from collections.abc import Callable, Mapping
from contextlib import suppress
from datetime import datetime
from functools import wraps
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from fuxian.engine import state, world
from fuxian.errors import ContractError, OutOfRoom, RunUnusable, WrongInput

KEEP = 2  # checkpoints of the running stage
_line = json.JSONEncoder(allow_nan=False).encode


def runs_folder() -> Path:
    return Path(os.environ.get("FUXIAN_RUNS", "runs"))


def new_folder(parent: Path, name: str | None) -> Path:
    """Makes `parent/name`, or the next free `parent/<date>-<n>`. Raises WrongInput where the name is taken."""
    try:
        parent.mkdir(parents=True, exist_ok=True)
        if name is not None:
            if not re.fullmatch(r"[\w][\w.+-]*", name):
                raise WrongInput(f"--name {name!r} is no folder name; use letters, digits, '.', '_', '+' and '-'")
            (parent / name).mkdir()
            return parent / name
        today = datetime.now().date().isoformat()
        number = 1
        while True:
            try:
                (parent / f"{today}-{number}").mkdir()
                return parent / f"{today}-{number}"
            except FileExistsError:
                number += 1
    except FileExistsError:
        raise WrongInput(
            f"{parent / (name or '')} exists already, and nothing is overwritten",
            do=f"fuxian resume {parent / (name or '')}, or give another --name",
        ) from None
    except OSError as error:
        raise OutOfRoom(
            f"no run folder can be made: {error.strerror or error}",
            where=str(parent),
            do="make room or set FUXIAN_RUNS to a folder that can be written",
        ) from error


def by_the_first(write: Callable[..., None]) -> Callable[..., None]:
    """Of several processes of a run the first one writes; to the others this does nothing, unless it failed."""

    @wraps(write)
    def alone(*words: Any) -> None:
        world.shared(lambda: write(*words))

    return alone


class RunFolder:
    """Reads and writes one run's files. Open it (`with`) to work in it: then no other run can.

    Several processes of one run see the same folder: the first writes, and what it reads reaches the others.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock = FileLock(path / "lock")
        self._log: Any = None

    def __enter__(self) -> RunFolder:
        self._open()
        return self

    @by_the_first
    def _open(self) -> None:
        try:
            self._lock.acquire(timeout=0)
        except Timeout:
            raise RunUnusable(
                f"{self.path} is in use by another process", do="wait for it, or start a run of your own"
            ) from None
        except OSError as error:
            raise OutOfRoom(f"{self.path} cannot be written: {error.strerror or error}") from error
        for unfinished in (self.path / "checkpoints").glob("*.tmp"):  # of a process that was killed while it wrote
            shutil.rmtree(unfinished)
        self._log = (self.path / "metrics.jsonl").open("ab")

    def __exit__(self, *_: object) -> None:
        if self._log is None:
            return
        with suppress(OSError):  # what could not be written was told when it was tried
            self._log.close()
        self._lock.release()

    # ── run.json, result.json ───────────────────────────────────────────────────────────────────────────────────────

    def read_info(self) -> dict[str, Any]:
        try:
            info = json.loads((self.path / "run.json").read_text(encoding="utf-8"))
        except FileNotFoundError:
            raise WrongInput(
                f"{self.path} is no run folder: it has no run.json", do="the runs there are: ls runs/*"
            ) from None
        except ValueError as error:
            raise RunUnusable(f"{self.path / 'run.json'} is damaged: {error}") from None
        if not isinstance(info, dict):
            raise RunUnusable(f"{self.path / 'run.json'} is damaged: it holds a {type(info).__name__}")
        state.refuse_newer(info.get("format"), self.path)
        return info

    def write_info(self, info: Mapping[str, Any]) -> None:
        """Not shared: it is also written when something has failed, and the others may be gone."""
        if world.rank() == 0:
            state.write_text(self.path / "run.json", json.dumps(info, indent=1, ensure_ascii=False) + "\n")

    @by_the_first
    def write_result(
        self, metrics: Mapping[str, float], counts: Mapping[str, float], stages: Mapping[str, Mapping[str, float]]
    ) -> None:
        cleaned = {name: clean(values) for name, values in stages.items()}
        result = {"metrics": clean(metrics), "counts": clean(counts), "stages": cleaned}
        state.write_text(self.path / "result.json", json.dumps(result, indent=1, allow_nan=False) + "\n")

    # ── metrics.jsonl ───────────────────────────────────────────────────────────────────────────────────────────────

    def log(self, stage: str, step: int, values: Mapping[str, float]) -> None:
        if self._log is not None:
            line = {"stage": stage, "step": step, **clean(values)}
            self._log.write(_line(line).encode() + b"\n")

    def flush_log(self) -> None:
        """Shows readers of the log what it has: not at each line, which would cost a tiny network a tenth of its time."""
        if self._log is not None:
            self._log.flush()

    def log_length(self) -> int:
        """Bytes of the log, once the disk has them: a checkpoint names it, and a resume cuts the log there."""
        if self._log is None:
            return 0
        self._log.flush()
        os.fsync(self._log.fileno())
        return self._log.tell()

    @by_the_first
    def cut_log(self, length: int) -> None:
        there = (self.path / "metrics.jsonl").stat().st_size
        if there < length:
            raise RunUnusable(f"{self.path / 'metrics.jsonl'} is truncated: {there:,} bytes of {length:,}")
        self._log.truncate(length)
        self._log.seek(length)

    # ── checkpoints ─────────────────────────────────────────────────────────────────────────────────────────────────

    @by_the_first
    def save(self, stage: str, step: int, tree: dict[str, Any]) -> None:
        state.write(self.path / "checkpoints" / f"{stage}-{step:06d}", tree)
        for old in self._steps(stage)[KEEP:]:
            shutil.rmtree(old)

    def newest(self, stage: str) -> tuple[dict[str, Any] | None, list[str]]:
        """The newest good checkpoint of a stage, or None; and what was wrong with each newer one, which is removed."""
        return world.shared(lambda: self._newest(stage))

    def _newest(self, stage: str) -> tuple[dict[str, Any] | None, list[str]]:
        damaged = []
        for path in self._steps(stage):
            try:
                return state.read(path), damaged
            except state.Damaged as error:
                damaged.append(f"checkpoint {path.name} is damaged: {error}")
                shutil.rmtree(path)  # else it would count as the newest, and push good ones out
        return None, damaged

    def newest_path(self, stage: str) -> Path | None:
        return next(iter(self._steps(stage)), None)

    def save_reading(self, stage: str, step: int, tree: dict[str, Any]) -> None:
        """How far the final reading of a stage is. Not shared, nor is the next: the first process alone reads."""
        state.write(self.path / "checkpoints" / f"{stage}-reading", {"step": step, **tree})

    def reading(self, stage: str, step: int) -> dict[str, Any] | None:
        """What `save_reading` wrote at this step; None if nothing, or nothing to be trusted: then all is read again."""
        with suppress(state.Damaged):
            saved = state.read(self.path / "checkpoints" / f"{stage}-reading")
            return saved if saved["step"] == step else None
        return None

    @by_the_first
    def finish(self, stage: str, tree: dict[str, Any]) -> None:
        state.write(self.path / "checkpoints" / f"{stage}-done", tree)
        self._forget(stage)

    @by_the_first
    def forget_steps(self, stage: str) -> None:
        self._forget(stage)

    def _forget(self, stage: str) -> None:
        for old in self._steps(stage):
            shutil.rmtree(old)
        shutil.rmtree(self.path / "checkpoints" / f"{stage}-reading", ignore_errors=True)

    def finished(self, stage: str) -> tuple[dict[str, Any] | None, list[str]]:
        """What `finish` wrote, or None; and what was wrong with it."""
        return world.shared(lambda: self._finished(stage))

    def _finished(self, stage: str) -> tuple[dict[str, Any] | None, list[str]]:
        path = self.path / "checkpoints" / f"{stage}-done"
        if not path.exists():
            return None, []
        try:
            return state.read(path), []
        except state.Damaged as error:
            return None, [f"checkpoint {path.name} is damaged: {error}"]

    @by_the_first
    def forget_after(self, stages: list[str]) -> None:
        """Drops the checkpoints of all other stages: they are still to come, and will be trained to the same bits."""
        folder = self.path / "checkpoints"
        for path in folder.iterdir() if folder.is_dir() else ():
            if path.name.rpartition("-")[0] not in stages:
                shutil.rmtree(path)

    def _steps(self, stage: str) -> list[Path]:
        """Checkpoints of a running stage, the newest first."""
        found = (self.path / "checkpoints").glob(f"{stage}-*")
        named = [(int(p.name.rpartition("-")[2]), p) for p in found if re.fullmatch(rf"{re.escape(stage)}-\d+", p.name)]
        return [path for _, path in sorted(named, reverse=True)]


def check_stage_name(name: str, earlier: list[str]) -> str:
    """The name of a stage in files: `train` where it has none. Raises ContractError where it is taken."""
    name = name or "train"
    if not re.fullmatch(r"[a-z0-9][a-z0-9_-]*", name) or name.endswith("-done"):
        raise ContractError(f"{name!r} is no name for a stage; use small letters, digits and '-'")
    if name in earlier:
        raise ContractError(f"two stages are named {name}", do="give each stage of a recipe a name= of its own")
    return name


def clean(values: Mapping[str, float]) -> dict[str, float | None]:
    """JSON has no NaN and no infinity: null stands for them."""
    return {name: value if math.isfinite(value) else None for name, value in values.items()}
