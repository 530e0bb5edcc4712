"""The page of a comparison or a sweep: what differs, the table, every seed, the protocol; and the page of each member."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from math import isfinite, nan
from os.path import relpath
from pathlib import Path
from statistics import fmean
from typing import Any

from markupsafe import Markup

from fuxian import __version__
from fuxian.numbers import NONE, duration, plural, scale
from fuxian.report import plots
from fuxian.report.page import curve_of, render, write, write_report
from fuxian.report.result import knob_text, shown, spoken
from fuxian.report.runs import read
from fuxian.study import wording
from fuxian.study.outcome import Comparison, Outcome, Row, Sweep, validation
from fuxian.study.statistics import Difference, interval

MARKS = {"better": "ok", "worse": "short", "cannot tell": "none"}


def write_study(found: Comparison | Sweep) -> Path:
    """Writes `report.html` into the study's folder and into those of its members' seeds; returns the page."""
    for row in found.rows:
        if row.runs:
            write_report(found.study.place(row.member))
    template, facts = ("compare", _compare_facts) if isinstance(found, Comparison) else ("sweep", _sweep_facts)
    page = render(f"{template}.html.jinja", {**_common(found), **facts(found)})  # type: ignore[arg-type]
    return write(found.folder / "report.html", page)


def _common(found: Outcome) -> dict[str, Any]:
    study, written = found.study, scale(found.metric)
    return dict(
        kind={"compare": "comparison", "sweep": "sweep"}[study.kind],
        address=f"{study.kind} / {study.folder.name}",
        quantity=spoken(found.metric) + (f", {written.unit}" if written.unit else ""),
        data=found.data,
        seeds=plural(len(study.seeds), "seed") + wording.range_of(study.seeds),
        several=len(study.seeds) > 1,
        failed=found.failed
        and f"{plural(found.failed, 'run')} of {len(found.rows) * len(study.seeds)} did not come to an end.",
        protocol=_protocol(found),
        command=re.sub(r" --name[ =]\S+", "", study.command),  # the name is taken: the same command would be refused
        folder=shown(study.folder),
        runs=plural(len(found.rows) * len(study.seeds), "run"),
        version=__version__,
    )


# ── a comparison ────────────────────────────────────────────────────────────────────────────────────────────────────


def _compare_facts(found: Comparison) -> dict[str, Any]:
    first = found.rows[0].member
    papers = [row.paper(found.metric) for row in found.rows]
    fastest = min((row.seconds for row in found.rows if isfinite(row.seconds)), default=nan)
    rows = []
    for row, told, paper in zip(found.rows, found.differences, papers, strict=True):
        texts = wording.difference_texts(told, found.metric) if told else ("", "", "")
        mean, _ = row.mean_std(found.metric)
        published = scale(found.metric, literals=(paper,)).value(paper) if paper is not None else NONE
        rows.append(
            dict(
                name=row.member.called,
                page=_link(found, row),
                value=wording.spread(row, found.metric, found.count),
                best=mean == found.best,
                ours=row.member is first,
                difference=texts[0],
                interval=f"{texts[1]} to {texts[2]}" if texts[1] else "",
                word=told.word if told and texts[0] else "",
                why=told.why if told else "",
                mark=MARKS[told.word] if told else "",
                paper=published,
                time=duration(row.seconds) if row.runs else NONE,
                fastest=row.seconds == fastest,
                parameters=f"{row.parameters:,}" if row.parameters is not None else NONE,
            )
        )
    n = len(found.study.seeds)
    return dict(
        title=f"{_number(len(found.rows))} methods on {found.data}, {_number(n).lower()} seed{'s' * (n > 1)}",
        say=_say(found),
        first=first.name,
        rows=rows,
        papers=any(paper is not None for paper in papers),
        differs=n > 1,
        cautions=wording.caution(found),
        spreads=_spreads(found, papers),
        curves=_curves(found),
    )


def _say(found: Comparison) -> list[str]:
    """Which methods the first is better than, worse than, or not told from."""
    first, parts = found.rows[0].member.called, []
    if len(found.study.seeds) < 2:
        return []
    for word, form in (("better", "{} is better than {}"), ("worse", "{} is worse than {}")):
        which = [(row, told) for row, told in zip(found.rows, found.differences, strict=True) if told and told.word == word]
        if which:
            parts.append(
                form.format(first, _listed([f"{row.member.called} ({_by(told, found)})" for row, told in which])) + "."
            )
    unsure = [
        (row, told) for row, told in zip(found.rows, found.differences, strict=True) if told and told.word == "cannot tell"
    ]
    if unsure:
        names = _listed([row.member.called + (f" ({by})" if (by := _by(told, found)) else "") for row, told in unsure])
        parts.append(f"{_number(len(found.study.seeds))} seeds cannot tell {first} from {names}.")
    return parts


def _by(told: Difference, found: Outcome) -> str:
    mean, low, high = wording.difference_texts(told, found.metric)
    if told.why == "no spread":
        return f"{mean} in every seed" if told.mean else "equal in every seed"
    return f"{mean}, {low} to {high}" if low else mean.strip(NONE)


def _listed(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def _number(n: int) -> str:
    spelled = "One Two Three Four Five Six Seven Eight Nine Ten Eleven Twelve".split()
    return spelled[n - 1] if 0 < n <= len(spelled) else str(n)


def _spreads(found: Comparison, papers: Sequence[float | None]) -> list[dict[str, Any]]:
    """Every seed of each method; and of each difference."""
    written = scale(found.metric)
    factor, name = written.factor, spoken(found.metric)
    quantity = name + (f", {written.unit}" if written.unit else "")
    series = []
    for row, paper in zip(found.rows, papers, strict=True):
        values = [value * factor for value in row.values(found.metric).values()]
        bar = paper * factor if paper is not None else None
        series.append(plots.Series(row.member.name, values, interval(values), bar, row.member is found.rows[0].member))
    texts = {row.member.name: wording.spread(row, found.metric, found.count) for row in found.rows}
    told = ", ".join(f"{name} {text}" for name, text in texts.items())
    write_value = scale(found.metric, [v / factor for one in series for v in one.values]).digits
    figures = [
        dict(
            drawing=plots.beside(f"{quantity}: {told}", quantity, series, write=lambda v: f"{v:.{write_value}f}"),
            caption="Small discs are seeds; the diamond is the mean, the line its 95 % interval"
            + ("; the upright bar is the paper’s number." if any(p is not None for p in papers) else "."),
            label=name[0].upper() + name[1:] + ".",
        )
    ]
    pairs = [(row, told) for row, told in zip(found.rows, found.differences, strict=True) if told and len(told.values) > 1]
    if pairs:
        better = "right" if found.better == "higher" else "left"
        first = found.rows[0].member.name
        points = "points" if written.unit == "%" else spoken(found.metric)
        series = [
            plots.Series(
                row.member.name, [v * factor for v in told.values.values()], (told.low * factor, told.high * factor)
            )
            for row, told in pairs
        ]
        say = ", ".join(f"{row.member.name} {_by(told, found)}, {told.word}" for row, told in pairs)
        quantity = f"{first} − it, {points}; {better} of zero, {first} is better"
        drawing = plots.beside(f"{quantity}: {say}", quantity, series, write=lambda v: f"{v:+.{write_value}f}", zero=True)
        caption = "The same seed for both, a disc a seed. An interval that crosses zero cannot tell them apart."
        figures.append(dict(drawing=drawing, caption=caption, label="Paired difference."))
    return figures


def _curves(found: Comparison) -> list[Markup]:
    """Validation of each method while it trains, the mean over its seeds: of the metric, and of the loss."""
    figures = []
    for quantity in dict.fromkeys([found.metric.rpartition("/")[2], "loss"]):
        written = scale(validation(found.metric)) if quantity != "loss" else scale("loss")
        series = []
        for row in found.rows:
            if row.runs:
                logs = [run.log for run in read(found.study.place(row.member)).runs]
                stage = row.info["stages"][-1]["name"]
                lines = [
                    {line["step"]: nan if line[key] is None else line[key] for line in log
                     if line["stage"] == stage and (key := f"val/{quantity}") in line}
                    for log in logs
                ]  # fmt: skip
                curve = curve_of(row.member.name, [line for line in lines if line], written.factor)
                if len(curve.xs) > 1:
                    series.append(curve)
        if len(series) > 1:
            name = f"validation {quantity.replace('_', ' ')}" + (f", {written.unit}" if written.unit else "")
            figures.append(plots.curves(plots.describe(name, series, lambda v: f"{v:.4g}"), name, series))
    return figures


# ── a sweep ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def _sweep_facts(found: Sweep) -> dict[str, Any]:
    member = found.rows[0].member
    metrics = list(dict.fromkeys([found.select, found.metric]))
    differs = found.ablation and len(found.study.seeds) > 1 and found.default is not None
    rows = []
    for row in found.ranked:
        told = found.difference(row) if differs else None
        texts = wording.difference_texts(told, found.select) if told else ("", "", "")
        rows.append(
            dict(
                page=_link(found, row),
                point=[knob_text(value) for value in found.point(row).values()],
                values=[wording.spread(row, metric, wording.count_of(row, metric)) for metric in metrics],
                best=row is found.best and bool(row.runs),
                default=row is found.default,
                difference=texts[0],
                interval=f"{texts[1]} to {texts[2]}" if texts[1] else "",
                word=told.word if told else "",
                why=told.why if told else "",
                mark=MARKS[told.word] if told else "",
                time=duration(row.seconds) if row.runs else NONE,
                parameters=f"{row.parameters:,}" if row.parameters is not None else NONE,
            )
        )
    units = [scale(metric).unit for metric in metrics]
    return dict(
        title=f"{'An ablation' if found.ablation else 'A sweep'} of {member.name} on {found.data}",
        say=wording.best_lines(found),
        optimistic=found.optimistic,
        knobs=[knob.replace("_", " ") for knob in found.study.axes],
        metrics=[spoken(m) + (f", {unit}" if unit else "") for m, unit in zip(metrics, units, strict=True)],
        differs=differs,
        rows=rows,
        points=len(rows),
        effects=_effects(found),
        select=spoken(found.select),
    )


def _effects(found: Sweep) -> list[Markup]:
    """A figure for each knob: every point at the knob's value, and the mean over the other knobs."""
    written = scale(found.select)
    quantity = spoken(found.select) + (f", {written.unit}" if written.unit else "")
    figures = []
    for knob, values in found.study.axes.items():
        numeric = all(isinstance(v, int | float) and not isinstance(v, bool) for v in values)
        ordered = sorted(values) if numeric else values
        log = numeric and ordered[0] > 0 and ordered[-1] >= 10 * ordered[0]
        levels = []
        for value in ordered:
            means = [
                row.mean_std(found.select)[0] * written.factor
                for row in found.ranked
                if found.point(row)[knob] == value and row.runs
            ]
            levels.append((knob_text(value), float(value) if numeric else None, means))
        said = ", ".join(f"{text}: {fmean(means):.4g}" for text, _, means in levels if means and all(map(isfinite, means)))
        name = knob.replace("_", " ")
        figures.append(plots.effect(f"{quantity} by {name}: {said}", quantity, name, levels, log=log))
    return figures


# ── both ────────────────────────────────────────────────────────────────────────────────────────────────────────────


def _link(found: Outcome, row: Row) -> str:
    if not row.runs:
        return ""
    return Path(relpath(found.study.place(row.member) / "report.html", found.folder)).as_posix()


def _protocol(found: Outcome) -> list[tuple[str, str]]:
    study = found.study
    done = [row for row in found.rows if row.runs]
    info, stage = done[0].info, done[0].info["stages"][-1]
    splits = {"training": stage["train"], "validation": stage["val"], "test": stage["test"]}
    counted = f"; {found.metric} stands on {found.count:,.0f} counted" if found.count else ""
    total = sum(stage["seconds"] or 0 for row in done for run in row.runs.values() for stage in run.info["stages"])
    options, machine = study.options, info["machine"]
    side = f", {options['jobs']} runs side by side" if options["jobs"] > 1 else ""
    chosen = {row.member.called: _selection(row.info["stages"][-1]) for row in done}
    same = len(set(chosen.values())) == 1
    selection = next(iter(chosen.values())) if same else "; ".join(f"{name}: {text}" for name, text in chosen.items())
    special = [f"the quick form of {'each' if study.kind == 'compare' else 'the method'}"] if options["quick"] else []
    special += [f"at most {plural(options['limit'], 'step')} a stage"] if options["limit"] is not None else []
    rows = {
        "split": f"{found.data}: " + ", ".join(f"{n:,} {name}" for name, n in splits.items() if n) + " examples" + counted,
        "seeds": f"{', '.join(map(str, study.seeds))}; the same for all: a seed fixes initial weights, order and draws",
        "knobs": "; ".join([*special, _knobs(found)]),
        "selection": selection,
        "machine": f"{info['device']}, {info['precision']}, {plural(info['threads'], 'thread')} a run{side}, "
        f"{plural(machine['cores'], 'core')}; {duration(total)} of training in all",
        "software": ", ".join(f"{name} {version}" for name, version in info["versions"].items())
        + (f"; commit {info['commit'][:10]}{', with changes' if info['dirty'] else ''}" if info["commit"] else ""),
    }
    return list(rows.items())


def _selection(stage: Mapping[str, Any]) -> str:
    rule = stage["select"]
    if rule and rule.startswith("rule "):
        return f"the weights that {rule.removeprefix('rule ')} of the recipe keeps, by validation"
    return f"the weights that are best on validation, by {rule}" if rule else "the last weights"


def _knobs(found: Outcome) -> str:
    """What was given, for each member; in a sweep what is the same for all."""
    varied = found.study.axes
    told = []
    for row in found.rows[: 1 if varied else None]:
        given = [f"{name} {knob_text(value)}" for name, value in row.member.knobs.items() if name not in varied]
        if given:
            told.append(f"{row.member.name if varied else row.member.called}: {', '.join(given)}")
    return "; ".join([*told, f"{'all others' if told or varied else 'all'} are the defaults"])
