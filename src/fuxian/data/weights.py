"""Published weights from the Hugging Face hub, read from safetensors: no pickle, no code."""

from __future__ import annotations

from safetensors import SafetensorError, safe_open
from torch import Tensor

from fuxian.errors import DataMissing, WrongInput


def hub_weights(
    repo: str, revision: str, prefix: str = "", *, file: str = "model.safetensors", or_: str = ""
) -> dict[str, Tensor]:
    """{name without `prefix`: tensor} of the tensors in `repo`'s `file` whose names begin with it, at a fixed `revision`.

    Kept where the hub's own client keeps them; `HF_HOME`, `HF_ENDPOINT` and `HF_HUB_OFFLINE` are heard. `or_` says what
    works without. Raises DataMissing where they cannot be had, WrongInput where the client is not installed.
    """
    try:
        from huggingface_hub import hf_hub_download
        from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError
    except ImportError as error:
        raise WrongInput(
            f"weights of {repo} need {error.name}, which is not here", do='pip install "fuxian[hub]"', or_=or_
        ) from None
    try:
        path = hf_hub_download(repo, file, revision=revision)
        with safe_open(path, framework="pt") as tensors:
            names = [name for name in tensors.keys() if name.startswith(prefix)]  # noqa: SIM118  it is no mapping
            return {name.removeprefix(prefix): tensors.get_tensor(name) for name in names}
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
        raise DataMissing(
            f"the weights {repo} are not here and cannot be downloaded: {str(error).splitlines()[0]}",
            do="set HF_ENDPOINT to a mirror that you can reach, or HF_HOME to a folder that has them",
            or_=or_,
        ) from None
    except SafetensorError as error:
        raise DataMissing(f"{repo}: {file} is damaged: {error}", do="delete it from the hub's cache", or_=or_) from None
