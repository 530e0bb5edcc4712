"""Memory that torch's operations take while they run."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any
from weakref import finalize

from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode


class Live(TorchDispatchMode):
    """Counts bytes that operations have made and that are not freed yet: `now`, and the `most` there ever were.

    with Live([model_input, *model.parameters()]) as live:  # what is there already does not count
        model(model_input).sum().backward()
    print(live.most)

    What a kernel takes for itself and gives back before it returns is not seen.
    """

    def __init__(self, given: Iterable[Tensor] = ()) -> None:
        super().__init__()
        self.now = self.most = 0
        self.known = {tensor.untyped_storage().data_ptr() for tensor in given}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = func(*args, **(kwargs or {}))
        for tensor in made if isinstance(made, tuple | list) else [made]:
            if not isinstance(tensor, Tensor):
                continue
            storage = tensor.untyped_storage()
            if storage.data_ptr() not in self.known:
                self.known.add(storage.data_ptr())
                self.now += storage.nbytes()
                self.most = max(self.most, self.now)
                finalize(storage, self._freed, storage.data_ptr(), storage.nbytes())
        return made

    def _freed(self, pointer: int, size: int) -> None:
        self.known.discard(pointer)
        self.now -= size
