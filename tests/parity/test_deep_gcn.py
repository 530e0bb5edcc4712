"""Deep GCN against a chain of PyTorch Geometric's GCNConv with residual sums; the MLP against torch's linear layers."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fuxian.data.graphs import citation_graph
from fuxian.errors import WrongInput
from fuxian.methods.graph.deep_gcn import DeepGCN, NodeMLP, OverDepth, alike, recipe, with_labels
from fuxian.methods.graph.gat import edges
from fuxian.optim import adam

from .compare import Differences, first_loss, in_both, parity

geometric = pytest.importorskip("torch_geometric")


class Reference(nn.Module):
    """H + ReLU(Â H W) between equal widths: eq. 14."""

    def __init__(self, widths: list[int], residual: bool) -> None:
        super().__init__()
        conv = geometric.nn.GCNConv
        self.layers = nn.ModuleList(conv(a, b, bias=False) for a, b in pairwise(widths))
        self.residual = residual

    def forward(self, x: Tensor, pairs: Tensor) -> Tensor:
        first, *between, last = self.layers
        x = first(x, pairs).relu()
        for layer in between:
            x = layer(x, pairs).relu() + (x if self.residual else 0)
        return last(x, pairs)


def compared(residual: bool) -> Differences:
    graph = citation_graph("karate")
    batch = graph.train.batch(torch.arange(len(graph.train)))
    i_E, j_E = edges(batch.adjacency)
    if torch.get_default_dtype() == torch.float64:  # the data are rounded to float32: Â once more
        linked = (batch.adjacency.to_dense() > 0).double()
        scale = torch.diag(linked.sum(1) ** -0.5)
        adjacency, features = (scale @ linked @ scale).to_sparse_csr(), batch.features.to_dense().double().to_sparse_csr()
        batch = replace(batch, adjacency=adjacency, features=features)
    torch.manual_seed(0)
    ours = DeepGCN(graph.features, 16, graph.classes, 4, residual, 0.5).eval()
    reference = Reference([graph.features, 16, 16, 16, graph.classes], residual).eval()
    names = {f"layers.{n}.weight": f"layers.{n}.lin.weight" for n in range(4)}
    objective = OverDepth(graph.names, {})
    return parity(
        ours,
        reference,
        names,
        transposed=frozenset(names),
        outputs=lambda: (
            ours(batch.features, batch.adjacency),
            reference(batch.features.to_dense(), torch.stack([j_E, i_E])[:, i_E != j_E]),
        ),
        losses=lambda _, expected: (
            first_loss(objective, ours, batch),
            F.cross_entropy(expected[batch.index], batch.label[batch.index]),
        ),
        spec=adam(0.01, decay=[(ours.layers[0], 5e-4)]),
        optimizer=torch.optim.Adam(
            [
                dict(params=reference.layers[0].parameters(), weight_decay=5e-4),
                dict(params=reference.layers[1:].parameters()),
            ],
            lr=0.01,
        ),
    )


@pytest.mark.parametrize("residual", [False, True])
def test_outputs_gradients_and_step(residual: bool, prove) -> None:
    found = in_both(lambda: compared(residual))
    if residual:
        prove("deep_gcn", "parity", reference=f"PyTorch Geometric {geometric.__version__}", **found)


def test_the_floor_sees_no_edge() -> None:
    graph = citation_graph("karate")
    batch = graph.train.batch(torch.arange(8))
    torch.manual_seed(0)
    model = NodeMLP(graph.features, 5, 2, 0.5).eval()
    expected = F.linear(F.linear(batch.features.to_dense(), model.first.T).relu(), model.second.T)
    torch.testing.assert_close(model(batch.features, batch.adjacency), expected)
    torch.testing.assert_close(model(batch.features, torch.zeros(0)), expected)


def test_how_alike_is_the_mean_cosine_with_the_others() -> None:
    torch.manual_seed(0)
    h = torch.randn(7, 3, dtype=torch.float64)
    h[2] = 0
    cosines = F.cosine_similarity(h[:, None], h, dim=2)
    expected = (cosines.sum(1) - cosines.diag()) / 6
    torch.testing.assert_close(alike(h), expected)
    torch.testing.assert_close(alike(torch.full((4, 2), 3.0)), torch.ones(4))


def test_plain_layers_make_nodes_alike_and_residual_ones_less() -> None:
    """Li, Han & Wu, theorem 1: repeated propagation ends in one direction."""
    graph = citation_graph("karate")
    batch = graph.train.batch(torch.arange(8))
    found = {}
    for residual in (False, True):
        torch.manual_seed(0)
        model = DeepGCN(graph.features, 16, 2, 10, residual, 0.0).eval()
        found[residual] = alike(model.hidden(batch.features, batch.adjacency)).mean().item()
    assert found[False] > 0.95
    assert found[True] < found[False]


def test_labels_are_the_first_of_each_class_and_no_other_split_changes() -> None:
    graph = citation_graph("karate")
    fewer = with_labels(graph, 2)
    batch = fewer.train.batch(torch.arange(len(fewer.train)))
    assert batch.label[batch.index].bincount().tolist() == [2, 2]
    assert set(batch.index.tolist()) < set(graph.train.index.tolist())
    assert (batch.label >= 0).sum() == 4  # the loss can read no other
    assert (fewer.val, fewer.test) == (graph.val, graph.test)
    with pytest.raises(WrongInput, match="--labels 5: karate has fewer in its training split for class 1"):
        with_labels(graph, 5)


def test_the_recipe_is_appendix_b() -> None:
    play, told, stages = recipe(data="karate", depth=3, labels=4), {"test/accuracy": 0.5, "test/alike": 0.25}, []
    stages.append(next(play))
    stages += [play.send(told) for _ in range(6)]
    with pytest.raises(StopIteration) as end:
        play.send(told)
    assert end.value.value == {"plain/accuracy": 0.5, "worth": 0.0}
    assert [stage.name for stage in stages] == [
        "alone",
        *(f"{kind}-{d}" for kind in ("plain", "residual") for d in (1, 2, 3)),
    ]
    assert [stage.epochs for stage in stages] == [200] + [400] * 6
    for stage in stages[1:]:
        assert (stage.stop, stage.select) == (None, None)
        assert stage.optimizer.decay == [(stage.model.layers[0], 5e-4)]
        assert stage.model.residual == stage.name.startswith("residual")
    assert [stage.objective.last for stage in stages] == [0] * 6 + [3]
