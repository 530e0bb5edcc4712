"""What paired seeds can tell, against scipy's own tests."""

from __future__ import annotations

import random
from math import isnan, nan

import pytest
from scipy import stats

from fuxian.facts import Claim
from fuxian.numbers import better
from fuxian.study.statistics import difference, interval

SEEDS = range(10)


def values(mean: float, std: float, seed: int) -> dict[int, float]:
    draw = random.Random(seed)
    return {s: draw.gauss(mean, std) for s in SEEDS}


@pytest.mark.parametrize("comparisons", [1, 4])
def test_the_interval_is_that_of_the_paired_t_test(comparisons: int) -> None:
    ours, theirs = values(0.82, 0.01, 1), values(0.81, 0.01, 2)
    told = difference(ours, theirs, SEEDS, comparisons, "higher")
    paired = stats.ttest_rel(list(ours.values()), list(theirs.values()))
    expected = paired.confidence_interval(1 - 0.05 / comparisons)
    assert told.mean == pytest.approx(sum(ours.values()) / 10 - sum(theirs.values()) / 10)
    assert (told.low, told.high) == pytest.approx((expected.low, expected.high))


def test_the_word_is_that_of_the_widened_p_value() -> None:
    """Over many draws: better or worse exactly where the test's p is below 5 % divided by the comparisons."""
    words = set()
    for draw in range(60):
        ours, theirs = values(0.80 + 0.0004 * (draw - 30), 0.01, draw), values(0.80, 0.01, 1000 + draw)
        told = difference(ours, theirs, SEEDS, 3, "higher")
        p = stats.ttest_rel(list(ours.values()), list(theirs.values())).pvalue
        assert (told.word != "cannot tell") == (p < 0.05 / 3)
        assert told.word == "cannot tell" or (told.word == "better") == (told.mean > 0)
        words.add(told.word)
    assert words == {"better", "worse", "cannot tell"}


def test_pairing_sees_what_two_samples_hide() -> None:
    base = values(0.8, 0.05, 3)  # seeds differ much, the methods little, and always to the same side
    ours = {seed: value + 0.01 + 0.001 * (seed % 3) for seed, value in base.items()}
    assert difference(ours, base, SEEDS, 1, "higher").word == "better"
    assert stats.ttest_ind(list(ours.values()), list(base.values())).pvalue > 0.5


def test_lower_may_be_better() -> None:
    ours, theirs = values(0.1, 0.001, 1), values(0.2, 0.001, 2)
    assert difference(ours, theirs, SEEDS, 1, "lower").word == "better"
    assert difference(ours, theirs, SEEDS, 1, "higher").word == "worse"


def test_without_spread_the_sign_test_decides() -> None:
    flat, above = {s: 0.8 for s in SEEDS}, {s: 0.9 for s in SEEDS}
    assert difference(flat, flat, SEEDS, 1, "higher").word == "cannot tell"
    told = difference(above, flat, SEEDS, 1, "higher")
    assert (told.word, told.why, told.std) == ("better", "no spread", 0.0)
    for n in (2, 5, 6, 9):  # 2^(1 - n) < 5 % from six seeds on, and divided by 12 from nine on
        assert (difference(above, flat, range(n), 1, "higher").word == "better") == (n >= 6)
        assert (difference(above, flat, range(n), 12, "higher").word == "better") == (n >= 9)


def test_nothing_is_told_of_one_seed_or_where_one_is_missing() -> None:
    ours, theirs = values(0.9, 0.01, 1), values(0.1, 0.01, 2)
    one = difference({0: 0.9}, {0: 0.1}, [0], 1, "higher")
    assert (one.word, one.why) == ("cannot tell", "one seed: no difference can be told")
    assert isnan(one.low)
    del theirs[4]
    told = difference(ours, theirs, SEEDS, 1, "higher")
    assert (told.word, told.why) == ("cannot tell", "9 of 10 seeds")
    assert difference(ours, {**values(0.1, 0.01, 2), 3: nan}, SEEDS, 1, "higher").word == "cannot tell"


def test_an_interval_of_one_value_is_not_a_number() -> None:
    assert all(map(isnan, interval([0.5])))
    assert all(map(isnan, interval([])))


def test_which_way_is_better() -> None:
    assert better("test/accuracy") == "higher"
    assert {better(name) for name in ("test/loss", "val/top5_error", "train/inertia", "test/perplexity")} == {"lower"}
    assert better("loss/accuracy") == "higher"  # the stage's name does not count
    claim = Claim("test/score", 1.0, where="Table 1", tolerance=0.1, seeds=1, better="lower")
    assert better("test/score", [claim]) == "lower"
    assert better("test/other", [claim]) == "higher"
