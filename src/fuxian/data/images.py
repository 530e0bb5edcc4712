"""Labelled images: a whole set as one uint8 tensor on the device, indexed and normalized in batches."""

from __future__ import annotations

import hashlib
import io
import os
import struct
import tarfile
import zlib
from collections.abc import Callable, Iterator, Sequence
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
from fuxian.data import own
from fuxian.data.sources import digest, hashes, read
from fuxian.errors import ContractError, DataMissing, OutOfRoom, WrongInput
from fuxian.numbers import plural
from fuxian.numbers import size as in_bytes

FASHION = ("T-shirt/top", "trouser", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "ankle boot")
DIGITS = tuple("0123456789")
CIFAR = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")

Augment = Callable[[Tensor], Tensor]  # of (batch, channels, height, width), normalized; see fuxian.data.augment


@dataclass(frozen=True)
class Images(Batch):
    image: Tensor  # (batch, channels, height, width) float32
    label: Tensor  # (batch,) int64


class ImageSplit:
    """Images of one size, kept as bytes: four times smaller than floats, and no work for each image.

    `image` (images, channels, height, width) uint8, `label` (images,) int64. A batch holds (pixel / 255 - mean) / std.
    """

    augment: Augment | None = None  # random changes of each batch; `augmented` sets it, on a training split

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
        self.normalize(mean, std)
        self.layout = torch.channels_last if channels_last else torch.contiguous_format

    def normalize(self, mean: Sequence[float], std: Sequence[float]) -> None:
        """Sets mean and standard deviation, of all channels or of each, of pixels that are in 0 to 1."""
        self.scale = torch.tensor([1 / (255 * s) for s in std]).view(-1, 1, 1)
        self.shift = torch.tensor([-m / s for m, s in zip(mean, std, strict=True)]).view(-1, 1, 1)

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

    def part(self, rows: slice | Tensor) -> Self:
        """Some of the images; their memory is shared until either split moves."""
        some = copy(self)
        some.image, some.label = self.image[rows], self.label[rows]
        return some

    def batch(self, indices: Tensor) -> Images:
        # On a CPU index_select gathers bytes seven times faster than self.image[indices].
        image = self.image.index_select(0, indices).to(torch.float32, memory_format=self.layout)
        image.mul_(self.scale).add_(self.shift)
        if self.augment is not None:
            image = self.augment(image).contiguous(memory_format=self.layout)
        return Images(image, self.label[indices])


class ImageSplits(Splits):
    """Square images of `size` pixels a side in `channels`, of `classes` classes with these `names`."""

    channels: int
    size: int
    classes: int
    names: tuple[str, ...]
    invert = False  # whether `read` turns black and white around

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
        for split in (val, test.split if isinstance(test, Sealed) else test):
            if getattr(split, "augment", None) is not None:
                raise ContractError("only training images are augmented", do="call augmented() last, after hold_out()")
        super().__init__(train, val, test, name=name, hashes=hashes)
        self.channels, self.size = train.image.shape[1], train.image.shape[-1]
        self.names = tuple(names)
        self.classes = len(self.names)

    def about(self) -> dict[str, Any]:
        train: Any = self.train
        std = 1 / (255 * train.scale.flatten().double())
        return {
            "values": "a pixel is (byte / 255 - mean) / std, of its channel where they differ",
            "channels": self.channels,
            "size": self.size,
            "mean": (-train.shift.flatten() * std).tolist(),
            "std": std.tolist(),
            "classes": self.names,
        }

    def read(self, words: Sequence[str]) -> Images:
        """Files of pictures, read as the test pictures are: size, channels, normalization; the label is 0. Says how."""
        judged: Any = self.test.split if isinstance(self.test, Sealed) else self.val or self.train
        usual = float(judged.image[:1000].float().mean()) / 255
        images = []
        for word in words:
            if Path(word).is_dir():
                raise WrongInput(f"{word} is a folder; name its pictures: {word.rstrip('/')}/*.png")
            pixels = own.picture(own.content(Path(word)), word)
            pixels = 255 - pixels if self.invert else pixels
            images.append(_in_channels(_fitted(pixels, self.size), self.channels))
            found = f"{pixels.shape[1]} × {pixels.shape[0]} {'grey' if pixels.ndim == 2 else 'colour'}"
            taken = f"{self.size} × {self.size} {'grey' if self.channels == 1 else 'colour'}"
            own.note(f"{word}: {found}, read as {taken}{', inverted' if self.invert else ''}")
            light = float(pixels.mean()) / 255
            if abs(light - usual) - abs(1 - light - usual) > 0.3:
                other = "without --invert?" if self.invert else "--invert turns it around"
                own.note(f"{word}: its mean is {light:.2f}, and {usual:.2f} in {self.name}: dark for light? {other}")
        some = copy(judged)
        some.augment = None
        some.image = torch.stack(images).to(judged.device)
        some.label = torch.zeros(len(images), dtype=torch.int64, device=judged.device)
        return some.batch(torch.arange(len(images), device=judged.device))


def hold_out(data: ImageSplits, count: int) -> ImageSplits:
    """The same data with the last `count` training images, at most a third, as its validation split, where it has none.

    MNIST's last 10,000 are the customary ones: Goodfellow et al. 2013, arXiv:1302.4389, sec. 6.1.
    """
    if data.val is not None:
        return data
    train: Any = data.train
    count = max(1, min(count, len(train) // 3))
    parts = train.part(slice(0, -count)), train.part(slice(-count, None)), data.test
    return ImageSplits(*parts, name=data.name, names=data.names, hashes=data.hashes)


def standardized(data: ImageSplits) -> ImageSplits:
    """The same data with mean 0 and variance 1 in each channel, over the pixels of all training images."""
    train: Any = data.train
    levels = torch.arange(256, dtype=torch.float64) / 255
    counts = torch.zeros(train.image.shape[1], 256, dtype=torch.float64)
    for some in train.image.split(1024):  # bincount makes 8 bytes of each
        counts += torch.stack([torch.bincount(channel.flatten(), minlength=256) for channel in some.unbind(1)]).cpu()
    mean = counts @ levels / counts.sum(1)
    std = (counts * (levels - mean[:, None]).square()).sum(1).div(counts.sum(1)).sqrt()
    parts = [_own_copy(split) for split in (data.train, data.val, data.test)]
    for split in parts:
        if split is not None:
            split.normalize(mean.tolist(), std.clamp_min(1 / 255).tolist())  # a channel of one value stays at zero
    return ImageSplits(*parts, name=data.name, names=data.names, hashes=data.hashes)  # type: ignore[arg-type]


def augmented(data: ImageSplits, augment: Augment) -> ImageSplits:
    """The same data with random changes of each training batch; what judges a model, `val` and `test`, has none."""
    train: Any = _own_copy(data.train)
    train.augment = augment
    return ImageSplits(train, data.val, data.test, name=data.name, names=data.names, hashes=data.hashes)  # type: ignore[arg-type]


def _own_copy(split: Any) -> Any:
    """A split that shares its pixels with the other, and nothing that may be set."""
    return None if split is None else copy(split.split if isinstance(split, Sealed) else split)


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


def cifar10(
    *,
    size: int = 32,
    mean: Sequence[float] = (0.0,),
    std: Sequence[float] = (1.0,),
    channels_last: bool = False,
) -> ImageSplits:
    """CIFAR-10: 50,000 small photographs to train on and 10,000 to test, 32 × 32 in colour, ten classes.

    No validation split is published. `size` above 32 adds a black border. Raises DataMissing.
    """
    (archive,) = read("cifar10").values()
    train, test = (
        ImageSplit(_sized(image, size), label, mean, std, channels_last=channels_last)
        for image, label in parse_cifar(archive)
    )
    return ImageSplits(train, None, test, name="cifar10", names=CIFAR, hashes=hashes("cifar10"))


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


_SETS = {"mnist": mnist, "fashion-mnist": fashion_mnist, "cifar10": cifar10, "digits": digits}


def image_data(
    name: str | Path,
    *,
    size: int | None = None,
    channels: int | None = None,
    mean: Sequence[float] = (0.0,),
    std: Sequence[float] = (1.0,),
    channels_last: bool = False,
) -> ImageSplits:
    """A labelled set of images: mnist, fashion-mnist, cifar10 or digits by name, or one's own (`own_images`) by its path.

    `size` and `channels` default to the set's own; 1 channel is grey, 3 are red, green and blue.
    """
    if isinstance(name, Path):
        return own_images(name, size=size, channels=channels, mean=mean, std=std, channels_last=channels_last)
    if name not in _SETS:
        raise WrongInput(f"there is no image data named {name!r}", do=f"one of {', '.join(_SETS)}, or a path")
    options = {} if size is None else dict(size=size)
    data = _SETS[name](mean=mean, std=std, channels_last=channels_last, **options)
    if channels in (None, data.channels):
        return data
    for part in (data.train, data.val, data.test.split if isinstance(data.test, Sealed) else None):
        if isinstance(part, ImageSplit):
            part.image = _in_channels(part.image, channels)
    data.channels = channels
    return data


# ── one's own ───────────────────────────────────────────────────────────────────────────────────────────────────────


def own_images(
    path: Path,
    *,
    size: int | None = None,
    channels: int | None = None,
    mean: Sequence[float] = (0.0,),
    std: Sequence[float] = (1.0,),
    channels_last: bool = False,
) -> ImageSplits:
    """Images of one's own: a folder with a sub-folder for each class, or a `.npz` of `image` (or `x`) and `label` (`y`).

    Split 80/10/10 by content; or as they are in `train/`, `val/`, `test/`, each with the classes inside, or by masks of
    those names. A picture larger than `size` is made smaller, antialiased; one that is smaller has its pixels repeated as
    often as fits; the rest is a black border. Without `size` all must be square and of one size. Without `channels` they
    are grey if all are, and three if `mean` has three values. Raises DataMissing, WrongInput, OutOfRoom.
    """
    channels = channels or (3 if max(len(mean), len(std)) == 3 else None)
    where = own.shown(path)
    if own.kind(path, "folder", ".npz") == "folder":
        files = own.picture_files(path)
        words, part = [file.class_ for file in files], [file.part for file in files]
        named = [own.shown(file.path) for file in files]
        keys: list[bytes] = []
        image = _stacked(_decoded(files, keys), named, where, size, channels)
        same = [hashlib.sha256(row.numpy().tobytes()).digest() for row in image]  # also of a file that is packed otherwise
        lines = [f"{file.path.relative_to(path)}\0{key.hex()}\n" for file, key in zip(files, keys, strict=True)]
        sha256 = digest("".join(lines).encode())
    else:
        arrays = own.Arrays(path)
        pixels = _bytes(arrays.numbers("image", "x"), where)
        words, part = list(arrays.label("label", "y", count=len(pixels))), arrays.parts(len(pixels))
        named = [f"image {i}" for i in range(len(pixels))]
        keys = same = [hashlib.sha256(row.tobytes()).digest() for row in pixels]
        image = _stacked(iter(pixels), named, where, size, channels)
        sha256 = arrays.sha256
    names, label = own.classes(words, where)
    parts = own.given(part, keys) if any(part) else own.split(keys, label, where)
    if lacking := set(range(len(names))) - {label[i] for i in parts[0].tolist()}:
        raise DataMissing(f"{where}: the class {names[min(lacking)]} has no example in train")
    own.warn_of_leaks(parts, same, named, where)
    of = torch.tensor(label)
    splits = [ImageSplit(image[rows], of[rows], mean, std, channels_last=channels_last) for rows in parts]
    val, test = (split if len(split) else None for split in splits[1:])
    return ImageSplits(splits[0], val, test, name=path.name, names=names, hashes=own.recorded(path, sha256))


def _decoded(files: Sequence[own.PictureFile], keys: list[bytes]) -> Iterator[np.ndarray]:
    """The pictures one after another; the hash of each file is added to `keys`."""
    for file in files:
        raw = own.content(file.path)
        keys.append(hashlib.sha256(raw).digest())
        yield own.picture(raw, own.shown(file.path))


def _bytes(image: np.ndarray, where: str) -> np.ndarray:
    """(images, height, width) or (images, height, width, 3), uint8, from 0 to 255 or fractions, channels first or last."""
    if image.ndim == 4 and image.shape[1] in (1, 3) and image.shape[3] not in (1, 3):
        image = image.transpose(0, 2, 3, 1)
    if image.ndim == 4 and image.shape[3] == 1:
        image = image[..., 0]
    if image.ndim not in (3, 4) or (image.ndim == 4 and image.shape[3] != 3) or not image.size:
        raise DataMissing(
            f"{where}: its images have the shape {image.shape}",
            do="(images, height, width), or that with 1 or 3 channels first or last",
        )
    low, high = image.min(), image.max()
    top = 1 if image.dtype.kind in "fb" else 255
    if low < 0 or high > top:
        raise DataMissing(f"{where}: its images are {image.dtype} from {low} to {high}; they must be in 0 to {top}")
    return image if image.dtype == np.uint8 else np.rint(image * (255 // top)).astype(np.uint8)


def _stacked(
    pictures: Iterator[np.ndarray], named: Sequence[str], where: str, size: int | None, channels: int | None
) -> Tensor:
    """All pictures as one tensor (images, channels, size, size) uint8."""
    image = torch.empty(0)
    for i, pixels in enumerate(pictures):
        height, width = pixels.shape[:2]
        side = size or width
        if i == 0:
            needed = len(named) * (channels or 1) * side**2
            memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
            if needed > memory / 2:
                raise OutOfRoom(
                    f"{where}: {plural(len(named), 'picture')} of {side} × {side} take {in_bytes(needed)}, more than half"
                    f" of this machine's memory, {in_bytes(memory)}",
                    do="fewer pictures, or a method that takes smaller ones",
                )
            image = torch.empty(len(named), channels or 1, side, side, dtype=torch.uint8)
        if size is None and (height, width) != image.shape[2:]:
            first = f", and {named[0]} is {image.shape[3]} × {image.shape[3]}" if i and height == width else ""
            raise DataMissing(
                f"{where}: {named[i]} is {width} × {height}{first}; this method needs square pictures of one size"
            )
        if channels is None and pixels.ndim == 3 and image.shape[1] == 1:  # the first that has colour
            image = image.expand(-1, 3, -1, -1).clone()
        image[i] = _in_channels(_fitted(pixels, side), image.shape[1])
    return image


def _fitted(pixels: np.ndarray, size: int) -> Tensor:
    """A picture (height, width) or (height, width, 3) as (channels, size, size)."""
    pixels = own.smaller(pixels, size)
    return _sized(torch.from_numpy(np.array(pixels)).view(*pixels.shape[:2], -1).permute(2, 0, 1), size)


def _in_channels(image: Tensor, channels: int) -> Tensor:
    """Images (…, 1 or 3, height, width) uint8 in 1 channel (luma, ITU-R BT.601) or in 3."""
    if image.shape[-3] == channels:
        return image
    if channels == 3:
        return image.expand(*image.shape[:-3], 3, -1, -1)
    weights = torch.tensor([0.299, 0.587, 0.114], dtype=torch.float32).view(3, 1, 1)
    return (image * weights).sum(-3, keepdim=True).round().to(torch.uint8)


# ── published sets ──────────────────────────────────────────────────────────────────────────────────────────────────


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


def parse_cifar(archive: bytes) -> list[tuple[Tensor, Tensor]]:
    """Images (n, 3, 32, 32) uint8 and labels (n,) int64 of the training set and the test set. Raises DataMissing.

    The format: a tar.gz with six files of records, each a byte for the label and 1,024 for red, green and blue, row by
    row. https://www.cs.toronto.edu/~kriz/cifar.html, binary version. Nothing is unpacked to a folder.
    """
    record, most = 1 + 3 * 32 * 32, 10_000  # bytes of an image with its label, images of a file
    sets = [f"data_batch_{i}.bin" for i in range(1, 6)], ["test_batch.bin"]
    content: dict[str, bytes] = {}
    try:
        with tarfile.open(fileobj=io.BytesIO(archive), mode="r|gz") as packed:  # one pass, backwards would begin again
            for member in packed:
                if (file := packed.extractfile(member)) and member.name.startswith("cifar-10-batches-bin/"):
                    content[member.name.partition("/")[2]] = file.read(most * record + 1)
    except (EOFError, OSError, tarfile.TarError, zlib.error) as error:
        raise DataMissing(f"not CIFAR-10's binary version: the archive cannot be read: {error}") from None
    parts = []
    for names in sets:
        for name in names:
            size = len(content.get(name, b""))
            if not 0 < size <= most * record or size % record:
                found = f"{size:,}" if size <= most * record else "more"
                raise DataMissing(
                    f"not CIFAR-10's binary version: {name} holds {found} bytes, not up to {most:,} × {record:,}"
                )
        whole = torch.frombuffer(bytearray().join(content[name] for name in names), dtype=torch.uint8).view(-1, record)
        label = whole[:, 0].long()
        if int(label.max()) > 9:
            raise DataMissing(f"not CIFAR-10's binary version: it has a label {int(label.max())}, the classes are 0 to 9")
        parts.append((whole[:, 1:].reshape(-1, 3, 32, 32), label))
    return parts


def _sized(image: Tensor, size: int) -> Tensor:
    """Images (…, height, width) at `size`: pixels repeated as often as fits, then a black border, odd pixels at the end."""
    longer = max(image.shape[-2:])
    if size < longer:
        raise WrongInput(f"size {size} is smaller than the images, {longer} × {longer}", do=f"a size of {longer} or more")
    times = size // longer
    image = image.repeat_interleave(times, -1).repeat_interleave(times, -2) if times > 1 else image
    high, wide = (size - side for side in image.shape[-2:])
    return F.pad(image, [wide // 2, wide - wide // 2, high // 2, high - high // 2]) if high or wide else image
