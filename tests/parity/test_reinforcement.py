"""The gradient of REINFORCE, over all episodes there are, against that of the exact return; value iteration against a
solved linear system, and Russell & Norvig's figure."""

from __future__ import annotations

from itertools import product
from typing import Any

import pytest
import torch
from torch import Tensor

from fuxian.evaluation import measure
from fuxian.methods.basics.reinforcement import (
    Agent,
    Episodes,
    Reinforce,
    ValueIteration,
    Values,
    World,
    played,
    policy_loss,
    recipe,
)

from .compare import relative


class Small:
    """Two states and an end, two of the four moves, by chance: all episodes of three steps can be counted."""

    gamma = 0.9
    p_SAS = torch.zeros(3, 4, 3, dtype=torch.float64)
    p_SAS[0, :, :] = torch.tensor([[0.1, 0.6, 0.3], [0.5, 0.5, 0.0], [0.0, 0.2, 0.8], [0.3, 0.3, 0.4]])
    p_SAS[1, :, :] = torch.tensor([[0.7, 0.0, 0.3], [0.2, 0.2, 0.6], [0.1, 0.9, 0.0], [0.0, 0.5, 0.5]])
    reward_S = torch.tensor([0.0, 0.5, 2.0], dtype=torch.float64)  # of entering a state
    cost, ends, fields, start = 0.1, 2, [0, 1, 2], 0


def every_episode(policy_SA: Tensor, steps: int) -> tuple[Episodes, Tensor]:
    """All episodes of at most so many steps, and how likely each is (B,)."""
    rows: dict[str, list[Any]] = dict(state=[], action=[], reward=[], alive=[], chance=[])
    for path in product(product(range(4), range(3)), repeat=steps):
        s, chance, columns = Small.start, torch.tensor(1.0, dtype=torch.float64), []
        for t, (a, to) in enumerate(path):
            if s == 2 and (a, to) != (0, 2):  # an episode that has ended is counted once
                break
            alive = s != 2
            columns.append((s, a, float(Small.reward_S[to]) - Small.cost if alive else 0.0, alive))
            if alive:
                chance = chance * policy_SA[s, a] * Small.p_SAS[s, a, to]
            s = to
            if t == steps - 1:
                for name, column in zip(("state", "action", "reward", "alive"), zip(*columns, strict=True), strict=True):
                    rows[name].append(column)
                rows["chance"].append(chance)
    columns_TB = [torch.tensor(rows[name]).T for name in ("state", "action", "reward", "alive")]
    columns_TB[2] = torch.tensor(rows["reward"], dtype=torch.float64).T
    return Episodes(*columns_TB), torch.stack(rows["chance"])


def exact_return(theta_SA: Tensor, steps: int) -> Tensor:
    """Of so many steps from the start: v ← Σ π (r + γ Σ p v), as often."""
    policy_SA = theta_SA.softmax(1)
    reward_SA = Small.p_SAS @ Small.reward_S - Small.cost
    v_S = torch.zeros(3, dtype=torch.float64)
    for _ in range(steps):
        v_S = (policy_SA * (reward_SA + Small.gamma * Small.p_SAS @ v_S)).sum(1)
        v_S = torch.cat([v_S[:2], torch.zeros(1, dtype=torch.float64)])
    return v_S[Small.start]


@pytest.mark.parametrize("baseline", [0.0, 1.7])
def test_the_expected_gradient_is_that_of_the_exact_return(baseline: float, prove) -> None:
    torch.manual_seed(0)
    agent = Agent(3, baseline=True)
    theta_SA = agent.policy["theta_SA"]
    theta_SA.data.normal_()
    agent.baseline["w_S"].data.fill_(baseline)
    episodes, chance_B = every_episode(theta_SA.softmax(1).detach(), steps=3)
    assert chance_B.sum().item() == pytest.approx(1, abs=1e-12)
    expected = (chance_B * episodes.returns(Small.gamma)[0]).sum()
    exact = exact_return(theta_SA, 3)
    assert expected.item() == pytest.approx(exact.item(), abs=1e-12)
    (ours,) = torch.autograd.grad((chance_B * policy_loss(agent, episodes, Small.gamma)).sum(), theta_SA)
    (reference,) = torch.autograd.grad(exact, theta_SA)
    gap = relative(-ours, reference)
    assert gap < 1e-10
    prove(
        "reinforcement", "parity", reference="the gradient of the exact return", outputs=gap, gradients=gap, dtype="float64"
    )


def solved(name: str, sweeps: int = 400) -> tuple[World, Values, ValueIteration]:
    world = World(name)
    values, planning = Values(world), ValueIteration(world)
    for _ in range(sweeps):
        planning.update(values, world.train.batch(torch.tensor([0])))
    return world, values, planning


@pytest.mark.parametrize("name", ["4x3", "maze"])
def test_value_iteration_ends_where_the_linear_system_of_its_policy_does(name: str) -> None:
    world, values, _ = solved(name)
    best_SA = torch.eye(4, dtype=torch.float64)[values(torch.arange(len(world.fields))).argmax(1)]
    assert relative(values.value_S, world.worth(best_SA)) < 1e-10
    for s, a in product(range(world.ends), range(4)):  # and no other first move is better
        other_SA = best_SA.clone()
        other_SA[s] = torch.eye(4, dtype=torch.float64)[a]
        assert float((world.worth(other_SA) - values.value_S).max()) < 1e-9


def test_each_field_is_worth_what_the_figure_says() -> None:
    world, values, _ = solved("4x3")
    fig_17_3 = {(0, 0): 0.812, (0, 1): 0.868, (0, 2): 0.918, (1, 0): 0.762, (1, 2): 0.660,
                (2, 0): 0.705, (2, 1): 0.655, (2, 2): 0.611, (2, 3): 0.388}  # fmt: skip
    found = dict(zip(world.fields, values.value_S.tolist(), strict=True))
    assert {field: round(found[field], 3) for field in fig_17_3} == fig_17_3


def test_a_move_goes_as_meant_or_at_a_right_angle() -> None:
    world = World("4x3")
    at = {field: s for s, field in enumerate(world.fields)}
    up = world.p_SAS[at[2, 0], 0]  # from the corner where it starts: up, left into the wall, right
    assert {f: round(float(up[s]), 3) for f, s in at.items() if up[s]} == {(1, 0): 0.8, (2, 0): 0.1, (2, 1): 0.1}
    left = world.p_SAS[at[1, 2], 3]  # into the wall inside
    assert {f: round(float(left[s]), 3) for f, s in at.items() if left[s]} == {(1, 2): 0.8, (0, 2): 0.1, (2, 2): 0.1}
    assert world.fields[world.start] == (2, 0)
    assert world.reward_S[world.ends :].tolist() == [1, -1]


def test_episodes_happen_as_often_as_they_should() -> None:
    torch.manual_seed(0)
    world: Any = Small()
    agent = Agent(3, baseline=True)
    agent.policy["theta_SA"].data.normal_()
    episodes = played(agent, world, torch.zeros(20_000, dtype=torch.int64), 3)
    exact = exact_return(agent.policy["theta_SA"], 3).item()
    assert episodes.returns(0.9)[0].mean().item() == pytest.approx(exact, abs=0.02)
    ended = episodes.state_TB == 2
    assert torch.equal(episodes.alive_TB, ~ended)
    assert not episodes.reward_TB[ended].any()


def test_returns_by_hand() -> None:
    reward_TB = torch.tensor([[1.0, 0.0], [2.0, 0.0], [4.0, 8.0]])
    none = torch.zeros(3, 2, dtype=torch.int64)
    found = Episodes(none, none, reward_TB, none.bool()).returns(0.5)
    assert found.tolist() == [[3.0, 2.0], [4.0, 4.0], [4.0, 8.0]]


def test_the_baseline_becomes_what_is_expected() -> None:
    torch.manual_seed(0)
    world, values, _ = solved("4x3")
    agent, batch = Agent(len(world.fields), baseline=True), world.train.batch(torch.tensor([0]))
    learning = Reinforce(world, values.value_S, 500, 100, 30)
    w_S = agent.baseline["w_S"]
    for _ in range(30):
        players = dict(learning.losses(agent, batch))
        assert list(players) == ["policy", "baseline"]
        w_S.data -= 0.5 * torch.autograd.grad(players["baseline"], w_S)[0]  # half of its way
    expected = world.worth(agent(torch.arange(len(world.fields))).detach())
    assert w_S[world.start].item() == pytest.approx(expected[world.start].item(), abs=0.1)
    assert w_S[world.ends :].tolist() == [0, 0]
    assert dict(measure(agent, learning, world.train))["return"] == pytest.approx(expected[world.start].item())


def test_without_a_baseline_nothing_is_taken_off() -> None:
    stages = list(recipe(steps=3, sweeps=2, baseline=False))
    agent: Any = stages[1].model
    assert not agent.baseline["w_S"].requires_grad
    assert [player for player, _ in stages[1].objective.losses(agent, World("4x3").train.batch(torch.tensor([0])))] == [
        "policy"
    ]
