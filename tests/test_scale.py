"""A large graph: memory grows with its edges, not with the square of its nodes."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

GIB = 2**30
# Trains one step on a graph in which each node has ten neighbours, far apart; says the most memory that the process had.
STEP = r"""
import json, re, sys
import torch
from fuxian.data.graphs import CitationGraph, _csr
from fuxian.engine.players import Player
from fuxian.methods.graph.gcn import GCN, NodeClassification
from fuxian.optim import adam

torch.set_num_threads(1)
# Of this program alone: getrusage's number begins with that of the process which started it.
peak = lambda: 1024 * int(re.search(r"VmHWM:\s+(\d+)", open("/proc/self/status").read())[1])
before, nodes = peak(), int(sys.argv[1])
one = torch.arange(nodes)
pairs = torch.cat([torch.stack([one, (one + nodes // stride) % nodes]) for stride in (3, 7, 11, 13, 17)], 1)
edges = torch.cat([pairs, pairs.flip(0)], 1)
del pairs
features = _csr(one, one % 16, torch.ones(nodes), (nodes, 16))
parts = one[: nodes // 2], one[nodes // 2 : nodes // 2 + 1000], one[-1000:]
graph = CitationGraph(features, edges, one % 4, parts, name="large")
batch = graph.train.batch(torch.arange(len(graph.train)))
torch.manual_seed(0)
model, objective = GCN(16, 16, 4, 0.5), NodeClassification(graph.names)
player = Player("model", adam(0.01), dict(model.named_parameters()), alone=True)
losses = []
for _ in range(2):
    player.begin(0, 1, [])
    ((_, loss),) = objective.losses(model, batch)
    model.zero_grad()
    loss.backward()
    player.step()
    losses.append(loss.item())
stored = batch.adjacency.values().numel()
print(json.dumps(dict(edges=edges.shape[1], stored=stored, memory=peak() - before, losses=losses)))
"""


def step(nodes: int) -> dict[str, Any]:
    out = subprocess.run([sys.executable, "-c", STEP, str(nodes)], check=True, capture_output=True, text=True).stdout
    return json.loads(out)


def free() -> int:
    """Bytes that a new process may take, where the system says it; else none."""
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
    except OSError:
        return 0
    return next((1024 * int(line.split()[1]) for line in lines if line.startswith("MemAvailable")), 0)


@pytest.mark.slow
def test_a_million_nodes_and_ten_million_edges_train() -> None:
    if free() < 4 * GIB:
        pytest.skip(f"{free() / GIB:.1f} GiB of memory are free, as far as the system says; this test wants 4")
    part, whole = step(250_000), step(1_000_000)
    assert whole["edges"] == 10_000_000
    assert whole["stored"] == 11_000_000  # and a loop at each node
    assert whole["losses"][1] < whole["losses"][0]
    assert whole["memory"] < 4.5 * part["memory"]  # four times the edges
    assert whole["memory"] < 2 * GIB  # 200 bytes an edge; N × N numbers would be 4 TB
