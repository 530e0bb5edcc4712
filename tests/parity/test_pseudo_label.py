"""The loss of eq. 15 written out with logarithms, on a net of torch's own layers; the schedule and the draw by hand."""

from __future__ import annotations

from itertools import islice
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from fuxian.data.images import Images, hold_out, image_data
from fuxian.data.tabular import UNKNOWN
from fuxian.errors import WrongInput
from fuxian.evaluation import measure
from fuxian.methods.basics.pseudo_label import DropNet, PseudoLabel, alpha, recipe, told_apart
from fuxian.optim import sgd

from .compare import Differences, first_loss, in_both, parity

STEPS = (10.0, 30.0)  # T1, T2


def eq_15(known: Tensor, label: Tensor, fed: Tensor, weight: float) -> Tensor:
    """With f, the outputs (n, C) of sigmoid units."""

    def loss(f: Tensor, label: Tensor) -> Tensor:
        y = torch.eye(f.shape[1], dtype=f.dtype)[label]
        return -(y * f.log() + (1 - y) * (1 - f).log()).sum() / len(f)

    return loss(known, label) + weight * loss(fed, torch.tensor([row.argmax() for row in fed.detach()]))


def compared() -> Differences:
    torch.manual_seed(0)
    ours = DropNet(16, 8, 4, dropout=0.5).eval()
    reference = nn.Sequential(nn.Flatten(), nn.Linear(16, 8), nn.ReLU(), nn.Linear(8, 4), nn.Sigmoid())
    known = Images(torch.rand(12, 1, 4, 4), torch.arange(12) % 4)
    batch = Images(torch.rand(9, 1, 4, 4), torch.full((9,), UNKNOWN))
    objective = PseudoLabel((), known, 5, STEPS, 3.0)
    objective.t.fill_(15)

    def losses(*_: Tensor) -> tuple[Tensor, Tensor]:
        torch.manual_seed(1)
        loss = first_loss(objective, ours, batch)
        torch.manual_seed(1)
        rows = torch.randint(12, (5,))
        return loss, eq_15(reference(known.image[rows]), known.label[rows], reference(batch.image), 0.75)

    found = parity(
        ours,
        reference,
        {"hidden.weight": "1.weight", "hidden.bias": "1.bias", "output.weight": "3.weight", "output.bias": "3.bias"},
        outputs=lambda: (ours(batch.image).sigmoid(), reference(batch.image)),
        losses=losses,
        spec=sgd(0.15, momentum=0.9),
        optimizer=torch.optim.SGD(reference.parameters(), lr=0.15, momentum=0.9, fused=False, foreach=False),
    )
    assert objective.t == 16
    return found


def test_outputs_gradients_and_step(prove) -> None:
    prove("pseudo_label", "parity", reference="torch's own layers, and eq. 15 with logarithms", **in_both(compared))


@pytest.mark.parametrize(("t", "expected"), [(0, 0), (10, 0), (15, 0.75), (20, 1.5), (30, 3), (99, 3)])
def test_the_weight_of_what_is_fed_back(t: float, expected: float) -> None:
    assert alpha(torch.tensor(float(t)), STEPS, 3.0).item() == pytest.approx(expected)


def test_without_a_weight_images_without_labels_change_nothing() -> None:
    known = Images(torch.rand(12, 1, 4, 4), torch.arange(12) % 4)
    model, objective = DropNet(16, 8, 4, dropout=0.0), PseudoLabel((), known, 5, STEPS, 0.0)
    found = []
    for pixels in (torch.zeros(9, 1, 4, 4), torch.ones(9, 1, 4, 4)):
        torch.manual_seed(1)
        found.append(first_loss(objective, model, Images(pixels, torch.full((9,), UNKNOWN))))
    assert found[0] == found[1]


def test_labels_are_hidden_and_as_many_of_each_class_are_told() -> None:
    torch.manual_seed(0)
    known, splits, rest = told_apart(hold_out(image_data("digits"), 1000), 50)
    train: Any = splits.train
    assert torch.bincount(known.label).tolist() == [5] * 10
    assert len(train) == len(rest) == 1257 - 50
    assert train.label.unique().tolist() == [UNKNOWN]
    assert rest.label.min() >= 0
    assert torch.equal(rest.image, train.image)
    whole: Any = image_data("digits").train
    assert torch.bincount(torch.cat([rest.label, known.label])).tolist() == torch.bincount(whole.label).tolist()
    bytes_ = lambda image: {pixels.numpy().tobytes() for pixels in image}
    assert not bytes_(rest.image) & bytes_((known.image * 255).round().to(torch.uint8))
    other, *_ = told_apart(image_data("digits"), 50)
    assert not torch.equal(known.image, other.image)


@pytest.mark.parametrize("labels", [5, 55, 5000])
def test_labels_that_cannot_be_shared_out(labels: int) -> None:
    with pytest.raises(WrongInput, match=f"--labels {labels}: digits has 10 classes"):
        told_apart(image_data("digits"), labels)


def test_both_stages_begin_alike_and_differ_in_the_weight_alone() -> None:
    stages: Any = recipe(data="digits", labels=50, hidden=20, steps=8)
    first: Any = next(stages)
    second: Any = stages.send({"test/error": 0.3})
    for one, other in zip(first.model.parameters(), second.model.parameters(), strict=True):
        assert torch.equal(one, other)
    assert first.model is not second.model
    assert (first.objective.full, second.objective.full) == (0.0, 3.0)
    assert second.objective.rise == (8 / 6, 8)  # T1 : T2 = 100 : 600
    for stage in (first, second):
        assert [stage.optimizer.schedule(step, 8, []) for step in (0, 4, 8)] == pytest.approx([1, 0.2**0.5, 0.2])
        assert stage.objective.batch == 32
    assert torch.equal(first.objective.image, second.objective.image)
    with pytest.raises(StopIteration) as end:
        stages.send({"test/error": 0.1})
    assert end.value.value["gain"] == pytest.approx(0.2)
    assert 0 <= end.value.value["told_right"] <= 1


def test_every_image_counts() -> None:
    torch.manual_seed(0)
    stage: Any = next(islice(recipe(data="digits", labels=50, hidden=20, steps=8), 1))
    counts: dict[str, float] = {}
    measure(stage.model, stage.objective, stage.data.test, 100, counts=counts)
    assert counts == dict.fromkeys(("loss", "accuracy", "error"), 360)


def test_a_fifth_of_the_pixels_and_half_of_the_units_are_dropped() -> None:
    torch.manual_seed(0)
    net, seen = DropNet(1000, 1000, 2, dropout=0.5), {}
    nn.init.zeros_(net.hidden.weight)
    nn.init.ones_(net.hidden.bias)
    net.hidden.register_forward_pre_hook(lambda _, given: seen.update(pixels=given[0]))
    net.output.register_forward_pre_hook(lambda _, given: seen.update(units=given[0]))
    net(torch.ones(20, 1, 1000, 1))
    assert (seen["pixels"] == 0).double().mean().item() == pytest.approx(0.2, abs=0.012)  # four standard errors
    assert (seen["units"] == 0).double().mean().item() == pytest.approx(0.5, abs=0.015)
    assert (seen["pixels"].max().item(), seen["units"].max().item()) == (1.25, 2.0)
