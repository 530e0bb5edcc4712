"""The deep GCN with residual layers on Cora: an epoch of training and validation, beside PyTorch Geometric."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.pairing import Side, Work
from benchmarks.sides import Engine, in_order
from benchmarks.works.gcn import DECAY, DROPOUT, HIDDEN, LR, given, graph, trained

DEPTH = 10


def shown(model: Any, side: Side) -> Tensor:
    """Logits after three epochs; without dropout, of which each side draws its own."""
    model.dropout = 0.0
    side.run(3)
    model.dropout = DROPOUT
    return side.shows()


def ours() -> Side:
    from fuxian.contract import Stage
    from fuxian.methods.graph.deep_gcn import DeepGCN
    from fuxian.methods.graph.gcn import NodeClassification
    from fuxian.optim import adam

    data = graph()
    model = DeepGCN(data.features, HIDDEN, data.classes, DEPTH, True, DROPOUT)
    weights = {name: weight.detach().clone() for name, weight in model.named_parameters()}
    optimizer = adam(LR, decay=[(model.layers[0], DECAY)])
    engine = Engine(Stage(model, data, NodeClassification(data.names), optimizer, epochs=400))
    whole = data.train.batch(torch.arange(len(data.train)))

    @torch.no_grad()
    def logits() -> Tensor:
        return model.eval()(whole.features, whole.adjacency)

    return Side(engine, lambda: shown(model, Side(engine, logits)), weights)


def peer(weights: Mapping[str, Tensor]) -> Side:
    from torch_geometric.nn import GCNConv, Linear

    class Net(nn.Module):
        def __init__(self, features: int, classes: int) -> None:
            super().__init__()
            widths = [features, *[HIDDEN] * (DEPTH - 1), classes]
            self.layers = nn.ModuleList(GCNConv(a, b, cached=True, bias=False) for a, b in pairwise(widths))
            self.dropout = DROPOUT

        def forward(self, x: Tensor, edges: Tensor) -> Tensor:
            first, *between, last = self.layers
            x = first(F.dropout(x, self.dropout, self.training), edges).relu()
            for layer in between:
                x = x + layer(x, edges).relu()
            return last(F.dropout(x, self.dropout, self.training), edges)

    data = graph()
    x, edges, train, val = given(data)
    model = Net(data.features, data.classes)
    in_order(model, weights, [Linear])
    groups = [dict(params=model.layers[0].parameters(), weight_decay=DECAY), dict(params=model.layers[1:].parameters())]
    side = trained(model, torch.optim.Adam(groups, LR, fused=True), (x, edges), train, val)
    return Side(side.run, lambda: shown(model, side))


WORKS = [
    Work(
        "deep-gcn", "an epoch of a GCN of ten residual layers on Cora, with its validation", ours, peer, "torch-geometric",
        method="deep_gcn", times=20,
        note="GCNConv(cached=True) on dense features, as its data sets have them; ours are sparse. How alike nodes are, "
        "which the recipe also measures, is left out of both",
    ),
]  # fmt: skip
