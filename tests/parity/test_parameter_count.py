"""Numbers of weights: against transformers' model of the same size, part by part, and 3Blue1Brown's numbers."""

from __future__ import annotations

import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel

import fuxian
from fuxian.methods.language.parameter_count import (
    PUBLISHED,
    TABLE_2_1,
    Compare,
    Ledger,
    Numbers,
    by_arithmetic,
    by_kind,
    by_part,
    gpt,
    number,
    weightless,
    weights,
)

QUERY, UP = 14_495_514_624, 57_982_058_496  # the numbers of the walk through GPT-3


def theirs(depth: int, width: int) -> dict[str, int]:
    """The parts of transformers' model of this size, by the names of its weights."""
    config = GPT2Config(n_layer=depth, n_embd=width, n_head=1, n_positions=2048, vocab_size=50257)
    with torch.device("meta"):
        model = GPT2LMHeadModel(config)
    assert model.lm_head.weight is model.transformer.wte.weight
    found: dict[str, int] = {}
    for name, weight in model.named_parameters():
        kind = ("norms" if "ln_" in name else "biases" if name.endswith("bias") else
                {"wte": "embedding", "wpe": "positions", "c_attn": "qkv", "c_fc": "up"}.get(name.split(".")[-2])
                or ("output" if "attn" in name else "down"))  # fmt: skip
        found[kind] = found.get(kind, 0) + weight.numel()
    return found | {"all": sum(weight.numel() for weight in model.parameters())}


@pytest.mark.parametrize(("depth", "width"), [(3, 8), (96, 12288)])
def test_every_part_is_that_of_transformers(depth: int, width: int, prove) -> None:
    model, reference = weightless(gpt, depth, width), theirs(depth, width)
    parts = by_part(model)
    assert parts == by_arithmetic(depth, width, 2048, 50257)
    assert parts.pop("unembedding") == reference["embedding"]
    assert parts.pop("query") == parts.pop("key") == parts.pop("value") == reference.pop("qkv") / 3
    assert {**parts, "all": weights(model)} == reference
    if depth == 96:
        assert weights(model) == 174_604_259_328
        off = max(abs(parts[name] - reference[name]) for name in parts)
        reference_ = "transformers' GPT2LMHeadModel of 175 billion weights, part by part"
        prove("parameter_count", "parity", reference=reference_, outputs=float(off), dtype="float64")


def test_the_numbers_of_the_walk_through_gpt_3() -> None:
    parts = by_part(weightless(gpt, 96, 12288))
    assert parts["embedding"] == parts["unembedding"] == 617_558_016
    assert {parts[name] for name in ("query", "key", "value", "output")} == {QUERY}
    assert parts["up"] == parts["down"] == UP
    assert 2 * 617_558_016 + 4 * QUERY + 2 * UP == 175_181_291_520
    assert by_kind(parts) == {"MLP": 2 * UP, "attention": 4 * QUERY, "tokens": 617_558_016, "positions": 2048 * 12288}


@pytest.mark.slow
def test_a_run_finds_them_and_counts_what_is_asked(tmp_path) -> None:
    made = fuxian.run("parameter_count", parent=tmp_path)
    assert (made.metrics["matrices"], made.metrics["trained"]) == (175_181_291_520, 174_604_259_328)
    assert made.metrics["train/equal"] == made.metrics["parts/train/equal"] == 1
    assert made.metrics["sizes/train/equal"] == 6 / 8  # not Medium, nor 175B
    assert made.counts["train/equal"] == len(PUBLISHED) == 17
    small = fuxian.run("parameter_count", depth=12, width=768, context=1024, parent=tmp_path)
    assert small.metrics["trained"] == 124_439_808  # GPT-2's


def test_every_size_of_the_paper_within_two_percent() -> None:
    for depth, width, published in TABLE_2_1.values():
        assert weights(weightless(gpt, depth, width)) == pytest.approx(number(published)[0], rel=0.02)


@pytest.mark.parametrize(
    ("published", "value", "unit"),
    [("0.27M", 270_000, 10_000), ("1.7M", 1_700_000, 100_000), ("117M", 117_000_000, 10**6), ("13.0B", 13 * 10**9, 10**8),
     ("11,689,512", 11_689_512, 1), ("60", 60, 1)],
)  # fmt: skip
def test_published_numbers_are_read_to_their_last_digit(published: str, value: int, unit: int) -> None:
    assert number(published) == (value, unit)


def test_equal_is_to_the_digits_that_are_published_and_not_one_weight_further() -> None:
    counts = {"below": 265_000, "under it": 264_999, "above": 275_000, "over it": 275_001, "exact": 7, "one off": 8}
    expected, unit = torch.tensor([270_000] * 4 + [7, 7]), torch.tensor([10_000] * 4 + [1, 1])
    batch = Numbers(torch.arange(6), expected, unit)
    measured = dict(Compare({}).evaluate(Ledger(counts), batch))
    assert measured["equal"].tolist() == [1, 0, 1, 0, 1, 0]
    torch.testing.assert_close(measured["gap"][1], torch.tensor(5001 / 270_000, dtype=torch.float64))
