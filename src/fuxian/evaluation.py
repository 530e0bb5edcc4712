"""Evaluation, counted: every example of a split once, sums divided by what was summed over.

A mean of batch means, a dropped last batch and a subset are errors here, not choices.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from fuxian.contract import Metric, Objective, Split, defines
from fuxian.errors import ContractError


@contextmanager
def judging(*modules: nn.Module) -> Iterator[None]:
    """Evaluation mode without gradients; each submodule's own mode comes back afterwards."""
    training = [(part, part.training) for module in modules for part in module.modules()]
    for module in modules:
        module.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        for part, mode in training:
            part.training = mode


@dataclass
class Reading:
    """How far a split is read, and what it has come to by then. Between two batches it can be saved and gone on from."""

    examples: int = 0
    sums: dict[str, list[float]] = field(default_factory=dict)  # by metric: a sum, and what it is divided by
    rows: dict[str, int] = field(default_factory=dict)  # by metric: the examples that it was told of
    metrics: Mapping[str, Metric] = field(default_factory=dict)

    def state(self) -> dict[str, Any] | None:
        """What `measure` goes on from; None where a metric holds what is not saved as it is: a network, say, or a tuple."""
        metrics = {name: dict(vars(metric)) for name, metric in self.metrics.items()}
        return {**vars(self), "metrics": metrics} if _plain(metrics) else None

    def load(self, saved: Mapping[str, Any]) -> None:
        self.examples, self.sums, self.rows = saved["examples"], saved["sums"], saved["rows"]
        for name, metric in self.metrics.items():
            vars(metric).update(saved["metrics"][name])


def _plain(tree: Any) -> bool:
    if isinstance(tree, dict | list):
        return all(map(_plain, tree.values() if isinstance(tree, dict) else tree))
    return tree is None or isinstance(tree, bool | int | float | str) or (isinstance(tree, Tensor) and tree.is_cpu)


def batches(split: Split, size: int | None, device: torch.device | str | None = None, first: int = 0) -> Iterator[Any]:
    """All examples of a split in order, from number `first` on, `size` at a time, the last batch short; on `device`."""
    for start in range(first, len(split), size or max(1, len(split))):
        stop = min(start + (size or len(split)), len(split))
        batch = split.batch(torch.arange(start, stop, device=getattr(split, "device", None)))
        yield batch if device is None else batch.to(device)


def measure(
    model: nn.Module,
    objective: Objective,
    split: Split,
    batch: int | None = None,
    *,
    counts: dict[str, float] | None = None,
    told: Callable[[Reading], None] | None = None,
    begun: Mapping[str, Any] | None = None,
) -> dict[str, float]:
    """Every metric of the objective on a whole split: {name: value}.

    `counts`, if given, receives what each value stands on: examples, or the sum of the weights. `told` is called after each
    batch; `begun`, a `Reading.state()` that it was told, is gone on from. Raises ContractError when `evaluate` does not
    yield one row for each example.
    """
    if not defines(objective, "evaluate"):
        raise ContractError(f"{type(objective).__name__} has no evaluate: it cannot be measured")
    device = next((t.device for t in [*model.parameters(), *model.buffers()]), None)
    with judging(model, objective):
        reading = Reading(metrics=dict(objective.metrics(model)))
        if begun is not None:
            reading.load(begun)
        sums, rows, metrics = reading.sums, reading.rows, reading.metrics
        for part in batches(split, batch, device, reading.examples):
            reading.examples += len(part)
            for name, *values in objective.evaluate(model, part):
                rows[name] = rows.get(name, 0) + _rows(name, values, len(part), name in metrics)
                if name in metrics:
                    metrics[name].update(*values)
                    continue
                total = sums.setdefault(name, [0.0, 0.0])
                total[0] += values[0].double().sum().item()
                total[1] += values[1].double().sum().item() if len(values) == 2 else len(part)
            if told:
                told(reading)
        result = {name: total / weight if weight else float("nan") for name, (total, weight) in sums.items()}
        result |= {name: _value(name, metric) for name, metric in metrics.items()}
    examples = reading.examples
    for name, count in rows.items():
        if count != len(split) or examples != len(split):
            raise ContractError(
                f"{name} was measured on {count if examples == len(split) else examples:,} of {len(split):,} examples;"
                " each counts once",
                do="let `evaluate` yield one row for each example of the batch, in every batch",
            )
    if not result:
        raise ContractError(f"{type(objective).__name__}.evaluate yielded nothing: there is no metric")
    if counts is not None:
        counts |= {name: weight for name, (_, weight) in sums.items()}
        counts |= {name: metric.count for name, metric in metrics.items()}
    return result


def _rows(name: str, values: list[Any], examples: int, to_metric: bool) -> int:
    """How many examples a yield of `evaluate` speaks for; all of the batch, or an error."""
    tensors = [value for value in values if isinstance(value, Tensor)]
    if to_metric:  # a metric may take anything (captions, paths); rows are checked where there are rows
        return len(tensors[0]) if tensors and tensors[0].dim() else examples
    if len(values) not in (1, 2) or len(tensors) != len(values):
        raise ContractError(
            f"evaluate yields ({name!r}, values) or ({name!r}, sums, weights), tensors of one row an example"
        )
    for value in tensors:
        if value.shape != (examples,):
            shape = "a single number, a mean of means" if value.dim() == 0 else f"shape {tuple(value.shape)}"
            raise ContractError(
                f"evaluate yielded {shape} as {name} for a batch of {examples} examples",
                do=f"yield one value for each example, shape ({examples},); the engine sums and divides",
            )
    return examples


def _value(name: str, metric: Metric) -> float:
    value = float(metric.value())
    if metric.count < 1:
        raise ContractError(f"the metric {name} does not say what it stands on: set its `count` in update or value")
    return value
