"""The command `completion`: scripts for bash, zsh and fish, and the words that they ask for.

A script only asks `fuxian completion --words WORD…`: the words of the line so far, the last of them being typed. So
commands, methods, options, knobs and their choices are always today's; they are read without torch.
"""

from __future__ import annotations

import os
import re
from argparse import Action
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from importlib import import_module
from pathlib import Path
from typing import Any

from fuxian import catalog
from fuxian.cli.options import Parser
from fuxian.cli.terminal import Terminal
from fuxian.errors import FuxianError, WrongInput
from fuxian.knobs import Knob, listed, nearest

SCRIPTS = {
    "bash": """\
# In ~/.bashrc:  eval "$(fuxian completion bash)"
_fuxian() {
    local word
    COMPREPLY=()
    while IFS= read -r word; do COMPREPLY+=("$word"); done \\
        < <("$1" completion --words "${COMP_WORDS[@]:1:COMP_CWORD}" 2>/dev/null)
    if [[ "${COMPREPLY[*]}" == */* ]]; then compopt -o filenames 2>/dev/null; fi
}
complete -F _fuxian fuxian
""",
    "zsh": """\
#compdef fuxian
# In ~/.zshrc, after compinit:  eval "$(fuxian completion zsh)"
_fuxian() {
    local -a found
    found=("${(@f)$("${words[1]}" completion --words "${(@)words[2,CURRENT]}" 2>/dev/null)}")
    [[ -n "$found" ]] || return 1
    compadd -- ${found:#*/}
    compadd -S '' -- ${(M)found:#*/}
}
if [[ "$funcstack[1]" == _fuxian ]]; then _fuxian "$@"; else compdef _fuxian fuxian; fi
""",
    "fish": """\
# In ~/.config/fish/config.fish:  fuxian completion fish | source
function __fuxian_words
    set -l words (commandline -opc)
    set -l last (commandline -ct)
    $words[1] completion --words $words[2..-1] "$last" 2>/dev/null
end
complete -c fuxian -f -a '(__fuxian_words)'
""",
}
RUNS = "run.json", "seeds.json", "compare.json", "sweep.json"


def completion(words: Sequence[str], terminal: Terminal) -> int:
    if words and words[0] == "--words":
        print("".join(f"{word}\n" for word in candidates(words[1:])), end="")
        return 0
    parser = Parser("completion", "The script that completes fuxian's words in your shell.", "completion bash|zsh|fish")
    parser.add_argument("shell", metavar="bash|zsh|fish", help="the first line of the script says where it goes")
    parser.add_common()
    shell = parser.read(words).shell
    if shell not in SCRIPTS:
        raise WrongInput(f"completion {shell} is not one of {listed(SCRIPTS)}{nearest(shell, SCRIPTS)}")
    print(SCRIPTS[shell], end="")
    return 0


def candidates(words: Sequence[str]) -> list[str]:
    """What the last of the words, which follow `fuxian`, may become."""
    from fuxian.cli import COMMANDS

    *before, last = words or [""]
    if not before:
        return _beginning(last, [*COMMANDS, *(["--help", "--version"] if last.startswith("-") else [])])
    command, *before = before
    if command not in COMMANDS:
        return []
    if last == "=" or before[-1:] == ["="]:  # bash breaks --lr=0.1 there
        before, last = (before, "") if last == "=" else (before[:-1], last)
    before = [word for word in before if word != "="]
    actions = _actions(command, before)
    options = {option: action for action in actions for option in action.option_strings}
    flag, equals, value = last.partition("=")
    if equals and flag in options:  # zsh and fish do not
        return [f"{flag}={found}" for found in _values(options[flag], value)]
    if before and _takes_value(options, before[-1]):
        return _values(options[before[-1]], last)
    flags = [o for o, a in options.items() if o.startswith("--") and (o not in before or a.nargs == "append")]
    if last.startswith("-"):
        return _beginning(last, flags)
    places = [action for action in actions if not action.option_strings]
    taken = sum(
        not word.startswith("-") and not _takes_value(options, previous)
        for previous, word in zip(["", *before], before, strict=False)
    )
    if taken >= len(places) and not (places and places[-1].nargs in ("+", "*")):
        return _beginning(last, flags)
    return _values(places[min(taken, len(places) - 1)], last)


def _actions(command: str, before: Sequence[str]) -> list[Action]:
    """Options and places of a command, those of the knobs of the method among the words with them.

    Every command prints its help before it does anything: what it would print is asked for its parser.
    """
    from fuxian.cli import COMMANDS

    found: list[Parser] = []
    prints = Parser.print_help
    Parser.print_help = lambda self, file=None: found.append(self)
    module, function, _ = COMMANDS[command]
    try:
        for words in (["--help", *before], ["--help"]):  # alone, where the method among the words is none
            with suppress(SystemExit, FuxianError):
                getattr(import_module(f"fuxian.cli.{module}"), function)(words, Terminal())
            if found:
                break
    finally:
        Parser.print_help = prints
    actions = list(found[0]._actions) if found else []
    if not any(not action.option_strings for action in actions):  # methods, and knobs of any of them
        actions += _of_methods(before)
    return actions


def _of_methods(before: Iterable[str]) -> Iterator[Action]:
    yield Action([], "methods", nargs="+", metavar="METHOD")
    told: set[str] = set()
    for word in before:
        try:
            entry = catalog.find(word)
        except FuxianError:
            continue
        for knob in entry.knobs:
            if knob.flag not in told:
                told.add(knob.flag)
                yield Action([knob.flag], knob.name, type=knob.parse)


def _takes_value(options: dict[str, Action], word: str) -> bool:
    return word in options and options[word].nargs != 0


def _values(action: Action, last: str) -> list[str]:
    """What may stand for a place or for the value of an option."""
    knob: Any = getattr(action.type, "__self__", None)
    if isinstance(knob, Knob):
        plain = (
            [str(choice) for choice in knob.choices] + ["true", "false"] * (knob.kind is bool) + ["none"] * knob.optional
        )
        return _beginning(last, plain) + (_files(last) if knob.path or knob.kind is Path else [])
    match action.metavar:
        case "METHOD" | "METHOD|FILE.py":
            return _beginning(last, catalog.names()) + _files(last, ".py")
        case "RUN":
            return _runs(last)
        case "FAMILY":
            return _beginning(last, catalog.families())
        case "FILE" | "FILE.py":
            return _files(last)
        case "NAME" if action.dest == "names":  # of data sets
            from fuxian.data.sources import SOURCES

            return _beginning(last, SOURCES)
        case str() as words if re.fullmatch(r"[a-z0-9]+(\|[a-z0-9]+)*", words):
            return _beginning(last, words.split("|"))
    return []


def _beginning(last: str, words: Iterable[str]) -> list[str]:
    return [word for word in words if word.startswith(last)]


def _files(last: str, ending: str = "") -> list[str]:
    """Files that end so, and folders, where the last word leads: as it is written, a folder with a slash."""
    head, _, tail = last.rpartition("/")
    folder = Path(head or ("/" if last.startswith("/") else ".")).expanduser()
    place = last[: len(last) - len(tail)]
    try:
        there = sorted(folder.iterdir())
    except OSError:
        return []
    shown = [path for path in there if path.name.startswith(tail) and (tail.startswith(".") or path.name[0] != ".")]
    folders = [f"{place}{path.name}/" for path in shown if path.is_dir() and (last or not ending)]
    return folders + [f"{place}{path.name}" for path in shown if path.is_file() and path.name.endswith(ending)]


def _runs(last: str) -> list[str]:
    """Folders of runs, the newest first; else the folders where the last word leads."""
    parent = Path(os.environ.get("FUXIAN_RUNS", "runs"))
    found = {path.parent: path.stat().st_mtime for name in RUNS for path in parent.glob(f"*/*/{name}")}
    runs = _beginning(last, map(str, sorted(found, key=lambda path: -found[path])))
    return runs or [path for path in _files(last) if path.endswith("/")]
