"""Downloads: resumed by range, locked, checked, and renamed into place only when whole and right."""

from __future__ import annotations

import errno
import hashlib
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import requests
from filelock import FileLock
from urllib3.exceptions import HTTPError

from fuxian.errors import DataMissing, OutOfRoom

_CHUNK = 1 << 16  # bytes


@dataclass(frozen=True)
class Limits:
    """Patience with a server: time-outs in seconds, tries for each mirror, pause between tries in seconds (doubled)."""

    connect: float = 10.0
    read: float = 30.0
    tries: int = 3
    pause: float = 1.0


class NotFetched(Exception):
    """No mirror gave the file; the message says what each did."""


class _Failed(Exception):
    """One try failed; `again` says whether another at the same server may help."""

    def __init__(self, what: str, again: bool = True) -> None:
        super().__init__(what)
        self.again = again


def download(
    urls: Sequence[str],
    to: Path,
    size: int,
    sha256: str,
    limits: Limits = Limits(),
    progress: Callable[[int, int], None] | None = None,
) -> None:
    """Puts the file of `size` bytes with this SHA-256 at `to`, from the first of `urls` that gives it.

    What an earlier try left in `<to>.part` is carried on. Two processes fetch it once: the second waits for the first.
    `progress` takes bytes done and bytes in all. Raises NotFetched, OutOfRoom (disk full) or DataMissing (a folder that
    cannot be written).
    """
    part = to.with_name(to.name + ".part")
    try:
        to.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(to.with_name(to.name + ".lock")):
            if to.exists() and _sha256(to) == sha256:  # another process was first
                return
            failures = []
            for url in urls:
                if not (failure := _from(url, part, size, sha256, limits, progress)):
                    os.replace(part, to)
                    return
                failures.append(failure)
            raise NotFetched("; ".join(failures))
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise OutOfRoom(
                f"no room for {to.name}, {size:,} bytes",
                where=f"{to.parent}: {error.strerror}",
                do="free some space, or set FUXIAN_CACHE to a folder that has it",
            ) from None
        raise DataMissing(
            f"{to.name} cannot be written: {error.strerror or error}",
            where=f"{to.parent}",
            do="set FUXIAN_CACHE to a folder that can be written",
        ) from None


def _from(url: str, part: Path, size: int, sha256: str, limits: Limits, progress: Callable[[int, int], None] | None) -> str:
    """What went wrong at this server; nothing when the whole, right file is in `part`."""
    started, failed = time.monotonic(), ""
    for attempt in range(1, limits.tries + 1):
        try:
            _try(url, part, size, sha256, limits, progress)
        except _Failed as failure:
            tries = f" ({attempt} tries, {time.monotonic() - started:.0f} s)" if attempt > 1 else ""
            failed = str(failure).format(host=urlsplit(url).hostname) + tries
            if not failure.again:
                return failed
        else:
            return ""
        if attempt < limits.tries:
            time.sleep(limits.pause * 2 ** (attempt - 1))
    return failed


def _try(url: str, part: Path, size: int, sha256: str, limits: Limits, progress: Callable[[int, int], None] | None) -> None:
    begin = part.stat().st_size if part.exists() else 0
    if begin > size:
        part.unlink()
        begin = 0
    if begin < size:
        _receive(url, part, begin, size, limits, progress)
    if _sha256(part) != sha256:
        part.unlink()
        # What was resumed may have come from elsewhere; a file that came whole from this server will not change.
        raise _Failed("{host} sent another file than the published one", again=begin > 0)


def _receive(
    url: str, part: Path, begin: int, size: int, limits: Limits, progress: Callable[[int, int], None] | None
) -> None:
    """Appends bytes `begin` to `size` to `part`; what came before a failure stays there."""
    headers = {"Accept-Encoding": "identity"} | ({"Range": f"bytes={begin}-"} if begin else {})
    done, answered = begin, False
    try:
        with requests.get(url, headers=headers, stream=True, timeout=(limits.connect, limits.read)) as answer:
            answered = True
            if answer.status_code == 416:  # nothing at this offset: the part is of another file
                part.unlink(missing_ok=True)
                raise _Failed("{host} has a shorter file than the published one")
            if answer.status_code not in (200, 206):
                again = answer.status_code in (408, 425, 429) or answer.status_code >= 500
                raise _Failed(f"{{host}} answered {answer.status_code}", again)
            if answer.status_code == 206 and not answer.headers.get("Content-Range", "").startswith(f"bytes {begin}-"):
                part.unlink(missing_ok=True)
                raise _Failed("{host} sent another range than asked for")
            done = begin if answer.status_code == 206 else 0  # 200: the server ignores ranges
            # read1 hands over what has come: read waits for a whole chunk, and drops it when the connection breaks.
            receive = getattr(answer.raw, "read1", answer.raw.read)  # urllib3 1 has no read1
            with part.open("ab" if done else "wb") as file:
                while chunk := receive(_CHUNK):
                    done += len(chunk)
                    if done > size:
                        break
                    file.write(chunk)
                    if progress:
                        progress(done, size)
                file.flush()
                os.fsync(file.fileno())
    except (requests.RequestException, HTTPError):
        if not answered:
            raise _Failed("no answer from {host}") from None
        # else judged by what has come: behind a whole file a wrong Content-Length is no failure
    if done > size:
        part.unlink(missing_ok=True)
        raise _Failed("{host} sent a longer file than the published one", again=False)
    if done < size:
        raise _Failed(f"{{host}} stopped after {done:,} of {size:,} bytes")


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()
