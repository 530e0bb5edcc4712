"""Conditional GAN: a generator draws a digit of the class it is asked for, and a discriminator is told the class too.

中文     条件生成对抗网络
Paper    Mirza & Osindero, 2014, arXiv:1411.1784: eq. 2 (game), sec. 4.1 (layers and settings), Table 1 (Parzen estimate)
         Goodfellow et al., NeurIPS 2014, arXiv:1406.2661: sec. 3 (the generator's own loss), sec. 5 (Parzen estimate)
Code     goodfeli/adversarial @ 600ee5c, which theirs was built on: __init__.py (noise), mnist.yaml (settings)
Departs  Adam, at a rate of its own for each player, for SGD with growing momentum and a decayed rate; fixed epochs for the
         best validation estimate; dropout in the discriminator alone, as in that code: a generator under dropout came to
         ignore its noise
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fuxian import figures
from fuxian.contract import Objective, Stage
from fuxian.data.images import Images, hold_out, image_data
from fuxian.errors import WrongInput
from fuxian.facts import Claim, Paper, Within
from fuxian.metrics.parzen import Parzen
from fuxian.optim import adam

PAPER = Paper("Conditional Generative Adversarial Nets", "Mirza & Osindero", 2014, arxiv="1411.1784")
CLAIMS = [
    Claim("test/parzen", 132.0, where="Table 1, conditional adversarial nets", tolerance=1.8, seeds=3,
          comparison="theirs is the best of an SGD run by validation, its length not given; here Adam for fixed epochs"),
]  # fmt: skip
QUICK = dict(data="digits", epochs=25, batch=50)

SAMPLES = 1000  # of each class, for the Parzen estimate: sec. 4.1

# Shape letters: B batch, Z noise, C classes, P pixels of an image.


def uniform(batch: int, noise: int, device: torch.device) -> Tensor:
    """Noise (B, Z) of mean 0 and variance 1. __init__.py, Generator.get_noise."""
    return (torch.rand(batch, noise, device=device) * 2 - 1) * 3**0.5


class Generator(nn.Module):
    """Noise (B, Z) and a one-hot class (B, C) to pixels (B, P) in 0 to 1. Sec. 4.1."""

    def __init__(self, noise: int, classes: int, pixels: int) -> None:
        super().__init__()
        self.of_noise = nn.Linear(noise, 200)
        self.of_class = nn.Linear(classes, 1000)
        self.joint = nn.Linear(1200, 1200)
        self.pixels = nn.Linear(1200, pixels)

    def forward(self, noise_BZ: Tensor, class_BC: Tensor) -> Tensor:
        hidden = torch.cat([self.of_noise(noise_BZ).relu(), self.of_class(class_BC).relu()], 1)
        return self.pixels(self.joint(hidden).relu()).sigmoid()


class Maxout(nn.Module):
    """(B, inputs) to (B, units): each unit is the largest of its linear pieces. Goodfellow et al. 2013, arXiv:1302.4389."""

    def __init__(self, inputs: int, units: int, pieces: int) -> None:
        super().__init__()
        self.linear = nn.Linear(inputs, units * pieces)
        self.pieces = pieces

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(x).unflatten(1, (-1, self.pieces)).amax(2)


class Discriminator(nn.Module):
    """Pixels (B, P) and a one-hot class (B, C) to the logit (B,) of being real. Sec. 4.1."""

    def __init__(self, classes: int, pixels: int, dropout: float) -> None:
        super().__init__()
        self.of_pixels = Maxout(pixels, 240, 5)
        self.of_class = Maxout(classes, 50, 5)
        self.joint = Maxout(290, 240, 4)
        self.real = nn.Linear(240, 1)
        self.dropout_pixels = nn.Dropout(0.4 * dropout)  # mnist.yaml: 0.2 of the pixels, 0.5 of the units
        self.dropout = nn.Dropout(dropout)

    def forward(self, pixels_BP: Tensor, class_BC: Tensor) -> Tensor:
        hidden = torch.cat([self.of_pixels(self.dropout_pixels(pixels_BP)), self.of_class(class_BC)], 1)
        hidden = self.joint(self.dropout(hidden))
        return self.real(self.dropout(hidden))[:, 0]


class CGAN(nn.Module):
    def __init__(self, noise: int, classes: int, pixels: int, dropout: float) -> None:
        super().__init__()
        self.generator = Generator(noise, classes, pixels)
        self.discriminator = Discriminator(classes, pixels, dropout)
        self.noise, self.classes = noise, classes

    def draw(self, label_B: Tensor) -> Tensor:
        """New pixels (B, P) of these classes; the noise comes from torch's default generator."""
        return self.generator(uniform(len(label_B), self.noise, label_B.device), self.onehot(label_B))

    def onehot(self, label_B: Tensor) -> Tensor:
        return F.one_hot(label_B, self.classes).float()

    def forward(self, noise_BZ: Tensor, class_BC: Tensor) -> Tensor:
        return self.generator(noise_BZ, class_BC)


class Adversarial(Objective):
    """Eq. 2, one step of each player in turn; the generator raises log D rather than lowers log(1 - D)."""

    sigma: Tensor

    def __init__(self, noise: int, names: tuple[str, ...], size: int) -> None:
        self.noise, self.names, self.size = noise, names, size
        self.register_buffer("sigma", torch.zeros(()))  # width of the Parzen estimate; chosen on validation

    def inputs(self, batch: Images) -> tuple[Tensor, ...]:
        return uniform(len(batch), self.noise, batch.label.device), F.one_hot(batch.label, len(self.names)).float()

    def losses(self, model: CGAN, batch: Images) -> Iterator[tuple[str, Tensor]]:
        self.sigma.zero_()  # new weights, another width
        real, label = batch.image.flatten(1), model.onehot(batch.label)
        fake = model.draw(batch.label)  # crosses the yield: its graph holds the generator alone
        on_real, on_fake = model.discriminator(real, label), model.discriminator(fake.detach(), label)
        yield "discriminator", F.softplus(-on_real).mean() + F.softplus(on_fake).mean()  # -log D(x|y) - log(1 - D(G(z|y)))
        yield "generator", F.softplus(-model.discriminator(fake, label)).mean()  # -log D(G(z|y)), by the D that has stepped

    def metrics(self, model: CGAN) -> dict[str, Any]:
        device = self.sigma.device
        samples = model.draw(torch.arange(model.classes, device=device).repeat_interleave(SAMPLES))
        return {"parzen": Parzen(samples, self.sigma)}

    def evaluate(self, model: CGAN, batch: Images) -> Iterator[tuple[Any, ...]]:
        yield "parzen", batch.image.flatten(1)

    def pictures(self, model: Any, split: Any) -> dict[str, Any]:
        """The first ten draws of each class, a class a row."""
        drawn = model.draw(torch.arange(model.classes, device=self.sigma.device).repeat_interleave(10))
        return {"samples": figures.image_grid(1 - drawn.view(-1, 1, self.size, self.size), columns=10)}

    def sample(self, model: CGAN, count: int, prompt: str = "") -> Iterator[Tensor]:
        """Images of the class that `prompt` names; without one, of each class in turn."""
        yield model.draw(asked_for(prompt, self.names, count).to(self.sigma.device)).view(-1, 1, self.size, self.size)


def asked_for(prompt: str, names: Sequence[str], count: int) -> Tensor:
    """Labels (count,) of the class that `prompt` names, or of each class in turn where it is empty. Raises WrongInput."""
    if prompt and prompt not in names:
        raise WrongInput(f"there is no class {prompt!r} to draw", do=f"one of {', '.join(names)}")
    return torch.full((count,), names.index(prompt)) if prompt else torch.arange(count) % len(names)


def recipe(
    data: Literal["mnist", "fashion-mnist", "digits"] | Path = "mnist",  # images with a label each, read as grey
    epochs: int = 20,             # passes over the training set
    batch: int = 100,             # images a step; sec. 4.1
    lr: float = 2e-3,             # Adam with β₁ 0.5, of the discriminator
    lr_generator: Annotated[float, Within(0, above=True)] = 1e-3,  # the same, of the generator
    dropout: float = 0.5,         # probability, in the discriminator; sec. 4.1
) -> Iterator[Stage]:  # fmt: skip
    images = hold_out(image_data(data, channels=1), 10_000)
    model = CGAN(100, images.classes, images.size**2, dropout)
    mean_P = images.train.batch(torch.arange(len(images.train))).image.mean(0).flatten()
    model.generator.pixels.bias.data = mean_P.clamp(1e-3, 1 - 1e-3).logit()  # mnist.yaml: bias from marginals
    players = dict(discriminator=adam(lr, betas=(0.5, 0.999)), generator=adam(lr_generator, betas=(0.5, 0.999)))
    yield Stage(model, images, Adversarial(100, images.names, images.size), players,
                epochs=epochs, batch=batch, evaluate_every=10 * (len(images.train) // batch))  # fmt: skip
