"""Pictures as files: figures as SVG, images as PNG, animations as either; the same picture gives the same bytes."""

from __future__ import annotations

import re
import warnings
from collections.abc import Sequence
from io import StringIO
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.figure import Figure
from PIL import Image
from torch import Tensor

from fuxian.figures import STYLE, Animation, pixels


def save(picture: Figure | Tensor | Animation, path: str | Path) -> Path:
    """Writes `path` with `.svg` (figures) or `.png` (tensors; one channel as grey) added, and returns it.

    Text stays text, and the same picture gives the same bytes. Either file of an animation plays by itself, and shows its
    last frame where nothing moves. Raises TypeError for what is no picture.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    frames: Sequence[Any] = picture.frames if isinstance(picture, Animation) else [picture]
    drawn = [frame for frame in frames if isinstance(frame, Figure)]
    if drawn:
        path = path.with_name(path.name + ".svg")
        texts = [_svg(frame) for frame in drawn]
        path.write_text(_film(texts, picture.seconds) if isinstance(picture, Animation) else texts[0], encoding="utf-8")
        return path
    for frame in frames:
        if not hasattr(frame, "detach") or frame.dim() not in (2, 3):
            raise TypeError(
                f"a picture is a matplotlib Figure or an image tensor (channels, h, w), not {type(frame).__name__}"
            )
    path = path.with_name(path.name + ".png")
    images = [Image.fromarray(pixels(frame)) for frame in frames]
    if isinstance(picture, Animation):  # the default image, seen where nothing moves, is the last frame
        rate = round(1000 * picture.seconds / len(images))
        images[-1].save(path, save_all=True, append_images=images, default_image=True, duration=rate, loop=1)
    else:
        images[0].save(path, optimize=True)
    return path


def _svg(drawing: Figure) -> str:
    text = StringIO()
    with mpl.rc_context(STYLE), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing")  # text stays text: a reader's own face has the character
        drawing.savefig(text, format="svg", metadata={"Date": None, "Creator": None})
    return text.getvalue()


def _film(texts: Sequence[str], seconds: float) -> str:
    """One SVG of several: each a group `frame`, hidden but in its turn. It plays once and rests at the last."""
    begin = texts[0].index("<svg")
    opening = texts[0][: texts[0].index(">", begin) + 1].replace("<svg", f'<svg data-seconds="{seconds:g}"', 1)
    turn = seconds / len(texts)
    groups = []
    for i, text in enumerate(texts):
        body = text[text.index(">", text.index("<svg")) + 1 : text.rindex("</svg>")]
        body = re.sub(r'(\bid="|url\(#|href="#)', rf"\g<1>f{i}-", body)  # an id is of one frame
        groups.append(f'<g class="frame" style="animation-delay: {i * turn:g}s">{body}</g>\n')
    style = (
        f".frame{{visibility:hidden;animation:turn {turn:g}s step-end}}@keyframes turn{{from{{visibility:visible}}}}"
        ".frame:last-child{visibility:visible;animation:rest step-end}@keyframes rest{from{visibility:hidden}}"
        f".frame:last-child{{animation-duration:{seconds - turn:g}s;animation-delay:0s!important}}"
        "@media (prefers-reduced-motion:reduce){.frame{animation:none!important}}"
    )
    return f"{opening}\n<style>{style}</style>\n{''.join(groups)}</svg>\n"
