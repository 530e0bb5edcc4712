"""Graphs: counts, splits, normalization, the fast product, and pickles that must not run."""

import hashlib
import lzma
import os
import pickle
import struct

import numpy as np
import pytest
import torch

from fuxian.data.graphs import UNSEEN, _unpickle, citation_graph, normalized, propagate
from fuxian.data.sources import SOURCES, File, Source
from fuxian.errors import DataMissing, WrongInput

COUNTS = {  # nodes, undirected edges without self-loops, features, classes, nodes to train on, feature entries
    "cora": (2708, 5278, 1433, 7, 140, 49_216),
    "citeseer": (3327, 4552, 3703, 6, 120, 105_165),
    "pubmed": (19_717, 44_324, 500, 3, 60, 988_031),
}


def everything(split):
    return split.batch(torch.arange(len(split)))


@pytest.mark.parametrize("name", COUNTS)
def test_counts(name, published):
    data = citation_graph(name)
    entries = everything(data.train).features.values().numel()
    assert (data.nodes, data.edges, data.features, data.classes, len(data.train), entries) == COUNTS[name]
    assert (len(data.val), len(data.test)) == (500, 1000)
    assert len(data.hashes) == 8
    assert everything(data.train).adjacency.values().numel() == 2 * data.edges + data.nodes
    train = everything(data.train)
    assert train.label[train.index].bincount().tolist() == [20] * data.classes


@pytest.mark.parametrize("name", [*COUNTS, "karate"])
def test_splits(name, request):
    if name != "karate":
        request.getfixturevalue("published")
    data = citation_graph(name)
    parts = [everything(split) for split in (data.train, data.val, data.test)]
    index = torch.cat([part.index for part in parts])
    assert len(index.unique()) == len(index)  # disjoint
    for part in parts:
        seen = part.label != UNSEEN
        assert torch.equal(seen.nonzero()[:, 0], part.index)  # no label of another split
        assert torch.equal(part.features.values(), parts[0].features.values())
    features = parts[0].features.to_dense()
    assert features.shape == (data.nodes, data.features)
    total = features.sum(1)
    assert torch.all((total - 1).abs().lt(1e-5) | total.eq(0))
    assert int(total.eq(0).sum()) == (15 if name == "citeseer" else 0)


def test_batches_follow_the_order_of_indices_and_chunks_keep_the_graph():
    split = citation_graph("karate").test
    batch = split.batch(torch.tensor([3, 0, 5]))
    index = everything(split).index
    assert batch.index.tolist() == index[[3, 0, 5]].tolist()
    assert len(batch) == 3
    first, second = batch.chunk(2)
    assert torch.cat([first.index, second.index]).tolist() == batch.index.tolist()
    assert first.label is second.label is batch.label
    assert len(batch.chunk(9)) == 3
    assert torch.equal(batch.to("cpu").adjacency.values(), batch.adjacency.values())
    assert split.to("cpu").device.type == "cpu"


def test_karate():
    data = citation_graph("karate")
    assert (data.nodes, data.edges, data.features, data.classes) == (34, 78, 34, 2)
    assert [len(split) for split in (data.train, data.val, data.test)] == [8, 8, 18]
    train = everything(data.train)
    assert train.label[train.index].bincount().tolist() == [4, 4]
    again = everything(citation_graph("karate").train)
    assert torch.equal(train.index, again.index)
    degree = torch.tensor([16, 9, 10])  # of the first three members, Zachary 1977, figure 1
    dense = train.adjacency.to_dense()
    assert dense.diagonal()[:3].tolist() == pytest.approx((1 / (degree + 1)).tolist())


def test_normalization_by_hand():
    """The path 0 - 1 - 2 with a self-loop at 2: A + I has row sums 2, 3, 3 and a 2 on the last place."""
    edges = torch.tensor([[0, 1, 1, 2, 2], [1, 0, 2, 1, 2]])
    s = 1 / 6**0.5
    expected = torch.tensor([[1 / 2, s, 0], [s, 1 / 3, 1 / 3], [0, 1 / 3, 2 / 3]])
    torch.testing.assert_close(normalized(edges, 3).to_dense(), expected)


@pytest.mark.parametrize("name", COUNTS)
def test_against_scipy(name, published):
    """Row sums and the symmetric normalization as tkipf/gcn has them, in scipy, on the same files."""
    import networkx as nx
    import scipy.sparse as sp

    data = everything(citation_graph(name).test)
    graph = _unpickle(lzma.decompress((published / "planetoid" / f"ind.{name}.graph.xz").read_bytes()), "graph")
    network = nx.from_dict_of_lists({node: graph[node] for node in sorted(graph)})
    adjacency = nx.adjacency_matrix(network, nodelist=range(len(data.label))) + sp.eye(len(data.label))
    degree = np.asarray(adjacency.sum(1)).ravel()
    reference = (sp.diags(degree**-0.5) @ adjacency @ sp.diags(degree**-0.5)).tocsr()
    reference.sort_indices()
    assert np.array_equal(data.adjacency.crow_indices(), reference.indptr)
    assert np.array_equal(data.adjacency.col_indices(), reference.indices)
    np.testing.assert_allclose(data.adjacency.values(), reference.data, rtol=1e-6)


@pytest.mark.parametrize("name", COUNTS)
def test_against_torch_geometric(name, published, tmp_path):
    planetoid = pytest.importorskip("torch_geometric.datasets").Planetoid
    transforms = pytest.importorskip("torch_geometric.transforms")
    titles = {"cora": "Cora", "citeseer": "CiteSeer", "pubmed": "PubMed"}
    raw = tmp_path / titles[name] / "raw"
    raw.mkdir(parents=True)
    for path in (published / "planetoid").glob(f"ind.{name}.*"):
        (raw / path.name.removesuffix(".xz")).write_bytes(lzma.decompress(path.read_bytes()))
    theirs = planetoid(str(tmp_path), titles[name], transform=transforms.NormalizeFeatures())[0]
    ours = citation_graph(name)
    for split, mask in ((ours.train, theirs.train_mask), (ours.val, theirs.val_mask), (ours.test, theirs.test_mask)):
        batch = everything(split)
        assert torch.equal(batch.index, mask.nonzero()[:, 0])
        assert torch.equal(batch.label[batch.index], theirs.y[batch.index])
    torch.testing.assert_close(batch.features.to_dense(), theirs.x)
    row, column = batch.adjacency.to_sparse_coo().indices()
    edges = torch.stack([row, column])[:, row != column]
    assert torch.equal(edges.unique(dim=1), theirs.edge_index.unique(dim=1))


def test_propagate_has_the_gradient_of_the_product():
    adjacency = everything(citation_graph("karate").train).adjacency
    x = torch.randn(34, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0), requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: propagate(adjacency.double(), x), (x,))
    dense = adjacency.double().to_dense()
    assert torch.equal(propagate(dense, x), dense @ x)
    torch.testing.assert_close(propagate(adjacency.double(), x), dense @ x)


def test_no_warning_of_sparse_csr_reaches_the_user():
    """In a fresh process: torch gives this warning once in each."""
    import subprocess
    import sys

    code = "from fuxian.data.graphs import citation_graph; citation_graph('karate')"
    done = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")


def test_another_name():
    with pytest.raises(WrongInput, match="there is no citation graph named 'coral'"):
        citation_graph("coral")


class Evil:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("protocol", [0, 2, 5])
def test_a_pickle_that_runs_code_is_refused(protocol, tmp_path):
    content = pickle.dumps(Evil(tmp_path / "harm"), protocol)
    with pytest.raises(DataMissing, match=r"ind\.cora\.x is not the pickle it should be: it names (posix|nt)\.mkdir"):
        _unpickle(content, "ind.cora.x")
    assert not (tmp_path / "harm").exists()
    pickle.loads(content)
    assert (tmp_path / "harm").exists()  # it would have


def string(text: bytes) -> bytes:
    return b"T" + struct.pack("<I", len(text)) + text


def python2(array: np.ndarray) -> bytes:
    """Opcodes of an array as Python 2's pickle wrote it, protocol 2."""
    shape = b"(" + b"".join(b"J" + struct.pack("<i", length) for length in array.shape) + b"t"
    return (
        b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85" + string(b"b") + b"\x87R(K\x01"
        + shape + b"cnumpy\ndtype\n" + string(array.dtype.str[1:].encode()) + b"K\x00K\x01\x87R(K\x03" + string(b"<")
        + b"NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb\x89" + string(array.tobytes()) + b"tb"
    )  # fmt: skip


def python2_csr(dense: np.ndarray) -> bytes:
    row, column = dense.nonzero()
    counts = np.bincount(row, minlength=len(dense))
    state = dict(
        data=dense[row, column].astype("<f4"),
        indices=column.astype("<i4"),
        indptr=np.concatenate([[0], counts.cumsum()]).astype("<i4"),
    )
    shape = b"".join(b"J" + struct.pack("<i", length) for length in dense.shape) + b"\x86"
    return (
        b"cscipy.sparse.csr\ncsr_matrix\n)\x81}("
        + b"".join(string(key.encode()) + python2(value) for key, value in state.items())
        + string(b"_shape") + shape + b"ub"
    )  # fmt: skip


def test_reading_planetoid_files(tmp_path, monkeypatch):
    """A made-up graph in the place of Citeseer: test rows out of order, one node that no file describes."""
    nodes, known, missing = 620, 600, 607
    draw = torch.Generator().manual_seed(0)
    dense = torch.randint(0, 3, (nodes, 5), generator=draw).float()
    dense[:, 0] = 1
    label = torch.randint(0, 2, (nodes,), generator=draw)
    dense[missing] = 0
    given = torch.randperm(nodes - known, generator=draw) + known
    given = given[given != missing]
    onehot = torch.eye(2, dtype=torch.int32)[label].numpy()
    neighbours = {i: [(i + 1) % nodes, i] if i % 100 == 0 else [(i + 1) % nodes] * 2 for i in range(nodes)}  # some twice
    files = dict(
        x=python2_csr(dense[:10].numpy()), y=python2(onehot[:10]),
        tx=python2_csr(dense[given].numpy()), ty=python2(onehot[given]),
        allx=python2_csr(dense[:known].numpy()), ally=python2(onehot[:known]),
        graph=pickle.dumps(neighbours, 2)[2:-1],
    )  # fmt: skip
    contents = {name: b"\x80\x02" + opcodes + b"." for name, opcodes in files.items()}
    contents["test.index"] = "".join(f"{node}\n" for node in given.tolist()).encode()
    (tmp_path / "planetoid").mkdir()
    monkeypatch.setenv("FUXIAN_DATA", str(tmp_path))
    table = []
    for name, content in contents.items():
        (tmp_path / "planetoid" / f"ind.citeseer.{name}").write_bytes(content)
        table.append(File(f"ind.citeseer.{name}", len(content), hashlib.sha256(content).hexdigest()))
    monkeypatch.setitem(SOURCES, "citeseer", Source("Citeseer", "planetoid", (), "", "", tuple(table)))

    data = citation_graph("citeseer")
    assert (data.nodes, data.edges, data.features, data.classes) == (nodes, nodes, 5, 2)
    parts = [everything(split) for split in (data.train, data.val, data.test)]
    assert [part.index.tolist() for part in parts] == [
        list(range(10)),
        list(range(10, 510)),
        [node for node in range(known, nodes) if node != missing],
    ]
    total = dense.sum(1, keepdim=True)
    torch.testing.assert_close(parts[0].features.to_dense(), dense / total.clamp(min=1))
    for part in parts:
        assert torch.equal(part.label[part.index], label[part.index])
    adjacency = parts[0].adjacency.to_dense()
    assert float(adjacency[5, 6]) == pytest.approx(1 / 3)
    assert float(adjacency[100, 100]) == pytest.approx(2 / 4)  # its own self-loop and the one that is added


@pytest.mark.parametrize("content", [b"", b"not a pickle", pickle.dumps([1, 2, 3], 2)[:-3]])
def test_a_damaged_pickle_is_named(content):
    with pytest.raises(DataMissing, match=r"ind\.cora\.y is not the pickle it should be"):
        _unpickle(content, "ind.cora.y")
