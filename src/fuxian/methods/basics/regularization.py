"""Regularization: a net learns a few images by heart, and what stops it: early stopping, dropout, batch normalization.

The same net four times, from the same first weights. Both layers work one way in training and another in evaluation;
what it costs to forget `eval()` is measured too.

中文     正则化：早停、Dropout、批归一化
Paper    Srivastava et al., JMLR 15, 2014 (before it Hinton et al. 2012, arXiv:1207.0580): sec. 4 (the model), sec. 10
         (scaled in training)
         Ioffe & Szegedy, ICML 2015, arXiv:1502.03167: alg. 1 (in training), alg. 2 (in evaluation)
         Prechelt, Early Stopping - But When?, 1998: to stop by validation
         the notes, sec. 4: of 100 units at p = 0.5 half are closed; over-fitting is training error down, test error up
Departs  dropout's outputs are scaled up in training, not its weights down in evaluation: their sec. 10, and all libraries.
         Batch normalization keeps running statistics, as libraries do, where alg. 2 takes many batches at the end.
         Prechelt's UP stops after so many rises in a row, ours after so many epochs without a new least
"""

from collections.abc import Iterator, Mapping
from copy import deepcopy
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
from torch import Tensor, nn

from fuxian import figures
from fuxian.contract import Split, Stage
from fuxian.data.images import Images, ImageSplits, hold_out, image_data, standardized
from fuxian.errors import WrongInput
from fuxian.evaluation import batches, measure
from fuxian.facts import Claim, Paper, Within
from fuxian.objectives.classification import Classification
from fuxian.optim import adam, patience

PAPER = Paper("Dropout: A Simple Way to Prevent Neural Networks from Overfitting", "Srivastava et al.", 2014, venue="JMLR")
CLAIMS = [
    Claim("dropout/test/accuracy", None, where="1,000 images of MNIST: nobody publishes it", seeds=5),
    Claim("batch-norm/test/accuracy", None, where="1,000 images of MNIST: nobody publishes it", seeds=5),
    Claim("early-stopping/test/loss", None, where="where the validation turned", seeds=5, better="lower"),
    Claim("plain/test/loss", None, where="learned by heart", seeds=5, better="lower"),
    Claim("turns_by", None, where="the notes: training error falls, the other rises; nats from its least", seeds=5),
    # of 10,000 draws: four standard errors
    Claim("closed", 50.0, where="the notes, sec. 4: of 100 units at p = 0.5, half", tolerance=0.2, seeds=1, better="equal"),
    Claim("dropout_mean", 1.0, where="JMLR, sec. 10: the mean is kept", tolerance=0.004, seeds=1,
          better="equal"),
    Claim("dropout_eval_gap", 0.0, where="in evaluation dropout does nothing", seeds=1, better="equal"),
    Claim("batch_norm_company_gap", 0.0, where="alg. 2: alone or in company", seeds=1, better="equal"),
]  # fmt: skip
QUICK = dict(data="digits", images=300, width=128, epochs=20, lr=3e-3)

# Shape letters: B images, U units, E epochs.


class Dropout(nn.Module):
    """In training each number is zero with probability p, or 1/(1 - p) times itself; in evaluation itself."""

    def __init__(self, p: float) -> None:
        super().__init__()
        self.p = p

    def forward(self, x: Tensor) -> Tensor:
        if not self.training or self.p == 0:
            return x
        if self.p == 1:
            return torch.zeros_like(x)
        return x * torch.empty_like(x).bernoulli_(1 - self.p) / (1 - self.p)  # sec. 4, r ~ Bernoulli; sec. 10


class BatchNorm(nn.Module):
    """Each unit (B, U) less its mean, over its deviation, times γ and plus β: of the batch in training (alg. 1), of what
    running means have kept of all batches in evaluation (alg. 2). Raises WrongInput for a batch of one in training."""

    mean: Tensor
    var: Tensor

    def __init__(self, units: int, momentum: float = 0.1, eps: float = 1e-5) -> None:
        super().__init__()
        self.momentum, self.eps = momentum, eps
        self.gamma, self.beta = nn.Parameter(torch.ones(units)), nn.Parameter(torch.zeros(units))
        self.register_buffer("mean", torch.zeros(units))
        self.register_buffer("var", torch.ones(units))

    def forward(self, x_BU: Tensor) -> Tensor:
        mean, var = self.mean, self.var
        if self.training:
            if len(x_BU) < 2:
                raise WrongInput(
                    "a batch of one has no deviation to normalize by", do="--batch 2 or more, and no image over"
                )
            mean, var = x_BU.mean(0), x_BU.var(0, correction=0)
            with torch.no_grad():
                self.mean.lerp_(mean, self.momentum)
                self.var.lerp_(var * len(x_BU) / (len(x_BU) - 1), self.momentum)  # unbiased: alg. 2, line 10
        return self.gamma * (x_BU - mean) / (var + self.eps).sqrt() + self.beta


class Net(nn.Sequential):
    """Images (B, channels, height, width) to logits (B, classes), through two hidden layers."""

    def __init__(self, pixels: int, width: int, classes: int, dropout: float = 0.0, batch_norm: bool = False) -> None:
        layers: list[nn.Module] = [nn.Flatten()]
        for fan_in in (pixels, width):
            layers.append(nn.Linear(fan_in, width, bias=not batch_norm))  # it would go with the mean: Ioffe, sec. 3.2
            layers += [BatchNorm(width)] * batch_norm + [nn.ReLU()] + [Dropout(dropout)] * (dropout > 0)
        super().__init__(*layers, nn.Linear(width, classes))

    def begin_as(self, other: "Net") -> None:
        """Takes the first weights of the other's linear layers, and biases where both have them."""
        with torch.no_grad():
            for mine, theirs in zip(linear(self), linear(other), strict=True):
                mine.weight.copy_(theirs.weight)
                if mine.bias is not None and theirs.bias is not None:
                    mine.bias.copy_(theirs.bias)


def linear(net: Net) -> list[nn.Linear]:
    return [layer for layer in net if isinstance(layer, nn.Linear)]


class OverFitting(Classification):
    """Cross-entropy; at the start of each epoch that of all images of training and of validation is kept, as it is in
    evaluation mode."""

    loss_E2: Tensor
    at: Tensor

    def __init__(self, data: ImageSplits, epochs: int, per_epoch: int) -> None:
        super().__init__(data.names)
        self.splits: tuple[Any, Any] = (data.train, data.val)
        self.per_epoch = per_epoch
        self.register_buffer("loss_E2", torch.full((epochs, 2), torch.nan))
        self.register_buffer("at", torch.tensor(0))  # steps so far

    def losses(self, model: Any, batch: Images) -> Iterator[tuple[str, Tensor]]:
        epoch, step = divmod(int(self.at), self.per_epoch)
        if step == 0:
            self.loss_E2[epoch] = torch.tensor([measure(model, self, split, 1000)["loss"] for split in self.splits])
        self.at += 1
        yield from super().losses(model, batch)

    def curve(self) -> Tensor:
        """(epochs that were begun, 2): losses of training and of validation."""
        return self.loss_E2[: -(-int(self.at) // self.per_epoch)].cpu()

    def pictures(self, model: Any, split: Any) -> dict[str, Any]:
        loss_E2 = self.curve()
        drawing = figures.lines({"training": after(loss_E2[:, 0]), "validation": after(loss_E2[:, 1])},
                                x="epochs", y="cross-entropy, nats")  # fmt: skip
        if len(loss_E2) > 1:
            best = 1 + int(loss_E2[1:, 1].argmin())
            least = float(loss_E2[best, 1])
            drawing.axes[0].plot(best, least, "o", color=figures.PALETTE["vermilion"], markersize=6)
            side = "right" if best > len(loss_E2) / 2 else "left"  # the names of the lines are on the right
            drawing.axes[0].annotate(f"least, {least:.3f}", (best, least), (0, -16), textcoords="offset points", ha=side)
        return {"over-fitting": drawing} | super().pictures(model, split)


def after(loss_E: Tensor) -> tuple[Tensor, Tensor]:
    """Epochs and losses without the first, of a net that has learned nothing yet: it would make all others small."""
    return torch.arange(1, len(loss_E)), loss_E[1:]


class Compared(OverFitting):
    """The last of the nets: drawn beside the others. `before` are their objectives, `nets` all four.

    The curve of the one that was stopped ends where its weights are from."""

    def __init__(self, *given: Any, nets: Mapping[str, Net], before: Mapping[str, OverFitting]) -> None:
        super().__init__(*given)
        self.nets, self.before = nets, before

    def pictures(self, model: Any, split: Any) -> dict[str, Any]:
        curves = dict(zip(self.nets, (*self.before.values(), self), strict=True))
        loss = {name: of.curve()[:, 1] for name, of in curves.items()}
        sizes = {"eval()": 0, "forgotten, of 100": 100, "of 2 images": 2}
        shares = torch.tensor(
            [[accuracy(net, self.splits[1], size) for size in sizes.values()] for net in self.nets.values()]
        )
        return super().pictures(model, split) | {
            "validation": figures.lines({name: after(loss_E) for name, loss_E in loss.items()},
                                        x="epochs", y="cross-entropy of validation, nats"),
            "forgotten": figures.heatmap(shares, list(self.nets), list(sizes), title="accuracy, %, if eval() is forgotten"),
        }  # fmt: skip


def accuracy(net: Net, split: Split, in_training: int = 0) -> float:
    """Of the first thousand images or fewer: in evaluation mode; or in training mode, so many at a time."""
    net, right, seen = deepcopy(net).train(bool(in_training)), 0, min(1000, len(split)) // 2 * 2
    first = split.batch(torch.arange(seen, device=getattr(split, "device", None))).to(linear(net)[0].weight.device)
    with torch.no_grad():
        for batch in first.chunk(-(-seen // in_training) if in_training else 1):
            right += int((net(batch.image).argmax(1) == batch.label).sum())
    return right / seen


def few(data: ImageSplits, images: int) -> ImageSplits:
    """The first so many training images, standardized by them alone. Raises WrongInput where there are too few."""
    train: Any = data.train
    val: Any = data.val
    if images > len(train):
        raise WrongInput(f"--images {images}: {data.name} has {len(train):,} to train on")
    if len(val) < 2:
        raise WrongInput(f"{data.name}: one image to validate on; it takes two or more")
    some = ImageSplits(train.part(slice(0, images)), val, data.test, name=data.name, names=data.names,
                       hashes=data.hashes)  # fmt: skip
    return standardized(some)


def layers_alone(x_BU: Tensor) -> dict[str, float]:
    """What either layer does to numbers that are known, and to images (B, U) in company and alone."""
    drop, norm = Dropout(0.5), BatchNorm(x_BU.shape[1])
    ones = torch.ones(10_000, 100)
    closed = drop(ones)
    for some in x_BU.tensor_split(10):
        norm(some)
    in_training = norm(x_BU[:10])[:2] - norm(x_BU[:2])
    drop.eval()
    norm.eval()
    in_evaluation = norm(x_BU[:10])[:1] - norm(x_BU[:1])
    return {
        "closed": float((closed == 0).sum(1).double().mean()),
        "dropout_mean": float(closed.double().mean()),
        "dropout_eval_gap": float((drop(ones) - ones).abs().max()),
        "batch_norm_training_gap": float(in_training.detach().abs().max()),
        "batch_norm_company_gap": float(in_evaluation.detach().abs().max()),
    }


def recipe(
    data: Literal["mnist", "fashion-mnist", "digits"] | Path = "mnist",  # images with a label each
    images: Annotated[int, Within(20)] = 1000,   # to train on: few, so that they are learned by heart
    width: int = 512,          # units of both hidden layers
    dropout: float = 0.5,      # probability, after each hidden layer, of the net that has it; JMLR, appendix A
    epochs: int = 60,          # of all but the one that is stopped
    batch: int = 50,           # images a step
    lr: float = 1e-3,          # Adam
    wait: Annotated[int, Within(1)] = 5,  # epochs without a lower loss of validation before it is stopped
) -> Iterator[Stage]:  # fmt: skip
    if images % batch == 1 or batch == 1:
        raise WrongInput(f"--images {images}, --batch {batch}: a batch of one has no deviation to be normalized by",
                         do="a batch of 2 or more, and no single image over")  # fmt: skip
    splits = few(hold_out(image_data(data), 2000), images)
    shape = (splits.channels * splits.size**2, width, splits.classes)
    nets = {"plain": Net(*shape), "early-stopping": Net(*shape), "batch-norm": Net(*shape, batch_norm=True),
            "dropout": Net(*shape, dropout=dropout)}  # fmt: skip
    for net in nets.values():
        net.begin_as(nets["plain"])
    curves: dict[str, OverFitting] = {}
    given = (splits, epochs, -(-images // batch))
    for name, net in nets.items():
        early = name == "early-stopping"
        objective = OverFitting(*given)
        if name == "dropout":  # the last: it draws what all have done
            objective = Compared(*given, nets=nets, before=curves.copy())
        yield Stage(net, splits, objective, adam(lr), epochs=epochs, batch=batch, name=name,
                    stop=patience("-loss", wait) if early else None, select="-loss" if early else None)  # fmt: skip
        curves[name] = objective
    validation = curves["plain"].curve()[:, 1]
    pixels = next(iter(batches(splits.train, 100))).image.flatten(1).cpu()
    return {"turns_by": float(validation[-1] - validation.min()), **layers_alone(pixels)}
