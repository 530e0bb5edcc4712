"""GCN against PyTorch Geometric's GCNConv, which normalizes the adjacency itself."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from fuxian.data.graphs import citation_graph
from fuxian.evaluation import measure
from fuxian.methods.graph.gcn import GCN, NodeClassification, dropout, recipe
from fuxian.optim import adam

from .compare import Differences, first_loss, in_both, parity

geometric = pytest.importorskip("torch_geometric")


class Reference(nn.Module):
    def __init__(self, features: int, hidden: int, classes: int) -> None:
        super().__init__()
        self.conv1 = geometric.nn.GCNConv(features, hidden, bias=False)
        self.conv2 = geometric.nn.GCNConv(hidden, classes, bias=False)

    def forward(self, x: torch.Tensor, edges: torch.Tensor) -> torch.Tensor:
        return self.conv2(self.conv1(x, edges).relu(), edges)


def compared(layout: str) -> Differences:
    graph = citation_graph("karate")
    batch = graph.train.batch(torch.arange(len(graph.train)))
    if torch.get_default_dtype() == torch.float64:  # the data are rounded to float32: eq. 2 once more
        linked = (batch.adjacency.to_dense() > 0).double()
        scale = torch.diag(linked.sum(1) ** -0.5)
        adjacency, features = (scale @ linked @ scale).to_sparse_csr(), batch.features.to_dense().double().to_sparse_csr()
        batch = replace(batch, adjacency=adjacency, features=features)
    torch.manual_seed(0)
    ours = GCN(graph.features, 16, graph.classes, dropout=0.5).eval()
    reference = Reference(graph.features, 16, graph.classes).eval()
    dense = batch.adjacency.to_dense()
    edges = (dense - dense.diag().diag()).nonzero().T  # without the self-loops, which the reference adds
    x, adjacency = (batch.features, batch.adjacency) if layout == "sparse" else NodeClassification(("a", "b")).inputs(batch)
    optimizer = torch.optim.Adam(
        [dict(params=reference.conv1.parameters(), weight_decay=5e-4), dict(params=reference.conv2.parameters())], lr=0.01
    )
    return parity(
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


@pytest.mark.parametrize("layout", ["sparse", "dense"])
def test_outputs_gradients_and_step(layout: str, prove) -> None:
    found = in_both(lambda: compared(layout))
    if layout == "sparse":  # what it trains on
        prove("gcn", "parity", reference=f"PyTorch Geometric {geometric.__version__}", **found)


def test_evaluation_is_of_the_split_s_nodes_alone() -> None:
    graph = citation_graph("karate")
    torch.manual_seed(0)
    model = GCN(graph.features, 16, graph.classes, dropout=0.5)
    with torch.no_grad():
        model.second.weight.mul_(3)  # sure of some, and wrong of some
    objective, split, counts = NodeClassification(graph.names), graph.test, {}
    found = measure(model, objective, split, counts=counts)
    batch = split.batch(torch.arange(len(split)))
    features, adjacency = batch.features.to_dense(), batch.adjacency.to_dense()
    logits = adjacency @ (adjacency @ features @ model.first.weight).relu() @ model.second.weight  # eq. 9, nothing dropped
    loss, right = 0.0, 0
    for node in batch.index.tolist():
        log_p = logits[node] - logits[node].exp().sum().log()
        loss, right = loss - log_p[batch.label[node]].item(), right + int(log_p.argmax() == batch.label[node])
    assert 0 < right < len(split) == counts["loss"] == counts["accuracy"]
    assert found["loss"] == pytest.approx(loss / len(split), rel=1e-5)
    assert found["accuracy"] == pytest.approx(right / len(split))


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
