"""The page of a run: one file, nothing loaded from outside."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fuxian.report.page import write_index as write_index
    from fuxian.report.page import write_report as write_report
    from fuxian.report.study import write_study as write_study

__all__ = ["write_index", "write_report", "write_study"]


def __getattr__(name: str) -> Any:  # lazily, so that a terminal that formats a number does not import jinja2
    if name in __all__:
        from fuxian.report import page, study

        return getattr(study if name == "write_study" else page, name)
    raise AttributeError(f"module 'fuxian.report' has no attribute {name!r}")
