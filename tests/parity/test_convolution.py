"""Convolution, transposed convolution and pooling by hand: against numpy, scipy, torch's own and autograd, in float64."""

from __future__ import annotations

from itertools import product
from typing import Any

import numpy as np
import pytest
import scipy.signal
import torch
import torch.nn.functional as F

import fuxian
from fuxian import load
from fuxian.errors import WrongInput
from fuxian.evaluation import measure
from fuxian.methods.basics.convolution import (
    SOBEL,
    Filter,
    Imitation,
    Photograph,
    by_fourier,
    convolve,
    correlate,
    equal,
    overlap,
    pool,
    share,
    stuff,
    transposed,
)
from fuxian.optim import sgd

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
            F.mse_loss(out, torch.from_numpy(np.stack(wanted))[:, None], reduction="sum") / 16,
        ),
        spec=sgd(1e-3),
        optimizer=torch.optim.SGD(theirs.parameters(), lr=1e-3),
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


@pytest.mark.slow
def test_a_step_is_a_shift_and_all_of_them_are_the_convolution(tmp_path) -> None:
    """After eight shifts the sums of the first two places that the step reaches are there, and those after are not."""
    short = fuxian.run("convolution", quick=True, limit=8, parent=tmp_path, name="short")
    whole = fuxian.run("convolution", quick=True, parent=tmp_path, name="whole")
    y = np.convolve(np.repeat([0.0, 1.0], [6, 12]), 0.8 ** np.arange(15))
    result: Any = load(short, stage="overlap").model
    np.testing.assert_allclose(result.y_T[:8], y[:8], atol=1e-12)
    assert result.y_T[7] == 1.8
    assert not result.y_T[8:].any()
    assert short.metrics["overlap/train/equal"] == 8 / 32
    assert [whole.metrics[name] for name in ("overlap/train/equal", "fourier", "transposed", "pooled")] == [1] * 4
    assert whole.metrics["kernel_gap"] < 1e-3


def test_the_kernel_that_is_learned_comes_out_flipped() -> None:
    """At the very photograph: nothing is left of the loss with Sobel turned by half, and much with Sobel."""
    photograph = Photograph("china", 64)
    model, imitation = Filter(), Imitation(photograph.whole)
    for kernel, least, most in ((imitation.sobel.flip(2, 3), 0, 1e-20), (imitation.sobel, 1, 1e3)):
        model.kernel_OCKK.data = kernel.clone()
        assert least <= measure(model, imitation, photograph)["loss"] <= most


def test_equal_is_to_the_tenth_place_and_a_share_is_of_all_values() -> None:
    one = torch.tensor([1.0, 1.0, 2.0], dtype=torch.float64)
    other = torch.tensor([1 + 9e-11, 1 + 2e-10, 2.0], dtype=torch.float64)
    assert equal(one, other).tolist() == [1, 0, 1]
    assert share([(one, other), (one[:1], other[1:2])]) == 0.5


@pytest.mark.parametrize(("side", "pixels"), [(16, "4 × 2"), (24, "6 × 4")])
def test_a_picture_that_is_too_small_is_refused(side: int, pixels: str) -> None:
    with pytest.raises(WrongInput, match=f"side={side}: a quarter of china is then {pixels} pixels"):
        Photograph("china", side)
