"""An epoch of small nets on MNIST beside the usual script: a loader with two workers that transforms image by image.

Model, losses, optimizer and batches are the same; the script is written out below. MNIST is used where it is at hand, else
bytes of its shape.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, default_collate

from benchmarks.pairing import Side, Work
from benchmarks.sides import Engine, in_order, repeated

MEAN, STD = 0.1307, 0.3081
IMAGES = 12_000  # of an epoch that is trained: a fifth of MNIST, so that a repeat takes seconds
NOISE, BETAS = 100, (0.5, 0.999)  # of the conditional GANs
STRENGTH, FISHER = 1e7, 1e-9  # of elastic weight consolidation
DIGITS = tuple("0123456789")

Learn = Callable[[str, Tensor], None]  # a player takes a step down this loss
Step = Callable[[Any, Learn, Tensor, Tensor], None]


# ── images ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def images(size: int = 28, mean: float = 0.0, std: float = 1.0, channels_last: bool = False) -> Any:
    """MNIST's training images, or bytes of their shape; `size` adds a border."""
    from fuxian.data.images import ImageSplit, mnist
    from fuxian.errors import DataMissing

    try:
        return mnist(size=size, mean=[mean], std=[std], channels_last=channels_last).train
    except DataMissing:
        draw = torch.Generator().manual_seed(1)
        image = torch.randint(0, 256, (60_000, 1, 28, 28), dtype=torch.uint8, generator=draw)
        label = torch.randint(0, 10, (60_000,), generator=draw)
        return ImageSplit(F.pad(image, [(size - 28) // 2] * 4), label, [mean], [std], channels_last=channels_last)


class PerImage(Dataset[tuple[Tensor, int]]):
    """As sets of pictures usually come: padded, to float, scaled and normalized, one image at a time."""

    def __init__(self, split: Any, size: int = 28, mean: float = 0.0, std: float = 1.0) -> None:
        self.image, self.label = split.image, split.label
        self.border, self.mean, self.std = (size - 28) // 2, mean, std

    def __len__(self) -> int:
        return len(self.label)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        image = F.pad(self.image[index], [self.border] * 4) if self.border else self.image[index]
        return (image.float().div(255) - self.mean) / self.std, int(self.label[index])


def loader(data: Dataset[Any], batch: int) -> DataLoader[Any]:
    return DataLoader(data, batch, shuffle=True, num_workers=2, persistent_workers=True, drop_last=True)


def feed() -> Side:
    split = images(mean=MEAN, std=STD)

    def epoch() -> None:
        for rows in torch.randperm(len(split))[: len(split) // 128 * 128].split(128):
            split.batch(rows)

    return Side(repeated(epoch), lambda: split.batch(torch.arange(64)).image)


def feed_peer(weights: Mapping[str, Tensor]) -> Side:
    data = PerImage(images(), mean=MEAN, std=STD)
    batches = loader(data, 128)

    def epoch() -> None:
        for _ in batches:
            pass

    return Side(repeated(epoch), lambda: torch.stack([data[i][0] for i in range(64)]))


# ── the nets, their losses and optimizers ───────────────────────────────────────────────────────────────────────────


def lenet() -> tuple[nn.Module, Any]:
    from fuxian.methods.vision.lenet import LeNet
    from fuxian.objectives.classification import Classification

    return LeNet(), Classification()


def vae() -> tuple[nn.Module, Any]:
    from fuxian.methods.generative.vae import VAE, Bound

    return VAE(784, 400, 20), Bound((1, 28, 28))


def cgan() -> tuple[nn.Module, Any]:
    from fuxian.methods.generative.cgan import CGAN, Adversarial

    return CGAN(NOISE, 10, 784, 0.5), Adversarial(NOISE, DIGITS, 28)


def cgan_notes() -> tuple[nn.Module, Any]:
    from fuxian.methods.generative.cgan_notes import CGANNotes, NamesTheClass

    return CGANNotes(NOISE, 10, 0.5), NamesTheClass(nn.Identity(), NOISE, DIGITS)


def ewc() -> tuple[nn.Module, Any]:
    from fuxian.methods.representation.continual import MLP, Stream, row

    model = MLP(784, 400, 10)
    start_P = row(model).detach()
    return model, Stream("task", DIGITS, 2, STRENGTH, [(torch.full_like(start_P, FISHER), start_P + 0.01)])


def second_task(split: Any) -> Any:
    from fuxian.methods.representation.continual import of_tasks

    return of_tasks(split, torch.arange(10), 1, 2)


def class_step(model: Any, learn: Learn, image: Tensor, label: Tensor) -> None:
    learn("model", F.cross_entropy(model(image), label))


def vae_step(model: Any, learn: Learn, image: Tensor, label: Tensor) -> None:
    x = image.flatten(1)
    mean, logvar = model.encode(x)
    z = mean + torch.randn_like(mean) * torch.exp(0.5 * logvar)
    reconstruction = F.binary_cross_entropy_with_logits(model.logits(z), x, reduction="sum")
    kl = -0.5 * torch.sum(1 + logvar - mean.pow(2) - logvar.exp())
    learn("model", (reconstruction + kl) / len(x))


def cgan_step(model: Any, learn: Learn, image: Tensor, label: Tensor) -> None:
    real, onehot = image.flatten(1), F.one_hot(label, 10).float()
    noise = (torch.rand(len(real), NOISE) * 2 - 1) * 3**0.5
    fake = model.generator(noise, onehot)
    on_real, on_fake = model.discriminator(real, onehot), model.discriminator(fake.detach(), onehot)
    bce = F.binary_cross_entropy_with_logits
    learn("discriminator", bce(on_real, torch.ones_like(on_real)) + bce(on_fake, torch.zeros_like(on_fake)))
    on_fake = model.discriminator(fake, onehot)
    learn("generator", bce(on_fake, torch.ones_like(on_fake)))


def cgan_notes_step(model: Any, learn: Learn, image: Tensor, label: Tensor) -> None:
    onehot = F.one_hot(label, 10).float()
    fake = model.generator(torch.cat([torch.randn(len(image), NOISE), onehot], 1))
    on_real, on_fake = model.discriminator(image), model.discriminator(fake.detach())
    bce = F.binary_cross_entropy_with_logits
    learn("discriminator", bce(on_real, onehot) + bce(on_fake, torch.zeros_like(on_fake)))
    learn("generator", bce(model.discriminator(fake), onehot))


class EWCStep:
    """The penalty parameter by parameter, as it is usually written."""

    def __init__(self, model: nn.Module) -> None:
        self.centre = {name: weight.detach().clone() + 0.01 for name, weight in model.named_parameters()}
        self.fisher = {name: torch.full_like(weight, FISHER) for name, weight in self.centre.items()}

    def __call__(self, model: Any, learn: Learn, image: Tensor, label: Tensor) -> None:
        loss = F.cross_entropy(model(image)[:, 2:4], label - 2)
        penalty = sum(
            (self.fisher[name] * (weight - self.centre[name]) ** 2).sum() for name, weight in model.named_parameters()
        )
        learn("model", loss + STRENGTH / 2 * penalty)


# ── an epoch ────────────────────────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True)
class Script:
    """`make` gives the model and our objective, `step` is the script's; `rates` are those of each player's Adam, or of SGD
    where there is a `momentum`. `theirs` gives the script's model, where that is another."""

    make: Callable[[], tuple[Any, Any]]
    step: Any
    rates: Mapping[str, float]
    batch: int
    images: Mapping[str, Any] = field(default_factory=dict)
    part: Callable[[Any], Any] = lambda split: split.part(slice(0, IMAGES))
    channels_last: bool = False
    momentum: float | None = None
    theirs: Callable[[], nn.Module] | None = None

    @property
    def betas(self) -> tuple[float, float]:
        return BETAS if "generator" in self.rates else (0.9, 0.999)

    def ours(self, lr: float) -> Any:
        from fuxian.optim import adam, sgd

        return adam(lr, betas=self.betas) if self.momentum is None else sgd(lr, momentum=self.momentum)

    def torchs(self, weights: Iterable[Tensor], lr: float) -> torch.optim.Optimizer:
        if self.momentum is None:
            return torch.optim.Adam(weights, lr, self.betas, fused=True)
        return torch.optim.SGD(weights, lr, self.momentum, fused=True)


def ours(script: Script) -> Side:
    from fuxian.contract import Splits, Stage

    model, objective = script.make()
    weights = {name: weight.detach().clone() for name, weight in model.named_parameters()}
    train = script.part(images(channels_last=script.channels_last, **script.images))
    players = {name: script.ours(lr) for name, lr in script.rates.items()}
    engine = Engine(Stage(model, Splits(train), objective, players, epochs=10, batch=script.batch, drop_last=True))

    def losses() -> Tensor:
        torch.manual_seed(1)
        return torch.stack([loss for _, loss in objective.losses(model.eval(), train.batch(torch.arange(64)))])

    return Side(lambda epochs: engine(epochs * engine.running.per_epoch), losses, weights)


def peer(weights: Mapping[str, Tensor], script: Script) -> Side:
    model: Any = script.theirs() if script.theirs else script.make()[0]
    in_order(model, weights)
    step = script.step(model) if isinstance(script.step, type) else script.step
    optimizers = {name: script.torchs(getattr(model, name, model).parameters(), lr) for name, lr in script.rates.items()}
    data = PerImage(script.part(images()), **script.images)
    batches = loader(data, script.batch)
    total = dict.fromkeys(optimizers, 0.0)

    def learn(player: str, loss: Tensor) -> None:
        optimizers[player].zero_grad()
        loss.backward()
        optimizers[player].step()
        total[player] += loss.item()

    def epoch() -> None:
        model.train()
        for image, label in batches:
            step(model, learn, image, label)

    def losses() -> Tensor:
        found: list[Tensor] = []
        torch.manual_seed(1)
        image, label = default_collate([data[i] for i in range(64)])
        step(model.eval(), lambda _, loss: found.append(loss), image, label)
        return torch.stack(found)

    return Side(repeated(epoch), losses)


def epoch(name: str, what: str, script: Script, goal: float | None, method: str) -> Work:
    sides = partial(ours, script), partial(peer, script=script)
    return Work(name, f"an epoch of {what}, 12,000 images", *sides, "the usual script", goal, method=method)


GAN = dict(discriminator=2e-3, generator=1e-3)
CENTRED = dict(size=32, mean=MEAN, std=STD)

WORKS = [
    Work("data", "MNIST’s images, once through, in batches", feed, feed_peer, "DataLoader, 2 workers", 0.05),
    epoch("lenet", "LeNet on MNIST", Script(lenet, class_step, dict(model=3e-3), 128, CENTRED, channels_last=True), 0.3,
          "lenet"),
    epoch("vae", "the VAE on MNIST", Script(vae, vae_step, dict(model=1e-3), 128), 0.3, "vae"),
    epoch("cgan", "the conditional GAN on MNIST", Script(cgan, cgan_step, GAN, 100), 0.3, "cgan"),
    epoch("cgan-notes", "the notes’ conditional GAN on MNIST", Script(cgan_notes, cgan_notes_step, GAN, 100), None,
          "cgan_notes"),
    epoch("continual", "one of split MNIST’s tasks under EWC",
          Script(ewc, EWCStep, dict(model=1e-3), 128, part=second_task), None, "continual"),
]  # fmt: skip
