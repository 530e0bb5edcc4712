"""The one place that looks for the files of a published data set.

Looked for in `FUXIAN_DATA` first (one folder for each data set, as `folder` below), then in `FUXIAN_CACHE`
(`~/.cache/fuxian`), then downloaded into the cache. Every file is checked by its hash before it is used, wherever it was.
"""

from __future__ import annotations

import bz2
import gzip
import hashlib
import logging
import lzma
import os
import zlib
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from fuxian.data.fetch import Limits, NotFetched, download
from fuxian.data.published import SOURCES, File, Source
from fuxian.errors import DataMissing, WrongInput

if TYPE_CHECKING:
    import numpy as np

Note = Callable[[str], None]
Progress = Callable[[str, int, int], None]  # of a download: file, bytes done, bytes in all
_note = logging.getLogger("fuxian.data").info

_OPEN = {"": open, ".gz": gzip.open, ".xz": lzma.open, ".bz2": bz2.open}


def source(name: str) -> Source:
    """The entry of a data set. Raises WrongInput for a name that is not in the table."""
    if name not in SOURCES:
        raise WrongInput(f"there is no data set named {name!r}", do=f"one of {', '.join(SOURCES)}")
    return SOURCES[name]


def hashes(name: str) -> dict[str, str]:
    """{file: SHA-256 of its content}, for the record. The same however the file is packed."""
    return {file.plain: file.content[1] for file in source(name).files}


def digest(*parts: bytes) -> str:
    """SHA-256 of the parts one after another: for the record of data that ships with a dependency or is generated."""
    return hashlib.sha256(b"".join(parts)).hexdigest()


def digest_of(*numbers: np.ndarray) -> str:
    """SHA-256 of float64 numbers to six places, for data that are computed: their last bits are those of the machine."""
    return digest(*((x.round(6) + 0.0).tobytes() for x in numbers))  # + 0.0: there is no -0.0 then


def data_folder() -> Path | None:
    """The folder that the user's `FUXIAN_DATA` names."""
    return Path(os.environ["FUXIAN_DATA"]).expanduser() if os.environ.get("FUXIAN_DATA") else None


def cache_folder() -> Path:
    """Where downloads and other things that can be made again are kept."""
    return Path(os.environ.get("FUXIAN_CACHE") or "~/.cache/fuxian").expanduser()


def present(name: str) -> dict[str, Path | None]:
    """Where each file of a data set lies, None where it is not; neither checked nor downloaded."""
    wanted = source(name)
    return {file.name: _look(wanted, file) for file in wanted.files}


def find(name: str, *, note: Note = _note, limits: Limits = Limits(), progress: Progress | None = None) -> dict[str, Path]:
    """Paths of all files of a data set, checked; downloaded where they are missing.

    Raises DataMissing when one cannot be had or is not the published one, OutOfRoom when the disk is full.
    """
    wanted = source(name)
    return {file.name: _get(wanted, file, note, limits, progress)[0] for file in wanted.files}


def read(name: str, *, note: Note = _note, limits: Limits = Limits()) -> dict[str, bytes]:
    """{name without packing: content} of all files of a data set: what was hashed is what is returned. Raises as `find`."""
    wanted = source(name)
    return {file.plain: _get(wanted, file, note, limits)[1] for file in wanted.files}


def found_hash(name: str, file: File, path: Path) -> str:
    """SHA-256 of the content of a file that lies somewhere; in words, where it is too long for the published one.

    Raises DataMissing where it cannot be read.
    """
    return _content(source(name), file, path)[1]


def _look(wanted: Source, file: File) -> Path | None:
    for folder in filter(None, [data_folder(), cache_folder()]):
        for suffix in _OPEN:
            if (path := folder / wanted.folder / (file.plain + suffix)).is_file():
                return path
    return None


def _get(wanted: Source, file: File, note: Note, limits: Limits, progress: Progress | None = None) -> tuple[Path, bytes]:
    if path := _look(wanted, file):
        return path, _checked(wanted, file, path)
    path = cache_folder() / wanted.folder / file.name
    offline = os.environ.get("FUXIAN_OFFLINE", "").lower() not in ("", "0", "false", "no")
    try:
        if offline:
            raise NotFetched("FUXIAN_OFFLINE is set")
        note(f"{wanted.title}: {file.name}, {file.size:,} bytes; licence: {wanted.licence}")
        shown = partial(progress, file.name) if progress else None
        download(_urls(wanted, file), path, file.size, file.sha256, limits, shown)
    except NotFetched as error:
        looked = f"{data}" if (data := data_folder()) else "not set"
        stem = wanted.files[0].name.rpartition(".")[0]
        alike = all(f.name.startswith(stem) for f in wanted.files)
        names = f"{stem}.*" if alike else ", ".join(f.name for f in wanted.files)
        raise DataMissing(
            f"{wanted.title} is not here and cannot be downloaded: {error}",
            where=f"looked in $FUXIAN_DATA ({looked}) and {path.parent}",
            do=f"put the {len(wanted.files)} files {names} into a folder {wanted.folder} and set FUXIAN_DATA to its parent",
            or_="a method's --quick form needs no download",
        ) from None
    return path, _checked(wanted, file, path)


def _urls(wanted: Source, file: File) -> list[str]:
    mirror, hub = os.environ.get("FUXIAN_MIRROR"), os.environ.get("HF_ENDPOINT")
    urls = [f"{mirror.rstrip('/')}/{wanted.folder}/{file.name}"] if mirror else []
    for base in wanted.bases:
        if hub and base.startswith("https://huggingface.co/"):
            base = hub.rstrip("/") + base.removeprefix("https://huggingface.co")
        urls.append(base + file.name)
    return urls


def _checked(wanted: Source, file: File, path: Path) -> bytes:
    """The content of a found file, if it is the published one."""
    content, found = _content(wanted, file, path)
    if found != file.content[1]:
        raise DataMissing(
            f"{wanted.title}: {path.name} is not the published file",
            where=f"{path}: SHA-256 of the content is {found}, not {file.content[1]}",
            do="delete it, or put the published file there",
        )
    return content


def _content(wanted: Source, file: File, path: Path) -> tuple[bytes, str]:
    """The content of a found file and its SHA-256. Reads one byte more than expected at most."""
    size = file.content[0]
    try:
        with _OPEN.get(path.suffix if path.name != file.plain else "", open)(path, "rb") as packed:
            content = packed.read(size + 1)
    except (EOFError, OSError, lzma.LZMAError, zlib.error) as error:
        raise DataMissing(
            f"{wanted.title}: {path.name} cannot be read: {error}",
            where=f"{path}",
            do="delete it, or put the published file there",
        ) from None
    return content, hashlib.sha256(content).hexdigest() if len(content) <= size else f"more than {size:,} bytes"
