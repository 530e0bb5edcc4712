"""Tables: rows of numbers with a class each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from sklearn.datasets import load_iris
from torch import Tensor
from typing_extensions import Self

from fuxian.contract import Batch, Splits
from fuxian.data.sources import digest


@dataclass(frozen=True)
class Rows(Batch):
    x: Tensor  # (batch, features) float32 or float64
    label: Tensor  # (batch,) int64


class Table:
    """A split of rows: `x` (rows, features), `label` (rows,) int64."""

    def __init__(self, x: Tensor, label: Tensor) -> None:
        self.x, self.label = x, label

    @property
    def device(self) -> torch.device:
        return self.x.device

    def to(self, device: torch.device | str) -> Self:
        """Moves this split, as a module's `to` does."""
        self.x, self.label = self.x.to(device), self.label.to(device)
        return self

    def __len__(self) -> int:
        return len(self.label)

    def batch(self, indices: Tensor) -> Rows:
        return Rows(self.x[indices], self.label[indices])


class TableSplits(Splits):
    """Rows of `features` numbers (named `columns`) in `classes` classes (named `names`)."""

    def __init__(
        self, train: Table, *, name: str, columns: Sequence[str], names: Sequence[str], hashes: dict[str, str]
    ) -> None:
        super().__init__(train, name=name, hashes=hashes)
        self.columns, self.names = tuple(columns), tuple(names)
        self.features, self.classes = len(self.columns), len(self.names)


def iris(dtype: torch.dtype = torch.float64) -> TableSplits:
    """Fisher's iris flowers, as scikit-learn has them: 150 rows of 4 lengths in cm, 3 species. All of it is `train`.

    Fisher, The Use of Multiple Measurements in Taxonomic Problems, Annals of Eugenics 7(2), 1936.
    """
    data: Any = load_iris()
    table = Table(torch.from_numpy(data.data).to(dtype), torch.from_numpy(data.target).long())
    return TableSplits(
        table,
        name="iris",
        columns=data.feature_names,
        names=[str(name) for name in data.target_names],
        hashes={"iris": digest(data.data.tobytes(), data.target.tobytes())},
    )
