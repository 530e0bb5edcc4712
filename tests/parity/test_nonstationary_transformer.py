"""The Non-stationary Transformer against its formulas step by step, and against torch's own Transformer layers."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import fuxian
from fuxian.data.series import Windows
from fuxian.errors import WrongInput
from fuxian.methods.forecasting.nonstationary_transformer import (
    Dated,
    DecoderLayer,
    EncoderLayer,
    NonstationaryTransformer,
    recipe,
)
from fuxian.optim import adam

from .compare import Differences, first_loss, in_both, parity, worst

B, L, H, C, WIDTH, HEADS = 3, 10, 4, 3, 8, 2


def made(marks: int, dropout: float = 0.0) -> NonstationaryTransformer:
    torch.manual_seed(0)
    return NonstationaryTransformer(C, marks, L, H, WIDTH, 2, 12, HEADS, dropout, 6)


def windows(marks: int) -> Windows:
    torch.manual_seed(1)
    past, future = 3 + torch.randn(B, L, C) * torch.tensor([1.0, 5.0, 0.2]), torch.randn(B, H, C)
    return Windows(past, future, torch.arange(B), torch.rand(B, L + H, marks))


class Reference(nn.Module):
    """One window, one head and one step at a time: sec. 3.1 and 3.2, and "Attention is all you need", written out."""

    def __init__(self, ours: nn.Module) -> None:
        super().__init__()
        self.named = {name: name.replace(".", "_") for name, _ in ours.named_parameters()}
        for name, weight in ours.named_parameters():
            setattr(self, self.named[name], nn.Parameter(torch.zeros_like(weight)))

    def linear(self, name: str, x: Tensor) -> Tensor:
        out = x @ getattr(self, f"{name}_weight").T
        return out + getattr(self, f"{name}_bias") if hasattr(self, f"{name}_bias") else out

    def norm(self, name: str, x: Tensor) -> Tensor:
        x = x - x.mean(1, keepdim=True)
        x = x / ((x**2).mean(1, keepdim=True) + 1e-5) ** 0.5
        return x * getattr(self, f"{name}_weight") + getattr(self, f"{name}_bias")

    def around(self, name: str, x: Tensor) -> Tensor:
        """Three neighbours along the last dimension, which is a ring."""
        w = getattr(self, f"{name}_weight")
        return w[:, :, 0] @ x.roll(1, 1) + w[:, :, 1] @ x + w[:, :, 2] @ x.roll(-1, 1)

    def embedded(self, name: str, x: Tensor, marks: Tensor) -> Tensor:
        place = torch.zeros(len(x), WIDTH)
        for t in range(len(x)):
            for i in range(0, WIDTH, 2):
                place[t, i] = math.sin(t / 10_000 ** (i / WIDTH))
                place[t, i + 1] = math.cos(t / 10_000 ** (i / WIDTH))
        dates = self.linear(f"{name}_date", marks) if marks.shape[1] else 0
        return self.around(f"{name}_value", x.T).T + place + dates

    def factor(self, name: str, past: Tensor, statistic: Tensor) -> Tensor:
        w = getattr(self, f"{name}_series_weight")[0]  # (L, 3), along the channels
        one = torch.stack([w[:, 1 + shift] @ past.roll(-shift, 1) for shift in (-1, 0, 1)]).sum(0)
        h = torch.cat([one, statistic])
        for layer in (0, 2):
            h = self.linear(f"{name}_mlp_{layer}", h).clamp_min(0)
        return self.linear(f"{name}_mlp_4", h)

    def attention(self, name: str, x: Tensor, of: Tensor, tau: Tensor, delta: Tensor | None) -> Tensor:
        q, k, v = self.linear(f"{name}_query", x), self.linear(f"{name}_key", of), self.linear(f"{name}_value", of)
        size, heads = WIDTH // HEADS, []
        for part in (slice(head * size, (head + 1) * size) for head in range(HEADS)):
            rows = []
            for t in range(len(x)):
                seen = len(of) if delta is not None else t + 1
                score = tau * (k[:seen, part] @ q[t, part])
                score = (score + delta if delta is not None else score) / math.sqrt(size)
                weight = score.exp() / score.exp().sum()
                rows.append(weight @ v[:seen, part])
            heads.append(torch.stack(rows))
        return self.linear(f"{name}_output", torch.cat(heads, 1))

    def layer(self, name: str, x: Tensor, of: Tensor, tau: Tensor, delta: Tensor) -> Tensor:
        x = self.norm(f"{name}_norm_1", x + self.attention(f"{name}_attention", x, of, tau, delta))
        h = self.linear(f"{name}_feed_0", x)
        h = h * (1 + torch.erf(h / math.sqrt(2))) / 2
        return self.norm(f"{name}_norm_2", x + self.linear(f"{name}_feed_3", h))

    def window(self, past: Tensor, marks: Tensor) -> Tensor:
        mean, std = past.mean(0), ((past - past.mean(0)) ** 2).mean(0).add(1e-5).sqrt()
        tau, delta = self.factor("tau", past, std).exp(), self.factor("delta", past, mean)
        x = (past - mean) / std
        seen = self.embedded("embed_past", x, marks[:L])
        for depth in range(2):
            seen = self.layer(f"encoder_{depth}", seen, seen, tau, delta)
        told = torch.cat([x[L - L // 2 :], torch.zeros(H, C)])
        h = self.embedded("embed_future", told, marks[L - L // 2 :])
        h = self.norm("decoder_norm_0", h + self.attention("decoder_before", h, h, tau, None))
        h = self.layer("decoder", h, self.norm("encoded", seen), tau, delta)
        return (self.linear("head", self.norm("decoded", h)) * std + mean)[-H:]

    def forward(self, past: Tensor, marks: Tensor) -> Tensor:
        return torch.stack([self.window(p, m) for p, m in zip(past, marks, strict=True)])


def compared() -> Differences:
    found = []
    for marks in (0, 5):
        ours, batch = made(marks), windows(marks)
        reference, objective = Reference(ours), Dated("abc", np.zeros(C), np.ones(C))
        found.append(
            parity(
                ours,
                reference,
                reference.named,
                outputs=lambda ours=ours, reference=reference, batch=batch, objective=objective: (
                    ours(*objective.inputs(batch)),
                    reference(batch.past, batch.marks),
                ),
                losses=lambda _, expected, ours=ours, batch=batch, objective=objective: (
                    first_loss(objective, ours, batch),
                    ((expected - batch.future) ** 2).sum() / (B * H * C),
                ),
                spec=adam(1e-4),
                optimizer=torch.optim.Adam(reference.parameters(), lr=1e-4),
            )
        )
    return worst(*found)


def test_outputs_gradients_and_step(prove) -> None:
    prove("nonstationary_transformer", "parity", reference="its formulas, a window, head and step at a time",
          **in_both(compared))  # fmt: skip


def fill(theirs: nn.MultiheadAttention, ours: Any) -> None:
    theirs.in_proj_weight.copy_(torch.cat([ours.query.weight, ours.key.weight, ours.value.weight]))
    theirs.in_proj_bias.copy_(torch.cat([ours.query.bias, torch.zeros(WIDTH), ours.value.bias]))
    theirs.out_proj.load_state_dict(ours.output.state_dict())


@torch.no_grad()
def test_where_nothing_was_taken_away_the_layers_are_torchs_own() -> None:
    torch.manual_seed(0)
    x, of, one, none = torch.randn(B, 6, WIDTH), torch.randn(B, L, WIDTH), torch.ones(B, 1), torch.zeros(B, L)
    theirs: Any = nn.TransformerEncoderLayer(WIDTH, HEADS, 12, 0.0, "gelu", batch_first=True)
    ours = EncoderLayer(WIDTH, 12, HEADS, 0.0)
    fill(theirs.self_attn, ours.attention)
    for mine, other in ((ours.feed[0], "linear1"), (ours.feed[3], "linear2")):
        getattr(theirs, other).load_state_dict(mine.state_dict())
    torch.testing.assert_close(ours(of, of, one, none), theirs(of), rtol=0, atol=1e-6)

    theirs = nn.TransformerDecoderLayer(WIDTH, HEADS, 12, 0.0, "gelu", batch_first=True)
    ours = DecoderLayer(WIDTH, 12, HEADS, 0.0)
    fill(theirs.self_attn, ours.before)
    fill(theirs.multihead_attn, ours.attention)
    for mine, other in ((ours.feed[0], "linear1"), (ours.feed[3], "linear2")):
        getattr(theirs, other).load_state_dict(mine.state_dict())
    later = nn.Transformer.generate_square_subsequent_mask(6)
    torch.testing.assert_close(ours(x, of, one, none), theirs(x, of, later), rtol=0, atol=1e-6)


@torch.no_grad()
def test_where_the_factors_are_silent_level_and_unit_of_a_channel_do_not_matter() -> None:
    """Sec. 3.1: y of a x + b is a y + b. With the factors it is not, which is what they are for."""
    model: Any = made(0).double().eval()
    batch = windows(0)
    past, unit, level = batch.past.double(), torch.tensor([3.0, 0.5, 20.0]), torch.tensor([-7.0, 4.0, 0.1])
    moved = model(past * unit + level)
    assert (moved - (model(past) * unit + level)).abs().max() > 1e-3
    for factor in (model.tau, model.delta):
        factor.mlp[4].weight.zero_()
    moved = model(past * unit + level)
    torch.testing.assert_close(moved, model(past) * unit + level, rtol=1e-3, atol=0)  # but for the 1e-5 by the variance


@torch.no_grad()
def test_the_decoder_tells_the_second_half_of_the_past_too_and_sees_no_step_before_its_turn() -> None:
    model, batch = made(2).eval(), windows(2)
    seen = model.encode(batch.past, batch.marks)
    told = model.decode(seen, batch.marks)
    assert told.shape == (B, L // 2 + H, C)
    torch.testing.assert_close(told[:, L // 2 :], model(batch.past, batch.marks), rtol=0, atol=0)
    marks = batch.marks.clone()
    marks[:, -1] += 1
    other = model.decode(seen, marks)
    # The first step and the last are neighbours in the values' ring, not in the dates: those are a step's own.
    torch.testing.assert_close(other[:, :-1], told[:, :-1], rtol=0, atol=1e-6)
    assert (other[:, -1] - told[:, -1]).abs().max() > 1e-4


def test_dropout_is_where_it_was_trained_with() -> None:
    """Of each embedding, attention and sum: with all of it nothing but norms and biases is left."""
    model, batch = made(0, dropout=1 - 1e-9).train(), windows(0)
    assert not model.embed_past(batch.past, None).any()
    x = torch.randn(B, 5, WIDTH)
    layer: Any = model.encoder[0]
    torch.testing.assert_close(
        layer(x, x, torch.ones(B, 1), torch.zeros(B, 5)), layer.norm_2(layer.norm_1(x)), rtol=0, atol=1e-6
    )
    attention = layer.attention
    silent = attention(x, x, torch.ones(B, 1), torch.zeros(B, 5))
    torch.testing.assert_close(silent, attention.output.bias.expand_as(silent), rtol=0, atol=1e-6)
    assert layer.feed[2].p == 1 - 1e-9


def test_units_that_cannot_be_split_into_heads_are_refused() -> None:
    with pytest.raises(WrongInput, match="width=8 cannot be split into 3 heads"):
        NonstationaryTransformer(C, 0, L, H, 8, 1, 12, 3, 0.0, 6)


def test_the_recipe_is_the_protocol_of_run_py() -> None:
    stage: Any = next(recipe("waves"))
    model: Any = stage.model
    assert (model.window, model.start, model.horizon, len(model.encoder)) == (96, 48, 96, 2)
    assert model.encoder[0].feed[0].weight.shape == (2048, 512)
    assert (model.encoder[0].attention.heads, model.encoder[0].attention.dropout) == (8, 0.05)
    assert [layer.out_features for layer in model.tau.mlp[::2]] == [128, 128, 1]
    assert [layer.out_features for layer in model.delta.mlp[::2]] == [128, 128, 96]
    assert (stage.optimizer.lr, stage.batch, stage.epochs, stage.drop_last, stage.select) == (1e-4, 32, 10, True, "-mse")
    epoch = len(stage.data.train) // 32
    rates = [stage.optimizer.schedule(epoch * i + j, 10 * epoch, []) for i in range(4) for j in (0, epoch - 1)]
    assert rates == [1, 1, 1, 1, 0.5, 0.5, 0.25, 0.25]
    worse = [{"mse": x} for x in (3.0, 2.0, 2.5, 2.5, 2.5)]
    assert [stage.stop(worse[:n]) for n in (4, 5)] == [False, True]


@pytest.mark.slow
def test_it_learns_the_waves(tmp_path) -> None:
    run = fuxian.run("nonstationary_transformer", quick=True, parent=tmp_path)
    assert run.metrics["test/mse"] < 0.5  # of a series whose variance is 1
    assert {path.stem for path in (run.folder / "pictures").iterdir()} == {"train-windows", "train-horizon"}
