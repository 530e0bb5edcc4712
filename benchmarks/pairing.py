"""Two processes do the same work by turns, and what counts is the ratio of each pair.

Each side lives in a process of its own, with its own threads and its own memory, and does one repeat when it is told to.
The order changes from pair to pair (A B, B A, …), so that what else the machine does meets both. Before anything is timed,
the peer takes our side's weights, and both show numbers that must agree: it is the same work.
"""

from __future__ import annotations

import importlib
import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import tempfile
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from importlib.metadata import version
from pathlib import Path
from time import perf_counter
from typing import Any

import torch
from torch import Tensor

ROOT = Path(__file__).resolve().parents[1]
WARM_UPS, FEWEST = 2, 7  # repeats before the first pair; pairs of a record


@dataclass
class Side:
    """One side of a work, ready to be timed.

    run      does it so many times
    shows    numbers that the other side must show as well, asked for once, before anything is timed
    weights  what the peer starts from: our parameters by name
    spent    seconds of so many times, where the clock around `run` is not what is meant
    """

    run: Callable[[int], object]
    shows: Callable[[], Tensor]
    weights: Mapping[str, Tensor] = field(default_factory=dict)
    spent: Callable[[int], float] | None = None

    def seconds(self, times: int) -> float:
        if self.spent is not None:
            return self.spent(times)
        began = perf_counter()
        self.run(times)
        return perf_counter() - began


@dataclass(frozen=True)
class Work:
    """What is timed.

    name      on the command line, and of the record
    what      in words, as a row of the table
    ours      builds our side
    peer      builds the other from our weights
    against   the package that the peer uses, or words for a plain script
    goal      ours / peer, at most
    most      our seconds, at most, where that is a goal of its own
    method    on whose card it stands
    times     how often a repeat does it
    threads   of each side, where that is not the command line's choice
    agree     how far the numbers that are shown may differ, relative to the largest
    python    of the peer, where it needs an environment of its own
    note      what a reader must know
    """

    name: str
    what: str
    ours: Callable[[], Side]
    peer: Callable[[Mapping[str, Tensor]], Side]
    against: str
    goal: float | None = None
    most: float | None = None
    method: str | None = None
    times: int = 1
    threads: int | None = None
    agree: float = 1e-4
    python: str | None = None
    note: str = ""


class Missing(Exception):
    """The peer cannot be had here."""


class NotTheSame(Exception):
    """Both sides show different numbers: whatever they do, it is not the same work."""


def works() -> dict[str, Work]:
    """Every work by name."""
    files = sorted(path.stem for path in (ROOT / "benchmarks" / "works").glob("[a-z]*.py"))
    return {work.name: work for file in files for work in importlib.import_module(f"benchmarks.works.{file}").WORKS}


# ── the two processes ───────────────────────────────────────────────────────────────────────────────────────────────


class Process:
    """A side in a process of its own."""

    def __init__(self, python: str, work: str, side: str, folder: Path, threads: int) -> None:
        self.side, self.log = side, folder / f"{side}.log"
        names = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
        environment = {
            **os.environ,
            **dict.fromkeys(names, str(threads)),
            "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "src"), os.environ.get("PYTHONPATH", "")]),
            "HF_HUB_OFFLINE": "1",
            "TOKENIZERS_PARALLELISM": "false",
        }
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                [python, "-m", "benchmarks.pairing", work, side, str(folder), str(threads)],
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, text=True, cwd=folder, env=environment,
            )  # fmt: skip
        try:
            self.built = self._answer()
        except BaseException:
            self.process.communicate()  # a side that cannot be built ends, and is waited for
            raise

    def seconds(self, times: int) -> float:
        assert self.process.stdin is not None
        print(times, file=self.process.stdin, flush=True)
        return self._answer()["seconds"]

    def peak(self) -> int:
        """Bytes of memory, at most, of this process; its loader's workers not counted."""
        assert self.process.stdin is not None
        print(0, file=self.process.stdin, flush=True)
        return self._answer()["peak"]

    def _answer(self) -> dict[str, Any]:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        answer = json.loads(line) if line else {}
        if "missing" in answer:
            raise Missing(answer["missing"])
        if not answer:
            raise RuntimeError(f"the {self.side} side has ended:\n{self.log.read_text(errors='replace')[-3000:]}")
        return answer

    def __enter__(self) -> Process:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.communicate()  # the end of its input is its end


def serve(name: str, side: str, folder: Path, threads: int) -> None:
    """The life of a side: built, shown, then a repeat for each number that comes in."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what libraries print stays out of the answers

    def answer(**facts: Any) -> None:
        print(json.dumps(facts), file=answers, flush=True)

    torch.set_num_threads(threads)
    torch.manual_seed(0)
    work = works()[name]
    try:
        if side == "ours":
            built = work.ours()
            weights = {n: w.detach().contiguous().clone() for n, w in built.weights.items()}
            torch.save(weights, folder / "weights.pt")
        else:
            built = work.peer(torch.load(folder / "weights.pt", weights_only=True))
        torch.save(built.shows().detach().double().contiguous(), folder / f"{side}.pt")
    except (ImportError, Missing) as error:
        traceback.print_exc()
        return answer(missing=str(error))
    try:
        library = f"{work.against} {version(work.against)}" if side == "peer" else ""
    except ImportError:
        library = work.against  # words for a plain script
    answer(threads=torch.get_num_threads(), torch=torch.__version__, library=library)
    for line in sys.stdin:
        if times := int(line):
            answer(seconds=built.seconds(times) / times)
        else:
            unit = 1 if sys.platform == "darwin" else 1024
            answer(peak=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit)
    return None


# ── pairs ───────────────────────────────────────────────────────────────────────────────────────────────────────────


def measure(work: Work, pairs: int, threads: int) -> dict[str, Any]:
    """The record of a work; with a reason in the place of seconds where the peer cannot be had. Raises NotTheSame.

    Without pairs nothing is timed, and the sides are compared only.
    """
    from fuxian import catalog  # not at the top: a peer's environment may be without it
    from fuxian.engine.device import processor
    from fuxian.proof.record import method_hash

    record = {
        "name": work.name,
        "work": work.what,
        "against": work.against,
        "method": work.method,
        "method_sha256": method_hash(catalog.find(work.method).path) if work.method else None,
        "note": work.note,
        "goal": work.goal,
        "most": work.most,
        "threads": work.threads or threads,
        "machine": {"cores": os.cpu_count(), "processor": processor(), "system": platform.platform()},
        "versions": {"torch": torch.__version__, "python": platform.python_version()},
        "created": datetime.now().astimezone().isoformat(timespec="seconds"),
    }
    try:
        return record | _measured(work, pairs, record["threads"])
    except Missing as missing:
        return record | {"reason": str(missing)}


def _measured(work: Work, pairs: int, threads: int) -> dict[str, Any]:
    python = str(ROOT / work.python) if work.python else sys.executable
    if not Path(python).is_file():
        raise Missing(f"there is no {work.python}")
    load = os.getloadavg()[0]
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        with (
            Process(sys.executable, work.name, "ours", folder, threads) as ours,
            Process(python, work.name, "peer", folder, threads) as peer,
        ):
            difference = compared(*(torch.load(folder / f"{side}.pt", weights_only=True) for side in ("ours", "peer")))
            if not difference <= work.agree:
                raise NotTheSame(f"{work.name}: the two sides differ by {difference:.1e}, not {work.agree:.0e} or less")
            for _ in range(WARM_UPS if pairs else 0):
                ours.seconds(work.times), peer.seconds(work.times)
            seconds: dict[str, list[float]] = {"ours": [], "peer": []}
            for pair in range(pairs):
                for side in (ours, peer) if pair % 2 == 0 else (peer, ours):
                    seconds[side.side].append(side.seconds(work.times))
            memory = {"ours": ours.peak(), "peer": peer.peak()}
    return {
        "against": peer.built["library"],
        "seconds": seconds,  # of one time, each pair's
        "times": work.times,  # in a repeat
        "difference": difference,
        "memory_bytes": memory,
        "load": [load, os.getloadavg()[0]],  # of one minute, before and after
    }


def compared(ours: Tensor, peer: Tensor) -> float:
    """The largest difference, relative to the largest number."""
    if ours.shape != peer.shape:
        raise NotTheSame(f"one side shows {tuple(ours.shape)} numbers, the other {tuple(peer.shape)}")
    assert peer.abs().max() > 0, "nothing but zeros: they show nothing"
    return float((ours - peer).abs().max() / peer.abs().max())


@dataclass(frozen=True)
class Ratio:
    """Ours / peer over pairs: the median, and between what the middle half of the pairs lies."""

    median: float
    low: float
    high: float


def ratio(ours: list[float], peer: list[float]) -> Ratio:
    """Of each pair; two pairs or more."""
    each = [one / other for one, other in zip(ours, peer, strict=True)]
    low, median, high = statistics.quantiles(each, n=4, method="inclusive")
    return Ratio(median, low, high)


if __name__ == "__main__":
    from benchmarks import pairing  # not __main__, whose Side and Missing would be others

    pairing.serve(sys.argv[1], sys.argv[2], Path(sys.argv[3]), int(sys.argv[4]))
