"""Single pictures, by name and by path."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from fuxian.data.pictures import picture
from fuxian.errors import WrongInput


def test_the_photographs_that_ship_with_scikit_learn() -> None:
    image = picture("china", 64)
    assert (image.shape, image.dtype) == ((3, 43, 64), torch.float32)
    assert 0 <= float(image.min()) < 0.2 < 0.9 < float(image.max()) <= 1
    assert float(image[2, :8].mean()) > float(image[0, :8].mean())  # the sky is blue


def test_ones_own_file_keeps_its_pixels_where_it_is_small(tmp_path: Path) -> None:
    pixels = np.arange(6 * 4 * 3, dtype=np.uint8).reshape(6, 4, 3)
    Image.fromarray(pixels).save(tmp_path / "mine.png")
    torch.testing.assert_close(picture(tmp_path / "mine.png", 6) * 255, torch.from_numpy(pixels).permute(2, 0, 1).float())
    assert picture(tmp_path / "mine.png", 3).shape == (3, 3, 2)
    Image.fromarray(pixels[..., 0]).save(tmp_path / "grey.png")
    assert picture(tmp_path / "grey.png", 6).shape == (3, 6, 4)


def test_what_is_no_picture(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("no picture")
    with pytest.raises(WrongInput, match="not a picture that can be read"):
        picture(tmp_path / "notes.txt", 64)
    with pytest.raises(WrongInput, match="there is no picture named 'mona-lisa'"):
        picture("mona-lisa", 64)


@pytest.mark.parametrize("name", ["the-scream", "shipwreck", "cat", "rocket"])
def test_the_published_pictures(name: str, published: Path) -> None:
    assert max(picture(name, 200).shape) == 200
