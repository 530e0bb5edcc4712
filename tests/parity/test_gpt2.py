"""GPT-2 against GPT2LMHeadModel of transformers: outputs, gradients, a step, what both write; its cache and estimate."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from fuxian.data.text import UNCOUNTED, Characters, Corpus, Windows, by_character
from fuxian.errors import WrongInput
from fuxian.evaluation import measure
from fuxian.methods.language.gpt1 import matrices
from fuxian.methods.language.gpt2 import GPT2, Attention, Block, Cache, NextCharacter, choose, generate, recipe
from fuxian.optim import adamw

from .compare import Differences, first_loss, in_both, parity

transformers = pytest.importorskip("transformers")

SIZES = dict(vocabulary=60, context=24, depth=2, width=32, heads=4)


def tiny(dtype: torch.dtype = torch.float64, bias: bool = True) -> GPT2:
    """Weights large enough for attention to be far from uniform, and for every gain and bias to matter."""
    torch.manual_seed(0)
    model = GPT2(**SIZES, dropout=0.0, bias=bias).to(dtype).eval()
    with torch.no_grad():
        for weight in model.parameters():
            weight.copy_(torch.randn_like(weight) * 0.4 + (weight if weight.dim() == 1 else 0.0))
    return model


def lively() -> GPT2:
    """Attention outweighs the rest, so that greedy text does not stay at one token, and rows differ."""
    model = tiny()
    with torch.no_grad():
        model.norm.bias.zero_()
        for block in model.blocks:
            block.attention.output.weight *= 3
            block.mlp[2].weight *= 0.3
    return model


def reference(dtype: torch.dtype = torch.float64) -> torch.nn.Module:
    config = transformers.GPT2Config(
        vocab_size=60, n_positions=24, n_embd=32, n_layer=2, n_head=4, resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0,
        bos_token_id=0, eos_token_id=None, attn_implementation="eager",
    )  # fmt: skip
    return transformers.GPT2LMHeadModel(config).to(dtype).eval()


# Every name that transformers has; `lm_head` is `wte`.
PAIRS = {
    "token.weight": "transformer.wte.weight", "position.weight": "transformer.wpe.weight",
    "norm.weight": "transformer.ln_f.weight", "norm.bias": "transformer.ln_f.bias",
} | {
    f"blocks.{i}.{ours}.{kind}": f"transformer.h.{i}.{theirs}.{kind}"
    for i in range(SIZES["depth"])
    for ours, theirs in {
        "norm_1": "ln_1", "attention.qkv": "attn.c_attn", "attention.output": "attn.c_proj",
        "norm_2": "ln_2", "mlp.0": "mlp.c_fc", "mlp.2": "mlp.c_proj",
    }.items()
    for kind in ("weight", "bias")
}  # fmt: skip
CONV1D = frozenset(name for name in PAIRS if name.endswith(".weight") and ("attention" in name or "mlp" in name))


def the_same(model: GPT2) -> torch.nn.Module:
    """transformers' model with these weights; biases that ours lacks are zero there."""
    theirs, mine = reference(model.token.weight.dtype), dict(model.named_parameters())
    with torch.no_grad():
        for name, other in PAIRS.items():
            value = mine.get(name, torch.zeros(()))
            theirs.get_parameter(other).copy_(value.T if name in CONV1D else value)
    return theirs


def compared() -> Differences:
    dtype = torch.get_default_dtype()
    ours, theirs = tiny(dtype), reference(dtype)
    row = torch.randint(60, (3, 25))
    batch = Windows(row[:, :-1], row[:, 1:])
    decayed = [p for p in theirs.parameters() if p.dim() > 1]
    others = [p for p in theirs.parameters() if p.dim() == 1]

    def losses(_, expected: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return (
            first_loss(NextCharacter(Characters(""), 1), ours, batch),
            F.cross_entropy(expected.flatten(0, 1), batch.target.flatten()),
        )

    # The gradient of a key's bias is zero but for rounding: eps keeps Adam from making a step of its sign.
    return parity(
        ours, theirs, PAIRS, transposed=CONV1D,
        outputs=lambda: (ours(batch.token), theirs(batch.token).logits),
        losses=losses,
        spec=adamw(1e-3, betas=(0.9, 0.99), eps=1e-4, decay=[(matrices(ours), 0.1)]),
        optimizer=torch.optim.AdamW(
            [dict(params=decayed, weight_decay=0.1), dict(params=others, weight_decay=0.0)],
            lr=1e-3, betas=(0.9, 0.99), eps=1e-4,
        ),
    )  # fmt: skip


def test_outputs_gradients_and_step(prove) -> None:
    prove("gpt2", "parity", reference=f"transformers {transformers.__version__}", **in_both(compared))


def test_without_biases_it_is_the_model_whose_biases_are_zero() -> None:
    ours = tiny(bias=False)
    assert not [name for name, _ in ours.named_parameters() if name.endswith("bias")]
    token = torch.randint(60, (3, 24))
    torch.testing.assert_close(ours(token), the_same(ours)(token).logits, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("length", [1, 5, 24])
def test_the_cache_changes_no_logit(bias: bool, length: int) -> None:
    model = tiny(bias=bias)
    token = torch.randint(60, (3, 24))
    cache = Cache(model, 3)
    with torch.no_grad():
        expected = model(token)
        torch.testing.assert_close(cache.start(token[:, :length]), expected[:, length - 1], rtol=1e-10, atol=1e-10)
        for n in range(length, 24):
            torch.testing.assert_close(cache.step(token[:, n]), expected[:, n], rtol=1e-10, atol=1e-10)
        assert cache.length == 24
        with pytest.raises(IndexError):  # no position is left
            cache.step(token[:, 0])


@pytest.mark.parametrize("prompt", [1, 7])
def test_greedy_text_is_that_of_transformers(prompt: int) -> None:
    model = lively()
    token = torch.randint(60, (4, prompt))
    expected = the_same(model).generate(
        token, attention_mask=torch.ones_like(token), max_new_tokens=24 - prompt, do_sample=False, pad_token_id=0
    )
    written = torch.stack(list(generate(model, token, 24 - prompt, temperature=0)), dim=1)
    assert torch.equal(written, expected[:, prompt:])
    assert len(set(written.flatten().tolist())) > 10  # not one character again and again


@pytest.mark.parametrize("prompt", [3, 24, 30])
def test_beyond_the_context_the_last_tokens_are_what_it_sees(prompt: int) -> None:
    """As nanoGPT's generate: the window moves by one token, and every token in it gets another position."""
    model = lively()
    text = token = torch.randint(60, (2, prompt))
    with torch.no_grad():
        for _ in range(30):
            text = torch.cat([text, model(text[:, -24:])[:, -1:].argmax(2)], dim=1)
    written = torch.stack(list(generate(model, token, 30, temperature=0)), dim=1)
    assert torch.equal(written, text[:, prompt:])


def test_a_row_is_written_as_if_it_were_alone() -> None:
    model, token = lively(), torch.randint(60, (3, 4))
    together = torch.stack(list(generate(model, token, 40, temperature=0)), dim=1)
    alone = [torch.stack(list(generate(model, row[None], 40, temperature=0)), dim=1) for row in token]
    assert torch.equal(together, torch.cat(alone))


def test_characters_are_drawn_with_the_probabilities_that_temperature_and_top_k_leave() -> None:
    torch.manual_seed(0)
    logits = torch.tensor([3.0, 1.0, 2.0, 0.0]).log().repeat(20_000, 1)
    share = lambda *how: torch.bincount(choose(logits, *how), minlength=4) / 20_000
    torch.testing.assert_close(share(1.0, None), torch.tensor([3, 1, 2, 0]) / 6, atol=0.015, rtol=0)
    torch.testing.assert_close(share(0.5, None), torch.tensor([9, 1, 4, 0]) / 14, atol=0.015, rtol=0)
    torch.testing.assert_close(share(1.0, 2), torch.tensor([3, 0, 2, 0]) / 5, atol=0.015, rtol=0)
    assert share(0, None).tolist() == [1, 0, 0, 0]


def test_a_later_token_changes_nothing_before_it() -> None:
    model = tiny()
    token = torch.randint(60, (1, 24))
    other = token.clone()
    other[0, 7] = (token[0, 7] + 1) % 60
    before, after = model(token), model(other)
    assert torch.equal(before[:, :7], after[:, :7])
    assert (before[:, 7:] != after[:, 7:]).any(2).all()


@pytest.mark.parametrize(
    ("depth", "width", "heads", "weights"),
    # transformers' GPT2Config of gpt2, gpt2-medium, gpt2-large and gpt2-xl; the paper's Table 2 says 117 M to 1542 M
    [(12, 768, 12, 124_439_808), (24, 1024, 16, 354_823_168), (36, 1280, 20, 774_030_080), (48, 1600, 25, 1_557_611_200)],
)
def test_the_published_sizes_have_their_numbers_of_weights(depth: int, width: int, heads: int, weights: int) -> None:
    with torch.device("meta"):
        model = GPT2(vocabulary=50257, context=1024, depth=depth, width=width, heads=heads, dropout=0.1)
    assert sum(p.numel() for p in model.parameters()) == weights


def test_weights_begin_narrower_where_they_are_added_to_the_stream() -> None:
    torch.manual_seed(0)
    model = GPT2(vocabulary=500, context=64, depth=8, width=64, heads=4, dropout=0.1)
    added = {id(p) for block in model.blocks for p in (block.attention.output.weight, block.mlp[2].weight)}
    assert len(added) == 16
    for weight in matrices(model):
        assert weight.std().item() == pytest.approx(0.02 / 4 if id(weight) in added else 0.02, rel=0.05)
    assert all((p == 0).all() for name, p in model.named_parameters() if name.endswith("bias"))
    assert all((p == 1).all() for name, p in model.named_parameters() if "norm" in name and name.endswith("weight"))


def test_dropout_is_of_embeddings_attention_weights_and_what_is_added() -> None:
    """On one token attention has the weight 1 in each head: dropped, all of the head is zero."""
    torch.manual_seed(0)
    attention = Attention(width=32, heads=4, dropout=0.5, bias=False)
    with torch.no_grad():
        attention.output.weight.copy_(torch.eye(32))
    y = attention(torch.randn(500, 1, 32)).view(-1, 8)  # heads
    gone = (y == 0).all(1).float().mean().item()
    assert 0.46 < gone < 0.56  # residual dropout alone: 0.5 ** 8
    assert 0.45 < (y[(y != 0).any(1)] == 0).float().mean() < 0.55
    added = Block(width=32, heads=4, dropout=0.5, bias=True).mlp(torch.randn(500, 32))
    assert 0.45 < (added == 0).float().mean() < 0.55
    model = GPT2(**SIZES, dropout=0.5)
    model.blocks, model.norm = torch.nn.ModuleList(), torch.nn.Identity()
    assert 0.45 < (model.states(torch.zeros(50, 24, dtype=torch.long)) == 0).float().mean() < 0.55


def test_nothing_is_dropped_in_evaluation() -> None:
    model, token = tiny(torch.float32), torch.randint(60, (2, 24))
    dropping = GPT2(**SIZES, dropout=0.5)
    dropping.load_state_dict(model.state_dict())
    assert torch.equal(dropping.eval()(token), model(token))
    assert not torch.equal(dropping.train()(token), model(token))


def test_the_recipe_is_the_protocol_of_nanogpt() -> None:
    (stage,) = recipe(data="python-topics", context=8, depth=1, width=8, heads=2)
    ((decayed, rate),) = stage.optimizer.decay
    assert [id(p) for p in decayed] == [id(p) for p in stage.model.parameters() if p.dim() > 1]
    assert (rate, stage.optimizer.clip, stage.select) == (0.1, 1.0, "-estimate")
    assert [stage.optimizer.schedule(step, 2000, []) for step in (0, 99, 100, 1050, 2000)] == pytest.approx(
        [0.01, 1, 1, 0.55, 0.1]
    )


def test_loss_and_estimate_of_a_split() -> None:
    """The loss counts every character once; the estimate is of whole windows among them, the same for the same seed."""
    text = by_character(Corpus(["a b\n"], ["".join("abcdefgh \n"[i * i % 10] for i in range(107))], [], "made up", {}), 2)
    split, model = text.val, tiny()
    split.length = 24  # windows of the model's own context, the last one short
    counts: dict[str, float] = {}
    torch.manual_seed(3)
    found = measure(model, NextCharacter(text.characters, 3), split, 2, counts=counts)
    token, target = (torch.cat([getattr(split.batch(torch.tensor([i])), k) for i in range(5)]) for k in ("token", "target"))
    each = [
        [-model(token[i : i + 1])[0, t].log_softmax(0)[target[i, t]].item() for t in range(24) if target[i, t] != UNCOUNTED]
        for i in range(5)
    ]
    assert [len(row) for row in each] == [24, 24, 24, 24, 11]
    assert found["loss"] == pytest.approx(sum(map(sum, each)) / 107, rel=1e-12)
    torch.manual_seed(3)
    drawn = [each[i] for i in torch.randperm(5)[:3]]
    assert found["estimate"] == pytest.approx(sum(map(sum, drawn)) / sum(map(len, drawn)), rel=1e-12)
    assert counts == {"loss": 107, "estimate": sum(map(len, drawn))}
    torch.manual_seed(4)
    assert measure(model, NextCharacter(text.characters, 50), split)["estimate"] == pytest.approx(found["loss"], rel=1e-12)


def test_samples_begin_with_the_prompt_and_predictions_are_the_model_s() -> None:
    characters = Characters("\n" + "".join(map(chr, range(48, 107))))
    objective, model = NextCharacter(characters, 1), tiny()
    torch.manual_seed(0)
    pieces = list(objective.sample(model, 2, "ABC"))
    first, second = "".join(pieces).removesuffix("\n").split("\n" + "─" * 40 + "\n")
    assert first[:3] == second[:3] == "ABC"
    assert len(first) == len(second) == 503
    assert first != second
    assert len(pieces) > 1000  # as they are drawn
    with pytest.raises(WrongInput, match="the model has never seen the characters 'x' 'é'"):
        list(objective.sample(model, 1, "éx"))
    token = characters.encode("ABC").long()[None]
    (row,) = objective.predict(model, Windows(token, torch.full_like(token, UNCOUNTED)))
    p = model(token)[0, -1].softmax(0)
    assert row["next"] == repr(characters.alphabet[int(p.argmax())])
    assert row["probability"] == pytest.approx(p.max().item(), rel=1e-9)
    assert list(row["others"].values()) == pytest.approx(p.sort(descending=True).values[1:5].tolist())
