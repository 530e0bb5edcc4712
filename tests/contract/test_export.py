"""Every method that has a forward pass exports to ONNX, and onnxruntime gives the same outputs."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import fuxian
from fuxian import catalog
from fuxian.contract import defines
from fuxian.errors import CheckFailed
from fuxian.proof.export import export_onnx

onnxruntime = pytest.importorskip("onnxruntime")


@pytest.mark.slow
@pytest.mark.parametrize("entry", catalog.methods(), ids=lambda entry: entry.name)
def test_exported_model_is_the_same(entry: catalog.Entry, tmp_path, monkeypatch, prove) -> None:
    monkeypatch.setenv("FUXIAN_RUNS", str(tmp_path))
    loaded = fuxian.load(fuxian.run(entry.name, quick=True, limit=1))
    stage = loaded.stages[-1]
    if type(loaded.model).forward is nn.Module.forward:  # nobody wrote one
        assert not defines(stage.objective, "inputs"), "inputs= of a model that takes none"
        prove(entry.name, "export", reason="the model is what it makes: it has no forward pass")
        return
    data = stage.data() if callable(stage.data) else stage.data
    assert data is not None
    assert defines(stage.objective, "inputs"), "a model with a forward pass says what it takes"
    size = min(8, len(data.train))
    examples = [stage.objective.inputs(data.train.batch(torch.arange(n))) for n in (size, size // 2)]
    difference = export_onnx(loaded.model, examples, tmp_path / "model.onnx")
    assert (tmp_path / "model.onnx").is_file()
    prove(entry.name, "export", runtime=f"onnxruntime {onnxruntime.__version__}", difference=difference)


def test_a_model_that_exports_wrong_is_refused(tmp_path) -> None:
    class Wrong(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:  # what is traced is not what runs
            return x * (2 if torch.compiler.is_exporting() else 3)

    with pytest.raises(CheckFailed, match="differs by"):
        export_onnx(Wrong(), [(torch.ones(2, 3),)], tmp_path / "wrong.onnx")
    assert list(tmp_path.iterdir()) == []
