"""Whether a published number was reproduced. Nothing here imports torch."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import isfinite, nan
from pathlib import Path
from statistics import fmean, stdev
from typing import Any, Literal

from fuxian.facts import Claim

Word = Literal["reproduced", "above", "short", "comparison", "measured", "at scale only", "in part", "not yet"]
Mark = Literal["ok", "short", "part", "scale", "none"]

_MARKS: dict[Word, Mark] = {
    "reproduced": "ok",
    "above": "ok",
    "short": "short",
    "comparison": "scale",
    "measured": "scale",
    "at scale only": "scale",
    "in part": "part",
    "not yet": "none",
}


@dataclass(frozen=True)
class Verdict:
    """A claim beside our numbers, all in the metric's own unit.

    `mean` is NaN where nothing was run; `gap` there too, and where no number is published.
    """

    claim: Claim
    word: Word
    values: tuple[float, ...]  # one a seed
    mean: float
    std: float  # of the sample, n - 1; NaN for fewer than two values
    gap: float  # mean - published value; its sign says nothing about better or worse

    @property
    def mark(self) -> Mark:
        return _MARKS[self.word]

    @property
    def decided(self) -> bool:
        """Whether the evidence is enough to say that the claim holds or does not."""
        return self.word in ("reproduced", "above", "short")

    @property
    def counted(self) -> str:
        """The seeds that it stands on: `3`, or `1 of 3` where the claim asks for more; nothing without a run."""
        n = len(self.values)
        return f"{n} of {self.claim.seeds}" if 0 < n < self.claim.seeds else str(n or "")

    @property
    def outside(self) -> float:
        """By how much the mean is beyond the tolerance, on either side; 0 inside it."""
        return max(0.0, abs(self.gap) - self.claim.tolerance) if isfinite(self.gap) else nan

    @property
    def title(self) -> str:
        """`Reproduced`, or for too few seeds why that is no verdict."""
        if self.word == "in part":
            n = len(self.values)
            return "One seed: a run, not a verdict" if n == 1 else f"{n} of {self.claim.seeds} seeds: not yet a verdict"
        return self.word.capitalize()


def verdict(claim: Claim, values: Sequence[float]) -> Verdict:
    """Judges a claim by the metric's values, one a seed.

    reproduced      at the claim's seeds the mean is not worse than its value by more than its tolerance
    above           better by more than the tolerance: look for the reason in the protocol
    short           worse by more than the tolerance, or not a number
    comparison      the setting is another than the published one
    measured        no number is published
    at scale only   it needs what was not at hand, and nothing was run
    in part         fewer seeds than the claim asks for
    not yet         nothing was run
    """
    mean, std = mean_std(values)
    gap = nan if claim.value is None else mean - claim.value
    return Verdict(claim, _word(claim, values, gap), tuple(values), mean, std, gap)


def mean_std(values: Sequence[float]) -> tuple[float, float]:
    """Mean and sample standard deviation; NaN where there are too few values, or one is not a number."""
    if not all(map(isfinite, values)):
        return nan, nan
    return (fmean(values) if values else nan), (stdev(values) if len(values) > 1 else nan)


def _word(claim: Claim, values: Sequence[float], gap: float) -> Word:
    if not values:
        return "at scale only" if claim.needs else "not yet"
    if claim.value is None:
        return "measured"
    if claim.comparison:
        return "comparison"
    if len(values) < claim.seeds:
        return "in part"
    if not isfinite(gap):
        return "short"
    ahead = {"higher": gap, "lower": -gap, "equal": -abs(gap)}[claim.better]
    edge = claim.tolerance + 1e-9 * max(abs(claim.value), claim.tolerance)  # 0.815 - 0.805 > 0.01 in floats
    return "above" if ahead > edge else "short" if ahead < -edge else "reproduced"


def choose(claims: Sequence[Claim], words: str) -> list[Claim]:
    """The claim of that number, counted from 1 in the method's order, or those whose place holds these words."""
    if words.isdecimal() and 0 < int(words) <= len(claims):
        return [claims[int(words) - 1]]
    return [claim for claim in claims if words.casefold() in claim.where.casefold()]


def matching(
    claims: Iterable[Claim],
    knobs: Mapping[str, Any],
    defaults: Mapping[str, Any],
    *,
    limit: int | None = None,
    precision: str = "float32",
) -> list[Claim]:
    """The claims that a run speaks about: each of its `knobs` is the claim's, or else the default.

    `knobs` and `defaults` are `{name: value}`. A limited run speaks about none, nor does one in less than float32.
    """
    if limit is not None or precision != "float32":
        return []
    return [claim for claim in claims if _plain({**defaults, **claim.knobs}) == _plain({**defaults, **knobs})]


def _plain(value: Any) -> Any:
    """As it comes back from JSON: paths are text, tuples are lists."""
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, Mapping):
        return {str(key): _plain(one) for key, one in value.items()}
    return [_plain(one) for one in value] if isinstance(value, list | tuple) else value
