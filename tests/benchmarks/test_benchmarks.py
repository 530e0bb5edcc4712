"""The harness of the benchmarks on works with a known answer; the page and the cards on planted records."""

from __future__ import annotations

import ast
import subprocess
import sys
from dataclasses import replace
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks import authors, pairing, run, table
from benchmarks.pairing import Missing, NotTheSame, compared, measure, ratio, works
from fuxian import catalog
from fuxian.proof.record import method_hash


def planted(name: str, ours: list[float], peer: list[float], goal: float | None = None, **more: Any) -> dict[str, Any]:
    return {
        "name": name, "work": f"a {name}", "against": "a peer 1.0", "method": "gcn", "note": "", "goal": goal, "most": None,
        "method_sha256": method_hash(catalog.find("gcn").path), "seconds": {"ours": ours, "peer": peer},
        "memory_bytes": {"ours": 2**20, "peer": 3 * 2**20}, "threads": 1, "load": [0.1, 0.4], "difference": 2e-6,
        "machine": {"processor": "a chip", "cores": 2}, "versions": {"torch": "2.13.0"}, "created": "2026-11-24T12:00:00",
        **more,
    }  # fmt: skip


# ── pairs ───────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_the_ratio_is_of_pairs() -> None:
    """A slow minute that meets both sides of a pair changes nothing."""
    found = ratio([1, 2, 10, 4, 5], [2, 4, 20, 8, 10])
    assert (found.median, found.low, found.high) == (0.5, 0.5, 0.5)
    found = ratio([1, 2, 3, 4, 5], [1, 1, 1, 1, 1])
    assert (found.median, found.low, found.high) == (3, 2, 4)
    with pytest.raises(ValueError, match="shorter"):
        ratio([1, 2], [1])


@pytest.mark.slow
def test_two_processes_do_the_same_work_by_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[str] = []
    seconds = pairing.Process.seconds

    def noted(self: pairing.Process, times: int) -> float:
        told.append(self.side)
        return seconds(self, times)

    monkeypatch.setattr(pairing.Process, "seconds", noted)
    work = replace(works()["backpropagation"], times=20)
    record = measure(work, pairs=3, threads=1)
    assert told == ["ours", "peer"] * 2 + ["ours", "peer", "peer", "ours", "ours", "peer"]
    assert {side: len(found) for side, found in record["seconds"].items()} == {"ours": 3, "peer": 3}
    assert all(0 < found < 1 for side in record["seconds"].values() for found in side)
    assert all(found > 2**26 for found in record["memory_bytes"].values())
    assert record["method_sha256"] == method_hash(catalog.find("backpropagation").path)
    assert table.row(record)[0] == work.what


@pytest.mark.slow
def test_other_work_is_not_timed() -> None:
    with pytest.raises(NotTheSame, match=r"backpropagation: the two sides differ by .*, not 1e-30 or less"):
        measure(replace(works()["backpropagation"], agree=1e-30), pairs=2, threads=1)
    with pytest.raises(NotTheSame, match=r"one side shows \(2,\) numbers, the other \(3,\)"):
        compared(torch.ones(2), torch.ones(3))
    with pytest.raises(AssertionError, match="nothing but zeros"):
        compared(torch.zeros(2), torch.zeros(2))
    assert compared(torch.tensor([1.0, 2.0]), torch.tensor([1.0, 4.0])) == 0.5


def test_a_peer_that_cannot_be_had_is_a_reason() -> None:
    record = measure(replace(works()["backpropagation"], python=".nowhere/bin/python", goal=0.5), pairs=2, threads=1)
    assert record["reason"] == "there is no .nowhere/bin/python"
    assert table.row(record)[-3:] == ["not done: there is no .nowhere/bin/python", "–", "–"]
    assert table.overall([record]) is None
    both = [record, planted("quick", [1, 1], [4, 4], 0.5)]
    said = "Geometric mean of 1 row with a goal: 0.25, at most 0.60 is the goal. Missed or not done: backpropagation."
    assert table.summary(both) == said


@pytest.mark.slow
@pytest.mark.skipif(find_spec("accelerate") is not None, reason="accelerate is installed")
def test_a_peer_that_is_not_installed_is_a_reason() -> None:
    """Also one that is imported as late as its numbers are shown."""
    assert measure(works()["loop-accelerate"], pairs=0, threads=1)["reason"] == "No module named 'accelerate'"


def test_a_record_takes_seven_pairs(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    for words, said in ((["--record", "--pairs", "6"], "takes 7"), (["--pairs", "1"], "two"), (["gtp"], "no work 'gtp'")):
        monkeypatch.setattr("sys.argv", ["run.py", *words])
        with pytest.raises(SystemExit):
            run.main()
        assert said in capsys.readouterr().err


def test_every_method_stands_beside_a_peer_or_says_why_not() -> None:
    from benchmarks.works import WITHOUT

    beside = {work.method for work in works().values()} - {None}
    assert beside | set(WITHOUT) == {entry.name for entry in catalog.methods()}
    assert not beside & set(WITHOUT)


def test_authors_code_is_at_the_commit_that_a_method_cites() -> None:
    cited = "\n".join(ast.get_docstring(ast.parse(entry.path.read_text("utf-8"))) or "" for entry in catalog.methods())
    assert all(authors.named(repository) in cited for repository in authors.COMMITS)


def test_authors_code_is_found_where_it_is_cloned(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(authors, "PLACE", tmp_path)
    monkeypatch.setattr("sys.path", ["before"])
    monkeypatch.setitem(authors.COMMITS, "them/theirs", "0000000")
    with pytest.raises(Missing, match=r"them/theirs @ 0000000 is not there; make peers clones it"):
        authors.code("them/theirs")
    git = partial(subprocess.run, cwd=tmp_path, check=True, capture_output=True, text=True)
    git(["git", "init", "-q", "theirs"])
    git("git -C theirs -c user.name=a -c user.email=a@b commit -q --allow-empty -m one".split())
    with pytest.raises(Missing, match=r"\.peers/theirs is at \w{7}, not at 0000000; make peers mends it"):
        authors.code("them/theirs")
    monkeypatch.setitem(authors.COMMITS, "them/theirs", git("git -C theirs rev-parse --short HEAD".split()).stdout.strip())
    assert authors.code("them/theirs", "inner") == tmp_path / "theirs" / "inner"
    assert sys.path == [str(tmp_path / "theirs" / "inner"), "before"]


# ── the page and the cards ──────────────────────────────────────────────────────────────────────────────────────────


def test_rows() -> None:
    met, missed = planted("step", [0.2] * 7, [0.4] * 7, 0.5), planted("epoch", [0.3] * 7, [0.4] * 7, 0.5)
    assert table.row(met) == [
        "a step", "0.2\u202fs", "0.4\u202fs", "a peer 1.0", "0.50", "0.50 to 0.50", "0.50", "● met",
        "1.0\u202fMiB, 3.0\u202fMiB", "2\u202f×\u202f10⁻⁶",
    ]  # fmt: skip
    assert table.row(missed)[-3] == "◆ missed"
    other = planted("other", [1, 1], [1, 1], difference=0.0)
    assert table.row(other)[-4:] == ["–", "", "1.0\u202fMiB, 3.0\u202fMiB", "the bit"]
    above = planted("loop", [50e-6] * 7, [100e-6] * 7, 0.5, most=25e-6)
    assert table.row(above)[-4:-2] == ["0.50, 25\u202fµs", "◆ missed"]
    assert table.overall([met, planted("x", [1, 1], [8, 8], 1.0), planted("y", [9, 9], [1, 1])]) == pytest.approx(0.25)


def test_the_page_is_what_the_records_give() -> None:
    text = table.PAGE.read_text(encoding="utf-8")
    assert text == table.refreshed(text), "run: python -m benchmarks.table"


def test_the_page_changes_with_a_record(tmp_path: Path) -> None:
    text = f"before\n{table.BEGIN}\nold\n{table.END}\nafter\n"
    table.write(planted("step", [0.2] * 7, [0.4] * 7, 0.5, note="the same, but sparse"), tmp_path)
    page = table.refreshed(text, tmp_path)
    assert page.startswith("before\n") and page.endswith("after\n") and "old" not in page  # noqa: PT018
    assert "| a step | 0.2\u202fs |" in page
    assert "a step: the same, but sparse." in page
    assert "a chip, 2 cores, torch 2.13.0, 2026-11-24: 1 row." in page
    assert "Pairs: 7. Threads of a side: 1. Load average: 0.1 to 0.4." in page
    table.write(planted("step", [0.3] * 7, [0.4] * 7, 0.5), tmp_path)
    assert "| a step | 0.3\u202fs |" in table.refreshed(text, tmp_path)


def test_what_was_measured_stays_where_a_peer_is_missing_now(tmp_path: Path) -> None:
    missing = dict(name="step", reason="a peer is not installed")
    assert table.write(missing, tmp_path)
    assert table.write(planted("step", [0.2] * 7, [0.4] * 7, 0.5), tmp_path)
    assert not table.write(missing, tmp_path)
    (found,) = table.records(tmp_path)
    assert found["seconds"]["ours"] == [0.2] * 7


def test_a_card_has_every_work_that_was_timed_on_the_file_as_it_is() -> None:
    found = [
        planted("step", [1] * 7, [2] * 7),
        planted("old", [1] * 7, [9] * 7, method_sha256="0"),
        planted("another’s", [1] * 7, [9] * 7, method="gpt2"),
    ]
    facts = table.speed(found, "gcn")
    assert facts == {
        "works": [dict(work="a step", against="a peer 1.0", ours=1, peer=2, pairs=7, ratio=0.5, low=0.5, high=0.5)]
    }
    assert table.speed(found[1:], "gcn") is None
    assert table.speed([], "style_transfer").keys() == {"reason"}


def test_committed_records_are_of_works_that_there_are() -> None:
    for record in table.records():
        assert record["name"] in works()
        assert "reason" in record or len(record["seconds"]["ours"]) >= pairing.FEWEST
