"""Studies from beginning to end: begun or gone on with, played, and read.

>>> comparison = fuxian.compare("./mine.py", "gcn", seeds=10)      # doctest: +SKIP
>>> comparison.values["gcn"]                                       # doctest: +SKIP
"""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from itertools import combinations
from math import prod
from pathlib import Path
from typing import Any

import torch

from fuxian import catalog
from fuxian.catalog import Entry
from fuxian.engine.device import pick_device
from fuxian.engine.run import PRECISIONS
from fuxian.engine.work import first_data
from fuxian.errors import FuxianError, WrongInput
from fuxian.knobs import shown_as
from fuxian.numbers import plural
from fuxian.study import plan
from fuxian.study.jobs import play
from fuxian.study.monitor import Monitor
from fuxian.study.outcome import Comparison, Sweep
from fuxian.study.plan import Study


def compare(
    *methods: str | Path,
    seeds: int | Sequence[int] = 5,
    metric: str | None = None,
    jobs: int = 1,
    quick: bool = False,
    limit: int | None = None,
    device: str | None = None,
    precision: str = "float32",
    compile: bool = False,
    name: str | None = None,
    target: str | None = None,
    time: str | None = None,
    monitor: Monitor | None = None,
    command: str = "",
    origin: str = "python",
    **knobs: Any,
) -> Comparison:
    """Runs methods (`"gcn"`, `"./mine.py"`) over the same seeds, and tells the first from each other.

    `lr=0.1` sets a knob of all, `**{"gcn.lr": 0.1}` of one. Raises WrongInput where they cannot be compared, and the error
    of the first run where none came to its end; what else failed is in `failures`.
    """
    planned = plan.comparison(methods, knobs, quick, origin)
    _same_tests(planned, quick, target, time)
    options = _options(jobs, quick, limit, device, precision, compile, target, time)
    words = [entry.called for entry, _ in planned]
    command = command or _in_words(["compare", *words], knobs, seeds, quick, limit, target, time)
    named: dict[str, Any] = dict(metric=metric, options=options, command=command, origin=origin, name=name)
    study = plan.begin("compare", planned, _seeds(seeds), **named)
    return Comparison(study, _played(study, monitor))


def sweep(
    method: str | Path,
    *,
    seeds: int | Sequence[int] = 3,
    sample: int | None = None,
    metric: str | None = None,
    jobs: int = 1,
    quick: bool = False,
    limit: int | None = None,
    device: str | None = None,
    precision: str = "float32",
    compile: bool = False,
    name: str | None = None,
    target: str | None = None,
    time: str | None = None,
    monitor: Monitor | None = None,
    command: str = "",
    origin: str = "python",
    **knobs: Any,
) -> Sweep:
    """Runs a method at every point of a grid, or at so many of them (`sample`), each over the same seeds.

    A knob with a list of several values is varied (`hidden=[8, 16]`; of a knob that is a tuple itself, a list of tuples);
    any other is set for all.
    """
    entry = catalog.find(str(method))
    axes: dict[str, list[Any]] = {}
    fixed: dict[str, Any] = {}
    for knob, value in knobs.items():
        there = entry.knob(knob, origin)
        values = value if isinstance(value, list) and (there.kind is not tuple or origin == "command line"
                                                       or isinstance(value[0], tuple)) else [value]  # fmt: skip
        values = [there.check(one) for one in values]
        if len(values) > 1:
            axes[knob] = values
        else:
            fixed[knob] = values[0]
    if not axes:
        raise WrongInput(f"no knob of {entry.called} has several values: fuxian sweep {entry.called} --lr 0.1,0.01")
    if "data" in axes:
        raise WrongInput("--data: a sweep is of one data set, or its best would mean nothing; run one sweep for each")
    points = plan.grid(axes, sample)
    if len(points) < 2:
        raise WrongInput(f"--sample {sample} leaves one point of {prod(map(len, axes.values()))}; it is a run, not a sweep")
    options = _options(jobs, quick, limit, device, precision, compile, target, time)
    command = command or _in_words(["sweep", entry.called], knobs, seeds, quick, limit, target, time)
    named: dict[str, Any] = dict(metric=metric, options=options, command=command, origin=origin, name=name, axes=axes)
    study = plan.begin("sweep", [(entry, {**fixed, **point}) for point in points], _seeds(seeds), **named)
    return Sweep(study, _played(study, monitor))


def resume(folder: Path | str, *, monitor: Monitor | None = None, changed_code: bool = False) -> Comparison | Sweep:
    """Goes on with a study where it was stopped; finished runs are not run again."""
    study = plan.read(Path(folder))
    return read(study.folder, _played(study, monitor, changed_code))


def read(folder: Path | str, failures: Sequence[plan.Failure] = ()) -> Comparison | Sweep:
    """What the finished runs of a study came to. Raises WrongInput where there are none."""
    study = plan.read(Path(folder))
    return (Comparison if study.kind == "compare" else Sweep)(study, failures)


def _played(study: Study, monitor: Monitor | None, changed_code: bool = False) -> list[plan.Failure]:
    """Plays a study. Where no run at all has come to its end, the first failure is raised."""
    failures = play(study, monitor=monitor, changed_code=changed_code)
    if len(failures) == len(study.members) * len(study.seeds):
        error = FuxianError(failures[0].message, **failures[0].lines)
        error.code = failures[0].code
        raise error
    return failures


def _same_tests(
    planned: Sequence[tuple[Entry, Mapping[str, Any]]], quick: bool, target: str | None, time: str | None
) -> None:
    """Reads what the first stages learn from, before hours are spent on what cannot be compared.

    Raises WrongInput where two are tested on the same data, but not on as many examples of it. What cannot be read here is
    told by its run.
    """
    found = []
    for entry, given in planned:
        knobs = {name: value for name, (value, _) in entry.resolve(given, quick=quick).items()}
        if (data := first_data(entry, knobs, target, time)) is not None and data.test is not None:
            found.append((entry, knobs, data))
    for (entry, knobs, data), (other, others, more) in combinations(found, 2):
        if data.name != more.name or len(data.test) == len(more.test):
            continue
        about = [name for name in data.about() if name in knobs and name in others and knobs[name] != others[name]]
        flags = " ".join(f"{entry.knob(name).flag} {shown_as(knobs[name])}" for name in about)
        raise WrongInput(
            f"{entry.called} is tested on {plural(len(data.test), 'example')} of {data.name}, {other.called} on "
            f"{len(more.test):,}",
            do=f"the same for both: {flags}" if flags else "",
        )


def _seeds(seeds: int | Sequence[int]) -> list[int]:
    found = list(range(seeds)) if isinstance(seeds, int) else list(seeds)
    if not found or len(set(found)) < len(found):
        raise WrongInput(f"seeds={seeds} is neither a number of seeds nor a list of different ones")
    return found


def _options(
    jobs: int,
    quick: bool,
    limit: int | None,
    device: str | None,
    precision: str,
    compile: bool,
    target: str | None,
    time: str | None,
) -> dict[str, Any]:
    """What holds for every run. The number of threads is fixed here: the bits of a run depend on it."""
    pick_device(device)
    if precision not in PRECISIONS:
        raise WrongInput(f"--precision {precision} is not one of {', '.join(PRECISIONS)}")
    if limit is not None and limit < 1:
        raise WrongInput(f"--limit {limit} is out of range; it is 1 or more steps")
    if jobs < 1:
        raise WrongInput(f"--jobs {jobs} is out of range; it is 1 or more")
    runs = dict(quick=quick, limit=limit, device=device, precision=precision, compile=compile)
    return {**runs, "target": target, "time": time, "threads": torch.get_num_threads(), "jobs": jobs}


def _in_words(
    words: Sequence[str],
    knobs: Mapping[str, Any],
    seeds: int | Sequence[int],
    quick: bool,
    limit: int | None,
    target: str | None,
    time: str | None,
) -> str:
    """The command line that does the same."""
    found = ["fuxian", *words]
    for name, value in knobs.items():
        whose, _, knob = name.rpartition(".")
        several = isinstance(value, list)
        between = ";" if several and isinstance(value[0], tuple | list) else ","
        text = between.join(map(shown_as, value)) if several else shown_as(value)
        found += [f"--{whose + '.' if whose else ''}{knob.replace('_', '-')}", text]
    found += ["--seeds", str(seeds) if isinstance(seeds, int) else ",".join(map(str, seeds))]
    found += ["--quick"] * quick
    found += [word for flag, value in (("--limit", limit), ("--target", target), ("--time", time)) if value is not None
              for word in (flag, str(value))]  # fmt: skip
    return shlex.join(found)
