"""Superpixels: cuts by hand, and each number of their graphs against its definition."""

import pytest
import torch

from fuxian.data.images import digits
from fuxian.data.superpixels import SuperpixelGraphs, superpixels
from fuxian.errors import WrongInput


def test_superpixels_by_hand():
    image = torch.tensor([[[0.0, 0.0, 0.9], [0.0, 0.5, 1.0], [0.0, 0.5, 0.1]]])
    # the zeros are free to join; then 0.5 and 0.5; then 0.9 and 1.0 add 0.005, and 0.1 to the four zeros no side at all
    assert superpixels(image, 4)[0].tolist() == [[0, 0, 1], [0, 2, 1], [0, 2, 3]]
    # of those left: {0.5, 0.5} and {0.1} add 2/3 × 0.16, {0.5, 0.5} and {0.9, 1.0} 0.2025, the zeros and {0.5, 0.5} 1/3
    assert superpixels(image, 3)[0].tolist() == [[0, 0, 1], [0, 2, 1], [0, 2, 2]]
    # 0.5 is nearer to the four zeros than to 1.1, and costs more with them: 4/5 × 0.25 against 1/2 × 0.36
    assert superpixels(torch.tensor([[[0.0, 0.0, 0.0, 0.0, 0.5, 1.1]]]), 2).tolist() == [[[0, 0, 0, 0, 1, 1]]]
    assert superpixels(image, 9)[0].flatten().tolist() == list(range(9))
    assert superpixels(image, 1)[0].flatten().tolist() == [0] * 9


def test_graphs_of_superpixels():
    graphs = SuperpixelGraphs(digits(), 12)
    assert [len(part) for part in (graphs.train, graphs.val, graphs.test)] == [1257, 180, 360]
    batch = graphs.train.batch(torch.arange(200, 220))
    assert batch.features.shape == (20, 12, graphs.features)
    pixels = digits().train.batch(torch.arange(200, 220)).image
    assert torch.equal(batch.image, pixels)
    for region, near, x, grey in zip(batch.region, batch.adjacency, batch.features, pixels[:, 0], strict=True):
        assert torch.equal(near, near.T)
        touching = torch.zeros(12, 12)
        for r, c in ((r, c) for r in range(8) for c in range(8)):
            for other in [(r + 1, c)] * (r < 7) + [(r, c + 1)] * (c < 7):
                touching[region[r, c], region[other]] = touching[region[other], region[r, c]] = 1
        assert torch.equal(near, touching.fill_diagonal_(0))
        for s in range(12):
            mine = region == s
            down, across = (place.double() / 3.5 - 1 for place in mine.nonzero().T)
            expected = [grey[mine].mean(), across.mean(), down.mean(), len(across) * 12 / 64, across.var(correction=0),
                        down.var(correction=0), (across * down).mean() - across.mean() * down.mean()]  # fmt: skip
            torch.testing.assert_close(x[s].double(), torch.tensor(expected, dtype=torch.float64), atol=1e-6, rtol=1e-5)
            seen, found = {tuple(mine.nonzero()[0].tolist())}, {tuple(place) for place in mine.nonzero().tolist()}
            for _ in range(64):
                seen |= {(r + a, c + b) for r, c in seen for a, b in ((0, 1), (1, 0), (0, -1), (-1, 0))} & found
            assert seen == found  # in one piece


def test_superpixels_that_cannot_be():
    with pytest.raises(WrongInput, match="65 superpixels: a picture of digits has 64 pixels"):
        SuperpixelGraphs(digits(), 65)
