"""Commands that train, with the real engine on a user's file that takes a blink."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from fuxian.cli.progress import Progress
from fuxian.cli.terminal import Terminal, measured

Fuxian = Callable[..., tuple[int, str, str]]


def test_a_run_says_what_it_found(fuxian: Fuxian, here: Path) -> None:
    code, out, err = fuxian("run", "line.py", "--name", "one")
    assert (code, err) == (0, "")
    expected = [
        r"line points, 2 parameters, cpu, float32, seed 0, runs/line/one",
        r"step 40/40  .*in .*  val/error \d+\.\d %",
        r"◐ one seed: a run, not a verdict",
        r"  test/error +\d+\.\d %  +5 examples",
        r"  the paper +0\.0 %  +Table 1; tolerance ± 50\.0 over 2 seeds",
        r"  for a verdict +fuxian run line\.py --seeds 2",
        r"report  runs/line/one/report\.html",
    ]
    found = [line for line in out.splitlines() if not re.match(r"step \d/40|step [1-3]\d/40", line)]  # where it was slow
    for line, pattern in zip(found, expected, strict=True):
        assert re.fullmatch(pattern, line)
    assert (here / "runs/line/one/report.html").is_file()


def test_what_a_recipe_returns_is_told_and_stands_on_nothing(fuxian: Fuxian, here: Path) -> None:
    (here / "line.py").write_text((here / "line.py").read_text() + '    return {"drift": 0.25}\n')
    code, out, err = fuxian("run", "line.py")
    assert (code, err) == (0, "")
    assert re.search(r"^  drift +0\.2500$", out, re.MULTILINE), out


def test_a_run_as_json_is_one_object(fuxian: Fuxian, here: Path) -> None:
    code, out, err = fuxian("run", "line.py", "--quick", "--no-shuffle", "--json")
    told = json.loads(out)
    assert code == 0
    assert "line points" in err
    assert told["knobs"] == {"kind": "line", "epochs": 2, "lr": 0.1, "momentum": None, "shuffle": False}
    assert set(told["metrics"]) == {"val/error", "test/error"}
    assert told["counts"]["test/error"] == 5
    info = json.loads((here / told["folder"] / "run.json").read_text())
    assert info["command"] == "fuxian run line.py --quick --no-shuffle --json"
    assert {name: knob["from"] for name, knob in info["knobs"].items()} == {
        "kind": "default", "epochs": "quick", "lr": "default", "momentum": "default", "shuffle": "command line"
    }  # fmt: skip


def test_several_seeds_give_a_mean_and_a_verdict(fuxian: Fuxian, here: Path) -> None:
    code, out, _ = fuxian("run", "line.py", "--seeds", "2", "--name", "both")
    assert code == 0
    assert re.search(r"^● reproduced$", out, re.MULTILINE), out
    assert re.search(r"^  test/error +\d+(\.\d+)? ± \d+(\.\d+)? % +5 examples, 2 seeds$", out, re.MULTILINE)
    assert "report  runs/line/both/report.html" in out
    assert {path.name for path in (here / "runs/line/both").glob("seed-*")} == {"seed-0", "seed-1"}
    told = json.loads(fuxian("run", "line.py", "--seeds", "3,5", "--json")[1])
    assert told["seeds"] == [3, 5]
    assert len(told["metrics"]["test/error"]) == 2
    assert told["claims"][0]["verdict"] == "reproduced"


def test_no_verdict_where_there_can_be_none(fuxian: Fuxian) -> None:
    assert "– the quick form: a run, not a verdict\n" in fuxian("run", "line.py", "--quick")[1]
    assert "– at most 3 steps a stage: a trial, not a verdict\n" in fuxian("run", "line.py", "--limit", "3")[1]
    assert "– no published number for these knobs\n" in fuxian("run", "line.py", "--lr", "0.2")[1]


def test_a_number_of_the_whole_run_stands_on_no_examples(fuxian: Fuxian, here: Path) -> None:
    text = (here / "line.py").read_text() + '    return {"slope": 2.0}\n'
    (here / "line.py").write_text(text)
    code, out, err = fuxian("run", "line.py")
    assert (code, err) == (0, "")
    assert re.search(r"^  slope +2\.000$", out, re.MULTILINE), out


def test_a_number_of_the_fit_is_told_where_there_is_no_test_split(fuxian: Fuxian, here: Path) -> None:
    text = (here / "line.py").read_text().replace("Splits(Some(6), Some(4), Some(5),", "Splits(Some(6),")
    (here / "line.py").write_text(text)
    out = fuxian("run", "line.py")[1]
    assert re.search(r"^  train/error +\d+\.\d %  +6 examples$", out, re.MULTILINE)


def test_of_two_stages_the_last_is_told(fuxian: Fuxian, here: Path) -> None:
    text = (here / "line.py").read_text()
    stage = text[text.index("    yield Stage(") :]
    first, last = (stage.replace("batch=3", f'batch=3, name="{name}"') for name in ("first", "last"))
    (here / "line.py").write_text(text.replace(stage, first + last))
    told = json.loads(fuxian("run", "line.py", "--json")[1])
    assert set(told["metrics"]) >= {"first/test/error", "last/test/error", "test/error"}
    out = fuxian("run", "line.py")[1]
    assert re.findall(r"^  (\S+/error) ", out, re.MULTILINE) == ["test/error"]


def test_a_device_that_is_not_here(fuxian: Fuxian) -> None:
    if torch.cuda.is_available():
        pytest.skip("a CUDA device is here: its absence cannot be tested")
    message = f"--device cuda: PyTorch {torch.__version__} sees no CUDA device. Leave it out to use the CPU"
    assert fuxian("run", "line.py", "--device", "cuda") == (2, "", f"fuxian: {message}\n")


def test_an_error_in_a_users_objective_is_told_by_its_line(fuxian: Fuxian, here: Path) -> None:
    text = (
        (here / "line.py").read_text().replace("model(batch.x) - batch.y).square()", "model(batch.y.T) - batch.y).square()")
    )
    (here / "line.py").write_text(text)
    code, _, err = fuxian("run", "line.py")
    assert code == 2
    first, where = err.splitlines()
    assert first.startswith("fuxian: line.py, line 39, in losses: RuntimeError: mat1 and mat2 shapes cannot be multiplied")
    assert where == '  where  yield "model", (model(batch.y.T) - batch.y).square().mean()'
    assert "site-packages" not in err


def test_a_loss_that_is_not_finite(fuxian: Fuxian) -> None:
    code, _, err = fuxian("run", "line.py", "--lr", "1e30")
    assert code == 3
    assert re.match(r"◆ stopped: the loss is (NaN|infinite)\n  where  stage train, step ", err)
    assert "lower --lr (it is 1e+30; the default is 0.1), then run again" in err


def test_resume_of_a_finished_run_says_the_same(fuxian: Fuxian, here: Path) -> None:
    first = json.loads(fuxian("run", "line.py", "--json")[1])
    again = json.loads(fuxian("resume", first["folder"], "--json")[1])
    assert again == first


def test_report_writes_the_page_anew(fuxian: Fuxian, here: Path) -> None:
    told = json.loads(fuxian("run", "line.py", "--name", "one", "--json")[1])
    (here / told["report"]).unlink()
    assert fuxian("report", told["folder"]) == (0, "runs/line/one/report.html\n", "")
    assert (here / told["report"]).is_file()
    assert json.loads(fuxian("report", told["folder"], "--json")[1])["folder"] == told["folder"]


@pytest.mark.kill
@pytest.mark.parametrize(("number", "code", "name"), [(signal.SIGINT, 130, "Ctrl-C"), (signal.SIGTERM, 143, "SIGTERM")])
def test_a_signal_saves_and_says_how_to_go_on(fuxian: Fuxian, here: Path, number: int, code: int, name: str) -> None:
    slow = (
        (here / "line.py")
        .read_text()
        .replace('        yield "model"', '        __import__("time").sleep(0.005)\n        yield "model"')
    )
    (here / "line.py").write_text(slow)
    command = [sys.executable, "-m", "fuxian", "run", "line.py", "--epochs", "2000", "--name", "long"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as running:
        log = here / "runs/line/long/metrics.jsonl"
        until = time.monotonic() + 60
        while not (log.is_file() and log.stat().st_size) and time.monotonic() < until:
            time.sleep(0.05)
        running.send_signal(number)
        _, err = running.communicate(timeout=60)
    assert running.returncode == code
    assert err.startswith(f"■ stopped by {name} at stage train, step ")
    assert "\n  do     fuxian resume " in err
    (here / "line.py").write_text(slow + "\n")
    assert fuxian("resume", "runs/line/long")[0] == 6  # the file has changed


def test_demo_goes_on_after_a_failure(fuxian: Fuxian, here: Path, shelf: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    broken = (shelf / "graph" / "gat.py").read_text().replace("yield Stage(nn", "yield Stage(1 / 0, nn")
    (shelf / "graph" / "gat.py").write_text(broken)
    monkeypatch.setattr("fuxian.methods.__path__", [str(shelf)])
    for name in [name for name in sys.modules if name.startswith("fuxian.methods.")]:
        monkeypatch.delitem(sys.modules, name)
    code, out, _ = fuxian("demo", "--all")
    for name in [name for name in sys.modules if name.startswith("fuxian.methods.")]:
        del sys.modules[name]
    assert code == 1
    assert re.search(r"^◆ gat +ZeroDivisionError: division by zero$", out, re.MULTILINE)
    assert re.search(r"^● gcn +test/error \d.* %$", out, re.MULTILINE)
    assert out.endswith("2 of 3 methods ran. The page: runs/demo/index.html\n")
    page = (here / "runs/demo/index.html").read_text()
    assert "gcn" in page
    assert "lenet" in page


# ── the bar and the lines ───────────────────────────────────────────────────────────────────────────────────────────

INFO = {"method": "gcn", "device": "cpu", "precision": "float32", "threads": 1, "seed": 0, "limit": None}
STAGE = {"name": "train", "data": "cora", "train": 140, "val": 500, "test": 1000, "hashes": {"a": "9d"},
         "parameters": 23063, "step": 0, "steps": 200}  # fmt: skip


def watch(progress: Progress) -> None:
    with progress:
        progress.started(Path("runs/graph.gcn/one"), INFO)
        progress.stage_started(STAGE)
        for step in range(1, 201):
            progress.stepped(step, {"loss": 1 / step}, 50.0, 0.01)
            progress.evaluated(step, {"accuracy": step / 200})
        progress.note("checkpoint 001840 is damaged")
        progress.stage_ended({**STAGE, "step": 200, "stopped_early": False}, {"test/accuracy": 0.8})


def test_a_long_reading_says_how_far_it_is(capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0
    monkeypatch.setattr("fuxian.cli.progress.time.monotonic", lambda: now)
    progress = Progress(Terminal())
    progress.started(Path("runs/graph.gcn/one"), INFO)
    progress.stage_started({**STAGE, "step": 200})
    for done in range(100, 1001, 100):
        now += 4
        progress.reading("test", done, 1000)
    progress.stage_ended({**STAGE, "step": 200, "stopped_early": False}, {"test/accuracy": 0.8})
    lines = capfd.readouterr().out.splitlines()[1:]
    assert lines == [f"step 200/200  test {done} of 1,000" for done in (300, 600, 900)] + ["step 200/200  in 40 s"]


def test_without_a_terminal_a_line_for_each_tenth(capfd: pytest.CaptureFixture[str]) -> None:
    watch(Progress(Terminal()))
    lines = capfd.readouterr().out.splitlines()
    assert lines[0] == "gcn cora, 23,063 parameters, cpu, float32, seed 0, runs/graph.gcn/one"
    assert lines[1] == "step 20/200  loss 0.0500  50/s  4 s left  accuracy 9.5 %"
    assert [line.split()[1] for line in lines[1:10]] == [f"{step}/200" for step in range(20, 200, 20)]
    assert lines[10] == "◆ checkpoint 001840 is damaged"
    assert re.fullmatch(r"step 200/200  loss 0\.0050  50/s  in .* [mµ]?s  accuracy 100\.0 %", lines[11])
    assert len(lines) == 12


@pytest.mark.parametrize("columns", [100, 160, 60, 40])
def test_on_a_terminal_a_bar_that_fits(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, columns: int
) -> None:
    for name, value in dict(FORCE_COLOR="1", TERM="xterm", COLUMNS=str(columns), NO_COLOR="1").items():
        monkeypatch.setenv(name, value)
    watch(Progress(Terminal(), "On graphs"))
    out = re.sub(r"\x1b\[[?0-9;]*[A-Za-z]", "", capfd.readouterr().out)
    bars = [line for line in re.split(r"[\r\n]+", out) if line.startswith("train")]
    assert "100 %  step 200/200" in bars[-1]
    assert max(len(bar.rstrip()) for bar in bars) <= min(columns, 100)
    assert "…" not in out  # numbers are left out whole
    if columns >= 100:
        assert re.fullmatch(
            r"train  \S{24}  100 %  step 200/200  loss 0\.0050  50/s  in \S+ [mµ]?s  waited 1 %", bars[-1].rstrip()
        )
        assert "data   cora: 140 train, 500 validation, 1,000 test examples; 1 file, hashes verified" in out


def test_digits_follow_the_spread_or_the_count() -> None:
    assert measured("test/accuracy", [0.815], 1000) == "81.5\u202f%"
    assert measured("test/error", [0.0091], 10_000) == "0.91\u202f%"
    assert measured("test/accuracy", [0.81, 0.82, 0.83]) == "82 ± 1\u202f%"
    assert measured("test/loss", [float("nan")]) == "not a number"
