"""GAT on Cora: an epoch of training and validation, beside PyTorch Geometric."""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.pairing import Side, Work
from benchmarks.sides import Engine
from benchmarks.works.gcn import given, graph, trained

HEADS, HIDDEN, DROPOUT, LR, DECAY = 8, 8, 0.6, 0.005, 5e-4


def ours() -> Side:
    from fuxian.contract import Stage
    from fuxian.methods.graph.gat import GAT
    from fuxian.methods.graph.gcn import NodeClassification
    from fuxian.optim import adam

    data = graph()
    model = GAT(data.features, HEADS, HIDDEN, 1, data.classes, DROPOUT)
    weights = {name: weight.detach().clone() for name, weight in model.named_parameters()}
    engine = Engine(Stage(model, data, NodeClassification(data.names), adam(LR, decay=DECAY), epochs=200))
    whole = data.train.batch(torch.arange(len(data.train)))

    @torch.no_grad()
    def logits() -> Tensor:
        return model.eval()(whole.features, whole.adjacency)

    return Side(engine, logits, weights)


def peer(weights: Mapping[str, Tensor]) -> Side:
    from torch_geometric.nn import GATConv

    class Net(nn.Module):
        def __init__(self, features: int, classes: int) -> None:
            super().__init__()
            self.first = GATConv(features, HIDDEN, heads=HEADS, dropout=DROPOUT)
            self.second = GATConv(HEADS * HIDDEN, classes, heads=1, concat=False, dropout=DROPOUT)

        def forward(self, x: Tensor, edges: Tensor) -> Tensor:
            x = F.elu(self.first(F.dropout(x, DROPOUT, self.training), edges))
            return self.second(F.dropout(x, DROPOUT, self.training), edges)

    data = graph()
    x, edges, train, val = given(data)
    model = Net(data.features, data.classes)
    with torch.no_grad():
        for name, layer in (("first", model.first), ("second", model.second)):
            layer.lin.weight.copy_(weights[f"{name}.weight"].T)
            layer.att_dst.copy_(weights[f"{name}.target_KU"][None])
            layer.att_src.copy_(weights[f"{name}.source_KU"][None])
    optimizer = torch.optim.Adam(model.parameters(), LR, weight_decay=DECAY, fused=True)

    return trained(model, optimizer, (x, edges.flip(0)), train, val)


WORKS = [
    Work(
        "gat", "an epoch of GAT on Cora, with its validation", ours, peer, "torch-geometric", 0.5, method="gat", times=10,
        note="GATConv on dense features, as its data sets have them; ours are sparse, and drop what is looked at as well",
    ),
]  # fmt: skip
