"""Tables for a paper: one row a method (or a point of a sweep), one column a metric; as markdown, CSV or LaTeX.

Runs of one method at one setting are one row, however many folders hold its seeds. Knobs that rows of the same method
differ in are columns. Rows on different data stand in one table with a column `data`, and the best is that of its data.
"""

from __future__ import annotations

import csv
import json
import os
import re
import shlex
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from io import StringIO
from math import isfinite
from pathlib import Path
from typing import Any, Literal

from fuxian.errors import RunUnusable, WrongInput
from fuxian.knobs import nearest, shown_as
from fuxian.numbers import NONE, better, is_share, plural, scale
from fuxian.proof.claims import mean_std
from fuxian.report.runs import RunFiles, read, read_json, telling_names

KINDS = ("compare", "sweep")
Better = Literal["higher", "lower"]


@dataclass
class Row:
    """A method at one setting: its finished runs, by seed."""

    called: str
    folder: Path
    runs: dict[int, RunFiles]

    @property
    def info(self) -> dict[str, Any]:
        return next(iter(self.runs.values())).info

    @property
    def stage(self) -> dict[str, Any]:
        return self.info["stages"][-1]

    @property
    def knobs(self) -> dict[str, Any]:
        return {name: knob["value"] for name, knob in self.info["knobs"].items()}

    def values(self, metric: str) -> list[float]:
        return [run.metrics[metric] for run in self.runs.values() if metric in run.metrics]

    def count(self, metric: str) -> float | None:
        return next(iter(self.runs.values())).counts.get(metric)


@dataclass
class Table:
    """What a table holds. `better` names the metrics whose direction the folder of a comparison states."""

    rows: list[Row]
    metrics: list[str]
    better: dict[str, Better] = field(default_factory=dict)
    command: str = ""

    # ── columns ─────────────────────────────────────────────────────────────────────────────────────────────────────

    @property
    def data(self) -> list[str]:
        return list(dict.fromkeys(row.stage["data"] or NONE for row in self.rows))

    @property
    def knobs(self) -> list[str]:
        """The knobs that two rows of one method differ in, in the order of the recipe."""
        by_method: dict[tuple[Any, ...], list[dict[str, Any]]] = {}
        for row in self.rows:
            by_method.setdefault(_method(row), []).append(row.knobs)
        told = {"data"} if len(self.data) > 1 else set[str]()
        varying = (
            name for knobs in by_method.values() for name in knobs[0] if any(k[name] != knobs[0][name] for k in knobs)
        )
        return [name for name in dict.fromkeys(varying) if name not in told]

    def settings(self, row: Row) -> list[str]:
        """What tells a row from the others: its name, its varying knobs, its data if there are several."""
        knobs = [shown_as(row.knobs[name]) if name in row.knobs else NONE for name in self.knobs]
        return [row.called, *knobs, *([row.stage["data"] or NONE] if len(self.data) > 1 else [])]

    @property
    def names(self) -> list[str]:
        """The names of the rows; where two rows would read the same, each with its folder."""
        told = [self.settings(row) for row in self.rows]
        return [row.called + f" ({row.folder.name})" * (told.count(self.settings(row)) > 1) for row in self.rows]

    # ── numbers ─────────────────────────────────────────────────────────────────────────────────────────────────────

    def direction(self, metric: str) -> Better:
        return self.better.get(metric) or better(metric)

    def written(self, row: Row, metric: str) -> str:
        """`81.6 ± 0.6`: the standard deviation to one figure, the mean to the same place."""
        values = row.values(metric)
        return scale(metric, values, count=row.count(metric)).spread(*mean_std(values)) if values else NONE

    def best(self, metric: str) -> list[bool]:
        """Whether each row is the best on its data, of two or more; a row that reads the same as the best is so too."""
        means = [mean_std(row.values(metric))[0] for row in self.rows]
        scales = [scale(metric, row.values(metric), count=row.count(metric)) for row in self.rows]
        found = [False] * len(self.rows)
        for data in self.data:
            there = [i for i, r in enumerate(self.rows) if (r.stage["data"] or NONE) == data and isfinite(means[i])]
            if len(there) > 1:
                top = (max if self.direction(metric) == "higher" else min)(there, key=lambda i: means[i])
                for i in there:
                    coarser = min(scales[i], scales[top], key=lambda s: s.digits)
                    found[i] = coarser.value(means[i]) == coarser.value(means[top])
        return found

    # ── words ───────────────────────────────────────────────────────────────────────────────────────────────────────

    def caption(self) -> list[str]:
        """Data, split, seeds, and what else a reader must know: one sentence each."""
        splits = [word for split, word in _SPLITS.items() if any(f"/{split}/" in f"/{name}" for name in self.metrics)]
        split = f"{_and(splits)} split{'s' * (len(splits) > 1)}" if splits else ""
        sizes = {tuple(f"{row.stage[s]:,} {word}" for s, word in _SPLITS.items() if row.stage[s]) for row in self.rows}
        count = f" ({_and(next(iter(sizes)))} examples)" if len(self.data) == len(sizes) == 1 and sizes != {()} else ""
        data = _and(name for name in self.data if name != NONE)
        what = ", ".join(filter(None, [data, split]))
        sentences = [f"Data: {what}{count}"] if what else []
        seeds = {tuple(sorted(row.runs)) for row in self.rows}
        if max(map(len, seeds)) > 1:
            over = _seeds(next(iter(seeds))) if len(seeds) == 1 else "the seeds of each row"
            sentences += [f"Mean ± sample standard deviation over {over}"]
        elif len(seeds) == 1:
            sentences += [f"One run, {_seeds(next(iter(seeds)))}"]
        else:
            sentences += ["One run each"]
        if any(map(any, map(self.best, self.metrics))):
            sentences += ["Best in bold" + ", for each data set" * (len(self.data) > 1)]
        for name, row in zip(self.names, self.rows, strict=True):
            trial = [f"at most {plural(row.info['limit'], 'step')} a stage"] if row.info["limit"] is not None else []
            trial += [row.info["precision"]] if row.info["precision"] != "float32" else []
            sentences += [f"{name}: {', '.join(trial)}"] if trial else []
        return sentences


# ── reading ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def table(folders: Iterable[Path], metrics: Sequence[str] = (), command: str = "") -> Table:
    """The table of runs, of folders of seeds, and of comparisons and sweeps.

    `metrics`: the columns; else a comparison's own and those of the test split (or of val, or of train, where there is
    none). Raises WrongInput where there is no run, where one is not finished, for a metric that no run has, and for two
    runs of one seed that differ; RunUnusable where a file is damaged.
    """
    rows: dict[str, Row] = {}
    directions: dict[str, Better] = {}
    for called, folder in _members(folders, directions):
        for run in _finished(folder):
            info = run.info
            same = [info[key] for key in ("family", "method", "file", "file_sha256", "limit", "precision", "knobs")]
            same[-1] = {name: knob["value"] for name, knob in info["knobs"].items()}  # not where each came from
            row = rows.setdefault(json.dumps(same, sort_keys=True), Row(called or _called(info), folder, {}))
            seed = info["seed"]
            if seed in row.runs and repr(row.runs[seed].metrics) != repr(run.metrics):
                what = f"{row.called} with seed {seed} has other numbers in {run.folder} than in {row.runs[seed].folder}"
                raise WrongInput(f"{what}: give one of them")
            row.runs.setdefault(seed, run)
    found = list(rows.values())
    there = list(dict.fromkeys(name for row in found for run in row.runs.values() for name in run.metrics))
    for metric in metrics:
        if metric not in there:
            near = nearest(metric, there)
            raise WrongInput(f"no run here has the metric {metric}{near}. They have {', '.join(there) or 'none'}")
    telling = [name for row in found for run in row.runs.values() for name in telling_names(run.metrics, run.info)]
    columns = list(dict.fromkeys(metrics or [*(name for name in directions if name in there), *telling]))
    if not columns:
        raise WrongInput("nothing was measured in these runs: there is no column for a table")
    return Table(found, columns, directions, command)


def _members(folders: Iterable[Path], directions: dict[str, Better]) -> Iterator[tuple[str, Path]]:
    """What each run is called (where a comparison says so), and its folder."""
    for folder in folders:
        path = next((file for kind in KINDS if (file := folder / f"{kind}.json").is_file()), None)
        if path is None:
            yield "", folder
            continue
        about = read_json(path)
        try:
            if about["format"] > 1:
                raise RunUnusable(f"{path} has format {about['format']}; this Fuxian reads format 1")
            if about["status"] != "done":
                what = {"compare": "comparison"}.get(about["kind"], about["kind"])
                do = f"fuxian resume {shlex.quote(str(folder))}"
                raise WrongInput(f"{folder} is not finished: its {what} is {about['status']}", do=do)
            directions.setdefault(about["metric"], about["better"])
            members = [(member["called"], Path(member["folder"])) for member in about["members"]]
        except (KeyError, TypeError) as error:
            raise RunUnusable(f"{path} is damaged: {type(error).__name__}: {error}") from None
        own = folder.resolve().parents[1]  # runs/compare/<name>: its runs are found from wherever it is called
        runs = Path(os.environ.get("FUXIAN_RUNS", "runs"))
        for called, member in members:
            yield called, own / member if (own / member).is_dir() else runs / member


def _finished(folder: Path) -> list[RunFiles]:
    """The runs of a folder, if all of them are done."""
    report = read(folder)
    if report.status == "done" and len(report.done) == len(report.seeds):
        return report.runs
    stopped = report.runs[-1].info["stopped"]
    why = {"failed": f"it failed ({stopped['message']})" if stopped else "it failed", "stopped": "it was stopped"}
    seeds = f", {len(report.done)} of {plural(len(report.seeds), 'seed')} done" if len(report.seeds) > 1 else ""
    message = f"{folder} is not finished: {why.get(report.status, 'it is running, or was killed')}{seeds}"
    raise WrongInput(message, do="" if report.status == "failed" else f"fuxian resume {shlex.quote(str(folder))}")


def _called(info: Mapping[str, Any]) -> str:
    return Path(info["file"]).name if info["file"] else info["method"]


def _method(row: Row) -> tuple[Any, ...]:
    return row.info["family"], row.info["method"], row.info["file"]


# ── writing ─────────────────────────────────────────────────────────────────────────────────────────────────────────

_ARROWS = {"higher": "↑", "lower": "↓"}
_SPLITS = {"train": "training", "val": "validation", "test": "test"}


def markdown(table: Table) -> str:
    head = [_markdown(name) for name in ("method", *table.knobs, *["data"] * (len(table.data) > 1))]
    head += ["seeds", *(f"{_markdown(_head(name))} {_ARROWS[table.direction(name)]}" for name in table.metrics)]
    left = [True] + [False] * len(table.knobs) + [True] * (len(table.data) > 1)
    lines = [head, *_body(table, _markdown, "**{}**")]
    width = [max(len(line[i]) for line in lines) for i in range(len(head))]
    left += [False] * (len(head) - len(left))
    sides = list(zip(width, left, strict=True))
    rule = ["-" * w if l else "-" * (w - 1) + ":" for w, l in sides]
    padded = [[c.ljust(w) if l else c.rjust(w) for c, (w, l) in zip(line, sides, strict=True)] for line in lines]
    rows = [f"| {' | '.join(line)} |" for line in [padded[0], rule, *padded[1:]]]
    return "\n".join([*rows, "", _markdown(". ".join(table.caption()) + "."), ""])


def latex(table: Table) -> str:
    head = [_latex(name) for name in ("Method", *table.knobs, *["Data"] * (len(table.data) > 1))]
    metrics = [f"{_head(name)} {_ARROWS[table.direction(name)]}" for name in table.metrics]
    head += ["Seeds", *(_latex(name[0].upper() + name[1:]) for name in metrics)]
    columns = "l" + "r" * len(table.knobs) + "l" * (len(table.data) > 1) + "r" * (1 + len(table.metrics))
    label = re.sub(r"[^a-z0-9]+", "-", "-".join(data.lower() for data in table.data)).strip("-") or "results"
    rows = [" & ".join(line) + r" \\" for line in _body(table, _latex, r"\textbf{{{}}}")]
    made = f"% {' '.join(table.command.split())}\n" if table.command else ""
    return made + "\n".join(
        [
            r"% needs \usepackage{booktabs}",
            r"\begin{table}",
            r"  \centering",
            rf"  \caption{{{_latex('. '.join(table.caption()) + '.')}}}",
            rf"  \label{{tab:{label}}}",
            rf"  \begin{{tabular}}{{{columns}}}",
            r"    \toprule",
            rf"    {' & '.join(head)} \\",
            r"    \midrule",
            *(f"    {row}" for row in rows),
            r"    \bottomrule",
            r"  \end{tabular}",
            r"\end{table}",
            "",
        ]
    )


def as_csv(table: Table) -> str:
    """One line a row and metric, the numbers as they were measured: an accuracy of 0.815 is not 81.5."""
    text = StringIO()
    lines = csv.writer(text, lineterminator="\n")
    data = ["data"] * (len(table.data) > 1)
    lines.writerow(["method", *table.knobs, *data, "metric", "mean", "std", "n"])
    for name, row in zip(table.names, table.rows, strict=True):
        for metric in table.metrics:
            values = row.values(metric)
            mean, std = mean_std(values)
            numbers = [repr(mean) if values else "", repr(std) if len(values) > 1 else "", len(values)]
            lines.writerow([name, *table.settings(row)[1:], metric, *numbers])
    return text.getvalue()


FORMATS = {"markdown": markdown, "csv": as_csv, "latex": latex}
ENDINGS = {".md": "markdown", ".csv": "csv", ".tex": "latex"}


def _body(table: Table, escape: Any, bold: str) -> list[list[str]]:
    best = {metric: table.best(metric) for metric in table.metrics}
    lines = []
    for i, (name, row) in enumerate(zip(table.names, table.rows, strict=True)):
        cells = [escape(table.written(row, metric)) for metric in table.metrics]
        cells = [bold.format(c) if best[m][i] else c for c, m in zip(cells, table.metrics, strict=True)]
        lines.append([*map(escape, [name, *table.settings(row)[1:]]), str(len(row.runs)), *cells])
    return lines


def _head(metric: str) -> str:
    """`test accuracy (%)` of `test/accuracy`."""
    return metric.replace("/", " ").replace("_", " ") + (" (%)" if is_share(metric) else "")


def _markdown(text: str) -> str:
    return re.sub(r"[\\`*|<\[\]]|(?<!\w)_|_(?!\w)", r"\\\g<0>", " ".join(text.split()))


_LATEX = {letter: f"\\{letter}" for letter in "{}$&#_%"} | {
    "\\": r"\textbackslash{}",
    "^": r"\textasciicircum{}",
    "~": r"\textasciitilde{}",
    "…": r"\ldots{}",
    "–": "--",
    **dict(zip("<>|−", ["$<$", "$>$", "$|$", "$-$"], strict=True)),
    **dict(zip("±×↑↓", [r"$\pm$", r"$\times$", r"$\uparrow$", r"$\downarrow$"], strict=True)),
}


def _latex(text: str) -> str:
    return "".join(_LATEX.get(letter, letter) for letter in " ".join(text.split()))


def _and(words: Iterable[str]) -> str:
    return " and ".join(", ".join(words).rsplit(", ", 1))


def _seeds(seeds: Sequence[int]) -> str:
    """`20 seeds (0 to 19)`, `2 seeds (3 and 5)`, `seed 0`."""
    if len(seeds) == 1:
        return f"seed {seeds[0]}"
    whole = list(seeds) == list(range(seeds[0], seeds[-1] + 1)) and len(seeds) > 2
    return f"{len(seeds)} seeds ({f'{seeds[0]} to {seeds[-1]}' if whole else _and(map(str, seeds))})"
