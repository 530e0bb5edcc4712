"""Graph convolutional network: semi-supervised node classification.

中文     图卷积网络
Paper    Kipf & Welling, ICLR 2017, arXiv:1609.02907: eq. 2 (propagation), eq. 9 (model), sec. 5.2 (settings), Table 2
Code     tkipf/gcn @ 39a4089: train.py, models.py and layers.py are the protocol
Departs  the stopping signal leaves out the L2 term, which theirs adds to the validation loss
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import torch
import torch.nn.functional as F
from sklearn.manifold import TSNE
from torch import Tensor, nn

from fuxian import figures
from fuxian.contract import Objective, Stage
from fuxian.data.graphs import Nodes, citation_graph, propagate
from fuxian.evaluation import batches
from fuxian.facts import Claim, Paper
from fuxian.objectives.classification import ranked
from fuxian.optim import adam, worse_than_mean

PAPER = Paper(
    "Semi-Supervised Classification with Graph Convolutional Networks",
    "Kipf & Welling",
    2017,
    venue="ICLR",
    arxiv="1609.02907",
)
CLAIMS = [  # Table 2 gives means of 100 runs without a spread; a point is what their protocol spreads by from run to run
    Claim("test/accuracy", 0.815, where="Table 2, Cora", tolerance=0.010, seeds=20),
    Claim("test/accuracy", 0.703, where="Table 2, Citeseer", tolerance=0.010, seeds=20, knobs=dict(data="citeseer")),
    Claim("test/accuracy", 0.790, where="Table 2, Pubmed", tolerance=0.010, seeds=20, knobs=dict(data="pubmed")),
]
QUICK = dict(data="karate", epochs=60)

# Shape letters: N nodes, F features, H hidden units, C classes. A matrix of N rows may be sparse or dense.


def dropout(x_NF: Tensor, p: float, training: bool) -> Tensor:
    """Dropout of a matrix; of a sparse one, of the entries that it stores (layers.py, sparse_dropout)."""
    if x_NF.layout != torch.sparse_csr:
        return F.dropout(x_NF, p, training)
    kept = F.dropout(x_NF.values(), p, training)
    return torch.sparse_csr_tensor(x_NF.crow_indices(), x_NF.col_indices(), kept, x_NF.shape, check_invariants=False)


class GraphConvolution(nn.Module):
    """Â X W, without a bias: eq. 2; Â = D^-1/2 (A + I) D^-1/2 comes with the data."""

    def __init__(self, features: int, units: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(features, units))
        nn.init.xavier_uniform_(self.weight)  # inits.py, glorot

    def forward(self, x_NF: Tensor, adjacency_NN: Tensor) -> Tensor:
        return propagate(adjacency_NN, x_NF @ self.weight)


class GCN(nn.Module):
    """Z = Â ReLU(Â X W0) W1, eq. 9, without its softmax: logits (N, C)."""

    def __init__(self, features: int, hidden: int, classes: int, dropout: float) -> None:
        super().__init__()
        self.first = GraphConvolution(features, hidden)
        self.second = GraphConvolution(hidden, classes)
        self.dropout = dropout

    def hidden(self, x_NF: Tensor, adjacency_NN: Tensor) -> Tensor:
        return self.first(dropout(x_NF, self.dropout, self.training), adjacency_NN).relu()

    def forward(self, x_NF: Tensor, adjacency_NN: Tensor) -> Tensor:
        h_NH = self.hidden(x_NF, adjacency_NN)
        return self.second(dropout(h_NH, self.dropout, self.training), adjacency_NN)


class NodeClassification(Objective):
    """Cross-entropy over the labelled nodes: eq. 10. `names` are the classes."""

    def __init__(self, names: tuple[str, ...]) -> None:
        self.names = names

    def inputs(self, batch: Nodes) -> tuple[Tensor, ...]:
        return batch.features.to_dense(), batch.adjacency.to_dense()

    def losses(self, model: nn.Module, batch: Nodes) -> Iterator[tuple[str, Tensor]]:
        z_NC = model(batch.features, batch.adjacency)
        yield "model", F.cross_entropy(z_NC[batch.index], batch.label[batch.index])

    def evaluate(self, model: nn.Module, batch: Nodes) -> Iterator[tuple[str, Tensor]]:
        z_NC, label = model(batch.features, batch.adjacency)[batch.index], batch.label[batch.index]
        yield "loss", F.cross_entropy(z_NC, label, reduction="none")
        yield "accuracy", (z_NC.argmax(1) == label).float()

    def predict(self, model: nn.Module, batch: Nodes) -> list[dict[str, Any]]:
        return ranked(model(batch.features, batch.adjacency)[batch.index].softmax(1), self.names)

    def pictures(self, model: Any, split: Any) -> dict[str, Any]:
        """The hidden layer by t-SNE (van der Maaten & Hinton 2008), and the confusion matrix."""
        (batch,) = batches(split, None)
        z_NC, label = model(batch.features, batch.adjacency)[batch.index], batch.label[batch.index]
        h_NH = model.hidden(batch.features, batch.adjacency)[batch.index].cpu().numpy()
        plane_N2 = TSNE(perplexity=min(30.0, len(h_NH) / 4), init="pca", random_state=0).fit_transform(h_NH)
        classes = len(self.names)
        counts = torch.bincount(label * classes + z_NC.argmax(1), minlength=classes**2).view(classes, classes)
        return {
            "hidden": figures.scatter(plane_N2, label.cpu(), self.names),
            "confusion": figures.confusion(counts, self.names),
        }


def recipe(
    data: Literal["cora", "citeseer", "pubmed", "karate"] | Path = "cora",  # graph, fixed Planetoid split; sec. 5.1
    hidden: int = 16,             # units; sec. 5.2
    dropout: float = 0.5,         # probability, input of both layers; sec. 5.2
    lr: float = 0.01,             # Adam; sec. 5.2
    weight_decay: float = 5e-4,   # L2, first layer only; models.py, _loss
    epochs: int = 200,            # steps on the whole graph, at most; sec. 5.2
) -> Iterator[Stage]:  # fmt: skip
    graph = citation_graph(data)
    model = GCN(graph.features, hidden, graph.classes, dropout)
    yield Stage(model, graph, NodeClassification(graph.names), adam(lr, decay=[(model.first, weight_decay)]), epochs=epochs,
                stop=worse_than_mean("loss", of=10))  # fmt: skip  # train.py; no select: the last weights are tested
