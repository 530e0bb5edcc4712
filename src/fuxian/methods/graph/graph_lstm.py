"""LSTMs that walk over a graph: each node is updated by what its neighbours have become, the surest nodes first.

中文     图 LSTM、树 LSTM
Paper    Liang et al., ECCV 2016, arXiv:1603.07063: eq. 2 (mean of the neighbours), eq. 3 (the unit), sec. 3 (the order, by
         confidence; residual connections), sec. 4 (confidences are trained first, then all)
         Tai, Socher & Manning, ACL 2015, arXiv:1503.00075: eq. 2 to 8 (child-sum Tree-LSTM)
Departs  they parse photographs, behind a deep convolutional net; here nodes of citation graphs are classified, and digits
         as graphs of superpixels, behind one layer. What makes the order does not learn on; all passes have the same
         weights; states begin at zero. On what is no tree, a Tree-LSTM's children are the neighbours that came before
"""

from collections.abc import Iterator
from copy import deepcopy
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

import torch
from torch import Tensor, nn

from fuxian import figures
from fuxian.contract import Stage
from fuxian.data.graphs import citation_graph
from fuxian.data.images import digits
from fuxian.data.superpixels import SuperpixelGraphs, Superpixels
from fuxian.evaluation import batches
from fuxian.facts import Claim, Paper, Within
from fuxian.methods.graph.gat import edges
from fuxian.methods.graph.gcn import NodeClassification, dropout
from fuxian.objectives.classification import Classification
from fuxian.optim import adam

PAPER = Paper("Semantic Object Parsing with Graph LSTM", "Liang et al.", 2016, venue="ECCV", arxiv="1603.07063")
CLAIMS = [
    Claim("test/accuracy", None, where="Cora: no number is published; GCN's on this split is 0.815", seeds=5),
    Claim("alone/test/accuracy", None, where="Cora, features alone: what the walk begins with", seeds=5),
    Claim("test/accuracy", None, where="Cora, Tree-LSTM: no number is published", seeds=5, knobs=dict(cell="tree")),
    Claim("test/accuracy", None, where="digits as 16 superpixels: no number is published", seeds=3,
          knobs=dict(data="digits", depth=2, dropout=0.0, weight_decay=0.0, epochs=60)),
    Claim("alone/test/accuracy", None, where="digits as 16 superpixels, each by itself", seeds=3,
          knobs=dict(data="digits", depth=2, dropout=0.0, weight_decay=0.0, epochs=60)),
]  # fmt: skip
QUICK = dict(data="digits", superpixels=5, depth=2, hidden=16, dropout=0.0, weight_decay=0.0, epochs=4)

# Shape letters: N nodes, E edges, F features, H hidden units, C classes; B pictures, S superpixels. In one visit: n nodes
# that are updated together, e edges to their neighbours.

State = tuple[Tensor, Tensor]  # hidden states h and memories m (or c) of all nodes, (N, H) each


class Visit(NamedTuple):
    """Nodes that are updated together, and the edges to their neighbours: node number i[e] of these looks at node j[e]."""

    nodes: Tensor  # (n,)
    i: Tensor  # (e,), counts within `nodes`
    j: Tensor  # (e,), counts in the graph
    share: Tensor  # (e, 1): one by the number of neighbours, for their mean
    before: Tensor  # (e, 1): 1 where j has been updated, else 0

    def total(self, value_eH: Tensor) -> Tensor:
        """Sums over each node's edges, (n, H)."""
        return value_eH.new_zeros(self.nodes.shape[0], value_eH.shape[1]).index_add(0, self.i, value_eH)


def neighbours(adjacency_NN: Tensor) -> tuple[Tensor, Tensor]:
    """Each node i, and its neighbours j: (E,) each, without self-loops. Of graphs (B, S, S) the nodes count through all."""
    if adjacency_NN.layout == torch.sparse_csr:
        i_E, j_E = edges(adjacency_NN)
    else:
        s = adjacency_NN.shape[-1]
        b_E, i_E, j_E = adjacency_NN.view(-1, s, s).nonzero().T
        i_E, j_E = i_E + b_E * s, j_E + b_E * s
    return i_E[i_E != j_E], j_E[i_E != j_E]


def by_level(adjacency_NN: Tensor, confidence_N: Tensor) -> Iterator[Visit]:
    """Visits in which the surest node comes first, as many nodes at a time as change nothing.

    A node waits for those neighbours that are surer than it, and for nobody else: its level is the longest way down to it.
    Nodes of one level are no neighbours.
    """
    i_E, j_E = neighbours(adjacency_NN)
    rank_N = confidence_N.argsort(descending=True, stable=True).argsort()
    before_E = rank_N[j_E] < rank_N[i_E]
    share_N = 1 / i_E.bincount(minlength=len(rank_N)).to(confidence_N)
    level_N, last_N = torch.zeros_like(rank_N), None
    while last_N is None or not torch.equal(level_N, last_N):
        last_N = level_N
        level_N = last_N.scatter_reduce(0, i_E[before_E], last_N[j_E[before_E]] + 1, "amax")
    for level in range(int(level_N.max()) + 1):
        nodes, mine_E = (level_N == level).nonzero()[:, 0], level_N[i_E] == level
        i = i_E[mine_E]
        yield Visit(nodes, torch.searchsorted(nodes, i), j_E[mine_E], share_N[i, None],
                    before_E[mine_E, None].to(confidence_N))  # fmt: skip


def one_by_one(adjacency_BSS: Tensor, confidence_BS: Tensor) -> Iterator[Visit]:
    """The same walk over graphs of one size, a node of each at a time: what an exported model does.

    The others of its graph all stand as a node's neighbours, and those that are none have no share. So the visits are as
    many and as large as the input's shape says, whatever is in it.
    """
    b, s = confidence_BS.shape
    order_BS = confidence_BS.topk(s).indices
    rank_BS = order_BS.argsort()
    start_B1 = torch.arange(b, device=order_BS.device)[:, None] * s
    i = torch.arange(b, device=order_BS.device)[:, None].expand(b, s).flatten()
    j = (start_B1 + torch.arange(s, device=order_BS.device)).flatten()
    for place in range(s):
        node_B1 = order_BS[:, place, None]
        near_BS = adjacency_BSS.gather(1, node_B1[..., None].expand(-1, 1, s))[:, 0] != 0
        near_BS = near_BS & (rank_BS != place)
        share_BS = near_BS.to(confidence_BS) / near_BS.sum(1, keepdim=True).clamp_min(1)
        before_BS = (near_BS & (rank_BS < place)).to(share_BS)
        yield Visit((start_B1 + node_B1).flatten(), i, j, share_BS.view(-1, 1), before_BS.view(-1, 1))


class GraphLSTMCell(nn.Module):
    """One pass over all nodes. While it goes on, h and m hold t + 1 of the nodes that were visited and t of the others."""

    def __init__(self, hidden: int) -> None:
        super().__init__()
        self.input = nn.Linear(hidden, 4 * hidden)  # W and b of the gates u, o, c, f
        self.own = nn.Linear(hidden, 4 * hidden, bias=False)  # U of the same
        self.near = nn.Linear(hidden, 3 * hidden, bias=False)  # U^un, U^on, U^cn
        self.forget = nn.Linear(hidden, hidden, bias=False)  # U^fn

    def forward(self, f_NH: Tensor, state: State, visits: Iterator[Visit]) -> State:
        h_NH, m_NH = state
        width = 3 * h_NH.shape[1]
        uoc_N3H, f_in_NH = self.input(f_NH).tensor_split([width], 1)
        own_N3H, f_own_NH = self.own(h_NH).tensor_split([width], 1)
        uoc_N3H, keep_NH, forget_NH = uoc_N3H + own_N3H, (f_in_NH + f_own_NH).sigmoid() * m_NH, self.forget(h_NH)
        for at in visits:
            mean_nH = at.total(at.share * h_NH[at.j])  # eq. 2
            u, o, c = (uoc_N3H[at.nodes] + self.near(mean_nH)).chunk(3, 1)
            f_eH = (f_in_NH[at.nodes][at.i] + forget_NH[at.j]).sigmoid()  # of h_j,t, also where j was visited: eq. 3
            m_nH = at.total(at.share * f_eH * m_NH[at.j]) + keep_NH[at.nodes] + u.sigmoid() * c.tanh()
            h_NH = h_NH.index_copy(0, at.nodes, (o.sigmoid() * m_nH).tanh())
            m_NH = m_NH.index_copy(0, at.nodes, m_nH)
        return h_NH, m_NH


class TreeLSTMCell(nn.Module):
    """Child-sum Tree-LSTM, eq. 2 to 8, from the leaves up; where it is no tree, each node's children came before it."""

    def __init__(self, hidden: int) -> None:
        super().__init__()
        self.input = nn.Linear(hidden, 4 * hidden)  # W and b of the gates i, o, u, f
        self.near = nn.Linear(hidden, 3 * hidden, bias=False)  # U^(i), U^(o), U^(u)
        self.forget = nn.Linear(hidden, hidden, bias=False)  # U^(f)

    def forward(self, x_NH: Tensor, state: State, visits: Iterator[Visit]) -> State:
        h_NH, c_NH = state
        iou_N3H, f_in_NH = self.input(x_NH).tensor_split([3 * h_NH.shape[1]], 1)
        for at in visits:
            h_eH = h_NH[at.j]
            sum_nH = at.total(at.before * h_eH)  # eq. 2
            i, o, u = (iou_N3H[at.nodes] + self.near(sum_nH)).chunk(3, 1)  # eq. 3, 5, 6
            f_eH = (f_in_NH[at.nodes][at.i] + self.forget(h_eH)).sigmoid()  # eq. 4
            c_nH = i.sigmoid() * u.tanh() + at.total(at.before * f_eH * c_NH[at.j])  # eq. 7
            h_NH = h_NH.index_copy(0, at.nodes, o.sigmoid() * c_nH.tanh())  # eq. 8
            c_NH = c_NH.index_copy(0, at.nodes, c_nH)
        return h_NH, c_NH


CELLS = {"graph": GraphLSTMCell, "tree": TreeLSTMCell}


class Alone(nn.Module):
    """What each node says by its own features, logits (…, C); no edge is looked at. x (N, F), also sparse, or (B, S, F)."""

    def __init__(self, features: int, hidden: int, classes: int, dropout: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(features, hidden))
        self.bias = nn.Parameter(torch.zeros(hidden))
        nn.init.xavier_uniform_(self.weight)
        self.head = nn.Linear(hidden, classes)
        self.dropout = dropout

    def hidden(self, x_NF: Tensor, adjacency_NN: Tensor) -> Tensor:
        h_NH = (dropout(x_NF, self.dropout, self.training) @ self.weight + self.bias).relu()
        return dropout(h_NH, self.dropout, self.training)

    def forward(self, x_NF: Tensor, adjacency_NN: Tensor) -> Tensor:
        return self.head(self.hidden(x_NF, adjacency_NN))


class GraphLSTM(nn.Module):
    """`depth` passes over the nodes; each reads what the one before read and what it made of it, added up. As `Alone`."""

    def __init__(self, alone: Alone, cell: str, depth: int) -> None:
        super().__init__()
        self.alone = deepcopy(alone).requires_grad_(False)  # says how sure each node is
        self.features = deepcopy(alone)  # begins with what is known, and learns on
        self.cell = CELLS[cell](alone.head.in_features)
        self.depth = depth

    def confidence(self, x_NF: Tensor, adjacency_NN: Tensor) -> Tensor:
        """Of each node: the probability of its likeliest class."""
        return self.alone(x_NF, adjacency_NN).softmax(-1).amax(-1)

    def visits(self, x_NF: Tensor, adjacency_NN: Tensor) -> list[Visit]:
        confidence_N = self.confidence(x_NF, adjacency_NN)
        if torch.compiler.is_exporting():
            return list(one_by_one(adjacency_NN, confidence_N))
        return list(by_level(adjacency_NN, confidence_N.flatten()))

    def hidden(self, x_NF: Tensor, adjacency_NN: Tensor) -> Tensor:
        visits = self.visits(x_NF, adjacency_NN)
        first = self.features.hidden(x_NF, adjacency_NN)
        f_NH = first.flatten(0, -2)
        state = torch.zeros_like(f_NH), torch.zeros_like(f_NH)
        for _ in range(self.depth):
            state = self.cell(f_NH, state, visits)
            f_NH = f_NH + state[0]  # residual connections, sec. 3
        return f_NH.view_as(first)

    def forward(self, x_NF: Tensor, adjacency_NN: Tensor) -> Tensor:
        h_NH = dropout(self.hidden(x_NF, adjacency_NN), self.features.dropout, self.training)
        return self.features.head(h_NH)


class Vote(nn.Module):
    """A picture's logits (B, C): the mean of what its superpixels say."""

    def __init__(self, of: Alone | GraphLSTM) -> None:
        super().__init__()
        self.of = of

    def forward(self, x_BSF: Tensor, adjacency_BSS: Tensor) -> Tensor:
        return self.of(x_BSF, adjacency_BSS).mean(1)


class OfNodes(NodeClassification):
    """Node classification, as for a GCN; and a picture of what the walk is worth to whom."""

    def pictures(self, model: Any, split: Any) -> dict[str, Any]:
        if isinstance(model, Alone):
            return {}
        (batch,) = batches(split, None)
        order_I = model.confidence(batch.features, batch.adjacency)[batch.index].argsort(descending=True)
        groups = order_I.tensor_split(min(10, len(order_I)))
        place = [100 * (g + 0.5) / len(groups) for g in range(len(groups))]
        curves = {}
        for name, judged in (("features alone", model.alone), ("LSTM", model)):
            right_I = judged(batch.features, batch.adjacency)[batch.index].argmax(1) == batch.label[batch.index]
            curves[name] = place, [100 * float(right_I[group].double().mean()) for group in groups]
        drawn = figures.lines(curves, x="nodes as they are visited, the surest first, %", y="right of a tenth of them, %")
        return {"visited": drawn, **super().pictures(model, split)}


class OfPictures(Classification):
    """Classification of pictures by their superpixels; and a picture of how they are walked over."""

    def inputs(self, batch: Superpixels) -> tuple[Tensor, ...]:
        return batch.features, batch.adjacency

    def pictures(self, model: Any, split: Any) -> dict[str, Any]:
        if isinstance(model.of, Alone):
            return {}
        return {"walk": self.walk(model, split), **super().pictures(model, split)}

    def walk(self, model: Any, split: Any) -> Any:
        """Some pictures as the model sees them: superpixels in their mean grey, who touches whom, who comes when."""
        batch = split.batch(torch.arange(min(6, len(split)), device=split.device))
        rank_BS = model.of.confidence(*self.inputs(batch)).argsort(descending=True, stable=True).argsort()
        guess_B = model(*self.inputs(batch)).argmax(1).tolist()
        words = [f"{self.names[t]}, read as {self.names[g]}" for t, g in zip(batch.label.tolist(), guess_B, strict=True)]
        drawing, all_axes = figures.panels([("", word) for word in words], across=3, height=160)
        side = batch.region.shape[1]
        for axes, x_SF, near_SS, region, rank_S in zip(
            all_axes, *(t.cpu() for t in (batch.features, batch.adjacency, batch.region, rank_BS)), strict=True
        ):
            axes.imshow(1 - x_SF[region, 0], cmap="gray", vmin=0, vmax=1, interpolation="none")
            across_S, down_S = ((x_SF[:, 1:3] + 1) * (side - 1) / 2).T
            for one, other in near_SS.triu().nonzero().tolist():
                axes.plot(across_S[[one, other]], down_S[[one, other]], color=figures.PALETTE["blue"], linewidth=0.8)
            for a, d, rank in zip(across_S.tolist(), down_S.tolist(), rank_S.tolist(), strict=True):
                box = dict(boxstyle="circle,pad=0.15", facecolor=figures.PALETTE["paper"], linewidth=0)
                axes.text(a, d, str(rank + 1), ha="center", va="center", fontsize=7, bbox=box)
            axes.axis("off")
        return drawing


def recipe(
    data: Literal["cora", "citeseer", "pubmed", "karate", "digits"] | Path = "cora",  # a graph; or pictures, a graph each
    cell: Literal["graph", "tree"] = "graph",  # Liang et al.'s, of all neighbours; Tai et al.'s, of those that came before
    superpixels: Annotated[int, Within(1)] = 16,  # of each picture
    depth: Annotated[int, Within(1)] = 3,      # passes over all nodes
    hidden: int = 32,             # units
    dropout: float = 0.5,         # probability: features, and the inputs of what comes after them
    lr: float = 0.01,             # Adam; as for GCN
    weight_decay: float = 5e-3,   # L2 of all weights that learn
    batch: int = 64,              # pictures a step; the nodes of a graph are one batch
    epochs: int = 200,            # of each stage, without early stopping
) -> Iterator[Stage]:  # fmt: skip
    graph = SuperpixelGraphs(digits(), superpixels) if data == "digits" else citation_graph(data)
    alone = Alone(graph.features, hidden, graph.classes, dropout)

    def stage(model: Alone | GraphLSTM, name: str) -> Stage:
        spec = adam(lr, decay=weight_decay)
        if isinstance(graph, SuperpixelGraphs):
            return Stage(Vote(model), graph, OfPictures(graph.names), spec, epochs=epochs, batch=batch, name=name)
        return Stage(model, graph, OfNodes(graph.names), spec, epochs=epochs, name=name)

    yield stage(alone, "alone")
    yield stage(GraphLSTM(alone, cell, depth), "walk")
