"""What the runs of a study came to: a row for each member, the differences of a comparison, the best point of a sweep."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from math import isfinite, nan
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any

from fuxian.catalog import Entry
from fuxian.errors import FuxianError, WrongInput
from fuxian.knobs import nearest
from fuxian.numbers import better, is_share
from fuxian.proof.claims import matching, mean_std
from fuxian.study.plan import Failure, Member, Study
from fuxian.study.statistics import Difference, difference

if TYPE_CHECKING:
    from fuxian.engine.run import Run

# ── what is compared ────────────────────────────────────────────────────────────────────────────────────────────────


def main_metric(names: Iterable[str], claimed: Sequence[str] = ()) -> str | None:
    """The metric that says most: a claim's, else an accuracy, else any that is no loss, on test before val and train."""
    rank = lambda metric: (
        claimed.index(metric) if metric in claimed else len(claimed),
        next((i for i, split in enumerate(("test/", "val/", "train/")) if metric.startswith(split)), 3),
        metric.endswith("loss"),
        not is_share(metric),
    )
    return min(names, key=rank, default=None)


def agree(study: Study, first: Mapping[int, Run]) -> None:
    """Looks at the first finished run of each member. Raises WrongInput where they cannot be compared.

    The metric must be measured by all, over as many examples of data of the same name. Once all have one, a study whose
    metric was not named gets the main one.
    """
    names = {i: study.members[i].called for i in sorted(first)}
    if study.metric is not None:
        for i, run in first.items():
            if study.metric not in run.metrics:
                near = nearest(study.metric, run.metrics)
                raise WrongInput(f"{names[i]} measures no {study.metric}{near}", do=_shared(first))
    elif len(first) == len(study.members):
        claimed = [claim.metric for entry in study.entries() for claim in entry.claims]
        study.metric = main_metric(_in_all(first), claimed)
        if study.metric is None:
            raise WrongInput("the methods measure nothing that is called the same", do=_shared(first))
        study.write()
    for i, run in first.items():
        for j, other in first.items():
            mine, theirs = _data(run), _data(other)
            if i < j and mine != theirs and study.kind == "compare":
                raise WrongInput(f"{names[i]} learns from {mine} and {names[j]} from {theirs}: {mine} against {theirs}")
            counts = [one.counts.get(study.metric or "") for one in (run, other)]
            if i < j and study.kind == "compare" and counts[0] != counts[1]:
                each = [f"{count:,.0f}" if count else "none" for count in counts]
                raise WrongInput(
                    f"{study.metric} of {names[i]} stands on {each[0]} counted, that of {names[j]} on {each[1]}"
                )


def _in_all(first: Mapping[int, Run]) -> list[str]:
    runs = list(first.values())
    return [name for name in runs[0].metrics if all(name in run.metrics for run in runs)] if runs else []


def _shared(first: Mapping[int, Run]) -> str:
    there = _in_all(first)
    return (
        f"what all measure: --metric {there[0]}{' (or ' + ', '.join(there[1:]) + ')' if there[1:] else ''}" if there else ""
    )


def _data(run: Run) -> str:
    return (run.info["stages"][-1]["data"] if run.info["stages"] else None) or "no data"


# ── rows ────────────────────────────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True)
class Row:
    """A member and its finished runs, by seed."""

    member: Member
    entry: Entry | None  # None where its file is no longer there
    runs: dict[int, Run] = field(repr=False)

    def values(self, metric: str) -> dict[int, float]:
        return {seed: run.metrics[metric] for seed, run in self.runs.items() if metric in run.metrics}

    def mean_std(self, metric: str) -> tuple[float, float]:
        return mean_std(list(self.values(metric).values()))

    @property
    def info(self) -> Mapping[str, Any]:
        """`run.json` of its first run."""
        return next(iter(self.runs.values())).info

    @property
    def seconds(self) -> float:
        """Of a seed, on average; NaN where none has finished."""
        each = [sum(stage["seconds"] or 0 for stage in run.info["stages"]) for run in self.runs.values()]
        return fmean(each) if each else nan

    @property
    def parameters(self) -> int | None:
        """Of the last stage's model."""
        return self.info["stages"][-1]["parameters"] if self.runs and self.info["stages"] else None

    def paper(self, metric: str) -> float | None:
        """The published value of the metric for these knobs."""
        if self.entry is None or not self.runs:
            return None
        knobs = {name: knob["value"] for name, knob in self.info["knobs"].items()}
        defaults = {knob.name: knob.default for knob in self.entry.knobs}
        claims = matching(self.entry.claims, knobs, defaults, limit=self.info["limit"], precision=self.info["precision"])
        return next((claim.value for claim in claims if claim.metric == metric and claim.value is not None), None)


def rows_of(study: Study) -> list[Row]:
    from fuxian.engine.run import Run  # and torch: not where a page only asks for the main metric

    rows = []
    for member in study.members:
        try:
            entry = study.entry(member)
        except FuxianError:
            entry = None
        runs = {}
        for seed in study.seeds:
            path = study.place(member) / f"seed-{seed}"
            if (path / "result.json").is_file() and (run := Run(path)).info["status"] == "done":
                runs[seed] = run
        rows.append(Row(member, entry, runs))
    return rows


def best_of(numbers: Sequence[float], way: str) -> float:
    """The best of the finite ones; NaN where there is none."""
    finite = [number for number in numbers if isfinite(number)]
    return (max if way == "higher" else min)(finite, default=nan)


class Outcome:
    """A study's rows. Raises WrongInput where no run has finished."""

    def __init__(self, study: Study, failures: Sequence[Failure] = ()) -> None:
        self.failures = list(failures)  # of this time
        self.study = study
        self.rows = rows_of(study)
        done = [row for row in self.rows if row.runs]
        if not done:
            raise WrongInput(f"{study.folder} has no finished run yet", do=f"fuxian resume {study.folder}")
        self.metric = study.metric or main_metric(done[0].runs[min(done[0].runs)].metrics) or ""
        self.better = better(self.metric, [claim for row in self.rows if row.entry for claim in row.entry.claims])
        self.folder: Path = study.folder
        self.data = _data(next(iter(done[0].runs.values())))

    @property
    def count(self) -> float | None:
        """What the metric stands on, in each run."""
        runs = [run for row in self.rows for run in row.runs.values()]
        return runs[0].counts.get(self.metric)

    @property
    def failed(self) -> int:
        """Runs that ended before their end."""
        return sum(len(self.study.seeds) - len(row.runs) for row in self.rows)


class Comparison(Outcome):
    """Methods over the same seeds; `differences` are of the first less each other, None for the first itself."""

    def __init__(self, study: Study, failures: Sequence[Failure] = ()) -> None:
        super().__init__(study, failures)
        ours = self.rows[0].values(self.metric)
        others = len(self.rows) - 1
        self.differences: list[Difference | None] = [None] + [
            difference(ours, row.values(self.metric), study.seeds, others, self.better) for row in self.rows[1:]
        ]

    @property
    def values(self) -> dict[str, dict[int, float]]:
        """Each method's values by seed."""
        return {row.member.called: row.values(self.metric) for row in self.rows}

    @property
    def best(self) -> float:
        return best_of([row.mean_std(self.metric)[0] for row in self.rows], self.better)

    def table(self) -> list[dict[str, Any]]:
        """One dict a method, as `pandas.DataFrame(comparison.table())` takes it."""
        table = []
        for row, told in zip(self.rows, self.differences, strict=True):
            mean, std = row.mean_std(self.metric)
            own = dict(method=row.member.called, mean=mean, std=std, seeds=len(row.runs))
            beside = dict(difference=told.mean, low=told.low, high=told.high, first_is=told.word) if told else {}
            empty = dict(difference=nan, low=nan, high=nan, first_is="")
            table.append({**own, **(beside or empty), "seconds": row.seconds, "parameters": row.parameters})
        return table

    def __repr__(self) -> str:
        told = [f"{name} {fmean(v.values()):.4g}" if v else f"{name} –" for name, v in self.values.items()]
        return f"Comparison({str(self.folder)!r}, {self.metric}: {', '.join(told)})"


class Sweep(Outcome):
    """Settings of one method. `select` chooses the best point, and is of the validation split where there is one.

    The best of many by a test metric is optimistic: the test set has then chosen too.
    """

    def __init__(self, study: Study, failures: Sequence[Failure] = ()) -> None:
        super().__init__(study, failures)
        done = [run for row in self.rows for run in row.runs.values()]
        val = validation(self.metric)
        self.select = val if all(val in run.metrics for run in done) else self.metric
        sign = -1 if self.better == "higher" else 1
        score = lambda row: row.mean_std(self.select)[0]
        whole = [row for row in self.rows if len(row.runs) == len(study.seeds) and isfinite(score(row))]
        rest = [row for row in self.rows if row not in whole]
        self.ranked = sorted(whole, key=lambda row: sign * score(row)) + rest  # what failed in a seed comes last

    @property
    def best(self) -> Row:
        return self.ranked[0]

    @property
    def unsure(self) -> int:
        """How many points the best cannot be told from: by intervals that hold for every pair of points at once."""
        n, ours = len(self.rows), self.best.values(self.select)
        told = [
            difference(ours, row.values(self.select), self.study.seeds, n * (n - 1) // 2, self.better)
            for row in self.ranked[1:]
            if len(row.runs) == len(self.study.seeds)
        ]
        return sum(one.word == "cannot tell" for one in told)

    @property
    def optimistic(self) -> bool:
        """Whether the test set has chosen."""
        return "test" in self.select.split("/") and len(self.rows) > 1

    def point(self, row: Row) -> dict[str, Any]:
        """The values of the knobs that are varied."""
        return {knob: row.member.knobs[knob] for knob in self.study.axes}

    @property
    def default(self) -> Row | None:
        """The point that is the default setting, if it is among them."""
        entry = next((row.entry for row in self.rows if row.entry), None)
        if entry is None:
            return None
        usual = {k: v for k, (v, _) in entry.resolve({}, quick=bool(self.study.options.get("quick"))).items()}
        same = lambda row: all(_same(usual.get(knob), value) for knob, value in self.point(row).items())
        return next((row for row in self.rows if same(row)), None)

    @property
    def ablation(self) -> bool:
        """Whether every knob is on or off."""
        return all(isinstance(value, bool) for values in self.study.axes.values() for value in values)

    def difference(self, row: Row) -> Difference | None:
        """The point less the default, by the metric that selects; None for the default itself, or where it is not there."""
        default = self.default
        if default is None or row is default:
            return None
        others = len(self.rows) - 1
        return difference(row.values(self.select), default.values(self.select), self.study.seeds, others, self.better)


def validation(metric: str) -> str:
    """`val/accuracy` for `test/accuracy`."""
    return "/".join("val" if part == "test" else part for part in metric.split("/"))


def _same(default: Any, value: Any) -> bool:
    return (
        list(default) if isinstance(default, tuple) else str(default) if isinstance(default, Path) else default
    ) == value
