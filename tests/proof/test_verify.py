"""Verification: the claim's seeds are run once, recorded whole, and judged."""

from __future__ import annotations

import json

import pytest

from fuxian import catalog
from fuxian.cli import main
from fuxian.proof import record
from fuxian.proof.card import card


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
    assert inertia["resolved"] == {"data": "iris", "clusters": 3, "starts": 10, "steps": 100}
    claim = next(proof for proof in card(catalog.find("kmeans")) if proof.kind == "claim")
    assert (claim.mark, claim.word) == ("ok", "2 of 2")

    before = {path: path.stat().st_mtime_ns for path in folders[0].glob("seed-*/result.json")}
    assert main(["verify", "kmeans", "--json"]) == 0
    assert {path: path.stat().st_mtime_ns for path in folders[0].glob("seed-*/result.json")} == before, (
        "finished seeds run once"
    )


def test_a_claim_that_falls_short_is_exit_1(results, monkeypatch, capsys) -> None:
    entry = catalog.find("kmeans")
    better = [catalog.Claim("train/ari", 0.9, where="nowhere", tolerance=0.01, seeds=1)]
    monkeypatch.setattr(catalog, "find", lambda name: entry.__class__(**{**vars(entry), "claims": better}))
    assert main(["verify", "kmeans"]) == 1
    assert "short by 0.17" in capsys.readouterr().out


def test_what_cannot_be_verified_is_one_line(tmp_path, capsys) -> None:
    mine = tmp_path / "mine.py"
    mine.write_text("PAPER = None\ndef recipe(lr: float = 0.1):\n    yield 1\n")
    assert main(["verify", str(mine)]) == 2
    assert "is a file of your own; verify records the claims of methods that ship" in capsys.readouterr().err
