"""Fuxian (复现, "to reproduce"): deep-learning methods, reproduced with proof."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from fuxian.contract import Batch as Batch
    from fuxian.contract import Metric as Metric
    from fuxian.contract import Objective as Objective
    from fuxian.contract import Split as Split
    from fuxian.contract import Splits as Splits
    from fuxian.contract import Stage as Stage
    from fuxian.engine.run import Run as Run
    from fuxian.engine.run import load as load
    from fuxian.engine.run import resume as resume
    from fuxian.engine.run import run as run
    from fuxian.evaluation import measure as measure
    from fuxian.facts import Claim as Claim
    from fuxian.facts import Paper as Paper
    from fuxian.facts import Within as Within
    from fuxian.report import write_report as write_report
    from fuxian.study.studies import compare as compare
    from fuxian.study.studies import sweep as sweep

_HOME = {
    **dict.fromkeys(["Batch", "Metric", "Objective", "Split", "Splits", "Stage"], "fuxian.contract"),
    **dict.fromkeys(["Run", "load", "resume", "run"], "fuxian.engine.run"),
    **dict.fromkeys(["Claim", "Paper", "Within"], "fuxian.facts"),
    "measure": "fuxian.evaluation",
    "write_report": "fuxian.report",
    **dict.fromkeys(["compare", "sweep"], "fuxian.study.studies"),
}


def __getattr__(name: str) -> Any:  # lazily, so that `fuxian list` does not import torch
    if name in _HOME:
        return getattr(import_module(_HOME[name]), name)
    raise AttributeError(f"module 'fuxian' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOME])
