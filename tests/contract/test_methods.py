"""What every method that ships must be able to do. A method that is added is tested here without a change, but for one
row: its exact numbers of weights."""

from __future__ import annotations

import json
import re
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import fields
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch

from fuxian import catalog, load, run
from fuxian.data.images import image_data
from fuxian.data.text import by_character, python_topics
from fuxian.engine.players import Player
from fuxian.engine.run import Run
from fuxian.evaluation import batches
from fuxian.numbers import better
from fuxian.optim import signed

from .. import kills
from ..engine.toys import RowSplit, rows

# All tests of a method run in one process, so that its runs are made once.
METHODS = [pytest.param(entry, id=entry.key, marks=pytest.mark.xdist_group(entry.key)) for entry in catalog.methods()]
each = pytest.mark.parametrize("entry", METHODS)

# Weights of each stage's model in the quick setting.
PARAMETERS = {
    "basics.backpropagation": {"one-weight": 0, "two-layers": 0},
    "basics.computation_graph": {"notes": 0, "net": 0},
    "basics.convolution": {"overlap": 0, "edges": 9},
    "basics.function_approximation": {"sine": 3459, "xor": 354, "photograph": 23_241},
    "basics.gaussian_mixture": {"k-means": 0, "mixture": 0},
    "basics.gradient_descent": {"batch": 2, "mini-batch": 2, "single": 2, "rates": 8, "ridge": 2, "noise": 2},
    "basics.gradient_flow": {"start-10": 83_398, "depth-10": 83_398},
    "basics.information": {"bits": 0, "fits": 4},
    "basics.kernel_ridge": {"train": 0},
    "basics.kernels": {"plane": 0, "pairs": 0},
    "basics.kmeans": {"train": 0},
    "basics.linear_regression": {"descent": 2, "diabetes": 2},
    "basics.logistic_regression": {"descent": 31, "exact": 31},
    "basics.mlp": {"train": 4_810},
    "basics.naive_bayes": {"train": 0},
    "basics.nearest_neighbours": {"train": 0},
    "basics.optimizers": {"ravine": 14, "race": 7 * 650},
    "basics.pca": {"components": 0, "classifier": 0},
    "basics.pseudo_label": {"supervised": 7_510, "fed-back": 7_510},
    "basics.regularization": {"plain": 26_122, "early-stopping": 26_122, "batch-norm": 26_378, "dropout": 26_122},
    "basics.reinforcement": {"value-iteration": 0, "reinforce": 55},
    "basics.rules_against_learning": {"rules": 0, **{f"learn-{n}": 9 for n in (3, 6, 15, 30, 60, 90)}},
    "basics.softmax_regression": {"number": 65, "classes": 650},
    "basics.variational_inference": {"mean-field": 4, "full": 5},
    "forecasting.csdi": {"train": 55_489, "forecast": 55_489},
    "forecasting.deepar": {"train": 2_224},
    "forecasting.linear": {"train": 2 * 24 * 49},
    "forecasting.naive": {"climatology": 0, "seasonal": 0, "last": 0},
    "forecasting.nonstationary_transformer": {"train": 6_569},
    "forecasting.nsdiff": {"mean": 8_777, "variance": 287_768, "diffusion": 332_259},
    "forecasting.patchtst": {"train": 18_872},
    "forecasting.tmdm": {"train": 49_418},
    "forecasting.timegrad": {"train": 33_356, "forecast": 33_356},
    "generative.cgan": {"train": 1_909_615},
    "generative.cgan_notes": {"reader": 61_706, "game": 3_691_754},
    "generative.ddpm": {"train": 163_985},
    "generative.vae": {"train": 76_104},
    "graph.deep_gcn": {
        "alone": 576,
        **{f"{kind}-{d}": 68 if d == 1 else 576 + 256 * (d - 2) for kind in ("plain", "residual") for d in (1, 2, 3, 4)},
    },
    "graph.gat": {"train": 2_502},
    "graph.gcn": {"train": 576},
    "graph.graph_lstm": {"alone": 298, "walk": 2 * 298 + 3136},
    "language.gpt1": {"pretrain": 84_800, "fine-tune": 84_930},
    "language.gpt2": {"train": 102_720 + 64 * by_character(python_topics(), 64).vocabulary},  # not the same in each Python
    "language.parameter_count": {"parts": 0, "sizes": 0, "published": 0},
    "representation.continual": {f"task-{t}": 17_610 for t in range(1, 6)},
    "sequence.hello_rnn": {"train": 50 * 40},
    "vision.adversarial": {"train": 650},
    "vision.lenet": {"train": 61_706},
    "vision.resnet": {"train": 75_002},
    "vision.small_cnn": {"train": 83_466},
    "vision.style_transfer": {"features": 193_760, "picture": 8_256},
}


class Runs:
    """The quick setting, at most six steps a stage (or another `limit`), without a network; each run is made once.

    `without` names, for each of them, the weights that never had a gradient, and says whether any weight had one.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.made: dict[str, Run] = {}
        self.without: dict[Path, tuple[list[str], bool]] = {}

    def __call__(self, entry: catalog.Entry, limit: int | None = 6, seed: int = 0, copy: int = 0) -> Run:
        key = f"{entry.key}-{limit}-{seed}-{copy}"
        if key not in self.made:
            with pytest.MonkeyPatch.context() as patch, gradients(patch) as seen:
                patch.setattr(socket.socket, "connect", refuse)
                patch.setattr(socket, "getaddrinfo", refuse)
                found = run(entry.key, quick=True, limit=limit, seed=seed, parent=self.folder, name=key)
            self.made[key] = found
            self.without[found.folder] = [name for name in seen.values() if name], bool(seen)
        return self.made[key]


def refuse(*_: Any) -> None:
    raise AssertionError("the quick setting asked for the network")


@contextmanager
def gradients(patch: pytest.MonkeyPatch) -> Iterator[dict[tuple[int, str], str]]:
    """Of each weight of each player that steps, its name, or "" once it has had a gradient."""
    seen: dict[tuple[int, str], str] = {}
    players: list[Player] = []
    after_step = Player.after_step  # of L-BFGS too, which steps by itself

    def noted(player: Player) -> None:
        for name, weight in player.named.items():
            key = id(player), name
            if weight.grad is not None and bool(weight.grad.any()):
                seen[key] = ""
            else:
                seen.setdefault(key, f"{name} of player {player.name}")
        players.append(player)  # so that no other is given its id
        after_step(player)

    patch.setattr(Player, "after_step", noted)
    yield seen


@pytest.fixture(scope="module")
def short(tmp_path_factory: pytest.TempPathFactory) -> Runs:
    return Runs(tmp_path_factory.mktemp("runs"))


def goal(entry: catalog.Entry) -> str:
    """What a method gets better at: its first claim's metric; `-` where lower is better."""
    metric = entry.claims[0].metric
    return "-" * (better(metric, entry.claims) == "lower") + metric


def stages(of: Run) -> list[dict[str, Any]]:
    return of.info["stages"]


@pytest.mark.kill
@each
def test_killed_and_resumed_equals_uninterrupted(
    entry: catalog.Entry, tmp_path: Path, prove: Callable[..., None], request: pytest.FixtureRequest
) -> None:
    job = kills.Job(entry.key, dict(quick=True, limit=6))
    killed = kills.check(job, tmp_path, chains=2 if request.config.getoption("--prove") else 1)
    assert killed >= 6
    files = (tmp_path / "alone").glob("checkpoints/*-done/tensors.safetensors")
    tensors = sum(len(safetensors.torch.load_file(path)) for path in files)
    prove(entry.key, "resume", kills=killed, tensors=tensors, equal=True)


@each
def test_header_and_facts(entry: catalog.Entry) -> None:
    assert re.search(r"^(Paper|Source)\s{2,}\S", entry.doc, re.MULTILINE), "the docstring says where the method is from"
    assert entry.paper or entry.source
    assert entry.quick, "QUICK: an offline setting"
    assert entry.claims, (
        "CLAIMS: the published number; or, where there is none, what training makes better, with value None"
    )
    assert entry.lines <= 350
    assert all(knob.help for knob in entry.knobs), "the comment at the end of a parameter's line is its help"
    entry.resolve(entry.quick)
    for claim in entry.claims:
        entry.resolve(claim.knobs)
        assert claim.seeds >= 1
        assert claim.where


@pytest.mark.slow
@each
def test_every_claim_names_a_number_that_is_measured(entry: catalog.Entry, short: Runs) -> None:
    made = short(entry)
    for claim in entry.claims:  # what a claim needs may be what measures it: the weights of Inception-v3
        assert claim.metric in made.metrics or claim.needs, f"measured: {', '.join(made.metrics)}"


@each
def test_exact_numbers_of_weights(entry: catalog.Entry, short: Runs) -> None:
    assert entry.key in PARAMETERS, f"give {entry.key} a row in PARAMETERS"
    assert {stage["name"]: stage["parameters"] for stage in stages(short(entry))} == PARAMETERS[entry.key]


@pytest.mark.slow
@each
def test_every_trainable_weight_gets_a_gradient(entry: catalog.Entry, short: Runs) -> None:
    made = short(entry)
    without, stepped = short.without[made.folder]
    assert not without
    assert stepped == any(stage["players"] for stage in stages(made))


@pytest.mark.slow
@each
def test_the_same_seed_is_the_same_run_and_another_is_not(entry: catalog.Entry, short: Runs) -> None:
    first, again, other = (outcome(short(entry, seed=seed, copy=copy)) for seed, copy in ((0, 0), (0, 1), (1, 0)))
    assert first == again
    if getattr(entry.load(), "SEEDLESS", False):  # neither its start nor its training draws
        assert first == other
    else:
        assert first["metrics.jsonl"] != other["metrics.jsonl"]


def outcome(of: Run) -> dict[str, bytes]:
    files = [*of.folder.glob("checkpoints/*/tensors.safetensors"), *of.folder.glob("pictures/*")]
    files += [of.folder / "metrics.jsonl", of.folder / "result.json"]
    return {str(path.relative_to(of.folder)): path.read_bytes() for path in files}


@each
def test_pictures_are_drawn(entry: catalog.Entry, short: Runs) -> None:
    pictures = [*(short(entry).folder / "pictures").glob("*")]
    assert pictures
    assert all(path.stat().st_size > 100 for path in pictures)


@each
def test_every_example_counts(entry: catalog.Entry, short: Runs) -> None:
    made = short(entry)
    assert json.loads((made.folder / "result.json").read_text())["counts"]
    for name, count in made.counts.items():
        *stage, split, _ = name.split("/")
        record = next((s for s in stages(made) if stage == [s["name"]]), stages(made)[-1])
        assert count >= record[split] > 0, name  # examples, or what they hold


# What two splits of a published set may share, as a share of the smaller: running text says some lines twice, and two
# patients have the same body mass index and progression, two irises the same four lengths.
REPEATS = {"python-topics": 0.01, "diabetes": 0.05, "iris-halves": 0.02}


@each
def test_splits_are_disjoint(entry: catalog.Entry, short: Runs) -> None:
    for stage in load(short(entry)).stages:
        data = stage.data() if callable(stage.data) else stage.data
        if data is None:
            continue
        held = {part: contents(split) for part in ("train", "val", "test") if (split := getattr(data, part)) is not None}
        for one, other in combinations(held, 2):
            shared = len(held[one] & held[other])
            allowed = REPEATS.get(data.name, 0) * min(len(held[one]), len(held[other]))
            assert shared <= allowed, f"{shared} examples of {data.name} are in {one} and in {other}"


def contents(split: Any) -> set[Any]:
    """What tells the examples of a split apart: their place in what is one object, as a graph; else all of their bytes."""
    found: set[Any] = set()
    for batch in batches(split, 500, "cpu"):
        if hasattr(batch, "index"):
            found.update(batch.index.tolist())
            continue
        columns = [getattr(batch, field.name).reshape(len(batch), -1).numpy() for field in fields(batch)]
        found.update(b"".join(column[row].tobytes() for column in columns) for row in range(len(batch)))
    return found


def test_an_example_in_two_splits_is_found() -> None:
    digits = image_data("digits", size=8)
    train, test = contents(digits.train), contents(digits.test)
    assert (len(train), len(test), len(train & test)) == (len(digits.train), len(digits.test), 0)
    train = rows().train
    leaked = train.batch(torch.tensor([3, 7]))
    assert len(contents(train) & contents(RowSplit(leaked.x, leaked.y))) == 2


@pytest.mark.slow
@each
def test_the_quick_setting_is_quick_and_learns(entry: catalog.Entry, short: Runs) -> None:
    """It is better, by what it claims or says that it learns, than after one step; what only computes is right."""
    began = time.process_time()
    made = short(entry, limit=None)
    assert time.process_time() - began < 30
    assert torch.get_num_threads() == 1
    if not any(stage["steps"] for stage in stages(made)):
        claim = entry.claims[0]
        assert made.metrics[claim.metric] == pytest.approx(claim.value, abs=claim.tolerance)
        return
    metric, sign = signed(goal(entry))
    before, after = short(entry, limit=1).metrics[metric], made.metrics[metric]
    assert sign * after > sign * before
