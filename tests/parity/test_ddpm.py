"""DDPM against diffusers, in float64: the net, and every step of both samplers; the process against its own definition."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

import pytest
import torch
from diffusers import DDIMScheduler, DDPMScheduler, UNet2DModel
from diffusers.models.embeddings import get_timestep_embedding
from torch import Tensor, nn
from torch.distributions import Normal, kl_divergence

from fuxian.data.images import Images
from fuxian.evaluation import judging
from fuxian.methods.generative.ddpm import Diffusion, Down, Residual, T, UNet, Up, embed, recipe
from fuxian.optim import adam

from .compare import Differences, first_loss, in_both, parity, relative


@pytest.fixture(autouse=True)
def _double() -> Iterator[None]:
    torch.manual_seed(0)
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def net(size: int, width: int, depth: int, channels: int = 1) -> UNet:
    """One that has forgotten its zeros, so that no part of it is silent."""
    model = UNet(channels, size, width, depth, 0.0)
    for name, weight in model.named_parameters():
        weight.data.add_(0.1 * torch.randn_like(weight) if "norm" in name else 0.05 * torch.randn_like(weight))
    return model


def theirs(size: int, width: int, depth: int, channels: int = 1) -> UNet2DModel:
    levels = size.bit_length() - 2
    kinds = ["Attn" if size >> level == 16 else "" for level in range(levels)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch, "set_default_dtype", lambda _: None)
        reference = UNet2DModel(
            sample_size=size, in_channels=channels, out_channels=channels, layers_per_block=depth,
            block_out_channels=(width, *[2 * width] * (levels - 1)), norm_num_groups=width // 4, norm_eps=1e-6,
            down_block_types=tuple(f"{kind}DownBlock2D" for kind in kinds),
            up_block_types=tuple(f"{kind}UpBlock2D" for kind in reversed(kinds)),
            attention_head_dim=None, downsample_padding=0, flip_sin_to_cos=False, freq_shift=1,
        ).to(torch.get_default_dtype())  # fmt: skip
    reference.time_proj.forward = lambda t: embed(t, width)  # theirs in float32 differs in its last bits; see below
    return reference


def pairs(ours: UNet, depth: int) -> dict[str, str]:
    """Our names to theirs."""
    of = dict(norm1="norm1", conv1="conv1", step="time_emb_proj", norm2="norm2", conv2="conv2", shortcut="conv_shortcut")
    attention = dict(norm="group_norm", query="to_q", key="to_k", value="to_v", out="to_out.0")
    modules = {"embed.0": "time_embedding.linear_1", "embed.2": "time_embedding.linear_2", "first": "conv_in",
               "norm": "conv_norm_out", "last": "conv_out"}  # fmt: skip

    def block(name: str, residual: str, attends: str) -> None:
        modules.update({f"{name}.{mine}": f"{residual}.{other}" for mine, other in of.items()})
        modules.update({f"{name}.attention.{mine}": f"{attends}.{other}" for mine, other in attention.items()})

    for way, blocks in (("down", depth), ("up", depth + 1)):
        level = block_i = 0
        for i, part in enumerate(getattr(ours, way)):
            if isinstance(part, Down | Up):
                modules[f"{way}.{i}.conv"] = f"{way}_blocks.{level}.{way}samplers.0.conv"
                level, block_i = level + 1, 0
            else:
                assert isinstance(part, Residual)
                where = f"{way}_blocks.{level}"
                block(f"{way}.{i}", f"{where}.resnets.{block_i}", f"{where}.attentions.{block_i}")
                block_i += 1
        assert block_i == blocks
    block("middle.0", "mid_block.resnets.0", "mid_block.attentions.0")
    block("middle.1", "mid_block.resnets.1", "")
    return {name: f"{modules[name.rsplit('.', 1)[0]]}.{name.rsplit('.', 1)[1]}" for name, _ in ours.named_parameters()}


def compared(size: int, width: int, depth: int, channels: int) -> Differences:
    torch.manual_seed(0)
    ours, reference = net(size, width, depth, channels), theirs(size, width, depth, channels)
    for part in [*ours.modules(), *reference.modules()]:  # softmax cannot see it: its gradient is rounding alone
        key = getattr(part, "key", getattr(part, "to_k", None))
        if isinstance(key, nn.Linear):
            key.bias = None
    batch = Images(torch.rand(3, channels, size, size) * 2 - 1, torch.zeros(3, dtype=torch.int64))
    x, t = torch.randn(3, channels, size, size), torch.tensor([0, 321, 999])

    def losses(*_: Tensor) -> tuple[Tensor, Tensor]:
        """Algorithm 1, the same draws on either side."""
        torch.manual_seed(5)
        loss = first_loss(Diffusion((channels, size, size)), ours, batch)
        torch.manual_seed(5)
        t, noise = torch.randint(T, (3,)), torch.randn_like(batch.image)
        noisy = tabled(DDPMScheduler()).add_noise(batch.image, noise, t)
        return loss, (reference(noisy, t).sample - noise).square().mean()

    return parity(
        ours,
        reference,
        pairs(ours, depth),
        outputs=lambda: (ours(x, t), reference(x, t).sample),
        losses=losses,
        spec=adam(1e-3, eps=1e-4),  # Adam's first step is a sign, also of a gradient that is rounding alone
        optimizer=torch.optim.Adam(reference.parameters(), 1e-3, eps=1e-4, fused=False, foreach=False),
    )


@pytest.mark.parametrize(("size", "width", "depth", "channels"), [(32, 8, 1, 1), (16, 16, 2, 3)])
def test_net_gradients_and_step(prove, size: int, width: int, depth: int, channels: int) -> None:
    found = in_both(lambda: compared(size, width, depth, channels))
    if channels == 3:
        prove("ddpm", "parity", reference="diffusers.UNet2DModel", **found)


def test_steps_are_told_by_the_same_sines() -> None:
    t = torch.arange(T)
    expected = get_timestep_embedding(t, 32, downscale_freq_shift=1)  # float32
    torch.testing.assert_close(embed(t, 32), expected.double(), rtol=0, atol=2e-4)


def test_35_7_million_weights_in_the_papers_net() -> None:
    with torch.device("meta"):
        model = UNet(3, 32, 128, 2, 0.1)
    assert sum(p.numel() for p in model.parameters()) == 35_746_307  # google/ddpm-cifar10-32 has as many


def tabled(scheduler: DDPMScheduler | DDIMScheduler) -> DDPMScheduler | DDIMScheduler:
    """Their scheduler with its tables in float64."""
    scheduler.betas = torch.linspace(1e-4, 0.02, T)
    scheduler.alphas = 1 - scheduler.betas
    scheduler.alphas_cumprod = scheduler.alphas.cumprod(0)
    scheduler.one = torch.tensor(1.0)
    return scheduler


def same_steps(scheduler: object, drawn: Iterator[Tensor], x: Tensor, model: Callable, **how: object) -> float:
    """The largest difference of any step of two walks from the same noise."""
    worst, walked = 0.0, []
    torch.manual_seed(3)
    walked = list(drawn)
    torch.manual_seed(3)
    with torch.no_grad():
        for ours, t in zip(walked, scheduler.timesteps, strict=True):
            x = scheduler.step(model(x, t.expand(len(x))), t, x, **how).prev_sample
            worst = max(worst, relative(ours, x))
    return worst


@pytest.mark.slow
def test_every_step_of_algorithm_2() -> None:
    model, x = net(8, 8, 1), torch.randn(2, 1, 8, 8)
    process = Diffusion((1, 8, 8))
    scheduler = tabled(DDPMScheduler(variance_type="fixed_large", clip_sample=True))
    scheduler.set_timesteps(T)
    assert same_steps(scheduler, process.ancestral(model, x), x, model) < 1e-10


@pytest.mark.parametrize(("sampling", "eta"), [(100, 0.0), (50, 1.0), (40, 0.3)])
def test_every_step_of_ddim(sampling: int, eta: float) -> None:
    model, x = net(8, 8, 1), torch.randn(2, 1, 8, 8)
    process = Diffusion((1, 8, 8), sampling, eta)
    scheduler = tabled(DDIMScheduler(clip_sample=True, timestep_spacing="leading"))
    scheduler.final_alpha_cumprod = torch.tensor(1.0)
    scheduler.set_timesteps(sampling)
    assert same_steps(scheduler, process.ddim(model, x), x, model, eta=eta, use_clipped_model_output=True) < 1e-10


def test_one_step_of_noise_is_a_thousand_small_ones() -> None:
    process, beta = Diffusion((1, 8, 8)), torch.linspace(1e-4, 0.02, T)
    mean, variance = 1.0, 0.0
    for t, b in enumerate(beta.tolist()):
        mean, variance = mean * math.sqrt(1 - b), variance * (1 - b) + b
        assert process.signal[t].item() == pytest.approx(mean, rel=1e-12)
        assert process.noise[t].square().item() == pytest.approx(variance, rel=1e-11)
    assert process.signal[-1].square().item() == pytest.approx(4.0358e-5, rel=1e-4)  # ᾱ_1000

    clean, n = torch.tensor([-0.8, 0.1, 1.0]), 20_000
    x = clean.view(3, 1, 1, 1).expand(3, 1, 1, n)
    for t in range(300):
        x = (1 - beta[t]).sqrt() * x + beta[t].sqrt() * torch.randn(3, 1, 1, n)
    once = process.noised(clean.view(3, 1, 1, 1).expand(3, 1, 1, n), torch.full((3,), 299), torch.randn(3, 1, 1, n))
    assert ((x.mean(-1) - once.mean(-1)).abs() < 5 * math.sqrt(2 / n)).all()
    assert ((x.std(-1) - once.std(-1)).abs() < 5 / math.sqrt(n)).all()


def test_loss_is_algorithm_1() -> None:
    model, process = net(8, 8, 1), Diffusion((1, 8, 8))
    batch = Images(torch.rand(6, 1, 8, 8) * 2 - 1, torch.zeros(6, dtype=torch.int64))
    torch.manual_seed(5)
    loss = first_loss(process, model, batch)
    torch.manual_seed(5)
    t, noise = torch.randint(T, (6,)), torch.randn(6, 1, 8, 8)
    noisy = tabled(DDPMScheduler()).add_noise(batch.image, noise, t)
    torch.testing.assert_close(loss, (model(noisy, t) - noise).square().sum() / noise.numel())


def test_the_recipe_averages_the_weights() -> None:
    (stage,) = recipe(data="digits", size=8, width=8, warmup=5, ema=0.75)
    assert stage.optimizer.ema == 0.75
    assert stage.optimizer.clip == 1.0  # run_cifar.py, grad_clip
    assert [stage.optimizer.schedule(step, 100, []) for step in (0, 4, 5, 99)] == [0.2, 1, 1, 1]


class Known(nn.Module):
    """The best net there is for data that are N(mean, deviation²): E[ε | x_t]."""

    def __init__(self, mean: float, deviation: float) -> None:
        super().__init__()
        self.mean, self.variance = mean, deviation**2
        self.bar = (1 - torch.linspace(1e-4, 0.02, T)).cumprod(0)

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        bar = self.bar[t].view(-1, 1, 1, 1)
        return (1 - bar).sqrt() * (x - bar.sqrt() * self.mean) / (bar * self.variance + 1 - bar)


@pytest.mark.parametrize("sampler", ["ancestral", "ddim"])
def test_samples_have_the_mean_and_the_deviation_of_the_data(sampler: str) -> None:
    *_, drawn = getattr(Diffusion((1, 32, 32), eta=0.0), sampler)(Known(0.3, 0.1), torch.randn(8, 1, 32, 32))
    assert drawn.mean().item() == pytest.approx(0.3, abs=0.005)
    assert drawn.std().item() == pytest.approx(0.1, rel=0.05)


def densities(process: Diffusion, model: Callable, x: Tensor, t: int, steps: int) -> Tensor:
    """What step t adds to eq. 5, by the distributions that eq. 5 names; in nats for each number of an image (B,)."""
    beta = torch.linspace(1e-4, 0.02, steps)
    bar = (1 - beta).cumprod(0)
    before = bar[t - 1] if t else torch.tensor(1.0)
    noisy = bar[t].sqrt() * x + (1 - bar[t]).sqrt() * torch.randn_like(x)
    guess = (noisy - (1 - bar[t]).sqrt() * model(noisy, torch.full((len(x),), t))) / bar[t].sqrt()
    mean_of = lambda clean: (before.sqrt() * beta[t] * clean + (1 - beta[t]).sqrt() * (1 - before) * noisy) / (1 - bar[t])
    if t == 0:
        variance = beta[1] * (1 - bar[0]) / (1 - bar[1])
        model_p = Normal(mean_of(guess.clamp(-1, 1)), variance.sqrt())
        high = torch.where(x > 0.999, torch.tensor(1.0), model_p.cdf(x + 1 / 255))
        low = torch.where(x < -0.999, torch.tensor(0.0), model_p.cdf(x - 1 / 255))
        return -(high - low).clamp_min(1e-12).log().mean((1, 2, 3))
    posterior = Normal(mean_of(x), (beta[t] * (1 - before) / (1 - bar[t])).sqrt())
    return kl_divergence(posterior, Normal(mean_of(guess.clamp(-1, 1)), beta[t].sqrt())).mean((1, 2, 3))


def test_each_step_of_the_bound_is_its_divergence() -> None:
    steps, x = 12, torch.randint(256, (3, 1, 8, 8)) / 127.5 - 1
    x[0, 0, 0] = torch.tensor([-1.0, 1.0] * 4)
    process, model = Diffusion((1, 8, 8), steps=steps), net(8, 8, 1)
    beta = torch.linspace(1e-4, 0.02, steps)
    bar = (1 - beta).cumprod(0)
    assert process.bound[0].sum().item() == pytest.approx(1)
    apart = kl_divergence(Normal(0.0, (beta[1:] * (1 - bar[:-1]) / (1 - bar[1:])).sqrt()), Normal(0.0, beta[1:].sqrt()))
    assert process.fixed == pytest.approx(apart.sum().item())
    with judging(model):
        for t in range(steps):
            torch.manual_seed(t)
            ours = process.cost(model, x, torch.full((3,), t)) * process.bound[0, t] + (apart[t - 1] if t else 0)
            torch.manual_seed(t)
            torch.testing.assert_close(ours, densities(process, model, x, t, steps))
    last = kl_divergence(Normal(bar[-1].sqrt() * x, (1 - bar[-1]).sqrt()), Normal(0.0, 1.0)).mean((1, 2, 3))
    torch.testing.assert_close(process.prior(x), last)


def test_one_random_step_estimates_the_whole_bound() -> None:
    steps, n = 12, 20_000
    process, model = Diffusion((1, 2, 2), steps=steps), Known(0.0, 0.5)
    image = (torch.randint(256, (1, 1, 2, 2)) / 127.5 - 1).expand(n, 1, 2, 2)
    measured = dict(process.evaluate(model, Images(image, torch.zeros(n, dtype=torch.int64))))["bits"]
    terms = sum(densities(process, model, image, t, steps).mean() for t in range(steps)) + process.prior(image[:1])[0]
    exact = terms.item() / math.log(2)
    assert measured.mean().item() == pytest.approx(exact, abs=6 * measured.std().item() / math.sqrt(n))
