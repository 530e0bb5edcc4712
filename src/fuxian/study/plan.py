"""What a study is made of: its members, which seeds they run, and what is refused before anything runs.

A study has a folder of its own, `runs/compare/<name>/` or `runs/sweep/<name>/`, that points to its members' runs. Each
member is a folder of seeds like any other: `runs/<family>.<method>/<kind>-<name>[-<point>]/seed-0/`, … Nothing here
imports torch.
"""

from __future__ import annotations

import itertools
import json
import os
import random
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Any, Literal

from fuxian import catalog
from fuxian.catalog import Entry
from fuxian.errors import RunUnusable, WrongInput
from fuxian.knobs import shown_as
from fuxian.numbers import better

FORMAT = 1
Kind = Literal["compare", "sweep"]


@dataclass(frozen=True)
class Member:
    """One method with its knobs. `folder` holds its seeds, and is relative to the runs folder."""

    called: str  # as the command line names it; a sweep's point: `hidden 8, dropout 0.5`
    method: str  # `graph.gcn`, or the absolute path of a user's file
    knobs: dict[str, Any]  # those given: all others are the defaults
    folder: str
    file_sha256: str

    @property
    def name(self) -> str:
        """`gcn`; of a user's file `mine`."""
        return Path(self.method).stem if self.method.endswith(".py") else self.method.rpartition(".")[2]


@dataclass
class Study:
    """A comparison or a sweep, as `compare.json` or `sweep.json` in its folder says it."""

    folder: Path
    kind: Kind
    metric: str | None  # None: none was named, and none is decided until each member has a run
    seeds: list[int]
    members: list[Member]
    options: dict[str, Any]  # of all runs: quick, limit, device, precision, compile, threads; and jobs
    command: str
    status: str = "running"
    axes: dict[str, list[Any]] = field(default_factory=dict)  # of a sweep: the values of each knob that it varies
    _known: dict[str, Entry] = field(default_factory=dict, repr=False)

    @property
    def better(self) -> str:
        return better(self.metric or "", [claim for entry in self.entries() for claim in entry.claims])

    def entry(self, member: Member) -> Entry:
        """A member's method, as its file is today."""
        if member.method not in self._known:
            self._known[member.method] = catalog.find(member.method)
        return self._known[member.method]

    def entries(self) -> list[Entry]:
        """The methods, one a member."""
        return [self.entry(member) for member in self.members]

    def place(self, member: Member) -> Path:
        return self.folder.parent.parent / member.folder

    def write(self) -> None:
        saved = {
            "format": FORMAT,
            "kind": self.kind,
            "metric": self.metric,
            "better": self.better,
            "seeds": self.seeds,
            "status": self.status,
            "command": self.command,
            "options": self.options,
            **({"axes": self.axes} if self.axes else {}),
            "members": [asdict(member) for member in self.members],
        }
        new = self.folder / f".{self.kind}.json"
        new.write_text(json.dumps(saved, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
        os.replace(new, self.folder / f"{self.kind}.json")

    def unchanged(self) -> None:
        """Raises RunUnusable where a method's file is another than when the study began."""
        for member, entry in zip(self.members, self.entries(), strict=True):
            if _hash(entry) != member.file_sha256:
                raise RunUnusable(
                    f"{entry.called} has changed since this {_NOUN[self.kind]} began",
                    where=str(self.folder),
                    do="put the file back, or begin anew; to go on all the same: fuxian resume --changed-code",
                )


@dataclass(frozen=True)
class Task:
    member: int
    seed: int


@dataclass(frozen=True)
class Failure:
    """A run that did not come to its end, and the error's words and exit code."""

    member: int
    seed: int
    message: str
    code: int
    lines: dict[str, str] = field(default_factory=dict)


_NOUN = {"compare": "comparison", "sweep": "sweep"}


def file_of(folder: Path) -> Path | None:
    """The `compare.json` or `sweep.json` of a study's folder; None for any other folder."""
    return next((path for kind in _NOUN if (path := folder / f"{kind}.json").is_file()), None)


def read(folder: Path) -> Study:
    """Raises WrongInput where there is no study, RunUnusable where its file is damaged or newer than this Fuxian."""
    path = file_of(folder)
    if path is None:
        raise WrongInput(f"{folder} is no study: it has neither compare.json nor sweep.json")
    try:
        saved = json.loads(path.read_text(encoding="utf-8"))
        if saved["format"] > FORMAT:
            raise RunUnusable(f"{folder} was written by a newer Fuxian (format {saved['format']})")
        members = [Member(**member) for member in saved["members"]]
        known = {name: saved[name] for name in ("kind", "metric", "seeds", "options", "command", "status")}
        return Study(folder, members=members, axes=saved.get("axes", {}), **known)
    except (ValueError, KeyError, TypeError) as error:
        raise RunUnusable(f"{path} is damaged: {error}") from None


# ── a comparison ────────────────────────────────────────────────────────────────────────────────────────────────────


def comparison(
    methods: Sequence[str | Path], given: Mapping[str, Any], quick: bool = False, origin: str = "python"
) -> list[tuple[Entry, dict[str, Any]]]:
    """The methods of a comparison, each with its knobs. `given` holds `lr` for all, `gcn.lr` for one.

    On the command line (`origin`) the values are text. Raises WrongInput for fewer than two methods, one that is named
    twice, a shared knob that one lacks, and methods that learn from different data.
    """
    entries = [catalog.find(str(method)) for method in methods]
    if len(entries) < 2:
        raise WrongInput("compare takes two methods or more: fuxian compare ./mine.py gcn --seeds 10")
    for i, entry in enumerate(entries):
        if entry.path in [other.path for other in entries[:i]]:
            knob = next((name.rpartition(".")[2] for name in given), entry.knobs[0].name if entry.knobs else "knob")
            raise WrongInput(
                f"{entry.called} is named twice; one method with several values of a knob is a sweep",
                do=f"fuxian sweep {entry.called} --{knob.replace('_', '-')} A,B",
            )
    knobs: list[dict[str, Any]] = [{} for _ in entries]
    for name, value in given.items():
        target, _, knob = name.rpartition(".")
        whose = _targets(target, name, entries) if target else entries
        lacking = [entry for entry in whose if knob not in [k.name for k in entry.knobs]]
        if lacking and len(lacking) < len(whose):
            one = next(entry for entry in whose if entry not in lacking)
            flag = one.knob(knob).flag
            raise WrongInput(
                f"{lacking[0].called} has no knob {flag}, and {one.called} has: a knob of all must be in each",
                do=f"for one alone: --{one.name}.{flag.lstrip('-')}",
            )
        for entry in whose:
            there = entry.knob(knob, origin)
            checked = there.parse(value) if origin == "command line" else there.check(value)
            knobs[entries.index(entry)][knob] = checked
    _same_data(entries, knobs, quick)
    return list(zip(entries, knobs, strict=True))


def _targets(target: str, name: str, entries: Sequence[Entry]) -> list[Entry]:
    spelled = target.replace("_", "-")
    named = [e for e in entries if spelled in (e.name.replace("_", "-"), e.key.replace("_", "-"))]
    if len(named) != 1:
        what = f"{len(named)} methods here are" if named else "none of the methods here is"
        raise WrongInput(f"--{name}: {what} called {target}; they are {', '.join(e.key for e in entries)}")
    return named


def _same_data(entries: Sequence[Entry], knobs: Sequence[Mapping[str, Any]], quick: bool) -> None:
    """What differs without a knob `data` is seen once the first runs have read it."""
    resolved = [entry.resolve(own, quick=quick) for entry, own in zip(entries, knobs, strict=True)]
    data = {entry.called: str(of["data"][0]) for entry, of in zip(entries, resolved, strict=True) if "data" in of}
    if len(set(data.values())) > 1:
        told = [f"{called} learns from {value}" for called, value in data.items()]
        why = " in their quick form" if quick else ""
        common = [str(c) for k in entries[0].knobs if k.name == "data" for c in k.choices]
        for entry in entries[1:]:
            common = [c for c in common if c in [str(x) for k in entry.knobs if k.name == "data" for x in k.choices]]
        raise WrongInput(
            f"the methods differ in their data{why}: {', '.join(told)}",
            do=f"give all the same: --data {common[0]}" if common else "",
        )


# ── a sweep ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def grid(axes: Mapping[str, Sequence[Any]], sample: int | None = None) -> list[dict[str, Any]]:
    """Every point of the grid, the last knob changing fastest; or so many of them, drawn with a fixed seed."""
    points = [dict(zip(axes, values, strict=True)) for values in itertools.product(*axes.values())]
    if sample is None or sample >= len(points):
        return points
    return [points[i] for i in sorted(random.Random(0).sample(range(len(points)), sample))]


def values_of(entry: Entry, name: str, text: str) -> list[Any]:
    """`8,16,32`, the values of a knob; of a knob that is a list itself `64,64;128`. Raises WrongInput."""
    knob = entry.knob(name, "command line")
    between = ";" if knob.kind is tuple else ","
    parts = [part.strip() for part in text.split(between)]
    if not all(parts):
        raise WrongInput(f"{knob.flag} {text!r} has an empty value; values stand with {between!r} between")
    values = [knob.parse(part) for part in parts]
    twice = next((part for i, part in enumerate(parts) if values[i] in values[:i]), None)
    if twice is not None:
        raise WrongInput(f"{knob.flag} {text} has {twice} twice")
    return values


def point_name(point: Mapping[str, Any]) -> str:
    """`hidden 8, dropout 0.5`"""
    return ", ".join(f"{name.replace('_', ' ')} {shown_as(value)}" for name, value in point.items())


# ── both ────────────────────────────────────────────────────────────────────────────────────────────────────────────


def begin(
    kind: Kind,
    planned: Sequence[tuple[Entry, Mapping[str, Any]]],
    seeds: Sequence[int],
    *,
    metric: str | None,
    options: Mapping[str, Any],
    command: str,
    origin: str,
    name: str | None = None,
    axes: Mapping[str, Sequence[Any]] | None = None,
) -> Study:
    """Makes the folders of a study and of its members. Raises WrongInput where one is there already."""
    from fuxian.engine.folder import new_folder, runs_folder
    from fuxian.engine.run import begin_seeds

    runs, left = runs_folder(), []
    while True:  # until a name is free for the study and its members
        folder = new_folder(runs / kind, name)
        names = [f"{kind}-{folder.name}" + ending for ending in _endings(kind, planned)]
        taken = [path for (e, _), own in zip(planned, names, strict=True) if (path := runs / e.key / own).exists()]
        if not taken or name is not None:
            break
        left.append(folder)
    for empty in [*left, *([folder] if taken else [])]:
        empty.rmdir()
    if taken:
        raise WrongInput(f"{taken[0]} exists already, and nothing is overwritten", do="give another --name")
    own = {key: value for key, value in options.items() if key not in ("threads", "jobs")}
    members = []
    for (entry, knobs), ending in zip(planned, names, strict=True):
        begin_seeds(
            str(entry.path) if entry.module is None else entry.key, seeds, name=ending, origin=origin, **own, **knobs
        )
        swept = {knob: knobs[knob] for knob in axes or {}}
        called = point_name(swept) if kind == "sweep" else entry.called
        method = entry.key if entry.module else str(entry.path)
        members.append(Member(called, method, _plain(knobs), f"{entry.key}/{ending}", _hash(entry)))
    varied = {knob: [_plain(value) for value in values] for knob, values in (axes or {}).items()}
    study = Study(folder, kind, metric, list(seeds), members, dict(options), command, axes=varied)
    study.write()
    return study


def _endings(kind: Kind, planned: Sequence[tuple[Entry, Any]]) -> list[str]:
    """What follows a study's name in its members' folders: a point's number; that of a second file of the same name."""
    if kind == "sweep":
        width = len(str(len(planned)))
        return [f"-{i + 1:0{width}}" for i in range(len(planned))]
    keys = [entry.key for entry, _ in planned]
    return [f"-{keys[:i].count(key) + 1}" if key in keys[:i] else "" for i, key in enumerate(keys)]


def _hash(entry: Entry) -> str:
    return sha256(entry.path.read_bytes()).hexdigest()


def _plain(value: Any) -> Any:
    """As it comes back from JSON: paths are text, tuples are lists."""
    if isinstance(value, Mapping):
        return {str(key): _plain(one) for key, one in value.items()}
    return str(value) if isinstance(value, Path) else list(value) if isinstance(value, tuple) else value
