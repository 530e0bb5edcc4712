"""Classification: cross-entropy to learn by, error and accuracy to be judged by."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from fuxian import figures
from fuxian.contract import Objective
from fuxian.evaluation import batches


class Classification(Objective):
    """Cross-entropy of `model(image)`, logits (batch, classes), against `label`. `names` are the classes, for pictures."""

    def __init__(self, names: tuple[str, ...] = ()) -> None:
        self.names = names

    def inputs(self, batch: Any) -> tuple[Tensor, ...]:
        return (batch.image,)

    def losses(self, model: Any, batch: Any) -> Iterator[tuple[str, Tensor]]:
        yield "model", F.cross_entropy(model(*self.inputs(batch)), batch.label)

    def evaluate(self, model: Any, batch: Any) -> Iterator[tuple[str, Tensor]]:
        logits = model(*self.inputs(batch))
        right = logits.argmax(1) == batch.label
        yield "loss", F.cross_entropy(logits, batch.label, reduction="none")
        yield "accuracy", right.float()
        yield "error", (~right).float()

    def predict(self, model: Any, batch: Any) -> list[dict[str, Any]]:
        return ranked(model(*self.inputs(batch)).softmax(1), self.names)

    def pictures(self, model: Any, split: Any) -> dict[str, Any]:
        """The confusion matrix, and the first examples that the model gets wrong."""
        true, predicted, wrong = [], [], []
        for batch in batches(split, 1000, next(model.parameters()).device):
            guess = model(*self.inputs(batch)).argmax(1)
            true.append(batch.label)
            predicted.append(guess)
            wrong += list(
                zip(*(column[guess != batch.label].cpu() for column in (batch.image, batch.label, guess)), strict=True)
            )
        classes = len(self.names)
        matrix = torch.bincount(torch.cat(true) * classes + torch.cat(predicted), minlength=classes**2).view(
            classes, classes
        )
        drawn: dict[str, Any] = {"confusion": figures.confusion(matrix, self.names)}
        if wrong:
            images, labels, guesses = zip(*wrong[:24], strict=True)
            low, high = torch.stack(images).aminmax()
            shown = (torch.stack(images) - low) / (high - low)
            drawn["mistakes"] = figures.labelled_images(
                1 - shown if shown.shape[1] == 1 else shown,  # grey digits as ink on paper
                [f"{self.names[t]}, read as {self.names[p]}" for t, p in zip(labels, guesses, strict=True)],
                columns=6,
            )
        return drawn


def ranked(probability: Tensor, names: Sequence[str], most: int = 3) -> list[dict[str, Any]]:
    """What `predict` says of probabilities (examples, classes): the likeliest class, and what comes then."""
    best = probability.topk(min(most, len(names)))
    rows = []
    for values, indices in zip(best.values.tolist(), best.indices.tolist(), strict=True):
        (name, first), *others = zip((names[i] for i in indices), values, strict=True)
        rows.append({"class": name, "probability": first, "then": dict(others)})
    return rows
