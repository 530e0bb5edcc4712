"""Plants a mistake in a copy of the repository and sees whether the tests that it names turn red.

A fault is data: a text of one file, found there exactly once, and what stands there instead. Its tests run on a copy
without it first, where they must be green, since red would prove nothing; then on a copy with it, where each must fail by
an assertion, or by the error that the fault names. A test that breaks in another way has not seen the mistake.

The copies are tested in forks of a process that has imported what the tests need, but for the package itself (`server.py`).
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from typing_extensions import Self

ROOT = Path(__file__).resolve().parents[2]
COPIED = ("src", "tests", "results", "pyproject.toml")

# What the tests import, as far as it is installed.
PRELOADED = (
    "torch torch._dynamo diffusers diffusers.models.unets.unet_2d jinja2 matplotlib.figure networkx pytest pytest_timeout "
    "requests scipy.stats sklearn.cluster sklearn.datasets sklearn.manifold tokenizers torch_geometric.nn "
    "transformers.models.gpt2.modeling_gpt2 transformers.models.openai.modeling_openai "
    "transformers.models.resnet.modeling_resnet"
).split()


@dataclass(frozen=True)
class Fault:
    """A mistake. `tests` are node ids below `tests/`; one without brackets is red where any of its cases is."""

    name: str
    file: str  # below src/fuxian
    old: str  # occurs exactly once
    new: str
    tests: tuple[str, ...]
    error: str = ""  # the class of an error that a test may end with, besides an assertion's


@dataclass(frozen=True)
class Verdict:
    caught: bool
    why: str  # it is not; "" where it is


class NotPlanted(Exception):
    """The patch no longer applies."""


def planted(fault: Fault, root: Path = ROOT) -> str:
    """The text of the fault's file with the fault in it. Raises NotPlanted."""
    text = (root / "src" / "fuxian" / fault.file).read_text(encoding="utf-8")
    if (count := text.count(fault.old)) != 1:
        raise NotPlanted(f"the patch no longer applies: {fault.old!r} is {count} times in {fault.file}")
    if fault.old == fault.new:
        raise NotPlanted(f"the patch changes nothing in {fault.file}")
    return text.replace(fault.old, fault.new)


@contextmanager
def copied(fault: Fault | None = None, root: Path = ROOT) -> Iterator[Path]:
    """A copy of package, tests and records in a temporary folder, with the fault in it."""
    with tempfile.TemporaryDirectory(prefix="fuxian-fault-", ignore_cleanup_errors=True) as folder:
        copy = Path(folder).resolve()
        for name in COPIED:
            if (root / name).is_dir():
                shutil.copytree(root / name, copy / name)
            elif (root / name).is_file():
                shutil.copy2(root / name, copy / name)
        if fault is not None:
            path = copy / "src" / "fuxian" / fault.file
            path.write_text(planted(fault, root), encoding="utf-8")
            for compiled in (path.parent / "__pycache__").glob(f"{path.stem}.*"):  # may be as old and as long as the new
                compiled.unlink()
        yield copy


class Runner:
    """Judges faults of a catalogue, one at a time.

    `clean` is what their tests came to without a fault: found once for all that lie in one file, shared by several runners.
    `seconds` is how long a test may take.
    """

    def __init__(
        self,
        faults: Sequence[Fault],
        root: Path = ROOT,
        preloaded: Sequence[str] = PRELOADED,
        clean: dict[str, str] | None = None,
        seconds: float = 150,
    ) -> None:
        self.root, self.seconds = root, seconds
        self.clean = {} if clean is None else clean
        self.named = sorted({test for fault in faults for test in fault.tests})
        threads = dict(OMP_NUM_THREADS="1", OPENBLAS_NUM_THREADS="1", MKL_NUM_THREADS="1", TOKENIZERS_PARALLELISM="false")
        self.server = subprocess.Popen(
            [sys.executable, str(Path(__file__).with_name("server.py")), *preloaded],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env={**os.environ, **threads},
        )  # fmt: skip

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.server.communicate()

    def judge(self, fault: Fault) -> Verdict:
        try:
            planted(fault, self.root)
        except (NotPlanted, OSError) as error:
            return Verdict(False, str(error))
        if not fault.tests:
            return Verdict(False, "it names no test")
        files = {test.partition("::")[0] for test in fault.tests if test not in self.clean}
        if files:
            with copied(root=self.root) as copy:
                some = [test for test in self.named if test.partition("::")[0] in files]
                self.clean.update(self.outcomes(copy, some, {}))
        for test in fault.tests:
            if self.clean[test] != "green":
                return Verdict(False, f"{test} is not green without the fault: {self.clean[test]}")
        with copied(fault, self.root) as copy:
            outcomes = self.outcomes(copy, fault.tests, {"error": fault.error})
        missed = [f"{test} is {outcome}" for test, outcome in outcomes.items() if outcome != "red"]
        return Verdict(not missed, "; ".join(missed))

    def outcomes(self, copy: Path, tests: Sequence[str], options: dict[str, Any]) -> dict[str, str]:
        """What each test came to there: green, red (failed as a test that sees a mistake does), or another word for it."""
        job = {"copy": str(copy), "tests": list(tests), "seconds": self.seconds * len(tests), **options}
        assert self.server.stdin is not None
        assert self.server.stdout is not None
        self.server.stdin.write(json.dumps(job) + "\n")
        self.server.stdin.flush()
        answer = self.server.stdout.readline()
        if not answer:
            raise RuntimeError("the process that runs the tests has ended")
        return json.loads(answer)
