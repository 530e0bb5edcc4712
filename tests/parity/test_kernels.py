"""Kernels: two sides of one identity; the support vector machine against LIBSVM, which scikit-learn's SVC is."""

from __future__ import annotations

from typing import Any

import pytest
import sklearn
import torch
from sklearn.metrics.pairwise import polynomial_kernel, rbf_kernel
from sklearn.model_selection import train_test_split
from sklearn.svm import SVC
from torch import Tensor

import fuxian
from fuxian.data.tabular import Rows, Table, TableSplits, digits_halves
from fuxian.errors import WrongInput
from fuxian.evaluation import measure
from fuxian.methods.basics.kernels import SMO, Machine, gaussian, machine, petals, products, square, squared_distances

from .compare import relative

NO_BATCH: Any = None  # the machine holds its training rows


def solved(data: TableSplits, gamma: float, c: float, steps: int, tolerance: float = 1e-12) -> tuple[Machine, SMO]:
    model = machine(data, gamma)
    solver = SMO(model, data.names, c, tolerance)
    for _ in range(steps):
        solver.update(model, NO_BATCH)
    return model, solver


def both(split: Any) -> tuple[Tensor, Tensor]:
    batch = split.batch(torch.arange(len(split)))
    return batch.x, batch.label


def libsvm(x: Tensor, label: Tensor, **knobs: Any) -> Any:
    return SVC(tol=1e-12, **knobs).fit(x.numpy(), label.numpy())


def two_species() -> TableSplits:
    """Versicolor and virginica in the plane of their petals, which no curve parts."""
    x, label = both(petals().train)
    return TableSplits(Table(x[50:], label[50:] - 1), name="two", columns=("a", "b"), names=("v", "w"), hashes={})


def dual(model: Machine, solver: SMO) -> Tensor:
    """Σ y β - ½ Σ β β' K, (P,): Σ α - ½ Σ α α' y y' K."""
    beta_PM = model.beta_PM
    return (model.y_PM * beta_PM).sum(1) - torch.einsum("pi,pj,pij->p", beta_PM, beta_PM, solver.kernel_PMM) / 2


def test_a_square_is_an_inner_product_of_all_products() -> None:
    x_BF = torch.arange(-6.0, 6.0).double().view(4, 3)
    assert torch.equal(square(x_BF, x_BF), products(x_BF) @ products(x_BF).T)  # whole numbers: to the bit
    x_N = both(digits_halves().train)[0][:40]
    assert torch.equal(square(x_N, x_N), products(x_N) @ products(x_N).T)
    torch.testing.assert_close(square(x_N, x_N).numpy(), polynomial_kernel(x_N.numpy(), degree=2, gamma=1, coef0=0))
    a, b, c = x_BF.unbind(1)
    other = torch.stack([a * a, b * b, c * c, *(2**0.5 * pair for pair in (a * b, a * c, b * c))], 1)
    assert other.shape[1] < products(x_BF).shape[1]  # another mapping of the same kernel
    torch.testing.assert_close(other @ other.T, square(x_BF, x_BF))


def test_gaussian_kernel() -> None:
    torch.manual_seed(0)
    x, z = torch.randn(7, 5).double(), torch.randn(4, 5).double()
    torch.testing.assert_close(squared_distances(x, z), torch.cdist(x, z).square())
    torch.testing.assert_close(gaussian(x, z, 0.3).numpy(), rbf_kernel(x.numpy(), z.numpy(), gamma=0.3))


@pytest.mark.parametrize("c", [0.1, 1.0, 10.0])
def test_two_classes_end_where_libsvm_ends(c: float) -> None:
    data = two_species()
    model, solver = solved(data, 0.5, c, 1500)
    x, label = both(data.train)
    reference = libsvm(x, label, C=c, gamma=0.5)
    asked = torch.cartesian_prod(torch.linspace(2, 8, 9), torch.linspace(0, 3, 9)).double()
    decision = torch.from_numpy(reference.decision_function(asked.numpy()))  # above 0 for the second class
    assert relative(-model(asked)[:, 0], decision) < 1e-6
    assert float(solver.violation(model)) < 1e-9
    beta = model.beta_PM[0]
    assert beta.sum().abs() < 1e-12
    assert float((beta * model.y_PM[0]).min()) >= 0
    assert float(beta.abs().max()) <= c + 1e-12
    if c < 10:
        assert bool((beta.abs() >= c - 1e-12).any())  # some are held at the limit, so the soft margin is tried
    expected = torch.zeros(len(x)).double()
    expected[torch.from_numpy(reference.support_).long()] = -torch.from_numpy(reference.dual_coef_[0])
    best = expected @ model.y_PM[0] - expected @ solver.kernel_PMM[0] @ expected / 2
    assert dual(model, solver).item() == pytest.approx(best.item(), rel=1e-9)  # equal flowers share a weight as they like


def test_digits_decided_as_by_libsvm(prove) -> None:
    data = digits_halves()
    (x, label), (asked, true) = both(data.train), both(data.test)
    model, _ = solved(data, 0.001, 1.0, 700)
    reference = libsvm(x, label, gamma=0.001, decision_function_shape="ovo")
    outputs = relative(model(asked), torch.from_numpy(reference.decision_function(asked.numpy())))
    assert outputs < 1e-7
    assert model.votes(asked).argmax(1).tolist() == reference.predict(asked.numpy()).tolist()
    assert ((model.weights() != 0).any(1).nonzero().flatten().tolist()) == sorted(reference.support_.tolist())
    # float32 is LIBSVM's: svm.h, Qfloat, of which its matrix of kernels is
    prove("kernels", "parity", reference=f"scikit-learn {sklearn.__version__}, SVC", outputs=outputs, dtype="float32")
    assert round((model.votes(asked).argmax(1) == true).double().mean().item(), 2) == 0.97


def test_the_halves_are_those_of_the_example() -> None:
    data = digits_halves()
    whole = torch.cat([both(data.train)[0], both(data.test)[0]])
    train, test = train_test_split(whole.numpy(), test_size=0.5, shuffle=False)
    assert (len(train), len(test)) == (898, 899)
    assert torch.equal(both(data.train)[0], torch.from_numpy(train))
    assert torch.equal(both(data.test)[0], torch.from_numpy(test))
    assert (float(whole.min()), float(whole.max())) == (0, 16)


def test_the_dual_never_falls_and_its_sum_stays_zero() -> None:
    model = machine(petals(), 0.5)
    solver, before = SMO(model, petals().names, 1.0, 1e-3), torch.zeros(3, dtype=torch.float64)
    for _ in range(300):
        solver.update(model, NO_BATCH)
        now = dual(model, solver)
        assert bool((now >= before - 1e-12).all())
        before = now
    assert float(model.beta_PM.sum(1).abs().max()) < 1e-12
    assert float(solver.violation(model)) <= 1e-3
    decision_PM = model(model.x_NF).T.gather(1, model.row_PM)
    free_PM = (model.beta_PM != 0) & (model.beta_PM.abs() < 1.0)
    assert float((decision_PM * model.y_PM)[free_PM].sub(1).abs().max()) < 2e-3  # they lie on the margin


def test_one_step_by_hand() -> None:
    """Two rows whose K is k: f(x) = β (K(x, a) - K(x, b)), and both are at 1 and -1 with β = 1 / (1 - k), if C lets it."""
    x, label = torch.tensor([[0.0], [1.0]]).double(), torch.tensor([0, 1])
    k = torch.tensor(-1.0).exp().item()
    for c, expected in ((10.0, 1 / (1 - k)), (0.7, 0.7)):
        model = Machine(x, label, 2, 1.0)
        SMO(model, ("a", "b"), c, 1e-3).update(model, NO_BATCH)
        assert model.beta_PM[0].tolist() == pytest.approx([expected, -expected])
        assert model.bias_P.item() == pytest.approx(0, abs=1e-12)


def test_classes_of_unlike_sizes_and_one_that_is_absent() -> None:
    torch.manual_seed(0)
    x, label = torch.randn(12, 2).double(), torch.tensor([0] * 2 + [1] * 7 + [3] * 3)
    model = machine(TableSplits(Table(x, label), name="t", columns="ab", names="wxyz", hashes={}), 1.0)
    solver = SMO(model, tuple("wxyz"), 1.0, 1e-12)
    for _ in range(300):
        solver.update(model, NO_BATCH)
    reference = libsvm(x, label, gamma=1.0, decision_function_shape="ovo")
    assert relative(model(x), torch.from_numpy(reference.decision_function(x.numpy()))) < 1e-6
    assert not model.weights()[0, 2]  # row 0 fills up the pair of the second and the fourth class
    assert not model.votes(x)[:, 2].any()
    found = measure(model, solver, Table(x, label), 5)
    assert found["accuracy"] == pytest.approx(reference.score(x.numpy(), label.numpy()))


def test_rows_of_one_class() -> None:
    x, label = both(petals().train)
    with pytest.raises(WrongInput, match="are of one class"):
        machine(TableSplits(Table(x[:9], label[:9]), name="t", columns="ab", names="abc", hashes={}), 1.0)


@pytest.mark.slow
def test_what_a_run_says(tmp_path) -> None:
    run = fuxian.run("kernels", parent=tmp_path)
    assert run.metrics["test/accuracy"] == pytest.approx(871 / 899)  # 0.97 in scikit-learn's example
    assert run.metrics["feature_gap"] == 0
    assert run.metrics["violation"] < 1e-3
    x, label = both(petals().train)
    reference = libsvm(x, label, gamma=0.5)
    assert run.metrics["plane/train/accuracy"] == pytest.approx(reference.score(x.numpy(), label.numpy()))
    model, said = fuxian.load(run).model, fuxian.load(run).objective
    two = Rows(*(part[:2] for part in both(digits_halves().test)))
    with torch.no_grad():
        assert [row["class"] for row in said.predict(model, two)] == [str(int(k)) for k in two.label]
