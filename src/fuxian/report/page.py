"""The page of a run: facts gathered here, laid out by `report.html.jinja`, in the order of a good paper."""

from __future__ import annotations

import json
import os
import re
import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from math import isfinite, nan
from os.path import relpath
from pathlib import Path
from statistics import fmean, stdev
from typing import TYPE_CHECKING, Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from fuxian import __version__
from fuxian.catalog import Entry
from fuxian.facts import Paper
from fuxian.numbers import NONE, duration, fixed, is_share, plural, rate, significant, size
from fuxian.proof.card import Proof, card
from fuxian.proof.claims import Verdict
from fuxian.report import plots
from fuxian.report.pictures import inline_image, inline_svg
from fuxian.report.result import as_sentence, claim_rows, knob_text, metric_rows, opening_of, run_command, shown
from fuxian.report.runs import Report, read

if TYPE_CHECKING:
    from fuxian.engine.run import Run

_HERE = Path(__file__).parent
_ORIGIN = {"command line": "command line", "python": "Python", "claim": "the claim", "quick": "quick", "default": "default"}


def write_report(run: str | Path | Run) -> Path:
    """Writes `report.html` and `verdict.json` into the folder of a run, or of several seeds; returns the page.

    Raises WrongInput where there is no run.
    """
    report = read(run if isinstance(run, Path) else Path(getattr(run, "folder", str(run))))
    judged = report.judged()
    write(report.folder / "verdict.json", _verdict_text(judged))
    page = render("report.html.jinja", _facts(report, judged))
    return write(report.folder / "report.html", page)


def write_index(folders: Iterable[str | Path], path: str | Path) -> Path:
    """Writes a page that leads to the reports of several runs (each written before), and returns it."""
    path = Path(path)
    rows = [_row(read(Path(folder)), path.parent) for folder in folders]
    families: dict[str, list[dict[str, Any]]] = {}
    for row in rows:
        families.setdefault(row["family"], []).append(row)
    facts = dict(families=families, count=plural(len(rows), "run"), version=__version__)
    return write(path, render("index.html.jinja", facts))


def render(template: str, facts: dict[str, Any]) -> str:
    environment = Environment(
        loader=FileSystemLoader(_HERE), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    return environment.get_template(template).render(facts)


def write(path: Path, text: str) -> Path:
    """In one go: a page that is open in a browser is never half written."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, new = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}")
    with os.fdopen(handle, "w", encoding="utf-8") as file:
        file.write(text)
    os.chmod(new, 0o644)
    os.replace(new, path)
    return path


def _verdict_text(judged: Sequence[Verdict]) -> str:
    def plain(value: Any) -> Any:
        return None if isinstance(value, float) and not isfinite(value) else value

    entries = []
    for one in judged:
        numbers = {name: plain(getattr(one, name)) for name in ("mean", "std", "gap")}
        entries.append({**asdict(one.claim), "word": one.word, "values": [plain(v) for v in one.values], **numbers})
    return json.dumps({"claims": entries}, indent=1, ensure_ascii=False, allow_nan=False, default=str) + "\n"


def _facts(report: Report, judged: Sequence[Verdict]) -> dict[str, Any]:
    """Everything that the template lays out."""
    entry, info = report.entry, report.info
    opening = opening_of(report, judged)
    title, what = _title(report)
    return dict(
        title=title,
        zh=entry.zh if entry else "",
        what=what,
        paper=_paper_line(entry.paper) if entry and entry.paper else "",
        paper_title=entry.paper.title if entry and entry.paper else "",
        source=entry.source if entry else "",
        header=_header(entry.doc)[1] if entry else [],
        family=info["family"] or "",
        address=" / ".join([*([info["family"]] if info["family"] else []), info["method"], report.folder.name]),
        opening=opening,
        seeds=len(report.runs),
        claims=claim_rows(report, judged),
        metrics=metric_rows(report),
        proofs=_proofs(entry),
        curves=_curves(report),
        pictures=_pictures(report),
        knobs=_knob_rows(report),
        stages=_stage_rows(report),
        environment=_environment_rows(report),
        again=_again(report),
        cite=_bibtex(entry.paper) if entry and entry.paper else "",
        version=info["versions"].get("fuxian", __version__),
    )


# ── what ────────────────────────────────────────────────────────────────────────────────────────────────────────────


def _title(report: Report) -> tuple[str, list[str]]:
    """The heading, and the paragraphs under it."""
    if report.entry is None or not report.entry.title:
        return report.info["method"], []
    title, _, rest = report.entry.title.partition(": ")
    paragraphs = [rest[0].upper() + rest[1:] + "."] if rest else []
    return title, paragraphs + _header(report.entry.doc)[0]


def _header(doc: str) -> tuple[list[str], list[tuple[str, str]]]:
    """A method's docstring after its title: paragraphs, and lines of the form `Departs  the stopping signal …`."""
    paragraphs: list[str] = []
    facts: list[tuple[str, str]] = []
    last = ""
    for line in doc.splitlines()[1:]:
        match = re.match(r"(\S+) {2,}(\S.*)", line)
        if match:
            facts.append((match[1], match[2].strip()))
            last = "fact"
        elif not line.strip():
            last = ""
        elif last == "fact" and line.startswith("  "):
            facts[-1] = (facts[-1][0], f"{facts[-1][1]} {line.strip()}")
        elif last == "text":
            paragraphs[-1] += " " + line.strip()
        else:
            paragraphs.append(line.strip())
            last = "text"
    return paragraphs, [(key, text) for key, text in facts if key not in ("Paper", "中文")]


def _paper_line(paper: Paper) -> str:
    year = f"{paper.venue} {paper.year}".strip()
    identifier = f"arXiv:{paper.arxiv}" if paper.arxiv else f"doi:{paper.doi}" if paper.doi else ""
    return ", ".join(filter(None, [paper.authors, year, identifier]))


# ── proof, curves, pictures ─────────────────────────────────────────────────────────────────────────────────────────


def _proofs(entry: Entry | None) -> list[Proof]:
    return card(entry) if entry and entry.family else []


def _curves(report: Report) -> list[dict[str, Any]]:
    """A figure for each quantity of each stage."""
    stages = [stage["name"] for stage in report.info["stages"]]
    figures = []
    for stage in stages:
        quantities: dict[str, dict[str, list[dict[int, float]]]] = {}
        for seed, run in enumerate(report.runs):
            for line in run.log:
                for key, value in line.items():
                    if line["stage"] == stage and key not in ("stage", "step"):
                        who, _, quantity = key.rpartition("/")
                        lines = quantities.setdefault(quantity, {}).setdefault(who, [{} for _ in report.runs])
                        lines[seed][line["step"]] = nan if value is None else value
        last = max((line["step"] for run in report.runs for line in run.log if line["stage"] == stage), default=0)
        drawn = [figure for quantity, lines in quantities.items() if (figure := _figure(quantity, lines, last))]
        if drawn:
            figures.append(dict(stage=stage if len(stages) > 1 else "", plots=drawn))
    return figures


def _figure(quantity: str, lines: dict[str, list[dict[int, float]]], last: int) -> Markup:
    share = is_share(quantity)
    names = {"": "training", "val": "validation", "train": "training", "test": "test"}
    series = []
    for who, seeds in lines.items():
        curve = curve_of(names.get(who, who), [line for line in seeds if line], 100.0 if share else 1.0)
        if len(curve.xs) > 1:
            series.append(curve)
    if not series:
        return Markup("")
    finite = [y for curve in series for y in curve.ys if isfinite(y)]
    log = bool(finite) and min(finite) > 0 and max(finite) > 40 * min(finite) and not share
    words = quantity.replace("_", " ") + (", %" if share else "")
    write = (lambda value: fixed(value, 1)) if share else significant
    return plots.curves(plots.describe(words, series, write), words, series, until=last, log=log)


def curve_of(who: str, seeds: Sequence[dict[int, float]], factor: float) -> plots.Curve:
    """The mean over seeds at the steps that all of them have, and one standard deviation."""
    steps = sorted(set.intersection(*(set(line) for line in seeds))) if seeds else []
    columns = [[line[step] * factor for line in seeds] for step in steps]
    finite = all(isfinite(value) for column in columns for value in column)
    spread = [stdev(column) for column in columns] if len(seeds) > 1 and finite else []
    return plots.Curve(who, steps, [fmean(column) for column in columns], spread)


def _pictures(report: Report) -> dict[str, Any]:
    """Those of the first seed, which is not chosen."""
    run = next((run for run in report.runs if run.pictures), None)
    if run is None:
        return dict(figures=[], seed=None)
    stages = [stage["name"] for stage in run.info["stages"]]
    figures = []
    for i, path in enumerate(run.pictures):
        stage = next((s for s in sorted(stages, key=len, reverse=True) if path.stem.startswith(s + "-")), "")
        words = path.stem[len(stage) + 1 if stage else 0 :].replace("-", " ").replace("_", " ")
        label = as_sentence(words)
        if path.suffix == ".svg":
            drawn = inline_svg(path.read_text(encoding="utf-8"), f"p{i}-", words)
        else:
            drawn = inline_image(path, words)
        figures.append(dict(drawing=drawn, label=label, stage=stage if len(stages) > 1 else ""))
    return dict(figures=figures, seed=run.info["seed"])


# ── knobs, stages, environment ──────────────────────────────────────────────────────────────────────────────────────


def _knob_rows(report: Report) -> list[dict[str, Any]]:
    known = {knob.name: knob for knob in (report.entry.knobs if report.entry else [])}
    rows = []
    for knob, given in report.info["knobs"].items():
        default = knob_text(known[knob].default) if knob in known else NONE
        value = knob_text(given["value"])
        rows.append(
            dict(
                name=knob,
                value=value,
                changed=given["from"] != "default",
                origin=_ORIGIN.get(given["from"], given["from"]),
                default=default if value != default else "",
                help=known[knob].help if knob in known else "",
            )
        )
    return rows


def _stage_rows(report: Report) -> list[dict[str, str]]:
    rows = []
    names = {"train": "training", "val": "validation", "test": "test"}
    for stage in report.info["stages"]:
        splits = [f"{stage[split]:,} {word}" for split, word in names.items() if stage[split]]
        players = ", ".join(f"{player} {count:,}" for player, count in stage["players"].items())
        seconds, step = stage["seconds"] or 0, stage["step"]
        steps = f"{step:,} steps" if step == stage["steps"] else f"{step:,} of {stage['steps']:,} steps"
        epochs = f", {stage['epochs']:,} epochs" if stage["epochs"] else ""
        best = f", best at {stage['best_step']:,}" if stage["best_step"] is not None else ""
        early = ", stopped early" if stage["stopped_early"] else ""
        rows.append(
            dict(
                name=stage["name"],
                data=", ".join([*([stage["data"]] if stage["data"] else []), *splits]) or "none",
                parameters=f"{stage['trainable']:,}",
                trained=steps + epochs + best + early,
                batch=f"{stage['batch']:,}" if stage["batch"] else "the whole split",
                time=duration(seconds),
                rate=rate(step / seconds) if seconds and step else NONE,
                waited=f"{100 * (stage['waited_seconds'] or 0) / seconds:.0f}\u202f%" if seconds else NONE,
                memory=size(stage["peak_memory_bytes"]) if stage["peak_memory_bytes"] else NONE,
                players=players if len(stage["players"]) > 1 else "",
            )
        )
    return rows


def _environment_rows(report: Report) -> list[tuple[str, str]]:
    info = report.info
    machine, seeds = info["machine"], report.seeds
    state = "with changes" if info["dirty"] else "clean"
    names = {"fuxian": "Fuxian", "python": "Python", "torch": "PyTorch", "numpy": "NumPy"}
    hashes = {file: digest for stage in info["stages"] for file, digest in stage["hashes"].items()}
    data = ", ".join(f"{file} {digest[:8]}" for file, digest in list(hashes.items())[:8])
    more = f" and {len(hashes) - 8} more" if len(hashes) > 8 else ""
    cores, threads = plural(machine["cores"], "core"), plural(info["threads"], "thread")
    if info.get("processes", 1) > 1:
        threads = f"{info['processes']} processes of {threads}"
    rows = {
        "code": f"commit {info['commit'][:10]}, {state}" if info["commit"] else "not under git",
        "file": f"{info['file']}, SHA-256 {info['file_sha256'][:12]}" if info["file"] else "",
        "software": ", ".join(f"{names.get(package, package)} {version}" for package, version in info["versions"].items()),
        "machine": f"{machine['processor']}, {cores}, {size(machine['memory_bytes'])}, {machine['system']}",
        "device": f"{info['device']}, {info['precision']}, {threads}{', compiled' if info['compile'] else ''}",
        "seed": f"{plural(len(seeds), 'seed')}, {seeds[0]} to {seeds[-1]}" if len(seeds) > 1 else str(info["seed"]),
        "data": f"{data}{more} (SHA-256)" if hashes else "",
        "started": info["created"].replace("T", " "),
        "folder": shown(report.folder),
    }
    return [(label, text) for label, text in rows.items() if text]


# ── again, cite ─────────────────────────────────────────────────────────────────────────────────────────────────────


def _again(report: Report) -> dict[str, str]:
    info = report.info
    at = f"At commit {info['commit'][:10]}" if info["commit"] and not info["dirty"] else "With the same code"
    where = f"on {info['device']} with {plural(info['threads'], 'thread')} and the versions above"
    command = re.sub(r" --name[ =]\S+", "", report.command)  # the name is taken: the same command would be refused
    return dict(command=command or run_command(report), note=f"{at}, {where}, this gives the same bits.")


def _bibtex(paper: Paper) -> str:
    surname = re.split(r"[ ,&]", paper.authors.strip())[0].lower()
    word = next((w for w in re.findall(r"\w+", paper.title.lower()) if w not in ("a", "an", "the", "on")), "")
    key = re.sub(r"\W", "", f"{surname}{paper.year}{word}")
    authors = paper.authors.replace(" & ", " and ").replace(" et al.", " and others")
    fields = dict(title=f"{{{paper.title}}}", author=authors, year=paper.year, howpublished=paper.venue, doi=paper.doi)
    fields |= dict(eprint=paper.arxiv, archivePrefix="arXiv") if paper.arxiv else {}
    body = ",\n".join(f"  {name:<13} = {{{value}}}" for name, value in fields.items() if value)
    return f"@misc{{{key},\n{body}\n}}"


# ── index ───────────────────────────────────────────────────────────────────────────────────────────────────────────


def _row(report: Report, start: Path) -> dict[str, Any]:
    """One line of the index, in the words of the run's own page."""
    opening = opening_of(report, report.judged())
    title, _ = _title(report)
    return dict(
        family=report.info["family"] or "your own",
        title=title,
        zh=report.entry.zh if report.entry else "",
        method=report.info["method"],
        page=Path(relpath(report.folder / "report.html", start)).as_posix(),
        mark=opening.mark,
        verdict=opening.title,
        big=opening.big,
        beside=opening.beside,
        say=opening.say,
        time=duration(sum(run.seconds for run in report.runs)),
    )
