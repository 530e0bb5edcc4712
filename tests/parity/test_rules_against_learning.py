"""The rules by hand; what is learned against a layer of torch, and scikit-learn's logistic regression without a penalty."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import sklearn
import torch
from sklearn.linear_model import LogisticRegression
from torch import nn

from fuxian.evaluation import measure
from fuxian.methods.basics.rules_against_learning import Learned, Rules, Species, drawn_apart
from fuxian.optim import adam

from .compare import Differences, first_loss, parity, relative

NAMES = ("setosa", "versicolor", "virginica")


def flowers(unit: str = "cm", train: int = 30, seed: int = 0) -> tuple[Any, Any]:
    torch.manual_seed(seed)
    data: Any = drawn_apart(unit, train)
    return data.train.batch(torch.arange(len(data.train))), data.test.split.batch(torch.arange(len(data.test)))


def compared() -> Differences:
    train, _ = flowers()
    torch.manual_seed(0)
    ours = Learned(train.x)
    reference = nn.Linear(2, 3, dtype=torch.float64)
    petals = train.x.numpy()[:, 2:]
    scaled = torch.from_numpy((petals - petals.mean(0)) / petals.std(0))
    return parity(
        ours,
        reference,
        {"linear.weight": "weight", "linear.bias": "bias"},
        outputs=lambda: (ours(train.x), torch.softmax(reference(scaled), 1)),
        losses=lambda *_: (
            first_loss(Species(NAMES, "cm"), ours, train),
            nn.functional.cross_entropy(reference(scaled), train.label),
        ),
        spec=adam(0.05, eps=1e-4),
        optimizer=torch.optim.Adam(reference.parameters(), lr=0.05, eps=1e-4, fused=False, foreach=False),
    )


def test_outputs_gradients_and_step(prove) -> None:
    prove("rules_against_learning", "parity", reference="torch's linear layer and cross-entropy", **compared().facts)


def test_it_learns_what_scikit_learn_learns() -> None:
    train, test = flowers()
    torch.manual_seed(0)
    model = Learned(train.x)
    optimizer = torch.optim.LBFGS(model.parameters(), max_iter=3000, tolerance_grad=1e-12, tolerance_change=0,
                                  line_search_fn="strong_wolfe")  # fmt: skip
    optimizer.step(
        lambda: (optimizer.zero_grad(), (loss := first_loss(Species(NAMES, "cm"), model, train)).backward(), loss)[2]
    )
    scaled = ((train.x[:, 2:] - model.mean_P) / model.std_P).numpy()
    reference = LogisticRegression(C=np.inf, tol=1e-12, max_iter=100_000).fit(scaled, train.label.numpy())
    expected = reference.predict_proba(((test.x[:, 2:] - model.mean_P) / model.std_P).numpy())
    assert relative(model(test.x).detach(), torch.from_numpy(expected)) < 1e-3, sklearn.__version__


@pytest.mark.parametrize(
    ("length", "width", "species"), [(1.4, 0.2, 0), (2.5, 0.2, 1), (4.5, 1.7, 1), (4.5, 1.8, 2), (2.4, 1.8, 0)]
)
def test_the_rules(length: float, width: float, species: int) -> None:
    flower = torch.tensor([[5.0, 3.0, length, width]], dtype=torch.float64)
    assert Rules()(flower).tolist() == [[float(species == c) for c in range(3)]]


def test_the_rules_on_all_flowers_are_those_of_a_loop() -> None:
    for part in flowers():
        words = ["setosa" if p < 2.5 else "virginica" if w > 1.7 else "versicolor" for *_, p, w in part.x.tolist()]
        right = [word == NAMES[label] for word, label in zip(words, part.label.tolist(), strict=True)]
        found = dict(Species(NAMES, "cm").evaluate(Rules(), part))
        assert found["accuracy"].tolist() == right
        assert 0.9 < sum(right) / len(right) < 1


def test_both_are_tested_on_the_same_flowers_that_neither_has_learned_from() -> None:
    train, test = flowers()
    assert (len(train), len(test)) == (90, 59)
    rows = {tuple(row) for row in train.x.tolist()}
    assert len(rows) == 90
    assert not rows & {tuple(row) for row in test.x.tolist()}
    for few in (3, 6, 15):
        assert torch.bincount(train.label[:few]).tolist() == [few // 3] * 3
    other, _ = flowers(seed=1)
    assert not torch.equal(train.x, other.x)


def test_in_inches_the_rules_fail_and_what_is_learned_does_not() -> None:
    in_cm, in_inches = flowers(), flowers("inch")
    torch.testing.assert_close(in_cm[1].x, in_inches[1].x * 2.54)
    assert bool((Rules()(in_inches[1].x).argmax(1) != 2).all())  # no petal is wider than 1.7 inches
    first, second = (Learned(train.x) for train, _ in (in_cm, in_inches))
    second.load_state_dict({**second.state_dict(), **first.linear.state_dict(prefix="linear.")})
    torch.testing.assert_close(first(in_cm[1].x), second(in_inches[1].x))


def test_flowers_that_are_all_alike_are_learned_without_a_division_by_zero() -> None:
    model = Learned(torch.ones(4, 4, dtype=torch.float64))
    torch.testing.assert_close(model(torch.ones(2, 4, dtype=torch.float64))[0], model.linear.bias.softmax(0))


def test_every_flower_counts() -> None:
    torch.manual_seed(0)
    data: Any = drawn_apart("cm", 30)
    counts: dict[str, float] = {}
    measure(Rules(), Species(NAMES, "cm"), data.test, 20, counts=counts)
    assert counts == {"accuracy": 59}
