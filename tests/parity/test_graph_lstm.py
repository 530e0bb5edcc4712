"""Both cells against their equations, written out for a node at a time; a Tree-LSTM on a chain against torch's LSTM."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from fuxian.data.graphs import citation_graph
from fuxian.data.images import digits
from fuxian.data.superpixels import SuperpixelGraphs
from fuxian.methods.graph.graph_lstm import (
    Alone,
    GraphLSTM,
    GraphLSTMCell,
    TreeLSTMCell,
    Vote,
    by_level,
    neighbours,
    one_by_one,
    recipe,
)
from fuxian.optim import adam

from .compare import Differences, in_both, parity, relative

H = 5


def graph_of(pairs: list[tuple[int, int]], nodes: int) -> Tensor:
    """(N, N), 1 where two are joined, in either direction, with self-loops as the citation graphs have them."""
    dense = torch.eye(nodes)
    for one, other in pairs:
        dense[one, other] = dense[other, one] = 1
    return dense


class Written(nn.Module):
    """A cell's weights, as they lie in ours."""

    def __init__(self, ours: nn.Module) -> None:
        super().__init__()
        self.parts = nn.ParameterDict({name.replace(".", "_"): torch.zeros_like(p) for name, p in ours.named_parameters()})

    def gates(self, name: str) -> list[Tensor]:
        return list(self.parts[name].split(H))


class Recursion(Written):
    """Tai et al., eq. 2 to 8, from the root down."""

    def forward(self, x: Tensor, children: list[list[int]], root: int) -> Tensor:
        (w_i, w_o, w_u, w_f), (b_i, b_o, b_u, b_f) = self.gates("input_weight"), self.gates("input_bias")
        (u_i, u_o, u_u), (u_f,) = self.gates("near_weight"), self.gates("forget_weight")
        h, c = {}, {}

        def visit(node: int) -> None:
            for child in children[node]:
                visit(child)
            sum_h = sum((h[k] for k in children[node]), torch.zeros(H))
            i = torch.sigmoid(w_i @ x[node] + u_i @ sum_h + b_i)
            o = torch.sigmoid(w_o @ x[node] + u_o @ sum_h + b_o)
            u = torch.tanh(w_u @ x[node] + u_u @ sum_h + b_u)
            c[node] = i * u
            for k in children[node]:
                c[node] = c[node] + torch.sigmoid(w_f @ x[node] + u_f @ h[k] + b_f) * c[k]
            h[node] = o * torch.tanh(c[node])

        visit(root)
        return torch.stack([h[node] for node in range(len(x))])


class NodeByNode(Written):
    """Liang et al., eq. 2 and 3: a node at a time, and a flag q for those that were visited."""

    def forward(self, f: Tensor, pairs: list[tuple[int, int]], order: list[int], passes: int) -> Tensor:
        (w_u, w_o, w_c, w_f), (b_u, b_o, b_c, b_f) = self.gates("input_weight"), self.gates("input_bias")
        (u_u, u_o, u_c, u_f), (un_u, un_o, un_c) = self.gates("own_weight"), self.gates("near_weight")
        (u_fn,) = self.gates("forget_weight")
        near = [[b for a, b in [*pairs, *((b, a) for a, b in pairs)] if a == node] for node in range(len(f))]
        h, m = ({node: torch.zeros(H) for node in order} for _ in "hm")
        for _ in range(passes):
            new_h, new_m = {}, {}
            for n in order:
                mean = sum((new_h[j] if j in new_h else h[j] for j in near[n]), torch.zeros(H)) / max(1, len(near[n]))
                g_u = torch.sigmoid(w_u @ f[n] + u_u @ h[n] + un_u @ mean + b_u)
                g_f = torch.sigmoid(w_f @ f[n] + u_f @ h[n] + b_f)
                g_o = torch.sigmoid(w_o @ f[n] + u_o @ h[n] + un_o @ mean + b_o)
                g_c = torch.tanh(w_c @ f[n] + u_c @ h[n] + un_c @ mean + b_c)
                memory = g_f * m[n] + g_u * g_c
                for j in near[n]:
                    g_fn = torch.sigmoid(w_f @ f[n] + u_fn @ h[j] + b_f)
                    memory = memory + g_fn * (new_m[j] if j in new_m else m[j]) / len(near[n])
                new_m[n], new_h[n] = memory, torch.tanh(g_o * memory)
            h, m = new_h, new_m
            f = f + torch.stack([h[node] for node in range(len(f))])
        return torch.stack([h[node] for node in range(len(f))])


def compared(ours: nn.Module, reference: Written, outputs: Any) -> Differences:
    return parity(
        ours,
        reference,
        {name: f"parts.{name.replace('.', '_')}" for name, _ in ours.named_parameters()},
        outputs=outputs,
        losses=lambda h, expected: (h.square().sum(), expected.square().sum()),
        spec=adam(0.01),
        optimizer=torch.optim.Adam(reference.parameters(), lr=0.01),
    )


def states(nodes: int) -> tuple[Tensor, Tensor]:
    return torch.zeros(nodes, H), torch.zeros(nodes, H)


def random_tree(seed: int) -> Differences:
    torch.manual_seed(seed)
    nodes = 12
    name = torch.randperm(nodes).tolist()  # parents do not come before their children in the numbering
    parent = [int(torch.randint(max(0, k - 4), k, ())) if k else 0 for k in range(nodes)]
    children: list[list[int]] = [[] for _ in range(nodes)]
    height = torch.zeros(nodes)
    for k in reversed(range(1, nodes)):
        children[name[parent[k]]].append(name[k])
        height[name[parent[k]]] = max(height[name[parent[k]]], height[name[k]] + 1)
    adjacency = graph_of([(a, b) for a in range(nodes) for b in children[a]], nodes)
    x, ours = torch.randn(nodes, H), TreeLSTMCell(H)
    reference = Recursion(ours)
    visits = list(by_level(adjacency, -height))  # leaves first
    assert len(visits) == int(height.max()) + 1 < nodes
    return compared(ours, reference, lambda: (ours(x, states(nodes), visits)[0], reference(x, children, name[0])))


def random_graph() -> Differences:
    torch.manual_seed(0)
    nodes, passes = 14, 3
    drawn = torch.randint(0, nodes - 1, (30, 2)).tolist()  # the last node has no neighbour
    pairs = sorted({(min(a, b), max(a, b)) for a, b in drawn if a != b})
    confidence = torch.rand(nodes)
    f, ours = torch.randn(nodes, H), GraphLSTMCell(H)
    reference = NodeByNode(ours)
    visits = list(by_level(graph_of(pairs, nodes), confidence))

    def outputs() -> tuple[Tensor, Tensor]:
        state, x = states(nodes), f
        for _ in range(passes):
            state = ours(x, state, visits)
            x = x + state[0]
        return state[0], reference(f, pairs, confidence.argsort(descending=True).tolist(), passes)

    return compared(ours, reference, outputs)


def test_outputs_gradients_and_step(prove) -> None:
    found = in_both(random_graph)
    prove("graph_lstm", "parity", reference="Liang et al.'s equations, one node at a time", **found)


@pytest.mark.parametrize("seed", range(4))
def test_a_tree_is_what_the_recursion_makes_of_it(seed: int) -> None:
    in_both(lambda: random_tree(seed))


def test_a_chain_is_torchs_lstm() -> None:
    torch.set_default_dtype(torch.float64)
    try:
        torch.manual_seed(0)
        ours, reference, length = TreeLSTMCell(H), nn.LSTM(H, H), 9
        with torch.no_grad():
            (w_i, w_o, w_u, w_f), (b_i, b_o, b_u, b_f) = ours.input.weight.split(H), ours.input.bias.split(H)
            u_i, u_o, u_u = ours.near.weight.split(H)
            reference.weight_ih_l0.copy_(torch.cat([w_i, w_f, w_u, w_o]))
            reference.weight_hh_l0.copy_(torch.cat([u_i, ours.forget.weight, u_u, u_o]))
            reference.bias_ih_l0.copy_(torch.cat([b_i, b_f, b_u, b_o]))
            reference.bias_hh_l0.zero_()
        x = torch.randn(length, H)
        chain = graph_of([(k, k + 1) for k in range(length - 1)], length)
        h, c = ours(x, states(length), list(by_level(chain, -torch.arange(float(length)))))
        expected, (_, last) = reference(x)
        assert relative(h, expected) < 1e-12
        assert relative(c[-1:], last) < 1e-12
    finally:
        torch.set_default_dtype(torch.float32)


def test_the_surest_come_first_and_neighbours_never_together() -> None:
    adjacency = citation_graph("karate").train.batch(torch.arange(1)).adjacency
    torch.manual_seed(0)
    confidence = torch.rand(34)
    visits = list(by_level(adjacency, confidence))
    when = torch.empty(34, dtype=torch.int64)
    for number, visit in enumerate(visits):
        when[visit.nodes] = number
    assert torch.cat([visit.nodes for visit in visits]).sort().values.tolist() == list(range(34))
    i, j = neighbours(adjacency)
    assert len(i) == 2 * 78
    assert torch.equal(when[i] > when[j], confidence[i] < confidence[j])
    assert sum(len(visit.i) for visit in visits) == len(i)
    assert len(visits) < 15  # many at a time


@pytest.mark.parametrize("cell", ["graph", "tree"])
def test_a_node_at_a_time_is_the_same_walk(cell: str) -> None:
    graphs = SuperpixelGraphs(digits(), 9)
    batch = graphs.test.batch(torch.arange(20))
    torch.manual_seed(0)
    model = GraphLSTM(Alone(graphs.features, H, 10, 0.0), cell, 2).double()
    x, adjacency = batch.features.double(), batch.adjacency.double()
    together = model.hidden(x, adjacency)
    slow = list(one_by_one(adjacency, model.confidence(x, adjacency)))
    assert len(model.visits(x, adjacency)) < len(slow) == 9
    model.visits = lambda *_: slow
    assert relative(model.hidden(x, adjacency), together) < 1e-12


def test_sparse_and_dense_are_the_same_graph() -> None:
    graph = citation_graph("karate")
    batch = graph.train.batch(torch.arange(8))
    torch.manual_seed(0)
    model = GraphLSTM(Alone(graph.features, H, graph.classes, 0.0), "graph", 2).eval()
    dense = model(batch.features.to_dense(), batch.adjacency.to_dense())
    assert relative(model(batch.features, batch.adjacency), dense) < 1e-5


def test_the_walk_begins_with_what_the_features_say_and_its_order_does_not_learn() -> None:
    stages = recipe(data="karate", dropout=0.5)
    alone = next(stages)
    walk = next(stages)
    model, before = walk.model, alone.model
    assert [name for name, p in model.named_parameters() if not p.requires_grad] == [
        f"alone.{name}" for name, _ in before.named_parameters()
    ]
    for part in (model.alone, model.features):
        for (name, p), q in zip(part.named_parameters(), before.parameters(), strict=True):
            assert torch.equal(p, q), name
            assert p is not q, name
    assert walk.optimizer.decay == alone.optimizer.decay == 5e-3  # a number: of all weights
    assert walk.select is walk.stop is alone.stop is None


def test_a_picture_is_the_mean_of_its_superpixels() -> None:
    torch.manual_seed(0)
    x, adjacency, alone = torch.randn(3, 4, 7), torch.zeros(3, 4, 4), Alone(7, H, 10, 0.0)
    said = torch.stack([alone(x[1, s], adjacency[1]) for s in range(4)])
    torch.testing.assert_close(Vote(alone)(x, adjacency)[1], said.mean(0))
