"""A step of ResNet-20 beside the net as people write it in plain torch, and one of ResNet-18 beside timm's."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.pairing import Side, Work
from benchmarks.sides import Engine, Fixed, in_order, losses, repeated, stepping

LR, MOMENTUM, DECAY = 0.01, 0.9, 1e-4


def images(batch: int) -> tuple[Tensor, Tensor]:
    draw = torch.Generator().manual_seed(1)
    return torch.randn(batch, 3, 32, 32, generator=draw), torch.randint(10, (batch,), generator=draw)


def ours(depth: int, batch: int) -> Side:
    from fuxian.contract import Splits, Stage
    from fuxian.data.images import Images
    from fuxian.methods.vision.resnet import ResNet
    from fuxian.objectives.classification import Classification
    from fuxian.optim import sgd

    model = ResNet(3, 10, depth, "A" if depth == 20 else "B")
    weights = {name: weight.detach().clone() for name, weight in model.named_parameters()}
    image, label = images(batch)
    data = Splits(Fixed(Images(image.contiguous(memory_format=torch.channels_last), label)))  # as the recipe has its data
    engine = Engine(Stage(model, data, Classification(), sgd(LR, momentum=MOMENTUM, decay=DECAY), steps=1000))
    return Side(engine, lambda: engine.losses(3), weights)


def peer(weights: Mapping[str, Tensor], batch: int, make: Any) -> Side:
    model, (image, label) = make(), images(batch)
    in_order(model, weights)
    optimizer = torch.optim.SGD(model.parameters(), LR, MOMENTUM, weight_decay=DECAY, fused=True)
    step = stepping(model, optimizer, lambda: F.cross_entropy(model(image), label))
    return Side(repeated(step), lambda: losses(step, 3))


class Block(nn.Module):
    """Two convolutions and a shortcut that takes every second pixel and adds channels of zeros."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.halves = inputs != outputs
        self.conv1 = nn.Conv2d(inputs, outputs, 3, 2 if self.halves else 1, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.bn1(self.conv1(x)))
        y = self.bn2(self.conv2(y))
        if self.halves:
            x = F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, 0, y.shape[1] - x.shape[1]))
        return F.relu(y + x)


class ResNet20(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(3, 16, 3, 1, 1, bias=False), nn.BatchNorm2d(16)
        widths = [16] * 4 + [32] * 3 + [64] * 3
        self.blocks = nn.Sequential(*map(Block, widths[:-1], widths[1:]))
        self.fc = nn.Linear(64, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.blocks(F.relu(self.bn1(self.conv1(x))))
        return self.fc(F.adaptive_avg_pool2d(x, 1).flatten(1))


def timm_resnet18() -> nn.Module:
    """timm imports torchvision, whose wheel does not load beside another build of torch unless its operators are declared
    first. None of them is called: they find boxes."""
    operators = torch.library.Library("torchvision", "DEF")
    for name in "nms qnms roi_align roi_pool ps_roi_align ps_roi_pool deform_conv2d".split():
        operators.define(f"{name}(Tensor x) -> Tensor")
        operators.define(f"_{name}_backward(Tensor x) -> Tensor")
    import timm

    model = timm.create_model("resnet18", num_classes=10)
    model.operators = operators  # declared as long as this object lives
    return model


WORKS = [
    Work(
        "resnet-20", "a training step of ResNet-20, 128 images of 32 × 32", partial(ours, depth=20, batch=128),
        partial(peer, batch=128, make=ResNet20), "plain torch", 0.8, method="resnet",
    ),
    Work(
        "resnet-18", "a training step of ResNet-18, 64 images of 32 × 32", partial(ours, depth=18, batch=64),
        partial(peer, batch=64, make=timm_resnet18), "timm", 0.9, method="resnet", python=".venv-timm/bin/python",
    ),
]  # fmt: skip
