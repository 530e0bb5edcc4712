"""Evidence on disk: what was measured of a method, with the hash of the code that it was measured on.

`results/` lies beside the package: in the repository, and inside an installed wheel. Two files a method:

`results/<family>.<method>.json`, written by `record_claim`, one entry a claim:

    {"claims": [{"metric": "test/accuracy", "where": "Table 2, Cora", "knobs": {}, "value": 0.815,
                 "values": [0.816, …], "mean": 0.815, "std": 0.004, "seeds": [0, …], "method_sha256": "…",
                 "reference": 0.814, "note": "what was tried", …whatever else the verification knows}]}

`results/proof/<family>.<method>.json`, written by `record`, one entry a kind; each carries `method_sha256`, and instead of
its facts may hold `{"reason": "why there is none"}`:

    {"parity": {"reference": "PyTorch Geometric 2.8.1", "outputs": 3e-7, "gradients": 2e-7, "step": 2e-7,
                "dtype": "float32", "tests": ["tests/parity/test_gcn.py"]},  or "found": [{"outputs": …, "dtype": …}, …]
     "speed":  {"works": [{"work": "an epoch", "ours": 0.0054, "peer": 0.054, "against": "PyTorch Geometric 2.8.1",
                           "pairs": 7, "ratio": 0.10, "low": 0.09, "high": 0.11}, …]},
     "resume": {"kills": 12, "tensors": 34, "equal": true},
     "export": {"runtime": "onnxruntime 1.32", "difference": 2e-7}}

`results/comparisons/<name>.json`, written by `record_comparison`: a row a method, with its command and the values by seed.

Seconds, absolute differences, and for speed the ratio ours / peer: its median over the pairs, and what
the middle half of them lies between.
"""

from __future__ import annotations

import ast
import hashlib
import json
import os
import tempfile
from collections.abc import Callable, Mapping
from math import isfinite, nan
from pathlib import Path
from typing import Any, Literal

from filelock import FileLock

from fuxian.errors import WrongInput
from fuxian.facts import Claim
from fuxian.literals import code_hash
from fuxian.proof.claims import mean_std

Kind = Literal["parity", "speed", "resume", "export"]

_PACKAGE = Path(__file__).resolve().parents[1]


def results_folder() -> Path:
    """`fuxian/results` in a wheel, `results` of the repository in a checkout."""
    inside = _PACKAGE / "results"
    return inside if inside.is_dir() else _PACKAGE.parents[1] / "results"


def method_hash(method_file: str | Path) -> str:
    """What `code_hash` says of a method's file: the same on Windows, and whatever its claims become."""
    text = Path(method_file).read_text(encoding="utf-8")
    return code_hash(text, ast.parse(text))


def record(method_file: str | Path, kind: Kind, facts: Mapping[str, Any]) -> Path:
    """Merges what was measured of one kind into the method's proofs, and returns their file."""

    def merge(proofs: dict[str, Any]) -> dict[str, Any]:
        return proofs | {kind: {**facts, "method_sha256": method_hash(method_file)}}

    return _change(results_folder() / "proof" / f"{_key(method_file)}.json", merge)


def record_claim(method_file: str | Path, claim: Claim, facts: Mapping[str, Any]) -> Path:
    """Puts the verification of one claim in the place of the one before. `facts` needs `values` and `seeds`."""
    mean, std = mean_std(facts["values"])
    entry = {"metric": claim.metric, "where": claim.where, "knobs": claim.knobs, "value": claim.value}
    entry |= {**facts, "values": [_finite(value) for value in facts["values"]], "mean": _finite(mean), "std": _finite(std)}
    entry |= {"method_sha256": method_hash(method_file)}

    def merge(before: dict[str, Any]) -> dict[str, Any]:
        others = [one for one in before.get("claims", []) if not _speaks_of(one, claim)]
        return before | {"claims": [*others, entry]}

    return _change(results_folder() / f"{_key(method_file)}.json", merge)


def proofs(key: str) -> dict[str, dict[str, Any]]:
    """What `record` wrote for the method `graph.gcn`; {} where there is nothing."""
    return _read(results_folder() / "proof" / f"{key}.json")


def claim_record(key: str, claim: Claim) -> dict[str, Any] | None:
    """What `record_claim` wrote for this claim of the method `graph.gcn`, or None."""
    found = _read(results_folder() / f"{key}.json").get("claims", [])
    kept = next((one for one in found if _speaks_of(one, claim)), None)
    return kept and {**kept, "values": [nan if value is None else value for value in kept["values"]]}


def record_comparison(name: str, facts: Mapping[str, Any]) -> Path:
    """Puts what methods measured side by side in the place of what was there, and returns its file."""
    return _change(results_folder() / "comparisons" / f"{name}.json", lambda before: dict(facts))


def comparisons() -> dict[str, dict[str, Any]]:
    """What `record_comparison` wrote, by name."""
    return {path.stem: _read(path) for path in sorted((results_folder() / "comparisons").glob("*.json"))}


def _finite(value: float) -> float | None:
    """JSON has no NaN: null stands for it."""
    return value if isfinite(value) else None


def _speaks_of(entry: Mapping[str, Any], claim: Claim) -> bool:
    knobs = json.loads(json.dumps(claim.knobs, default=str))  # as it was written
    return (entry["metric"], entry["where"], entry["knobs"]) == (claim.metric, claim.where, knobs)


def _key(method_file: str | Path) -> str:
    path = Path(method_file)
    return f"{path.parent.name}.{path.stem}"


def _read(path: Path) -> dict[str, Any]:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except ValueError as error:
        raise WrongInput(f"{path} is no JSON: {error}", do="take it away and measure again") from None


def _change(path: Path, merge: Callable[[dict[str, Any]], dict[str, Any]]) -> Path:
    """Reads, merges and replaces a file in one go, whoever else does the same; a reader sees the old or the new."""
    path.parent.mkdir(parents=True, exist_ok=True)
    name = hashlib.sha256(str(path).encode()).hexdigest()[:16]
    with FileLock(Path(tempfile.gettempdir()) / f"fuxian-{name}.lock"):  # not beside the file: results are committed
        text = json.dumps(merge(_read(path)), indent=1, ensure_ascii=False, allow_nan=False, sort_keys=True, default=str)
        handle, new = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}")
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(text + "\n")
        os.chmod(new, 0o644)  # mkstemp's 600 would travel into the wheel
        os.replace(new, path)
    return path
