"""Function approximation: nets by hand, how SIREN starts, the matrix of a linear net, which pixels are learned."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import nn

import fuxian
from fuxian.data.pictures import picture
from fuxian.engine.run import Run
from fuxian.errors import WrongInput
from fuxian.evaluation import measure
from fuxian.methods.basics.backpropagation import Cases
from fuxian.methods.basics.function_approximation import (
    PSNR,
    SIREN,
    Coordinates,
    Curve,
    Fit,
    collapsed,
    grid,
    layers,
    photograph,
    sine,
    xor,
)
from fuxian.optim import adam

from .compare import Differences, in_both, parity, worst

SIZES = [2, 16, 16, 16, 3]


class Plain(nn.Module):
    """Four of torch's layers by their names, and how a place comes in and a colour out."""

    def __init__(self, inputs: int, first: Any, between: Any, last: Any) -> None:
        super().__init__()
        self.a, self.b, self.c, self.d = nn.Linear(inputs, 16), nn.Linear(16, 16), nn.Linear(16, 16), nn.Linear(16, 3)
        self.first, self.between, self.last = first, between, last

    def forward(self, place: torch.Tensor) -> torch.Tensor:
        x = self.first(place)
        for layer in (self.a, self.b, self.c):
            x = self.between(layer(x))
        return self.last(self.d(x))


def waves(frequency: torch.Tensor) -> Any:
    """One cosine and one sine at a time."""
    return lambda place: torch.stack(
        [f(2 * math.pi * (b[0] * place[:, 0] + b[1] * place[:, 1])) for f in (torch.cos, torch.sin) for b in frequency], 1
    )


def compared() -> Differences:
    torch.manual_seed(0)
    frequency = torch.randn(5, 2)
    pairs = [
        (SIREN(SIZES, 30.0), Plain(2, lambda p: p * 2 - 1, lambda x: torch.sin(30 * x), lambda y: 0.5 * y + 0.5)),
        (Coordinates(SIZES), Plain(2, lambda p: p, nn.functional.relu, torch.sigmoid)),
        (Coordinates(SIZES, frequency), Plain(10, waves(frequency), nn.functional.relu, torch.sigmoid)),
    ]
    batch = Cases(torch.rand(20, 2), torch.rand(20, 3))
    found = []
    for ours, reference in pairs:
        names = dict(zip(dict(ours.named_parameters()), dict(reference.named_parameters()), strict=True))
        found.append(
            parity(
                ours,
                reference,
                names,
                outputs=lambda ours=ours, reference=reference: (ours(batch.given), reference(batch.given)),
                losses=lambda _, expected, ours=ours: (
                    Fit().squares(ours, batch).mean(),
                    nn.functional.mse_loss(expected, batch.desired),
                ),
                spec=adam(1e-3, eps=1e-3),
                optimizer=torch.optim.Adam(reference.parameters(), lr=1e-3, eps=1e-3),
            )
        )
    return worst(*found)


def test_outputs_gradients_and_step(prove) -> None:
    found = in_both(compared)
    prove("function_approximation", "parity", reference="the three nets by torch's layers, and Adam", **found)


def test_siren_starts_where_the_paper_says() -> None:
    """Sec. 3.2: first ±1/n, then ±√(6/n)/ω₀; so the input of every later sine has a deviation of 1."""
    torch.manual_seed(0)
    net, n = SIREN([2, 1024, 1024, 1024, 1], 30.0), 1024
    bounds = [1 / 2, *[math.sqrt(6 / n) / 30] * 3]
    for layer, bound in zip(net.layers, bounds, strict=True):
        weight: Any = layer.weight
        assert 0.98 * bound < weight.abs().max().item() <= bound
        assert weight.std().item() == pytest.approx(bound / math.sqrt(3), rel=0.05)
    x = 2 * torch.rand(500, 2) - 1
    for layer in net.layers[:-1]:
        z = 30 * layer(x)
        if layer is not net.layers[0]:
            assert z.std().item() == pytest.approx(1, abs=0.15)
        x = z.sin()


def test_fourier_features_make_a_kernel_of_differences() -> None:
    """γ(u) · γ(v) = Σ cos 2π b · (u - v): sec. 5."""
    torch.manual_seed(0)
    frequency = torch.randn(7, 2).double() * 3
    net = Coordinates(SIZES, frequency)
    u, v, shift = torch.rand(3, 4, 2).double()
    kernel = (net.features(u) * net.features(v)).sum(1)
    torch.testing.assert_close(kernel, (2 * math.pi * (u - v) @ frequency.T).cos().sum(1))
    torch.testing.assert_close(kernel, (net.features(u + shift) * net.features(v + shift)).sum(1))


def test_a_linear_net_is_one_matrix_and_one_that_bends_is_none() -> None:
    torch.manual_seed(0)
    x = torch.randn(50, 3).double()
    net = layers([3, 7, 5, 6, 2], None).double()
    matrix, bias = collapsed(net)
    assert (matrix.shape, bias.shape) == ((2, 3), (2,))
    torch.testing.assert_close(net(x), x @ matrix.T + bias, rtol=0, atol=1e-14)
    bent = layers([3, 7, 5, 6, 2], nn.Tanh).double()
    matrix, bias = collapsed(bent)
    assert (bent(x) - x @ matrix.T - bias).abs().max() > 0.01
    assert [type(part) for part in bent] == [nn.Linear, nn.Tanh] * 3 + [nn.Linear]


def test_no_linear_function_is_nearer_to_xor_than_a_half() -> None:
    train: Any = xor().train
    cases = train.batch(torch.arange(4))
    assert torch.cat([cases.given, cases.desired], 1).tolist() == [[0, 0, 0], [0, 1, 1], [1, 0, 1], [1, 1, 0]]
    ones = torch.cat([cases.given, torch.ones(4, 1)], 1)
    best = torch.linalg.lstsq(ones, cases.desired).solution
    torch.testing.assert_close(ones @ best, torch.full((4, 1), 0.5))
    assert (ones @ best - cases.desired).square().mean().item() == pytest.approx(0.25)


def test_a_quarter_of_the_pixels_is_learned_and_each_has_its_place() -> None:
    pixels = picture("flower", 24)
    data: Any = photograph("flower", pixels)
    height, width = pixels.shape[1:]
    assert (height, width) == (16, 24)
    assert (len(data.train), len(data.test)) == (8 * 12, height * width - 8 * 12)
    seen = {}
    for split in (data.train, data.test.split):
        batch = split.batch(torch.arange(len(split)))
        for place, colour in zip((batch.given * width).round().long().tolist(), batch.desired, strict=True):
            seen[tuple(place)] = colour, split is data.train
    assert len(seen) == height * width
    for (y, x), (colour, learned) in seen.items():
        assert torch.equal(colour, pixels[:, y, x])
        assert learned == (y % 2 == 0 and x % 2 == 0)
    assert grid(pixels).amax(0).tolist() == pytest.approx([15 / 24, 23 / 24])


def test_psnr_is_of_the_mean_over_all_pixels() -> None:
    metric = PSNR()
    metric.update(torch.tensor([0.01, 0.03]))
    metric.update(torch.tensor([0.0]))
    assert (metric.value(), metric.count) == (pytest.approx(-10 * math.log10(0.04 / 3)), 3)
    exact = PSNR()
    exact.update(torch.zeros(4))
    assert exact.value() == math.inf


def test_what_is_inside_and_what_is_outside() -> None:
    data, inside = sine()
    test: Any = data.test
    seen, middles, outside = (
        split.batch(torch.arange(len(split))).given[:, 0].abs() for split in (data.train, inside, test)
    )
    assert (len(seen), len(middles), len(outside)) == (256, 255, 256)
    assert seen.max().item() == pytest.approx(math.pi)
    assert middles.max() < math.pi < outside.min()
    found = measure(nn.ModuleDict({"zero": Zero()}), Curve(), test, 50)
    assert found["zero_error"] == pytest.approx(0.5, abs=0.01)  # the mean of sin²


class Zero(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * 0


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return fuxian.run("function_approximation", quick=True, siren_lr=5e-4, parent=tmp_path_factory.mktemp("runs"))


def test_nets_fit_inside_and_fail_outside(made: Run) -> None:
    for name in ("tanh", "relu"):
        inside, outside = made.metrics[f"inside/{name}_error"], made.metrics[f"sine/test/{name}_error"]
        assert inside < 0.01
        assert outside > 0.1


def test_xor_needs_a_bend(made: Run) -> None:
    assert made.metrics["xor/train/linear_error"] == pytest.approx(0.25, abs=1e-4)
    assert made.metrics["xor/train/tanh_error"] < 0.05
    assert made.metrics["collapse_gap"] < 1e-12


def test_each_net_has_its_own_rate_and_the_nets_are_of_one_size(made: Run) -> None:
    stages: Any = fuxian.load(made).stages
    specs, nets = stages[-1].optimizer, stages[-1].model
    assert {name: spec.lr for name, spec in specs.items()} == {"relu": 1e-2, "fourier": 1e-3, "siren": 5e-4}
    sizes = {name: [list(p.shape) for p in net.parameters()][2:] for name, net in nets.items()}
    assert sizes["relu"] == sizes["fourier"] == sizes["siren"]
    frequency = nets["fourier"].frequency_FD
    assert frequency.shape == (256, 2)
    assert frequency.std().item() == pytest.approx(2, rel=0.15)  # sigma of the quick setting
    assert not frequency.requires_grad


def test_what_is_no_picture_is_refused(tmp_path) -> None:
    path = tmp_path / "words.png"
    path.write_text("no picture")
    with pytest.raises(WrongInput, match=r"words.png is not a picture"):
        fuxian.run("function_approximation", quick=True, data=path, sine_steps=1, xor_steps=1, parent=tmp_path)
