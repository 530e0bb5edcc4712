"""Plots as inline SVG: pure functions from numbers to text. Classes and `var(--…)` carry the colours of light, dark, print.

Numbers come in the unit that is shown. A caller's words are escaped here.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import ceil, floor, isfinite, log10

from markupsafe import Markup, escape

from fuxian.numbers import fixed, general

DASHES = ("", "7 5", "1.5 5", "10 4 1.5 4", "4 4")
_LETTER = 7.6  # units of width that a letter takes at most, at the size that narrow screens get


def ticks(low: float, high: float, about: int = 5) -> list[float]:
    """Round numbers from `low` to `high`, in steps of 1, 2 or 5 times a power of ten."""
    raw = (high - low) / about
    power = 10.0 ** floor(log10(raw))
    step = next(power * m for m in (1, 2, 5, 10) if power * m >= raw * (1 - 1e-9))
    return [round(i * step, 12) for i in range(ceil(low / step - 1e-9), floor(high / step + 1e-9) + 1)]


def _tick_texts(values: Sequence[float]) -> list[str]:
    step = min((b - a for a, b in pairwise(values)), default=1.0)
    digits = max(0, -floor(log10(step) + 1e-9)) if step else 0
    return [fixed(value, digits) for value in values]


def _svg(width: float, height: float, label: str, parts: Sequence[str], style: str = "") -> Markup:
    attributes = f' style="{style}"' if style else ""
    return Markup(
        f'<svg class="p"{attributes} viewBox="0 0 {width:g} {height:g}" role="img" aria-label="{escape(label)}">'
        + "".join(parts)
        + "</svg>"
    )


def _text(x: float, y: float, words: str, kind: str = "", anchor: str = "") -> str:
    kind = f' class="{kind}"' if kind else ""
    anchor = f' text-anchor="{anchor}"' if anchor else ""
    return f'<text{kind} x="{x:.1f}" y="{y:.1f}"{anchor}>{escape(words)}</text>'


# ── the result ──────────────────────────────────────────────────────────────────────────────────────────────────────


def strip(
    label: str,
    paper: float,
    tolerance: float,
    values: Sequence[float],
    *,
    write: Callable[[float], str],
    mean: float | None = None,
    std: float | None = None,
    unit: str = "",
    note: str = "",
    reference: float | None = None,
) -> Markup:
    """One claim on one axis: the paper's number as a bar with its hatched tolerance, a disc a seed, the mean a diamond.

    With one value there is the diamond alone; with none a `note` says so. `reference` is the number that the authors'
    code gives. `write` makes a value's text.
    """
    values = [value for value in values if isfinite(value)]
    base, height = (124, 158) if values else (76, 110)
    shown = [paper, *values] + ([reference] if reference is not None else [])
    if values:
        shown += [paper - tolerance, paper + tolerance]
    low, high = min(shown), max(shown)
    room = 0.14 * (high - low) or 0.1 * abs(paper) or 1.0
    low, high = low - room, high + 2.5 * room  # more on the right, where the words stand
    if not values:
        low, high = min(0.0, 2 * paper), max(0.0, 2 * paper) or 1.0
    marks = ticks(low, high, 5)
    x = lambda value: 10 + 400 * (value - low) / (high - low)
    centre = x(paper)
    parts = []
    left, right = x(paper - tolerance), x(paper + tolerance)
    if values and tolerance > 0:
        parts.append(f'<rect x="{left:.1f}" y="44" width="{right - left:.1f}" height="{base - 44}" fill="url(#hatch)"/>')
    axis = "".join(f"M{x(mark):.1f} {base}v4" for mark in marks)
    parts.append(f'<path class="a" d="M10 {base}H410{axis}"/>')
    for mark, words in zip(marks, _tick_texts(marks), strict=True):
        last = f"\u202f{unit}" if unit and mark == marks[-1] else ""
        parts.append(_text(x(mark), base + 18, words + last, "t", "middle"))
    parts.append(f'<path class="a" style="stroke-width:2" d="M{centre:.1f} 24V{base}"/>')
    words = f"paper {write(paper)}"
    half = len(words) * _LETTER / 2
    parts.append(_text(min(max(centre, half), 420 - half), 14, words, "", "middle"))
    if values and tolerance > 0:
        words = f"tolerance ± {write(tolerance)}"
        if right + 6 + len(words) * 6.5 < 425:
            parts.append(_text(right + 6, 54, words, "t"))
        elif left - 6 > len(words) * 6.5:
            parts.append(_text(left - 6, 54, words, "t", "end"))
        else:
            parts.append(_text(right - 6, 40, words, "t", "end"))
    if reference is not None:
        at, words = x(reference), f"authors’ code {write(reference)}"
        parts.append(f'<path class="a" stroke-dasharray="2 2.5" d="M{at:.1f} 30V{base}"/>')
        before = at <= centre if len(words) * 6.5 + 6 < at else False
        parts.append(_text(at - 6 if before else at + 6, 36, words, "t", "end" if before else ""))
    if len(values) == 1:
        at = x(values[0])
        parts.append(f'<path class="f0" d="M{at:.1f} {base - 17}l8 8-8 8-8-8z"/>')
        parts.append(_beside(at - 14, at + 14, base - 5, f"this run {write(values[0])}", centre))
    elif values and mean is not None and std is not None:
        parts += [
            f'<circle class="f0" cx="{at:.1f}" cy="{y:.1f}" r="3.6" stroke="var(--paper)"/>'
            for at, y in _pile(sorted(map(x, values)), base - 9)
        ]
        left, right = x(mean - std), x(mean + std)
        inside = [max(10.0, left), min(410.0, right)]
        ends = "".join(f"M{end:.1f} 71v8" for end in inside)
        parts.append(f'<path class="c0" stroke-width="2" fill="none" d="M{inside[0]:.1f} 75H{inside[1]:.1f}{ends}"/>')
        parts.append(f'<path class="f0" d="M{x(mean):.1f} 69l6 6-6 6-6-6z"/>')
        parts.append(_beside(inside[0] - 9, inside[1] + 9, 79.5, f"ours {write(mean)} ± {write(std)}", centre))
    if note:
        parts.append(_text(410, base - 10, note, "t halo", "end"))
    return _svg(420, height, label, parts, "max-width:32rem")


def _beside(left: float, right: float, y: float, words: str, bar: float) -> str:
    """Right of a mark, unless the paper's bar or the edge is in the way and there is room on the left."""
    end = right + len(words) * _LETTER
    if (end < 430 and not right < bar < end) or left < len(words) * _LETTER:
        return _text(right, y, words, "b halo")
    return _text(left, y, words, "b halo", "end")


def _pile(xs: Sequence[float], floor_y: float, apart: float = 8.3, most: int = 4) -> list[tuple[float, float]]:
    """Discs that do not cover each other, each as low as it can be; many seeds press the rows together."""
    rows: list[float] = []  # where each row ends
    placed = []
    for at in xs:
        row = next((i for i, end in enumerate(rows) if at - end >= apart), len(rows))
        rows[row:] = [at, *rows[row + 1 :]]
        placed.append((at, row))
    step = min(9.0, 9.0 * most / max(1, len(rows)))
    return [(at, floor_y - step * row) for at, row in placed]


# ── methods beside each other ───────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True)
class Series:
    """The seeds of one method, or their paired differences from another's; `paper` is its published number."""

    name: str
    values: Sequence[float]
    interval: tuple[float, float]  # of the mean; NaN where there is none
    paper: float | None = None
    ours: bool = False


def beside(
    label: str, quantity: str, series: Sequence[Series], *, write: Callable[[float], str], zero: bool = False
) -> Markup:
    """A row each: a disc a seed, the mean a diamond, its interval a line, the paper's number an upright bar.

    A row that would press the others together is left off the axis, and written with an arrow. `zero` draws a line there.
    """
    shown = [one for one in series if any(map(isfinite, one.values))]
    if not shown:
        return Markup("")
    centre = lambda one: sum(v for v in one.values if isfinite(v)) / sum(map(isfinite, one.values))
    start = 0.0 if zero else centre(shown[0])
    low = high = start
    off = []
    for one in sorted(shown, key=lambda one: abs(centre(one) - start)):
        ends = [v for v in (*one.values, *one.interval, *([] if one.paper is None else [one.paper])) if isfinite(v)]
        wide = max(high, *ends) - min(low, *ends)
        if high > low and wide > 8 * (high - low):
            off.append(one)
        else:
            low, high = min(low, *ends), max(high, *ends)
    room = 0.06 * (high - low) or 0.05 * abs(high) or 0.5
    low, high = low - room, high + room
    left, right, top, step = min(170, 12 + 7.6 * max(len(one.name) for one in series)), 416, 26, 46
    base = top + step * len(series)
    x = lambda value: left + (right - left) * (value - low) / (high - low)
    marks = ticks(low, high, 4)
    parts = [_text(0, 12, quantity, "t")]
    parts.append(f'<path class="g" d="{"".join(f"M{x(mark):.1f} {top}V{base}" for mark in marks)}"/>')
    for mark, words in zip(marks, _tick_texts(marks), strict=True):
        sign = "+" if zero and mark > 0 else ""
        parts.append(_text(x(mark), base + 18, sign + words, "t", "middle"))
    parts.append(f'<path class="a" d="M{left:g} {base}H{right}"/>')
    if zero and low < 0 < high:
        parts.append(f'<path class="a" style="stroke-width:1.5" d="M{x(0):.1f} {top}V{base}"/>')
    for i, one in enumerate(series):
        y, colour = top + step * i + 18.0, 0 if one.ours else 4
        parts.append(_text(0, y + 4.5, one.name, "b" if one.ours else ""))
        if one not in shown:
            parts.append(_text(left + 22, y + 4.5, "no seed came to its end", "t"))
            continue
        if one in off:
            above = centre(one) > high
            tip, words = (right - 4, f"{write(centre(one))}, off the axis") if above else (left + 8, "")
            parts.append(f'<path class="a" fill="none" d="M{tip:.1f} {y}h{-14 if above else 14}M{tip:.1f} {y}'
                         f'l{-5 if above else 5}-4.5m{5 if above else -5} 4.5l{-5 if above else 5} 4.5"/>')  # fmt: skip
            words = words or f"{write(centre(one))}, off the axis"
            parts.append(_text(tip - 20 if above else tip + 20, y + 4.5, words, "t", "end" if above else ""))
            continue
        discs = sorted(v for v in one.values if isfinite(v))
        parts += [
            f'<circle class="f{colour}" opacity=".4" cx="{x(value):.1f}" cy="{y + 10 + 2.5 * (j % 3):.1f}" r="3"/>'
            for j, value in enumerate(discs)
        ]
        if all(map(isfinite, one.interval)):
            ends = [x(end) for end in one.interval]
            parts.append(f'<path class="c{colour}" stroke-width="2" fill="none" d="M{ends[0]:.1f} {y}H{ends[1]:.1f}"/>')
        parts.append(f'<path class="f{colour}" d="M{x(centre(one)):.1f} {y - 6:.1f}l6 6-6 6-6-6z"/>')
        if one.paper is not None:
            parts.append(f'<path class="a" style="stroke-width:2" d="M{x(one.paper):.1f} {y - 10:.1f}v20"/>')
    return _svg(430, base + 36, label, parts)


def effect(
    label: str, quantity: str, knob: str, levels: Sequence[tuple[str, float | None, Sequence[float]]], *, log: bool = False
) -> Markup:
    """A knob's effect: for each of its values a disc a point of the grid, and a line through their means, the diamonds.

    `levels` are (text, number or None, values) in the order of the axis; with numbers their places are to scale, or to
    that of their logarithms, which the axis then says.
    """
    everything = [v for _, _, values in levels for v in values if isfinite(v)]
    if not everything:
        return Markup("")
    left, right, top, base = 52, 406, 26, 190
    low, high = min(everything), max(everything)
    room = 0.12 * (high - low) or 0.05 * abs(high) or 0.5
    low, high = low - room, high + room
    numbers = [number for _, number, _ in levels]
    if any(number is None for number in numbers):
        places = [float(i) for i in range(len(levels))]
    else:
        places = [log10(n) if log else float(n) for n in numbers if n is not None]
    first, wide = places[0], (places[-1] - places[0]) or 1.0
    at_x = lambda place: left + 20 + (right - left - 40) * (place - first) / wide
    at_y = lambda value: base - (base - top) * (value - low) / (high - low)
    marks = ticks(low, high, 4)
    parts = [_text(0, 12, quantity, "t")]
    for mark, words in zip(marks, _tick_texts(marks), strict=True):
        parts.append(_text(left - 7, at_y(mark) + 4, words, "t", "end"))
    parts.append(f'<path class="g" d="{"".join(f"M{left} {at_y(mark):.1f}H{right}" for mark in marks)}"/>')
    across = "".join(f"M{at_x(place):.1f} {base}v4" for place in places)
    parts.append(f'<path class="a" d="M{left} {base}H{right}{across}"/>')
    taken = -1e9  # where the last label ends
    for place, (words, _, _) in zip(places, levels, strict=True):
        half = len(words) * _LETTER / 2
        if at_x(place) - half > taken:
            parts.append(_text(at_x(place), base + 18, words, "t", "middle"))
            taken = at_x(place) + half
    parts.append(_text(left, base + 36, knob + (", logarithmic" if log else ""), "t"))
    means = []
    for place, (_, _, values) in zip(places, levels, strict=True):
        finite = [v for v in values if isfinite(v)]
        parts += [f'<circle class="f4" opacity=".35" cx="{at_x(place):.1f}" cy="{at_y(v):.1f}" r="3"/>' for v in finite]
        if finite:
            means.append((place, sum(finite) / len(finite)))
    parts.append(f'<path class="l c0" d="{_path(means, at_x, at_y)}"/>')
    parts += [f'<path class="f0" d="M{at_x(a):.1f} {at_y(b) - 6:.1f}l6 6-6 6-6-6z"/>' for a, b in means]
    return _svg(430, base + 44, label, parts)


# ── curves ──────────────────────────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True)
class Curve:
    """One line: `xs` ascending; `spread` is the half height of the band round it, if there are several seeds."""

    name: str
    xs: Sequence[float]
    ys: Sequence[float]
    spread: Sequence[float] = ()


def curves(
    label: str, quantity: str, series: Sequence[Curve], *, x: str = "step", until: float = 0, log: bool = False
) -> Markup:
    """Lines over steps from 0 (to `until` at least), `quantity` and unit at the top left, each line's name at its end.

    The y axis begins at zero where nothing is below it, or is logarithmic and says so. What stands far above all the
    rest is left off the axis, and written with an arrow.
    """
    left, right, top, base, width, height = 44, 314, 26, 208, 430, 232
    points = [[(a, b) for a, b in zip(c.xs, c.ys, strict=True) if isfinite(b) and (b > 0 or not log)] for c in series]
    everything = [b for line in points for _, b in line]
    if not everything:
        return Markup("")
    last = max(1, until, *(line[-1][0] for line in points if line))
    low, high, off = _range(everything, log)
    if log:
        low, high = log10(low), log10(high)
    at_x = lambda value: left + (right - left) * value / last

    def at_y(value: float) -> float:
        share = ((log10(max(value, 1e-300)) if log else value) - low) / (high - low)
        return base - (base - top) * max(-0.01, min(1.04, share))

    parts = [_text(0, 12, quantity + (", logarithmic" if log else ""), "t")]
    marks = _log_ticks(low, high) if log else ticks(low, high, 4)
    words = [general(mark) for mark in marks] if log else _tick_texts(marks)
    for mark, text in zip(marks, words, strict=True):
        parts.append(_text(left - 7, at_y(mark) + 4, text, "t", "end"))
    lines_ = "".join(f"M{left} {at_y(mark):.1f}H{right}" for mark in marks if at_y(mark) < base - 0.5)
    parts.append(f'<path class="g" d="{lines_}"/>')
    across = ticks(0, last, 4)
    axis = "".join(f"M{at_x(mark):.1f} {base}v4" for mark in across)
    parts.append(f'<path class="a" d="M{left} {base}H{right}{axis}"/>')
    parts += [_text(at_x(mark), base + 18, general(mark), "t", "middle") for mark in across]
    parts.append(_text(right + 22, base + 18, x, "t"))
    ends = []
    for i, (curve, line) in enumerate(zip(series, points, strict=True)):
        if not line:
            continue
        colour, dash = f"c{i % 5}", DASHES[i % len(DASHES)]
        dash = f' stroke-dasharray="{dash}"' if dash else ""
        if curve.spread:
            band = [
                (a, b - s, b + s)
                for a, b, s in zip(curve.xs, curve.ys, curve.spread, strict=True)
                if isfinite(b) and isfinite(s)
            ]
            band = _thin(band)
            edge = [(a, up) for a, _, up in band] + [(a, down) for a, down, _ in reversed(band)]
            parts.append(f'<path class="f{i % 5}" opacity=".16" d="{_path(edge, at_x, at_y)}Z"/>')
        path = _path(_thin(line), at_x, at_y)
        parts.append(f'<path class="l {colour}"{dash} d="{path if len(line) > 1 else path + "h0"}"/>')
        ends.append((at_y(line[-1][1]), at_x(line[-1][0]), curve.name))
    if off is not None:
        where = next(a for line in points for a, b in line if b == off)
        parts.append(_text(at_x(where) + 8, top + 2, f"↑ {general(float(f'{off:.3g}'))}", "t halo"))
    parts += _name_ends(ends, right + 8, base)
    return _svg(width, height, label, parts)


def _range(values: Sequence[float], log: bool) -> tuple[float, float, float | None]:
    """The axis, and the largest value if it was left off it."""
    ordered = sorted(values)
    high, off = ordered[-1], None
    usual = ordered[int(0.95 * (len(ordered) - 1))]
    if not log and usual > 0 and high > 6 * usual:
        high, off = 1.5 * usual, high
    low = ordered[0]
    if log:
        return (low, high, None) if high > 1.2 * low else (low / 2, high * 2, None)
    low = min(0.0, low)
    if high <= low:
        high = low + 1.0
    steps = ticks(low, high, 4)
    step = steps[1] - steps[0] if len(steps) > 1 else high - low
    return floor(low / step + 1e-9) * step, ceil(high / step - 1e-9) * step, off


def _log_ticks(low: float, high: float) -> list[float]:
    """Powers of ten between two exponents, with 2 and 5 between where there are few."""
    for steps in ((1,), (1, 2, 5)):
        found = [m * 10.0**e for e in range(floor(low), ceil(high) + 1) for m in steps]
        found = [mark for mark in found if low - 1e-9 <= log10(mark) <= high + 1e-9]
        if len(found) >= 3:
            break
    return found[:: ceil(len(found) / 7)] if found else [10.0**low, 10.0**high]


def _thin(points: list, most: int = 240) -> list:
    """Every so manieth point, and always the last: more cannot be seen."""
    if len(points) <= most:
        return points
    return [points[i * (len(points) - 1) // (most - 1)] for i in range(most)]


def _path(points: Sequence[tuple[float, float]], at_x: Callable[[float], float], at_y: Callable[[float], float]) -> str:
    return "M" + "L".join(f"{at_x(a):.1f} {at_y(b):.1f}" for a, b in points)


def _name_ends(ends: Sequence[tuple[float, float, str]], right: float, base: float) -> list[str]:
    """Names right of the plot, at the height where the lines end, as far apart as letters are high."""
    parts, taken = [], base + 16.0
    for y, x, name in sorted(ends, reverse=True):
        taken = min(y + 4, taken - 15)
        if x < right - 40:  # a line that ends early is named there
            parts.append(_text(x + 8, y + 4, name, "halo"))
        else:
            parts.append(_text(right, taken, name, "halo"))
    return parts


def describe(quantity: str, series: Sequence[Curve], write: Callable[[float], str]) -> str:
    """What a screen reader says of curves: where each begins and ends."""

    def one(curve: Curve) -> str:
        ys = [y for y in curve.ys if isfinite(y)]
        if not ys:
            return f"{curve.name} has no finite value"
        return f"{curve.name} from {write(ys[0])} to {write(ys[-1])}" if len(ys) > 1 else f"{curve.name} {write(ys[0])}"

    steps = [curve.xs[-1] for curve in series if len(curve.xs)]
    over = f" over {general(max(steps))} steps" if steps else ""
    return f"{quantity}{over}: {', '.join(map(one, series))}"
