"""A training step of PatchTST at the recipe's size, beside its authors' model."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib import import_module
from types import SimpleNamespace

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks import authors
from benchmarks.pairing import Side, Work
from benchmarks.sides import Engine, Fixed, losses, repeated, stepping

CODE = "yuqinie98/PatchTST"
WINDOW, HORIZON, PATCH, STRIDE, WIDTH, DEPTH, HEADS, HIDDEN, DROPOUT = 336, 96, 16, 8, 16, 3, 4, 128, 0.3
CHANNELS, BATCH, LR = 7, 128, 1e-4
NOISE = 0.1  # on weights


def rows() -> Tensor:
    """Windows and what comes after them, laid out as our data is: (window, step, channel), steps side by side."""
    draw = torch.Generator().manual_seed(1)
    return torch.randn(BATCH, CHANNELS, WINDOW + HORIZON, generator=draw).transpose(1, 2)


@contextmanager
def nothing_dropped(*models: nn.Module) -> Iterator[None]:
    """While both sides show their losses: what is dropped is drawn in another order on each. It is timed with dropout."""
    parts = [part for model in models for part in model.modules()]
    rates = [(part, "p", part.p) for part in parts if isinstance(part, nn.Dropout)]
    rates += [(part, "dropout", part.dropout) for part in parts if isinstance(getattr(part, "dropout", None), float)]
    for part, name, _ in rates:
        setattr(part, name, 0.0)
    yield
    for part, name, rate in rates:
        setattr(part, name, rate)


@torch.no_grad()
def stir(model: nn.Module) -> None:
    """Noise on all weights: many begin at zero or one, or hardly matter, and one in the place of another would not show."""
    for weight in model.parameters():
        weight.add_(NOISE * torch.randn_like(weight))


def ours() -> Side:
    from fuxian.contract import Splits, Stage
    from fuxian.data.series import Windows
    from fuxian.methods.forecasting.patchtst import PatchForecast, PatchTST
    from fuxian.optim import adam

    model = PatchTST(WINDOW, HORIZON, PATCH, STRIDE, WIDTH, DEPTH, HEADS, HIDDEN, DROPOUT)
    stir(model)
    weights = {name: weight.detach().clone() for name, weight in model.named_parameters()}
    past, future = rows().split([WINDOW, HORIZON], 1)
    data = Splits(Fixed(Windows(past, future, torch.arange(BATCH), torch.empty(BATCH, WINDOW + HORIZON, 0))))
    objective = PatchForecast("abcdefg", np.zeros(CHANNELS), np.ones(CHANNELS))
    engine = Engine(Stage(model, data, objective, adam(LR), steps=1000))

    def shown() -> Tensor:
        with nothing_dropped(model):
            return engine.losses(3)

    return Side(engine, shown, weights)


def fill(model: nn.Module, weights: Mapping[str, Tensor]) -> None:
    """Ours has q, k and v in one map, and the head's inputs patch by patch, where theirs are unit by unit."""
    values = {
        "backbone.W_pos": weights["place"],
        "backbone.W_P.weight": weights["embed.weight"][:, 0],
        "backbone.W_P.bias": weights["embed.bias"],
        "head.linear.weight": weights["head.weight"].unflatten(1, (-1, WIDTH)).transpose(1, 2).flatten(1),
        "head.linear.bias": weights["head.bias"],
    }
    parts = {
        "self_attn.to_out.0": "out", "ff.0": "net.0", "ff.3": "net.3", "norm_attn.1": "norms.0", "norm_ffn.1": "norms.1",
    }  # fmt: skip
    for n in range(DEPTH):
        layer = f"backbone.encoder.layers.{n}"
        for kind in ("weight", "bias"):
            qkv = weights[f"layers.{n}.qkv.{kind}"].chunk(3)
            values |= {f"{layer}.self_attn.W_{name}.{kind}": value for name, value in zip("QKV", qkv, strict=True)}
            values |= {f"{layer}.{theirs}.{kind}": weights[f"layers.{n}.{name}.{kind}"] for theirs, name in parts.items()}
    assert values.keys() == {name for name, weight in model.named_parameters() if weight.requires_grad}
    model.load_state_dict(values, strict=False)  # the statistics of norms are as they begin, and 1 / √E is a weight too


def peer(weights: Mapping[str, Tensor]) -> Side:
    authors.code(CODE, "PatchTST_supervised")
    settings = SimpleNamespace(
        enc_in=CHANNELS, seq_len=WINDOW, pred_len=HORIZON, e_layers=DEPTH, n_heads=HEADS, d_model=WIDTH, d_ff=HIDDEN,
        dropout=DROPOUT, fc_dropout=DROPOUT, head_dropout=0.0, individual=0, patch_len=PATCH, stride=STRIDE,
        padding_patch="end", revin=1, affine=0, subtract_last=0, decomposition=0, kernel_size=25,
    )  # fmt: skip  # etth1.sh, and what run_longExp.py has for the rest
    model = import_module("models.PatchTST").Model(settings)
    fill(model.model, weights)
    past, future = (part.contiguous() for part in rows().split([WINDOW, HORIZON], 1))  # as a loader stacks them
    optimizer = torch.optim.Adam(model.parameters(), LR, fused=True)
    step = stepping(model, optimizer, lambda: F.mse_loss(model(past), future))

    def shown() -> Tensor:
        with nothing_dropped(model):
            return losses(step, 3)

    return Side(repeated(step), shown)


WORKS = [
    Work(
        "patchtst", "a training step of PatchTST, 128 windows of 336 steps and 7 channels, 96 ahead", ours, peer,
        authors.named(CODE), method="patchtst", agree=2e-5,
        note="no dropout while both show the same losses; timed with the recipe’s",
    ),
]  # fmt: skip
