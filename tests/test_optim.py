"""Schedules, stopping rules and groups of weights, by hand."""

from __future__ import annotations

import math

import pytest
from torch import nn

from fuxian.contract import History
from fuxian.errors import ContractError
from fuxian.optim import Schedule, adam, cosine, exponential, linear, patience, steps, worse_than_mean


def at(schedule: Schedule, total: int, *places: int) -> list[float]:
    return [schedule(step, total, []) for step in places]


def test_schedules_by_hand() -> None:
    assert at(cosine(), 100, 0, 50) == pytest.approx([1, 0.5])
    assert at(cosine(), 100, 25, 99) == pytest.approx(
        [0.5 + 0.5 * math.cos(math.pi / 4), 0.5 + 0.5 * math.cos(0.99 * math.pi)]
    )
    assert at(cosine(warmup=10, floor=0.1), 110, 0, 4, 9, 10, 60) == pytest.approx([0.1, 0.5, 1, 1, 0.55])
    assert at(linear(), 100, 0, 50, 99) == pytest.approx([1, 0.5, 0.01])
    assert at(linear(warmup=10, floor=0.5), 110, 0, 9, 10, 60) == pytest.approx([0.1, 1, 1, 0.75])
    assert at(exponential(0.5, floor=0.2), 9, 0, 1, 2, 3) == pytest.approx([1, 0.5, 0.25, 0.2])
    assert at(steps([5, 8], by=0.1, warmup=2), 10, 0, 1, 4, 5, 7, 8) == pytest.approx([0.5, 1, 1, 0.1, 0.1, 0.01])


def history(*values: float) -> History:
    return [{"loss": value} for value in values]


def test_patience() -> None:
    losses = [3.0, 2.0, 2.5, 1.0, 1.5, 1.0, 1.2]
    stop = [patience("-loss", 3)(history(*losses[:n])) for n in range(1, 8)]
    assert stop == [False] * 6 + [True]  # the best is the fourth; to equal it is no improvement
    rising = [patience("loss", 3)(history(*losses[:n])) for n in range(1, 5)]
    assert rising == [False, False, False, True]


def test_worse_than_mean() -> None:
    rule = worse_than_mean("loss", of=2)
    assert not rule(history(0, 9, 1, 5))  # 5 is the mean of the two before it
    assert rule(history(0, 9, 1, 5.1))
    assert not rule(history(0, 9, 9, 8))  # of the two, not of all
    assert not rule(history(9, 1, 5.1))  # train.py: epoch > early_stopping, counted from 0
    assert worse_than_mean("loss", of=2, better="higher")(history(0, 9, 1, 4.9))


def test_groups_of_weights() -> None:
    net = nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 2))
    named = list(net.named_parameters())
    (whole,) = adam(0.1, decay=0.5).groups(named)
    assert (whole["weight_decay"], len(whole["params"])) == (0.5, 4)
    decayed = {
        id(p): group["weight_decay"]
        for group in adam(0.1, decay=[(net[0], 0.5), (net[1].weight, 0.25)]).groups(named)
        for p in group["params"]
    }
    assert [decayed[id(p)] for _, p in named] == [0.5, 0.5, 0.25, 0.0]
    with pytest.raises(ContractError, match="decay= names a weight that this player does not step"):
        adam(0.1, decay=[(nn.Linear(1, 1), 0.5)]).groups(named)
