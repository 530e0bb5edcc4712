"""The multilayer perceptron: forward and backward by hand in numpy, for each activation and both losses, are autograd's."""

from __future__ import annotations

from itertools import product
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from fuxian.data.images import Images
from fuxian.methods.basics.mlp import ACTIVATIONS, MLP, OBJECTIVES, SquaredError, recipe
from fuxian.optim import Optimizer, adam

from .compare import Differences, first_loss, relative, worst

# f, and its derivative written in f's own value
BY_HAND: dict[str, Any] = {
    "relu": (lambda z: np.maximum(z, 0), lambda a: (a > 0).astype(float)),
    "tanh": (np.tanh, lambda a: 1 - a**2),
    "sigmoid": (lambda z: 1 / (1 + np.exp(-z)), lambda a: a * (1 - a)),
}


def by_hand(weights: list[np.ndarray], x: np.ndarray, y: np.ndarray, activation: str, loss: str) -> tuple[Any, ...]:
    """Outputs, loss and gradients of y = W₃ f(W₂ f(W₁ x)): the error goes back as δ W, the notes' (y - ŷ) W₁."""
    f, slope = BY_HAND[activation]
    a = [x]
    for i in range(0, len(weights), 2):
        z = a[-1] @ weights[i].T + weights[i + 1]
        a.append(f(z) if i + 2 < len(weights) else z)
    out, n = a[-1], len(x)
    if loss == "cross-entropy":
        p = np.exp(out) / np.exp(out).sum(1, keepdims=True)
        value, delta = -(y * np.log(p)).sum() / n, (p - y) / n
    else:
        value, delta = ((out - y) ** 2).sum() / n, 2 * (out - y) / n
    gradients: list[np.ndarray] = []
    for layer in reversed(range(len(weights) // 2)):
        gradients = [delta.T @ a[layer], delta.sum(0), *gradients]
        delta = (delta @ weights[2 * layer]) * slope(a[layer])
    return out, value, gradients


def adam_by_hand(spec: Optimizer, weights: list[np.ndarray], gradients: list[np.ndarray]) -> list[np.ndarray]:
    """The first step of Adam: both moments, corrected, are the gradient itself and its square."""
    return [w - spec.lr * g / (np.abs(g) + 1e-2) for w, g in zip(weights, gradients, strict=True)]


def compared(activation: str, loss: str) -> Differences:
    torch.manual_seed(0)
    model = MLP(18, (11, 5), 7, activation).double()
    batch = Images(torch.randn(30, 2, 3, 3, dtype=torch.float64), torch.randint(7, (30,)))
    weights = [p.detach().numpy().copy() for p in model.parameters()]
    x, y = batch.image.flatten(1).numpy(), np.eye(7)[batch.label.numpy()]
    out, value, gradients = by_hand(weights, x, y, activation, loss)
    ours = first_loss(OBJECTIVES[loss](), model, batch)
    assert ours.item() == pytest.approx(value, rel=1e-12)
    ours.backward()
    spec = adam(1e-3, eps=1e-2)
    parameters: list[Tensor] = list(model.parameters())
    found = max(relative(p.grad, torch.from_numpy(g)) for p, g in zip(parameters, gradients, strict=True))
    outputs = relative(model(batch.image), torch.from_numpy(out))
    spec.make([dict(params=parameters)]).step()
    stepped = adam_by_hand(spec, weights, gradients)
    step = max(relative(p.detach(), torch.from_numpy(w)) for p, w in zip(parameters, stepped, strict=True))
    differences = Differences(outputs, found, step, "float64")
    assert max(outputs, found, step) < 1e-10, differences
    return differences


def test_outputs_gradients_and_step(prove) -> None:
    found = [compared(activation, loss) for activation, loss in product(ACTIVATIONS, OBJECTIVES)]
    prove("mlp", "parity", reference="forward, backward and Adam by hand in numpy", **worst(*found).facts)


def test_no_activation_after_the_last_layer_and_no_hidden_layer_at_all() -> None:
    x = torch.randn(4, 1, 2, 2)
    assert bool((MLP(4, (50,), 9, "relu")(x) < 0).any())
    linear = MLP(4, (), 3, "relu")
    torch.testing.assert_close(linear(x), x.flatten(1) @ linear[-1].weight.T + linear[-1].bias)


@pytest.mark.parametrize(
    ("hidden", "weights"),
    [
        ((800,), 784 * 800 + 800 + 8010),
        ((300,), 784 * 300 + 300 + 3010),
        ((256, 128, 100), 200_960 + 32_896 + 12_900 + 1_010),
    ],
)
def test_weights_of_the_published_nets(hidden: tuple[int, ...], weights: int) -> None:
    assert sum(p.numel() for p in MLP(784, hidden, 10, "tanh").parameters()) == weights


def test_the_recipe_s_own_settings() -> None:
    (stage,) = recipe(data="digits", weight_decay=0.01)
    assert (stage.epochs, stage.batch, stage.select, stage.stop) == (20, 128, None, None)
    (group,) = stage.optimizer.groups(list(stage.model.named_parameters()))
    assert (len(group["params"]), group["weight_decay"]) == (4, 0.01)
    optimizer = stage.optimizer.make([group])
    assert isinstance(optimizer, torch.optim.Adam)
    assert [optimizer.defaults[name] for name in ("lr", "betas", "eps")] == [1e-3, (0.9, 0.999), 1e-8]
    assert [stage.optimizer.schedule(step, 100, []) for step in (0, 50, 100)] == pytest.approx([1, 0.5, 0])


def test_dropout_follows_every_hidden_layer() -> None:
    model = MLP(4, (50, 60), 3, "tanh", dropout=0.4)
    x = torch.randn(8, 1, 2, 2)
    assert not torch.equal(model(x), model(x))
    model.eval()
    assert torch.equal(model(x), model(x))
    assert [type(layer).__name__ for layer in model] == ["Flatten", *["Linear", "Tanh", "Dropout"] * 2, "Linear"]


@pytest.mark.parametrize(("normalize", "mean", "std"), [("standard", 0.0, 1.0), ("unit", 0.3, 0.38), ("none", 78, 96)])
def test_pixels_are_what_normalize_says(normalize: str, mean: float, std: float) -> None:
    (stage,) = recipe(data="digits", normalize=normalize)
    image = stage.data.train.batch(torch.arange(len(stage.data.train))).image
    exact = 1e-5 if normalize == "standard" else 0.03 * std
    assert image.mean().item() == pytest.approx(mean, abs=exact)
    assert image.std(correction=0).item() == pytest.approx(std, abs=exact)
    assert image.max() == {"unit": 1, "none": 255}.get(normalize, image.max())


def test_squared_error_counts_mistakes_and_predicts_shares() -> None:
    out = torch.tensor([[0.9, 0.2], [0.1, 1.3]])
    objective, batch = SquaredError(("a", "b")), Images(out, torch.tensor([0, 0]))
    measured = {name: values.tolist() for name, values in objective.evaluate(lambda image: image, batch)}
    assert measured["loss"] == pytest.approx([0.01 + 0.04, 0.81 + 1.69])
    assert (measured["accuracy"], measured["error"]) == ([1, 0], [0, 1])
    said = objective.predict(lambda image: image, batch)
    assert [row["class"] for row in said] == ["a", "b"]
    assert [row["probability"] for row in said] == pytest.approx([0.9, 1.0])
