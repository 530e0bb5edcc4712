"""Completion: the words that may follow, and the three scripts in real shells."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from fuxian import catalog
from fuxian.cli import COMMANDS
from fuxian.cli.completion import SCRIPTS, candidates
from fuxian.data.sources import SOURCES

Fuxian = Callable[..., tuple[int, str, str]]


def made(*folders: str) -> None:
    for folder in folders:
        Path(folder).mkdir(parents=True)
        (Path(folder) / "run.json").write_text("{}")


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("", [*COMMANDS]),
        ("re", ["resume", "report"]),
        ("--", ["--help", "--version"]),
        ("nothing ", []),
        ("run g", ["gat", "gcn"]),
        ("run line", ["line.py"]),
        ("run ./li", ["./line.py"]),
        ("run ./me", ["./methods/"]),
        ("run methods/graph/", ["methods/graph/gat.py", "methods/graph/gcn.py"]),
        ("run gcn --see", ["--seed", "--seeds"]),
        ("run gcn --hid", ["--hidden"]),
        ("run gcn --hidden 3 --hid", []),  # given before
        ("run --hid", []),  # of no method yet
        ("run --quick gcn --hid", ["--hidden"]),
        ("run line.py --mom", ["--momentum"]),
        ("run gcn --no-sh", ["--no-shuffle"]),
        ("run gcn --kind ", ["line", "curve"]),
        ("run gcn --kind c", ["curve"]),
        ("run gcn --kind=c", ["--kind=curve"]),
        ("run gcn --kind = c", ["curve"]),  # as bash breaks it
        ("run gcn --kind =", ["line", "curve"]),
        ("run gcn --momentum ", ["none"]),
        ("run gcn --hidden ", []),
        ("run gcn --precision b", ["bf16"]),
        ("run gcn --track ", ["tensorboard"]),
        ("run gcn --hidden 1.5 --dro", ["--dropout"]),  # a wrong value before does not matter
        ("info le", ["lenet"]),
        ("verify --json le", ["lenet"]),
        ("list ", ["graph", "vision"]),
        ("list --sort t", ["time"]),
        ("data ", ["list", "get", "check"]),
        ("data check c", [name for name in SOURCES if name.startswith("c")]),
        ("data get cora mn", ["mnist"]),
        ("new line", ["line.py"]),
        ("new mine.py --like ga", ["gat"]),
        ("table runs/gr", ["runs/graph.gcn/two", "runs/graph.gcn/one"]),  # the newest first
        ("table runs/graph.gcn/one runs/l", ["runs/line/x"]),
        ("table run", ["runs/graph.gcn/two", "runs/line/x", "runs/graph.gcn/one"]),
        ("table runs/graph.gcn/one --format l", ["latex"]),
        ("table --output li", ["line.py"]),
        ("report met", ["methods/"]),  # no run begins so
        ("completion ", ["bash", "zsh", "fish"]),
    ],
)
def test_words(shelf: Path, line: str, words: list[str]) -> None:
    for age, folder in enumerate(("runs/graph.gcn/two", "runs/line/x", "runs/graph.gcn/one")):
        made(folder)
        os.utime(Path(folder) / "run.json", (1e9 - age, 1e9 - age))
    assert candidates(line.split(" ")) == words


def test_after_the_method_come_options(shelf: Path) -> None:
    found = candidates(["run", "gcn", ""])
    assert {"--hidden", "--seeds", "--kind", "--no-shuffle"} <= set(found)
    assert all(word.startswith("--") for word in found)


def test_a_path_in_place_of_a_choice(here: Path) -> None:
    text = (here / "line.py").read_text()
    text = text.replace('"curve"] = "line"', '"curve"] | Path = "line"')
    (here / "line.py").write_text(text)
    (here / "pictures").mkdir()
    assert candidates(["run", "line.py", "--kind", "l"]) == ["line", "line.py"]
    assert candidates(["run", "line.py", "--kind", "./p"]) == ["./pictures/"]


def test_every_command_is_completed_without_running_it(here: Path) -> None:
    before = sorted(here.rglob("*"))
    for command in COMMANDS:
        flags = candidates([command, "--"])
        assert "--help" in flags, command
    assert sorted(here.rglob("*")) == before


def test_a_file_that_does_not_parse_completes_to_nothing(here: Path) -> None:
    (here / "line.py").write_text("def recipe(:\n")
    assert "--seeds" in candidates(["run", "line.py", "--"])


def test_knobs_of_every_method_that_ships() -> None:
    for entry in catalog.methods():
        flags = candidates(["run", entry.name, "--"])
        assert {knob.flag for knob in entry.knobs} <= set(flags)


def test_it_answers_without_torch(outside: Fuxian) -> None:
    code = (
        "import sys; from fuxian.cli import main; assert main(['completion', '--words', 'run', 'gcn', '--da']) == 0;"
        "assert not {'torch', 'numpy', 'matplotlib'} & set(sys.modules)"
    )
    done = outside("-c", code)
    assert done[0] == 0, done[2]
    assert done[1].split() == ["--data"]


def test_wrong_shell_is_one_line(fuxian: Fuxian) -> None:
    message = "fuxian: completion fsh is not one of bash, zsh, fish; the nearest is fish\n"
    assert fuxian("completion", "fsh") == (2, "", message)


# ── real shells ─────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture
def shell(here: Path) -> Callable[[str, str], list[str]]:
    """Runs a line in a shell that has the script, and `fuxian` on its path."""
    (here / "bin").mkdir()
    command = here / "bin" / "fuxian"
    command.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m fuxian "$@"\n')
    command.chmod(0o755)
    made("runs/a b/one two")

    def call(name: str, text: str) -> list[str]:
        if shutil.which(name) is None:
            pytest.skip(f"{name} is not here")
        (here / "script").write_text(SCRIPTS[name])
        environment = {**os.environ, "PATH": f"{here / 'bin'}:{os.environ['PATH']}", "HOME": str(here)}
        clean = {"bash": ["--norc", "--noprofile"], "zsh": ["-f"], "fish": ["--no-config"]}[name]
        done = subprocess.run(
            [name, *clean, "-c", text], env=environment, capture_output=True, text=True, check=False, timeout=60
        )
        assert done.stderr == ""
        return done.stdout.splitlines()

    return call


LINES = {
    "fuxian run lene": ["lenet"],
    "fuxian run gcn --data p": ["pubmed"],
    "fuxian table runs/a": ["runs/a b/one two"],  # one word, though it has spaces
    "fuxian run nothing-begins-so": [],
}


@pytest.mark.parametrize(("line", "found"), LINES.items())
def test_bash(shell: Callable[[str, str], list[str]], line: str, found: list[str]) -> None:
    words = " ".join(line.split())
    ask = f"source ./script; COMP_WORDS=({words}); COMP_CWORD=$(( ${{#COMP_WORDS[@]}} - 1 )); _fuxian fuxian; "
    assert shell("bash", ask + 'for w in "${COMPREPLY[@]}"; do printf "%s\\n" "$w"; done') == found


@pytest.mark.parametrize(("line", "found"), LINES.items())
def test_zsh(shell: Callable[[str, str], list[str]], line: str, found: list[str]) -> None:
    """`compadd` works within the editor alone: here it prints what it is given."""
    ask = 'compdef() { : }; compadd() { while [[ $1 != -- ]]; do shift; done; shift; (( $# )) && print -l -- "$@" };'
    ask += f" source ./script; words=({line}); CURRENT=$#words; _fuxian"
    assert [word for word in shell("zsh", f"{ask}; true") if word] == found


@pytest.mark.parametrize(("line", "found"), LINES.items())
def test_fish(shell: Callable[[str, str], list[str]], line: str, found: list[str]) -> None:
    assert shell("fish", f"source ./script; complete -C {json.dumps(line)}") == found
