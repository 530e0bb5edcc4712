"""Augmentation: batched functions against a loop over images, and that only training images get it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from fuxian.data.augment import crop, flip
from fuxian.data.images import ImageSplit, ImageSplits, augmented, digits, hold_out, standardized
from fuxian.errors import ContractError

IMAGES = torch.arange(6 * 3 * 5 * 7).view(6, 3, 5, 7).float() + 1


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_crop_is_a_part_of_each_padded_image(layout: torch.memory_format) -> None:
    torch.manual_seed(3)
    cropped = crop(IMAGES.contiguous(memory_format=layout), 2)
    torch.manual_seed(3)
    tops, lefts = torch.randint(5, (2, 6)).tolist()
    for image, ours, top, left in zip(IMAGES, cropped, tops, lefts, strict=True):
        padded = torch.zeros(3, 9, 11)
        padded[:, 2:7, 2:9] = image
        assert torch.equal(ours, padded[:, top : top + 5, left : left + 7])
    assert cropped.is_contiguous(memory_format=torch.channels_last)


def test_every_place_is_as_likely() -> None:
    torch.manual_seed(0)
    one = torch.zeros(20_000, 1, 3, 3)
    one[:, :, 1, 1] = 1  # where it is after the crop says where the crop was; at its edge it may be outside
    seen = crop(one, 1).sum((0, 1))
    assert seen.sum() == 20_000
    assert (seen / 20_000 - 1 / 9).abs().max() < 0.01


def test_flip_mirrors_half_of_the_images() -> None:
    torch.manual_seed(4)
    flipped = flip(IMAGES)
    torch.manual_seed(4)
    draws = [bool(draw < 0.5) for draw in torch.rand(6)]
    assert set(draws) == {True, False}
    for image, ours, mirrored in zip(IMAGES, flipped, draws, strict=True):
        assert torch.equal(ours, torch.stack([row[..., list(range(6, -1, -1))] for row in image]) if mirrored else image)
    torch.manual_seed(0)
    step = torch.tensor([1.0, 0.0]).expand(10_000, 1, 1, 2)
    assert float(flip(step)[..., 1].mean()) == pytest.approx(0.5, abs=0.02)


def test_only_training_images_are_augmented() -> None:
    plain, calls = digits(size=10, mean=[0.5], std=[0.5]), []

    def noted(image: torch.Tensor) -> torch.Tensor:
        calls.append(image.shape)
        return image + 1

    data = augmented(plain, noted)
    rows = torch.tensor([3, 1])
    for split in ("val", "test"):
        assert torch.equal(getattr(data, split).batch(rows).image, getattr(plain, split).batch(rows).image)
    assert calls == []
    assert torch.equal(data.train.batch(rows).image, plain.train.batch(rows).image + 1)  # normalized before
    assert calls == [(2, 1, 10, 10)]
    assert (data.name, data.hashes, data.names) == (plain.name, plain.hashes, plain.names)


def test_pictures_that_are_read_are_not_augmented(tmp_path: Path) -> None:
    image = torch.full((4, 1, 8, 8), 100, dtype=torch.uint8)
    data = augmented(ImageSplits(ImageSplit(image, torch.arange(4)), None, None, name="", names="abcd"), lambda x: x + 1)
    Image.fromarray(image[0, 0].numpy()).save(tmp_path / "one.png")
    assert torch.allclose(data.read([str(tmp_path / "one.png")]).image, torch.tensor(100 / 255))


def test_what_judges_a_model_cannot_be_augmented() -> None:
    image, label = torch.zeros(4, 1, 8, 8, dtype=torch.uint8), torch.arange(4)
    plain = ImageSplits(ImageSplit(image, label), None, ImageSplit(image, label), name="", names="abcd")
    data = augmented(plain, flip)
    with pytest.raises(ContractError, match="only training images are augmented"):
        hold_out(data, 2)
    with pytest.raises(ContractError, match="only training images are augmented"):
        ImageSplits(plain.train, None, data.train, name="", names="abcd")  # type: ignore[arg-type]
    assert hold_out(plain, 2).val is not None


def test_an_augmented_batch_keeps_its_layout() -> None:
    image = torch.randint(256, (5, 3, 8, 8), dtype=torch.uint8)
    for last, layout in ((False, torch.contiguous_format), (True, torch.channels_last)):
        split = ImageSplit(image, torch.arange(5), [0.0] * 3, [1.0] * 3, channels_last=last)
        data = augmented(ImageSplits(split, None, None, name="", names="abcde"), lambda x: crop(x, 1))
        assert data.train.batch(torch.arange(5)).image.is_contiguous(memory_format=layout)


def test_standardized() -> None:
    torch.manual_seed(0)
    image = torch.randint(256, (50, 3, 4, 4), dtype=torch.uint8) // torch.tensor([1, 2, 8]).view(3, 1, 1)
    parts = [ImageSplit(image[rows], torch.zeros(len(image[rows]))) for rows in (slice(0, 40), slice(40, 50))]
    for part in parts:
        part.normalize([0.0] * 3, [1.0] * 3)
    raw = ImageSplits(parts[0], None, parts[1], name="", names="a")
    data: Any = standardized(raw)
    train = data.train.batch(torch.arange(40)).image
    torch.testing.assert_close(train.mean((0, 2, 3)), torch.zeros(3), atol=1e-5, rtol=0)
    torch.testing.assert_close(train.var((0, 2, 3), correction=0), torch.ones(3))
    pixels = image.double() / 255
    std, mean = torch.std_mean(pixels[:40], (0, 2, 3), correction=0)
    expected = (pixels[40:] - mean.view(3, 1, 1)) / std.view(3, 1, 1)  # by what the training images have
    torch.testing.assert_close(data.test.batch(torch.arange(10)).image, expected.float())
    torch.testing.assert_close(raw.train.batch(torch.arange(40)).image, pixels[:40].float())  # the first stays as it was
