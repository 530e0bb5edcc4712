"""The processes of a run: one, or as many as `torchrun` started, each with its part of every batch.

After each step all of them hold the same weights and buffers: gradients are summed here, after each player's backward,
whatever method of the model an objective calls. (A wrapper such as DDP sees calls of `forward` alone; all others leave
different gradients in the processes, silently.) The first process evaluates, draws and writes; what it finds, or that it
failed, reaches the others through `shared`. Alone, nothing here does anything.
"""

from __future__ import annotations

import atexit
import hashlib
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import TYPE_CHECKING, Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn

from fuxian.engine.launch import launched
from fuxian.engine.signals import Stopped
from fuxian.errors import CheckFailed, OtherFailed

if TYPE_CHECKING:
    from torch.nn import Parameter

T = TypeVar("T")
LONGEST = timedelta(days=7)  # that others wait while the first evaluates; a process that dies is noticed at once


def join() -> None:
    """Meets the other processes, if `torchrun` started this one. Called once or often, before a run begins."""
    if dist.is_initialized() or not launched():
        return
    dist.init_process_group("cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo", timeout=LONGEST)
    atexit.register(dist.destroy_process_group)


def rank() -> int:
    return dist.get_rank() if dist.is_initialized() else 0


def size() -> int:
    return dist.get_world_size() if dist.is_initialized() else 1


def launcher() -> str:
    """How the command line began that started this process, and would start one like it."""
    return f"torchrun --nproc-per-node {os.environ.get('LOCAL_WORLD_SIZE', size())} -m fuxian" if size() > 1 else "fuxian"


def local_rank() -> int:
    """The number of this process among those of its machine: which of its accelerators it takes."""
    return int(os.environ["LOCAL_RANK"]) if size() > 1 else 0


@contextmanager
def _meeting() -> Iterator[None]:
    try:
        yield
    except RuntimeError as error:
        where = str(error).splitlines()[0][:90]
        raise OtherFailed(
            "another process of this run has ended", where=where, do="see what it says, then resume"
        ) from error


def shared(make: Callable[[], T]) -> T:
    """What the first process makes, in all of them. Where it raises, the others raise OtherFailed, or Stopped too."""
    if size() == 1:
        return make()
    if rank() == 0:
        try:
            made = make()
        except BaseException as error:
            _tell(("stopped" if isinstance(error, Stopped) else "failed", str(error)))
            raise
        _tell(("made", made))
        return made
    kind, value = _tell(None)
    if kind == "stopped":
        raise Stopped
    if kind == "failed":
        raise OtherFailed(f"the first process ended: {value}")
    return value


def _tell(words: tuple[str, Any] | None) -> tuple[str, Any]:
    told: list[Any] = [words]
    with _meeting():
        dist.broadcast_object_list(told, 0)
    return told[0]


def highest(*values: float) -> list[float]:
    """The largest of each value over the processes."""
    if size() == 1:
        return list(values)
    together = torch.tensor(values, dtype=torch.float64)
    with _meeting():
        dist.all_reduce(together, dist.ReduceOp.MAX)
    return together.tolist()


def summed(turn: int, weights: Sequence[Parameter], *numbers: Tensor | float) -> list[Tensor | float]:
    """Sums the gradients in place, and returns the sums of `numbers`: one all-reduce of one flat tensor.

    A gradient that is None in every process stays None. `turn` is the number of the player, the same everywhere.
    """
    if size() == 1:
        return list(numbers)
    device = weights[0].device if weights else torch.device("cpu")
    dtype = torch.float64 if any(w.dtype == torch.float64 for w in weights) else torch.float32
    parts = [torch.zeros_like(w) if w.grad is None else w.grad for w in weights]
    there = torch.tensor([w.grad is not None for w in weights])
    head = torch.stack([torch.as_tensor(n, dtype=dtype, device=device) for n in (float(turn), *numbers)])
    flat = torch.cat([head, there.to(device, dtype), *(part.reshape(-1).to(dtype) for part in parts)])
    with _meeting():
        dist.all_reduce(flat)
    head, there, rest = flat.split([len(head), len(weights), len(flat) - len(head) - len(weights)])
    if head[0].item() != turn * size():
        raise CheckFailed("the processes took turns of different players", do="let losses yield the same for any batch")
    sums = rest.split([w.numel() for w in weights])
    for weight, part, total, anywhere in zip(weights, parts, sums, there.tolist(), strict=True):
        weight.grad = part.copy_(total.view(weight.shape)) if anywhere else None
    return [n if isinstance(n, Tensor) and n.device.type != "cpu" else n.item() for n in head[1:]]


def align(*modules: nn.Module) -> None:
    """Gives every process the first one's buffers: statistics of a batch norm, codebooks, what an evaluation changed."""
    if size() == 1:
        return
    buffers = [
        buffer
        for module in modules
        for part in module.modules()
        for name, buffer in part._buffers.items()
        if buffer is not None and name not in part._non_persistent_buffers_set
    ]
    with torch.no_grad(), _meeting():
        for kind in dict.fromkeys((b.dtype, b.device) for b in buffers):
            group = [b for b in buffers if (b.dtype, b.device) == kind]
            flat = torch.cat([b.reshape(-1) for b in group])
            dist.broadcast(flat.view(torch.uint8), 0)  # gloo has no bool
            for buffer, value in zip(group, flat.split([b.numel() for b in group]), strict=True):
                buffer.copy_(value.view(buffer.shape))


def check_same(tensors: Mapping[str, Tensor]) -> None:
    """Raises CheckFailed where the processes hold different bits, with the first name."""
    if size() == 1:
        return
    mine = {name: hashlib.blake2b(_bytes(t), digest_size=8).digest() for name, t in tensors.items()}
    found: list[Any] = [None] * size()
    with _meeting():
        dist.all_gather_object(found, mine)
    for other, theirs in enumerate(found):
        differ = next((name for name, value in mine.items() if found[0].get(name) != theirs.get(name)), None)
        if differ is not None:
            raise CheckFailed(
                f"processes 0 and {other} hold different values of {differ}: they have drifted apart",
                do="what a step changes by its own part of the batch is a buffer, or summed over the processes",
            )


def _bytes(tensor: Tensor) -> bytes:
    return tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()
