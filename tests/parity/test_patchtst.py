"""PatchTST against torch's own attention, which takes the scores of the layer before as a mask; and by hand."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import fuxian
from fuxian.data.series import Windows
from fuxian.errors import WrongInput
from fuxian.methods.forecasting.patchtst import PatchForecast, PatchTST, recipe
from fuxian.optim import adam

from .compare import Differences, first_loss, in_both, parity

WINDOW, HORIZON, PATCH, STRIDE, WIDTH, DEPTH, HEADS, HIDDEN = 45, 7, 8, 5, 12, 3, 3, 20
PATCHES = 9  # (45 - 8) / 5 + 1, rounded down, and one more


def made(dropout: float = 0.0) -> PatchTST:
    torch.manual_seed(0)
    return PatchTST(WINDOW, HORIZON, PATCH, STRIDE, WIDTH, DEPTH, HEADS, HIDDEN, dropout)


def windows(B: int = 4, C: int = 2) -> Windows:
    torch.manual_seed(1)
    past, future = torch.randn(B, WINDOW, C) * 2 + 1, torch.randn(B, HORIZON, C)
    return Windows(past, future, torch.arange(B), past.new_empty(B, WINDOW + HORIZON, 0))


class Block(nn.Module):
    """layers/PatchTST_backbone.py, TSTEncoderLayer, of torch's parts."""

    def __init__(self) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(WIDTH, HEADS, batch_first=True)
        self.first, self.second = nn.Linear(WIDTH, HIDDEN), nn.Linear(HIDDEN, WIDTH)
        self.norm1, self.norm2 = nn.BatchNorm1d(WIDTH), nn.BatchNorm1d(WIDTH)

    def forward(self, x: Tensor, before: Tensor) -> tuple[Tensor, Tensor]:
        query, key, _ = F.linear(x, self.attention.in_proj_weight, self.attention.in_proj_bias).chunk(3, dim=-1)
        size = WIDTH // HEADS
        apart = [
            query[..., at : at + size] @ key[..., at : at + size].mT / size**0.5 for at in range(0, WIDTH, size)
        ]  # (series, patches, patches), a head each
        taken, _ = self.attention(x, x, x, attn_mask=before.flatten(0, 1), need_weights=False)
        x = self.norm1((x + taken).mT).mT
        x = self.norm2((x + self.second(F.gelu(self.first(x)))).mT).mT
        return x, before + torch.stack(apart, 1)


class Reference(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Parameter(torch.zeros(WIDTH, 1, PATCH))
        self.embed_bias, self.place = nn.Parameter(torch.zeros(WIDTH)), nn.Parameter(torch.zeros(PATCHES, WIDTH))
        self.blocks = nn.ModuleList(Block() for _ in range(DEPTH))
        self.head = nn.Linear(PATCHES * WIDTH, HORIZON)

    def forward(self, past: Tensor) -> Tensor:
        mean = past.mean(1, keepdim=True)
        deviation = ((past - mean).square().mean(1, keepdim=True) + 1e-5).sqrt()
        x = (past - mean) / deviation
        x = torch.cat([x, x[:, -1:].expand(-1, STRIDE, -1)], 1)
        parts = [x[:, at : at + PATCH] for at in range(0, WINDOW + STRIDE - PATCH + 1, STRIDE)]
        patches = torch.einsum("bpkc,dk->bcpd", torch.stack(parts, 1), self.embed[:, 0]) + self.embed_bias
        h = (patches + self.place).flatten(0, 1)
        scores = h.new_zeros(len(h), HEADS, PATCHES, PATCHES)
        for block in self.blocks:
            h, scores = block(h, scores)
        told = self.head(h.reshape(len(h), -1)).view(len(past), -1, HORIZON).mT
        return told * deviation + mean


PAIRS = {"embed.weight": "embed", "embed.bias": "embed_bias", "place": "place", "head.weight": "head.weight"}
PAIRS |= {"head.bias": "head.bias"}
PARTS = {"qkv.": "attention.in_proj_", "out.": "attention.out_proj.", "net.0.": "first.", "net.3.": "second."}
PARTS |= {"norms.0.": "norm1.", "norms.1.": "norm2."}
PAIRS |= {
    f"layers.{n}.{ours}{kind}": f"blocks.{n}.{theirs}{kind}"
    for n in range(DEPTH)
    for ours, theirs in PARTS.items()
    for kind in ("weight", "bias")
}


def compared() -> Differences:
    """The norms are told their statistics, as when it is used: by those of the batch a bias before them does nothing."""
    ours, reference, batch = made().eval(), Reference().eval(), windows()
    for (name, buffer), theirs in zip(ours.named_buffers(), reference.buffers(), strict=True):
        if buffer.is_floating_point():
            buffer.uniform_(0.5, 1.5) if name.endswith("var") else buffer.normal_()
            theirs.copy_(buffer)
    objective = PatchForecast("ab", np.zeros(2), np.ones(2))
    return parity(
        ours,
        reference,
        PAIRS,
        outputs=lambda: (ours(batch.past), reference(batch.past)),
        losses=lambda _, expected: (first_loss(objective, ours, batch), F.mse_loss(expected, batch.future)),
        spec=adam(1e-4, eps=1e-3),
        optimizer=torch.optim.Adam(reference.parameters(), lr=1e-4, eps=1e-3),
    )


def test_outputs_gradients_and_step(prove) -> None:
    prove("patchtst", "parity", reference="torch's attention, with the scores before it as its mask", **in_both(compared))


def test_in_training_the_norms_are_of_all_series_and_patches() -> None:
    ours, reference, batch = made().double(), Reference().double(), windows()
    theirs = dict(reference.named_parameters())
    with torch.no_grad():
        for name, weight in ours.named_parameters():
            theirs[PAIRS[name]].copy_(weight)
    torch.testing.assert_close(ours(batch.past.double()), reference(batch.past.double()), rtol=0, atol=1e-12)
    for one, other in zip(ours.buffers(), reference.buffers(), strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-12)


def test_patches_by_hand() -> None:
    """Each is read where it lies, the last partly of the last value again."""
    model: Any = made().double().eval()
    series = torch.arange(45, dtype=torch.float64)[None]
    seen: list[Tensor] = []
    model.embed.register_forward_hook(lambda _, taken, out: seen.append(out))
    with torch.no_grad():
        model.embed.weight.zero_()
        model.embed.bias.zero_()
        for k in range(PATCH):
            model.embed.weight[k, 0, k] = 1
        model.read(series)
    expected = [[min(5 * p + k, 44) for k in range(PATCH)] for p in range(PATCHES)]
    assert seen[0][0, :PATCH].T.tolist() == expected


def test_a_channel_is_told_of_itself_alone_and_in_its_own_units() -> None:
    model, batch = made().double().eval(), windows()
    past = batch.past.double()
    alone = torch.cat([model(past[..., c : c + 1]) for c in range(2)], 2)
    torch.testing.assert_close(model(past), alone, rtol=0, atol=1e-12)
    scale, level = torch.tensor([3.0, 0.5]).double(), torch.tensor([-7.0, 40.0]).double()
    moved = model(past * scale + level)
    torch.testing.assert_close(moved, model(past) * scale + level, rtol=0, atol=1e-4)  # but for 1e-5 in the deviation


def test_dropout_is_where_the_code_has_it() -> None:
    """Of what attention gives a patch (1 - p)² is left, twice its dropout; of its place and of the net 1 - p."""
    model = made(dropout=0.5)
    layer: Any = model.layers[0]
    torch.manual_seed(0)
    counted = {}
    with torch.no_grad():
        for name, part in (("place", model.dropout), ("net", layer.net[2])):
            counted[name] = (part(torch.ones(100_000)) != 0).float().mean().item()
        for norm in layer.norms:
            norm.register_forward_hook(lambda _, taken, out: taken[0])  # what is normed, not its norm
        for last, value in ((layer.out, 1), (layer.net[3], 0)):
            nn.init.zeros_(last.weight)
            nn.init.constant_(last.bias, value)
        taken, _ = layer(torch.zeros(4000, 4, WIDTH), None)
    counted["attention"] = (taken != 0).float().mean().item()
    assert counted == pytest.approx({"place": 0.5, "net": 0.5, "attention": 0.25}, abs=0.01)
    assert set(taken.unique().tolist()) == {0.0, 4.0}


def test_the_recipe_is_the_protocol_of_exp_main_py() -> None:
    stage: Any = next(recipe("waves", window=48, horizon=24))
    assert (stage.epochs, stage.batch, stage.select, stage.stop, stage.drop_last) == (40, 128, "-mse", None, True)
    assert (stage.optimizer.lr, stage.optimizer.decay, stage.optimizer.clip) == (1e-4, 0, None)
    epoch = 1609 // 128  # training windows
    for number in range(40):  # tools.py, type3: after epoch n (from 1) it is lr, and lr * 0.9 ** (n - 3) from n = 3 on
        expected = 1 if number < 3 else 0.9 ** (number - 3)
        for step in (epoch * number, epoch * (number + 1) - 1):
            assert stage.optimizer.schedule(step, 40 * epoch, []) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize(("knobs", "word"), [(dict(patch=49), "window of 48"), (dict(width=10), "4 heads")])
def test_what_it_cannot_build(knobs: dict[str, Any], word: str) -> None:
    with pytest.raises(WrongInput, match=word):
        next(recipe("waves", window=48, horizon=24, **knobs))


@pytest.mark.slow
def test_it_comes_near_what_no_forecast_can_be_better_than(tmp_path) -> None:
    """Of waves the best error is the noise's own variance."""
    run = fuxian.run("patchtst", quick=True, parent=tmp_path)
    data: Any = next(recipe("waves", window=48, horizon=24)).data
    _, deviation = data.truth(data.test.batch(torch.arange(len(data.test))))
    best = deviation.square().mean().item()
    assert best < run.metrics["test/mse"] < 1.8 * best  # the wave's own variance is 3.7 times it
    assert run.metrics["as_published/mse"] == pytest.approx(run.metrics["test/mse"], rel=0.05)
