"""Pictures of a run, made fit to stand in the page: figures in the page's own colours and type, images small and inline."""

from __future__ import annotations

import base64
import re
from io import BytesIO
from math import ceil
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
from markupsafe import Markup, escape
from PIL import Image

from fuxian.figures import PALETTE

_VARIABLES = {colour: f"var(--{name})" for name, colour in PALETTE.items()} | {
    "#000000": "var(--ink)",
    "#ffffff": "var(--paper)",
}
_ELEMENTS = {"svg", "g", "path", "text", "tspan", "use", "defs", "clipPath", "rect", "circle", "ellipse", "line", "image"}
_ATTRIBUTES = {"viewBox", "transform", "style", "d", "x", "y", "x1", "x2", "y1", "y2", "cx", "cy", "r", "rx", "ry"}
_ATTRIBUTES |= {"width", "height", "clip-path", "preserveAspectRatio"}
_WIDE = 360  # an image is shown about so many pixels wide at least, each of its own a square


def inline_svg(text: str, prefix: str, label: str) -> Markup:
    """A figure of matplotlib's as part of a page: ids begin with `prefix`, colours are `var(--…)`, type is the page's.

    Only drawing is kept: no scripts, no styles that would reach the page, no addresses.
    """
    root = ElementTree.fromstring(text)
    seconds = root.get("data-seconds")
    used = set(re.findall(r"(?:url\(|href=[\"'])#([^)\"']+)", text))
    _clean(root, prefix, used)
    view = root.attrib["viewBox"]
    root.attrib.clear()
    # line joins: matplotlib sets them for all elements in a style sheet, which here would be the whole page's
    root.attrib |= {"class": "p", "viewBox": view, "role": "img", "aria-label": label, "stroke-linejoin": "round"}
    drawing = Markup(ElementTree.tostring(root, encoding="unicode"))
    return _film(drawing, float(seconds)) if seconds else drawing


def _film(frames: Markup, seconds: float) -> Markup:
    """What holds elements of class `frame`, the last of which is seen until the page's script gives it a slider."""
    return Markup(f'<div class="film" data-seconds="{seconds:g}">{frames}</div>')


def _clean(element: ElementTree.Element, prefix: str, used: set[str]) -> None:
    attributes: dict[str, str] = {}
    for name, value in element.attrib.items():
        name = _local(name)
        if name == "href":
            attributes |= _href(value, prefix)
        elif name == "id":
            attributes |= {"id": prefix + value} if value in used else {}
        elif (name, value) == ("class", "frame"):
            attributes[name] = value
        elif value.startswith("animation-delay"):  # a page moves only when asked to
            continue
        elif name in _ATTRIBUTES and "://" not in value and not value.startswith("rotate(-0 "):
            attributes[name] = _rewrite(name, value, prefix)
    element.tag = _local(element.tag)
    element.attrib.clear()
    element.attrib |= attributes
    for child in list(element):
        if isinstance(child.tag, str) and _local(child.tag) in _ELEMENTS:
            _clean(child, prefix, used)
        else:
            element.remove(child)
    if element.tag not in ("text", "tspan"):
        element.text = None
    element.tail = None


def _href(value: str, prefix: str) -> dict[str, str]:
    if value.startswith("#"):
        return {"href": f"#{prefix}{value[1:]}"}
    if value.startswith("data:image/png;base64,"):
        address, ink = _inline(Image.open(BytesIO(base64.b64decode(value.partition(",")[2]))))
        return {"href": address} | ({"class": "ink"} if ink else {})
    return {}


def _rewrite(name: str, value: str, prefix: str) -> str:
    if name == "d":
        value = re.sub(r"\s*([MLCQZz])\s*", r"\1", value.strip())
        value = re.sub(r"M(-?[\d.]+ -?[\d.]+)L\1(?=M|$)", r"M\1h0", value)  # a point: a scatter plot is mostly those
    if name in ("d", "x", "y"):
        return re.sub(r"-?\d+\.\d+", lambda m: f"{float(m[0]):.1f}".removesuffix(".0"), value)
    value = value.replace("url(#", f"url(#{prefix}")
    value = re.sub(r"#[0-9a-fA-F]{6}", lambda m: _VARIABLES.get(m[0].lower(), m[0]), value)
    value = re.sub(r"font-family: [^;]*", lambda m: f"font-family: var(--{'mono' if 'Mono' in m[0] else 'sans'})", value)
    return re.sub(
        r"font: ([^;]*?px) ([^;]*)", lambda m: f"font: {m[1]} var(--{'mono' if 'Mono' in m[2] else 'sans'})", value
    )


def _local(name: str) -> str:
    return name.rpartition("}")[2]


def inline_image(path: Path, label: str) -> Markup:
    """A PNG as a data address; grey ones in sixteen shades. A picture of ink on paper is inverted in the dark."""
    with Image.open(path) as image:
        width, height = image.size
        shown = width * max(1, min(8, ceil(_WIDE / width)))
        size = f'style="width:{shown}px" width="{width}" height="{height}" alt="{escape(label)}"'
        count = getattr(image, "n_frames", 1)
        if count == 1:
            source, ink = _inline(image)
            return Markup(f'<img class="px{" ink" if ink else ""}" {size} src="{source}">')
        inlined, milliseconds = [], 0.0
        for i in range(1, count):  # the one before is what stands for all where nothing moves
            image.seek(i)
            inlined.append(_inline(image))
            milliseconds += image.info["duration"]
        kind = "px frame ink" if inlined[-1][1] else "px frame"
        frames = Markup("").join(Markup(f'<img class="{kind}" {size} src="{source}">') for source, _ in inlined)
        return _film(frames, milliseconds / 1000)


def _inline(image: Image.Image) -> tuple[str, bool]:
    """The data address, and whether it is ink on paper: grey, and white more often than anything else."""
    buffer = BytesIO()
    pixels = np.asarray(image.convert("RGBA"))
    grey = bool((pixels[..., :1] == pixels[..., :3]).all() and (pixels[..., 3] == 255).all())
    ink = grey and int(np.bincount(pixels[..., 0].ravel()).argmax()) >= 248
    if grey:
        sixteen = Image.fromarray(((pixels[..., 0].astype(np.uint16) + 8) // 17).astype(np.uint8)).convert("P")
        sixteen.putpalette([17 * i for i in range(16) for _ in range(3)])
        sixteen.save(buffer, "PNG", bits=4, optimize=True)
    else:
        image.save(buffer, "PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode(), ink
