"""Where the weights of GPT-3 are, matrix by matrix; and our own models' numbers of weights beside the published ones.

No weight is held: on torch's meta device a model has shapes and no numbers, so that 175 billion take no room.

中文     参数量
Paper    Brown et al., NeurIPS 2020, arXiv:2005.14165: Table 2.1 (eight sizes), sec. 2.1 (the model of GPT-2)
         the notes, after 3Blue1Brown's walk through GPT-3: vectors of 12,288, queries and keys of 128, 96 heads
Departs  the notes' value matrix of 12,288 × 12,288 is stored as two, down to 128 and up again ("output" here), or the 9,216
         heads would have 1.4 trillion weights. Heads share out the width and change no number: so counted, the two sizes
         whose heads do not divide it (XL, 13B) have the published number. Medium has 356 million, not 350; and 175B has
         174.6 billion as it is trained, 175.2 in its matrices with the unembedding apart, in neither count 175.0
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Annotated, Any

import torch
from matplotlib.figure import Figure
from torch import Tensor, nn

from fuxian import figures
from fuxian.contract import Batch, Objective, Splits, Stage
from fuxian.data.sources import digest
from fuxian.facts import Claim, Paper, Within
from fuxian.methods.generative.ddpm import UNet
from fuxian.methods.language.gpt1 import GPT
from fuxian.methods.language.gpt2 import GPT2
from fuxian.methods.vision.lenet import LeNet
from fuxian.methods.vision.resnet import ResNet

PAPER = Paper("Language Models are Few-Shot Learners", "Brown et al.", 2020, venue="NeurIPS", arxiv="2005.14165")
CLAIMS = [  # counted, so nothing is allowed; of the eight sizes, published in two to four digits, the mean is within 1 %
    Claim("train/equal", 1.0, where="seventeen models, each as published", seeds=1, better="equal"),
    Claim("matrices", 175181291520, where="3Blue1Brown, Deep Learning, ch. 5: total weights", seeds=1, better="equal"),
    Claim("trained", 174604259328, where="Table 2.1, 175B, by arithmetic", seeds=1, better="equal"),
    Claim("parts/train/equal", 1.0, where="the same by matrix, by arithmetic", seeds=1, better="equal"),
    Claim("sizes/train/gap", 0.0, where="Table 2.1, eight sizes", tolerance=0.01, seeds=1, better="lower"),
]
QUICK = dict(depth=12, width=768)  # GPT-3 Small
SEEDLESS = True

# Shape letter: R rows, a number each.


def gpt(depth: int, width: int, context: int = 2048, vocabulary: int = 50257) -> GPT2:
    return GPT2(vocabulary, context, depth, width, heads=1, dropout=0.0)


TABLE_2_1 = {  # layers, width, weights as published
    "Small": (12, 768, "125M"), "Medium": (24, 1024, "350M"), "Large": (24, 1536, "760M"), "XL": (24, 2048, "1.3B"),
    "2.7B": (32, 2560, "2.7B"), "6.7B": (32, 4096, "6.7B"), "13B": (40, 5140, "13.0B"), "175B": (96, 12288, "175.0B"),
}  # fmt: skip
PUBLISHED: dict[str, tuple[Callable[[], nn.Module], str]] = {
    "LeNet-5": (LeNet, "0.06M"),                                     # LeCun et al. 1998, sec. II.B: 60,000
    "ResNet-20": (lambda: ResNet(3, 10, 20), "0.27M"),               # He et al. 2016, Table 6
    "ResNet-32": (lambda: ResNet(3, 10, 32), "0.46M"),
    "ResNet-44": (lambda: ResNet(3, 10, 44), "0.66M"),
    "ResNet-56": (lambda: ResNet(3, 10, 56), "0.85M"),
    "ResNet-110": (lambda: ResNet(3, 10, 110), "1.7M"),
    "ResNet-18": (lambda: ResNet(3, 1000, 18, "B"), "11,689,512"),   # torchvision, models/resnet.py: num_params
    "ResNet-34": (lambda: ResNet(3, 1000, 34, "B"), "21,797,672"),
    "ResNet-50": (lambda: ResNet(3, 1000, 50, "B"), "25,557,032"),
    "ResNet-101": (lambda: ResNet(3, 1000, 101, "B"), "44,549,160"),
    "ResNet-152": (lambda: ResNet(3, 1000, 152, "B"), "60,192,808"),
    "DDPM, CIFAR-10": (lambda: UNet(3, 32, 128, 2, 0.1), "35.7M"),   # Ho et al. 2020, app. B
    "GPT": (lambda: GPT(40478, 512, 12, 768, 1, 0.1), "117M"),       # Radford et al. 2019, Table 2: the original GPT
    "GPT-2 124M": (lambda: gpt(12, 768, 1024), "124M"),              # openai/gpt-2, DEVELOPERS.md
    "GPT-2 355M": (lambda: gpt(24, 1024, 1024), "355M"),
    "GPT-2 774M": (lambda: gpt(36, 1280, 1024), "774M"),
    "GPT-2 1558M": (lambda: gpt(48, 1600, 1024), "1558M"),
}  # fmt: skip
MATRICES = ("embedding", "query", "key", "value", "output", "up", "down", "unembedding")


def weightless(build: Callable[..., Any], *sizes: int) -> Any:
    """The model that `build` makes, of shapes alone."""
    with torch.device("meta"):
        return build(*sizes)


def weights(module: nn.Module) -> int:
    """Trained numbers; what two layers share counts once."""
    return sum(weight.numel() for weight in module.parameters())


def by_part(model: GPT2) -> dict[str, int]:
    """Weights of each kind over all layers: MATRICES, where the embedding counts again as unembedding; and what is none."""
    found = dict.fromkeys([*MATRICES, "positions", "biases", "norms"], 0)
    blocks: Any = model.blocks
    for block in blocks:
        attention, (up, _, down, _) = block.attention, block.mlp
        for name, part in zip(("query", "key", "value"), attention.qkv.weight.chunk(3), strict=True):
            found[name] += part.numel()
        for name, layer in dict(output=attention.output, up=up, down=down).items():
            found[name] += layer.weight.numel()
        found["biases"] += sum(layer.bias.numel() for layer in (attention.qkv, attention.output, up, down))
        found["norms"] += weights(block.norm_1) + weights(block.norm_2)
    found["embedding"] = found["unembedding"] = weights(model.token)
    return found | {"positions": weights(model.position), "norms": found["norms"] + weights(model.norm)}


def by_arithmetic(depth: int, width: int, context: int, vocabulary: int) -> dict[str, int]:
    """The same from the sizes alone."""
    tokens, square = vocabulary * width, depth * width**2
    attention = dict(query=square, key=square, value=square, output=square)  # width × 128 for each of width / 128 heads
    mlp = dict(up=4 * square, down=4 * square)
    biases, norms = depth * (3 + 1 + 4 + 1) * width, 2 * (2 * depth + 1) * width
    return dict(embedding=tokens, **attention, **mlp, unembedding=tokens, positions=context * width, biases=biases,
                norms=norms)  # fmt: skip


def by_kind(parts: Mapping[str, int]) -> dict[str, int]:
    """What is trained, in four: biases and norms are too few to be seen."""
    attention = sum(parts[name] for name in ("query", "key", "value", "output"))
    return {"MLP": parts["up"] + parts["down"], "attention": attention, "tokens": parts["embedding"],
            "positions": parts["positions"]}  # fmt: skip


def number(published: str) -> tuple[int, int]:
    """`0.27M` as 270,000, and the unit of its last digit, 10,000; `11,689,512` is exact, its unit is 1."""
    digits = published.replace(",", "").rstrip("MB")
    unit = 10 ** ({"M": 6, "B": 9}.get(published[-1], 0) - len(digits.partition(".")[2]))
    return int(digits.replace(".", "")) * unit, unit


@dataclass(frozen=True)
class Numbers(Batch):
    row: Tensor  # (R,) int64: its place in the ledger
    expected: Tensor  # (R,) int64
    unit: Tensor  # (R,) int64: of its last digit


class Expected(Splits):
    """What each count should be, as it is published."""

    def __init__(self, name: str, published: Mapping[str, str]) -> None:
        self.numbers_R2 = torch.tensor([number(text) for text in published.values()])
        super().__init__(self, name=name, hashes={name: digest(repr(dict(published)).encode())})

    def __len__(self) -> int:
        return len(self.numbers_R2)

    def batch(self, indices: Tensor) -> Numbers:
        return Numbers(indices, *self.numbers_R2[indices].unbind(1))


class Ledger(nn.Module):
    """What was counted, in the order of what is expected."""

    count_R: Tensor

    def __init__(self, counts: Mapping[str, int]) -> None:
        super().__init__()
        self.register_buffer("count_R", torch.tensor(list(counts.values())))


class Compare(Objective):
    """Whether a count is the expected one, rounded to the digits that are published, and how far from it, as a share."""

    def __init__(self, drawn: Mapping[str, Callable[[], Figure]]) -> None:
        self.drawn = drawn

    def evaluate(self, model: Ledger, batch: Numbers) -> Iterator[tuple[str, Tensor]]:
        off = (model.count_R[batch.row] - batch.expected).abs()
        yield "equal", (2 * off <= batch.unit).double()
        yield "gap", off.double() / batch.expected

    def pictures(self, model: Any, split: Any) -> dict[str, Any]:
        return {name: draw() for name, draw in self.drawn.items()}


def counting(name: str, counts: Mapping[str, int], published: Mapping[str, str], **drawn: Callable[[], Figure]) -> Stage:
    """A stage that compares, and trains nothing."""
    return Stage(Ledger(counts), Expected(name, published), Compare(drawn), steps=0, name=name)


def recipe(
    depth: int = 96,                                 # layers of the GPT that is counted by matrix; Table 2.1, 175B
    width: int = 12288,                              # units; Table 2.1, 175B
    context: Annotated[int, Within(1)] = 2048,       # positions; sec. 2.1
    vocabulary: Annotated[int, Within(1)] = 50257,   # tokens, those of GPT-2
) -> Iterator[Stage]:  # fmt: skip
    model = weightless(gpt, depth, width, context, vocabulary)
    parts, trained = by_part(model), weights(model)
    matrices = sum(parts[name] for name in MATRICES)
    expected = {name: f"{count:,}" for name, count in by_arithmetic(depth, width, context, vocabulary).items()}
    shown = {name: (f"{count:,}", f"{count / matrices:.2%}") for name, count in parts.items()}
    totals = {"all matrices": (f"{matrices:,}", "100.00%"), "trained, tied": (f"{trained:,}", f"{trained / matrices:.2%}")}
    yield counting("parts", parts, expected, matrices=lambda: figures.table({**shown, **totals}, ["counted", "share"]))

    sizes = {name: weightless(gpt, layers, units) for name, (layers, units, _) in TABLE_2_1.items()}
    published = {name: text for name, (_, _, text) in TABLE_2_1.items()}
    yield counting("sizes", {name: weights(one) for name, one in sizes.items()}, published,
                   where=lambda: figures.stacked({name: by_kind(by_part(one)) for name, one in sizes.items()},
                                                 x="share of all trained weights, %"))  # fmt: skip

    counts = {name: weights(weightless(build)) for name, (build, _) in PUBLISHED.items()}
    published = {name: text for name, (_, text) in PUBLISHED.items()}
    beside = {name: (f"{count:,}", published[name]) for name, count in counts.items()}
    yield counting("published", counts, published, beside=lambda: figures.table(beside, ["counted", "published"]))
    return {"matrices": matrices, "trained": trained}
