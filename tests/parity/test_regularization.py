"""Dropout against torch's, bit for bit; batch normalization against torch's over many batches; the curves and the stop."""

from __future__ import annotations

from itertools import islice
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fuxian.data.images import Images, hold_out, image_data
from fuxian.errors import WrongInput
from fuxian.evaluation import measure
from fuxian.methods.basics.regularization import (
    BatchNorm,
    Dropout,
    Net,
    OverFitting,
    accuracy,
    few,
    layers_alone,
    linear,
    recipe,
)
from fuxian.objectives.classification import Classification
from fuxian.optim import adam

from .compare import Differences, first_loss, in_both, parity


def compared() -> Differences:
    torch.manual_seed(0)
    ours = Net(12, 9, 4, batch_norm=True)
    layer = lambda fan_in: (nn.Linear(fan_in, 9, bias=False), nn.BatchNorm1d(9), nn.ReLU())
    reference = nn.Sequential(nn.Flatten(), *layer(12), *layer(9), nn.Linear(9, 4))
    batch = Images(torch.randn(20, 3, 2, 2), torch.randint(4, (20,)))
    norm = {f"{i}.{mine}": f"{i}.{theirs}" for i in (2, 5) for mine, theirs in (("gamma", "weight"), ("beta", "bias"))}
    return parity(
        ours,
        reference,
        norm | {name: name for name in ("1.weight", "4.weight", "7.weight", "7.bias")},
        outputs=lambda: (ours(batch.image), reference(batch.image)),
        losses=lambda _, out: (first_loss(Classification(), ours, batch), F.cross_entropy(out, batch.label)),
        spec=adam(1e-3, eps=1e-2),
        optimizer=torch.optim.Adam(reference.parameters(), lr=1e-3, eps=1e-2, fused=False, foreach=False),
    )


def test_outputs_gradients_and_step(prove) -> None:
    prove("regularization", "parity", reference="torch's BatchNorm1d and layers", **in_both(compared))


def test_batch_norm_is_torch_s_over_many_batches_and_in_evaluation() -> None:
    torch.manual_seed(0)
    ours, reference = BatchNorm(7).double(), nn.BatchNorm1d(7).double()
    for size in (20, 2, 31, 8):  # the variance kept is unbiased: it shows where a batch is small
        x = 3 + 2 * torch.randn(size, 7, dtype=torch.float64)
        torch.testing.assert_close(ours(x), reference(x), rtol=0, atol=1e-12)
    torch.testing.assert_close(ours.mean, reference.running_mean, rtol=0, atol=1e-12)
    torch.testing.assert_close(ours.var, reference.running_var, rtol=0, atol=1e-12)
    ours.eval()
    reference.eval()
    x = torch.randn(5, 7, dtype=torch.float64)
    torch.testing.assert_close(ours(x), reference(x), rtol=0, atol=1e-12)
    assert torch.equal(ours(x)[:1], ours(x[:1]))  # alone as in company


def test_evaluation_moves_no_statistics() -> None:
    norm = BatchNorm(3).eval()
    norm(torch.randn(9, 3))
    assert torch.equal(norm.mean, torch.zeros(3))
    assert torch.equal(norm.var, torch.ones(3))


def test_a_batch_of_one_has_no_deviation() -> None:
    with pytest.raises(WrongInput, match="a batch of one has no deviation"):
        BatchNorm(3)(torch.randn(1, 3))
    BatchNorm(3).eval()(torch.randn(1, 3))


@pytest.mark.parametrize("p", [0.0, 0.2, 0.5, 1.0])
def test_dropout_is_torch_s_to_the_bit(p: float) -> None:
    x = torch.randn(50, 40)
    torch.manual_seed(3)
    ours = Dropout(p)(x)
    torch.manual_seed(3)
    torch.testing.assert_close(ours, F.dropout(x, p), rtol=1e-6, atol=0)
    assert Dropout(p).eval()(x) is x


def test_the_mean_over_all_masks_is_the_number_itself() -> None:
    """Not an estimate: three units have eight masks, and a third of the units is left in the mean."""
    x = torch.tensor([2.0, -3.0, 5.0], dtype=torch.float64)
    drop, p = Dropout(2 / 3), 2 / 3
    torch.manual_seed(0)
    seen = {tuple((y := drop(x)).ne(0).tolist()): y for _ in range(500)}
    assert len(seen) == 8
    mean = sum(((1 - p) ** sum(mask) * p ** (3 - sum(mask)) * y for mask, y in seen.items()), torch.zeros(3))
    torch.testing.assert_close(mean, x)


def test_what_the_layers_do_alone() -> None:
    torch.manual_seed(0)
    found = layers_alone(torch.randn(100, 6))
    assert found["closed"] == pytest.approx(50, abs=0.2)  # four standard errors
    assert found["dropout_mean"] == pytest.approx(1, abs=0.004)
    assert found["dropout_eval_gap"] == found["batch_norm_company_gap"] == 0
    assert found["batch_norm_training_gap"] > 0.1


def test_all_four_begin_alike_and_one_is_stopped() -> None:
    stages: Any = list(islice(recipe(data="digits", images=60, width=8, epochs=2), 4))
    first = [[layer.weight for layer in linear(stage.model)] for stage in stages]
    assert torch.equal(stages[0].model[-1].bias, stages[3].model[-1].bias)
    for weights in first[1:]:
        assert all(torch.equal(a, b) and a is not b for a, b in zip(weights, first[0], strict=True))
    kinds = {stage.name: {type(layer).__name__ for layer in stage.model} for stage in stages}
    usual = {"Flatten", "Linear", "ReLU"}
    assert kinds == {"plain": usual, "early-stopping": usual, "batch-norm": usual | {"BatchNorm"},
                     "dropout": usual | {"Dropout"}}  # fmt: skip
    assert [stage.name for stage in stages if stage.stop is not None] == ["early-stopping"]
    stop, rows = stages[1].stop, [dict(loss=x) for x in (5.0, 3, 4, 4, 4, 3.5, 3)]
    assert [stop(rows[:n]) for n in range(1, 8)] == [False] * 6 + [True]  # five after the least
    assert [stage.select for stage in stages] == [None, "-loss", None, None]


def test_the_curves_are_of_all_images_in_evaluation_mode() -> None:
    torch.manual_seed(0)
    splits = few(hold_out(image_data("digits"), 2000), 60)
    net = Net(64, 8, 10, dropout=0.5)
    objective, train = OverFitting(splits, 2, 3), splits.train.batch(torch.arange(20))
    expected = [measure(net, Classification(), split)["loss"] for split in (splits.train, splits.val)]  # type: ignore[arg-type]
    for _ in range(3):
        assert net.training
        first_loss(objective, net, train)
    assert objective.curve().shape == (1, 2)
    torch.testing.assert_close(objective.curve()[0], torch.tensor(expected))
    first_loss(objective, net, train)
    assert objective.curve().shape == (2, 2)


def test_few_images_are_the_first_and_are_standardized_alone() -> None:
    splits: Any = few(hold_out(image_data("digits"), 2000), 60)
    image = splits.train.batch(torch.arange(60)).image
    assert (image.mean().item(), image.std(correction=0).item()) == pytest.approx((0, 1), abs=1e-5)
    assert len(splits.train) == 60
    assert torch.equal(splits.train.image, image_data("digits").train.image[:60])  # type: ignore[attr-defined]
    with pytest.raises(WrongInput, match="--images 2000: digits has 1,257 to train on"):
        few(hold_out(image_data("digits"), 2000), 2000)


def test_forgetting_eval_leaves_the_net_as_it_was() -> None:
    torch.manual_seed(0)
    splits: Any = few(hold_out(image_data("digits"), 2000), 60)
    net = Net(64, 8, 10, batch_norm=True).eval()
    before = {name: value.clone() for name, value in net.state_dict().items()}
    usual = measure(net, Classification(), splits.val)["accuracy"]
    assert accuracy(net, splits.val) == pytest.approx(usual)
    assert accuracy(net, splits.val, 2) != usual
    assert not net.training
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())


def test_pairs_are_normalized_by_themselves() -> None:
    """Of two numbers one is a deviation above the mean and the other one below: all that a pair can say."""
    x: Tensor = torch.tensor([[1.0, 7.0], [3.0, -7.0]])
    torch.testing.assert_close(BatchNorm(2)(x), torch.tensor([[-1.0, 1.0], [1.0, -1.0]]), rtol=1e-4, atol=0)
