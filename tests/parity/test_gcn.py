"""GCN against PyTorch Geometric's GCNConv, which normalizes the adjacency itself."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from fuxian.data.graphs import citation_graph
from fuxian.methods.graph.gcn import GCN, NodeClassification, dropout, recipe
from fuxian.optim import adam

from .compare import first_loss, parity

geometric = pytest.importorskip("torch_geometric")


class Reference(nn.Module):
    def __init__(self, features: int, hidden: int, classes: int) -> None:
        super().__init__()
        self.conv1 = geometric.nn.GCNConv(features, hidden, bias=False)
        self.conv2 = geometric.nn.GCNConv(hidden, classes, bias=False)

    def forward(self, x: torch.Tensor, edges: torch.Tensor) -> torch.Tensor:
        return self.conv2(self.conv1(x, edges).relu(), edges)


@pytest.mark.parametrize("layout", ["sparse", "dense"])
def test_outputs_gradients_and_step(layout: str, prove) -> None:
    graph = citation_graph("karate")
    batch = graph.train.batch(torch.arange(len(graph.train)))
    torch.manual_seed(0)
    ours = GCN(graph.features, 16, graph.classes, dropout=0.5).eval()
    reference = Reference(graph.features, 16, graph.classes).eval()
    dense = batch.adjacency.to_dense()
    edges = (dense - dense.diag().diag()).nonzero().T  # without the self-loops, which the reference adds
    x, adjacency = (batch.features, batch.adjacency) if layout == "sparse" else NodeClassification(("a", "b")).inputs(batch)
    optimizer = torch.optim.Adam(
        [dict(params=reference.conv1.parameters(), weight_decay=5e-4), dict(params=reference.conv2.parameters())], lr=0.01
    )
    found = parity(
        ours,
        reference,
        {"first.weight": "conv1.lin.weight", "second.weight": "conv2.lin.weight"},
        transposed=frozenset({"first.weight", "second.weight"}),
        outputs=lambda: (ours(x, adjacency), reference(batch.features.to_dense(), edges)),
        losses=lambda _, expected: (
            first_loss(NodeClassification(("a", "b")), ours, batch),
            F.cross_entropy(expected[batch.index], batch.label[batch.index]),
        ),
        spec=adam(0.01, decay=[(ours.first, 5e-4)]),
        optimizer=optimizer,
    )
    if layout == "sparse":  # what it trains on
        prove("gcn", "parity", reference=f"PyTorch Geometric {geometric.__version__}", **found.facts)


def test_dropout_of_a_sparse_matrix_drops_stored_entries_and_keeps_the_mean() -> None:
    graph = citation_graph("karate")
    x = graph.train.batch(torch.arange(8)).adjacency
    torch.manual_seed(0)
    dropped = torch.stack([dropout(x, 0.5, True).to_dense() for _ in range(2000)])
    stored = x.to_dense() > 0
    assert (dropped[:, ~stored] == 0).all()
    assert set((dropped[:, stored] / x.to_dense()[stored]).round(decimals=4).unique().tolist()) == {0.0, 2.0}
    torch.testing.assert_close(dropped.mean(0), x.to_dense(), atol=0.02, rtol=0.1)
    assert torch.equal(dropout(x, 0.5, False).to_dense(), x.to_dense())


def test_the_recipe_is_the_protocol_of_train_py() -> None:
    (stage,) = recipe(data="karate", weight_decay=0.3)
    assert stage.optimizer.decay == [(stage.model.first, 0.3)]  # models.py, _loss: of the first layer only
    assert stage.select is None  # the last weights are tested, not the best
    rising = [{"loss": 1 + 0.1 * n} for n in range(12)]
    assert [stage.stop(rising[:n]) for n in (11, 12)] == [False, True]  # epoch > 10, counted from 0
