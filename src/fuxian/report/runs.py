"""Run folders as the report reads them: docs/run-folder.md, and nothing else."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from math import nan
from pathlib import Path
from typing import Any

from fuxian import catalog
from fuxian.catalog import Entry
from fuxian.errors import FuxianError, RunUnusable, WrongInput
from fuxian.proof.claims import Verdict, matching, verdict


@dataclass(frozen=True)
class RunFiles:
    """One execution, read from its folder. `metrics` is empty until the run is done."""

    folder: Path
    info: dict[str, Any]
    metrics: dict[str, float]
    counts: dict[str, float]
    log: list[dict[str, Any]] = field(repr=False)
    pictures: list[Path]

    @property
    def done(self) -> bool:
        return self.info["status"] == "done"

    @property
    def seconds(self) -> float:
        return sum(stage["seconds"] or 0 for stage in self.info["stages"])


@dataclass(frozen=True)
class Report:
    """What a page is about: one run, or several seeds of it, and what the method's file says of itself."""

    folder: Path
    runs: list[RunFiles]
    seeds: list[int]  # all that were asked for
    status: str
    command: str
    entry: Entry | None  # None where the method is no longer there

    @property
    def info(self) -> dict[str, Any]:
        return self.runs[0].info

    @property
    def done(self) -> list[RunFiles]:
        return [run for run in self.runs if run.done]

    def values(self, metric: str) -> list[float]:
        """One a finished seed."""
        return [run.metrics[metric] for run in self.done if metric in run.metrics]

    def count(self, metric: str) -> float | None:
        return self.done[0].counts.get(metric) if self.done else None

    def judged(self) -> list[Verdict]:
        """The verdicts on the claims that speak of this run's knobs, by this run's numbers."""
        if self.entry is None:
            return []
        knobs = {name: knob["value"] for name, knob in self.info["knobs"].items()}
        defaults = {knob.name: knob.default for knob in self.entry.knobs}
        limits = dict(limit=self.info["limit"], precision=self.info["precision"])
        claims = matching(self.entry.claims, knobs, defaults, **limits)
        return [verdict(claim, self.values(claim.metric)) for claim in claims]


def read_run(folder: Path) -> RunFiles:
    """Raises WrongInput where there is no run, RunUnusable where its files cannot be read."""
    if not (folder / "run.json").is_file():
        raise WrongInput(f"{folder} is no run folder: it has no run.json")
    result = read_json(folder / "result.json") if (folder / "result.json").is_file() else {}
    return RunFiles(
        folder,
        read_json(folder / "run.json"),
        {name: nan if value is None else value for name, value in result.get("metrics", {}).items()},
        result.get("counts", {}),
        _lines(folder / "metrics.jsonl"),
        sorted(path for path in folder.glob("pictures/*") if path.suffix in (".svg", ".png")),
    )


def read(folder: Path) -> Report:
    """A run's folder, or one with `seeds.json`. Raises as `read_run` does."""
    if (folder / "seeds.json").is_file():
        about = read_json(folder / "seeds.json")
        inside = [folder / f"seed-{seed}" for seed in about["seeds"]]
        runs = [read_run(path) for path in inside if (path / "run.json").is_file()]
        if not runs:
            raise WrongInput(f"{folder} has no run yet: none of its seeds has begun")
        return Report(folder, runs, about["seeds"], about["status"], about["command"], _entry(runs[0]))
    run = read_run(folder)
    return Report(folder, [run], [run.info["seed"]], run.info["status"], run.info["command"], _entry(run))


def telling_names(metrics: Iterable[str], info: Mapping[str, Any], claimed: Collection[str] = ()) -> list[str]:
    """The metrics that are told first (the record and the page have all): of the test split where there is one."""
    stages = {stage["name"] for stage in info["stages"]}
    names = [name for name in metrics if name.count("/") < 2 or name.partition("/")[0] not in stages]
    for part in ("test/", "val/", "train/"):
        if any(name.startswith(part) for name in names):
            return [n for n in names if "/" not in n or n.startswith(part) or n in claimed]
    return names


def _entry(run: RunFiles) -> Entry | None:
    kept = run.folder / "method.py"  # the user's file as it was when the run began
    name = kept if kept.is_file() else run.info["file"] or f"{run.info['family']}.{run.info['method']}"
    try:
        return catalog.find(name)
    except FuxianError:
        return None


def read_json(path: Path) -> Any:
    """Raises RunUnusable where it is damaged."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise RunUnusable(f"{path} is damaged: {error}") from None


def _lines(path: Path) -> list[dict[str, Any]]:
    """The log; a line that is being written at this moment is left out."""
    if not path.is_file():
        return []
    *whole, _ = path.read_text(encoding="utf-8").split("\n")
    return [json.loads(line) for line in whole]
