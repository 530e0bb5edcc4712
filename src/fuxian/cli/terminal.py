"""How the command line looks: marks, numbers, colour, errors. Never wider than 100 columns, except for a path."""

from __future__ import annotations

import codecs
import json
import math
import os
import sys
from collections.abc import Mapping, Sequence
from io import TextIOWrapper
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

from rich.console import Console
from rich.text import Text

from fuxian import numbers
from fuxian.engine.launch import follows
from fuxian.errors import CheckFailed, FuxianError, Interrupted, NotFinite, OtherFailed

WIDTH = 100
FOLLOWS = follows()  # of several processes this is not the first
MARKS = {"ok": "●", "short": "◆", "part": "◐", "scale": "○", "none": "–", "stopped": "■"}
COLOURS = {"●": "green", "◆": "red", "◐": "blue", "○": "default", "–": "default", "■": "yellow"}  # they repeat the marks
_POWERS = dict(zip("⁻⁰¹²³⁴⁵⁶⁷⁸⁹", "-0123456789", strict=True))
_ASCII = {**dict(zip("●◆◐○–■±−×µ’", "+!~o-#~-xu'", strict=True)), "±": "+-", "…": "...", numbers.THIN: " ", **_POWERS}


def _instead(error: UnicodeError) -> tuple[str, int]:
    """What a terminal without UTF-8 gets in place of the characters that it lacks."""
    assert isinstance(error, UnicodeEncodeError)
    lacking = error.object[error.start : error.end]
    return "^" * (lacking[0] in _POWERS) + "".join(_ASCII.get(letter, "?") for letter in lacking), error.end


codecs.register_error("fuxian", _instead)


class _Console(Console):
    def on_broken_pipe(self) -> None:  # rich would exit with 1
        raise BrokenPipeError


def _console(stderr: bool = False) -> Console:
    if FOLLOWS and not stderr:
        return _Console(file=open(os.devnull, "w"))
    stream = sys.stderr if stderr else sys.stdout
    if isinstance(stream, TextIOWrapper):
        stream.reconfigure(errors="fuxian")
    plain = bool(os.environ.get("NO_COLOR"))
    console = _Console(stderr=stderr, highlight=False, markup=False, emoji=False, color_system=None if plain else "auto")
    console.width = min(WIDTH, console.width) if console.is_terminal else WIDTH
    return console


class Terminal:
    """Where a command prints. With `--json` stdout gets one object and nothing else; the words go to stderr.

    Of several processes of a run the first one prints, and the others what it may not know of: a bug, or no memory.
    """

    def __init__(self, wants_json: bool = False) -> None:
        self.wants_json = wants_json
        self.console = _console(stderr=wants_json and not FOLLOWS)

    def say(self, content: Any = "") -> None:
        """A line, its marks coloured and its paths not broken; or a table."""
        if isinstance(content, str):
            self.console.print(coloured(content), soft_wrap=True)
        elif self.console.is_terminal:
            self.console.print(content)
        else:  # without the spaces that fill a table's rows
            with self.console.capture() as printed:
                self.console.print(content)
            self.console.print("\n".join(line.rstrip() for line in printed.get().splitlines()), soft_wrap=True)

    def write(self, piece: str) -> None:
        """A piece of running text, at once and as it is."""
        self.console.file.write(piece)
        self.console.file.flush()

    def json(self, content: Mapping[str, Any]) -> None:
        if not FOLLOWS:
            print(json.dumps(_jsonable(content), indent=1, allow_nan=False))  # ASCII: right in every encoding

    def error(self, error: FuxianError, code: int | None = None) -> int:
        """Prints what happened and what to do, on stderr, and returns the exit code."""
        code = error.code if code is None else code
        if FOLLOWS and (isinstance(error, OtherFailed) or code not in (5, 70)):
            return code
        if self.wants_json:
            self.json({"error": error.message, "code": code, **error.lines})
            return code
        mark = f"fuxian, process {os.environ['RANK']}: " if FOLLOWS else "fuxian: "
        if isinstance(error, Interrupted) or code == 130:
            mark = f"{MARKS['stopped']} "
        elif isinstance(error, NotFinite | CheckFailed):
            mark = f"{MARKS['short']} {'stopped: ' if isinstance(error, NotFinite) else ''}"
        lines = [f"  {name:<6} {text.replace(chr(10), chr(10) + ' ' * 9)}" for name, text in error.lines.items()]
        _console(stderr=True).print(coloured("\n".join([mark + error.message, *lines])), soft_wrap=True)
        return code


def coloured(line: str) -> Text:
    text = Text(line.replace(numbers.THIN, " "))  # a terminal has one width of space
    for mark, colour in COLOURS.items():
        text.highlight_regex(f"(?<!\\S){mark}(?!\\S)", colour)
    return text


def _jsonable(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(name): _jsonable(one) for name, one in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [_jsonable(one) for one in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value if value is None or isinstance(value, str | int | float | bool) else str(value)


# ── numbers ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def loss(value: float) -> str:
    """A training loss: always as wide, so that the bar stands still."""
    if not math.isfinite(value):
        return str(value)
    size = abs(value)
    return f"{value:.2e}" if 0 < size < 1e-3 else f"{value:,.{4 if size < 10 else 2 if size < 1000 else 1}f}"


def measured(metric: str, values: Sequence[float], count: float | None = None) -> str:
    """`81.5 %` for one seed, `81.6 ± 0.6 %` for more: the digits follow the spread, or the `count` of examples."""
    if not all(map(math.isfinite, values)):
        return "not a number"
    scaled = numbers.scale(metric, values, count=count)
    return scaled.with_unit(scaled.spread(fmean(values), stdev(values) if len(values) > 1 else math.nan))


def shown(path: Path) -> str:
    """A path from here, if it is below here."""
    try:
        return str(path.absolute().relative_to(Path.cwd()))
    except ValueError:
        return str(path)
