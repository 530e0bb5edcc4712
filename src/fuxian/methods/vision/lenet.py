"""LeNet-5: a convolutional network reads handwritten digits.

中文     卷积网络 LeNet-5
Paper    LeCun, Bottou, Bengio & Haffner, Proc. IEEE 86(11), 1998: sec. II.B and Fig. 2 (layers), Fig. 9 (result)
Departs  ReLU for the scaled tanh, max-pooling for the trained subsampling, all of S2's maps for each of C3's (Table I
         leaves out 36 of 96), softmax and cross-entropy for the Euclidean RBF outputs, AdamW for the diagonal
         Levenberg-Marquardt
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import torch.nn.functional as F
from torch import Tensor, nn

from fuxian.contract import Stage
from fuxian.data.images import image_data
from fuxian.facts import Claim, Paper
from fuxian.objectives.classification import Classification
from fuxian.optim import adamw, cosine

PAPER = Paper("Gradient-Based Learning Applied to Document Recognition", "LeCun et al.", 1998, venue="Proc. IEEE")
CLAIMS = [
    # a rate of 0.95 % counted on 10,000 images has a standard error of 0.1 %
    Claim("test/error", 0.0095, where="Fig. 9, LeNet-5", tolerance=0.001, seeds=5, better="lower"),
    # zalandoresearch/fashion-mnist, README.md: other nets, a run each; tolerances: two standard errors of such rates
    Claim("test/error", 0.006, where="fashion-mnist README, 2 conv + 3 FC, MNIST", tolerance=0.002, seeds=5, better="lower",
          comparison="another net: batch normalization, some 500,000 weights (ours has 61,706), and augmented images"),
    Claim("test/error", 0.066, where="fashion-mnist README, 2 conv + 3 FC, Fashion-MNIST", tolerance=0.005, seeds=5,
          better="lower", knobs=dict(data="fashion-mnist"),
          comparison="another net: batch normalization, some 500,000 weights (ours has 61,706), and augmented images"),
]  # fmt: skip
QUICK = dict(data="digits", epochs=15)


class LeNet(nn.Module):
    """(batch, channels, 32, 32) images to (batch, classes) logits; 61,706 weights for grey ones of ten classes. Fig. 2."""

    def __init__(self, channels: int = 1, classes: int = 10) -> None:
        super().__init__()
        self.c1 = nn.Conv2d(channels, 6, 5)  # 28 × 28
        self.c3 = nn.Conv2d(6, 16, 5)  # 10 × 10, after S2
        self.c5 = nn.Conv2d(16, 120, 5)  # 1 × 1, after S4
        self.f6 = nn.Linear(120, 84)
        self.output = nn.Linear(84, classes)

    def forward(self, image: Tensor) -> Tensor:
        x = F.max_pool2d(self.c1(image).relu(), 2)  # (batch, 6, 14, 14): S2
        x = F.max_pool2d(self.c3(x).relu(), 2)  # (batch, 16, 5, 5): S4
        x = self.c5(x).relu().flatten(1)  # (batch, 120)
        return self.output(self.f6(x).relu())


def recipe(
    data: Literal["mnist", "fashion-mnist", "digits"] | Path = "mnist",  # images with a label each; sec. III.A
    epochs: int = 5,              # passes over the training set; the paper takes 20
    batch: int = 128,             # images a step; the paper takes 1
    lr: float = 3e-3,             # AdamW, down to zero along a cosine
    weight_decay: float = 0.05,   # AdamW
) -> Iterator[Stage]:  # fmt: skip
    images = image_data(data, size=32, mean=[0.1307], std=[0.3081], channels_last=True)  # 32 × 32: sec. II.B
    model = LeNet(images.channels, images.classes)
    yield Stage(model, images, Classification(images.names), adamw(lr, decay=weight_decay, schedule=cosine()),
                epochs=epochs, batch=batch)  # fmt: skip
