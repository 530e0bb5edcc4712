"""The running stage: its data, its players, how far it is, and what of that a checkpoint holds."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from fuxian.contract import Batch, History, Splits, Stage, defines
from fuxian.engine import seeds, state, world
from fuxian.engine.device import move
from fuxian.engine.folder import RunFolder
from fuxian.engine.players import players_of, submodule
from fuxian.errors import ContractError, NotFinite, RunUnusable

LINES = 500  # of a stage's log, about


@dataclass
class Settings:
    """What the command line keeps for itself: the same for every method."""

    seed: int = 0
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    precision: str = "float32"  # or "bf16": autocast
    compile: bool = False
    limit: int | None = None  # steps a stage takes at most, while schedules keep the full run's total
    save_seconds: float = 30.0  # between checkpoints; the result does not depend on it


class Running:
    """A stage at one of its steps. Data is made before a checkpoint is loaded, which may change what made the data."""

    def __init__(self, stage: Stage, name: str, folder: RunFolder, settings: Settings) -> None:
        self.stage, self.name, self.folder, self.settings = stage, name, folder, settings
        self.model, self.objective = stage.model, stage.objective
        seeds.seed_all(self.stream("data"))
        self.data = stage.data() if callable(stage.data) else stage.data
        if self.data is not None and not isinstance(self.data, Splits):
            raise ContractError(f"the data of stage {name} is a {type(self.data).__name__}, not Splits")
        move(self.data, settings.device)
        self.model.to(settings.device)
        self.objective.to(settings.device)
        self.players = players_of(self.model, self.objective, stage.optimizer)
        if settings.compile:
            for player in self.players.values():
                for part in player.spec.parts or (player.name,):
                    whole = part == "model" and not player.spec.parts
                    (self.model if whole else submodule(self.model, self.objective, part, player.name)).compile()

        kind = type(self.objective).__name__
        updates = defines(self.objective, "update")
        if updates and self.players:
            raise ContractError(f"{kind} defines update, and stage {name} has an optimizer", do="leave optimizer out")

        self.examples = len(self.data.train) if self.data is not None else 1
        if self.examples < 1:
            raise ContractError(f"the training split of stage {name} is empty")
        self.batch = min(stage.batch or self.examples, self.examples)
        if self.data is not None and self.batch < world.size() and not updates:
            raise ContractError(f"a batch of {self.batch} cannot be divided among {world.size()} processes")
        rest = 0 if stage.drop_last else self.examples % self.batch > 0
        self.per_epoch = self.examples // self.batch + rest
        self.total = stage.steps if stage.steps is not None else (stage.epochs or 0) * self.per_epoch  # schedules see this
        self.last = self.total if settings.limit is None else min(self.total, settings.limit)
        if self.total and not updates and not defines(self.objective, "losses"):
            raise ContractError(
                f"{kind} defines neither losses nor update, and stage {name} has steps to take",
                do="define losses(model, batch), or give steps=0 to measure only",
            )
        self.log_every = max(1, math.ceil(self.total / LINES))
        self.evaluate_every = stage.evaluate_every or self.per_epoch
        self.validates = self.data is not None and self.data.val is not None and defines(self.objective, "evaluate")
        for rule in ("select", "stop"):
            if getattr(stage, rule) is not None and not self.validates:
                raise ContractError(
                    f"stage {name} has {rule}= and nothing to look at: no validation split, or no `evaluate`",
                    do=f"leave {rule}= out and train for fixed epochs, or split a validation set off the training set",
                )

        self.at_start = {name: _mark(tensor) for name, tensor in self._frozen().items()}
        self.step = 0  # finished steps
        self.history: History = []  # one row an evaluation
        self.evaluated = 0  # the step of its newest row
        self.best: dict[str, Any] | None = None  # row, step and weights of the best evaluation
        self.pending: list[tuple[int, str, Any]] = []  # losses not yet in the log: step, name, value
        self.saved: int | None = None  # the step of the newest checkpoint
        self.waited = 0.0  # seconds spent on batches
        rank = 0 if updates else world.rank()  # what updates buffers in place does the same in every process
        self.streams = tuple(seeds.stream(settings.seed, name, of, rank) for of in ("batch", "losses"))
        self.several = world.size() > 1  # processes
        self.share = 1.0  # of this process in the newest batch; the shares of all processes are 1 together
        self._order: tuple[int, tuple[Tensor, ...]] | None = None  # epoch, and the indices of its batches

    def stream(self, name: str) -> int:
        return seeds.stream(self.settings.seed, self.name, name)

    def next_batch(self) -> Batch | None:
        """This process's part of the batch of this step, a function of (seed, stage, step, rank), on the run's device."""
        if self.data is None:
            self.share = 1 / world.size()
            return None
        epoch, place = divmod(self.step, self.per_epoch)
        if self._order is None or self._order[0] != epoch:
            whole = self.batch == self.examples  # then the order changes nothing
            order = (
                torch.arange(self.examples) if whole else seeds.order(self.settings.seed, self.name, epoch, self.examples)
            )
            self._order = epoch, order.to(getattr(self.data.train, "device", "cpu")).split(self.batch)
        indices = self._order[1][place]
        if self.several and not defines(self.objective, "update"):
            part = indices.tensor_split(world.size())[world.rank()]
            self.share = len(part) / len(indices)
            indices = part if len(part) else indices[:1]  # a last batch of fewer examples than processes: it counts for 0
        batch = self.data.train.batch(indices)
        return batch if self.settings.device.type == "cpu" else batch.to(self.settings.device)

    def autocast(self) -> Any:
        if self.settings.precision == "bf16":
            return torch.autocast(self.settings.device.type, torch.bfloat16)
        return nullcontext()

    # ── losses and the log ──────────────────────────────────────────────────────────────────────────────────────────

    def note(self, name: str, value: Tensor | float) -> None:
        """Keeps a loss for the log. One that is not finite stops the run: here, or on an accelerator in `flush`."""
        value = value if isinstance(value, Tensor) and value.device.type != "cpu" else float(value)
        self.pending.append((self.step + 1, name, value))
        if isinstance(value, float) and not math.isfinite(value):
            self.check_pending()

    def check_pending(self) -> None:
        """Raises NotFinite at the first pending loss that is not finite, with its place."""
        for step, name, value in self.pending:
            if not math.isfinite(value):
                epoch, place = divmod(step - 1, self.per_epoch)
                raise NotFinite(
                    f"the loss is {'NaN' if math.isnan(value) else 'infinite'}",
                    where=f"stage {self.name}, step {step:,}, player {name}, batch {place + 1:,} of epoch {epoch + 1:,}",
                    kept=self.kept(),
                )

    def kept(self) -> str:
        path = self.folder.newest_path(self.name)
        return f"step {int(path.name.rpartition('-')[2]):,}, the last checkpoint: {path}" if path else ""

    def flush(self) -> dict[str, float]:
        """Writes the mean of the pending losses to the log and returns it."""
        self.check_pending()
        values: dict[str, list[float]] = {}
        for _, name, value in self.pending:
            values.setdefault(self.in_log(name), []).append(float(value))
        self.pending = []
        means = {name: math.fsum(found) / len(found) for name, found in values.items()}
        if means:
            self.folder.log(self.name, self.step, means)
        return means

    def in_log(self, name: str) -> str:
        """`loss` for the only player, `generator/loss` for one of several; what `update` returns keeps its name."""
        if defines(self.objective, "update"):
            return name
        return "loss" if name == "model" else f"{name}/loss"

    # ── the weights that are judged ─────────────────────────────────────────────────────────────────────────────────

    @contextmanager
    def judged(self) -> Iterator[None]:
        """The moving average where a player keeps one, else the last weights."""
        pairs = [pair for p in self.players.values() if p.average for pair in zip(p.weights, p.average, strict=True)]
        live = [weight.detach().clone() for weight, _ in pairs]
        try:
            for weight, average in pairs:
                weight.data.copy_(average)
            yield
        finally:
            for (weight, _), value in zip(pairs, live, strict=True):
                weight.data.copy_(value)

    def settle(self) -> None:
        """Leaves in the model what is judged: the best weights, else the average, else the last."""
        if self.best is not None:
            self._copy(self.best["weights"], f"best weights of stage {self.name}")
            return
        for player in self.players.values():
            for weight, average in zip(player.weights, player.average or player.weights, strict=True):
                weight.data.copy_(average)

    # ── checkpoints ─────────────────────────────────────────────────────────────────────────────────────────────────

    def tensors(self, frozen: bool) -> dict[str, Tensor]:
        """Live weights and buffers of model and objective, by name. `frozen`: also parameters that stay as they were.

        A frozen parameter may move all the same: a teacher that follows its student in place.
        """
        found = state.tensors_of(("", self.model), ("objective.", self.objective))
        still = {} if frozen else {n for n, t in self._frozen().items() if _mark(t) == self.at_start[n]}
        return {name: tensor for name, tensor in found.items() if name not in still}

    def buffers(self) -> dict[str, Tensor]:
        return {name: tensor for name, tensor in self.tensors(frozen=True).items() if not isinstance(tensor, nn.Parameter)}

    def _frozen(self) -> dict[str, Tensor]:
        found = state.tensors_of(("", self.model), ("objective.", self.objective))
        return {n: t for n, t in found.items() if isinstance(t, nn.Parameter) and not t.requires_grad}

    def _copy(self, saved: dict[str, Tensor], what: str) -> None:
        live = {n: t for n, t in self.tensors(frozen=True).items() if n in saved or n not in self.at_start}
        state.copy_into(live, saved, what)

    def save(self) -> None:
        """Writes a checkpoint of this step, unless a weight or a pending loss is not finite."""
        if self.saved == self.step:
            return
        self.check_pending()
        tensors = self.tensors(frozen=False)
        world.check_same(tensors)
        for player in self.players.values():
            for name, weight in player.named.items():
                if not weight.isfinite().all():
                    raise NotFinite(
                        f"the weight {name} is not finite, though the loss was",
                        where=f"stage {self.name}, after step {self.step:,}, player {player.name}",
                        kept=self.kept(),
                    )
        tree = {
            "step": self.step,
            "history": self.history,
            "evaluated": self.evaluated,
            "best": self.best,
            "pending": [[step, name, float(value)] for step, name, value in self.pending],
            "log": self.folder.log_length(),
            "tensors": tensors,
            "players": {name: player.state() for name, player in self.players.items()},
        }
        self.folder.save(self.name, self.step, tree)
        self.saved = self.step

    def load(self, saved: dict[str, Any]) -> None:
        if saved["players"].keys() != self.players.keys():
            raise RunUnusable(
                f"stage {self.name} has the players {', '.join(self.players)}; saved: {', '.join(saved['players'])}",
                do="resume with the code and the knobs that the run began with",
            )
        self.step = self.saved = saved["step"]
        self.history, self.evaluated, self.best = saved["history"], saved["evaluated"], saved["best"]
        self.pending = [(step, name, value) for step, name, value in saved["pending"]]
        self._copy(saved["tensors"], f"weights of stage {self.name}")
        for name, player in self.players.items():
            player.load(saved["players"][name])
        self.folder.cut_log(saved["log"])


def _mark(tensor: Tensor) -> tuple[int, int, float]:
    """Changes when the tensor does: in place, through `.data` (which no version counts), or by being replaced."""
    total = tensor.detach().cpu().double().sum().item() if tensor.is_floating_point() else 0.0
    return tensor._version, tensor.data_ptr(), total
