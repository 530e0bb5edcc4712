"""Commands that train: run, resume, demo; and report. torch is imported once the words are known to be right."""

from __future__ import annotations

import json
import logging
import os
import shlex
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from math import nan
from pathlib import Path
from statistics import fmean, stdev
from typing import TYPE_CHECKING, Any

from rich.table import Table

from fuxian import catalog
from fuxian.catalog import Entry, blame
from fuxian.cli.options import Parser, add_knobs, given_knobs, normal, plain, seeds, whole
from fuxian.cli.progress import Progress
from fuxian.cli.terminal import FOLLOWS, MARKS, Terminal, measured, shown
from fuxian.errors import FuxianError, Interrupted, WrongInput
from fuxian.facts import Paper
from fuxian.numbers import plural, scale
from fuxian.proof.claims import Verdict, matching, verdict
from fuxian.report.runs import telling_names
from fuxian.study.plan import file_of as study_file

if TYPE_CHECKING:
    from fuxian.engine.run import Run


SHOWN = ("backpropagation", "lenet", "gpt2", "ddpm", "gcn", "hello_rnn", "continual")  # what `demo` runs
SWITCHES = ("--quick", "--compile", "--dry-run", "--json", "--help")  # options of `run` that take no value


# ── run ─────────────────────────────────────────────────────────────────────────────────────────────────────────────


def _run_parser(entry: Entry | None) -> Parser:
    name = entry.called if entry else "METHOD|FILE.py"
    about = (
        entry.title if entry else "Trains and judges a method, or a file of your own. Its knobs: fuxian run METHOD --help"
    )
    parser = Parser(f"run {name}" if entry else "run", about, f"run {name} [--knob value]… [options]")
    parser.add_argument("method", metavar="METHOD", help="gcn, graph.gcn, or the path of a file of your own")
    parser.add_argument("--quick", action="store_true", help="the small setting: offline, in seconds")
    parser.add_argument("--seed", type=whole("--seed", 0), metavar="N", help="all randomness; default 0")
    parser.add_argument("--seeds", type=seeds, metavar="N|0,1,2", help="several runs: so many, or these")
    parser.add_argument("--limit", type=whole("--limit", 1), metavar="N", help="at most N steps a stage; no verdict then")
    parser.add_argument("--device", metavar="NAME", help="cpu, cuda, cuda:1, …; default: the best there is")
    parser.add_argument("--precision", default="float32", metavar="float32|bf16", help="default float32")
    parser.add_argument("--compile", action="store_true", help="torch.compile: pays for long runs")
    parser.add_argument("--name", metavar="NAME", help="of the run folder; default: the date and a number")
    parser.add_argument("--target", metavar="COLUMN", help="of a .csv of your own: the column to be predicted")
    parser.add_argument("--time", metavar="COLUMN", help="of a .csv of your own: the column that orders its rows")
    parser.add_argument("--track", metavar="tensorboard", help="its curves, pictures and knobs too, in the run's folder")
    parser.add_argument("--dry-run", action="store_true", help="print every knob and where it came from, and stop")
    parser.add_common(json=True)
    if entry:
        add_knobs(parser, entry)
    return parser


def run(words: Sequence[str], terminal: Terminal) -> int:
    method = _method_of(normal(words))
    if method is None:
        _run_parser(None).read(words)  # prints the help, or says what is missing
    entry = catalog.find(method or "")
    options = _run_parser(entry).read(words, entry)
    given = given_knobs(options)
    if options.precision not in ("float32", "bf16"):
        raise WrongInput(f"--precision {options.precision} is not one of float32, bf16")
    if options.seed is not None and options.seeds is not None:
        raise WrongInput("--seed and --seeds exclude each other: --seeds 3,5 runs those two")
    resolved = entry.resolve(given, "command line", options.quick)
    if options.dry_run:
        _show_knobs(entry, resolved, terminal)
        return 0

    settings = dict(
        quick=options.quick,
        limit=options.limit,
        device=options.device,
        precision=options.precision,
        compile=options.compile,
        track=options.track,
        name=options.name,
        target=options.target,
        time=options.time,
        command=shlex.join(["fuxian", "run", *words]),
        origin="command line",
        **given,
    )
    method = entry.path if entry.module is None else entry.key
    with telling(entry, terminal), Progress(terminal, _title(entry), len(options.seeds or [0])) as watch:
        from fuxian.engine import run as engine

        if options.seeds is not None:
            runs = engine.run_seeds(method, options.seeds, watch=watch, **settings)
        else:
            runs = [engine.run(method, seed=options.seed or 0, watch=watch, **settings)]
    if not FOLLOWS:
        _finish(entry, runs, terminal)
    return 0


def _method_of(words: Sequence[str]) -> str | None:
    """The method among the words, before its knobs are known: the first word that is neither a flag nor a flag's value."""
    for before, word in zip(["", *words], words, strict=False):
        is_value = before.startswith("--") and "=" not in before and before not in SWITCHES
        if not word.startswith("-") and not is_value:
            return word
    return None


def _title(entry: Entry) -> str:
    return f"{entry.paper.title} ({cited(entry.paper)})" if entry.paper else entry.title


def cited(paper: Paper) -> str:
    """`Kipf & Welling 2017`"""
    return f"{paper.authors} {paper.year}"


def _show_knobs(entry: Entry, resolved: Mapping[str, tuple[Any, str]], terminal: Terminal) -> None:
    if terminal.wants_json:
        knobs = {name: {"value": value, "from": origin} for name, (value, origin) in resolved.items()}
        terminal.json({"method": entry.name, "family": entry.family or None, "knobs": knobs})
        return
    table = Table(box=None, pad_edge=False, show_header=False, padding=(0, 3, 0, 0))
    for knob in entry.knobs:
        value, origin = resolved[knob.name]
        table.add_row(knob.flag, plain(value), origin, knob.help)
    terminal.say(f"{entry.called} would run with")
    terminal.say(table)


@contextmanager
def telling(entry: Entry | None, terminal: Terminal, *, notes: bool = True) -> Iterator[None]:
    """Shows the `notes` of data loading; an exception inside a user's own file is told by its line there."""
    logger = logging.getLogger("fuxian.data")
    handler = _Notes(terminal)
    if notes:
        logger.addHandler(handler)
    level = logger.level
    logger.setLevel(logging.INFO)
    try:
        yield
    except Exception as error:
        told = blame(error, entry.path) if entry is not None and entry.module is None else None
        raise told or error from error.__cause__
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)


class _Notes(logging.Handler):
    def __init__(self, terminal: Terminal) -> None:
        super().__init__()
        self.terminal = terminal

    def emit(self, record: logging.LogRecord) -> None:
        self.terminal.say(record.getMessage())


# ── what a run found ────────────────────────────────────────────────────────────────────────────────────────────────


def _finish(entry: Entry | None, runs: Sequence[Run], terminal: Terminal) -> None:
    """Writes the pages, and says what was found."""
    from fuxian.report import write_report

    pages = [write_report(one.folder) for one in runs]
    folder, page = runs[0].folder, pages[0]
    if len(runs) > 1:
        folder = folder.parent
        page = write_report(folder)
    values = {name: [one.metrics[name] for one in runs] for name in runs[0].metrics}
    judged = _verdicts(entry, runs, values)
    if terminal.wants_json:
        terminal.json(
            {
                "folder": folder,
                "report": page,
                "method": runs[0].info["method"],
                "seeds": [one.info["seed"] for one in runs],
                "knobs": {name: knob["value"] for name, knob in runs[0].info["knobs"].items()},
                "metrics": {name: found[0] if len(found) == 1 else found for name, found in values.items()},
                "counts": runs[0].counts,
                "claims": [
                    {
                        "metric": v.claim.metric,
                        "value": v.claim.value,
                        "where": v.claim.where,
                        "verdict": v.word,
                        "gap": v.gap,
                    }
                    for v in judged
                ],
            }
        )
        return
    _tell(entry, runs, values, judged, terminal)
    if runs[0].info.get("track"):
        terminal.say(f"curves  {runs[0].info['track']} --logdir {shlex.quote(shown(folder))}")
    terminal.say(f"report  {shown(page)}")


def _verdicts(entry: Entry | None, runs: Sequence[Run], values: Mapping[str, Sequence[float]]) -> list[Verdict]:
    if entry is None:
        return []
    info = runs[0].info
    knobs = {name: knob["value"] for name, knob in info["knobs"].items()}
    defaults = {knob.name: knob.default for knob in entry.knobs}
    claims = matching(entry.claims, knobs, defaults, limit=info["limit"], precision=info["precision"])
    return [verdict(claim, values.get(claim.metric, ())) for claim in claims]


def _tell(
    entry: Entry | None,
    runs: Sequence[Run],
    values: Mapping[str, Sequence[float]],
    judged: Sequence[Verdict],
    terminal: Terminal,
) -> None:
    """The verdict, then each metric with what it stands on, and the paper's number under it."""
    if terminal.console.is_terminal:
        terminal.say()
    terminal.say(_verdict_line(runs[0].info, judged))
    for name in telling_names(runs[0].metrics, runs[0].info, {one.claim.metric for one in judged}):
        claims = [one.claim for one in judged if one.claim.metric == name]
        count = runs[0].counts.get(name)
        scaled = scale(name, values[name], count=count, literals=[n for c in claims for n in c.published])
        spread = stdev(values[name]) if len(runs) > 1 else nan
        ours = scaled.with_unit(scaled.spread(fmean(values[name]), spread))
        of_split = runs[0].info["stages"][-1].get(name.partition("/")[0])
        over = plural(of_split, "example") if count and count == of_split else f"over {count:,.0f}" if count else ""
        beside = [over] * bool(count) + [plural(len(runs), "seed")] * (len(runs) > 1)
        terminal.say(f"  {name:<18} {ours:<15} {', '.join(beside)}".rstrip())
        for claim in [one for one in claims if one.value is not None]:
            tolerance = f"{claim.where}; tolerance ± {scaled.value(claim.tolerance)} over {plural(claim.seeds, 'seed')}"
            terminal.say(f"  {'the paper':<18} {scaled.with_unit(scaled.value(claim.value)):<15} {tolerance}")
    if entry is not None and judged and judged[0].word == "in part":
        words = [word for name, value in _differing(entry, runs[0]).items() for word in (name, value)]
        again = shlex.join(["fuxian", "run", entry.called, *words, "--seeds", str(judged[0].claim.seeds)])
        terminal.say(f"  {'for a verdict':<18} {again}")
    if terminal.console.is_terminal:
        terminal.say()


def _differing(entry: Entry, run: Run) -> dict[str, str]:
    """The knobs of a run that are not the defaults, as the command line takes them."""
    defaults = {knob.name: plain(knob.default) for knob in entry.knobs}
    values = {name: plain(knob["value"]) for name, knob in run.info["knobs"].items()}
    return {"--" + name.replace("_", "-"): value for name, value in values.items() if value != defaults.get(name)}


def _verdict_line(info: Mapping[str, Any], judged: Sequence[Verdict]) -> str:
    if judged:
        first = judged[0]
        return f"{MARKS[first.mark]} {first.title[0].lower()}{first.title[1:]}"
    if info["limit"] is not None:
        why = f"at most {plural(info['limit'], 'step')} a stage: a trial, not a verdict"
    elif info["quick"]:
        why = "the quick form: a run, not a verdict"
    elif info["precision"] != "float32":
        why = f"{info['precision']}: a claim is judged in float32"
    else:
        why = "no published number for these knobs"
    return f"{MARKS['none']} {why}"


# ── resume, report ──────────────────────────────────────────────────────────────────────────────────────────────────


def resume(words: Sequence[str], terminal: Terminal) -> int:
    about = "Goes on where a run, a folder of seeds, a comparison or a sweep was stopped."
    parser = Parser("resume", about, "resume RUN [--changed-code] [--json]")
    parser.add_argument("run", metavar="RUN", help="its folder")
    parser.add_argument("--changed-code", action="store_true", help="go on though your file has changed since")
    parser.add_common(json=True)
    options = parser.read(words)
    folder = run_folder(options.run)
    if study_file(folder):
        from fuxian.cli import compare

        return compare.resume(folder, options.changed_code, terminal)
    entry = entry_of(folder)
    count = len(list(folder.glob("seed-*/run.json"))) or 1
    with telling(entry, terminal), Progress(terminal, _title(entry) if entry else "", count) as watch:
        from fuxian.engine import run as engine

        runs = engine.resume(folder, watch=watch, changed_code=options.changed_code)
    if not FOLLOWS:
        _finish(entry, runs, terminal)
    return 0


def report(words: Sequence[str], terminal: Terminal) -> int:
    about = "Writes the page of a run, a folder of seeds, a comparison or a sweep anew."
    parser = Parser("report", about, "report RUN [--json]")
    parser.add_argument("run", metavar="RUN", help="its folder")
    parser.add_common(json=True)
    folder = run_folder(parser.read(words).run)
    from fuxian.report import write_report, write_study

    if study_file(folder):
        from fuxian.study import studies

        page = write_study(studies.read(folder))
    else:
        page = write_report(folder)
    if terminal.wants_json:
        terminal.json({"folder": folder, "report": page})
    else:
        terminal.say(shown(page))
    return 0


def run_folder(text: str) -> Path:
    folder = Path(text).expanduser()
    if not any((folder / name).is_file() for name in ("run.json", "seeds.json")) and study_file(folder) is None:
        what = "is no run folder: it has no run.json" if folder.is_dir() else "is not there"
        raise WrongInput(f"{text} {what}; runs are in {os.environ.get('FUXIAN_RUNS', 'runs')}/<method>/<name>")
    return folder


def entry_of(folder: Path) -> Entry | None:
    """The method of a run folder, as its file is today; None where that cannot be told, which the engine will say."""
    try:
        info = json.loads((next(folder.glob("seed-*/run.json"), folder / "run.json")).read_text(encoding="utf-8"))
        return catalog.find(info["file"] or f"{info['family']}.{info['method']}")
    except (OSError, ValueError, KeyError, TypeError, FuxianError):
        return None


# ── demo ────────────────────────────────────────────────────────────────────────────────────────────────────────────


def demo(words: Sequence[str], terminal: Terminal) -> int:
    """Methods in their quick form. One that fails does not stop the others; the exit code is 1 then."""
    about = "Runs a method of each family in its quick form, offline, and writes one page of the results."
    parser = Parser("demo", about, "demo [FAMILY] [--all]")
    parser.add_argument("family", nargs="?", metavar="FAMILY", help="all methods of this family, and no others")
    parser.add_argument("--all", action="store_true", help="every method there is")
    parser.add_common()
    options = parser.read(words)
    entries = catalog.methods(options.family) if options.family or options.all else [catalog.find(name) for name in SHOWN]
    from fuxian.engine import run as engine
    from fuxian.report import write_index, write_report

    folders, failed = [], 0
    parent = Path(os.environ.get("FUXIAN_RUNS", "runs")) / "demo"
    for entry in entries:
        try:
            with telling(entry, terminal), Progress(terminal, brief=True) as watch:
                place = parent / entry.key
                one = engine.run(entry.key, quick=True, watch=watch, command="fuxian demo", parent=place)
            write_report(one.folder)
        except Interrupted:
            raise
        except Exception as error:
            failed += 1
            what = error.message if isinstance(error, FuxianError) else f"{type(error).__name__}: {error}"
            terminal.say(f"{MARKS['short']} {entry.name:<16} {what}")
            continue
        folders.append(one.folder)
        claimed = [claim.metric for claim in entry.claims if claim.metric in one.metrics]
        name = next(iter([*claimed, *telling_names(one.metrics, one.info)]), "")
        result = f"{name} {measured(name, [one.metrics[name]], one.counts.get(name))}" if name else "done"
        terminal.say(f"{MARKS['ok']} {entry.name:<16} {result}")
    page = write_index(folders, parent / "index.html")
    terminal.say(f"{len(folders)} of {len(entries)} methods ran. The page: {shown(page)}")
    return 1 if failed else 0
