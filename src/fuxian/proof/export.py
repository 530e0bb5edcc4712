"""ONNX export that is checked before the file gets its name: run in onnxruntime, compared with the model."""

from __future__ import annotations

import copy
import logging
import warnings
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from fuxian.errors import CheckFailed, WrongInput

LIMIT = 1e-4  # relative to the largest output; runtimes fuse and reorder


def export_onnx(model: nn.Module, examples: Sequence[tuple[Tensor, ...]], path: Path) -> float:
    """Writes `model` to `path` and returns the largest relative difference of its outputs over all `examples`.

    The first example is traced; dimensions that the model does not fix stay free, which a second example of another size
    shows. Until the outputs agree the file is `<path>.unverified`, and where they do not it is removed. Raises CheckFailed,
    and WrongInput where the packages are not installed.
    """
    try:
        import onnxruntime
        import onnxscript  # noqa: F401  torch asks for it
    except ImportError as error:
        raise WrongInput(f"export needs {error.name}, which is not installed", do='pip install "fuxian[export]"') from None
    model = copy.deepcopy(model).cpu().eval()
    unverified = path.with_name(path.name + ".unverified")
    shapes = tuple({d: torch.export.Dim.AUTO for d in range(tensor.dim())} for tensor in examples[0])
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)  # it speaks of torchvision, which nothing here uses
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of torch's own exporter about itself
        program = torch.onnx.export(model, examples[0], dynamo=True, dynamic_shapes=shapes, verbose=False)
        assert program is not None
        program.save(unverified, external_data=False)
    session = onnxruntime.InferenceSession(unverified, providers=["CPUExecutionProvider"])
    names = [given.name for given in session.get_inputs()]
    worst = 0.0
    for example in examples:
        with torch.no_grad():
            expected = model(*example)
        (found,) = session.run(None, dict(zip(names, (tensor.numpy() for tensor in example), strict=True)))
        worst = max(worst, _difference(np.asarray(found), expected.numpy()))
    if not worst <= LIMIT:
        unverified.unlink()
        raise CheckFailed(f"the exported model differs by {worst:.1g}, more than {LIMIT:g}: {path.name} was not written")
    unverified.rename(path)
    return worst


def _difference(found: np.ndarray, expected: np.ndarray) -> float:
    if found.shape != expected.shape:
        return float("inf")
    scale = np.abs(expected).max(initial=0) or 1
    return float(np.abs(found.astype(np.float64) - expected.astype(np.float64)).max(initial=0) / scale)
