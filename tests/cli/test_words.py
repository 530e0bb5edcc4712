"""What the command line says before anything runs: lists, help, and each wrong input in one line with its exit code."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from fuxian import __version__
from fuxian.cli import COMMANDS, main

Fuxian = Callable[..., tuple[int, str, str]]


# ── wrong input ─────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("run gcm", "there is no method gcm; the nearest is gcn (graph). All: fuxian list"),
        ("info lenett", "there is no method lenett; the nearest is lenet (vision). All: fuxian list"),
        ("list grap", "there is no family grap; the nearest is graph. All: fuxian list"),
        ("run gcn --hiden 32", "gcn has no knob --hiden; the nearest is --hidden (default 16). All: fuxian info gcn"),
        ("run gcn --hiden=32", "gcn has no knob --hiden; the nearest is --hidden (default 16). All: fuxian info gcn"),
        ("run gcn --sed 1", "gcn has no knob --sed; the nearest is --seed. All: fuxian info gcn"),
        ("run gcn --zzz", "gcn has no knob --zzz. All: fuxian info gcn"),
        (
            "run gcn --dropout 1.5",
            "--dropout 1.5 is out of range; it is a probability from 0 to 1 (default 0.5)",
        ),
        ("run gcn --lr -1e-3", "--lr -1e-3 is out of range; it is above 0 (default 0.1)"),
        ("run gcn --hidden 1.5", "--hidden 1.5 is not a whole number (default 16)"),
        ("run gcn --hidden none", "--hidden none is not a whole number (default 16)"),
        ("run gcn --kind lin", "--kind lin is not one of line, curve; the nearest is line (default line)"),
        ("run gcn --hidden", "--hidden: expected one argument. Help: fuxian run gcn --help"),
        ("run gcn gat", "gat is one word too many. Help: fuxian run gcn --help"),
        ("run", "METHOD is missing. Help: fuxian run --help"),
        ("run --seed 3", "METHOD is missing. Help: fuxian run --help"),
        ("run gcn --seeds 0", "--seeds 0 is neither a number of seeds (5) nor a list of them (0,1,2)"),
        ("run gcn --seeds 1,x", "--seeds 1,x is neither a number of seeds (5) nor a list of them (0,1,2)"),
        ("run gcn --seeds 1,1", "--seeds 1,1 names a seed twice"),
        ("run gcn --seeds 2 --seed 1", "--seed and --seeds exclude each other: --seeds 3,5 runs those two"),
        ("run gcn --seed -1", "--seed -1 is not a whole number of 0 or more"),
        ("run gcn --limit 0", "--limit 0 is not a whole number of 1 or more"),
        ("run gcn --precision half", "--precision half is not one of float32, bf16"),
        ("run mine.py", "there is no file mine.py; the nearest is line.py"),
        ("run line", "there is no method line; a file of your own is called by its path: line.py"),
        ("rum gcn", "there is no command rum; the nearest is run. All: fuxian --help"),
        ("--verson", "there is no option --verson; the nearest is --version. All: fuxian --help"),
        ("list --jsn", "fuxian list has no option --jsn; the nearest is --json. Help: fuxian list --help"),
        ("resume nowhere", "nowhere is not there; runs are in runs/<method>/<name>"),
        ("report methods", "methods is no run folder: it has no run.json; runs are in runs/<method>/<name>"),
        ("new mine.py", "--like is missing. Help: fuxian new --help"),
        ("new mine --like gcn", "mine does not end in .py"),
        ("new a/mine.py --like gcn", "there is no folder a"),
        ("new line.py --like gcn", "line.py exists already, and nothing is overwritten"),
        (
            "new random.py --like gcn",
            "random.py would hide the package random from the files beside it; give it another name",
        ),
    ],
)
def test_wrong_input_is_one_line(fuxian: Fuxian, shelf: Path, words: str, message: str) -> None:
    assert fuxian(*words.split()) == (2, "", f"fuxian: {message}\n")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("def recipe(", "def recipe(:"), "line.py does not parse: line 45: invalid syntax"),
        (("def recipe", "def recip"), "line.py has no function recipe; a method is `def recipe(…): … yield Stage(…)`"),
        (("    yield Stage", "    return Stage"), "line.py, line 45: recipe has no yield; a recipe yields its stages"),
        (
            ("shuffle: bool", "device: bool"),
            "line.py, line 50: knob device has a name that the command line keeps for itself; give it another",
        ),
        (('"curve"] = "line"', '"curve"]'), "line.py, line 46: knob kind has no default; every knob has one"),
        (('Paper("On lines", ', "Paper(title, "), "line.py, line 15: PAPER is not a literal"),
    ],
)
def test_a_wrong_file_is_one_line(fuxian: Fuxian, here: Path, change: tuple[str, str], message: str) -> None:
    text = (here / "line.py").read_text()
    assert change[0] in text
    (here / "line.py").write_text(text.replace(*change))
    assert fuxian("run", "line.py") == (2, "", f"fuxian: {message}\n")


def test_with_json_an_error_is_one_object(fuxian: Fuxian, shelf: Path) -> None:
    code, out, err = fuxian("run", "gcn", "--hiden", "3", "--json")
    message = "gcn has no knob --hiden; the nearest is --hidden (default 16). All: fuxian info gcn"
    assert (code, json.loads(out), err) == (2, {"error": message, "code": 2}, "")


def test_an_unexpected_exception_is_a_bug(fuxian: Fuxian, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fuxian.catalog.methods", lambda family: 1 / 0)
    code, out, err = fuxian("list")
    assert (code, out) == (70, "")
    assert err.startswith("Traceback")
    assert err.splitlines()[-1] == (
        "fuxian: this is a bug in fuxian, please report it with the lines above: ZeroDivisionError: division by zero"
    )


def test_ctrl_c_anywhere(fuxian: Fuxian, monkeypatch: pytest.MonkeyPatch) -> None:
    def pressed(family: str | None) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("fuxian.catalog.methods", pressed)
    assert fuxian("list") == (130, "", "■ stopped by Ctrl-C\n")


# ── list, info, help ────────────────────────────────────────────────────────────────────────────────────────────────


def test_list(fuxian: Fuxian, shelf: Path) -> None:
    code, out, _ = fuxian("list")
    lines = [line.split() for line in out.splitlines()]
    assert code == 0
    assert lines[0] == ["family", "method", "paper", "proof", "result"]
    assert lines[1] == "graph gat Gauss & Legendre 1809 – – – – – not yet".split()
    assert lines[2] == "gcn Gauss & Legendre 1809 – – – – – not yet".split()
    assert lines[3][:2] == ["vision", "lenet"]
    assert out.splitlines()[4].startswith("3 methods in 2 families.")
    assert "lenet" not in fuxian("list", "graph")[1]


def test_list_and_info_as_json(fuxian: Fuxian, shelf: Path) -> None:
    listed = json.loads(fuxian("list", "--json")[1])["methods"]
    assert [(one["family"], one["method"]) for one in listed] == [("graph", "gat"), ("graph", "gcn"), ("vision", "lenet")]
    gcn = json.loads(fuxian("info", "gcn", "--json")[1])
    assert gcn["claims"][0]["verdict"] == "not yet"
    assert {knob["name"]: knob["default"] for knob in gcn["knobs"]} == {
        "kind": "line", "hidden": 16, "dropout": 0.5, "epochs": 20, "lr": 0.1, "momentum": None, "shuffle": True
    }  # fmt: skip
    assert list(gcn["proof"]) == ["parity", "claim", "speed", "resume", "export"]


def test_info(fuxian: Fuxian, shelf: Path) -> None:
    code, out, _ = fuxian("info", "gcn")
    assert code == 0
    assert "On lines" in out
    assert re.search(r"^--epochs N +20 +2 +passes over the points$", out, re.MULTILINE)
    assert re.search(r"^--shuffle / --no-shuffle +true +has no effect$", out, re.MULTILINE)
    assert "fuxian run gcn --quick" in out
    assert "fuxian verify gcn" in out


def test_nothing_is_wider_than_100_columns(fuxian: Fuxian) -> None:
    for words in (
        ["list"],
        ["info", "line.py"],
        ["run", "line.py", "--help"],
        ["--help"],
        *([c, "--help"] for c in COMMANDS),
    ):
        assert max(map(len, fuxian(*words)[1].splitlines())) <= 100, words


def test_help_of_a_method_shows_its_knobs_with_their_end_comments(fuxian: Fuxian, shelf: Path) -> None:
    code, out, _ = fuxian("run", "gcn", "--help")
    assert code == 0
    assert re.search(r"--kind NAME +what is fitted; eq\. 1; line or curve; default line$", out, re.MULTILINE)
    assert re.search(r"--epochs N +passes over the points; default 20; quick 2$", out, re.MULTILINE)
    assert re.search(r"--shuffle, --no-shuffle\s+has no effect; default true$", out, re.MULTILINE)
    assert "--seeds" in out
    assert fuxian("run", "--help", "gcn")[1] == out


def test_help_and_version(fuxian: Fuxian) -> None:
    for words in ([], ["--help"], ["-h"]):
        code, out, _ = fuxian(*words)
        assert code == 0
        assert all(f"  {name} " in out for name in COMMANDS)
    assert fuxian("--version") == (0, f"fuxian {__version__}\n", "")
    for name in COMMANDS:
        assert fuxian(name, "--help")[1].startswith(f"usage: fuxian {name}")


# ── knobs ───────────────────────────────────────────────────────────────────────────────────────────────────────────


def dry(fuxian: Fuxian, *words: str) -> dict[str, tuple[object, str]]:
    code, out, err = fuxian("run", *words, "--dry-run", "--json")
    assert (code, err) == (0, ""), out
    return {name: (knob["value"], knob["from"]) for name, knob in json.loads(out)["knobs"].items()}


def test_knobs_by_word_and_by_equals_sign(fuxian: Fuxian, shelf: Path) -> None:
    for words in (["--hidden", "32"], ["--hidden=32"]):
        assert dry(fuxian, "gcn", *words)["hidden"] == (32, "command line")
    assert dry(fuxian, "--quick", "gcn")["epochs"] == (2, "quick")
    assert dry(fuxian, "--hidden", "8", "gcn", "--quick", "--epochs=3")["epochs"] == (3, "command line")
    assert dry(fuxian, "gcn", "--no-shuffle")["shuffle"] == (False, "command line")
    assert dry(fuxian, "gcn", "--shuffle")["shuffle"] == (True, "command line")
    assert dry(fuxian, "gcn", "--momentum", "-.5e-3")["momentum"] == (-0.0005, "command line")
    assert dry(fuxian, "gcn", "--momentum", "none")["momentum"] == (None, "command line")
    assert dry(fuxian, "gcn")["hidden"] == (16, "default")


def test_underscores_are_dashes(fuxian: Fuxian, here: Path) -> None:
    text = (here / "line.py").read_text().replace("lr: float = 0.1,", "weight_decay: float = 0.1,")
    (here / "line.py").write_text(text)
    for flag in ("--weight-decay", "--weight_decay"):
        assert dry(fuxian, "line.py", flag, "0.5")["weight_decay"] == (0.5, "command line")


def test_dry_run_in_words(fuxian: Fuxian, shelf: Path, here: Path) -> None:
    out = fuxian("run", "gcn", "--quick", "--lr", "0.2", "--dry-run")[1]
    assert re.search(r"^--epochs +2 +quick +passes over the points$", out, re.MULTILINE)
    assert re.search(r"^--lr +0\.2 +command line +of gradient descent$", out, re.MULTILINE)
    assert not (here / "runs").exists()


# ── new ─────────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_new_writes_a_file_that_stands_on_its_own(fuxian: Fuxian, shelf: Path, here: Path) -> None:
    code, out, _ = fuxian("new", "mine.py", "--like", "gcn")
    assert code == 0
    assert [line.split("  ")[-1].strip() for line in out.splitlines()[1:]] == [
        "fuxian info mine.py",
        "fuxian run mine.py --quick",
    ]
    text = (here / "mine.py").read_text()
    compile(text, "mine.py", "exec")
    assert text.startswith('"""mine: ')
    assert "On lines" not in text
    assert "CLAIMS" not in text
    info = json.loads(fuxian("info", "mine.py", "--json")[1])
    assert (info["paper"], info["claims"], info["quick"]) == (None, [], {"epochs": 2})
    assert len(info["knobs"]) == 7


def test_new_drops_imports_of_facts_that_are_gone(fuxian: Fuxian, shelf: Path, here: Path) -> None:
    text = (shelf / "graph" / "gcn.py").read_text()
    text = text.replace("import Batch, Claim, Objective, Paper,", "import Batch, Objective,")
    text = text.replace("PAPER =", "from fuxian.facts import Claim, Paper, Within\nBOUND = Within(0)\nPAPER =", 1)
    (shelf / "graph" / "gcn.py").write_text(text)
    fuxian("new", "mine.py", "--like", "gcn")
    assert "from fuxian.facts import Within\n" in (here / "mine.py").read_text()


# ── the terminal ────────────────────────────────────────────────────────────────────────────────────────────────────

NO_TORCH = """
import sys
from fuxian.cli import main
assert main({words!r}) == 0
heavy = {{'torch', 'numpy', 'matplotlib', 'jinja2', 'sklearn'}}
loaded = sorted({{name.partition('.')[0] for name in sys.modules}} & heavy)
assert not loaded, loaded
"""


@pytest.mark.parametrize(
    "words",
    [
        ["list"],
        ["list", "--json"],
        ["info", "lenet"],
        ["run", "lenet", "--help"],
        ["run", "lenet", "--quick", "--dry-run"],
        ["--help"],
    ]
    + [[name, "--help"] for name in COMMANDS],
    ids=" ".join,
)
def test_nothing_heavy_is_imported(outside: Fuxian, words: list[str]) -> None:
    code, _, err = outside("-c", NO_TORCH.format(words=words))
    assert (code, err) == (0, "")


def test_colour_only_where_it_is_wanted(outside: Fuxian) -> None:
    assert "\x1b[" in outside("-m", "fuxian", "list", FORCE_COLOR="1")[1]
    for words in (["list"], ["info", "lenet"], ["run", "lenet", "--help"]):
        assert "\x1b" not in outside("-m", "fuxian", *words)[1]
        assert "\x1b" not in outside("-m", "fuxian", *words, FORCE_COLOR="1", NO_COLOR="1")[1]
    assert "\x1b" not in outside("-m", "fuxian", "run", "lenett", FORCE_COLOR="1", NO_COLOR="1")[2]


def test_without_utf8_the_marks_are_ascii(outside: Fuxian) -> None:
    code, out, err = outside("-m", "fuxian", "list", PYTHONIOENCODING="ascii", PYTHONUTF8="0")
    assert (code, err) == (0, "")
    assert "+ holds  ! short  ~ in part  o no verdict  - not yet" in out
    code, _, err = outside("-m", "fuxian", "run", "línea.py", PYTHONIOENCODING="ascii")
    assert (code, err) == (2, "fuxian: there is no file l?nea.py; the nearest is line.py\n")


def test_a_reader_that_leaves_early(here: Path) -> None:
    reading, writing = os.pipe()
    os.close(reading)  # nobody listens
    command = [sys.executable, "-m", "fuxian", "list"]
    done = subprocess.run(command, stdout=writing, stderr=subprocess.PIPE, check=False, timeout=60)
    os.close(writing)
    assert (done.returncode, done.stderr) == (141, b"")


def test_main_returns_and_does_not_exit() -> None:
    assert main(["--version"]) == 0
