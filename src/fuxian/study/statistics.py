"""What paired seeds can tell: means with intervals, and differences between two methods."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import isfinite, nan, sqrt
from typing import Literal

from fuxian.proof.claims import mean_std

LEVEL = 0.95
Word = Literal["better", "worse", "cannot tell"]


@dataclass(frozen=True)
class Difference:
    """One method less another, paired by seed, in the metric's own unit. NaN where there are fewer than two pairs."""

    values: dict[int, float]  # by seed, of those that both have finished
    mean: float
    std: float
    low: float  # the interval, widened for the number of comparisons
    high: float
    word: Word  # what the first is, beside the second
    why: str = ""  # it cannot be told, or another way than by the interval


def interval(values: Sequence[float], comparisons: int = 1) -> tuple[float, float]:
    """Student's t interval of the mean at 95 %, widened so that so many hold at once (Bonferroni); NaN below two values."""
    from scipy import stats  # half a second

    mean, std = mean_std(values)
    if not isfinite(std):
        return nan, nan
    half = float(stats.t.ppf(1 - (1 - LEVEL) / (2 * comparisons), len(values) - 1)) * std / sqrt(len(values))
    return mean - half, mean + half


def difference(
    ours: Mapping[int, float], theirs: Mapping[int, float], seeds: Sequence[int], comparisons: int, better: str
) -> Difference:
    """`ours` less `theirs`, values by seed. It is *better* or *worse* where the interval leaves zero out.

    Where every seed differs by the same amount an interval has no width and says nothing. Then the sign decides, by the
    sign test: so many seeds on one side by chance have the probability 2^(1 - n). Nothing is told where a seed is missing:
    those that fail are not drawn by chance.
    """
    paired = {seed: ours[seed] - theirs[seed] for seed in seeds if seed in ours and seed in theirs}
    values = [value for value in paired.values() if isfinite(value)]
    mean, std = mean_std(values)
    low, high = interval(values, comparisons)
    same = isfinite(std) and std <= 1e-9 * max(abs(v) for v in [*ours.values(), *theirs.values(), 1e-300])
    if len(values) < len(seeds):
        word, why = "cannot tell", f"{len(values)} of {len(seeds)} seeds"
    elif len(values) < 2:
        word, why = "cannot tell", "one seed: no difference can be told"
    elif same:
        told = mean != 0 and comparisons * 2.0 ** (1 - len(values)) < 1 - LEVEL
        word, why = _side(mean, better) if told else "cannot tell", "no spread"
    else:
        word, why = (_side(mean, better) if low > 0 or high < 0 else "cannot tell"), ""
    return Difference(paired, mean, 0.0 if same else std, mean if same else low, mean if same else high, word, why)


def _side(mean: float, better: str) -> Word:
    return "better" if (mean > 0) == (better == "higher") else "worse"
