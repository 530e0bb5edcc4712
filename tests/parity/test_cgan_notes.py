"""The notes' conditional GAN: its losses against torch's BCELoss, who gets which gradient, two steps by hand."""

from __future__ import annotations

import json

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import fuxian
from fuxian.data.images import Images, image_data
from fuxian.engine import seeds
from fuxian.errors import WrongInput
from fuxian.evaluation import judging
from fuxian.methods.generative import cgan_notes
from fuxian.methods.generative.cgan import CGAN, Adversarial
from fuxian.methods.generative.cgan_notes import CGANNotes, NamesTheClass, Share
from fuxian.methods.vision.lenet import LeNet
from fuxian.optim import adam

from .compare import Differences, in_both, parity, worst

DIGITS = tuple("0123456789")


class Reference(nn.Module):
    """The notes' nets of torch's layers: as many linear pieces as a maxout has, and the largest of each unit's."""

    def __init__(self, ours: nn.Module) -> None:
        super().__init__()
        self.layers = nn.ModuleDict()
        for name, weight in ours.named_parameters():
            if name.endswith("weight"):
                self.layers[name.split(".")[0]] = nn.Linear(*reversed(weight.shape))
        self.names = {n: f"layers.{n.split('.')[0]}.{n.split('.')[-1]}" for n, _ in ours.named_parameters()}

    def forward(self, given: Tensor) -> Tensor:
        """The generator's images, or the discriminator's probabilities, by what it is a reference of."""
        if "hidden" in self.layers:
            joint = self.layers["joint"](self.layers["hidden"](given).relu()).relu()
            return self.layers["pixels"](joint).sigmoid().view(-1, 1, 28, 28)
        units = F.max_pool1d(self.layers["pixels"](given.flatten(1))[:, None], 5)[:, 0]
        units = F.max_pool1d(self.layers["joint"](units)[:, None], 4)[:, 0]
        return self.layers["classes"](units).sigmoid()


def compared() -> Differences:
    """The losses as the notes write them, with BCELoss: the discriminator steps, then the generator against it."""
    torch.manual_seed(0)
    model = CGANNotes(6, 10, dropout=0.0)
    generator, discriminator = Reference(model.generator), Reference(model.discriminator)
    for name, other in generator.names.items():  # the discriminator's fakes need it before it is compared
        generator.get_parameter(other).data.copy_(model.generator.get_parameter(name))
    batch = Images(torch.rand(5, 1, 28, 28), torch.tensor([3, 1, 4, 1, 5]))
    torch.manual_seed(7)
    losses = NamesTheClass(nn.Flatten(), 6, DIGITS).losses(model, batch)
    player, d_loss = next(losses)
    assert player == "discriminator"
    assert all(weight.grad is None for weight in model.parameters())
    torch.manual_seed(7)
    real_label = torch.eye(10)[batch.label]
    z, bce = torch.cat([torch.randn(5, 6), real_label], 1), nn.BCELoss()  # [B, noise + 10]
    how = dict(betas=(0.5, 0.999), eps=1e-4)  # a piece of a unit that hardly ever is the largest has a gradient near zero
    of_discriminator = parity(
        model.discriminator,
        discriminator,
        discriminator.names,
        outputs=lambda: (model.discriminator(batch.image).sigmoid(), discriminator(batch.image)),
        losses=lambda _, on_real: (
            d_loss,
            bce(on_real, real_label) + bce(discriminator(generator(z).detach()), torch.zeros(5, 10)),
        ),
        spec=adam(1e-3, **how),
        optimizer=torch.optim.Adam(discriminator.parameters(), 1e-3, **how, fused=False, foreach=False),
    )
    assert all(weight.grad is None for weight in model.generator.parameters())  # it is fixed
    of_generator = parity(
        model.generator,
        generator,
        generator.names,
        outputs=lambda: (model(z), generator(z)),
        losses=lambda _, fake: (next(losses)[1], bce(discriminator(fake), real_label)),
        spec=adam(1e-3, **how),
        optimizer=torch.optim.Adam(generator.parameters(), 1e-3, **how, fused=False, foreach=False),
    )
    assert next(losses, None) is None
    return worst(of_discriminator, of_generator)


def test_outputs_gradients_and_a_step_of_each_player(prove) -> None:
    prove("cgan_notes", "parity", reference="torch's layers and BCELoss", **in_both(compared))


@pytest.mark.slow
def test_two_steps_of_each_player_by_hand(tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("FUXIAN_RUNS", str(tmp_path))
    monkeypatch.setattr(cgan_notes, "SAMPLES", 20)  # to judge by: they are not what is looked at here
    knobs = dict(data="digits", batch=1257, epochs=2, reader_epochs=1, seed=5, lr=1e-4, lr_generator=2e-4)
    run = fuxian.run("cgan_notes", **knobs)
    trained = fuxian.load(run).model

    images = image_data("digits", size=28).train.batch(torch.arange(1257))
    seeds.seed_all(seeds.stream(5, "", "recipe") + 1)  # after the reader's stage
    model = CGANNotes(100, 10, 0.5)
    model.generator.pixels.bias.data = images.image.mean(0).flatten().clamp(1e-3, 1 - 1e-3).logit()
    players = {
        name: torch.optim.Adam(model.get_submodule(name).parameters(), lr, betas=(0.5, 0.999), fused=False, foreach=False)
        for name, lr in (("discriminator", 1e-4), ("generator", 2e-4))
    }
    real_label = torch.eye(10)[images.label]
    bce, losses = nn.BCELoss(), []
    for step in range(2):
        torch.manual_seed(seeds.stream(5, "game", "losses") + step)
        fake = model.generator(torch.cat([torch.randn(1257, 100), real_label], 1))
        on_real, on_fake = model.discriminator(images.image).sigmoid(), model.discriminator(fake.detach()).sigmoid()
        d_loss = bce(on_real, real_label) + bce(on_fake, torch.zeros(1257, 10))
        g_loss = None
        for name, loss in (("discriminator", d_loss), ("generator", g_loss)):
            if loss is None:
                loss = g_loss = bce(model.discriminator(fake).sigmoid(), real_label)
            weights = list(model.get_submodule(name).parameters())
            for weight, gradient in zip(weights, torch.autograd.grad(loss, weights), strict=True):
                weight.grad = gradient
            players[name].step()
        assert g_loss is not None
        losses.append((d_loss.item(), g_loss.item()))

    lines = [json.loads(line) for line in (run.folder / "metrics.jsonl").read_text().splitlines()]
    logged = [(line["discriminator/loss"], line["generator/loss"]) for line in lines if "generator/loss" in line]
    assert logged == [(pytest.approx(d, rel=1e-5), pytest.approx(g, rel=1e-5)) for d, g in losses]
    # by the 2-norm: Adam's first steps are signs, and blow up the rounding of the few gradients that are nearly zero
    for ours, expected in zip(trained.parameters(), model.parameters(), strict=True):
        assert (ours - expected).norm() < 1e-5 * expected.norm()


def test_what_the_reader_reads_is_counted(monkeypatch) -> None:
    monkeypatch.setattr(cgan_notes, "SAMPLES", 20)
    torch.manual_seed(0)
    model = CGANNotes(6, 10, 0.0)
    reader = nn.Sequential(nn.ZeroPad2d(2), LeNet())
    objective = NamesTheClass(reader, 6, DIGITS)
    assert not any(weight.requires_grad for weight in objective.parameters())
    with judging(model, objective):
        asked = objective.metrics(model)["asked"]
        assert asked.count == 200
        last = reader[1].output
        last.weight.zero_()
        last.bias.copy_(torch.eye(10)[3])  # reads everything as a three
        assert objective.metrics(model)["asked"].value() == 0.1
    assert Share(torch.tensor([True, False, True, True])).value() == 0.75


@pytest.mark.parametrize("kind", ["cgan", "cgan_notes"])
def test_samples_are_of_the_class_that_is_asked_for(kind: str, monkeypatch) -> None:
    if kind == "cgan":
        model, objective, side = CGAN(100, 10, 64, 0.5), Adversarial(100, DIGITS, 8), 8
    else:
        model, objective, side = CGANNotes(100, 10, 0.5), NamesTheClass(nn.Flatten(), 100, DIGITS), 28
    asked, draw = [], model.draw
    monkeypatch.setattr(model, "draw", lambda label: asked.append(label.tolist()) or draw(label))
    with torch.no_grad():
        (images,) = objective.sample(model, 3, "7")
        (others,) = objective.sample(model, 12)
    assert images.shape == (3, 1, side, side)
    assert others.shape == (12, 1, side, side)
    assert 0 <= float(images.min()) <= float(images.max()) <= 1
    assert asked == [[7, 7, 7], [*range(10), 0, 1]]
    with pytest.raises(WrongInput, match="there is no class 'seven' to draw"):
        next(objective.sample(model, 3, "seven"))
