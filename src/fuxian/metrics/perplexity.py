"""Perplexity of a language model."""

from __future__ import annotations

import math

from torch import Tensor

from fuxian.contract import Metric


class Perplexity(Metric):
    """exp of the mean loss over all tokens of a split. Its unit is the token: numbers of two encodings do not compare."""

    def __init__(self) -> None:
        self.total = 0.0

    def update(self, sums: Tensor, counts: Tensor) -> None:
        """`sums` (batch,) are negative log-likelihoods in nats, over `counts` (batch,) tokens."""
        self.total += sums.double().sum().item()
        self.count += int(counts.sum())

    def value(self) -> float:
        """Infinite where the exponential is."""
        mean = self.total / self.count
        return math.exp(mean) if mean < 700 else math.inf
