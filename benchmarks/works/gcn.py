"""GCN on Cora: an epoch of training and validation, beside PyTorch Geometric."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.pairing import Side, Work
from benchmarks.sides import Engine, repeated

HIDDEN, DROPOUT, LR, DECAY = 16, 0.5, 0.01, 5e-4
NODES, EDGES, FEATURES, WORDS, CLASSES = 2708, 5278, 1433, 18, 7  # Cora's, for where it is not at hand


def graph() -> Any:
    """Cora; where it cannot be had, a graph of its size at random."""
    from fuxian.data.graphs import CitationGraph, citation_graph
    from fuxian.errors import DataMissing

    try:
        return citation_graph("cora")
    except DataMissing:
        torch.manual_seed(1)
        x = torch.zeros(NODES, FEATURES).scatter_(1, torch.randint(FEATURES, (NODES, WORDS)), 1.0)
        pairs = torch.randint(NODES, (2, EDGES))
        pairs = pairs[:, pairs[0] != pairs[1]]
        edges = torch.cat([pairs, pairs.flip(0)], 1).unique(dim=1)
        parts = torch.arange(140), torch.arange(140, 640), torch.arange(1708, 2708)
        features = (x / x.sum(1, keepdim=True)).to_sparse_csr()
        return CitationGraph(features, edges, torch.randint(CLASSES, (NODES,)), parts, name="a graph of Cora’s size")


def ours() -> Side:
    from fuxian.contract import Stage
    from fuxian.methods.graph.gcn import GCN, NodeClassification
    from fuxian.optim import adam

    data = graph()
    model = GCN(data.features, HIDDEN, data.classes, DROPOUT)
    weights = {name: weight.detach().clone() for name, weight in model.named_parameters()}
    engine = Engine(Stage(model, data, NodeClassification(data.names), adam(LR, decay=[(model.first, DECAY)]), epochs=200))
    whole = data.train.batch(torch.arange(len(data.train)))

    @torch.no_grad()
    def logits() -> Tensor:
        return model.eval()(whole.features, whole.adjacency)

    return Side(engine, logits, weights)


def given(data: Any) -> tuple[Tensor, Tensor, Any, Any]:
    """Dense features, as its data sets come; edges (2, E) from node to node, to which the layers add self-loops; the nodes
    of training and of validation."""
    train, val = (split.batch(torch.arange(len(split))) for split in (data.train, data.val))
    row, column = train.adjacency.to_sparse_coo().indices()
    return train.features.to_dense(), torch.stack([row, column])[:, row != column], train, val


def trained(model: nn.Module, optimizer: torch.optim.Optimizer, inputs: tuple[Tensor, ...], train: Any, val: Any) -> Side:
    """The usual script: a step on the training nodes, then loss and accuracy of those of validation."""

    def epoch() -> tuple[float, float, float]:
        model.train()
        optimizer.zero_grad()
        loss = F.cross_entropy(model(*inputs)[train.index], train.label[train.index])
        loss.backward()
        optimizer.step()
        model.eval()
        with torch.no_grad():
            logits, label = model(*inputs)[val.index], val.label[val.index]
            judged = F.cross_entropy(logits, label), (logits.argmax(1) == label).float().mean()
        return loss.item(), judged[0].item(), judged[1].item()

    @torch.no_grad()
    def logits() -> Tensor:
        return model.eval()(*inputs)

    return Side(repeated(epoch), logits)


def peer(weights: Mapping[str, Tensor]) -> Side:
    from torch_geometric.nn import GCNConv

    class Net(nn.Module):
        def __init__(self, features: int, classes: int) -> None:
            super().__init__()
            self.first = GCNConv(features, HIDDEN, cached=True, bias=False)
            self.second = GCNConv(HIDDEN, classes, cached=True, bias=False)

        def forward(self, x: Tensor, edges: Tensor) -> Tensor:
            x = self.first(F.dropout(x, DROPOUT, self.training), edges).relu()
            return self.second(F.dropout(x, DROPOUT, self.training), edges)

    data = graph()
    x, edges, train, val = given(data)
    model = Net(data.features, data.classes)
    with torch.no_grad():
        model.first.lin.weight.copy_(weights["first.weight"].T)
        model.second.lin.weight.copy_(weights["second.weight"].T)
    groups = [dict(params=model.first.parameters(), weight_decay=DECAY), dict(params=model.second.parameters())]
    optimizer = torch.optim.Adam(groups, LR, fused=True)

    return trained(model, optimizer, (x, edges), train, val)


WORKS = [
    Work(
        "gcn", "an epoch of GCN on Cora, with its validation", ours, peer, "torch-geometric", 0.12, method="gcn", times=50,
        note="GCNConv(cached=True) on dense features, as its data sets have them; ours are sparse",
    ),
]  # fmt: skip
