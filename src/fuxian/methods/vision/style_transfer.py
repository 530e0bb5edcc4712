"""Style transfer: one picture's content in another's style. What is trained is the picture.

中文     神经风格迁移
Paper    Gatys, Ecker & Bethge, CVPR 2016 (arXiv:1508.06576): eq. 1 (content), eq. 3-5 (style), eq. 7 (sum), sec. 2 (net)
         Dosovitskiy et al., NeurIPS 2014, arXiv:1406.6909: sec. 2 (a net trained on patches, each place a class)
         Johnson, Alahi & Fei-Fei, ECCV 2016, arXiv:1603.08155: sec. 3.2 (the same two distances as losses; total variation)
Departs  features of a small net trained here on patches of the pictures themselves, where VGG-19's cannot be had; scaled so
         that each layer's mean activation is 1, not each filter's; pixels are kept in range by a sigmoid; borders are
         reflected; a little total variation, as Johnson et al. have it
"""

import copy
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fuxian import figures
from fuxian.contract import Objective, Stage
from fuxian.data.images import ImageSplit, ImageSplits
from fuxian.data.pictures import picture
from fuxian.data.sources import digest
from fuxian.data.weights import hub_weights
from fuxian.errors import WrongInput
from fuxian.facts import Claim, Paper, Within
from fuxian.objectives.classification import Classification
from fuxian.optim import adam, lbfgs

PAPER = Paper("Image Style Transfer Using Convolutional Neural Networks", "Gatys, Ecker & Bethge", 2016, venue="CVPR",
              arxiv="1508.06576")  # fmt: skip
CLAIMS = [  # of the style's distance, what is left
    Claim("style", None, where="the paper shows pictures and publishes no number", seeds=3, better="lower"),
]
QUICK = dict(content="china", style="flower", side=64, epochs=1, steps=10)

VGG19 = dict(repo="timm/vgg19.tv_in1k", revision="128d4708565b3a414bcbb9bbad440b2fe37b9f18", prefix="features.")
PATCH, GRID = 32, 4  # pixels of a patch; a picture is cut into 4 × 4 places
FRAMES = (1, 4, 16, 64)  # evaluations of the loss after which the picture is kept

# Shape letters: B batch, N feature maps, M positions, H W pixels.


class Features(nn.Module):
    """A net of VGG's form: 3 × 3 convolutions in blocks, the maps halved between them.

    Pictures (B, 3, H, W) in 0 to 1 to {layer: maps}. Layers are named as in the paper, `3_1` the first convolution of the
    third block; maps are taken after the ReLU. Pooling takes the mean, which the paper finds to look better (sec. 2).
    """

    mean: Tensor
    std: Tensor

    def __init__(self, blocks: Sequence[Sequence[int]]) -> None:
        super().__init__()
        parts: list[nn.Module] = []
        self.layers: dict[int, str] = {}
        channels = 3
        for b, widths in enumerate(blocks, 1):
            parts += [nn.AvgPool2d(2)] * (b > 1)
            for i, width in enumerate(widths, 1):
                parts += [nn.Conv2d(channels, width, 3, padding=1, padding_mode="reflect"), nn.ReLU()]
                self.layers[len(parts) - 1] = f"{b}_{i}"
                channels = width
        self.features = nn.Sequential(*parts)  # numbered as torchvision numbers VGG's
        self.channels = channels
        self.register_buffer("mean", torch.tensor([0.485, 0.456, 0.406]).view(3, 1, 1))  # of ImageNet
        self.register_buffer("std", torch.tensor([0.229, 0.224, 0.225]).view(3, 1, 1))

    def forward(self, image: Tensor) -> dict[str, Tensor]:
        x = (image - self.mean) / self.std
        found = {}
        for i, part in enumerate(self.features):
            x = part(x)
            if i in self.layers:
                found[self.layers[i]] = x
        return found

    @torch.no_grad()
    def scaled(self, image: Tensor) -> "Features":
        """The same features, each layer's divided by its mean activation over these pictures. Sec. 2."""
        net = copy.deepcopy(self).requires_grad_(False)
        means = [1.0, *(maps.mean() for maps in self(image).values())]
        convolutions = [part for part in net.features if isinstance(part, nn.Conv2d)]
        for part, below, own in zip(convolutions, means, means[1:], strict=False):
            part.weight *= below / own
            part.bias /= own  # type: ignore[operator]
        return net


def vgg19() -> Features:
    """VGG-19's convolutions, trained on ImageNet. Simonyan & Zisserman 2015, arXiv:1409.1556, Table 1, E."""
    net = Features([(64,) * 2, (128,) * 2, (256,) * 4, (512,) * 4, (512,) * 4])
    published = hub_weights(**VGG19, or_="--features patches trains a small net here, offline")
    for name, weight in net.features.named_parameters():
        weight.data.copy_(published[name])
    return net


# ── features from the pictures themselves ───────────────────────────────────────────────────────────────────────────


class Places(nn.Module):
    """Patches (B, 3, 32, 32) to logits: which place of which picture it is from."""

    def __init__(self, net: Features, places: int) -> None:
        super().__init__()
        self.net = net
        self.output = nn.Linear(net.channels, places)
        for part in net.features:
            if isinstance(part, nn.Conv2d):
                nn.init.kaiming_normal_(part.weight, nonlinearity="relu")
                nn.init.zeros_(part.bias)  # type: ignore[arg-type]

    def forward(self, image: Tensor) -> Tensor:
        *_, last = self.net(image).values()
        return self.output(last.mean((2, 3)))


class WhichPlace(Classification):
    def pictures(self, model: Any, split: Any) -> dict[str, Any]:
        """The filters of the first layer, 16 times as large."""
        low, high = torch.aminmax(weight := model.net.features[0].weight)
        large = ((weight - low) / (high - low)).repeat_interleave(16, 2).repeat_interleave(16, 3)
        return {"filters": figures.image_grid(large, columns=8)}


def patches(pictures: Sequence[Tensor], count: int) -> ImageSplits:
    """Patches of random places, mirrored, with another contrast and a little tint (sec. 2 of Dosovitskiy et al.).

    Each of 4 × 4 places of each picture is a class. One patch in ten is for the test.
    """
    image, label = [], []
    for _ in range(count):
        which, row, column = (int(torch.randint(n, ())) for n in (len(pictures), GRID, GRID))
        _, height, width = pictures[which].shape
        top, left = (
            int((at + float(torch.rand(()))) * (side - PATCH) / GRID) for at, side in ((row, height), (column, width))
        )
        patch = pictures[which][:, top : top + PATCH, left : left + PATCH]
        patch = patch.flip(2) if torch.rand(()) < 0.5 else patch
        mean = patch.mean((1, 2), keepdim=True)
        patch = (patch - mean) * (0.6 + 0.8 * torch.rand(())) + mean + 0.05 * torch.randn(3, 1, 1)
        image.append((255 * patch.clamp(0, 1)).byte())
        label.append((which * GRID + row) * GRID + column)
    split = ImageSplit(torch.stack(image), torch.tensor(label))
    names = [f"{p + 1}, {r + 1}.{c + 1}" for p in range(len(pictures)) for r in range(GRID) for c in range(GRID)]
    held = count // 10
    return ImageSplits(split.part(slice(0, -held)), None, split.part(slice(-held, None)), name="patches", names=names,
                       hashes={"pictures": digest(*(p.numpy().tobytes() for p in pictures))})  # fmt: skip


# ── the picture ─────────────────────────────────────────────────────────────────────────────────────────────────────


class Picture(nn.Module):
    """A picture (1, 3, H, W), kept in 0 to 1 by a sigmoid: the model is what it makes, and there is nothing to call."""

    def __init__(self, start: Tensor) -> None:
        super().__init__()
        self.logits = nn.Parameter(start.clamp(0.01, 0.99).logit())

    @property
    def image(self) -> Tensor:
        return self.logits.sigmoid()


def gram(maps_1NHW: Tensor) -> Tensor:
    """Which feature maps go together, over all positions: (N, N), divided by their number M. Eq. 3."""
    maps_NM = maps_1NHW[0].flatten(1)
    return maps_NM @ maps_NM.T / maps_NM.shape[1]


def content_distance(maps: Tensor, target: Tensor) -> Tensor:
    """Eq. 1."""
    return (maps - target).square().sum() / 2


def style_distance(gram_NN: Tensor, target_NN: Tensor) -> Tensor:
    """Eq. 4; M is in the Gram matrices, so that two pictures may differ in size."""
    return (gram_NN - target_NN).square().sum() / (4 * len(gram_NN) ** 2)


def variation(image: Tensor) -> Tensor:
    """Squared differences of neighbours, summed. Johnson et al., sec. 3.2."""
    return image.diff(dim=2).square().sum() + image.diff(dim=3).square().sum()


class Transfer(Objective):
    """α · content + β · style with β = 1, and a little total variation. Eq. 7."""

    content: Tensor
    style: Tensor
    content_maps: Tensor
    frames: Tensor
    evaluations: Tensor

    def __init__(self, net: Features, content: Tensor, style: Tensor, style_layers: Sequence[str], content_layer: str,
                 content_weight: float, smooth: float) -> None:  # fmt: skip
        unknown = [layer for layer in (*style_layers, content_layer) if layer not in net.layers.values()]
        if unknown or not style_layers:
            raise WrongInput(
                f"there is no layer {', '.join(unknown) or 'for style'}", do=f"of {', '.join(net.layers.values())}"
            )
        self.net, self.style_layers, self.content_layer = net, tuple(style_layers), content_layer
        self.content_weight, self.smooth = content_weight, smooth
        with torch.no_grad():
            self.register_buffer("content", content)
            self.register_buffer("style", style)
            self.register_buffer("content_maps", net(content)[content_layer])
            style_maps = net(style)
            for layer in style_layers:
                self.register_buffer(f"gram_{layer}", gram(style_maps[layer]))
        self.register_buffer("frames", content.repeat(len(FRAMES), 1, 1, 1))
        self.register_buffer("evaluations", torch.tensor(0))

    def distances(self, image: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Of the content, and of the style by layer."""
        maps = self.net(image)
        style = {layer: style_distance(gram(maps[layer]), getattr(self, f"gram_{layer}")) for layer in self.style_layers}
        return content_distance(maps[self.content_layer], self.content_maps), style

    def losses(self, model: Picture, batch: None) -> Iterator[tuple[str, Tensor]]:
        image = model.image
        content, style = self.distances(image)
        self.evaluations += 1
        for at, frame in zip(FRAMES, self.frames, strict=True):
            if self.evaluations == at:
                frame.copy_(image.detach()[0])
        wl = 1 / len(self.style_layers)  # eq. 5, sec. 2: the same for all
        yield "model", self.content_weight * content + wl * sum(style.values()) + self.smooth * variation(image)

    def pictures(self, model: Any, split: Any) -> dict[str, Any]:
        """The result; beside content and style; and on the way."""
        result = model.image.detach()
        height, width = result.shape[2:]
        scale = min(height / self.style.shape[2], width / self.style.shape[3])
        style = F.interpolate(self.style, scale_factor=scale, mode="bilinear", antialias=True)[..., :height, :width]
        left, top = (width - style.shape[3]) // 2, (height - style.shape[2]) // 2
        style = F.pad(style, (left, width - style.shape[3] - left, top, height - style.shape[2] - top), value=1.0)
        three = torch.cat([self.content, style, result])
        strip = torch.cat([self.frames, result])
        at = [f"after {n}" for n in (*FRAMES, int(self.evaluations))]
        return {
            "result": result[0],
            "pictures": figures.labelled_images(three, ["content", "style", "result"], columns=3),
            "strip": figures.labelled_images(strip, at, columns=len(at)),
        }


def recipe(
    content: Literal["china", "flower", "cat", "rocket", "shipwreck", "the-scream"] | Path = "china",    # what is shown
    style: Literal["the-scream", "shipwreck", "china", "flower", "cat", "rocket"] | Path = "the-scream",  # how it is
    features: Literal["patches", "vgg19"] = "patches",    # of a small net trained here; or VGG-19's, from the hub
    side: Annotated[int, Within(48)] = 192,               # pixels of the longer side, of both pictures
    style_layers: tuple[str, ...] = ("1_1", "2_1", "3_1", "4_1"),  # early: colour and grain; late: shapes
    content_layer: str = "3_1",                           # the paper takes 4_2 of VGG-19
    content_weight: Annotated[float, Within(0)] = 3e-6,   # α / β of eq. 7
    smooth: Annotated[float, Within(0)] = 1e-4,           # weight of the total variation
    start: Literal["content", "noise"] = "content",       # of the picture; sec. 3.3 compares them
    steps: int = 20,                                      # of L-BFGS, up to 12 evaluations each
    epochs: int = 5,                                      # passes over the patches
    batch: int = 32,                                      # patches a step
    lr: float = 2e-3,                                     # Adam, of the features
) -> Iterator[Stage]:  # fmt: skip
    shown, painted = picture(content, side)[None], picture(style, side)[None]
    if features == "vgg19":
        net = vgg19()
    else:
        others = [picture("china", side), picture("flower", side)]
        net = Features([(32,), (64,), (96,), (128,)])
        seen = patches([shown[0], painted[0], *others], 4000)
        yield Stage(Places(net, seen.classes), seen, WhichPlace(), adam(lr), epochs=epochs, batch=batch, name="features")
    shown, painted = (image.to(net.mean.device) for image in (shown, painted))
    first = shown if start == "content" else torch.rand_like(shown)
    model = Picture(first)
    transfer = Transfer(net.scaled(painted), shown, painted, style_layers, content_layer, content_weight, smooth)
    yield Stage(model, None, transfer, lbfgs(iterations=10), steps=steps, name="picture")
    with torch.no_grad():
        (_, untouched), (kept, reached) = (transfer.distances(image) for image in (transfer.content, model.image))
    of_layer = {f"style_{layer}": float(reached[layer] / untouched[layer].clamp_min(1e-12)) for layer in reached}
    return {
        "style": float(sum(reached.values()) / sum(untouched.values())),  # of the content picture's own distance
        "content": float(kept / content_distance(torch.zeros(()), transfer.content_maps)),
        **of_layer,
    }
