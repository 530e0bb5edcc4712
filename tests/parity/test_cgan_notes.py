"""The notes' conditional GAN: its losses against torch's BCELoss, who gets which gradient, two steps by hand."""

from __future__ import annotations

import json

import pytest
import torch
from torch import nn

import fuxian
from fuxian.data.images import Images, image_data
from fuxian.engine import seeds
from fuxian.errors import WrongInput
from fuxian.evaluation import judging
from fuxian.methods.generative import cgan_notes
from fuxian.methods.generative.cgan import CGAN, Adversarial
from fuxian.methods.generative.cgan_notes import CGANNotes, NamesTheClass, Share
from fuxian.methods.vision.lenet import LeNet

DIGITS = tuple("0123456789")


def game() -> tuple[CGANNotes, NamesTheClass, Images]:
    torch.manual_seed(0)
    model = CGANNotes(6, 10, dropout=0.0).double()
    batch = Images(torch.rand(5, 1, 28, 28, dtype=torch.float64), torch.tensor([3, 1, 4, 1, 5]))
    return model, NamesTheClass(nn.Flatten(), 6, DIGITS), batch


def test_losses_and_gradients_as_the_notes_write_them() -> None:
    model, objective, batch = game()
    torch.manual_seed(7)
    losses = objective.losses(model, batch)
    player, loss = next(losses)
    assert player == "discriminator"
    gradients = torch.autograd.grad(loss, list(model.parameters()), allow_unused=True)

    torch.manual_seed(7)
    real_label = torch.eye(10, dtype=torch.float64)[batch.label]
    z = torch.cat([torch.randn(5, 6), real_label], 1)  # [B, noise + 10]
    assert z.shape == (5, 16)
    fake_image = model.generator(z)
    assert fake_image.shape == (5, 1, 28, 28)
    bce = nn.BCELoss()
    d_real_loss = bce(model.discriminator(batch.image).sigmoid(), real_label)
    d_fake_loss = bce(model.discriminator(fake_image.detach()).sigmoid(), torch.zeros(5, 10, dtype=torch.float64))
    torch.testing.assert_close(loss, d_real_loss + d_fake_loss, rtol=1e-10, atol=0)
    expected = torch.autograd.grad(d_real_loss + d_fake_loss, list(model.parameters()), allow_unused=True)
    for (name, _), ours, theirs in zip(model.named_parameters(), gradients, expected, strict=True):
        assert (ours is None) == (theirs is None) == name.startswith("generator"), name  # the generator is fixed
        if ours is not None:
            torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-14)

    with torch.no_grad():  # as if it had stepped: the generator is judged by the discriminator of now
        model.discriminator.classes.bias += 0.5
    player, loss = next(losses)
    assert player == "generator"
    torch.testing.assert_close(loss, bce(model.discriminator(fake_image).sigmoid(), real_label), rtol=1e-10, atol=0)
    gradients = torch.autograd.grad(loss, list(model.generator.parameters()))
    assert all(bool(gradient.any()) for gradient in gradients)
    assert next(losses, None) is None


def test_two_steps_of_each_player_by_hand(tmp_path, monkeypatch, prove) -> None:
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
    worst = max(((a - b).norm() / b.norm()).item() for a, b in zip(trained.parameters(), model.parameters(), strict=True))
    assert worst < 1e-5
    prove("cgan_notes", "parity", reference="two steps of each player by hand", step=worst, dtype="float32")


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
