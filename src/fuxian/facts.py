"""Facts about a method: its paper, its claims, and which values its knobs may take. Nothing here imports torch."""

from __future__ import annotations

from dataclasses import dataclass, field
from math import inf
from typing import Any, Literal


@dataclass(frozen=True)
class Paper:
    """Where a method comes from."""

    title: str
    authors: str  # "Kipf & Welling", "LeCun et al."
    year: int
    venue: str = ""
    arxiv: str = ""
    doi: str = ""


@dataclass(frozen=True)
class Claim:
    """A published number, and when ours counts as the same.

    `metric` is a run's metric (`test/accuracy`, or a key that the recipe returns), `value` and `tolerance` are in its
    unit (fractions, not percent). The mean over `seeds` runs is *reproduced* when it is not worse than `value` by more
    than `tolerance`; an exact one, better="equal", when it is not off by more on either side. `knobs` are differences from
    the recipe's defaults.

    `comparison` says in words how our setting differs from the published one: then there is no verdict, only two
    numbers. `needs` says what was not at hand (hardware, weights, data): then it reads *at scale only*. Where no number
    is published `value` is None and `where` says so: then ours is *measured*, and stands alone.
    """

    metric: str
    value: float | None
    where: str
    seeds: int
    tolerance: float = 0.0
    better: Literal["higher", "lower", "equal"] = "higher"
    knobs: dict[str, Any] = field(default_factory=dict)
    comparison: str = ""
    needs: str = ""

    @property
    def published(self) -> tuple[float, ...]:
        """Value and tolerance, whose digits are kept wherever they are written; nothing where no number is published."""
        return () if self.value is None else (self.value, self.tolerance)

    @property
    def decidable(self) -> bool:
        """Whether it can be held or fail: a published number, in its own setting."""
        return self.value is not None and not self.comparison


@dataclass(frozen=True)
class Within:
    """The values that a number may take: `Annotated[float, Within(0, 1)]`. `above` leaves the low end out."""

    low: float = -inf
    high: float = inf
    above: bool = False

    def __contains__(self, value: float) -> bool:
        return (self.low < value if self.above else self.low <= value) and value <= self.high

    def __str__(self) -> str:
        low, high = f"{self.low:g}", f"{self.high:g}"
        if self.high == inf:
            return f"above {low}" if self.above else f"{low} or more"
        return f"above {low}, up to {high}" if self.above else f"from {low} to {high}"


# The same thing has the same name in every method, so that `compare` and `sweep` work across them.
SHARED_KNOBS: dict[str, Within | None] = {
    "data": None,
    "epochs": Within(1),
    "steps": Within(0),
    "batch": Within(1),
    "lr": Within(0, above=True),
    "weight_decay": Within(0),
    "width": Within(1),
    "depth": Within(1),
    "hidden": Within(1),
    "heads": Within(1),
    "dropout": Within(0, 1),
}

# Names that the command line keeps for itself; a recipe may not use them.
RESERVED_KNOBS = frozenset(
    "seed seeds device precision compile quick limit dry_run name target time jobs track on json".split()
)
