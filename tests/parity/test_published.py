"""Weights that transformers has written give the same outputs here, and those that we write the same there."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from fuxian.errors import WrongInput
from fuxian.methods.language.gpt1 import GPT
from fuxian.methods.language.gpt2 import GPT2, generate
from fuxian.methods.vision.resnet import ResNet

from .compare import relative

transformers = pytest.importorskip("transformers")

GPT_SIZES = dict(vocab_size=60, n_positions=24, n_embd=32, n_layer=3, n_head=4)
RESNETS: dict[str, dict[str, Any]] = {
    "resnet18": dict(layer_type="basic", depths=[2, 2, 2, 2], hidden_sizes=[64, 128, 256, 512], num_labels=7),
    "resnet50": dict(num_labels=3),  # its stride is in the second layer of a bottleneck, as transformers' defaults have it
    "resnet50-authors": dict(num_labels=3, downsample_in_bottleneck=True),
}
MODELS = ["gpt1", "gpt2", *RESNETS]


def made(name: str, **changed: Any) -> tuple[Any, Any]:
    """A model of transformers whose every weight and statistic matters, and our class for it."""
    torch.manual_seed(0)
    if name == "gpt1":
        theirs = transformers.OpenAIGPTLMHeadModel(transformers.OpenAIGPTConfig(**GPT_SIZES | changed))
    elif name == "gpt2":
        theirs = transformers.GPT2LMHeadModel(transformers.GPT2Config(**GPT_SIZES | changed))
    else:
        theirs = transformers.ResNetForImageClassification(transformers.ResNetConfig(**RESNETS[name] | changed))
    with torch.no_grad():
        for weight in theirs.parameters():
            if name.startswith("gpt") or weight.dim() == 1:
                weight.add_(torch.randn_like(weight) * 0.2)
        for part, statistic in theirs.named_buffers():
            if statistic.is_floating_point() and "running" in part:
                statistic.add_(torch.rand_like(statistic))
    return theirs.eval(), GPT if name == "gpt1" else GPT2 if name == "gpt2" else ResNet


@torch.no_grad()
def logits(model: nn.Module) -> Tensor:
    torch.manual_seed(1)
    given = torch.randn(2, 3, 64, 64) if "ResNet" in type(model).__name__ else torch.randint(60, (2, 24))
    out = model(given)
    return out if isinstance(out, Tensor) else out.logits


@pytest.mark.parametrize("way", ["one file", "shards", "pickle"])
@pytest.mark.parametrize("name", MODELS)
def test_weights_of_transformers_are_read(name: str, way: str, tmp_path: Path) -> None:
    theirs, ours = made(name)
    theirs.save_pretrained(tmp_path, max_shard_size="100MB" if way == "one file" else "60KB" if "gpt" in name else "5MB")
    if way == "pickle":  # as before safetensors; its model's second name for the same matrix, and its masks, were in it
        for file in tmp_path.glob("*.safetensors*"):
            file.unlink()
        masks = {f"transformer.h.{n}.attn.bias": torch.ones(24, 24).tril()[None, None] for n in range(3)}
        torch.save(theirs.state_dict() | (masks if "gpt" in name else {}), tmp_path / "pytorch_model.bin")
    assert ((tmp_path / "model.safetensors.index.json").exists()) == (way == "shards")
    model = ours.from_pretrained(tmp_path)
    assert not model.training
    assert relative(logits(model), logits(theirs)) < 1e-5
    if name.startswith("resnet"):  # one more reading, in training: the statistics move alike
        assert relative(logits(model.train()), logits(theirs.train())) < 1e-5
        assert relative(logits(model.eval()), logits(theirs.eval())) < 1e-5


@pytest.mark.parametrize("name", MODELS)
def test_what_we_write_transformers_reads(name: str, tmp_path: Path) -> None:
    theirs, ours = made(name)
    theirs.save_pretrained(tmp_path / "theirs")
    model = ours.from_pretrained(tmp_path / "theirs")
    with torch.no_grad():
        for weight in model.parameters():
            weight.mul_(1.1)  # no longer what was read
    model.save_pretrained(tmp_path / "ours")
    auto = transformers.AutoModelForCausalLM if "gpt" in name else transformers.AutoModelForImageClassification
    again, report = auto.from_pretrained(tmp_path / "ours", output_loading_info=True)
    assert not any(report[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys")), report
    assert type(again) is type(theirs)
    assert relative(logits(again.eval()), logits(model)) < 1e-5
    assert torch.equal(logits(ours.from_pretrained(tmp_path / "ours")), logits(model))
    with pytest.raises(WrongInput, match=r"has a config.json already"):
        model.save_pretrained(tmp_path / "ours")


def test_the_file_of_the_body_alone_is_read_too(tmp_path: Path) -> None:
    """The hub's gpt2 and openai-gpt are such: names without `transformer.`."""
    for name in ("gpt1", "gpt2"):
        theirs, ours = made(name)
        theirs.transformer.save_pretrained(tmp_path / name)
        assert relative(logits(ours.from_pretrained(tmp_path / name)), logits(theirs)) < 1e-5


def test_a_gpt_without_biases_is_written_with_zeros(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = GPT2(60, 24, 2, 32, 4, 0.1, bias=False).eval()
    model.save_pretrained(tmp_path)
    theirs = transformers.GPT2LMHeadModel.from_pretrained(tmp_path)
    assert theirs.config.resid_pdrop == theirs.config.attn_pdrop == theirs.config.embd_pdrop == 0.1
    assert relative(logits(theirs), logits(model)) < 1e-5
    assert relative(logits(GPT2.from_pretrained(tmp_path)), logits(model)) < 1e-5


def test_what_is_read_goes_on_as_transformers_does(tmp_path: Path) -> None:
    theirs, _ = made("gpt2", bos_token_id=0, eos_token_id=None)
    theirs.save_pretrained(tmp_path)
    token = torch.randint(60, (2, 5))
    expected = theirs.generate(
        token, attention_mask=torch.ones_like(token), max_new_tokens=19, do_sample=False, pad_token_id=0
    )
    written = torch.stack(list(generate(GPT2.from_pretrained(tmp_path), token, 19, temperature=0)), dim=1)
    assert torch.equal(written, expected[:, 5:])
    assert len(set(written.flatten().tolist())) > 3


@pytest.mark.parametrize(
    ("name", "changed", "said"),
    [
        ("gpt2", dict(activation_function="relu"), "activation_function='relu'; this model has 'gelu_new'"),
        ("gpt2", dict(layer_norm_epsilon=1e-6), "layer_norm_epsilon=1e-06; this model has 1e-05"),
        ("gpt2", dict(scale_attn_weights=False), "scale_attn_weights=False; this model has True"),
        ("gpt2", dict(scale_attn_by_inverse_layer_idx=True), "scale_attn_by_inverse_layer_idx=True"),
        ("gpt2", dict(tie_word_embeddings=False), "tie_word_embeddings=False"),
        ("gpt2", dict(n_inner=48), r"of another shape or type h.0.mlp.c_fc.weight \(32, 128\), there \(32, 48\)"),
        ("gpt1", dict(afn="relu"), "afn='relu'; this model has 'gelu'"),
        ("gpt1", dict(layer_norm_epsilon=1e-12), "layer_norm_epsilon"),
        ("resnet18", dict(hidden_act="gelu"), "hidden_act='gelu'; this model has 'relu'"),
        ("resnet18", dict(downsample_in_first_stage=True), "downsample_in_first_stage=True"),
        ("resnet18", dict(embedding_size=32), "embedding_size=32; this model has 64"),
        ("resnet18", dict(depths=[1, 1, 1, 1]), r"layer_type='basic' and depths=\[1, 1, 1, 1\], which no net of Table 1"),
        ("resnet18", dict(hidden_sizes=[32, 64, 128, 256]), "of another shape"),
    ],
)
def test_what_ours_has_not_is_refused_by_its_name(name: str, changed: dict[str, Any], said: str, tmp_path: Path) -> None:
    theirs, ours = made(name, **changed)
    theirs.save_pretrained(tmp_path)
    with pytest.raises(WrongInput, match=said):
        ours.from_pretrained(tmp_path)


@pytest.mark.parametrize(("reader", "written"), [(GPT, "gpt2"), (GPT2, "gpt1"), (ResNet, "gpt2")])
def test_another_kind_of_model_is_refused(reader: Any, written: str, tmp_path: Path) -> None:
    made(written)[0].save_pretrained(tmp_path)
    with pytest.raises(WrongInput, match="model_type="):
        reader.from_pretrained(tmp_path)


def test_a_size_that_config_does_not_say(tmp_path: Path) -> None:
    made("gpt2")[0].save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    del config["n_head"]
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(WrongInput, match=r"config.json has no n_head"):
        GPT2.from_pretrained(tmp_path)


@pytest.mark.parametrize(("depth", "shortcut"), [(20, "A"), (20, "B"), (18, "A"), (18, None)])
def test_a_net_that_transformers_has_not_is_not_written(depth: int, shortcut: Any, tmp_path: Path) -> None:
    with pytest.raises(WrongInput, match=f"no ResNet of depth={depth} with shortcut="):
        ResNet(3, 10, depth, shortcut).save_pretrained(tmp_path / "new")
    assert not (tmp_path / "new").exists()
