"""Deep graph convolution: what the graph is worth, and what is left of it when a node looks too far.

中文     图卷积的深度：过平滑与残差
Paper    Kipf & Welling, ICLR 2017, arXiv:1609.02907: app. B, eq. 14 (residual layers) and its settings; Table 3 (MLP)
         Li, Han & Wu, AAAI 2018, arXiv:1801.07606: sec. 3.1 (over-smoothing: all nodes of a component become alike)
Code     tkipf/gcn @ 39a4089: models.py, MLP; train.py, --model dense
Departs  app. B counts by five-fold cross-validation with all labels; here are the Planetoid splits, with `labels` of each
         class, as everywhere else. The MLP's stopping signal leaves out the L2 term
"""

from collections.abc import Iterator
from copy import copy
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
from torch import Tensor, nn

from fuxian import figures
from fuxian.contract import Stage
from fuxian.data.graphs import CitationGraph, Nodes, NodeSplit, citation_graph
from fuxian.errors import WrongInput
from fuxian.evaluation import batches
from fuxian.facts import Claim, Paper, Within
from fuxian.methods.graph.gcn import GraphConvolution, NodeClassification, dropout
from fuxian.optim import adam, worse_than_mean

PAPER = Paper("Semi-Supervised Classification with Graph Convolutional Networks", "Kipf & Welling", 2017, venue="ICLR",
              arxiv="1609.02907")  # fmt: skip
CLAIMS = [
    Claim("test/accuracy", None, where="residual, ten layers, Cora: app. B, Fig. 5 is a drawing", seeds=20),
    Claim("plain/accuracy", None, where="plain, ten layers, Cora: app. B, Fig. 5 is a drawing", seeds=20),
    # Table 3 gives means of 100 runs without a spread; a point is what GCN spreads by from run to run
    Claim("alone/test/accuracy", 0.551, where="Table 3, MLP, Cora", tolerance=0.010, seeds=20),
    Claim("alone/test/accuracy", 0.465, where="Table 3, MLP, Citeseer", tolerance=0.010, seeds=20,
          knobs=dict(data="citeseer", depth=2)),
    Claim("alone/test/accuracy", 0.714, where="Table 3, MLP, Pubmed", tolerance=0.010, seeds=20,
          knobs=dict(data="pubmed", depth=2)),
]  # fmt: skip
QUICK = dict(data="karate", depth=4, epochs=40, labels=4)

DEPTHS = (1, 2, 3, 4, 6, 8, 10)

# Shape letters: N nodes, F features, H hidden units, C classes. A matrix of N rows may be sparse or dense.


class NodeMLP(nn.Module):
    """ReLU(X W0) W1, logits (N, C): a GCN that sees no edge, layers without a bias as there. models.py, MLP."""

    def __init__(self, features: int, hidden: int, classes: int, dropout: float) -> None:
        super().__init__()
        self.first, self.second = (nn.Parameter(torch.empty(size)) for size in ((features, hidden), (hidden, classes)))
        nn.init.xavier_uniform_(self.first)  # inits.py, glorot
        nn.init.xavier_uniform_(self.second)
        self.dropout = dropout

    def forward(self, x_NF: Tensor, adjacency_NN: Tensor) -> Tensor:
        h_NH = (dropout(x_NF, self.dropout, self.training) @ self.first).relu()
        return dropout(h_NH, self.dropout, self.training) @ self.second


class DeepGCN(nn.Module):
    """`depth` graph convolutions; with `residual` each between equal widths adds its input, eq. 14. Logits (N, C)."""

    def __init__(self, features: int, hidden: int, classes: int, depth: int, residual: bool, dropout: float) -> None:
        super().__init__()
        widths = [features, *[hidden] * (depth - 1), classes]
        self.layers = nn.ModuleList(map(GraphConvolution, widths, widths[1:]))
        self.residual, self.dropout = residual, dropout

    def hidden(self, x_NF: Tensor, adjacency_NN: Tensor) -> Tensor:
        """What the last layer is given, (N, H)."""
        h_NH = dropout(x_NF, self.dropout, self.training)  # app. B: first and last layer
        for place, layer in enumerate(self.layers[:-1]):
            added = h_NH if self.residual and place else 0
            h_NH = layer(h_NH, adjacency_NN).relu() + added
        return h_NH

    def forward(self, x_NF: Tensor, adjacency_NN: Tensor) -> Tensor:
        h_NH = self.hidden(x_NF, adjacency_NN)
        if len(self.layers) > 1:
            h_NH = dropout(h_NH, self.dropout, self.training)
        return self.layers[-1](h_NH, adjacency_NN)


def alike(h_NH: Tensor) -> Tensor:
    """How alike each node is to the others (N,), their mean cosine: 1 where all point one way, 0 for a row of zeros."""
    unit_NH = h_NH / h_NH.norm(dim=1, keepdim=True).clamp_min(1e-12)
    own_N = unit_NH.square().sum(1)
    return (unit_NH @ unit_NH.sum(0) - own_N) / (len(h_NH) - 1)


class OverDepth(NodeClassification):
    """Node classification that also says how alike the nodes became; the last stage draws what all of them found."""

    def __init__(self, names: tuple[str, ...], found: dict[str, dict[int, dict[str, float]]], last: int = 0) -> None:
        super().__init__(names)
        self.found, self.last = found, last  # of each kind and depth; the depth of the last stage, elsewhere 0

    def evaluate(self, model: Any, batch: Nodes) -> Iterator[tuple[str, Tensor]]:
        yield from super().evaluate(model, batch)
        if isinstance(model, DeepGCN) and len(model.layers) > 1:  # a single layer is given the features as they are
            yield "alike", alike(model.hidden(batch.features, batch.adjacency).to_dense())[batch.index]

    def pictures(self, model: Any, split: Any) -> dict[str, Any]:
        if not self.last:
            return {}
        (batch,) = batches(split, None)
        now = {name: float(values.mean()) for name, values in self.evaluate(model, batch)}
        found = {**self.found, "residual": {**self.found["residual"], self.last: now}}

        def drawn(metric: str, y: str) -> Any:
            curves = {}
            for kind, rows in found.items():
                if told := {d: 100 * row[metric] for d, row in rows.items() if metric in row}:
                    curves[kind] = (list(told), list(told.values()))
            return figures.lines(curves, x="graph convolutions", y=y)

        return {
            "depth": drawn("accuracy", "right of the test nodes, %"),
            "alike": drawn("alike", "mean cosine of two nodes before the last layer, %"),
            **super().pictures(model, split),
        }


def with_labels(graph: CitationGraph, each: int) -> CitationGraph:
    """The same graph with labels of the first `each` training nodes of every class. Raises WrongInput where they lack."""
    train: Any = graph.train
    few = [train.index[train.label[train.index] == c][:each] for c in range(graph.classes)]
    if lacking := [name for name, index in zip(graph.names, few, strict=True) if len(index) < each]:
        raise WrongInput(f"--labels {each}: {graph.name} has fewer in its training split for {lacking[0]}")
    fewer = copy(graph)
    fewer.train = NodeSplit(train.graph, train.label, torch.cat(few).sort().values)
    return fewer


def recipe(
    data: Literal["cora", "citeseer", "pubmed", "karate"] | Path = "cora",  # graph, fixed Planetoid split
    depth: Annotated[int, Within(2, 10)] = 10,  # layers, at most; app. B
    labels: Annotated[int, Within(1)] = 20,  # nodes of each class to learn from; sec. 5.1
    hidden: int = 16,             # units; app. B
    dropout: float = 0.5,         # probability, input of the first and the last layer; app. B
    lr: float = 0.01,             # Adam; app. B
    weight_decay: float = 5e-4,   # L2, first layer only; app. B
    epochs: int = 400,            # steps on the whole graph, without early stopping; app. B
) -> Iterator[Stage]:  # fmt: skip
    graph = with_labels(citation_graph(data), labels)
    judged = "train" if graph.test is None else "test"
    floor = NodeMLP(graph.features, hidden, graph.classes, dropout)
    found: dict[str, dict[int, dict[str, float]]] = {"plain": {}, "residual": {}, "features alone": {}}
    alone = yield Stage(floor, graph, OverDepth(graph.names, found), adam(lr, decay=[(floor.first, weight_decay)]),
                        epochs=min(epochs, 200), stop=worse_than_mean("loss", of=10), name="alone")  # fmt: skip  # train.py
    depths = [d for d in DEPTHS if d <= depth]
    found["features alone"] = {d: {"accuracy": alone[f"{judged}/accuracy"]} for d in depths}
    for kind in ("plain", "residual"):
        for d in depths:
            model = DeepGCN(graph.features, hidden, graph.classes, d, kind == "residual", dropout)
            objective = OverDepth(graph.names, found, last=d if (kind, d) == ("residual", depths[-1]) else 0)
            told = yield Stage(model, graph, objective, adam(lr, decay=[(model.layers[0], weight_decay)]), epochs=epochs,
                               name=f"{kind}-{d}")  # fmt: skip
            found[kind][d] = {name: told[key] for name in ("accuracy", "alike") if (key := f"{judged}/{name}") in told}
    plain = {d: row["accuracy"] for d, row in found["plain"].items()}
    return {"plain/accuracy": plain[depths[-1]], "worth": max(plain.values()) - alone[f"{judged}/accuracy"]}
