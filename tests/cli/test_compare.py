"""`compare` and `sweep` in the terminal, and their pages."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest

from fuxian.cli.progress import Bar
from fuxian.cli.terminal import Terminal

Fuxian = Callable[..., tuple[int, str, str]]


@pytest.fixture(autouse=True)
def other(here: Path) -> None:
    text = (here / "line.py").read_text().replace("shuffle: bool = True,", "bias: bool = True, shuffle: bool = True,")
    (here / "other.py").write_text(text.replace("nn.Linear(1, 1)", "nn.Linear(1, 1, bias=bias)"))


def test_a_comparison_says_what_seeds_can_tell(fuxian: Fuxian, here: Path) -> None:
    code, out, err = fuxian("compare", "./other.py", "line.py", "--seeds", "6", "--other.lr", "0.02", "--name", "one")
    assert (code, err) == (0, "")
    lines = out.splitlines()
    assert re.fullmatch(r"run 1/12  other\.py, seed 0  test/error \d+\.\d %  in .*", lines[0])
    assert len([line for line in lines if line.startswith("run ")]) == 12
    table = lines[12:]
    assert table[0] == "points, test/error in %, 6 paired seeds (0 to 5); best in *stars*"
    assert re.fullmatch(r"method +mean ± std +other − it +95 % interval +other is +time a seed +parameters", table[1])
    assert re.fullmatch(r"other\.py +\d+(\.\d+)? ± \d+(\.\d+)? +\*?[\d.]+ m?s\*? +2", table[2])
    assert re.fullmatch(
        r"line\.py +\*\d+(\.\d+)? ± \d+(\.\d+)?\* +\+[\d.]+ +[−+][\d.]+ to \+[\d.]+ +(worse|cannot tell) +.*", table[3]
    )
    assert table[4] == "Intervals are paired t. The seeds vary the training, not a split that is fixed."
    assert "report  runs/compare/one/report.html" in table
    assert max(map(len, lines)) <= 100
    page = (here / "runs/compare/one/report.html").read_text()
    assert "<b>Paired difference.</b>" in page
    assert 'href="../../other/compare-one/report.html"' in page
    assert (here / "runs/other/compare-one/report.html").is_file()


def test_json_is_one_object(fuxian: Fuxian) -> None:
    code, out, _ = fuxian("compare", "line.py", "other.py", "--seeds", "2", "--quick", "--no-shuffle", "--json")
    told = json.loads(out)
    assert code == 0
    assert (told["metric"], told["better"], told["seeds"], told["count"]) == ("test/error", "lower", [0, 1], 5)
    first, second = told["methods"]
    assert first["knobs"] == second["knobs"] == {"shuffle": False}
    assert first["difference"] is None
    assert second["difference"]["word"] == "cannot tell"
    assert first["values"] == second["values"]


def test_one_seed_tells_no_difference(fuxian: Fuxian) -> None:
    out = fuxian("compare", "line.py", "other.py", "--seeds", "1", "--quick")[1]
    assert "One seed: no difference can be told. Give --seeds 5, or more.\n" in out
    assert "95 %" not in out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["line.py"], "compare takes two methods or more: fuxian compare ./mine.py gcn --seeds 10"),
        (["line.py", "other.py", "--sedes", "3"], "line.py has no knob --sedes; the nearest is --seeds"),
        (["line.py", "other.py", "--lr"], "--lr expects a value. Help: fuxian compare --help"),
        (["line.py", "other.py", "--lr", "fast"], "--lr fast is not a number (default 0.1)"),
        (["line.py", "other.py", "--lr", "1", "--lr", "2"], "--lr is given twice"),
        (["line.py", "other.py", "--precision", "half"], "--precision half is not one of float32, bf16"),
        (["line.py", "gcm"], "there is no method gcm; the nearest is gcn (graph). All: fuxian list"),
        (
            ["gcn", "lenet", "--quick"],
            "the methods differ in their data in their quick form: gcn learns from karate, lenet ",
        ),
    ],
)
def test_wrong_words_are_one_line(fuxian: Fuxian, here: Path, words: list[str], message: str) -> None:
    code, out, err = fuxian("compare", *words)
    assert (code, out) == (2, "")
    assert err.startswith(f"fuxian: {message}")
    assert not (here / "runs").exists()


def test_help_needs_no_method(fuxian: Fuxian) -> None:
    for command in ("compare", "sweep"):
        code, out, _ = fuxian(command, "--help")
        assert code == 0
        assert "--jobs N" in out
    assert "';'" in fuxian("sweep", "-h")[1]


def test_a_failure_is_told_and_its_code_returned(fuxian: Fuxian) -> None:
    code, out, _ = fuxian("compare", "line.py", "other.py", "--seeds", "2", "--other.lr", "1e30")
    assert code == 3
    assert re.search(r"^◆ other\.py, seeds 0, 1: the loss is (NaN|infinite)$", out, re.MULTILINE)
    assert re.search(r"^other\.py +failed ", out, re.MULTILINE)


def test_a_sweep_chooses_by_validation(fuxian: Fuxian, here: Path) -> None:
    code, out, _ = fuxian(
        "sweep", "line.py", "--lr", "0.5,0.001,0.1", "--kind", "curve,line", "--seeds", "2", "--name", "s"
    )
    assert code == 0
    table = out.splitlines()[12:]
    assert table[0] == "points, 6 points, 2 seeds (0 to 1), in %; best in *stars*"
    assert re.fullmatch(r" *lr +kind +val/error +test/error +time a seed +parameters", table[1])
    assert re.fullmatch(r" +0\.5 +curve +\*\d.*\* +\d.*", table[2])
    assert [line.split()[0] for line in table[2:8]] == ["0.5", "0.5", "0.1", "0.1", "0.001", "0.001"]
    assert re.fullmatch(r"Best by validation: lr 0\.5, kind curve; test/error .* %\.", table[8])
    saved = json.loads((here / "runs/sweep/s/sweep.json").read_text())
    assert saved["axes"] == {"lr": [0.5, 0.001, 0.1], "kind": ["curve", "line"]}
    assert [m["knobs"] for m in saved["members"]][:2] == [{"lr": 0.5, "kind": "curve"}, {"lr": 0.5, "kind": "line"}]
    assert saved["members"][0]["folder"] == "line/sweep-s-1"
    page = (here / "runs/sweep/s/report.html").read_text()
    assert "lr, logarithmic" in page
    assert fuxian("report", "runs/sweep/s") == (0, "runs/sweep/s/report.html\n", "")


def test_an_ablation(fuxian: Fuxian) -> None:
    code, out, _ = fuxian("sweep", "other.py", "--bias", "true,false", "--shuffle", "true,false", "--seeds", "2", "--quick")
    assert code == 0
    assert re.search(r"^ *bias +shuffle +val/error +test/error +− default +95 % interval +it is ", out, re.MULTILINE)
    assert re.search(r"^ *true +true .* default ", out, re.MULTILINE)
    assert "Intervals are paired t, widened for 3 comparisons." in out


def test_without_a_validation_split_the_best_is_optimistic(fuxian: Fuxian, here: Path) -> None:
    text = (here / "line.py").read_text().replace("Some(6), Some(4), Some(5)", "Some(6), None, Some(5)")
    (here / "line.py").write_text(text)
    out = fuxian("sweep", "line.py", "--lr", "0.5,0.1", "--seeds", "1")[1]
    assert "Without a validation split the test set has chosen: the best of 2 is optimistic." in out


def test_resume_says_the_same(fuxian: Fuxian) -> None:
    first = fuxian("compare", "line.py", "other.py", "--seeds", "2", "--quick", "--name", "two", "--json")[1]
    code, again, err = fuxian("resume", "runs/compare/two", "--json")
    assert code == 0
    assert json.loads(again) == json.loads(first)
    assert err == "4 of 4 runs finished before\n"


@pytest.mark.parametrize("columns", [100, 50])
def test_on_a_terminal_one_bar_that_fits(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, columns: int
) -> None:
    from fuxian.study.plan import Failure, Member, Study, Task

    for name, value in dict(FORCE_COLOR="1", TERM="xterm", COLUMNS=str(columns), NO_COLOR="1").items():
        monkeypatch.setenv(name, value)
    member = Member("./a-rather-long-name-of-a-file.py", "graph.gcn", {}, "graph.gcn/compare-x", "")
    study = Study(Path("runs/compare/x"), "compare", "test/error", [0, 1, 2], [member], {}, "")
    with Bar(Terminal()) as bar:
        bar.began(study, 1)
        bar.working(Task(0, 1), "step 100/2,350")
        bar.ended(Task(0, 1), Failure(0, 1, "the loss is NaN", 3))
        bar.ended(Task(0, 2), Failure(0, 2, "the loss is NaN", 3))
    out = re.sub(r"\x1b\[[?0-9;]*[A-Za-z]", "", capfd.readouterr().out)
    bars = [line.rstrip() for line in re.split(r"[\r\n]+", out) if line.startswith("compare")]
    assert max(map(len, bars)) <= columns
    assert "100 %  run 3/3  in " in bars[-1]
    assert "run 1/3" in bars[0]
