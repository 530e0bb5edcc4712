"""One style for every picture. Methods draw with these helpers; the report only lays out.

A named figure is a matplotlib `Figure`, an image tensor (channels, height, width) in 0 to 1, where 1 is white, or an
`animation` of either. Colours are those of `PALETTE` and nothing else, so that the report can redraw them for light, dark
and print. The state of `pyplot` is never touched, and the same input gives the same bytes.
"""

from __future__ import annotations

import textwrap
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import matplotlib as mpl
import numpy as np
from cycler import cycler
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.patches import PathPatch, Rectangle
from matplotlib.path import Path as Path_
from matplotlib.ticker import MaxNLocator, NullFormatter

if TYPE_CHECKING:
    from torch import Tensor

    Values = Sequence[float] | np.ndarray | Tensor

# Okabe & Ito, Color Universal Design (2008), for the hues; the report has lighter steps of the same for dark paper.
PALETTE = {
    "paper": "#fdfdfb",
    "ink": "#1a1c1e",
    "soft": "#5a5f66",
    "rule": "#deded8",
    "wash": "#f4f4ef",
    "blue": "#0072b2",
    "vermilion": "#d55e00",
    "green": "#009e73",
    "purple": "#cc79a7",
    "orange": "#e69f00",
    "sky": "#56b4e9",
}
SERIES = ("blue", "vermilion", "green", "purple", "orange", "sky", "soft", "ink")  # ours first
DASHES: tuple[Any, ...] = ("-", (0, (3.5, 2.5)), (0, (0.8, 2.5)), (0, (5, 2, 0.8, 2)), (0, (2, 2)))
MARKS = ("o", "s", "^", "D", "v", "P", "X")

STYLE: dict[Any, Any] = {
    "axes.edgecolor": PALETTE["ink"],
    "axes.facecolor": "none",
    "axes.labelcolor": PALETTE["soft"],
    "axes.linewidth": 0.8,
    "axes.prop_cycle": cycler(color=[PALETTE[name] for name in SERIES]),
    "axes.spines.left": False,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.unicode_minus": True,
    "figure.dpi": 72,  # so that a point is a pixel and sizes can be given in either
    "figure.facecolor": "none",
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans"],  # ships with matplotlib: the same metrics everywhere; the page sets its own
    "font.monospace": ["DejaVu Sans Mono"],
    "font.size": 12,  # 9 pixels where a figure is shown on a narrow screen
    "grid.color": PALETTE["rule"],
    "grid.linewidth": 0.8,
    "lines.linewidth": 2,
    "lines.solid_capstyle": "round",
    "savefig.facecolor": "none",
    "svg.fonttype": "none",  # text stays text: small, searchable, and in the page's own face
    "svg.hashsalt": "fuxian",  # else the ids differ each time
    "text.color": PALETTE["ink"],
    "xtick.color": PALETTE["ink"],
    "xtick.labelcolor": PALETTE["soft"],
    "ytick.color": PALETTE["ink"],
    "ytick.labelcolor": PALETTE["soft"],
    "ytick.major.size": 0,
    "ytick.minor.size": 0,
}


def figure(width: float = 430, height: float = 250) -> tuple[Figure, Axes]:
    """An empty figure in the house style: `width` and `height` in points, horizontal hairlines only."""
    with mpl.rc_context(STYLE):
        drawing = Figure(figsize=(width / 72, height / 72), layout="constrained")
        FigureCanvasSVG(drawing)
        axes = drawing.add_subplot()
        axes.grid(axis="y")
        axes.set_axisbelow(True)
    return drawing, axes


def panels(names: Sequence[tuple[str, str]], *, across: int = 3, height: float = 150) -> tuple[Figure, list[Axes]]:
    """Small axes in one figure, `across` in a row, each `height` points high: one for each `(x, y)`, quantities and units.

    `named` puts what is drawn in the first of them above all.
    """
    with mpl.rc_context(STYLE):
        across = min(across, len(names))
        down = -(-len(names) // across)
        drawing, whole = figure(height=30 + height * down)
        whole.remove()
        found = [drawing.add_subplot(down, across, place + 1) for place in range(len(names))]
        for axes, (x, y) in zip(found, names, strict=True):
            axes.set_title(y, loc="left", fontsize=9, color=PALETTE["soft"])
            axes.set_xlabel(x, loc="right", fontsize=9)
            axes.tick_params(labelsize=9, length=0)
    return drawing, found


def named(drawing: Figure) -> Figure:
    """The same figure, with the names of what its first axes show above it."""
    with mpl.rc_context(STYLE):
        shown = drawing.axes[0].get_legend_handles_labels()
        drawing.legend(*shown, loc="outside upper left", ncols=4, frameon=False, handlelength=2, columnspacing=1.2)
    return drawing


def lines(
    series: Mapping[str, tuple[Values, Values]], *, x: str = "", y: str = "", log: bool = False, height: float = 250
) -> Figure:
    """Curves `{name: (x, y)}`, each named at its end. `x` and `y` say quantity and unit; `log`: a logarithmic y axis."""
    with mpl.rc_context(STYLE):
        drawing, axes = figure(height=height)
        ends = []
        for i, (name, values) in enumerate(series.items()):
            across, up = (array(value) for value in values)
            colour = PALETTE[SERIES[i % len(SERIES)]]
            axes.plot(across, up, color=colour, linestyle=DASHES[i % len(DASHES)])
            finite = np.flatnonzero(np.isfinite(up))
            if len(finite):
                ends.append((name, across[finite[-1]], up[finite[-1]]))
        if log:
            axes.set_yscale("log")
            axes.yaxis.set_minor_formatter(NullFormatter())
        _name_axes(axes, x, y)
        if ends:
            span = axes.get_xlim()
            _name_ends(axes, ends, at=max(across for _, across, _ in ends), apart=15 / (height - 50))
            axes.set_xlim(span)
    return drawing


def multiples(plots: Mapping[str, Mapping[str, tuple[Values, Values]]], *, x: str = "", y: str = "") -> Figure:
    """Plots `{title: {name: (x, y)}}` of the same curves, one below another; the first names the curves at their ends."""
    with mpl.rc_context(STYLE):
        drawing, every = _below(list(plots), x, y)
        for axes, series in zip(every, plots.values(), strict=True):
            ends = []
            for i, (name, values) in enumerate(series.items()):
                across, up = (array(value) for value in values)
                colour = PALETTE[SERIES[i % len(SERIES)]]
                axes.plot(across, up, color=colour, linestyle=DASHES[i % len(DASHES)], linewidth=1.4)
                ends.append((name, across[-1], up[-1]))
            if axes is every[0]:
                span = axes.get_xlim()
                _name_ends(axes, ends, at=max(across for _, across, _ in ends), apart=0.18)
                axes.set_xlim(span)
    return drawing


def fan(
    plots: Mapping[str, tuple[tuple[Values, Values], tuple[Values, Values]]],
    levels: Sequence[float],
    *,
    x: str = "",
    y: str = "",
) -> Figure:
    """What came, and the quantiles of what was told of it, `{title: ((x, truth), (x, quantiles))}`, one below another.

    Quantiles (levels, steps) at `levels` that lie the same about 0.5, which is the line in the middle: between two of them
    is a band, the darker the nearer. The first plot names the share that each holds, at its upper edge.
    """
    with mpl.rc_context(STYLE):
        drawing, every = _below(list(plots), x, y)
        for axes, (truth, told) in zip(every, plots.values(), strict=True):
            (before, came), (across, bands) = ([array(value) for value in pair] for pair in (truth, told))
            middle = len(levels) // 2
            for i in range(middle):
                axes.fill_between(across, bands[i], bands[-1 - i], color=PALETTE["blue"], alpha=0.2, linewidth=0)
            axes.plot(across, bands[middle], color=PALETTE["blue"], linestyle=DASHES[1], linewidth=1.4)
            axes.plot(before, came, color=PALETTE["ink"], linewidth=1)
            if axes is every[0]:
                span = axes.get_xlim()
                ends = [("truth", across[-1], came[-1]), ("median", across[-1], bands[middle][-1])]
                ends += [
                    (f"{100 * (levels[-1 - i] - levels[i]):.0f}\u202f%", across[-1], bands[-1 - i][-1])
                    for i in range(middle)
                ]
                _name_ends(axes, ends, at=across[-1], apart=0.18)
                axes.set_xlim(span)
    return drawing


def matrix(values: Tensor | np.ndarray, across: tuple[float, float], up: tuple[float, float], *, x: str, y: str) -> Figure:
    """Weights (rows, columns) as ink: what is above zero is darker than the grey of zero, what is below it lighter.

    `across` and `up` are what the first and the last column, and the first and the last row stand for; the first row is
    the lowest.
    """
    weights = array(values)
    most = max(float(np.abs(weights).max()), 1e-12)
    with mpl.rc_context(STYLE):
        drawing, axes = figure(height=270)
        axes.imshow(-weights, cmap="gray", vmin=-most, vmax=most, aspect="auto", origin="lower", interpolation="none",
                    extent=(*across, *up))  # fmt: skip
        axes.grid(False)
        _name_axes(axes, x, y)
        axes.set_title(f"{y}; ink is {most:.2g}, paper −{most:.2g}", loc="left", fontsize=12, color=PALETTE["soft"])
    return drawing


def landscape(
    across: Values,
    up: Values,
    height: Values,
    paths: Mapping[str, Values],
    *,
    x: str = "",
    y: str = "",
) -> Figure:
    """Paths `{name: (steps, 2)}` over the plane that `height` (up, across) lies on, whose contours hold equal areas each.

    A dot is where a path has got to. The limits are those of `across` and `up`, whatever the paths are.
    """
    with mpl.rc_context(STYLE):
        drawing, axes = figure(height=350)
        level = np.quantile(array(height), np.linspace(0.04, 0.96, 9))
        axes.contour(
            array(across), array(up), array(height), np.unique(level), colors=PALETTE["rule"], linewidths=0.8, zorder=0
        )
        for i, (name, path) in enumerate(paths.items()):
            colour, points = PALETTE[SERIES[i % len(SERIES)]], array(path)
            axes.plot(*points.T, color=colour, linestyle=DASHES[i % len(DASHES)], linewidth=1.4, label=name)
            axes.plot(*points[-1], color=colour, marker=MARKS[i % len(MARKS)], markersize=6)
        axes.grid(False)
        axes.set(xlim=(array(across)[0], array(across)[-1]), ylim=(array(up)[0], array(up)[-1]))
        axes.set_ylabel(y, loc="top")
        axes.set_xlabel(x, loc="right")
        axes.spines["left"].set_visible(True)
        drawing.legend(loc="outside upper left", ncols=4, frameon=False, handlelength=2.4, columnspacing=1)
    return drawing


def scatter(
    points: Tensor | np.ndarray, labels: Tensor | Sequence[int], names: Sequence[str], *, x: str = "", y: str = ""
) -> Figure:
    """Points (n, 2) coloured by label (n,), each group named at its median; the axes have no scale, only the plane has.

    Points (n, 1) lie on a line.
    Groups beyond the eighth have the colours of the first, as squares.
    """
    where, group = array(points), array(labels).astype(int)
    where = np.pad(where, [(0, 0), (0, 2 - where.shape[1])])
    with mpl.rc_context(STYLE):
        drawing, axes = figure(height=330)
        for i, name in enumerate(names):
            mine = where[group == i]
            if not len(mine):
                continue
            colour = PALETTE[SERIES[i % len(SERIES)]]
            axes.add_patch(_dots(mine, colour, "round" if i < len(SERIES) else "projecting"))
            axes.annotate(name, tuple(np.median(mine, axis=0)), ha="center", va="center", weight="bold", bbox=_HALO)
        axes.grid(False)
        axes.set_aspect("equal", adjustable="datalim")
        axes.autoscale_view()
        _name_axes(axes, x, y)
        axes.set(xticks=[], yticks=[])
        axes.spines["bottom"].set_visible(False)
    return drawing


def confusion(matrix: Tensor | np.ndarray, names: Sequence[str]) -> Figure:
    """Counts (true, predicted) as numbers; the shade is the share of the row, the right column the recall.

    Names of more than two letters are numbered, and the columns carry the numbers.
    """
    counts = array(matrix)
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    n = len(names)
    short = names if max(map(len, names)) <= 2 else [str(i + 1) for i in range(n)]
    full = names if short is names else [f"{i + 1}  {name}" for i, name in enumerate(names)]
    with mpl.rc_context(STYLE):
        drawing, axes = figure(height=max(120, 24 * n + 40))
        size = min(12.0, 250 / n)
        for row in range(n):
            for column in range(n):
                share = shares[row, column]
                if share > 0:
                    shade = round(0.08 + 0.92 * float(share), 2)
                    axes.add_patch(Rectangle((column, row), 0.94, 0.94, color=PALETTE["blue"], alpha=shade, linewidth=0))
                if counts[row, column]:
                    ink = PALETTE["paper" if share > 0.5 else "ink"]
                    text = f"{counts[row, column]:,.0f}"
                    axes.text(column + 0.47, row + 0.5, text, color=ink, ha="center", va="center", fontsize=size)
            recall = f"{100 * shares[row, row]:.0f}\u202f%"
            axes.text(n + 0.15, row + 0.5, recall, color=PALETTE["soft"], va="center", fontsize=size)
        axes.text(n + 0.15, -0.35, "recall", color=PALETTE["soft"], fontsize=size)
        axes.set(xlim=(0, n + 1), ylim=(n, 0))
        axes.set_xticks(np.arange(n) + 0.47, short, fontsize=size)
        axes.set_yticks(np.arange(n) + 0.5, full, fontsize=size)
        axes.set_title("true down, predicted across", loc="left", fontsize=12, color=PALETTE["soft"], pad=24)
        axes.xaxis.tick_top()
        axes.tick_params(length=0)
        axes.grid(False)
        axes.spines["bottom"].set_visible(False)
    return drawing


def heatmap(values: Tensor | np.ndarray, rows: Sequence[str], columns: Sequence[str], *, title: str = "") -> Figure:
    """Shares (rows, columns) in 0 to 1, as percent and as shades; what is no number stays empty."""
    shares = array(values)
    with mpl.rc_context(STYLE):
        drawing, axes = figure(height=max(120, 24 * len(rows) + 60))
        size = min(12.0, 250 / max(len(rows), len(columns)))
        for (row, column), share in np.ndenumerate(shares):
            if np.isfinite(share):
                shade = round(0.08 + 0.92 * float(share), 2)
                axes.add_patch(Rectangle((column, row), 0.94, 0.94, color=PALETTE["blue"], alpha=shade, linewidth=0))
                ink = PALETTE["paper" if share > 0.5 else "ink"]
                axes.text(
                    column + 0.47, row + 0.5, f"{100 * share:.1f}", color=ink, ha="center", va="center", fontsize=size
                )
        axes.set(xlim=(0, len(columns)), ylim=(len(rows), 0))
        axes.set_xticks(np.arange(len(columns)) + 0.47, columns, fontsize=size)
        axes.set_yticks(np.arange(len(rows)) + 0.5, rows, fontsize=size)
        axes.set_title(title, loc="left", fontsize=12, color=PALETTE["soft"], pad=24)
        axes.xaxis.tick_top()
        axes.tick_params(length=0)
        axes.grid(False)
        axes.spines["bottom"].set_visible(False)
    return drawing


def stacked(bars: Mapping[str, Mapping[str, float]], *, x: str = "") -> Figure:
    """Bars `{name: {part: value}}` of one length, divided by the parts' shares, as percent where there is room.

    Every bar has the same parts in the same order, the first the darkest.
    """
    names = list(next(iter(bars.values())))
    shades = [round(1 - 0.88 * i / max(1, len(names) - 1), 2) for i in range(len(names))]
    with mpl.rc_context(STYLE):
        drawing, axes = figure(height=24 * len(bars) + 76)
        for row, parts in enumerate(bars.values()):
            left = 0.0
            for name, shade in zip(names, shades, strict=True):
                share = 100 * parts[name] / sum(parts.values())
                box = Rectangle((left, row), share, 0.86, color=PALETTE["blue"], alpha=shade, linewidth=0)
                axes.add_patch(box).set_label(name if row == 0 else None)
                if share >= 6:
                    ink = PALETTE["paper" if shade > 0.5 else "ink"]
                    axes.text(left + share / 2, row + 0.45, f"{share:.0f}", color=ink, ha="center", va="center")
                left += share
        axes.set(xlim=(0, 100), ylim=(len(bars), 0))
        axes.set_yticks(np.arange(len(bars)) + 0.43, list(bars))
        axes.set_xlabel(x, loc="right")
        axes.grid(False)
        drawing.legend(loc="outside upper left", ncols=len(names), frameon=False, handlelength=1, columnspacing=1.2)
    return drawing


def diagram(
    places: Mapping[str, tuple[float, float]],
    arrows: Iterable[tuple[str, str]],
    *,
    labels: Mapping[str, str],
    below: Mapping[str, str],
    faint: Collection[str] = (),
) -> Figure:
    """A graph of nodes at `(across, up)`, whole numbers, with a word in each and a few `below`; the `faint` ones dashed."""
    across, up = zip(*places.values(), strict=True)
    with mpl.rc_context(STYLE):
        drawing, axes = figure(height=80 * (max(up) - min(up) + 1))
        ink = {name: PALETTE["soft" if name in faint else "ink"] for name in places}
        dash = {name: (0, (3, 3)) if name in faint else "-" for name in places}
        for one, other in arrows:
            ends = one if one in faint else other
            arrow = dict(arrowstyle="->", shrinkA=17, shrinkB=17, color=ink[ends], linestyle=dash[ends])
            axes.annotate("", places[other], places[one], arrowprops=arrow)
        for name, place in places.items():
            box = dict(boxstyle="round,pad=0.6", facecolor=PALETTE["paper"], edgecolor=ink[name], linestyle=dash[name])
            axes.text(*place, labels[name], ha="center", va="center", color=ink[name], bbox=box)
            axes.text(
                place[0], place[1] - 0.3, below.get(name, ""), ha="center", va="top", fontsize=9, color=PALETTE["soft"]
            )
        axes.set(xlim=(min(across) - 0.5, max(across) + 0.5), ylim=(min(up) - 0.6, max(up) + 0.4), xticks=[], yticks=[])
        axes.grid(False)
        axes.spines["bottom"].set_visible(False)
    return drawing


def spans(bars: Iterable[tuple[int, float, float]], *, x: str = "", y: str = "") -> Figure:
    """Bars `(row, from, to)` along one axis, the rows from 0 downwards; neighbours in a row are dark and light in turn."""
    bars = sorted(bars)
    rows = 1 + max(row for row, *_ in bars)
    with mpl.rc_context(STYLE):
        drawing, axes = figure(height=14 * rows + 64)
        for i, (row, start, end) in enumerate(bars):
            axes.add_patch(
                Rectangle((start, row), end - start, 0.8, color=PALETTE["blue" if i % 2 else "sky"], linewidth=0)
            )
        axes.set(xlim=(0, max(end for *_, end in bars)), ylim=(rows, -0.2))
        axes.set_yticks(np.arange(rows) + 0.4, [str(row + 1) for row in range(rows)], fontsize=9)
        axes.grid(False)
        _name_axes(axes, x, y)
    return drawing


def passages(texts: Mapping[str, str], *, columns: int = 58) -> Figure:
    """Samples of text in a fixed-width face, each under its name (the prompt, the temperature), wrapped at `columns`."""
    rows: list[tuple[str, bool]] = []
    for name, text in texts.items():
        rows += [("", False)] * bool(rows) + [(name, True)]
        for paragraph in text.splitlines():
            rows += [(line, False) for line in textwrap.wrap(paragraph, columns) or [""]]
    with mpl.rc_context(STYLE):
        drawing = Figure(figsize=(430 / 72, (15 * len(rows) + 8) / 72))
        FigureCanvasSVG(drawing)
        for i, (line, name) in enumerate(rows):
            y = 1 - (15 * i + 14) / (15 * len(rows) + 8)
            if name:
                drawing.text(0.005, y, line, color=PALETTE["soft"])
            elif line:
                drawing.text(0.005, y, line, family="monospace", parse_math=False)
    return drawing


def table(rows: Mapping[str, Sequence[str]], columns: Sequence[str]) -> Figure:
    """Words or numbers of each row under the names of their `columns`, set to the right."""
    lines = {"": columns, **rows}
    right = 1 - 0.7 / len(columns) * np.arange(len(columns))[::-1]
    with mpl.rc_context(STYLE):
        drawing = Figure(figsize=(430 / 72, (18 * len(lines) + 8) / 72))
        FigureCanvasSVG(drawing)
        for i, (name, words) in enumerate(lines.items()):
            y = 1 - (18 * i + 14) / (18 * len(lines) + 8)
            drawing.text(0.005, y, name, color=PALETTE["soft"])
            for at, word in zip(right, words, strict=True):
                colour = PALETTE["ink" if i else "soft"]
                drawing.text(float(at), y, word, color=colour, ha="right", family="monospace" if i else None)
    return drawing


def image_grid(images: Tensor, columns: int) -> Tensor:
    """Images (n, channels, height, width) in 0 to 1, row by row with `columns` in each, one pixel of white between.

    Returns (channels, H, W). White is 1, so pass `1 - digits` for ink on paper: such a picture is inverted in the dark.
    """
    n, channels, height, width = images.shape
    columns = min(columns, n)
    rows = -(-n // columns)
    grid = images.new_ones(channels, rows * (height + 1) - 1, columns * (width + 1) - 1)
    for i, image in enumerate(images.clamp(0, 1)):
        top, left = (i // columns) * (height + 1), (i % columns) * (width + 1)
        grid[:, top : top + height, left : left + width] = image
    return grid


def labelled_images(images: Tensor, labels: Sequence[str], columns: int) -> Figure:
    """Images (n, channels, height, width) in 0 to 1, a word or two under each: `3, read as 5`."""
    columns = min(columns, len(images))
    rows = -(-len(images) // columns)
    side = 430 / columns
    tall = side * images.shape[2] / images.shape[3]
    size = min(12.0, 1.7 * side / max(1, *map(len, labels)))
    with mpl.rc_context(STYLE):
        drawing = Figure(figsize=(430 / 72, rows * (tall + 16) / 72))
        FigureCanvasSVG(drawing)
        for i, (image, label) in enumerate(zip(images, labels, strict=True)):
            row, column = divmod(i, columns)
            up = 1 - (row + 1) / rows
            share = 16 / (tall + 16) / rows
            axes = drawing.add_axes((column / columns + 0.005, up + share, 1 / columns - 0.01, 1 / rows - share))
            axes.imshow(pixels(image), cmap="gray", vmin=0, vmax=255, interpolation="none")
            axes.set_axis_off()
            axes.set_anchor("S")
            drawing.text(
                (column + 0.5) / columns, up + share * 0.25, label, ha="center", color=PALETTE["soft"], fontsize=size
            )
    return drawing


@dataclass(frozen=True)
class Animation:
    """Pictures of one kind and size, shown one after another for `seconds` in all; where nothing moves, the last stands."""

    frames: Sequence[Figure] | Sequence[Tensor]
    seconds: float


def animation(frames: Sequence[Figure] | Sequence[Tensor], *, seconds: float = 6.0) -> Animation:
    """Frames of one size, all figures or all images, of which the last is the result; let figures share their axes' limits.

    The page has a slider and a button that plays. Raises ValueError for other than 2 to 24 frames: a page must stay small.
    """
    if not 2 <= len(frames) <= 24:
        raise ValueError(f"an animation has 2 to 24 frames, not {len(frames)}: leave some out")
    sizes = {tuple(f.get_size_inches()) if isinstance(f, Figure) else tuple(f.shape) for f in frames}
    if len(sizes) > 1 or len({isinstance(frame, Figure) for frame in frames}) > 1:
        raise ValueError("the frames of an animation are all figures or all images, of one size")
    return Animation(frames, seconds)


_HALO = dict(boxstyle="square,pad=0.1", facecolor=PALETTE["paper"], edgecolor="none", alpha=0.75)


def array(values: Any) -> np.ndarray:
    """float64, from a tensor on any device, an array or a list."""
    if hasattr(values, "detach"):
        values = values.detach().cpu().numpy()
    return np.asarray(values, dtype=np.float64)


def pixels(image: Tensor) -> np.ndarray:
    """(height, width) or (height, width, 3) in 0 to 255."""
    bytes_ = np.rint(np.clip(np.nan_to_num(array(image)), 0, 1) * 255).astype(np.uint8)
    if bytes_.ndim == 2:
        return bytes_
    if len(bytes_) not in (1, 3):
        raise TypeError(f"an image tensor has 1 or 3 channels first, not the shape {tuple(image.shape)}")
    return bytes_[0] if len(bytes_) == 1 else np.ascontiguousarray(bytes_.transpose(1, 2, 0))


def _dots(points: np.ndarray, colour: str, cap: Literal["round", "projecting"]) -> PathPatch:
    """Points as lines of no length, whose caps are seen: a third of the size that a marker for each would take."""
    codes = np.tile(np.array([Path_.MOVETO, Path_.LINETO], dtype=Path_.code_type), len(points))
    path = Path_(points.repeat(2, axis=0), codes)
    path.should_simplify = False  # it would take them for nothing
    return PathPatch(path, edgecolor=colour, facecolor="none", linewidth=3.6, capstyle=cap)


def _below(titles: Sequence[str], x: str, y: str) -> tuple[Figure, list[Axes]]:
    """Axes one below another that share x, each with its title after the name of y."""
    drawing = Figure(figsize=(430 / 72, (60 + 110 * len(titles)) / 72), layout="constrained")
    FigureCanvasSVG(drawing)
    every = list(drawing.subplots(len(titles), sharex=True, squeeze=False)[:, 0])
    for axes, title in zip(every, titles, strict=True):
        axes.grid(axis="y")
        axes.set_axisbelow(True)
        axes.yaxis.set_major_locator(MaxNLocator(4))
        axes.set_title(f"{y}, {title}" if y else title, loc="left", fontsize=12, color=PALETTE["soft"])
    every[-1].set_xlabel(x, loc="right")
    every[-1].xaxis.set_major_locator(MaxNLocator(5, integer=True))
    return drawing, every


def _name_axes(axes: Axes, x: str, y: str) -> None:
    axes.set_title(y, loc="left", fontsize=12, color=PALETTE["soft"])
    axes.set_xlabel(x, loc="right")
    axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))


def _name_ends(axes: Axes, ends: Iterable[tuple[str, float, float]], at: float, apart: float) -> None:
    """Names right of the plot at the height where their lines end, moved up just enough not to overlap."""
    to_axes = (axes.transData + axes.transAxes.inverted()).transform
    taken = -1.0
    for height, name in sorted((float(to_axes((across, up))[1]), name) for name, across, up in ends):
        taken = max(height, taken + apart)
        axes.text(1.02, taken, name, transform=axes.transAxes, va="center")
