"""Commands that show methods: list and info. Nothing here imports torch."""

from __future__ import annotations

import re
import shlex
from collections.abc import Sequence
from dataclasses import asdict
from math import inf
from statistics import fmean
from typing import Any

from rich.table import Table
from rich.text import Text

from fuxian import catalog
from fuxian.catalog import Entry
from fuxian.cli.options import Parser, metavar, plain
from fuxian.cli.terminal import MARKS, Terminal, coloured
from fuxian.errors import WrongInput
from fuxian.knobs import Knob, listed, nearest
from fuxian.numbers import NONE, duration, plural, scale
from fuxian.proof.card import Proof, card, name, recorded, sentence
from fuxian.proof.claims import Verdict
from fuxian.proof.record import claim_record, proofs

SORTS = {"year": "the newest first", "proof": "the most proven first", "time": "the quickest first", "name": "by name"}


def list_methods(words: Sequence[str], terminal: Terminal) -> int:
    parser = Parser(
        "list", "The methods there are, with their proof.", "list [FAMILY] [--sort year|proof|time|name] [--long] [--json]"
    )
    parser.add_argument("family", nargs="?", metavar="FAMILY", help="only these methods")
    parser.add_argument(
        "--sort", metavar="|".join(SORTS), help="; ".join(f"{name}: {order}" for name, order in SORTS.items())
    )
    parser.add_argument("--long", action="store_true", help="how each learns, its claim, its time, the published code")
    parser.add_common(json=True)
    options = parser.read(words)
    if options.sort and options.sort not in SORTS:
        raise WrongInput(f"--sort {options.sort} is not one of {listed(SORTS)}{nearest(options.sort, SORTS)}")
    entries = _sorted(catalog.methods(options.family), options.sort)
    if terminal.wants_json:
        terminal.json({"methods": [_facts(entry) for entry in entries]})
        return 0
    terminal.say(_long(entries) if options.long else _short(entries, options.sort))
    families = len({entry.family for entry in entries})
    there = f"{plural(len(entries), 'method')} in {families} {'family' if families == 1 else 'families'}."
    terminal.say(f"{there} Proof, in order: parity, claim, speed, resume, export.")
    terminal.say(_legend() + "        one method: fuxian info METHOD")
    return 0


def _sorted(entries: list[Entry], by: str | None) -> list[Entry]:
    def key(entry: Entry) -> Any:
        match by:
            case "year":
                return -entry.paper.year if entry.paper else inf
            case "proof":
                marks = [proof.mark for proof in card(entry)]
                return -marks.count("ok"), -marks.count("part"), marks.count("short")
            case "time":
                seconds = seconds_a_seed(entry)
                return inf if seconds is None else seconds
            case "name":
                return entry.name
        return 0

    return sorted(entries, key=key)  # equal ones stay by family and name


def _short(entries: Sequence[Entry], by: str | None) -> Table:
    timed = ["a seed"] * (by == "time")
    table = table_of("family", "method", "paper", "proof", *timed, "result")
    family = ""
    for entry in entries:
        first = entry.family if by or entry.family != family else ""
        family = entry.family
        proven = card(entry)
        seed = [_a_seed(entry)] * len(timed)
        table.add_row(first, entry.name, _paper(entry), _marks(proven), *seed, coloured(_result(entry, proven[1])))
    return table


def _long(entries: Sequence[Entry]) -> Table:
    table = table_of("method", "year", "learns by", "proof", "claim", "a seed", "code")
    for entry in entries:
        year = str(entry.paper.year) if entry.paper else NONE
        table.add_row(
            entry.name,
            year,
            ", ".join(map(_in_words, entry.learns)) or NONE,
            _marks(card(entry)),
            coloured(_claimed(entry)),
            _a_seed(entry),
            published_code(entry).partition(" @ ")[0] or NONE,
        )
    return table


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
    proven = Table.grid(padding=(0, 2, 0, 0))
    for proof in card(entry):
        mark = coloured(f"{MARKS[proof.mark]} {proof.kind}")
        if proof.kind == "claim" and entry.claims:
            proven.add_row(mark, coloured(proof.word), claims(recorded(entry)))
        else:
            proven.add_row(mark, coloured(proof.word), coloured(proof.evidence))
    terminal.say(proven)
    terminal.say()

    knobs = table_of("Knobs", "default", "quick", "what it is")
    for knob in entry.knobs:
        flag = f"{knob.flag} / --no-{knob.flag[2:]}" if knob.kind is bool else f"{knob.flag} {metavar(knob)}"
        quick = plain(entry.quick[knob.name]) if knob.name in entry.quick else ""
        knobs.add_row(flag, plain(knob.default), quick, coloured(_help(knob)))
    terminal.say(knobs if entry.knobs else "It has no knobs")
    terminal.say()

    if again := [f"  {proof.kind:<7} {proof.again}" for proof in card(entry) if proof.again]:
        terminal.say("\n".join(["Measured anew, in a clone of the repository", *again, ""]))

    if entry.quick:
        terminal.say(f"Quick, offline:         fuxian run {entry.called} --quick")
    at_hand = next((claim for claim in sorted(entry.claims, key=lambda c: not c.decidable) if not claim.needs), None)
    if at_hand is not None:
        differing = [
            word for name, value in at_hand.knobs.items() for word in ("--" + name.replace("_", "-"), plain(value))
        ]
        over_seeds = f"{shlex.join(['fuxian', 'run', entry.called, *differing])} --seeds {at_hand.seeds}"
        what = "For a verdict:" if at_hand.decidable else "Over its seeds:"
        terminal.say(f"{what:<24}{f'fuxian verify {entry.name}' if entry.module else over_seeds}")
    return 0


# ── parts ───────────────────────────────────────────────────────────────────────────────────────────────────────────


def table_of(*columns: str) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 2 if len(columns) > 5 else 3, 0, 0), header_style="bold")
    for column in columns:
        whole = ("family", "method", "year", "proof", "a seed", "Knobs")
        table.add_column(column, no_wrap=column in whole, overflow="fold")
    return table


def _paper(entry: Entry) -> str:
    return f"{entry.paper.authors} {entry.paper.year}" if entry.paper else entry.source or NONE


def _marks(proven: Sequence[Proof]) -> Text:
    return coloured(" ".join(MARKS[proof.mark] for proof in proven))


def _in_words(name: str) -> str:
    """`node classification` of `NodeClassification`; `CTC` stays as it is."""
    words = re.findall(r"[A-Z]+(?![a-z])|[A-Z]?[a-z0-9]+|\d+", name)
    return " ".join(word if word.isupper() else word.lower() for word in words)


def _claimed(entry: Entry) -> str:
    """The first published number."""
    first = next((claim for claim in entry.claims if claim.value is not None), None)
    if first is None:
        return NONE
    scaled = scale(first.metric, literals=first.published)
    metric = first.metric.rpartition("/")[2].replace("_", " ")
    return f"{metric} {scaled.with_unit(scaled.value(first.value))}"


def seconds_a_seed(entry: Entry) -> float | None:
    """How long a seed took when the first of its claims was verified; None where none was."""
    for claim in entry.claims if entry.family else ():
        kept = claim_record(entry.key, claim)
        if kept and kept.get("seconds") and kept["seeds"]:
            return kept["seconds"] / len(kept["seeds"])
    return None


def _a_seed(entry: Entry) -> Text:
    seconds = seconds_a_seed(entry)
    return coloured(NONE if seconds is None else duration(seconds))


def published_code(entry: Entry) -> str:
    """The repository that the header's `Code` names first, with its commit."""
    text = _field(entry.doc, "Code")
    first = re.match(r"[\w.-]+/[\w.-]+( @ [0-9a-f]{7,40})?", text)
    return first[0] if first else re.split(r"[:;,]", text)[0]


def _legend() -> str:
    words = dict(ok="holds", short="short", part="in part", scale="no verdict", none="not yet")
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
    metric = judged.claim.metric.rpartition("/")[2].replace("_", " ")
    return f"{metric} {_ours(judged)}, {sentence(judged)}"


def _ours(judged: Verdict) -> str:
    if not judged.values:
        return NONE
    scaled = scale(judged.claim.metric, judged.values, literals=judged.claim.published)
    return scaled.with_unit(scaled.spread(fmean(judged.values), judged.std))


def claims(judged: Sequence[Verdict]) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="default")
    for column in ("verdict", "ours", "paper", "gap", "seeds", "where"):
        right = column in ("ours", "paper", "gap", "seeds")
        table.add_column(column, justify="right" if right else "left", no_wrap=column != "where")
    for one in judged:
        where = one.claim.where if one.claim.value is not None else f"{name(one.claim, [])}: {one.claim.where}"
        why = {"comparison": one.claim.comparison, "at scale only": one.claim.needs}
        scaled = scale(one.claim.metric, one.values, literals=one.claim.published)
        table.add_row(
            coloured(f"{MARKS[one.mark]} {one.word if one.word == 'measured' else sentence(one)}"),
            coloured(_ours(one)),
            NONE if one.claim.value is None else coloured(scaled.with_unit(scaled.value(one.claim.value))),
            coloured(scaled.gap(one.gap)),
            one.counted or NONE,
            coloured("; ".join(filter(None, [where, why.get(one.word, "")]))),
        )
    return table


def _facts(entry: Entry) -> dict[str, Any]:
    evidence = proofs(entry.key) if entry.family else {}
    return {
        "method": entry.name,
        "family": entry.family or None,
        "title": entry.title,
        "title_zh": entry.zh,
        "file": entry.path,
        "lines": entry.lines,
        "paper": asdict(entry.paper) if entry.paper else None,
        "source": entry.source,
        "learns_by": entry.learns,
        "code": published_code(entry) or None,
        "seconds_a_seed": seconds_a_seed(entry),
        "quick": entry.quick,
        "claims": [
            {
                **asdict(one.claim),
                "verdict": one.word,
                "sentence": sentence(one),
                "values": one.values,
                "mean": one.mean,
                "std": one.std,
                "gap": one.gap,
                "commit": (claim_record(entry.key, one.claim) or {}).get("commit") if entry.family else None,
            }
            for one in recorded(entry)
        ],
        "proof": {
            proof.kind: {
                "mark": proof.mark,
                "word": proof.word,
                "evidence": proof.evidence,
                "again": proof.again or None,
                "measured": evidence.get(proof.kind),
            }
            for proof in card(entry)
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
