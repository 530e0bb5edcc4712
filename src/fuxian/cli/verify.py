"""`fuxian verify METHOD`: the published numbers beside ours, over the seeds that the claims ask for."""

from __future__ import annotations

from collections.abc import Sequence

from fuxian import catalog
from fuxian.cli.options import Parser
from fuxian.cli.progress import Progress
from fuxian.cli.runs import cited, telling
from fuxian.cli.show import claims
from fuxian.cli.terminal import Terminal
from fuxian.errors import WrongInput


def verify(words: Sequence[str], terminal: Terminal) -> int:
    """Runs and records every claim of a method. Returns 1 where one falls short."""
    about = "Run a method's claims over their seeds, and record what came of it in results/."
    parser = Parser("verify", about, "verify METHOD [--json]")
    parser.add_argument("method", metavar="METHOD", help="a method that ships")
    parser.add_common(json=True)
    entry = catalog.find(parser.read(words).method)
    if not entry.module:
        raise WrongInput(f"{entry.called} is a file of your own; verify records the claims of methods that ship")
    if not any(not claim.needs for claim in entry.claims):
        raise WrongInput(f"{entry.name} has no claim that can be run here", do=f"fuxian info {entry.name}")
    total = sum(claim.seeds for claim in entry.claims if not claim.needs)
    title = f"{entry.paper.title} ({cited(entry.paper)})" if entry.paper else entry.title
    with telling(entry, terminal), Progress(terminal, title, total, brief=True) as watch:
        from fuxian.proof.record import results_folder
        from fuxian.proof.verify import verify as prove

        judged = prove(entry, watch=watch)
    record = results_folder() / f"{entry.key}.json"
    if terminal.wants_json:
        rows = [
            {
                "metric": v.claim.metric,
                "where": v.claim.where,
                "value": v.claim.value,
                "verdict": v.word,
                "values": v.values,
            }
            for v in judged
        ]
        terminal.json({"method": entry.name, "claims": rows, "record": record})
    else:
        terminal.say(claims(judged))
        terminal.say(f"record  {record}")
    return int(any(v.word == "short" for v in judged))
