"""Gradient flow: forward, every layer's gradient and a step by hand in numpy; the starts by their variance."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from fuxian.data.images import Images
from fuxian.engine.players import Player
from fuxian.evaluation import measure
from fuxian.methods.basics.gradient_flow import KINDS, Deep, Flow, Learning, Reach, flow, recipe
from fuxian.optim import sgd

from .compare import Differences, relative, worst

# f and its slope, of z
BY_HAND: dict[str, Any] = {
    "sigmoid": (lambda z: 1 / (1 + np.exp(-z)), lambda z: np.exp(-z) / (1 + np.exp(-z)) ** 2),
    "tanh": (np.tanh, lambda z: 1 / np.cosh(z) ** 2),
    "relu": (lambda z: np.maximum(z, 0), lambda z: (z > 0).astype(float)),
}


def by_hand(name: str, weights: list[np.ndarray], x: np.ndarray, label: np.ndarray) -> tuple[Any, ...]:
    """Logits, the gradient of each image's loss by each layer's sums, and the mean loss's gradients of the weights.

    Back through a layer: δ_l = (W_(l+1)ᵀ δ_(l+1)) f'(z_l), and δ_(l+1) itself where there is a way around it.
    """
    f, slope = BY_HAND[name.split("-")[0]]
    around = name.endswith("residual")
    pairs = list(zip(weights[::2], weights[1::2], strict=True))
    z = [x @ pairs[0][0].T + pairs[0][1]]
    for w, b in pairs[1:-1]:
        z.append(f(z[-1]) @ w.T + b + around * z[-1])
    logits = f(z[-1]) @ pairs[-1][0].T + pairs[-1][1]
    p = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    delta = p - np.eye(p.shape[1])[label]
    deltas, gradients = [], [delta.T @ f(z[-1]), delta.sum(0)]
    for i in reversed(range(len(z))):
        passed = delta if around and i + 1 < len(z) else 0
        delta = (delta @ pairs[i + 1][0]) * slope(z[i]) + passed
        deltas.insert(0, delta)
        gradients = [delta.T @ (f(z[i - 1]) if i else x), delta.sum(0), *gradients]
    return logits, deltas, [g / len(x) for g in gradients]


def made(name: str, depth: int = 5, seed: int = 0) -> tuple[Deep, Images]:
    torch.manual_seed(seed)
    net = Deep(KINDS[name], 12, 9, depth, 4).double()
    return net, Images(torch.randn(20, 3, 2, 2, dtype=torch.float64), torch.randint(4, (20,)))


def compared(name: str) -> Differences:
    net, batch = made(name)
    model: Any = torch.nn.ModuleDict({name: net})
    weights = [p.detach().numpy().copy() for p in net.parameters()]
    logits, deltas, gradients = by_hand(name, weights, batch.image.flatten(1).numpy(), batch.label.numpy())
    expected_BL = torch.tensor(np.stack([np.linalg.norm(delta, axis=1) for delta in deltas], 1))
    assert relative(flow(net, batch), expected_BL) < 1e-10
    outputs = relative(net(batch.image), torch.tensor(logits))
    steps = Player(name, sgd(0.1), dict(net.named_parameters()), alone=True)
    steps.begin(0, 1, [])
    (player, loss), *_ = Learning({}, 1).losses(model, batch)
    assert player == name
    loss.backward()
    parameters: list[Tensor] = list(net.parameters())
    found = max(relative(p.grad, torch.tensor(g)) for p, g in zip(parameters, gradients, strict=True))
    steps.step()
    stepped = [w - 0.1 * g for w, g in zip(weights, gradients, strict=True)]
    step = max(relative(p.detach(), torch.tensor(w)) for p, w in zip(parameters, stepped, strict=True))
    differences = Differences(outputs, found, step, "float64")
    assert max(outputs, found, step) < 1e-10, differences
    return differences


def test_outputs_gradients_and_step(prove) -> None:
    found = [compared(name) for name in KINDS]
    prove("gradient_flow", "parity", reference="forward and backward by hand in numpy", **worst(*found).facts)


@pytest.mark.parametrize("name", KINDS)
def test_the_first_weights_have_the_variance_that_is_said(name: str) -> None:
    torch.manual_seed(0)
    net = Deep(KINDS[name], 300, 200, 3, 50)
    for layer in net.layers:
        n_var = layer.in_features * layer.weight.var().item()
        assert n_var == pytest.approx(KINDS[name].n_var, rel=0.02)
        assert not layer.bias.any()
    assert net.output.weight.abs().max() <= 200**-0.5
    usual = torch.nn.Linear(300, 200).weight  # torch's own start is the usual one
    assert 300 * usual.var().item() == pytest.approx(KINDS["relu"].n_var, rel=0.02)


def test_a_gradient_of_1e_26_is_measured() -> None:
    torch.manual_seed(0)
    net = Deep(KINDS["sigmoid"], 16, 32, 30, 4)
    batch = Images(torch.randn(20, 1, 4, 4), torch.randint(4, (20,)))
    norm_BL = flow(net, batch)
    assert 1e-30 < norm_BL[:, 0].mean() < 1e-23
    torch.testing.assert_close(norm_BL, flow(net.double(), Images(batch.image.double(), batch.label)), rtol=1e-3, atol=0)


def test_reach_is_the_ratio_of_the_means() -> None:
    reach = Reach()
    reach.update(torch.tensor([[1.0, 9.0, 2.0], [3.0, 9.0, 4.0]]))
    reach.update(torch.tensor([[2.0, 9.0, 6.0]]))
    assert (reach.value(), reach.count) == (0.5, 3)
    nothing = Reach()
    nothing.update(torch.zeros(2, 3))
    assert nothing.value() == 0


def test_every_net_is_judged() -> None:
    nets = {name: made(name)[0] for name in KINDS}
    batch = made("relu")[1]
    torch.manual_seed(0)

    class Twenty:
        def __len__(self) -> int:
            return 20

        def batch(self, indices: Tensor) -> Images:
            return Images(batch.image[indices], batch.label[indices])

    model: Any = torch.nn.ModuleDict(nets)
    found = measure(model, Flow(), Twenty(), 8)
    for name, net in nets.items():
        assert found[f"{name}_accuracy"] == (net(batch.image).argmax(1) == batch.label).double().mean().item()
        norm_BL = flow(net, batch)
        assert found[f"{name}_reach"] == pytest.approx(float(norm_BL[:, 0].mean() / norm_BL[:, -1].mean()))


def test_the_recipe_measures_first_and_then_trains_the_same_nets_at_each_depth() -> None:
    stages: Any = recipe(data="digits", depths=(4, 2), width=8, steps=7)
    seen: list[Any] = []
    factors: dict[str, float] = {}
    try:
        while True:
            seen.append(stages.send({f"test/{name}_reach": 0.125 for name in KINDS} if seen else None))
    except StopIteration as end:
        factors = end.value
    named = [(stage.name, stage.steps, len(stage.model["tanh"].layers)) for stage in seen]
    assert named == [("start-2", 0, 2), ("depth-2", 7, 2), ("start-4", 0, 4), ("depth-4", 7, 4)]
    for measured, trained in zip(seen[::2], seen[1::2], strict=True):
        assert measured.model is trained.model
        assert measured.optimizer is None
        assert {name: spec.clip for name, spec in trained.optimizer.items()} == dict.fromkeys(KINDS, 1.0)
    assert factors == pytest.approx({f"{name}_factor": 0.5 for name in KINDS})
