"""Verification: the claim's seeds are run once, recorded whole, and judged."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Mapping
from dataclasses import replace
from statistics import fmean
from typing import Any

import pytest

from fuxian import catalog
from fuxian.cli import main
from fuxian.cli.progress import Progress
from fuxian.facts import Claim
from fuxian.proof import record
from fuxian.proof.card import card
from fuxian.proof.verify import protocol


@pytest.fixture
def results(tmp_path, monkeypatch):
    monkeypatch.setenv("FUXIAN_RUNS", str(tmp_path / "runs"))
    monkeypatch.setattr(record, "results_folder", lambda: tmp_path / "results")
    return tmp_path / "results"


def test_claims_of_one_setting_share_their_runs_and_are_recorded(results, tmp_path, capsys) -> None:
    assert main(["verify", "kmeans", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert [claim["verdict"] for claim in told["claims"]] == ["reproduced", "reproduced"]
    folders = list((tmp_path / "runs" / "basics.kmeans").iterdir())
    assert len(folders) == 1
    assert len(list(folders[0].glob("seed-*"))) == 5

    written = json.loads((results / "basics.kmeans.json").read_text())["claims"]
    inertia = next(claim for claim in written if claim["metric"] == "train/inertia")
    assert inertia["values"] == [pytest.approx(78.8514, abs=1e-4)] * 5
    assert inertia["seeds"] == [0, 1, 2, 3, 4]
    assert inertia["count"] == 150
    assert [line["step"] for line in inertia["first_losses"]] == list(range(1, 21))
    assert (inertia["mean"], inertia["std"]) == (pytest.approx(fmean(inertia["values"])), pytest.approx(0, abs=1e-6))
    assert inertia["protocol"] == "train, 150 examples, the fit itself; the weights are those of the last step"
    assert len(inertia["seconds_each"]) == 5
    assert inertia["seconds"] == pytest.approx(sum(inertia["seconds_each"]), abs=0.3)
    assert inertia["machine"]["vectors"]
    assert {"commit", "dirty", "versions", "threads", "device", "precision", "data", "peak_memory_bytes"} <= inertia.keys()
    assert inertia["resolved"] == {"data": "iris", "clusters": 3, "starts": 10, "steps": 100}
    claim = next(proof for proof in card(catalog.find("kmeans")) if proof.kind == "claim")
    assert (claim.mark, claim.word) == ("ok", "2 of 2")

    before = {path: path.stat().st_mtime_ns for path in folders[0].glob("seed-*/result.json")}
    assert main(["verify", "kmeans", "--json"]) == 0
    assert {path: path.stat().st_mtime_ns for path in folders[0].glob("seed-*/result.json")} == before, (
        "finished seeds run once"
    )


@pytest.mark.parametrize("known", [0, 3])
def test_what_is_finished_when_it_stops_is_recorded(results, monkeypatch, capsys, known: int) -> None:
    entry = catalog.find("kmeans")
    for claim in entry.claims if known else []:
        record.record_claim(entry.path, claim, {"values": [1.0] * known, "seeds": [*range(known)]})
    stage_started = Progress.stage_started

    def asks(self: Progress, stage: Mapping[str, Any]) -> None:
        stage_started(self, stage)
        if self.folder.name == "seed-2":
            os.kill(os.getpid(), signal.SIGTERM)

    with monkeypatch.context() as patched:
        patched.setattr(Progress, "stage_started", asks)
        assert main(["verify", "kmeans", "--claim", "1"]) == 143
    assert "  do     fuxian verify kmeans --claim 1     goes on, to the same bits" in capsys.readouterr().err
    written = {one["metric"]: one for one in json.loads((results / "basics.kmeans.json").read_text())["claims"]}
    if known:  # a record of more seeds stays
        assert written["train/inertia"]["values"] == [1.0] * known
        return
    assert list(written) == ["train/inertia"]  # the other was not asked for
    assert written["train/inertia"]["seeds"] == [0, 1]
    assert written["train/inertia"]["values"] == [pytest.approx(78.8514, abs=1e-4)] * 2
    claim = next(proof for proof in card(entry) if proof.kind == "claim")
    assert claim.mark == "part"
    assert main(["verify", "kmeans"]) == 0
    written = json.loads((results / "basics.kmeans.json").read_text())["claims"]
    assert [one["seeds"] for one in written] == [[0, 1, 2, 3, 4]] * 2


def test_one_claim_is_chosen_by_its_number_or_its_place(results, tmp_path, monkeypatch, capsys) -> None:
    near, far = Claim("train/inertia", 78.8514, where="Table 1", tolerance=0.001, seeds=1, better="lower"), "a GPU"
    claims = [near, replace(near, where="Table 2, large", needs=far), replace(near, where="Table 2, larger", needs=far)]
    entry = replace(catalog.find("kmeans"), claims=claims)
    monkeypatch.setattr(catalog, "find", lambda name: entry)

    def verified(*words: str) -> list[tuple[str, str]]:
        assert main(["verify", "kmeans", "--json", *words]) == 0
        return [(one["where"], one["verdict"]) for one in json.loads(capsys.readouterr().out)["claims"]]

    assert verified("--claim", "1") == [("Table 1", "reproduced")]
    assert verified("--claim", "table 1") == [("Table 1", "reproduced")]
    assert verified("--claim", "Table") == [
        ("Table 1", "reproduced"),
        ("Table 2, large", "at scale only"),
        ("Table 2, larger", "at scale only"),
    ]
    assert verified("--claim", "3") == [("Table 2, larger", "reproduced")]  # chosen alone: what it needs is at hand
    assert len(json.loads((results / "basics.kmeans.json").read_text())["claims"]) == 2
    assert main(["verify", "kmeans", "--claim", "Table 2"]) == 2
    assert "kmeans has no claim that can be run here" in capsys.readouterr().err
    assert main(["verify", "kmeans", "--claim", "Tabel 1"]) == 2
    assert "kmeans has no claim at 'Tabel 1'; the nearest is Table 1" in capsys.readouterr().err
    claims[:2] = []  # one is left, and is not chosen
    assert main(["verify", "kmeans"]) == 2
    assert "kmeans has no claim that can be run here" in capsys.readouterr().err
    assert main(["verify"]) == 2
    assert "verify needs a METHOD" in capsys.readouterr().err


STAGE = dict(name="fine-tune", train=6920, val=872, test=1821, select="-loss", stopped_early=False)
FIRST = dict(name="pretrain", train=100, val=None, test=None, select=None, stopped_early=True)


@pytest.mark.parametrize(
    ("metric", "told"),
    [
        ("test/accuracy", "test, 1,821 examples, read once a seed; the weights are the best by val/loss"),
        ("fine-tune/test/accuracy", "test, 1,821 examples, read once a seed; the weights are the best by val/loss"),
        ("val/loss", "val, 872 examples, which it was chosen by; the weights are the best by val/loss"),
        (
            "pretrain/train/loss",
            "train, 100 examples, the fit itself; the weights are those of the last step; stopped by val",
        ),
        ("forgetting", "of the whole run, returned by its recipe"),
    ],
)
def test_the_protocol_is_read_from_the_run(metric: str, told: str) -> None:
    assert protocol(metric, {"stages": [FIRST, STAGE]}) == told


def test_val_that_chose_nothing_is_not_said_to() -> None:
    told = protocol("val/loss", {"stages": [STAGE | {"select": None}]})
    assert told == "val, 872 examples, which chose nothing; the weights are those of the last step"


def test_weights_that_a_rule_kept_are_told_by_its_name() -> None:
    told = protocol("test/loss", {"stages": [STAGE | {"select": "rule best_of_both"}]})
    assert told.endswith("; the weights are the last that best_of_both of the recipe kept, by validation")


def test_a_claim_that_falls_short_is_exit_1(results, monkeypatch, capsys) -> None:
    entry = catalog.find("kmeans")
    better = [catalog.Claim("train/ari", 0.9, where="nowhere", tolerance=0.01, seeds=1)]
    monkeypatch.setattr(catalog, "find", lambda name: entry.__class__(**{**vars(entry), "claims": better}))
    assert main(["verify", "kmeans"]) == 1
    assert "short by 0.17" in capsys.readouterr().out


@pytest.mark.slow
def test_a_stage_without_data_is_recorded_too(results, monkeypatch) -> None:
    entry = catalog.find("style_transfer")
    quick = [catalog.Claim("style", None, where="its quick setting", seeds=1, better="lower", knobs=entry.quick)]
    monkeypatch.setattr(catalog, "find", lambda name: entry.__class__(**{**vars(entry), "claims": quick}))
    assert main(["verify", "style_transfer", "--json"]) == 0
    (written,) = json.loads((results / "vision.style_transfer.json").read_text())["claims"]
    assert 0 < written["mean"] < 1
    assert list(written["data"]) == ["patches"]


def test_a_claim_s_knob_may_be_a_list(results, tmp_path, monkeypatch, capsys) -> None:
    claim = Claim("test/accuracy", None, where="nowhere", seeds=1, knobs=dict(data="digits", hidden=(16, 8), epochs=1))
    entry = replace(catalog.find("mlp"), claims=[claim])
    monkeypatch.setattr(catalog, "find", lambda name: entry)
    assert main(["verify", "mlp"]) == 0
    (folder,) = (tmp_path / "runs/basics.mlp").iterdir()
    assert folder.name.startswith("verify-data-digits-hidden--16-8--epochs-1-1-seeds-")


def test_what_cannot_be_verified_is_one_line(tmp_path, capsys) -> None:
    mine = tmp_path / "mine.py"
    mine.write_text("PAPER = None\ndef recipe(lr: float = 0.1):\n    yield 1\n")
    assert main(["verify", str(mine)]) == 2
    assert "is a file of your own; verify records the claims of methods that ship" in capsys.readouterr().err
