"""The U-Net of DDPM at 32 × 32, 64 channels and then 128: a step of training, and DDIM, beside diffusers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.pairing import Side, Work
from benchmarks.sides import Engine, Fixed, repeated, stepping

SIZE, WIDTH, DEPTH, CHANNELS, BATCH = 32, 64, 1, 3, 16
LR, SAMPLING = 1e-3, 50


def images() -> Tensor:
    return torch.rand(BATCH, CHANNELS, SIZE, SIZE, generator=torch.Generator().manual_seed(1)) * 2 - 1


def net() -> Any:
    """Its last layers begin at zero: with noise on all weights no part of it is silent."""
    from fuxian.methods.generative.ddpm import UNet

    model = UNet(CHANNELS, SIZE, WIDTH, DEPTH, dropout=0.0)
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(0.02 * torch.randn_like(weight))
    return model


def reference(weights: Mapping[str, Tensor]) -> Any:
    from diffusers import UNet2DModel

    from fuxian.methods.generative.ddpm import UNet
    from tests.parity.test_ddpm import pairs

    kinds = ("", "Attn", "", "")  # attention at 16 × 16, and in the middle
    model = UNet2DModel(
        sample_size=SIZE, in_channels=CHANNELS, out_channels=CHANNELS, layers_per_block=DEPTH,
        block_out_channels=(WIDTH, 2 * WIDTH, 2 * WIDTH, 2 * WIDTH), norm_num_groups=WIDTH // 4, norm_eps=1e-6,
        down_block_types=tuple(f"{kind}DownBlock2D" for kind in kinds),
        up_block_types=tuple(f"{kind}UpBlock2D" for kind in reversed(kinds)),
        attention_head_dim=None, downsample_padding=0, flip_sin_to_cos=False, freq_shift=1,
    )  # fmt: skip
    with torch.device("meta"):
        names = pairs(UNet(CHANNELS, SIZE, WIDTH, DEPTH, 0.0), DEPTH)
    theirs = dict(model.named_parameters())
    assert set(names.values()) == set(theirs)
    with torch.no_grad():
        for ours, other in names.items():
            theirs[other].copy_(weights[ours])
    return model


# ── a step ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def train() -> Side:
    from fuxian.contract import Splits, Stage
    from fuxian.data.images import Images
    from fuxian.methods.generative.ddpm import Diffusion
    from fuxian.optim import adamw

    model = net()
    weights = {name: weight.detach().clone() for name, weight in model.named_parameters()}
    image = images().contiguous(memory_format=torch.channels_last)  # as the recipe has its data
    batch = Images(image, torch.zeros(BATCH, dtype=torch.long))
    engine = Engine(Stage(model, Splits(Fixed(batch)), Diffusion((CHANNELS, SIZE, SIZE)), adamw(LR), steps=1000))
    return Side(engine, lambda: model(image, torch.arange(BATCH) * 60), weights)


def train_peer(weights: Mapping[str, Tensor]) -> Side:
    from diffusers import DDPMScheduler

    model, process, image = reference(weights), DDPMScheduler(num_train_timesteps=1000), images()
    optimizer = torch.optim.AdamW(model.parameters(), LR, weight_decay=0.0, fused=True)

    def loss() -> Tensor:
        noise, t = torch.randn_like(image), torch.randint(0, 1000, (BATCH,))
        return F.mse_loss(model(process.add_noise(image, noise, t), t).sample, noise)

    return Side(repeated(stepping(model, optimizer, loss)), lambda: model(image, torch.arange(BATCH) * 60).sample)


# ── drawing ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def draw() -> Side:
    from fuxian.methods.generative.ddpm import Diffusion

    model, process = net().eval(), Diffusion((CHANNELS, SIZE, SIZE), SAMPLING, eta=0.0)

    def drawn(steps: int = SAMPLING) -> Tensor:
        torch.manual_seed(1)
        *_, last = (x for _, x in zip(range(steps + 1), process.denoise(model, BATCH), strict=False))
        return last

    return Side(repeated(drawn), lambda: drawn(5), dict(model.named_parameters()))


def draw_peer(weights: Mapping[str, Tensor]) -> Side:
    from diffusers import DDIMScheduler

    model, process = reference(weights).eval(), DDIMScheduler(num_train_timesteps=1000, beta_start=1e-4, beta_end=0.02)
    process.set_timesteps(SAMPLING)

    @torch.inference_mode()
    def drawn(steps: int = SAMPLING) -> Tensor:
        torch.manual_seed(1)
        x = torch.randn(BATCH, CHANNELS, SIZE, SIZE)
        for t in process.timesteps[:steps]:
            x = process.step(model(x, t).sample, t, x, use_clipped_model_output=True).prev_sample
        return x

    return Side(repeated(drawn), lambda: drawn(5))


WORKS = [
    Work(
        "unet", "a training step of DDPM’s U-Net, 16 images of 32 × 32, 64 to 128 channels", train, train_peer, "diffusers",
        0.8, method="ddpm", agree=1e-3,
    ),
    Work(
        "unet-draw", "16 images in 50 steps of DDIM, the same net", draw, draw_peer, "diffusers", 0.8, method="ddpm",
        agree=1e-2,
    ),
]  # fmt: skip
