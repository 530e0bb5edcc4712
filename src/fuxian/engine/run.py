"""Runs: start one, go on with one, load what came of it.

>>> run = fuxian.run("gcn", hidden=32)      # doctest: +SKIP
>>> run.metrics["test/accuracy"]            # doctest: +SKIP
>>> model = fuxian.load(run).model          # doctest: +SKIP
"""

from __future__ import annotations

import json
import math
import shlex
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import torch
from torch import nn

from fuxian import catalog
from fuxian.contract import Objective, Splits, Stage, defines
from fuxian.data.own import reading
from fuxian.engine import judge, loop, seeds, state, world
from fuxian.engine.device import machine, pick_device, versions
from fuxian.engine.folder import RunFolder, new_folder, runs_folder
from fuxian.engine.running import Settings
from fuxian.engine.track import check as check_track
from fuxian.engine.track import tracked
from fuxian.engine.watch import Watch
from fuxian.engine.work import check_data, recipe_of, restore, work
from fuxian.errors import Interrupted, RunUnusable, WrongInput
from fuxian.knobs import listed, nearest
from fuxian.numbers import plural

PRECISIONS = ("float32", "bf16")


class Run:
    """One execution, read from its folder.

    folder    where it is
    info      how it was made and how it stands: run.json
    metrics   what it measured at the end, by name; empty until it is done
    counts    how many examples (or what weight) each metric stands on
    """

    def __init__(self, folder: Path | str) -> None:
        self.folder = Path(folder)
        self.info = RunFolder(self.folder).read_info()
        path = self.folder / "result.json"
        result = json.loads(path.read_text()) if path.is_file() else {"metrics": {}, "counts": {}}
        self.metrics: dict[str, float] = {n: math.nan if v is None else v for n, v in result["metrics"].items()}
        self.counts: dict[str, float] = result["counts"]

    def __repr__(self) -> str:
        numbers = ", ".join(f"{name} {value:.4g}" for name, value in self.metrics.items())
        return f"Run({str(self.folder)!r}, {self.info['status']}{', ' if numbers else ''}{numbers})"


@dataclass
class Loaded:
    """The last stage of a finished run, or another that was asked for, with the weights that were judged."""

    model: nn.Module
    objective: Objective
    data: Splits | None  # None where the stage has none, or makes it on demand: `make_data`
    stages: list[Stage]
    knobs: dict[str, Any]
    stage: str
    run: Run

    def make_data(self) -> Splits | None:
        """The stage's data; made now, as it was for training, where a function makes it."""
        if self.data is None:
            names = [stage.name or "train" for stage in self.stages]
            make = self.stages[names.index(self.stage)].data
            if callable(make):
                seeds.seed_all(seeds.stream(self.run.info["seed"], self.stage, "data"))
                with reading(*_own(self.run.info)):
                    self.data = make()
                check_data(self.data, self.stage, self.run.info, self.run.folder)
        return self.data


def run(
    method: str | Path,
    *,
    seed: int = 0,
    quick: bool = False,
    limit: int | None = None,
    device: str | None = None,
    precision: str = "float32",
    compile: bool = False,
    track: str | None = None,
    name: str | None = None,
    target: str | None = None,
    time: str | None = None,
    watch: Watch | None = None,
    command: str = "",
    origin: str = "python",
    save_seconds: float = 30.0,
    parent: Path | None = None,
    **knobs: Any,
) -> Run:
    """Runs a method (`"gcn"`) or a user's file (`"./mine.py"`) to its end, in a new folder.

    `quick` takes the method's offline setting, `limit` at most so many steps a stage (schedules keep the full run's
    total). Of a `.csv` of one's own, `target` is the column that is to be predicted, and `time` the one that orders its
    rows; `track="tensorboard"` shows the run there too. Raises FuxianError: wrong knobs, missing data, a loss that is not
    finite, a signal.
    """
    entry = catalog.find(str(method))
    resolved = entry.resolve(knobs, origin, quick)
    if precision not in PRECISIONS:
        raise WrongInput(f"--precision {precision}: it is float32 or bf16")
    if limit is not None and limit < 1:
        raise WrongInput(f"--limit {limit} is out of range; it is 1 or more steps")
    for flag, column in (("target", target), ("time", time)):
        if column is not None and not any(Path(str(value)).suffix.lower() == ".csv" for value, _ in resolved.values()):
            raise WrongInput(f"--{flag} {column} names a column, and no knob is the path of a .csv")
    check_track(track)
    world.join()
    where = pick_device(device)
    recipe_of(entry)  # a file that cannot be used leaves no folder behind
    folder = RunFolder(world.shared(lambda: new_folder(parent or runs_folder() / entry.key, name)))
    commit, dirty = _commit()
    command = command or _in_words(method, knobs, seed, quick, limit, target, time)
    info: dict[str, Any] = {
        "format": state.FORMAT,
        "method": entry.name,
        "family": entry.family,
        "file": None if entry.module else str(entry.path.resolve()),
        "file_sha256": state.sha256(entry.path),
        "knobs": {knob: {"value": _plain(value), "from": came} for knob, (value, came) in resolved.items()},
        "target": target,
        "time": time,
        "own_data": {},
        "seed": seed,
        "quick": quick,
        "limit": limit,
        "device": str(where),
        "precision": precision,
        "compile": compile,
        "track": track,
        "threads": torch.get_num_threads(),
        "processes": world.size(),
        "command": command.replace("fuxian", world.launcher(), 1),
        "created": datetime.now().astimezone().isoformat(timespec="seconds"),
        "commit": commit,
        "dirty": dirty,
        "versions": versions(),
        "machine": machine(where),
        "status": "running",
        "stopped": None,
        "stages": [],
    }
    if not entry.module and world.rank() == 0:
        shutil.copyfile(entry.path, folder.path / "method.py")
    folder.write_info(info)
    settings = Settings(seed, where, precision, compile, limit, save_seconds)
    values = {name: value for name, (value, _) in resolved.items()}
    with reading(*_own(info)):
        work(entry, folder, info, values, settings, tracked(track, watch or Watch()))
    return Run(folder.path)


def run_seeds(
    method: str | Path, seeds: Sequence[int], *, name: str | None = None, watch: Watch | None = None, **options: Any
) -> list[Run]:
    """The same run with several seeds: `<name>/seed-0`, `seed-1`, … Options and knobs as in `run`."""
    return _each_seed(begin_seeds(method, seeds, name=name, **options), watch)


def begin_seeds(method: str | Path, seeds: Sequence[int], *, name: str | None = None, **options: Any) -> Path:
    """A new folder for the same run with several seeds; its `seeds.json` is all that `run_seed` needs."""
    entry = catalog.find(str(method))
    if len(set(seeds)) < len(seeds):
        raise WrongInput(f"--seeds {','.join(map(str, seeds))} names a seed twice")
    world.join()
    folder = world.shared(lambda: new_folder(runs_folder() / entry.key, name))
    saved = {
        "format": state.FORMAT,
        "method": entry.key if entry.module else str(entry.path.resolve()),  # a run may be resumed from another folder
        "seeds": list(seeds),
        "status": "running",
        "command": options.get("command") or _of_seeds(entry, seeds, options),
        "options": {option: _plain(value) for option, value in options.items()},
    }
    world.shared(lambda: state.write_text(folder / "seeds.json", json.dumps(saved, indent=1) + "\n"))
    return folder


def run_seed(
    folder: Path, seed: int, *, watch: Watch | None = None, changed_code: bool = False, save_seconds: float = 30.0
) -> Run:
    """One seed of a folder of several: begun, or gone on with where it stands."""
    path = folder / f"seed-{seed}"
    if world.shared((path / "run.json").is_file):
        return resume(path, watch=watch, changed_code=changed_code, save_seconds=save_seconds)[0]
    world.shared(lambda: shutil.rmtree(path, ignore_errors=True))  # killed before there was anything to resume
    saved = read_seeds(folder)
    return run(saved["method"], seed=seed, name=path.name, parent=folder, **{**saved["options"], "watch": watch})


def read_seeds(folder: Path) -> dict[str, Any]:
    """What `seeds.json` says."""
    saved = json.loads((folder / "seeds.json").read_text())
    state.refuse_newer(saved["format"], folder)
    return saved


def mark_seeds(folder: Path, status: str) -> None:
    """Writes into `seeds.json` how the folder stands: running, done, stopped or failed."""
    if world.rank() == 0:
        state.write_text(folder / "seeds.json", json.dumps({**read_seeds(folder), "status": status}, indent=1) + "\n")


def _each_seed(folder: Path, watch: Watch | None, **options: Any) -> list[Run]:
    """Runs every seed of a folder to its end."""
    mark_seeds(folder, "running")
    try:
        runs = [run_seed(folder, seed, watch=watch, **options) for seed in read_seeds(folder)["seeds"]]
    except BaseException as error:
        mark_seeds(folder, "stopped" if isinstance(error, Interrupted) else "failed")
        if isinstance(error, Interrupted):
            error.lines["do"] = (
                f"{world.launcher()} resume {shlex.quote(str(folder))}     goes on with all seeds, to the same bits"
            )
        raise
    mark_seeds(folder, "done")
    return runs


def resume(
    folder: Path | str, *, watch: Watch | None = None, changed_code: bool = False, save_seconds: float = 30.0
) -> list[Run]:
    """Goes on where a run (or a folder of several seeds) stopped; on a CPU it ends with the same bits.

    Raises RunUnusable where the method's file has changed since, unless `changed_code`.
    """
    world.join()
    path = Path(folder)
    if (path / "seeds.json").is_file():
        return _each_seed(path, watch, changed_code=changed_code, save_seconds=save_seconds)
    there = RunFolder(path)
    info = there.read_info()
    if info["status"] == "done":
        return [Run(path)]
    entry = catalog.find(info["file"] or f"{info['family']}.{info['method']}")
    if state.sha256(entry.path) != info["file_sha256"] and not changed_code:
        raise RunUnusable(
            f"{entry.path} has changed since this run began",
            where=str(path),
            do="put the file back, or start a new run; to go on all the same: fuxian resume --changed-code",
        )
    watch = tracked(info.get("track"), watch or Watch())
    if torch.get_num_threads() != info["threads"]:
        torch.set_num_threads(info["threads"])  # sums split over threads round differently
    if versions()["torch"] != info["versions"]["torch"]:
        watch.note(f"this run began with torch {info['versions']['torch']}: the bits may differ")
    if world.size() != info.get("processes", 1):
        watch.note(f"this run began with {plural(info.get('processes', 1), 'process', 'processes')}: the bits may differ")
        info["processes"] = world.size()
    device = pick_device(info["device"] if world.size() == 1 else torch.device(info["device"]).type)
    settings = Settings(info["seed"], device, info["precision"], info["compile"], info["limit"], save_seconds)
    info |= {"status": "running", "stopped": None}
    with reading(*_own(info)):
        work(entry, there, info, _knobs(entry, info), settings, watch)
    return [Run(path)]


def load(run: Run | Path | str, *, able: str | None = None, stage: str | None = None) -> Loaded:
    """The model of a finished run, with the weights that were judged: of its last stage, or of the `stage` of that name.

    `able` is `sample`, `predict` or `inputs`: then of the last stage whose objective defines that. Raises WrongInput where
    none does, or the run is not finished; RunUnusable where its weights are damaged or its data has changed since.
    """
    run = run if isinstance(run, Run) else Run(run)
    if run.info["status"] != "done":
        raise WrongInput(f"{run.folder} is not finished", do=f"fuxian resume {run.folder}")
    entry = _entry_of(run)
    folder = RunFolder(run.folder)
    device = pick_device(run.info["device"] if torch.cuda.is_available() else "cpu")
    knobs = _knobs(entry, run.info)
    names: list[str] = []

    def play(stage: Stage, name: str) -> judge.Result:
        names.append(name)
        check_data(stage.data, name, run.info, run.folder)
        saved, damaged = folder.finished(name)
        if saved is None:
            raise RunUnusable(f"{run.folder}: " + (damaged or [f"stage {name} has no weights"])[0])
        return restore(stage, name, saved, device)

    with reading(*_own(run.info)):
        _, _, stages = loop.drive(recipe_of(entry)(**knobs), run.info["seed"], play)
    asked = [i for i, name in enumerate(names) if stage in (None, name)]
    if not asked:
        raise WrongInput(f"{run.folder} has no stage {stage}{nearest(str(stage), names)}", do=f"one of {listed(names)}")
    able_ones = [i for i in asked if able is None or defines(stages[i].objective, able)]
    if not able_ones:
        kinds = ", ".join(dict.fromkeys(type(stages[i].objective).__name__ for i in asked))
        wanted = "be exported" if able == "inputs" else able
        raise WrongInput(f"{entry.called} cannot {wanted}: its objective, {kinds}, does not define {able}")
    at = able_ones[-1]
    if at < len(stages) - 1:  # a later stage may have trained the same weights further
        play(stages[at], names[at])
    chosen = stages[at]
    data = chosen.data if isinstance(chosen.data, Splits) else None
    return Loaded(chosen.model, chosen.objective, data, stages, knobs, names[at], run)


# ── small things ────────────────────────────────────────────────────────────────────────────────────────────────────


def _entry_of(run: Run) -> catalog.Entry:
    """The method of a run; of a user's file that is gone or has changed, the copy that the run kept."""
    if run.info["file"] is None:
        return catalog.find(f"{run.info['family']}.{run.info['method']}")
    there = Path(run.info["file"])
    same = there.is_file() and state.sha256(there) == run.info["file_sha256"]
    return catalog.find(str(there if same else run.folder / "method.py"))


def _knobs(entry: catalog.Entry, info: Mapping[str, Any]) -> dict[str, Any]:
    """The knobs of a run that was made before, with the types that the recipe wants."""
    given = {name: entry_value["value"] for name, entry_value in info["knobs"].items()}
    return {name: value for name, (value, _) in entry.resolve(given, "python", False).items()}


def _plain(value: Any) -> Any:
    return str(value) if isinstance(value, Path) else list(value) if isinstance(value, tuple) else value


def _own(info: dict[str, Any]) -> tuple[str | None, dict[str, str], str | None]:
    """What a run says of its own data, as `reading` takes it."""
    return info.get("target"), info.setdefault("own_data", {}), info.get("time")


def _in_words(
    method: str | Path,
    knobs: Mapping[str, Any],
    seed: int,
    quick: bool,
    limit: int | None,
    target: str | None,
    time: str | None,
) -> str:
    """The command line that does the same."""
    words = ["fuxian", "run", str(method)] + ["--quick"] * quick
    words += [word for name, value in knobs.items() for word in (f"--{name.replace('_', '-')}", str(value))]
    words += [word for flag, column in (("--target", target), ("--time", time)) if column is not None
              for word in (flag, column)] + ["--seed", str(seed)] * bool(seed)  # fmt: skip
    words += ["--limit", str(limit)] if limit is not None else []
    return shlex.join(words)


def _of_seeds(entry: catalog.Entry, seeds: Sequence[int], options: Mapping[str, Any]) -> str:
    """The command line that does the same with several seeds."""
    knobs = {name: value for name, value in options.items() if name in {knob.name for knob in entry.knobs}}
    count = str(len(seeds)) if list(seeds) == list(range(len(seeds))) else ",".join(map(str, seeds))
    alike = (options.get(name) for name in ("limit", "target", "time"))
    one = _in_words(entry.called, knobs, 0, options.get("quick", False), *alike)
    return f"{one} --seeds {count}"


def _commit() -> tuple[str | None, bool | None]:
    """The commit of Fuxian's own checkout, and whether it has changes but for records; None outside of one."""
    here = Path(__file__).parent

    def git(*words: str) -> str:
        return subprocess.run(["git", "-C", str(here), *words], capture_output=True, text=True, check=True).stdout.strip()

    try:
        but = "--", ":/", ":(top,exclude)results"  # which a verification of several claims writes as it goes
        tracked = git("ls-files", "--error-unmatch", Path(__file__).name)
        return (git("rev-parse", "HEAD"), bool(git("status", "--porcelain", "-uno", *but))) if tracked else (None, None)
    except (OSError, subprocess.CalledProcessError):
        return None, None


if sys.platform == "win32":  # pragma: no cover
    raise ImportError("Fuxian needs a POSIX system; on Windows use WSL")
