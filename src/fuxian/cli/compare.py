"""`fuxian compare` and `fuxian sweep`: several methods, or several settings of one, over the same seeds."""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from math import isfinite, nan
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.table import Table

from fuxian import catalog
from fuxian.catalog import Entry
from fuxian.cli.options import Parser, normal, plain, seeds, whole
from fuxian.cli.progress import Bar
from fuxian.cli.runs import telling
from fuxian.cli.terminal import MARKS, Terminal, coloured, shown
from fuxian.errors import WrongInput
from fuxian.numbers import NONE, duration, plural, scale
from fuxian.study import plan, wording

if TYPE_CHECKING:
    from fuxian.study.outcome import Comparison, Outcome, Row, Sweep
    from fuxian.study.statistics import Difference

POINTS = 30  # of a sweep that the terminal shows; the page has all


# ── words ───────────────────────────────────────────────────────────────────────────────────────────────────────────


def _parser(command: str, about: str, usage: str, count: int) -> Parser:
    parser = Parser(command, about, usage)
    parser.add_argument("--seeds", type=seeds, default=list(range(count)), metavar="N|0,1,2",
                        help=f"the same for all: so many, or these; default {count}")  # fmt: skip
    parser.add_argument("--metric", metavar="NAME", help="test/accuracy, …; default: the one of the methods' claims")
    parser.add_argument("--quick", action="store_true", help="the small setting: offline, in seconds")
    parser.add_argument("--limit", type=whole("--limit", 1), metavar="N", help="at most N steps a stage")
    parser.add_argument("--jobs", type=whole("--jobs", 1), default=1, metavar="N",
                        help="runs side by side, to the same numbers; jobs × threads should not exceed the cores: "
                             "OMP_NUM_THREADS=1 fuxian … --jobs 2")  # fmt: skip
    parser.add_argument("--device", metavar="NAME", help="cpu, cuda, cuda:1, …; default: the best there is")
    parser.add_argument("--precision", default="float32", metavar="float32|bf16", help="default float32")
    parser.add_argument("--compile", action="store_true", help="torch.compile: pays for long runs")
    parser.add_argument("--name", metavar="NAME", help="of the folder; default: the date and a number")
    parser.add_argument("--target", metavar="COLUMN", help="of a .csv of your own: the column to be predicted")
    parser.add_argument("--time", metavar="COLUMN", help="of a .csv of your own: the column that orders its rows")
    return parser


def _split(parser: Parser, words: Sequence[str]) -> tuple[Any, list[Entry], dict[str, Any]]:
    """The command's own options, the methods, and the text of each knob. A switch without a value is on."""
    options, rest = parser.parse_known_args(normal(words))
    entries: list[Entry] = []
    given: dict[str, Any] = {}
    left = list(rest)
    while left:
        word = left.pop(0)
        if not word.startswith("-"):
            entries.append(catalog.find(word))
            continue
        flag, equals, text = word.lstrip("-").partition("=")
        target, dot, knob = flag.rpartition(".")
        name = target + dot + knob.replace("-", "_")
        switches = [k.name for entry in entries for k in entry.knobs if k.kind is bool and not k.optional]
        off = name.removeprefix("no_")
        if not equals:
            if name in switches and not (left and re.fullmatch("(true|false)(,(true|false))*", left[0].lower())):
                text = "true"
            elif off != name and off in switches:
                name, text = off, "false"
            elif left and not left[0].startswith("--"):
                text = left.pop(0)
            else:
                raise WrongInput(f"--{flag} expects a value. Help: {parser.prog} --help")
        if name in given:
            raise WrongInput(f"--{flag} is given twice")
        given[name] = text
    for name in given:  # a slip of an option of the command itself is told as one
        if "." not in name and entries and not any(name == k.name for entry in entries for k in entry.knobs):
            entries[0].knob(name, "command line", parser.flags())
    return options, entries, given


def _settings(options: Any) -> dict[str, Any]:
    if options.precision not in ("float32", "bf16"):
        raise WrongInput(f"--precision {options.precision} is not one of float32, bf16")
    names = ("seeds", "metric", "jobs", "quick", "limit", "device", "precision", "compile", "name", "target", "time")
    return {name: getattr(options, name) for name in names}


def _path(entry: Entry) -> str:
    return entry.key if entry.module else str(entry.path)


# ── commands ────────────────────────────────────────────────────────────────────────────────────────────────────────


def compare(words: Sequence[str], terminal: Terminal) -> int:
    about = (
        "Methods, or files of your own, over the same seeds: mean ± standard deviation of each, and what the first is "
        "beside each other, by differences paired by seed. --lr 0.1 sets a knob that all have, --gcn.lr 0.1 that of one. "
        "A comparison that was stopped goes on with: fuxian resume."
    )
    parser = _parser("compare", about, "compare METHOD METHOD… [--knob value] [--METHOD.knob value] [options]", 5)
    parser.add_common(json=True)
    options, entries, given = _split(parser, words)
    settings = _settings(options)
    plan.comparison([_path(entry) for entry in entries], given, options.quick, "command line")  # refused at once
    with telling(None, terminal), Bar(terminal) as bar:
        from fuxian.study import studies

        command = shlex.join(["fuxian", "compare", *words])
        paths = [_path(entry) for entry in entries]
        found = studies.compare(*paths, **settings, monitor=bar, command=command, origin="command line", **given)
    return finish(found, terminal)


def sweep(words: Sequence[str], terminal: Terminal) -> int:
    about = (
        "One method at every point of a grid of knobs, each over the same seeds: --hidden 8,16,32 --dropout 0,0.5 are six "
        "points. The values of a knob that is a list itself stand with ';' between: --widths '64,64;128'. Knobs that are "
        "on or off make an ablation: --residual true,false. The best point is chosen by the validation metric where "
        "there is one. A sweep that was stopped goes on with: fuxian resume."
    )
    parser = _parser("sweep", about, "sweep METHOD --knob a,b,c [--knob a,b]… [options]", 3)
    parser.add_argument(
        "--sample", type=whole("--sample", 2), metavar="N", help="only N points of the grid, drawn by chance"
    )
    parser.add_common(json=True)
    options, entries, given = _split(parser, words)
    if len(entries) != 1:
        raise WrongInput(f"sweep takes one method, not {len(entries)}. Help: {parser.prog} --help")
    values: dict[str, Any] = {name: plan.values_of(entries[0], name, text) for name, text in given.items()}
    settings = _settings(options)
    with telling(None, terminal), Bar(terminal) as bar:
        from fuxian.study import studies

        command = shlex.join(["fuxian", "sweep", *words])
        own: dict[str, Any] = dict(sample=options.sample, monitor=bar, command=command, origin="command line")
        found = studies.sweep(_path(entries[0]), **settings, **own, **values)
    return finish(found, terminal)


def resume(folder: Path, changed_code: bool, terminal: Terminal) -> int:
    with telling(None, terminal), Bar(terminal) as bar:
        from fuxian.study import studies

        found = studies.resume(folder, monitor=bar, changed_code=changed_code)
    return finish(found, terminal)


def finish(found: Comparison | Sweep, terminal: Terminal) -> int:
    """Writes the page, prints the table, and returns the code of the first failure, or 0."""
    from fuxian.report import write_study
    from fuxian.study.outcome import Comparison

    page = write_study(found)
    comparison = isinstance(found, Comparison)
    if terminal.wants_json:
        terminal.json({**(_compare_facts(found) if comparison else _sweep_facts(found)), "report": page})
    else:
        if terminal.console.is_terminal:
            terminal.say()
        (_tell_comparison if comparison else _tell_sweep)(found, terminal)  # type: ignore[arg-type]
        terminal.say()
        terminal.say(f"report  {shown(page)}")
        from fuxian.cli import COMMANDS

        if "table" in COMMANDS:
            terminal.say(f"paper   fuxian table {shlex.quote(shown(found.folder))} --format latex")
    return found.failures[0].code if found.failures else 0


# ── a comparison in the terminal ────────────────────────────────────────────────────────────────────────────────────


def _tell_comparison(found: Comparison, terminal: Terminal) -> None:
    study, metric = found.study, found.metric
    unit = scale(metric).unit
    n = len(study.seeds)
    over = f"{plural(n, 'paired seed')}{wording.range_of(study.seeds)}"
    terminal.say(f"{found.data}, {metric}{f' in {unit}' if unit else ''}, {over}; best in *stars*")
    first = found.rows[0].member.name
    differs = any(told is not None and isfinite(told.mean) for told in found.differences) and n > 1
    fastest = min((row.seconds for row in found.rows if isfinite(row.seconds)), default=nan)
    told = [_difference(one, metric) for one in found.differences]
    columns = [
        ("<", "method", [row.member.called for row in found.rows]),
        (">", "mean ± std " if n > 1 else f"seed {study.seeds[0]} ", [
            _starred(wording.spread(row, metric, found.count), row.mean_std(metric)[0] == found.best) for row in found.rows
        ]),
        *([(">", f"{first} − it", [one[0] for one in told])] if differs else []),
        *([(">", "95 % interval", [one[1] for one in told])] if differs else []),
        *([("<", f"{first} is", [one[2] for one in told])] if differs else []),
        (">", "time a seed ", [_starred(_time(row), row.seconds == fastest) for row in found.rows]),
        (">", "parameters", [_parameters(row) for row in found.rows]),
    ]  # fmt: skip
    terminal.say(_table(columns, terminal))
    terminal.say("\n".join(wording.caution(found)))
    _tell_failures(found, terminal)


def _difference(told: Difference | None, metric: str) -> tuple[str, str, str]:
    if told is None:
        return "", "", ""
    mean, low, high = wording.difference_texts(told, metric)
    interval = f"{low} to {high}" if low else ""
    return mean, interval, told.word + (f" ({told.why})" if "of" in told.why.split() else "")


# ── a sweep in the terminal ─────────────────────────────────────────────────────────────────────────────────────────


def _tell_sweep(found: Sweep, terminal: Terminal) -> None:
    study = found.study
    unit = scale(found.metric).unit
    over = f"{plural(len(study.seeds), 'seed')}{wording.range_of(study.seeds)}"
    terminal.say(
        f"{found.data}, {plural(len(found.rows), 'point')}, {over}{f', in {unit}' if unit else ''}; best in *stars*"
    )
    differs = found.ablation and len(study.seeds) > 1 and found.default is not None
    shown = found.ranked[:POINTS]
    told = [
        ("default", "", "")
        if row is found.default
        else _difference(found.difference(row) if differs else None, found.select)
        for row in shown
    ]
    columns = [(">", knob.replace("_", " "), [plain(found.point(row)[knob]) for row in shown]) for knob in study.axes]
    for metric in dict.fromkeys([found.select, found.metric]):
        chosen = lambda row, metric=metric: row is found.best and metric == found.select
        cells = [_starred(wording.spread(row, metric, wording.count_of(row, metric)), chosen(row)) for row in shown]
        columns.append((">", metric + " ", cells))
    if differs:
        columns.append((">", "− default", [one[0] for one in told]))
        columns.append((">", "95 % interval", [one[1] for one in told]))
        columns.append(("<", "it is", [one[2] for one in told]))
    columns.append((">", "time a seed", [_time(row) for row in shown]))
    columns.append((">", "parameters", [_parameters(row) for row in shown]))
    terminal.say(_table(columns, terminal))
    if len(found.ranked) > POINTS:
        terminal.say(f"… and {len(found.ranked) - POINTS} more: see the page")
    terminal.say("\n".join(wording.best_lines(found)))
    if differs and len(found.rows) > 2:
        terminal.say(f"Intervals are paired t, widened for {plural(len(found.rows) - 1, 'comparison')}.")
    _tell_failures(found, terminal)


# ── both ────────────────────────────────────────────────────────────────────────────────────────────────────────────


Column = tuple[str, str, list[str]]  # where it is flush: < or >; its head; its cells


def _table(columns: list[Column], terminal: Terminal) -> Table:
    """Leaves the last columns out, whole, where the terminal is too narrow for all: the page has them."""
    wide = [max(map(len, [head, *cells])) for _, head, cells in columns]
    while len(columns) > 2 and sum(wide) + 2 * (len(columns) - 1) > terminal.console.width:
        columns, wide = columns[:-1], wide[:-1]
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="default")
    for flush, head, _ in columns:
        table.add_column(coloured(head), justify="left" if flush == "<" else "right", no_wrap=True)
    for cells in zip(*(cells for _, _, cells in columns), strict=True):
        table.add_row(*map(coloured, cells))
    return table


def _starred(text: str, best: bool) -> str:
    return f"*{text}*" if best else f"{text} "


def _time(row: Row) -> str:
    return duration(row.seconds) if row.runs else NONE


def _parameters(row: Row) -> str:
    return f"{row.parameters:,}" if row.parameters is not None else NONE


def _tell_failures(found: Outcome, terminal: Terminal) -> None:
    """Each error once, with the seeds that it came in."""
    groups: dict[tuple[str, str], list[plan.Failure]] = {}
    for failure in found.failures:
        groups.setdefault((found.study.members[failure.member].called, failure.message), []).append(failure)
    for (called, message), failures in groups.items():
        which = ", ".join(str(failure.seed) for failure in failures)
        terminal.say(f"{MARKS['short']} {called}, seed{'s' * (len(failures) > 1)} {which}: {message}")
        for name, text in failures[0].lines.items():
            terminal.say(f"  {name:<6} {text}")


def _facts(found: Outcome) -> dict[str, Any]:
    return {
        "folder": found.folder,
        "metric": found.metric,
        "better": found.better,
        "data": found.data,
        "seeds": found.study.seeds,
        "count": found.count,
        "failures": [
            {**asdict(failure), "member": found.study.members[failure.member].called} for failure in found.failures
        ],
    }


def _row_facts(row: Row, metric: str) -> dict[str, Any]:
    mean, std = row.mean_std(metric)
    return {
        "called": row.member.called,
        "method": row.member.method,
        "knobs": row.member.knobs,
        "folder": row.member.folder,
        "values": {str(seed): value for seed, value in row.values(metric).items()},
        "mean": mean,
        "std": std,
        "seconds": row.seconds,
        "parameters": row.parameters,
    }


def _difference_facts(told: Difference | None) -> dict[str, Any] | None:
    return told and {"mean": told.mean, "low": told.low, "high": told.high, "word": told.word, "why": told.why}


def _compare_facts(found: Any) -> Mapping[str, Any]:
    rows = [
        {**_row_facts(row, found.metric), "difference": _difference_facts(told)}
        for row, told in zip(found.rows, found.differences, strict=True)
    ]
    return {**_facts(found), "methods": rows}


def _sweep_facts(found: Any) -> Mapping[str, Any]:
    rows = [
        {
            "point": found.point(row),
            **_row_facts(row, found.metric),
            "select": row.mean_std(found.select)[0],
            "difference": _difference_facts(found.difference(row)),
        }
        for row in found.ranked
    ]
    told = {"select": found.select, "optimistic": found.optimistic, "best": found.point(found.best)}
    return {**_facts(found), **told, "points": rows}
