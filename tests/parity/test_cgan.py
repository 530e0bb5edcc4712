"""cGAN: two steps of each player, written out by hand, equal the engine's. No library has this net."""

from __future__ import annotations

import json
import math

import pytest
import torch
from torch.distributions import Categorical, MixtureSameFamily, MultivariateNormal
from torch.nn.functional import logsigmoid

import fuxian
from fuxian.data.images import image_data
from fuxian.engine import seeds
from fuxian.methods.generative.cgan import CGAN, Maxout
from fuxian.metrics.parzen import WIDTHS, Parzen


def test_two_steps_of_each_player_by_hand(tmp_path, monkeypatch, prove) -> None:
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
    worst = max(((a - b).norm() / b.norm()).item() for a, b in zip(trained.parameters(), model.parameters(), strict=True))
    assert worst < 1e-5
    prove("cgan", "parity", reference="two steps of each player by hand", step=worst, dtype="float32")


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
