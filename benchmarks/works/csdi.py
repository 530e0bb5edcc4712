"""A training step of CSDI at the recipe's sizes, beside its authors' code.

What is learned from has ETTh1's shape and is noise: a step takes as long whatever the numbers are.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from itertools import zip_longest
from typing import Any
from unittest.mock import patch

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.authors import code, named, stand_in
from benchmarks.pairing import Side, Work
from benchmarks.sides import Engine, Fixed, losses, repeated, stepping

WINDOW, HORIZON, CHANNELS, BATCH = 168, 192, 7, 8
WIDTH, HEADS, LAYERS, STEPS, BETAS, LR, DECAY = 32, 4, 2, 50, (1e-4, 0.5), 1e-3, 1e-6


# ── what TimeGrad's step has as well ────────────────────────────────────────────────────────────────────────────────


def numbers(batch: int) -> Tensor:
    """(batch, steps of past and future, channels)."""
    return torch.randn(batch, WINDOW + HORIZON, CHANNELS, generator=torch.Generator().manual_seed(1))


@contextmanager
def drawn(steps: int, *shape: int, laid: Callable[[Tensor], Tensor] = lambda noise: noise) -> Iterator[None]:
    """Within it both sides draw the same noising steps and noise (rows, …), so that their losses can be compared.

    Left alone they would not: the engine seeds each step, and the authors' noise has another shape, to which it is `laid`.
    """
    draw, randint, randn = torch.Generator().manual_seed(2), torch.randint, torch.randn
    at = lambda *_, **__: randint(steps, shape[:1], generator=draw)
    noise = lambda *_: laid(randn(shape, generator=draw))
    with patch.multiple(torch, randint=at, randn_like=noise):
        yield


def our_side(
    model: nn.Module, last: nn.Linear, objective: Any, optimizer: Any, batch: int, draws: AbstractContextManager[None]
) -> Side:
    from fuxian.contract import Splits, Stage
    from fuxian.data.series import Windows

    nn.init.normal_(last.weight)  # as long as it is zero, no other weight has a part in the loss
    weights = {name: weight.detach().clone() for name, weight in model.named_parameters()}
    past, future = numbers(batch).split([WINDOW, HORIZON], 1)
    windows = Windows(past, future, WINDOW + torch.arange(batch), past.new_empty(batch, WINDOW + HORIZON, 0))
    engine = Engine(Stage(model, Splits(Fixed(windows)), objective, optimizer, steps=1000))

    def first() -> Tensor:
        with draws:
            return engine.losses(3)

    return Side(engine, first, weights)


def their_side(step: Callable[[], float], draws: AbstractContextManager[None]) -> Side:
    def first() -> Tensor:
        with draws:
            return losses(step, 3)

    return Side(repeated(step), first)


@torch.no_grad()
def put(model: nn.Module, values: Iterable[Tensor]) -> None:
    """Into a peer's model, in its own order; its convolutions of one place have a dimension more than our linear layers."""
    for theirs, value in zip_longest(model.parameters(), values):
        theirs.copy_(value.reshape(theirs.shape))


# ── CSDI ────────────────────────────────────────────────────────────────────────────────────────────────────────────


def ours() -> Side:
    from fuxian.methods.forecasting.csdi import CSDI, Imputation
    from fuxian.methods.forecasting.timegrad import Process
    from fuxian.optim import adam

    first, last = BETAS
    beta = torch.linspace(first**0.5, last**0.5, STEPS, dtype=torch.float64).square()
    model = CSDI(CHANNELS, WINDOW, HORIZON, WIDTH, HEADS, LAYERS, Process(beta))
    draws = drawn(STEPS, BATCH, HORIZON, CHANNELS)
    return our_side(model, model.last, Imputation(), adam(LR, decay=DECAY), BATCH, draws)


def in_their_order(weights: Mapping[str, Tensor]) -> Iterator[Tensor]:
    order = ["channel", "steps.layers.0", "steps.layers.2", "first", "skip", "last"]
    for layer in range(LAYERS):
        parts = ["step", "side", "middle", "out"]
        for attention in ("time", "channel"):
            parts += [f"{attention}.{part}" for part in ("qkv", "out", "norm1", "wide", "narrow", "norm2")]
        order += [f"layers.{layer}.{part}" for part in parts]
    for part in order:
        found = [weights[name] for kind in ("weight", "bias") if (name := f"{part}.{kind}") in weights]
        if part.endswith("qkv"):
            found = found[0].chunk(3)
        elif part.endswith("side"):  # whether a number is known comes last there
            time, known, channel = found[0].split([128, 1, 16], 1)
            found[0] = torch.cat([time, channel, known], 1)
        yield from found


def peer(weights: Mapping[str, Tensor]) -> Side:
    code("lucidrains/linear-attention-transformer")
    # Packages of what is not asked of it here. One attention is built with no head of its own, and never called.
    stand_in("local_attention", LocalAttention=nn.Identity)
    for name in ("linformer", "product_key_memory", "axial_positional_embedding", "einops"):
        stand_in(name)
    code("ermongroup/CSDI")
    from main_model import CSDI_Forecasting  # type: ignore[import-not-found]

    config = {
        "model": dict(timeemb=128, featureemb=16, is_unconditional=0, target_strategy="test", num_sample_features=64),
        "diffusion": dict(
            layers=LAYERS, channels=WIDTH, nheads=HEADS, diffusion_embedding_dim=128, beta_start=BETAS[0],
            beta_end=BETAS[1], num_steps=STEPS, schedule="quad", is_linear=True,
        ),
    }  # fmt: skip
    model = CSDI_Forecasting(config, "cpu", CHANNELS)
    put(model, in_their_order(weights))
    optimizer = torch.optim.Adam(model.parameters(), LR, weight_decay=DECAY, fused=True)
    seen, place = numbers(BATCH), torch.arange(WINDOW + HORIZON).expand(BATCH, -1)
    past = (place < WINDOW).float()[..., None].expand_as(seen)
    batch = dict(observed_data=seen, observed_mask=torch.ones_like(seen), timepoints=place, gt_mask=past)
    laid = lambda noise: F.pad(noise.mT, (WINDOW, 0))  # they draw noise of the past too, and mask it
    return their_side(stepping(model, optimizer, lambda: model(batch)), drawn(STEPS, BATCH, HORIZON, CHANNELS, laid=laid))


WORKS = [
    Work(
        "csdi", "a training step of CSDI 2 × 32, 8 windows of 360 steps and 7 channels", ours, peer,
        named("ermongroup/CSDI"), method="csdi",
        note="theirs draws and tells noise of the past as well, and masks it; ours has the future’s alone",
    ),
]  # fmt: skip
