"""Export of a model to ONNX or safetensors, checked before the file gets its name.

What was written is read back by other code than wrote it (onnxruntime; safetensors, into a model emptied before), run on
real inputs and compared with PyTorch. Until the outputs agree its name ends in `.unverified`; where they do not, for good.
"""

from __future__ import annotations

import copy
import inspect
import json
import logging
import re
import shutil
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

import fuxian
from fuxian.engine.seeds import seed_torch
from fuxian.errors import CheckFailed, OutOfRoom, WrongInput
from fuxian.evaluation import judging
from fuxian.numbers import small
from fuxian.proof.card import EXPORTS

if TYPE_CHECKING:
    from fuxian.engine.run import Loaded

Example = tuple[Tensor, ...]  # what forward takes

SIZES = (8, 3, 1, 1, 1)  # of the batches that are compared; the first is traced
# Shape letters, at the end of a parameter's name, of what may vary: S only where real inputs show it, as it also stands for
# what a net takes a fixed count of, like superpixels.
FREE = {"B": "batch", "N": "rows", "S": "samples", "T": "length"}


@dataclass(frozen=True)
class Port:
    """An input or an output of an exported model. `shape` has words where any size will do."""

    name: str
    shape: tuple[int | str, ...]
    dtype: str


@dataclass(frozen=True)
class Exported:
    """A file (of safetensors: a folder) that gives the same outputs, within `difference` of the largest."""

    path: Path
    inputs: tuple[Port, ...]
    outputs: tuple[Port, ...]
    difference: float
    reader: str  # what it was checked with: onnxruntime 1.32.0
    opset: int | None  # of ONNX


def examples_of(loaded: Loaded) -> tuple[str, list[Example]]:
    """The name of the split that is judged, and real inputs from it: batches of `SIZES`, each of shapes of its own.

    Which examples, and what else is drawn, as a generator's noise, is the same each time. Raises WrongInput where there is
    nothing to export.
    """
    called = loaded.run.info["method"]
    if type(loaded.model).forward is nn.Module.forward:  # nobody wrote one
        raise WrongInput(f"{called} has nothing to export: its {type(loaded.model).__name__} has no forward pass")
    data = loaded.make_data()
    if data is None:
        raise WrongInput(f"{called} cannot be exported: stage {loaded.stage} has no data to check it on")
    name = "test" if data.test is not None else "val" if data.val is not None else "train"
    split: Any = getattr(data, name)
    objective = copy.deepcopy(loaded.objective).cpu()
    found: list[Example] = []
    with torch.random.fork_rng(devices=[]), judging(objective):
        seed_torch(0)
        for size in SIZES:
            rows = torch.randperm(len(split)).repeat(-(-size // len(split)))[:size]  # of one example: it, eight times
            rows = rows.to(getattr(split, "device", "cpu"))
            batch = split.batch(rows).to("cpu")
            example = tuple(_plain(tensor).contiguous() for tensor in objective.inputs(batch))  # strides are traced too
            if [tensor.shape for tensor in example] not in [[tensor.shape for tensor in before] for before in found]:
                found.append(example)  # a graph is whole whatever was asked for
    return name, found


def facts_of(loaded: Loaded) -> dict[str, Any]:
    """What goes into the file's metadata: what made the model, and what its user must know of its data."""
    info, data = loaded.run.info, loaded.make_data()
    model = type(loaded.model)
    said = (model.__doc__ or "").strip().partition("\n")[0]
    return {
        "method": info["method"],
        "model": f"{model.__module__}.{model.__name__}" + f": {said}" * bool(said),
        "run": loaded.run.folder.name,
        "stage": loaded.stage,
        "seed": info["seed"],
        "knobs": {name: knob["value"] for name, knob in info["knobs"].items()},
        "data": {"name": data.name, **data.about()} if data is not None else {},
        "objective": dict(loaded.objective.about()),
        "fuxian": fuxian.__version__,
        "torch": torch.__version__,
    }


# ── ONNX ────────────────────────────────────────────────────────────────────────────────────────────────────────────


def export_onnx(
    model: nn.Module, examples: Sequence[Example], path: Path, facts: Mapping[str, Any] | None = None
) -> Exported:
    """Writes `model`, in float32 on the CPU, to `path`, with `facts` as metadata. The first example is traced.

    Inputs have the names of forward's parameters, without their shape letters. B, N, S and T may vary, and the first
    dimension where there are no letters; all else is fixed. Raises CheckFailed, and WrongInput where the packages are not
    installed.
    """
    try:
        import onnx
        import onnxruntime
        import onnxscript  # noqa: F401  torch asks for it
    except ImportError as error:
        raise WrongInput(f"export needs {error.name}, which is not installed", do='pip install "fuxian[export]"') from None
    model = _on_cpu(model)
    names, free, examples = _varying(model, examples)
    expected = [_run(model, example) for example in examples]
    with _quiet():
        try:
            program = torch.onnx.export(
                model,
                examples[0],
                dynamo=True,
                dynamic_shapes=tuple({axis: torch.export.Dim.AUTO for axis in axes} for axes in free),
                input_names=names,
                output_names=list(expected[0]),
                verbose=False,
            )
        except torch.onnx.OnnxExporterError as error:
            why = str(error.__cause__ or error).strip().splitlines()[0]
            raise CheckFailed(f"PyTorch cannot write {type(model).__name__} as ONNX: {why}") from error
    assert program is not None
    graph = program.model.graph
    ends = {value.name for value in (*graph.inputs, *graph.outputs)}
    for value in (value for node in graph.all_nodes() for value in node.outputs):
        if value.name in ends and not value.is_graph_output():  # torch names what is between after its operation: mean
            value.name = f"inner/{value.name}"
    proto = program.model_proto
    symbols = {
        proto.graph.input[i].type.tensor_type.shape.dim[axis].dim_param: word
        for i, axes in enumerate(free)
        for axis, word in axes.items()
    }
    for value in (*proto.graph.input, *proto.graph.output, *proto.graph.value_info):
        for dim in value.type.tensor_type.shape.dim:
            if dim.dim_param:
                dim.dim_param = re.sub(r"\w+", lambda symbol: symbols.get(symbol[0], symbol[0]), dim.dim_param)
    ports = [tuple(_port(value, onnx) for value in side) for side in (proto.graph.input, proto.graph.output)]
    told = {**(facts or {}), "inputs": [vars(port) for port in ports[0]], "outputs": [vars(port) for port in ports[1]]}
    onnx.helper.set_model_props(proto, _as_text(told))
    proto.producer_name, proto.producer_version = "fuxian", fuxian.__version__
    with _unverified(path) as written:
        onnx.save(proto, written)
        with _refused("onnxruntime", written):
            quiet = onnxruntime.SessionOptions()
            quiet.log_severity_level = 4  # what it has to say is in its errors
            session = onnxruntime.InferenceSession(written, quiet, providers=["CPUExecutionProvider"])
            found = [
                dict(zip(expected[0], session.run(None, _arrays(names, example)), strict=True)) for example in examples
            ]
        difference = _agreed(found, expected, written)
    opset = next(one.version for one in proto.opset_import if not one.domain)
    return Exported(path, ports[0], ports[1], difference, f"onnxruntime {onnxruntime.__version__}", opset)


def _varying(model: nn.Module, examples: Sequence[Example]) -> tuple[list[str], list[dict[int, str]], list[Example]]:
    """Names of the inputs; of each the axes that may vary, with a word; and examples in which every one of them does."""
    parameters = [
        name for name, one in inspect.signature(model.forward).parameters.items() if one.kind is not one.VAR_POSITIONAL
    ]
    parameters += [f"input_{i}" for i in range(len(parameters), len(examples[0]))]
    names: list[str] = []
    free: list[dict[int, str]] = []
    for parameter, tensor in zip(parameters, examples[0], strict=False):
        name, letters = re.fullmatch(r"(.+?)(?:_([A-Z0-9]+))?", parameter).groups()  # type: ignore[union-attr]
        letters = letters if letters and len(letters) == tensor.dim() else ""
        names.append(name if letters else parameter)
        of_letters = {axis: FREE[letter] for axis, letter in enumerate(letters) if letter in FREE}
        free.append(of_letters if letters else {0: "batch"} if tensor.dim() else {})
    shown = list(examples)
    for word in sorted({word for axes in free for word in axes.values()}):
        places = [(i, axis) for i, axes in enumerate(free) for axis, one in axes.items() if one == word]
        sizes = {example[i].shape[axis] for example in examples for i, axis in places}
        if len(sizes) > 1:
            continue  # real inputs show it
        if word != FREE["S"] and all(word in axes.values() for axes in free):  # no input names places that would be gone
            half = list(examples[0])
            for i, axis in places:
                half[i] = half[i].narrow(axis, 0, max(1, half[i].shape[axis] // 2)).contiguous()
            shown.append(tuple(half))
        else:
            free = [{axis: one for axis, one in axes.items() if one != word} for axes in free]
    return names if len(set(names)) == len(names) else parameters[: len(names)], free, shown


def _port(value: Any, onnx: Any) -> Port:
    kind = value.type.tensor_type
    shape = tuple(dim.dim_param or dim.dim_value for dim in kind.shape.dim)
    return Port(value.name, shape, str(np.dtype(onnx.helper.tensor_dtype_to_np_dtype(kind.elem_type))))


def _arrays(names: Sequence[str], example: Example) -> dict[str, np.ndarray]:
    return {name: tensor.numpy() for name, tensor in zip(names, example, strict=True)}


@contextmanager
def _quiet() -> Iterator[None]:
    """Without what torch's exporter says of itself, and of torchvision, which nothing here uses."""
    log = logging.getLogger("torch.onnx")
    before = log.level
    log.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        log.setLevel(before)


# ── safetensors ─────────────────────────────────────────────────────────────────────────────────────────────────────


def export_safetensors(
    model: nn.Module, examples: Sequence[Example], folder: Path, facts: Mapping[str, Any] | None = None
) -> Exported:
    """Writes `model.safetensors`, each tensor once, and `config.json` with `facts` and all shapes. Raises CheckFailed."""
    import safetensors
    import safetensors.torch

    model = _on_cpu(model)
    names, free, examples = _varying(model, examples)
    expected = [_run(model, example) for example in examples]
    inputs = tuple(
        Port(name, tuple(axes.get(axis, size) for axis, size in enumerate(tensor.shape)), str(tensor.dtype)[6:])
        for name, axes, tensor in zip(names, free, examples[0], strict=True)
    )
    told = {**(facts or {}), "inputs": [vars(port) for port in inputs]}
    shapes = {name: list(tensor.shape) for name, tensor in model.state_dict().items()}
    with _unverified(folder) as written:
        written.mkdir()
        safetensors.torch.save_model(model, str(written / "model.safetensors"), metadata=_as_text(told))
        config = json.dumps({**told, "tensors": shapes}, indent=1, ensure_ascii=False) + "\n"
        (written / "config.json").write_text(config, encoding="utf-8")
        emptied = copy.deepcopy(model)
        for tensor in emptied.state_dict().values():
            tensor.fill_(torch.nan if tensor.is_floating_point() else 0)
        with _refused("safetensors", written):
            safetensors.torch.load_model(emptied, written / "model.safetensors")
            found = [{name: tensor.numpy() for name, tensor in _run(emptied, example).items()} for example in examples]
        difference = _agreed(found, expected, written)
    return Exported(folder, inputs, (), difference, f"safetensors {safetensors.__version__}", None)


# ── both ────────────────────────────────────────────────────────────────────────────────────────────────────────────


def _on_cpu(model: nn.Module) -> nn.Module:
    """A copy on the CPU, in evaluation mode, of at least 32 bits a number."""
    model = copy.deepcopy(model).eval()
    for tensor in (*model.parameters(), *model.buffers()):
        tensor.data = _plain(tensor)
    return model


def _plain(tensor: Tensor) -> Tensor:
    return tensor.detach().cpu().to(torch.float32 if tensor.dtype in (torch.bfloat16, torch.float16) else tensor.dtype)


def _run(model: nn.Module, example: Example) -> dict[str, Tensor]:
    """The outputs by name: `output`, or what a forward calls its several."""
    with torch.no_grad():
        outputs: Any = model(*example)
    if isinstance(outputs, Tensor):
        return {"output": outputs}
    if isinstance(outputs, Mapping):
        return {str(name): tensor for name, tensor in outputs.items()}
    return {f"output_{i}": tensor for i, tensor in enumerate(outputs)}


def _as_text(facts: Mapping[str, Any]) -> dict[str, str]:
    """Metadata are texts: what is none is JSON."""
    return {
        name: fact if isinstance(fact, str) else json.dumps(fact, ensure_ascii=False, default=str)
        for name, fact in facts.items()
    }


@contextmanager
def _unverified(path: Path) -> Iterator[Path]:
    """Where to write; it gets its name at the end, where nothing was raised. Raises WrongInput if there is such a name."""
    if path.exists():
        raise WrongInput(f"{path} exists already, and nothing is overwritten")
    written = path.with_name(path.name + ".unverified")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        shutil.rmtree(written) if written.is_dir() else written.unlink(missing_ok=True)
        yield written
        written.rename(path)
    except OSError as error:
        raise OutOfRoom(f"{error.filename or path} cannot be written: {error.strerror or error}") from error


@contextmanager
def _refused(reader: str, written: Path) -> Iterator[None]:
    """What a reader of the file raises is the file's fault."""
    try:
        yield
    except OSError:
        raise
    except Exception as error:
        why = str(error).strip().splitlines()[0][:200]
        raise CheckFailed(f"{reader} does not take what was exported: {why}", kept=str(written)) from error


def _agreed(found: Sequence[Mapping[str, Any]], expected: Sequence[Mapping[str, Tensor]], written: Path) -> float:
    """The largest difference, relative to the largest number of its output. Raises CheckFailed if it is too large."""
    worst = max(
        _difference(np.asarray(ours[name]), theirs.numpy())
        for ours, outputs in zip(found, expected, strict=True)
        for name, theirs in outputs.items()
    )
    if worst > EXPORTS:
        raise CheckFailed(
            f"the exported model differs from PyTorch's by {small(worst)} of its largest output; at most {small(EXPORTS)}",
            kept=str(written),
        )
    return worst


def _difference(found: np.ndarray, expected: np.ndarray) -> float:
    if found.shape != expected.shape:
        return float("inf")
    with np.errstate(invalid="ignore"):
        far = np.abs(found.astype(np.float64) - expected.astype(np.float64))
    far[(found == expected) | (np.isnan(found) & np.isnan(expected))] = 0  # also where both are infinite
    scale = np.abs(expected[np.isfinite(expected)]).max(initial=0) or 1
    worst = float(far.max(initial=0) / scale)
    return worst if worst == worst else float("inf")
