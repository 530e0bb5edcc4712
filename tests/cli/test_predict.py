"""`fuxian predict`, and runs on data of one's own: from the file to what the model says of a new input."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

Fuxian = Callable[..., tuple[int, str, str]]


@pytest.fixture
def points(here: Path) -> Path:
    """Three clouds far from each other, named by their place."""
    draw = np.random.default_rng(0)
    lines = ["width,height,kind"]
    for name, (x, y) in dict(left=(0, 0), right=(90, 0), top=(45, 900)).items():
        lines += [f"{x + a:.3f},{y + b:.3f},{name}" for a, b in draw.normal(0, 1, (20, 2))]
    (here / "points.csv").write_text("\n".join(lines) + "\n")
    return here / "points.csv"


@pytest.fixture
def clustered(fuxian: Fuxian, points: Path) -> str:
    assert fuxian("run", "kmeans", "--data", "points.csv", "--target", "kind", "--steps", "20", "--name", "a")[0] == 0
    return "runs/basics.kmeans/a"


def test_rows_of_numbers(fuxian: Fuxian, here: Path, clustered: str) -> None:
    info = json.loads((here / clustered / "run.json").read_text())
    assert (info["target"], list(info["own_data"])) == ("kind", [str(here / "points.csv")])
    assert json.loads((here / clustered / "result.json").read_text())["metrics"]["train/ari"] == 1.0
    code, out, err = fuxian("predict", clustered, "-1,0", "91,1", "45,899", "0,1")
    assert (code, err) == (0, "")
    head, *rows = out.splitlines()
    assert head.split() == ["input", "cluster", "distance"]
    clusters = [row.split()[1] for row in rows]
    assert clusters[0] == clusters[3]
    assert len(set(clusters)) == 3
    assert [row.split()[0] for row in rows] == ["-1,0", "91,1", "45,899", "0,1"]
    told = json.loads(fuxian("predict", clustered, "points.csv", "--json")[1])
    assert (told["stage"], len(told["predictions"])) == ("train", 60)
    assert told["predictions"][59]["input"] == "row 60"
    assert len({p["cluster"] for p in told["predictions"][:20]}) == 1


def test_data_that_has_changed_stops(fuxian: Fuxian, here: Path, points: Path, clustered: str) -> None:
    info = json.loads((here / clustered / "run.json").read_text())
    (here / clustered / "run.json").write_text(json.dumps({**info, "status": "stopped"}))
    assert fuxian("resume", clustered)[0] == 0
    (here / clustered / "run.json").write_text(json.dumps({**info, "status": "stopped"}))
    text = points.read_text()
    points.write_text(text + "1,1,left\n")
    code, _, err = fuxian("resume", clustered)
    assert code == 6
    assert err.startswith("fuxian: ./points.csv has changed since this run began\n")
    (here / clustered / "run.json").write_text(json.dumps(info))
    assert fuxian("predict", clustered, "1,1")[0] == 6
    points.write_text(text)
    info["stages"][0]["hashes"] = {"points.csv": "9d"}  # as if a published set had another content today
    (here / clustered / "run.json").write_text(json.dumps({**info, "own_data": {}, "status": "stopped"}))
    code, _, err = fuxian("resume", clustered)
    assert code == 6
    assert err.startswith("fuxian: the data of stage train has changed since this run began: points.csv\n")


def test_pictures(fuxian: Fuxian, here: Path) -> None:
    draw = np.random.default_rng(0)
    for part, count in dict(train=40, val=8, test=8).items():
        for name, column in dict(left=1, right=5).items():
            (here / "bars" / part / name).mkdir(parents=True)
            for i in range(count):
                bar = draw.integers(0, 40, (8, 8), dtype=np.uint8)
                bar[:, column : column + 2] = 250
                Image.fromarray(bar).save(here / "bars" / part / name / f"{i}.png")
    words = ["--data", "bars", "--epochs", "6", "--batch", "8", "--seeds", "2", "--name", "a"]
    assert fuxian("run", "lenet", *words)[0] == 0
    picture = "bars/test/right/0.png"
    code, out, _ = fuxian("predict", "runs/vision.lenet/a", picture, "bars/test/left/1.png")
    assert code == 0
    assert out.splitlines()[:3] == [
        "runs/vision.lenet/a holds several seeds; this is seed-0",
        f"{picture}: 8 × 8 grey, read as 32 × 32 grey",
        "bars/test/left/1.png: 8 × 8 grey, read as 32 × 32 grey",
    ]
    assert re.fullmatch(r"bars/test/right/0\.png +right +\d+\.\d % +left \d+\.\d %", out.splitlines()[4])
    assert re.fullmatch(r"bars/test/left/1\.png +left +\d+\.\d % +right \d+\.\d %", out.splitlines()[5])
    paper = 255 - np.asarray(Image.open(here / picture))
    Image.fromarray(paper).convert("RGB").resize((80, 80), Image.Resampling.NEAREST).save("paper.jpg", quality=95)
    code, out, err = fuxian("predict", "runs/vision.lenet/a/seed-1", "paper.jpg", "--invert", "--json")
    assert code == 0
    assert "paper.jpg: 80 × 80 grey, read as 32 × 32 grey, inverted\n" in err
    (told,) = json.loads(out)["predictions"]
    assert (told["input"], told["class"]) == ("paper.jpg", "right")
    assert told["probability"] + told["then"]["left"] == pytest.approx(1)
    for words, message in [
        (["bars/test"], "bars/test is a folder; name its pictures: bars/test/*.png"),
        (["none.png"], "./none.png cannot be read: No such file or directory"),
        (["line.py"], "line.py is not a picture that can be read: its format is not one that Pillow knows"),
    ]:
        code, _, err = fuxian("predict", "runs/vision.lenet/a/seed-0", *words)
        assert code in (2, 4)
        assert err == f"fuxian: {message}\n"


def test_nodes(fuxian: Fuxian) -> None:
    assert fuxian("run", "gcn", "--quick", "--name", "a")[0] == 0
    code, out, _ = fuxian("predict", "runs/graph.gcn/a", "0", "33")
    assert code == 0
    assert [row.split()[1:3] for row in out.splitlines()[1:]] == [["class", "1"], ["class", "2"]]
    message = "fuxian: 34 is no node of karate; its nodes are 0 to 33\n"
    assert fuxian("predict", "runs/graph.gcn/a", "34") == (2, "", message)
    message = "fuxian: --invert turns pictures around, and this run's data are none\n"
    assert fuxian("predict", "runs/graph.gcn/a", "1", "--invert") == (2, "", message)


@pytest.mark.slow
def test_sentences(fuxian: Fuxian, here: Path) -> None:
    """A .csv of sentences and a .txt to pre-train on; the classes are told by a word."""
    rows = [f"the {a} was {b} {c},{b}" for a in "film story music scene script".split() for b in ("dull", "fresh")
            for c in "today again at last to watch in every way for me and you".split()]  # fmt: skip
    (here / "mood.csv").write_text("text,mood\n" + "\n".join(rows) + "\n")
    (here / "story.txt").write_text("".join(f"the {i} stories were fresh\nand then {i} were dull\n" for i in range(400)))
    words = ["--data", "mood.csv", "--target", "mood", "--corpus", "story.txt", "--pretrain-steps", "40", "--name", "a"]
    assert fuxian("run", "gpt1", "--quick", *words, "--epochs", "25")[0] == 0
    told = json.loads(fuxian("predict", "runs/language.gpt1/a", "The film was FRESH today", "a dull day", "--json")[1])
    assert [row["class"] for row in told["predictions"]] == ["fresh", "dull"]
    one = fuxian("sample", "runs/language.gpt1/a", "--count", "2", "--prompt", "The ")
    assert one[0] == 0
    assert len(re.findall(r"(?:^|\n\n)the ", one[1])) >= 2
    assert one == fuxian("sample", "runs/language.gpt1/a", "--count", "2", "--prompt", "The ")


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        ("run kmeans --data points.csv --target knd", 2,
         "--target knd: ./points.csv has no such column; it has width, height, kind"),
        ("run kmeans --data points.csv", 4, "./points.csv, row 2, column kind: 'left' is not a number"),
        ("run gcn --quick --target kind", 2, "--target kind names a column, and no knob is the path of a .csv"),
        ("run kmeans --data point.csv", 2,
         "--data point.csv is neither one of iris, nor a file or folder here (default iris)"),
        ("predict empty 1", 2, "empty holds no run yet"),
        ("predict nowhere 1", 2, "nowhere is not there; runs are in runs/<method>/<name>"),
        ("predict runs/line/one 1", 2, "line.py cannot predict: its objective, Squares, does not define predict"),
        ("sample runs/line/one", 2, "line.py cannot sample: its objective, Squares, does not define sample"),
        ("predict runs/line/one", 2, "INPUT is missing. Help: fuxian predict --help"),
    ],
)  # fmt: skip
def test_what_cannot_be_is_one_line(fuxian: Fuxian, points: Path, words: str, code: int, message: str) -> None:
    (points.parent / "empty").mkdir()
    (points.parent / "empty" / "seeds.json").write_text("{}")
    if "runs/line/one" in words:
        assert fuxian("run", "line.py", "--quick", "--name", "one")[0] == 0
    found, _, err = fuxian(*words.split())
    assert (found, err.splitlines()[0]) == (code, f"fuxian: {message}")


def test_a_series_of_ones_own(fuxian: Fuxian, here: Path) -> None:
    """From a .csv with two columns, one of dates, to what comes after its last row."""
    day = np.datetime64("2020-02-01")
    rows = [f"{day + t},{(t % 12) ** 2},{t / 7:.3f}" for t in range(120)]
    (here / "load.csv").write_text("\n".join(["day,OT,other", *rows]) + "\n")
    words = ["--data", "load.csv", "--window", "12", "--horizon", "6", "--season", "12"]
    assert fuxian("run", "naive", *words, "--time", "day", "--target", "OT", "--name", "a")[0] == 0
    info = json.loads((here / "runs/forecasting.naive/a/run.json").read_text())
    assert (info["time"], info["target"], list(info["own_data"])) == ("day", "OT", [str(here / "load.csv")])
    assert "--time day --target OT" in info["command"]
    metrics = json.loads((here / "runs/forecasting.naive/a/result.json").read_text())["metrics"]
    assert metrics["seasonal/test/mse"] == pytest.approx(0, abs=1e-10)
    assert metrics["climatology/test/mse"] == pytest.approx(0, abs=1e-10)
    code, out, err = fuxian("predict", "runs/forecasting.naive/a", "load.csv")
    assert (code, err) == (0, "")
    head, *told = out.splitlines()
    assert head.split() == ["input", "step", "OT"]
    assert [row.split()[2:] for row in told] == [[str(step), "121"] for step in range(1, 7)]  # the last value, 11², again
    code, _, err = fuxian("run", "naive", *words, "--time", "date")
    assert (code, "--time date: ./load.csv has no such column; it has day, OT, other" in err) == (2, True)
    code, _, err = fuxian("run", "naive", "--quick", "--time", "day")
    assert (code, "--time day names a column, and no knob is the path of a .csv" in err) == (2, True)
    (here / "load.csv").write_text("\n".join(["day,OT,other", *rows[:50], "2020-03-20,x,1", *rows[50:]]) + "\n")
    code, _, err = fuxian("run", "naive", *words)
    assert (code, "./load.csv, row 52, column day: 2020-03-20 comes after 2020-03-21 of row 51" in err) == (4, True)
