"""What a study tells while it works, as `engine/watch.py` does for one run."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fuxian.study.plan import Failure, Study, Task

if TYPE_CHECKING:
    from fuxian.engine.run import Run


class Monitor:
    """Sees a study and shows nothing. Subclass it and override what you want to show."""

    def began(self, study: Study, done: int) -> None:
        """`done` of its runs were finished before."""

    def working(self, task: Task, now: str) -> None:
        """How far a run is: `step 100/2,350` of its stage, or `test 3 of 8` examples judged."""

    def ended(self, task: Task, run: Run | Failure) -> None:
        """A run has come to its end, or not."""

    def note(self, message: str) -> None:
        """Something worth a line: data is loaded, a damaged checkpoint was passed over."""
