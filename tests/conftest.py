"""What all tests share: where the records of `make prove` go, and quiet threads."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch

from fuxian import catalog

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # of a suite in the background, and so of all that it starts
    signal.signal(signal.SIGINT, signal.default_int_handler)
torch.set_num_threads(1)  # the tests run two at a time on two cores; bits depend on the number of threads


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--prove", action="store_true", help="write what the proofs measured to results/proof/")


@pytest.fixture
def prove(request: pytest.FixtureRequest) -> Callable[..., None]:
    """`prove("gcn", "parity", reference=…, outputs=…)`: recorded under --prove, once the test's own asserts have passed."""

    def write(method: str, kind: str, **facts: Any) -> None:
        if request.config.getoption("--prove"):
            from fuxian.proof.record import record

            test = request.node.nodeid.partition("@")[0]  # behind it stands the group that shares a process
            record(catalog.find(method).path, kind, {**facts, "tests": [test]})

    return write


@pytest.fixture
def _double() -> Iterator[None]:
    """New tensors of fractions have 64 bits."""
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)
