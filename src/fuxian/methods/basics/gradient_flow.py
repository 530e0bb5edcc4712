"""Gradient flow: how much of an error reaches the first layer of a deep net, and whether the net can learn at all.

Each layer multiplies the gradient that comes back by its weights and by the slope of its activation. Of a product of many
factors below one nothing is left (vanishing), above one it is without bound (exploding). It is cured by weights of the
right size at the start, or by a way around each layer.

中文     梯度消失与梯度爆炸
Paper    Glorot & Bengio, AISTATS 2010: eq. 1 (the usual start), eq. 6 (the product), eq. 15-16 (the start that cures tanh)
         He et al., ICCV 2015, arXiv:1502.01852: eq. 13-14 (the start that cures ReLU)
         He et al., ECCV 2016, arXiv:1603.05027: eq. 5 (a layer with a way around it passes on the gradient itself)
         Hochreiter, diploma thesis, 1991: why the error vanishes
Departs  MNIST for Glorot's Shapeset; biases begin at zero; the notes have derivatives "in [0, 1]" vanish: below one they do
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fuxian import figures
from fuxian.contract import Metric, Objective, Stage
from fuxian.data.images import Images, image_data, standardized
from fuxian.facts import Claim, Paper, Within
from fuxian.optim import sgd

PAPER = Paper("Understanding the difficulty of training deep feedforward neural networks", "Glorot & Bengio", 2010,
              venue="AISTATS")  # fmt: skip
CLAIMS = [  # what the papers derive is of layers without end: ours are 128 wide, and may be off by 3 %
    Claim("test/relu-residual_accuracy", None, where="30 layers, few steps: nobody publishes it", seeds=5),
    Claim("test/relu-he_accuracy", None, where="30 layers, few steps: nobody publishes it", seeds=5),
    Claim("test/sigmoid_accuracy", 0.1, where="the share of one digit, which it names for all", tolerance=0.0136, seeds=5,
          better="equal"),
    Claim("sigmoid_factor", 0.1443, where="Glorot, eq. 6: ¼ √⅓", tolerance=0.0043, seeds=5, better="equal"),
    Claim("tanh_factor", 0.5774, where="Glorot, eq. 6 and 15: √⅓", tolerance=0.0173, seeds=5, better="equal"),
    Claim("relu_factor", 0.4082, where="He 2015, eq. 13: √(½ · ⅓)", tolerance=0.0122, seeds=5, better="equal"),
    Claim("relu-he_factor", 1.0, where="He 2015, eq. 14: √(½ · 2)", tolerance=0.03, seeds=5, better="equal"),
    Claim("relu-residual_factor", 1.0801, where="He 2016, eq. 5: √(1 + ½ · ⅓)", tolerance=0.0324, seeds=5, better="equal"),
    Claim("relu-large_factor", 2.0, where="He 2015, eq. 13: √(½ · 8)", tolerance=0.06, seeds=5, better="equal"),
]  # fmt: skip
QUICK = dict(data="digits", depths=(10,), width=32, steps=100)

# Shape letters: B images, U units of a layer, L layers, K nets, S steps.


@dataclass(frozen=True)
class Kind:
    """What a net's layers are. `n_var` is n Var[W] of both papers: fan-in times the variance of the first weights."""

    activation: Callable[[Tensor], Tensor]
    n_var: float
    around: bool = False  # whether a layer adds to what it is given


USUAL = 1 / 3  # of uniform weights from -1/√n to 1/√n: Glorot eq. 1 and 15
KINDS = {
    "sigmoid": Kind(torch.sigmoid, USUAL),
    "tanh": Kind(torch.tanh, USUAL),
    "relu": Kind(torch.relu, USUAL),
    "tanh-glorot": Kind(torch.tanh, 1.0),  # eq. 16, where a layer is as wide as the next
    "relu-he": Kind(torch.relu, 2.0),  # He 2015, eq. 14
    "relu-residual": Kind(torch.relu, USUAL, around=True),
    "relu-large": Kind(torch.relu, 8.0),  # weights twice as large
}


def linear(fan_in: int, units: int, n_var: float) -> nn.Linear:
    """A layer whose weights begin uniform about zero; biases at zero."""
    layer = nn.Linear(fan_in, units)
    bound = (3 * n_var / fan_in) ** 0.5  # Var of U(-a, a) is a²/3
    nn.init.uniform_(layer.weight, -bound, bound)
    nn.init.zeros_(layer.bias)
    return layer


class Deep(nn.Module):
    """Images (B, channels, height, width) to logits (B, classes), through `depth` layers of `width` units."""

    def __init__(self, kind: Kind, pixels: int, width: int, depth: int, classes: int) -> None:
        super().__init__()
        self.kind = kind
        self.layers = nn.ModuleList(linear(width if i else pixels, width, kind.n_var) for i in range(depth))
        self.output = linear(width, classes, USUAL)

    def sums(self, image: Tensor) -> list[Tensor]:
        """What each layer's units sum up (B, U), before the activation; and the logits, last."""
        f, (first, *others) = self.kind.activation, self.layers
        sums = [first(image.flatten(1))]
        for layer in others:
            z = layer(f(sums[-1]))
            sums.append(sums[-1] + z if self.kind.around else z)  # He 2016, eq. 3
        return [*sums, self.output(f(sums[-1]))]

    def forward(self, image: Tensor) -> Tensor:
        return self.sums(image)[-1]


def flow(net: Deep, batch: Images) -> Tensor:
    """(B, L): for each image, the norm of the gradient of its cross-entropy by each layer's sums, first layer first."""
    with torch.enable_grad():
        *sums, logits = net.sums(batch.image)
        loss = F.cross_entropy(logits, batch.label, reduction="sum")
        gradients = torch.autograd.grad(loss, sums)
    return torch.stack([gradient.double().norm(dim=1) for gradient in gradients], 1)  # in double, or squares of 1e-26 are 0


class Reach(Metric):
    """What share of the gradient at the last layer reaches the first: the ratio of their mean norms."""

    def __init__(self) -> None:
        self.first = self.last = 0.0

    def update(self, norm_BL: Tensor) -> None:
        self.first += float(norm_BL[:, 0].sum())
        self.last += float(norm_BL[:, -1].sum())
        self.count += len(norm_BL)

    def value(self) -> float:
        return self.first / self.last if self.last else 0.0  # of nothing, nothing


class Flow(Objective):
    """Nets side by side, judged by their gradients and by their accuracy."""

    def metrics(self, model: Any) -> dict[str, Metric]:
        return {f"{name}_reach": Reach() for name in model}

    def evaluate(self, model: Any, batch: Images) -> Iterator[tuple[str, Tensor]]:
        for name, net in model.items():
            yield f"{name}_reach", flow(net, batch)
            yield f"{name}_accuracy", (net(batch.image).argmax(1) == batch.label).float()

    def pictures(self, model: Any, split: Any) -> dict[str, Any]:
        batch = some(split, model)
        norms = {name: flow(net, batch).mean(0) for name, net in model.items()}
        series = {name: (torch.arange(len(norm_L)), norm_L.flip(0)) for name, norm_L in norms.items()}
        return {"gradients": figures.lines(series, x="layers back from the last", y="norm of the gradient by a layer's sum",
                                           log=True, height=330)}  # fmt: skip


def some(split: Any, model: nn.Module) -> Images:
    """The first thousand images."""
    batch = split.batch(torch.arange(min(1000, len(split)), device=getattr(split, "device", None)))
    return batch.to(next(model.parameters()).device)


class Learning(Flow):
    """Each net on its own learns by cross-entropy. `models` are those of all depths so far, this one's last."""

    loss_SK: Tensor
    at: Tensor

    def __init__(self, models: Mapping[int, Any], steps: int) -> None:
        self.models = models
        self.register_buffer("loss_SK", torch.full((steps, len(KINDS)), torch.nan))
        self.register_buffer("at", torch.tensor(0))

    def losses(self, model: Any, batch: Images) -> Iterator[tuple[str, Tensor]]:
        for k, (name, net) in enumerate(model.items()):
            loss = F.cross_entropy(net(batch.image), batch.label)
            self.loss_SK[self.at, k] = loss.detach()
            yield name, loss
        self.at += 1

    def pictures(self, model: Any, split: Any) -> dict[str, Any]:
        batch, done = some(split, model), int(self.at)
        right = torch.tensor(
            [[float((nets[name](batch.image).argmax(1) == batch.label).double().mean()) for nets in self.models.values()]
             for name in KINDS]
        )  # fmt: skip
        window = max(1, done // 50)
        smooth_KS = self.loss_SK[:done].T[:, None].unfold(2, window, 1).mean(3)[:, 0] if done else self.loss_SK[:0].T
        series = {name: (torch.arange(window, done + 1), smooth_KS[k].clamp_max(3)) for k, name in enumerate(KINDS)}
        return super().pictures(model, split) | {
            "loss": figures.lines(series, x=f"step; mean of {window}", y="cross-entropy, nats; cut at 3", height=330),
            "accuracy": figures.heatmap(right, list(KINDS), [str(depth) for depth in self.models],
                                        title="accuracy after training, %, by the number of layers"),
        }  # fmt: skip


def recipe(
    data: Literal["mnist", "fashion-mnist", "digits"] | Path = "mnist",  # images with a label each
    depths: Annotated[tuple[int, ...], Within(2)] = (3, 10, 30),         # layers; all kinds of net learn at each depth
    width: int = 128,      # units of a layer
    steps: int = 500,      # of gradient descent, of each net
    batch: int = 100,      # images a step
    lr: float = 0.1,       # SGD; a gradient longer than 1 is cut to 1, or what explodes would end in no number
) -> Iterator[Stage]:  # fmt: skip
    images = standardized(image_data(data))
    pixels = images.channels * images.size**2
    models: dict[int, nn.ModuleDict] = {}
    factors: dict[str, float] = {}
    for depth in sorted(set(depths)):
        models[depth] = nn.ModuleDict(
            {name: Deep(kind, pixels, width, depth, images.classes) for name, kind in KINDS.items()}
        )
        start = yield Stage(models[depth], images, Flow(), steps=0, batch=1000, name=f"start-{depth}")
        factors = {f"{name}_factor": start[f"test/{name}_reach"] ** (1 / (depth - 1)) for name in KINDS}
        yield Stage(models[depth], images, Learning(dict(models), steps), {name: sgd(lr, clip=1.0) for name in KINDS},
                    steps=steps, batch=batch, evaluate_every=max(1, steps), name=f"depth-{depth}")  # fmt: skip
    return factors  # of the deepest: by how much a layer multiplies what comes back
