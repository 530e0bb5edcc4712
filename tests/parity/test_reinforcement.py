"""The gradient of REINFORCE, over all episodes there are, against that of the exact return; value iteration against a
solved linear system, and Russell & Norvig's figure."""

from __future__ import annotations

from itertools import product
from typing import Any

import pytest
import torch
from torch import Tensor

import fuxian
from fuxian.evaluation import measure
from fuxian.methods.basics.reinforcement import (
    Agent,
    Episodes,
    Reinforce,
    ValueIteration,
    Values,
    World,
    baseline_loss,
    played,
    policy_loss,
)

from .compare import relative


class Small:
    """Two states and an end, four moves by chance: all episodes of three steps can be counted."""

    gamma = 0.9
    p_SAS = torch.tensor([[[0.1, 0.6, 0.3], [0.5, 0.5, 0.0], [0.0, 0.2, 0.8], [0.3, 0.3, 0.4]],
                          [[0.7, 0.0, 0.3], [0.2, 0.2, 0.6], [0.1, 0.9, 0.0], [0.0, 0.5, 0.5]],
                          [[0.0, 0.0, 0.0]] * 4], dtype=torch.float64)  # fmt: skip
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
    agent = Agent(3)
    theta_SA = agent.policy["theta_SA"]
    theta_SA.data.normal_()
    agent.baseline["w_S"].data.fill_(baseline)
    episodes, chance_B = every_episode(theta_SA.softmax(1).detach(), steps=3)
    assert chance_B.sum().item() == pytest.approx(1, abs=1e-12)
    expected = (chance_B * episodes.returns(Small.gamma)[0]).sum()
    exact = exact_return(theta_SA, 3)
    outputs = relative(expected.detach(), exact.detach())
    (ours,) = torch.autograd.grad((chance_B * policy_loss(agent, episodes, Small.gamma)).sum(), theta_SA)
    (reference,) = torch.autograd.grad(exact, theta_SA)
    gap = relative(-ours, reference)
    assert max(outputs, gap) < 1e-10
    found = dict(outputs=outputs, gradients=gap, dtype="float64")
    prove("reinforcement", "parity", reference="the exact return and its gradient", **found)


def solved(cost: float = 0.04, gamma: float = 1.0, sweeps: int = 400) -> tuple[World, Values]:
    world = World(cost, gamma)
    values, planning = Values(len(world.fields)), ValueIteration(world)
    for _ in range(sweeps):
        planning.update(values, world.train.batch(torch.tensor([0])))
    return world, values


@pytest.mark.parametrize(("cost", "gamma"), [(0.04, 1.0), (0.1, 0.9)])
def test_value_iteration_ends_where_the_linear_system_of_its_policy_does(cost: float, gamma: float) -> None:
    world, values = solved(cost, gamma)
    best_SA = torch.eye(4, dtype=torch.float64)[world.ahead(values.value_S).argmax(1)]
    assert relative(values.value_S, world.worth(best_SA)) < 1e-10
    for s, a in product(range(world.ends), range(4)):  # and no other move is better, one time of two so that all end
        other_SA = best_SA.clone()
        other_SA[s] = (best_SA[s] + torch.eye(4, dtype=torch.float64)[a]) / 2
        assert float((world.worth(other_SA) - values.value_S).max()) < 1e-9


def test_each_field_is_worth_what_the_figure_says() -> None:
    world, values = solved()
    fig_17_3 = {(0, 0): 0.812, (0, 1): 0.868, (0, 2): 0.918, (1, 0): 0.762, (1, 2): 0.660,
                (2, 0): 0.705, (2, 1): 0.655, (2, 2): 0.611, (2, 3): 0.388}  # fmt: skip
    found = dict(zip(world.fields, values.value_S.tolist(), strict=True))
    assert {field: round(found[field], 3) for field in fig_17_3} == fig_17_3


def test_a_move_goes_as_meant_or_at_a_right_angle() -> None:
    world = World()
    at = {field: s for s, field in enumerate(world.fields)}
    up = world.p_SAS[at[2, 0], 0]  # from the corner where it starts: up, left into the wall, right
    assert {f: round(float(up[s]), 3) for f, s in at.items() if up[s]} == {(1, 0): 0.8, (2, 0): 0.1, (2, 1): 0.1}
    left = world.p_SAS[at[1, 2], 3]  # into the wall inside
    assert {f: round(float(left[s]), 3) for f, s in at.items() if left[s]} == {(1, 2): 0.8, (0, 2): 0.1, (2, 2): 0.1}
    assert world.fields[world.start] == (2, 0)
    assert world.reward_S[world.ends :].tolist() == [1, -1]
    assert not world.p_SAS[world.ends :].any()


def test_episodes_happen_as_often_as_they_should() -> None:
    torch.manual_seed(0)
    world: Any = Small()
    agent = Agent(3)
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


def test_the_baseline_goes_to_the_mean_return_that_followed_a_state() -> None:
    state_TB = torch.tensor([[0, 0], [0, 1], [1, 2]])
    alive_TB = torch.tensor([[True, True], [True, True], [True, False]])
    reward_TB = torch.tensor([[1.0, 2.0], [0.0, 4.0], [3.0, 0.0]], dtype=torch.float64)
    agent = Agent(3)
    (slope_S,) = torch.autograd.grad(baseline_loss(agent, Episodes(state_TB, state_TB, reward_TB, alive_TB), 1.0),
                                     agent.baseline["w_S"])  # fmt: skip
    assert (-slope_S).tolist() == pytest.approx([(4 + 3 + 6) / 3, (3 + 4) / 2, 0])


@pytest.mark.slow
def test_each_player_learns_its_own(tmp_path) -> None:
    """By the recipe's own rates; the baseline becomes what is expected, the agent earns more, and both are measured."""
    run = fuxian.run("reinforcement", quick=True, parent=tmp_path)
    stage = fuxian.load(run, stage="reinforce")
    agent: Any = stage.model
    world = World()
    expected_S = world.worth(agent.chances())
    assert run.metrics["train/return"] == pytest.approx(expected_S[world.start].item(), rel=1e-12)
    assert agent.baseline["w_S"][world.start].item() == pytest.approx(expected_S[world.start].item(), abs=0.15)
    assert agent.baseline["w_S"][world.ends :].tolist() == [0, 0]
    best = run.metrics["value-iteration/train/return"]
    assert best == pytest.approx(0.7053, abs=5e-5)
    assert world.worth(Agent(len(world.fields)).chances())[world.start] < -0.5  # by chance
    assert 0 < run.metrics["short_of_optimum"] < 0.05
    objective: Any = stage.objective
    assert objective.earned[-20:].mean().item() == pytest.approx(expected_S[world.start].item(), abs=0.1)


def test_measured_is_what_the_policy_earns() -> None:
    torch.manual_seed(0)
    world, agent = World(), Agent(11)
    agent.policy["theta_SA"].data.normal_()
    start_B = torch.full((4000,), world.start)
    mean = played(agent, world, start_B, 1000).returns(1.0)[0].mean().item()
    found = measure(agent, Reinforce(world, 0.0, 1, 1, 1), world.train)
    assert found["return"] == pytest.approx(mean, abs=0.05)
