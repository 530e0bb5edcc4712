"""Runs side by side give the same numbers; what fails, is killed or stopped loses nothing else."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

import fuxian
from fuxian.errors import FuxianError, Interrupted, NotFinite, RunUnusable, WrongInput
from fuxian.study import studies
from fuxian.study.monitor import Monitor
from fuxian.study.plan import Failure
from tests.study.conftest import slow


def results(runs: Path, name: str) -> dict[str, bytes]:
    """What every run of a study came to, and its log."""
    files = [*runs.glob(f"*/compare-{name}/seed-*/result.json"), *runs.glob(f"*/compare-{name}/seed-*/metrics.jsonl")]
    return {str(path.relative_to(runs)).replace(name, ""): path.read_bytes() for path in files}


class Counting(Monitor):
    def __init__(self) -> None:
        self.ran: list[tuple[int, int]] = []
        self.done = 0

    def began(self, study: Any, done: int) -> None:
        self.done = done

    def ended(self, task: Any, run: Any) -> None:
        self.ran.append((task.member, task.seed))


@pytest.mark.slow
def test_two_at_a_time_give_the_same_bytes(here: Path) -> None:
    one = fuxian.compare("line.py", "other.py", seeds=3, name="one", **{"other.lr": 0.2})
    two = fuxian.compare("line.py", "other.py", seeds=3, name="two", jobs=2, **{"other.lr": 0.2})
    found = results(here / "runs", "one")
    assert len(found) == 12
    assert found == results(here / "runs", "two")
    assert one.table()[1]["difference"] == two.table()[1]["difference"]
    pids = [json.loads(p.read_text())["threads"] for p in (here / "runs").glob("*/compare-*/seed-*/run.json")]
    assert set(pids) == {1}


def test_a_member_that_fails_is_told_and_the_others_go_on(here: Path) -> None:
    found = fuxian.compare("line.py", "other.py", seeds=2, **{"other.lr": 1e30})
    assert [(f.member, f.seed, f.code) for f in found.failures] == [(1, 0, 3), (1, 1, 3)]
    assert found.failures[0].message.startswith("the loss is ")
    assert "lower --lr (it is 1e+30" in found.failures[0].lines["do"]
    assert set(found.values["line.py"]) == {0, 1}
    assert found.differences[1] is not None
    assert (found.differences[1].word, found.differences[1].why) == ("cannot tell", "0 of 2 seeds")
    assert found.study.status == "failed"
    assert [json.loads((here / "runs" / m.folder / "seeds.json").read_text())["status"] for m in found.study.members] == [
        "done", "failed"
    ]  # fmt: skip


def test_where_all_fail_the_first_error_is_raised(here: Path) -> None:
    with pytest.raises(FuxianError) as failed:
        fuxian.compare("line.py", "other.py", seeds=2, lr=1e30)
    assert failed.value.code == NotFinite.code


@pytest.mark.slow
@pytest.mark.parametrize("jobs", [1, 2])
def test_an_error_in_a_users_file_is_told_by_its_line(here: Path, jobs: int) -> None:
    text = (here / "other.py").read_text().replace("model(batch.x) - batch.y).square()", "model(batch.y.T) - 1).square()")
    (here / "other.py").write_text(text)
    found = fuxian.compare("line.py", "other.py", seeds=1, jobs=jobs)
    assert found.failures[0].message.startswith("other.py, line 39, in losses: RuntimeError: mat1 and mat2 shapes")
    assert found.failures[0].code == 2


@pytest.mark.kill
def test_a_worker_that_is_killed_does_not_hang_its_parent(here: Path) -> None:
    text = (here / "other.py").read_text()
    suicide = '        import os\n        if not os.path.exists("once"):\n            open("once", "w").close()\n'
    suicide += "            os.kill(os.getpid(), 9)\n"
    (here / "other.py").write_text(text.replace('        yield "model"', f'{suicide}        yield "model"'))
    found = fuxian.compare("line.py", "other.py", seeds=3, jobs=2)
    assert [(f.member, f.code) for f in found.failures] == [(1, 5)]
    assert "killed by SIGKILL" in found.failures[0].message
    seed = found.failures[0].seed
    assert set(found.values["other.py"]) == {0, 1, 2} - {seed}
    counting = Counting()
    again = studies.resume(found.folder, monitor=counting)
    assert counting.ran == [(1, seed)]  # alone
    assert again.failures == []
    assert set(again.values["other.py"]) == {0, 1, 2}


def test_what_is_finished_is_not_run_again(here: Path) -> None:
    found = fuxian.compare("line.py", "other.py", seeds=2, name="two")
    before = {path: path.stat().st_mtime_ns for path in (here / "runs").glob("*/compare-two/seed-*/result.json")}
    counting = Counting()
    again = studies.resume(found.folder, monitor=counting)
    assert (counting.ran, counting.done) == ([], 4)
    assert before == {path: path.stat().st_mtime_ns for path in before}
    assert again.table() == found.table()


class CtrlC(Monitor):
    """Presses Ctrl-C when the third run has ended."""

    def __init__(self, number: int) -> None:
        self.number, self.left = number, 3

    def ended(self, task: Any, run: Any) -> None:
        self.left -= 1
        if not self.left:
            os.kill(os.getpid(), self.number)


@pytest.mark.kill
@pytest.mark.parametrize(("jobs", "number", "code"), [(1, signal.SIGTERM, 143), (2, signal.SIGINT, 130)])
def test_a_signal_stops_all_and_resume_ends_with_the_same_bytes(here: Path, jobs: int, number: int, code: int) -> None:
    slow(here / "line.py")
    fuxian.compare("line.py", "other.py", seeds=3, name="alone")
    with pytest.raises(Interrupted) as stopped:
        fuxian.compare("line.py", "other.py", seeds=3, name="cut", jobs=jobs, monitor=CtrlC(number))
    assert stopped.value.code == code
    folder = here / "runs/compare/cut"
    assert stopped.value.lines["do"].startswith("fuxian resume runs/compare/cut ")
    assert json.loads((folder / "compare.json").read_text())["status"] == "stopped"
    done = len(list((here / "runs").glob("*/compare-cut/seed-*/result.json")))
    assert 3 <= done < 6
    counting = Counting()
    studies.resume(folder, monitor=counting)
    assert (counting.done, len(counting.ran)) == (done, 6 - done)
    assert results(here / "runs", "cut") == results(here / "runs", "alone")
    assert json.loads((folder / "compare.json").read_text())["status"] == "done"


@pytest.mark.kill
def test_a_study_that_is_killed_goes_on_and_leaves_no_process(here: Path) -> None:
    slow(here / "line.py")
    fuxian.compare("line.py", "other.py", seeds=3, name="alone")
    command = [sys.executable, "-m", "fuxian", "compare", "line.py", "other.py", "--seeds", "3", "--name", "cut"]
    running = subprocess.Popen([*command, "--jobs", "2"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    until = time.monotonic() + 100
    while len(list((here / "runs").glob("*/compare-cut/seed-*/result.json"))) < 2 and time.monotonic() < until:
        time.sleep(0.02)
    running.kill()
    running.wait()
    assert time.monotonic() < until
    folder = here / "runs/compare/cut"
    assert json.loads((folder / "compare.json").read_text())["status"] == "running"
    while time.monotonic() < until:  # the workers save what they were at, and end
        try:
            found = studies.resume(folder)
            assert found.failures == [] or all("in use" in failure.message for failure in found.failures)
            if not found.failures:
                break
        except RunUnusable:
            pass
        time.sleep(0.5)
    assert results(here / "runs", "cut") == results(here / "runs", "alone")


def test_a_changed_file_is_refused(here: Path) -> None:
    with pytest.raises(Interrupted):
        fuxian.compare("line.py", "other.py", seeds=3, name="cut", monitor=CtrlC(signal.SIGTERM))
    (here / "other.py").write_text((here / "other.py").read_text() + "\n")
    with pytest.raises(RunUnusable, match=r"other\.py has changed since this comparison began"):
        studies.resume(here / "runs/compare/cut")
    assert studies.resume(here / "runs/compare/cut", changed_code=True).failures == []


def test_a_study_is_played_by_one_process(here: Path) -> None:
    class Second(Monitor):
        def ended(self, task: Any, run: Any) -> None:
            with pytest.raises(RunUnusable, match="in use by another process"):
                studies.resume(here / "runs/compare/two")

    fuxian.compare("line.py", "other.py", seeds=1, name="two", monitor=Second())


# ── what the first runs show ────────────────────────────────────────────────────────────────────────────────────────


def test_a_metric_that_one_lacks_is_told_after_its_first_run(here: Path) -> None:
    text = (here / "other.py").read_text().replace('yield "error", (model', 'yield "distance", (model')
    (here / "other.py").write_text(text + "")
    counting = Counting()
    with pytest.raises(WrongInput) as refused:
        fuxian.compare("line.py", "other.py", seeds=5, metric="test/error", monitor=counting)
    assert refused.value.message == "other.py measures no test/error"
    assert len(counting.ran) == 1
    with pytest.raises(WrongInput, match="measure nothing that is called the same"):
        fuxian.compare("line.py", "other.py", seeds=5)


def test_different_data_is_told_after_the_first_runs(here: Path) -> None:
    text = (here / "other.py").read_text()
    (here / "other.py").write_text(text.replace('name="points"', 'name="circles"'))
    with pytest.raises(WrongInput, match="points against circles"):
        fuxian.compare("line.py", "other.py", seeds=5)
    later = text.replace(", points, Squares", ", lambda: points, Squares")  # data that is read as it is wanted
    (here / "other.py").write_text(later.replace("Some(5), name", "Some(7), name"))
    with pytest.raises(WrongInput, match=r"test/error of line\.py stands on 5 counted, that of other\.py on 7"):
        fuxian.compare("line.py", "other.py", seeds=5)


def test_other_tests_on_the_same_data_are_told_before_any_run(here: Path) -> None:
    text = (here / "other.py").read_text()
    (here / "other.py").write_text(text.replace("Some(5), name", "Some(7), name"))
    counting = Counting()
    with pytest.raises(WrongInput, match=r"line\.py is tested on 5 examples of points, other\.py on 7"):
        fuxian.compare("line.py", "other.py", seeds=5, monitor=counting)
    assert not counting.ran
    with pytest.raises(WrongInput, match=r"deepar is tested on 7 examples of waves, linear on 457") as refused:
        fuxian.compare("deepar", "linear", quick=True, monitor=counting, **{"linear.windows": "all"})
    assert refused.value.lines["do"] == "the same for both: --windows blocks"
    assert not counting.ran


# ── a sweep ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_the_best_point_is_chosen_by_validation(here: Path) -> None:
    """The file's test number is best where its validation number is worst."""
    text = (here / "other.py").read_text()
    text = text.replace('name="points")', 'name="points")\n    points.val.bad, points.test.split.bad = 1 - lr, lr')
    text = text.replace("return Points(", "return Points(bad=torch.full((len(indices),), getattr(self, 'bad', 0.0)), x=")
    text = text.replace("x=self.x[indices], 2 * self.x[indices])", "x=self.x[indices], y=2 * self.x[indices])")
    text = text.replace("    y: Tensor  # (batch, 1)\n", "    y: Tensor  # (batch, 1)\n    bad: Tensor  # (batch,)\n")
    text = text.replace('yield "error", (model(batch.x) - batch.y).abs()[:, 0]', 'yield "error", batch.bad')
    (here / "other.py").write_text(text)
    found = fuxian.sweep("other.py", lr=[0.1, 0.5, 0.9], seeds=2, limit=2)
    assert (found.metric, found.select, found.better) == ("test/error", "val/error", "lower")
    assert found.best.member.knobs == {"lr": 0.9}
    assert found.best.mean_std("test/error")[0] == pytest.approx(0.9)
    assert [row.member.knobs["lr"] for row in found.ranked] == [0.9, 0.5, 0.1]
    assert not found.optimistic
    text = text.replace("Some(4), Some(5)", "None, Some(5)").replace("points.val.bad, points.test", "_, points.test")
    (here / "other.py").write_text(text)
    blind = fuxian.sweep("other.py", lr=[0.1, 0.5, 0.9], seeds=2, limit=2)
    assert (blind.select, blind.optimistic, blind.best.member.knobs) == ("test/error", True, {"lr": 0.1})


def test_an_ablation_is_told_beside_the_default(here: Path) -> None:
    found = fuxian.sweep("other.py", bias=[True, False], shuffle=[False, True], seeds=3)
    assert found.ablation
    assert found.default is not None
    assert found.default.member.knobs == {"bias": True, "shuffle": True}
    told = {tuple(found.point(row).values()): found.difference(row) for row in found.rows}
    assert told[True, True] is None
    assert told[True, False] is not None
    assert (told[True, False].mean, told[True, False].word) == (0.0, "cannot tell")  # `shuffle` has no effect
    assert told[False, True] is not None
    assert told[False, True].mean != 0.0
    assert not fuxian.sweep("other.py", lr=[0.1, 0.2], seeds=1, limit=1).ablation


def test_a_point_that_failed_is_not_the_best(here: Path) -> None:
    found = fuxian.sweep("other.py", lr=[1e30, 0.1], seeds=2)
    assert [row.member.called for row in found.ranked] == ["lr 0.1", "lr 1e+30"]
    assert [type(failure) for failure in found.failures] == [Failure, Failure]
    assert found.unsure == 0
