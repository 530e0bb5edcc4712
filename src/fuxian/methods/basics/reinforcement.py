"""Reinforcement learning: an agent finds its way by the rewards of what it has tried, and nobody shows it the way.

中文     强化学习（用奖励引导，优化加随机）
Paper    Williams, Machine Learning 8, 1992: REINFORCE, sec. 4-5
         Sutton & Barto, Reinforcement Learning, 2nd edition, 2018: eq. 13.8 and the box in sec. 13.4 (with a baseline),
         sec. 4.4 (value iteration)
         Russell & Norvig, Artificial Intelligence, sec. 17.1-17.2: the world of 4 × 3 fields, Fig. 17.3 (values)
Departs  a step takes the mean over many episodes, drawn side by side; an episode is cut at `horizon`, as hardly one is long
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import torch
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from torch import Tensor, nn

from fuxian import figures
from fuxian.contract import Batch, Objective, Splits, Stage
from fuxian.data.sources import digest
from fuxian.facts import Claim, Paper, Within
from fuxian.numbers import fixed
from fuxian.optim import sgd

PAPER = Paper("Simple Statistical Gradient-Following Algorithms for Connectionist Reinforcement Learning", "Williams", 1992,
              venue="Machine Learning")  # fmt: skip
CLAIMS = [
    # the optimum; REINFORCE only comes near, as long as its policy still tries out what it does not hold for best
    Claim("train/return", 0.705, where="Russell & Norvig, Fig. 17.3, the start; by REINFORCE", tolerance=0.01, seeds=5),
    Claim("value-iteration/train/return", 0.705, where="Russell & Norvig, Fig. 17.3, the start; by value iteration",
          tolerance=0.0005, seeds=1),
    Claim("train/share", None, where="no number is published: the return as a share of the optimum's, in a maze", seeds=5,
          knobs=dict(data="maze")),
]  # fmt: skip
QUICK = dict(steps=100)

# Shape letters: S states, A = 4 actions, B episodes, T steps of the longest.

MOVES = {"↑": (-1, 0), "→": (0, 1), "↓": (1, 0), "←": (0, -1)}  # in turn: a neighbour in this order is a right angle
WORLDS = {  # s is the start, + and - end an episode with 1 and -1, # is a wall
    "4x3": ("...+", ".#.-", "s..."),
    "maze": ("....#..+", ".##.#.#.", ".#....#.", "...##...", "##....#-", "s..#...."),
}


@dataclass(frozen=True)
class Starts(Batch):
    state: Tensor  # (batch,) int64, where an episode begins


class World(Splits):
    """A Markov decision process on a grid, whose one example is the state where all episodes begin.

    A move goes as meant 8 times of 10, and at a right angle to either side once; into a wall is to stay. Each move from
    `state` costs `cost`; the last two states are the ends, worth 1 and -1 when they are reached. sec. 17.1.
    """

    def __init__(self, name: str, cost: float = 0.04, gamma: float = 1.0) -> None:
        rows = WORLDS[name]
        at = {(i, j): mark for i, row in enumerate(rows) for j, mark in enumerate(row) if mark != "#"}
        fields = sorted(at, key=lambda field: ("+-".find(at[field]), field))  # the ends are last
        place = {field: s for s, field in enumerate(fields)}
        p_SAS = torch.zeros(len(fields), len(MOVES), len(fields), dtype=torch.float64)
        for (i, j), s in place.items():
            goes = [place.get((i + down, j + right), s) for down, right in MOVES.values()]
            for a in range(len(MOVES)):
                for turn, chance in ((0, 0.8), (1, 0.1), (-1, 0.1)):
                    p_SAS[s, a, goes[(a + turn) % 4]] += chance
        self.fields, self.rows, self.gamma, self.ends = fields, rows, gamma, len(fields) - 2
        p_SAS[self.ends :] = 0  # nothing comes after an end
        self.p_SAS = p_SAS
        self.reward_S = torch.zeros(len(fields), dtype=torch.float64)  # of entering a state
        self.reward_S[self.ends :] = torch.tensor([1.0, -1.0])
        self.reward_SA = p_SAS @ self.reward_S - cost * (p_SAS.sum(2) > 0)  # expected, of each move
        self.cost = cost
        self.start = next(place[field] for field, mark in at.items() if mark == "s")
        super().__init__(OneStart(self.start), name=name, hashes={name: digest("\n".join(rows).encode())})

    def worth(self, policy_SA: Tensor) -> Tensor:
        """What each state is worth (S,) to an agent that moves by these chances: v = r + γ P v, solved."""
        p_SS = (policy_SA[:, :, None] * self.p_SAS).sum(1)
        r_S = (policy_SA * self.reward_SA).sum(1)
        return torch.linalg.solve(torch.eye(len(r_S), dtype=r_S.dtype) - self.gamma * p_SS, r_S)


class OneStart:
    def __init__(self, state: int) -> None:
        self.state = torch.tensor([state])

    def __len__(self) -> int:
        return 1

    def batch(self, indices: Tensor) -> Starts:
        return Starts(self.state[indices])


# ── by planning ─────────────────────────────────────────────────────────────────────────────────────────────────────


class Values(nn.Module):
    """What each state is worth (S,), and from that the worth (B, A) of each move in states (B,)."""

    value_S: Tensor

    def __init__(self, world: World) -> None:
        super().__init__()
        self.register_buffer("value_S", torch.zeros(len(world.fields), dtype=torch.float64))
        self.register_buffer("p_SAS", world.p_SAS, persistent=False)
        self.register_buffer("reward_SA", world.reward_SA, persistent=False)
        self.gamma = world.gamma

    def forward(self, state_B: Tensor) -> Tensor:
        return (self.reward_SA + self.gamma * self.p_SAS @ self.value_S)[state_B]


class ValueIteration(Objective):
    """v(s) ← max over a of r(s, a) + γ Σ p(s' | s, a) v(s'), for all states at once. Sutton & Barto, eq. 4.10."""

    def __init__(self, world: World) -> None:
        self.world = world

    def inputs(self, batch: Starts) -> tuple[Tensor, ...]:
        return (batch.state,)

    def update(self, model: Values, batch: Starts) -> dict[str, Tensor]:
        new_S = model(torch.arange(len(model.value_S), device=model.value_S.device)).amax(1)
        change = (new_S - model.value_S).abs().max()
        model.value_S.copy_(new_S)
        return {"change": change}

    def evaluate(self, model: Values, batch: Starts) -> Iterator[tuple[str, Tensor]]:
        yield "return", model.value_S[batch.state]

    def pictures(self, model: Any, split: Any) -> dict[str, Any]:
        worth_SA = model(torch.arange(len(model.value_S))).cpu()
        best_SA = nn.functional.one_hot(worth_SA.argmax(1), 4).double()
        return {"optimum": drawn(self.world, best_SA, model.value_S.cpu())}


# ── by trying ───────────────────────────────────────────────────────────────────────────────────────────────────────


class Agent(nn.Module):
    """A table of preferences θ (S, A), and one of what is expected of a state, w (S,). States (B,) to chances (B, A)."""

    def __init__(self, states: int, baseline: bool) -> None:
        super().__init__()
        self.policy = nn.ParameterDict({"theta_SA": nn.Parameter(torch.zeros(states, 4, dtype=torch.float64))})
        expected_S = nn.Parameter(torch.zeros(states, dtype=torch.float64), requires_grad=baseline)
        self.baseline = nn.ParameterDict({"w_S": expected_S})

    def forward(self, state_B: Tensor) -> Tensor:
        return self.policy["theta_SA"][state_B].softmax(1)  # eq. 13.2


@dataclass(frozen=True)
class Episodes:
    """Where each of B episodes was at each of T steps, what it did, and what it got; `alive` until it has ended."""

    state_TB: Tensor
    action_TB: Tensor
    reward_TB: Tensor
    alive_TB: Tensor

    def returns(self, gamma: float) -> Tensor:
        """G (T, B): the rewards that are still to come, each step's worth γ times the one before."""
        total, sums = torch.zeros_like(self.reward_TB[0]), []
        for reward_B in self.reward_TB.flip(0):
            total = reward_B + gamma * total
            sums.append(total)
        return torch.stack(sums).flip(0)


@torch.no_grad()
def played(agent: Agent, world: World, start_B: Tensor, horizon: int) -> Episodes:
    """Episodes by the agent's own chances, side by side, until all have ended or the horizon is reached."""
    states = len(world.fields)
    chance_SAS = agent(torch.arange(states))[:, :, None] * world.p_SAS  # of a move, and of where it leads
    chance_SAS[world.ends :, -1, -1] = 1  # one that has ended stays at an end
    state_B, draws, visited = start_B, [], [start_B]
    while len(draws) < horizon and bool((state_B < world.ends).any()):
        draws.append(torch.multinomial(chance_SAS.flatten(1)[state_B], 1)[:, 0])
        state_B = draws[-1] % states
        visited.append(state_B)
    state_TB, next_TB = torch.stack(visited[:-1]), torch.stack(visited[1:])
    alive_TB = state_TB < world.ends
    reward_TB = torch.where(alive_TB, world.reward_S[next_TB] - world.cost, 0.0)
    return Episodes(state_TB, torch.stack(draws) // states, reward_TB, alive_TB)


def policy_loss(agent: Agent, episodes: Episodes, gamma: float) -> Tensor:
    """(B,), whose gradient is minus that of sec. 13.4: Σₜ γᵗ (Gₜ - w(Sₜ)) ∇ ln π(Aₜ | Sₜ, θ)."""
    log_pi_TB = agent.policy["theta_SA"].log_softmax(1)[episodes.state_TB, episodes.action_TB]
    advantage_TB = episodes.returns(gamma) - agent.baseline["w_S"][episodes.state_TB].detach()
    discount_T1 = gamma ** torch.arange(len(log_pi_TB), dtype=log_pi_TB.dtype)[:, None]
    return -(discount_T1 * advantage_TB * log_pi_TB * episodes.alive_TB).sum(0)


class Reinforce(Objective):
    """REINFORCE with a baseline. `optimum_S` is what each state is worth at best, which the agent is not told."""

    got: Tensor
    step: Tensor

    def __init__(self, world: World, optimum_S: Tensor, episodes: int, horizon: int, steps: int) -> None:
        self.world, self.optimum, self.episodes, self.horizon = world, float(optimum_S[world.start]), episodes, horizon
        self.register_buffer("got", torch.full((steps,), torch.nan, dtype=torch.float64))  # mean return of each step's
        self.register_buffer("step", torch.tensor(0))

    def inputs(self, batch: Starts) -> tuple[Tensor, ...]:
        return (batch.state,)

    def losses(self, model: Agent, batch: Starts) -> Iterator[tuple[str, Tensor]]:
        start_B = batch.state.repeat(self.episodes)
        episodes = played(model, self.world, start_B, self.horizon)
        self.got[self.step] = episodes.returns(1.0)[0].mean()
        self.step += 1
        yield "policy", policy_loss(model, episodes, self.world.gamma).mean()
        expected_S = model.baseline["w_S"]
        if expected_S.requires_grad:  # each state's towards the mean of the returns that have followed it
            state_N, return_N = episodes.state_TB[episodes.alive_TB], episodes.returns(self.world.gamma)[episodes.alive_TB]
            visits_S = torch.bincount(state_N, minlength=len(expected_S))
            yield "baseline", ((return_N - expected_S[state_N]).square() / (2 * visits_S[state_N])).sum()

    def evaluate(self, model: Agent, batch: Starts) -> Iterator[tuple[str, Tensor]]:
        expected = self.world.worth(model(torch.arange(len(self.world.fields))))[batch.state]  # no luck in it
        yield "return", expected
        yield "share", expected / self.optimum

    def pictures(self, model: Any, split: Any) -> dict[str, Any]:
        policy_SA = model(torch.arange(len(self.world.fields)))
        across = torch.arange(1, len(self.got) + 1)
        curves = {"REINFORCE": (across, self.got), "optimum": (across, torch.full_like(self.got, self.optimum))}
        curve = figures.lines(curves, x=f"steps of {self.episodes} episodes", y="mean return of an episode")
        return {"policy": drawn(self.world, policy_SA, self.world.worth(policy_SA)), "return": curve}


def drawn(world: World, policy_SA: Tensor, value_S: Tensor) -> Figure:
    """The grid: what each field is worth, the darker the more, and arrows as long as their moves are likely."""
    height, width = len(world.rows), len(world.rows[0])
    drawing, axes = figures.figure(height=430 * height / width + 10)
    low, high = float(value_S[: world.ends].min()), float(value_S[: world.ends].max())
    colours = figures.PALETTE
    for s, (i, j) in enumerate(world.fields):
        end = s >= world.ends
        value = float(world.reward_S[s] if end else value_S[s])
        shade = 0.0 if end else 0.05 + 0.5 * (value - low) / max(1e-9, high - low)
        axes.add_patch(Rectangle((j, i), 0.96, 0.96, facecolor=colours["blue"], alpha=shade, linewidth=0))
        axes.add_patch(Rectangle((j, i), 0.96, 0.96, fill=False, edgecolor=colours["ink"], linewidth=2.0 if end else 0.4))
        word = f"{value:+g}" if end else fixed(value, 3)
        axes.text(j + 0.48, i + (0.48 if end else 0.8), word, ha="center", va="center", color=colours["ink"],
                  fontsize=16 if end else 64 / width)  # fmt: skip
        for (down, right), chance in zip(MOVES.values(), policy_SA[s].tolist(), strict=True):
            if not end and chance > 0.05:
                tip = (j + 0.48 + 0.3 * chance * right, i + 0.4 + 0.3 * chance * down)
                axes.annotate("", tip, (j + 0.48, i + 0.4), arrowprops=dict(arrowstyle="->", color=colours["ink"]))
    axes.set(xlim=(-0.02, width), ylim=(height, -0.02), xticks=[], yticks=[], aspect="equal")
    axes.grid(False)
    axes.spines["bottom"].set_visible(False)
    return drawing


def recipe(
    data: Literal["4x3", "maze"] = "4x3",             # the world; 4x3 is that of Russell & Norvig, sec. 17.1
    cost: Annotated[float, Within(0)] = 0.04,         # of a move; sec. 17.1
    gamma: Annotated[float, Within(0, 1)] = 1.0,      # discount of the next step's reward; Fig. 17.3
    sweeps: Annotated[int, Within(1)] = 200,          # of value iteration
    baseline: bool = True,                            # whether what is expected of a state is taken off; sec. 13.4
    episodes: Annotated[int, Within(1)] = 64,         # a step
    horizon: Annotated[int, Within(1)] = 100,         # steps of an episode at most
    steps: int = 1000,                                # of REINFORCE
    lr: float = 4.0,                                  # SGD, of the preferences; the baseline goes half of its way a step
) -> Iterator[Stage]:  # fmt: skip
    world = World(data, cost, gamma)
    values = Values(world)
    yield Stage(values, world, ValueIteration(world), steps=sweeps, name="value-iteration")
    agent = Agent(len(world.fields), baseline)
    players = {"policy": sgd(lr)} | ({"baseline": sgd(0.5)} if baseline else {})
    yield Stage(agent, world, Reinforce(world, values.value_S, episodes, horizon, steps), players, steps=steps,
                name="reinforce")  # fmt: skip
