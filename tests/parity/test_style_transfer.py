"""Style transfer: Gram matrix and losses by loops and einsum, gradients by finite differences, VGG-19's layout."""

from __future__ import annotations

from collections.abc import Callable

import huggingface_hub
import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import save_file

import fuxian
from fuxian.engine.players import Player
from fuxian.errors import DataMissing, WrongInput
from fuxian.methods.vision import style_transfer
from fuxian.methods.vision.style_transfer import Features, Picture, Places, Transfer, gram, patches, vgg19
from fuxian.optim import lbfgs

from .compare import TOLERANCE, Differences, in_both, relative

LAYERS = ("1_1", "1_2", "2_1")


def small(dtype: torch.dtype | None = None) -> tuple[Transfer, Picture]:
    """A net of three layers, and pictures of two sizes."""
    dtype = dtype or torch.get_default_dtype()
    torch.manual_seed(0)
    net = Places(Features([(4, 5), (6,)]), 3).net.to(dtype).requires_grad_(False)
    content, style = (torch.rand(1, 3, *size, dtype=dtype) for size in ((8, 10), (12, 6)))
    transfer = Transfer(net, content, style, LAYERS, "2_1", content_weight=0.7, smooth=0.3)
    return transfer, Picture(torch.rand_like(content))


def test_gram_matrix_by_a_loop() -> None:
    maps = torch.randn(1, 3, 4, 5, dtype=torch.float64)
    expected = torch.zeros(3, 3, dtype=torch.float64)
    for i in range(3):
        for j in range(3):
            for y in range(4):
                for x in range(5):
                    expected[i, j] += maps[0, i, y, x] * maps[0, j, y, x] / 20
    assert relative(gram(maps), expected) < 1e-10


def step(optimizer: torch.optim.Optimizer, evaluate: Callable[[], torch.Tensor]) -> None:
    def closure() -> float:
        optimizer.zero_grad()
        loss = evaluate()
        loss.backward()
        return loss.item()

    optimizer.step(closure)


def compared() -> Differences:
    """The loss, its gradient, and a step of L-BFGS of four iterations: eq. 1 to 7 by einsum."""
    transfer, model = small()
    net = transfer.net.features
    logits = model.logits.detach().clone().requires_grad_()

    def maps(image: torch.Tensor) -> list[torch.Tensor]:
        mean, std = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
        x = (image - torch.tensor(mean).view(3, 1, 1)) / torch.tensor(std).view(3, 1, 1)
        found = []
        for at in (0, 2, 5):
            if at == 5:
                x = x.unfold(2, 2, 2).unfold(3, 2, 2).mean((4, 5))
            x = F.conv2d(F.pad(x, [1] * 4, "reflect"), net[at].weight, net[at].bias).clamp_min(0)
            found.append(x[0])
        return found

    def by_hand() -> torch.Tensor:
        image = 1 / (1 + (-logits).exp())
        ours, content, style = maps(image), maps(transfer.content), maps(transfer.style)
        expected = 0.7 * 0.5 * ((ours[2] - content[2]) ** 2).sum()  # eq. 1
        for f, s in zip(ours, style, strict=True):
            n, m, other = f.shape[0], f[0].numel(), s[0].numel()
            g, a = torch.einsum("iyx,jyx->ij", f, f), torch.einsum("iyx,jyx->ij", s, s)  # eq. 3
            expected = expected + ((g - a * m / other) ** 2).sum() / (4 * n**2 * m**2) / 3  # eq. 4, eq. 5 with w = 1 / 3
        for y in range(8):
            for x in range(10):
                if x < 9:
                    expected = expected + 0.3 * ((image[0, :, y, x + 1] - image[0, :, y, x]) ** 2).sum()
                if y < 7:
                    expected = expected + 0.3 * ((image[0, :, y + 1, x] - image[0, :, y, x]) ** 2).sum()
        return expected

    def ours() -> torch.Tensor:
        ((player, loss),) = transfer.losses(model, None)
        assert player == "model"
        return loss

    loss, expected = ours(), by_hand()
    (gradient,), (reference,) = torch.autograd.grad(loss, [model.logits]), torch.autograd.grad(expected, [logits])
    outputs, gradients = relative(loss.detach(), expected.detach()), relative(gradient, reference)
    before = logits.detach().clone()
    mine = Player("model", lbfgs(iterations=4), dict(model.named_parameters()), alone=True).optimizer
    theirs = torch.optim.LBFGS([logits], max_iter=4, history_size=10, line_search_fn="strong_wolfe")
    step(mine, ours), step(theirs, by_hand)
    assert relative(logits.detach(), before) > 0.1
    assert ours() < 0.7 * loss
    found = Differences(outputs, gradients, relative(model.logits.detach(), logits.detach()), str(loss.dtype)[6:])
    assert max(outputs, gradients, found.step) < TOLERANCE[loss.dtype], found
    return found


def test_loss_gradient_and_step_against_einsum(prove) -> None:
    prove("style_transfer", "parity", reference="the equations by einsum", **in_both(compared))


def test_gradient_by_finite_differences() -> None:
    transfer, model = small(torch.float64)

    def loss(logits: torch.Tensor) -> torch.Tensor:
        other = Picture(torch.full_like(logits, 0.5))
        other._parameters["logits"] = logits  # type: ignore[assignment]
        return next(transfer.losses(other, None))[1]

    assert torch.autograd.gradcheck(loss, (model.logits.detach().clone().requires_grad_(),), eps=1e-7, atol=1e-4)


def test_scaled_features_have_a_mean_activation_of_one_and_are_the_same_otherwise() -> None:
    transfer, _ = small()
    before, after = transfer.net(transfer.style), transfer.net.scaled(transfer.style)(transfer.style)
    assert list(before) == list(after) == list(LAYERS)
    for layer in LAYERS:
        assert after[layer].mean().item() == pytest.approx(1)
        torch.testing.assert_close(after[layer], before[layer] / before[layer].mean())


def test_the_distances_are_none_where_the_pictures_are_the_same() -> None:
    transfer, _ = small()
    same = Transfer(transfer.net, transfer.content, transfer.content, LAYERS, "2_1", 1.0, 0.0)
    content, style = same.distances(transfer.content)
    assert [float(distance) for distance in (content, *style.values())] == [0, 0, 0, 0]
    content, style = same.distances(transfer.content.flip(3))  # mirrored: other places, nearly the same grain
    assert float(content) > 1
    assert 0 < float(style["1_1"]) < 0.1


def test_patches_are_of_the_place_that_they_are_said_to_be_of() -> None:
    torch.manual_seed(0)
    ramp = torch.linspace(0.2, 0.8, 128)
    pictures = [
        torch.stack([ramp.expand(96, -1), torch.linspace(0.2, 0.8, 96)[:, None].expand(-1, 128), torch.zeros(96, 128)])
    ]
    data = patches(pictures, 400)
    assert (len(data.train), len(data.test), data.classes) == (360, 40, 16)
    batch = data.train.batch(torch.arange(360))
    red, green = batch.image[:, 0].mean((1, 2)), batch.image[:, 1].mean((1, 2))
    column, row = batch.label % 4, batch.label // 4
    for value, place in ((red, column), (green, row)):
        means = torch.stack([value[place == k].mean() for k in range(4)])
        assert bool((means.diff() > 0.05).all()), means


def test_vgg19_is_read_in_the_layout_of_its_file(tmp_path, monkeypatch) -> None:
    blocks = [(64,) * 2, (128,) * 2, (256,) * 4, (512,) * 4, (512,) * 4]
    tensors, at, channels = {"head.fc.weight": torch.zeros(2, 2)}, 0, 3
    for widths in blocks:  # torchvision's numbers: 0, 2, 5, 7, 10, …, 34
        for width in widths:
            tensors[f"features.{at}.weight"] = torch.randn(width, channels, 3, 3)
            tensors[f"features.{at}.bias"] = torch.randn(width)
            at, channels = at + 2, width
        at += 1
    save_file(tensors, tmp_path / "model.safetensors")
    asked = []
    monkeypatch.setattr(
        huggingface_hub,
        "hf_hub_download",
        lambda *words, **named: asked.append((words, named)) or str(tmp_path / "model.safetensors"),
    )
    net = vgg19()
    assert asked == [(("timm/vgg19.tv_in1k", "model.safetensors"), {"revision": style_transfer.VGG19["revision"]})]
    assert sum(weight.numel() for weight in net.parameters()) == 20_024_384
    assert list(net.layers.values()) == [
        f"{b}_{i}" for b, widths in enumerate(blocks, 1) for i in range(1, len(widths) + 1)
    ]
    assert net.layers[22] == "4_2"  # its ReLU; the convolution is number 21
    torch.testing.assert_close(net.features[34].weight, tensors["features.34.weight"])


def test_without_the_weights_it_says_what_works(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(DataMissing, match="timm/vgg19") as error:
        fuxian.run("style_transfer", quick=True, features="vgg19", parent=tmp_path)
    assert "--features patches" in error.value.lines["or"]


@pytest.mark.parametrize(("layers", "content"), [(("1_1", "9_1"), "1_1"), (("1_1",), "5_1"), ((), "1_1")])
def test_a_layer_that_is_not_there(layers: tuple[str, ...], content: str) -> None:
    transfer, _ = small()
    with pytest.raises(WrongInput, match="there is no layer"):
        Transfer(transfer.net, transfer.content, transfer.style, layers, content, 1.0, 0.0)
