"""PatchTST: a Transformer whose words are patches of a series; every channel is read alone, by the same weights.

中文     分块时间序列 Transformer
Paper    Nie, Nguyen, Sinthong & Kalagnanam, ICLR 2023, arXiv:2211.14730: sec. 3.1 (model), Table 3 (PatchTST/42)
         He et al., 2020, arXiv:2012.11747 (RealFormer: scores add up from layer to layer; only the code has them)
Code     yuqinie98/PatchTST @ 204c21e, PatchTST_supervised: layers/PatchTST_backbone.py (model), run_longExp.py and
         scripts/PatchTST/etth1.sh (settings), exp/exp_main.py, utils/tools.py (protocol)
Departs  40 epochs, where etth1.sh has 100: by then the rate has faded to a fiftieth, and the other sixty have 0.016 of what
         all rates sum to; every window of val and test counts: theirs leave out the last, short batch of both
         (data_factory.py, drop_last), and as_published counts like the table
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fuxian import figures
from fuxian.contract import Stage
from fuxian.data.series import series_data
from fuxian.errors import WrongInput
from fuxian.facts import Claim, Paper, Within
from fuxian.objectives.forecasting import SquaredError, places, whole_batches
from fuxian.optim import adam, steps

PAPER = Paper("A Time Series is Worth 64 Words: Long-term Forecasting with Transformers", "Nie et al.", 2023, venue="ICLR",
              arxiv="2211.14730")  # fmt: skip
# Theirs are single runs. The tolerance is that of DLinear: a hundredth, what seeds and the uncounted windows move.
CLAIMS = [
    Claim("test/mse", 0.375, where="Table 3, PatchTST/42, ETTh1, 96", tolerance=0.005, seeds=3, better="lower"),
    Claim("test/mae", 0.399, where="Table 3, PatchTST/42, ETTh1, 96", tolerance=0.005, seeds=3, better="lower"),
    Claim("test/mse", 0.414, where="Table 3, PatchTST/42, ETTh1, 192", tolerance=0.005, seeds=3, better="lower",
          knobs=dict(horizon=192)),
    Claim("test/mse", 0.431, where="Table 3, PatchTST/42, ETTh1, 336", tolerance=0.005, seeds=3, better="lower",
          knobs=dict(horizon=336)),
    Claim("test/mse", 0.449, where="Table 3, PatchTST/42, ETTh1, 720", tolerance=0.005, seeds=3, better="lower",
          knobs=dict(horizon=720)),
    Claim("test/mse", 0.274, where="Table 3, PatchTST/42, ETTh2, 96", tolerance=0.005, seeds=3, better="lower",
          knobs=dict(data="etth2")),
]  # fmt: skip
QUICK = dict(data="waves", window=48, horizon=24, dropout=0.0, lr=0.003, batch=64, epochs=4)

# Shape letters: B windows, L steps of the past, H steps ahead, C channels, N series (B C), P patches, D width, A heads,
# E width of a head (D / A).


class Layer(nn.Module):
    """Attention and a net of two layers, a batch norm after each: over series and patches, one for each of D."""

    def __init__(self, width: int, heads: int, hidden: int, dropout: float) -> None:
        super().__init__()
        self.heads, self.dropout = heads, nn.Dropout(dropout)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.net = nn.Sequential(nn.Linear(width, hidden), nn.GELU(), nn.Dropout(dropout), nn.Linear(hidden, width))
        self.norms = nn.ModuleList(nn.BatchNorm1d(width) for _ in range(2))

    def forward(self, x_NPD: Tensor, before_NAPP: Tensor | None) -> tuple[Tensor, Tensor]:
        """The patches after this layer, and softmax's inputs: q·k / √E, added to those of the layer before."""
        q, k, v = self.qkv(x_NPD).unflatten(2, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        scores_NAPP = (q / q.shape[3] ** 0.5) @ k.transpose(2, 3)
        if before_NAPP is not None:
            scores_NAPP = scores_NAPP + before_NAPP
        taken_NPD = (scores_NAPP.softmax(3) @ v).transpose(1, 2).flatten(2)
        x_NPD = self.norm(0, x_NPD + self.dropout(self.dropout(self.out(taken_NPD))))  # twice: to_out, dropout_attn
        return self.norm(1, x_NPD + self.dropout(self.net(x_NPD))), scores_NAPP

    def norm(self, which: int, x_NPD: Tensor) -> Tensor:
        return self.norms[which](x_NPD.flatten(0, 1)).view_as(x_NPD)


class PatchTST(nn.Module):
    """Sec. 3.1: a patch of numbers is mapped to D and is given its place; a linear map of all patches is the future.

    One begins every `stride` steps. The last value, `stride` times more, makes room for one at the end. Raises WrongInput.
    """

    def __init__(
        self, window: int, horizon: int, patch: int, stride: int,
        width: int, depth: int, heads: int, hidden: int, dropout: float,
    ) -> None:  # fmt: skip
        super().__init__()
        if patch > window:
            raise WrongInput(f"patch={patch} is longer than the window of {window}", do="a smaller --patch")
        if width % heads:
            raise WrongInput(f"width={width} cannot be split among {heads} heads", do="make it a multiple of heads")
        self.stride = stride
        patches = (window - patch) // stride + 2
        self.embed = nn.Conv1d(1, width, patch, stride)  # a linear map of each patch
        self.place = nn.Parameter(torch.empty(patches, width).uniform_(-0.02, 0.02))  # positional_encoding, "zeros"
        self.dropout = nn.Dropout(dropout)
        self.layers = nn.ModuleList(Layer(width, heads, hidden, dropout) for _ in range(depth))
        self.head = nn.Linear(patches * width, horizon)

    @staticmethod
    def standard(past_BLC: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Each channel of a window without its mean and deviation (B, C, L), and these (B, 1, C): RevIN.py, affine 0."""
        mean_B1C = past_BLC.mean(1, keepdim=True)
        std_B1C = (past_BLC.var(1, keepdim=True, correction=0) + 1e-5).sqrt()
        return ((past_BLC - mean_B1C) / std_B1C).transpose(1, 2), mean_B1C, std_B1C

    def read(self, series_NL: Tensor) -> tuple[Tensor, Tensor]:
        """The patches of series after the last layer (N, P, D), and softmax's inputs there (N, A, P, P)."""
        longer_N1L = F.pad(series_NL[:, None], (0, self.stride), mode="replicate")
        x_NPD = self.dropout(self.embed(longer_N1L).transpose(1, 2) + self.place)
        scores_NAPP: Any = None
        for layer in self.layers:
            x_NPD, scores_NAPP = layer(x_NPD, scores_NAPP)
        return x_NPD, scores_NAPP

    def forward(self, past_BLC: Tensor) -> Tensor:
        series_BCL, mean_B1C, std_B1C = self.standard(past_BLC)
        x_NPD, _ = self.read(series_BCL.flatten(0, 1))
        told_BCH = self.head(x_NPD.flatten(1)).unflatten(0, series_BCL.shape[:2])
        return told_BCH.transpose(1, 2) * std_B1C + mean_B1C


class PatchForecast(SquaredError):
    """The squared error; and what each patch takes from the others, as a picture."""

    def pictures(self, model: PatchTST, split: Any) -> dict[str, Any]:
        device = self.mean.device
        series_BCL, *_ = model.standard(split.batch(places(split, 64, device)).to(device).past)
        _, scores_NAPP = model.read(series_BCL.flatten(0, 1))
        taken_PP = scores_NAPP.softmax(3).mean((0, 1))
        P = len(taken_PP)
        drawn = figures.matrix(
            P * taken_PP - 1, (0.5, P + 0.5), (0.5, P + 0.5), x="of this patch", y="what a patch takes, over an even share"
        )
        return super().pictures(model, split) | {"attention": drawn}


def recipe(
    data: Literal["etth1", "etth2", "ettm1", "exchange-rate", "waves", "linear-noise", "quadratic-noise"] | Path
    = "etth1",                                     # a series, in the order of time
    window: Annotated[int, Within(1)] = 336,       # steps of the past that are seen; etth1.sh, seq_len
    horizon: Annotated[int, Within(1)] = 96,       # steps ahead that are told; 96, 192, 336, 720
    windows: Literal["all", "blocks", "rolling"] = "all",  # of val and test: all, those that share no step, 5 in a row
    patch: Annotated[int, Within(1)] = 16,         # steps of a patch; etth1.sh
    stride: Annotated[int, Within(1)] = 8,         # steps from a patch to the next; etth1.sh
    width: int = 16,                               # numbers that stand for a patch; etth1.sh, d_model
    depth: Annotated[int, Within(1)] = 3,          # layers; etth1.sh
    heads: int = 4,                                # of attention; etth1.sh
    hidden: int = 128,                             # units of a layer's net; etth1.sh, d_ff
    dropout: float = 0.3,                          # probability; etth1.sh
    lr: float = 1e-4,                              # Adam, times 0.9 each epoch from the fifth on; etth1.sh, lradj type3
    batch: int = 128,                              # windows a step, of all channels; etth1.sh
    epochs: int = 40,                              # the best on val is kept; etth1.sh takes 100, most at a rate of none
) -> Iterator[Stage]:  # fmt: skip
    series = series_data(data, window, horizon, windows)
    model = PatchTST(window, horizon, patch, stride, width, depth, heads, hidden, dropout)
    objective = PatchForecast(series.columns, series.mean, series.std)
    epoch = len(series.train) // batch
    fading = steps([epoch * i for i in range(4, epochs)], by=0.9)  # tools.py, adjust_learning_rate
    yield Stage(model, series, objective, adam(lr, schedule=fading), epochs=epochs, batch=batch, drop_last=True,
                select="-mse")  # fmt: skip  # exp_main.py; a patience of 100 epochs ends no run
    return whole_batches(model, objective, series.test, batch)
