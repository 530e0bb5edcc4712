"""Multilayer perceptron: layers of weighted sums, each bent by a non-linearity, read pictures as rows of numbers.

中文     多层感知机
Source   LeCun, Cortes & Burges, The MNIST Database of Handwritten Digits, table of results: 2-layer nets of 300 units
         (LeCun et al. 1998, Fig. 9) and of 800 (Simard et al., ICDAR 2003)
         Rumelhart et al. 1986: how an error goes back; written out in basics/backpropagation
         LeCun, Bottou, Orr & Müller, Efficient BackProp, 1998: inputs of mean 0 and variance 1
Code     heitorrapela/fashion-mnist-mlp @ 25b7478, fashion_mnist_mlp.py: the net of 256, 128 and 100 units
Departs  Adam and a cosine for all of them, and outputs that are not squashed. Preprocessing "none" of either table means
         that no image is straightened, moved or distorted: to normalize pixels is none
"""

from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fuxian import figures
from fuxian.contract import Stage
from fuxian.data.images import Images, image_data, standardized
from fuxian.facts import Claim, Within
from fuxian.objectives.classification import Classification, ranked
from fuxian.optim import adam, cosine

PAPER = None
SOURCE = "LeCun, Cortes & Burges, The MNIST Database of Handwritten Digits, table of results"
CLAIMS = [
    # a rate of 1.6 % counted on 10,000 images: two standard errors
    Claim("test/error", 0.016, where="MNIST page, 800 units, cross-entropy", tolerance=0.0025, seeds=5, better="lower"),
    Claim("test/error", 0.047, where="MNIST page, 300 units, squared error", seeds=5, better="lower",
          knobs=dict(hidden=(300,), loss="squared-error", activation="tanh"),
          comparison="theirs: gradient descent of 1998, with squashed outputs; ours: Adam and a cosine"),
    Claim("test/accuracy", 0.8833, where="fashion-mnist README, MLP 256-128-100", seeds=3,
          knobs=dict(data="fashion-mnist", hidden=(256, 128, 100), activation="tanh", dropout=0.4, normalize="unit",
                     epochs=100, batch=64),
          comparison="theirs: the best of 30 runs, by test, of gradient descent on 48,000 images, with sigmoid outputs"),
    Claim("test/error", None, where="as the first, of pixels from 0 to 255: nobody publishes it", seeds=5, better="lower",
          knobs=dict(normalize="none")),
]  # fmt: skip
QUICK = dict(data="digits", hidden=(64,), epochs=40)

ACTIVATIONS = dict(relu=nn.ReLU, tanh=nn.Tanh, sigmoid=nn.Sigmoid)


class MLP(nn.Sequential):
    """Images (batch, channels, height, width) to (batch, outputs): y = W f(W f(… x)). 636,010 weights for MNIST."""

    def __init__(self, inputs: int, hidden: tuple[int, ...], outputs: int, activation: str, dropout: float = 0.0) -> None:
        layers: list[nn.Module] = [nn.Flatten()]
        for fan_in, units in pairwise((inputs, *hidden)):
            layers += [nn.Linear(fan_in, units), ACTIVATIONS[activation](), nn.Dropout(dropout)]
        super().__init__(*layers, nn.Linear((inputs, *hidden)[-1], outputs))


class CrossEntropy(Classification):
    """Cross-entropy; and a picture of what the first units look for."""

    def pictures(self, model: Any, split: Any) -> dict[str, Any]:
        first = next(layer for layer in model if isinstance(layer, nn.Linear))
        image = next(iter(split.batch(torch.arange(1)).image))
        weight = first.weight.detach().cpu()[:40].view(-1, *image.shape)
        shown = 0.5 - weight / (2 * weight.abs().amax((1, 2, 3), keepdim=True))  # ink excites, white inhibits
        return {"features": figures.image_grid(shown, columns=10), **super().pictures(model, split)}


class SquaredError(CrossEntropy):
    """Σ (ŷ - y)² of the outputs, where y is one at the true class and zero elsewhere."""

    def squares(self, y: Tensor, label: Tensor) -> Tensor:
        return (y - F.one_hot(label, y.shape[1])).square().sum(1)

    def losses(self, model: Any, batch: Images) -> Iterator[tuple[str, Tensor]]:
        yield "model", self.squares(model(batch.image), batch.label).mean()

    def evaluate(self, model: Any, batch: Images) -> Iterator[tuple[str, Tensor]]:
        y = model(batch.image)
        right = y.argmax(1) == batch.label
        yield "loss", self.squares(y, batch.label)
        yield "accuracy", right.float()
        yield "error", (~right).float()

    def predict(self, model: Any, batch: Images) -> list[dict[str, Any]]:
        return ranked(model(batch.image).clamp(0, 1), self.names)  # its best guess of y is the probability itself


OBJECTIVES = {"cross-entropy": CrossEntropy, "squared-error": SquaredError}


def recipe(
    data: Literal["mnist", "fashion-mnist", "digits"] | Path = "mnist",  # images with a label each
    hidden: Annotated[tuple[int, ...], Within(1)] = (800,),              # units of each hidden layer
    activation: Literal["relu", "tanh", "sigmoid"] = "relu",             # after each hidden layer
    loss: Literal["cross-entropy", "squared-error"] = "cross-entropy",   # what is made small
    normalize: Literal["standard", "unit", "none"] = "standard",         # pixels of mean 0 and variance 1; 0 to 1; 0 to 255
    dropout: float = 0.0,         # probability, after each hidden layer
    epochs: int = 20,             # passes over the training set
    batch: int = 128,             # images a step
    lr: float = 1e-3,             # Adam, down to zero along a cosine
    weight_decay: float = 0.0,    # L2
) -> Iterator[Stage]:  # fmt: skip
    images = image_data(data, std=[1 / 255] if normalize == "none" else [1.0])
    if normalize == "standard":
        images = standardized(images)
    model = MLP(images.channels * images.size**2, hidden, images.classes, activation, dropout)
    yield Stage(model, images, OBJECTIVES[loss](images.names), adam(lr, decay=weight_decay, schedule=cosine()),
                epochs=epochs, batch=batch)  # fmt: skip
