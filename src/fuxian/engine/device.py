"""Where a run computes: device, precision, threads, memory; and what is recorded of the machine."""

from __future__ import annotations

import ctypes
import os
import platform
import resource
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
import torch

from fuxian import __version__
from fuxian.contract import Sealed, Splits
from fuxian.engine import world
from fuxian.errors import WrongInput

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # of malloc.h


def pick_device(name: str | None) -> torch.device:
    """The device of that name, or the best there is. Raises WrongInput for one that this machine does not have."""
    if name is None:
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name == "cuda" and world.size() > 1:
        name = f"cuda:{world.local_rank()}"
    try:
        device = torch.device(name)
    except RuntimeError:
        raise WrongInput(f"--device {name}: there is no such device; use cpu, cuda, cuda:0, …") from None
    if device.type == "cuda" and not torch.cuda.is_available():
        raise WrongInput(f"--device {name}: PyTorch {torch.__version__} sees no CUDA device. Leave it out to use the CPU")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise WrongInput(f"--device {name}: there are {torch.cuda.device_count()} CUDA devices, counted from 0")
    if device.type == "mps" and not torch.backends.mps.is_available():
        raise WrongInput(f"--device {name}: PyTorch {torch.__version__} sees no MPS device. Leave it out to use the CPU")
    if device.type not in ("cpu", "cuda", "mps"):
        raise WrongInput(f"--device {name}: Fuxian runs on cpu, cuda and mps")
    return device


def move(data: Splits | None, device: torch.device) -> None:
    """Moves the splits that can be moved to the device; of the others each batch is moved."""
    if data is None or device.type == "cpu":
        return
    for name in ("train", "val", "test"):
        split = getattr(data, name)
        inner: Any = split.split if isinstance(split, Sealed) else split
        if hasattr(inner, "to"):
            moved = inner.to(device)
            setattr(data, name, Sealed(moved) if name == "test" else moved)


def peak_memory(device: torch.device) -> int:
    """Bytes at the highest: of the accelerator's tensors, or of the process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


@contextmanager
def kept_memory() -> Iterator[None]:
    """Within, this process keeps what it frees for the next step, whose tensors have the same sizes, and not after.

    glibc gives large pieces back at once, and the system must find and empty their pages again. Elsewhere nothing changes.
    """
    libc = ctypes.CDLL(None)
    glibc = hasattr(libc, "mallopt")
    if glibc:
        libc.mallopt(_MMAP_THRESHOLD, 2**30)  # bytes, from which on a piece has pages of its own
        libc.mallopt(_TRIM_THRESHOLD, 2**31 - 1)  # bytes, from which on what is free goes back
    try:
        yield
    finally:
        if glibc:
            libc.mallopt(_MMAP_THRESHOLD, 2**25)  # both as high as they rise by themselves
            libc.mallopt(_TRIM_THRESHOLD, 2**26)
            libc.malloc_trim(0)


def versions() -> dict[str, str]:
    return {
        "fuxian": __version__,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "numpy": np.__version__,
    }


def machine(device: torch.device) -> dict[str, Any]:
    found: dict[str, Any] = {
        "system": f"{platform.system()} {platform.release()}",
        "processor": platform.machine(),
        "model": processor(),
        "vectors": torch.backends.cpu.get_cpu_capability(),  # which kernels torch picks: others round differently
        "cores": os.cpu_count(),
        "memory_bytes": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
    }
    if device.type == "cuda":
        found["accelerator"] = torch.cuda.get_device_name(device)
    return found


def processor() -> str:
    """The processor's name, where the system tells it."""
    with suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor()
