"""The Parzen-window estimate of a generator's log-likelihood, as the GAN papers report it."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from fuxian.contract import Metric

WIDTHS = torch.logspace(-1, 0, 10)  # goodfeli/adversarial @ 1720041, parzen_ll.py


class Parzen(Metric):
    """Mean log-density in nats of what it is shown, under a Gaussian of width `sigma` around each sample.

    Goodfellow et al. 2014, arXiv:1406.2661, sec. 5. `samples` (samples, values). Where `sigma` is 0 the best of `WIDTHS`
    is taken and left in it, in place: choose it on validation, and read the test with it. High-dimensional data make it a
    poor judge of pictures (Theis et al. 2016, arXiv:1511.01844): it is here because it was published.
    """

    def __init__(self, samples: Tensor, sigma: Tensor) -> None:
        self.samples = samples
        self.sigma = sigma
        self.sums = torch.zeros(len(WIDTHS), dtype=torch.float64)
        self.chosen = sigma.item() > 0

    def update(self, x: Tensor) -> None:
        """`x` (batch, values)."""
        square = torch.cdist(x, self.samples).square()  # (batch, samples)
        n, values = self.samples.shape
        widths = [self.sigma.item()] if self.chosen else WIDTHS.tolist()
        for i, width in enumerate(widths):
            normal = math.log(n) + values * math.log(width * math.sqrt(2 * math.pi))
            self.sums[i] += ((-square / (2 * width**2)).logsumexp(1).double() - normal).sum().item()
        self.count += len(x)

    def value(self) -> float:
        if not self.chosen:
            best = int(self.sums.argmax())
            self.sigma.fill_(WIDTHS[best])
            return (self.sums[best] / self.count).item()
        return (self.sums[0] / self.count).item()
