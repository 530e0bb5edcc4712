"""The catalog reads methods from their text: names, literals, knobs, ranges; and says in one line what is wrong."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from fuxian import catalog
from fuxian.catalog import Entry, find, methods
from fuxian.errors import WrongInput
from fuxian.facts import Claim, Paper, Within
from fuxian.numbers import better

MINE = '''"""Averages: each row's mean.

中文     平均
Departs  in nothing
"""
from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from fuxian.facts import Claim, Paper, Within

ELSEWHERE = dict(data="citeseer")
PAPER = Paper("On averages", "Mean & Median", 1901, arxiv="0000.00001")
CLAIMS = [
    Claim("test/accuracy", 0.8, where="Table 1", tolerance=0.01, seeds=20),  # a comment
    Claim("test/loss", -1.5, "Table 2", 3, 0.1, better="lower", knobs=ELSEWHERE),
]
QUICK = {"data": "karate", "epochs": 4}


@dataclass
class Unused:
    field: int = 3


def recipe(
    data: Literal["cora", "citeseer", "karate"] | Path = "cora",  # graph; sec. 5.1
    hidden: int = 16,  # units
    dropout: float = 0.5,  # of the input # sec. 5.2
    lr: float = 0.01,
    clip: float | None = None,
    momentum: Annotated[float, Within(0, 1)] = 0.9,
    widths: tuple[int, ...] = (8, 16),
    betas: tuple[float, float] = (0.9, 0.999),
    fast: bool = False,
    *,
    epochs: int = 200,  # passes
) -> Iterator[int]:
    """Yields."""
    yield 1
'''


def write(folder: Path, text: str = MINE, name: str = "mine.py") -> str:
    (folder / name).write_text(text, encoding="utf-8")
    return name


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    return tmp_path


@pytest.fixture
def mine(here: Path) -> Entry:
    return find(write(here))


@pytest.fixture
def shelf(here: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Shipped methods of our own: graph/gcn, graph/gat, vision/lenet, and a file that is no method."""
    for name in ("graph/gcn", "graph/gat", "vision/lenet", "graph/_shared"):
        (here / "methods" / name).parent.mkdir(parents=True, exist_ok=True)
        (here / "methods" / f"{name}.py").write_text(MINE, encoding="utf-8")
    monkeypatch.setattr(catalog, "METHODS", here / "methods")
    return here / "methods"


# ── reading ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_file_is_read_without_running_it(here: Path) -> None:
    mine = find(write(here, MINE + '\nraise SystemExit("it ran")\n'))
    assert (mine.name, mine.family, mine.module, mine.path) == ("mine", "", None, here / "mine.py")
    assert (mine.title, mine.zh) == ("Averages: each row's mean", "平均")
    assert mine.paper == Paper("On averages", "Mean & Median", 1901, arxiv="0000.00001")
    assert mine.claims == [
        Claim("test/accuracy", 0.8, "Table 1", 20, 0.01),
        Claim("test/loss", -1.5, "Table 2", 3, 0.1, "lower", dict(data="citeseer")),
    ]
    assert mine.quick == dict(data="karate", epochs=4)
    assert mine.lines == len(MINE.splitlines()) + 2


def test_knobs_have_type_default_range_and_the_comment_at_their_line(mine: Entry) -> None:
    knobs = {knob.name: knob for knob in mine.knobs}
    assert list(knobs) == "data hidden dropout lr clip momentum widths betas fast epochs".split()
    assert [knob.help for knob in mine.knobs][:4] == ["graph; sec. 5.1", "units", "of the input # sec. 5.2", ""]
    assert knobs["epochs"].help == "passes"
    assert (knobs["data"].choices, knobs["data"].path, knobs["data"].kind) == (("cora", "citeseer", "karate"), True, str)
    assert (knobs["dropout"].within, knobs["lr"].within) == (Within(0, 1), Within(0, above=True))  # of facts.SHARED_KNOBS
    assert knobs["momentum"].within == Within(0, 1)
    assert (knobs["clip"].optional, knobs["clip"].kind, knobs["clip"].default) == (True, float, None)
    assert (knobs["widths"].items, knobs["widths"].length, knobs["betas"].length) == (int, None, 2)
    assert (knobs["fast"].kind, knobs["fast"].default) == (bool, False)


def test_every_knob_is_told_where_its_value_comes_from(mine: Entry) -> None:
    resolved = mine.resolve(dict(hidden=32, lr=1, widths=[4]), "python", quick=True)
    assert resolved["hidden"] == (32, "python")
    assert resolved["epochs"] == (4, "quick")
    assert resolved["dropout"] == (0.5, "default")
    assert resolved["widths"] == ((4,), "python")
    assert isinstance(resolved["lr"][0], float)
    assert mine.resolve(dict(epochs=7), "command line", quick=True)["epochs"] == (7, "command line")
    assert mine.resolve({}, "python", quick=False)["epochs"] == (200, "default")


def test_a_path_in_place_of_a_choice_is_absolute(mine: Entry, here: Path) -> None:
    (here / "own").mkdir()
    assert mine.resolve(dict(data="own"))["data"] == (here / "own", "python")


@pytest.mark.parametrize(
    ("text", "value"),
    [("clip=none", None), ("clip=-1.5", -1.5), ("widths=1,2,3", (1, 2, 3)), ("lr=1e-3", 0.001), ("data=karate", "karate")],
)
def test_words_of_the_command_line(mine: Entry, text: str, value: object) -> None:
    name, _, word = text.partition("=")
    assert mine.knob(name).parse(word) == value


# ── values that a knob does not take ────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (dict(hiden=1), "mine.py has no knob hiden; the nearest is hidden (default 16). All: fuxian info mine.py"),
        (dict(zzz=1), "mine.py has no knob zzz. All: fuxian info mine.py"),
        (dict(hidden=1.5), "hidden=1.5 is not a whole number (default 16)"),
        (dict(hidden=True), "hidden=true is not a whole number (default 16)"),
        (dict(hidden=None), "hidden=none is not a whole number (default 16)"),
        (dict(lr="fast"), "lr=fast is not a number (default 0.01)"),
        (dict(lr=float("nan")), "lr=nan is not a number (default 0.01)"),
        (dict(lr=0), "lr=0 is out of range; it is above 0 (default 0.01)"),
        (dict(epochs=0), "epochs=0 is out of range; it is 1 or more (default 200)"),
        (dict(dropout=1.5), "dropout=1.5 is out of range; it is a probability from 0 to 1 (default 0.5)"),
        (dict(momentum=1.5), "momentum=1.5 is out of range; it is from 0 to 1 (default 0.9)"),
        (dict(fast=1), "fast=1 is not true or false (default false)"),
        (dict(widths=3), "widths=3 is not whole numbers with commas between (default 8,16)"),
        (dict(widths=()), "widths has no value; it takes one at least (default 8,16)"),
        (dict(betas=(0.9,)), "betas=0.9 has 1 values; it takes 2 (default 0.9,0.999)"),
        (
            dict(data="coraa"),
            "data=coraa is neither one of cora, citeseer, karate, the nearest is cora, "
            "nor a file or folder here (default cora)",
        ),
    ],
)
def test_a_wrong_value_is_one_line(mine: Entry, given: dict[str, object], message: str) -> None:
    with pytest.raises(WrongInput) as told:
        mine.resolve(given)
    assert str(told.value) == message


def test_a_choice_without_paths(here: Path) -> None:
    mine = find(write(here, MINE.replace('"karate"] | Path', '"karate"]')))
    with pytest.raises(
        WrongInput, match=r"^data=corra is not one of cora, citeseer, karate; the nearest is cora \(default cora\)$"
    ):
        mine.resolve(dict(data="corra"))


def test_a_wrong_quick_knob_names_the_file(here: Path) -> None:
    mine = find(write(here, MINE.replace('"epochs": 4', '"epoch": 4')))
    mine.resolve({}, quick=False)
    with pytest.raises(
        WrongInput, match=r"^mine\.py, knobs of its quick: mine\.py has no knob epoch; the nearest is epochs"
    ):
        mine.resolve({}, quick=True)


# ── files that are no method ────────────────────────────────────────────────────────────────────────────────────────

RECIPE = "def recipe(n: int = 1):\n    yield n\n"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("x = 1\n\ndef recipe(:\n", "mine.py does not parse: line 3: invalid syntax"),
        ("x = 1\n", "mine.py has no function recipe; a method is `def recipe(…): … yield Stage(…)`"),
        ("def recipe():\n    return 1\n", "mine.py, line 1: recipe has no yield; a recipe yields its stages"),
        (
            "def recipe():\n    def inner():\n        yield 1\n    return inner\n",
            "mine.py, line 1: recipe has no yield; a recipe yields its stages",
        ),
        (
            "def recipe(seed: int = 0):\n    yield seed\n",
            "mine.py, line 1: knob seed has a name that the command line keeps for itself; give it another",
        ),
        ("def recipe(n: int):\n    yield n\n", "mine.py, line 1: knob n has no default; every knob has one"),
        ("def recipe(*, n: int):\n    yield n\n", "mine.py, line 1: knob n has no default; every knob has one"),
        ("def recipe(n=1):\n    yield n\n", "mine.py, line 1: knob n has no type; write `n: int = …`"),
        (
            "def recipe(n: dict = 1):\n    yield n\n",
            "mine.py, line 1: knob n has a type that no knob has; it is int, float, str, bool, Path, Literal[…] or "
            "tuple[…], also `| None` or `| Path`",
        ),
        ("def recipe(n: int = len('a')):\n    yield n\n", "mine.py, line 1: knob n has a default that is not a literal"),
        (
            "def recipe(epochs: int = 0):\n    yield epochs\n",
            "mine.py, line 1: knob epochs has a default that it may not take: "
            "epochs=0 is out of range; it is 1 or more (default 0)",
        ),
        (
            "def recipe(**n):\n    yield n\n",
            "mine.py, line 1: knob n stands for any number of values; a recipe names each of its knobs",
        ),
        (RECIPE + "PAPER = make()\n", "mine.py, line 3: PAPER is not a literal"),
        (RECIPE + "CLAIMS = [\n    Claim(*x)]\n", "mine.py, line 4: CLAIMS is not a literal"),
        (RECIPE + "CLAIMS = [c for c in x]\n", "mine.py, line 3: CLAIMS is not a literal"),
        (
            RECIPE + "CLAIMS = [Claim('a', 1.0)]\n",
            "mine.py, line 3: CLAIMS Claim missing 2 required positional arguments: 'where' and 'seeds'",
        ),
        (RECIPE + "CLAIMS = [1]\n", "mine.py: CLAIMS is not a list of Claim"),
        (RECIPE + "PAPER = 'a title'\n", "mine.py: PAPER is not a Paper, or None"),
        (RECIPE + "QUICK = 3\n", "mine.py: QUICK is not a dict of knobs"),
    ],
)
def test_a_file_that_is_no_method_is_one_line(here: Path, text: str, message: str) -> None:
    with pytest.raises(WrongInput) as told:
        find(write(here, text))
    assert str(told.value) == message


def test_a_file_that_is_not_there(here: Path) -> None:
    write(here)
    with pytest.raises(WrongInput, match=r"^there is no file mime\.py; the nearest is mine\.py$"):
        find("mime.py")
    (here / "folder.py").mkdir()
    with pytest.raises(WrongInput, match=r"^folder\.py is a folder; a method is one file$"):
        find("folder.py")


def test_a_file_that_is_no_text(here: Path) -> None:
    (here / "mine.py").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(WrongInput, match=r"^mine\.py does not parse: "):
        find("mine.py")


# ── finding ─────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("name", ["gcn", "graph.gcn", "graph/gcn", "methods/graph/gcn.py"])
def test_a_shipped_method_has_four_names(shelf: Path, name: str) -> None:
    gcn = find(name)
    assert (gcn.key, gcn.called, gcn.module) == ("graph.gcn", "gcn", "fuxian.methods.graph.gcn")


def test_listing(shelf: Path) -> None:
    assert [entry.key for entry in methods()] == ["graph.gat", "graph.gcn", "vision.lenet"]
    assert [entry.key for entry in methods("vision")] == ["vision.lenet"]


def test_names_that_there_are_not(shelf: Path, here: Path) -> None:
    with pytest.raises(WrongInput, match=r"^there is no method gcm; the nearest is gcn \(graph\)\. All: fuxian list$"):
        find("gcm")
    with pytest.raises(
        WrongInput, match=r"^there is no method vision\.gcn; the nearest is gcn \(graph\)\. All: fuxian list$"
    ):
        find("vision.gcn")
    with pytest.raises(WrongInput, match=r"^there is no family graphs; the nearest is graph\. All: fuxian list$"):
        methods("graphs")
    write(here)
    with pytest.raises(WrongInput, match=r"^there is no method mine; a file of your own is called by its path: mine\.py$"):
        find("mine")


def test_a_name_in_two_families(shelf: Path) -> None:
    (shelf / "vision" / "gcn.py").write_text(MINE, encoding="utf-8")
    with pytest.raises(WrongInput, match=r"^there are 2 methods gcn: graph\.gcn, vision\.gcn$"):
        find("gcn")
    assert find("vision.gcn").family == "vision"


# ── loading ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_users_file_imports_what_lies_beside_it(here: Path) -> None:
    write(here, "ANSWER = 42\n", "beside_mine.py")
    text = MINE.replace("from pathlib", "import beside_mine\nfrom pathlib")
    module = find(write(here, text)).load()
    assert module.beside_mine.ANSWER == 42
    assert module.Unused().field == 3  # a dataclass with future annotations looks its module up
    assert sys.modules[module.__name__] is module
    assert list(module.recipe()) == [1]


def test_two_files_of_one_name_are_two_modules(here: Path) -> None:
    modules = []
    for folder in ("a", "b"):
        (here / folder).mkdir()
        write(here / folder)
        modules.append(find(f"{folder}/mine.py").load())
    assert modules[0].__name__ != modules[1].__name__


def test_an_error_in_a_users_file_is_told_by_its_line(here: Path) -> None:
    mine = find(write(here, RECIPE + "def broken():\n    return [][1]\n\nbroken()\n"))
    with pytest.raises(WrongInput) as told:
        mine.load()
    assert told.value.message == "mine.py, line 4, in broken: IndexError: list index out of range"
    assert told.value.lines == {"where": "return [][1]"}


def test_a_package_that_a_users_file_lacks(here: Path) -> None:
    with pytest.raises(WrongInput) as told:
        find(write(here, RECIPE + "import no_such_package.part\n")).load()
    assert told.value.message == "mine.py, line 3: ModuleNotFoundError: No module named 'no_such_package'"
    assert told.value.lines["do"] == "pip install no_such_package"


@pytest.mark.parametrize(
    ("package", "advice"),
    [
        ("tokenizers", 'pip install "fuxian[text]"'),
        ("torch_geometric", 'pip install "fuxian[parity]"'),
        ("other", "pip install other"),
    ],
)
def test_a_package_that_a_shipped_method_lacks(
    shelf: Path, monkeypatch: pytest.MonkeyPatch, package: str, advice: str
) -> None:
    def missing(name: str) -> None:
        raise ModuleNotFoundError(f"No module named '{package}'", name=f"{package}.models")

    monkeypatch.setattr("importlib.import_module", missing)
    with pytest.raises(WrongInput) as told:
        find("gcn").load()
    assert told.value.message == f"gcn needs the package {package}, which is not here"
    assert told.value.lines == {"do": advice}


def test_a_missing_part_of_fuxian_is_a_bug(shelf: Path) -> None:
    (shelf / "graph/gone.py").write_text((shelf / "graph/gat.py").read_text())
    with pytest.raises(ModuleNotFoundError):
        find("gone").load()  # there is no fuxian.methods.graph.gone


# ── every method that ships ─────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("entry", methods(), ids=lambda entry: entry.key)
def test_a_shipped_method_speaks_for_itself(entry: Entry) -> None:
    assert entry.title
    assert entry.paper or entry.source, "neither PAPER nor SOURCE"
    assert entry.quick, "no QUICK"
    assert all(knob.help for knob in entry.knobs), "a knob without an end comment"
    entry.resolve({}, quick=True)
    for claim in entry.claims:
        entry.resolve(claim.knobs, "claim")
        assert claim.where


@pytest.mark.parametrize("entry", methods(), ids=lambda entry: entry.key)
def test_claims_of_one_metric_agree_on_what_is_better(entry: Entry) -> None:
    """At the same knobs: an attack is to raise an error that training on attacks is to lower."""
    for claim in [one for one in entry.claims if one.better != "equal"]:
        same = [one for one in entry.claims if one.knobs == claim.knobs]
        assert claim.better == better(claim.metric, same), f"two claims disagree on {claim.metric}"
