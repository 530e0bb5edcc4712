"""Runs tests of a copy of the repository in a fork of this process, which has imported the modules that it is given.

Reads a job a line, `{"copy": folder, "tests": node ids below tests/, "seconds": at most, "error": class}`, and answers with
a line, `{test: outcome}`. An outcome is *green*; *red*, failed by an assertion or an error of that class; or what else
happened. The package under test is imported in the fork alone, and must come from the copy.
"""

from __future__ import annotations

import gc
import importlib
import json
import os
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

OUTCOMES = "outcomes.json"


class Notes:
    """What became of each of the named tests; after its first red case the others of a test are left out."""

    def __init__(self, tests: list[str], error: str) -> None:
        self.tests, self.error = tests, error
        self.found: dict[str, str] = {}

    def named(self, nodeid: str) -> str:
        """The test as it was named: with or without the case in brackets."""
        inside = nodeid.removeprefix("tests/")
        return inside if inside in self.tests else inside.partition("[")[0]

    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        items[:] = [item for item in items if self.named(item.nodeid) in self.tests]

    def pytest_runtest_protocol(self, item: pytest.Item) -> bool | None:
        return True if self.found.get(self.named(item.nodeid), "green") != "green" else None

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_makereport(self, item: pytest.Item, call: pytest.CallInfo[None]) -> Iterator[None]:
        report = yield
        test = self.named(item.nodeid)
        self.found.setdefault(test, "green")
        if call.excinfo is not None and self.found[test] == "green":
            self.found[test] = self.word(call.excinfo.value, report)
        return report

    def word(self, error: BaseException, report: Any) -> str:
        if report.skipped:
            return f"skipped: {error}"
        said = (str(error).splitlines() or [""])[0]
        failed = isinstance(error, AssertionError) or type(error) is pytest.fail.Exception
        if (failed and not said.startswith("Timeout")) or type(error).__name__ == self.error:
            return "red"
        return f"broken by {type(error).__name__}: {said}"[:300]

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        if report.failed:
            lines = str(report.longrepr).splitlines() or [""]
            for test in self.tests:
                if test.startswith(report.nodeid.removeprefix("tests/").partition("::")[0]):
                    self.found.setdefault(test, f"not collected: {lines[-1]}")


def play(copy: str, tests: list[str], error: str) -> None:
    """In the fork: runs the tests and writes what they came to."""
    os.chdir(copy)
    log = os.open("log.txt", os.O_WRONLY | os.O_CREAT)
    for stream, target in ((0, os.open(os.devnull, os.O_RDONLY)), (1, log), (2, log)):
        os.dup2(target, stream)
    sys.modules["__main__"] = ModuleType("__main__")  # what a test forks or spawns must not begin with this file
    home = str(Path(__file__).resolve().parents[2])
    sys.path[:] = [f"{copy}/src", copy, *(path for path in sys.path if path != f"{home}/src" and "tests" not in path)]
    os.environ |= {"PYTHONPATH": os.pathsep.join([f"{copy}/src", copy]), "FUXIAN_RUNS": f"{copy}/runs"}
    os.environ |= {"FUXIAN_CACHE": f"{copy}/cache", "PYTHONDONTWRITEBYTECODE": "1"}
    os.environ |= {"PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}  # what is installed beside costs a second
    sys.dont_write_bytecode = True
    package = importlib.import_module("fuxian")
    assert str(package.__file__).startswith(f"{copy}/src/"), f"{package.__file__} is not the copy's"
    notes = Notes(tests, error)
    words = [f"--rootdir={copy}", f"--basetemp={copy}/tmp", "-p", "pytest_timeout"]
    words += ["-W", "ignore::pytest.PytestAssertRewriteWarning"]  # of what was imported before the fork
    files = dict.fromkeys(f"tests/{test.partition('::')[0]}" for test in tests)
    pytest.main([*words, *files], plugins=[notes])
    Path(copy, OUTCOMES).write_text(json.dumps(notes.found))


def run(copy: str, tests: list[str], seconds: float, error: str = "") -> dict[str, str]:
    """Forks, waits, and reads what the fork has written."""
    Path(copy, OUTCOMES).unlink(missing_ok=True)
    child = os.fork()
    if child == 0:
        code = 1
        try:
            os.setsid()
            play(copy, tests, error)
            code = 0
        except BaseException as failure:
            Path(copy, "failure.txt").write_text(f"{type(failure).__name__}: {failure}")
        finally:
            os._exit(code)
    deadline, ended = time.monotonic() + seconds, 0
    try:
        while not ended and time.monotonic() < deadline:
            ended, _ = os.waitpid(child, os.WNOHANG)
            time.sleep(0.02)
    finally:
        with suppress(ProcessLookupError):
            os.killpg(child, signal.SIGKILL)  # it, or what it has left behind
        if not ended:
            os.waitpid(child, 0)
    found: dict[str, str] = {}
    with suppress(FileNotFoundError):
        found = json.loads(Path(copy, OUTCOMES).read_text())
    why = "not found" if found else "not ended in time" if not ended else "not run"
    with suppress(FileNotFoundError):
        why += f": {Path(copy, 'failure.txt').read_text()}"
    return {test: found.get(test, why) for test in tests}


def main() -> None:
    for name in sys.argv[1:]:
        with suppress(ImportError):
            importlib.import_module(name)
    assert "fuxian" not in sys.modules, "imported before the copy could be"
    gc.freeze()  # pytest collects garbage at its end, and need not look through all that was imported
    for line in sys.stdin:
        print(json.dumps(run(**json.loads(line))), flush=True)


if __name__ == "__main__":
    with suppress(KeyboardInterrupt):
        main()
