"""Softmax regression: one layer gives ten classes their probabilities; and the same layer asked for a number instead.

中文     softmax 回归与交叉熵
Paper    Bridle, in Neurocomputing (Springer), 1990: the softmax, and cross-entropy of what it gives
         LeCun et al., Proc. IEEE 86(11), 1998: Fig. 9 (linear classifier)
Code     TensorFlow's tutorial "MNIST For ML Beginners", tensorflow/tensorflow @ r1.1,
         tensorflow/examples/tutorials/mnist/mnist_softmax.py: weights that start at zero, steps, batch, rate
Departs  all 60,000 images, the tutorial trains on 55,000. The notes call the squared error insensitive to outliers because
         it squares them; so it is the sensitive one: its best constant is the mean, the absolute error's the median
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fuxian import figures
from fuxian.contract import Objective, Stage
from fuxian.data.images import Images, image_data
from fuxian.evaluation import batches
from fuxian.facts import Claim, Paper, Within
from fuxian.objectives.classification import Classification
from fuxian.optim import adam, sgd

PAPER = Paper("Probabilistic Interpretation of Feedforward Classification Network Outputs", "Bridle", 1990,
              venue="Neurocomputing, Springer")  # fmt: skip
CLAIMS = [
    # "about 92 %" is a number of two digits
    Claim("test/accuracy", 0.92, where="MNIST For ML Beginners, at its end", tolerance=0.005, seeds=5),
    Claim("test/error", 0.12, where="LeCun et al. 1998, Fig. 9, linear", tolerance=0.003, seeds=5, better="lower",
          comparison="how theirs was trained is not said; ours: softmax and cross-entropy"),
    Claim("test/composition_gap", 0.0, where="the notes: CrossEntropyLoss = log_softmax + NLLLoss", seeds=1,
          better="lower"),
    Claim("outlier/squared", 9.0, where="ten sevens, one read as 97: the mean moves by 90 / 10", seeds=1, tolerance=1e-6,
          better="equal"),
    Claim("outlier/absolute", 0.0, where="ten sevens, one read as 97: the median stays", seeds=1, better="equal"),
    Claim("number/test/accuracy", None, where="digits as a number: nobody publishes it", seeds=5),
]  # fmt: skip
QUICK = dict(data="digits", steps=300)

# Shape letters: B images, P pixels, C classes.


def softmax(z_BC: Tensor) -> Tensor:
    """exp(z) / Σ exp(z); the largest is taken off first, which changes nothing but that exp stays finite."""
    e_BC = (z_BC - z_BC.amax(1, keepdim=True)).exp()
    return e_BC / e_BC.sum(1, keepdim=True)


def log_softmax(z_BC: Tensor) -> Tensor:
    """z - log Σ exp(z): finite also where a probability is too small for a float."""
    z_BC = z_BC - z_BC.amax(1, keepdim=True)
    return z_BC - z_BC.exp().sum(1, keepdim=True).log()


def nll(log_p_BC: Tensor, label_B: Tensor) -> Tensor:
    """-log p of the true class (B,): -Σ y log ŷ, where y is one at the true class and zero elsewhere."""
    return -log_p_BC.gather(1, label_B[:, None])[:, 0]


def sigmoid_gradients(z: Tensor, y: float) -> dict[str, Tensor]:
    """∂loss/∂z of one sigmoid unit that should say `y`: the squared error's has a factor that is zero where σ saturates."""
    p = z.sigmoid()
    return {"cross-entropy": p - y, "squared error": (p - y) * p * (1 - p)}  # of -y log p - (1-y) log(1-p); of ½ (p - y)²


class Linear(nn.Module):
    """(B, channels, height, width) images to (B, outputs); the weights start at zero: mnist_softmax.py."""

    def __init__(self, pixels: int, outputs: int) -> None:
        super().__init__()
        self.layer = nn.Linear(pixels, outputs)
        nn.init.zeros_(self.layer.weight)
        nn.init.zeros_(self.layer.bias)

    def forward(self, image: Tensor) -> Tensor:
        return self.layer(image.flatten(1))


class AsNumber(Objective):
    """Squared error of one output against the class's number; read as the nearest class."""

    def __init__(self, names: tuple[str, ...]) -> None:
        self.names = names

    def inputs(self, batch: Images) -> tuple[Tensor, ...]:
        return (batch.image,)

    def losses(self, model: Any, batch: Images) -> Iterator[tuple[str, Tensor]]:
        yield "model", (model(batch.image)[:, 0] - batch.label).square().mean()

    def read(self, number_B: Tensor) -> Tensor:
        return number_B.round().clamp(0, len(self.names) - 1).long()

    def evaluate(self, model: Any, batch: Images) -> Iterator[tuple[str, Tensor]]:
        number_B = model(batch.image)[:, 0]
        guess_B = self.read(number_B)
        yield "loss", (number_B - batch.label).square()
        yield "accuracy", (guess_B == batch.label).float()
        yield "within_one", ((guess_B - batch.label).abs() <= 1).float()

    def pictures(self, model: Any, split: Any) -> dict[str, Any]:
        """Its mistakes lie beside the diagonal: to a number, a three is nearer to a four than to an eight."""
        classes, counts = len(self.names), torch.zeros(len(self.names) ** 2, dtype=torch.int64)
        for batch in batches(split, 1000, model.layer.weight.device):
            cell_B = batch.label * classes + self.read(model(batch.image)[:, 0])
            counts += torch.bincount(cell_B, minlength=classes**2).cpu()
        return {"confusion": figures.confusion(counts.view(classes, classes), self.names)}


class AsClasses(Classification):
    """Cross-entropy of the softmax, written out."""

    def losses(self, model: Any, batch: Images) -> Iterator[tuple[str, Tensor]]:
        yield "model", nll(log_softmax(model(batch.image)), batch.label).mean()

    def evaluate(self, model: Any, batch: Images) -> Iterator[tuple[str, Tensor]]:
        yield from super().evaluate(model, batch)
        z_BC = model(batch.image)
        composed = F.nll_loss(F.log_softmax(z_BC, 1), batch.label, reduction="none")
        yield "composition_gap", (F.cross_entropy(z_BC, batch.label, reduction="none") - composed).abs()

    def pictures(self, model: Any, split: Any) -> dict[str, Any]:
        """The weights of each class as an image: ink speaks for the class, white against, grey is nothing."""
        sample = split.batch(torch.arange(1)).image
        weight_C1HW = model.layer.weight.detach().cpu().view(-1, *sample.shape[1:]).mean(1, keepdim=True)
        z = torch.linspace(-6, 6, 121)
        curves = {name: (z, gradient) for name, gradient in sigmoid_gradients(z, y=0.0).items()}
        r = torch.linspace(-10, 10, 201)
        pull = {"squared error": (r, r), "absolute error": (r, r.sign())}
        return {
            "weights": figures.labelled_images(0.5 - weight_C1HW / (2 * weight_C1HW.abs().max()), self.names, columns=5),
            **super().pictures(model, split),
            "gradient": figures.lines(curves, x="input z of a sigmoid that should say 0", y="∂ loss / ∂ z"),
            "outlier": figures.lines(pull, x="residual ŷ - y", y="∂ loss / ∂ ŷ: what one example pulls with"),
        }


def recipe(
    data: Literal["mnist", "fashion-mnist", "digits"] | Path = "mnist",  # images with a label each
    steps: int = 1000,    # of both; mnist_softmax.py
    batch: int = 100,     # images a step; mnist_softmax.py
    lr: float = 0.5,      # gradient descent on cross-entropy; mnist_softmax.py
    number_lr: Annotated[float, Within(0, above=True)] = 0.01,  # Adam on the squared error
) -> Iterator[Stage]:  # fmt: skip
    images = image_data(data)
    pixels = images.channels * images.size**2
    yield Stage(Linear(pixels, 1), images, AsNumber(images.names), adam(number_lr), steps=steps, batch=batch, name="number")
    model = Linear(pixels, images.classes)
    yield Stage(model, images, AsClasses(images.names), sgd(lr), steps=steps, batch=batch, name="classes")
    read = torch.tensor([7.0] * 9 + [97.0])  # ten times a seven, once misread
    return {"outlier/squared": float(read.mean()) - 7, "outlier/absolute": float(read.median()) - 7}
