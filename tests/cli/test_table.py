"""`fuxian table`: runs as markdown, CSV and LaTeX; on run folders made by hand, and on one that the engine made."""

from __future__ import annotations

import csv
import json
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

Fuxian = Callable[..., tuple[int, str, str]]
RUNS = Path("runs")


def made(folder: Path, seed: int, metrics: dict[str, float | None], **changes: Any) -> Path:
    """A finished run of graph.gcn; `knobs` and `stage` are changes of what it has."""
    knobs = {"hidden": 16, "lr": 0.01} | changes.pop("knobs", {})
    stage = {"name": "train", "data": "cora", "train": 140, "val": 500, "test": 1000} | changes.pop("stage", {})
    info = {
        "format": 1, "method": "gcn", "family": "graph", "file": None, "file_sha256": "9d", "seed": seed, "limit": None,
        "precision": "float32", "command": "fuxian run gcn", "status": "done", "stopped": None, "stages": [stage],
        "knobs": {name: {"value": value, "from": "default"} for name, value in knobs.items()},
    }  # fmt: skip
    folder.mkdir(parents=True)
    (folder / "run.json").write_text(json.dumps(info | changes))
    (folder / "result.json").write_text(json.dumps({"metrics": metrics, "counts": dict.fromkeys(metrics, 1000)}))
    return folder


def seeds(name: str, values: list[float], metric: str = "test/accuracy", status: str = "done", **changes: Any) -> Path:
    """A folder of seeds, one for each value of the metric."""
    for seed, value in enumerate(values):
        made(RUNS / name / f"seed-{seed}", seed, {metric: value}, **changes)
    about = {"format": 1, "method": name, "seeds": list(range(len(values))), "status": status, "command": "", "options": {}}
    (RUNS / name / "seeds.json").write_text(json.dumps(about))
    return RUNS / name


def comparison(kind: str, members: list[tuple[str, Path]], **changes: Any) -> Path:
    folder = RUNS / kind / "one"
    folder.mkdir(parents=True)
    told = [{"called": c, "method": c, "knobs": {}, "folder": str(path.relative_to(RUNS))} for c, path in members]
    about = {"format": 1, "kind": kind, "metric": "test/accuracy", "better": "higher", "seeds": [0, 1], "status": "done",
             "command": "", "members": told}  # fmt: skip
    (folder / f"{kind}.json").write_text(json.dumps(about | changes))
    return folder


@pytest.fixture
def three() -> Path:
    """A comparison of three: gcn and a user's file read the same, gat is worse."""
    return comparison(
        "compare",
        [
            ("./my_file.py", seeds("mine", [0.8112, 0.8200], method="my_file", family="", file="/home/me/my_file.py")),
            ("gat", seeds("gat", [0.790, 0.794], method="gat")),
            ("gcn", seeds("gcn", [0.8157, 0.8169])),
        ],
    )


# ── what is in a table ──────────────────────────────────────────────────────────────────────────────────────────────


def cells(out: str) -> list[list[str]]:
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in out.splitlines() if line.startswith("|")]


def test_one_row_a_method_best_in_bold_and_ties_too(fuxian: Fuxian, three: Path) -> None:
    code, out, err = fuxian("table", str(three))
    assert (code, err) == (0, "")
    assert cells(out) == [
        ["method", "seeds", "test accuracy (%) ↑"],
        ["------------", "----:", "------------------:"],
        ["./my_file.py", "2", "**81.6 ± 0.6**"],  # 81.56, which reads like 81.63
        ["gat", "2", "79.2 ± 0.3"],
        ["gcn", "2", "**81.63 ± 0.08**"],
    ]
    assert out.splitlines()[-1] == (
        "Data: cora, test split (140 training, 500 validation and 1,000 test examples). "
        "Mean ± sample standard deviation over 2 seeds (0 and 1). Best in bold."
    )


def test_lower_is_better_for_an_error(fuxian: Fuxian) -> None:
    one, two = seeds("a", [0.02, 0.03], "test/error"), seeds("b", [0.01, 0.02], "test/error", knobs={"lr": 1.0})
    lines = cells(fuxian("table", str(one), str(two))[1])
    assert lines[0] == ["method", "lr", "seeds", "test error (%) ↓"]
    assert lines[2:] == [["gcn", "0.01", "2", "2.5 ± 0.7"], ["gcn", "1.0", "2", "**1.5 ± 0.7**"]]


def test_the_direction_that_a_comparison_states_holds(fuxian: Fuxian, three: Path) -> None:
    about = json.loads((three / "compare.json").read_text())
    (three / "compare.json").write_text(json.dumps(about | {"better": "lower"}))
    bold = [line[0] for line in cells(fuxian("table", str(three))[1]) if "**" in line[-1]]
    assert bold == ["gat"]


def test_knobs_of_a_sweep_are_columns(fuxian: Fuxian) -> None:
    points = [
        ("gcn", seeds("p0", [0.81, 0.82], knobs={"lr": 0.01, "hidden": 16})),
        ("gcn", seeds("p1", [0.80, 0.82], knobs={"lr": 0.1, "hidden": 16})),
        ("gat", seeds("p2", [0.70, 0.72], method="gat", knobs={"hidden": 99})),
    ]
    lines = cells(fuxian("table", str(comparison("sweep", points)))[1])
    assert [line[:3] for line in lines] == [
        ["method", "lr", "seeds"],  # hidden tells two methods apart, not two points of one
        ["------", "---:", "----:"],
        ["gcn", "0.01", "2"],
        ["gcn", "0.1", "2"],
        ["gat", "0.01", "2"],
    ]


def test_a_column_for_mixed_data_and_a_best_for_each(fuxian: Fuxian) -> None:
    folders = [
        seeds(f"{method}-{data}", [value, value + 0.01], method=method, knobs={"data": data}, stage={"data": data})
        for method, data, value in [
            ("gcn", "cora", 0.8),
            ("gat", "cora", 0.7),
            ("gcn", "pubmed", 0.3),
            ("gat", "pubmed", 0.5),
        ]
    ]
    code, out, _ = fuxian("table", *map(str, folders))
    assert code == 0
    lines = cells(out)
    assert lines[0] == ["method", "data", "seeds", "test accuracy (%) ↑"]
    assert [(line[0], line[1]) for line in lines if "**" in line[-1]] == [("gcn", "cora"), ("gat", "pubmed")]
    assert "Data: cora and pubmed, test split." in out
    assert "Best in bold, for each data set." in out


def test_what_a_run_lacks_is_a_dash_and_not_a_number_is_said(fuxian: Fuxian) -> None:
    made(RUNS / "a", 0, {"test/accuracy": 0.81, "test/f1": 0.7})
    made(RUNS / "b", 0, {"test/accuracy": None}, method="gat")
    lines = cells(fuxian("table", "runs/a", "runs/b")[1])
    assert lines[2:] == [["gcn", "1", "81.0", "70.0"], ["gat", "1", "not a number", "–"]]  # one of a kind is no best


def test_seeds_of_one_setting_in_two_folders_are_one_row(fuxian: Fuxian) -> None:
    for seed in (0, 1, 5):
        made(RUNS / f"r{seed}", seed, {"test/accuracy": 0.8 + seed / 100})
    shutil.copytree(RUNS / "r1", RUNS / "again")
    lines = cells(fuxian("table", *(f"runs/{name}" for name in ("r0", "r1", "r5", "again")))[1])
    assert lines[2:] == [["gcn", "3", "82 ± 3"]]
    made(RUNS / "other", 1, {"test/accuracy": 0.5})
    message = "gcn with seed 1 has other numbers in runs/other than in runs/r1: give one of them"
    assert fuxian("table", "runs/r1", "runs/other") == (2, "", f"fuxian: {message}\n")


def test_two_versions_of_a_file_are_told_by_their_folders(fuxian: Fuxian) -> None:
    made(RUNS / "before", 0, {"test/accuracy": 0.81}, file="/home/me/mine.py", file_sha256="aa")
    made(RUNS / "after", 0, {"test/accuracy": 0.82}, file="/home/me/mine.py", file_sha256="bb", limit=30)
    made(RUNS / "later", 0, {"test/accuracy": 0.80}, file="/home/me/mine.py", file_sha256="cc", limit=30)
    out = fuxian("table", "runs/after", "runs/later")[1]
    assert [line[0] for line in cells(out)[2:]] == ["mine.py (after)", "mine.py (later)"]
    out = fuxian("table", "runs/before", "runs/after")[1]
    assert [line[0] for line in cells(out)[2:]] == ["mine.py (before)", "mine.py (after)"]
    assert out.endswith("One run, seed 0. Best in bold. mine.py (after): at most 30 steps a stage.\n")


def test_metrics_are_chosen_and_ordered(fuxian: Fuxian) -> None:
    metrics: dict[str, float | None] = {"val/loss": 0.5, "test/loss": 0.6, "test/accuracy": 0.8, "forgetting": 0.1}
    made(RUNS / "a", 0, metrics)
    assert cells(fuxian("table", "runs/a")[1])[0][2:] == ["test loss ↓", "test accuracy (%) ↑", "forgetting ↓"]
    chosen = fuxian("table", "runs/a", "--metric", "test/accuracy", "--metric", "val/loss")[1]
    assert cells(chosen)[0][2:] == ["test accuracy (%) ↑", "val loss ↓"]


def test_the_members_of_a_comparison_are_found_from_elsewhere(
    fuxian: Fuxian, three: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    three = three.absolute()
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert len(cells(fuxian("table", str(three))[1])) == 5
    three.rename(tmp_path / "elsewhere" / "moved")
    monkeypatch.setenv("FUXIAN_RUNS", str(tmp_path / "runs"))
    assert len(cells(fuxian("table", "moved")[1])) == 5


# ── the three formats ───────────────────────────────────────────────────────────────────────────────────────────────


def test_csv_has_the_numbers_as_they_are(fuxian: Fuxian, three: Path) -> None:
    rows = list(csv.DictReader(fuxian("table", str(three), "--format", "csv")[1].splitlines()))
    assert [row["method"] for row in rows] == ["./my_file.py", "gat", "gcn"]
    assert rows[2].keys() == {"method", "metric", "mean", "std", "n"}
    assert float(rows[2]["mean"]) == (0.8157 + 0.8169) / 2
    assert float(rows[2]["std"]) == pytest.approx(0.0012 / 2**0.5, rel=1e-12)
    assert rows[2]["n"] == "2"
    made(RUNS / "single", 0, {"test/accuracy": 0.815})
    assert fuxian("table", "runs/single", "--format", "csv")[1].splitlines()[1] == "gcn,test/accuracy,0.815,,1"


SPECIAL = r"a_b%c#d&e{f}g~h^i\j$k<l>m|n.py"


def test_latex_escapes_what_is_special(fuxian: Fuxian, three: Path) -> None:
    about = json.loads((three / "compare.json").read_text())
    about["members"][0]["called"] = SPECIAL
    (three / "compare.json").write_text(json.dumps(about))
    out = fuxian("table", str(three), "--format", "latex")[1]
    escaped = (
        r"a\_b\%c\#d\&e\{f\}g\textasciitilde{}h\textasciicircum{}i\textbackslash{}j\$k$<$l$>$m$|$n.py"
        r" & 2 & \textbf{81.6 $\pm$ 0.6} \\"
    )
    assert escaped in out
    assert r"\label{tab:cora}" in out
    assert r"Test accuracy (\%) $\uparrow$ \\" in out
    assert (
        r"\caption{Data: cora, test split (140 training, 500 validation and 1,000 test examples). Mean $\pm$ sample" in out
    )
    assert out.count(r"\textbf") == 2
    rules = [out.index(rule) for rule in (r"\toprule", r"\midrule", r"\bottomrule")]
    assert rules == sorted(rules)


@pytest.mark.skipif(shutil.which("pdflatex") is None, reason="pdflatex is not here")
def test_latex_compiles(fuxian: Fuxian, here: Path) -> None:
    points = [
        (SPECIAL, seeds("p0", [-1.5, -2.5], "test/log_score", knobs={"weight_decay": 5e-4})),
        (SPECIAL, seeds("p1", [1234.5, 2345.6], "test/log_score", knobs={"weight_decay": None})),
        ("gat", seeds("p2", [0.7, 0.7], "test/accuracy", method="gat", stage={"data": "my_data & more"})),
    ]
    folder = comparison("sweep", points, metric="test/log_score")
    assert fuxian("table", str(folder), "--output", "t.tex") == (0, "wrote t.tex\n", "")
    page = "\\documentclass{article}\n\\usepackage{booktabs}\n\\begin{document}\n\\input{t.tex}\n\\end{document}\n"
    (here / "page.tex").write_text(page)
    command = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "page.tex"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stdout[-2000:]
    assert "Missing character" not in (here / "page.log").read_text()


def test_markdown_escapes_what_is_special(fuxian: Fuxian) -> None:
    folder = comparison("compare", [("_a|*b*`c`.py", seeds("mine", [0.8])), ("my_file", seeds("gat", [0.7], method="gat"))])
    out = fuxian("table", str(folder))[1]
    assert r"| \_a\|\*b\*\`c\`.py |" in out
    assert "| my_file " in out


def test_the_format_follows_the_ending_of_the_file(fuxian: Fuxian, three: Path, here: Path) -> None:
    for name, begins in {"t.tex": "% fuxian table ", "t.csv": "method,", "t.md": "| method", "t.txt": "| method"}.items():
        assert fuxian("table", str(three), "--output", name)[0] == 0
        assert (here / name).read_text(encoding="utf-8").startswith(begins)
    assert fuxian("table", str(three), "--output", "t.tex", "--format", "csv")[0] == 0
    assert (here / "t.tex").read_text().startswith("method,")


def test_a_run_of_the_engine(fuxian: Fuxian) -> None:
    told = json.loads(fuxian("run", "line.py", "--seeds", "2", "--quick", "--json")[1])
    rows = list(csv.DictReader(fuxian("table", told["folder"], "--format", "csv")[1].splitlines()))
    assert [(row["method"], row["metric"], row["n"]) for row in rows] == [("line.py", "test/error", "2")]
    assert float(rows[0]["mean"]) == sum(told["metrics"]["test/error"]) / 2


# ── what is refused ─────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("", "RUN is missing. Help: fuxian table --help"),
        ("nowhere", "nowhere is not there"),
        ("runs", "runs holds no run, no seeds, no comparison and no sweep"),
        ("runs/a --format latx", "--format latx is not one of markdown, csv, latex; the nearest is latex"),
        ("runs/a --metric test/acc", "no run here has the metric test/acc; the nearest is test/accuracy. They have {}"),
        ("runs/a --output no/t.tex", "there is no folder no"),
        ("runs/empty", "nothing was measured in these runs: there is no column for a table"),
        ("runs/going", "runs/going is not finished: it is running, or was killed\n  do     fuxian resume runs/going"),
        ("runs/a runs/failed", "runs/failed is not finished: it failed (the loss is NaN)"),
        ("runs/s", "runs/s is not finished: it was stopped, 1 of 2 seeds done\n  do     fuxian resume runs/s"),
        (
            "runs/compare/one",
            "runs/compare/one is not finished: its comparison is stopped\n  do     fuxian resume runs/compare/one",
        ),
    ],
)  # fmt: skip
def test_refused(fuxian: Fuxian, words: str, message: str) -> None:
    made(RUNS / "a", 0, {"test/accuracy": 0.81})
    made(RUNS / "empty", 0, {})
    made(RUNS / "going", 0, {}, status="running")
    made(RUNS / "failed", 0, {}, status="failed", stopped={"message": "the loss is NaN"})
    seeds("s", [0.8, 0.9], status="stopped")
    path = RUNS / "s" / "seed-1" / "run.json"
    path.write_text(path.read_text().replace('"done"', '"stopped"'))
    comparison("compare", [("gcn", RUNS / "a")], status="stopped")
    assert fuxian("table", *words.split()) == (2, "", f"fuxian: {message.format('test/accuracy')}\n")


@pytest.mark.parametrize("text", ["{", '{"format": 1, "status": "done"}', '{"format": 1, "status": "done", "members": 3}'])
def test_a_damaged_comparison(fuxian: Fuxian, text: str) -> None:
    (RUNS / "compare").mkdir(parents=True)
    (RUNS / "compare" / "compare.json").write_text(text)
    code, out, err = fuxian("table", "runs/compare")
    assert (code, out) == (6, "")
    assert err.startswith("fuxian: runs/compare/compare.json is damaged: ")
    assert len(err.splitlines()) == 1
