"""What was measured, as a table and on the cards, from `results/bench/`.

`python -m benchmarks.table`, from the repository's root, writes docs/benchmarks.md and the cards anew.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from math import exp, fsum, log
from pathlib import Path
from statistics import fmean, median
from typing import Any

from benchmarks.pairing import ROOT, ratio
from benchmarks.works import WITHOUT
from fuxian import catalog
from fuxian.numbers import NONE, duration, fixed, plural, scale, size, small
from fuxian.proof import record as evidence
from fuxian.proof.record import claim_record, method_hash

RECORDS, PAGE = ROOT / "results" / "bench", ROOT / "docs" / "benchmarks.md"
BEGIN, END = "<!-- benchmarks -->", "<!-- /benchmarks -->"
HEAD = ["work", "ours", "peer", "against", "ours / peer", "half of the pairs", "goal", "", "memory", "alike to"]
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
        why = f"not done: {record['reason']}"
        return [record["work"], NONE, NONE, record["against"], NONE, NONE, goal, why, NONE, NONE]
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
        small(record["difference"]) if record["difference"] else "the bit",
    ]


def overall(found: Iterable[Mapping[str, Any]]) -> float | None:
    """The geometric mean of ours / peer over the rows with a goal; None where none was measured.

    A loop that costs nothing above the bare one counts as a thousandth, not as nothing.
    """
    logs = [log(max(ratio(**r["seconds"]).median, 1e-3)) for r in found if not goalless(r) and "reason" not in r]
    return exp(fsum(logs) / len(logs)) if logs else None


def summary(found: list[dict[str, Any]]) -> str:
    """Of the rows with a goal: the geometric mean, and what misses its goal or was not done."""
    rows = [record for record in found if not goalless(record)]
    mean, done = overall(rows), sum("reason" not in record for record in rows)
    if mean is None:
        return "Nothing with a goal was measured."
    missed = [record["name"] for record in rows if row(record)[7] != "● met"]
    words = (
        f"Geometric mean of {plural(done, 'row')} with a goal: {fixed(mean, 2)}, at most {fixed(OVERALL, 2)} is the goal."
    )
    return f"{words} Missed or not done: {', '.join(missed)}." if missed else f"{words} Every row meets its own."


def terminal(found: list[dict[str, Any]]) -> str:
    """The rows in columns."""
    rows = [HEAD, *map(row, found)]
    wide = [max(len(one[i]) for one in rows) for i in range(len(HEAD))]
    words = [column in ("work", "against", "") for column in HEAD]
    fit = [(str.ljust if word else str.rjust) for word in words]
    lines = ("  ".join(put(cell, w) for put, cell, w in zip(fit, one, wide, strict=True)) for one in rows)
    return "\n".join(line.rstrip() for line in lines)


def write(record: Mapping[str, Any], folder: Path = RECORDS) -> bool:
    """Whether it was written: why a work could not be measured now does not replace what was measured before."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{record['name']}.json"
    if "seconds" not in record and path.exists() and "seconds" in json.loads(path.read_text(encoding="utf-8")):
        return False
    path.write_text(json.dumps(record, indent=1, ensure_ascii=False, allow_nan=False) + "\n", encoding="utf-8")
    return True


# ── the page ────────────────────────────────────────────────────────────────────────────────────────────────────────


def markdown(found: list[dict[str, Any]]) -> str:
    """The table, its summary, what a row needs to be understood, and where it was measured."""
    if not found:
        return "Nothing is measured yet."
    lines = [f"| {' | '.join(HEAD)} |", f"|{'---|' * len(HEAD)}", *(f"| {' | '.join(row(record))} |" for record in found)]
    lines += ["", summary(found), *(f"\n{record['work']}: {record['note']}." for record in found if record["note"])]
    return "\n".join([*lines, "", *places(found), "", *to_result()])


def places(found: list[dict[str, Any]]) -> list[str]:
    """Where, with what and in what company: one line for all rows that have it in common."""
    done = [record for record in found if "seconds" in record]
    if not done:
        return []
    where = []
    for r in done:
        machine = f"{r['machine']['processor']}, {plural(r['machine']['cores'], 'core')}"
        where.append(f"{machine}, torch {r['versions']['torch']}, {r['created'][:10]}")
    pairs, threads = {len(r["seconds"]["ours"]) for r in done}, {r["threads"] for r in done}
    load = sorted(load for r in done for load in r["load"])
    return [
        *(f"{place}: {plural(where.count(place), 'row')}." for place in dict.fromkeys(where)),
        f"Pairs: {_span(pairs)}. Threads of a side: {_span(threads)}. "
        f"Load average: {fixed(load[0], 1)} to {fixed(load[-1], 1)}.",
    ]


def _span(numbers: set[int]) -> str:
    return str(min(numbers)) if len(numbers) == 1 else f"{min(numbers)} to {max(numbers)}"


TO_RESULT = [  # a method, which of its claims, and what is run: to a result, not beside a peer
    ("vision.lenet", 0, "LeNet on MNIST, five epochs, to 99 % and beyond"),
    ("graph.gcn", 0, "GCN on Cora"),
    ("language.gpt2", 0, "GPT-2 in nanoGPT’s setting for a CPU, 2,000 steps"),
    ("generative.vae", 0, "the VAE on MNIST, ten epochs"),
]


def to_result() -> list[str]:
    """How long a whole run takes, from the records of the claims: training, judging, pictures and checkpoints."""
    lines = ["Time to a result, one run of those that the claims were judged by:", ""]
    for key, number, words in TO_RESULT:
        entry = catalog.find(key)
        claim = entry.claims[number]
        record = claim_record(key, claim)
        if record is None or "seconds" not in record:
            lines.append(f"- {words}: not yet measured")
            continue
        values = record["values"]
        scaled = scale(claim.metric, values, count=record.get("count"))
        seconds, threads = record["seconds"] / len(record["seeds"]), plural(record["threads"], "thread")
        name = claim.metric.replace("/", " ")
        lines.append(
            f"- {words}: {duration(seconds)} with {threads}, {name} {scaled.with_unit(scaled.value(fmean(values)))}"
        )
    return lines


def refreshed(text: str, folder: Path = RECORDS) -> str:
    """The page with what the records give today."""
    before, rest = text.split(BEGIN)
    return f"{before}{BEGIN}\n{markdown(records(folder))}\n{END}{rest.split(END)[1]}"


# ── the cards ───────────────────────────────────────────────────────────────────────────────────────────────────────


def speed(found: list[dict[str, Any]], method: str) -> dict[str, Any] | None:
    """What a method's card says of its speed: every work that was timed on the file as it is. None: nothing."""
    if method in WITHOUT:
        return {"reason": WITHOUT[method]}
    today = method_hash(catalog.find(method).path)
    works = []
    for record in found:
        if record["method"] == method and record["method_sha256"] == today and "seconds" in record:
            seconds = record["seconds"]
            numbers = dict(ours=median(seconds["ours"]), peer=median(seconds["peer"]), pairs=len(seconds["ours"]))
            one = ratio(**seconds)
            numbers |= dict(ratio=one.median, low=one.low, high=one.high)
            works.append(dict(work=record["work"], against=record["against"], **numbers))
    return {"works": works} if works else None


def refresh() -> None:
    """Writes the page, and the speed of every method that was timed."""
    PAGE.write_text(refreshed(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
    found = records()
    for entry in catalog.methods():
        if (facts := speed(found, entry.name)) is not None:
            evidence.record(entry.path, "speed", facts)


if __name__ == "__main__":
    refresh()
