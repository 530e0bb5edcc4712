"""CSDI against attention written out, query by query and key by key, one channel or one step at a time."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import fuxian
from fuxian.data.series import Windows
from fuxian.errors import WrongInput
from fuxian.methods.forecasting import csdi
from fuxian.methods.forecasting.csdi import CSDI, Imputation, recipe
from fuxian.methods.forecasting.timegrad import Process

from .compare import Differences, in_both, of_draws, worst

L, H, WIDTH, HEADS, LAYERS, STEPS = 5, 4, 6, 2, 2, 7


def windows(B: int = 3, C: int = 3) -> Windows:
    past, future = torch.randn(B, L, C), torch.randn(B, H, C)
    return Windows(past, future, torch.tensor([9, 30, 61][:B]), past.new_empty(B, L + H, 0))


def betas(steps: int = STEPS) -> Tensor:
    return torch.linspace(0.01, 0.5**0.5, steps, dtype=torch.float64).square()


def made(channels: int = 3) -> CSDI:
    """A model that has forgotten its zeros and ones, so that no part of it is silent."""
    torch.manual_seed(0)
    model = CSDI(channels, L, H, WIDTH, HEADS, LAYERS, Process(betas()))
    nn.init.normal_(model.last.weight)
    for name, weight in model.named_parameters():
        if "norm" in name:
            weight.data.add_(0.1 * torch.randn_like(weight))
    return model


class Reference(nn.Module):
    """One window at a time; what each query takes from each key by itself, (QKᵀ)V, and not Q(KᵀV)."""

    def __init__(self, ours: CSDI) -> None:
        super().__init__()
        self.named = {name: name.replace(".", "_") for name, _ in ours.named_parameters()}
        for name, weight in ours.named_parameters():
            setattr(self, self.named[name], nn.Parameter(torch.zeros_like(weight)))

    def linear(self, name: str, x: Tensor) -> Tensor:
        weight = dict(self.named_parameters())
        return F.linear(x, weight[f"{name}_weight"], weight.get(f"{name}_bias"))

    def norm(self, name: str, x: Tensor) -> Tensor:
        weight = dict(self.named_parameters())
        return F.layer_norm(x, (WIDTH,), weight[f"{name}_weight"], weight[f"{name}_bias"])

    def attention(self, name: str, x_PF: Tensor) -> Tensor:
        q, k, v = self.linear(f"{name}_qkv", self.norm(f"{name}_norm1", x_PF)).split(WIDTH, 1)
        heads, D = [], WIDTH // HEADS
        for part in (slice(i, i + D) for i in range(0, WIDTH, D)):
            taken = torch.stack([torch.softmax(one, 0) for one in q[:, part]]) @ torch.softmax(k[:, part], 0).T
            heads.append(taken @ v[:, part] / D**0.5)
        x_PF = x_PF + self.linear(f"{name}_out", torch.cat(heads, 1))
        return x_PF + self.linear(f"{name}_narrow", F.gelu(self.linear(f"{name}_wide", self.norm(f"{name}_norm2", x_PF))))

    def noise_in(self, x_HC: Tensor, past_LC: Tensor, t: int) -> Tensor:
        C = x_HC.shape[1]
        angle = t * 10.0 ** (4 * torch.arange(64) / 63)
        step = F.silu(self.linear("steps_layers_0", torch.cat([angle.sin(), angle.cos()])))
        step = F.silu(self.linear("steps_layers_2", step))
        inputs = torch.zeros(C, L + H, 2)
        side = torch.zeros(C, L + H, 145)
        for c in range(C):
            for p in range(L + H):
                inputs[c, p, int(p >= L)] = past_LC[p, c] if p < L else x_HC[p - L, c]
                for i in range(64):
                    turn = p / 10_000 ** (2 * i / 128)
                    side[c, p, 2 * i], side[c, p, 2 * i + 1] = math.sin(turn), math.cos(turn)
                side[c, p, 128] = float(p < L)
        side[:, :, 129:] = dict(self.named_parameters())["channel_weight"][:, None]
        x_CPF, total = F.relu(self.linear("first", inputs)), torch.zeros(())
        for layer in (f"layers_{i}" for i in range(LAYERS)):
            y = x_CPF + self.linear(f"{layer}_step", step)
            y = torch.stack([self.attention(f"{layer}_time", y[c]) for c in range(C)])
            if C > 1:
                y = torch.stack([self.attention(f"{layer}_channel", y[:, p]) for p in range(L + H)], 1)
            y = self.linear(f"{layer}_middle", y) + self.linear(f"{layer}_side", side)
            y = self.linear(f"{layer}_out", torch.sigmoid(y[..., :WIDTH]) * torch.tanh(y[..., WIDTH:]))
            x_CPF, total = (x_CPF + y[..., :WIDTH]) / 2**0.5, total + y[..., WIDTH:]
        return self.linear("last", F.relu(self.linear("skip", total / LAYERS**0.5)))[:, L:, 0].T

    def forward(self, batch: Windows) -> Tensor:
        """The squared errors (B, H, C) at the noise that is drawn now."""
        t, noise = torch.randint(STEPS, (len(batch),)), torch.randn_like(batch.future)
        bar = (1 - betas()).cumprod(0).to(noise)
        noisy = [bar[t[b]].sqrt() * batch.future[b] + (1 - bar[t[b]]).sqrt() * noise[b] for b in range(len(batch))]
        told = [self.noise_in(x, past, int(at)) for x, past, at in zip(noisy, batch.past, t, strict=True)]
        return (torch.stack(told) - noise).square()


def compared() -> Differences:
    found = []
    for channels in (1, 3):
        ours, batch = made(channels), windows(C=channels)
        found.append(of_draws(ours, Reference(ours), Imputation(), batch))
    return worst(*found)


def test_outputs_gradients_and_step(prove) -> None:
    prove("csdi", "parity", reference="each query and key by itself, a window at a time", **in_both(compared))


def test_a_future_is_denoised_of_its_own_past_however_many_go_side_by_side(monkeypatch) -> None:
    """Told the noise that leaves the last number of the past, h steps on, one step takes it out; no future is looked at."""
    model, batch = made(), windows()
    model.process = Process(torch.tensor([0.3]))
    ahead = torch.arange(1.0, H + 1)[:, None]

    def forward(x_NHC: Tensor, t_N: Tensor, past_NLC: Tensor) -> Tensor:
        told.append(len(x_NHC))
        return (x_NHC - math.sqrt(0.7) * (past_NLC[:, -1:] + ahead)) / math.sqrt(0.3)

    monkeypatch.setattr(model, "forward", forward)
    monkeypatch.setattr(csdi, "AT_ONCE", 4 * 3 * (L + H))
    told: list[int] = []
    drawn = model.draw(replace(batch, future=torch.full_like(batch.future, math.nan)), 5)
    assert told == [4, 4, 4, 3]
    torch.testing.assert_close(drawn, (batch.past[:, None, -1:] + ahead).expand(3, 5, H, 3), rtol=0, atol=1e-5)


def test_what_is_drawn_is_the_chain_of_the_net() -> None:
    """Algorithm 2 in the numbers of main_model.py, with the same noise."""
    model, batch = made(), windows(B=2)
    torch.manual_seed(3)
    with torch.no_grad():
        drawn = model.draw(batch, 2)
    torch.manual_seed(3)
    past, alpha, bar = batch.past.repeat_interleave(2, 0), (1 - betas()).tolist(), (1 - betas()).cumprod(0).tolist()
    x = torch.randn(4, H, 3)
    for t in range(STEPS - 1, -1, -1):
        with torch.no_grad():
            noise = model(x, torch.full((4,), t), past)
        x = (x - (1 - alpha[t]) / math.sqrt(1 - bar[t]) * noise) / math.sqrt(alpha[t])
        if t:
            x = x + math.sqrt((1 - bar[t - 1]) / (1 - bar[t]) * (1 - alpha[t])) * torch.randn_like(x)
    torch.testing.assert_close(drawn, x.view(2, 2, H, 3), rtol=0, atol=1e-4)


def test_a_validation_is_of_every_noising_step() -> None:
    model, batch = made(), windows()
    torch.manual_seed(2)
    ((name, found),) = Imputation().evaluate(model, batch)
    torch.manual_seed(2)
    each = [model.denoising_error(batch, torch.full((3,), t)).mean((1, 2)) for t in range(STEPS)]
    assert name == "loss"
    torch.testing.assert_close(found, sum(each) / STEPS)


@pytest.mark.slow
def test_the_recipe_comes_near_the_optimum_and_not_below_it(tmp_path) -> None:
    run = fuxian.run("csdi", quick=True, parent=tmp_path)
    assert run.metrics["to_optimum"] == run.metrics["test/crps"] / run.metrics["test/optimum_crps"]
    assert 0.98 < run.metrics["to_optimum"] < 2
    drawn = {path.stem for path in (run.folder / "pictures").iterdir()}
    assert drawn == {f"forecast-{name}" for name in ("windows", "deviation", "horizon", "calibration", "denoising")}


def test_the_recipe_is_the_setting_of_base_forecasting() -> None:
    stage: Any = next(recipe("waves"))
    model, optimizer = stage.model, stage.optimizer
    attention = model.layers[0].time
    assert (model.first.out_features, attention.heads, len(model.layers), attention.wide.out_features) == (32, 4, 2, 128)
    beta = 1 - model.process.signal.double().square()
    assert model.process.steps == 50
    assert beta[0].item() == pytest.approx(1e-4, rel=1e-3)
    assert model.process.factors[-1][0] == pytest.approx(0.5**-0.5)
    assert model.process.factors[25][0] == pytest.approx((1 - (0.01 + (0.5**0.5 - 0.01) * 25 / 49) ** 2) ** -0.5)
    assert (optimizer.lr, optimizer.decay, optimizer.clip) == (0.001, 1e-6, None)
    epoch = math.ceil(len(stage.data.train) / 8)
    rates = [optimizer.schedule(step, 10 * epoch, []) for step in (0, 7 * epoch - 1, 7 * epoch, 9 * epoch)]
    assert rates == pytest.approx([1, 1, 0.1, 0.01])
    assert (stage.batch, stage.epochs, stage.select, stage.drop_last) == (8, 10, "-loss", False)


def test_a_width_that_heads_do_not_share_is_refused() -> None:
    with pytest.raises(WrongInput, match="width=30 cannot be split among heads=4"):
        next(recipe("waves", width=30))
