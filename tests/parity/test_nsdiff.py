"""NsDiff against sums of products, its equations a step at a time, and the conditioning of Gaussians in float64."""

from __future__ import annotations

import copy
import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import fuxian
from fuxian.data.series import Windows
from fuxian.errors import WrongInput
from fuxian.methods.forecasting.nonstationary_transformer import NonstationaryTransformer
from fuxian.methods.forecasting.nsdiff import (
    Diffusion,
    NsDiff,
    RollingVariance,
    Variance,
    recipe,
    rolling_variance,
    schedule,
)
from fuxian.optim import adam

from .compare import Differences, first_loss, in_both, parity

B, L, H, C, R, T = 5, 12, 4, 2, 5, 6
BETAS = 0.05, 0.4


def made(steps: int = T, beta_start: float = BETAS[0], beta_end: float = BETAS[1]) -> NsDiff:
    torch.manual_seed(0)
    mean = NonstationaryTransformer(C, 0, L, H, 8, 1, 12, 2, 0.0, 6)
    return NsDiff(mean, Variance(L, H, R, 16), C, steps, beta_start, beta_end)


def windows() -> Windows:
    torch.manual_seed(1)
    return Windows(torch.randn(B, L, C) * 2, torch.randn(B, H, C), torch.arange(B), torch.zeros(B, L + H, 0))


def objective(**more: Any) -> Diffusion:
    return Diffusion(T, "ab", np.zeros(C), np.ones(C), 3, **more)


def betas(steps: int = T, start: float = BETAS[0], end: float = BETAS[1]) -> list[float]:
    return [start + (end - start) * t / (steps - 1) for t in range(steps)]


class Reference(nn.Module):
    """models/NsDiff.py's sums of products, and the loss of _process_train_batch, a window at a time. f is ours, copied."""

    def __init__(self, ours: NsDiff) -> None:
        super().__init__()
        self.mean = copy.deepcopy(ours.mean)
        self.named = {
            name: name if name.startswith("mean.") else name.replace(".", "_") for name, _ in ours.named_parameters()
        }
        for name, weight in ours.named_parameters():
            if not name.startswith("mean."):
                setattr(self, self.named[name], nn.Parameter(torch.zeros_like(weight)))

    def linear(self, name: str, x: Tensor) -> Tensor:
        return x @ getattr(self, f"{name}_weight").T + getattr(self, f"{name}_bias")

    def variance(self, past: Tensor) -> Tensor:
        out = []
        for channel in past.T:
            seen = torch.stack([channel[end - R : end].var(unbiased=False) for end in range(R + 1, L + 1)]) + 1e-7
            h = self.linear("variance_net_2", self.linear("variance_net_0", seen).relu()).relu()
            out.append(torch.log1p(self.linear("variance_net_4", h).exp()) + 1e-7)
        return torch.stack(out, 1)

    def denoised(self, y: Tensor, f: Tensor, g: Tensor, t: int) -> tuple[Tensor, Tensor]:
        h = torch.cat([y, f, g], 1)
        for i in range(3):
            scale = getattr(self, f"denoiser_scales_{i}_weight")[t]
            h = torch.log1p((scale * self.linear(f"denoiser_layers_{i}", h)).exp())
        spread = torch.log1p(self.linear("denoiser_variance", torch.log1p(h.exp())).exp())
        return self.linear("denoiser_noise", h), spread + 1e-7

    def target(self, past: Tensor, future: Tensor) -> Tensor:
        both = torch.cat([past, future])
        return torch.stack([both[L + h + 1 - R : L + h + 1].var(0, unbiased=False) for h in range(H)]) + 1e-7

    @staticmethod
    def of(t: int) -> tuple[float, float, float]:
        """ᾱ, β̃ = α̃ - α̂ and β̄ - β̃ of t, and of none at all: sums over the steps k of what is left of them at t."""
        alpha = [1 - beta for beta in betas()]
        left = [math.prod(alpha[k : t + 1]) for k in range(t + 1)]
        tilde = sum(left) - sum(x * alpha[k] for k, x in enumerate(left))
        return math.prod(alpha[: t + 1]), tilde, 1 - math.prod(alpha[: t + 1]) - tilde

    def loss(self, batch: Windows) -> Tensor:
        half = torch.randint(T, (B // 2 + 1,))
        steps = torch.cat([half, T - 1 - half]).tolist()
        e = torch.randn_like(batch.future)
        f, found = self.mean(batch.past, batch.marks), []
        for b, (past, y) in enumerate(zip(batch.past, batch.future, strict=True)):
            t, g, s = steps[b], self.variance(past), self.target(past, y)
            (bar, tilde, rest), beta = self.of(t), betas()[t]
            before = self.of(t - 1) if t else (1.0, 1.0, 0.0)
            one, two = beta**2 * g + (1 - beta) * beta * s, before[2] * g + before[1] * s
            noisy = math.sqrt(bar) * y + (1 - math.sqrt(bar)) * f[b] + e[b] * (rest * g + tilde * s).sqrt()
            guess, spread = self.denoised(noisy, f[b], g, t)
            ratio = one * two / ((1 - beta) * two + one) / spread
            loss = (e[b] - guess) ** 2 + ratio - ratio.log() + (f[b] - y) ** 2 + (g.sqrt() - s.sqrt()) ** 2
            found.append(loss.sum() / y.numel())
        return torch.stack(found).sum() / B


def compared() -> Differences:
    ours, batch = made(), windows()
    reference = Reference(ours)

    def outputs() -> tuple[Tensor, Tensor]:
        f, g = ours.told(batch.past, batch.marks)
        t = torch.tensor([0, 5, 2, 3, 1])
        mine = ours.denoiser(batch.future, f, g, t)
        told = [reference.variance(past) for past in batch.past]
        theirs = [(*reference.denoised(y, f[b], told[b], int(t[b])), told[b]) for b, y in enumerate(batch.future)]
        return torch.stack([*mine, g]), torch.stack([torch.stack(part) for part in zip(*theirs, strict=True)])

    def losses(*_: Tensor) -> tuple[Tensor, Tensor]:
        torch.manual_seed(3)
        mine = first_loss(objective(), ours, batch)
        torch.manual_seed(3)
        return mine, reference.loss(batch)

    return parity(ours, reference, reference.named, outputs=outputs, losses=losses, spec=adam(0.001),
                  optimizer=torch.optim.Adam(reference.parameters(), lr=0.001))  # fmt: skip


def test_outputs_gradients_and_step(prove) -> None:
    prove("nsdiff", "parity", reference="its equations, a window at a time, with sums of products", **in_both(compared))


# ── the process ─────────────────────────────────────────────────────────────────────────────────────────────────────


def chain(g: float, s: float) -> tuple[np.ndarray, np.ndarray]:
    """What y_t - f is of y_0 - f (T,), and the covariance (T, T) of all y_t given it: by propagating every noise."""
    factor, root = np.zeros(T), np.zeros((T, T))  # y_t = factor y_0 + root z
    for t, beta in enumerate(betas()):
        keep = math.sqrt(1 - beta)
        factor[t] = keep * (factor[t - 1] if t else 1)
        root[t] = keep * (root[t - 1] if t else 0)
        root[t, t] = math.sqrt(beta**2 * g + (1 - beta) * beta * s)
    return factor, root @ root.T


class Knows(nn.Module):
    """The noise that leads to `clean`, and the variance of the posterior of σ_Y0 = `y0`."""

    def __init__(self, model: NsDiff, clean: Tensor, y0: Tensor) -> None:
        super().__init__()
        self.process, self.clean, self.y0 = [model], clean, y0

    def forward(self, y: Tensor, f: Tensor, g: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        (model,) = self.process
        at = model.step(t)
        noise = (y - f - at.signal * self.clean) / (at.of_g * g + at.of_y * self.y0).sqrt()
        return noise, model.posterior_variance(g, self.y0, at)


def test_each_step_back_is_gaussian_conditioning() -> None:
    """Mean and variance of y_t-1 given y_t and y_0, from the covariance of the whole chain; the last step is y_0."""
    model = made().double()
    model.table = schedule(T, *BETAS)
    g, s, clean, f = (torch.full((1, H, C), x, dtype=torch.float64) for x in (0.7, 2.3, -1.9, 5.0))
    model.denoiser = Knows(model, clean, s)  # type: ignore[assignment]
    factor, covariance = chain(0.7, 2.3)
    for t in range(T):
        at = model.step(torch.tensor([t]))
        total = (at.of_g * g + at.of_y * s).mean().item()
        assert (at.signal.item(), total) == pytest.approx((factor[t], covariance[t, t]), rel=1e-12)
        y = torch.full_like(f, 1.3)
        mean, deviation = model.back(y, f, g, torch.tensor([t]))
        if t:
            slope = covariance[t - 1, t] / covariance[t, t]
            expected = factor[t - 1] * -1.9 + slope * (1.3 - factor[t] * -1.9)
            variance = covariance[t - 1, t - 1] - slope * covariance[t, t - 1]
            assert (mean.mean().item(), deviation.mean().item()) == pytest.approx(
                (expected, math.sqrt(variance)), rel=1e-10
            )
        else:
            torch.testing.assert_close(mean, clean, rtol=1e-10, atol=0)
            assert not deviation.any()


def test_both_ends_and_all_that_is_between() -> None:
    """From y_0 itself to N(f, g), of which nothing else is left where the last β is one; always 1 - ᾱ in all."""
    table = schedule(20, 1e-4, 1.0)
    alpha, beta, signal, of_g, of_y, *before = table
    assert [x[0].item() for x in before] == [1, 0, 1]  # y_0, and σ_Y0 in place of no variance
    assert (signal[-1].item(), of_g[-1].item(), of_y[-1].item()) == (0, 1, 0)
    torch.testing.assert_close(of_g + of_y, 1 - signal**2, rtol=1e-12, atol=0)
    torch.testing.assert_close(alpha + beta, torch.ones(20).double(), rtol=0, atol=1e-15)
    assert (of_g[:19] / of_y[:19]).diff().min() > 0  # more and more of g
    assert schedule(20, 1e-4, 0.01)[2, -1].square().item() == pytest.approx(0.9037, abs=1e-4)  # ᾱ_T as published


def test_the_datas_variance_comes_back_from_the_posteriors() -> None:
    model = made().double()
    model.table = schedule(T, *BETAS)
    torch.manual_seed(0)
    g, s = torch.rand(2, T, H, C, dtype=torch.float64) * 3 + 1e-3
    at = model.step(torch.arange(T))
    torch.testing.assert_close(model.data_variance(model.posterior_variance(g, s, at), g, at), s, rtol=1e-9, atol=0)
    tiny = model.data_variance(torch.full_like(g, 1e-7), g, at)  # below what g alone has: of no σ_Y0, but of no variance
    assert torch.stack(model.forward_variances(g, tiny, at))[:, 1:].min() > -1e-12


class Linear(nn.Module):
    """The best that can be told of y_t where y_0 is of N(f, g) and σ_Y0 is g: then each y_t is of N(f, g) too."""

    def __init__(self, model: NsDiff) -> None:
        super().__init__()
        self.process = [model]

    def forward(self, y: Tensor, f: Tensor, g: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        (model,) = self.process
        at = model.step(t)
        return (1 - at.signal**2).sqrt() * (y - f) / g.sqrt(), model.posterior_variance(g, g, at)


def test_what_is_drawn_has_the_mean_and_spread_that_each_window_was_told() -> None:
    """Every step is linear: its variance by hand. No future is looked at; samples go with their own window."""
    model, batch = made(), windows()
    model.denoiser = Linear(model)  # type: ignore[assignment]
    with torch.no_grad():
        f, g = model.told(batch.past, batch.marks)
        g = g * torch.arange(1, B + 1)[:, None, None]
        model.told = lambda *_: (f, g)  # type: ignore[method-assign]
        drawn = model.draw(Windows(batch.past, torch.full_like(batch.future, math.nan), batch.at, batch.marks), 4000)
    variance = 1.0
    for t in reversed(range(T)):
        bar, before = (math.prod(1 - beta for beta in betas()[: t + n]) for n in (1, 0))
        alpha, beta = 1 - betas()[t], betas()[t]
        clean = math.sqrt(bar)  # y_0 is guessed as √ᾱ y_t
        slope = (math.sqrt(before) * beta * clean + math.sqrt(alpha) * (1 - before)) / (1 - bar)
        variance = clean**2 * variance if not t else slope**2 * variance + beta * (1 - before) / (1 - bar)
    assert drawn.shape == (B, 4000, H, C)
    off = (drawn - f[:, None]) / g[:, None].sqrt()
    assert off.mean(1).abs().max() < 0.1
    assert off.std(1).sub(math.sqrt(variance)).abs().max() < 0.08
    assert abs(off.std().item() - math.sqrt(variance)) < 0.01


# ── the variance, and the recipe ────────────────────────────────────────────────────────────────────────────────────


def test_a_rolling_variance_by_hand_ends_at_its_own_step() -> None:
    batch, g = windows(), Variance(L, H, R, 16)
    both = torch.cat([batch.past, batch.future], 1).double().numpy()
    expected = np.stack([both[:, L + h + 1 - R : L + h + 1].var(1) for h in range(H)], 1)
    np.testing.assert_allclose(g.of(batch).numpy(), expected, rtol=1e-5)
    assert rolling_variance(batch.past, R).shape == (B, L - R + 1, C)
    later = batch.future.clone()
    later[:, 2] += 9
    moved = g.of(Windows(batch.past, later, batch.at, batch.marks)) != g.of(batch)
    assert moved.any((0, 2)).tolist() == [False, False, True, True]
    with pytest.raises(WrongInput, match="rolling=12 leaves nothing of a past of 12"):
        Variance(12, H, 12)


def test_g_comes_near_a_variance_that_is_to_be_known() -> None:
    """Its loss and its measure are of the rolling variance: where that is always 4, by a hundred steps it is told."""
    torch.manual_seed(0)
    g, told = Variance(L, H, 2, 16), RollingVariance("ab", np.zeros(C), np.ones(C))
    ups = 2 * torch.tensor([1.0, -1.0]).repeat(8)[None, :, None].expand(B, -1, C)
    batch = Windows(ups[:, :L], ups[:, L:], torch.arange(B), torch.zeros(B, L + H, 0))
    step = torch.optim.Adam(g.parameters(), 0.02)
    for _ in range(100):
        step.zero_grad()
        first_loss(told, g, batch).backward()
        step.step()
    assert (g(batch.past) - 4).abs().max() < 0.2
    ((name, error),) = told.evaluate(g, batch)
    assert (name, error.shape) == ("variance_error", (B,))
    torch.testing.assert_close(error, (g(batch.past) - g.of(batch)).square().mean((1, 2)))


def test_the_recipe_is_the_protocol_of_nsdiff_py() -> None:
    going: Any = recipe("waves", pretrain_mean=10, pretrain_variance=20)
    f, g, last = (next(going), going.send({}), going.send({}))
    model: Any = last.model
    assert [stage.name for stage in (f, g, last)] == ["mean", "variance", "diffusion"]
    assert (model.mean, model.variance) == (f.model, g.model)
    assert (g.model.rolling, g.model.net[2].in_features, model.steps) == (96, 512, 20)
    torch.testing.assert_close(model.table[1, [0, -1]], torch.tensor([1e-4, 0.01]))
    assert [(s.optimizer.lr, s.optimizer.decay, s.optimizer.clip) for s in (f, g, last)] == [
        (0.001, 5e-4, 5), (0.001, 5e-4, 5), (0.001, 0, None)]  # fmt: skip
    assert [(s.epochs, s.batch, s.drop_last, s.select) for s in (f, g, last)] == [
        (10, 32, False, "-mse"), (20, 32, False, "-variance_error"), (10, 32, False, "-crps")]  # fmt: skip
    for stage, name, epochs in ((f, "mse", 3), (g, "variance_error", 5), (last, "crps", 5)):
        worse = [{name: 1.0}] + [{name: 2.0}] * epochs
        assert (stage.stop(worse[:-1]), stage.stop(worse)) == (False, True)
    (alone,) = (s.name for s in [next(recipe("waves"))])
    assert alone == "diffusion"
    assert (len(last.data.val), len(last.data.test)) == (1, 1)  # blocks, of 240 and 480 rows


@pytest.mark.slow
def test_the_recipe_learns_and_shows_all_of_it(tmp_path) -> None:
    run = fuxian.run("nsdiff", quick=True, parent=tmp_path)
    assert run.metrics["to_optimum"] == run.metrics["test/crps"] / run.metrics["test/optimum_crps"]
    assert 0.98 < run.metrics["to_optimum"] < 2.5
    drawn = {path.stem for path in (run.folder / "pictures").iterdir()}
    assert drawn == {"mean-windows", "mean-horizon", "variance-variance"} | {
        f"diffusion-{name}" for name in ("windows", "deviation", "horizon", "calibration", "denoising")
    }
