"""Function approximation: a net inside and outside what it was shown; why it must bend; a photograph as a net.

中文     函数逼近与神经隐式表达
Paper    Sitzmann et al., NeurIPS 2020, arXiv:2006.09661: sec. 3.1 (sine layers), sec. 3.2 (how they start)
         Tancik et al., NeurIPS 2020, arXiv:2006.10739: sec. 4 (Fourier features and their kernel), sec. 6.1
         (Gaussian), sec. 6.2 (an image by its pixels)
         Cybenko, Math. Control Signals Systems 2(4), 1989; Hornik et al., Neural Networks 2(5), 1989: what a net can be
         Minsky & Papert, Perceptrons, 1969: XOR is no linear function
Code     vsitzmann/siren @ 7ac5dff: modules.py, experiment_scripts/train_img.py (rate)
         tancik/fourier-feature-networks @ 9c110c3: Experiments/2d_image_regression.ipynb (layers, rate, which pixels)
Departs  one photograph, 192 pixels wide where theirs are 512, and a quarter of their steps; judged by all pixels that were
         not learned from, theirs by a third of those, in odd rows and columns; all three nets have its four layers, the
         authors' SIREN five
"""

import math
from collections.abc import Iterator
from copy import deepcopy
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
from torch import Tensor, nn

from fuxian import figures
from fuxian.contract import Metric, Objective, Splits, Stage
from fuxian.data.pictures import picture
from fuxian.data.sources import digest
from fuxian.evaluation import batches, measure
from fuxian.facts import Claim, Paper, Within
from fuxian.methods.basics.backpropagation import AllCases, Cases
from fuxian.optim import adam

PAPER = Paper("Implicit Neural Representations with Periodic Activation Functions", "Sitzmann et al.", 2020,
              venue="NeurIPS", arxiv="2006.09661")  # fmt: skip
CLAIMS = [
    Claim("test/siren_psnr", None, where="Sitzmann et al., Fig. 1 has curves and no numbers", seeds=3),
    Claim("test/fourier_psnr", 25.57, where="Tancik et al., Table 1, natural images, Gaussian", seeds=3,
          comparison="theirs: 16 other photographs, 512 wide, 2,000 steps"),
    Claim("test/relu_psnr", 19.32, where="Tancik et al., Table 1, natural images, no mapping", seeds=3,
          comparison="theirs: 16 other photographs, 512 wide, 2,000 steps"),
    Claim("inside/tanh_error", None, where="the notes: fitting is of what is known", seeds=3, better="lower"),
    Claim("sine/test/tanh_error", None, where="the notes: approximating is of the whole domain", seeds=3, better="lower"),
    # exact: a linear function of two bits is nowhere nearer to XOR than ½ everywhere
    Claim("xor/train/linear_error", 0.25, where="least squares by hand", tolerance=1e-6, seeds=3, better="equal"),
    Claim("collapse_gap", 0.0, where="the notes: without activations a net is one linear map", tolerance=1e-12, seeds=3,
          better="lower"),
]  # fmt: skip
QUICK = dict(side=24, hidden=32, sigma=2.0, steps=80, siren_lr=1e-3, sine_steps=200, xor_steps=150)

ACTIVATIONS = dict(sigmoid=nn.Sigmoid, tanh=nn.Tanh, relu=nn.ReLU)
SEEN, ASKED = math.pi, 2 * math.pi  # |x| up to which sin is learned, and up to which it is asked for

# Shape letters: N points, D numbers of a place, O numbers that are wanted, F frequencies, H units.


def layers(sizes: list[int], activation: type[nn.Module] | None) -> nn.Sequential:
    """Linear layers of these sizes, and between them the activation, if there is one."""
    parts: list[nn.Module] = []
    for inputs, outputs in pairwise(sizes):
        parts += [nn.Linear(inputs, outputs), activation() if activation else nn.Identity()]
    return nn.Sequential(*parts[:-1])


def collapsed(net: nn.Sequential) -> tuple[Tensor, Tensor]:
    """The one matrix (O, D) and bias (O,) that linear layers come to: W₃ (W₂ (W₁ x + b₁) + b₂) + b₃, multiplied out."""
    first, *others = (layer for layer in net if isinstance(layer, nn.Linear))
    matrix, bias = first.weight, first.bias
    for layer in others:
        matrix, bias = layer.weight @ matrix, layer.weight @ bias + layer.bias
    return matrix, bias


class SIREN(nn.Module):
    """Places (N, D) in 0 to 1 to (N, O): sin(ω₀ (W x + b)) in every layer but the last; sec. 3.1, 3.2."""

    def __init__(self, sizes: list[int], omega: float) -> None:
        super().__init__()
        self.omega = omega
        self.layers = nn.ModuleList(nn.Linear(inputs, outputs) for inputs, outputs in pairwise(sizes))
        for i, layer in enumerate(self.layers):
            fan: Any = layer.in_features
            bound = 1 / fan if i == 0 else math.sqrt(6 / fan) / omega  # after the first, ω₀ W x has variance 1
            nn.init.uniform_(layer.weight, -bound, bound)  # type: ignore[arg-type]

    def forward(self, place: Tensor) -> Tensor:
        x_NH = 2 * place - 1  # theirs go from -1 to 1, places and values alike
        for layer in self.layers[:-1]:
            x_NH = (self.omega * layer(x_NH)).sin()
        return (self.layers[-1](x_NH) + 1) / 2


class Coordinates(nn.Module):
    """Places (N, D) in 0 to 1 to (N, O) in 0 to 1: a ReLU net, of Fourier features where `frequency_FD` is given."""

    frequency_FD: Tensor | None

    def __init__(self, sizes: list[int], frequency_FD: Tensor | None = None) -> None:
        super().__init__()
        inputs = sizes[0] if frequency_FD is None else 2 * len(frequency_FD)
        self.net = layers([inputs, *sizes[1:]], nn.ReLU)
        self.register_buffer("frequency_FD", frequency_FD)

    def features(self, place: Tensor) -> Tensor:
        """γ(v) = [cos 2πBv, sin 2πBv]; sec. 6.1."""
        if self.frequency_FD is None:
            return place
        angle = 2 * math.pi * place @ self.frequency_FD.T
        return torch.cat([angle.cos(), angle.sin()], 1)

    def forward(self, place: Tensor) -> Tensor:
        return self.net(self.features(place)).sigmoid()


class PSNR(Metric):
    """-10 log₁₀ of the mean squared error, of numbers that go from 0 to 1. In dB."""

    def __init__(self) -> None:
        self.sum = 0.0

    def update(self, squares_N: Tensor) -> None:
        self.sum += float(squares_N.double().sum())
        self.count += len(squares_N)

    def value(self) -> float:
        return -10 * math.log10(self.sum / self.count) if self.sum else math.inf


class Fit(Objective):
    """The mean squared error of every net in `model`, each a player, on the same points."""

    def squares(self, net: nn.Module, batch: Cases) -> Tensor:
        return (net(batch.given) - batch.desired).square().mean(1)

    def losses(self, model: Any, batch: Cases) -> Iterator[tuple[str, Tensor]]:
        for name, net in model.items():
            yield name, self.squares(net, batch).mean()

    def evaluate(self, model: Any, batch: Cases) -> Iterator[tuple[str, Tensor]]:
        for name, net in model.items():
            yield f"{name}_error", self.squares(net, batch)


class Curve(Fit):
    """A function of one number, of which a stretch was seen."""

    def pictures(self, model: Any, split: Any) -> dict[str, Any]:
        """The function and what each net takes it for; a line where what was seen ends. And the activations themselves."""
        x = torch.linspace(-ASKED, ASKED, 201)
        taken = {name: (x, net(x[:, None].to(next(net.parameters())))[:, 0]) for name, net in model.items()}
        drawing = figures.lines(
            {"sin": (x, x.sin())} | taken, x="x, radians; what was seen lies between the lines", y="y", height=300
        )
        for end in (-SEEN, SEEN):
            drawing.axes[0].axvline(end, color=figures.PALETTE["soft"], linewidth=0.8)
        z = torch.linspace(-4, 4, 161)
        bends = {name: (z, activation()(z)) for name, activation in ACTIVATIONS.items()}
        return {"sine": drawing, "activations": figures.lines(bends, x="z, the weighted sum", y="activation")}


class Bits(Fit):
    """XOR: what each net says of the plane that the four cases lie on."""

    def pictures(self, model: Any, split: Any) -> dict[str, Any]:
        """White is 0 and black is 1; the dots are the four cases, filled where XOR is 1."""
        side = 64
        v = torch.linspace(-0.5, 1.5, side)
        plane_P2 = torch.cartesian_prod(v.flip(0), v).flip(1)  # rows from the top, so that y goes up
        says = [net(plane_P2.to(next(net.parameters())))[:, 0].view(1, side, side) for net in model.values()]
        drawing = figures.labelled_images(1 - torch.stack(says).cpu(), [*model], columns=2)
        colours = figures.PALETTE
        (batch,) = batches(split, None)
        at = ((batch.given + 0.5) / 2 * (side - 1)).cpu()
        for axes in drawing.axes:
            for (x, y), one in zip(at, batch.desired[:, 0], strict=True):
                inside = colours["vermilion" if one else "paper"]
                axes.plot(x, side - 1 - y, "o", markersize=9, markeredgecolor=colours["vermilion"], markerfacecolor=inside)
        return {"surface": drawing}


class Photograph(Fit):
    """The colours of a picture (3, height, width) by place; each net is measured in dB."""

    def __init__(self, pixels: Tensor) -> None:
        self.pixels = pixels

    def metrics(self, model: Any) -> dict[str, Metric]:
        return {f"{name}_psnr": PSNR() for name in model}

    def evaluate(self, model: Any, batch: Cases) -> Iterator[tuple[str, Tensor]]:
        for name, net in model.items():
            yield f"{name}_psnr", self.squares(net, batch)

    def pictures(self, model: Any, split: Any) -> dict[str, Any]:
        """The photograph, and what each net makes of all of its places; the dB are of all pixels, learned ones too."""
        places = grid(self.pixels).to(next(model.parameters()).device)
        shape = self.pixels.shape[1:]
        made = {name: net(places).T.reshape(3, *shape).cpu() for name, net in model.items()}
        decibels = {name: -10 * math.log10((image - self.pixels).square().mean()) for name, image in made.items()}
        names = ["the photograph", *(f"{name}, {decibels[name]:.1f} dB of all pixels" for name in made)]
        return {"photograph": figures.labelled_images(torch.stack([self.pixels, *made.values()]), names, columns=2)}


def grid(pixels: Tensor) -> Tensor:
    """The places (height × width, 2) of a picture's pixels, rows from the top: 0 to 1 along its longer side."""
    down, right = (torch.arange(n) / max(pixels.shape[1:]) for n in pixels.shape[1:])
    return torch.cartesian_prod(down, right)


def sine() -> tuple[Splits, AllCases]:
    """256 places to see, and as many outside to be tested on; and the middles between those that are seen."""
    seen = torch.linspace(-SEEN, SEEN, 256)
    outside = torch.linspace(SEEN, ASKED, 129)[1:]
    outside = torch.cat([-outside, outside])
    train, test, inside = (AllCases(x[:, None], x[:, None].sin()) for x in (seen, outside, (seen[1:] + seen[:-1]) / 2))
    hashes = {"sine": digest(f"sin from {-ASKED} to {ASKED}, seen to {SEEN}".encode())}
    return Splits(train, None, test, name="sine", hashes=hashes), inside


def xor() -> Splits:
    bits = torch.tensor([[0.0, 0], [0, 1], [1, 0], [1, 1]])
    cases = AllCases(bits, (bits[:, :1] != bits[:, 1:]).float())
    return Splits(cases, name="xor", hashes={"xor": digest(bits.numpy().tobytes())})


def photograph(name: str | Path, pixels: Tensor) -> Splits:
    """A quarter of the pixels, every second of every second row, to learn from; the others to be asked for."""
    places, colours, title = grid(pixels), pixels.flatten(1).T, Path(name).name
    learned = torch.zeros(pixels.shape[1:], dtype=torch.bool)
    learned[::2, ::2] = True
    train, test = (AllCases(places[rows], colours[rows]) for rows in (learned.flatten(), ~learned.flatten()))
    return Splits(train, None, test, name=title, hashes={title: digest(pixels.numpy().tobytes())})


def recipe(
    data: Literal["china", "flower", "cat", "rocket"] | Path = "china",  # the photograph; two ship with scikit-learn
    side: Annotated[int, Within(8)] = 192,             # pixels of its longer side
    hidden: int = 256,                                 # units of each of three layers; 2d_image_regression.ipynb
    features: Annotated[int, Within(1)] = 256,         # frequencies; 2d_image_regression.ipynb
    sigma: Annotated[float, Within(0, above=True)] = 10.0,  # of frequencies, periods a side; 2d_image_regression.ipynb
    omega: Annotated[float, Within(0, above=True)] = 30.0,  # SIREN's factor of frequency; sec. 3.2
    steps: int = 500,                                  # on the photograph, all pixels a step; theirs are 2,000
    lr: float = 1e-3,                                  # Adam, of Fourier features; 2d_image_regression.ipynb, div2k
    relu_lr: Annotated[float, Within(0, above=True)] = 1e-2,  # Adam, of the plain ReLU net; no_enc_lr
    siren_lr: Annotated[float, Within(0, above=True)] = 1e-4,  # Adam, of SIREN; train_img.py
    sine_steps: Annotated[int, Within(1)] = 2000,      # on the sine
    xor_steps: Annotated[int, Within(1)] = 1000,       # on XOR
    simple_lr: Annotated[float, Within(0, above=True)] = 0.01,  # Adam, of sine and XOR
) -> Iterator[Stage]:  # fmt: skip
    nets: Any = nn.ModuleDict({name: layers([1, 32, 32, 1], activation) for name, activation in ACTIVATIONS.items()})
    curve, middles = sine()
    yield Stage(nets, curve, Curve(), {name: adam(simple_lr) for name in nets}, steps=sine_steps, name="sine")
    inside = {f"inside/{name}": error for name, error in measure(nets, Curve(), middles).items()}
    gates: Any = nn.ModuleDict(dict(linear=layers([2, 8, 8, 8, 1], None), tanh=layers([2, 8, 8, 8, 1], nn.Tanh)))
    yield Stage(gates, xor(), Bits(), {name: adam(simple_lr) for name in gates}, steps=xor_steps, name="xor")
    deep: Any = deepcopy(gates["linear"]).cpu().double().requires_grad_(False)
    matrix, bias = collapsed(deep)
    asked = torch.randn(100, 2, dtype=torch.float64)
    gap = float((deep(asked) - (asked @ matrix.T + bias)).abs().max())
    pixels = picture(data, side)
    sizes = [2, hidden, hidden, hidden, 3]
    frequency_FD = sigma * torch.randn(features, 2)
    fits: Any = nn.ModuleDict(
        dict(relu=Coordinates(sizes), fourier=Coordinates(sizes, frequency_FD), siren=SIREN(sizes, omega))
    )
    rates = {name: adam(rate) for name, rate in dict(relu=relu_lr, fourier=lr, siren=siren_lr).items()}
    yield Stage(fits, photograph(data, pixels), Photograph(pixels), rates, steps=steps, name="photograph")
    return inside | {"collapse_gap": gap}
