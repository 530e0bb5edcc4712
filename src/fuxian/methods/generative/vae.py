"""Variational autoencoder: images are pressed through a few Gaussian numbers, and new ones are drawn from those.

中文     变分自编码器
Paper    Kingma & Welling, ICLR 2014, arXiv:1312.6114: eq. 10 (bound), sec. 2.4 (reparametrization), app. B (KL), C (layers)
Code     pytorch/examples @ 77f55b9, vae/main.py: sizes, optimizer and protocol, which the paper leaves to the reader
Departs  ReLU for tanh, Adam for Adagrad, and grey levels read as probabilities, as in that code; the loss is the mean
         over a batch, not the sum, which to Adam is the same
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fuxian import figures
from fuxian.contract import Objective, Stage
from fuxian.data.images import Images, image_data
from fuxian.errors import WrongInput
from fuxian.facts import Claim, Paper, Within
from fuxian.optim import adam

PAPER = Paper("Auto-Encoding Variational Bayes", "Kingma & Welling", 2014, venue="ICLR", arxiv="1312.6114")
CLAIMS = [
    # two reruns gave 105.22 and 105.75: the tolerance is twice their distance
    Claim("test/loss", 105.5, where="pytorch/examples vae, reruns", tolerance=1.0, seeds=5, better="lower",
          comparison="no published number: the mean of two reruns of that code (seeds 1 and 2), ten epochs each"),
]  # fmt: skip
QUICK = dict(data="digits", epochs=40)

# Shape letters: B batch, P pixels of an image (channels × height × width), H hidden units, Z latent numbers.


class VAE(nn.Module):
    """Pixels (B, P) in 0 to 1 to their reconstruction (B, P), through the mean of q(z|x). App. C."""

    def __init__(self, pixels: int, hidden: int, latent: int) -> None:
        super().__init__()
        self.encoder = nn.Linear(pixels, hidden)
        self.mean = nn.Linear(hidden, latent)
        self.logvar = nn.Linear(hidden, latent)  # log σ²
        self.decoder = nn.Linear(latent, hidden)
        self.logit = nn.Linear(hidden, pixels)

    def encode(self, x_BP: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and log-variance (B, Z) of the Gaussian q(z|x): eq. 9."""
        h_BH = self.encoder(x_BP).relu()
        return self.mean(h_BH), self.logvar(h_BH)

    def logits(self, z_BZ: Tensor) -> Tensor:
        """Of the Bernoulli p(x|z), for each pixel (B, P): eq. 11."""
        return self.logit(self.decoder(z_BZ).relu())

    def decode(self, z_BZ: Tensor) -> Tensor:
        """The mean (B, P) of p(x|z)."""
        return self.logits(z_BZ).sigmoid()

    def forward(self, x_BP: Tensor) -> Tensor:
        return self.decode(self.encode(x_BP)[0])


def kl(mean_BZ: Tensor, logvar_BZ: Tensor) -> Tensor:
    """KL(N(mean, e^logvar) ‖ N(0, I)), one row an example (B,), in nats: app. B."""
    return 0.5 * (mean_BZ.square() + logvar_BZ.exp() - 1 - logvar_BZ).sum(1)


class Bound(Objective):
    """The negative evidence lower bound, with one sample of z for each image: eq. 10 with L = 1. `shape` is an image's."""

    def __init__(self, shape: tuple[int, int, int]) -> None:
        self.shape = shape

    def inputs(self, batch: Images) -> tuple[Tensor, ...]:
        return (batch.image.flatten(1),)

    def noise(self, batch: Images, like: Tensor) -> Tensor:
        """ε ~ N(0, I) of the shape of `like`: all that is drawn here."""
        return torch.randn_like(like)

    def terms(self, model: VAE, batch: Images) -> tuple[Tensor, Tensor]:
        """-log p(x|z) and KL(q(z|x) ‖ p(z)), (B,) each, in nats."""
        x_BP = batch.image.flatten(1)
        mean_BZ, logvar_BZ = model.encode(x_BP)
        z_BZ = mean_BZ + (0.5 * logvar_BZ).exp() * self.noise(batch, mean_BZ)  # sec. 2.4
        reconstruction_BP = F.binary_cross_entropy_with_logits(model.logits(z_BZ), x_BP, reduction="none")
        return reconstruction_BP.sum(1), kl(mean_BZ, logvar_BZ)

    def losses(self, model: VAE, batch: Images) -> Iterator[tuple[str, Tensor]]:
        reconstruction_B, kl_B = self.terms(model, batch)
        yield "model", (reconstruction_B + kl_B).mean()

    def evaluate(self, model: VAE, batch: Images) -> Iterator[tuple[str, Tensor]]:
        reconstruction_B, kl_B = self.terms(model, batch)
        yield "loss", reconstruction_B + kl_B
        yield "reconstruction", reconstruction_B
        yield "kl", kl_B

    def images(self, pixels_NP: Tensor) -> Tensor:
        return pixels_NP.view(-1, *self.shape)

    def sample(self, model: VAE, count: int, prompt: str = "") -> Iterator[Tensor]:
        """Images of z ~ N(0, I), as p(x|z) expects them."""
        if prompt:
            raise WrongInput(f"this model draws without being asked for anything; it cannot use {prompt!r}")
        yield self.images(model.decode(torch.randn(count, model.mean.out_features, device=model.mean.weight.device)))

    def pictures(self, model: Any, split: Any) -> dict[str, Any]:
        """Samples; reconstructions, each under its image; and row by row a walk from one image's mean to the next one's."""
        device = model.mean.weight.device
        first_N = torch.arange(min(16, len(split)), device=getattr(split, "device", None))
        x_NP = split.batch(first_N).image.flatten(1).to(device)
        mean_NZ = model.encode(x_NP)[0]
        start, end = mean_NZ[:8, None], mean_NZ.roll(-1, 0)[:8, None]
        walk_NZ = start.lerp(end, torch.linspace(0, 1, 10, device=device)[:, None]).flatten(0, 1)
        pairs_NP = torch.cat([torch.cat([row_NP, model(row_NP)]) for row_NP in x_NP.split(8)])
        (samples,) = self.sample(model, 64)
        ink = (lambda x: 1 - x) if self.shape[0] == 1 else (lambda x: x)  # grey images as ink on paper
        return {
            "samples": figures.image_grid(ink(samples), columns=8),
            "reconstructions": figures.image_grid(ink(self.images(pairs_NP)), columns=8),
            "walk": figures.image_grid(ink(self.images(model.decode(walk_NZ))), columns=10),
        }


def recipe(
    data: Literal["mnist", "fashion-mnist", "digits"] | Path = "mnist",  # images; their labels are not used
    hidden: int = 400,            # units of the one layer on either side; main.py
    latent: Annotated[int, Within(1)] = 20,  # numbers that stand for an image; main.py
    epochs: int = 10,             # passes over the training set; main.py
    batch: int = 128,             # images a step; main.py
    lr: float = 1e-3,             # Adam; main.py
) -> Iterator[Stage]:  # fmt: skip
    images = image_data(data)
    shape = (images.channels, images.size, images.size)
    model = VAE(images.channels * images.size**2, hidden, latent)
    yield Stage(model, images, Bound(shape), adam(lr), epochs=epochs, batch=batch)
