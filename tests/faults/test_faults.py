"""Every planted fault is caught; and what plants them says so where one is not."""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Iterator
from dataclasses import replace
from functools import cache
from pathlib import Path

import pytest

from fuxian import catalog

from .catalogue import FAULTS
from .plant import ROOT, Fault, Runner, planted


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.name)
def test_the_patch_applies_and_its_tests_are_there(fault: Fault) -> None:
    ast.parse(planted(fault))
    assert 1 <= len(fault.tests) <= 3
    for test in fault.tests:
        file, _, name = test.partition("::")
        assert name.partition("[")[0] in functions(file)


@cache
def functions(file: str) -> set[str]:
    tree = ast.parse((ROOT / "tests" / file).read_text(encoding="utf-8"))
    return {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}


@pytest.mark.parametrize("entry", catalog.methods(), ids=lambda entry: entry.key)
def test_every_method_has_faults(entry: catalog.Entry) -> None:
    """What is wrong in a method that is easy to get wrong, and hard to see: two mistakes at least, each with its test."""
    assert len([fault for fault in FAULTS if ROOT / "src" / "fuxian" / fault.file == entry.path]) >= 2


def test_names_are_different_and_the_record_is_of_these() -> None:
    names = [fault.name for fault in FAULTS]
    assert len(set(names)) == len(names) >= 40
    record = json.loads((ROOT / "results" / "faults.json").read_text(encoding="utf-8"))["faults"]
    again = "record them again: python -m tests.faults --record"
    assert [(one["fault"], one["file"], one["tests"]) for one in record] == [
        (fault.name, fault.file, list(fault.tests)) for fault in FAULTS
    ], again
    assert all(one["caught"] for one in record), again


@pytest.fixture(scope="session")
def runner() -> Iterator[Runner]:
    with Runner(FAULTS) as one:
        yield one


@pytest.mark.slow
@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.name)
def test_a_planted_fault_is_caught(fault: Fault, runner: Runner) -> None:
    verdict = runner.judge(fault)
    assert verdict.caught, verdict.why


# ── the mechanism, on a repository of two files ─────────────────────────────────────────────────────────────────────

CODE = """def half(x):
    return x / 2  # of a number


def double(x):
    return 2 * x
"""
TESTS = """import pytest

import fuxian
from fuxian.numbers import half


def test_half():
    assert half(6) == 3


@pytest.mark.parametrize("x", [0, 4])
def test_quarter(x):
    assert half(half(x)) == x / 4


def test_already_red():
    assert half(6) == 4


def test_left_out():
    pytest.skip("not here")


def test_endless():
    while half(2) != 1:
        pass
"""
HALF = Fault("thirds", "numbers.py", "x / 2", "x / 3", ("test_numbers.py::test_half",))
TEST = "test_numbers.py::"


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("repository")
    files = {"src/fuxian/__init__.py": "", "src/fuxian/numbers.py": CODE, "tests/test_numbers.py": TESTS}
    for path, text in files.items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_text(text)
    return root


@pytest.fixture(scope="module")
def of_small(small: Path) -> Iterator[Runner]:
    with Runner([replace(HALF, tests=tuple(TEST + name for name in NAMES))], small, [], seconds=10) as one:
        yield one


NAMES = ["test_half", "test_quarter", "test_quarter[0]", "test_already_red", "test_left_out", "test_endless", "test_gone"]


def test_a_fault_that_its_tests_see_is_caught(of_small: Runner, small: Path) -> None:
    assert of_small.judge(HALF).caught
    assert of_small.judge(replace(HALF, tests=(TEST + "test_quarter", TEST + "test_half"))).caught
    assert (small / "src/fuxian/numbers.py").read_text() == CODE  # it was planted in a copy


@pytest.mark.slow
@pytest.mark.parametrize(
    ("change", "why"),
    [
        (dict(new="x * 1 / 2"), "test_half is green"),
        (dict(old="2 * x", new="3 * x"), "test_half is green"),  # no test looks there
        (dict(tests=(TEST + "test_half", TEST + "test_quarter[0]")), r"^test_numbers.py::test_quarter\[0\] is green$"),
        (dict(old="x / 4"), "the patch no longer applies: 'x / 4' is 0 times in numbers.py"),
        (dict(old="return", new="yield"), "the patch no longer applies: 'return' is 2 times"),
        (dict(new="x / 2"), "the patch changes nothing"),
        (dict(file="gone.py"), "gone.py"),
        (dict(tests=(TEST + "test_already_red",)), "test_already_red is not green without the fault: red"),
        (dict(tests=(TEST + "test_left_out",)), "test_left_out is not green without the fault: skipped: not here"),
        (dict(tests=(TEST + "test_gone",)), "test_gone is not green without the fault: not found"),
        (dict(tests=()), "it names no test"),
        (dict(new="y / 2"), "test_half is broken by NameError"),
        (dict(new="x / 0"), "test_half is broken by ZeroDivisionError: division by zero"),
        (dict(new="x /"), "test_half is not collected: .*SyntaxError"),
        (dict(old="def half", new="def third"), "test_half is not collected: .*ImportError"),
        (dict(old="def half(x):", new="import os\nos._exit(0)\n\n\ndef half(x):"), "test_half is not run"),
        (dict(tests=(TEST + "test_endless",)), "test_endless is not ended in time"),
    ],
)
def test_a_fault_that_is_not_caught_is_told(change: dict, why: str, of_small: Runner) -> None:
    verdict = of_small.judge(replace(HALF, **change))
    assert not verdict.caught
    assert re.search(why, verdict.why), verdict.why


def test_an_error_that_the_fault_names_is_a_catch(of_small: Runner) -> None:
    assert of_small.judge(replace(HALF, new="x / 0", error="ZeroDivisionError")).caught
    assert not of_small.judge(replace(HALF, new="y / 0", error="ZeroDivisionError")).caught
