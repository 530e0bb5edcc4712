"""The tables of proofs in the READMEs and the docs, made from `results/`.

`python -m fuxian.proof.table README.md README.zh-CN.md docs/proofs.md` writes them anew.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from fuxian import catalog
from fuxian.catalog import Entry
from fuxian.numbers import NONE, better, duration, scale
from fuxian.proof.card import card, recorded, sentence
from fuxian.proof.claims import Verdict, mean_std
from fuxian.proof.record import claim_record, comparisons, results_folder

SIGNS = {"ok": "●", "short": "◆", "part": "◐", "scale": "○", "none": "–"}


def makers() -> dict[str, Callable[[], str]]:
    """What makes each table, by name. The place of `proofs` is between <!-- proofs --> and <!-- /proofs -->."""
    ours = {"proofs": markdown, "claims": claims, "evidence": evidence, "faults": faults, "windows": every_window}
    return ours | {name: partial(comparison, name) for name in comparisons()}


def markdown() -> str:
    """One row a method: its paper, and a mark and a word for each of the five proofs."""
    rows = ["| method | paper | parity | claim | speed | resume | export |", "|---|---|---|---|---|---|---|"]
    for entry in catalog.methods():
        paper = f"{entry.paper.authors} {entry.paper.year}" if entry.paper else entry.source
        cells = [
            SIGNS[proof.mark] if proof.mark == "none" else f"{SIGNS[proof.mark]} {proof.word}" for proof in card(entry)
        ]
        rows.append(
            f"| [{entry.name}](src/fuxian/methods/{entry.family}/{entry.name}.py) | {' | '.join([paper, *cells])} |"
        )
    return "\n".join(rows)


def claims() -> str:
    """One row a claim: what was published, what was measured over how many seeds, and the verdict."""
    rows = [
        "| method | claim | published | ours | seeds | verdict | record |",
        "|---|---|--:|--:|--:|---|---|",
    ]
    for entry in catalog.methods():
        for one in recorded(entry):
            cells = [cell.replace("|", "\\|") for cell in _claim(entry, one)]
            rows.append(f"| {' | '.join(cells)} |")
    return "\n".join(rows)


def _claim(entry: Entry, one: Verdict) -> list[str]:
    claim, kept = one.claim, claim_record(entry.key, one.claim) or {}
    scaled = scale(claim.metric, one.values, literals=() if claim.value is None else (claim.value,))
    ours = scaled.with_unit(scaled.spread(one.mean, one.std)) if one.values else NONE
    published = NONE if claim.value is None else scaled.with_unit(scaled.value(claim.value))
    why = {"comparison": claim.comparison, "at scale only": claim.needs}.get(one.word, "")
    said = f"{SIGNS[one.mark]} {sentence(one)}" + f": {why}" * bool(why)
    commit = f"`{kept['commit'][:7]}`" if kept.get("commit") else NONE
    metric = claim.metric.rpartition("/")[2].replace("_", " ")
    return [entry.name, f"{metric}; {claim.where}", published, ours, one.counted or NONE, said, commit]


def evidence() -> str:
    """For each method what each proof rests on, and the command that measures it anew."""
    parts = []
    for entry in catalog.methods():
        told = [
            f"- **{proof.kind}** {SIGNS[proof.mark]} {proof.evidence}" + f"; `{proof.again}`" * bool(proof.again)
            for proof in card(entry)
        ]
        parts.append("\n".join([f"### {entry.name}", "", f"{entry.title}. `fuxian info {entry.name}`", "", *told]))
    return "\n\n".join(parts)


def faults() -> str:
    """How many of the planted mistakes the tests have caught."""
    judged = json.loads((results_folder() / "faults.json").read_text(encoding="utf-8"))["faults"]
    return f"{sum(one['caught'] for one in judged)} / {len(judged)}"


def comparison(name: str) -> str:
    """One row a method, one column a metric, beside the first what was published of it."""
    kept = comparisons()[name]
    rows = kept["rows"]
    columns = {
        metric.rpartition("/")[2].replace("_", " "): _measured(metric, [row["values"].get(metric) for row in rows])
        for metric in kept["columns"]
    }
    first, *others = columns
    titles = ["method", first, "published", *others, "a seed"]
    published = [NONE if row["published"] is None else str(row["published"]) for row in rows]
    times = [duration(row["seconds"]) for row in rows]
    cells = zip(
        [row["called"] for row in rows], columns[first], published, *(columns[o] for o in others), times, strict=True
    )
    lines = [f"| {' | '.join(titles)} |", "|---" + "|--:" * (len(titles) - 1) + "|"]
    return "\n".join([*lines, *(f"| {' | '.join(row)} |" for row in cells)])


def every_window() -> str:
    """One row a method that was tested on every window of ETTh1, from 168 steps to 192, the best first; beside it blocks.

    From the records of claims; what blocks gave is the comparison's, `etth1`.
    """
    task = {"data": "etth1", "window": 168, "horizon": 192, "windows": "all"}
    found: dict[str, dict[str, Any]] = {}
    for entry in catalog.methods():
        for claim in entry.claims:
            kept = claim_record(entry.key, claim)
            if kept and claim.metric.endswith("test/crps") and task.items() <= kept["resolved"].items():
                found[", ".join([entry.name, *claim.metric.split("/")[:-2]])] = kept  # a stage's name, if it has one
    blocks = {row["called"]: row["values"]["test/crps"] for row in comparisons()["etth1"]["rows"]}
    lines = ["| method | crps | of blocks | seeds | a seed |", "|---|--:|--:|--:|--:|"]
    for called, kept in sorted(found.items(), key=lambda one: mean_std(one[1]["values"])[0]):
        crps = [_spread("test/crps", values) for values in (kept["values"], blocks.get(called, []))]
        cells = [called, *crps, str(len(kept["values"])), duration(kept["seconds_each"][0])]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def _measured(metric: str, rows: list[list[float] | None]) -> list[str]:
    """Each row's mean ± deviation, a dash where it has none; in bold what reads as the best does."""
    means = [mean_std(values)[0] for values in rows if values]
    best = (max if better(metric) == "higher" else min)(means)
    written = []
    for values in rows:
        scaled, text = scale(metric, values or ()), _spread(metric, values or ())
        ahead = values and scaled.value(mean_std(values)[0]) == scaled.value(best)
        written.append(f"**{text}**" if ahead else text)
    return written


def _spread(metric: str, values: Sequence[float]) -> str:
    """The mean ± deviation of a metric, or a dash."""
    scaled = scale(metric, values)
    return scaled.with_unit(scaled.spread(*mean_std(values))) if values else NONE


def refreshed(text: str) -> str:
    """A document with the tables that the evidence gives today. Raises ValueError where it has no place for any."""
    there = {kind: make for kind, make in makers().items() if f"<!-- {kind} -->" in text}
    if not there:
        raise ValueError("there is no place for a table: <!-- proofs --> … <!-- /proofs -->")
    for kind, make in there.items():
        before, rest = text.split(f"<!-- {kind} -->")
        text = f"{before}<!-- {kind} -->\n{make()}\n<!-- /{kind} -->{rest.split(f'<!-- /{kind} -->')[1]}"
    return text


if __name__ == "__main__":
    for path in map(Path, sys.argv[1:]):
        path.write_text(refreshed(path.read_text(encoding="utf-8")), encoding="utf-8")
