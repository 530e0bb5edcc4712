"""A step of GPT-1's pre-training at the recipe's size, beside transformers."""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.pairing import Side, Work
from benchmarks.sides import Engine, Fixed, in_order, losses, repeated, stepping

VOCABULARY, CONTEXT, DEPTH, WIDTH, HEADS, BATCH, LR = 4000, 128, 4, 192, 4, 16, 1e-3


def windows() -> tuple[Tensor, Tensor]:
    row = torch.randint(VOCABULARY, (BATCH, CONTEXT + 1), generator=torch.Generator().manual_seed(1))
    return row[:, :-1].contiguous(), row[:, 1:].contiguous()


def ours() -> Side:
    from fuxian.contract import Splits, Stage
    from fuxian.data.text import Windows
    from fuxian.methods.language.gpt1 import GPT, NextToken
    from fuxian.optim import adamw

    model = GPT(VOCABULARY, CONTEXT, DEPTH, WIDTH, HEADS, dropout=0.0)
    weights = {name: weight.detach().clone() for name, weight in model.named_parameters()}
    engine = Engine(Stage(model, Splits(Fixed(Windows(*windows()))), NextToken(None), adamw(LR), steps=1000))
    return Side(engine, lambda: engine.losses(3), weights)


def peer(weights: Mapping[str, Tensor]) -> Side:
    from transformers import OpenAIGPTConfig, OpenAIGPTLMHeadModel
    from transformers.pytorch_utils import Conv1D

    config = OpenAIGPTConfig(
        vocab_size=VOCABULARY, n_positions=CONTEXT, n_embd=WIDTH, n_layer=DEPTH, n_head=HEADS, resid_pdrop=0.0,
        embd_pdrop=0.0, attn_pdrop=0.0,
    )  # fmt: skip
    model, (token, target) = OpenAIGPTLMHeadModel(config), windows()
    in_order(model, weights, [Conv1D])
    optimizer = torch.optim.AdamW(model.parameters(), LR, weight_decay=0.0, fused=True)

    def loss() -> Tensor:
        return F.cross_entropy(model(token).logits.flatten(0, 1), target.flatten())

    step = stepping(model, optimizer, loss)
    return Side(repeated(step), lambda: losses(step, 3))


WORKS = [
    Work("gpt1", "a pre-training step of GPT-1 4 × 192, 16 × 128 tokens", ours, peer, "transformers", method="gpt1"),
]
