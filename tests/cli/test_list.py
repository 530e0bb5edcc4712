"""`fuxian list`: its orders, and what `--long` and `--json` say of each method."""

from __future__ import annotations

import ast
import json
from collections.abc import Callable
from pathlib import Path

import pytest

from fuxian import catalog
from fuxian.cli import main
from fuxian.cli.show import published_code, seconds_a_seed
from fuxian.literals import objectives
from fuxian.proof import record

Fuxian = Callable[..., tuple[int, str, str]]


@pytest.fixture
def known(shelf: Path, here: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """gcn is of 1809, gat of 2018 with a time and one proof, lenet of 1998 with a shorter time and two."""
    monkeypatch.setattr(record, "results_folder", lambda: here / "results")
    for name, year in {"graph/gat": 2018, "vision/lenet": 1998}.items():
        path = shelf / f"{name}.py"
        path.write_text(path.read_text().replace("1809", str(year)))
    claim = catalog.find("gat").claims[0]
    facts = {"reference": "torch", "outputs": 0.0, "dtype": "float32"}
    record.record(shelf / "graph/gat.py", "parity", facts)
    record.record(shelf / "vision/lenet.py", "parity", facts)
    record.record(shelf / "vision/lenet.py", "export", {"runtime": "onnxruntime 1", "difference": 0.0})
    for name, seconds in {"graph/gat": 300.0, "vision/lenet": 10.0}.items():
        record.record_claim(shelf / f"{name}.py", claim, {"values": [0.1, 0.2], "seeds": [0, 1], "seconds": seconds})
    return shelf


@pytest.mark.parametrize(
    ("by", "names"),
    [("year", "gat lenet gcn"), ("proof", "lenet gat gcn"), ("time", "lenet gat gcn"), ("name", "gat gcn lenet")],
)
def test_orders(fuxian: Fuxian, known: Path, by: str, names: str) -> None:
    code, out, err = fuxian("list", "--sort", by)
    assert (code, err) == (0, "")
    assert [line.split()[1] for line in out.splitlines()[1:4]] == names.split()  # with its family in each line
    assert [one["method"] for one in json.loads(fuxian("list", "--sort", by, "--json")[1])["methods"]] == names.split()


def test_what_it_is_sorted_by_is_shown(fuxian: Fuxian, known: Path) -> None:
    lines = fuxian("list", "--sort", "time")[1].splitlines()
    assert "a seed" in lines[0]
    assert "  5.0 s  " in lines[1]
    assert "  2 min 30 s  " in lines[2]
    assert lines[3].split()[-4:] == ["–", "–", "not", "yet"]  # unknown: last


def test_long(fuxian: Fuxian, known: Path) -> None:
    text = (known / "graph/gat.py").read_text()
    code = '"""A line.\n\nCode     PetarV-/GAT @ 9d4b04a: execute_cora.py is the protocol\n"""'
    (known / "graph/gat.py").write_text(text.replace('"""A line through points."""', code))
    lines = fuxian("list", "--long")[1].splitlines()
    assert lines[0].split("  ")[0] == "method"
    assert lines[1].split() == "gat 2018 squares ● ● – – – error 0.0 % 2 min 30 s PetarV-/GAT".split()
    told = json.loads(fuxian("list", "--long", "--json")[1])["methods"][0]
    assert (told["learns_by"], told["code"], told["seconds_a_seed"]) == (["Squares"], "PetarV-/GAT @ 9d4b04a", 150.0)
    assert max(map(len, lines)) <= 100


def test_a_wrong_order_is_one_line(fuxian: Fuxian) -> None:
    message = "fuxian: --sort yer is not one of year, proof, time, name; the nearest is year\n"
    assert fuxian("list", "--sort", "yer") == (2, "", message)


@pytest.mark.parametrize(
    ("code", "found"),
    [
        ("yield Stage(model, data, Squares(3), adam(lr), epochs=2)", ["Squares"]),
        ("yield Stage(model, data, objectives.Squares(), adam(lr))", ["Squares"]),
        ("yield Stage(model, data, objective=Squares())", ["Squares"]),
        ("rule = Squares(3); yield Stage(model, data, rule, steps=0)", ["Squares"]),
        ("yield Stage(a, b, Next()); yield Stage(a, b, Tune()); yield Stage(a, b, Next())", ["Next", "Tune"]),
        ("yield from other.recipe()", []),
        ("yield Stage(model, data, given)", []),
    ],
)  # fmt: skip
def test_how_a_method_learns_is_read_from_its_text(code: str, found: list[str]) -> None:
    assert objectives(ast.parse(f"def recipe():\n    {code}\n")) == found


@pytest.mark.parametrize(
    ("field", "code"),
    [
        ("Code     tkipf/gcn @ 39a4089: train.py", "tkipf/gcn @ 39a4089"),
        ("Code     pytorch/examples @ 77f55b9, vae/main.py: sizes", "pytorch/examples @ 77f55b9"),
        ("Code     the authors' page, 2003", "the authors' page"),
        ("", ""),
    ],
)
def test_published_code(here: Path, field: str, code: str) -> None:
    text = (here / "line.py").read_text().replace('"""A line through points."""', f'"""A line.\n\n{field}\n"""')
    (here / "line.py").write_text(text)
    assert published_code(catalog.find("line.py")) == code


def test_every_method_that_ships_says_how_it_learns() -> None:
    for entry in catalog.methods():
        assert entry.learns, f"{entry.key}: no objective could be read from its Stage(…)"


def test_a_verified_method_has_a_time() -> None:
    gcn = catalog.find("gcn")
    kept = record.claim_record(gcn.key, gcn.claims[0])
    assert kept is not None
    assert seconds_a_seed(gcn) == kept["seconds"] / len(kept["seeds"])
    assert seconds_a_seed(catalog.find("line.py")) is None


def test_the_list_parses_each_method_once(capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    parsed: list[str] = []
    parse = ast.parse

    def counted(source: str, *words: str) -> ast.Module:
        parsed.append(source)
        return parse(source, *words)

    monkeypatch.setattr(ast, "parse", counted)
    assert main(["list", "--long"]) == 0
    files = [source for source in parsed if "\ndef recipe(" in source]
    assert len(files) == len(catalog.methods())
    assert len(files) == len(set(files))
