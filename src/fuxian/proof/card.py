"""The proof card: what is known of a method, computed from `results/`, never typed. Nothing here imports torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from fuxian.facts import Claim
from fuxian.numbers import duration, fixed, plural, ratio, scale, small
from fuxian.proof.claims import Mark, Verdict, verdict
from fuxian.proof.record import claim_record, proofs

if TYPE_CHECKING:
    from fuxian.catalog import Entry

AGREES = {"float32": 1e-5, "float64": 1e-10}  # largest difference from the reference, by dtype
EXPORTS = 1e-4  # largest difference of the exported model; runtimes fuse and reorder


@dataclass(frozen=True)
class Proof:
    """One of the five. `kind` is parity, claim, speed, resume or export; `word` and `evidence` say what `mark` means.

    `again` is the command that measures it anew, in a clone of the repository; none where nothing was measured.
    """

    kind: str
    mark: Mark
    word: str
    evidence: str
    again: str = ""


def card(entry: Entry) -> list[Proof]:
    """Parity, claim, speed, resume and export of a method, in this order."""
    found = proofs(entry.key) if entry.family else {}
    cards = {kind: _measured(kind, found.get(kind), entry.code) for kind in ("parity", "speed", "resume", "export")}
    proven = [cards["parity"], _claims(entry), cards["speed"], cards["resume"], cards["export"]]
    return [replace(proof, again=_again(entry, proof, found.get(proof.kind, {}))) for proof in proven]


def recorded(entry: Entry) -> list[Verdict]:
    """The verdict on each claim of a method, from `results/`."""
    return [
        verdict(claim, (claim_record(entry.key, claim) or {}).get("values", []) if entry.family else [])
        for claim in entry.claims
    ]


def sentence(judged: Verdict) -> str:
    """`reproduced`, `short by 1.4`, `one seed`, `measured: 0.053 ± 0.004`: what follows the name of a claim."""
    if judged.word == "measured":
        scaled = scale(judged.claim.metric, judged.values)
        return f"measured: {scaled.with_unit(scaled.spread(judged.mean, judged.std))}"
    if judged.word == "in part":
        return "one seed" if len(judged.values) == 1 else f"{len(judged.values)} of {judged.claim.seeds} seeds"
    if judged.word in ("short", "above"):
        return f"{judged.word} by {distance(judged)}" if judged.gap == judged.gap else "short, not a number"
    return judged.word


def distance(judged: Verdict) -> str:
    """How far the mean is from the published value, with as many digits as it takes to be beyond the tolerance."""
    claim = judged.claim
    scaled = scale(claim.metric, judged.values, literals=claim.published)
    digits, gap = scaled.digits, abs(judged.gap) * scaled.factor
    while judged.outside > 0 and digits < 8 and round(gap, digits) <= claim.tolerance * scaled.factor:
        digits += 1
    return fixed(gap, digits)


def _again(entry: Entry, proof: Proof, facts: Mapping[str, Any]) -> str:
    if not entry.family or proof.word == "none":
        return ""
    if proof.kind == "claim":
        return f"fuxian verify {entry.name}" if entry.claims else ""
    if proof.kind == "speed":
        return "make bench" if facts else ""
    files = " ".join(sorted({test.partition("::")[0] for test in facts.get("tests", [])}))
    of_all = " -k " + entry.name if "tests/contract/" in files else ""
    return f"pytest {files}{of_all}" if files else ""


def _measured(kind: str, facts: Mapping[str, Any] | None, today: str) -> Proof:
    if facts is None:
        return Proof(kind, "none", "not yet", "not measured")
    if facts["method_sha256"] != today:
        return Proof(kind, "none", "not yet", "measured on other code of the method’s file")
    if "reason" in facts:
        return Proof(kind, "none", "none", facts["reason"])
    return {"parity": _parity, "speed": _speed, "resume": _resume, "export": _export}[kind](facts)


def _parity(facts: Mapping[str, Any]) -> Proof:
    """Facts of one precision, or `found`, a list of several; the worst difference of each."""
    names = {"outputs": "outputs", "gradients": "gradients", "step": "one optimizer step"}
    found = facts.get("found", [facts])
    parts = [words for name, words in names.items() if found[0].get(name) is not None]
    what = " and ".join(", ".join(parts).rsplit(", ", 1))
    said, ok = [], True
    for one in found:
        worst, limit = max(one[name] for name in names if one.get(name) is not None), AGREES[one["dtype"]]
        how = "equal to" if worst == 0 else f"within {small(worst)} of" if worst <= limit else f"up to {small(worst)} from"
        said.append(f"{how} {'it' if said else facts['reference']} ({one['dtype']})")
        ok &= worst <= limit
    return Proof("parity", "ok" if ok else "short", "agrees" if ok else "differs", f"{what} {', '.join(said)}")


def _speed(facts: Mapping[str, Any]) -> Proof:
    """By the slowest of the works, ours / peer: below one is faster. Where half of the pairs has one in it, neither is."""
    slowest = max(facts["works"], key=lambda work: work["ratio"])
    ends = [max(work[end] for work in facts["works"]) for end in ("low", "high")]
    mark: Mark = "ok" if ends[1] <= 1 else "part" if ends[0] <= 1 else "short"
    return Proof("speed", mark, ratio(slowest["ratio"]), "; ".join(map(_work, facts["works"])))


def _work(work: Mapping[str, Any]) -> str:
    low, high = (ratio(work[end])[:-2] for end in ("low", "high"))
    return (
        f"{work['work']}: {duration(work['ours'])}, with {work['against']} {duration(work['peer'])}"
        f" (half of {plural(work['pairs'], 'pair')} {low} to {high})"
    )


def _resume(facts: Mapping[str, Any]) -> Proof:
    times = "once" if facts["kills"] == 1 else f"{facts['kills']} times"
    equal = f"all {plural(facts['tensors'], 'tensor')} bit-equal" if facts["equal"] else "some tensors not equal"
    mark: Mark = "ok" if facts["equal"] else "short"
    return Proof("resume", mark, "exact" if facts["equal"] else "differs", f"killed {times}; {equal} at the end")


def _export(facts: Mapping[str, Any]) -> Proof:
    ok = facts["difference"] <= EXPORTS
    how = "equal in" if facts["difference"] == 0 else f"within {small(facts['difference'])} in"
    return Proof("export", "ok" if ok else "short", "checked" if ok else "differs", f"ONNX, {how} {facts['runtime']}")


def _claims(entry: Entry) -> Proof:
    judged = recorded(entry)
    if not judged:
        return Proof("claim", "none", "none", "no published number to reproduce")
    evidence = "; ".join(f"{name(one.claim, entry.claims)} {sentence(one)}" for one in judged)
    old = [claim_record(entry.key, one.claim) for one in judged if one.values]
    if any(one and one["method_sha256"] != entry.code for one in old):
        evidence += f"; the file has changed since: fuxian verify {entry.name} --check"
    due = [one for one in judged if one.claim.decidable and one.mark != "scale"] or judged
    holding, failing = ([one for one in due if one.mark == mark] for mark in ("ok", "short"))
    if len(due) == 1 or not (holding or failing):
        best = ("ok", "short", "part", "none", "scale")  # what waits for hardware says least
        first = min(due, key=lambda one: (not one.values, best.index(one.mark)))
        return Proof("claim", first.mark, sentence(first), evidence)
    mark: Mark = "ok" if len(holding) == len(due) else "short" if len(failing) == len(due) else "part"
    return Proof("claim", mark, f"{len(holding)} of {len(due)}", evidence)


def name(claim: Claim, among: list[Claim]) -> str:
    """What tells a claim from its neighbours: `Cora` of `Table 2, Cora`; with its metric where two stand in one place.

    Where no number is published it is the metric alone.
    """
    metric = claim.metric.rpartition("/")[2].replace("_", " ")
    if claim.value is None:
        return metric
    places = [one.where for one in among if one.value is not None]
    parts = claim.where.split(", ")
    where = ", ".join(parts[1:]) if len(parts) > 1 and len({place.split(", ")[0] for place in places}) == 1 else claim.where
    alike = any(one.where == claim.where and one.metric != claim.metric for one in among)
    return f"{where}, {metric}" if alike else where
