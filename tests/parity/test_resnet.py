"""ResNet: against transformers (nets of Table 1), and against its equations written out (nets of sec. 4.2)."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from transformers import ResNetConfig, ResNetForImageClassification

from fuxian.data.images import Images
from fuxian.errors import WrongInput
from fuxian.methods.vision.resnet import ResNet, falling, recipe
from fuxian.objectives.classification import Classification
from fuxian.optim import sgd

from .compare import TOLERANCE, Differences, first_loss, in_both, parity, relative

SPEC = sgd(0.1, momentum=0.9, decay=1e-4)


def torch_sgd(model: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=1e-4, fused=False, foreach=False)


def compared(ours: ResNet, reference: nn.Module, logits: Callable[[Tensor], Tensor], pairs: dict[str, str], size: int):
    torch.manual_seed(1)
    batch = Images(torch.randn(4, 3, size, size), torch.randint(10, (4,)))
    seen: list[Tensor] = []

    def once(image: Tensor) -> Tensor:  # a second pass would move the running averages again
        seen.append(ours(image))
        return seen[0]

    return parity(
        ours,
        reference,
        pairs,
        outputs=lambda: (once(batch.image), logits(batch.image)),
        losses=lambda mine, theirs: (
            first_loss(Classification(), lambda _: mine, batch),
            -theirs.log_softmax(1)[range(4), batch.label].mean(),
        ),
        spec=SPEC,
        optimizer=torch_sgd(reference),
    )


def in_transformers(depth: int) -> tuple[ResNetForImageClassification, dict[str, str]]:
    """The net of this depth there, its downsampling in the first layer of a bottleneck, and how its weights are called."""
    kind, depths = {18: ("basic", [2, 2, 2, 2]), 50: ("bottleneck", [3, 4, 6, 3])}[depth]
    widths = [64, 128, 256, 512] if kind == "basic" else [256, 512, 1024, 2048]
    config = ResNetConfig(depths=depths, hidden_sizes=widths, layer_type=kind, num_labels=10, downsample_in_bottleneck=True)
    model = ResNetForImageClassification(config).train()
    names = {"stem.0": "resnet.embedder.embedder.convolution", "stem.1": "resnet.embedder.embedder.normalization"}
    block = 0
    for stage, count in enumerate(depths):
        for k in range(count):
            there = f"resnet.encoder.stages.{stage}.layers.{k}"
            for layer in range(2 if kind == "basic" else 3):
                names[f"blocks.{block}.residual.{3 * layer}"] = f"{there}.layer.{layer}.convolution"
                names[f"blocks.{block}.residual.{3 * layer + 1}"] = f"{there}.layer.{layer}.normalization"
            if k == 0 and not (kind == "basic" and stage == 0):
                names[f"blocks.{block}.shortcut.0"] = f"{there}.shortcut.convolution"
                names[f"blocks.{block}.shortcut.1"] = f"{there}.shortcut.normalization"
            block += 1
    names["output"] = "classifier.1"
    there = dict(model.named_parameters())
    return model, {
        f"{ours}.{w}": f"{n}.{w}" for ours, n in names.items() for w in ("weight", "bias") if f"{n}.{w}" in there
    }


def compared_with_transformers(depth: int) -> Differences:
    torch.manual_seed(0)
    ours = ResNet(3, 10, depth, "B")
    theirs, pairs = in_transformers(depth)
    found = compared(ours, theirs, lambda image: theirs(image).logits, pairs, size=64)
    ours.eval(), theirs.eval()
    image = torch.randn(3, 3, 64, 64)
    with torch.no_grad():
        assert relative(ours(image), theirs(image).logits) < TOLERANCE[image.dtype]  # by the averages of that step
    return found


@pytest.mark.slow
@pytest.mark.parametrize("depth", [18, 50])
def test_outputs_gradients_and_step_of_the_large_nets(depth: int, prove) -> None:
    found = in_both(lambda: compared_with_transformers(depth))
    if depth == 50:
        prove("resnet", "parity", reference="transformers.ResNetForImageClassification", **found)


class Reference(nn.Module):
    """The nets of sec. 4.2, a convolution as a sum over patches, batch normalization by its equation, in training mode."""

    def __init__(self, ours: ResNet, depth: int, option: str | None) -> None:
        super().__init__()
        self.names = {name: name.replace(".", "_") for name, _ in ours.named_parameters()}
        for name, weight in ours.named_parameters():
            self.register_parameter(self.names[name], nn.Parameter(torch.zeros_like(weight)))
        self.n, self.option = (depth - 2) // 6, option

    def weight(self, name: str) -> Tensor:
        return self.get_parameter(self.names[name])

    def layer(self, x: Tensor, name: str, number: int, stride: int, kernel: int = 3) -> Tensor:
        """Convolution `number` of a sequence, and the normalization after it: Ioffe & Szegedy 2015, algorithm 1."""
        w, side = self.weight(f"{name}.{number}.weight"), kernel // 2
        around = torch.zeros(*x.shape[:2], x.shape[2] + 2 * side, x.shape[3] + 2 * side, dtype=x.dtype)
        around[:, :, side : side + x.shape[2], side : side + x.shape[3]] = x
        patches = around.unfold(2, kernel, stride).unfold(3, kernel, stride)  # (B, C, h, w, kernel, kernel)
        y = torch.einsum("bchwij,ocij->bohw", patches, w)
        mean = y.mean((0, 2, 3), keepdim=True)
        variance = (y - mean).square().mean((0, 2, 3), keepdim=True)
        gain, shift = (self.weight(f"{name}.{number + 1}.{part}")[:, None, None] for part in ("weight", "bias"))
        return (y - mean) / (variance + 1e-5).sqrt() * gain + shift

    def forward(self, x: Tensor) -> Tensor:
        x = self.layer(x, "stem", 0, 1).clamp_min(0)
        for block in range(3 * self.n):
            halved = block in (self.n, 2 * self.n)
            y = self.layer(x, f"blocks.{block}.residual", 0, 2 if halved else 1).clamp_min(0)
            y = self.layer(y, f"blocks.{block}.residual", 3, 1)
            if self.option == "B" and halved:
                x = self.layer(x, f"blocks.{block}.shortcut", 0, 2, kernel=1)
            elif halved:
                x = x[:, :, 0::2, 0::2]
                x = torch.cat([x, torch.zeros_like(x)], 1)
            x = (y if self.option is None else y + x).clamp_min(0)
        return x.flatten(2).mean(2) @ self.weight("output.weight").T + self.weight("output.bias")


def compared_with_equations(option) -> Differences:
    torch.manual_seed(0)
    ours = ResNet(3, 10, 20, option)
    for name, weight in ours.named_parameters():  # gains and shifts away from one and zero
        if name.endswith("bias") or weight.dim() == 1:
            weight.data += 0.1 * torch.randn_like(weight)
    reference = Reference(ours, 20, option)
    return compared(ours, reference, reference, reference.names, size=16)


@pytest.mark.parametrize("option", ["A", "B", None])
def test_outputs_gradients_and_step_of_the_small_nets(option) -> None:
    in_both(lambda: compared_with_equations(option))


@pytest.mark.parametrize(
    ("depth", "shortcut", "classes", "weights"),
    [  # the sums of Table 6, to a digit; and torchvision's for Table 1
        (20, "A", 10, 269_722),
        (32, "A", 10, 464_154),
        (44, "A", 10, 658_586),
        (56, "A", 10, 853_018),
        (110, "A", 10, 1_727_962),
        (20, None, 10, 269_722),
        (18, "B", 1000, 11_689_512),
        (34, "B", 1000, 21_797_672),
        (50, "B", 1000, 25_557_032),
        (101, "B", 1000, 44_549_160),
        (152, "B", 1000, 60_192_808),
    ],
)
def test_exact_numbers_of_weights(depth, shortcut, classes, weights) -> None:
    with torch.device("meta"):
        model = ResNet(3, classes, depth, shortcut)
    assert sum(p.numel() for p in model.parameters()) == weights


@pytest.mark.parametrize(("depth", "layers"), [(20, 20), (56, 56), (18, 18), (34, 34), (50, 50), (101, 101), (152, 152)])
def test_the_depth_is_the_number_of_layers(depth: int, layers: int) -> None:
    """Sec. 4.2 and Table 1 count convolutions and the last, fully connected layer; shortcuts are not counted."""
    with torch.device("meta"):
        model = ResNet(3, 10, depth, "A")
    assert sum(isinstance(part, nn.Conv2d | nn.Linear) for part in model.modules()) == layers


def test_maps_of_32_pixels() -> None:
    """Sec. 4.2: 2 n layers on maps of 32 × 32, 16 × 16 and 8 × 8."""
    model, x = ResNet(3, 10, 20), torch.zeros(2, 3, 32, 32)
    sizes = [tuple(model.blocks[:k](model.stem(x)).shape[1:]) for k in (1, 3, 4, 6, 7, 9)]
    assert sizes == [(16, 32, 32)] * 2 + [(32, 16, 16)] * 2 + [(64, 8, 8)] * 2


def test_a_depth_that_is_none() -> None:
    for depth in (2, 21, 19):
        with pytest.raises(WrongInput, match=f"there is no ResNet of depth={depth}"):
            ResNet(3, 10, depth)


def test_the_rate() -> None:
    rate = falling(400)
    at = {step: rate(step, 64_000, []) for step in (0, 399, 400, 31_999, 32_000, 47_999, 48_000, 63_999)}
    assert list(at.values()) == pytest.approx([0.1, 0.1, 1, 1, 0.1, 0.1, 0.01, 0.01])
    assert falling(0)(0, 64_000, []) == 1


def test_the_recipe_is_the_protocol_of_section_4_2() -> None:
    (stage,) = recipe(data="digits", depth=8)
    optimizer = stage.optimizer.make(stage.optimizer.groups([*stage.model.named_parameters()]))
    (group,) = optimizer.param_groups
    assert (group["momentum"], group["weight_decay"], len(group["params"])) == (0.9, 1e-4, len([*stage.model.parameters()]))
    assert [stage.optimizer.schedule(step, 100, []) for step in (0, 50, 75)] == pytest.approx([1, 0.1, 0.01])
    assert (stage.select, stage.stop, stage.data.train.augment is not None) == (None, None, True)
