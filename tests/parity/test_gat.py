"""GAT against PyTorch Geometric's GATConv, and its rules against the script that they are from."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fuxian.data.graphs import citation_graph
from fuxian.methods.graph.gat import GAT, GraphAttention, best_accuracy, best_of_both, edges, idle, recipe
from fuxian.methods.graph.gcn import NodeClassification
from fuxian.optim import adam

from .compare import Differences, first_loss, in_both, parity

geometric = pytest.importorskip("torch_geometric")


class Reference(nn.Module):
    """Two GATConv that take our weights as they lie in ours; theirs has one bias for the mean of the last heads."""

    def __init__(self, ours: GAT, features: int, classes: int) -> None:
        super().__init__()
        conv = geometric.nn.GATConv
        self.conv = [conv(features, 8, heads=8), conv(64, classes, heads=3, concat=False)]
        self.layers = nn.ModuleList(
            nn.ParameterDict({name: torch.zeros_like(p) for name, p in layer.named_parameters()})
            for layer in (ours.first, ours.second)
        )

    def forward(self, x: Tensor, pairs: Tensor) -> Tensor:
        for conv, own in zip(self.conv, self.layers, strict=True):
            bias = own["bias_KU"].mean(0) if conv is self.conv[1] else own["bias_KU"].flatten()
            theirs = {"lin.weight": own["weight"].T, "att_dst": own["target_KU"][None], "att_src": own["source_KU"][None]}
            x = torch.func.functional_call(conv, theirs | {"bias": bias}, (x, pairs))
            x = F.elu(x) if conv is self.conv[0] else x
        return x


def compared(layout: str) -> Differences:
    graph = citation_graph("karate")
    batch = graph.train.batch(torch.arange(len(graph.train)))
    if torch.get_default_dtype() == torch.float64:
        features, adjacency = (m.to_dense().double().to_sparse_csr() for m in (batch.features, batch.adjacency))
        batch = replace(batch, features=features, adjacency=adjacency)
    torch.manual_seed(0)
    ours = GAT(graph.features, 8, 8, 3, graph.classes, dropout=0.6).eval()
    for weight in ours.parameters():  # scores on both sides of the leaky ReLU's bend, or the target cancels out
        nn.init.normal_(weight, std=0.6)
    reference = Reference(ours, graph.features, graph.classes).eval()
    i_E, j_E = edges(batch.adjacency)
    pairs = torch.stack([j_E, i_E])[:, i_E != j_E]  # from the one looked at to the one that looks; it adds the loops
    x, adjacency = (batch.features, batch.adjacency) if layout == "sparse" else NodeClassification(("a", "b")).inputs(batch)
    names = [name for name, _ in ours.named_parameters()]
    return parity(
        ours,
        reference,
        {name: name.replace("first", "layers.0").replace("second", "layers.1") for name in names},
        outputs=lambda: (ours(x, adjacency), reference(batch.features.to_dense(), pairs)),
        losses=lambda _, expected: (
            first_loss(NodeClassification(("a", "b")), ours, replace(batch, features=x, adjacency=adjacency)),
            F.cross_entropy(expected[batch.index], batch.label[batch.index]),
        ),
        spec=adam(0.005, decay=5e-4),
        optimizer=torch.optim.Adam(reference.parameters(), lr=0.005, weight_decay=5e-4),
    )


@pytest.mark.parametrize("layout", ["sparse", "dense"])
def test_outputs_gradients_and_step(layout: str, prove) -> None:
    found = in_both(lambda: compared(layout))
    if layout == "sparse":  # what it trains on
        prove("gat", "parity", reference=f"PyTorch Geometric {geometric.__version__}", **found)


def test_scores_of_any_size_are_weighed() -> None:
    """Softmax is of each node's own neighbours: a far larger score elsewhere does not drown them."""
    graph = citation_graph("karate")
    adjacency = graph.train.batch(torch.arange(1)).adjacency
    layer = GraphAttention(graph.features, 1, 1, 0.0)
    target = torch.linspace(-500, 500, 34)[:, None]
    alpha_E1 = layer.attention(target, torch.zeros(34, 1), adjacency)
    i_E, _ = edges(adjacency)
    torch.testing.assert_close(torch.zeros(34).index_add(0, i_E, alpha_E1[:, 0]), torch.ones(34))
    degree = adjacency.crow_indices().diff()
    torch.testing.assert_close(alpha_E1[:, 0], 1 / degree[i_E].float())  # all its neighbours look the same to a node


def test_training_drops_features_attention_and_what_is_looked_at() -> None:
    graph = citation_graph("karate")
    batch = graph.train.batch(torch.arange(1))
    torch.manual_seed(0)
    layer = GraphAttention(graph.features, 2, 3, 0.5)
    quiet = layer.eval()(batch.features, batch.adjacency)
    layer.train()
    drawn = torch.stack([layer(batch.features, batch.adjacency) for _ in range(400)])
    # attention and what is looked at are dropped each; the mean is nearly kept (the softmax bends it a little)
    assert ((drawn == 0).all(-1).any(1)).any()
    torch.testing.assert_close(drawn.mean(0), quiet, atol=0.08, rtol=0.5)


def script(rows: list[dict[str, float]], *, accuracy_alone: bool) -> tuple[int, int | None]:
    """execute_cora.py, or issue 14's change of it, word for word: which epoch it saves last, and where it stops."""
    low, high, waited, saved = float("inf"), 0.0, 0, -1
    for epoch, row in enumerate(rows):
        accurate, cheap = row["accuracy"] >= high, row["loss"] <= low
        if accurate or (cheap and not accuracy_alone):
            if accurate and (cheap or accuracy_alone):
                saved = epoch
            high, low, waited = max(row["accuracy"], high), min(row["loss"], low), 0
        else:
            waited += 1
            if waited == 100:
                return saved, epoch
    return saved, None


@pytest.mark.parametrize("alone", [False, True])
@pytest.mark.parametrize("seed", range(5))
def test_it_keeps_and_stops_as_the_script_does(seed: int, alone: bool) -> None:
    torch.manual_seed(seed)
    time = torch.arange(400)
    loss = torch.exp(-time / 60) + 0.001 * time + 0.05 * torch.rand(400)  # turns at 170
    accuracy = (1 - loss + 0.05 * torch.rand(400)).mul(50).round() / 50  # ties are frequent
    rows = [{"loss": a, "accuracy": b} for a, b in zip(loss.tolist(), accuracy.tolist(), strict=True)]
    keep = best_accuracy if alone else best_of_both
    stopped = next((n for n in range(1, 401) if idle(rows[:n], loss=not alone)), None)
    kept = [n for n in range(1, (stopped or 400) + 1) if keep(rows[:n])][-1]
    saved, end = script(rows, accuracy_alone=alone)
    assert end is not None
    assert (kept - 1, stopped) == (saved, end + 1)


def test_the_recipe_is_the_protocol() -> None:
    (stage,) = recipe(data="karate")
    assert stage.optimizer.decay == 5e-4  # a number: of all weights, biases too
    rows = [{"loss": 1.0, "accuracy": 0.5}, {"loss": 0.9, "accuracy": 0.4}]
    assert [stage.select(rows[:n]) for n in (1, 2)] == [True, False]
    (stage,) = recipe(data="karate", stop="accuracy")
    assert [stage.select(rows[:n]) for n in (1, 2)] == [True, False]
    idle_rows = rows[:1] + [{"loss": 0.9 - 0.001 * n, "accuracy": 0.4} for n in range(100)]
    assert stage.stop(idle_rows)  # the loss falls, and nobody asks
    assert not stage.stop(idle_rows[:-1])
