"""Single colour pictures: paintings and photographs by name, or a file of one's own."""

from __future__ import annotations

from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from sklearn.datasets import load_sample_image
from torch import Tensor

from fuxian.data.sources import read
from fuxian.errors import WrongInput

_SHIPPED = ("china", "flower")  # with scikit-learn; by danielbuechele and vultilion, CC BY 2.0
_FILES = {
    "the-scream": ("paintings", "the_scream.jpg"),
    "shipwreck": ("paintings", "shipwreck.jpg"),
    "cat": ("photographs", "chelsea.png"),
    "rocket": ("photographs", "rocket.jpg"),
}


def picture(name: str | Path, side: int) -> Tensor:
    """A picture (3, height, width) in 0 to 1, made smaller so that its longer side is at most `side` pixels.

    By name: china and flower, which ship with scikit-learn, the paintings the-scream and shipwreck, the photographs cat
    and rocket; or the path of a file. Raises WrongInput for what is no picture, and DataMissing.
    """
    opened: Any
    if isinstance(name, Path):
        try:
            opened = Image.open(name)
            opened.load()
        except (OSError, SyntaxError, Image.DecompressionBombError) as error:
            raise WrongInput(f"{name} is not a picture that can be read: {error}", do="a PNG or a JPEG file") from None
    elif name in _SHIPPED:
        opened = Image.fromarray(np.asarray(load_sample_image(f"{name}.jpg")))
    elif name in _FILES:
        source, file = _FILES[name]
        opened = Image.open(BytesIO(read(source)[file]))
    else:
        raise WrongInput(f"there is no picture named {name!r}", do=f"one of {', '.join([*_SHIPPED, *_FILES])}, or a path")
    opened = opened.convert("RGB")
    opened.thumbnail((side, side), Image.Resampling.LANCZOS)
    return torch.from_numpy(np.array(opened)).permute(2, 0, 1).contiguous().float() / 255
