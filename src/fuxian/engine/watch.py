"""What a run tells while it works. The engine calls these; who watches (a terminal, a notebook, nobody) decides."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any


class Watch:
    """Sees a run and shows nothing. Subclass it and override what you want to show.

    `info` is the content of `run.json`; `stage` is one entry of its `stages`.
    """

    def started(self, folder: Path, info: Mapping[str, Any]) -> None:
        """A run begins, or goes on after `resume`; its method, knobs and folder are known, its data not yet."""

    def stage_started(self, stage: Mapping[str, Any]) -> None:
        """A stage begins at `stage["step"]` (more than 0 after a resume) of `stage["steps"]`."""

    def stepped(self, step: int, losses: Mapping[str, float], rate: float, waited: float) -> None:
        """`step` steps are done, at `rate` a second; `waited` is the share of time spent on data. 10 calls a second."""

    def reading(self, split: str, done: int, of: int) -> None:
        """`done` of the `of` examples of a split, `val`, `test` or `train`, are judged. After each batch of them."""

    def evaluated(self, step: int, metrics: Mapping[str, float]) -> None:
        """A validation after `step` steps."""

    def stage_ended(self, stage: Mapping[str, Any], metrics: Mapping[str, float]) -> None:
        """A stage is finished and judged. Called at once for a stage that was finished before a resume."""

    def note(self, message: str) -> None:
        """Something worth a line: a damaged checkpoint was passed over, bits may differ."""

    def ended(self, folder: Path, info: Mapping[str, Any], metrics: Mapping[str, float]) -> None:
        """The run is done: `result.json` is written."""
