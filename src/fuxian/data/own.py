"""One's own data: pictures, `.npz`, `.txt`, and `.csv` (sheets.py). Read, checked, and split in the same way each time.

Where an example goes is a function of its content: a hash says it. Neither the order of files nor what is added later moves
one, and equal examples are together: none is trained on and tested on. Only where a class would have no example in a part,
the one whose hash lies nearest goes there.

Everything here raises WrongInput where it must be told more, and DataMissing where a file is not what it should be: one
line with the file, and the row and column or the entry.
"""

from __future__ import annotations

import hashlib
import logging
import warnings
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from fuxian.errors import DataMissing, RunUnusable, WrongInput
from fuxian.numbers import plural

note = logging.getLogger("fuxian.data").info

PARTS = ("train", "val", "test")


@dataclass
class _Reading:
    target: str
    known: dict[str, str]  # SHA-256 by path
    time: str


_reading: ContextVar[_Reading] = ContextVar("reading")


def asked() -> _Reading:
    """What the run that is being made asks of a file; outside of one nothing."""
    return _reading.get(_Reading("", {}, ""))


@contextmanager
def reading(target: str | None, known: dict[str, str], time: str | None = None) -> Iterator[None]:
    """While a recipe runs. Of a `.csv`, `target` is the column to be predicted, `time` the one that orders its rows.

    They are `--target` and `--time`. `known` receives the SHA-256 of whatever is read, by path; what is there already, from
    before a resume, must not change.
    """
    token = _reading.set(_Reading(target or "", known, time or ""))
    try:
        yield
    finally:
        _reading.reset(token)


def recorded(path: Path, sha256: str) -> dict[str, str]:
    """The hashes of data for its record. Raises RunUnusable where this run has read something else from here before."""
    known = asked().known
    if known.setdefault(str(path), sha256) != sha256:
        raise RunUnusable(f"{shown(path)} has changed since this run began", do="put it back as it was, or start a new run")
    return {path.name: sha256}


def shown(path: Path) -> str:
    """A path as its owner would write it: from here, if it is below here."""
    try:
        return f"./{path.absolute().relative_to(Path.cwd())}"
    except ValueError:
        return str(path)


def kind(path: Path, *kinds: str) -> str:
    """`folder` or a suffix like `.csv`: what the path is, if it is one of `kinds`, all that the method takes."""
    found = "folder" if path.is_dir() else path.suffix.lower()
    if found not in kinds:
        what = "a folder" if found == "folder" else f"a {found} file" if found else "a file without a suffix"
        takes = " or ".join("a folder" if kind == "folder" else kind for kind in kinds)
        raise WrongInput(f"{shown(path)} is {what}; this method's data is {takes}")
    return found


def content(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise DataMissing(f"{shown(path)} cannot be read: {error.strerror or error}") from None


def text(path: Path) -> tuple[str, str]:
    """A file of text in UTF-8, the ends of its lines made `\\n`, and its SHA-256."""
    raw = content(path)
    try:
        return raw.decode("utf-8-sig").replace("\r\n", "\n"), hashlib.sha256(raw).hexdigest()
    except UnicodeDecodeError as error:
        line = raw[: error.start].count(b"\n") + 1
        raise DataMissing(f"{shown(path)}, line {line}: byte {raw[error.start]:02x} is not UTF-8") from None


def standard(rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean and deviation of each column of `rows` (n, columns); of one that is the same in every row, itself and 1."""
    same = (rows == rows[0]).all(0)  # its deviation may be rounding, not 0, and nothing is to be divided by that
    return np.where(same, rows[0], rows.mean(0)), np.where(same, 1.0, rows.std(0))


# ── splits ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def split(keys: Sequence[bytes], label: Sequence[int], where: str) -> tuple[Tensor, Tensor, Tensor]:
    """Indices of train, val and test, about 80/10/10, in the order of the hashes. `keys` are contents, or hashes of them.

    Every class of three different examples or more is in all three; of two, in train and test; a single one is trained on.
    `where` names the data in the error for too few.
    """
    place = {key: _place(key) for key in keys}  # of each different content, from 0 to 1
    part = {key: 0 if at < 0.8 else 1 if at < 0.9 else 2 for key, at in place.items()}
    members: dict[int, dict[bytes, None]] = {}
    for key, number in zip(keys, label, strict=True):
        members.setdefault(number, {})[key] = None
    for number in sorted(members):
        mine = sorted(members[number], key=place.__getitem__)
        wanted = (0, 2, 1)[: len(mine)]
        for lacking in wanted:
            count = Counter(part[key] for key in mine)
            if not count[lacking]:
                spare = [key for key in mine if part[key] not in wanted or count[part[key]] > 1]
                nearest = min(spare, key=lambda key: abs(place[key] - (0.4, 0.85, 0.95)[lacking]))
                part[nearest] = lacking
    order = sorted(range(len(keys)), key=lambda i: (place[keys[i]], i))
    found = tuple(torch.tensor([i for i in order if part[keys[i]] == p], dtype=torch.int64) for p in range(3))
    for name, rows in zip(PARTS, found, strict=True):
        if not len(rows):
            raise DataMissing(
                f"{where}: nothing is left for the {name} split of {plural(len(place), 'different example')}",
                do="three different examples of a class, or more: one to train on, one to validate, one to test",
            )
    if twice := len(keys) - len(place):
        note(f"{where}: {plural(twice, 'example')} of {len(keys):,} equal another one; equal ones are in one split")
    return found  # type: ignore[return-value]


def _place(key: bytes) -> float:
    return int.from_bytes(hashlib.blake2b(key, digest_size=8, person=b"fuxian split").digest(), "big") / 2**64


def given(part: Sequence[str], keys: Sequence[bytes]) -> tuple[Tensor, ...]:
    """Indices of each of PARTS by the name that each example came with, in the order of hashes; empty for no example."""
    order = sorted(range(len(keys)), key=lambda i: (_place(keys[i]), i))
    return tuple(torch.tensor([i for i in order if part[i] == name], dtype=torch.int64) for name in PARTS)


def warn_of_leaks(parts: Sequence[Tensor], keys: Sequence[bytes], named: Sequence[str], where: str) -> None:
    """Says it when a content is in two parts: a score on such an example is no test."""
    home: dict[bytes, tuple[str, int]] = {}
    found = []
    for name, rows in zip(PARTS, parts, strict=True):
        for i in rows.tolist():
            before, first = home.setdefault(keys[i], (name, i))
            if before != name:
                found.append(f"{named[i]} ({name}) equals {named[first]} ({before})")
    if found:
        note(f"{where}: {plural(len(found), 'example')} in two splits: {found[0]}{', …' if len(found) > 1 else ''}")


def classes(values: Sequence[Any], where: str, least: int = 2) -> tuple[tuple[str, ...], list[int]]:
    """Names of the classes, in order (whole numbers by size), and the number of each value's."""
    words = [str(value) for value in values]
    names = sorted(set(words), key=lambda word: (0, int(word), word) if word.lstrip("-").isdecimal() else (1, 0, word))
    if len(names) < least:
        found = f"a single class, {names[0]}" if names else "no class"
        raise DataMissing(f"{where}: {found}; there must be {least} or more")
    number = {name: i for i, name in enumerate(names)}
    return tuple(names), [number[word] for word in words]


# ── pictures ────────────────────────────────────────────────────────────────────────────────────────────────────────

_NOT_PICTURES = {"thumbs.db", "desktop.ini", "__macosx"}


class PictureFile(NamedTuple):
    path: Path
    class_: str
    part: str  # "" where the folder does not say


def picture_files(folder: Path) -> list[PictureFile]:
    """Every picture under a folder, by path: `cats/1.png`, or `train/cats/1.png` beside `test/…`.

    Hidden files are passed over; any other is taken for a picture.
    """
    inside = [path for path in sorted(folder.iterdir()) if _counts(path)]
    folders = [path for path in inside if path.is_dir()]
    parted = folder / "train" in folders and len(folders) > 1 and all(path.name in PARTS for path in folders)
    loose = next((path for path in inside if not path.is_dir()), None)
    if not folders or loose:
        what = f"{shown(loose)} lies in no class" if loose else f"{shown(folder)} is empty"
        raise DataMissing(what, do="a sub-folder for each class, or train/ val/ test/ with such sub-folders")
    found = []
    for part in folders if parted else [folder]:
        for home in sorted(path for path in part.iterdir() if _counts(path)):
            if not home.is_dir():
                raise DataMissing(f"{shown(home)} lies in no class", do="a sub-folder for each class")
            files = sorted(p for p in home.rglob("*") if p.is_file() and all(map(_counts, [p, *_between(home, p)])))
            if not files:
                raise DataMissing(f"{shown(home)} is empty: a class without pictures", do="fill it or delete it")
            found += [PictureFile(file, home.name, part.name if parted else "") for file in files]
    return found


def _counts(path: Path) -> bool:
    return not path.name.startswith(".") and path.name.lower() not in _NOT_PICTURES


def _between(folder: Path, file: Path) -> list[Path]:
    return [parent for parent in file.parents if folder in parent.parents]


def picture(raw: bytes, where: str) -> np.ndarray:
    """A decoded picture, uint8: (height, width) where it has no colour, else (height, width, 3).

    Turned as its camera says; of 16 bits the upper 8; what is transparent is black.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of palettes and of tags that are not used here
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(BytesIO(raw)) as file:
                return _pixels(ImageOps.exif_transpose(file))
    except Exception as error:  # whatever a damaged file makes a decoder raise
        unknown = isinstance(error, Image.UnidentifiedImageError)
        why = "its format is not one that Pillow knows" if unknown else str(error) or type(error).__name__
        raise DataMissing(f"{where} is not a picture that can be read: {why}") from None


def _pixels(image: Image.Image) -> np.ndarray:
    if image.mode == "F":
        raise ValueError("its pixels are floating-point numbers")
    if image.mode.startswith("I"):
        return (np.asarray(image).clip(0, 65535) >> 8).astype(np.uint8)
    if image.mode in ("LA", "La", "PA", "RGBA", "RGBa") or "transparency" in image.info:
        image = Image.alpha_composite(Image.new("RGBA", image.size, "black"), image.convert("RGBA"))
    pixels = np.asarray(image.convert("RGB"))
    return pixels[..., 0] if (pixels == pixels[..., :1]).all() else pixels


def smaller(pixels: np.ndarray, size: int) -> np.ndarray:
    """With its longer side made `size` where that is larger, antialiased; its shape is kept."""
    height, width = pixels.shape[:2]
    if max(height, width) <= size:
        return pixels
    short = max(1, round(min(height, width) * size / max(height, width)))
    to = (size, short) if width >= height else (short, size)
    return np.asarray(Image.fromarray(np.ascontiguousarray(pixels)).resize(to, Image.Resampling.BICUBIC))


# ── .npz ────────────────────────────────────────────────────────────────────────────────────────────────────────────


class Arrays:
    """The arrays of a `.npz` by name."""

    def __init__(self, path: Path) -> None:
        self.path, self.where = path, shown(path)
        raw = content(path)
        self.sha256 = hashlib.sha256(raw).hexdigest()
        try:
            with np.load(BytesIO(raw), allow_pickle=False) as file:
                if not isinstance(file, Mapping):
                    raise ValueError("it holds a single array without a name")
                self.arrays: dict[str, np.ndarray] = {}
                for name in file:
                    self.arrays[name] = file[name]
        except Exception as error:  # a damaged zip, a pickled object, a shape that is none
            why = "it holds Python objects, not numbers or words" if "allow_pickle" in str(error) else str(error)
            raise DataMissing(f"{self.where} is not a .npz that can be read: {why or type(error).__name__}") from None

    def __contains__(self, name: str) -> bool:
        return name in self.arrays

    def one_of(self, *names: str) -> np.ndarray:
        """The array that has one of these names."""
        found = [name for name in names if name in self.arrays]
        if len(found) != 1:
            has = ", ".join(f"{name} {array.shape}" for name, array in self.arrays.items()) or "nothing"
            what = f"both {' and '.join(found)}" if found else f"no array {' or '.join(names)}"
            raise DataMissing(f"{self.where} has {what}; it holds {has}")
        return self.arrays[found[0]]

    def numbers(self, *names: str) -> np.ndarray:
        """The same, of finite numbers."""
        array = self.one_of(*names)
        name = next(name for name in names if name in self.arrays)
        if array.dtype.kind not in "biuf":
            raise DataMissing(f"{self.where}, {name}: its type is {array.dtype}, not numbers")
        if array.dtype.kind == "f" and not np.isfinite(array).all():
            first = np.argwhere(~np.isfinite(array))[0].tolist()
            raise DataMissing(f"{self.where}, {name}{first} is {array[tuple(first)]}, not a finite number")
        return array

    def label(self, *names: str, count: int) -> np.ndarray:
        """The same, of one whole number or word for each of `count` examples."""
        array = self.one_of(*names)
        name = next(name for name in names if name in self.arrays)
        if array.shape != (count,):
            raise DataMissing(f"{self.where}, {name}: its shape is {array.shape}, and there are {count:,} examples")
        if array.dtype.kind == "f":
            whole = np.isfinite(array) & (array == np.floor(array))
            if not whole.all():
                first = int(np.argmin(whole))
                raise DataMissing(f"{self.where}, {name}[{first}] is {array[first]}: a class is a whole number or a word")
            return array.astype(np.int64)
        return array

    def parts(self, count: int) -> list[str]:
        """The part of each example, as masks (or lists of indices) `train`, `val`, `test` say it; "" for none of them."""
        names = [name for name in PARTS if name in self.arrays or f"{name}_mask" in self.arrays]
        if names and "train" not in names:
            raise DataMissing(f"{self.where} says what {names[0]} is, and not what train is")
        part = [""] * count
        for name in names:
            array = self.one_of(name, f"{name}_mask")
            mask = array.dtype == bool and array.shape == (count,)
            if not mask and (array.dtype.kind not in "iu" or array.ndim != 1 or not len(array)):
                raise DataMissing(f"{self.where}, {name}: neither {count:,} truth values nor a list of examples")
            for i in (np.flatnonzero(array) if mask else array).tolist():
                if not 0 <= i < count:
                    raise DataMissing(f"{self.where}, {name}: there is no example {i}; they are 0 to {count - 1:,}")
                if part[i] and part[i] != name:
                    raise DataMissing(f"{self.where}: example {i} is in {part[i]} and in {name}")
                part[i] = name
            if name not in part:
                raise DataMissing(f"{self.where}, {name}: it names no example")
        return part
