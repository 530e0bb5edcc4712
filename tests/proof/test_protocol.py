"""The protocol guard: what would make a number better than it is, is refused.

Its other half is in `tests/engine/test_rules.py`: a test split that is read in training, a mean of means, a subset, rows
left out; and in `test_claims.py`: other knobs, `--limit` and bf16 leave no claim that a run speaks of.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from fuxian import catalog, run
from fuxian.contract import Sealed, Splits
from fuxian.data.images import image_data
from fuxian.engine.run import run_seeds
from fuxian.errors import ContractError, WrongInput
from fuxian.evaluation import measure
from fuxian.facts import Claim
from fuxian.methods.vision.lenet import LeNet
from fuxian.objectives.classification import Classification
from fuxian.proof import record as evidence
from fuxian.proof.record import claim_record, method_hash
from fuxian.proof.verify import verify

from ..engine.toys import rows

CLAIM = Claim("train/inertia", 78.8514, where="here", tolerance=0.001, seeds=2, better="lower")


@pytest.mark.parametrize(
    ("parts", "told"),
    [
        ("abb", "val and test are the same split"),
        ("aba", "train and test are the same split"),
        ("aab", "train and val are the same split"),
    ],
)
@pytest.mark.parametrize("sealed", [False, True])
def test_one_split_does_not_stand_for_two(parts: str, told: str, sealed: bool) -> None:
    splits: dict[str, Any] = {"a": rows().train, "b": rows().train}
    train, val, test = (splits[part] for part in parts)
    with pytest.raises(ContractError, match=told):
        Splits(train, val, Sealed(test) if sealed else test)
    Splits(splits["a"], None, splits["b"])
    Splits(splits["a"])


def test_the_last_short_batch_counts() -> None:
    """Evaluation in batches of any size is that of the whole split: no `drop_last`, no mean of means."""
    digits = image_data("digits", size=32)
    model, objective = LeNet(digits.channels, digits.classes), Classification(digits.names)
    counts: dict[str, float] = {}
    whole = measure(model, objective, digits.test, None, counts=counts)
    assert counts["accuracy"] == len(digits.test) == 360
    for size in (7, 359, 1000):
        assert measure(model, objective, digits.test, size) == pytest.approx(whole, rel=1e-6)


@pytest.mark.parametrize("spoiled", [dict(limit=3), dict(starts=1), dict(precision="bf16")])
def test_runs_of_another_setting_give_no_verdict(
    spoiled: dict[str, Any], tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FUXIAN_RUNS", str(tmp_path / "runs"))
    monkeypatch.setattr(evidence, "results_folder", lambda: tmp_path / "results")
    entry = replace(catalog.find("kmeans"), claims=[CLAIM])
    run_seeds(entry.key, range(2), name=f"verify-default-2-seeds-{method_hash(entry.path)[:8]}", **spoiled)
    with pytest.raises(WrongInput, match="is no run of here: its knobs, --limit or --precision are others"):
        verify(entry)
    assert claim_record(entry.key, CLAIM) is None


def test_selection_has_a_validation_split_or_is_refused(tmp_path: Any) -> None:
    path = tmp_path / "mine.py"
    path.write_text(
        "from fuxian.contract import Stage\n"
        "from fuxian.data.images import image_data\n"
        "from fuxian.methods.vision.lenet import LeNet\n"
        "from fuxian.objectives.classification import Classification\n"
        "from fuxian.optim import sgd\n"
        "def recipe():\n"
        "    data = image_data('digits', size=32)\n"
        "    data.val = None\n"
        "    yield Stage(LeNet(1, 10), data, Classification(data.names), sgd(0.1), steps=1, batch=8, select='accuracy')\n"
    )
    with pytest.raises(ContractError, match="select= and nothing to look at"):
        run(path, parent=tmp_path / "runs")
