"""Back-propagation: the notes' numbers, and the written-out backward pass against autograd and torch's SGD in float64."""

from __future__ import annotations

import json

import pytest
import torch
from torch import nn

import fuxian
from fuxian.methods.basics.backpropagation import BackPropagation, Cases, TwoLayers, mirror, symmetry

from .compare import relative


def everything(bits: int = 6) -> Cases:
    vectors = symmetry(bits)
    return vectors.train.batch(torch.arange(len(vectors.train)))


def reference(model: TwoLayers, start: int) -> nn.Sequential:
    """The same net of torch's layers."""
    _, hidden, inputs = model.w_SHI.shape
    net = nn.Sequential(
        nn.Linear(inputs, hidden), nn.Sigmoid(), nn.Linear(hidden, model.b_SJ.shape[1]), nn.Sigmoid()
    ).double()
    weights = (model.w_SHI[start], model.b_SH[start], model.w_SJH[start], model.b_SJ[start])
    for weight, ours in zip(net.parameters(), weights, strict=True):
        weight.data.copy_(ours)
    return net


def test_the_notes_one_weight_to_the_digit(tmp_path) -> None:
    run = fuxian.run("backpropagation", sweeps=1, parent=tmp_path)
    lines = [json.loads(line) for line in (run.folder / "metrics.jsonl").read_text().splitlines()]
    first, second, third = (line for line in lines if line["stage"] == "one-weight" and line["step"] <= 3)
    assert (first["loss"], first["gradient"], first["w"]) == (64, 16, 8.4)
    assert second["gradient"] == pytest.approx(12.8, rel=1e-14)
    assert (second["w"], third["w"]) == (pytest.approx(7.12, rel=1e-14), pytest.approx(6.096, rel=1e-14))
    assert run.metrics["one-weight/train/loss"] == pytest.approx(64 * 0.8**20, rel=1e-12)  # the distance shrinks by 0.8
    assert (run.folder / "pictures" / "one-weight-parabola.svg").read_text().count("w = 7.12") == 1


@pytest.mark.parametrize("outputs", [1, 3])
def test_gradients_and_a_hundred_sweeps_equal_autograd(outputs: int, prove) -> None:
    torch.manual_seed(0)
    model = TwoLayers(3, 6, 4, outputs, spread=2.0)
    batch = Cases(everything().given, torch.rand(64, outputs, dtype=torch.float64))
    learning = BackPropagation(model, lr=0.05, momentum=0.9)
    nets = [reference(model, start) for start in range(3)]
    _, gradients = model.gradients(batch.given, batch.desired)
    named = ("w_SHI", "b_SH", "w_SJH", "b_SJ")
    worst = dict(outputs=0.0, gradients=0.0, step=0.0)

    def error(net: nn.Sequential) -> torch.Tensor:
        return (net(batch.given) - batch.desired).square().sum() / 2  # eq. 3

    for start, net in enumerate(nets):
        worst["outputs"] = max(worst["outputs"], relative(model.states(batch.given)[1][start], net(batch.given)))
        expected = torch.autograd.grad(error(net), list(net.parameters()))
        found = (relative(gradients[name][start], g) for name, g in zip(named, expected, strict=True))
        worst["gradients"] = max(worst["gradients"], *found)
    for _ in range(100):
        learning.update(model, batch)
    for start, net in enumerate(nets):
        optimizer = torch.optim.SGD(net.parameters(), lr=0.05, momentum=0.9)
        for _ in range(100):
            optimizer.zero_grad()
            error(net).backward()
            optimizer.step()
        assert model.error_S[start].item() == pytest.approx(error(net).item(), rel=1e-10)
        found = (relative(getattr(model, n)[start], p.detach()) for n, p in zip(named, net.parameters(), strict=True))
        worst["step"] = max(worst["step"], *found)
    assert max(worst.values()) < 1e-10, worst
    model_of_least = int(model.error_S.argmin())
    torch.testing.assert_close(model(batch.given), nets[model_of_least](batch.given).detach())
    if outputs == 1:
        prove("backpropagation", "parity", reference="torch's autograd and SGD over 100 sweeps", dtype="float64", **worst)


def test_evaluation_counts_the_cases_of_the_best_start() -> None:
    torch.manual_seed(0)
    model, batch = TwoLayers(3, 6, 4, 3, spread=2.0), everything()
    batch = Cases(batch.given, torch.cat([batch.desired, 1 - batch.desired, batch.desired], 1))
    BackPropagation(model, lr=0.05, momentum=0.9).update(model, batch)
    net = reference(model, int(model.error_S.argmin()))
    measured = dict(BackPropagation(model, 0.05, 0.9).evaluate(model, batch))
    for y, d, loss, right in zip(net(batch.given), batch.desired, measured["loss"], measured["accuracy"], strict=True):
        assert loss.item() == pytest.approx(sum((a - b).item() ** 2 for a, b in zip(y, d, strict=True)) / 2, rel=1e-12)
        assert right.item() == float(all(round(a.item()) == b.item() for a, b in zip(y, d, strict=True)))
    assert 0 < measured["accuracy"].sum() < 64


def test_eight_of_sixty_four_vectors_are_symmetrical() -> None:
    batch = everything()
    assert len(batch) == 64
    palindromes = [row for row, want in zip(batch.given.int().tolist(), batch.desired.flatten(), strict=True) if want]
    assert len(palindromes) == 8
    assert all(row == row[::-1] for row in palindromes)


def test_the_gaps_are_none_for_the_figure_and_not_for_another() -> None:
    figure = torch.tensor([[-14.0, 3.5, 7.0, -7.0, -3.5, 14.0], [14.0, -3.5, -7.0, 7.0, 3.5, -14.0]])
    assert mirror(figure) == (0, 0)
    same_sign = figure.clone()
    same_sign[:, 5] *= -1
    assert mirror(same_sign)[0] == 2
    assert mirror(torch.tensor([[2.0, 3.0, 4.0, -4.0, -3.0, -2.0]]))[1] == 2  # 1 : 1.5 : 2


def test_sweeps_are_counted_to_the_first_that_is_all_right() -> None:
    torch.manual_seed(3)
    model, batch = TwoLayers(2, 6, 2, 1, 0.3), everything()
    learning = BackPropagation(model, 0.1, 0.9)
    right = []
    for _ in range(1500):
        right.append(((model.states(batch.given)[1] > 0.5) == (batch.desired > 0.5)).all(1).flatten().tolist())
        learning.update(model, batch)
    for start, learned in enumerate(learning.learned_S.tolist()):
        series = [sweep[start] for sweep in right]
        assert learned == (series.index(True) + 1 if True in series else 0)
    assert learning.learned_S.max() > 0, "no start learned: this proves nothing"
