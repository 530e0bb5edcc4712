"""GPT-2 of 6 layers and 384 units, by characters: a step of training, and writing with a cache, beside transformers."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.pairing import Side, Work
from benchmarks.sides import Engine, Fixed, in_order, losses, repeated, stepping

VOCABULARY, CONTEXT, DEPTH, WIDTH, HEADS, BATCH = 65, 256, 6, 384, 6, 8
LR, WRITTEN = 1e-3, 256


def windows() -> tuple[Tensor, Tensor]:
    row = torch.randint(VOCABULARY, (BATCH, CONTEXT + 1), generator=torch.Generator().manual_seed(1))
    return row[:, :-1].contiguous(), row[:, 1:].contiguous()


def reference(weights: Mapping[str, Tensor]) -> Any:
    from transformers import GPT2Config, GPT2LMHeadModel
    from transformers.pytorch_utils import Conv1D

    config = GPT2Config(
        vocab_size=VOCABULARY, n_positions=CONTEXT, n_embd=WIDTH, n_layer=DEPTH, n_head=HEADS, resid_pdrop=0.0,
        embd_pdrop=0.0, attn_pdrop=0.0, bos_token_id=0, eos_token_id=None, pad_token_id=0, attn_implementation="sdpa",
    )  # fmt: skip
    model = GPT2LMHeadModel(config)
    in_order(model, weights, [Conv1D])
    return model


# ── a step ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def train() -> Side:
    from fuxian.contract import Splits, Stage
    from fuxian.data.text import Characters, Windows
    from fuxian.methods.language.gpt2 import GPT2, NextCharacter
    from fuxian.optim import adamw

    model = GPT2(VOCABULARY, CONTEXT, DEPTH, WIDTH, HEADS, dropout=0.0)
    weights = {name: weight.detach().clone() for name, weight in model.named_parameters()}
    engine = Engine(
        Stage(model, Splits(Fixed(Windows(*windows()))), NextCharacter(Characters(""), 1), adamw(LR), steps=1000)
    )
    return Side(engine, lambda: engine.losses(3), weights)


def train_peer(weights: Mapping[str, Tensor]) -> Side:
    model, (token, target) = reference(weights), windows()
    optimizer = torch.optim.AdamW(model.parameters(), LR, weight_decay=0.0, fused=True)

    def loss() -> Tensor:
        return F.cross_entropy(model(token, use_cache=False).logits.flatten(0, 1), target.flatten())

    step = stepping(model, optimizer, loss)
    return Side(repeated(step), lambda: losses(step, 3))


# ── writing ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def write(batch: int, temperature: float) -> Side:
    from fuxian.methods.language.gpt2 import GPT2, generate

    model = GPT2(VOCABULARY, CONTEXT, DEPTH, WIDTH, HEADS, dropout=0.0).eval()
    with torch.no_grad():
        for weight in model.parameters():  # else the same character follows itself for ever
            weight.add_(0.2 * torch.randn_like(weight))
    first = torch.zeros(batch, 1, dtype=torch.long)

    def text(temperature: float) -> Tensor:
        return torch.stack(list(generate(model, first, WRITTEN, temperature)), 1)

    return Side(repeated(lambda: text(temperature)), lambda: text(0.0), dict(model.named_parameters()))


def write_peer(weights: Mapping[str, Tensor], batch: int, temperature: float) -> Side:
    model = reference(weights).eval()
    first = torch.zeros(batch, 1, dtype=torch.long)

    def text(temperature: float) -> Tensor:
        how: dict[str, Any] = (
            dict(do_sample=True, top_k=0, temperature=temperature) if temperature else dict(do_sample=False)
        )
        with torch.inference_mode():
            return model.generate(first, attention_mask=torch.ones_like(first), max_new_tokens=WRITTEN, **how)[:, 1:]

    return Side(repeated(lambda: text(temperature)), lambda: text(0.0))


def writing(name: str, batch: int, temperature: float, what: str, goal: float) -> Work:
    how = dict(batch=batch, temperature=temperature)
    return Work(
        name, f"{WRITTEN} characters by GPT-2 6 × 384, {what}", partial(write, **how), partial(write_peer, **how),
        "transformers", goal, method="gpt2",
    )  # fmt: skip


WORKS = [
    Work(
        "gpt", "a training step of GPT-2 6 × 384, 8 × 256 characters", train, train_peer, "transformers", 0.85,
        method="gpt2",
    ),
    writing("gpt-write-1", 1, 0.0, "the likeliest, one text", 0.45),
    writing("gpt-write-16", 16, 1.0, "drawn, 16 texts", 0.6),
]  # fmt: skip
