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

from collections.abc import Iterator
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
CLAIMS = [  # identities: the tolerance is rounding in float64, and of the first what is left of a fit
    Claim("kernel_gap", 0.0, where="a learned cross-correlation is the convolution, flipped", tolerance=1e-3, seeds=1,
          better="lower"),
    Claim("overlap/train/gap", 0.0, where="the notes: a product in frequency", tolerance=1e-10, seeds=1, better="lower"),
    Claim("fourier_gap", 0.0, where="the notes, on a photograph", tolerance=1e-10, seeds=1, better="lower"),
    Claim("transposed_gap", 0.0, where="relation 13; torch's conv_transpose2d", tolerance=1e-10, seeds=1, better="lower"),
    Claim("pooling_gap", 0.0, where="ch. 3, torch's max_pool2d and avg_pool2d", tolerance=1e-10, seeds=1, better="lower"),
]  # fmt: skip
QUICK = dict(side=64)
SEEDLESS = True

SOBEL = ((1.0, 0.0, -1.0), (2.0, 0.0, -2.0), (1.0, 0.0, -1.0))  # convolved: how much brighter the next column is

# Shape letters: N samples of a signal, K of a kernel (K × K of a picture's), T = N + K - 1 of their convolution;
# B pictures, C channels, O channels made, H height, W width.


# ── what a convolution is ───────────────────────────────────────────────────────────────────────────────────────────


def overlap(f_N: Tensor, h_K: Tensor, t: int) -> Tensor:
    """f(τ) h(t - τ) for each τ (N,): the kernel flipped, shifted by t, and laid over the signal."""
    place_N = t - torch.arange(len(f_N), device=f_N.device)
    inside_N = (place_N >= 0) & (place_N < len(h_K))
    return f_N * h_K[place_N.clamp(0, len(h_K) - 1)] * inside_N


def correlate(x_BCHW: Tensor, kernel_OCKK: Tensor, stride: int = 1) -> Tensor:
    """Cross-correlation, which networks call convolution: no flip. (B, O, (H - K) / stride + 1, …)"""
    k = kernel_OCKK.shape[2]
    windows = x_BCHW.unfold(2, k, stride).unfold(3, k, stride)  # (B, C, y, x, K, K)
    return torch.einsum("bcyxij,ocij->boyx", windows, kernel_OCKK)


def convolve(x_BCHW: Tensor, kernel_OCKK: Tensor) -> Tensor:
    """Every place where kernel and picture overlap: (B, O, H + K - 1, W + K - 1). Flip, then correlate."""
    edge = kernel_OCKK.shape[2] - 1
    return correlate(F.pad(x_BCHW, (edge,) * 4), kernel_OCKK.flip(2, 3))


def by_fourier(x_BCHW: Tensor, kernel_OCKK: Tensor) -> Tensor:
    """The same by the convolution theorem: a product in frequency; zeros to H + K - 1 so that nothing wraps round."""
    size = [n + k - 1 for n, k in zip(x_BCHW.shape[2:], kernel_OCKK.shape[2:], strict=True)]
    spectrum = torch.einsum("bcyx,ocyx->boyx", torch.fft.rfft2(x_BCHW, size), torch.fft.rfft2(kernel_OCKK, size))
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
    windows = x_BCHW.unfold(2, size, size).unfold(3, size, size)
    return windows.amax((-2, -1)) if how == "max" else windows.mean((-2, -1))


# ── two signals, one shift a step ───────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True)
class Signals(Batch):
    f: Tensor  # (1, N) float64
    h: Tensor  # (1, K) float64


class Pulse(Splits):
    """A box, and a kernel that answers at once and dies away."""

    def __init__(self, samples: int = 30, answer: int = 15) -> None:
        f_N = torch.zeros(samples, dtype=torch.float64)
        f_N[samples // 6 : samples // 2] = 1
        h_K = 0.8 ** torch.arange(answer, dtype=torch.float64)
        self.signals = Signals(f_N[None], h_K[None])
        super().__init__(self, name="a box and a decay", hashes={"signals": digest(f_N.numpy().tobytes())})

    def __len__(self) -> int:
        return 1

    def batch(self, indices: Tensor) -> Signals:
        return Signals(self.signals.f[indices], self.signals.h[indices])


class Result(nn.Module):
    """What has been computed of f ∗ h, for shifts up to `shift`."""

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
        expected_T = by_fourier(batch.f[0][None, None, None], batch.h[0][None, None, None]).flatten()
        yield "gap", (model.y_T - expected_T).abs().max()[None]

    def pictures(self, model: Any, split: Any) -> dict[str, Any]:
        """The kernel flipped, at four shifts; shaded what it and the signal have in common; below, the sums."""
        (batch,) = batches(split, None, "cpu")
        f_N, h_K, y_T = batch.f[0], batch.h[0], model.y_T.cpu()
        shifts = [round(share * (len(y_T) - 1)) for share in (0.15, 0.28, 0.4, 0.55)]
        drawing, axes = figures.figure(height=420)
        colours, across = figures.PALETTE, torch.arange(len(f_N))
        for row, t in enumerate(shifts):
            floor = 1.5 * (len(shifts) - row) + 0.6
            place = torch.arange(t, t - len(h_K), -1)  # of h(0), h(1), …: to the left
            axes.step(across, f_N + floor, where="mid", color=colours["soft"], linewidth=1)
            axes.plot(place, h_K + floor, color=colours["blue"], linestyle="", marker="o", markersize=3)
            axes.fill_between(across, floor, floor + overlap(f_N, h_K, t), step="mid", color=colours["sky"], linewidth=0)
            axes.text(len(y_T), floor + 0.2, f"t = {t}: {float(y_T[t]):.2f}", color=colours["ink"])
            axes.axhline(floor, color=colours["rule"], linewidth=0.8)
        scale = 1.5 / max(float(y_T.max()), 1e-9)
        axes.plot(torch.arange(len(y_T)), scale * y_T, color=colours["vermilion"])
        axes.plot(shifts, scale * y_T[shifts], color=colours["vermilion"], linestyle="", marker="s", markersize=5)
        axes.text(len(y_T), 0.2, "(f ∗ h)(t)", color=colours["ink"])
        axes.set(xlim=(-len(h_K), 1.35 * len(y_T)), yticks=[])
        axes.set_title("f: line; h(t - τ), flipped and shifted: dots; shaded: f(τ) h(t - τ)", loc="left", fontsize=12,
                       color=colours["soft"])  # fmt: skip
        axes.set_xlabel("τ, below: t; samples", loc="right")
        return {"overlap": drawing}


# ── a photograph ────────────────────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True)
class Tiles(Batch):
    image: Tensor  # (B, 1, H, W) float64 in 0 to 1


class Photograph(Splits):
    """A picture in grey, cut into 4 × 4 tiles. Raises WrongInput where a tile would be smaller than the kernel."""

    def __init__(self, data: str | Path, side: int) -> None:
        grey_HW = picture(data, side).double().mean(0)
        h, w = (n // 4 for n in grey_HW.shape)
        if min(h, w) < 4:
            raise WrongInput(f"side={side}: a quarter of {name_of(data)} is then {w} × {h} pixels", do="4 × 4 or more")
        self.whole = grey_HW[None, None, : 4 * h, : 4 * w]
        self.tiles = self.whole.unfold(2, h, h).unfold(3, w, w).reshape(16, 1, h, w)
        super().__init__(self, name=name_of(data), hashes={"picture": digest(self.whole.numpy().tobytes())})

    def __len__(self) -> int:
        return len(self.tiles)

    def batch(self, indices: Tensor) -> Tiles:
        return Tiles(self.tiles[indices])


def name_of(data: str | Path) -> str:
    return data.name if isinstance(data, Path) else data


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
        wanted = by_fourier(batch.image, self.sobel)[:, :, 2:-2, 2:-2]  # where the kernel is all inside
        return (model(batch.image) - wanted).square().mean((1, 2, 3))

    def losses(self, model: Filter, batch: Tiles) -> Iterator[tuple[str, Tensor]]:
        yield "model", self.errors(model, batch).mean()

    def evaluate(self, model: Filter, batch: Tiles) -> Iterator[tuple[str, Tensor]]:
        yield "loss", self.errors(model, batch)

    def pictures(self, model: Any, split: Any) -> dict[str, Any]:
        x, kernel, learned = self.photograph, self.sobel.cpu(), model.kernel_OCKK.detach().cpu()
        edges = [convolve(x, kernel)[:, :, 2:-2, 2:-2], correlate(x, kernel), correlate(x, learned)]
        greys = [x[:, :, 1:-1, 1:-1], *(0.5 + 0.5 * e / max(float(edges[0].abs().max()), 1e-9) for e in edges)]
        square = min(x.shape[2:]) - 2
        names = ["photograph", "convolved with Sobel", "cross-correlated with it", "learned, cross-correlated"]
        few, k = torch.tensor([[1.0, 2.0], [3.0, 4.0]])[None, None], torch.arange(1.0, 10).view(1, 1, 3, 3)
        four = torch.tensor([[1.0, 3, 2, 0], [5, 4, 1, 1], [0, 2, 7, 6], [2, 0, 5, 8]])[None, None]
        return {
            "edges": figures.labelled_images(torch.cat(greys)[..., :square, :square], names, 2),
            "kernels": grids({"Sobel": kernel, "flipped": kernel.flip(2, 3), "learned": learned}),
            "zero_stuffing": grids({"input": few, "stuffed, stride 2": F.pad(stuff(few, 2), (2,) * 4),
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


def gap(pairs: Iterator[tuple[Tensor, Tensor]]) -> float:
    """The largest difference between two ways to one result."""
    return max(float((one - other).abs().max()) for one, other in pairs)


def recipe(
    data: Literal["china", "flower"] | Path = "china",    # a picture; its own edges are looked for
    side: Annotated[int, Within(16)] = 256,               # pixels of its longer side
    steps: int = 20,                                      # of the kernel that is learned; L-BFGS of four iterations each
) -> Iterator[Stage]:  # fmt: skip
    signals = Pulse()
    length = signals.signals.f.shape[1] + signals.signals.h.shape[1] - 1
    yield Stage(Result(length), signals, FlipShiftOverlap(), steps=length, name="overlap")
    photograph = Photograph(data, side)
    model, imitation = Filter(), Imitation(photograph.whole)
    yield Stage(model, photograph, imitation, lbfgs(iterations=4), steps=steps, name="edges")
    x, sobel = photograph.whole, imitation.sobel.cpu()
    rows = torch.linspace(-1, 1, 27, dtype=torch.float64).view(3, 1, 3, 3)  # three channels that are all different
    strides = [(x[..., ::8, ::8].expand(-1, 3, -1, -1), s, p) for s, p in product((1, 2, 3), (0, 1, 2))]
    return {
        "kernel_gap": float((model.kernel_OCKK.detach().cpu() - sobel.flip(2, 3)).abs().max()),
        "fourier_gap": gap((convolve(x, k), by_fourier(x, k)) for k in (sobel, rows)),
        "transposed_gap": gap((transposed(small_x, rows, s, p), F.conv_transpose2d(small_x, rows, stride=s, padding=p))
                              for small_x, s, p in strides),
        "pooling_gap": gap((ours, torchs) for n in (2, 3) for ours, torchs in (
            (pool(x, n, "max"), F.max_pool2d(x, n)), (pool(x, n, "mean"), F.avg_pool2d(x, n)))),
    }  # fmt: skip
