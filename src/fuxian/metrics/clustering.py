"""How well a clustering agrees with known classes, and how tight it is."""

from __future__ import annotations

import torch
from torch import Tensor

from fuxian.contract import Metric


class Total(Metric):
    """The sum of values (batch,): an inertia is one."""

    def __init__(self) -> None:
        self.sum = 0.0

    def update(self, values: Tensor) -> None:
        self.sum += values.double().sum().item()
        self.count += len(values)

    def value(self) -> float:
        return self.sum


class AdjustedRandIndex(Metric):
    """1 where two partitions are the same, about 0 where they agree by chance. Hubert & Arabie 1985, eq. 5."""

    def __init__(self) -> None:
        self.pairs: list[Tensor] = []

    def update(self, label: Tensor, cluster: Tensor) -> None:
        """`label` and `cluster` (batch,) int64, from 0."""
        self.pairs.append(torch.stack([label, cluster], 1).cpu())
        self.count += len(label)

    def value(self) -> float:
        label, cluster = torch.cat(self.pairs).unbind(1)
        table = torch.zeros(int(label.max()) + 1, int(cluster.max()) + 1, dtype=torch.float64)
        table.index_put_((label, cluster), torch.ones((), dtype=torch.float64), accumulate=True)
        together, rows, columns = (_pairs(counts) for counts in (table, table.sum(1), table.sum(0)))
        expected = rows * columns / _pairs(torch.tensor(self.count))
        most = (rows + columns) / 2
        return ((together - expected) / (most - expected)).item() if most != expected else 1.0


def _pairs(counts: Tensor) -> Tensor:
    """How many pairs there are within groups of these sizes."""
    return (counts.double() * (counts.double() - 1) / 2).sum()
