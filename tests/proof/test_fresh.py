"""Freshness: what changes a curve makes its record stale, what does not leaves it fresh, and nothing is written."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from fuxian import catalog
from fuxian.catalog import Entry
from fuxian.cli import main
from fuxian.errors import DataMissing
from fuxian.facts import Claim
from fuxian.methods.graph import gcn
from fuxian.proof import fresh
from fuxian.proof import record as evidence
from fuxian.proof.fresh import check, first_losses
from fuxian.proof.record import claim_record
from fuxian.proof.verify import verify

RECORDED = [entry for entry in catalog.methods() if any(claim_record(entry.key, claim) for claim in entry.claims)]
SHIPPED = {"basics.backpropagation", "basics.kmeans"}  # their data come with a dependency


@pytest.mark.parametrize(
    "entry",
    [pytest.param(entry, id=entry.key, marks=[] if entry.key in SHIPPED else pytest.mark.slow) for entry in RECORDED],
)
def test_the_committed_records_are_fresh(entry: Entry, monkeypatch: pytest.MonkeyPatch) -> None:
    """Red as soon as a method, its data, a layer or the engine changes a curve that stands in `results/`."""
    monkeypatch.setenv("FUXIAN_OFFLINE", "1")
    found = check(entry)
    assert found
    assert [one for one in found if one.word == "stale"] == [], f"verify {entry.name} again, or put back what it was"
    lacking = [one for one in found if one.word == "cannot check"]
    assert not (lacking and entry.key in SHIPPED)
    if lacking:
        pytest.skip(f"{len(lacking)} of {len(found)} records of {entry.name}: {lacking[0].why}")


CLAIM = Claim("test/accuracy", None, where="here", seeds=2, knobs=dict(data="karate", epochs=30))
TWIN = replace(CLAIM, where="there", value=0.9, tolerance=1.0)


@pytest.fixture
def verified(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Entry:
    """gcn with two claims of a setting that needs no data, and their records."""
    monkeypatch.setenv("FUXIAN_RUNS", str(tmp_path / "runs"))
    monkeypatch.setattr(evidence, "results_folder", lambda: tmp_path / "results")
    entry = replace(catalog.find("gcn"), claims=[CLAIM, TWIN])
    verify(entry)
    return entry


def changed(entry: Entry, folder: Path, old: str, new: str) -> Entry:
    """The method with its file changed."""
    text = entry.path.read_text(encoding="utf-8")
    assert text.count(old) == 1
    path = folder / "gcn.py"
    path.write_text(text.replace(old, new), encoding="utf-8")
    return replace(entry, path=path, module=None)


def test_the_same_code_gives_the_same_bits_and_leaves_nothing_behind(
    verified: Entry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    monkeypatch.setattr(fresh.TemporaryDirectory, "__init__", lambda self, **_: None)
    monkeypatch.setattr(fresh.TemporaryDirectory, "__enter__", lambda self: str(temporary))
    monkeypatch.setattr(fresh.TemporaryDirectory, "__exit__", lambda self, *_: None)
    replays = []
    monkeypatch.setattr(fresh, "_replay", lambda *words, run=fresh._replay: replays.append(words) or run(*words))
    found = check(verified)
    assert [(one.word, one.why) for one in found] == [("fresh", "20 losses equal")] * 2
    assert len(replays) == 1  # claims with one setting share it
    assert list(temporary.rglob("*")) == []
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before


def test_no_split_is_judged_and_the_run_stops_at_the_last_recorded_loss(
    verified: Entry, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps = []
    monkeypatch.setattr(fresh.loop, "_step", lambda running, step=fresh.loop._step: steps.append(1) or step(running))
    monkeypatch.setattr(fresh.judge, "final", lambda *_: pytest.fail("the test split was read"))
    assert check(verified)[0].word == "fresh"
    assert len(steps) == 20


@pytest.mark.parametrize(
    ("old", "new", "word"),
    [
        ("adam(lr, decay", "adam(lr * 1.001, decay", "stale"),
        ('"""Graph convolutional network', '"""Graph  convolutional network', "fresh"),
        ("class GCN(nn.Module):", "# a remark\nclass GCN(nn.Module):", "fresh"),
    ],
)
def test_a_change_of_the_method_is_stale_and_a_remark_is_not(
    verified: Entry, tmp_path: Path, old: str, new: str, word: str
) -> None:
    found = check(changed(verified, tmp_path, old, new))
    assert [one.word for one in found] == [word] * 2
    if word == "stale":
        first = found[0]
        assert (first.step, first.loss) == (2, "loss")  # of the first step it is still the same
        assert first.then is not None
        assert first.now is not None
        assert first.then != first.now
        assert re.fullmatch(r"loss at step 2 was \S+, is \S+", first.why)


def test_a_default_that_changed_is_stale(verified: Entry, tmp_path: Path) -> None:
    knobs = [replace(knob, default=0.3) if knob.name == "dropout" else knob for knob in verified.knobs]
    assert [one.why for one in check(replace(verified, knobs=knobs))] == ["dropout was 0.5, is 0.3"] * 2


@pytest.mark.parametrize(
    ("times", "where", "word"),
    [
        (1 + 1e-6, {}, "stale"),  # here every bit counts
        (1 + 5e-5, {"machine": {"system": "another"}}, "fresh"),
        (1 + 5e-4, {"machine": {"system": "another"}}, "stale"),
        (1 + 5e-5, {"versions": {"torch": "1.0"}}, "fresh"),
    ],
)
def test_bits_here_and_a_tolerance_elsewhere(verified: Entry, tmp_path: Path, times: float, where: dict, word: str) -> None:
    path = tmp_path / "results" / "graph.gcn.json"
    kept = json.loads(path.read_text())
    for claim in kept["claims"]:
        claim["first_losses"][7]["loss"] *= times
        claim |= where
    path.write_text(json.dumps(kept))
    found = check(verified)
    assert {one.word for one in found} == {word}
    assert {one.step for one in found} == {8 if word == "stale" else None}


def test_the_thread_count_is_the_records_and_comes_back(verified: Entry, monkeypatch: pytest.MonkeyPatch) -> None:
    path = evidence.results_folder() / "graph.gcn.json"
    path.write_text(path.read_text().replace(f'"threads": {torch.get_num_threads()}', '"threads": 3'))
    seen = []
    monkeypatch.setattr(fresh.loop, "_step", lambda running: seen.append(torch.get_num_threads()) or pytest.fail("seen"))
    before = torch.get_num_threads()
    with pytest.raises(pytest.fail.Exception):
        check(verified)
    assert seen == [3]
    assert torch.get_num_threads() == before


def test_the_command(verified: Entry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    monkeypatch.setattr(catalog, "find", lambda name: verified)
    monkeypatch.setattr(catalog, "methods", lambda: [verified])
    assert main(["verify", "gcn", "--check"]) == 0
    assert capsys.readouterr().out.splitlines() == [
        "● fresh         gcn, accuracy: 20 losses equal",
        "● fresh         gcn, there: 20 losses equal",
    ]
    monkeypatch.setattr(gcn, "adam", lambda lr, *, make=gcn.adam, **rest: make(lr * 1.001, **rest))
    assert main(["verify", "--check", "--claim", "there", "--json"]) == 1
    (told,) = json.loads(capsys.readouterr().out)["checks"]
    assert (told["method"], told["where"], told["word"], told["step"]) == ("gcn", "there", "stale", 2)

    def missing(*_: object) -> None:
        raise DataMissing("the club is not here")

    monkeypatch.setattr(gcn, "citation_graph", missing)
    assert main(["verify", "gcn", "--check"]) == DataMissing.code
    assert "– cannot check  gcn, there: the club is not here" in capsys.readouterr().out


def test_what_has_no_record_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    monkeypatch.setattr(evidence, "results_folder", lambda: tmp_path)
    assert main(["verify", "kmeans", "--check"]) == 2
    assert "there is no record of kmeans to check" in capsys.readouterr().err


def test_the_first_losses_are_those_of_the_first_stage_that_took_a_step() -> None:
    lines = [{"stage": "fine-tune", "step": step, "loss": 1.0} for step in range(1, 30)]
    lines[5:5] = [{"stage": "fine-tune", "step": 5, "val/loss": 2.0}]
    lines += [{"stage": "later", "step": 1, "loss": 1.0}]
    assert [line["step"] for line in first_losses(lines)] == list(range(1, 21))
    assert first_losses([]) == []
