"""Random changes of training images, a whole batch at once on its device: functions of (batch, channels, height, width).

Each image has its own draw, from torch's default generator. `augmented` gives them to a training split, and to no other.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def crop(image: Tensor, padding: int) -> Tensor:
    """Zeros around each image, `padding` pixels wide, and from that a part of the image's own size, anywhere.

    Zero is the mean where images are normalized. The result is stored channels last.
    """
    batch, _, height, width = image.shape
    top, left = torch.randint(2 * padding + 1, (2, batch, 1), device=image.device)
    rows = top + torch.arange(height, device=image.device)  # (batch, height)
    columns = left + torch.arange(width, device=image.device)
    index = torch.arange(batch, device=image.device)[:, None, None]
    padded = F.pad(image, [padding] * 4)
    return padded[index, :, rows[:, :, None], columns[:, None, :]].permute(
        0, 3, 1, 2
    )  # gathered as (batch, h, w, channels)


def flip(image: Tensor) -> Tensor:
    """Every second image, on average, with left and right exchanged."""
    mirrored = torch.rand(len(image), 1, 1, 1, device=image.device) < 0.5
    return torch.where(mirrored, image.flip(3), image)
