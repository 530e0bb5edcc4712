"""Convolution: flip, shift, overlap; the same by Fourier transform; run backwards by zero-stuffing; and pooling.

中文     卷积、转置卷积、池化
Paper    Dumoulin & Visin, arXiv:1603.07285: ch. 2 (discrete convolutions), ch. 3 (pooling), sec. 4.5, 4.6 and relation 13
         (zeros between the units, padding k - p - 1)
         the notes: (f ∗ h)(t) = ∫ f(τ) h(t - τ) dτ, a product in frequency; transposed: stuff with zeros, turn, convolve
Departs  the notes write f ∗ g and define it with h; what they call a network's convolution does not flip its kernel: it is
         the cross-correlation. It makes no difference to what a network can learn: one that does not flip is shown the
         results of one that does, and learns the kernel flipped. They let pooling lose no feature: it keeps one number in
         four, and cannot be undone
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
import torch.nn.functional as F
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from torch import Tensor, nn

from fuxian import figures
from fuxian.contract import Batch, Objective, Splits, Stage
from fuxian.data.pictures import picture
from fuxian.data.sources import digest
from fuxian.errors import WrongInput
from fuxian.evaluation import batches
from fuxian.facts import Claim, Paper, Within
from fuxian.numbers import MINUS
from fuxian.optim import lbfgs

PAPER = Paper("A Guide to Convolution Arithmetic for Deep Learning", "Dumoulin & Visin", 2016, arxiv="1603.07285")
CLAIMS = [  # what is left of a fit; then identities: the share of all values that are the same to 1e-10, in float64
    Claim("kernel_gap", 0.0, where="learned by cross-correlation: the kernel, flipped", tolerance=1e-4, seeds=1,
          better="lower"),
    Claim("overlap/train/equal", 1.0, where="the notes: a product in frequency", seeds=1, better="equal"),
    Claim("fourier", 1.0, where="the notes: a product in frequency, of a photograph", seeds=1, better="equal"),
    Claim("transposed", 1.0, where="relation 13: torch's conv_transpose2d", seeds=1, better="equal"),
    Claim("pooled", 1.0, where="ch. 3: torch's max_pool2d and avg_pool2d", seeds=1, better="equal"),
]  # fmt: skip
QUICK = dict(side=64)
SEEDLESS = True

SOBEL = ((1.0, 0.0, -1.0), (2.0, 0.0, -2.0), (1.0, 0.0, -1.0))  # convolved: how much brighter the next column is

# Shape letters: N samples of a signal, K of a kernel (K × K of a picture's), T = N + K - 1 of their convolution;
# B pictures, C channels, O channels made, H height, W width, Y and X places of the kernel.


def overlap(f_N: Tensor, h_K: Tensor, t: int) -> Tensor:
    """f(τ) h(t - τ) for each τ (N,): the kernel flipped, shifted by t, and laid over the signal."""
    place_N = t - torch.arange(len(f_N), device=f_N.device)
    inside_N = (place_N >= 0) & (place_N < len(h_K))
    return f_N * h_K[place_N.clamp(0, len(h_K) - 1)] * inside_N


def correlate(x_BCHW: Tensor, kernel_OCKK: Tensor, stride: int = 1) -> Tensor:
    """Cross-correlation, which networks call convolution: no flip. (B, O, (H - K) / stride + 1, …)"""
    k = kernel_OCKK.shape[2]
    windows_BCYXKK = x_BCHW.unfold(2, k, stride).unfold(3, k, stride)
    return (windows_BCYXKK[:, None] * kernel_OCKK[:, :, None, None]).sum((2, 5, 6))


def convolve(x_BCHW: Tensor, kernel_OCKK: Tensor) -> Tensor:
    """Every place where kernel and picture overlap: (B, O, H + K - 1, W + K - 1). Flip, then correlate."""
    edge = kernel_OCKK.shape[2] - 1
    return correlate(F.pad(x_BCHW, (edge,) * 4), kernel_OCKK.flip(2, 3))


def by_fourier(x_BCHW: Tensor, kernel_OCKK: Tensor) -> Tensor:
    """The same by the convolution theorem: a product in frequency; zeros to H + K - 1 so that nothing wraps round."""
    size = [n + k - 1 for n, k in zip(x_BCHW.shape[2:], kernel_OCKK.shape[2:], strict=True)]
    spectrum = (torch.fft.rfft2(x_BCHW, size)[:, None] * torch.fft.rfft2(kernel_OCKK, size)).sum(2)
    return torch.fft.irfft2(spectrum, size)


def stuff(x_BCHW: Tensor, stride: int) -> Tensor:
    """stride - 1 zeros between neighbours; sec. 4.5."""
    b, c, h, w = x_BCHW.shape
    stuffed = x_BCHW.new_zeros(b, c, stride * (h - 1) + 1, stride * (w - 1) + 1)
    stuffed[:, :, ::stride, ::stride] = x_BCHW
    return stuffed


def transposed(x_BOHW: Tensor, kernel_OCKK: Tensor, stride: int = 1, padding: int = 0) -> Tensor:
    """The transpose of `correlate` with this kernel, stride and padding: (B, C, stride (H - 1) + K - 2 padding, …).

    Zeros between, k - p - 1 around, and an ordinary pass of stride 1 with the kernel flipped; relation 13.
    """
    edge = kernel_OCKK.shape[2] - padding - 1
    return correlate(F.pad(stuff(x_BOHW, stride), (edge,) * 4), kernel_OCKK.flip(2, 3).transpose(0, 1))


def pool(x_BCHW: Tensor, size: int, how: Literal["max", "mean"]) -> Tensor:
    """Largest or mean value of each window; no weights, and windows do not overlap. (B, C, H // size, W // size)"""
    windows_BCYXKK = x_BCHW.unfold(2, size, size).unfold(3, size, size)
    return windows_BCYXKK.amax((-2, -1)) if how == "max" else windows_BCYXKK.mean((-2, -1))


def equal(one: Tensor, other: Tensor) -> Tensor:
    """Where two ways came to the same value, to 1e-10: 1, else 0. Unlike what is left of rounding, the same everywhere."""
    return ((one - other).abs() < 1e-10).double()


# ── two signals, one shift a step ───────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True)
class Signals(Batch):
    f: Tensor  # (1, N) float64
    h: Tensor  # (1, K) float64


class Pulse(Splits):
    """A step, and a kernel that answers at once and dies away."""

    def __init__(self, samples: int = 18, answer: int = 15) -> None:
        self.f_N = torch.zeros(samples, dtype=torch.float64)
        self.f_N[samples // 3 :] = 1
        self.h_K = 0.8 ** torch.arange(answer, dtype=torch.float64)
        hashes = {"signals": digest(self.f_N.numpy().tobytes(), self.h_K.numpy().tobytes())}
        super().__init__(self, name="a step and a decay", hashes=hashes)

    def __len__(self) -> int:
        return 1

    def batch(self, indices: Tensor) -> Signals:
        return Signals(self.f_N[None][indices], self.h_K[None][indices])


class Result(nn.Module):
    """What has been computed of f ∗ h, for shifts below `shift`."""

    y_T: Tensor
    shift: Tensor

    def __init__(self, length: int) -> None:
        super().__init__()
        self.register_buffer("y_T", torch.zeros(length, dtype=torch.float64))
        self.register_buffer("shift", torch.tensor(0))


class FlipShiftOverlap(Objective):
    """(f ∗ h)(t) = Σ f(τ) h(t - τ), one t a step; measured against the product in frequency."""

    def update(self, model: Result, batch: Signals) -> dict[str, Tensor]:
        t = int(model.shift)
        model.y_T[t] = overlap(batch.f[0], batch.h[0], t).sum()
        model.shift += 1
        return {"overlap": model.y_T[t].clone()}

    def evaluate(self, model: Result, batch: Signals) -> Iterator[tuple[str, Tensor]]:
        expected_T = by_fourier(batch.f[:, None, None], batch.h[:, None, None]).flatten()
        yield "equal", equal(model.y_T, expected_T).mean()[None]

    def pictures(self, model: Any, split: Any) -> dict[str, Any]:
        (batch,) = batches(split, None, "cpu")
        shifts = torch.linspace(0, len(model.y_T) - 1, 12).round().int().tolist()
        return {"overlap": figures.animation([shifted(batch.f[0], batch.h[0], model.y_T.cpu(), t) for t in shifts])}


def shifted(f_N: Tensor, h_K: Tensor, y_T: Tensor, t: int) -> Figure:
    """Above, the signal, the kernel flipped and shifted by t, and shaded their product; below, the sums up to t."""
    drawing, axes = figures.figure(height=320)
    ink, across = figures.PALETTE, torch.arange(len(f_N))
    axes.fill_between(across, 0, overlap(f_N, h_K, t), step="mid", color=ink["sky"], alpha=0.6, linewidth=0)
    axes.step(across, f_N, where="mid", color=ink["soft"], linewidth=1.4)
    axes.plot(t - torch.arange(len(h_K)), h_K, "o", color=ink["blue"], markersize=4)  # h(0), h(1), …: to the left
    axes.axhline(0, color=ink["rule"], linewidth=0.8)
    floor, scale = -1.5, 1.2 / max(float(y_T.max()), 1e-9)
    axes.plot(torch.arange(t + 1), floor + scale * y_T[: t + 1], color=ink["vermilion"])
    axes.plot(t, floor + scale * float(y_T[t]), "s", color=ink["vermilion"], markersize=6)
    axes.axhline(floor, color=ink["rule"], linewidth=0.8)
    for height, words in (
        (1.15, "f(τ): line.  h(t − τ): dots.  shaded: their product"),
        (floor + 1.25, f"its sum at t = {t}: {float(y_T[t]):.2f}"),
    ):
        axes.text(-len(h_K), height, words, color=ink["ink"])
    axes.set(xlim=(-len(h_K), len(y_T)), ylim=(floor - 0.1, 1.4), yticks=[])
    axes.grid(False)
    axes.set_xlabel("τ above, t below; samples", loc="right")
    return drawing


# ── a photograph ────────────────────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True)
class Tiles(Batch):
    image: Tensor  # (B, 1, H, W) float64 in 0 to 1


class Photograph(Splits):
    """A picture in grey, cut into 4 × 4 tiles. Raises WrongInput where a tile would be no larger than the kernel."""

    def __init__(self, data: str | Path, side: int) -> None:
        name = data.name if isinstance(data, Path) else data
        grey_HW = picture(data, side).double().mean(0)
        h, w = (n // 4 for n in grey_HW.shape)
        if min(h, w) < 4:
            raise WrongInput(f"side={side}: a quarter of {name} is then {w} × {h} pixels", do="4 × 4 or more")
        self.whole = grey_HW[None, None, : 4 * h, : 4 * w]
        self.tiles = self.whole.unfold(2, h, h).unfold(3, w, w).reshape(16, 1, h, w)
        super().__init__(self, name=name, hashes={"picture": digest(self.whole.numpy().tobytes())})

    def __len__(self) -> int:
        return len(self.tiles)

    def batch(self, indices: Tensor) -> Tiles:
        return Tiles(self.tiles[indices])


class Filter(nn.Module):
    """One kernel, not flipped, as a network has it: (B, 1, H, W) to (B, 1, H - 2, W - 2)."""

    def __init__(self) -> None:
        super().__init__()
        self.kernel_OCKK = nn.Parameter(torch.zeros(1, 1, 3, 3, dtype=torch.float64))

    def forward(self, image: Tensor) -> Tensor:
        return correlate(image, self.kernel_OCKK)


class Imitation(Objective):
    """The filter learns to give what a convolution with the Sobel kernel gives, and so the kernel flipped."""

    sobel: Tensor

    def __init__(self, photograph: Tensor) -> None:
        self.photograph = photograph
        self.register_buffer("sobel", torch.tensor(SOBEL, dtype=torch.float64)[None, None])

    def inputs(self, batch: Tiles) -> tuple[Tensor, ...]:
        return (batch.image,)

    def errors(self, model: Filter, batch: Tiles) -> Tensor:
        wanted = convolve(batch.image, self.sobel)[:, :, 2:-2, 2:-2]  # where the kernel is all inside
        return (model(batch.image) - wanted).square().sum((1, 2, 3))

    def losses(self, model: Filter, batch: Tiles) -> Iterator[tuple[str, Tensor]]:
        yield "model", self.errors(model, batch).mean()

    def evaluate(self, model: Filter, batch: Tiles) -> Iterator[tuple[str, Tensor]]:
        yield "loss", self.errors(model, batch)

    def pictures(self, model: Any, split: Any) -> dict[str, Any]:
        x, kernel, learned = self.photograph, self.sobel.cpu(), model.kernel_OCKK.detach().cpu()
        edges = [convolve(x, kernel)[:, :, 2:-2, 2:-2], correlate(x, kernel), correlate(x, learned)]
        greys = [x[:, :, 1:-1, 1:-1], *(0.5 + 0.5 * edge / max(float(edges[0].abs().max()), 1e-9) for edge in edges)]
        names = ["photograph", "convolved with Sobel", "cross-correlated with it", "learned, cross-correlated"]
        few, k = torch.tensor([[1.0, 2.0], [3.0, 4.0]])[None, None], torch.arange(1.0, 10).view(1, 1, 3, 3)
        four = torch.tensor([[1.0, 3, 2, 0], [5, 4, 1, 1], [0, 2, 7, 6], [2, 0, 5, 8]])[None, None]
        return {
            "edges": figures.labelled_images(torch.cat(greys)[..., : min(x.shape[2:]) - 2], names, 2),
            "kernels": grids({"Sobel": kernel, "flipped": kernel.flip(2, 3), "learned": learned}),
            "zero-stuffing": grids({"input": few, "stuffed, stride 2": F.pad(stuff(few, 2), (2,) * 4),
                                    "kernel": k, "flipped": k.flip(2, 3), "result": transposed(few, k, 2)}),
            "pooling": grids({"input": four, "largest of 2 × 2": pool(four, 2, "max"), "mean": pool(four, 2, "mean")}),
        }  # fmt: skip


def grids(tables: dict[str, Tensor]) -> Figure:
    """Small matrices (1, 1, h, w) beside each other, a number in each cell; the darker, the larger."""
    width = sum(table.shape[3] + 1 for table in tables.values()) - 1
    height = max(table.shape[2] for table in tables.values())
    side = min(32.0, 430 / width)
    drawing, axes = figures.figure(height=side * height + 50)
    left = 0
    for name, table in tables.items():
        values = table[0, 0]
        top = (height - len(values)) / 2
        for row, column in product(*map(range, values.shape)):
            value = float(values[row, column])
            shade = 0.5 * abs(value) / max(float(values.abs().max()), 1e-9)
            axes.add_patch(Rectangle((left + column, top + row), 0.94, 0.94, color=figures.PALETTE["blue"], alpha=shade,
                                     linewidth=0))  # fmt: skip
            axes.text(left + column + 0.47, top + row + 0.5, f"{round(value, 2) + 0.0:g}".replace("-", MINUS), ha="center",
                      va="center", color=figures.PALETTE["ink"], fontsize=min(12.0, 0.4 * side))  # fmt: skip
        axes.text(left + values.shape[1] / 2, top - 0.25, name, ha="center", fontsize=min(12.0, 0.55 * side),
                  color=figures.PALETTE["soft"])  # fmt: skip
        left += values.shape[1] + 1
    axes.set(xlim=(-0.5, width + 0.5), ylim=(height, -1), xticks=[], yticks=[])
    axes.set_aspect("equal")
    axes.grid(False)
    axes.spines["bottom"].set_visible(False)
    return drawing


def share(pairs: Iterable[tuple[Tensor, Tensor]]) -> float:
    """How much of all values is the same by either way."""
    return float(torch.cat([equal(one, other).flatten() for one, other in pairs]).mean())


def recipe(
    data: Literal["china", "flower"] | Path = "china",    # a picture; its own edges are looked for
    side: Annotated[int, Within(16)] = 256,               # pixels of its longer side
    steps: int = 20,                                      # of the kernel that is learned; L-BFGS of four iterations each
) -> Iterator[Stage]:  # fmt: skip
    signals = Pulse()
    length = len(signals.f_N) + len(signals.h_K) - 1
    yield Stage(Result(length), signals, FlipShiftOverlap(), steps=length, name="overlap")
    photograph = Photograph(data, side)
    model, imitation = Filter(), Imitation(photograph.whole)
    yield Stage(model, photograph, imitation, lbfgs(iterations=4), steps=steps, name="edges")
    x, sobel = photograph.whole, imitation.sobel.cpu()
    three = torch.linspace(-1, 1, 27, dtype=torch.float64).view(3, 1, 3, 3)  # channels that are all different
    small = x[..., ::8, ::8].expand(-1, 3, -1, -1)
    return {
        "kernel_gap": float((model.kernel_OCKK.detach().cpu() - sobel.flip(2, 3)).abs().max()),
        "fourier": share((convolve(x, k), by_fourier(x, k)) for k in (sobel, three)),
        "transposed": share((transposed(small, three, s, p), F.conv_transpose2d(small, three, stride=s, padding=p))
                            for s, p in product((1, 2, 3), (0, 1, 2))),
        "pooled": share(pair for n in (2, 3) for pair in (
            (pool(x, n, "max"), F.max_pool2d(x, n)), (pool(x, n, "mean"), F.avg_pool2d(x, n)))),
    }  # fmt: skip
