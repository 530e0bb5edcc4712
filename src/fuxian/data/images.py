"""Labelled images: a whole set as one uint8 tensor on the device, indexed and normalized in batches."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from copy import copy
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits
from torch import Tensor
from typing_extensions import Self

from fuxian.contract import Batch, Sealed, Splits
from fuxian.data.sources import digest, hashes, read
from fuxian.errors import DataMissing, WrongInput

FASHION = ("T-shirt/top", "trouser", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "ankle boot")
DIGITS = tuple("0123456789")


@dataclass(frozen=True)
class Images(Batch):
    image: Tensor  # (batch, channels, height, width) float32
    label: Tensor  # (batch,) int64


class ImageSplit:
    """Images of one size, kept as bytes: four times smaller than floats, and no work for each image.

    `image` (images, channels, height, width) uint8, `label` (images,) int64. A batch holds (pixel / 255 - mean) / std.
    """

    def __init__(
        self,
        image: Tensor,
        label: Tensor,
        mean: Sequence[float] = (0.0,),
        std: Sequence[float] = (1.0,),
        *,
        channels_last: bool = False,
    ) -> None:
        self.image, self.label = image, label
        self.scale = torch.tensor([1 / (255 * s) for s in std]).view(-1, 1, 1)
        self.shift = torch.tensor([-m / s for m, s in zip(mean, std, strict=True)]).view(-1, 1, 1)
        self.layout = torch.channels_last if channels_last else torch.contiguous_format

    @property
    def device(self) -> torch.device:
        return self.image.device

    def to(self, device: torch.device | str) -> Self:
        """Moves this split, as a module's `to` does."""
        for name in ("image", "label", "scale", "shift"):
            setattr(self, name, getattr(self, name).to(device))
        return self

    def __len__(self) -> int:
        return len(self.label)

    def part(self, rows: slice) -> Self:
        """Some of the images; their memory is shared until either split moves."""
        some = copy(self)
        some.image, some.label = self.image[rows], self.label[rows]
        return some

    def batch(self, indices: Tensor) -> Images:
        # On a CPU index_select gathers bytes seven times faster than self.image[indices].
        image = self.image.index_select(0, indices).to(torch.float32, memory_format=self.layout)
        return Images(image.mul_(self.scale).add_(self.shift), self.label[indices])


class ImageSplits(Splits):
    """Square images of `size` pixels a side in `channels`, of `classes` classes with these `names`."""

    channels: int
    size: int
    classes: int
    names: tuple[str, ...]

    def __init__(
        self,
        train: ImageSplit,
        val: ImageSplit | None,
        test: ImageSplit | Sealed | None,
        *,
        name: str,
        names: Sequence[str],
        hashes: dict[str, str] | None = None,
    ) -> None:
        super().__init__(train, val, test, name=name, hashes=hashes)
        self.channels, self.size = train.image.shape[1], train.image.shape[-1]
        self.names = tuple(names)
        self.classes = len(self.names)


def hold_out(data: ImageSplits, count: int) -> ImageSplits:
    """The same data with the last `count` training images as its validation split, where it has none.

    MNIST's last 10,000 are the customary ones: Goodfellow et al. 2013, arXiv:1302.4389, sec. 6.1.
    """
    if data.val is not None:
        return data
    train: Any = data.train
    parts = train.part(slice(0, -count)), train.part(slice(-count, None)), data.test
    return ImageSplits(*parts, name=data.name, names=data.names, hashes=data.hashes)


def mnist(
    *,
    size: int = 28,
    mean: Sequence[float] = (0.0,),
    std: Sequence[float] = (1.0,),
    channels_last: bool = False,
) -> ImageSplits:
    """MNIST: 60,000 handwritten digits to train on and 10,000 to test, 28 × 28 grey; no validation split is published.

    `size` above 28 adds a black border; `mean` and `std` normalize pixels that are in 0 to 1. Raises DataMissing.
    """
    return _idx("mnist", DIGITS, size, mean, std, channels_last)


def fashion_mnist(
    *,
    size: int = 28,
    mean: Sequence[float] = (0.0,),
    std: Sequence[float] = (1.0,),
    channels_last: bool = False,
) -> ImageSplits:
    """Fashion-MNIST: 60,000 pictures of clothing to train on and 10,000 to test, in the form of MNIST. As `mnist`."""
    return _idx("fashion-mnist", FASHION, size, mean, std, channels_last)


def digits(
    *,
    size: int = 8,
    mean: Sequence[float] = (0.0,),
    std: Sequence[float] = (1.0,),
    channels_last: bool = False,
) -> ImageSplits:
    """1,797 handwritten digits that ship with scikit-learn, 8 × 8 grey: 1,257 to train on, 180 to validate, 360 to test.

    The split is ours: one fixed permutation. `size` above 8 repeats pixels as often as fits and adds a black border, so
    28 and 32 are like MNIST. Alpaydin & Kaynak, Optical Recognition of Handwritten Digits, UCI 1998 (its test part).
    """
    data: Any = load_digits()
    image = torch.from_numpy(np.rint(data.images * (255 / 16)).astype(np.uint8)).unsqueeze(1)  # levels 0 to 16
    label = torch.from_numpy(data.target).long()
    order = torch.randperm(len(label), generator=torch.Generator().manual_seed(0))
    parts = [
        ImageSplit(_sized(image[rows], size), label[rows], mean, std, channels_last=channels_last)
        for rows in order.split([1257, 180, 360])
    ]
    content = digest(image.numpy().tobytes(), label.numpy().tobytes())
    return ImageSplits(*parts, name="digits", names=DIGITS, hashes={"digits": content})


_SETS = {"mnist": mnist, "fashion-mnist": fashion_mnist, "digits": digits}


def image_data(
    name: str | Path,
    *,
    size: int | None = None,
    mean: Sequence[float] = (0.0,),
    std: Sequence[float] = (1.0,),
    channels_last: bool = False,
) -> ImageSplits:
    """A labelled set of images by name: mnist, fashion-mnist or digits; `size` defaults to its own."""
    if not isinstance(name, str) or name not in _SETS:
        raise WrongInput(f"there is no image data named {str(name)!r}", do=f"one of {', '.join(_SETS)}")
    options = {} if size is None else dict(size=size)
    return _SETS[name](mean=mean, std=std, channels_last=channels_last, **options)


def _idx(
    name: str, names: Sequence[str], size: int, mean: Sequence[float], std: Sequence[float], channels_last: bool
) -> ImageSplits:
    content = read(name)
    train, test = (
        ImageSplit(
            _sized(parse_idx(content[f"{part}-images-idx3-ubyte"], 3).unsqueeze(1), size),
            parse_idx(content[f"{part}-labels-idx1-ubyte"], 1).long(),
            mean,
            std,
            channels_last=channels_last,
        )
        for part in ("train", "t10k")
    )
    return ImageSplits(train, None, test, name=name, names=names, hashes=hashes(name))


def parse_idx(content: bytes, dimensions: int) -> Tensor:
    """The array of an idx file of unsigned bytes, as uint8. Raises DataMissing unless it is exactly that.

    The format: two zero bytes, the type (8: unsigned byte), the number of dimensions, each length as a big-endian
    uint32, the values. http://yann.lecun.com/exdb/mnist/
    """
    header = 4 + 4 * dimensions
    if len(content) < header:
        raise DataMissing(f"not an idx file: it ends after {len(content)} bytes, within its header of {header}")
    if content[:4] != bytes([0, 0, 8, dimensions]):
        raise DataMissing(
            f"not an idx file of {dimensions}-dimensional unsigned bytes: it begins with {content[:4].hex(' ')}"
        )
    shape = struct.unpack(f">{dimensions}I", content[4:header])
    if len(content) - header != prod(shape):
        raise DataMissing(
            f"an idx file of shape {shape} has {prod(shape):,} values, this one holds {len(content) - header:,}"
        )
    return torch.frombuffer(bytearray(content[header:]), dtype=torch.uint8).view(shape)


def _sized(image: Tensor, size: int) -> Tensor:
    """Square images at `size`: pixels repeated as often as fits, then a black border, the odd pixel at the end."""
    own = image.shape[-1]
    if size < own:
        raise WrongInput(f"size {size} is smaller than the images, {own} × {own}", do=f"a size of {own} or more")
    times = size // own
    border = size - own * times
    image = image.repeat_interleave(times, -1).repeat_interleave(times, -2) if times > 1 else image
    return F.pad(image, [border // 2, border - border // 2] * 2) if border else image
