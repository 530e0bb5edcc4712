"""Run folders made by hand, as docs/run-folder.md describes them, for a small method that ships and for a user's file."""

from __future__ import annotations

import json
import math
import random
from pathlib import Path
from typing import Any

import pytest
import torch

from fuxian import catalog, figures, saving
from fuxian.proof import record

METHOD = '''"""Graph convolutional network: semi-supervised node classification.

中文     图卷积网络
Paper    Kipf & Welling, ICLR 2017, arXiv:1609.02907: eq. 2 (propagation), eq. 9 (model), Table 2 (result)
Code     tkipf/gcn @ 39a4089: train.py and models.py are the protocol
Departs  the stopping signal leaves out
         the L2 term

Each layer averages a node's features with those of its neighbours
and mixes them by one shared matrix.
"""
from fuxian.facts import Claim, Paper

PAPER = Paper(
    "Semi-Supervised Classification with Graph Convolutional Networks",
    "Kipf & Welling",
    2017,
    venue="ICLR",
    arxiv="1609.02907",
)
CLAIMS = [
    Claim("test/accuracy", 0.815, where="Table 2, Cora", tolerance=0.010, seeds=20),
    Claim("test/accuracy", 0.703, where="Table 2, Citeseer", tolerance=0.010, seeds=20, knobs=dict(data="citeseer")),
    Claim("test/accuracy", 0.790, where="Table 2, Pubmed", tolerance=0.010, seeds=20, knobs=dict(data="pubmed")),
    Claim(
        "test/accuracy", 0.660, where="Table 2, NELL", tolerance=0.010, seeds=20,
        knobs=dict(data="nell"), needs="65,755 nodes, data not at hand",
    ),
]
QUICK = dict(data="karate", epochs=40)


def recipe(
    data: str = "cora",  # citation graph, fixed Planetoid split; sec. 5.1
    hidden: int = 16,  # units; sec. 5.2
    dropout: float = 0.5,  # probability, input of both layers; sec. 5.2
    weight_decay: float = 5e-4,  # L2, first layer only; models.py
    epochs: int = 200,  # full-graph steps; sec. 5.2
):
    yield None
'''


@pytest.fixture
def methods(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of methods with one in it, graph.gcn, and an empty `results`."""
    folder = tmp_path / "methods"
    (folder / "graph").mkdir(parents=True)
    (folder / "graph" / "gcn.py").write_text(METHOD, encoding="utf-8")
    monkeypatch.setattr(catalog, "METHODS", folder)
    monkeypatch.setattr(record, "results_folder", lambda: tmp_path / "results")
    return folder


class Runs:
    """Makes run folders below `parent`."""

    def __init__(self, parent: Path) -> None:
        self.parent = parent

    def one(self, name: str = "2026-11-23-1", seed: int = 0, accuracy: float | None = 0.816, **changes: Any) -> Path:
        """A run of graph.gcn. `changes` go into run.json; `knobs` as {name: (value, from)}, `stage` to its one stage."""
        knobs = {
            "data": ("cora", "default"),
            "hidden": (16, "default"),
            "dropout": (0.5, "default"),
            "weight_decay": (5e-4, "default"),
            "epochs": (200, "default"),
        }
        knobs |= changes.pop("knobs", {})
        stage = {
            "name": "train",
            "data": "cora",
            "train": 140,
            "val": 500,
            "test": 1000,
            "hashes": {"ind.cora.x": "9d2fa0b1" * 8, "ind.cora.y": "10aa77c2" * 8},
            "parameters": 23063,
            "trainable": 23063,
            "players": {"model": 23063},
            "batch": None,
            "step": 200,
            "steps": 200,
            "epochs": 200,
            "best_step": None,
            "stopped_early": False,
            "seconds": 1.08,
            "waited_seconds": 0.01,
            "peak_memory_bytes": 432000000,
        } | changes.pop("stage", {})
        info = {
            "format": 1,
            "method": "gcn",
            "family": "graph",
            "file": None,
            "file_sha256": None,
            "knobs": {knob: {"value": value, "from": origin} for knob, (value, origin) in knobs.items()},
            "seed": seed,
            "quick": False,
            "limit": None,
            "device": "cpu",
            "precision": "float32",
            "compile": False,
            "threads": 2,
            "command": "fuxian run gcn",
            "created": "2026-11-23T14:02:11+08:00",
            "commit": "39c1f0a2b4d6e8f0a1b2c3d4e5f60718293a4b5c",
            "dirty": False,
            "versions": {"fuxian": "0.1.0", "python": "3.11.7", "torch": "2.13.0+cpu", "numpy": "2.4.6"},
            "machine": {"system": "Linux 6.12", "processor": "x86-64", "cores": 2, "memory_bytes": 25290784768},
            "status": "done",
            "stopped": None,
            "stages": [stage],
        } | changes
        folder = self.parent / name
        folder.mkdir(parents=True)
        (folder / "run.json").write_text(json.dumps(info), encoding="utf-8")
        stages = info["stages"]
        with (folder / "metrics.jsonl").open("w", encoding="utf-8") as log:
            for one in stages:
                for line in self.log(one["name"], one["step"], list(one["players"]), seed):
                    log.write(json.dumps(line) + "\n")
        if info["status"] == "done" and accuracy is not None:
            value = None if math.isnan(accuracy) else accuracy
            metrics = {"test/loss": 0.613, "test/accuracy": value}
            last = stages[-1]["name"]
            metrics |= {f"{last}/{name}": number for name, number in metrics.items()}
            counts = dict.fromkeys(metrics, stages[-1]["test"])
            (folder / "result.json").write_text(json.dumps({"metrics": metrics, "counts": counts, "stages": {}}))
        return folder

    def seeds(self, accuracies: list[float], asked: int | None = None, name: str = "2026-11-23-2", **changes: Any) -> Path:
        """Several seeds, of which `accuracies` are finished."""
        for seed, accuracy in enumerate(accuracies):
            folder = self.one(f"{name}/seed-{seed}", seed, accuracy, **json.loads(json.dumps(changes)))
            if seed == 0:
                self.draw(folder)
        n = asked or len(accuracies)
        about = {"format": 1, "seeds": list(range(n)), "status": "done" if n == len(accuracies) else "stopped"}
        about["command"] = f"fuxian run gcn --seeds {n}"
        (self.parent / name / "seeds.json").write_text(json.dumps(about))
        return self.parent / name

    @staticmethod
    def log(stage: str, steps: int, players: list[str], seed: int) -> list[dict[str, Any]]:
        noise = random.Random(seed)
        lines: list[dict[str, Any]] = []
        for step in [*range(1, min(20, steps) + 1), *range(25, steps + 1, 5)]:
            decay = math.exp(-step / max(1, steps) * 4)
            names = ["loss"] if len(players) == 1 else [f"{player}/loss" for player in players]
            losses = {name: 0.55 + 1.4 * decay + noise.gauss(0, 0.02) + 0.2 * i for i, name in enumerate(names)}
            lines.append({"stage": stage, "step": step, **losses})
            if step % 10 == 0:
                rise = 0.8 - 0.5 * decay + noise.gauss(0, 0.004)
                lines.append({"stage": stage, "step": step, "val/loss": 0.8 + 1.2 * decay, "val/accuracy": rise})
        return lines

    @staticmethod
    def draw(folder: Path, stage: str = "train") -> None:
        """The pictures that methods draw: a figure of each kind, and a grid of digits."""
        chance = torch.Generator().manual_seed(0)
        names = ["neural networks", "probabilistic", "genetic", "theory", "case-based", "reinforcement", "rule learning"]
        matrix = torch.randint(0, 12, (7, 7), generator=chance) + 90 * torch.eye(7).long()
        group = torch.arange(7).repeat_interleave(60)
        centre = torch.stack([group.float().cos(), group.float().sin()], 1) * 4
        points = centre + torch.randn(420, 2, generator=chance) * 0.6
        ink = torch.zeros(20, 1, 28, 28)
        ink[:, :, 6:22, 12:16] = 1
        ink[::2, :, 6:10, 8:20] = 1
        drawn = {
            "confusion-matrix": figures.confusion(matrix, names),
            "hidden_layer": figures.scatter(points, group, names),
            "digits": figures.image_grid(1 - ink, 10),
            "mistakes": figures.labelled_images(1 - ink[:12], [f"{i}, read as {i + 1}" for i in range(12)], 6),
            "sample": figures.passages({"temperature 0.8": "The boulder rolled down the hill & nobody <saw> it go. " * 4}),
        }
        for name, picture in drawn.items():
            saving.save(picture, folder / "pictures" / f"{stage}-{name}")


@pytest.fixture
def runs(tmp_path: Path, methods: Path) -> Runs:
    return Runs(tmp_path / "runs" / "graph.gcn")
