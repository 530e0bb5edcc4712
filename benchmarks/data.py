"""Images a second of one MNIST epoch: the whole set as a tensor against a loader that transforms each image.

    python benchmarks/data.py [--epochs 3] [--batch 128]

The loader is torch's, with two workers and a per-image transform (to float, scale, normalize), its workers kept between
epochs. Both give the same batches of float32. Epochs alternate, so that what else the machine does meets both; medians.
MNIST is used where it is at hand, else bytes of its shape.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Iterable

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from fuxian.data.images import ImageSplit, mnist
from fuxian.errors import DataMissing

MEAN, STD = 0.1307, 0.3081


class PerImage(Dataset[tuple[Tensor, int]]):
    def __init__(self, split: ImageSplit) -> None:
        self.image, self.label = split.image, split.label

    def __len__(self) -> int:
        return len(self.label)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return (self.image[index].float().div(255) - MEAN) / STD, int(self.label[index])


def seconds(batches: Iterable[object]) -> float:
    start = time.perf_counter()
    for _ in batches:
        pass
    return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--batch", type=int, default=128)
    args = parser.parse_args()
    torch.set_num_threads(1)
    try:
        split, kind = mnist(mean=[MEAN], std=[STD]).train, "MNIST"
    except DataMissing:
        image = torch.randint(0, 256, (60_000, 1, 28, 28), dtype=torch.uint8)
        split, kind = ImageSplit(image, torch.randint(0, 10, (60_000,)), [MEAN], [STD]), "bytes of MNIST's shape"
    assert isinstance(split, ImageSplit)
    loader = DataLoader(PerImage(split), args.batch, shuffle=True, num_workers=2, persistent_workers=True)
    indices = torch.arange(2)
    torch.testing.assert_close(split.batch(indices).image, torch.stack([loader.dataset[i][0] for i in (0, 1)]))

    seconds(loader)  # starts the workers
    ours, theirs = [], []
    for _ in range(args.epochs):
        ours.append(seconds(split.batch(rows) for rows in torch.randperm(len(split)).split(args.batch)))
        theirs.append(seconds(loader))
    rates = [len(split) / statistics.median(times) for times in (ours, theirs)]
    ratio = statistics.median(their / our for our, their in zip(ours, theirs, strict=True))
    print(f"{kind}, {len(split):,} images, batches of {args.batch}, {args.epochs} epochs each, one thread")
    print(f"whole set as a tensor   {rates[0]:>12,.0f} images/s")
    print(f"DataLoader, 2 workers   {rates[1]:>12,.0f} images/s")
    print(f"ratio                   {ratio:>12.1f}")


if __name__ == "__main__":
    main()
