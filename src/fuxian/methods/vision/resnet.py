"""ResNet: a layer learns what to add to its input, so that a hundred layers train as easily as ten.

中文     残差网络
Paper    He, Zhang, Ren & Sun, CVPR 2016, arXiv:1512.03385: eq. 1 and 2 (residual block), Fig. 5 and Table 1 (layers),
         sec. 3.3 (shortcuts), sec. 3.4 (ImageNet settings), sec. 4.2 and Table 6 (CIFAR-10)
Code     KaimingHe/deep-residual-networks @ a7026cb: ResNet-50-deploy.prototxt has the strides of the bottleneck;
         facebookarchive/fb.resnet.torch @ 2fedffc: resnet.lua pads its shortcuts after the channels that are there, and has
         the stride of a bottleneck in its second layer, as most weights published since
Departs  Fashion-MNIST for CIFAR-10, and 15 epochs for 164, at the default knobs; pixels are centred and scaled by channel,
         not by pixel; the rate falls after a half and three quarters of the steps (theirs: 32,000 and 48,000 of 64,000)
"""

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Annotated, Literal

import torch.nn.functional as F
from torch import Tensor, nn

from fuxian.contract import History, Stage
from fuxian.data import augment
from fuxian.data.images import augmented, image_data, standardized
from fuxian.data.weights import fill, pretrained, save
from fuxian.errors import WrongInput
from fuxian.facts import Claim, Paper, Within
from fuxian.objectives.classification import Classification
from fuxian.optim import sgd

PAPER = Paper("Deep Residual Learning for Image Recognition", "He et al.", 2016, venue="CVPR", arxiv="1512.03385")
CLAIMS = [  # one run is published of each depth, but of 110, whose five spread by 0.16 %: twice that
    Claim("test/error", 0.0875, where="Table 6, ResNet-20", tolerance=0.0032, seeds=5, better="lower",
          knobs=dict(data="cifar10", epochs=164), needs="CIFAR-10 in full, and a GPU"),
    Claim("test/error", 0.0751, where="Table 6, ResNet-32", tolerance=0.0032, seeds=5, better="lower",
          knobs=dict(data="cifar10", epochs=164, depth=32), needs="CIFAR-10 in full, and a GPU"),
    Claim("test/error", 0.0717, where="Table 6, ResNet-44", tolerance=0.0032, seeds=5, better="lower",
          knobs=dict(data="cifar10", epochs=164, depth=44), needs="CIFAR-10 in full, and a GPU"),
    Claim("test/error", 0.0697, where="Table 6, ResNet-56", tolerance=0.0032, seeds=5, better="lower",
          knobs=dict(data="cifar10", epochs=164, depth=56), needs="CIFAR-10 in full, and a GPU"),
    Claim("test/error", 0.0661, where="Table 6, ResNet-110, mean of five", tolerance=0.0032, seeds=5, better="lower",
          knobs=dict(data="cifar10", epochs=164, depth=110, warmup=400), needs="CIFAR-10 in full, and a GPU"),
    Claim("test/accuracy", 0.949, where="zalandoresearch/fashion-mnist, README.md, ResNet18", tolerance=0.005, seeds=3,
          knobs=dict(depth=18, shortcut="B"),  # 0.005: two standard errors of a rate counted on 10,000 images
          comparison="theirs also turns images and flips them upside down, its length not given; ours 15 epochs of crops "
                     "and mirror images",
          needs="a GPU: three times 15 epochs of 11 million weights"),
]  # fmt: skip
QUICK = dict(data="digits", depth=8, flip=False, epochs=3, batch=32)

# Shape letters: B batch, C channels, H height, W width.

BASIC, BOTTLENECK = 1, 4  # channels of a block's output, in those of its inner layers
TABLE_1 = {
    18: (BASIC, (2, 2, 2, 2)),
    34: (BASIC, (3, 4, 6, 3)),
    50: (BOTTLENECK, (3, 4, 6, 3)),
    101: (BOTTLENECK, (3, 4, 23, 3)),
    152: (BOTTLENECK, (3, 8, 36, 3)),
}


def convolution(inputs: int, outputs: int, kernel: int, stride: int = 1) -> list[nn.Module]:
    """Batch normalization right after each convolution: sec. 3.4."""
    return [nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, bias=False), nn.BatchNorm2d(outputs)]


def basic(inputs: int, outputs: int, stride: int) -> nn.Sequential:
    """F of eq. 1, two layers. Fig. 5, left."""
    return nn.Sequential(*convolution(inputs, outputs, 3, stride), nn.ReLU(inplace=True), *convolution(outputs, outputs, 3))


def bottleneck(inputs: int, outputs: int, stride: int, strided: Literal[1, 2]) -> nn.Sequential:
    """F of eq. 1, three layers, the first and the last of one pixel. Fig. 5, right; layer `strided` has the stride."""
    width = outputs // BOTTLENECK
    return nn.Sequential(
        *convolution(inputs, width, 1, stride if strided == 1 else 1), nn.ReLU(inplace=True),
        *convolution(width, width, 3, stride if strided == 2 else 1), nn.ReLU(inplace=True),
        *convolution(width, outputs, 1),
    )  # fmt: skip


class Padded(nn.Module):
    """Option A: every `stride`-th pixel, and channels of zeros after those that are there; no weights. Sec. 3.3."""

    def __init__(self, channels: int, stride: int) -> None:
        super().__init__()
        self.channels, self.stride = channels, stride

    def forward(self, x_BCHW: Tensor) -> Tensor:
        x_BCHW = x_BCHW[:, :, :: self.stride, :: self.stride]
        return F.pad(x_BCHW, [0, 0, 0, 0, 0, self.channels - x_BCHW.shape[1]])


class Block(nn.Module):
    """ReLU(F(x) + shortcut(x)): eq. 1 and 2. A plain one, with no shortcut, is ReLU(F(x))."""

    def __init__(self, residual: nn.Module, shortcut: nn.Module | None) -> None:
        super().__init__()
        self.residual, self.shortcut = residual, shortcut

    def forward(self, x_BCHW: Tensor) -> Tensor:
        f_BCHW = self.residual(x_BCHW)
        return (f_BCHW if self.shortcut is None else f_BCHW + self.shortcut(x_BCHW)).relu()


class ResNet(nn.Module):
    """Images (B, C, H, W) to logits (B, classes). 269,722 weights for depth 20 and ten classes of colour images.

    Depth 18, 34, 50, 101 and 152 are the nets of Table 1, for large images; depth 6 n + 2 are those of sec. 4.2, for 32
    pixels. `strided` is the layer of a bottleneck that has its stride: 1, as the authors', or 2, as resnet.lua. Raises
    WrongInput for another depth.
    """

    def __init__(
        self,
        channels: int,
        classes: int,
        depth: int,
        shortcut: Literal["A", "B"] | None = "A",
        strided: Literal[1, 2] = 1,
    ) -> None:
        super().__init__()
        self.depth, self.shortcut, self.strided = depth, shortcut, strided
        if depth in TABLE_1:
            expansion, blocks = TABLE_1[depth]
            width, stem = 64, [*convolution(channels, 64, 7, 2), nn.ReLU(inplace=True), nn.MaxPool2d(3, 2, padding=1)]
        elif depth >= 8 and depth % 6 == 2:
            expansion, blocks = BASIC, ((depth - 2) // 6,) * 3
            width, stem = 16, [*convolution(channels, 16, 3), nn.ReLU(inplace=True)]
        else:
            raise WrongInput(
                f"there is no ResNet of depth={depth}",
                do="20, 32, 44, 56, 110 or another 6 n + 2 for 32 pixels; 18, 34, 50, 101 or 152 for large images",
            )
        make = basic if expansion == BASIC else partial(bottleneck, strided=strided)
        self.stem = nn.Sequential(*stem)
        self.blocks = nn.Sequential()
        inputs = width
        for stage, count in enumerate(blocks):
            outputs = width * expansion * 2**stage
            for block in range(count):
                stride = 2 if stage > 0 and block == 0 else 1  # as the map is halved, the channels are doubled
                self.blocks.append(Block(make(inputs, outputs, stride), shortcuts(inputs, outputs, stride, shortcut)))
                inputs = outputs
        self.output = nn.Linear(inputs, classes)
        self.apply(initialize)

    def forward(self, image_BCHW: Tensor) -> Tensor:
        return self.output(self.blocks(self.stem(image_BCHW)).mean((2, 3)))

    @classmethod
    def from_pretrained(cls, source: str | Path) -> "ResNet":
        """The published weights: "microsoft/resnet-50" of the hub, or a folder, in the files of transformers.

        In evaluation mode; made for images of 0 to 1, by channel less (0.485, 0.456, 0.406) and over (0.229, 0.224, 0.225).
        Raises WrongInput for another kind of model, DataMissing where it cannot be had.
        """
        config, tensors = pretrained(source, IMPLEMENTED)
        kind, depths = config["layer_type"], config["depths"]
        known = {depth: (KINDS[expansion], [*blocks]) for depth, (expansion, blocks) in TABLE_1.items()}
        depth = next((depth for depth, there in known.items() if there == (kind, depths)), 0)
        if not depth:
            raise WrongInput(f"{source} has layer_type={kind!r} and depths={depths}, which no net of Table 1 has")
        classes = len(config.get("id2label", "01"))  # two, where it does not say
        net = cls(config["num_channels"], classes, depth, "B", strided=1 if config.get("downsample_in_bottleneck") else 2)
        fill(published(net), tensors, source)
        return net.eval()

    def save_pretrained(self, folder: str | Path) -> None:
        """Writes what `transformers.AutoModelForImageClassification.from_pretrained(folder)` reads, of a net of Table 1.

        Raises WrongInput for a net that it has none of: for 32 pixels, or with other shortcuts than B.
        """
        if self.depth not in TABLE_1 or self.shortcut != "B":
            raise WrongInput(
                f"transformers has no ResNet of depth={self.depth} with shortcut={self.shortcut!r}",
                do=f"depth {', '.join(map(str, TABLE_1))} with shortcut B can be written for it",
            )
        expansion, blocks = TABLE_1[self.depth]
        labels = [f"LABEL_{n}" for n in range(self.output.out_features)]
        config = dict(
            architectures=["ResNetForImageClassification"], **IMPLEMENTED, num_channels=self.stem[0].in_channels,
            layer_type=KINDS[expansion], depths=blocks, hidden_sizes=[64 * expansion * 2**stage for stage in range(4)],
            downsample_in_bottleneck=self.strided == 1,
            id2label=dict(enumerate(labels)), label2id={label: n for n, label in enumerate(labels)},
        )  # fmt: skip
        save(folder, config, published(self))


# What transformers calls all this: configuration_resnet.py and modeling_resnet.py.
IMPLEMENTED = dict(model_type="resnet", embedding_size=64, hidden_act="relu", downsample_in_first_stage=False)
KINDS = {BASIC: "basic", BOTTLENECK: "bottleneck"}


def published(net: ResNet) -> dict[str, Tensor]:
    """The own weights and statistics of a net of Table 1 by their published names."""
    parts, (_, blocks) = ("convolution", "normalization"), TABLE_1[net.depth]
    block = [f"resnet.encoder.stages.{stage}.layers.{n}" for stage, count in enumerate(blocks) for n in range(count)]

    def there(name: str) -> str:
        where, *numbers, kind = name.split(".")
        if where == "stem":
            return f"resnet.embedder.embedder.{parts[int(numbers[0])]}.{kind}"
        if where == "output":
            return f"classifier.1.{kind}"
        n, branch, at = int(numbers[0]), numbers[1], int(numbers[2])
        layer = f".layer.{at // 3}" if branch == "residual" else ".shortcut"  # a convolution, its normalization, a ReLU
        return f"{block[n]}{layer}.{parts[at % 3]}.{kind}"

    return {there(name): tensor for name, tensor in net.state_dict().items()}


def shortcuts(inputs: int, outputs: int, stride: int, option: Literal["A", "B"] | None) -> nn.Module | None:
    """The identity where sizes are equal; else zeros for new channels (A) or a projection (B). Sec. 3.3."""
    if option is None:
        return None
    if inputs == outputs and stride == 1:
        return nn.Identity()
    return Padded(outputs, stride) if option == "A" else nn.Sequential(*convolution(inputs, outputs, 1, stride))


def initialize(module: nn.Module) -> None:
    """N(0, 2 / fan-in), and zero for biases: He et al. 2015, arXiv:1502.01852, eq. 10, as sec. 3.4 has it."""
    if isinstance(module, nn.Conv2d | nn.Linear):
        nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
    if isinstance(module, nn.Linear):
        nn.init.zeros_(module.bias)


def falling(warmup: int) -> Callable[[int, int, History], float]:
    """A tenth after half of the steps, a hundredth after three quarters; a tenth in the first `warmup`, too: sec. 4.2."""
    return lambda step, steps, history: 0.1 ** ((step < warmup) + (step >= steps / 2) + (step >= steps * 3 / 4))


def recipe(
    data: Literal["fashion-mnist", "cifar10", "mnist", "digits"] | Path = "fashion-mnist",  # images with a label each
    depth: int = 20,              # layers: 6 n + 2, or those of Table 1: 18, 34, 50, 101, 152
    residual: bool = True,        # false: a plain net, without shortcuts; sec. 4.1
    shortcut: Literal["A", "B"] = "A",  # where sizes change, padded with zeros (A) or projected (B); sec. 3.3
    flip: bool = True,            # mirror images at random; sec. 4.2; a mirrored digit is none
    epochs: int = 15,             # passes over the training set; the paper: 164
    batch: int = 128,             # images a step; sec. 4.2
    lr: float = 0.1,              # SGD with momentum 0.9; sec. 4.2
    warmup: Annotated[int, Within(0)] = 0,  # steps at a tenth of the rate; some 400 for 110 layers: sec. 4.2
    weight_decay: float = 1e-4,   # L2, all weights; sec. 4.2
) -> Iterator[Stage]:  # fmt: skip
    images = standardized(image_data(data, size=32, channels_last=True))
    images = augmented(images, lambda image: augment.crop(augment.flip(image) if flip else image, 4))  # sec. 4.2
    model = ResNet(images.channels, images.classes, depth, shortcut if residual else None)
    optimizer = sgd(lr, momentum=0.9, decay=weight_decay, schedule=falling(warmup))
    yield Stage(model, images, Classification(images.names), optimizer, epochs=epochs, batch=batch)
