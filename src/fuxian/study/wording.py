"""A study in words: what the terminal and the page both say."""

from __future__ import annotations

from collections.abc import Sequence
from math import isfinite

from fuxian.numbers import NONE, place, plural, scale, signed
from fuxian.study.outcome import Comparison, Row, Sweep
from fuxian.study.statistics import Difference


def range_of(seeds: Sequence[int]) -> str:
    """` (0 to 9)`, ` (3, 5)`; nothing for one."""
    if len(seeds) == 1:
        return ""
    whole = list(seeds) == list(range(seeds[0], seeds[-1] + 1))
    return f" ({seeds[0]} to {seeds[-1]})" if whole else f" ({', '.join(map(str, seeds))})"


def spread(row: Row, metric: str, count: float | None) -> str:
    """`81.7 ± 0.6`, and how many seeds where some are missing; no unit."""
    values = list(row.values(metric).values())
    if not values:
        return "failed"
    return scale(metric, values, count=count).spread(*row.mean_std(metric))


def count_of(row: Row, metric: str) -> float | None:
    return next(iter(row.runs.values())).counts.get(metric) if row.runs else None


def difference_texts(told: Difference, metric: str) -> tuple[str, str, str]:
    """Mean, low and high end, with one place more than their spread has; no interval where there is no spread."""
    written = scale(metric, list(told.values.values()))
    if not isfinite(told.mean):
        return NONE, "", ""
    factor = written.factor
    if not told.std > 0:
        exact = scale(metric, [told.mean], literals=[round(told.mean, 4)])
        return exact.gap(told.mean), "", ""
    digits = min(6, place(told.std * factor) + 1)
    return signed(told.mean * factor, digits), signed(told.low * factor, digits), signed(told.high * factor, digits)


def caution(found: Comparison) -> list[str]:
    """What the numbers stand on, and what they do not tell."""
    n, others = len(found.study.seeds), len(found.rows) - 1
    if n == 1:
        return ["One seed: no difference can be told. Give --seeds 5, or more."]
    widened = f", widened for {plural(others, 'comparison')}" if others > 1 else ""
    lines = [f"Intervals are paired t{widened}. The seeds vary the training, not a split that is fixed."]
    if any(told and told.why == "no spread" for told in found.differences):
        lines.append("A difference that is the same in every seed has no interval: the sign test judges it.")
    return lines


def best_lines(found: Sweep) -> list[str]:
    """Which point is best, by what, and how far that can be believed."""
    if not found.best.runs or not isfinite(found.best.mean_std(found.select)[0]):
        return ["No point came to its end in every seed."]
    number = scale(found.metric).with_unit(spread(found.best, found.metric, count_of(found.best, found.metric)))
    split = found.select.split("/")[-2] if "/" in found.select else ""
    by = {"val": "validation", "train": "the fit", "test": "the test set"}.get(split, found.select)
    lines = [f"Best by {by}: {found.best.member.called}; {found.metric} {number}."]
    if found.unsure:
        lines.append(f"{plural(found.unsure, 'other point')} cannot be told from it by these seeds.")
    if found.optimistic:
        lines.append(f"Without a validation split the test set has chosen: the best of {len(found.rows)} is optimistic.")
    return lines
