"""Verification: a claim's knobs, over its seeds, each seed its own run; one record of what came of it in `results/`."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from fuxian.catalog import Entry
from fuxian.engine.folder import runs_folder
from fuxian.engine.run import Run, resume, run_seeds
from fuxian.engine.watch import Watch
from fuxian.errors import Interrupted, WrongInput
from fuxian.facts import Claim
from fuxian.numbers import plural
from fuxian.proof.claims import Verdict, matching, verdict
from fuxian.proof.fresh import first_losses
from fuxian.proof.record import claim_record, record_claim


def at_hand(entry: Entry, claims: Sequence[Claim] | None) -> list[Claim]:
    """Those of the wanted `claims` (None: all) that can be run here: what a single one needs is taken to be at hand."""
    if claims is not None and len(claims) == 1:
        return list(claims)
    return [claim for claim in (entry.claims if claims is None else claims) if not claim.needs]


def verify(entry: Entry, claims: Sequence[Claim] | None = None, *, watch: Watch | None = None) -> list[Verdict]:
    """Runs every claim that is `at_hand`, records it, and returns a verdict on each, in the method's order.

    The runs of one setting are in `verify-<setting>-<hash of the method's file>`: claims with the same knobs share them,
    finished seeds are not run again, and a stopped verification goes on. What is finished when it stops is recorded, too.
    Raises WrongInput where a claim's metric is not measured, Interrupted.
    """
    judged = []
    runnable = at_hand(entry, claims)
    for claim in entry.claims if claims is None else claims:
        if claim not in runnable:
            judged.append(verdict(claim, []))
            continue
        try:
            runs = _runs(entry, claim, watch)
        except Interrupted:
            _record_part(entry, [one for one in runnable if _folder(entry, one) == _folder(entry, claim)])
            raise
        missing = [str(run.folder) for run in runs if claim.metric not in run.metrics]
        if missing:
            raise WrongInput(f"{entry.name} claims {claim.metric}, which its runs do not measure", where=missing[0])
        judged.append(verdict(claim, [run.metrics[claim.metric] for run in runs]))
        record_claim(entry.path, claim, _facts(claim, runs))
    return judged


def _folder(entry: Entry, claim: Claim) -> Path:
    setting = "-".join(f"{name}-{value}" for name, value in claim.knobs.items()) or "default"
    setting = re.sub(r"[^A-Za-z0-9._+-]+", "-", setting)  # a list has commas, a path has slashes
    return runs_folder() / entry.key / f"verify-{setting}-{claim.seeds}-seeds-{entry.code[:8]}"


def _record_part(entry: Entry, claims: Sequence[Claim]) -> None:
    """Records the finished seeds of claims of one setting, where no record has as many."""
    for claim in claims:
        seeds = [_folder(entry, claim) / f"seed-{seed}" for seed in range(claim.seeds)]
        runs = [Run(seed) for seed in seeds if (seed / "result.json").is_file()]
        known = claim_record(entry.key, claim)
        if len(runs) > len(known["values"] if known else []):
            record_claim(entry.path, claim, _facts(claim, runs))


def _runs(entry: Entry, claim: Claim, watch: Watch | None) -> list[Run]:
    folder = _folder(entry, claim)
    if (folder / "seeds.json").is_file():
        runs = resume(folder, watch=watch)
        for run in runs:
            _check_setting(entry, claim, run)
        return runs
    return run_seeds(entry.key, range(claim.seeds), name=folder.name, watch=watch, origin="claim", **claim.knobs)


def _check_setting(entry: Entry, claim: Claim, run: Run) -> None:
    """Raises WrongInput where a run that was there already is not one of the claim's setting."""
    info = run.info
    knobs = {name: knob["value"] for name, knob in info["knobs"].items()}
    defaults = {knob.name: knob.default for knob in entry.knobs}
    if not matching([claim], knobs, defaults, limit=info["limit"], precision=info["precision"]):
        what = "its knobs, --limit or --precision are others"
        raise WrongInput(f"{run.folder} is no run of {claim.where}: {what}", do="take it away, and verify again")


def _facts(claim: Claim, runs: list[Run]) -> dict[str, Any]:
    first = runs[0].info
    lines = (runs[0].folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    each = [sum(stage["seconds"] for stage in run.info["stages"]) for run in runs]
    return {
        "values": [run.metrics[claim.metric] for run in runs],
        "seeds": [run.info["seed"] for run in runs],
        "count": runs[0].counts.get(claim.metric),
        "protocol": protocol(claim.metric, first),
        "resolved": {name: knob["value"] for name, knob in first["knobs"].items()},
        "command": f"fuxian verify {first['method']}",
        "first_losses": first_losses([json.loads(line) for line in lines]),
        "data": {stage["data"]: stage["hashes"] for stage in first["stages"] if stage["data"]},
        "seconds": round(sum(each), 1),
        "seconds_each": [round(seconds, 1) for seconds in each],
        "peak_memory_bytes": max(stage["peak_memory_bytes"] for run in runs for stage in run.info["stages"]),
        **{
            name: first[name]
            for name in ("commit", "dirty", "versions", "machine", "threads", "device", "precision", "created")
        },
    }


def protocol(metric: str, info: Mapping[str, Any]) -> str:
    """Which split a metric was read from, how often, and what was chosen with the help of which: from `run.json`."""
    *stage, split, _ = ["", *metric.split("/")][-3:]
    named = {one["name"]: one for one in info["stages"]}
    judged = named.get(stage[-1] if stage else "", info["stages"][-1])
    if split not in ("train", "val", "test"):
        return "of the whole run, returned by its recipe"
    select = (judged["select"] or "").lstrip("-")
    chose = "which it was chosen by" if select or judged["stopped_early"] else "which chose nothing"
    often = {"test": "read once a seed", "val": chose, "train": "the fit itself"}[split]
    kept = f"the weights are the best by val/{select}" if select else "the weights are those of the last step"
    if select.startswith("rule "):
        kept = f"the weights are the last that {select.removeprefix('rule ')} of the recipe kept, by validation"
    early = ["stopped by val"] * judged["stopped_early"]
    return "; ".join([f"{split}, {plural(judged[split], 'example')}, {often}", kept, *early])
