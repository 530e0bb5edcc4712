"""Pictures as graphs: cut into regions, of which those are neighbours that touch.

Shape letters: B pictures, P pixels, S superpixels, E sides between two pixels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

import torch
from torch import Tensor
from typing_extensions import Self

from fuxian.contract import Sealed, Splits
from fuxian.data.images import Images, ImageSplits
from fuxian.errors import WrongInput


@dataclass(frozen=True)
class Superpixels(Images):
    """Pictures, and the graph that each became: its nodes are regions, joined where they share a side of a pixel."""

    features: Tensor  # (batch, S, 7) float32
    adjacency: Tensor  # (batch, S, S) float32, 1 between neighbours, no self-loops
    region: Tensor  # (batch, height, width) int64, the number of each pixel's region


class SuperpixelSplit:
    """Pictures that have been cut into superpixels."""

    def __init__(self, all: Superpixels) -> None:
        self.all = all

    @property
    def device(self) -> torch.device:
        return self.all.label.device

    def to(self, device: torch.device | str) -> Self:
        self.all = self.all.to(device)
        return self

    def __len__(self) -> int:
        return len(self.all)

    def batch(self, indices: Tensor) -> Superpixels:
        return Superpixels(**{f.name: getattr(self.all, f.name)[indices] for f in fields(self.all)})


class SuperpixelGraphs(Splits):
    """Grey pictures as graphs of `superpixels` nodes with `features` each, in `classes` classes with these `names`."""

    FEATURES = ("grey", "across", "down", "size", "spread across", "spread down", "slant")

    def __init__(self, pictures: ImageSplits, superpixels: int) -> None:
        if not 1 <= superpixels <= pictures.size**2:
            raise WrongInput(f"{superpixels:,} superpixels: a picture of {pictures.name} has {pictures.size**2:,} pixels")
        self.pictures, self.superpixels = pictures, superpixels
        parts = [part.split if isinstance(part, Sealed) else part for part in (pictures.train, pictures.val, pictures.test)]
        splits = [part and SuperpixelSplit(self.cut(part.batch(torch.arange(len(part))))) for part in parts]
        super().__init__(*splits, name=pictures.name, hashes=pictures.hashes)  # type: ignore[arg-type]
        self.features, self.classes, self.names = len(self.FEATURES), pictures.classes, pictures.names

    def cut(self, pictures: Images) -> Superpixels:
        """Of each superpixel: mean grey; centre, in -1 to 1; size, 1 for the mean; variances and covariance of places."""
        grey_BP = pictures.image[:, 0].flatten(1)
        region_BHW = superpixels(pictures.image[:, 0], self.superpixels)
        region_BP = region_BHW.flatten(1)
        side = torch.linspace(-1, 1, pictures.image.shape[-1])
        down_P, across_P = (axis.flatten() for axis in torch.meshgrid(side, side, indexing="ij"))

        def total(value: Tensor) -> Tensor:
            """(B, S)"""
            return torch.zeros(len(grey_BP), self.superpixels).scatter_add(1, region_BP, value.expand_as(grey_BP))

        count = total(torch.ones(()))
        grey, across, down = (total(value) / count for value in (grey_BP, across_P, down_P))
        spread = (
            total(a * b) / count - mean_a * mean_b
            for a, b, mean_a, mean_b in (
                (across_P, across_P, across, across),
                (down_P, down_P, down, down),
                (across_P, down_P, across, down),
            )
        )
        size = count * self.superpixels / grey_BP.shape[1]
        one, other = sides(*region_BHW.shape[1:])
        joined = region_BP[:, one] * self.superpixels + region_BP[:, other]  # (B, E)
        adjacency = torch.zeros(len(grey_BP), self.superpixels**2).scatter(1, joined, 1.0)
        adjacency = adjacency.view(-1, self.superpixels, self.superpixels)
        adjacency = adjacency.maximum(adjacency.transpose(1, 2)) * (1 - torch.eye(self.superpixels))
        features = torch.stack([grey, across, down, size, *spread], 2)
        return Superpixels(pictures.image, pictures.label, features, adjacency, region_BHW)

    def about(self) -> dict[str, Any]:
        return {
            "values": f"each picture is cut into {self.superpixels} superpixels; of each its {', '.join(self.FEATURES)}; "
            "as adjacency 1 where two touch",
            "superpixels": self.superpixels,
            "classes": self.names,
        }

    def read(self, words: Sequence[str]) -> Superpixels:
        """Files of pictures, cut as the others were."""
        return self.cut(self.pictures.read(words))


def sides(height: int, width: int) -> tuple[Tensor, Tensor]:
    """The two pixels on either side of each inner side of a grid, numbered row by row, (E,) each."""
    place = torch.arange(height * width).view(height, width)
    pairs = [(place[:, :-1], place[:, 1:]), (place[:-1], place[1:])]
    one, other = (torch.cat([pair[i].flatten() for pair in pairs]) for i in (0, 1))
    return one, other


def superpixels(image_BHW: Tensor, count: int) -> Tensor:
    """Cuts each grey picture into `count` connected regions (B, H, W), numbered by their first pixels.

    Every pixel begins as a region. Of all neighbours those two are joined whose union adds the least to the sum of squares
    around the regions' means, na nb / (na + nb) (mean a - mean b)², until `count` are left; of equal ones the first.
    Ward, Hierarchical Grouping to Optimize an Objective Function, JASA 58, 1963.
    """
    value_BP = image_BHW.flatten(1).double()
    region_BP = torch.arange(value_BP.shape[1]).repeat(len(value_BP), 1)
    one_E, other_E = sides(*image_BHW.shape[1:])
    for _ in range(value_BP.shape[1] - count):
        size_BP = torch.zeros_like(value_BP).scatter_add(1, region_BP, torch.ones_like(value_BP))
        mean_BP = torch.zeros_like(value_BP).scatter_add(1, region_BP, value_BP) / size_BP.clamp_min(1)
        a_BE, b_BE = region_BP[:, one_E], region_BP[:, other_E]
        na, nb, ma, mb = (t.gather(1, i) for t in (size_BP, mean_BP) for i in (a_BE, b_BE))
        cost_BE = (na * nb / (na + nb) * (ma - mb).square()).masked_fill(a_BE == b_BE, torch.inf)
        least_B1 = cost_BE.argmin(1, keepdim=True)
        a_B1, b_B1 = a_BE.gather(1, least_B1), b_BE.gather(1, least_B1)
        region_BP = torch.where(region_BP == a_B1.maximum(b_B1), a_B1.minimum(b_B1), region_BP)
    first_BP = region_BP == torch.arange(region_BP.shape[1])  # a region is named by its first pixel
    return (first_BP.cumsum(1) - 1).gather(1, region_BP).view(image_BHW.shape)
