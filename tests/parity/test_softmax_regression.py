"""Softmax regression: its formulas against torch's, the gradients against autograd, the number against scikit-learn."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from sklearn.linear_model import LinearRegression
from torch import Tensor, nn

import fuxian
from fuxian.data.images import Images
from fuxian.evaluation import measure
from fuxian.methods.basics.softmax_regression import (
    AsClasses,
    AsNumber,
    Linear,
    log_softmax,
    nll,
    recipe,
    sigmoid_gradients,
    softmax,
)
from fuxian.optim import sgd

from .compare import Differences, first_loss, in_both, parity, relative


class Reference(nn.Module):
    """P(c | x) ∝ exp(w_c · x + b_c)."""

    def __init__(self) -> None:
        super().__init__()
        self.w, self.b = nn.Parameter(torch.zeros(7, 18)), nn.Parameter(torch.zeros(7))

    def forward(self, image: Tensor) -> Tensor:
        return F.linear(image.flatten(1), self.w, self.b)


def compared() -> Differences:
    torch.manual_seed(0)
    ours, reference = Linear(18, 7), Reference()
    nn.init.normal_(ours.layer.weight)
    batch = Images(torch.randn(30, 2, 3, 3), torch.randint(7, (30,)))
    return parity(
        ours,
        reference,
        {"layer.weight": "w", "layer.bias": "b"},
        outputs=lambda: (softmax(ours(batch.image)), reference(batch.image).softmax(1)),
        losses=lambda *_: (
            first_loss(AsClasses(), ours, batch),
            F.cross_entropy(reference(batch.image), batch.label),
        ),
        spec=sgd(0.5),
        optimizer=torch.optim.SGD(reference.parameters(), lr=0.5, fused=False, foreach=False),
    )


def test_outputs_gradients_and_step(prove) -> None:
    prove("softmax_regression", "parity", reference="torch's softmax, cross_entropy and SGD", **in_both(compared))


def test_a_logit_of_a_thousand_is_no_infinity() -> None:
    z = torch.tensor([[1000.0, 0.0, -1000.0], [0.0, 0.0, 0.0]])
    torch.testing.assert_close(softmax(z), torch.tensor([[1.0, 0.0, 0.0], [1 / 3] * 3]))
    torch.testing.assert_close(log_softmax(z), F.log_softmax(z, 1))
    assert nll(log_softmax(z), torch.tensor([2, 0])).tolist() == pytest.approx([2000, 1.0986123])  # log 3
    assert softmax(torch.randn(5, 4)).sum(1).tolist() == pytest.approx([1] * 5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_cross_entropy_is_log_softmax_and_nll_to_the_bit(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    z, label = 20 * torch.randn(5000, 10, dtype=dtype), torch.randint(10, (5000,))
    assert torch.equal(F.cross_entropy(z, label), F.nll_loss(F.log_softmax(z, 1), label))
    y = F.one_hot(label, 10)  # the notes' formula
    torch.testing.assert_close(nll(log_softmax(z), label), -(y * z.log_softmax(1)).sum(1))

    class Fixed(Linear):
        def forward(self, image: Tensor) -> Tensor:
            return image[:, 0, 0]

    measured = dict(AsClasses().evaluate(Fixed(1, 1), Images(z[:, None, None], label)))
    assert measured["composition_gap"].tolist() == [0.0] * 5000
    wrong = F.nll_loss(z.softmax(1), label, reduction="none")  # without the logarithm
    assert (F.cross_entropy(z, label, reduction="none") - wrong).abs().max() > 1


@pytest.mark.parametrize("y", [0.0, 1.0])
def test_gradients_of_a_sigmoid_in_closed_form(y: float) -> None:
    z = torch.linspace(-8, 8, 65, dtype=torch.float64, requires_grad=True)
    gradients = sigmoid_gradients(z.detach(), y)
    p, target = z.sigmoid(), torch.full_like(z, y)
    for name, loss in {
        "cross-entropy": F.binary_cross_entropy_with_logits(z, target, reduction="sum"),
        "squared error": (p - y).square().sum() / 2,
    }.items():
        (expected,) = torch.autograd.grad(loss, z, retain_graph=True)
        assert relative(gradients[name], expected) < 1e-12
    sure_and_wrong = gradients["cross-entropy"].abs().argmax()
    assert gradients["cross-entropy"][sure_and_wrong].abs() > 0.99
    assert gradients["squared error"][sure_and_wrong].abs() < 0.001  # it saturates where it is most wrong


def test_the_number_is_the_least_squares_line() -> None:
    stage = next(iter(recipe(data="digits")))
    images = stage.data.train.batch(torch.arange(len(stage.data.train)))
    x, label = images.image.flatten(1).double().numpy(), images.label.numpy()
    fit = LinearRegression().fit(x, label)
    model = Linear(64, 1).double()
    model.layer.weight.data = torch.from_numpy(fit.coef_)[None]
    model.layer.bias.data = torch.tensor([fit.intercept_])
    batch = Images(images.image.double(), images.label)
    loss = first_loss(stage.objective, model, batch)
    gradients = torch.autograd.grad(loss, list(model.parameters()))
    assert max(float(g.abs().max()) for g in gradients) < 1e-8  # where the squared error is least
    measured = {name: float(values.detach().double().mean()) for name, values in stage.objective.evaluate(model, batch)}
    said = fit.predict(x).round().clip(0, 9)
    assert measured["accuracy"] == pytest.approx((said == label).mean())
    assert measured["within_one"] == pytest.approx((abs(said - label) <= 1).mean())
    assert measured["loss"] == pytest.approx(((fit.predict(x) - label) ** 2).mean())


def test_a_number_is_read_as_the_nearest_class() -> None:
    read = AsNumber(tuple("0123456789")).read(torch.tensor([-3.0, 0.4, 0.6, 8.7, 15.0]))
    assert read.tolist() == [0, 0, 1, 9, 9]


def test_classes_beat_the_number(tmp_path) -> None:
    run = fuxian.run("softmax_regression", quick=True, steps=100, parent=tmp_path)
    assert run.metrics["classes/test/accuracy"] > 0.85 > 0.5 > run.metrics["number/test/accuracy"]
    assert run.metrics["outlier/squared"] == pytest.approx(9, abs=1e-6)
    assert run.metrics["outlier/absolute"] == 0
    assert run.metrics["test/composition_gap"] == 0


def test_the_tutorial_s_protocol() -> None:
    number, classes = [stage for stage, _ in zip(recipe(data="digits"), range(2), strict=False)]
    for stage in (number, classes):
        assert (stage.steps, stage.batch) == (1000, 100)
        assert not any(p.any() for p in stage.model.parameters())  # zeros
    (group,) = classes.optimizer.make(classes.optimizer.groups(list(classes.model.named_parameters()))).param_groups
    assert (group["lr"], group["momentum"], group["weight_decay"]) == (0.5, 0, 0)
    assert measure(classes.model, classes.objective, classes.data.test)["loss"] == pytest.approx(2.302585, abs=1e-6)
