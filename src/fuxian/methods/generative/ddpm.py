"""Denoising diffusion: images drown in noise step by step, and a U-Net learns to take one step back.

中文     去噪扩散概率模型
Paper    Ho, Jain & Abbeel, NeurIPS 2020, arXiv:2006.11239: eq. 4–14, algorithms 1 and 2, sec. 3.3 and 4, app. B, Table 1
         Song, Meng & Ermon, ICLR 2021, arXiv:2010.02502: eq. 12 and 16 (DDIM, which takes fewer steps)
Code     hojonathanho/diffusion @ 1e0dceb: models/unet.py (net), diffusion_utils_2.py (process), scripts/run_cifar.py
         (settings); ermongroup/ddim @ e8df66c: functions/denoising.py
Departs  groups of four channels in each norm whatever the width, as at the paper's 128; the bound is estimated from one
         step of each image, drawn in proportion to its weight, in place of all thousand; DDIM keeps its guess of an image
         in -1 to 1, as algorithm 2 does there: without it a net that has trained for minutes draws snow
"""

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fuxian import figures
from fuxian.contract import Objective, Stage
from fuxian.data import augment
from fuxian.data.images import Images, augmented, image_data
from fuxian.errors import WrongInput
from fuxian.facts import Claim, Paper, Within
from fuxian.optim import adam, linear

PAPER = Paper("Denoising Diffusion Probabilistic Models", "Ho, Jain & Abbeel", 2020, venue="NeurIPS", arxiv="2006.11239")
CLAIMS = [
    Claim("test/bits", 3.75, where="Table 1, CIFAR-10, NLL", tolerance=0.03, seeds=1, better="lower",
          knobs=dict(data="cifar10", flip=True, width=128, depth=2, dropout=0.1, steps=800_000, batch=128, lr=2e-4,
                     warmup=5000, ema=0.9999, sampling=1000),
          needs="800,000 steps of a net of 35.7 million weights: half a day of eight TPU v3 cores"),
    Claim("test/fid", 3.17, where="Table 1, CIFAR-10, FID", tolerance=0.1, seeds=1, better="lower",
          knobs=dict(data="cifar10", flip=True, width=128, depth=2, dropout=0.1, steps=800_000, batch=128, lr=2e-4,
                     warmup=5000, ema=0.9999, sampling=1000),
          needs="the same training, 50,000 samples of a thousand steps each, and the weights of Inception-v3"),
    Claim("test/bits", None, where="no number is published for MNIST", seeds=1, better="lower"),
]  # fmt: skip
QUICK = dict(data="digits", size=8, width=16, steps=180, batch=32, lr=3e-3, warmup=20, ema=0.95, sampling=20)

T = 1000  # noising steps; sec. 4
STRIP = 10  # images of the picture that shows one being denoised

# Shape letters: B batch, C channels, H height, W width, N positions (H · W), E numbers that stand for a step.
# A step t is counted from 0, as in the code: the paper's t - 1.


# ── the net ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def embed(t_B: Tensor, width: int) -> Tensor:
    """Sines and cosines (B, width) of the step, of falling frequency. nn.py, get_timestep_embedding."""
    half = width // 2
    frequency = torch.exp(torch.arange(half, device=t_B.device) * (-math.log(10_000) / (half - 1)))
    angle = t_B[:, None] * frequency
    return torch.cat([angle.sin(), angle.cos()], 1)


class Residual(nn.Module):
    """Two convolutions beside a shortcut; the step comes in between them. Attention follows where it is asked for."""

    def __init__(self, inputs: int, outputs: int, width: int, dropout: float, attends: bool) -> None:
        super().__init__()
        self.norm1 = nn.GroupNorm(width // 4, inputs, eps=1e-6)
        self.conv1 = nn.Conv2d(inputs, outputs, 3, padding=1)
        self.step = nn.Linear(4 * width, outputs)
        self.norm2 = nn.GroupNorm(width // 4, outputs, eps=1e-6)
        self.dropout = nn.Dropout(dropout)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1)
        self.shortcut = nn.Conv2d(inputs, outputs, 1) if inputs != outputs else nn.Identity()
        self.attention = Attention(outputs, width) if attends else nn.Identity()

    def forward(self, x_BCHW: Tensor, step_BE: Tensor) -> Tensor:
        h_BCHW = self.conv1(F.silu(self.norm1(x_BCHW))) + self.step(step_BE)[:, :, None, None]
        h_BCHW = self.conv2(self.dropout(F.silu(self.norm2(h_BCHW))))
        return self.attention(self.shortcut(x_BCHW) + h_BCHW)


class Attention(nn.Module):
    """Each position takes from all others, by one head: softmax over the keys of q·k / √C. unet.py, attn_block."""

    def __init__(self, channels: int, width: int) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(width // 4, channels, eps=1e-6)
        self.query, self.key, self.value, self.out = (nn.Linear(channels, channels) for _ in range(4))

    def forward(self, x_BCHW: Tensor) -> Tensor:
        h_BNC = self.norm(x_BCHW).flatten(2).transpose(1, 2)
        qkv = (part(h_BNC).unsqueeze(1) for part in (self.query, self.key, self.value))
        h_BNC = self.out(F.scaled_dot_product_attention(*qkv).squeeze(1))
        return x_BCHW + h_BNC.transpose(1, 2).unflatten(2, x_BCHW.shape[2:])


class Down(nn.Module):
    """Half the height and width; the border that is added lies right and below, as TensorFlow's."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, stride=2)

    def forward(self, x_BCHW: Tensor, step_BE: Tensor) -> Tensor:
        return self.conv(F.pad(x_BCHW, (0, 1, 0, 1)))


class Up(nn.Module):
    """Twice the height and width: each pixel four times, then a convolution."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        return self.conv(F.interpolate(x_BCHW, scale_factor=2.0, mode="nearest"))


class UNet(nn.Module):
    """Noisy images (B, C, H, W) and their steps t (B,) to the noise in them (B, C, H, W). App. B and unet.py.

    Resolutions halve from `size` to 4 × 4; the first has `width` channels, the others twice that; `depth` residual blocks
    at each on the way down, one more on the way up. Attention at 16 × 16 and in the middle. Raises WrongInput.
    """

    def __init__(self, channels: int, size: int, width: int, depth: int, dropout: float) -> None:
        super().__init__()
        if size < 8 or size & (size - 1):
            raise WrongInput(f"size={size} cannot be halved down to 4", do="8, 16, 32, 64, …")
        if width % 4:
            raise WrongInput(f"width={width} cannot be split into groups of four", do="make it a multiple of 4")
        levels = size.bit_length() - 3
        widths = [width] + [2 * width] * levels
        self.width = width
        self.embed = nn.Sequential(nn.Linear(width, 4 * width), nn.SiLU(), nn.Linear(4 * width, 4 * width), nn.SiLU())
        self.first = nn.Conv2d(channels, width, 3, padding=1)
        now, kept = width, [width]
        self.down, self.up = nn.ModuleList(), nn.ModuleList()
        for level, wide in enumerate(widths):
            for _ in range(depth):
                self.down.append(Residual(now, wide, width, dropout, attends=size >> level == 16))
                now = wide
                kept.append(now)
            if level < levels:
                self.down.append(Down(now))
                kept.append(now)
        self.middle = nn.ModuleList(Residual(now, now, width, dropout, attends) for attends in (True, False))
        for level, wide in reversed([*enumerate(widths)]):
            for _ in range(depth + 1):
                self.up.append(Residual(now + kept.pop(), wide, width, dropout, attends=size >> level == 16))
                now = wide
            if level:
                self.up.append(Up(now))
        self.norm = nn.GroupNorm(width // 4, now, eps=1e-6)
        self.last = nn.Conv2d(now, channels, 3, padding=1)
        self.apply(initialize)
        for silent in (self.last, *(part.conv2 for part in self.modules() if isinstance(part, Residual)),
                       *(part.out for part in self.modules() if isinstance(part, Attention))):  # fmt: skip
            nn.init.zeros_(silent.weight)  # init_scale=0.: a block begins as its shortcut

    def forward(self, x_BCHW: Tensor, t_B: Tensor) -> Tensor:
        step_BE = self.embed(embed(t_B, self.width).to(x_BCHW.dtype))
        x_BCHW = self.first(x_BCHW)
        kept = [x_BCHW]
        for part in self.down:
            x_BCHW = part(x_BCHW, step_BE)
            kept.append(x_BCHW)
        for part in self.middle:
            x_BCHW = part(x_BCHW, step_BE)
        for part in self.up:
            x_BCHW = part(x_BCHW) if isinstance(part, Up) else part(torch.cat([x_BCHW, kept.pop()], 1), step_BE)
        return self.last(F.silu(self.norm(x_BCHW)))


def initialize(module: nn.Module) -> None:
    """Uniform, of variance 2 / (fan in + fan out), and zero for biases. nn.py, default_init."""
    if isinstance(module, nn.Linear | nn.Conv2d):
        nn.init.xavier_uniform_(module.weight)
        assert module.bias is not None
        nn.init.zeros_(module.bias)


# ── the process ─────────────────────────────────────────────────────────────────────────────────────────────────────


class Diffusion(Objective):
    """Noise is put in by q, whose steps have a variance of β, and taken out by p. `shape` is an image's, in -1 to 1.

    `sampling` steps draw an image: all of them by algorithm 2, fewer by DDIM, with a randomness of `eta`.
    """

    signal: Tensor
    noise: Tensor
    bound: Tensor

    def __init__(self, shape: tuple[int, int, int], sampling: int = T, eta: float = 1.0, steps: int = T) -> None:
        self.shape, self.sampling, self.eta, self.steps = shape, sampling, eta, steps
        beta = torch.linspace(1e-4, 0.02, steps, dtype=torch.float64)  # sec. 4; float64: 1 - ᾱ is small at first
        alpha_bar = (1 - beta).cumprod(0)  # below eq. 3
        before = torch.cat([torch.ones(1, dtype=torch.float64), alpha_bar[:-1]])
        posterior = beta * (1 - before) / (1 - alpha_bar)  # β̃, eq. 7
        variance = torch.cat([posterior[1:2], beta[1:]])  # σ² = β; at first β̃'s second, a better decoder: p_mean_variance
        self.alpha_bar = [1.0, *alpha_bar.tolist()]  # ᾱ of t at t + 1, for the samplers
        self.variance = variance.tolist()
        of_clean = beta * before.sqrt() / (1 - alpha_bar)  # the two factors of the posterior's mean, eq. 7
        of_noisy = (1 - beta).sqrt() * (1 - before) / (1 - alpha_bar)
        self.mean = [*zip(of_clean.tolist(), of_noisy.tolist(), strict=True)]
        # Eq. 5 in nats for each number of an image. A step costs `fixed` + `weight` · (x₀ - x̂₀)², and is drawn by `chance`,
        # the weight that it has in eq. 12; the first costs -log p(x₀|x₁) instead.
        fixed = 0.5 * (variance.log() - posterior.log() + posterior / variance - 1)[1:]
        weight = of_clean.square() / (2 * variance)
        chance = weight * (1 - alpha_bar) / alpha_bar
        chance[0] = 0.5  # its limit for σ² = β
        chance /= chance.sum()
        self.fixed = fixed.sum().item()
        tables = dict(signal=alpha_bar.sqrt(), noise=(1 - alpha_bar).sqrt(), bound=torch.stack([chance, weight]))
        for name, values in tables.items():
            self.register_buffer(name, values.to(torch.get_default_dtype()))

    def inputs(self, batch: Images) -> tuple[Tensor, ...]:
        return batch.image, self.any_step(batch.image)

    def about(self) -> dict[str, Any]:
        return {"alpha_bar": self.alpha_bar[1:], "variance": self.variance}  # of step t: what algorithm 2 and DDIM take

    def any_step(self, x_BCHW: Tensor) -> Tensor:
        return torch.randint(self.steps, (len(x_BCHW),), device=x_BCHW.device)

    def noised(self, x_BCHW: Tensor, t_B: Tensor, noise_BCHW: Tensor) -> Tensor:
        """x_t of x_0 in one step: eq. 4."""
        return self.signal[t_B, None, None, None] * x_BCHW + self.noise[t_B, None, None, None] * noise_BCHW

    def losses(self, model: UNet, batch: Images) -> Iterator[tuple[str, Tensor]]:
        """Algorithm 1: eq. 14."""
        t_B, noise_BCHW = self.any_step(batch.image), torch.randn_like(batch.image)
        yield "model", F.mse_loss(model(self.noised(batch.image, t_B, noise_BCHW), t_B), noise_BCHW)

    def evaluate(self, model: UNet, batch: Images) -> Iterator[tuple[str, Tensor]]:
        """Eq. 14, and the bound on -log p in bits for each number of an image, unbiased: of one random step for each."""
        x_BCHW, noise_BCHW = batch.image, torch.randn_like(batch.image)
        t_B = self.any_step(x_BCHW)
        guess_BCHW = model(self.noised(x_BCHW, t_B, noise_BCHW), t_B)
        yield "loss", (guess_BCHW - noise_BCHW).square().mean((1, 2, 3))
        t_B = torch.multinomial(self.bound[0], len(x_BCHW), replacement=True)
        yield "bits", (self.prior(x_BCHW) + self.fixed + self.cost(model, x_BCHW, t_B)) / math.log(2)

    def prior(self, x_BCHW: Tensor) -> Tensor:
        """L_T (B,): KL(q(x_T|x_0) ‖ N(0, I)), in nats for each number of an image."""
        signal, variance = self.signal[-1].square(), self.noise[-1].square()
        return 0.5 * (signal * x_BCHW.square().mean((1, 2, 3)) + variance - 1 - variance.log())

    def cost(self, model: UNet, x_BCHW: Tensor, t_B: Tensor) -> Tensor:
        """What step t adds to the bound, over its chance (B,): its mean is the sum over all steps, less `fixed`."""
        noisy_BCHW = self.noised(x_BCHW, t_B, torch.randn_like(x_BCHW))
        signal, noise = self.signal[t_B, None, None, None], self.noise[t_B, None, None, None]
        clean_BCHW = ((noisy_BCHW - noise * model(noisy_BCHW, t_B)) / signal).clamp(-1, 1)
        far_BCHW = (x_BCHW - clean_BCHW).abs()
        chance_B, weight_B = self.bound[:, t_B]
        # Eq. 13: a level is 1/255 wide on either side, the darkest and the brightest without end.
        inner = (x_BCHW.abs() < 0.999).to(far_BCHW.dtype)
        high, low = ((side / 255 - far_BCHW) / self.variance[0] ** 0.5 for side in (1, -1))
        likelihood = torch.special.ndtr(high) - inner * torch.special.ndtr(low)
        first_B = -likelihood.clamp_min(1e-12).log().mean((1, 2, 3))
        return torch.where(t_B == 0, first_B, weight_B * far_BCHW.square().mean((1, 2, 3))) / chance_B

    @torch.no_grad()
    def ancestral(self, model: UNet, x_BCHW: Tensor) -> Iterator[Tensor]:
        """Algorithm 2: x_{T-1}, …, x_0 of a noise x_T."""
        for t in reversed(range(self.steps)):
            clean_BCHW, _ = self.guess(model, x_BCHW, t)
            of_clean, of_noisy = self.mean[t]
            x_BCHW = of_clean * clean_BCHW + of_noisy * x_BCHW
            if t:
                x_BCHW += self.variance[t] ** 0.5 * torch.randn_like(x_BCHW)
            yield x_BCHW

    @torch.no_grad()
    def ddim(self, model: UNet, x_BCHW: Tensor) -> Iterator[Tensor]:
        """Song et al., eq. 12, over `sampling` steps evenly apart (app. D.2, linear); η = 0 draws no noise."""
        taken = [i * self.steps // self.sampling for i in range(self.sampling)]
        for t, next_t in zip(reversed(taken), [*reversed(taken[:-1]), -1], strict=True):
            now, then = self.alpha_bar[t + 1], self.alpha_bar[next_t + 1]
            sigma = self.eta * math.sqrt((1 - then) / (1 - now) * (1 - now / then))  # eq. 16
            clean_BCHW, noise_BCHW = self.guess(model, x_BCHW, t)
            x_BCHW = math.sqrt(then) * clean_BCHW + math.sqrt(1 - then - sigma**2) * noise_BCHW
            if self.eta:
                x_BCHW += sigma * torch.randn_like(x_BCHW)
            yield x_BCHW

    def guess(self, model: UNet, x_BCHW: Tensor, t: int) -> tuple[Tensor, Tensor]:
        """x_0, kept in -1 to 1 as in p_mean_variance, and the noise that is then in x_t: eq. 4, solved for either."""
        noise_BCHW = model(x_BCHW, torch.full((len(x_BCHW),), t, device=x_BCHW.device))
        signal, noise = math.sqrt(self.alpha_bar[t + 1]), math.sqrt(1 - self.alpha_bar[t + 1])
        clean_BCHW = ((x_BCHW - noise * noise_BCHW) / signal).clamp_(-1, 1)
        return clean_BCHW, (x_BCHW - signal * clean_BCHW) / noise

    def denoise(self, model: UNet, count: int) -> Iterator[Tensor]:
        """Pure noise, then what each step makes of it: `sampling` + 1 batches (count, C, H, W)."""
        x_BCHW = torch.randn(count, *self.shape, device=self.signal.device)
        x_BCHW = x_BCHW.contiguous(memory_format=torch.channels_last)
        yield x_BCHW
        yield from (self.ancestral if self.sampling == self.steps else self.ddim)(model, x_BCHW)

    def sample(self, model: UNet, count: int, prompt: str = "") -> Iterator[float | Tensor]:
        if prompt:
            raise WrongInput(f"this model draws without being asked for anything; it cannot use {prompt!r}")
        for i, x_BCHW in enumerate(self.denoise(model, count)):
            yield i / self.sampling if i < self.sampling else (x_BCHW / 2 + 0.5).clamp(0, 1)

    def pictures(self, model: Any, split: Any) -> dict[str, Any]:
        """Samples, and the first four of them on their way from noise, left to right."""
        shown = {round(i * self.sampling / (STRIP - 1)) for i in range(STRIP)}
        way = [x.contiguous() for i, x in enumerate(self.denoise(model, 40)) if i in shown]
        strip = torch.stack([x[:4] for x in way], 1).flatten(0, 1)
        ink = (lambda x: 0.5 - x / 2) if self.shape[0] == 1 else (lambda x: x / 2 + 0.5)  # grey images as ink on paper
        return {
            "samples": figures.image_grid(ink(way[-1]), columns=10),
            "denoising": figures.image_grid(ink(strip), columns=len(way)),
        }


def recipe(
    data: Literal["mnist", "fashion-mnist", "cifar10", "digits"] | Path = "mnist",  # images; labels are not used
    size: Annotated[int, Within(8)] = 32,  # pixels a side: 8, 16, 32, 64, …; smaller images get a border
    flip: bool = False,           # mirror images at random, as the paper does CIFAR-10; a mirrored digit is none
    width: int = 32,              # channels at the first resolution; the paper takes 128
    depth: int = 1,               # residual blocks a resolution; the paper takes 2
    dropout: float = 0.0,         # probability; the paper takes 0.1 for CIFAR-10
    steps: Annotated[int, Within(1)] = 2500,  # of training; the paper takes 800,000
    batch: int = 64,              # images a step; the paper takes 128
    lr: float = 1e-3,             # Adam; the paper takes 2e-4
    warmup: Annotated[int, Within(0)] = 200,  # steps of a rising rate; run_cifar.py takes 5000
    ema: Annotated[float, Within(0, 1)] = 0.995,  # decay of the averaged weights, which are judged; app. B takes 0.9999
    sampling: Annotated[int, Within(1, T)] = 100,  # steps to draw an image: by DDIM, and all 1000 by algorithm 2
    eta: Annotated[float, Within(0, 1)] = 1.0,  # randomness of DDIM; its paper has 0 ahead, for a net trained long
) -> Iterator[Stage]:  # fmt: skip
    images = image_data(data, size=size, mean=[0.5], std=[0.5], channels_last=True)  # to -1 … 1: sec. 3.3
    images = augmented(images, augment.flip) if flip else images
    model = UNet(images.channels, size, width, depth, dropout)
    shape = (images.channels, size, size)
    yield Stage(model, images, Diffusion(shape, sampling, eta),
                adam(lr, clip=1.0, ema=ema, schedule=linear(warmup, floor=1.0)), steps=steps, batch=batch)  # fmt: skip
