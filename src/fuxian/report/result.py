"""What a run found, in words and numbers: the opening of its page, the table of claims, all that was measured."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import dataclass, field
from math import isfinite
from pathlib import Path
from statistics import fmean
from typing import Any

from markupsafe import Markup

from fuxian.numbers import (
    NONE,
    Scale,
    duration,
    fixed,
    general,
    is_share,
    plural,
    scale,
    signed,
    significant,
)
from fuxian.proof.card import distance, name, recorded, sentence
from fuxian.proof.claims import Verdict, mean_std
from fuxian.report import plots
from fuxian.report.runs import Report, RunFiles
from fuxian.study.outcome import main_metric


@dataclass(frozen=True)
class Opening:
    """The first thing that a page says. `big` is a number or a word, `beside` its spread and unit."""

    mark: str
    title: str
    big: str
    beside: str
    say: str
    plot: Markup = field(default_factory=Markup)
    notes: tuple[str, ...] = ()
    command: str = ""  # what to do next, ready to paste
    soft: bool = False  # `big` is a word, not a result


def opening_of(report: Report, judged: Sequence[Verdict]) -> Opening:
    if not report.done:
        return _unfinished(report)
    if judged:
        return _verdict_opening(report, judged[0])
    return _plain_opening(report)


def _unfinished(report: Report) -> Opening:
    """Running, stopped or failed before a metric was there."""
    run = report.runs[-1]
    info, stopped = run.info, run.info["stopped"]
    stage = next((s for s in info["stages"] if stopped and s["name"] == stopped["stage"]), (info["stages"] or [None])[-1])
    step = (stopped or stage or {}).get("step") or 0
    total = (stage or {}).get("steps")
    where = f"step {step:,}" + (f" of {total:,}" if total else "")
    if stage and len(info["stages"]) > 1:
        where = f"stage {stage['name']}, {where}"
    if len(report.seeds) > 1:
        where = f"seed {info['seed']}, {where}"
    share = f"{100 * step // total}" if total else where
    notes = [f"The last that was logged: {latest}." for latest in [_latest(run)] if latest]
    resume = f"fuxian resume {shlex.quote(shown(report.folder))}"
    if info["status"] == "failed":
        reason = stopped["reason"] if stopped else "error"
        say = " ".join(filter(None, [as_sentence(stopped["message"]) if stopped else "", as_sentence(f"At {where}")]))
        player = f" of the player {stopped['player']}" if stopped and stopped.get("player") else ""
        title = {"not finite": f"A loss{player} that is not finite", "error": "Stopped by an error"}.get(
            reason, f"Stopped: {reason}"
        )
        notes.append("The last checkpoint before it is kept, and nothing was written after it.")
        return Opening("short", title, "failed", "", say, notes=tuple(notes), soft=True)
    unit = "\u202f%" if total else ""
    if info["status"] == "stopped":
        title, say = f"Stopped by {stopped['reason']}" if stopped else "Stopped", f"of the training, at {where}."
        notes.append("It goes on from its last checkpoint and ends with the same bits as one that was not stopped.")
        return Opening("stop", title, share, unit, say, notes=tuple(notes), command=resume, soft=True)
    say = f"of the training when this page was written, at {where}."
    return Opening("run", "Running", share, unit, say, notes=tuple(notes), soft=True)


def _latest(run: RunFiles) -> str:
    for line in reversed(run.log):
        values = [f"{spoken(k)} {_one(k, v)}" for k, v in line.items() if k not in ("stage", "step") and v is not None]
        if values:
            return f"{', '.join(values)} at step {line['step']:,}"
    return ""


def _verdict_opening(report: Report, judged: Verdict) -> Opening:
    claim, data = judged.claim, _data(report)
    written = _claim_scale(report, judged)
    what = f"{spoken(claim.metric)}{f' on {data}' if data else ''}"
    n = len(judged.values)
    over = f", mean and standard deviation over {plural(n, 'seed')}" if n > 1 else ""
    paper = f"The paper says {written.value(claim.value)} ({claim.where})."
    say = f"{what}{over}. {as_sentence(claim.where) if claim.value is None else paper}"
    outside = signed(judged.outside * written.factor, written.digits).lstrip("+")
    if judged.word == "short" and isfinite(judged.mean):
        say += f" The mean is {outside} outside the tolerance."
    elif judged.word == "above":
        say += f" The mean is {outside} better than the tolerance explains; look for the reason in the protocol."
    title = judged.title
    if judged.word in ("short", "above") and isfinite(judged.mean):
        title = f"{title} by {distance(judged)}"
    notes, command = [], ""
    if judged.word == "comparison":
        notes.append(as_sentence(f"Not the published setting: {claim.comparison}"))
    if n > 1 and claim.value is not None:
        notes.append("One disc is one seed, the diamond their mean; the hatched band is the claim’s tolerance.")
    notes += _counted(report, claim.metric)
    if judged.word == "in part":
        command = run_command(report, seeds=claim.seeds)
        seconds = fmean(run.seconds for run in report.done) * claim.seeds
        notes.append(f"The claim asks for {plural(claim.seeds, 'seed')}, about {duration(seconds)} here:")
    plot = Markup() if claim.value is None else _strip(what, judged, claim.value, written)
    if not isfinite(judged.mean):
        return Opening(judged.mark, title, "not a number", "", say, plot, tuple(notes), command, soft=True)
    beside = f"± {written.value(judged.std)}" if n > 1 else ""
    return Opening(
        judged.mark, title, written.value(judged.mean), written.with_unit(beside), say, plot, tuple(notes), command
    )


def _strip(what: str, judged: Verdict, paper: float, written: Scale) -> Markup:
    ours = written.with_unit(written.spread(judged.mean, judged.std).replace("±", "plus or minus"))
    tolerance = judged.claim.tolerance
    label = (
        f"{what}: paper {written.value(paper)} with a tolerance of {written.value(tolerance)}; "
        f"ours {ours} over {plural(len(judged.values), 'seed')}: {sentence(judged)}"
    )
    return plots.strip(
        label,
        paper * written.factor,
        tolerance * written.factor,
        [value * written.factor for value in judged.values],
        write=lambda value: fixed(value, written.digits),
        mean=judged.mean * written.factor,
        std=judged.std * written.factor,
        unit=written.unit,
    )


def _plain_opening(report: Report) -> Opening:
    """A run that no claim speaks of: its number, and why there is no verdict."""
    info, entry = report.info, report.entry
    if info["limit"] is not None:
        title, why = "A trial, not a verdict", f"It was limited to {plural(info['limit'], 'step')} a stage."
    elif info["precision"] != "float32":
        title, why = "A run, not a verdict", f"It ran in {info['precision']}; claims are judged in float32."
    elif entry is None or all(claim.value is None for claim in entry.claims):
        title, why = "A run without a published number", ""
    elif info["quick"]:
        title, why = "The quick form: a run, not a verdict", "Its knobs are not those of a published number."
    else:
        title, why = "A run, not a verdict", "No number is published for these knobs."
    waiting = [one for one in (entry.claims if entry else []) if one.needs]
    notes = [why] if why else []
    if entry and waiting and len(waiting) == len(entry.claims):
        at_scale = scale(waiting[0].metric, literals=waiting[0].published)
        published = at_scale.with_unit(at_scale.value(waiting[0].value))
        notes.append(as_sentence(f"{waiting[0].where} ({published}) is at scale only: {waiting[0].needs}"))
    metric = _main_metric(report)
    if metric is None:
        return Opening(
            "none", title, "no metric", "", "The method measures nothing at its end.", notes=tuple(notes), soft=True
        )
    values, n = report.values(metric), len(report.done)
    written = scale(metric, values, count=report.count(metric))
    mean, std = mean_std(values)
    over = f", mean and standard deviation over {plural(n, 'seed')}" if n > 1 else f", seed {info['seed']}"
    say = f"{spoken(metric)}{f' on {_data(report)}' if _data(report) else ''}{over}."
    notes += _counted(report, metric)
    command = ""
    if info["quick"] and entry and entry.claims and info["limit"] is None:
        first = next((one for one in entry.claims if not one.needs and not one.knobs), None)
        if first:
            command = f"fuxian run {called(report)}" + (f" --seeds {first.seeds}" if first.seeds > 1 else "")
            notes.append("The default setting:" if first.value is None else f"The setting of {first.where}:")
    big, beside = _parts(written, mean, std)
    return Opening("none", title, big, beside, say, notes=tuple(notes), command=command)


def _parts(written: Scale, mean: float, std: float) -> tuple[str, str]:
    """`81.6` and `± 0.6 %`."""
    big, _, spread = written.spread(mean, std).partition(" ± ")
    return big, written.with_unit(f"± {spread}" if spread else "").lstrip("\u202f")


def _counted(report: Report, metric: str) -> list[str]:
    """On what a number stands."""
    count = report.count(metric)
    if not count:
        return []
    split = metric.rpartition("/")[0].rpartition("/")[2]
    stage = report.info["stages"][-1]
    best = stage["best_step"]
    if stage.get(split) == count:
        each = " for each seed" if len(report.done) > 1 else ""
        examples = f"{_SPLITS.get(split, split)} example"
        all_ = f"All {plural(round(count), examples)}" if count > 1 else f"Its one {examples}"
        what = f"{all_} counted once{each}"
    else:
        what = f"The metric stands on {general(count)} counted"
    chosen = "" if best is None else f"; the weights are the best on validation, of step {best:,}"
    return [f"{what}{chosen}."]


def claim_rows(report: Report, judged: Sequence[Verdict]) -> list[dict[str, Any]]:
    """Every number that is claimed for the method: by this run where it speaks of it, else by the record."""
    entry = report.entry
    if entry is None:
        return []
    here = {id(one.claim): one for one in judged if one.values}
    rows = []
    for kept in recorded(entry):
        claim = kept.claim
        one = here.get(id(claim), kept)
        written = scale(claim.metric, one.values, literals=claim.published)
        why = claim.where if claim.value is None else claim.comparison or (claim.needs if not one.values else "")
        source = "this page" if one is not kept else "record" if one.values else ""
        n = len(one.values)
        rows.append(
            dict(
                name=name(claim, entry.claims),
                here=one is not kept,
                mark=one.mark,
                verdict=sentence(one),
                metric=spoken(claim.metric) + (f" in {written.unit}" if written.unit else ""),
                paper=written.value(claim.value) + (f" ± {written.value(claim.tolerance)}" if claim.published else ""),
                mean=written.value(one.mean) if one.values else NONE,
                std=f" ± {written.value(one.std)}" if isfinite(one.std) else "",
                gap=written.gap(one.gap),
                seeds=f"{n} of {claim.seeds}" if 0 < n < claim.seeds else str(n or NONE),
                evidence="; ".join(filter(None, [source, why])) or NONE,
            )
        )
    return rows


def metric_rows(report: Report) -> list[dict[str, str]]:
    """All that was measured at the end; the last stage's numbers once."""
    if not report.done:
        return []
    names = report.done[0].metrics
    last = report.info["stages"][-1]["name"] + "/"
    rows = []
    for metric in names:
        if metric.startswith(last) and metric[len(last) :] in names:
            continue
        values, count = report.values(metric), report.count(metric)
        written = scale(metric, values, count=count)
        mean, std = mean_std(values)
        better = written.with_unit(written.spread(mean, std)) if isfinite(mean) else "not a number"
        rows.append(dict(name=spoken(metric), value=better, count=general(count) if count else NONE))
    return rows if len(rows) > 1 else []


def _claim_scale(report: Report, judged: Verdict) -> Scale:
    claim = judged.claim
    count = report.count(claim.metric)
    return scale(claim.metric, judged.values, count=count, literals=claim.published)


def _main_metric(report: Report) -> str | None:
    """The metric that a page opens with."""
    claimed = [claim.metric for claim in (report.entry.claims if report.entry else [])]
    return main_metric(report.done[0].metrics, claimed)


_SPLITS = {"val": "validation", "train": "training"}


def spoken(metric: str) -> str:
    """`fine-tune/val/top5_error` as `fine-tune validation top5 error`."""
    *stage, split, name = ["", *metric.split("/")]
    return " ".join([*stage, _SPLITS.get(split, split), name]).replace("_", " ").strip()


def _one(metric: str, value: float) -> str:
    """One number as it is logged."""
    return f"{fixed(100 * value, 1)}\u202f%" if is_share(metric) else significant(value)


def as_sentence(text: str) -> str:
    text = text.strip()
    return text and text[0].upper() + text[1:] + ("" if text.endswith((".", "!", "?")) else ".")


def _data(report: Report) -> str:
    return report.info["stages"][-1]["data"] or "" if report.info["stages"] else ""


# ── words ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def knob_text(value: Any) -> str:
    if value is None or isinstance(value, bool):
        return {None: "none", True: "true", False: "false"}[value]
    if isinstance(value, float):
        return general(value)
    if isinstance(value, int):
        return str(value)
    return ", ".join(map(knob_text, value)) if isinstance(value, list | tuple) else str(value)


def called(report: Report) -> str:
    return shlex.quote(report.info["file"] or report.info["method"])


def run_command(report: Report, seeds: int | None = None) -> str:
    """The command that gives this run, with every knob that is not the default."""
    info = report.info
    words = ["fuxian run", called(report)] + (["--quick"] if info["quick"] else [])
    for knob, given in info["knobs"].items():
        if given["from"] not in ("default", "quick"):
            value = given["value"]
            text = (
                ",".join(map(str, value))
                if isinstance(value, list)
                else knob_text(value)
                if not isinstance(value, float)
                else repr(value)
            )
            words.append(f"--{knob.replace('_', '-')} {shlex.quote(text)}")
    words += [f"--limit {info['limit']}"] if info["limit"] is not None else []
    words += [f"--precision {info['precision']}"] if info["precision"] != "float32" else []
    n = seeds or len(report.seeds)
    words += [f"--seeds {n}"] if n > 1 else [f"--seed {info['seed']}"] if info["seed"] else []
    return " ".join(words)


def shown(folder: Path) -> str:
    """As one would write it from here; else its last parts, not the whole way from the root."""
    try:
        return str(folder.resolve().relative_to(Path.cwd()))
    except ValueError:
        return str(Path(*folder.resolve().parts[-3:]))
