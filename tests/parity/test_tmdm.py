"""TMDM against its equations a step at a time; its process by Gaussian conditioning; its samples against closed forms."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from scipy.stats import kstest
from torch import Tensor, nn
from torch.distributions import Normal, kl_divergence

from fuxian.data.series import Windows
from fuxian.methods.forecasting.nonstationary_transformer import NonstationaryTransformer
from fuxian.methods.forecasting.tmdm import TMDM, TRAJECTORIES, Modulated, recipe
from fuxian.optim import adam

from .compare import Differences, first_loss, in_both, parity

CHANNELS, WINDOW, HORIZON, WIDTH, STEPS, BETA = 3, 10, 6, 8, 12, 0.3


def made(marks: int = 2, steps: int = STEPS, beta: float = BETA) -> TMDM:
    torch.manual_seed(0)
    transformer = NonstationaryTransformer(CHANNELS, marks, WINDOW, HORIZON, WIDTH, 1, 12, 2, 0.0, 4)
    return TMDM(transformer, WIDTH, CHANNELS, steps, beta)


def windows(B: int = 5, marks: int = 2) -> Windows:
    torch.manual_seed(1)
    past, future = torch.randn(B, WINDOW, CHANNELS) + 1, torch.randn(B, HORIZON, CHANNELS)
    return Windows(past, future, torch.arange(B), torch.randn(B, WINDOW + HORIZON, marks))


def objective() -> Modulated:
    return Modulated(STEPS, "abc", np.zeros(CHANNELS), np.ones(CHANNELS), 4)


class Reference(nn.Module):
    """The loss written out, one window at a time, with weights of its own; the Transformer has a test of its own."""

    def __init__(self, ours: TMDM) -> None:
        super().__init__()
        self.named = {name: name.replace(".", "_") for name, _ in ours.named_parameters()}
        for name, weight in ours.named_parameters():
            setattr(self, self.named[name], nn.Parameter(torch.zeros_like(weight)))
        self.transformer = [ours.transformer]  # in a list: its weights are not the reference's

    def forward(self, batch: Windows) -> tuple[Tensor, Tensor]:
        """The noise that is told, and the loss. Draws as ours does: z, t, ε."""
        weight = dict(self.named_parameters())
        (form,) = self.transformer
        mine = {
            name.removeprefix("transformer."): weight[self.named[name]]
            for name in self.named
            if name.startswith("transformer.")
        }

        def two(x: Tensor, name: str) -> Tensor:
            x = (x @ weight[f"{name}_0_weight"].T + weight[f"{name}_0_bias"]).clamp_min(0)
            return x @ weight[f"{name}_2_weight"].T + weight[f"{name}_2_bias"]

        seen = torch.func.functional_call(Encode(form), {f"form.{k}": v for k, v in mine.items()}, (batch,))
        place, width = two(seen.memory_BLD, "mean"), (two(seen.memory_BLD, "log_var") / 2).exp()
        z = place + width * torch.randn_like(place) / 10
        changed = seen._replace(memory_BLD=two(z, "out"))
        f = torch.func.functional_call(Decode(form), {f"form.{k}": v for k, v in mine.items()}, (changed, batch))
        divergence = kl_divergence(Normal(place, width), Normal(0, 1)).mean()

        whole = torch.cat([batch.past[:, WINDOW // 2 :], batch.future], 1)
        half = torch.randint(STEPS, (len(whole) // 2 + 1,))
        t = [*half.tolist(), *(STEPS - 1 - half).tolist()][: len(whole)]
        epsilon = torch.randn_like(whole)
        variances = [1e-4 + (BETA - 1e-4) * i / (STEPS - 1) for i in range(STEPS)]
        guesses, likelihood = [], []
        for b, at in enumerate(t):
            kept = math.prod(1 - variance for variance in variances[: at + 1])
            y = kept**0.5 * whole[b] + (1 - kept**0.5) * f[b] + (1 - kept) ** 0.5 * epsilon[b]
            x = torch.cat([y, f[b]], 1)
            for layer in range(3):
                x = x @ weight[f"net_layers_{layer}_weight"].T + weight[f"net_layers_{layer}_bias"]
                x = torch.log1p((x * weight[f"net_times_{layer}_weight"][at]).exp())
            guesses.append(x @ weight["net_last_weight"].T + weight["net_last_bias"])
            likelihood.append(Normal(f[b], 1).log_prob(whole[b]))
        told = torch.stack(guesses)
        return told, (told - epsilon).square().mean() - torch.stack(likelihood).mean() + 0.01 * divergence


class Encode(nn.Module):
    def __init__(self, form: NonstationaryTransformer) -> None:
        super().__init__()
        self.form = form

    def forward(self, batch: Windows) -> Any:
        return self.form.encode(batch.past, batch.marks)


class Decode(Encode):
    def forward(self, seen: Any, batch: Windows) -> Tensor:  # type: ignore[override]
        return self.form.decode(seen, batch.marks)


def compared() -> Differences:
    ours, batch = made(), windows()
    reference = Reference(ours)
    found: list[Tensor] = []

    def both() -> tuple[Tensor, Tensor]:
        told: list[Any] = []
        hook = ours.net.register_forward_hook(lambda _, taken, out: told.append(out))
        torch.manual_seed(2)
        found.append(first_loss(objective(), ours, batch))
        hook.remove()
        torch.manual_seed(2)
        expected, loss = reference(batch)
        found.append(loss)
        return told[0], expected

    return parity(
        ours,
        reference,
        reference.named,
        outputs=both,
        losses=lambda *_: (found[0], found[1]),
        spec=adam(0.001, eps=1e-3),
        optimizer=torch.optim.Adam(reference.parameters(), lr=0.001, eps=1e-3),
    )


def test_outputs_gradients_and_step(prove) -> None:
    prove("tmdm", "parity", reference="the loss a window at a time, around the same Transformer", **in_both(compared))


# ── the process ─────────────────────────────────────────────────────────────────────────────────────────────────────


def chain() -> tuple[Tensor, Tensor, Tensor]:
    """y_0 = 0 and f(x) apart: of y_1 … y_T what they have of y_0 and of f(x), and their covariance, from q(y_t | y_t-1)."""
    beta = torch.linspace(1e-4, BETA, STEPS, dtype=torch.float64)
    keeps = (1 - beta).sqrt()
    of_clean, of_mean = torch.zeros(STEPS, dtype=torch.float64), torch.zeros(STEPS, dtype=torch.float64)
    of_noises = torch.zeros(STEPS, STEPS, dtype=torch.float64)  # of each of the noises that were put in
    clean, mean, noises = 1.0, 0.0, torch.zeros(STEPS, dtype=torch.float64)
    for t in range(STEPS):
        clean, mean, noises = keeps[t] * clean, keeps[t] * mean + 1 - keeps[t], keeps[t] * noises
        noises[t] = beta[t].sqrt()
        of_clean[t], of_mean[t], of_noises[t] = clean, mean, noises
    return of_clean, of_mean, of_noises @ of_noises.T


@pytest.mark.usefixtures("_double")
def test_a_step_at_once_is_the_chain() -> None:
    model = made()
    of_clean, of_mean, covariance = chain()
    t = torch.arange(STEPS)
    one, zero = torch.ones(STEPS, 1, 1).double(), torch.zeros(STEPS, 1, 1).double()
    for expected, (y, f, noise) in (
        (of_clean, (one, zero, zero)),
        (of_mean, (zero, one, zero)),
        (covariance.diag().sqrt(), (zero, zero, one)),
    ):
        torch.testing.assert_close(model.noised(y, f, t, noise)[:, 0, 0], expected, rtol=0, atol=1e-14)


def test_a_step_back_is_the_chain_conditioned_on_both_ends() -> None:
    """q(y_t-1 | y_t, y_0) of jointly normal numbers: mean and deviation by their covariance."""
    model = made()
    of_clean, of_mean, covariance = chain()
    for t in range(1, STEPS):
        slope = covariance[t - 1, t] / covariance[t, t]
        expected = [
            of_clean[t - 1] - slope * of_clean[t],
            slope,
            of_mean[t - 1] - slope * of_mean[t],
            (covariance[t - 1, t - 1] - slope * covariance[t - 1, t]).sqrt(),
        ]
        assert model.factors[t][2:] == pytest.approx([float(x) for x in expected], abs=1e-12)
    assert model.factors[0][2:] == pytest.approx([1, 0, 0, 0], abs=1e-12)


class Knows(nn.Module):
    """The noise of numbers that come from N(place, width²): its mean given y_t, which is exact."""

    def __init__(self, model: TMDM, place: float, width: float) -> None:
        super().__init__()
        self.share, self.place, self.width = model.table[:2], place, width

    def forward(self, y: Tensor, f: Tensor, t: Tensor) -> Tensor:
        signal, noise = self.share[:, t, None, None]
        off = y - signal * self.place - (1 - signal) * f
        return noise * off / ((signal * self.width) ** 2 + noise**2)


@pytest.mark.usefixtures("_double")
def test_whoever_knows_the_answer_is_led_to_it() -> None:
    model: Any = made()
    model.net = Knows(model, 2.5, 0.0)
    *way, last = model.denoised(torch.full((6, HORIZON, CHANNELS), -1.0))
    assert len(way) == STEPS
    assert way[-1].sub(2.5).abs().max() > 1e-4
    torch.testing.assert_close(last, torch.full_like(last, 2.5), rtol=0, atol=1e-12)


def test_the_first_is_about_the_mean_and_the_last_as_wide_as_the_truth() -> None:
    """The exact net of N(2, 0.5²) about f(x) = -1, after which y_T has nothing of y_0: what is drawn is N(2, 0.5²)."""
    model: Any = made(steps=400, beta=0.05)
    assert model.factors[-1][0] < 0.01
    model.net = Knows(model, 2.0, 0.5)
    torch.manual_seed(0)
    way = [*model.denoised(torch.full((300, HORIZON, CHANNELS), -1.0))]
    for drawn, law in ((way[0], Normal(-1.0, 1.0)), (way[-1], Normal(2.0, 0.5))):
        assert kstest(drawn.flatten().numpy(), lambda x, law=law: law.cdf(torch.from_numpy(x)).numpy()).pvalue > 0.01


# ── the latent, what is drawn of it, and the settings ───────────────────────────────────────────────────────────────


def test_z_is_as_wide_as_the_mean_of_a_hundred_draws_and_still_out_of_training() -> None:
    model: Any = made()
    batch = windows()
    seen: list[Any] = []
    model.out.register_forward_hook(lambda _, taken, out: seen.append(taken[0]))
    with torch.no_grad():
        for _ in range(400):
            model.told(batch.past, batch.marks)
        memory = model.transformer.encode(batch.past, batch.marks).memory_BLD
        place, width = model.mean(memory), (model.log_var(memory) / 2).exp()
        off = (torch.stack(seen) - place) / (width / 100**0.5)
        assert kstest(off.flatten().numpy()[::7], "norm").pvalue > 0.01
        seen.clear()
        model.eval()
        _, divergence = model.told(batch.past, batch.marks)
        torch.testing.assert_close(seen[0], place, rtol=0, atol=0)
    expected = kl_divergence(Normal(place, width), Normal(torch.zeros(()), torch.ones(()))).mean()
    torch.testing.assert_close(divergence, expected, rtol=1e-5, atol=0)


def test_noising_steps_come_in_pairs() -> None:
    for count in (1, 4, 7):
        t = Modulated.pairs(count, 20)
        assert len(t) == count
        assert ((t >= 0) & (t < 20)).all()
        half = count // 2 + 1
        assert (t[half:] == 19 - t[: count - half]).all()
    t = Modulated.pairs(40_000, 20)
    assert torch.bincount(t, minlength=20).sub(2000).abs().max() < 250


@pytest.mark.parametrize("marks", [0, 2])
def test_samples_see_no_future_and_each_step_alone_is_denoised(marks: int) -> None:
    model, batch = made(marks).eval(), windows(marks=marks)
    blind = Windows(batch.past, torch.full_like(batch.future, math.nan), batch.at, batch.marks)
    with torch.no_grad():
        about: list[Any] = []
        hook = model.net.register_forward_hook(lambda _, taken, out: about.append(taken[1]))
        drawn = model.draw(blind, TRAJECTORIES)
        hook.remove()
        f, _ = model.told(batch.past, batch.marks)
        noise = torch.randn(2, WINDOW // 2 + HORIZON, CHANNELS)
        whole = model.net(noise, f[:2], torch.tensor([3]))
        ahead = model.net(noise[:, -HORIZON:], f[:2, -HORIZON:], torch.tensor([3]))
    assert drawn.shape == (5, TRAJECTORIES, HORIZON, CHANNELS)
    assert drawn.isfinite().all()
    for mine, window in zip(about[::STEPS], f, strict=True):  # as many samples as are denoised together
        torch.testing.assert_close(mine, window[-HORIZON:].expand_as(mine), rtol=0, atol=1e-6)
    torch.testing.assert_close(whole[:, -HORIZON:], ahead, rtol=0, atol=1e-6)
    assert drawn.std(1).min() > 0  # samples differ
    assert drawn.mean(1).std(0).min() > 0  # and so do windows


def test_the_recipe_is_nsdiffs_setting() -> None:
    small = dict(data="waves", window=48, horizon=24, width=16, hidden=16, heads=2, depth=1)
    stage: Any = next(recipe(**small))  # type: ignore[arg-type]
    assert (stage.epochs, stage.batch, stage.select, stage.drop_last) == (10, 32, "-crps", False)
    assert (stage.optimizer.lr, stage.optimizer.decay, stage.optimizer.clip, stage.optimizer.schedule) == (
        1e-3,
        0,
        None,
        None,
    )
    assert (stage.objective.samples, len(stage.model.factors), len(stage.data.test)) == (100, 100, 7)
    kept = math.prod(1 - (1e-4 + (0.02 - 1e-4) * i / 99) for i in range(100))
    assert stage.model.factors[-1][:2] == pytest.approx([kept**0.5, (1 - kept) ** 0.5], rel=1e-9)
    assert kept**0.5 == pytest.approx(0.6, abs=0.01)  # what the header says is left of y_0
    stopped = [1.0, 1.1, 1.2, 1.1, 1.1, 1.2]
    assert not stage.stop([{"crps": value} for value in stopped[:-1]])
    assert stage.stop([{"crps": value} for value in stopped])
