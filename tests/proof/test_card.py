"""The proof card, from records on disk."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from fuxian import catalog
from fuxian.errors import WrongInput
from fuxian.proof import record as evidence
from fuxian.proof.card import Proof, card, distance, name, recorded, sentence
from fuxian.proof.claims import mean_std, verdict
from fuxian.proof.record import method_hash, proofs, record, record_claim

METHOD = '''"""A method."""
from fuxian.facts import Claim

CLAIMS = [
    Claim("test/accuracy", 0.815, where="Table 2, Cora", tolerance=0.01, seeds=2),
    Claim("test/accuracy", 0.790, where="Table 2, Pubmed", tolerance=0.01, seeds=2, knobs=dict(data="pubmed")),
    Claim("test/accuracy", 0.660, where="Table 2, NELL", tolerance=0.01, seeds=2, knobs=dict(data="nell"), needs="data"),
]


def recipe(data: str = "cora"):
    yield None
'''

PARITY = {"reference": "PyTorch Geometric 2.8.1", "outputs": 3e-7, "gradients": 2e-7, "step": 1e-7, "dtype": "float32"}
EPOCH = {"work": "an epoch", "ours": 0.0054, "peer": 0.054, "against": "a peer", "pairs": 7, "ratio": 0.1, "low": 0.09,
         "high": 0.11}  # fmt: skip
SLOW = EPOCH | {"work": "a drawing", "ours": 0.06, "ratio": 1.11, "low": 1.05, "high": 1.2}
EVEN = EPOCH | {"ours": 0.053, "ratio": 0.98, "low": 0.95, "high": 1.02}
SPEED = {"works": [EPOCH]}
RESUME = {"kills": 12, "tensors": 34, "equal": True}
EXPORT = {"runtime": "onnxruntime 1.32", "difference": 2e-7}


@pytest.fixture
def method(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(catalog, "METHODS", tmp_path / "methods")
    monkeypatch.setattr(evidence, "results_folder", lambda: tmp_path / "results")
    path = tmp_path / "methods" / "graph" / "gcn.py"
    path.parent.mkdir(parents=True)
    path.write_text(METHOD)
    return path


def proof(kind: str) -> Proof:
    return next(one for one in card(catalog.find("gcn")) if one.kind == kind)


def test_nothing_is_known_before_it_is_measured(method: Path) -> None:
    found = card(catalog.find("gcn"))
    assert [one.kind for one in found] == ["parity", "claim", "speed", "resume", "export"]
    assert {(one.mark, one.word) for one in found} == {("none", "not yet")}


@pytest.mark.parametrize(
    ("kind", "facts", "mark", "word", "evidence"),
    [
        (
            "parity",
            PARITY,
            "ok",
            "agrees",
            "outputs, gradients and one optimizer step within 3\u202f×\u202f10⁻⁷ of PyTorch",
        ),
        ("parity", PARITY | {"gradients": 2e-5}, "short", "differs", "up to 2\u202f×\u202f10⁻⁵ from"),
        ("parity", PARITY | {"dtype": "float64"}, "short", "differs", "float64"),
        ("parity", {"reference": "eq. 4", "outputs": 0.0, "dtype": "float64"}, "ok", "agrees", "outputs equal to eq. 4"),
        (
            "parity",
            {"reference": "eq. 4", "found": [PARITY, {"outputs": 2e-15, "dtype": "float64"}]},
            "ok",
            "agrees",
            "step within 3\u202f×\u202f10⁻⁷ of eq. 4 (float32), within 2\u202f×\u202f10⁻¹⁵ of it (float64)",
        ),
        ("parity", {"reference": "eq. 4", "found": [PARITY, PARITY | {"dtype": "float64"}]}, "short", "differs", "from it"),
        (
            "parity",
            {"reference": "eq. 4", "found": [PARITY | {"step": 1e-4}, PARITY | {"step": 1e-15, "outputs": 0.0}]},
            "short",
            "differs",
            "up to 1\u202f×\u202f10⁻⁴ from eq. 4 (float32), within",
        ),
        ("parity", {"reason": "no reference exists"}, "none", "none", "no reference exists"),
        (
            "speed",
            SPEED,
            "ok",
            "0.10\u202f×",
            "an epoch: 5.4\u202fms, with a peer 54\u202fms (half of 7 pairs 0.09 to 0.11)",
        ),
        ("speed", {"works": [EVEN]}, "part", "0.98\u202f×", "0.95 to 1.02"),
        ("speed", {"works": [SLOW]}, "short", "1.11\u202f×", "1.05 to 1.20"),
        ("speed", {"works": [EPOCH, EVEN]}, "part", "0.98\u202f×", "0.09 to 0.11); an epoch: 53\u202fms"),
        ("speed", {"works": [EPOCH, SLOW]}, "short", "1.11\u202f×", "0.09 to 0.11); a drawing: 60\u202fms"),
        ("speed", {"works": [EVEN, SLOW, EPOCH]}, "short", "1.11\u202f×", "half of 7 pairs 1.05 to 1.20"),
        ("speed", {"reason": "no other library has it"}, "none", "none", "no other library has it"),
        ("resume", RESUME, "ok", "exact", "killed 12 times; all 34 tensors bit-equal at the end"),
        ("resume", RESUME | {"equal": False, "kills": 1}, "short", "differs", "killed once; some tensors not equal"),
        ("export", EXPORT, "ok", "checked", "within 2\u202f×\u202f10⁻⁷ in onnxruntime 1.32"),
        ("export", EXPORT | {"difference": 0.1}, "short", "differs", "0.1"),
    ],
)
def test_measured(method: Path, kind: Any, facts: dict[str, Any], mark: str, word: str, evidence: str) -> None:
    record(method, kind, facts)
    found = proof(kind)
    assert (found.mark, found.word) == (mark, word)
    assert evidence in found.evidence


def test_each_says_how_it_is_measured_anew(method: Path) -> None:
    parity = ["tests/parity/test_gcn.py::test_outputs[sparse]", "tests/parity/test_gcn.py::test_step"]
    record(method, "parity", PARITY | {"tests": parity})
    record(method, "export", EXPORT | {"tests": ["tests/contract/test_export.py::test_exported_model_is_the_same[gcn]"]})
    record(method, "resume", {"reason": "there is none"})
    again = {one.kind: one.again for one in card(catalog.find("gcn"))}
    assert again == {
        "parity": "pytest tests/parity/test_gcn.py",
        "claim": "fuxian verify gcn",
        "speed": "",
        "resume": "",
        "export": "pytest tests/contract/test_export.py -k gcn",
    }


@pytest.mark.parametrize("entry", catalog.methods(), ids=lambda entry: entry.name)
def test_what_measures_it_anew_is_there(entry: catalog.Entry) -> None:
    for one in card(entry):
        for word in one.again.split():
            assert not word.startswith("tests/") or (Path(__file__).parents[2] / word).is_file(), word


def test_under_another_hash_nothing_is_claimed(method: Path) -> None:
    record(method, "parity", PARITY)
    method.write_text(METHOD.replace("yield None", "yield 1"))
    record(method, "resume", RESUME)
    found = proof("parity")
    assert (found.mark, found.word) == ("none", "not yet")
    assert "other code" in found.evidence
    assert proof("resume").mark == "ok"


DOES = '''"""A method."""

from fuxian.facts import Claim, Paper

PAPER = Paper("Graphs", "Kipf", 2017)
CLAIMS = [Claim("test/accuracy", 0.815, where="Table 2", seeds=2)]  # as published
QUICK = dict(data="karate")


def recipe(
    data: Literal["cora"] | Path
    = "cora",       # é: the graph
    lr: float = 0.01,
):
    """Trains."""
    yield lr  # once
'''


def hashes(method: Path, before: str, after: str) -> list[str]:
    """That of DOES, and that of it with `after` in the place of `before`."""
    assert before in DOES
    found = []
    for text in (DOES, DOES.replace(before, after)):
        method.write_bytes(text.encode())
        found.append(method_hash(method))
    return found


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ('"""A method."""', '"""A method.\n\nDeparts  nothing\n"""'),
        ("0.815, where", "0.820,\n          where"),
        ('"Kipf"', '"Kipf & Welling"'),
        ('Literal["cora"] | Path', 'Literal["cora", "citeseer"]'),
        ("lr: float = 0.01,", "lr: Annotated[float, Within(0)] = 0.01,  # Adam; sec. 5.2"),
        ("      # é: the graph", "  # a graph"),
        ("\n", "\r\n"),
    ],
)
def test_what_a_file_says_is_not_what_it_does(method: Path, before: str, after: str) -> None:
    was, now = hashes(method, before, after)
    assert now == was


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("0.01", "0.02"),
        ('= "cora"', '= "citeseer"'),
        ("karate", "cora"),
        ("    yield lr", "    if lr:\n        yield lr"),
        ("lr: float", "rate: float"),
        ("# once", "# twice"),
        ("from fuxian.facts import Claim, Paper", "from fuxian.facts import Claim\nfrom fuxian.facts import Paper"),
    ],
)
def test_what_a_file_does_is_in_its_hash(method: Path, before: str, after: str) -> None:
    was, now = hashes(method, before, after)
    assert now != was


def test_kinds_are_merged_also_when_written_at_once(method: Path) -> None:
    kinds: dict[Any, dict[str, Any]] = {"parity": PARITY, "speed": SPEED, "resume": RESUME, "export": EXPORT}
    with ThreadPoolExecutor(4) as pool:
        paths = list(pool.map(lambda kind: record(method, kind, kinds[kind]), list(kinds) * 5))
    assert set(proofs("graph.gcn")) == set(kinds)
    assert {path.name for path in paths[0].parent.iterdir()} == {"graph.gcn.json"}  # no lock, nothing half written


@pytest.mark.parametrize(
    ("cora", "pubmed", "mark", "word"),
    [
        ([0.815, 0.816], [0.79, 0.79], "ok", "2 of 2"),
        ([0.815, 0.816], [0.77, 0.776], "part", "1 of 2"),
        ([0.815, 0.816], None, "part", "1 of 2"),
        ([0.78, 0.78], [0.70, 0.70], "short", "0 of 2"),
        ([0.78, 0.78], None, "part", "0 of 2"),
        ([0.815], None, "part", "one seed"),
    ],
)
def test_claims(method: Path, cora: list[float], pubmed: list[float] | None, mark: str, word: str) -> None:
    entry = catalog.find("gcn")
    for claim, values in zip(entry.claims, [cora, pubmed], strict=False):
        if values is not None:
            record_claim(method, claim, {"values": values, "seeds": list(range(len(values)))})
    found = proof("claim")
    assert (found.mark, found.word) == (mark, word)
    assert found.evidence.startswith("Cora ")
    assert "NELL at scale only" in found.evidence


def test_a_claim_is_recorded_in_place_of_the_one_before(method: Path) -> None:
    entry = catalog.find("gcn")
    for value in (0.5, 0.815):
        path = record_claim(method, entry.claims[1], {"values": [value] * 2, "seeds": [0, 1]})
    assert len(json.loads(path.read_text())["claims"]) == 1
    assert [one.values for one in recorded(entry)] == [(), (0.815, 0.815), ()]
    method.write_text(METHOD + "\n")
    assert "the file has changed since: fuxian verify gcn --check" in proof("claim").evidence


def test_what_is_not_published_is_measured_and_compared_claims_are_not_counted(method: Path) -> None:
    method.write_text(
        METHOD.replace(
            "CLAIMS = [",
            """CLAIMS = [
    Claim("test/style", None, where="no number is published", seeds=2, better="lower"),
    Claim("test/accuracy", 0.9, where="Table 3", seeds=2, comparison="half the data"),""",
        )
    )
    entry = catalog.find("gcn")
    style, _, cora, *_ = entry.claims
    assert (proof("claim").mark, proof("claim").word) == ("none", "not yet")
    record_claim(method, style, {"values": [0.049, 0.057], "seeds": [0, 1]})
    assert (proof("claim").mark, proof("claim").word) == ("none", "not yet")  # of the two that can be decided
    record_claim(method, cora, {"values": [0.815, 0.815], "seeds": [0, 1]})
    assert (proof("claim").mark, proof("claim").word) == ("part", "1 of 2")
    assert proof("claim").evidence.startswith("style measured: 0.053 ± 0.006; Table 3 not yet; ")
    method.write_text(
        METHOD.partition("CLAIMS")[0]
        + f"""CLAIMS = [
    Claim("test/accuracy", 0.660, where="Table 2, NELL", seeds=2, knobs=dict(data="nell"), needs="data"),
    Claim("test/style", None, where="no number is published", seeds=2, better="lower"),
]
{METHOD.partition("]")[2]}"""
    )
    assert (proof("claim").mark, proof("claim").word) == ("scale", "measured: 0.053 ± 0.006")
    assert "publish" not in proof("claim").evidence


def test_words_for_a_distance_do_not_hide_it(method: Path) -> None:
    claim = catalog.find("gcn").claims[0]
    assert sentence(verdict(claim, [0.80, 0.79])) == "short by 2.0"
    assert sentence(verdict(claim, [0.801, 0.801])) == "short by 1.4"
    assert sentence(verdict(claim, [float("nan")] * 2)) == "short, not a number"
    assert distance(verdict(claim, [0.8046, 0.8046])) == "1.04"  # 1.0 would be inside


def test_names_of_claims(method: Path) -> None:
    claims = catalog.find("gcn").claims
    assert [name(claim, claims) for claim in claims] == ["Cora", "Pubmed", "NELL"]
    assert name(claims[0], claims[:1]) == "Cora"


def test_a_damaged_record_is_named(method: Path, tmp_path: Path) -> None:
    (record(method, "resume", RESUME)).write_text("{")
    with pytest.raises(WrongInput, match=r"graph\.gcn\.json is no JSON"):
        card(catalog.find("gcn"))


def test_a_file_of_ones_own_has_no_record(method: Path, tmp_path: Path) -> None:
    own = tmp_path / "mine.py"
    own.write_text(METHOD)
    assert {one.mark for one in card(catalog.find(own)) if one.kind != "claim"} == {"none"}


@pytest.mark.parametrize("path", sorted(evidence.results_folder().glob("*.*.json")), ids=lambda path: path.stem)
def test_committed_records_are_of_claims_that_there_are_and_whole(path: Path) -> None:
    entry = catalog.find(path.stem)
    kept = json.loads(path.read_text(encoding="utf-8"))["claims"]
    assert len(kept) == sum(evidence.claim_record(entry.key, claim) is not None for claim in entry.claims)
    for one in kept:
        assert len(one["values"]) == len(one["seeds"]) == len(set(one["seeds"]))
        assert one["first_losses"] or getattr(entry.load(), "SEEDLESS", False)  # what only computes logs none
        if "mean" in one:  # of old ones it is worked out from the values
            mean, std = mean_std(one["values"])
            assert one["mean"] == pytest.approx(mean)
            assert one["std"] == (pytest.approx(std) if len(one["values"]) > 1 else None)
