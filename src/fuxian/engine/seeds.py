"""Every random number comes from a stream: `hash(seed, stage, stream, rank) + step`.

The hash is taken once a stream and the step is added: torch's CPU generator keeps 32 bits of its seed, so a hash of every
step would collide (about 116 times in a million steps), and `seed + step` alone would make run 0's step 1 run 1's step 0.
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from hashlib import blake2b
from typing import Any

import numpy as np
import torch
from torch import Tensor

MPS = torch.backends.mps.is_available()


def stream(seed: int, stage: str, name: str, rank: int = 0) -> int:
    """The first seed of a stream; add the step. Streams: recipe, data, order, batch, losses, evaluate, pictures."""
    text = "\0".join([str(seed), stage, name, str(rank)])
    return int.from_bytes(blake2b(text.encode(), digest_size=8).digest(), "little") >> 2  # room to add a step


def seed_torch(value: int) -> None:
    """Seeds torch's default generators. 1 µs on a CPU, where `torch.manual_seed` takes 80."""
    torch.default_generator.manual_seed(value)
    for generator in torch.cuda.default_generators:  # empty until CUDA is used
        generator.manual_seed(value)
    if MPS:
        torch.mps.manual_seed(value)


def seed_all(value: int) -> None:
    """Seeds torch, numpy and random: before each advance of a recipe and each evaluation, never in a step."""
    seed_torch(value)
    np.random.seed(value % 2**32)  # noqa: NPY002  the global state is the one that libraries draw from
    random.seed(value)


def chance() -> dict[str, Any]:
    """Where all that `seed_all` seeds now is, to be saved."""
    name, keys, *rest = np.random.get_state()  # noqa: NPY002
    return {
        "torch": [generator.get_state() for generator in (torch.default_generator, *torch.cuda.default_generators)],
        "mps": torch.mps.get_rng_state() if MPS else None,
        "numpy": [name, np.asarray(keys).tolist(), *rest],
        "random": random.getstate(),
    }


def set_chance(saved: Mapping[str, Any]) -> None:
    """Goes on from what `chance` told. CUDA's generators, where there are fewer of them now, are left out."""
    for generator, state in zip((torch.default_generator, *torch.cuda.default_generators), saved["torch"], strict=False):
        generator.set_state(state)
    if MPS and saved["mps"] is not None:
        torch.mps.set_rng_state(saved["mps"])
    np.random.set_state(tuple(saved["numpy"]))  # noqa: NPY002
    version, keys, gauss = saved["random"]
    random.setstate((version, tuple(keys), gauss))


def order(seed: int, stage: str, epoch: int, examples: int) -> Tensor:
    """The order of the training data in an epoch, (examples,) int64: a function of its arguments alone."""
    generator = torch.Generator().manual_seed(stream(seed, stage, "order") + epoch)
    return torch.randperm(examples, generator=generator)
