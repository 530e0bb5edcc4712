"""Conditional GAN of the notes: the discriminator names the digit that it sees, and names none where it is fake.

中文     条件生成对抗网络(笔记的写法)
Source   the notes, "CGAN MNIST training steps": ten outputs of the discriminator, one-hot for a real image,
         zeros for a fake
         Mirza & Osindero, 2014, arXiv:1411.1784: the paper, where the class is an input of both; here it is `cgan`
Departs  the notes leave the nets and the settings open: sizes are those of `cgan`; a reader, LeNet trained on the same
         images, tells how many samples show what was asked for
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fuxian import figures
from fuxian.contract import Metric, Objective, Stage
from fuxian.data.images import Images, hold_out, image_data
from fuxian.facts import Claim, Within
from fuxian.methods.generative.cgan import SAMPLES, Maxout, asked_for
from fuxian.methods.vision.lenet import LeNet
from fuxian.metrics.parzen import Parzen
from fuxian.objectives.classification import Classification
from fuxian.optim import adam

PAPER = None
SOURCE = "the notes, conditional GAN on MNIST"
CLAIMS = [
    Claim("test/parzen", 132.0, where="Mirza & Osindero 2014, Table 1", tolerance=1.8, seeds=3,
          comparison="theirs is another game: the class is an input of both nets, not what the discriminator puts out"),
    Claim("test/asked", None, where="the notes give no number", seeds=3),
]  # fmt: skip
QUICK = dict(data="digits", epochs=8, reader_epochs=5, batch=50)

SIDE = 28  # pixels: the notes' images are [B, 1, 28, 28]

# Shape letters: B batch, Z noise, C classes.


class Generator(nn.Module):
    """Noise and a one-hot class in one vector, (B, Z + C), to images (B, 1, 28, 28) in 0 to 1."""

    def __init__(self, noise: int, classes: int) -> None:
        super().__init__()
        self.hidden = nn.Linear(noise + classes, 1200)
        self.joint = nn.Linear(1200, 1200)
        self.pixels = nn.Linear(1200, SIDE**2)

    def forward(self, z: Tensor) -> Tensor:
        return self.pixels(self.joint(self.hidden(z).relu()).relu()).sigmoid().view(-1, 1, SIDE, SIDE)


class Discriminator(nn.Module):
    """Images (B, 1, 28, 28) to logits (B, C): of being real and of this class, each for itself."""

    def __init__(self, classes: int, dropout: float) -> None:
        super().__init__()
        self.pixels = Maxout(SIDE**2, 240, 5)
        self.joint = Maxout(240, 240, 4)
        self.classes = nn.Linear(240, classes)
        self.dropout_pixels = nn.Dropout(0.4 * dropout)
        self.dropout = nn.Dropout(dropout)

    def forward(self, image: Tensor) -> Tensor:
        hidden = self.dropout(self.pixels(self.dropout_pixels(image.flatten(1))))
        return self.classes(self.dropout(self.joint(hidden)))


class CGANNotes(nn.Module):
    def __init__(self, noise: int, classes: int, dropout: float) -> None:
        super().__init__()
        self.generator = Generator(noise, classes)
        self.discriminator = Discriminator(classes, dropout)
        self.noise, self.classes = noise, classes

    def z(self, onehot_BC: Tensor) -> Tensor:
        """What the generator takes, (B, Z + C): standard normal noise, then the class. All that is drawn is drawn here."""
        return torch.cat([torch.randn(len(onehot_BC), self.noise, device=onehot_BC.device), onehot_BC], 1)

    def draw(self, label_B: Tensor) -> Tensor:
        return self.generator(self.z(F.one_hot(label_B, self.classes).float()))

    def forward(self, z: Tensor) -> Tensor:
        return self.generator(z)


class Share(Metric):
    """The share of the samples that a test holds for."""

    def __init__(self, holds: Tensor) -> None:
        self.holds, self.count = holds, len(holds)

    def value(self) -> float:
        return self.holds.double().mean().item()


class NamesTheClass(Objective):
    """Binary cross-entropy of the ten outputs: one-hot for real, zeros for fake; the generator wants the one-hot."""

    sigma: Tensor

    def __init__(self, reader: nn.Module, noise: int, names: tuple[str, ...]) -> None:
        self.reader, self.noise, self.names = reader.requires_grad_(False), noise, names
        self.register_buffer("sigma", torch.zeros(()))  # width of the Parzen estimate; chosen on validation

    def inputs(self, batch: Images) -> tuple[Tensor, ...]:
        onehot_BC = F.one_hot(batch.label, len(self.names)).float()
        return (torch.cat([torch.randn(len(batch), self.noise, device=onehot_BC.device), onehot_BC], 1),)

    def losses(self, model: CGANNotes, batch: Images) -> Iterator[tuple[str, Tensor]]:
        self.sigma.zero_()  # new weights, another width
        onehot_BC = F.one_hot(batch.label, model.classes).to(batch.image)
        fake = model.generator(model.z(onehot_BC))  # crosses the yield: its graph holds the generator alone
        on_real, on_fake = model.discriminator(batch.image), model.discriminator(fake.detach())
        bce = F.binary_cross_entropy_with_logits
        yield "discriminator", bce(on_real, onehot_BC) + bce(on_fake, torch.zeros_like(on_fake))
        yield "generator", bce(model.discriminator(fake), onehot_BC)  # by the discriminator that has stepped

    def metrics(self, model: CGANNotes) -> dict[str, Any]:
        label = torch.arange(model.classes, device=self.sigma.device).repeat_interleave(SAMPLES)
        image = model.draw(label)
        read = torch.cat([self.reader(part).argmax(1) for part in image.split(1000)])
        return {"parzen": Parzen(image.flatten(1), self.sigma), "asked": Share(read == label)}

    def evaluate(self, model: CGANNotes, batch: Images) -> Iterator[tuple[Any, ...]]:
        yield "parzen", batch.image.flatten(1)

    def pictures(self, model: Any, split: Any) -> dict[str, Any]:
        """The first ten draws of each class, a class a row."""
        drawn = model.draw(torch.arange(model.classes, device=self.sigma.device).repeat_interleave(10))
        return {"samples": figures.image_grid(1 - drawn, columns=10)}

    def sample(self, model: CGANNotes, count: int, prompt: str = "") -> Iterator[Tensor]:
        """Images of the class that `prompt` names; without one, of each class in turn."""
        yield model.draw(asked_for(prompt, self.names, count).to(self.sigma.device))


def recipe(
    data: Literal["mnist", "fashion-mnist", "digits"] | Path = "mnist",  # images with a label each, read as grey
    epochs: int = 20,             # passes over the training set
    batch: int = 100,             # images a step
    lr: float = 2e-3,             # Adam with β₁ 0.5, of the discriminator
    lr_generator: Annotated[float, Within(0, above=True)] = 1e-3,  # the same, of the generator
    noise: Annotated[int, Within(1)] = 100,                        # numbers of it in z
    dropout: float = 0.5,         # probability, in the discriminator
    reader_epochs: Annotated[int, Within(1)] = 2,                  # of the reader that judges the samples
) -> Iterator[Stage]:  # fmt: skip
    images = hold_out(image_data(data, size=SIDE, channels=1), 10_000)
    mean = images.train.batch(torch.arange(len(images.train))).image.mean(0).flatten()
    reader = nn.Sequential(nn.ZeroPad2d(2), LeNet(1, images.classes))  # LeNet takes 32 × 32
    yield Stage(reader, images, Classification(images.names), adam(lr), epochs=reader_epochs, batch=batch, name="reader")
    model = CGANNotes(noise, images.classes, dropout)
    model.generator.pixels.bias.data = mean.clamp(1e-3, 1 - 1e-3).logit()  # as in cgan: it begins with the mean image
    players = dict(discriminator=adam(lr, betas=(0.5, 0.999)), generator=adam(lr_generator, betas=(0.5, 0.999)))
    yield Stage(model, images, NamesTheClass(reader, noise, images.names), players, epochs=epochs, batch=batch,
                evaluate_every=10 * (len(images.train) // batch), name="game")  # fmt: skip
