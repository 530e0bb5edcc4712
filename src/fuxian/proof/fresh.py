"""Freshness: whether today's code still gives the first losses of a recorded run. It takes seconds and writes nothing.

What changes a curve, a method, its data, a layer or the engine, changes its first losses; an edited comment does not.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal

import torch

from fuxian import catalog
from fuxian.contract import Stage
from fuxian.data.own import reading
from fuxian.engine import judge, loop
from fuxian.engine.device import machine, pick_device, versions
from fuxian.engine.folder import RunFolder
from fuxian.engine.running import Running, Settings
from fuxian.engine.signals import Signals
from fuxian.engine.watch import Watch
from fuxian.engine.work import recipe_of
from fuxian.errors import DataMissing, FuxianError
from fuxian.facts import Claim
from fuxian.numbers import general
from fuxian.proof.record import claim_record

FIRST_LOSSES = 20
NEAR = 1e-4  # on another machine, of the largest of the values with one name

Losses = list[dict[str, Any]]  # lines of metrics.jsonl


@dataclass(frozen=True)
class Freshness:
    """Whether a record still holds. Where it is stale by a loss: at which step, which, and its value then and now."""

    claim: Claim
    word: Literal["fresh", "stale", "cannot check"]
    why: str
    step: int | None = None
    loss: str | None = None
    then: float | None = None
    now: float | None = None

    def facts(self) -> dict[str, Any]:
        return {"metric": self.claim.metric, "where": self.claim.where, "knobs": self.claim.knobs} | {
            name: value for name, value in asdict(self).items() if name != "claim"
        }


def check(entry: catalog.Entry, claims: Sequence[Claim] | None = None) -> list[Freshness]:
    """Holds every recorded claim of a method (or of `claims`) against today's code; one without a record is left out.

    Claims that share their knobs share their losses. Where the data are not here it says so.
    """
    found: list[Freshness] = []
    heard: dict[str, _Heard] = {}
    for claim in entry.claims if claims is None else claims:
        kept = claim_record(entry.key, claim)
        if kept is None:
            continue
        setting = json.dumps([kept[name] for name in ("knobs", "seeds", "threads", "device", "precision")])
        if setting not in heard:
            heard[setting] = _heard(entry, claim, kept)
        found.append(_compared(entry, claim, kept, heard[setting]))
    return found


def first_losses(lines: Sequence[Mapping[str, Any]]) -> Losses:
    """Of the lines of a log: what the first steps logged, in the first stage that took any."""
    losses = [dict(line) for line in lines if not any(key.startswith("val/") for key in line)]
    return [line for line in losses if line["stage"] == losses[0]["stage"]][:FIRST_LOSSES]


# ── today's losses ──────────────────────────────────────────────────────────────────────────────────────────────────


@dataclass
class _Heard:
    """What today's code logs, with the hashes of its data; or the word and the reason where it does not come so far."""

    lines: Losses
    hashes: dict[str, dict[str, str]]
    word: Literal["", "stale", "cannot check"] = ""
    why: str = ""


def _heard(entry: catalog.Entry, claim: Claim, kept: Mapping[str, Any]) -> _Heard:
    try:
        device = pick_device(kept["device"])
        entry.load()
    except FuxianError as error:
        return _Heard([], {}, "cannot check", error.message)
    try:
        return _replay(entry, claim, kept, device)
    except FuxianError as error:
        lacking = isinstance(error, DataMissing) or isinstance(error.__context__, ImportError)
        return _Heard([], {}, "cannot check" if lacking else "stale", error.message)


class _Enough(Exception):
    """So many losses were asked for, and they are there."""


class _Ear(RunFolder):
    """Takes a run's log and writes none of its files; stops the run when enough losses are there."""

    def __init__(self, path: Path, enough: int) -> None:
        super().__init__(path)
        self.lines: Losses = []
        self.enough = enough

    def log(self, stage: str, step: int, values: Mapping[str, float]) -> None:
        self.lines.append({"stage": stage, "step": step, **values})
        if len(first_losses(self.lines)) == self.enough:
            raise _Enough

    def save(self, stage: str, step: int, tree: Mapping[str, Any]) -> None:
        pass


def _replay(entry: catalog.Entry, claim: Claim, kept: Mapping[str, Any], device: torch.device) -> _Heard:
    """The recorded run from its beginning, at its seed, until it has logged as much as the record holds."""
    settings = Settings(kept["seeds"][0], device, kept["precision"])
    values = {name: value for name, (value, _) in entry.resolve(claim.knobs, "claim").items()}
    hashes: dict[str, dict[str, str]] = {}
    with _threads(kept["threads"]), TemporaryDirectory(prefix="fuxian-") as place, reading(None, {}):
        ear = _Ear(Path(place), len(kept["first_losses"]))

        def play(stage: Stage, name: str) -> judge.Result:
            running = Running(stage, name, ear, settings)
            if running.data is not None:
                hashes[running.data.name] = dict(running.data.hashes)
            if not kept["first_losses"]:
                raise _Enough  # it logs none: there is nothing to wait for
            if running.last:
                loop.train(running, Signals(), Watch())
                raise _Enough  # its end came first
            return judge.final(running, Signals(), Watch())[0]  # it takes no step: what it measures may decide what comes

        with suppress(_Enough):
            loop.drive(recipe_of(entry)(**values), settings.seed, play)
    return _Heard(first_losses(ear.lines), hashes)


@contextmanager
def _threads(count: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(count)  # sums split over threads round differently
    try:
        yield
    finally:
        torch.set_num_threads(before)


# ── then and now ────────────────────────────────────────────────────────────────────────────────────────────────────


def _compared(entry: catalog.Entry, claim: Claim, kept: Mapping[str, Any], heard: _Heard) -> Freshness:
    if heard.word:
        return Freshness(claim, heard.word, heard.why)
    resolved = {name: value for name, (value, _) in entry.resolve(claim.knobs, "claim").items()}
    today = json.loads(json.dumps(resolved, default=str))
    for name in today.keys() | kept["resolved"].keys():
        if today.get(name) != kept["resolved"].get(name):
            return Freshness(claim, "stale", f"{name} was {kept['resolved'].get(name)}, is {today.get(name)}")
    for data, files in heard.hashes.items():
        if data in kept["data"] and files != kept["data"][data]:
            return Freshness(claim, "stale", f"the files of {data} are others")
    then, now = kept["first_losses"], heard.lines
    if [line["step"] for line in now] != [line["step"] for line in then]:
        return Freshness(claim, "stale", f"{len(now)} of {len(then)} losses")
    exact = _same_place(kept)
    names = [name for name in then[0] if name not in ("stage", "step")] if then else []
    largest = {name: max(abs(line.get(name, 0.0)) for line in then) for name in names}
    for old, new in zip(then, now, strict=True):
        if old.keys() != new.keys() or old["stage"] != new["stage"]:
            return Freshness(claim, "stale", f"step {old['step']} logs {', '.join(new)}; then {', '.join(old)}")
        for name in names:
            if old[name] != new[name] and (exact or not abs(old[name] - new[name]) <= NEAR * largest[name]):
                why = f"{name} at step {old['step']} was {general(old[name])}, is {general(new[name])}"
                return Freshness(claim, "stale", why, old["step"], name, old[name], new[name])
    if not then:
        return Freshness(claim, "cannot check", "its run logged no loss")
    return Freshness(claim, "fresh", f"{len(then)} losses {'equal' if exact else f'within {NEAR:g}'}")


def _same_place(kept: Mapping[str, Any]) -> bool:
    """Whether the bits must be the same: the machine, its instructions with it, and torch are those of the record."""
    here = machine(torch.device(kept["device"]))
    return here == kept["machine"] and versions()["torch"] == kept["versions"]["torch"]
