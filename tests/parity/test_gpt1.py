"""GPT-1 against OpenAIGPTLMHeadModel of transformers, and what its two stages promise."""

from __future__ import annotations

import math
from itertools import islice

import pytest
import torch
import torch.nn.functional as F

from fuxian.contract import Stage
from fuxian.data.text import UNCOUNTED, Sentences, Windows
from fuxian.engine import state
from fuxian.evaluation import measure
from fuxian.methods.language.gpt1 import (
    GPT,
    Attention,
    Block,
    Classifier,
    FineTune,
    NextToken,
    continued,
    line,
    matrices,
    recipe,
    warmup_linear,
)
from fuxian.optim import adamw

from .compare import Differences, first_loss, in_both, parity

transformers = pytest.importorskip("transformers")

SIZES = dict(vocabulary=60, context=12, depth=2, width=32, heads=4)


def tiny(dtype: torch.dtype = torch.float64) -> GPT:
    """Weights large enough for attention to be far from uniform, and for every gain and bias to matter."""
    torch.manual_seed(0)
    gpt = GPT(**SIZES, dropout=0.0).to(dtype).eval()
    with torch.no_grad():
        for weight in gpt.parameters():
            weight.copy_(torch.randn_like(weight) * 0.4 + (weight if weight.dim() == 1 else 0.0))
    return gpt


def reference(dtype: torch.dtype) -> torch.nn.Module:
    config = transformers.OpenAIGPTConfig(
        vocab_size=60, n_positions=12, n_embd=32, n_layer=2, n_head=4, resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0,
        attn_implementation="eager",
    )  # fmt: skip
    return transformers.OpenAIGPTLMHeadModel(config).to(dtype).eval()


PAIRS = {"token.weight": "transformer.tokens_embed.weight", "position.weight": "transformer.positions_embed.weight"} | {
    f"blocks.{i}.{ours}.{kind}": f"transformer.h.{i}.{theirs}.{kind}"
    for i in range(SIZES["depth"])
    for ours, theirs in {
        "attention.qkv": "attn.c_attn", "attention.output": "attn.c_proj", "norm_1": "ln_1",
        "mlp.0": "mlp.c_fc", "mlp.2": "mlp.c_proj", "norm_2": "ln_2",
    }.items()
    for kind in ("weight", "bias")
}  # fmt: skip
CONV1D = frozenset(name for name in PAIRS if name.endswith(".weight") and ("attention" in name or "mlp" in name))


def compared() -> Differences:
    dtype = torch.get_default_dtype()
    ours, theirs = tiny(dtype), reference(dtype)
    row = torch.randint(60, (3, 13))
    batch = Windows(row[:, :-1], row[:, 1:])
    decayed = [p for name, p in theirs.named_parameters() if p.dim() > 1]
    others = [p for name, p in theirs.named_parameters() if p.dim() == 1]

    def losses(_, expected: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return (
            first_loss(NextToken(None), ours, batch) / batch.target.numel(),
            F.cross_entropy(expected.flatten(0, 1), batch.target.flatten()),
        )

    # The gradient of a key's bias is zero but for rounding: eps keeps Adam from making a step of its sign.
    return parity(
        ours, theirs, PAIRS, transposed=CONV1D,
        outputs=lambda: (ours(batch.token), theirs(batch.token).logits),
        losses=losses,
        spec=adamw(1e-3, eps=1e-4, decay=[(matrices(ours), 0.01)]),
        optimizer=torch.optim.AdamW(
            [dict(params=decayed, weight_decay=0.01), dict(params=others, weight_decay=0.0)], lr=1e-3, eps=1e-4
        ),
    )  # fmt: skip


def test_outputs_gradients_and_step(prove) -> None:
    prove("gpt1", "parity", reference=f"transformers {transformers.__version__}", **in_both(compared))


def test_the_paper_s_sizes_give_the_published_number_of_weights() -> None:
    with torch.device("meta"):
        gpt = GPT(vocabulary=40478, context=512, depth=12, width=768, heads=12, dropout=0.1)
    assert sum(p.numel() for p in gpt.parameters()) == 116_534_784  # finetune-transformer-lm, model/params_shapes.json


def test_weights_begin_as_in_section_4_1() -> None:
    torch.manual_seed(0)
    gpt = GPT(vocabulary=500, context=64, depth=2, width=64, heads=4, dropout=0.1)
    for weight in matrices(gpt):
        assert abs(weight.std().item() - 0.02) < 0.001
        assert abs(weight.mean().item()) < 0.002
    assert all((p == 0).all() for name, p in gpt.named_parameters() if name.endswith("bias"))


def test_a_later_token_changes_nothing_before_it() -> None:
    gpt = tiny()
    token = torch.randint(60, (1, 12))
    other = token.clone()
    other[0, 7] = (token[0, 7] + 1) % 60
    before, after = gpt(token), gpt(other)
    assert torch.equal(before[:, :7], after[:, :7])
    assert (before[:, 7:] != after[:, 7:]).any(2).all()


def test_one_matrix_embeds_and_predicts_also_after_saving_and_loading(tmp_path) -> None:
    saved = tiny()
    state.write(tmp_path / "saved", {"tensors": state.tensors_of(("", saved))})
    torch.manual_seed(1)
    gpt = GPT(**SIZES, dropout=0.0).double().eval()
    state.copy_into(state.tensors_of(("", gpt)), state.read(tmp_path / "saved")["tensors"], "weights")
    token = torch.randint(60, (2, 12))
    assert torch.equal(gpt(token), saved(token))
    assert [name for name, p in gpt.named_parameters() if 60 in p.shape] == ["token.weight"]
    with torch.no_grad():
        gpt.token.weight[5] = 0.0
    assert (gpt(token)[..., 5] == 0).all()  # it predicts
    assert not torch.equal(gpt(torch.full((1, 1), 5)), saved(torch.full((1, 1), 5)))  # it embeds


def test_dropout_takes_entries_of_the_embedding_for_both_of_its_ends() -> None:
    gpt = GPT(**SIZES, dropout=0.5).train()
    _, token_VD = gpt.states(torch.zeros(1, 3, dtype=torch.long))
    kept = token_VD != 0
    assert 0.4 < kept.float().mean() < 0.6
    torch.testing.assert_close(token_VD[kept], 2 * gpt.token.weight[kept])
    assert torch.equal(gpt.eval().states(torch.zeros(1, 3, dtype=torch.long))[1], gpt.token.weight)


def test_dropout_is_of_attention_weights_and_of_what_is_added() -> None:
    """On one token attention has the weight 1 in each head: dropped, all of the head is zero."""
    torch.manual_seed(0)
    attention = Attention(width=32, heads=4, dropout=0.5)
    with torch.no_grad():
        attention.output.weight.copy_(torch.eye(32))
        attention.output.bias.zero_()
    y = attention(torch.randn(500, 1, 32)).view(-1, 8)  # heads
    gone = (y == 0).all(1).float().mean().item()
    assert 0.46 < gone < 0.56  # residual dropout alone: 0.5 ** 8
    assert 0.45 < (y[(y != 0).any(1)] == 0).float().mean() < 0.55
    added = Block(width=32, heads=4, dropout=0.5).mlp(torch.randn(500, 32))
    assert 0.45 < (added == 0).float().mean() < 0.55


def test_nothing_is_dropped_in_evaluation() -> None:
    gpt, token = tiny(torch.float32), torch.randint(60, (2, 12))
    dropping = GPT(**SIZES, dropout=0.5)
    dropping.load_state_dict(gpt.state_dict())
    assert torch.equal(dropping.eval()(token), gpt(token))
    assert not torch.equal(dropping.train()(token), gpt(token))


def test_the_classifier_has_dropout_of_its_own() -> None:
    classifier, batch = classified()
    still = classifier(batch.token, batch.length)
    classifier.gpt.dropout = 0.5
    assert torch.equal(classifier(batch.token, batch.length), still)
    classifier.training = True  # the language model in it is not
    assert (classifier(batch.token, batch.length) != still).all()


def test_the_loss_and_perplexity_of_a_split_are_those_of_its_tokens() -> None:
    gpt = tiny()
    row = torch.randint(60, (3, 13))
    target = row[:, 1:].clone()
    target[2, 4:] = UNCOUNTED  # a last window that is not full
    logits = gpt(row[:, :-1])
    expected = [-logits[b, t].log_softmax(0)[target[b, t]].item() for b in range(3) for t in range(12 if b < 2 else 4)]

    class Split:
        def __len__(self) -> int:
            return 3

        def batch(self, indices: torch.Tensor) -> Windows:
            return Windows(row[indices, :-1], target[indices])

    counts: dict[str, float] = {}
    found = measure(gpt, NextToken(None), Split(), 2, counts=counts)
    assert found["loss"] == pytest.approx(sum(expected) / 28, rel=1e-12)
    assert found["perplexity"] == pytest.approx(math.exp(sum(expected) / 28), rel=1e-12)
    assert counts == {"loss": 28, "perplexity": 28}
    _, total, weight = next(NextToken(None).losses(gpt, Windows(row[:, :-1], target)))
    assert (total / weight).item() == pytest.approx(found["loss"], rel=1e-12)


def classified() -> tuple[Classifier, Sentences]:
    torch.manual_seed(2)
    classifier = Classifier(tiny(), classes=2).double().eval()
    token, length = torch.randint(2, 60, (3, 10)), torch.tensor([10, 4, 7])
    for row, n in zip(token, length.tolist(), strict=True):
        row[0], row[n - 1 :] = 0, 1
    return classifier, Sentences(token, length, torch.tensor([0, 1, 1]))


def test_l3_is_l2_and_lambda_of_l1() -> None:
    classifier, batch = classified()
    l1, l2 = [], []
    for token, n, label in zip(batch.token, batch.length.tolist(), batch.label.tolist(), strict=True):
        states, embedding = classifier.gpt.states(token[None, :n])
        each = [-(states[0, t] @ embedding.T).log_softmax(0)[token[t + 1]] for t in range(n - 1)]
        l1.append(sum(each) / len(each))  # the extract token is foretold, the start token is not
        l2.append(-classifier.output(states[0, n - 1]).log_softmax(0)[label])
    for lm_weight in (0.0, 0.5):
        objective = FineTune(("a", "b"), None, lm_weight)
        loss = first_loss(objective, classifier, batch)
        expected = sum(l2) / 3 + lm_weight * sum(l1) / 3
        torch.testing.assert_close(loss, expected, rtol=1e-12, atol=0)
        weights = list(classifier.parameters())
        pairs = (torch.autograd.grad(total, weights, retain_graph=True) for total in (loss, expected))
        for ours, theirs in zip(*pairs, strict=True):
            torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-10)
    measured = dict(objective.evaluate(classifier, batch))
    torch.testing.assert_close(measured["loss"], torch.stack(l2), rtol=1e-12, atol=0)  # of the sentences alone
    likely = [one.item() < math.log(2) for one in l2]  # of two classes the right one has more than a half
    assert measured["accuracy"].tolist() == [float(one) for one in likely]
    assert True in likely
    assert False in likely


def test_padding_does_not_change_the_logits_of_a_sentence() -> None:
    classifier, batch = classified()
    together = classifier(batch.token, batch.length)
    alone = [classifier(t[None, :n], torch.tensor([n])) for t, n in zip(batch.token, batch.length.tolist(), strict=True)]
    torch.testing.assert_close(together, torch.cat(alone), rtol=1e-12, atol=0)
    other = batch.token.clone()
    other[1, 4:] = 37
    assert torch.equal(classifier(other, batch.length), together)


def test_fine_tuning_starts_its_two_tokens_anew_and_shares_the_rest() -> None:
    gpt = tiny()
    before = {name: weight.clone() for name, weight in gpt.named_parameters()}
    classifier = Classifier(gpt, classes=2)
    after = dict(classifier.gpt.named_parameters())
    assert after["token.weight"] is gpt.token.weight
    assert (after["token.weight"][:2] != before["token.weight"][:2]).all()
    assert after["token.weight"][:2].abs().max() < 0.1
    assert torch.equal(after.pop("token.weight")[2:], before["token.weight"][2:])
    assert all(torch.equal(weight, before[name]) for name, weight in after.items())
    extra = sum(p.numel() for p in classifier.parameters()) - sum(p.numel() for p in gpt.parameters())
    assert extra == 2 * 32 + 2  # W_y and its bias


def test_warmup_and_decay_are_those_of_opt_py() -> None:
    factors = [warmup_linear(step, 10_000, []) for step in range(10_000)]
    assert factors[0] == 0.0
    assert factors[10] == pytest.approx(0.5 * 0.999)
    assert factors[20] == max(factors) == pytest.approx(0.998)  # 0.2 % of the steps
    assert factors[-1] == pytest.approx(1e-4)


def test_sampling_goes_on_past_the_context() -> None:
    gpt = tiny(torch.float32)
    torch.manual_seed(0)
    first = torch.cat([*islice(continued(gpt, torch.randint(60, (2, 3))), 15)], 1)
    torch.manual_seed(0)
    assert torch.equal(first, torch.cat([*islice(continued(gpt, torch.randint(60, (2, 3))), 15)], 1))
    assert first.shape == (2, 15)


def test_pictures_hold_no_character_that_breaks_them() -> None:
    assert line("a\x07b\n  c\ufffd 词") == "a b c\ufffd 词"


def test_without_pre_training_fine_tuning_starts_from_the_untrained_network() -> None:
    knobs = dict(data="templated", corpus="python-topics", vocabulary=300, context=32, depth=1, width=16)
    torch.manual_seed(0)
    stages = recipe(**knobs, pretrain_steps=0)
    first = next(stages)
    assert isinstance(first, Stage)
    assert first.steps == 0
    before = {name: weight.clone() for name, weight in first.model.named_parameters()}
    second = stages.send({})
    assert second.model.gpt is first.model
    assert all(
        torch.equal(weight, before[name]) for name, weight in first.model.named_parameters() if name != "token.weight"
    )
    assert torch.equal(first.model.token.weight[2:], before["token.weight"][2:])


def test_the_recipe_decays_matrices_only() -> None:
    stages = recipe(data="templated", corpus="python-topics", vocabulary=300, context=32, depth=1, width=16)
    for stage in (next(stages), stages.send({})):
        ((decayed, rate),) = stage.optimizer.decay
        assert [id(p) for p in decayed] == [id(p) for p in stage.model.parameters() if p.dim() > 1]
        assert (rate, stage.optimizer.clip) == (0.01, 1.0)
