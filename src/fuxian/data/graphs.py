"""Graphs whose nodes are classified: the Planetoid citation graphs and Zachary's karate club.

Shape letters: N nodes, F features, I nodes of a split (or of a batch).
"""

from __future__ import annotations

import io
import pickle
import warnings
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import networkx as nx
import numpy as np
import torch
from torch import Tensor
from typing_extensions import Self

from fuxian.contract import Batch, Splits
from fuxian.data import own
from fuxian.data.sources import digest, hashes, read
from fuxian.errors import DataMissing, WrongInput

UNSEEN = -100  # the label of a node outside the split: what torch's cross entropy ignores


@dataclass(frozen=True)
class Nodes(Batch):
    """The whole graph, and which of its nodes are asked for: losses and evaluation take the rows `index`."""

    features: Tensor  # (N, F) float32, sparse CSR; each row sums to one
    adjacency: Tensor  # (N, N) float32, sparse CSR, symmetric, normalized, with self-loops
    label: Tensor  # (N,) int64, UNSEEN outside the split
    index: Tensor  # (I,) int64

    def __len__(self) -> int:
        return len(self.index)

    def chunk(self, parts: int) -> list[Self]:  # pyright: ignore[reportIncompatibleMethodOverride]
        return [replace(self, index=index) for index in self.index.tensor_split(min(parts, len(self)))]


class NodeSplit:
    """Some nodes of a graph: `index` (I,) int64, in increasing order. The graph's tensors are shared by its splits."""

    def __init__(self, graph: dict[str, Tensor], label: Tensor, index: Tensor) -> None:
        self.graph = graph  # features and adjacency: one dict, so that a device holds them once
        self.index = index
        self.label = torch.full_like(label, UNSEEN)  # training cannot see another split's labels
        self.label[index] = label[index]

    @property
    def device(self) -> torch.device:
        return self.index.device

    def to(self, device: torch.device | str) -> Self:
        """Moves this split and the graph, as a module's `to` does."""
        self.graph |= {name: tensor.to(device) for name, tensor in self.graph.items()}
        self.label, self.index = self.label.to(device), self.index.to(device)
        return self

    def __len__(self) -> int:
        return len(self.index)

    def batch(self, indices: Tensor) -> Nodes:
        return Nodes(self.graph["features"], self.graph["adjacency"], self.label, self.index[indices])


class CitationGraph(Splits):
    """A graph of `nodes`, undirected `edges` without self-loops, `features` for each node, and `classes` with `names`."""

    def __init__(
        self,
        features: Tensor,
        edges: Tensor,
        label: Tensor,
        splits: tuple[Tensor, ...],
        *,
        name: str,
        names: Sequence[str] = (),
        hashes: dict[str, str] | None = None,
    ) -> None:
        """`splits`: the nodes of train, val and test; an empty one is none."""
        graph = dict(features=features, adjacency=normalized(edges, len(label)))
        train, *rest = (NodeSplit(graph, label, index) for index in splits)
        super().__init__(train, *(split if len(split) else None for split in rest), name=name, hashes=hashes)
        self.nodes, self.features = features.shape
        self.classes = int(label.max()) + 1
        self.names = tuple(names) or tuple(f"class {c + 1}" for c in range(self.classes))
        self.edges = int((edges[0] < edges[1]).sum())

    def about(self) -> dict[str, Any]:
        return {
            "values": "a row of features for each node; as adjacency D^-1/2 (A + I) D^-1/2, dense",
            "nodes": self.nodes,
            "features": self.features,
            "classes": self.names,
        }

    def read(self, words: Sequence[str]) -> Nodes:
        """Nodes by their numbers, from 0."""
        for word in words:
            if not word.isdecimal() or int(word) >= self.nodes:
                raise WrongInput(f"{word} is no node of {self.name}; its nodes are 0 to {self.nodes - 1:,}")
        train: Any = self.train
        some = NodeSplit(train.graph, torch.full_like(train.label, UNSEEN), torch.tensor([int(word) for word in words]))
        return some.batch(torch.arange(len(words)))


def citation_graph(name: str | Path) -> CitationGraph:
    """Cora, Citeseer or Pubmed with the fixed Planetoid split, Zachary's karate club (`karate`, no download), or one's own.

    Planetoid: 20 nodes of each class to train on, 500 to validate, 1,000 to test. Protocol: tkipf/gcn @ 39a4089,
    utils.py. Citeseer's 15 nodes that no file describes are isolated, have no features and are in no split.
    A path: `own_graph`. Raises WrongInput for another name, DataMissing when the files cannot be had.
    """
    if isinstance(name, Path):
        return own_graph(name)
    if name == "karate":
        return _karate()
    if name not in ("cora", "citeseer", "pubmed"):
        raise WrongInput(
            f"there is no citation graph named {name!r}", do="one of cora, citeseer, pubmed, karate, or a path"
        )
    content = {file.removeprefix(f"ind.{name}."): data for file, data in read(name).items()}
    part = {key: _unpickle(data, f"ind.{name}.{key}") for key, data in content.items() if key != "test.index"}
    given = torch.tensor([int(line) for line in content["test.index"].split()])  # node of each row of tx and ty
    known, nodes = part["allx"].shape[0], int(given.max()) + 1
    node = torch.cat([torch.arange(known), given])  # of each row of allx, then of tx
    onehot = torch.from_numpy(np.concatenate([part["ally"], part["ty"]]))
    label = torch.full((nodes,), UNSEEN)
    label[node] = onehot.argmax(1)
    row, column, value = (
        torch.cat([first, second]) for first, second in zip(part["allx"].entries(), part["tx"].entries(known), strict=True)
    )
    row, value = node[row], value.double()
    total = torch.zeros(nodes, dtype=torch.float64).index_add_(0, row, value)
    features = _csr(row, column, value / total[row], (nodes, part["allx"].shape[1]))  # rows sum to one: preprocess_features
    pairs = [(i, j) for i, neighbours in part["graph"].items() for j in neighbours]
    train = torch.arange(len(part["y"]))
    return CitationGraph(
        features,
        _undirected(torch.tensor(pairs).T),
        label,
        (train, torch.arange(500) + len(train), given.sort().values),
        name=name,
        hashes=hashes(name),
    )


def _karate() -> CitationGraph:
    """34 members, 78 friendships, the two factions as classes; each member is its own feature.

    4 members of each faction to train on, 4 to validate, 9 to test: a split of ours, one fixed permutation.
    Zachary, An Information Flow Model for Conflict and Fission in Small Groups, J. Anthropol. Res. 33(4), 1977.
    """
    club = nx.karate_club_graph()
    label = torch.tensor([int(club.nodes[node]["club"] != "Mr. Hi") for node in range(34)])
    draw = torch.Generator().manual_seed(0)
    factions = [(label == c).nonzero()[:, 0] for c in (0, 1)]
    parts = [nodes[torch.randperm(17, generator=draw)].split([4, 4, 9]) for nodes in factions]
    train, val, test = (torch.cat(pair).sort().values for pair in zip(*parts, strict=True))
    everyone = torch.arange(34)
    return CitationGraph(
        _csr(everyone, everyone, torch.ones(34), (34, 34)),
        _undirected(torch.tensor(list(club.edges)).T),
        label,
        (train, val, test),
        name="karate",
        hashes={"karate": digest(repr((sorted(club.edges), label.tolist())).encode())},
    )


def own_graph(path: Path) -> CitationGraph:
    """A graph of one's own: a `.npz` of `features` (N, F), `edges` (2, E) or `adjacency` (N, N), and `label` (N,).

    Edges have no direction and no weight. A node whose label is below 0 has none, and is in no split. The others are split
    80/10/10 by their numbers, or as masks `train`, `val`, `test` say. Features that are nowhere negative are divided by
    their sum in each row, as the published graphs' are; others are standardized by mean and deviation of the training
    nodes. Raises DataMissing and WrongInput.
    """
    own.kind(path, ".npz")
    arrays, where = own.Arrays(path), own.shown(path)
    x = arrays.numbers("features", "x").astype(np.float64)
    if x.ndim != 2 or not x.size:
        raise DataMissing(f"{where}, features: the shape is {x.shape}; it must be (nodes, features)")
    nodes = len(x)
    values = arrays.label("label", "y", count=nodes)
    known = np.flatnonzero(values >= 0) if values.dtype.kind in "iu" else np.arange(nodes)
    names, numbers = own.classes(list(values[known]), f"{where}, label")
    label = torch.full((nodes,), UNSEEN)
    label[torch.from_numpy(known)] = torch.tensor(numbers)

    edges = _own_edges(arrays, nodes)
    part = arrays.parts(nodes)
    if any(part):
        splits = own.given(part, [str(node).encode() for node in range(nodes)])
        without = [node for node in torch.cat(splits).tolist() if label[node] == UNSEEN]
        if without:
            raise DataMissing(f"{where}: node {without[0]} is in {part[without[0]]}, and has no label")
    else:
        of_known = own.split([str(node).encode() for node in known], numbers, where)
        splits = tuple(torch.from_numpy(known)[rows] for rows in of_known)
    splits = tuple(rows.sort().values for rows in splits)
    if lacking := set(range(len(names))) - set(label[splits[0]].tolist()):
        raise DataMissing(f"{where}: the class {names[min(lacking)]} has no node in train")

    if x.min() >= 0:
        total = x.sum(1, keepdims=True)
        x = np.divide(x, total, out=np.zeros_like(x), where=total > 0)
    else:
        mean, std = own.standard(x[splits[0].numpy()])
        x = (x - mean) / std
    row, column = np.nonzero(x)
    features = _csr(torch.from_numpy(row), torch.from_numpy(column), torch.from_numpy(x[row, column]), x.shape)
    return CitationGraph(
        features, edges, label, splits, name=path.name, names=names, hashes=own.recorded(path, arrays.sha256)
    )


def _own_edges(arrays: own.Arrays, nodes: int) -> Tensor:
    """Both directions of each edge (2, E), from a list of pairs or a matrix; self-loops are left out."""
    if "adjacency" in arrays and "edges" not in arrays:
        matrix = arrays.numbers("adjacency")
        if matrix.shape != (nodes, nodes):
            raise DataMissing(f"{arrays.where}, adjacency: its shape is {matrix.shape}, and there are {nodes:,} nodes")
        pairs = np.stack(np.nonzero(matrix))
    else:
        pairs = arrays.numbers("edges", "adjacency")
        if pairs.ndim != 2 or pairs.shape[0] != 2 or pairs.dtype.kind not in "iu":
            raise DataMissing(f"{arrays.where}, edges: {pairs.dtype} {pairs.shape}; it must be whole numbers (2, edges)")
        outside = pairs[(pairs < 0) | (pairs >= nodes)]
        if outside.size:
            raise DataMissing(f"{arrays.where}, edges: there is no node {outside[0]}; they are 0 to {nodes - 1:,}")
    pairs = torch.from_numpy(pairs.astype(np.int64))
    return _undirected(pairs[:, pairs[0] != pairs[1]])


# ── sparse matrices ─────────────────────────────────────────────────────────────────────────────────────────────────


def normalized(edges: Tensor, nodes: int) -> Tensor:
    """D^-1/2 (A + I) D^-1/2 as sparse CSR (N, N) float32, D the row sums of A + I. Kipf & Welling 2017, eq. 2.

    `edges` (2, E) int64 lists both directions once. A self-loop in it makes a 2 on the diagonal, as in tkipf/gcn @
    39a4089, utils.py, preprocess_adj.
    """
    row, column = torch.cat([edges, torch.arange(nodes).expand(2, -1)], dim=1)
    scale = torch.bincount(row, minlength=nodes).double().rsqrt()
    return _csr(row, column, scale[row] * scale[column], (nodes, nodes))


def propagate(adjacency: Tensor, x: Tensor) -> Tensor:
    """`adjacency @ x` for a constant symmetric (N, N) matrix, sparse or dense; x (N, F).

    The gradient is the same product. torch's own backward of a CSR product builds the transpose at each call, which on a
    CPU costs ten times as much at Cora's size.
    """
    return _Propagate.apply(adjacency, x) if adjacency.layout == torch.sparse_csr else adjacency @ x  # type: ignore[return-value]


class _Propagate(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, adjacency: Tensor, x: Tensor) -> Tensor:  # type: ignore[override]
        ctx.save_for_backward(adjacency)
        return adjacency @ x

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[None, Tensor]:  # type: ignore[override]
        return None, propagate(ctx.saved_tensors[0], grad)


def _csr(row: Tensor, column: Tensor, value: Tensor, shape: tuple[int, int]) -> Tensor:
    """Sparse CSR float32. Entries at the same place add up; the sum is made in the precision of `value`."""
    matrix = torch.sparse_coo_tensor(torch.stack([row, column]), value, shape, check_invariants=True).coalesce().float()
    with warnings.catch_warnings():  # the products used here are tested; torch says this once in a process
        warnings.filterwarnings("ignore", "Sparse CSR tensor support is in beta state")
        return matrix.to_sparse_csr()


def _undirected(pairs: Tensor) -> Tensor:
    """Both directions of each pair (2, P), each once: (2, E), sorted."""
    return torch.cat([pairs, pairs.flip(0)], dim=1).unique(dim=1)


# ── Python 2 pickles ────────────────────────────────────────────────────────────────────────────────────────────────


class _Csr:
    """What a pickle of scipy.sparse.csr.csr_matrix fills in: read here, without scipy's class."""

    data: np.ndarray
    indices: np.ndarray
    indptr: np.ndarray
    _shape: tuple[int, int]

    @property
    def shape(self) -> tuple[int, int]:
        return self._shape

    def entries(self, first_row: int = 0) -> tuple[Tensor, Tensor, Tensor]:
        """Row (from `first_row`), column and value of each entry."""
        row = np.repeat(np.arange(self.shape[0]), np.diff(self.indptr)) + first_row
        return torch.from_numpy(row), torch.from_numpy(self.indices).long(), torch.from_numpy(self.data)


class _Restricted(pickle.Unpickler):
    """Reads arrays, lists and dicts of Python 2, and refuses every other name."""

    _ALLOWED = {
        ("scipy.sparse.csr", "csr_matrix"): _Csr,
        ("numpy.core.multiarray", "_reconstruct"): np.zeros(0).__reduce__()[0],  # the module has moved, and may again
        ("numpy", "ndarray"): np.ndarray,
        ("numpy", "dtype"): np.dtype,
        ("collections", "defaultdict"): defaultdict,
        ("__builtin__", "list"): list,
    }

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in self._ALLOWED:
            raise pickle.UnpicklingError(f"it names {module}.{name}, which no data file needs")
        return self._ALLOWED[module, name]


def _unpickle(content: bytes, name: str) -> Any:
    try:
        return _Restricted(io.BytesIO(content), encoding="latin1").load()
    except Exception as error:  # whatever a damaged pickle makes numpy or pickle raise
        raise DataMissing(f"{name} is not the pickle it should be: {error}") from None
