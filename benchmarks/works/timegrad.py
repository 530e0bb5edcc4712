"""A training step of TimeGrad at the recipe's sizes, beside its authors' code; both without dropout."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.authors import code, named, stand_in
from benchmarks.pairing import Side, Work
from benchmarks.sides import stepping
from benchmarks.works.csdi import CHANNELS, HORIZON, WINDOW, drawn, numbers, our_side, put, their_side

SEASON, LAGS, CONTEXT, BATCH = 24, [1, 24, 144], 24, 32
HIDDEN, DEPTH, CONDITION, WIDTH, LAYERS, STEPS, BETAS = 40, 2, 100, 8, 8, 100, (1e-4, 0.1)
LR, DECAY, CLIP = 1e-3, 5e-4, 5.0
DRAWN = STEPS, BATCH * (CONTEXT + HORIZON), CHANNELS


def ours() -> Side:
    from fuxian.methods.forecasting.timegrad import Denoising, EpsilonTheta, Process, TimeGrad
    from fuxian.optim import adam

    rnn = nn.LSTM(len(LAGS) * CHANNELS + 2, HIDDEN, DEPTH, batch_first=True)
    epsilon = EpsilonTheta(CHANNELS, HIDDEN, CONDITION, WIDTH, LAYERS, STEPS)
    process = Process(torch.linspace(*BETAS, STEPS, dtype=torch.float64))
    model = TimeGrad(CHANNELS, WINDOW, CONTEXT, SEASON, tuple(LAGS), rnn, epsilon, process)
    return our_side(model, epsilon.last, Denoising(), adam(LR, decay=DECAY, clip=CLIP), BATCH, drawn(*DRAWN))


def in_their_order(weights: Mapping[str, Tensor]) -> Iterator[Tensor]:
    """Zeros stand for what ours has not, as a bias can say the same: an embedding of the channels, which the LSTM is told
    at each step, and a second bias of each gated convolution."""
    of = lambda part: [weights[f"epsilon.{part}.{kind}"] for kind in ("weight", "bias")]
    taps = lambda weight: weight.unflatten(1, (3, -1)).transpose(1, 2)
    first, *rest = (weight for name, weight in weights.items() if name.startswith("rnn."))
    lags, season = first.split([len(LAGS) * CHANNELS, 2], 1)
    by_channel = lags.unflatten(1, (len(LAGS), CHANNELS)).transpose(1, 2).flatten(1)
    yield torch.cat([by_channel, first.new_zeros(len(first), CHANNELS), season], 1)
    yield from rest
    for part in ("first", "steps.layers.0", "steps.layers.2", "up.1", "up.3"):
        yield from of(part)
    for layer in range(LAYERS):
        weight, bias = of(f"layers.{layer}.convolution")
        yield from (taps(weight[:, :-1]), bias, *of(f"layers.{layer}.step"))
        yield from (weight[:, -1:], torch.zeros_like(bias), *of(f"layers.{layer}.out"))
    for part in ("skip", "last"):
        weight, bias = of(part)
        yield from (taps(weight), bias)
    yield from (*of("up.0"), first.new_zeros(CHANNELS, 1))


class Projection(nn.Module):
    """GluonTS's PtArgProj: a linear layer for each parameter of a distribution."""

    def __init__(self, inputs: int, sizes: Mapping[str, int], domain: Callable[..., Any]) -> None:
        super().__init__()
        self.proj, self.domain = nn.ModuleList(nn.Linear(inputs, size) for size in sizes.values()), domain

    def forward(self, x: Tensor) -> Any:
        return self.domain(*(part(x) for part in self.proj))


class Output:
    """GluonTS's DistributionOutput."""

    args_dim: dict[str, int]
    domain_map: Callable[..., Any]

    def get_args_proj(self, inputs: int) -> Projection:
        return Projection(inputs, self.args_dim, self.domain_map)


def network() -> Any:
    """Their class. Of GluonTS it calls a check of arguments and a linear layer, for which there are stand-ins; what runs
    the rest of it are the `__init__.py` of three packages, which are passed by."""
    folder = code("zalandoresearch/pytorch-ts")
    stand_in("gluonts.core.component", validated=lambda: lambda function: function)
    stand_in("gluonts.torch.distributions.distribution_output", DistributionOutput=Output)
    stand_in("gluonts.torch.distributions.output", PtArgProj=Projection)
    stand_in("gluonts.torch.modules.lambda_layer")
    for package in ("pts", "pts.model", "pts.model.time_grad"):
        stand_in(package, __path__=[str(folder / package.replace(".", "/"))])
    from pts.model.utils import weighted_average  # type: ignore[import-not-found]

    stand_in("pts.model", __path__=[str(folder / "pts" / "model")], weighted_average=weighted_average)
    from pts.model.time_grad.time_grad_network import TimeGradTrainingNetwork  # type: ignore[import-not-found]

    return TimeGradTrainingNetwork


def peer(weights: Mapping[str, Tensor]) -> Side:
    model = network()(
        input_size=(len(LAGS) + 1) * CHANNELS + 2, num_layers=DEPTH, num_cells=HIDDEN, cell_type="LSTM",
        history_length=WINDOW, context_length=CONTEXT, prediction_length=HORIZON, dropout_rate=0.0, lags_seq=LAGS,
        target_dim=CHANNELS, conditioning_length=CONDITION, diff_steps=STEPS, loss_type="l2", beta_end=BETAS[1],
        beta_schedule="linear", residual_layers=LAYERS, residual_channels=WIDTH, dilation_cycle_length=2, scaling=False,
    )  # fmt: skip
    put(model, in_their_order(weights))
    for layer in model.denoise_fn.residual_layers:  # two biases that are added up would go twice as far as our one
        layer.conditioner_projection.bias.requires_grad_(False)
    optimizer = torch.optim.Adam(model.parameters(), LR, weight_decay=DECAY, fused=True)
    past, future = numbers(BATCH).split([WINDOW, HORIZON], 1)
    step = WINDOW + torch.arange(BATCH)[:, None] + torch.arange(-WINDOW, HORIZON)  # as `our_side` counts them
    turn = (2 * math.pi / SEASON * step)[..., None]
    past_time, future_time = torch.cat([turn.sin(), turn.cos()], 2).split([WINDOW, HORIZON], 1)
    inputs = dict(
        target_dimension_indicator=torch.arange(CHANNELS).expand(BATCH, -1), past_time_feat=past_time,
        past_target_cdf=past, past_observed_values=torch.ones_like(past), past_is_pad=torch.zeros(BATCH, WINDOW),
        future_time_feat=future_time, future_target_cdf=future, future_observed_values=torch.ones_like(future),
    )  # fmt: skip
    laid = lambda noise: noise[:, None]
    return their_side(stepping(model, optimizer, lambda: model(**inputs)[0], CLIP), drawn(*DRAWN, laid=laid))


WORKS = [
    Work(
        "timegrad", "a training step of TimeGrad, 32 windows of 216 steps and 7 channels", ours, peer,
        named("zalandoresearch/pytorch-ts"), method="timegrad", agree=1e-5,
        note="no dropout; of the two biases that its gated convolutions add up one is learned, as in ours",
    ),
]  # fmt: skip
