"""Verdicts: each word at its edge, in both directions."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from math import isnan, nan
from pathlib import Path
from typing import Any

import pytest

from fuxian.facts import Claim
from fuxian.proof.claims import matching, verdict

HIGHER = Claim("test/accuracy", 0.815, where="Table 2", tolerance=0.010, seeds=3)
LOWER = Claim("test/error", 0.0095, where="Fig. 9", tolerance=0.0010, seeds=3, better="lower")
EXACT = Claim("w", 1.8428, where="by arithmetic", tolerance=5e-5, seeds=3, better="equal")
UNPUBLISHED = Claim("style", None, where="no number is published", seeds=3, better="lower")


@pytest.mark.parametrize(
    ("claim", "values", "word", "mark"),
    [
        (HIGHER, [0.815] * 3, "reproduced", "ok"),
        (HIGHER, [0.805] * 3, "reproduced", "ok"),  # just at the tolerance, which floats put beyond it
        (HIGHER, [0.825] * 3, "reproduced", "ok"),
        (HIGHER, [0.8049] * 3, "short", "short"),
        (HIGHER, [0.8251] * 3, "above", "ok"),
        (HIGHER, [0.70, 0.93, 0.815], "reproduced", "ok"),  # the mean, not each seed
        (HIGHER, [nan, 0.815, 0.815], "short", "short"),
        (HIGHER, [0.815] * 2, "in part", "part"),
        (HIGHER, [0.3], "in part", "part"),
        (HIGHER, [], "not yet", "none"),
        (LOWER, [0.0105] * 3, "reproduced", "ok"),
        (LOWER, [0.0106] * 3, "short", "short"),
        (LOWER, [0.0084] * 3, "above", "ok"),
        (replace(LOWER, tolerance=0.0), [0.0095] * 3, "reproduced", "ok"),
        (EXACT, [1.84281] * 3, "reproduced", "ok"),
        (EXACT, [1.8420] * 3, "short", "short"),
        (EXACT, [1.8430] * 3, "short", "short"),  # on the other side, too
        (replace(HIGHER, needs="a GPU"), [], "at scale only", "scale"),
        (replace(HIGHER, needs="a GPU"), [0.815] * 3, "reproduced", "ok"),  # then it was at hand
        (replace(HIGHER, comparison="half the data"), [0.815] * 3, "comparison", "scale"),
        (replace(HIGHER, comparison="half the data"), [0.1], "comparison", "scale"),
        (UNPUBLISHED, [0.3] * 3, "measured", "scale"),
        (UNPUBLISHED, [], "not yet", "none"),
        (replace(UNPUBLISHED, needs="a GPU"), [], "at scale only", "scale"),
    ],
)
def test_words(claim: Claim, values: list[float], word: str, mark: str) -> None:
    judged = verdict(claim, values)
    assert (judged.word, judged.mark) == (word, mark)


def test_numbers() -> None:
    judged = verdict(HIGHER, [0.80, 0.79, 0.78])
    assert judged.mean == pytest.approx(0.79)
    assert judged.std == pytest.approx(0.01)  # of the sample: n - 1
    assert judged.gap == pytest.approx(-0.025)
    assert judged.outside == pytest.approx(0.015)
    assert verdict(LOWER, [0.0095] * 3).outside == 0
    assert isnan(verdict(HIGHER, [0.8]).std)
    assert isnan(verdict(HIGHER, []).mean)
    measured = verdict(UNPUBLISHED, [0.2, 0.3, 0.4])
    assert measured.mean == pytest.approx(0.3)
    assert isnan(measured.gap)
    assert not measured.decided


def test_too_few_seeds_say_so() -> None:
    assert verdict(HIGHER, [0.8]).title == "One seed: a run, not a verdict"
    assert verdict(HIGHER, [0.8, 0.8]).title == "2 of 3 seeds: not yet a verdict"
    assert verdict(replace(HIGHER, seeds=1), [0.815]).title == "Reproduced"


DEFAULTS: dict[str, Any] = {"data": "cora", "hidden": 16, "widths": (8, 8)}
CORA = HIGHER
PUBMED = replace(HIGHER, knobs={"data": "pubmed"})


@pytest.mark.parametrize(
    ("knobs", "settings", "found"),
    [
        (DEFAULTS, {}, [CORA]),
        (DEFAULTS | {"widths": [8, 8]}, {}, [CORA]),  # as JSON has it
        (DEFAULTS | {"data": "pubmed"}, {}, [PUBMED]),
        (DEFAULTS | {"data": Path("pubmed")}, {}, [PUBMED]),
        (DEFAULTS | {"hidden": 32}, {}, []),
        (DEFAULTS | {"data": "pubmed", "hidden": 32}, {}, []),
        (DEFAULTS, {"limit": 5}, []),
        (DEFAULTS, {"precision": "bf16"}, []),
    ],
)
def test_only_the_claims_of_these_knobs(knobs: dict[str, Any], settings: dict[str, Any], found: list[Claim]) -> None:
    assert matching([CORA, PUBMED], knobs, DEFAULTS, **settings) == found


def test_a_claim_about_a_knob_that_is_not_there_holds_for_no_run() -> None:
    assert matching([replace(HIGHER, knobs={"depth": 2})], DEFAULTS, DEFAULTS) == []


def test_cards_need_no_torch() -> None:
    code = "import sys, fuxian.proof.card; assert not {'torch', 'jinja2', 'matplotlib'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize(("seeds", "told"), [(0, ""), (1, "1 of 3"), (3, "3"), (4, "4")])
def test_seeds_are_counted_beside_those_that_the_claim_asks_for(seeds: int, told: str) -> None:
    assert verdict(replace(HIGHER, seeds=3), [0.8] * seeds).counted == told
    assert verdict(replace(HIGHER, seeds=3, comparison="half the data"), [0.8] * seeds).counted == told
