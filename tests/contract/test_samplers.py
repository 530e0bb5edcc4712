"""What a sampler exports is one step: a loop around it, in NumPy and with what the file says, draws what `draw` draws."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.distributions import Chi2

import fuxian
from fuxian.data.series import Windows
from fuxian.proof.export import examples_of, export_onnx, facts_of

onnxruntime = pytest.importorskip("onnxruntime")

SAMPLES = 3

Step = Callable[..., dict[str, np.ndarray]]


def noise(*shape: int) -> np.ndarray:
    return torch.randn(shape).numpy()


def samples(x: np.ndarray) -> np.ndarray:
    return x.repeat(SAMPLES, 0)


def csdi(step: Step, about: dict[str, Any], batch: Windows) -> np.ndarray:
    past = samples(batch.past.numpy())
    x = noise(len(past), *batch.future.shape[1:])
    for t in reversed(range(len(about["of_x"]))):
        told = step(x=x, t=np.full(len(x), t), past=past)["output"]
        x = about["of_x"][t] * (x - about["of_noise"][t] * told) + about["deviation"][t] * noise(*x.shape)
    return x


def timegrad(step: Step, about: dict[str, Any], batch: Windows) -> np.ndarray:
    z, at, state = batch.past.numpy(), batch.at.numpy(), {"h": np.zeros((2, 2, 40)), "c": np.zeros((2, 2, 40))}

    def told(x: np.ndarray, t: int, ahead: int) -> np.ndarray:
        """The noise in x; and the state after this step of the series, beside the one before it, which stays."""
        here = z.shape[1] if ahead >= 0 else z.shape[1] + ahead
        before = np.stack([z[:, here - lag] for lag in about["lags"]], 1)
        found = step(x=x, t=np.full(len(x), t), before=before, step=at + ahead, **state)
        after.update({name: found[f"{name}_after"] for name in state})
        return found["noise"]

    after: dict[str, np.ndarray] = {}
    for ahead in range(-about["context"], 0):
        told(z[:, 0], 0, ahead)
        state = dict(after)
    z, at, state = samples(z), samples(at), {name: samples(x) for name, x in state.items()}
    for ahead in range(batch.future.shape[1]):
        x = noise(*z[:, 0].shape)
        for t in reversed(range(len(about["of_x"]))):
            x = about["of_x"][t] * (x - about["of_noise"][t] * told(x, t, ahead))
            if t:
                x = x + about["deviation"][t] * noise(*x.shape)
        z, state = np.concatenate([z, x[:, None]], 1), dict(after)
    return z[:, batch.past.shape[1] :]


def deepar(step: Step, about: dict[str, Any], batch: Windows) -> np.ndarray:
    assert about["scale"] == "of a column: 1 + mean |number| of the past"
    past, at, drawn = batch.past.numpy(), batch.at.numpy(), []
    scale, state = 1 + np.abs(past).mean(1), {"h": np.zeros((2, 2, 1, 20)), "c": np.zeros((2, 2, 1, 20))}
    for ahead in range(1 - past.shape[1], 0):
        told = step(last=past[:, ahead - 1], step=at + ahead, scale=scale, **state)
        state = {name: told[f"{name}_after"] for name in state}
    last, at, scale, state = samples(past[:, -1]), samples(at), samples(scale), {n: samples(x) for n, x in state.items()}
    for ahead in range(batch.future.shape[1]):
        told = step(last=last, step=at + ahead, scale=scale, **state)
        state = {name: told[f"{name}_after"] for name in state}
        root = (Chi2(torch.from_numpy(told["k"])).sample().numpy() / told["k"]) ** 0.5
        last = told["mean"] + told["std"] * noise(*last.shape) / root
        drawn.append(last)
    return np.stack(drawn, 1)


def diffused(step: Step, about: dict[str, Any], batch: Windows) -> np.ndarray:
    """NsDiff and TMDM, which differ in where noise ends: in N(f, g), and in N(f, 1)."""
    known = {"past": batch.past.numpy(), "marks": batch.marks.numpy()}
    shape = (len(batch), SAMPLES, *batch.future.shape[1:])
    ends = step(y=np.zeros(shape), t=np.zeros(len(batch)), **known)
    y = ends["f"][:, None] + ends.get("g", np.ones(1))[:, None] ** 0.5 * noise(*shape)
    for t in reversed(range(about["steps"])):
        told = step(y=y, t=np.full(len(batch), t), **known)
        y = told["mean"] + told["deviation"] * noise(*shape)
    return y.reshape(-1, *shape[2:])


LOOPS = {"csdi": csdi, "timegrad": timegrad, "deepar": deepar, "nsdiff": diffused, "tmdm": diffused}


@pytest.fixture
def dated(tmp_path: Path) -> Path:
    """Two columns, by the hour."""
    rows = ["date,load,heat"]
    for hour in range(900):
        day = np.sin(hour * np.pi / 12)
        rows.append(f"{datetime(2024, 1, 1) + timedelta(hours=hour)},{5 + day + hour % 7 / 9:.3f},{20 - 3 * day:.3f}")
    path = tmp_path / "hours.csv"
    path.write_text("\n".join(rows) + "\n")
    return path


@pytest.mark.slow
@pytest.mark.parametrize("name", LOOPS)
def test_a_loop_around_the_step_draws_what_the_model_draws(name: str, dated: Path, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setenv("FUXIAN_RUNS", str(tmp_path))
    last = fuxian.load(fuxian.run(name, quick=True, limit=20, data=dated))
    _, examples = examples_of(last)
    export_onnx(last.model, examples, tmp_path / "model.onnx", facts_of(last))
    data = last.make_data()
    assert data is not None
    assert data.test is not None
    batch: Windows = data.test.batch(torch.tensor([0, len(data.test) - 1]))
    torch.manual_seed(0)
    with torch.no_grad():
        expected = last.model.eval().draw(batch, SAMPLES).flatten(0, 1).numpy()

    session = onnxruntime.InferenceSession(tmp_path / "model.onnx", providers=["CPUExecutionProvider"])
    about = json.loads(session.get_modelmeta().custom_metadata_map["objective"])
    types = {one.name: np.int64 if "int64" in one.type else np.float32 for one in session.get_inputs()}
    outputs = [one.name for one in session.get_outputs()]

    def step(**inputs: np.ndarray) -> dict[str, np.ndarray]:
        given = {name: value.astype(types[name]) for name, value in inputs.items()}
        return dict(zip(outputs, session.run(None, given), strict=True))

    torch.manual_seed(0)
    found = LOOPS[name](step, about, batch)
    assert found.shape == expected.shape
    assert np.abs(found - expected).max() <= 1e-4 * np.abs(expected).max()
    assert expected.std(0).min() > 1e-3  # samples and windows differ
