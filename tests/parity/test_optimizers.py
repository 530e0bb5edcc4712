"""Every rule against torch's own over a hundred steps in float64, through a player, and what the recipe makes of them."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import nn

import fuxian
from fuxian.engine.players import Player
from fuxian.engine.run import Run
from fuxian.methods.basics.optimizers import RACE, RAVINE, RULES, Point, Race, all_at, root, rosenbrock
from fuxian.optim import Optimizer

from .compare import relative

# Torch's own of the same name, with our numbers where its defaults are others.
TORCH: dict[str, Any] = dict(
    sgd=(torch.optim.SGD, {}),
    momentum=(torch.optim.SGD, dict(momentum=0.9)),
    nag=(torch.optim.SGD, dict(momentum=0.9, nesterov=True)),
    adagrad=(torch.optim.Adagrad, {}),
    adadelta=(torch.optim.Adadelta, dict(rho=0.95)),
    rmsprop=(torch.optim.RMSprop, dict(alpha=0.9)),
    adam=(torch.optim.Adam, {}),
)


def net() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(5, 8), nn.Tanh(), nn.Linear(8, 3)).double()


def hundred(player: Any) -> nn.Module:
    """The net after a hundred steps of noisy batches, by an engine's player, or by torch's optimizer."""
    model = net()
    chance = torch.Generator().manual_seed(1)
    stepping = player(model)
    for step in range(100):
        x, y = (torch.randn(16, n, generator=chance, dtype=torch.float64) for n in (5, 3))
        stepping.begin(step, 100, []) if isinstance(stepping, Player) else stepping.zero_grad()
        (model(x) - y).square().mean().backward()
        stepping.step()
    return model


def ours(name: str, lr: float, numbers: dict[str, float] | None = None, decay: float = 0.0) -> nn.Module:
    spec = Optimizer(lambda groups: RULES[name](groups, lr, **(numbers or {})), lr, decay=decay)
    return hundred(lambda model: Player("model", spec, dict(model.named_parameters()), alone=True))


def theirs(name: str, lr: float, **numbers: float) -> nn.Module:
    make, defaults = TORCH[name]
    return hundred(lambda model: make(model.parameters(), lr=lr, **{**defaults, **numbers}))


def apart(one: nn.Module, other: nn.Module) -> float:
    return max(relative(a.detach(), b.detach()) for a, b in zip(one.parameters(), other.parameters(), strict=True))


def test_a_hundred_steps_of_every_rule_equal_torch(prove) -> None:
    found = {name: apart(ours(name, 0.1), theirs(name, 0.1)) for name in RULES}
    assert max(found.values()) < 1e-12, found
    assert all(apart(ours(name, 0.1), net()) > 1e-3 for name in RULES)
    reference = "torch.optim, seven optimizers over 100 steps"
    prove("optimizers", "parity", reference=reference, dtype="float64", step=max(found.values()))


@pytest.mark.parametrize(
    ("name", "numbers", "torchs"),
    [
        ("momentum", dict(momentum=0.5), dict(momentum=0.5)),
        ("nag", dict(momentum=0.5), dict(momentum=0.5)),
        ("adagrad", dict(eps=0.1), dict(eps=0.1)),
        ("adadelta", dict(rho=0.8, eps=1e-2), dict(rho=0.8, eps=1e-2)),
        ("rmsprop", dict(alpha=0.5, eps=0.1), dict(alpha=0.5, eps=0.1)),
        ("adam", dict(beta1=0.5, beta2=0.8, eps=0.1), dict(betas=(0.5, 0.8), eps=0.1)),
    ],
)
def test_with_other_numbers_too(name: str, numbers: Any, torchs: Any) -> None:
    assert apart(ours(name, 0.05, numbers), theirs(name, 0.05, **torchs)) < 1e-12
    assert apart(ours(name, 0.05, numbers), ours(name, 0.05)) > 1e-4


@pytest.mark.parametrize("name", RULES)
def test_decay_is_l2(name: str) -> None:
    assert apart(ours(name, 0.05, decay=0.1), theirs(name, 0.05, weight_decay=0.1)) < 1e-12
    assert apart(ours(name, 0.05, decay=0.1), ours(name, 0.05)) > 1e-3


def walks(rule: str, rates: list[float], steps: int = 300) -> tuple[list[float], list[bool]]:
    """Where each rate is at last on the ravine, and whether it was ever above its start."""
    at = nn.Parameter(torch.tensor([[-1.4, 1.6]], dtype=torch.float64).repeat(len(rates), 1))
    stepping = RULES[rule]([at], torch.tensor(rates, dtype=torch.float64)[:, None])  # type: ignore[arg-type]
    height = rosenbrock(at.detach())
    start, above = height, height > height
    for _ in range(steps):
        at.grad = None
        rosenbrock(at).sum().backward()
        stepping.step()
        height = rosenbrock(at.detach())
        above |= ~(height <= start)
    return height.tolist(), above.tolist()


@pytest.mark.parametrize("name", sorted(set(RULES) - {"adadelta"}))
def test_the_ravines_rates_are_the_best_that_never_climb_above_the_start(name: str) -> None:
    grid = [float(f"{digit}e{power}") for power in range(-4, 2) for digit in (1, 2, 5)]
    kept = {lr: height for lr, height, above in zip(grid, *walks(name, grid), strict=True) if not above}
    assert min(kept, key=kept.__getitem__) == RAVINE[name]


def test_adadeltas_rate_is_its_own() -> None:
    """Algorithm 1 has none: it is 1, and no schedule changes it."""
    assert RAVINE["adadelta"] == RACE["adadelta"] == 1
    specs = all_at(RACE, root)
    assert specs["adadelta"].schedule is None
    assert {name for name, spec in specs.items() if spec.schedule is root} == set(RULES) - {"adadelta"}
    assert [root(step, 100, []) for step in (0, 3, 99)] == [1, 0.5, 0.1]  # α/√t from t = 1


def one_step(rule: str, gradients: list[float], lr: float, **numbers: float) -> list[float]:
    """Where a weight that begins at 0 is after each step."""
    w = nn.Parameter(torch.zeros(1, dtype=torch.float64))
    stepping, seen = RULES[rule]([w], lr, **numbers), []
    for g in gradients:
        w.grad = torch.tensor([g], dtype=torch.float64)
        stepping.step()
        seen.append(w.item())
    return seen


def test_two_steps_by_hand() -> None:
    """Gradients 1 and then 2, at a rate of 0.1, by the equations of the papers."""
    two = lambda name, **numbers: pytest.approx(one_step(name, [1.0, 2.0], 0.1, **numbers), rel=1e-7)
    assert two("sgd") == [-0.1, -0.3]
    assert two("momentum") == [-0.1, -0.1 - 0.09 - 0.2]
    v = [-0.1, 0.9 * -0.1 - 0.2]  # Sutskever's eq. 3; ours is θ + μ v, and θ is the sum of v
    assert two("nag") == [v[0] + 0.9 * v[0], v[0] + v[1] + 0.9 * v[1]]
    assert two("adagrad") == [-0.1, -0.1 - 0.2 / math.sqrt(5)]
    assert two("rmsprop") == [-0.1 / math.sqrt(0.1), -0.1 / math.sqrt(0.1) - 0.2 / math.sqrt(0.09 + 0.4)]
    m, v2 = (0.9 * 0.1 + 0.1 * 2) / (1 - 0.81), (0.999 * 0.001 + 0.001 * 4) / (1 - 0.999**2)
    assert two("adam") == [-0.1, -0.1 - 0.1 * m / math.sqrt(v2)]
    step = -math.sqrt(1e-6) / math.sqrt(0.05 + 1e-6)
    assert one_step("adadelta", [1.0], 1.0) == pytest.approx([step], rel=1e-12)


def test_adams_first_step_is_the_rate_whatever_the_gradient() -> None:
    for gradient in (1e-3, 1.0, 1e3):
        assert one_step("adam", [gradient], 0.1)[0] == pytest.approx(-0.1, rel=1e-4)


def test_the_ravine_is_lowest_at_one_one() -> None:
    at = torch.tensor([1.0, 1.0], dtype=torch.float64, requires_grad=True)
    assert rosenbrock(at).item() == 0
    assert torch.autograd.grad(rosenbrock(at), at)[0].abs().max() == 0
    assert rosenbrock(torch.tensor([-1.4, 1.6])).item() == pytest.approx(2.4**2 + 100 * 0.36**2, rel=1e-5)
    assert Point(-1.4, 1.6).at.tolist() == [-1.4, 1.6]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return fuxian.run("optimizers", quick=True, parent=tmp_path_factory.mktemp("runs"))


@pytest.mark.slow
def test_all_begin_alike_and_go_down(made: Run) -> None:
    assert max(made.metrics[f"{name}_height"] for name in RULES) < 6  # began at 18.7
    assert all(made.metrics[f"{name}_cost"] < 2 for name in RULES if name != "adadelta")
    stages: Any = fuxian.load(made).stages
    raced = stages[-1].objective
    assert isinstance(raced, Race)
    assert raced.cost[:, 0].unique().numel() == 1  # the same start and batch


@pytest.mark.slow
def test_the_rank_is_that_of_the_last_epochs_cost(made: Run) -> None:
    three = {name: made.metrics[f"{name}_cost"] for name in ("adam", "nag", "adagrad")}
    assert made.metrics["adagrad_rank"] == 1 + sum(cost < three["adagrad"] for cost in three.values())
    raced: Any = fuxian.load(made).stages[-1].objective
    per_epoch = raced.cost.shape[1] // 12
    expected = raced.cost[:, -per_epoch:].mean(1)
    for name, cost in zip(RULES, expected.tolist(), strict=True):
        assert made.metrics[f"{name}_cost"] == pytest.approx(cost, rel=1e-6)
    assert set(RAVINE) == set(RACE) == set(RULES)
