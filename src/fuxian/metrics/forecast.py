"""How good a forecast is that is a distribution, of which there are samples: sharp, and as often right as it says.

Everything here is of one number at a time, but for the energy score. Shape letters: B windows, S samples, V values of a
window (steps and channels, in any shape), M bins.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from fuxian.contract import Metric


def crps(samples_BSV: Tensor, truth_BV: Tensor) -> Tensor:
    """(B, V): the continuous ranked probability score of each value, E|X - y| - E|X - X'| / 2; lower is better.

    Gneiting & Raftery, JASA 102(477), 2007: eq. 21, X and X' drawn from the samples: what eq. 20 is of their distribution
    function. The second term over pairs is Σ (2 i - S - 1) x_i / S², x_i the i-th smallest: S log S in place of S².
    """
    S = samples_BSV.shape[1]
    rank_S = torch.arange(1, S + 1, dtype=samples_BSV.dtype, device=samples_BSV.device)
    weight_S = ((2 * rank_S - S - 1) / S**2).view(S, *[1] * (samples_BSV.dim() - 2))
    spread_BV = (samples_BSV.sort(1).values * weight_S).sum(1)
    return (samples_BSV - truth_BV[:, None]).abs().mean(1) - spread_BV


def gaussian_crps(mean: Tensor, std: Tensor, truth: Tensor) -> Tensor:
    """The CRPS of a normal distribution, in closed form: σ [z (2 Φ(z) - 1) + 2 φ(z) - 1 / √π], z = (y - μ) / σ.

    Gneiting et al., Mon. Wea. Rev. 133(5), 2005: eq. 5. Where y is drawn from it its mean is σ / √π: no forecast has less.
    """
    z = (truth - mean) / std
    density = (-z.square() / 2).exp() / math.sqrt(2 * math.pi)
    return std * (z * torch.erf(z / math.sqrt(2)) + 2 * density - 1 / math.sqrt(math.pi))


def energy_score(samples_BSV: Tensor, truth_BV: Tensor) -> Tensor:
    """(B,): what the CRPS is of a number, of all values of a window together: E‖X - y‖ - E‖X - X'‖ / 2.

    Gneiting & Raftery 2007, eq. 22 with β = 1. It sees whether values belong together, which the CRPS of each does not.
    """
    samples_BSV, truth_BV = samples_BSV.flatten(2), truth_BV.flatten(1)
    exact = "donot_use_mm_for_euclid_dist"  # a matrix product would lose digits where samples are near
    apart_BSS = torch.cdist(samples_BSV, samples_BSV, compute_mode=exact)
    return (samples_BSV - truth_BV[:, None]).norm(dim=2).mean(1) - apart_BSS.mean((1, 2)) / 2


def quantiles(samples_BSV: Tensor, levels: Tensor) -> Tensor:
    """(levels, B, V): the samples' quantiles, linear between two, as numpy's percentile."""
    return samples_BSV.quantile(levels.to(samples_BSV), dim=1)


def covered(samples_BSV: Tensor, truth_BV: Tensor, share: float = 0.9) -> Tensor:
    """(B, V): 1 where the truth lies in the central interval that holds `share` of the samples, else 0. Its mean is PICP.

    Han et al. 2022, arXiv:2206.07275, sec. 4.1, from the 5th to the 95th percentile as in wwy155/NsDiff @ 0686624,
    metrics/PICP.py; but divided once: theirs divides the mean of each batch by the number of values again.
    """
    low_BV, high_BV = quantiles(samples_BSV, torch.tensor([(1 - share) / 2, (1 + share) / 2], dtype=torch.float64))
    return ((low_BV <= truth_BV) & (truth_BV <= high_BV)).to(samples_BSV.dtype)


class WeightedQuantileLoss(Metric):
    """2 Σ ρ_q(y - ŷ_q) / Σ |y|, the mean over q = 0.1, …, 0.9; 0 is best. Of a point forecast it is Σ |y - ŷ| / Σ |y|.

    It is of numbers in their own unit, and large ones weigh most. awslabs/gluonts @ 3d05d46, evaluation/_base.py,
    mean_wQuantileLoss, and metrics.py, quantile_loss; its quantile is the nearest sample, this is linear between two.
    """

    LEVELS = torch.arange(1, 10, dtype=torch.float64) / 10

    def __init__(self) -> None:
        self.loss = self.size = 0.0

    def update(self, samples_BSV: Tensor, truth_BV: Tensor) -> None:
        self.size += truth_BV.abs().sum(dtype=torch.float64).item()
        self.count += len(truth_BV)
        if samples_BSV.shape[1] == 1:  # it is every quantile; and a point forecast may be judged by thousands of windows
            self.loss += (truth_BV - samples_BSV[:, 0]).abs().sum(dtype=torch.float64).item()
            return
        for q, told_BV in zip(self.LEVELS.tolist(), quantiles(samples_BSV, self.LEVELS), strict=True):
            short_BV = (truth_BV - told_BV).double()
            self.loss += 2 * torch.maximum(q * short_BV, (q - 1) * short_BV).sum().item() / len(self.LEVELS)

    def value(self) -> float:
        return self.loss / self.size if self.size else math.nan


class Bins(Metric):
    """How many truths lie in each of M bins between the samples' quantiles: of a calibrated forecast, as many in each.

    Beyond the lowest (highest) sample is the first (last) bin. wwy155/NsDiff @ 0686624, metrics/QICE.py.
    """

    def __init__(self, bins: int = 10) -> None:
        self.counts = torch.zeros(bins, dtype=torch.int64)

    def update(self, samples_BSV: Tensor, truth_BV: Tensor) -> None:
        bins = len(self.counts)
        edges = quantiles(samples_BSV, torch.arange(1, bins, dtype=torch.float64) / bins)
        bin_BV = (truth_BV > edges).sum(0)
        self.counts += torch.bincount(bin_BV.flatten(), minlength=bins).cpu()
        self.count = int(self.counts.sum())

    @property
    def shares(self) -> Tensor:
        """(M,) float64, which sum to one."""
        return self.counts.double() / self.count


class QICE(Bins):
    """The quantile interval coverage error: how far the share of each bin is from 1 / M, on average; a fraction, 0 is best.

    Han et al. 2022, arXiv:2206.07275, sec. 4.1: (1 / M) Σ |r_m - 1 / M|, M = 10. NsDiff's tables print it in hundredths.
    """

    def value(self) -> float:
        return (self.shares - 1 / len(self.counts)).abs().mean().item()


class CalibrationError(Bins):
    """Σ (p_j - p̂_j)² over the levels p_j = j / M: p̂_j is the share of truths that lie below the samples' p_j-quantile.

    Kuleshov et al., ICML 2018, arXiv:1807.00263: eq. 8 (the curve p̂ over p), eq. 9 with w = 1.
    """

    @property
    def curve(self) -> tuple[Tensor, Tensor]:
        """Expected and observed share (M + 1,), from 0 to 1: the diagonal where the forecast is calibrated."""
        expected = torch.arange(len(self.counts) + 1, dtype=torch.float64) / len(self.counts)
        return expected, torch.cat([torch.zeros(1, dtype=torch.float64), self.shares.cumsum(0)])

    def value(self) -> float:
        expected, observed = self.curve
        return (expected - observed).square().sum().item()
