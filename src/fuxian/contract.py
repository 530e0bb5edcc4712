"""The whole contract between a method and the engine.

A *recipe* is a generator function: its typed parameters are the knobs, and it yields stages.
A *stage* is a model, data, an objective and an optimizer, trained for so long.
An *objective* is how a model learns and is judged: a generator of losses, one for each player.

    def recipe(lr: float = 0.01, epochs: int = 200) -> Iterator[Stage]:
        data = mnist()
        yield Stage(LeNet(), data, Classification(), adam(lr), epochs=epochs, batch=128)
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch import Tensor, nn

from fuxian.errors import ContractError

if TYPE_CHECKING:
    from typing_extensions import Self

    from fuxian.optim import Optimizer

History = list[dict[str, float]]  # one dict an evaluation on `val`, oldest first


# ── data ────────────────────────────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True)
class Batch:
    """Some examples: subclass it as a frozen dataclass of tensors with one row an example, named by the data.

    >>> @dataclass(frozen=True)
    ... class Images(Batch):
    ...     image: Tensor  # (batch, channels, height, width) float32
    ...     label: Tensor  # (batch,) int64
    """

    def __len__(self) -> int:
        return len(getattr(self, fields(self)[0].name))

    def to(self, device: torch.device | str) -> Self:
        return replace(self, **{f.name: getattr(self, f.name).to(device) for f in fields(self)})

    def chunk(self, parts: int) -> list[Self]:
        """At most `parts` batches of nearly equal size, none empty, that together are this one."""
        columns = [getattr(self, f.name).tensor_split(min(parts, len(self))) for f in fields(self)]
        return [type(self)(*column) for column in zip(*columns, strict=True)]


class Split(Protocol):
    """One part of a data set. `indices` is an int64 tensor; the rows of the batch are in its order.

    A split that also has `to(device)` is moved there once; else each batch is.
    """

    def __len__(self) -> int: ...
    def batch(self, indices: Tensor) -> Any: ...  # a Batch


class Sealed:
    """A test split that cannot be read while the stage that it judges is training."""

    def __init__(self, split: Split) -> None:
        self.split = split
        self.locked = False

    def __len__(self) -> int:
        return len(self.split)

    def batch(self, indices: Tensor) -> Batch:
        if self.locked:
            raise ContractError("the test split was read while its stage was training", do="use `val` to select or stop")
        return self.split.batch(indices)

    def __getattr__(self, name: str) -> Any:
        if name in ("split", "locked"):  # not yet set: while it is being copied
            raise AttributeError(name)
        if self.locked:
            raise ContractError(f"test.{name} was read while its stage was training", do="use `val` to select or stop")
        return getattr(self.split, name)


class Splits:
    """A data set: `train`, and `val` and `test` where they exist, disjoint. Selection sees `val` only.

    `name` and `hashes` (file: SHA-256) go into the record. A data set that a model is built from is a subclass with
    its sizes as attributes (`features`, `classes`). Raises ContractError where one split stands for two.
    """

    def __init__(
        self,
        train: Split,
        val: Split | None = None,
        test: Split | None = None,
        *,
        name: str = "",
        hashes: Mapping[str, str] | None = None,
    ) -> None:
        bare = test.split if isinstance(test, Sealed) else test
        for one, other, names in (
            (val, bare, "val and test"),
            (train, bare, "train and test"),
            (train, val, "train and val"),
        ):
            if one is not None and one is other:
                raise ContractError(
                    f"{names} are the same split", do="leave one of them out: without `val` nothing selects"
                )
        self.train = train
        self.val = val
        self.test = test if test is None or isinstance(test, Sealed) else Sealed(test)
        self.name = name
        self.hashes = dict(hashes or {})

    def read(self, words: Sequence[str]) -> Any:
        """A Batch of what a user wants predicted: paths of images, a sentence, numbers of nodes. Raises WrongInput."""
        raise NotImplementedError

    def about(self) -> Mapping[str, Any]:
        """What one must know to make a model's inputs, and to read its outputs, without these splits: for export, as JSON.

        `values` says in a sentence what a batch holds; beside it are its numbers, as `mean` and `std`, and the `classes`.
        """
        return {}


# ── objective ───────────────────────────────────────────────────────────────────────────────────────────────────────


class Metric:
    """A number that is no mean over examples: perplexity, a sum, FID, a Parzen estimate. Each kind writes both methods."""

    count: int = 0  # examples (or tokens) that it stands on

    def update(self, *args: Any, **kwargs: Any) -> None:
        """Takes what `evaluate` yielded under this metric's name, without the name."""
        raise NotImplementedError

    def value(self) -> float:
        raise NotImplementedError


class Objective(nn.Module):
    """How a model learns and is judged. Its parameters and buffers are its state: saved and moved with the stage.

    A method writes those that it needs, of `losses` and `update` one. The engine and the commands ask `defines` before they
    call one, as they do for `Splits.read`: that of this class is never called.
    """

    def __new__(cls, *_: Any, **__: Any) -> Self:
        self = super().__new__(cls)
        nn.Module.__init__(self)  # so that an author's __init__ may assign buffers at once
        return self

    def __init__(self) -> None:  # nn.Module's would empty what a subclass has set before calling it
        pass

    def losses(self, model: Any, batch: Any) -> Iterator[tuple[str, Tensor] | tuple[str, Tensor, Tensor]]:
        """Yields `(player, loss)`, or `(player, loss_sum, weight)`; the player has stepped when this goes on."""
        raise NotImplementedError

    def update(self, model: Any, batch: Any) -> Mapping[str, Tensor | float]:
        """One step in place on buffers, for what is not gradient descent. Returns numbers to log."""
        raise NotImplementedError

    def evaluate(self, model: Any, batch: Any) -> Iterator[tuple[Any, ...]]:
        """Yields `(name, values)`, or `(name, sums, weights)`, one row an example, or what a `Metric` takes."""
        raise NotImplementedError

    def metrics(self, model: Any) -> Mapping[str, Metric]:
        """Fresh metrics by name, once an evaluation."""
        return {}

    def pictures(self, model: Any, split: Any) -> Mapping[str, Any]:
        """Named figures: a matplotlib Figure, an image tensor (channels, height, width) in 0 to 1, or an animation."""
        return {}

    def inputs(self, batch: Any) -> tuple[Tensor, ...]:
        """What `model.forward` takes of a batch: for export, prediction and counting."""
        raise NotImplementedError

    def about(self) -> Mapping[str, Any]:
        """What it takes beside the model to use it, as a schedule of noise: for export, as JSON."""
        return {}

    def predict(self, model: Any, batch: Any) -> Sequence[Mapping[str, Any]]:
        """What the model says of each example that `Splits.read` gave: `{"class": "7", "probability": 0.98}`."""
        raise NotImplementedError

    def sample(self, model: Any, count: int, prompt: str = "") -> Iterator[float | str | Tensor]:
        """New examples, drawn from torch's default generator; `prompt` is the beginning of a text, or a class's name.

        Yields as it goes the share that is done (a float from 0 to 1), a piece of text as soon as there is one, or finished
        images (n, channels, height, width) in 0 to 1. Raises WrongInput for a prompt that it cannot use.
        """
        raise NotImplementedError


def defines(part: Objective | Splits, method: str) -> bool:
    """Whether an author wrote this method of the objective or the data."""
    return getattr(type(part), method) is not getattr(Objective if isinstance(part, Objective) else Splits, method)


# ── stage ───────────────────────────────────────────────────────────────────────────────────────────────────────────


@dataclass
class Stage:
    """Model + data + objective + optimizer, trained for so long.

    data            splits; or a function that makes them at the stage's start, not called when the stage is finished;
                    or None (the model is the data: then `steps=`, and `batch` is None in `losses`)
    optimizer       a spec, or one for each player; None logs the losses and steps nothing
    epochs, steps   exactly one of them; steps=0 only measures
    batch           examples a step, over all micro-batches; None: the whole split is the batch
    accumulate      micro-batches a step
    drop_last       leaves out the last, short batch of training; never of evaluation
    select          "accuracy" or "-loss": keeps the weights that were best on `val`; or a pure function of the validation
                    history: whether the newest are kept
    stop            a pure function of the validation history
    evaluate_every  steps between evaluations on `val`; None: each epoch
    name            needed, and unique, as soon as a recipe has two stages
    """

    model: nn.Module
    data: Splits | Callable[[], Splits] | None
    objective: Objective
    optimizer: Optimizer | Mapping[str, Optimizer] | None = None
    epochs: int | None = None
    steps: int | None = None
    batch: int | None = None
    accumulate: int = 1
    drop_last: bool = False
    select: str | Callable[[History], bool] | None = None
    stop: Callable[[History], bool] | None = None
    evaluate_every: int | None = None
    name: str = ""

    def __post_init__(self) -> None:
        if not isinstance(self.model, nn.Module):
            raise ContractError(f"a stage's model must be a torch.nn.Module, not {_kind(self.model)}")
        if not isinstance(self.objective, Objective):
            raise ContractError(f"a stage's objective must be an Objective, not {_kind(self.objective)}")
        if self.data is not None and not isinstance(self.data, Splits) and not callable(self.data):
            raise ContractError(
                f"a stage's data must be Splits, a function that makes them, or None, not {_kind(self.data)}"
            )
        if (self.epochs is None) == (self.steps is None):
            raise ContractError("a stage takes exactly one of epochs= and steps=")
        if self.data is None and self.epochs is not None:
            raise ContractError("a stage without data has no epochs: give steps=")
        if self.data is None and self.accumulate > 1:
            raise ContractError("a stage without data has nothing to accumulate")
        for name, least in dict(epochs=1, steps=0, batch=1, accumulate=1, evaluate_every=1).items():
            value = getattr(self, name)
            if value is not None and (not isinstance(value, int) or value < least):
                raise ContractError(f"a stage's {name} must be a whole number of {least} or more, not {value!r}")
        if defines(self.objective, "losses") and defines(self.objective, "update"):
            raise ContractError(f"{_kind(self.objective)} defines both losses and update; a step is one or the other")


def _kind(value: object) -> str:
    return f"{type(value).__name__} {value!r}"[:80] if isinstance(value, str | int | float) else type(value).__name__
