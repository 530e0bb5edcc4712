"""Adversarial examples: a change of each pixel too small to mislead an eye, that a classifier reads as another digit.

中文     对抗样本（FGSM 与 PGD）
Paper    Goodfellow, Shlens & Szegedy, ICLR 2015, arXiv:1412.6572: sec. 4 (the fast gradient sign, FGSM; results), sec. 6
         (training on it)
         Madry et al., ICLR 2018, arXiv:1706.06083: sec. 2.1 (projected gradient descent, PGD), sec. 5 (its steps on MNIST)
         Goodfellow et al., ICML 2013, arXiv:1302.4389: eq. 2-3 (maxout)
Code     lisa-lab/pylearn2 @ 71b2951: scripts/papers/maxout/mnist_pi.yaml has the maxout net
Departs  pixels stay within 0 to 1, as images must, which the first paper does not ask of them; all of the training images
         in place of 50,000 and early stopping, fewer epochs, momentum constant, a rate that falls to 0; dropout scales up
         what it leaves of the image too
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
import torch.nn.functional as F
from matplotlib.ticker import MaxNLocator
from torch import Tensor, nn

from fuxian import figures
from fuxian.contract import Stage
from fuxian.data.images import Images, image_data
from fuxian.evaluation import batches
from fuxian.facts import Claim, Paper, Within
from fuxian.numbers import fixed
from fuxian.objectives.classification import Classification
from fuxian.optim import linear, sgd

PAPER = Paper("Explaining and Harnessing Adversarial Examples", "Goodfellow, Shlens & Szegedy", 2015, venue="ICLR",
              arxiv="1412.6572")  # fmt: skip
CLAIMS = [
    Claim("test/error", None, where="of clean images: sec. 4 has that of attacked ones alone", seeds=5, better="lower"),
    # a share of 99.9 % of 10,000 images has a standard error of 0.03 %
    Claim("test/fgsm_error", 0.999, where="sec. 4, softmax, ε = 0.25", tolerance=0.001, seeds=5),
    Claim("test/fgsm_confidence", 0.793, where="sec. 4, softmax, ε = 0.25", tolerance=0.0, seeds=5,
          comparison="the weights grow as long as one trains, and confidence with them; how long they did is not said"),
    Claim("test/fgsm_error", 0.894, where="sec. 4, maxout, ε = 0.25", tolerance=0.0, seeds=3,
          knobs=dict(network="maxout", epochs=5), comparison="5 epochs in place of some hundreds and early stopping"),
    Claim("test/fgsm_error", 0.179, where="sec. 6, maxout, trained on its own attacks", tolerance=0.02, seeds=1,
          better="lower", knobs=dict(network="maxout", clean=0.5, hidden=1600, epochs=500),
          needs="a GPU for a day: 1,600 units of 5 pieces in each layer"),
]  # fmt: skip
QUICK = dict(data="digits", epochs=10, pgd_steps=10, pgd_step=0.04)


# ── the attacks ─────────────────────────────────────────────────────────────────────────────────────────────────────


def slope(model: nn.Module, image: Tensor, label: Tensor) -> Tensor:
    """∇ₓ J: how the loss of each image changes with each of its pixels. The weights get no gradient of it."""
    with torch.enable_grad():
        image = image.detach().requires_grad_()
        loss = F.cross_entropy(model(image), label, reduction="sum")
        return torch.autograd.grad(loss, image)[0]


def fgsm(model: nn.Module, image: Tensor, label: Tensor, epsilon: float) -> Tensor:
    """x + ε sign(∇ₓ J), sec. 4: the worst of all changes up to ε where the loss is linear. Pixels stay within 0 to 1."""
    return (image + epsilon * slope(model, image, label).sign()).clamp(0, 1)


def pgd(model: nn.Module, image: Tensor, label: Tensor, epsilon: float, step: float, steps: int) -> Tensor:
    """The same in small steps from a start drawn in the ε-box, put back into it after each. 1706.06083, sec. 2.1."""
    low, high = (image - epsilon).clamp(0, 1), (image + epsilon).clamp(0, 1)
    x = low + (high - low) * torch.rand_like(image)
    for _ in range(steps):
        x = (x + step * slope(model, x, label).sign()).clamp(low, high)
    return x


# ── the classifiers ─────────────────────────────────────────────────────────────────────────────────────────────────


class Softmax(nn.Module):
    """(batch, channels, size, size) images to (batch, classes) logits by one matrix: 7,850 weights for MNIST."""

    def __init__(self, pixels: int, classes: int) -> None:
        super().__init__()
        self.output = nn.Linear(pixels, classes)

    def forward(self, image: Tensor) -> Tensor:
        return self.output(image.flatten(1))


class Maxout(nn.Module):
    """(batch, channels, size, size) images to (batch, classes) logits; 1302.4389, and mnist_pi.yaml for its numbers."""

    def __init__(self, pixels: int, hidden: int, classes: int, pieces: int = 5) -> None:
        super().__init__()
        self.pieces = pieces
        self.first = nn.Linear(pixels, hidden * pieces)
        self.second = nn.Linear(hidden, hidden * pieces)
        self.output = nn.Linear(hidden, classes)
        for layer in (self.first, self.second, self.output):
            nn.init.uniform_(layer.weight, -0.005, 0.005)
            nn.init.zeros_(layer.bias)

    def forward(self, image: Tensor) -> Tensor:
        x = F.dropout(image.flatten(1), 0.2, self.training)
        for layer in (self.first, self.second):
            x = layer(x).unflatten(1, (-1, self.pieces)).amax(2)  # a unit is the largest of its pieces: eq. 2-3
            x = F.dropout(x, 0.5, self.training)
        return self.output(x)

    @torch.no_grad()
    def constrain(self) -> None:
        """No row of weights, those into one piece, is longer than 1.9365: mnist_pi.yaml, max_col_norm."""
        for layer in (self.first, self.second, self.output):
            layer.weight.copy_(layer.weight.renorm(2, 0, 1.9365))


class Attacked(Classification):
    """Learns from images, and a share 1 - `clean` from the attacks on them; judged by both attacks on every image."""

    def __init__(self, names: tuple[str, ...], epsilon: float, pgd_step: float, pgd_steps: int, clean: float) -> None:
        self.names, self.epsilon, self.clean = names, epsilon, clean
        self.pgd_step, self.pgd_steps = pgd_step, pgd_steps

    def losses(self, model: Any, batch: Images) -> Iterator[tuple[str, Tensor]]:
        loss = F.cross_entropy(model(batch.image), batch.label)
        if self.clean < 1:  # sec. 6: J̃ = α J(x) + (1 - α) J(x + ε sign(∇ₓ J))
            attack = fgsm(model, batch.image, batch.label, self.epsilon)
            loss = self.clean * loss + (1 - self.clean) * F.cross_entropy(model(attack), batch.label)
        yield "model", loss
        if isinstance(model, Maxout):  # the weights have stepped
            model.constrain()

    def evaluate(self, model: Any, batch: Images) -> Iterator[tuple[str, Tensor]]:
        yield from super().evaluate(model, batch)
        confidence, read = model(fgsm(model, batch.image, batch.label, self.epsilon)).softmax(1).max(1)
        yield "fgsm_error", (read != batch.label).float()
        yield "fgsm_confidence", confidence  # in what it reads, right or wrong
        attack = pgd(model, batch.image, batch.label, self.epsilon, self.pgd_step, self.pgd_steps)
        yield "pgd_error", (model(attack).argmax(1) != batch.label).float()

    def pictures(self, model: Any, split: Any) -> dict[str, Any]:
        """Image, change and result of five that it reads rightly; error against ε, beside noise of the same size."""
        some = next(batches(split, 1000, next(model.parameters()).device))
        return {"attack": self.shown(model, some), "error": self.curve(model, some)} | super().pictures(model, split)

    def shown(self, model: Any, some: Images, count: int = 5) -> Any:
        right = (model(some.image).argmax(1) == some.label).nonzero().flatten()[:count]
        image, label = some.image[right], some.label[right]
        attack = fgsm(model, image, label, self.epsilon)
        change = 0.5 + (attack - image) / max(1e-12, 2 * self.epsilon)
        rows, words = [image, change, attack], []
        for pixels in (image, None, attack):
            if pixels is None:
                words += [f"change of up to {self.epsilon:g}"] * len(right)
                continue
            for probability, read in zip(*(t.tolist() for t in model(pixels).softmax(1).max(1)), strict=True):
                words.append(f"read as {self.names[read]}, {fixed(100 * probability, 0)} %")
        pixels = torch.cat(rows)
        return figures.labelled_images(1 - pixels if pixels.shape[1] == 1 else pixels, words, columns=len(right))

    def curve(self, model: Any, some: Images) -> Any:
        """Error, %, at ε from 0 to a little beyond, of the first images."""
        attacks = {
            "PGD": lambda epsilon: pgd(model, some.image, some.label, epsilon, self.pgd_step, self.pgd_steps),
            "FGSM": lambda epsilon: fgsm(model, some.image, some.label, epsilon),
            "noise ± ε": lambda epsilon: (some.image + epsilon * torch.randn_like(some.image).sign()).clamp(0, 1),
        }
        at = torch.linspace(0, 1.2 * self.epsilon, 9).tolist()
        wrong = lambda image: 100 * (model(image).argmax(1) != some.label).double().mean().item()
        curves = {name: (at, [wrong(attack(epsilon)) for epsilon in at]) for name, attack in attacks.items()}
        drawn = figures.lines(curves, x="ε, the largest change of a pixel in 0 to 1",
                              y=f"wrong of the first {len(some):,} images, %")  # fmt: skip
        drawn.axes[0].xaxis.set_major_locator(MaxNLocator(6))
        return drawn


def recipe(
    data: Literal["mnist", "fashion-mnist", "digits"] | Path = "mnist",  # images, pixels from 0 to 1
    network: Literal["softmax", "maxout"] = "softmax",  # one matrix; or two maxout layers with dropout; sec. 4
    epsilon: Annotated[float, Within(0, 1)] = 0.25,  # the largest change of a pixel; sec. 4
    clean: Annotated[float, Within(0, 1)] = 1.0,     # share of the loss on unchanged images: sec. 6 takes 0.5
    pgd_steps: Annotated[int, Within(1)] = 40,       # of PGD; 1706.06083, sec. 5
    pgd_step: Annotated[float, Within(0, 1)] = 0.01,  # of PGD, change of a pixel; 1706.06083, sec. 5
    hidden: int = 240,            # units of each maxout layer; mnist_pi.yaml
    epochs: int = 20,             # passes over the training set
    batch: int = 100,             # images a step; mnist_pi.yaml
    lr: float = 0.1,              # SGD with momentum 0.5, down to 0 along a line; mnist_pi.yaml
) -> Iterator[Stage]:  # fmt: skip
    images = image_data(data)
    pixels = images.channels * images.size**2
    model = Softmax(pixels, images.classes) if network == "softmax" else Maxout(pixels, hidden, images.classes)
    objective = Attacked(images.names, epsilon, pgd_step, pgd_steps, clean)
    yield Stage(model, images, objective, sgd(lr, momentum=0.5, schedule=linear()), epochs=epochs, batch=batch)
