"""Reinforcement learning: an agent is never shown its way, only told what each move has earned, and finds it by trying.

Beside it stands what can be had by planning: value iteration, which is given the world that the agent has to explore.
It learns little about fields that its way does not lead over: there what it does stays far from the best.

中文     强化学习：奖励引导，优化加随机
Paper    Williams, Machine Learning 8, 1992: sec. 4 (REINFORCE), sec. 5 (of whole episodes)
         Sutton & Barto, Reinforcement Learning, 2nd edition, 2018: eq. 4.10 (value iteration), eq. 13.2 (the policy),
         sec. 13.4 (REINFORCE with a baseline, and its box)
         Russell & Norvig, Artificial Intelligence, 3rd edition, 2010: sec. 17.1 (the world), Fig. 17.3 (its values)
Departs  a step takes the mean over many episodes, drawn side by side, of which each is cut at `horizon`; the baseline's
         step is a share of its way to the mean return that followed a state in these episodes
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, Any

import torch
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from torch import Tensor, nn

from fuxian import figures
from fuxian.contract import Batch, Objective, Splits, Stage
from fuxian.data.sources import digest
from fuxian.facts import Claim, Paper, Within
from fuxian.numbers import fixed, signed
from fuxian.optim import sgd

PAPER = Paper("Simple Statistical Gradient-Following Algorithms for Connectionist Reinforcement Learning", "Williams", 1992,
              venue="Machine Learning")  # fmt: skip
CLAIMS = [
    # REINFORCE only comes near the optimum, as long as its policy still tries what it does not hold for best
    Claim("train/return", 0.705, where="Russell & Norvig, Fig. 17.3, the start: by REINFORCE", tolerance=0.01, seeds=5),
    Claim("value-iteration/train/return", 0.705, where="Russell & Norvig, Fig. 17.3, the start: by planning", seeds=1,
          tolerance=0.0005, better="equal"),
]  # fmt: skip
QUICK = dict(steps=100, sweeps=50)

# Shape letters: S states, A = 4 moves, B episodes, T steps of the longest.

MOVES = ((-1, 0), (0, 1), (1, 0), (0, -1))  # up, right, down, left: each is at a right angle to those beside it
GRID = ("...+", ".#.-", "s...")  # s is the start, + and - end an episode with 1 and -1, # is a wall


@dataclass(frozen=True)
class Starts(Batch):
    state: Tensor  # (batch,) int64, where an episode begins


class Start:
    """A split of one example: the state where all episodes begin."""

    def __init__(self, state: int) -> None:
        self.state = torch.tensor([state])

    def __len__(self) -> int:
        return 1

    def batch(self, indices: Tensor) -> Starts:
        return Starts(self.state[indices])


class World(Splits):
    """A Markov decision process on a grid: Russell & Norvig, sec. 17.1.

    A move goes as meant 8 times of 10, and once to either side of it; into a wall is to stay. Each costs `cost`. The last
    two states are ends, which earn 1 and -1 when they are reached.
    """

    def __init__(self, cost: float = 0.04, gamma: float = 1.0) -> None:
        self.cost, self.gamma = cost, gamma
        marks = {(i, j): mark for i, row in enumerate(GRID) for j, mark in enumerate(row) if mark != "#"}
        self.fields = sorted(marks, key=lambda field: ("+-".find(marks[field]), field))  # the ends are last
        state = {field: s for s, field in enumerate(self.fields)}
        self.ends = len(state) - 2
        self.p_SAS = torch.zeros(len(state), len(MOVES), len(state), dtype=torch.float64)
        for (i, j), s in list(state.items())[: self.ends]:  # nothing comes after an end
            goes = [state.get((i + down, j + right), s) for down, right in MOVES]
            for a in range(len(MOVES)):
                for turn, chance in ((0, 0.8), (1, 0.1), (-1, 0.1)):
                    self.p_SAS[s, a, goes[(a + turn) % 4]] += chance
        self.reward_S = torch.zeros(len(state), dtype=torch.float64)  # of reaching a state
        self.reward_S[self.ends :] = torch.tensor([1.0, -1.0])
        self.reward_SA = self.p_SAS @ self.reward_S - cost * self.p_SAS.sum(2)  # expected, of each move
        self.start = next(state[field] for field, mark in marks.items() if mark == "s")
        super().__init__(Start(self.start), name="4x3 world", hashes={"4x3 world": digest("\n".join(GRID).encode())})

    def ahead(self, value_S: Tensor) -> Tensor:
        """What each move is worth (S, A), where states are worth so much: r(s, a) + γ Σ p(s' | s, a) v(s')."""
        return self.reward_SA + self.gamma * (self.p_SAS * value_S).sum(2)

    def worth(self, policy_SA: Tensor) -> Tensor:
        """What each state is worth (S,) to one who moves by these chances: v = r + γ P v, solved."""
        p_SS = (policy_SA[:, :, None] * self.p_SAS).sum(1)
        r_S = (policy_SA * self.reward_SA).sum(1)
        return torch.linalg.solve(torch.eye(len(r_S), dtype=r_S.dtype) - self.gamma * p_SS, r_S)


# ── by planning ─────────────────────────────────────────────────────────────────────────────────────────────────────


class Values(nn.Module):
    """What states (B,) are worth (B,): a table."""

    value_S: Tensor

    def __init__(self, states: int) -> None:
        super().__init__()
        self.register_buffer("value_S", torch.zeros(states, dtype=torch.float64))

    def forward(self, state_B: Tensor) -> Tensor:
        return self.value_S[state_B]


class ValueIteration(Objective):
    """v(s) ← the worth of the best move from s, for all states at once: eq. 4.10."""

    def __init__(self, world: World) -> None:
        self.world = world

    def inputs(self, batch: Starts) -> tuple[Tensor, ...]:
        return (batch.state,)

    def update(self, model: Values, batch: Starts) -> dict[str, Tensor]:
        new_S = self.world.ahead(model.value_S.cpu()).amax(1).to(model.value_S)
        change = (new_S - model.value_S).abs().max()
        model.value_S.copy_(new_S)
        return {"change": change}

    def evaluate(self, model: Values, batch: Starts) -> Iterator[tuple[str, Tensor]]:
        yield "return", model(batch.state)

    def pictures(self, model: Any, split: Any) -> dict[str, Any]:
        value_S = model.value_S.cpu()
        best_SA = nn.functional.one_hot(self.world.ahead(value_S).argmax(1), len(MOVES)).double()
        return {"optimum": drawn(self.world, best_SA, value_S, "the best policy")}


# ── by trying ───────────────────────────────────────────────────────────────────────────────────────────────────────


class Agent(nn.Module):
    """Preferences θ (S, A), and what is expected of a state, w (S,). States (B,) to the chances of moves (B, A)."""

    def __init__(self, states: int) -> None:
        super().__init__()
        self.policy = nn.ParameterDict({"theta_SA": nn.Parameter(torch.zeros(states, len(MOVES), dtype=torch.float64))})
        self.baseline = nn.ParameterDict({"w_S": nn.Parameter(torch.zeros(states, dtype=torch.float64))})

    def forward(self, state_B: Tensor) -> Tensor:
        return self.policy["theta_SA"][state_B].softmax(1)  # eq. 13.2

    def chances(self) -> Tensor:
        """Of all states, (S, A)."""
        return self.policy["theta_SA"].detach().softmax(1)


@dataclass(frozen=True)
class Episodes:
    """Where each of B episodes was at each of T steps, what it did, and what it earned; `alive` until it has ended."""

    state_TB: Tensor
    action_TB: Tensor
    reward_TB: Tensor
    alive_TB: Tensor

    def returns(self, gamma: float) -> Tensor:
        """G (T, B): what is still to come, each step's worth γ times the one before."""
        total_B, sums = torch.zeros_like(self.reward_TB[0]), []
        for reward_B in self.reward_TB.flip(0):
            total_B = reward_B + gamma * total_B
            sums.append(total_B)
        return torch.stack(sums).flip(0)


def played(agent: Agent, world: World, start_B: Tensor, horizon: int) -> Episodes:
    """Episodes by the agent's own chances, side by side, until all have ended or the horizon is reached."""
    policy_SA, states = agent.chances(), len(world.fields)
    chance_SAS = policy_SA[:, :, None] * world.p_SAS.to(policy_SA)  # of a move, and of where it leads
    chance_SAS[world.ends :, -1, -1] = 1  # one that has ended stays at an end
    state_B, draws, visited = start_B, [], [start_B]
    while len(draws) < horizon and bool((state_B < world.ends).any()):
        draws.append(torch.multinomial(chance_SAS.flatten(1)[state_B], 1)[:, 0])
        state_B = draws[-1] % states
        visited.append(state_B)
    state_TB, next_TB = torch.stack(visited[:-1]), torch.stack(visited[1:])
    alive_TB = state_TB < world.ends
    reward_TB = torch.where(alive_TB, world.reward_S.to(policy_SA)[next_TB] - world.cost, 0.0)
    return Episodes(state_TB, torch.stack(draws) // states, reward_TB, alive_TB)


def policy_loss(agent: Agent, episodes: Episodes, gamma: float) -> Tensor:
    """(B,), whose gradient is minus that of sec. 13.4: Σₜ γᵗ (Gₜ - w(Sₜ)) ∇ ln π(Aₜ | Sₜ, θ)."""
    log_pi_TB = agent.policy["theta_SA"].log_softmax(1)[episodes.state_TB, episodes.action_TB]
    advantage_TB = episodes.returns(gamma) - agent.baseline["w_S"][episodes.state_TB].detach()
    discount_T1 = gamma ** torch.arange(len(log_pi_TB), dtype=log_pi_TB.dtype)[:, None]
    return -(discount_T1 * advantage_TB * log_pi_TB * episodes.alive_TB).sum(0)


def baseline_loss(agent: Agent, episodes: Episodes, gamma: float) -> Tensor:
    """Whose gradient is, of each state that was visited, w(s) less the mean of the returns that followed it."""
    w_S, alive_TB = agent.baseline["w_S"], episodes.alive_TB
    state_N, return_N = episodes.state_TB[alive_TB], episodes.returns(gamma)[alive_TB]
    visits_S = torch.bincount(state_N, minlength=len(w_S))
    return ((return_N - w_S[state_N]).square() / (2 * visits_S[state_N])).sum()


class Reinforce(Objective):
    """REINFORCE with a baseline. `optimum` is what can be earned at best; it is only drawn, the agent does not know it."""

    earned: Tensor  # (steps,), the mean of each step's episodes
    way: Tensor  # the policy before step 0, 1, 2, 4, 8 and so on, (times, S, A): it learns most in the beginning
    step: Tensor

    def __init__(self, world: World, optimum: float, episodes: int, horizon: int, steps: int) -> None:
        self.world, self.optimum, self.episodes, self.horizon = world, optimum, episodes, horizon
        self.register_buffer("earned", torch.full((steps,), torch.nan, dtype=torch.float64))
        times = max(0, steps - 1).bit_length() + 1
        self.register_buffer("way", torch.full((times, *world.p_SAS.shape[:2]), torch.nan, dtype=torch.float64))
        self.register_buffer("step", torch.tensor(0))

    def inputs(self, batch: Starts) -> tuple[Tensor, ...]:
        return (batch.state,)

    def losses(self, model: Agent, batch: Starts) -> Iterator[tuple[str, Tensor]]:
        step, gamma = int(self.step), self.world.gamma
        episodes = played(model, self.world, batch.state.repeat(self.episodes), self.horizon)
        self.earned[step] = episodes.returns(1.0)[0].mean()
        if step & (step - 1) == 0:  # zero, or a power of two
            self.way[step.bit_length()] = model.chances()
        self.step += 1
        yield "policy", policy_loss(model, episodes, gamma).mean()
        yield "baseline", baseline_loss(model, episodes, gamma)

    def evaluate(self, model: Agent, batch: Starts) -> Iterator[tuple[str, Tensor]]:
        yield "return", self.world.worth(model.chances().cpu())[batch.state.cpu()]  # expected: no luck in it

    def pictures(self, model: Any, split: Any) -> dict[str, Any]:
        across = torch.arange(1, len(self.earned) + 1)
        curves = {"REINFORCE": (across, self.earned), "optimum": (across, [self.optimum] * len(across))}
        earned = figures.lines(curves, x=f"steps of {self.episodes} episodes", y="mean return of an episode")
        earned.axes[0].set(xlim=(1, max(2, len(across))), xscale="log")
        step = int(self.step)
        policies = {t: self.way[t.bit_length()] for t in range(step) if t & (t - 1) == 0} | {step: model.chances()}
        frames = [
            drawn(self.world, policy_SA.cpu(), self.world.worth(policy_SA.cpu()), f"the policy after {t:,} steps")
            for t, policy_SA in policies.items()
        ]
        return {"policy": figures.animation(frames), "return": earned}


def drawn(world: World, policy_SA: Tensor, value_S: Tensor, title: str) -> Figure:
    """The grid: what each field is worth, the darker the more, and arrows as long as their moves are likely."""
    height, width, colours = len(GRID), len(GRID[0]), figures.PALETTE
    drawing, axes = figures.figure(height=430 * height / width + 24)
    for s, (i, j) in enumerate(world.fields):
        end = s >= world.ends
        value = float(world.reward_S[s] if end else value_S[s])
        shade = 0.0 if end else 0.05 + 0.5 * min(1.0, max(0.0, (value + 1) / 2))  # the same in every frame
        axes.add_patch(Rectangle((j, i), 0.96, 0.96, facecolor=colours["blue"], alpha=shade, linewidth=0))
        axes.add_patch(Rectangle((j, i), 0.96, 0.96, fill=False, edgecolor=colours["ink"], linewidth=2.0 if end else 0.4))
        axes.text(j + 0.48, i + (0.48 if end else 0.84), signed(value, 0) if end else fixed(value, 3), ha="center",
                  va="center", color=colours["ink"], fontsize=16)  # fmt: skip
        for (down, right), chance in zip(MOVES, policy_SA[s].tolist(), strict=True):
            if not end and chance > 0.05:
                tip = (j + 0.48 + 0.32 * chance * right, i + 0.4 + 0.32 * chance * down)
                axes.annotate("", tip, (j + 0.48, i + 0.4), arrowprops=dict(arrowstyle="->", color=colours["ink"]))
    axes.set(xlim=(-0.02, width), ylim=(height, -0.02), xticks=[], yticks=[], aspect="equal")
    axes.set_title(title, loc="left", fontsize=12, color=colours["soft"])
    axes.grid(False)
    axes.spines["bottom"].set_visible(False)
    return drawing


def recipe(
    cost: Annotated[float, Within(0)] = 0.04,         # of a move; sec. 17.1
    gamma: Annotated[float, Within(0, 1)] = 1.0,      # discount of the next step's reward; Fig. 17.3
    sweeps: Annotated[int, Within(1)] = 200,          # of value iteration
    episodes: Annotated[int, Within(1)] = 64,         # a step
    horizon: Annotated[int, Within(1)] = 100,         # moves of an episode at most
    steps: int = 1000,                                # of REINFORCE
    lr: float = 4.0,                                  # of the preferences
) -> Iterator[Stage]:  # fmt: skip
    world = World(cost, gamma)
    best = yield Stage(Values(len(world.fields)), world, ValueIteration(world), steps=sweeps, name="value-iteration")
    optimum = best["train/return"]
    tried = yield Stage(Agent(len(world.fields)), world, Reinforce(world, optimum, episodes, horizon, steps),
                        {"policy": sgd(lr), "baseline": sgd(0.5)}, steps=steps, name="reinforce")  # fmt: skip
    return {"short_of_optimum": optimum - tried["train/return"]}
