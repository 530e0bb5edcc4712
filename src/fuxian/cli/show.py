"""Commands that show methods: list and info. Nothing here imports torch."""

from __future__ import annotations

import re
import shlex
from collections.abc import Sequence
from dataclasses import asdict
from statistics import fmean
from typing import Any

from rich.table import Table

from fuxian import catalog
from fuxian.catalog import Entry
from fuxian.cli.options import Parser, metavar, plain
from fuxian.cli.terminal import MARKS, Terminal, coloured
from fuxian.knobs import Knob
from fuxian.numbers import NONE, plural, scale
from fuxian.proof.card import Proof, card, recorded, sentence
from fuxian.proof.claims import Verdict


def list_methods(words: Sequence[str], terminal: Terminal) -> int:
    parser = Parser("list", "The methods there are, with their proof.", "list [FAMILY] [--json]")
    parser.add_argument("family", nargs="?", metavar="FAMILY", help="only these methods")
    parser.add_common(json=True)
    entries = catalog.methods(parser.read(words).family)
    if terminal.wants_json:
        terminal.json({"methods": [_facts(entry) for entry in entries]})
        return 0
    table = _table("family", "method", "paper", "proof", "result")
    family = ""
    for entry in entries:
        proofs = card(entry)
        marks = coloured(" ".join(MARKS[proof.mark] for proof in proofs))
        paper = f"{entry.paper.authors} {entry.paper.year}" if entry.paper else entry.source or NONE
        first = entry.family if entry.family != family else ""
        table.add_row(first, entry.name, paper, marks, coloured(_result(entry, proofs[1])))
        family = entry.family
    terminal.say(table)
    families = len({entry.family for entry in entries})
    there = f"{plural(len(entries), 'method')} in {families} {'family' if families == 1 else 'families'}."
    terminal.say(f"{there} Proof, in order: parity, claim, speed, resume, export.")
    terminal.say(_legend() + "        one method: fuxian info METHOD")
    return 0


def info(words: Sequence[str], terminal: Terminal) -> int:
    parser = Parser("info", "One method: its paper, its proof, its knobs.", "info METHOD|FILE.py [--json]")
    parser.add_argument("method", metavar="METHOD", help="gcn, graph.gcn, or the path of a file of your own")
    parser.add_common(json=True)
    entry = catalog.find(parser.read(words).method)
    if terminal.wants_json:
        terminal.json(_facts(entry) | {"doc": entry.doc, "knobs": [_knob_facts(knob) for knob in entry.knobs]})
        return 0
    indent = " " * (len(entry.name) + 3)
    terminal.say(f"{entry.name}   {entry.title}{'   ' + entry.zh if entry.zh else ''}")
    for line in _origin(entry):
        indented = Table.grid()
        indented.add_row(indent, coloured(line))
        terminal.say(indented)
    terminal.say()

    terminal.say("Proof")
    proofs = Table.grid(padding=(0, 2, 0, 0))
    for proof in card(entry):
        mark = coloured(f"{MARKS[proof.mark]} {proof.kind}")
        if proof.kind == "claim" and entry.claims:
            proofs.add_row(mark, coloured(proof.word), claims(recorded(entry)))
        else:
            proofs.add_row(mark, coloured(proof.word), coloured(proof.evidence))
    terminal.say(proofs)
    terminal.say()

    knobs = _table("Knobs", "default", "quick", "what it is")
    for knob in entry.knobs:
        flag = f"{knob.flag} / --no-{knob.flag[2:]}" if knob.kind is bool else f"{knob.flag} {metavar(knob)}"
        quick = plain(entry.quick[knob.name]) if knob.name in entry.quick else ""
        knobs.add_row(flag, plain(knob.default), quick, coloured(_help(knob)))
    terminal.say(knobs if entry.knobs else "It has no knobs")
    terminal.say()

    if entry.quick:
        terminal.say(f"Quick, offline:         fuxian run {entry.called} --quick")
    at_hand = next((claim for claim in entry.claims if not claim.needs), None)
    if at_hand is not None:
        differing = [
            word for name, value in at_hand.knobs.items() for word in ("--" + name.replace("_", "-"), plain(value))
        ]
        over_seeds = f"{shlex.join(['fuxian', 'run', entry.called, *differing])} --seeds {at_hand.seeds}"
        terminal.say(f"For a verdict:          {f'fuxian verify {entry.name}' if entry.module else over_seeds}")
    return 0


# ── parts ───────────────────────────────────────────────────────────────────────────────────────────────────────────


def _table(*columns: str) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 3, 0, 0), header_style="bold")
    for column in columns:
        table.add_column(column, no_wrap=column in ("family", "method", "proof", "Knobs"), overflow="fold")
    return table


def _legend() -> str:
    words = {"ok": "holds", "short": "short", "part": "in part", "scale": "at scale only", "none": "not yet"}
    return "  ".join(f"{MARKS[mark]} {word}" for mark, word in words.items())


def _origin(entry: Entry) -> list[str]:
    """Where a method comes from, and where it departs from that."""
    paper = entry.paper
    lines = [paper.title] if paper else []
    cited = []
    if paper:
        cited.append(", ".join(filter(None, [paper.authors, f"{paper.venue} {paper.year}".strip(), *_ids(entry)])))
    elif entry.source:
        cited.append(entry.source)
    if entry.family:
        cited.append(f"family {entry.family}")
    lines.append("; ".join(cited)) if cited else None
    departs = _field(entry.doc, "Departs")
    if departs:
        lines.append(f"departs from it: {departs}")
    where = f"methods/{entry.family}/{entry.path.name}" if entry.module else entry.called
    return [*lines, f"{where}, {plural(entry.lines, 'line')}"]


def _ids(entry: Entry) -> list[str]:
    assert entry.paper is not None
    return [f"arXiv:{entry.paper.arxiv}"] * bool(entry.paper.arxiv) + [f"doi:{entry.paper.doi}"] * bool(entry.paper.doi)


def _field(doc: str, name: str) -> str:
    """A field of a method's header, `Departs  …`, with the indented lines that go on with it."""
    found = re.search(rf"^{name}[ ]+(.*(?:\n[ ]+.*)*)", doc, re.MULTILINE)
    return " ".join(found[1].split()) if found else ""


def _help(knob: Knob) -> str:
    parts = [knob.help] if knob.help else []
    if knob.choices:
        parts.append(", ".join(map(str, knob.choices)) + (" or a path" if knob.path else ""))
    elif knob.within and knob.name not in catalog.SHARED_KNOBS:
        parts.append(str(knob.within))
    return "; ".join(parts)


def _result(entry: Entry, claim: Proof) -> str:
    """The first claim that was decided, with our number; else what the card says of the claims."""
    decided = [judged for judged in recorded(entry) if judged.decided]
    if len(decided) != 1:
        return f"{claim.word} reproduced" if decided else claim.word
    judged = decided[0]
    name = judged.claim.metric.rpartition("/")[2].replace("_", " ")
    return f"{name} {_ours(judged)}, {sentence(judged)}"


def _ours(judged: Verdict) -> str:
    if not judged.values:
        return NONE
    scaled = scale(judged.claim.metric, judged.values, literals=(judged.claim.value,))
    return scaled.with_unit(scaled.spread(fmean(judged.values), judged.std))


def claims(judged: Sequence[Verdict]) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="default")
    for column in ("verdict", "ours", "paper", "gap", "seeds", "where"):
        right = column in ("ours", "paper", "gap", "seeds")
        table.add_column(column, justify="right" if right else "left", no_wrap=column != "where")
    for one in judged:
        scaled = scale(one.claim.metric, one.values, literals=(one.claim.value,))
        table.add_row(
            coloured(f"{MARKS[one.mark]} {sentence(one)}"),
            coloured(_ours(one)),
            coloured(scaled.with_unit(scaled.value(one.claim.value))),
            coloured(scaled.gap(one.gap)),
            str(len(one.values) or NONE),
            coloured(
                one.claim.where
                + (f"; {one.claim.comparison or one.claim.needs}" if one.word in ("comparison", "at scale only") else "")
            ),
        )
    return table


def _facts(entry: Entry) -> dict[str, Any]:
    return {
        "method": entry.name,
        "family": entry.family or None,
        "title": entry.title,
        "title_zh": entry.zh,
        "file": entry.path,
        "lines": entry.lines,
        "paper": asdict(entry.paper) if entry.paper else None,
        "source": entry.source,
        "quick": entry.quick,
        "claims": [
            {**asdict(one.claim), "verdict": one.word, "values": one.values, "mean": one.mean, "gap": one.gap}
            for one in recorded(entry)
        ],
        "proof": {
            proof.kind: {"mark": proof.mark, "word": proof.word, "evidence": proof.evidence} for proof in card(entry)
        },
    }


def _knob_facts(knob: Knob) -> dict[str, Any]:
    within = knob.within and {"low": knob.within.low, "high": knob.within.high, "above": knob.within.above}
    return {
        "name": knob.name,
        "default": knob.default,
        "help": knob.help,
        "kind": knob.kind.__name__,
        "choices": knob.choices,
        "within": within,
        "optional": knob.optional,
        "path": knob.path,
    }
