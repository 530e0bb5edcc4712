"""`fuxian export`, of a line that is fitted in a blink."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

Fuxian = Callable[..., tuple[int, str, str]]

STAGES = """

class Exported(Squares):
    def inputs(self, batch):
        return (batch.x,)


class Line(nn.Linear):
    \"\"\"Numbers (B, 1) to numbers (B, 1).\"\"\"

    def forward(self, x_BF):
        return super().forward(x_BF) + (wrong and torch.compiler.is_exporting())


wrong = False


def recipe(epochs: int = 2, lr: float = 0.1) -> Iterator[Stage]:
    points = Splits(Some(6), Some(4), Some(5), name="points")
    line = Line(1, 1)
    yield Stage(line, points, Exported(), sgd(lr), epochs=epochs, batch=3, name="first")
    yield Stage(line, points, Exported(), sgd(lr), epochs=epochs, batch=3, name="second")
    yield Stage(line, points, Squares(), sgd(lr), epochs=epochs, batch=3, name="last")
"""


@pytest.fixture
def run(fuxian: Fuxian, here: Path) -> str:
    line = (here / "line.py").read_text(encoding="utf-8")
    head = re.sub(r"CLAIMS = \[.*\]", "", line[: line.index("def recipe")])
    (here / "fits.py").write_text(head + STAGES, encoding="utf-8")
    assert fuxian("run", "fits.py", "--name", "one")[0] == 0
    return "runs/fits/one"


def weight(stage: str, run: str) -> float:
    import safetensors.torch

    saved = safetensors.torch.load_file(f"{run}/checkpoints/{stage}-done/tensors.safetensors")
    return next(float(tensor) for tensor in saved.values() if tensor.shape == (1, 1))


@pytest.mark.slow
def test_onnx_in_the_runs_folder(fuxian: Fuxian, run: str) -> None:
    onnx = pytest.importorskip("onnx")
    code, out, err = fuxian("export", run)
    assert (code, err) == (0, "")
    path = f"{run}/export/model.onnx"
    assert re.fullmatch(
        rf"""● {path}   \d\.\d KiB, opset \d+; the model of stage second, its knobs and data as metadata
  takes   x \(batch, 1\) float32
  gives   output \(batch, 1\) float32
  checked (PyTorch’s|within|PyTorch's) .*, by onnxruntime [\d.]+ on the test split, 8 or 3 or 1 at a time
""",
        out,
    ), out
    model = onnx.load(path)
    told = {one.key: one.value for one in model.metadata_props}
    assert told["stage"] == "second"
    assert json.loads(told["knobs"]) == {"epochs": 2, "lr": 0.1}
    assert told["model"].endswith(".Line: Numbers (B, 1) to numbers (B, 1).")
    (kept,) = (one for one in model.graph.initializer if list(one.dims) == [1, 1])
    assert float(onnx.numpy_helper.to_array(kept)[0, 0]) == pytest.approx(weight("second", run))  # the last trained it on
    message = f"fuxian: {path} exists already, and nothing is overwritten\n  do     name another: --output PATH\n"
    assert fuxian("export", run) == (2, "", message)
    assert fuxian("export", run, "--output", "new/x.onnx", "--stage", "first")[0] == 0
    (kept,) = (one for one in onnx.load("new/x.onnx").graph.initializer if list(one.dims) == [1, 1])
    assert float(onnx.numpy_helper.to_array(kept)[0, 0]) == pytest.approx(weight("first", run))


def test_safetensors_and_json(fuxian: Fuxian, here: Path, run: str) -> None:
    import safetensors
    import safetensors.torch

    code, out, _ = fuxian("export", run, "--to", "safetensors", "--json")
    assert code == 0
    folder = here / run / "export" / "safetensors"
    told = json.loads(out)
    told.pop("bytes")
    assert told == {
        "folder": run, "stage": "second", "to": "safetensors", "path": f"{run}/export/safetensors",
        "inputs": [{"name": "x", "shape": ["batch", 1], "dtype": "float32"}], "outputs": [], "difference": 0.0,
        "checked": f"safetensors {safetensors.__version__}", "batches": [8, 3, 1], "split": "test", "opset": None,
    }  # fmt: skip
    assert sorted(path.name for path in folder.iterdir()) == ["config.json", "model.safetensors"]
    found = safetensors.torch.load_file(folder / "model.safetensors")
    assert {name: tuple(tensor.shape) for name, tensor in found.items()} == {"weight": (1, 1), "bias": (1,)}
    assert float(found["weight"]) == weight("second", run)
    assert json.loads((folder / "config.json").read_text())["tensors"] == {"weight": [1, 1], "bias": [1]}


def test_one_that_is_wrong_keeps_its_name_unverified(fuxian: Fuxian, here: Path, run: str) -> None:
    pytest.importorskip("onnxruntime")
    file = here / "fits.py"
    text = file.read_text()
    file.write_text(text.replace("wrong = False", "wrong = True"))
    assert fuxian("run", "fits.py", "--name", "two")[0] == 0
    code, out, err = fuxian("export", "runs/fits/two")
    assert (code, out) == (1, "")
    assert re.fullmatch(
        r"◆ the exported model differs from PyTorch's by \S+ of its largest output; at most 1 × 10⁻⁴\n"
        r"  kept   runs/fits/two/export/model\.onnx\.unverified\n",
        err,
    ), err
    assert [path.name for path in (here / "runs/fits/two/export").iterdir()] == ["model.onnx.unverified"]


def test_what_cannot_be_exported_is_one_line(fuxian: Fuxian, run: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for words, message in {
        ("--to", "tflite"): "fuxian: --to tflite is neither onnx nor safetensors\n",
        ("--output", "x.pt"): "fuxian: --output x.pt is not a file x.onnx\n",
        ("--stage", "lst"): f"fuxian: {run} has no stage lst; the nearest is last\n  do     one of first, second, last\n",
        ("--stage", "last"): "fuxian: fits.py cannot be exported: its objective, Squares, does not define inputs\n",
    }.items():
        code, out, err = fuxian("export", run, *words)
        assert (code, out, err.replace("./fits.py", "fits.py")) == (2, "", message)
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    code, _, err = fuxian("export", run)
    assert code == 2
    assert err.splitlines()[1] == '  do     pip install "fuxian[export]"'
