"""Ctrl-C and SIGTERM: asked for between steps, or at once while something that can be done again runs."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from time import monotonic
from types import FrameType

NAMES = {signal.SIGINT: "Ctrl-C", signal.SIGTERM: "SIGTERM"}
CODES = {"Ctrl-C": 130, "SIGTERM": 143}


class Stopped(Exception):
    """A signal came while an evaluation ran, which is simply done again."""


class Signals:
    """Within it the first signal is noted in `asked`; a second Ctrl-C, a second later, stops at once, without saving.

    Within that second it is the same one: `torchrun` passes on what the terminal has sent already.
    """

    def __init__(self) -> None:
        self.asked = ""
        self._since = 0.0
        self._at_once = False

    def __enter__(self) -> Signals:
        self._before = {}
        if threading.current_thread() is threading.main_thread():
            self._before = {number: signal.signal(number, self._handle) for number in NAMES}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _handle(self, number: int, _frame: FrameType | None) -> None:
        if self.asked:
            if number == signal.SIGINT and monotonic() - self._since > 1:
                raise KeyboardInterrupt
            return
        self.asked, self._since = NAMES[signal.Signals(number)], monotonic()
        if self._at_once:
            self._at_once = False  # the next signal must not interrupt the saving that follows
            raise Stopped

    @contextmanager
    def at_once(self) -> Iterator[None]:
        """A signal interrupts what runs in here."""
        if self.asked:
            raise Stopped
        self._at_once = True
        try:
            yield
        finally:
            self._at_once = False
