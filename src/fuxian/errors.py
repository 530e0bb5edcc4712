"""What can go wrong through no fault of the code: one line that says what happened, then what to do; an exit code each."""

from __future__ import annotations


class FuxianError(Exception):
    """Something that the user can mend. The command line prints it without a traceback and exits with `code`.

    The message says what happened, with the value given. `lines` follow it, one each, in the order given:
    `where`, `kept`, `saved`, `do`, `or_`.
    """

    code = 2

    def __init__(self, message: str, **lines: str) -> None:
        super().__init__(message)
        self.message = message
        self.lines = {name.rstrip("_"): text for name, text in lines.items() if text}

    def __str__(self) -> str:
        return "\n".join([self.message, *(f"  {name:<6} {text}" for name, text in self.lines.items())])


class CheckFailed(FuxianError):
    """A claim or a check did not hold."""

    code = 1


class WrongInput(FuxianError):
    """A name, a value, a file or a recipe that cannot be used."""

    code = 2


class ContractError(WrongInput):
    """A recipe, a stage or an objective that the engine cannot run. Says which rule, and what to write instead."""


class NotFinite(FuxianError):
    """A loss or a weight became NaN or infinite."""

    code = 3


class DataMissing(FuxianError):
    """A data set that cannot be had, or is not what it should be."""

    code = 4


class OutOfRoom(FuxianError):
    """Out of memory, or of space on disk."""

    code = 5


class RunUnusable(FuxianError):
    """A run that another process holds, or that is damaged beyond its last good checkpoint."""

    code = 6


class OtherFailed(FuxianError):
    """Another process of this run has ended: what it says is the reason."""

    code = 70


class Interrupted(FuxianError):
    """Stopped by Ctrl-C (130) or SIGTERM (143), after saving."""

    def __init__(self, message: str, code: int, **lines: str) -> None:
        super().__init__(message, **lines)
        self.code = code
