"""What is refused before anything runs, and how the words of a grid are read."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import fuxian
from fuxian import catalog
from fuxian.errors import FuxianError, RunUnusable, WrongInput
from fuxian.study import plan, studies


@pytest.mark.parametrize(
    ("methods", "knobs", "message"),
    [
        (["gcn"], {}, "compare takes two methods or more"),
        (["gcn", "lenet", "gcn"], {}, "gcn is named twice; one method with several values of a knob is a sweep"),
        (["line.py", "./line.py"], {"line.lr": 0.2}, "line.py is named twice"),
        (["gcn", "lenet"], {}, "the methods differ in their data: gcn learns from cora, lenet learns from mnist"),
        (
            ["line.py", "other.py"],
            {"bias": False},
            "line.py has no knob --bias, and other.py has: a knob of all must be in each",
        ),
        (
            ["line.py", "other.py"],
            {"mine.lr": 0.1},
            "--mine.lr: none of the methods here is called mine; they are line, other",
        ),
        (["line.py", "other.py"], {"lr": -1.0}, "lr=-1.0 is out of range; it is above 0"),
        (["line.py", "other.py"], {"hiden": 1}, "line.py has no knob hiden"),
    ],
)
def test_what_cannot_be_compared_is_one_line(here: Path, methods, knobs, message: str) -> None:
    with pytest.raises(WrongInput) as refused:
        fuxian.compare(*methods, **knobs)
    assert refused.value.message.startswith(message)
    assert "\n" not in refused.value.message
    assert not (here / "runs").exists()


def test_data_that_is_given_to_all_is_the_same(here: Path) -> None:
    (entry, knobs), (_, others) = plan.comparison(
        ["line.py", "other.py"], {"lr": 0.2, "other.lr": 0.3, "other.bias": False}
    )
    assert (entry.name, knobs, others) == ("line", {"lr": 0.2}, {"lr": 0.3, "bias": False})
    with pytest.raises(WrongInput, match="in their quick form: gcn learns from karate, lenet learns from digits"):
        plan.comparison(["gcn", "lenet"], {}, quick=True)


def test_the_grid_and_a_sample_of_it() -> None:
    axes = {"hidden": [8, 16, 32], "dropout": [0.0, 0.5]}
    points = plan.grid(axes)
    assert len(points) == 6
    assert points[:3] == [{"hidden": 8, "dropout": 0.0}, {"hidden": 8, "dropout": 0.5}, {"hidden": 16, "dropout": 0.0}]
    some = plan.grid(axes, 3)
    assert some == plan.grid(axes, 3)
    assert len(some) == 3
    assert [point for point in points if point in some] == some  # different points, in the grid's order
    assert plan.grid(axes, 99) == points


def test_the_values_of_a_knob_that_is_a_list_stand_with_semicolons() -> None:
    entry = catalog.find("other.py")
    assert plan.values_of(entry, "widths", "64,64;128") == [(64, 64), (128,)]
    assert plan.values_of(entry, "lr", "0.1, 1e-3") == [0.1, 1e-3]
    assert plan.values_of(entry, "bias", "true,false") == [True, False]
    for name, text, message in [
        ("lr", "0.1,,1", "empty value"),
        ("lr", "0.1,0.10", "has 0.10 twice"),
        ("lr", "a", "number"),
    ]:
        with pytest.raises(WrongInput, match=message):
            plan.values_of(entry, name, text)


@pytest.mark.parametrize(
    ("knobs", "message"),
    [
        ({"lr": 0.1}, "no knob of line.py has several values"),
        ({"lr": [0.1, -1.0]}, "lr=-1.0 is out of range"),
        ({"hiden": [1, 2]}, "line.py has no knob hiden"),
        ({"lr": [0.1, 0.2], "sample": 1}, "--sample 1 leaves one point of 2"),
    ],
)
def test_what_is_no_sweep_is_one_line(here: Path, knobs, message: str) -> None:
    with pytest.raises(WrongInput) as refused:
        fuxian.sweep("line.py", **knobs)
    assert refused.value.message.startswith(message)
    assert not (here / "runs").exists()


def test_a_sweep_over_data_sets_has_no_best() -> None:
    with pytest.raises(WrongInput, match="a sweep is of one data set"):
        fuxian.sweep("gcn", data=["cora", "karate"])


def test_the_file_of_a_comparison(here: Path) -> None:
    found = fuxian.compare("line.py", "other.py", seeds=[0, 3], limit=2, name="two", **{"other.lr": 0.2})
    saved = json.loads((here / "runs/compare/two/compare.json").read_text())
    members = saved.pop("members")
    assert saved == {
        "format": 1, "kind": "compare", "metric": "test/error", "better": "lower", "seeds": [0, 3], "status": "done",
        "command": "fuxian compare line.py other.py --other.lr 0.2 --seeds 0,3 --limit 2",
        "options": {"quick": False, "limit": 2, "device": None, "precision": "float32", "compile": False, "target": None,
                    "time": None, "threads": 1, "jobs": 1},
    }  # fmt: skip
    assert [(m["called"], m["method"], m["knobs"], m["folder"]) for m in members] == [
        ("line.py", str(here / "line.py"), {}, "line/compare-two"),
        ("other.py", str(here / "other.py"), {"lr": 0.2}, "other/compare-two"),
    ]
    for member in members:
        folder = here / "runs" / member["folder"]
        assert json.loads((folder / "seeds.json").read_text())["status"] == "done"
        assert sorted(path.name for path in folder.glob("seed-*")) == ["seed-0", "seed-3"]
    assert fuxian.load(here / "runs/other/compare-two/seed-3").knobs["lr"] == 0.2
    assert set(found.values["other.py"]) == {0, 3}


def test_names_are_not_overwritten_and_numbers_are_free(here: Path) -> None:
    fuxian.compare("line.py", "other.py", seeds=1, limit=1, name="two")
    with pytest.raises(WrongInput, match="exists already, and nothing is overwritten"):
        fuxian.compare("line.py", "other.py", seeds=1, limit=1, name="two")
    first = fuxian.compare("line.py", "other.py", seeds=1, limit=1)
    (here / "runs/compare" / first.folder.name / "compare.json").unlink()
    (here / "runs/compare" / first.folder.name / "lock").unlink(missing_ok=True)
    (here / "runs/compare" / first.folder.name).rmdir()  # its members are still there
    second = fuxian.compare("line.py", "other.py", seeds=1, limit=1)
    assert second.folder.name != first.folder.name
    assert {path.name for path in (here / "runs/compare").iterdir()} == {"two", second.folder.name}


def test_two_files_of_one_name(here: Path) -> None:
    (here / "b").mkdir()
    (here / "b/line.py").write_text((here / "line.py").read_text())
    found = fuxian.compare("line.py", "b/line.py", seeds=2, limit=3, name="two")
    assert list(found.values) == ["line.py", "b/line.py"]
    assert found.values["line.py"] == found.values["b/line.py"]
    assert (here / "runs/line/compare-two-2/seed-1").is_dir()
    with pytest.raises(WrongInput, match="2 methods here are called line"):
        fuxian.compare("line.py", "b/line.py", **{"line.lr": 0.1})


def test_a_damaged_or_newer_file_is_told(here: Path) -> None:
    folder = fuxian.compare("line.py", "other.py", seeds=1, limit=1, name="two").folder
    path = folder / "compare.json"
    whole = path.read_text()
    path.write_text(whole[:100])
    with pytest.raises(RunUnusable, match="is damaged"):
        studies.read(folder)
    path.write_text(whole.replace('"format": 1', '"format": 2'))
    with pytest.raises(RunUnusable, match="written by a newer Fuxian"):
        studies.read(folder)


def test_the_column_of_a_csv_is_named_for_all_runs(here: Path) -> None:
    rows = [f"{x + y / 10:.1f},{y},{'ab'[x > 4]}" for x in range(10) for y in range(3)]
    (here / "own.csv").write_text("\n".join(["x,y,kind", *rows]) + "\n")
    given: dict[str, Any] = dict(data=here / "own.csv", seeds=1, clusters=[2, 3])
    found = fuxian.sweep("kmeans", target="kind", **given)
    runs = [json.loads(path.read_text()) for path in (here / "runs").glob("basics.kmeans/sweep-*/seed-0/run.json")]
    assert [run["target"] for run in runs] == ["kind", "kind"]
    assert found.study.command.endswith("--seeds 1 --target kind")
    with pytest.raises(FuxianError, match=r"own\.csv, row 2, column kind: 'a' is not a number"):
        fuxian.sweep("kmeans", **given)
