"""What is kept of a comparison, and the table that the docs have of it."""

from __future__ import annotations

import json
import math
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import fuxian
from fuxian import catalog
from fuxian.errors import WrongInput
from fuxian.proof import record as evidence
from fuxian.proof import table
from fuxian.study.record import keep


@pytest.fixture
def compared(here: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Two files of a user's own over two seeds, and a folder for records."""
    monkeypatch.setattr(evidence, "results_folder", lambda: here / "results")
    (here / "wide.py").write_text((here / "line.py").read_text())
    fuxian.compare("line.py", "wide.py", seeds=2, name="both")
    return here / "runs/compare/both"


def test_it_is_kept_and_written_as_a_table(compared: Path, here: Path) -> None:
    info = json.loads((compared / "compare.json").read_text())
    path = keep(compared, [])
    assert path == here / "results/comparisons/both.json"
    kept = json.loads(path.read_text())
    assert (kept["columns"], kept["seeds"]) == ([info["metric"]], [0, 1])
    assert [row["command"] for row in kept["rows"]] == [info["command"]] * 2
    for row in kept["rows"]:
        for seed, value in enumerate(row["values"][info["metric"]]):
            result = here / f"runs/{row['called'].removesuffix('.py')}"
            found = next((here / "runs").glob(f"*{result.name}*/compare-both/seed-{seed}/result.json"))
            assert json.loads(found.read_text())["metrics"][info["metric"]] == value
    text = table.refreshed("x\n<!-- both -->\nold\n<!-- /both -->\ny\n")
    lines = text.splitlines()
    assert lines[:2] == ["x", "<!-- both -->"]
    assert lines[-2:] == ["<!-- /both -->", "y"]
    assert [line.split("|")[1].strip() for line in lines[2:-2]] == ["method", "---", "line.py", "wide.py"]
    assert all("**" in line for line in lines[4:-2])  # they are the same


def test_methods_are_added_to_those_that_are_there(compared: Path, here: Path) -> None:
    path = keep(compared, [])
    before = json.loads(path.read_text())
    shutil.rmtree(here / "runs")
    (here / "third.py").write_text((here / "line.py").read_text())
    fuxian.compare("line.py", "third.py", seeds=2, name="both")
    keep(compared, [])
    rows = json.loads(path.read_text())["rows"]
    assert [row["called"] for row in rows] == ["wide.py", "line.py", "third.py"]
    assert rows[0] == before["rows"][1]
    shutil.rmtree(here / "runs")
    fuxian.compare("line.py", "third.py", seeds=3, name="both")
    with pytest.raises(WrongInput, match=r"has the seeds \[0, 1, 2\]; the record of that name has \[0, 1\]"):
        keep(compared, [])


def test_a_metric_that_nobody_measures(compared: Path) -> None:
    with pytest.raises(WrongInput, match="measures test/flavour"):
        keep(compared, ["test/flavour"])


def test_a_number_that_is_none(compared: Path, here: Path) -> None:
    metric = json.loads((compared / "compare.json").read_text())["metric"]
    path = next((here / "runs").glob("*wide*/compare-both/seed-1/result.json"))
    result = json.loads(path.read_text())
    path.write_text(json.dumps({**result, "metrics": {**result["metrics"], metric: math.nan}}))
    with pytest.raises(WrongInput, match=rf"{metric} of wide.py is not finite"):
        keep(compared, [])


def test_what_is_no_comparison_is_one_line(here: Path) -> None:
    said = subprocess.run([sys.executable, "-m", "fuxian.study.record", "nowhere"], capture_output=True, text=True)
    assert said.returncode == WrongInput.code
    assert "nowhere" in said.stderr
    assert "Traceback" not in said.stderr


def test_a_comparison_that_is_not_finished(compared: Path, here: Path) -> None:
    next((here / "runs").glob("*wide*/compare-both/seed-1/result.json")).unlink()
    with pytest.raises(WrongInput, match="1 of its runs are not finished"):
        keep(compared, [])


def test_every_window_has_the_records_of_its_task_alone_the_best_first(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(evidence, "results_folder", lambda: here / "results")
    evidence.record_comparison("etth1", {"rows": [{"called": "linear", "values": {"test/crps": [0.5]}}]})
    task = {"data": "etth1", "window": 168, "horizon": 192, "windows": "all"}

    def kept(name: str, metric: str, value: float, **others: int) -> None:
        entry = catalog.find(name)
        claim = next(one for one in entry.claims if one.metric == metric)
        facts = {"values": [value], "seeds": [0], "seconds_each": [2.0], "resolved": task | others}
        evidence.record_claim(entry.path, claim, facts)

    kept("naive", "seasonal/test/crps", 0.7)
    kept("linear", "test/crps", 0.6)
    kept("tmdm", "test/crps", 0.3)
    kept("naive", "climatology/test/mse", 0.1)  # another metric
    kept("nsdiff", "test/crps", 0.2, horizon=96)  # another task
    rows = table.every_window().splitlines()[2:]
    assert [[cell.strip() for cell in row.split("|")[1:4]] for row in rows] == [
        ["tmdm", "0.3000", "–"],
        ["linear", "0.6000", "0.5000"],
        ["naive, seasonal", "0.7000", "–"],
    ]
