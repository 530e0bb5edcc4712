"""Verification: a claim's knobs, over its seeds, each seed its own run; one record of what came of it in `results/`."""

from __future__ import annotations

import json
from typing import Any

from fuxian.catalog import Entry
from fuxian.engine.folder import runs_folder
from fuxian.engine.run import Run, resume, run_seeds
from fuxian.engine.watch import Watch
from fuxian.errors import WrongInput
from fuxian.facts import Claim
from fuxian.proof.claims import Verdict, verdict
from fuxian.proof.record import method_hash, record_claim

FIRST_LOSSES = 20


def verify(entry: Entry, *, watch: Watch | None = None) -> list[Verdict]:
    """Runs every claim that can be run here, records it, and returns a verdict on each, in the method's order.

    The runs of one setting are in `verify-<setting>-<hash of the method's file>`: claims with the same knobs share them,
    finished seeds are not run again, and a stopped verification goes on. Raises WrongInput where a claim's metric is not
    measured.
    """
    judged = []
    for claim in entry.claims:
        if claim.needs:
            judged.append(verdict(claim, []))
            continue
        runs = _runs(entry, claim, watch)
        missing = [str(run.folder) for run in runs if claim.metric not in run.metrics]
        if missing:
            raise WrongInput(f"{entry.name} claims {claim.metric}, which its runs do not measure", where=missing[0])
        judged.append(verdict(claim, [run.metrics[claim.metric] for run in runs]))
        record_claim(entry.path, claim, _facts(claim, runs))
    return judged


def _runs(entry: Entry, claim: Claim, watch: Watch | None) -> list[Run]:
    setting = "-".join(f"{name}-{value}" for name, value in claim.knobs.items()) or "default"
    name = f"verify-{setting}-{claim.seeds}-seeds-{method_hash(entry.path)[:8]}"
    folder = runs_folder() / entry.key / name
    if (folder / "seeds.json").is_file():
        return resume(folder, watch=watch)
    return run_seeds(entry.key, range(claim.seeds), name=name, watch=watch, origin="claim", **claim.knobs)


def _facts(claim: Claim, runs: list[Run]) -> dict[str, Any]:
    first = runs[0].info
    stages = [stage for run in runs for stage in run.info["stages"]]
    return {
        "values": [run.metrics[claim.metric] for run in runs],
        "seeds": [run.info["seed"] for run in runs],
        "count": runs[0].counts.get(claim.metric),
        "resolved": {name: knob["value"] for name, knob in first["knobs"].items()},
        "command": f"fuxian verify {first['method']}",
        "first_losses": _first_losses(runs[0]),
        "data": {stage["data"]: stage["hashes"] for stage in first["stages"]},
        "seconds": round(sum(stage["seconds"] for stage in stages), 1),
        "peak_memory_bytes": max(stage["peak_memory_bytes"] for stage in stages),
        **{
            name: first[name]
            for name in ("commit", "dirty", "versions", "machine", "threads", "device", "precision", "created")
        },
    }


def _first_losses(run: Run) -> list[dict[str, Any]]:
    """What the first steps of the first stage logged: today's code is the same while it gives them again."""
    stage = run.info["stages"][0]["name"]
    lines = [json.loads(line) for line in (run.folder / "metrics.jsonl").read_text().splitlines()[: 2 * FIRST_LOSSES]]
    return [line for line in lines if line["stage"] == stage and not any(key.startswith("val/") for key in line)][
        :FIRST_LOSSES
    ]
