"""cGAN: both nets by their equations, a step of each player in turn, and the engine's steps by hand. No library has it."""

from __future__ import annotations

import json
import math

import pytest
import torch
from torch import Tensor, nn
from torch.distributions import Categorical, MixtureSameFamily, MultivariateNormal
from torch.nn.functional import logsigmoid

import fuxian
from fuxian.data.images import Images, image_data
from fuxian.engine import seeds
from fuxian.methods.generative.cgan import CGAN, Adversarial, Maxout
from fuxian.metrics.parzen import WIDTHS, Parzen
from fuxian.optim import adam

from .compare import Differences, in_both, parity, worst


class Reference(nn.Module):
    """Sec. 4.1, by sums and maxima; names as ours, with _ for a point."""

    def __init__(self, ours: nn.Module) -> None:
        super().__init__()
        self.names = {name: name.replace(".", "_") for name, _ in ours.named_parameters()}
        for name, weight in ours.named_parameters():
            self.register_parameter(self.names[name], nn.Parameter(weight.detach().clone()))

    def affine(self, name: str, x: Tensor) -> Tensor:
        weight, bias = (self.get_parameter(f"{name}_{kind}") for kind in ("weight", "bias"))
        return torch.einsum("oi,bi->bo", weight, x) + bias

    def maxout(self, name: str, x: Tensor, pieces: int) -> Tensor:
        z = self.affine(f"{name}_linear", x)
        return torch.stack([z[:, start : start + pieces].max(1).values for start in range(0, z.shape[1], pieces)], 1)

    def draw(self, noise: Tensor, label: Tensor) -> Tensor:
        hidden = torch.cat([self.affine("of_noise", noise).clamp_min(0), self.affine("of_class", label).clamp_min(0)], 1)
        return 1 / (1 + torch.exp(-self.affine("pixels", self.affine("joint", hidden).clamp_min(0))))

    def real(self, pixels: Tensor, label: Tensor) -> Tensor:
        """D(x|y), a probability."""
        both = torch.cat([self.maxout("of_pixels", pixels, 5), self.maxout("of_class", label, 5)], 1)
        return 1 / (1 + torch.exp(-self.affine("real", self.maxout("joint", both, 4))[:, 0]))


def compared() -> Differences:
    """A step of the discriminator, then one of the generator against the discriminator that has stepped: eq. 2."""
    torch.manual_seed(0)
    model = CGAN(6, 10, 16, dropout=0.0)
    generator, discriminator = Reference(model.generator), Reference(model.discriminator)
    image = Images(torch.rand(9, 1, 4, 4), torch.arange(9))
    x, y = image.image.flatten(1), torch.eye(10)[image.label]
    model.onehot = lambda label: torch.eye(10)[label]  # ours is of float32
    torch.manual_seed(7)
    losses = Adversarial(6, tuple("0123456789"), 4).losses(model, image)
    (player, d_loss), before = next(losses), torch.get_rng_state()
    assert player == "discriminator"
    torch.manual_seed(7)
    z = (2 * torch.rand(9, 6) - 1) * math.sqrt(3)
    assert torch.equal(before, torch.get_rng_state())  # all that is drawn
    how = dict(betas=(0.5, 0.999), eps=1e-4)  # a piece of a unit that hardly ever is the largest has a gradient near zero
    of_discriminator = parity(
        model.discriminator,
        discriminator,
        discriminator.names,
        outputs=lambda: (model.discriminator(x, y).sigmoid(), discriminator.real(x, y)),
        losses=lambda *_: (
            d_loss,
            -(discriminator.real(x, y).log() + (1 - discriminator.real(generator.draw(z, y).detach(), y)).log()).mean(),
        ),
        spec=adam(1e-3, **how),
        optimizer=torch.optim.Adam(discriminator.parameters(), 1e-3, **how, fused=False, foreach=False),
    )
    of_generator = parity(
        model.generator,
        generator,
        generator.names,
        outputs=lambda: (model(z, y), generator.draw(z, y)),
        losses=lambda *_: (next(losses)[1], -discriminator.real(generator.draw(z, y), y).log().mean()),
        spec=adam(1e-3, **how),
        optimizer=torch.optim.Adam(generator.parameters(), 1e-3, **how, fused=False, foreach=False),
    )
    assert next(losses, None) is None
    return worst(of_discriminator, of_generator)


def test_outputs_gradients_and_a_step_of_each_player(prove) -> None:
    prove("cgan", "parity", reference="the equations by sums and maxima", **in_both(compared))


@pytest.mark.slow
def test_two_steps_of_each_player_by_hand(tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("FUXIAN_RUNS", str(tmp_path))
    run = fuxian.run("cgan", data="digits", batch=1257, epochs=2, seed=5, lr=1e-4, lr_generator=2e-4)
    trained = fuxian.load(run).model

    seeds.seed_all(seeds.stream(5, "", "recipe"))
    images = image_data("digits").train.batch(torch.arange(1257))
    model = CGAN(100, 10, 64, 0.5)
    mean = images.image.mean(0).flatten().clamp(0.001, 0.999)
    model.generator.pixels.bias.data = (mean / (1 - mean)).log()
    optimizers = {
        name: torch.optim.Adam(model.get_submodule(name).parameters(), lr, betas=(0.5, 0.999), fused=False, foreach=False)
        for name, lr in (("discriminator", 1e-4), ("generator", 2e-4))
    }
    label = torch.eye(10)[images.label]
    losses = []
    for step in range(2):
        torch.manual_seed(seeds.stream(5, "train", "losses") + step)
        fake = model.generator((2 * torch.rand(1257, 100) - 1) * math.sqrt(3), label)
        real, fooled = model.discriminator(images.image.flatten(1), label), model.discriminator(fake.detach(), label)
        d_loss = -(logsigmoid(real).mean() + logsigmoid(-fooled).mean())  # eq. 2: -log D(x|y) - log(1 - D(G(z|y)))
        gradients = torch.autograd.grad(d_loss, list(model.discriminator.parameters()))
        for p, g in zip(model.discriminator.parameters(), gradients, strict=True):
            p.grad = g
        optimizers["discriminator"].step()
        g_loss = -logsigmoid(model.discriminator(fake, label)).mean()
        gradients = torch.autograd.grad(g_loss, list(model.generator.parameters()))
        for p, g in zip(model.generator.parameters(), gradients, strict=True):
            p.grad = g
        optimizers["generator"].step()
        losses.append((d_loss.item(), g_loss.item()))

    lines = [json.loads(line) for line in (run.folder / "metrics.jsonl").read_text().splitlines()]
    logged = [line for line in lines if "generator/loss" in line]
    assert [(line["discriminator/loss"], line["generator/loss"]) for line in logged] == [
        (pytest.approx(d, rel=1e-5), pytest.approx(g, rel=1e-5)) for d, g in losses
    ]
    # by the 2-norm: Adam's first steps are signs, and blow up the rounding of the few gradients that are nearly zero
    for ours, expected in zip(trained.parameters(), model.parameters(), strict=True):
        assert (ours - expected).norm() < 1e-5 * expected.norm()


def test_maxout_takes_the_largest_of_its_own_pieces() -> None:
    layer = Maxout(3, 2, 4)
    x = torch.randn(5, 3)
    pieces = x @ layer.linear.weight.T + layer.linear.bias  # unit 0 has the first four
    expected = torch.stack([pieces[:, :4].max(1).values, pieces[:, 4:].max(1).values], 1)
    torch.testing.assert_close(layer(x), expected)


def test_parzen_is_the_density_of_a_mixture() -> None:
    torch.manual_seed(0)
    samples, x = torch.rand(50, 3), torch.rand(20, 3)
    sigma = torch.tensor(0.3)
    metric = Parzen(samples, sigma)
    metric.update(x[:7])
    metric.update(x[7:])
    mixture = MixtureSameFamily(Categorical(torch.ones(50)), MultivariateNormal(samples, 0.09 * torch.eye(3)))
    assert metric.value() == pytest.approx(mixture.log_prob(x).mean().item(), abs=1e-4)
    assert metric.count == 20


def test_parzen_chooses_its_width_once_and_keeps_it() -> None:
    torch.manual_seed(0)
    sigma = torch.zeros(())
    choosing = Parzen(torch.randn(500, 2) * 0.5, sigma)
    choosing.update(torch.randn(500, 2) * 0.5)
    best = choosing.value()
    assert sigma.item() in [pytest.approx(w) for w in WIDTHS.tolist()]
    using = Parzen(choosing.samples, sigma)
    using.update(torch.randn(500, 2) * 0.5)
    assert using.value() == pytest.approx(best, abs=0.3)
    entropy = math.log(2 * math.pi * math.e * 0.25)  # of the true density, in nats: no estimate is above it
    assert best < -entropy + 0.2
