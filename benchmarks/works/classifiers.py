"""An epoch of classifiers on MNIST beside the usual script; see `scripts`."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.works.scripts import DIGITS, MEAN, STD, Learn, Script, class_step, epoch, images

WIDTH, DROPOUT = 512, 0.5  # of the net that over-fits
LABELS, FULL, ALONE = 100, 3.0, 32  # pseudo-labels: images with one, the weight of the others, labels a step
EPSILON = 0.25  # of the attack


def softmax() -> tuple[nn.Module, Any]:
    from fuxian.methods.basics.softmax_regression import AsClasses, Linear

    return Linear(784, 10), AsClasses(DIGITS)


def mlp() -> tuple[nn.Module, Any]:
    from fuxian.methods.basics.mlp import MLP, CrossEntropy

    return MLP(784, (800,), 10, "relu"), CrossEntropy(DIGITS)


def small_cnn() -> tuple[nn.Module, Any]:
    from fuxian.methods.vision.small_cnn import SmallCNN
    from fuxian.objectives.classification import Classification

    return SmallCNN(), Classification(DIGITS)


def regularized() -> tuple[nn.Module, Any]:
    from fuxian.methods.basics.regularization import Net
    from fuxian.objectives.classification import Classification

    return Net(784, WIDTH, 10, DROPOUT, batch_norm=True), Classification(DIGITS)


def torchs_layers() -> nn.Module:
    """The same of the layers that torch has."""
    hidden: list[nn.Module] = []
    for fan_in in (784, WIDTH):
        hidden += [nn.Linear(fan_in, WIDTH, bias=False), nn.BatchNorm1d(WIDTH), nn.ReLU(), nn.Dropout(DROPOUT)]
    return nn.Sequential(nn.Flatten(), *hidden, nn.Linear(WIDTH, 10))


def known() -> tuple[Tensor, Tensor]:
    """Images with a label: the last of those that no epoch here sees."""
    split = images()
    return split.image[-LABELS:].float() / 255, split.label[-LABELS:]


def fed_back() -> tuple[nn.Module, Any]:
    from fuxian.data.images import Images
    from fuxian.methods.basics.pseudo_label import DropNet, PseudoLabel

    return DropNet(784, 1000, 10, DROPOUT), PseudoLabel(DIGITS, Images(*known()), ALONE, (-1.0, 0.0), FULL)


def attacked() -> tuple[nn.Module, Any]:
    from fuxian.methods.vision.adversarial import Attacked, Softmax

    return Softmax(784, 10), Attacked(DIGITS, EPSILON, 0.01, 40, clean=0.5)


class FedBack:
    """What a net says of images without a label is their label; sigmoids, one a class."""

    def __init__(self, model: nn.Module) -> None:
        self.image, self.label = known()

    def __call__(self, model: Any, learn: Learn, image: Tensor, label: Tensor) -> None:
        rows = torch.randint(LABELS, (ALONE,))
        logits = model(torch.cat([self.image[rows], image]))
        with torch.no_grad():
            target = torch.cat([self.label[rows], logits[ALONE:].argmax(1)])
        loss = F.binary_cross_entropy_with_logits(logits, F.one_hot(target, 10).float(), reduction="none").sum(1)
        learn("model", loss[:ALONE].mean() + FULL * loss[ALONE:].mean())


def attacked_step(model: Any, learn: Learn, image: Tensor, label: Tensor) -> None:
    clean = F.cross_entropy(model(image), label)
    image = image.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(F.cross_entropy(model(image), label), image)
    attack = (image.detach() + EPSILON * gradient.sign()).clamp(0, 1)
    learn("model", 0.5 * clean + 0.5 * F.cross_entropy(model(attack), label))


STANDARD, ADAM = dict(mean=MEAN, std=STD), dict(model=1e-3)

WORKS = [
    epoch("softmax-regression", "softmax regression on MNIST",
          Script(softmax, class_step, dict(model=0.5), 100, momentum=0.0), None, "softmax_regression"),
    epoch("mlp", "the net of 800 units on MNIST", Script(mlp, class_step, ADAM, 128, STANDARD), None, "mlp"),
    epoch("small-cnn", "the small convolutional net on MNIST",
          Script(small_cnn, class_step, ADAM, 1000, STANDARD, channels_last=True), None, "small_cnn"),
    epoch("regularization", "two layers of 512 units with batch norm and dropout on MNIST",
          Script(regularized, class_step, ADAM, 50, STANDARD, theirs=torchs_layers), None, "regularization"),
    epoch("pseudo-label", "pseudo-labels on MNIST", Script(fed_back, FedBack, dict(model=0.03), 256, momentum=0.9), None,
          "pseudo_label"),
    epoch("adversarial", "softmax regression on MNIST and its attacks",
          Script(attacked, attacked_step, dict(model=0.1), 100, momentum=0.5), None, "adversarial"),
]  # fmt: skip
