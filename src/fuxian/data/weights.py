"""Published weights, of the Hugging Face hub or a folder, in the files of transformers; and ours written as such.

safetensors, or a pickle of tensors and nothing else: no code in a file is ever run.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from fuxian.errors import DataMissing, WrongInput

CONFIG, SAFETENSORS = "config.json", "model.safetensors"
FILES = SAFETENSORS, "model.safetensors.index.json", "pytorch_model.bin", "pytorch_model.bin.index.json"  # first found


def hub_weights(repo: str, revision: str, prefix: str = "", *, file: str = SAFETENSORS, or_: str = "") -> dict[str, Tensor]:
    """{name without `prefix`: tensor} of the tensors in `repo`'s `file` whose names begin with it, at a fixed `revision`.

    `or_` says what works without. Raises what `locate` raises.
    """
    tensors = tensors_of(locate(f"{repo}@{revision}", file, or_=or_))
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}


def locate(source: str | Path, *files: str, or_: str = "") -> Path:
    """The first of these files that `source` has: a folder, or a repository of the hub, `owner/name[@revision]`.

    Kept where the hub's own client keeps them; `HF_HOME`, `HF_ENDPOINT` and `HF_HUB_OFFLINE` are heard. Raises DataMissing
    where none can be had, WrongInput where `source` is neither or the client is not installed.
    """
    if folder := _folder(source):
        for file in files:
            if (folder / file).is_file():
                return folder / file
        raise DataMissing(f"{source} has no {' and no '.join(files)}", do="give the folder of a saved model", or_=or_)
    repo, _, revision = str(source).partition("@")
    try:
        from huggingface_hub import hf_hub_download
        from huggingface_hub.errors import EntryNotFoundError, HfHubHTTPError, HFValidationError
    except ImportError as error:
        raise WrongInput(
            f"weights of {repo} need {error.name}, which is not here", do='pip install "fuxian[hub]"', or_=or_
        ) from None
    reasons = []
    for file in files:
        try:
            return Path(hf_hub_download(repo, file, revision=revision or None))
        except HFValidationError:
            raise WrongInput(f"{source} is no folder, and no name of a repository", do="write owner/name") from None
        except EntryNotFoundError as error:  # not there; or not here, and the hub is out of reach
            reasons.append(error)
        except (HfHubHTTPError, OSError) as error:
            reasons.append(error)
            break
    raise DataMissing(
        f"the weights {repo} are not here and cannot be downloaded: {str(reasons[0]).splitlines()[0]}",
        do="set HF_ENDPOINT to a mirror that you can reach, or HF_HOME to a folder that has them",
        or_=or_,
    )


def tensors_of(path: Path) -> dict[str, Tensor]:
    """{name: tensor} of a .safetensors file, or of a pickle (.bin, .pt), in which only tensors are allowed.

    Raises DataMissing where the file is damaged, WrongInput where a pickle holds anything else; what it holds is not run.
    """
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        found = torch.load(path, map_location="cpu", weights_only=True)  # torch's allow-list, and no other names
        if isinstance(found, dict) and all(isinstance(tensor, Tensor) for tensor in found.values()):
            return found
        reason = f"it holds a {type(found).__name__} of other things"
    except SafetensorError as error:
        raise DataMissing(f"{path} is damaged: {error}", do="delete it, and fetch it again") from None
    except Exception as error:  # a broken pickle breaks its reader in any way
        reason = (str(error) or type(error).__name__).splitlines()[0]
    raise WrongInput(f"{path} is refused, since it is no file of tensors alone: {reason}", do=f"give {SAFETENSORS}")


class Config(dict[str, Any]):
    """What config.json says; a size that it does not say is one clear line."""

    def __missing__(self, name: str) -> Any:
        raise WrongInput(f"{CONFIG} has no {name}, which is needed", do="write it there")


def pretrained(source: str | Path, implemented: Mapping[str, Any], prefix: str = "") -> tuple[Config, dict[str, Tensor]]:
    """What config.json says of a model of transformers, and {name without `prefix`: tensor}, also of several files.

    `implemented` is all that ours has of what a config can choose; where it is silent, that is meant. Raises WrongInput for
    any other choice, and what `locate` and `tensors_of` raise.
    """
    path = locate(source, CONFIG)
    if _folder(source) is None:  # all files of the commit that has this config, though the branch may move
        source = f"{str(source).partition('@')[0]}@{path.parent.name}"
    config = Config(_json(path))
    for name, ours in implemented.items():
        if config.get(name, ours) != ours:
            raise WrongInput(f"{source} has {name}={config[name]!r}; this model has {ours!r} and no other")
    path = locate(source, *FILES)
    files = [path.name] if path.suffix != ".json" else sorted(set(_json(path).get("weight_map", {}).values()))
    tensors: dict[str, Tensor] = {}
    for file in files:
        if Path(file).name != file:
            raise WrongInput(f"{path} names {file!r}, which does not lie beside it")
        tensors |= tensors_of(locate(source, file))
    return config, {name.removeprefix(prefix): tensor for name, tensor in tensors.items()}


def fill(into: Mapping[str, Tensor], tensors: Mapping[str, Tensor], source: str | Path, unused: str = "") -> None:
    """Copies published tensors into a model's own, by name; a name that all of `unused` (a pattern) matches is left out.

    Raises WrongInput where a name or a shape is not the same on both sides, naming three of each.
    """
    tensors = {name: tensor for name, tensor in tensors.items() if name in into or not re.fullmatch(unused, name)}
    kind = lambda tensor: (tensor.shape, tensor.is_floating_point())
    wrong = {
        "without": [name for name in into if name not in tensors],
        "with": [name for name in tensors if name not in into],
        "of another shape or type": [
            f"{name} {tuple(own.shape)}, there {tuple(tensors[name].shape)}"
            for name, own in into.items()
            if name in tensors and kind(own) != kind(tensors[name])
        ],
    }
    if any(wrong.values()):
        more = lambda names: f" and {len(names) - 3} more" if len(names) > 3 else ""
        said = "; ".join(f"{what} {', '.join(names[:3])}{more(names)}" for what, names in wrong.items() if names)
        raise WrongInput(f"the weights of {source} are not this model's: {said}")
    for name, own in into.items():
        own.copy_(tensors[name])


def renamed(tensors: Mapping[str, Tensor], names: Mapping[str, str], turned: str) -> dict[str, Tensor]:
    """The same tensors, where `names` has another word for a part of a name, between its points.

    Matrices whose new name begins with `turned` are turned: so transformers stores the layers of its GPTs (Conv1D).
    """
    found = {}
    for name, tensor in tensors.items():
        there = f".{name}."
        for ours, theirs in names.items():
            there = there.replace(f".{ours}.", f".{theirs}.")
        there = there[1:-1]
        found[there] = tensor.T if there.startswith(turned) and tensor.dim() == 2 else tensor
    return found


def save(folder: str | Path, config: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> None:
    """Writes config.json and model.safetensors, as transformers reads them. Raises WrongInput where there are such."""
    folder = Path(folder).expanduser()
    for file in (CONFIG, *FILES):
        if (folder / file).exists():
            raise WrongInput(f"{folder} has a {file} already", do="give a new folder")
    folder.mkdir(parents=True, exist_ok=True)
    apart = {name: tensor.detach().cpu().clone(memory_format=torch.contiguous_format) for name, tensor in tensors.items()}
    save_file(apart, folder / SAFETENSORS, metadata={"format": "pt"})
    (folder / CONFIG).write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")


def tokenizer(source: str | Path) -> Any:
    """The `tokenizers.Tokenizer` of a model's tokenizer.json; `source` as in `locate`, which says what is raised."""
    try:
        from tokenizers import Tokenizer
    except ImportError as error:
        raise WrongInput(
            f"the tokenizer of {source} needs {error.name}, which is not here", do='pip install "fuxian[text]"'
        ) from None
    return Tokenizer.from_file(str(locate(source, "tokenizer.json")))


def _folder(source: str | Path) -> Path | None:
    """The folder that `source` is, or None for a repository of the hub."""
    folder = Path(source).expanduser()
    if folder.is_dir():
        return folder
    if isinstance(source, Path) or source.startswith((".", "/", "~")):
        raise WrongInput(f"there is no folder {source}")
    return None


def _json(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise DataMissing(f"{path} is no JSON: {error}", do="fetch it again") from None
    if not isinstance(found, dict):
        raise DataMissing(f"{path} is no JSON object", do="fetch it again")
    return found
