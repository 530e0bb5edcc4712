"""Every method with a forward pass exports, to ONNX and to safetensors, and what reads the files gives the same outputs."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from safetensors import safe_open
from torch import nn

import fuxian
from fuxian import catalog
from fuxian.contract import defines
from fuxian.errors import CheckFailed, WrongInput
from fuxian.proof.export import examples_of, export_onnx, export_safetensors, facts_of

onnx = pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")


@pytest.mark.slow
@pytest.mark.parametrize(
    "entry", [pytest.param(entry, id=entry.name, marks=pytest.mark.xdist_group(entry.key)) for entry in catalog.methods()]
)
def test_exported_model_is_the_same(entry: catalog.Entry, tmp_path: Path, monkeypatch, prove) -> None:
    monkeypatch.setenv("FUXIAN_RUNS", str(tmp_path))
    run = fuxian.run(entry.name, quick=True, limit=1)
    last = fuxian.load(run)
    if type(last.model).forward is nn.Module.forward:  # nobody wrote one
        assert not defines(last.objective, "inputs"), "inputs= of a model that takes none"
        with pytest.raises(WrongInput, match=f"{entry.name} cannot be exported"):
            fuxian.load(run, able="inputs", stage=last.stage)
        prove(entry.name, "export", reason="the model is what it makes: it has no forward pass")
        return
    assert defines(last.objective, "inputs"), "a model with a forward pass says what it takes"
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        _, examples = examples_of(last)
        facts = facts_of(last)
        found = export_onnx(last.model, examples, tmp_path / "model.onnx", facts)
        again = export_safetensors(last.model, examples, tmp_path / "safetensors", facts)
    assert again.difference == 0
    assert {path.name for path in tmp_path.glob("*safetensors*")} == {"safetensors"}  # nothing unverified is left

    # As a user reads it: without Fuxian, one example, several, and more than were traced.
    model = onnx.load(tmp_path / "model.onnx")
    metadata = {one.key: one.value for one in model.metadata_props}
    assert metadata["method"] == entry.name
    assert json.loads(metadata["knobs"]) == {name: knob["value"] for name, knob in run.info["knobs"].items()}
    data, made = json.loads(metadata["data"]), last.make_data()
    assert made is not None
    assert "values" in data or not defines(made, "about")
    session = onnxruntime.InferenceSession(tmp_path / "model.onnx", providers=["CPUExecutionProvider"])
    names = [port.name for port in found.inputs]
    assert [one.name for one in session.get_inputs()] == names
    assert all(port.shape[0] in ("batch", "rows") for port in (*found.inputs, *found.outputs))
    split: Any = getattr(made, examples_of(last)[0])
    for count in {1, 5, min(32, len(split))}:
        example = last.objective.inputs(split.batch(torch.arange(min(count, len(split)))))
        with torch.no_grad():
            told = last.model.eval()(*example)
        outputs = session.run(None, dict(zip(names, (tensor.numpy() for tensor in example), strict=True)))
        for port, output in zip(found.outputs, outputs, strict=True):
            expected = (told[port.name] if isinstance(told, dict) else told).numpy()
            assert output.shape == expected.shape
            assert np.abs(output - expected).max() <= 1e-4 * np.abs(expected).max()

    weights = safetensors.torch.load_file(tmp_path / "safetensors" / "model.safetensors")
    for name, tensor in last.model.state_dict().items():
        assert torch.equal(weights[name], tensor), name
    config = json.loads((tmp_path / "safetensors" / "config.json").read_text())
    assert config["tensors"] == {name: list(tensor.shape) for name, tensor in weights.items()}
    assert config["data"] == data
    prove(entry.name, "export", runtime=f"onnxruntime {onnxruntime.__version__}", difference=found.difference)


class Twice(nn.Module):
    """Numbers (B, 3) to twice as much."""

    def __init__(self, dtype: torch.dtype = torch.float32) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.full((3,), 2.0, dtype=dtype))

    def forward(self, x_BF: torch.Tensor) -> torch.Tensor:
        return x_BF * self.weight


def ones(*sizes: int) -> list[tuple[torch.Tensor, ...]]:
    return [(torch.ones(size, 3),) for size in sizes]


def test_a_model_that_exports_wrong_is_refused_and_left_unverified(tmp_path: Path) -> None:
    class Wrong(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:  # what is traced is not what runs
            return x * (2 if torch.compiler.is_exporting() else 3)

    with pytest.raises(CheckFailed, match=r"differs from PyTorch's by 0\.3 of its largest output"):
        export_onnx(Wrong(), ones(2), tmp_path / "wrong.onnx")
    assert [path.name for path in tmp_path.iterdir()] == ["wrong.onnx.unverified"]
    export_onnx(Twice(), ones(2), tmp_path / "wrong.onnx")
    assert [path.name for path in tmp_path.iterdir()] == ["wrong.onnx"]  # in the place of the other
    with pytest.raises(WrongInput, match="exists already"):
        export_onnx(Twice(), ones(2), tmp_path / "wrong.onnx")


@pytest.mark.slow
def test_one_that_is_right_for_the_batch_that_was_traced_alone_is_refused(tmp_path: Path) -> None:
    class Fixed(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x + torch.arange(float(len(x)) if not torch.compiler.is_exporting() else 8.0)[:, None]

    for others in ((3,), (1,)):
        with pytest.raises(CheckFailed):
            export_onnx(Fixed(), ones(8, *others), tmp_path / "fixed.onnx")
    with pytest.raises(CheckFailed):  # of one size are all inputs: half of them shows it
        export_onnx(Fixed(), ones(8), tmp_path / "fixed.onnx")
    assert [path.name for path in tmp_path.iterdir()] == ["fixed.onnx.unverified"]


def test_what_is_not_a_number_is_seen(tmp_path: Path) -> None:
    class Nothing(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x * (float("nan") if torch.compiler.is_exporting() else 1)

    class Masked(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x.masked_fill(x > 0, -torch.inf)

    with pytest.raises(CheckFailed, match="inf"):
        export_onnx(Nothing(), ones(2), tmp_path / "nothing.onnx")
    assert export_onnx(Masked(), ones(2), tmp_path / "masked.onnx").difference == 0


@pytest.mark.slow
def test_names_and_free_dimensions_come_from_the_parameters(tmp_path: Path) -> None:
    class Graph(nn.Module):
        def forward(self, x_NF: torch.Tensor, adjacency_NN: torch.Tensor) -> torch.Tensor:
            return adjacency_NN @ x_NF

    found = export_onnx(Graph(), [(torch.rand(6, 3), torch.rand(6, 6))], tmp_path / "graph.onnx")
    assert [(port.name, port.shape) for port in found.inputs] == [("x", ("rows", 3)), ("adjacency", ("rows", "rows"))]
    assert [(port.name, port.shape) for port in found.outputs] == [("output", ("rows", 3))]

    class Pictures(nn.Module):  # S may be what a picture has a fixed count of: free only where real inputs show it
        def forward(self, x_BSF: torch.Tensor, adjacency_BSS: torch.Tensor) -> torch.Tensor:
            return (adjacency_BSS @ x_BSF)[:, 5]

    found = export_onnx(Pictures(), [(torch.rand(4, 6, 3), torch.rand(4, 6, 6))], tmp_path / "pictures.onnx")
    assert [port.shape for port in found.inputs] == [("batch", 6, 3), ("batch", 6, 6)]

    class Last(nn.Module):  # a length, whose places another input names, is free only where real inputs show it
        def forward(self, token_BT: torch.Tensor, place_B: torch.Tensor) -> dict[str, torch.Tensor]:
            return {"last": token_BT.gather(1, place_B[:, None])[:, 0]}

    examples = [(torch.arange(12).view(2, 6), torch.tensor([5, 3])), (torch.arange(4)[None], torch.tensor([3]))]
    found = export_onnx(Last(), examples, tmp_path / "last.onnx")
    assert [port.shape for port in found.inputs] == [("batch", "length"), ("batch",)]
    assert [(port.name, port.dtype) for port in found.outputs] == [("last", "int64")]
    found = export_onnx(Last(), examples[:1], tmp_path / "fixed.onnx")
    assert found.inputs[0].shape == ("batch", 6)


@pytest.mark.slow
def test_several_outputs_have_their_names_whatever_is_called_so_inside(tmp_path: Path) -> None:
    class Spread(nn.Module):
        def forward(self, x_BSF: torch.Tensor, t_B: torch.Tensor) -> dict[str, torch.Tensor]:
            off = x_BSF - x_BSF.mean(1, keepdim=True)  # torch calls this inner number mean, and the next sqrt
            return {"mean": off * t_B[:, None, None], "sqrt": off.square().sqrt().sum(2), "later": t_B + 1}

    examples = [(torch.rand(size, size + 1, 3), torch.arange(size)) for size in (4, 2, 1)]
    try:
        found = export_onnx(Spread(), examples, tmp_path / "spread.onnx")
    except CheckFailed as error:
        pytest.fail(error.message)
    assert [port.shape for port in found.inputs] == [("batch", "samples", 3), ("batch",)]
    assert [(port.name, port.shape) for port in found.outputs] == [
        ("mean", ("batch", "samples", 3)), ("sqrt", ("batch", "samples")), ("later", ("batch",))
    ]  # fmt: skip


def test_half_precision_becomes_single(tmp_path: Path) -> None:
    model = Twice(torch.bfloat16)
    found = export_onnx(model, ones(4, 1), tmp_path / "twice.onnx")
    assert [port.dtype for port in (*found.inputs, *found.outputs)] == ["float32", "float32"]
    export_safetensors(model, ones(4, 1), tmp_path / "twice")
    assert safetensors.torch.load_file(tmp_path / "twice" / "model.safetensors")["weight"].dtype == torch.float32
    assert model.weight.dtype == torch.bfloat16  # it is a copy that is exported


def test_a_tied_weight_is_written_once(tmp_path: Path, monkeypatch) -> None:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.last = nn.Linear(3, 3), nn.Linear(3, 3)
            self.last.weight = self.first.weight

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.last(self.first(x))

    export_safetensors(Tied(), ones(2), tmp_path / "tied", {"method": "tied", "knobs": {"lr": 0.1}})
    with safe_open(tmp_path / "tied" / "model.safetensors", "pt") as file:
        assert sorted(file.keys()) == ["first.bias", "first.weight", "last.bias"]
        assert file.metadata()["last.weight"] == "first.weight"
        assert json.loads(file.metadata()["knobs"]) == {"lr": 0.1}

    saved = safetensors.torch.save_model

    def damaging(model: nn.Module, *args: Any, **options: Any) -> None:
        with torch.no_grad():
            saved(model, *args, **options)
            state = safetensors.torch.load_file(args[0])
            safetensors.torch.save_file({**state, "last.bias": state["last.bias"] + 1}, args[0])

    with monkeypatch.context() as patch:
        patch.setattr(safetensors.torch, "save_model", damaging)
        with pytest.raises(CheckFailed, match="differs"):
            export_safetensors(Tied(), ones(2), tmp_path / "wrong")
        patch.undo()
        patch.setattr(safetensors.torch, "load_model", lambda *_: None)  # what is not read is not there
        with pytest.raises(CheckFailed, match="differs"):
            export_safetensors(Tied(), ones(2), tmp_path / "wrong")
    assert {path.name for path in tmp_path.iterdir()} == {"tied", "wrong.unverified"}


def test_what_onnx_lacks_is_one_line(tmp_path: Path) -> None:
    class Branching(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x if x.sum() > 0 else -x

    with pytest.raises(CheckFailed, match="PyTorch cannot write Branching as ONNX: ") as raised:
        export_onnx(Branching(), ones(2), tmp_path / "branching.onnx")
    assert "\n" not in raised.value.message
    assert list(tmp_path.iterdir()) == []


def test_without_the_packages_it_says_what_to_install(tmp_path: Path, monkeypatch) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "onnxscript", None)
    with pytest.raises(WrongInput, match=r'(?s)onnxscript.*pip install "fuxian\[export\]"'):
        export_onnx(Twice(), ones(2), tmp_path / "twice.onnx")
