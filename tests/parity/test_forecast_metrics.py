"""The metrics of forecasts against their definitions, closed forms, numpy and, where it is installed, scoringrules."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy.integrate import quad
from scipy.stats import norm

from fuxian.metrics.forecast import (
    QICE,
    CalibrationError,
    WeightedQuantileLoss,
    covered,
    crps,
    energy_score,
    gaussian_crps,
    quantiles,
)


def drawn(windows: int = 6, samples: int = 25, values: tuple[int, ...] = (4, 3)) -> tuple[torch.Tensor, torch.Tensor]:
    draw = torch.Generator().manual_seed(0)
    forecast = torch.randn(windows, samples, *values, generator=draw, dtype=torch.float64)
    return forecast, 1.5 * torch.randn(windows, *values, generator=draw, dtype=torch.float64)


# ── crps ────────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_crps_is_the_integral_that_defines_it() -> None:
    """∫ (F(x) - 1{x ≥ y})² dx, eq. 20, F the step function of the samples: exactly, from step to step."""
    samples, truth = drawn(3, 11)
    found = crps(samples, truth).flatten(1)
    for b, v in np.ndindex(3, 12):
        x, y = samples.flatten(2)[b, :, v].numpy(), float(truth.flatten(1)[b, v])
        corners = np.sort(np.append(x, y))
        middle = (corners[1:] + corners[:-1]) / 2
        below = (x[None, :] <= middle[:, None]).mean(1)
        assert float(found[b, v]) == pytest.approx((np.diff(corners) * (below - (middle >= y)) ** 2).sum(), abs=1e-12)


def test_crps_is_its_double_sum() -> None:
    samples, truth = drawn()
    pairs = (samples[:, :, None] - samples[:, None]).abs().mean((1, 2))
    expected = (samples - truth[:, None]).abs().mean(1) - pairs / 2
    torch.testing.assert_close(crps(samples, truth), expected, rtol=0, atol=1e-12)
    assert crps(samples, truth).shape == truth.shape
    single = crps(samples[:, :1], truth)  # one sample is a point: its absolute error
    torch.testing.assert_close(single, (samples[:, 0] - truth).abs(), rtol=0, atol=1e-15)


def test_crps_does_not_depend_on_the_order_of_samples() -> None:
    samples, truth = drawn()
    order = torch.randperm(25, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(crps(samples[:, order], truth), crps(samples, truth), rtol=0, atol=1e-14)


@pytest.mark.parametrize(("mean", "std", "truth"), [(0.0, 1.0, 0.0), (0.3, 0.5, -1.0), (-2.0, 3.0, 4.0)])
def test_the_closed_form_of_a_normal_distribution(mean: float, std: float, truth: float) -> None:
    below = quad(lambda x: norm.cdf(x, mean, std) ** 2, -np.inf, truth)[0]
    above = quad(lambda x: (1 - norm.cdf(x, mean, std)) ** 2, truth, np.inf)[0]
    given = (torch.tensor(v, dtype=torch.float64) for v in (mean, std, truth))
    found = gaussian_crps(*given)
    assert float(found) == pytest.approx(below + above, abs=1e-8)


def test_many_samples_come_to_the_closed_form() -> None:
    quantile = torch.from_numpy(norm.ppf((np.arange(20_000) + 0.5) / 20_000))
    samples, truth = (1 + 2 * quantile)[None, :, None], torch.tensor([[0.2]], dtype=torch.float64)
    one, two = torch.tensor(1.0, dtype=torch.float64), torch.tensor(2.0, dtype=torch.float64)
    assert float(crps(samples, truth)) == pytest.approx(float(gaussian_crps(one, two, truth)), abs=1e-5)


def test_the_optimum_is_sigma_over_the_root_of_pi() -> None:
    truth = torch.from_numpy(1 + 2 * norm.ppf((np.arange(20_000) + 0.5) / 20_000))
    at = [gaussian_crps(truth.new_tensor(m), truth.new_tensor(s), truth).mean().item()
          for m, s in ((1.0, 2.0), (1.1, 2.0), (1.0, 1.8), (1.0, 2.2))]  # fmt: skip
    assert at[0] == pytest.approx(2 / math.sqrt(math.pi), abs=1e-4)
    assert min(at) == at[0]


# ── weighted quantile loss ──────────────────────────────────────────────────────────────────────────────────────────


def test_wql_is_what_gluonts_sums() -> None:
    """Over both batches at once, by numpy: 2 Σ |(y - ŷ_q) (1{y ≤ ŷ_q} - q)| / Σ |y|, evaluation/_base.py, quantile_loss."""
    samples, truth = drawn()
    metric = WeightedQuantileLoss()
    for part in (slice(2), slice(2, None)):
        metric.update(samples[part], truth[part])
    losses = []
    for q in np.arange(1, 10) / 10:
        told = np.quantile(samples.numpy(), q, axis=1)
        losses.append(2 * np.abs((told - truth.numpy()) * ((truth.numpy() <= told) - q)).sum())
    assert metric.value() == pytest.approx(np.mean(losses) / np.abs(truth.numpy()).sum(), rel=1e-12)
    assert metric.count == len(truth)


def test_wql_of_a_point_is_its_absolute_error_over_what_came() -> None:
    samples, truth = drawn()
    metric = WeightedQuantileLoss()
    metric.update(samples[:, :1], truth)
    expected = (samples[:, 0] - truth).abs().sum() / truth.abs().sum()
    assert metric.value() == pytest.approx(expected.item(), rel=1e-12)
    nothing = WeightedQuantileLoss()
    nothing.update(samples, torch.zeros_like(truth))
    assert math.isnan(nothing.value())


# ── energy score ────────────────────────────────────────────────────────────────────────────────────────────────────


def test_energy_score_is_its_double_sum() -> None:
    samples, truth = drawn()
    expected = []
    for x, y in zip(samples.flatten(2), truth.flatten(1), strict=True):
        pairs = [float((a - b).norm()) for a in x for b in x]
        expected.append(np.mean([float((a - y).norm()) for a in x]) - np.mean(pairs) / 2)
    found = energy_score(samples, truth)
    torch.testing.assert_close(found, torch.tensor(expected, dtype=torch.float64), rtol=0, atol=1e-12)


def test_energy_score_of_one_value_is_the_crps() -> None:
    samples, truth = drawn(values=(1,))
    torch.testing.assert_close(energy_score(samples, truth), crps(samples, truth)[:, 0], rtol=0, atol=1e-12)


def test_energy_score_sees_that_values_belong_together() -> None:
    """Truths whose two values are equal: samples that know it are better, though each value alone is drawn alike."""
    draw = torch.Generator().manual_seed(0)
    truth = torch.randn(400, 1, generator=draw).expand(400, 2)
    together = torch.randn(400, 100, 1, generator=draw).expand(400, 100, 2)
    apart = torch.stack([together[..., 0], together[:, torch.randperm(100, generator=draw), 1]], 2)
    assert energy_score(together, truth).mean() < energy_score(apart, truth).mean() - 0.01
    torch.testing.assert_close(crps(together, truth), crps(apart, truth), rtol=0, atol=1e-6)


def test_scoringrules_says_the_same() -> None:
    rules = pytest.importorskip("scoringrules")
    samples, truth = drawn()
    ours = crps(samples, truth)
    theirs = rules.crps_ensemble(truth.numpy(), samples.numpy(), m_axis=1, estimator="nrg")
    torch.testing.assert_close(ours, torch.from_numpy(theirs), rtol=0, atol=1e-12)
    ours = energy_score(samples, truth)
    theirs = rules.es_ensemble(truth.flatten(1).numpy(), samples.flatten(2).numpy(), m_axis=1, v_axis=2)
    torch.testing.assert_close(ours, torch.from_numpy(theirs), rtol=0, atol=1e-12)
    ours = gaussian_crps(truth - 1, truth.abs() + 0.1, truth)
    theirs = rules.crps_normal(truth.numpy(), (truth - 1).numpy(), (truth.abs() + 0.1).numpy())
    torch.testing.assert_close(ours, torch.from_numpy(theirs), rtol=0, atol=1e-12)


# ── calibration ─────────────────────────────────────────────────────────────────────────────────────────────────────


def by_numpy(samples: torch.Tensor, truth: torch.Tensor, bins: int = 10) -> np.ndarray:
    """Shares of truths in each bin, as wwy155/NsDiff's metrics/QICE.py counts them, a value at a time."""
    counts = np.zeros(bins)
    for b, v in np.ndindex(len(truth), truth[0].numel()):
        edges = np.percentile(samples.flatten(2)[b, :, v].numpy(), np.arange(bins + 1) * 100 / bins)
        above = int((truth.flatten(1)[b, v].item() > edges).sum())  # 0: below the lowest; bins + 1: above the highest
        counts[min(max(above, 1), bins) - 1] += 1
    return counts / counts.sum()


def test_qice_by_numpy_and_over_several_batches() -> None:
    samples, truth = drawn(40, 30)
    expected = by_numpy(samples, truth)
    metric = QICE()
    for part in (slice(0, 7), slice(7, 40)):
        metric.update(samples[part], truth[part])
    assert metric.shares.tolist() == pytest.approx(expected.tolist(), abs=1e-12)
    assert metric.value() == pytest.approx(np.abs(expected - 0.1).mean(), abs=1e-12)
    assert metric.count == 40 * 12
    assert expected[0] > 0.15  # truths are wider than the forecast: beyond it is counted with the outer bins


def test_quantiles_are_those_of_numpy() -> None:
    samples, _ = drawn()
    levels = torch.tensor([0.05, 0.5, 0.95])
    expected = np.quantile(samples.numpy(), levels.double().numpy(), axis=1)
    torch.testing.assert_close(quantiles(samples, levels), torch.from_numpy(expected), rtol=0, atol=1e-12)


def test_a_calibrated_forecast_and_one_that_is_too_sure() -> None:
    draw = torch.Generator().manual_seed(0)
    samples = torch.randn(500, 200, 4, generator=draw, dtype=torch.float64)
    truth = torch.randn(500, 4, generator=draw, dtype=torch.float64)
    for narrow, qice, picp, error in ((1.0, 0.01, 0.9, 0.002), (0.5, 0.05, 0.59, 0.05)):
        found, curve = QICE(), CalibrationError()
        found.update(narrow * samples, truth)
        curve.update(narrow * samples, truth)
        inside = covered(narrow * samples, truth).mean().item()
        assert inside == pytest.approx(picp, abs=0.02)
        assert (found.value() < qice) == (narrow == 1.0)
        assert (curve.value() < error) == (narrow == 1.0)
    expected, observed = curve.curve  # of the one that is too sure
    assert expected.tolist() == pytest.approx([i / 10 for i in range(11)])
    assert observed[5].item() == pytest.approx(0.5, abs=0.03)
    assert observed[1].item() == pytest.approx(norm.cdf(0.5 * norm.ppf(0.1)), abs=0.03)
    assert curve.value() == pytest.approx(((expected - observed) ** 2).sum().item())


def test_picp_by_hand() -> None:
    """Of samples 0, 1, …, 100 the interval is 5 to 95, both ends in it."""
    samples = torch.arange(101, dtype=torch.float64)[None, :, None].expand(5, -1, -1)
    truth = torch.tensor([[4.9], [5.0], [50.0], [95.0], [95.1]], dtype=torch.float64)
    assert covered(samples, truth)[:, 0].tolist() == [0, 1, 1, 1, 0]
    assert covered(samples, truth, 1.0).all()
