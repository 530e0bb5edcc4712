"""Words of the command line into typed values; wrong ones are one line."""

from __future__ import annotations

import argparse
import re
import shutil
from collections.abc import Sequence
from typing import Any, NoReturn

from fuxian.catalog import Entry
from fuxian.errors import WrongInput
from fuxian.knobs import Knob, nearest

KNOB = "knob "  # before a knob's name among the parsed values: it cannot meet an option's name


class Parser(argparse.ArgumentParser):
    """argparse without abbreviations, whose errors are WrongInput. `command` is `run`, or `run gcn` for its help."""

    def __init__(self, command: str, about: str, usage: str) -> None:
        width = min(100, shutil.get_terminal_size((100, 24)).columns)
        super().__init__(
            prog=f"fuxian {command}",
            usage=f"fuxian {usage}",
            description=about,
            allow_abbrev=False,
            add_help=False,
            formatter_class=lambda prog: argparse.HelpFormatter(prog, max_help_position=30, width=width),
        )

    def error(self, message: str) -> NoReturn:
        message = re.sub(r"^argument (\S+?)(/\S+)?: ", r"\1: ", message)
        message = re.sub(r"^the following arguments are required: (.*)$", r"\1 is missing", message)
        raise WrongInput(f"{message}. Help: {self.prog} --help")

    def add_common(self, json: bool = False) -> None:
        if json:
            self.add_argument("--json", action="store_true", help="print one JSON object, and nothing else, on stdout")
        self.add_argument("-h", "--help", action="help", help="print this")

    def flags(self) -> list[str]:
        return [
            flag for action in self._actions for flag in action.option_strings if flag.startswith("--") and flag != "--help"
        ]

    def read(self, words: Sequence[str], entry: Entry | None = None) -> argparse.Namespace:
        """Parses all words. Raises WrongInput; a flag that `entry` and the command lack is told with the nearest."""
        options, rest = self.parse_known_args(normal(words))
        if not rest:
            return options
        flag = rest[0].partition("=")[0]
        if not flag.startswith("-"):
            raise WrongInput(f"{flag} is one word too many. Help: {self.prog} --help")
        if entry is not None:
            entry.knob(flag.lstrip("-").replace("-", "_"), "command line", self.flags())
        raise WrongInput(f"{self.prog} has no option {flag}{nearest(flag, self.flags())}. Help: {self.prog} --help")


def normal(words: Sequence[str]) -> list[str]:
    """`--weight_decay` is `--weight-decay`, and `--lr -1e-3` is `--lr=-1e-3` (argparse would see a flag)."""
    joined: list[str] = []
    for word in words:
        flag, equals, value = word.partition("=")
        if re.match(r"-\.?\d|-inf", word) and joined and joined[-1].startswith("--") and "=" not in joined[-1]:
            joined[-1] += f"={word}"
        elif word.startswith("--"):
            joined.append(flag.replace("_", "-") + equals + value)
        else:
            joined.append(word)
    return joined


def add_knobs(parser: Parser, entry: Entry) -> None:
    """One option for each knob; only those that are given are among the parsed values."""
    group = parser.add_argument_group(f"knobs of {entry.called}")
    for knob in entry.knobs:
        quick = f"; quick {plain(entry.quick[knob.name])}" if knob.name in entry.quick else ""
        choices = f"{_choices(knob)}; " if knob.choices else ""
        told = f"{knob.help + '; ' if knob.help else ''}{choices}default {plain(knob.default)}{quick}".replace("%", "%%")
        common: dict[str, Any] = dict(dest=KNOB + knob.name, default=argparse.SUPPRESS, help=told)
        if knob.kind is bool and not knob.optional:
            group.add_argument(knob.flag, action=argparse.BooleanOptionalAction, **common)
        else:
            group.add_argument(knob.flag, type=knob.parse, metavar=metavar(knob), **common)


def given_knobs(options: argparse.Namespace) -> dict[str, Any]:
    return {name.removeprefix(KNOB): value for name, value in vars(options).items() if name.startswith(KNOB)}


def metavar(knob: Knob) -> str:
    """What stands for the value of a knob in help texts."""
    if knob.choices:
        return "NAME" if knob.kind is str else "VALUE"
    if knob.kind is tuple:
        letter = {int: "N", float: "X"}.get(knob.items, "A")
        return f"{letter},{letter},…"
    if knob.kind is float and knob.within is not None and (knob.within.low, knob.within.high) == (0, 1):
        return "P"
    return {int: "N", float: "X", bool: "true|false"}.get(knob.kind, "PATH" if knob.kind.__name__ == "Path" else "TEXT")


def _choices(knob: Knob) -> str:
    *first, last = [*map(str, knob.choices), *(["a path"] if knob.path else [])]
    return f"{', '.join(first)} or {last}" if first else last


def plain(value: Any) -> str:
    """A knob's value as the command line takes it."""
    if isinstance(value, tuple | list):
        return ",".join(map(str, value))
    return str(value).lower() if value is None or isinstance(value, bool) else str(value)


def whole(flag: str, least: int) -> Any:
    """A type for argparse: a whole number of `least` or more."""

    def read(text: str) -> int:
        if not re.fullmatch(r"-?\d+", text) or int(text) < least:
            raise WrongInput(f"{flag} {text} is not a whole number of {least} or more")
        return int(text)

    return read


def seeds(text: str) -> list[int]:
    """`5` is seeds 0 to 4; `0,1,7` is those three."""
    if re.fullmatch(r"\d+", text) and int(text) > 0:
        return list(range(int(text)))
    chosen = [int(part) for part in text.split(",") if part.isdecimal()]
    if "," not in text or len(chosen) != len([part for part in text.split(",") if part]) or not chosen:
        raise WrongInput(f"--seeds {text} is neither a number of seeds (5) nor a list of them (0,1,2)")
    if len(set(chosen)) < len(chosen):
        raise WrongInput(f"--seeds {text} names a seed twice")
    return chosen
