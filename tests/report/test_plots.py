"""Plots: where things are drawn, and that words are escaped."""

from __future__ import annotations

import re
from math import nan
from xml.etree import ElementTree

import pytest

from fuxian.report.plots import Curve, curves, strip, ticks


def texts(svg: str) -> list[str]:
    return ["".join(node.itertext()) for node in ElementTree.fromstring(svg).iter("text")]


def draw(values: list[float], **settings: float | None) -> str:
    mean = sum(values) / len(values) if values else None
    return strip("label", 81.5, 1.0, values, write=lambda v: f"{v:.1f}", mean=mean, std=0.6, unit="%", **settings)  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize(
    ("low", "high", "found"),
    [
        (0, 100, [0, 20, 40, 60, 80, 100]),
        (80.1, 84.2, [81, 82, 83, 84]),
        (-1, 1, [-1, -0.5, 0, 0.5, 1]),
        (0, 0.03, [0, 0.01, 0.02, 0.03]),
    ],
)
def test_ticks_are_round(low: float, high: float, found: list[float]) -> None:
    assert ticks(low, high, 5) == found


def test_a_disc_a_seed_and_none_covers_another() -> None:
    svg = draw([81.4] * 4 + [81.6, 81.7, 82.9])
    discs = [(float(x), float(y)) for x, y in re.findall(r'cx="([\d.]+)" cy="([\d.]+)"', svg)]
    assert len(discs) == 7
    assert min(abs(a[0] - b[0]) + abs(a[1] - b[1]) for i, a in enumerate(discs) for b in discs[:i]) > 5
    assert {"paper 81.5", "tolerance ± 1.0", "ours 81.7 ± 0.6"} <= set(texts(svg))


def test_many_seeds_stay_above_the_axis() -> None:
    heights = [float(y) for y in re.findall(r'cy="([\d.]+)"', draw([81.4] * 30))]
    assert max(heights) < 124
    assert min(heights) > 75


def test_one_seed_is_a_diamond_without_a_spread() -> None:
    svg = draw([81.4])
    assert "<circle" not in svg
    assert "this run 81.4" in texts(svg)


def test_nothing_run_is_the_paper_alone() -> None:
    svg = draw([])
    assert "hatch" not in svg
    assert "paper 81.5" in texts(svg)


@pytest.mark.parametrize("values", [[10.0, 10.2], [81.4, 81.6], [99.0, 99.9], [81.5, 81.5]])
def test_words_stay_inside_the_picture(values: list[float]) -> None:
    for node in ElementTree.fromstring(draw(values)).iter("text"):
        width = 7.6 * len("".join(node.itertext()))
        x, anchor = float(node.attrib["x"]), node.attrib.get("text-anchor", "start")
        left = x - {"start": 0, "middle": width / 2, "end": width}[anchor]
        assert left >= -12
        assert left + width <= 445


LOSS = Curve("training", [1, 2, 3, 4], [4.0, 3.0, 2.0, 1.0])


def test_curves_begin_at_zero_and_name_their_ends() -> None:
    svg = curves("label", "loss", [LOSS, Curve("validation", [2, 4], [3.5, 1.02])])
    assert texts(svg)[0] == "loss"
    assert texts(svg).count("0") + texts(svg).count("0.0") == 2  # of both axes
    assert {"training", "validation"} <= set(texts(svg))
    ys = [
        float(node.attrib["y"])
        for node in ElementTree.fromstring(svg).iter("text")
        if node.text in ("training", "validation")
    ]
    assert abs(ys[0] - ys[1]) >= 15
    assert svg.count("stroke-dasharray") == 1  # the second line


def test_a_logarithmic_axis_says_so() -> None:
    svg = curves("label", "loss", [Curve("training", [1, 2, 3], [1000.0, 10.0, 0.1])], log=True)
    assert "loss, logarithmic" in texts(svg)
    assert {"0.1", "10", "1,000"} <= set(texts(svg))


def test_what_is_not_finite_is_a_gap() -> None:
    svg = curves("label", "loss", [Curve("training", [1, 2, 3], [2.0, nan, 1.0])])
    assert "nan" not in svg
    assert curves("label", "loss", [Curve("training", [1, 2], [nan, nan])]) == ""


def test_a_value_off_the_axis_is_written() -> None:
    svg = curves("label", "loss", [Curve("training", list(range(100)), [9000.0] + [1.0] * 99)])
    assert "↑ 9,000" in texts(svg)


def test_a_band_where_there_are_seeds() -> None:
    svg = curves("label", "loss", [Curve("training", [1, 2], [2.0, 1.0], [0.1, 0.1])])
    assert 'opacity=".16"' in svg


def test_words_are_escaped() -> None:
    svg = curves('"><script>', "<b>", [Curve("a&b", [1, 2], [1.0, 2.0])])
    assert "<script>" not in svg
    assert "a&b" in texts(svg)
    assert ElementTree.fromstring(svg).attrib["aria-label"] == '"><script>'
