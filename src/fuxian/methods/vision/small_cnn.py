"""A small convolutional network: two convolutions and one layer of classes, fewer than 100,000 weights.

中文     小卷积网络
Source   hardmaru/pytorch_notebooks @ dc5aece, pytorch_tiny_custom_mnist_adam.ipynb: Net, and how it is trained.
         It stands in the table of zalandoresearch/fashion-mnist, README.md (arXiv:1708.07747): 2 Conv Layers <100K
Departs  nothing of the net and its training; theirs is one run on each data set, ours the mean of several
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import torch.nn.functional as F
from torch import Tensor, nn

from fuxian.contract import Stage
from fuxian.data.images import image_data
from fuxian.facts import Claim
from fuxian.objectives.classification import Classification
from fuxian.optim import adam

PAPER = None
SOURCE = "hardmaru/pytorch_notebooks, pytorch_tiny_custom_mnist_adam.ipynb"
CLAIMS = [
    # rates of 0.78 and 7.53 % counted on 10,000 images, theirs of one run each: two standard errors
    Claim("test/accuracy", 0.9922, where="the notebook, MNIST", tolerance=0.002, seeds=3,
          needs="half an hour of two cores a seed"),
    Claim("test/accuracy", 0.9247, where="the notebook, Fashion-MNIST", tolerance=0.005, seeds=3,
          knobs=dict(data="fashion-mnist"), needs="half an hour of two cores a seed"),
]  # fmt: skip
QUICK = dict(data="digits", epochs=2, batch=50)


class SmallCNN(nn.Module):
    """(batch, channels, 28, 28) images to (batch, classes) logits; 83,466 weights for grey ones of ten classes."""

    def __init__(self, channels: int = 1, classes: int = 10) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, 32, 5, padding=2)  # 28 × 28
        self.conv2 = nn.Conv2d(32, 64, 5, padding=2)  # 14 × 14
        self.output = nn.Linear(64 * 7 * 7, classes)

    def forward(self, image: Tensor) -> Tensor:
        x = F.max_pool2d(self.conv1(image).relu(), 2)  # (batch, 32, 14, 14)
        x = F.max_pool2d(self.conv2(x).relu(), 2)  # (batch, 64, 7, 7)
        return self.output(x.flatten(1))


def recipe(
    data: Literal["mnist", "fashion-mnist", "digits"] | Path = "mnist",  # images with a label each
    epochs: int = 30,   # passes over the training set; the notebook
    batch: int = 1000,  # images a step; the notebook
    lr: float = 1e-3,   # Adam; the notebook
) -> Iterator[Stage]:  # fmt: skip
    images = image_data(data, size=28, mean=[0.1307], std=[0.3081], channels_last=True)  # MNIST's, for Fashion too
    model = SmallCNN(images.channels, images.classes)
    yield Stage(model, images, Classification(images.names), adam(lr), epochs=epochs, batch=batch)
