"""LeNet against its layers written as sums over patches: no convolution, no pooling of torch's."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fuxian.data.images import Images
from fuxian.methods.vision.lenet import LeNet
from fuxian.objectives.classification import Classification
from fuxian.optim import adamw

from .compare import Differences, first_loss, in_both, parity


class Reference(nn.Module):
    """The same equations: a unit is a weighted sum over its 5 × 5 patch; S2 and S4 take the largest of four."""

    def __init__(self) -> None:
        super().__init__()
        for layer, (maps, fan_in) in dict(c1=(6, 25), c3=(16, 150), c5=(120, 400), f6=(84, 120), out=(10, 84)).items():
            self.register_parameter(f"{layer}_w", nn.Parameter(torch.zeros(maps, fan_in)))
            self.register_parameter(f"{layer}_b", nn.Parameter(torch.zeros(maps)))

    def patches(self, x: Tensor, layer: str) -> Tensor:
        windows = x.unfold(2, 5, 1).unfold(3, 5, 1)  # (batch, maps, h, w, 5, 5)
        rows = windows.permute(0, 2, 3, 1, 4, 5).flatten(3)  # (batch, h, w, maps · 25)
        return (rows @ self.get_parameter(f"{layer}_w").T + self.get_parameter(f"{layer}_b")).permute(0, 3, 1, 2)

    def halves(self, x: Tensor) -> Tensor:
        return x.unflatten(3, (-1, 2)).unflatten(2, (-1, 2)).amax((3, 5))

    def forward(self, image: Tensor) -> Tensor:
        x = self.halves(self.patches(image, "c1").clamp_min(0))
        x = self.halves(self.patches(x, "c3").clamp_min(0))
        x = self.patches(x, "c5").clamp_min(0)[:, :, 0, 0]
        x = (x @ self.get_parameter("f6_w").T + self.get_parameter("f6_b")).clamp_min(0)
        return x @ self.get_parameter("out_w").T + self.get_parameter("out_b")


def compared() -> Differences:
    torch.manual_seed(0)
    ours, reference = LeNet(), Reference()
    batch = Images(torch.randn(4, 1, 32, 32), torch.randint(10, (4,)))
    names = dict(c1="c1", c3="c3", c5="c5", f6="f6", output="out")
    for parameter in ours.parameters():  # the reference keeps a kernel as a row
        parameter.data = parameter.data.flatten(1) if parameter.dim() == 4 else parameter.data
    shapes = dict(c1=(6, 1, 5, 5), c3=(16, 6, 5, 5), c5=(120, 16, 5, 5))

    def folded(image: Tensor) -> Tensor:
        kernels = {f"{name}.weight": ours.get_submodule(name).weight.view(shape) for name, shape in shapes.items()}
        return torch.func.functional_call(ours, kernels, image)

    return parity(
        ours,
        reference,
        {f"{n}.{k}": f"{m}_{k[0]}" for n, m in names.items() for k in ("weight", "bias")},
        outputs=lambda: (folded(batch.image), reference(batch.image)),
        losses=lambda _, out: (
            first_loss(Classification(), folded, batch),
            (out.logsumexp(1) - out.gather(1, batch.label[:, None])[:, 0]).mean(),
        ),
        spec=adamw(3e-3, eps=1e-4, decay=0.05),
        optimizer=torch.optim.AdamW(
            reference.parameters(), lr=3e-3, eps=1e-4, weight_decay=0.05, fused=False, foreach=False
        ),
    )


def test_outputs_gradients_and_step(prove) -> None:
    prove("lenet", "parity", reference="the layers as sums over patches", **in_both(compared))


def test_61706_weights() -> None:
    assert sum(p.numel() for p in LeNet().parameters()) == 156 + 2_416 + 48_120 + 10_164 + 850 == 61_706


def test_evaluation_counts_mistakes() -> None:
    logits = torch.tensor([[2.0, 1.0], [0.0, 1.0], [3.0, 0.0]])
    batch = Images(logits[:, None, None], torch.tensor([0, 0, 0]))
    measured = dict(Classification().evaluate(lambda image: image[:, 0, 0], batch))
    assert measured["error"].tolist() == [0, 1, 0]
    assert measured["accuracy"].tolist() == [1, 0, 1]
    torch.testing.assert_close(measured["loss"], F.cross_entropy(logits, batch.label, reduction="none"))
    assert measured["loss"][1].item() == pytest.approx(1.3133, abs=1e-4)  # log(1 + e)
