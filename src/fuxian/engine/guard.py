"""What a resume could not bring back: looked for at the first step of a stage, where it is still cheap to mend."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
from torch import Tensor, nn

from fuxian.errors import ContractError

_MODULE = frozenset(vars(nn.Module()))  # what every module has


@contextmanager
def watched(model: nn.Module, objective: nn.Module) -> Iterator[None]:
    """Raises ContractError where a step in here changes what no checkpoint holds, or draws from unseeded generators."""
    before = dict(_unsaved(model, objective))
    generators = _generators()
    yield
    after = dict(_unsaved(model, objective))
    changed = next((name for name, value in after.items() if not _same(before.get(name), value)), None)
    if changed:
        what = "a tensor, but no buffer that is saved" if isinstance(after[changed], Tensor) else "a Python value"
        name = changed.rpartition(".")[2]
        raise ContractError(
            f"{changed} changed while a step ran, and is {what}: a resumed run would not have it",
            do=f"make it a buffer: self.register_buffer({name!r}, torch.tensor(…)), changed in place",
        )
    if _generators() != generators:
        raise ContractError(
            "a step drew from `random` or `numpy.random`: a resumed run would draw other numbers",
            do="draw from torch's default generator, which is seeded for each step",
        )


def _generators() -> tuple[Any, ...]:
    """Where those stand that the engine does not seed for each step."""
    state: Any = np.random.get_state()  # noqa: NPY002
    name, keys, *rest = state
    return random.getstate(), name, keys.tobytes(), rest


def _unsaved(*roots: nn.Module) -> Iterator[tuple[str, Any]]:
    """Numbers, strings, containers of them and tensors that modules hold beside parameters and persistent buffers."""
    for root in roots:
        for path, part in root.named_modules():
            held = {key: value for key, value in vars(part).items() if key not in _MODULE}
            held |= {name: part._buffers[name] for name in part._non_persistent_buffers_set}
            for key, value in held.items():
                if (plain := _plain(value)) is not None:
                    yield ".".join(filter(None, [type(root).__name__, path, key])), plain


def _plain(value: Any) -> Any:
    """What stays equal while nothing changes; None for what is rebuilt (modules, functions, results) or not a value."""
    if isinstance(value, bool | int | float | str):
        return repr(value)  # NaN is no equal of itself
    if isinstance(value, Tensor):
        return None if value.requires_grad else value.clone()
    if isinstance(value, list | tuple | set | dict):
        items = value.items() if isinstance(value, dict) else value
        return type(value).__name__, len(value), tuple(str(_plain(item)) for item in items if not isinstance(item, Tensor))
    return None


def _same(before: Any, after: Any) -> bool:
    """A tensor that was not there before, or had another shape, is the batch's or a cache: made again when needed."""
    if isinstance(after, Tensor):
        return not isinstance(before, Tensor) or before.shape != after.shape or bool(_equal(before, after).all())
    return not isinstance(before, Tensor) and before == after


def _equal(before: Tensor, after: Tensor) -> Tensor:
    return (before == after) | ((before != before) & (after != after))  # NaN beside NaN
