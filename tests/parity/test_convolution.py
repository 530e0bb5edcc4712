"""Convolution, transposed convolution and pooling by hand: against numpy, scipy, torch's own and autograd, in float64."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
import scipy.signal
import torch
import torch.nn.functional as F

import fuxian
from fuxian.errors import WrongInput
from fuxian.methods.basics.convolution import (
    SOBEL,
    Filter,
    Imitation,
    Photograph,
    by_fourier,
    convolve,
    correlate,
    overlap,
    pool,
    stuff,
    transposed,
)

from .compare import Differences, first_loss, parity, relative

# Shape letters as in the method's file.


def drawn(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, dtype=torch.float64)


def test_outputs_gradients_and_step(prove) -> None:
    """The filter that is learned is torch's Conv2d, and what it is shown is scipy's convolution."""
    torch.manual_seed(0)
    photograph = Photograph("china", 64)
    ours, theirs = Filter(), torch.nn.Conv2d(1, 1, 3, bias=False).double()
    ours.kernel_OCKK.data = drawn(1, 1, 3, 3)
    batch = photograph.batch(torch.arange(16))
    wanted = [scipy.signal.convolve2d(tile[0].numpy(), np.array(SOBEL), mode="valid") for tile in batch.image]
    imitation = Imitation(photograph.whole)
    found: Differences = parity(
        ours,
        theirs,
        {"kernel_OCKK": "weight"},
        outputs=lambda: (ours(batch.image), theirs(batch.image)),
        losses=lambda _, out: (
            first_loss(imitation, ours, batch),  # type: ignore[arg-type]
            F.mse_loss(out, torch.from_numpy(np.stack(wanted))[:, None]),
        ),
        spec=fuxian.optim.sgd(0.1),
        optimizer=torch.optim.SGD(theirs.parameters(), lr=0.1),
    )
    prove("convolution", "parity", reference="torch.nn.Conv2d and scipy.signal.convolve2d", **found.facts)


@pytest.mark.parametrize(("size", "kernel"), [((9, 12), 3), ((5, 4), 4), ((1, 7), 1)])
def test_direct_is_scipys_and_that_of_frequencies(size: tuple[int, int], kernel: int) -> None:
    torch.manual_seed(0)
    x, k = drawn(2, 1, *size), drawn(1, 1, kernel, kernel)
    full = torch.stack([torch.from_numpy(scipy.signal.convolve2d(one[0].numpy(), k[0, 0].numpy()))[None] for one in x])
    assert relative(convolve(x, k), full) < 1e-12
    assert relative(by_fourier(x, k), full) < 1e-12
    many, kernels = drawn(2, 3, *size), drawn(4, 3, kernel, kernel)
    assert relative(by_fourier(many, kernels), convolve(many, kernels)) < 1e-12


@pytest.mark.parametrize("stride", [1, 2, 3])
def test_what_networks_call_convolution_does_not_flip(stride: int) -> None:
    torch.manual_seed(0)
    x, k = drawn(2, 3, 11, 8), drawn(4, 3, 3, 3)
    assert relative(correlate(x, k, stride), F.conv2d(x, k, stride=stride)) < 1e-12
    assert relative(convolve(x, k), F.conv2d(x, k.flip(2, 3), padding=2)) < 1e-12
    assert relative(convolve(x, k), F.conv2d(x, k, padding=2)) > 0.1  # they are not the same


@pytest.mark.parametrize(("stride", "padding"), list(product((1, 2, 3), (0, 1, 2, 3))))
def test_transposed_is_torchs_and_the_gradient(stride: int, padding: int) -> None:
    """It is conv_transpose2d, also where more is cut off than the kernel reaches, and what goes back through a conv2d."""
    torch.manual_seed(0)
    y, k = drawn(2, 4, 6, 5), drawn(4, 3, 3, 3)
    ours = transposed(y, k, stride, padding)
    assert relative(ours, F.conv_transpose2d(y, k, stride=stride, padding=padding)) < 1e-12
    x = drawn(2, 3, *ours.shape[2:]).requires_grad_()
    (back,) = torch.autograd.grad(F.conv2d(x, k, stride=stride, padding=padding), x, y)
    assert relative(ours, back) < 1e-12


def test_stuffing_puts_zeros_between_and_none_around() -> None:
    x = torch.arange(1.0, 7).view(1, 1, 2, 3)
    assert stuff(x, 2)[0, 0].tolist() == [[1, 0, 2, 0, 3], [0, 0, 0, 0, 0], [4, 0, 5, 0, 6]]
    assert torch.equal(stuff(x, 1), x)


@pytest.mark.parametrize("size", [1, 2, 3])
def test_pooling_is_torchs(size: int) -> None:
    torch.manual_seed(0)
    x = drawn(2, 3, 7, 8)
    assert torch.equal(pool(x, size, "max"), F.max_pool2d(x, size))
    assert relative(pool(x, size, "mean"), F.avg_pool2d(x, size)) < 1e-14


def test_sums_of_overlaps_are_numpys_convolution() -> None:
    rng = np.random.default_rng(0)
    for n, k in ((6, 3), (3, 6), (1, 1)):
        f, h = rng.normal(size=n), rng.normal(size=k)
        sums = [float(overlap(torch.from_numpy(f), torch.from_numpy(h), t).sum()) for t in range(n + k - 1)]
        np.testing.assert_allclose(sums, np.convolve(f, h), rtol=1e-12, atol=1e-14)


def test_a_step_is_a_shift_and_all_of_them_are_the_convolution(tmp_path) -> None:
    """After six shifts what is missing is the largest sum of those to come; after all of them nothing is."""
    box = np.zeros(30)
    box[5:15] = 1
    full = np.convolve(box, 0.8 ** np.arange(15))
    short = fuxian.run("convolution", quick=True, limit=6, parent=tmp_path, name="short")
    whole = fuxian.run("convolution", quick=True, parent=tmp_path, name="whole")
    assert short.metrics["overlap/train/gap"] == pytest.approx(full[6:].max(), rel=1e-10)
    assert whole.metrics["overlap/train/gap"] < 1e-12
    assert whole.metrics["kernel_gap"] < 1e-3
    assert max(whole.metrics[f"{name}_gap"] for name in ("fourier", "transposed", "pooling")) < 1e-12


def test_a_picture_that_is_too_small_is_refused() -> None:
    with pytest.raises(WrongInput, match="side=16: a quarter of china is then 4 × 2 pixels"):
        Photograph("china", 16)
