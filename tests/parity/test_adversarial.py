"""The attacks against what is worst in closed form, and against gradients by hand; maxout against its equations."""

from __future__ import annotations

from itertools import product
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fuxian.data.images import Images
from fuxian.evaluation import measure
from fuxian.methods.vision.adversarial import Attacked, Maxout, Softmax, fgsm, pgd, recipe
from fuxian.optim import sgd

from .compare import Differences, first_loss, in_both, parity, relative


class Reference(nn.Module):
    """Maxout as loops over its units, with the gradient of its pixels by autograd through all weights."""

    def __init__(self, pixels: int, hidden: int, classes: int, pieces: int) -> None:
        super().__init__()
        shapes = [(hidden * pieces, pixels), (hidden * pieces, hidden), (classes, hidden)]
        self.w = nn.ParameterList([torch.zeros(shape) for shape in shapes])
        self.b = nn.ParameterList([torch.zeros(rows) for rows, _ in shapes])
        self.pieces = pieces

    def forward(self, image: Tensor) -> Tensor:
        x = image.flatten(1)
        for w, b in zip(self.w[:2], self.b[:2], strict=True):
            pieces = (x @ w.T + b).split(self.pieces, 1)
            x = torch.stack([torch.stack(unit.unbind(1)).max(0).values for unit in pieces], 1)
        return x @ self.w[2].T + self.b[2]

    def mixed(self, image: Tensor, label: Tensor, epsilon: float) -> Tensor:
        entropy = lambda x: -F.one_hot(label, 3).mul(self(x).log_softmax(1)).sum(1)
        pixels = image.clone().requires_grad_()
        entropy(pixels).sum().backward()
        self.zero_grad()
        assert pixels.grad is not None
        attack = torch.min(torch.max(image + epsilon * pixels.grad.sign(), torch.tensor(0.0)), torch.tensor(1.0))
        return 0.75 * entropy(image).mean() + 0.25 * entropy(attack).mean()


def compared() -> Differences:
    torch.manual_seed(0)
    ours, reference = Maxout(16, 5, 3, pieces=4).eval(), Reference(16, 5, 3, 4)
    for weight in ours.parameters():
        nn.init.normal_(weight, std=0.5)
    batch = Images(torch.rand(6, 1, 4, 4), torch.randint(3, (6,)))
    layers = dict(first="0", second="1", output="2")
    return parity(
        ours,
        reference,
        {f"{n}.{k}": f"{k[0]}.{i}" for n, i in layers.items() for k in ("weight", "bias")},
        outputs=lambda: (ours(batch.image), reference(batch.image)),
        losses=lambda *_: (
            first_loss(Attacked((), 0.1, 0.01, 1, clean=0.75), ours, batch),
            reference.mixed(batch.image, batch.label, 0.1),
        ),
        spec=sgd(0.1, momentum=0.5),
        optimizer=torch.optim.SGD(reference.parameters(), lr=0.1, momentum=0.5, fused=False, foreach=False),
    )


def test_outputs_gradients_and_step(prove) -> None:
    prove("adversarial", "parity", reference="maxout as loops, and the loss of sec. 6 by autograd", **in_both(compared))


def two_classes(low: float, high: float) -> tuple[Softmax, Tensor, Tensor]:
    torch.manual_seed(1)
    image = low + (high - low) * torch.rand(20, 1, 2, 4, dtype=torch.float64)
    return Softmax(8, 2).double(), image, torch.arange(20) % 2


def test_of_a_linear_model_it_is_the_worst_in_closed_form() -> None:
    model, image, label = two_classes(0.3, 0.7)
    w, b = (model.output.weight[1] - model.output.weight[0]).detach(), model.output.bias.diff().detach()
    y = 2.0 * label - 1
    worst = F.softplus(0.25 * w.abs().sum() - y * (image.flatten(1) @ w + b))  # sec. 5: ζ(ε‖w‖₁ - y(w·x + b))
    attack = fgsm(model, image, label, 0.25)
    assert relative(F.cross_entropy(model(attack), label, reduction="none"), worst) < 1e-12
    by_steps = pgd(model, image, label, 0.25, 0.1, 6)  # 6 × 0.1 crosses the box
    assert relative(F.cross_entropy(model(by_steps), label, reduction="none"), worst) < 1e-12


def test_no_corner_of_the_box_within_0_to_1_is_worse() -> None:
    model, image, label = two_classes(0.0, 1.0)
    low, high = (image - 0.25).clamp(0, 1), (image + 0.25).clamp(0, 1)
    corners = torch.tensor(list(product([0.0, 1.0], repeat=8)), dtype=torch.float64).view(-1, 1, 1, 2, 4)
    losses = torch.stack([F.cross_entropy(model(low + c * (high - low)), label, reduction="none") for c in corners])
    attack = fgsm(model, image, label, 0.25)
    assert relative(F.cross_entropy(model(attack), label, reduction="none"), losses.max(0).values) < 1e-12
    assert bool((attack == 0).any())
    assert bool((attack == 1).any())


def test_of_many_classes_it_follows_the_gradient_by_hand() -> None:
    torch.manual_seed(2)
    model, image, label = Softmax(9, 4).double(), torch.rand(7, 1, 3, 3, dtype=torch.float64), torch.randint(4, (7,))
    weight, bias = model.output.weight.detach(), model.output.bias.detach()

    def by_hand(x: Tensor) -> Tensor:
        wrong = (x.flatten(1) @ weight.T + bias).softmax(1) - F.one_hot(label, 4)
        return (wrong @ weight).sign().view_as(x)  # ∇ₓ J = Wᵀ (p - y)

    assert torch.equal(fgsm(model, image, label, 0.1), (image + 0.1 * by_hand(image)).clamp(0, 1))
    torch.manual_seed(3)
    found = pgd(model, image, label, 0.1, 0.03, 5)
    torch.manual_seed(3)
    low, high = (image - 0.1).clamp(0, 1), (image + 0.1).clamp(0, 1)
    x = low + (high - low) * torch.rand_like(image)
    for _ in range(5):
        x = torch.minimum(torch.maximum(x + 0.03 * by_hand(x), low), high)
    assert relative(found, x) < 1e-12


def test_attacks_stay_in_the_box_and_give_the_weights_no_gradient() -> None:
    torch.manual_seed(4)
    model, image, label = Maxout(16, 5, 3), torch.rand(50, 1, 4, 4), torch.randint(3, (50,))
    for attack in (fgsm(model, image, label, 0.2), pgd(model, image, label, 0.2, 0.05, 10)):
        assert float((attack - image).abs().max()) <= 0.2 + 1e-6
        assert 0 <= float(attack.min()) <= float(attack.max()) <= 1
    assert all(weight.grad is None for weight in model.parameters())


def test_rows_that_have_grown_too_long_are_cut_after_the_step() -> None:
    torch.manual_seed(5)
    model = Maxout(16, 5, 3)
    model.first.weight.data[0] = 1.0  # length 4
    before = model.first.weight.detach().clone()
    steps = Attacked((), 0.1, 0.01, 1, clean=1.0).losses(model, Images(torch.rand(2, 1, 4, 4), torch.tensor([0, 1])))
    next(steps)
    assert torch.equal(model.first.weight, before)
    next(steps, None)
    assert model.first.weight[0].norm().item() == pytest.approx(1.9365, rel=1e-5)
    assert torch.equal(model.first.weight[1:], before[1:])


def test_every_image_is_attacked_and_noise_is_not_enough() -> None:
    stage: Any = next(iter(recipe(data="digits", pgd_steps=3)))
    model, test = stage.model, stage.data.test.split
    torch.manual_seed(0)
    train = stage.data.train.batch(torch.arange(1257))
    means = [train.image.flatten(1)[train.label == digit].mean(0) for digit in range(10)]
    model.output.weight.data = torch.stack(means)
    model.output.bias.data = -model.output.weight.data.square().sum(1) / 2  # reads by the nearest mean: no training at all
    counts: dict[str, float] = {}
    found = measure(model, stage.objective, test, 100, counts=counts)
    assert counts == dict.fromkeys(counts, 360)
    batch = test.batch(torch.arange(360))
    noisy = (batch.image + 0.25 * torch.randn_like(batch.image).sign()).clamp(0, 1)
    assert found["error"] < 0.15 < found["fgsm_error"]
    assert (model(noisy).argmax(1) != batch.label).float().mean() < found["fgsm_error"] / 2
