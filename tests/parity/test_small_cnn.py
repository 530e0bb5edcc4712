"""The small convolutional network against its layers as products of patches and kernels: no convolution of torch's."""

from __future__ import annotations

import inspect

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fuxian.data.images import Images
from fuxian.methods.vision.small_cnn import SmallCNN, recipe
from fuxian.objectives.classification import Classification
from fuxian.optim import adam

from .compare import Differences, first_loss, in_both, parity


class Reference(nn.Module):
    """The notebook's net: a convolution with two zeros round the image is a product of each patch with all kernels."""

    def __init__(self, channels: int, classes: int) -> None:
        super().__init__()
        self.k1, self.b1 = nn.Parameter(torch.zeros(32, channels, 5, 5)), nn.Parameter(torch.zeros(32))
        self.k2, self.b2 = nn.Parameter(torch.zeros(64, 32, 5, 5)), nn.Parameter(torch.zeros(64))
        self.w, self.b = nn.Parameter(torch.zeros(classes, 3136)), nn.Parameter(torch.zeros(classes))

    def layer(self, x: Tensor, kernels: Tensor, bias: Tensor) -> Tensor:
        rows = F.pad(x, [2, 2, 2, 2]).unfold(2, 5, 1).unfold(3, 5, 1).permute(0, 2, 3, 1, 4, 5).flatten(3)
        x = (rows @ kernels.flatten(1).T + bias).clamp_min(0)  # (batch, height, width, maps)
        return x.unflatten(2, (-1, 2)).unflatten(1, (-1, 2)).amax((2, 4)).permute(0, 3, 1, 2)

    def forward(self, image: Tensor) -> Tensor:
        x = self.layer(self.layer(image, self.k1, self.b1), self.k2, self.b2)
        return x.flatten(1) @ self.w.T + self.b


def compared() -> Differences:
    torch.manual_seed(0)
    ours, reference = SmallCNN(2, 7), Reference(2, 7)
    batch = Images(torch.randn(4, 2, 28, 28), torch.randint(7, (4,)))
    names = ("conv1", "conv2", "output")
    return parity(
        ours,
        reference,
        {
            f"{name}.{part}": other
            for name, pair in zip(names, (("k1", "b1"), ("k2", "b2"), ("w", "b")), strict=True)
            for part, other in zip(("weight", "bias"), pair, strict=True)
        },
        outputs=lambda: (ours(batch.image), reference(batch.image)),
        losses=lambda _, out: (
            first_loss(Classification(), ours, batch),
            (out.logsumexp(1) - out.gather(1, batch.label[:, None])[:, 0]).mean(),
        ),
        spec=adam(1e-3, eps=1e-2),
        optimizer=torch.optim.Adam(reference.parameters(), lr=1e-3, eps=1e-2, fused=False, foreach=False),
    )


def test_outputs_gradients_and_step(prove) -> None:
    prove("small_cnn", "parity", reference="the layers as products of patches and kernels", **in_both(compared))


def test_fewer_than_100000_weights() -> None:
    weights = [p.numel() for p in SmallCNN().parameters()]
    assert weights == [32 * 25, 32, 64 * 32 * 25, 64, 10 * 64 * 49, 10]
    assert sum(weights) == 83_466  # the notebook prints it


def test_the_notebook_s_protocol() -> None:
    (stage,) = recipe(data="digits")
    assert (stage.epochs, stage.batch, stage.select, stage.stop) == (30, 1000, None, None)
    optimizer = stage.optimizer.make(stage.optimizer.groups(list(stage.model.named_parameters())))
    assert isinstance(optimizer, torch.optim.Adam)
    (group,) = optimizer.param_groups
    assert (group["lr"], group["betas"], group["eps"], group["weight_decay"]) == (1e-3, (0.9, 0.999), 1e-8, 0)
    assert stage.optimizer.schedule is None
    assert inspect.signature(recipe).parameters["data"].default == "mnist"
    pixels = stage.data.train.batch(torch.arange(9)).image
    torch.testing.assert_close(float(pixels.min()), -0.1307 / 0.3081)  # black
    torch.testing.assert_close(float(pixels.max()), (1 - 0.1307) / 0.3081)
