"""Graphs whose nodes are classified: the Planetoid citation graphs and Zachary's karate club.

Shape letters: N nodes, F features, I nodes of a split (or of a batch).
"""

from __future__ import annotations

import io
import pickle
import warnings
from collections import defaultdict
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import networkx as nx
import numpy as np
import torch
from torch import Tensor
from typing_extensions import Self

from fuxian.contract import Batch, Splits
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
    """A graph of `nodes`, undirected `edges` without self-loops, `features` for each node and `classes`."""

    def __init__(
        self,
        features: Tensor,
        edges: Tensor,
        label: Tensor,
        splits: tuple[Tensor, Tensor, Tensor],
        *,
        name: str,
        hashes: dict[str, str] | None = None,
    ) -> None:
        graph = dict(features=features, adjacency=normalized(edges, len(label)))
        super().__init__(*(NodeSplit(graph, label, index) for index in splits), name=name, hashes=hashes)
        self.nodes, self.features = features.shape
        self.classes = int(label.max()) + 1
        self.edges = int((edges[0] < edges[1]).sum())


def citation_graph(name: str | Path) -> CitationGraph:
    """Cora, Citeseer or Pubmed with the fixed Planetoid split, or Zachary's karate club (`karate`, no download).

    Planetoid: 20 nodes of each class to train on, 500 to validate, 1,000 to test. Protocol: tkipf/gcn @ 39a4089,
    utils.py. Citeseer's 15 nodes that no file describes are isolated, have no features and are in no split.
    Raises WrongInput for another name, DataMissing when the files cannot be had.
    """
    if name == "karate":
        return _karate()
    if not isinstance(name, str) or name not in ("cora", "citeseer", "pubmed"):
        raise WrongInput(f"there is no citation graph named {str(name)!r}", do="one of cora, citeseer, pubmed, karate")
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
