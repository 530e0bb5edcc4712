"""`fuxian verify METHOD`: the published numbers beside ours, over the seeds that the claims ask for."""

from __future__ import annotations

import shlex
from collections.abc import Sequence

from fuxian import catalog
from fuxian.catalog import Entry
from fuxian.cli.options import Parser
from fuxian.cli.progress import Progress
from fuxian.cli.runs import cited, telling
from fuxian.cli.show import claims
from fuxian.cli.terminal import MARKS, Terminal
from fuxian.errors import DataMissing, Interrupted, WrongInput
from fuxian.facts import Claim
from fuxian.knobs import nearest
from fuxian.proof.card import name
from fuxian.proof.claims import choose
from fuxian.proof.record import claim_record


def verify(words: Sequence[str], terminal: Terminal) -> int:
    """Runs and records the claims of a method. Returns 1 where one falls short; with `--check` where one is stale."""
    about = "Run a method's claims over their seeds, and record what came of it in results/."
    parser = Parser("verify", about, "verify METHOD [--claim TEXT] [--check] [--json] | verify --check [--json]")
    parser.add_argument("method", nargs="?", metavar="METHOD", help="a method that ships")
    parser.add_argument("--claim", metavar="TEXT", help="only those that stand there: 'Table 2', or a number from 1")
    parser.add_argument("--check", action="store_true", help="only whether today's code gives the records' first losses")
    parser.add_common(json=True)
    options = parser.read(words)
    if options.check:
        return _check(options.method, options.claim, terminal)
    if options.method is None:
        raise WrongInput("verify needs a METHOD; without one it can only --check all records", do="fuxian list")
    entry = catalog.find(options.method)
    if not entry.module:
        raise WrongInput(f"{entry.called} is a file of your own; verify records the claims of methods that ship")
    from fuxian.proof.verify import at_hand

    chosen = None if options.claim is None else _chosen(entry, options.claim)
    runnable = at_hand(entry, chosen)
    if not runnable:
        do = f"fuxian verify {entry.name} --claim 1, where it is at hand; fuxian info {entry.name} says what it needs"
        raise WrongInput(f"{entry.name} has no claim that can be run here", do=do)
    total = sum(claim.seeds for claim in runnable)
    title = f"{entry.paper.title} ({cited(entry.paper)})" if entry.paper else entry.title
    with telling(entry, terminal), Progress(terminal, title, total, brief=True) as watch:
        from fuxian.proof.record import results_folder
        from fuxian.proof.verify import verify as prove

        try:
            judged = prove(entry, chosen, watch=watch)
        except Interrupted as error:
            error.lines["do"] = f"{shlex.join(['fuxian', 'verify', *words])}     goes on, to the same bits"
            raise
    record = results_folder() / f"{entry.key}.json"
    if terminal.wants_json:
        rows = [
            {
                "metric": v.claim.metric,
                "where": v.claim.where,
                "value": v.claim.value,
                "verdict": v.word,
                "values": v.values,
                "mean": v.mean,
                "std": v.std,
            }
            for v in judged
        ]
        terminal.json({"method": entry.name, "claims": rows, "record": record})
    else:
        terminal.say(claims(judged))
        terminal.say(f"record  {record}")
    return int(any(v.word == "short" for v in judged))


def _chosen(entry: Entry, words: str | None) -> list[Claim]:
    if words is None:
        return entry.claims
    chosen = choose(entry.claims, words)
    if not chosen:
        near = nearest(words, [claim.where for claim in entry.claims])
        raise WrongInput(f"{entry.name} has no claim at {words!r}{near}", do=f"fuxian info {entry.name}")
    return chosen


def _check(method: str | None, words: str | None, terminal: Terminal) -> int:
    """Whether the records are fresh. Returns 1 where one is stale, 4 where none could be checked."""
    entries = catalog.methods() if method is None else [catalog.find(method)]
    wanted = [(entry, _chosen(entry, words)) for entry in entries]
    wanted = [(e, [claim for claim in claims if e.module and claim_record(e.key, claim)]) for e, claims in wanted]
    if not any(claims for _, claims in wanted):
        raise WrongInput(f"there is no record of {method or 'any method'} to check", do="fuxian verify METHOD writes one")
    from fuxian.proof.fresh import check

    found = [(entry, one) for entry, claims in wanted for one in check(entry, claims)]
    if terminal.wants_json:
        terminal.json({"checks": [{"method": entry.name, **one.facts()} for entry, one in found]})
    else:
        for entry, one in found:
            mark = MARKS[{"fresh": "ok", "stale": "short", "cannot check": "none"}[one.word]]
            terminal.say(f"{mark} {one.word:<13} {entry.name}, {name(one.claim, entry.claims)}: {one.why}")
    words_found = [one.word for _, one in found]
    return 1 if "stale" in words_found else 0 if "fresh" in words_found else DataMissing.code
