"""A knob: one parameter of a recipe, the values that it may take, and what is said of one that it may not."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from fuxian.errors import WrongInput
from fuxian.facts import Within

_IN_WORDS = {int: "a whole number", float: "a number", str: "text", bool: "true or false", Path: "a path"}


@dataclass(frozen=True)
class Knob:
    """One parameter of a recipe: its default, and which values it may take.

    `kind` is int, float, str, bool, Path or tuple (then of `length` items of the type `items`, None: any number).
    `path` says that a knob with `choices` takes a path too. `within` bounds a number, or each item of a tuple.
    """

    name: str
    default: Any
    help: str
    kind: type
    choices: tuple[Any, ...] = ()
    within: Within | None = None
    optional: bool = False
    path: bool = False
    items: type = str
    length: int | None = None

    @property
    def flag(self) -> str:
        return "--" + self.name.replace("_", "-")

    def parse(self, text: str) -> Any:
        """The value that `text` on the command line stands for. Raises WrongInput."""
        if self.optional and text.lower() == "none":
            return None
        value: Any = text
        if self.kind is tuple:
            value = [_number(part.strip(), self.items) for part in text.split(",") if part.strip()]
        elif self.choices:
            value = next((choice for choice in self.choices if str(choice) == text), text)
        elif self.kind is bool:
            value = {"true": True, "false": False}.get(text.lower(), text)
        else:
            value = _number(text, self.kind)
        return self.check(value, "command line", text)

    def check(self, value: Any, origin: str = "python", shown: str | None = None) -> Any:
        """The value in the knob's own type (an int for a float, a list for a tuple). Raises WrongInput."""
        shown = shown if shown is not None else shown_as(value)
        called, given = (self.name, f"{self.name}={shown}") if origin == "python" else (self.flag, f"{self.flag} {shown}")
        default = f"(default {shown_as(self.default)})"
        if value is None and self.optional:
            return None
        if self.choices:
            if any(value == choice and type(value) is type(choice) for choice in self.choices):
                return value
            if self.path and isinstance(value, str | Path):
                if (place := Path(value).expanduser()).exists():
                    return place.absolute()  # absolute: a run may be resumed from another folder
                near = nearest(str(value), self.choices, ", the nearest is {}")
                raise WrongInput(
                    f"{given} is neither one of {listed(self.choices)}{near}, nor a file or folder here {default}"
                )
            near = nearest(str(value), self.choices, "; the nearest is {}")
            raise WrongInput(f"{given} is not one of {listed(self.choices)}{near} {default}")
        if self.kind is tuple:
            if not isinstance(value, list | tuple) or not all(_is(item, self.items) for item in value):
                words = {int: "whole numbers", float: "numbers", str: "words"}.get(self.items, "values")
                raise WrongInput(f"{given} is not {words} with commas between {default}")
            if not value and self.default:
                raise WrongInput(f"{called} has no value; it takes one at least {default}")
            if self.length is not None and len(value) != self.length:
                raise WrongInput(f"{given} has {len(value)} values; it takes {self.length} {default}")
            value = tuple(self.items(item) for item in value)
        elif not _is(value, self.kind):
            raise WrongInput(f"{given} is not {_IN_WORDS[self.kind]} {default}")
        elif self.kind is Path:
            if not (place := Path(str(value)).expanduser()).exists():
                raise WrongInput(f"{given}: there is no such file or folder")
            return place.absolute()
        else:
            value = self.kind(value)
        if any(self.within and item not in self.within for item in (value if self.kind is tuple else (value,))):
            what = "a probability " if "dropout" in self.name or self.help.startswith("probability") else ""
            raise WrongInput(f"{given} is out of range; it is {what}{self.within} {default}")
        return value


def _number(text: str, kind: type) -> Any:
    """`text` as an int or a float where it is one; else as it is, for `check` to refuse."""
    try:
        return kind(text) if kind in (int, float) else text
    except ValueError:
        return text


def _is(value: Any, kind: type) -> bool:
    if kind is float:
        return isinstance(value, float | int) and not isinstance(value, bool) and not math.isnan(value)
    if kind is Path:
        return isinstance(value, str | Path)
    return isinstance(value, kind) and (kind is not int or not isinstance(value, bool))


def shown_as(value: Any) -> str:
    if isinstance(value, tuple | list):
        return ",".join(map(str, value)) or "empty"
    return str(value).lower() if value is None or isinstance(value, bool) else str(value)


def listed(words: Iterable[Any]) -> str:
    return ", ".join(map(str, words))


def nearest(word: str, words: Iterable[Any], form: str = "; the nearest is {}") -> str:
    """The one of `words` that `word` is a slip of, put into `form`; or nothing."""
    close = get_close_matches(word, [str(other) for other in words], 1)
    return form.format(close[0]) if close else ""
