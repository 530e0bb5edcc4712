"""The Non-stationary Transformer, and NsDiff and TMDM around it: a training step at the recipe's size, beside the code of
their authors.

Both sides are given the same numbers for a date: five, as ours has of a step of an hour.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from importlib import import_module
from types import SimpleNamespace
from typing import Any, NamedTuple, TypeVar
from unittest.mock import patch

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks import authors
from benchmarks.pairing import Side, Work
from benchmarks.sides import Engine, Fixed, repeated, stepping
from benchmarks.works.patchtst import nothing_dropped, stir

CODE, NSDIFF_CODE, TMDM_CODE = "thuml/Nonstationary_Transformers", "wwy155/NsDiff", "LiYuxin321/TMDM"
CHANNELS, MARKS, BATCH, SHOWN = 7, 5, 32, 3
ROLLING, STEPS, BETAS = 96, 20, (1e-4, 0.01)  # NsDiff's
DENOISING, LAST_BETA, LATENTS = 100, 0.02, 100  # TMDM's, and of how many z its authors' code takes the mean
T = TypeVar("T")
Draws = tuple[Tensor, list[Tensor]]  # the noising steps of a training step, and what is normal, in our order


class Sizes(NamedTuple):
    """What our Transformer takes after channels and marks, in its order."""

    window: int
    horizon: int
    width: int
    depth: int
    hidden: int
    heads: int
    dropout: float
    projector: int

    @property
    def start(self) -> int:
        """Steps of the past that the decoder begins with."""
        return self.window // 2


WIDE = Sizes(96, 96, 512, 2, 2048, 8, 0.05, 128)
NARROW = Sizes(168, 192, 64, 2, 128, 2, 0.05, 64)  # of NsDiff and TMDM


def rows(sizes: Sizes) -> tuple[Tensor, Tensor]:
    """Windows with what comes after them, and the marks of all steps, laid out as our data is: steps side by side."""
    shape = BATCH, CHANNELS + MARKS, sizes.window + sizes.horizon
    row = torch.randn(shape, generator=torch.Generator().manual_seed(1)).transpose(1, 2)
    return row[..., :CHANNELS], row[..., CHANNELS:] / 4


def seeded(step: int, call: Callable[[], T]) -> T:
    torch.manual_seed(step)
    return call()


# ── our side ────────────────────────────────────────────────────────────────────────────────────────────────────────


def ours(make: Callable[[Any], tuple[Any, Any]], sizes: Sizes, lr: float, draws: Callable[[], Draws] | None = None) -> Side:
    """`make` gives what is around a Transformer, and the objective; `draws` is what the peer draws in a step."""
    from fuxian.contract import Splits, Stage
    from fuxian.data.series import Windows
    from fuxian.methods.forecasting.nonstationary_transformer import NonstationaryTransformer
    from fuxian.optim import adam

    model, objective = make(NonstationaryTransformer(CHANNELS, MARKS, *sizes))
    stir(model)
    weights = {name: weight.detach().clone() for name, weight in model.named_parameters()}
    row, marks = rows(sizes)
    batch = Windows(row[:, : sizes.window], row[:, sizes.window :], torch.arange(BATCH), marks)
    engine = Engine(Stage(model, Splits(Fixed(batch)), objective, adam(lr), steps=1000))

    def losses() -> Tensor:
        """Of the numbers that the peer draws in its own order; meanwhile there are no others."""
        drawn = [seeded(step, draws) for step in range(SHOWN)] if draws else []
        with (
            nothing_dropped(model),
            patch.object(torch, "randint", side_effect=[t for t, _ in drawn]),
            patch.object(torch, "randn_like", side_effect=[x for _, normal in drawn for x in normal]),
        ):
            return engine.losses(SHOWN)

    return Side(engine, losses, weights)


def scale() -> tuple[str, np.ndarray, np.ndarray]:
    return "abcdefg", np.zeros(CHANNELS), np.ones(CHANNELS)


def dated(transformer: Any) -> tuple[Any, Any]:
    from fuxian.methods.forecasting.nonstationary_transformer import Dated

    return transformer, Dated(*scale())


def nsdiff(transformer: Any) -> tuple[Any, Any]:
    from fuxian.methods.forecasting.nsdiff import Diffusion, NsDiff, Variance

    variance = Variance(NARROW.window, NARROW.horizon, ROLLING)
    return NsDiff(transformer, variance, CHANNELS, STEPS, *BETAS), Diffusion(STEPS, *scale(), samples=100)


def nsdiff_draws() -> Draws:
    return torch.randint(STEPS, (BATCH // 2 + 1,)), [torch.randn(BATCH, NARROW.horizon, CHANNELS)]


def tmdm(transformer: Any) -> tuple[Any, Any]:
    from fuxian.methods.forecasting.tmdm import TMDM, Modulated

    return TMDM(transformer, NARROW.width, CHANNELS, DENOISING, LAST_BETA), Modulated(DENOISING, *scale(), samples=100)


def tmdm_draws() -> Draws:
    """For the mean of a hundred draws ours has one, and a tenth of its deviation."""
    t = torch.randint(DENOISING, (BATCH // 2 + 1,))
    latents = torch.empty(LATENTS, BATCH, NARROW.window, NARROW.width).normal_()
    noise = torch.randn(BATCH, NARROW.start + NARROW.horizon, CHANNELS)
    return t, [latents.mean(0) * LATENTS**0.5, noise]


# ── the peers ───────────────────────────────────────────────────────────────────────────────────────────────────────


def settings(sizes: Sizes, **more: Any) -> SimpleNamespace:
    """Named as in run.py. Of a step of a minute ("t") theirs takes five numbers for a date."""
    return SimpleNamespace(
        seq_len=sizes.window, label_len=sizes.start, pred_len=sizes.horizon, d_model=sizes.width, e_layers=sizes.depth,
        d_layers=1, d_ff=sizes.hidden, n_heads=sizes.heads, dropout=sizes.dropout, p_hidden_dims=[sizes.projector] * 2,
        p_hidden_layers=2, enc_in=CHANNELS, dec_in=CHANNELS, c_out=CHANNELS, embed="timeF", freq="t", factor=3,
        activation="gelu", output_attention=False, CART_input_x_embed_dim=32, **more,
    )  # fmt: skip


def collated(sizes: Sizes) -> list[Tensor]:
    """What their loaders give: past, what the decoder tells again with the future, and the marks of both."""
    row, marks = rows(sizes)
    ahead = sizes.window - sizes.start
    parts = row[:, : sizes.window], row[:, ahead:], marks[:, : sizes.window], marks[:, ahead:]
    return [x.contiguous() for x in parts]


def beside(models: list[nn.Module], loss: Callable[[], Tensor], lr: float) -> Side:
    model = nn.ModuleList(models)
    step = stepping(model, torch.optim.Adam(model.parameters(), lr, fused=True), loss)

    def losses() -> Tensor:
        with nothing_dropped(model):
            return torch.tensor([seeded(n, step) for n in range(SHOWN)])

    return Side(repeated(step), losses)


def begun(future: Tensor, sizes: Sizes) -> Tensor:
    """What the decoder is given: what is known of its steps, then zeros. exp_main.py."""
    return torch.cat([future[:, : sizes.start], torch.zeros_like(future[:, -sizes.horizon :])], 1)


def plain_peer(weights: Mapping[str, Tensor]) -> Side:
    authors.code(CODE)
    model = import_module("ns_models.ns_Transformer").Model(settings(WIDE))
    fill(model, of_transformer(weights), without=KEYS)
    past, future, past_marks, future_marks = collated(WIDE)

    def loss() -> Tensor:
        told = model(past, past_marks, begun(future, WIDE), future_marks)
        return F.mse_loss(told, future[:, -WIDE.horizon :])

    return beside([model], loss, 1e-4)


def nsdiff_peer(weights: Mapping[str, Tensor]) -> Side:
    authors.code(CODE)
    authors.code(NSDIFF_CODE)
    without_packages()
    experiment, given = import_module("src.experiments.NsDiff"), settings(NARROW)
    given.timesteps, given.beta_schedule, (given.beta_start, given.beta_end) = STEPS, "linear", BETAS
    mean = import_module("src.layer.mu_backbone").Model(given)
    variance = import_module("src.layer.g_backbone").SigmaEstimation(NARROW.window, NARROW.horizon, CHANNELS, 512, ROLLING)
    model = import_module("src.models.NsDiff").NsDiff(given, "cpu")
    fill(mean, of_transformer(part(weights, "mean.")), without=[*KEYS, "z_mean", "z_logvar", "z_out"])
    fill(variance, {f"mlp.{name}": weight for name, weight in part(weights, "variance.net.").items()})
    fill(model, of_net(part(weights, "denoiser.")), without=["enc_embedding"])
    past, future, past_marks, future_marks = collated(NARROW)
    inputs = past, future[:, NARROW.start :].contiguous(), past_marks, future_marks[:, NARROW.start :].contiguous()
    training = SimpleNamespace(
        model=model, cond_pred_model=mean, cond_pred_model_g=variance, rolling_length=ROLLING, device="cpu",
        pred_len=NARROW.horizon, label_len=NARROW.start, dataset=SimpleNamespace(num_features=CHANNELS),
    )  # fmt: skip
    loss = partial(experiment.NsDiffForecast._process_train_batch, training, *inputs)
    return beside([model, mean, variance], loss, 1e-3)


def tmdm_peer(weights: Mapping[str, Tensor]) -> Side:
    """The loss is written as in exp_main.py, which needs more packages than its models do."""
    authors.code(TMDM_CODE, "TMDM")
    place = "model9_NS_transformer"
    process = import_module(f"{place}.diffusion_models.diffusion_utils")
    config = authors.PLACE / "TMDM" / "TMDM" / place / "configs" / "toy_8gauss.yml"
    given = settings(NARROW, timesteps=DENOISING, diffusion_config_dir=str(config))
    mean = import_module(f"{place}.ns_models.ns_Transformer").Model(given)
    model = import_module(f"{place}.diffusion_models.diffuMTS").Model(given, "cpu")
    latents = {"mean": "z_mean", "log_var": "z_logvar", "out": "z_out"}
    around = {f"{theirs}.{name}": x for ours, theirs in latents.items() for name, x in part(weights, f"{ours}.").items()}
    fill(mean, of_transformer(part(weights, "transformer.")) | around, without=KEYS)
    fill(model, of_net(part(weights, "net.")), without=["enc_embedding"])
    past, future, past_marks, future_marks = collated(NARROW)

    def loss() -> Tensor:
        half = torch.randint(low=0, high=model.num_timesteps, size=(BATCH // 2 + 1,))
        t = torch.cat([half, model.num_timesteps - 1 - half])[:BATCH]
        _, told, kl, _ = mean(past, past_marks, begun(future, NARROW), future_marks)
        variance = torch.tensor(1 + 1e-8)
        likelihood = 0.5 * torch.mean(math.log(2 * math.pi) + variance.log() + (future - told).pow(2) / variance)
        noise = torch.randn_like(future)
        noisy = process.q_sample(future, told, model.alphas_bar_sqrt, model.one_minus_alphas_bar_sqrt, t, noise=noise)
        guess = model(past, past_marks, future, noisy, told, t)
        return (noise - guess).square().mean() + likelihood + 0.01 * kl

    return beside([model, mean], loss, 1e-3)


def without_packages() -> None:
    """Stands in for what NsDiff.py imports and its loss never calls.

    torch_timeseries 0.1.10 has the attention and layers of the Transformer's own code, which are taken here; so is the
    embedding, of which torch_timeseries' has biases, and ours none.
    """
    names = ["wandb", "torchmetrics", "src.experiments.prob_forecast"]
    names += [f"torch_timeseries.utils.{name}" for name in ("model_stats", "reproduce", "parse_type", "early_stop")]
    for name in names:
        authors.stand_in(name)
    layers = "torch_timeseries.nn"
    for name in ("Transformer_EncDec", "SelfAttention_Family"):
        sys.modules[f"{layers}.{name}"] = import_module(f"ns_layers.{name}")
    authors.stand_in(f"{layers}.embedding", DataEmbedding=import_module("layers.Embed").DataEmbedding)


# ── whose weight is whose ───────────────────────────────────────────────────────────────────────────────────────────

KEYS = ["key_projection.bias"]  # what it adds is the same for all scores of a query: ours has none
NAMES = {  # ours: theirs, one after the other
    "tau.": "tau_learner.", "delta.": "delta_learner.", "series.": "series_conv.", "mlp.": "backbone.",
    "embed_past.": "enc_embedding.", "embed_future.": "dec_embedding.",
    "embedding.value.": "embedding.value_embedding.tokenConv.", "embedding.date.": "embedding.temporal_embedding.embed.",
    "encoder.": "encoder.attn_layers.",
    "decoder.before.": "decoder.layers.0.self_attention.", "decoder.attention.": "decoder.layers.0.cross_attention.",
    "decoder.norm_0": "decoder.layers.0.norm1", "decoder.norm_1": "decoder.layers.0.norm2",
    "decoder.norm_2": "decoder.layers.0.norm3", "decoder.feed.": "decoder.layers.0.feed.",
    "norm_": "norm", "feed.0.": "conv1.", "feed.3.": "conv2.",
    "attention.query.": "attention.query_projection.", "attention.key.": "attention.key_projection.",
    "attention.value.": "attention.value_projection.", "attention.output.": "attention.out_projection.",
    "encoded.": "encoder.norm.", "decoded.": "decoder.norm.", "head.": "decoder.projection.",
}  # fmt: skip
NET = {f"{ours}.{n}.": f"lin{n + 1}.{theirs}." for n in range(3) for ours, theirs in (
    ("layers", "lin"), ("times", "embed"), ("scales", "embed"))}  # fmt: skip
NET |= {"last.": "lin4.", "noise.": "lin4.", "variance.": "sigma_lin."}


def part(weights: Mapping[str, Tensor], of: str) -> dict[str, Tensor]:
    return {name.removeprefix(of): weight for name, weight in weights.items() if name.startswith(of)}


def renamed(name: str, names: Mapping[str, str]) -> str:
    for ours, theirs in names.items():
        name = name.replace(ours, theirs)
    return name


def of_transformer(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Two of its linear maps are convolutions of one step there."""
    found = {renamed(name, NAMES): weight for name, weight in weights.items()}
    return {name: x[:, :, None] if ".conv" in name and x.ndim == 2 else x for name, x in found.items()}


def of_net(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Its tables have a row more there, of a noising step that there is not."""
    found = {f"diffussion_model.{renamed(name, NET)}": weight for name, weight in weights.items()}
    return {name: F.pad(x, (0, 0, 0, 1)) if ".embed." in name else x for name, x in found.items()}


def fill(model: nn.Module, values: Mapping[str, Tensor], without: Sequence[str] = ()) -> None:
    """Every weight by name. Those that ours is without are zero: nothing reads them, or it is `KEYS`."""
    others = {
        name: torch.zeros_like(weight) for name, weight in model.named_parameters() if any(word in name for word in without)
    }
    assert not others.keys() & values.keys()
    model.load_state_dict({**dict(model.named_buffers()), **others, **values})


EVEN = "no dropout while both show the same losses; timed with the recipe’s"
UNREAD = "theirs embeds the past once more, for a net that does not read it"
NARROWER = "32 windows of 168 steps and 7 channels, 192 ahead, 64 units"

WORKS = [
    Work(
        "nonstationary-transformer",
        "a training step of the Non-stationary Transformer, 32 windows of 96 steps and 7 channels, 96 ahead, 512 units",
        partial(ours, dated, WIDE, 1e-4), plain_peer, authors.named(CODE), method="nonstationary_transformer",
        agree=2e-5, note=EVEN,
    ),
    Work(
        "nsdiff", f"a joint training step of NsDiff, {NARROWER}", partial(ours, nsdiff, NARROW, 1e-3, nsdiff_draws),
        nsdiff_peer, authors.named(NSDIFF_CODE), method="nsdiff", agree=2e-5, note=f"{UNREAD}; {EVEN}",
    ),
    Work(
        "tmdm", f"a training step of TMDM, {NARROWER}", partial(ours, tmdm, NARROW, 1e-3, tmdm_draws), tmdm_peer,
        authors.named(TMDM_CODE), method="tmdm", agree=2e-5,
        note=f"theirs draws a hundred z and takes their mean, ours one with a tenth of the deviation; {UNREAD}; {EVEN}",
    ),
]  # fmt: skip
