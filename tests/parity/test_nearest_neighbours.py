"""Nearest neighbours against scikit-learn's, and the three ways of seeing a digit by hand."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import sklearn
import torch
from sklearn.neighbors import KNeighborsClassifier

from fuxian.data.images import digits, image_data
from fuxian.errors import WrongInput
from fuxian.methods.basics import nearest_neighbours
from fuxian.methods.basics.nearest_neighbours import NearestNeighbours, boxed, deslanted, nearest, recipe


@pytest.mark.parametrize("block", [100, 10_000])
def test_neighbours_and_votes_are_scikit_learns(block: int, prove, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nearest_neighbours, "BLOCK", block)  # smaller than the set, and larger
    data: Any = digits()
    train, test = data.train, data.test.split
    x, y = train.image.flatten(1).double().numpy(), train.label.numpy()
    asked = test.image.flatten(1).double().numpy()
    image = test.batch(torch.arange(len(test))).image
    wrong, worst = 0, 0.0
    for k in (1, 2, 3, 8):
        model = nearest(data, k, "whole")
        reference = KNeighborsClassifier(k, algorithm="brute").fit(x, y)
        distance, index = reference.kneighbors(asked)
        ours_index, ours_square = model.nearest(image, k)
        assert np.abs(ours_square.sqrt().numpy() - distance).max() < 1e-9
        assert (ours_index.numpy() == index).mean() > 0.999  # of equally far ones theirs is any
        worst = max(worst, float(np.abs(model(image).numpy() - reference.predict_proba(asked)).max()))
        wrong += int((model(image).argmax(1).numpy() != reference.predict(asked)).sum())
    assert wrong == 0
    assert worst < 1e-6
    dtype = str(model(image).dtype).removeprefix("torch.")
    prove("nearest_neighbours", "parity", reference=f"scikit-learn {sklearn.__version__}", outputs=worst, dtype=dtype)


def test_of_equally_far_ones_the_first_and_of_equal_votes_the_smallest() -> None:
    image = torch.tensor([10, 20, 10, 14, 30], dtype=torch.uint8).view(5, 1, 1, 1)
    model = NearestNeighbours(image, torch.tensor([2, 0, 1, 2, 1]), 3, 2, "whole")
    index, square = model.nearest(torch.full((1, 1, 1, 1), 12 / 255), 4)
    assert index.tolist() == [[0, 2, 3, 1]]
    assert square.tolist() == [[4, 4, 4, 64]]
    assert model(torch.full((1, 1, 1, 1), 12 / 255)).argmax(1).tolist() == [1]  # one vote for 2, one for 1


def test_a_box_has_the_ink_in_its_middle() -> None:
    image = torch.zeros(2, 28, 28, dtype=torch.float64)
    image[0, 3:9, 7:12] = torch.arange(1.0, 31.0).view(6, 5)
    image[1, 2:24, 5] = 1  # 22 lines high: the last two are cut off
    box = boxed(image)
    assert box.shape == (2, 20, 20)
    assert torch.equal(box[0, 7:13, 7:12], image[0, 3:9, 7:12])
    assert box[0].sum() == image[0].sum()
    assert (box[1] > 0).nonzero().tolist() == [[row, 9] for row in range(20)]
    assert boxed(torch.zeros(1, 28, 28)).sum() == 0


def test_what_leans_stands_upright() -> None:
    image = torch.zeros(3, 28, 28, dtype=torch.float64)
    for row in range(9):
        image[0, 8 + row, 18 - row] = 200  # one to the left in each line
        image[1, 8 + row, 14] = 200
        image[2, 8 + row, 10 + row // 2] = 200  # half a pixel in each line
    upright = deslanted(image)
    assert torch.equal(upright[0, 8:17, 14], image[0].sum(1)[8:17])  # at its own centre of mass
    assert torch.equal(upright[1], image[1])
    across = torch.arange(28.0).double()
    mean = (upright[2, 8:17] * across).sum(1) / upright[2, 8:17].sum(1)
    assert mean.max() - mean.min() < 0.6  # it was 4
    assert torch.equal(deslanted(torch.zeros(1, 28, 28)), torch.zeros(1, 28, 28).double())


def test_distances_are_exact() -> None:
    data: Any = image_data("digits", size=28)
    test = data.test.split
    for seen, side in (("whole", 28), ("box", 20), ("bilevel", 20), ("deslanted", 20)):
        model = nearest(data, 3, seen)
        assert model.seen_NP.shape == (1257, side**2)
        image = test.batch(torch.arange(100)).image
        x = model.pixels(image)
        assert torch.equal(x, x.round())
        square = torch.stack([(row - model.seen_NP.double()).square().sum(1) for row in x])
        assert torch.equal(model.nearest(image, 3)[1], square.sort(1).values[:, :3])
    assert set(nearest(data, 3, "bilevel").seen_NP.unique().tolist()) == {0, 255}


def test_what_cannot_be() -> None:
    with pytest.raises(WrongInput, match="--k 1,258: digits has 1,257 images"):
        next(iter(recipe(data="digits", k=1258)))
    with pytest.raises(WrongInput, match="--seen box: it is of grey images of 28 × 28 pixels; digits has 8 × 8"):
        next(iter(recipe(data="digits", seen="box")))
