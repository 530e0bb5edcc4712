"""State on disk: a JSON skeleton and one safetensors file, hashed and written atomically. Never pickle.

A tree of dicts, lists, numbers, strings, None and tensors goes to a folder and comes back with the same bits. Reading
executes nothing, and a file that is truncated, altered or missing is named.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor

from fuxian.errors import ContractError, OutOfRoom, RunUnusable

FORMAT = 1  # of checkpoints and of run.json; a newer one is refused


class Damaged(Exception):
    """A checkpoint that cannot be trusted; the message names the file and what is wrong with it."""


def pack(tree: Any, tensors: dict[str, Tensor], path: str = "") -> Any:
    """The JSON skeleton of a tree; its tensors go into `tensors` under their paths."""
    if isinstance(tree, Tensor):
        if tree.layout != torch.strided:
            raise ContractError(
                f"{path.rpartition('/')[2]} is a sparse tensor, which no checkpoint can hold",
                do="register_buffer(…, persistent=False): the recipe makes it again",
            )
        while path in tensors:  # {"a/b": …} beside {"a": {"b": …}}, 0 beside "0"
            path += "'"
        tensors[path] = tree.detach().cpu().contiguous().clone()  # a copy: safetensors refuses shared storage
        return {"tensor": path}
    if isinstance(tree, dict):
        return {"dict": [[key, pack(value, tensors, f"{path}/{key}")] for key, value in tree.items()]}
    if isinstance(tree, list | tuple):
        return [pack(value, tensors, f"{path}/{index}") for index, value in enumerate(tree)]
    if tree is None or isinstance(tree, bool | int | float | str):
        return tree
    raise TypeError(f"{path} is a {type(tree).__name__}: only tensors, numbers, strings, lists and dicts can be saved")


def unpack(skeleton: Any, tensors: dict[str, Tensor]) -> Any:
    """The tree of a skeleton. Keys of dicts keep their type (optimizers use numbers)."""
    if isinstance(skeleton, dict):
        if "tensor" in skeleton:
            return tensors[skeleton["tensor"]]
        return {key: unpack(value, tensors) for key, value in skeleton["dict"]}
    if isinstance(skeleton, list):
        return [unpack(value, tensors) for value in skeleton]
    return skeleton


def write(folder: Path, tree: dict[str, Any]) -> None:
    """Writes `tree` into `folder`, all or nothing: a kill or a full disk at any instruction leaves what was there.

    Raises OutOfRoom where the disk is full or not writable.
    """
    tensors: dict[str, Tensor] = {}
    skeleton = pack(tree, tensors)
    temporary = folder.with_name(folder.name + ".tmp")
    try:
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir(parents=True)
        safetensors.torch.save_file(tensors, temporary / "tensors.safetensors")
        (temporary / "state.json").write_text(json.dumps(skeleton, allow_nan=True))
        hashes = {name: sha256(temporary / name) for name in ("tensors.safetensors", "state.json")}
        (temporary / "manifest.json").write_text(json.dumps({"format": FORMAT, "sha256": hashes}))
        for name in (*hashes, "manifest.json", "."):
            _flush(temporary / name)
        shutil.rmtree(folder, ignore_errors=True)  # only ever a damaged one: a good one is not written again
        temporary.rename(folder)
        _flush(folder.parent)
    except (OSError, safetensors.SafetensorError) as error:
        shutil.rmtree(temporary, ignore_errors=True)
        raise OutOfRoom(
            f"a checkpoint could not be written: {getattr(error, 'strerror', None) or error}",
            where=str(folder),
            do="make room, or set FUXIAN_RUNS to another disk; the checkpoint before it is whole",
        ) from error


def read(folder: Path) -> dict[str, Any]:
    """The tree that was written there. Raises Damaged where a hash does not match, RunUnusable for a newer format."""
    try:
        manifest = json.loads((folder / "manifest.json").read_text())
        form, hashes = manifest["format"], dict(manifest["sha256"])
    except FileNotFoundError:
        raise Damaged("manifest.json is missing") from None
    except (ValueError, KeyError, TypeError, OSError):
        raise Damaged("manifest.json cannot be read") from None
    refuse_newer(form, folder)
    for name in ("tensors.safetensors", "state.json"):
        if not (folder / name).is_file():
            raise Damaged(f"{name} is missing")
        if sha256(folder / name) != hashes.get(name):
            raise Damaged(f"{name} does not match its hash")
    mapped = safetensors.torch.load_file(folder / "tensors.safetensors")
    # Copied out of the file, into memory aligned as torch does it: BLAS sums what begins elsewhere in another order.
    tensors = {name: tensor.clone() for name, tensor in mapped.items()}
    return unpack(json.loads((folder / "state.json").read_text()), tensors)


def refuse_newer(form: Any, where: Path) -> None:
    if not isinstance(form, int) or form > FORMAT:
        raise RunUnusable(
            f"this run has format {form}; this Fuxian reads up to {FORMAT}",
            where=str(where),
            do="use the version that made it, or a newer one: pip install --upgrade fuxian",
        )


def sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def write_text(path: Path, text: str) -> None:
    """Replaces a text file, all or nothing."""
    temporary = path.with_name(path.name + ".tmp")
    try:
        temporary.write_text(text, encoding="utf-8")
        _flush(temporary)
        temporary.rename(path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise OutOfRoom(f"{path.name} could not be written: {error.strerror or error}", where=str(path.parent)) from error


def _flush(path: Path) -> None:
    """Makes the disk hold what was written, before the next step relies on it."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def tensors_of(*modules: tuple[str, torch.nn.Module]) -> dict[str, Tensor]:
    """Parameters and persistent buffers by name, each tensor once.

    Live tensors, not copies. Load with `copy_into`, so that ties, aliases and memory formats survive.
    """
    found: dict[str, Tensor] = {}
    seen: set[int] = set()
    for prefix, module in modules:
        persistent = module.state_dict(keep_vars=True).keys()
        named = [*module.named_parameters()]
        named += [(n, b) for n, b in module.named_buffers() if n in persistent]
        for name, tensor in named:
            if id(tensor) not in seen:
                seen.add(id(tensor))
                found[prefix + name] = tensor
    return found


def copy_into(live: dict[str, Tensor], saved: dict[str, Tensor], what: str) -> None:
    """Copies saved values into live tensors, in place. Raises RunUnusable where names or shapes differ."""
    misfits = [f"{n} {tuple(t.shape)}" for n, t in live.items() if n not in saved or saved[n].shape != t.shape]
    misfits += [f"{n} {tuple(t.shape)}" for n, t in saved.items() if n not in live]
    if misfits:
        raise RunUnusable(
            f"the saved {what} do not fit the model that the recipe makes now: {', '.join(misfits[:3])}",
            do="resume with the code and the knobs that the run began with",
        )
    with torch.no_grad():
        for name, tensor in live.items():
            tensor.copy_(saved[name])
