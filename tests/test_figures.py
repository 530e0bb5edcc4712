"""Pictures: the same input gives the same bytes, and nothing but the house's colours."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
import torch
from PIL import Image

from fuxian import figures, saving

HEIGHT = np.array([[0.0, 1, 4], [1, 2, 5]])
NAMES = ["zero", "one", "two"]
UPS = (("from 3", 3.0), ("from 9", 1.0))


def grid() -> torch.Tensor:
    return figures.image_grid(torch.linspace(0, 1, 3 * 4 * 4).view(3, 1, 4, 4), 2)


def film() -> figures.Animation:
    return figures.animation([figures.lines({"a": ([0, 1], [up, 1.0])}) for up in (3.0, 2.0, 1.5)], seconds=3)


def small() -> Any:
    drawing, panels = figures.panels([("length, cm", "width, cm"), ("length, cm", "mass, g")])
    for axes in panels:
        axes.plot([0, 1], [1, 2], color=figures.PALETTE["blue"], label="measured")
    return figures.named(drawing)


DRAWINGS: dict[str, Callable[[], Any]] = {
    "lines": lambda: figures.lines({"a": ([0, 1, 2], [3.0, 2.0, 1.0]), "b": ([0, 1, 2], [2, 2, 2])}, x="epoch", y="loss"),
    "log": lambda: figures.lines({"a": ([0, 1, 2], [100.0, 10.0, float("nan")])}, log=True),
    "landscape": lambda: figures.landscape([0, 1, 2], [0, 1], HEIGHT, {"a": np.eye(2), "b": np.ones((1, 2))}, x="w", y="b"),
    "fan": lambda: figures.fan(
        {f"from {at}": (([-1, 0, 1, 2], [5, 6, 7, at]), ([1, 2], np.arange(10).reshape(5, 2))) for at in (3, 9)},
        (0.05, 0.25, 0.5, 0.75, 0.95),
        x="steps ahead",
        y="OT",
    ),
    "multiples": lambda: figures.multiples(
        {t: {"a": ([0, 1], [2.0, up]), "b": ([1, 2], [up, up])} for t, up in UPS}, x="h", y="OT"
    ),
    "matrix": lambda: figures.matrix(HEIGHT - 2, (-2.5, 0.5), (0.5, 2.5), x="step of the past", y="step ahead"),
    "scatter": lambda: figures.scatter(torch.eye(3, 2), torch.arange(3), NAMES),
    "line": lambda: figures.scatter(torch.eye(3, 1), torch.arange(3), NAMES),
    "panels": small,
    "confusion": lambda: figures.confusion(torch.arange(9).view(3, 3), NAMES),
    "heatmap": lambda: figures.heatmap(torch.tensor([[0.0, torch.nan], [0.25, 1.0]]), NAMES[:2], ["1", "2"], title="%"),
    "stacked": lambda: figures.stacked({"one": {"a": 3, "b": 0.1, "c": 1}, "two": {"a": 1, "b": 1, "c": 0}}, x="%"),
    "table": lambda: figures.table({"zero": ["0", "1"], "one": ["10", "1,000"]}, ["counted", "published"]),
    "diagram": lambda: figures.diagram(
        {"a": (0, 0), "b": (0, 1), "c": (1, 0.5)},
        [("a", "c"), ("b", "c")],
        labels={"a": "x", "b": "y", "c": "×"},
        below={"c": "3"},
        faint={"b"},
    ),
    "spans": lambda: figures.spans([(1, 2, 3), (0, 0, 2.5), (1, 0, 2)], x="operation", y="memory"),
    "passages": lambda: figures.passages({"temperature 1": "to be <or> not to be & so on $x$"}),
    "labelled": lambda: figures.labelled_images(torch.zeros(2, 1, 4, 4), ["3, read as 5", "7, read as 1"], 6),
    "grid": grid,
    "film": film,
    "reel": lambda: figures.animation([grid() * share for share in (0.0, 0.5, 1.0)], seconds=3),
}


@pytest.mark.parametrize("name", DRAWINGS)
def test_same_picture_same_bytes(name: str, tmp_path: Path) -> None:
    first, second = (saving.save(DRAWINGS[name](), tmp_path / run / name).read_bytes() for run in ("a", "b"))
    assert first == second
    assert b"<dc:date>" not in first


@pytest.mark.parametrize("name", [name for name in DRAWINGS if name not in ("grid", "reel")])
def test_figures_use_the_palette_and_keep_text(name: str, tmp_path: Path) -> None:
    path = saving.save(DRAWINGS[name](), tmp_path / name)
    text = path.read_text(encoding="utf-8")
    root = ElementTree.fromstring(text)
    assert path.suffix == ".svg"
    assert {colour.lower() for colour in re.findall(r"#[0-9a-fA-F]{6}\b", text)} <= set(figures.PALETTE.values())
    assert [node for node in root.iter() if node.tag.endswith("}text")]


def test_the_page_settings_of_others_stay_as_they_are() -> None:
    import matplotlib as mpl

    before = dict(mpl.rcParams)
    DRAWINGS["lines"]()
    assert dict(mpl.rcParams) == before


def test_a_heatmap_says_percent_and_leaves_out_what_is_no_number() -> None:
    axes = DRAWINGS["heatmap"]().axes[0]
    assert [text.get_text() for text in axes.texts] == ["0.0", "25.0", "100.0"]
    assert [patch.get_alpha() for patch in axes.patches] == [0.08, 0.31, 1.0]
    assert [patch.get_xy() for patch in axes.patches] == [(0, 0), (0, 1), (1, 1)]  # column, row


def test_stacked_bars_are_shares_of_each_bar_and_every_part_keeps_its_shade() -> None:
    axes = DRAWINGS["stacked"]().axes[0]
    bars = [(patch.get_x(), patch.get_width(), patch.get_alpha()) for patch in axes.patches]
    widths = [100 * part / 4.1 for part in (3, 0.1, 1)] + [50, 50, 0]
    starts = [0, widths[0], widths[0] + widths[1], 0, 50, 100]
    np.testing.assert_allclose(bars, list(zip(starts, widths, [1, 0.56, 0.12] * 2, strict=True)))
    assert [text.get_text() for text in axes.texts] == ["73", "24", "50", "50"]  # 2 % has no room


def test_a_table_sets_every_column_to_the_right_below_its_name() -> None:
    words = {text.get_text(): text.get_position()[0] for text in DRAWINGS["table"]().texts}
    assert words["counted"] == words["0"] == words["10"] < words["published"] == words["1,000"] == 1
    assert words["zero"] == words["one"] < 0.01


def test_a_diagram_dashes_what_is_faint_and_the_arrows_to_it() -> None:
    axes = DRAWINGS["diagram"]().axes[0]
    boxes = {text.get_text(): text.get_bbox_patch() for text in axes.texts}
    assert boxes["y"].get_linestyle() == (0, (3, 3))
    assert {boxes[name].get_linestyle() for name in "x×"} == {"-"}
    arrows = [text.arrow_patch.get_linestyle() for text in axes.texts if getattr(text, "arrow_patch", None)]
    assert arrows == ["-", (0, (3, 3))]
    assert {"x", "y", "×", "3"} <= boxes.keys()


def test_spans_lie_in_their_rows_dark_and_light_in_turn() -> None:
    axes = DRAWINGS["spans"]().axes[0]
    bars = [(patch.get_y(), patch.get_x(), patch.get_width()) for patch in axes.patches]
    assert bars == [(0, 0, 2.5), (1, 0, 2), (1, 2, 1)]
    assert axes.patches[1].get_facecolor() != axes.patches[2].get_facecolor()


def test_lines_are_named_at_their_ends_without_overlap() -> None:
    drawing = figures.lines({name: ([0, 1], [1.0, 1.0]) for name in NAMES})
    heights = sorted(text.get_position()[1] for text in drawing.axes[0].texts)
    assert [text.get_text() for text in drawing.axes[0].texts] == sorted(NAMES)
    assert min(np.diff(heights)) > 0.05


def test_multiples_share_their_steps_and_the_first_names_the_curves() -> None:
    first, second = DRAWINGS["multiples"]().axes
    assert first.get_xlim() == second.get_xlim()
    assert [[line.get_ydata().tolist() for line in axes.lines] for axes in (first, second)] == [
        [[2, 3], [3, 3]],
        [[2, 1], [1, 1]],
    ]
    assert ([text.get_text() for text in first.texts], second.texts[:]) == (["a", "b"], [])
    assert [axes.get_title(loc="left") for axes in (first, second)] == ["OT, from 3", "OT, from 9"]


def test_a_fan_has_a_band_between_each_two_quantiles_and_the_median_in_the_middle() -> None:
    first, second = DRAWINGS["fan"]().axes
    for axes, last in ((first, 3), (second, 9)):
        median, truth = axes.lines
        assert (median.get_ydata().tolist(), truth.get_ydata().tolist()) == ([4, 5], [5, 6, 7, last])
        corners = [{tuple(corner) for corner in band.get_paths()[0].vertices.tolist()} for band in axes.collections]
        assert corners == [{(1, 0), (2, 1), (1, 8), (2, 9)}, {(1, 2), (2, 3), (1, 6), (2, 7)}]
    names = [text.get_text() for text in first.texts]
    assert (names, second.texts[:]) == (["truth", "median", "50\u202f%", "90\u202f%"], [])  # by height


def test_a_matrix_has_its_first_row_below_and_ink_for_what_is_above_zero() -> None:
    (axes,) = DRAWINGS["matrix"]().axes
    (image,) = axes.images
    assert image.get_extent() == [-2.5, 0.5, 0.5, 2.5]
    assert image.origin == "lower"
    shade = image.cmap(image.norm(image.get_array()))[..., 0]
    assert shade[1, 2] == 0  # 5 - 2, the largest: ink
    assert shade[0, 0] == pytest.approx(1 - (-2 + 3) / 6, abs=0.01)
    assert shade[1, 1] == pytest.approx(0.5, abs=0.01)  # 2 - 2: grey


def test_a_landscape_keeps_its_limits_and_marks_where_each_path_is() -> None:
    axes = figures.landscape([0, 1, 2], [0, 1], HEIGHT, {"a": np.diag([9, 1]), "b": np.array([[2, 1]])}).axes[0]
    assert (axes.get_xlim(), axes.get_ylim()) == ((0, 2), (0, 1))
    ends = [line.get_xydata().tolist() for line in axes.lines if line.get_marker() != "None"]  # type: ignore[union-attr]
    assert ends == [[[0, 1]], [[2, 1]]]


def test_panels_lie_side_by_side_and_are_named_once() -> None:
    drawing = small()
    first, second = (axes.get_subplotspec() for axes in drawing.axes)
    assert [(spec.rowspan.start, spec.colspan.start) for spec in (first, second)] == [(0, 0), (0, 1)]
    assert [axes.get_title(loc="left") for axes in drawing.axes] == ["width, cm", "mass, g"]
    assert [text.get_text() for legend in drawing.legends for text in legend.get_texts()] == ["measured"]


def test_every_point_is_drawn(tmp_path: Path) -> None:
    points = torch.rand(500, 2, generator=torch.Generator().manual_seed(0))
    path = saving.save(figures.scatter(points, torch.zeros(500), ["all"]), tmp_path / "points")
    moves = re.findall(r"M ([\d.]+) ([\d.]+) \nL ([\d.]+) ([\d.]+)", path.read_text())
    assert len([move for move in moves if move[:2] == move[2:]]) == 500


def test_confusion_says_counts_and_recall() -> None:
    drawing = figures.confusion([[3, 1], [0, 4]], ["a", "b"])  # pyright: ignore[reportArgumentType]
    texts = [text.get_text() for text in drawing.axes[0].texts]
    assert texts == ["3", "1", "75\u202f%", "4", "100\u202f%", "recall"]


def test_image_grid_places_row_by_row_on_white() -> None:
    out = figures.image_grid(torch.stack([torch.full((1, 2, 3), value) for value in (0.0, 0.25, 0.5)]), columns=2)
    assert out.shape == (1, 5, 7)
    assert out[0, 0, 0] == 0
    assert out[0, 0, 4] == 0.25
    assert out[0, 3, 0] == 0.5
    assert out[0, 3, 4] == 1  # no fourth image
    assert (out[0, 2] == 1).all()
    assert (out[0, :, 3] == 1).all()


def test_tensors_are_grey_or_colour(tmp_path: Path) -> None:
    values = torch.tensor([[-1.0, 0.0, 0.5, 1.0, float("nan")]])
    with Image.open(saving.save(values[None], tmp_path / "grey")) as image:
        assert image.mode == "L"
        assert list(np.asarray(image)[0]) == [0, 0, 128, 255, 0]
    with Image.open(saving.save(torch.rand(3, 2, 2), tmp_path / "colour")) as image:
        assert image.mode == "RGB"


def test_an_animation_of_figures_is_one_file_with_a_group_for_each(tmp_path: Path) -> None:
    path = saving.save(film(), tmp_path / "film")
    root = ElementTree.fromstring(path.read_text(encoding="utf-8"))
    groups = [group for group in root if group.get("class") == "frame"]
    assert root.get("data-seconds") == "3"
    assert [group.get("style") for group in groups] == [f"animation-delay: {second}s" for second in (0, 1, 2)]
    ids = [node.get("id") for node in root.iter() if node.get("id")]
    assert len(ids) == len(set(ids))
    assert set(re.findall(r"(?:url\(|href=\")#([^)\"]+)", path.read_text(encoding="utf-8"))) <= set(ids)
    assert len({ElementTree.tostring(group) for group in groups}) == 3


def test_an_animation_of_images_shows_its_last_frame_to_who_sees_one(tmp_path: Path) -> None:
    with Image.open(saving.save(DRAWINGS["reel"](), tmp_path / "reel")) as image:
        seen = []
        for i in range(4):
            image.seek(i)
            seen.append(np.asarray(image.convert("L")).copy())
    assert (seen[0] == seen[3]).all()
    for share, frame in zip((0.0, 0.5, 1.0), seen[1:], strict=True):
        assert (frame == np.rint(grid()[0].numpy() * share * 255)).all()


@pytest.mark.parametrize(
    "frames",
    [
        [grid()],
        [grid()] * 25,
        [grid(), grid()[:, 1:]],
        [grid(), figures.figure()[0]],
        [figures.figure()[0], figures.figure(height=90)[0]],
    ],
)
def test_frames_that_make_no_animation_are_refused(frames: list[Any]) -> None:
    with pytest.raises(ValueError, match=r"an animation"):
        figures.animation(frames)


@pytest.mark.parametrize("wrong", ["a path", np.zeros((2, 2)), torch.zeros(2, 1, 4, 4), torch.zeros(4, 2, 2)])
def test_anything_else_is_refused(wrong: Any, tmp_path: Path) -> None:
    with pytest.raises(TypeError, match=r"image tensor"):
        saving.save(wrong, tmp_path / "x")
