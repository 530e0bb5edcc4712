"""The table of what was measured, from `results/bench/`: `python -m benchmarks.table` writes docs/benchmarks.md anew."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from math import exp, fsum, log
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.pairing import ROOT, ratio
from fuxian.numbers import NONE, duration, fixed, plural, size

RECORDS, PAGE = ROOT / "results" / "bench", ROOT / "docs" / "benchmarks.md"
BEGIN, END = "<!-- benchmarks -->", "<!-- /benchmarks -->"
HEAD = ["work", "ours", "peer", "against", "ours / peer", "half of the pairs", "goal", "", "memory"]
OVERALL = 0.6  # the geometric mean of ours / peer over the rows with a goal, at most


def records(folder: Path = RECORDS) -> list[dict[str, Any]]:
    """Every record, those with a goal first."""
    found = [json.loads(path.read_text(encoding="utf-8")) for path in sorted(folder.glob("*.json"))]
    return sorted(found, key=lambda record: (goalless(record), record["name"]))


def goalless(record: Mapping[str, Any]) -> bool:
    return record["goal"] is None


def row(record: Mapping[str, Any]) -> list[str]:
    """The cells of a record; one that says why there is none has its reason in the place of numbers."""
    goal = NONE if goalless(record) else fixed(record["goal"], 2)
    if "reason" in record:
        return [record["work"], NONE, NONE, record["against"], NONE, NONE, goal, f"not done: {record['reason']}", NONE]
    seconds, memory = record["seconds"], record["memory_bytes"]
    found = ratio(**seconds)
    ours, peer = median(seconds["ours"]), median(seconds["peer"])
    met = [*([found.median <= record["goal"]] if not goalless(record) else []),
           *([ours <= record["most"]] if record["most"] is not None else [])]  # fmt: skip
    if record["most"] is not None:
        goal = f"{goal}, {duration(record['most'])}" if not goalless(record) else duration(record["most"])
    return [
        record["work"],
        duration(ours),
        duration(peer),
        record["against"],
        fixed(found.median, 2 if found.median >= 0.095 else 3),
        f"{fixed(found.low, 2)} to {fixed(found.high, 2)}",
        goal,
        "" if not met else "● met" if all(met) else "◆ missed",
        f"{size(memory['ours'])}, {size(memory['peer'])}",
    ]


def overall(found: Iterable[Mapping[str, Any]]) -> float | None:
    """The geometric mean of ours / peer over the rows with a goal; None where none was measured."""
    logs = [log(max(ratio(**r["seconds"]).median, 1e-3)) for r in found if not goalless(r) and "reason" not in r]
    return exp(fsum(logs) / len(logs)) if logs else None


def summary(found: list[dict[str, Any]]) -> str:
    with_goal = [record for record in found if not goalless(record)]
    missed = [record["name"] for record in with_goal if row(record)[7] != "● met"]
    mean = overall(found)
    if mean is None:
        return "Nothing with a goal was measured."
    words = (
        f"Geometric mean over {plural(len(with_goal), 'row')} with a goal: {fixed(mean, 2)}, the goal {fixed(OVERALL, 2)}."
    )
    return f"{words} Missed or not done: {', '.join(missed)}." if missed else f"{words} Every goal is met."


def terminal(found: list[dict[str, Any]]) -> str:
    """The rows in columns."""
    rows = [HEAD, *map(row, found)]
    wide = [max(len(one[i]) for one in rows) for i in range(len(HEAD))]
    words = [column in ("work", "against", "") for column in HEAD]
    fit = [(str.ljust if word else str.rjust) for word in words]
    lines = ("  ".join(put(cell, w) for put, cell, w in zip(fit, one, wide, strict=True)) for one in rows)
    return "\n".join(line.rstrip() for line in lines)


def write(record: Mapping[str, Any], folder: Path = RECORDS) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{record['name']}.json"
    path.write_text(json.dumps(record, indent=1, ensure_ascii=False, allow_nan=False) + "\n", encoding="utf-8")
    return path
