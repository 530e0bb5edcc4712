"""Elastic weight consolidation: the Fisher information image by image, the penalty and a step by hand, the
stream and its accuracies counted in loops; and that a net forgets without it."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from fuxian import run
from fuxian.data.images import Images, ImageSplit, digits
from fuxian.evaluation import measure
from fuxian.methods.representation.continual import MLP, Stream, TaskAverage, forgetting, of_tasks, row
from fuxian.optim import adam

from .compare import Differences, first_loss, in_both, parity, relative

NAMES = tuple("abcdef")
SCENARIOS = ["task", "domain", "class"]


class Some:
    """A split of random images with labels of the first two tasks."""

    def __init__(self, count: int, dtype: torch.dtype = torch.float64) -> None:
        self.image, self.label = torch.randn(count, 1, 3, 3, dtype=dtype), torch.randint(4, (count,))

    def __len__(self) -> int:
        return len(self.label)

    def batch(self, indices: Tensor) -> Images:
        return Images(self.image[indices], self.label[indices])


def net(scenario: str, dtype: torch.dtype = torch.float64) -> MLP:
    torch.manual_seed(0)
    return MLP(9, 7, 2 if scenario == "domain" else 6).to(dtype)


def competing(scenario: str, logits: list[Any], label: int) -> tuple[list[Any], int]:
    """What competes for one image when two of three tasks have come: 1904.07734, Table 1."""
    if scenario == "task":
        first = label if label % 2 == 0 else label - 1
        return logits[first : first + 2], label - first
    if scenario == "domain":
        return logits, label % 2
    return logits[:4], label


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_the_logits_that_compete(scenario: str) -> None:
    logits, label = torch.randn(8, 2 if scenario == "domain" else 6), torch.arange(8) % 4
    chosen, right = Stream(scenario, NAMES, seen=2).choice(logits, label)
    for ours, place, all_, c in zip(chosen.tolist(), right.tolist(), logits.tolist(), label.tolist(), strict=True):
        assert (ours, place) == competing(scenario, all_, c)


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_fisher_image_by_image(scenario: str) -> None:
    model, split = net(scenario), Some(1005)  # more than one batch, the last one short
    objective = Stream(scenario, NAMES, seen=2)
    ours = objective.fisher(model, split)
    total = torch.zeros_like(ours)
    for image, label in zip(split.image, split.label.tolist(), strict=True):
        logits, _ = competing(scenario, list(model(image[None])[0].unbind()), label)
        log_p = torch.stack(logits).log_softmax(0)
        model.zero_grad()
        log_p.max().backward()  # of the class that the model holds for likeliest
        total += torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None]) ** 2
    assert relative(ours, total / 1005) < 1e-10
    assert not ours.requires_grad
    assert model.training


def compared(scenario: str) -> Differences:
    """With two tasks held on to: cross-entropy and λ/2 Σₖ Σᵢ Fₖᵢ (θᵢ - θₖᵢ)², written over the layers of a torch net."""
    dtype = torch.get_default_dtype()
    model = net(scenario, dtype)
    theirs = nn.Sequential(
        nn.Flatten(), nn.Linear(9, 7), nn.ReLU(), nn.Linear(7, 7), nn.ReLU(), nn.Linear(7, 2 if scenario == "domain" else 6)
    )
    pairs = {f"layers.{i}.{w}": f"{2 * i + 1}.{w}" for i in range(3) for w in ("weight", "bias")}
    memory = [(torch.rand_like(row(model)), torch.randn_like(row(model))) for _ in range(2)]
    for fisher, _ in memory:
        fisher[:20] = 0  # as of a weight that no image has needed
    objective = Stream(scenario, NAMES, 2, 3.5, memory)
    batch = Some(12, dtype).batch(torch.arange(12))

    def by_hand(logits: Tensor) -> Tensor:
        loss = torch.zeros(())
        for z, label in zip(logits, batch.label.tolist(), strict=True):
            chosen, right = competing(scenario, list(z.unbind()), label)
            loss = loss + (torch.stack(chosen).exp().sum().log() - chosen[right]) / 12
        for fisher, old in memory:
            start = 0
            for parameter in theirs.parameters():
                f, o = (v[start : start + parameter.numel()].view_as(parameter) for v in (fisher, old))
                loss = loss + 3.5 * 0.5 * (f * (parameter - o) ** 2).sum()
                start += parameter.numel()
        return loss

    return parity(
        model,
        theirs,
        pairs,
        outputs=lambda: (model(batch.image), theirs(batch.image)),
        losses=lambda _, logits: (first_loss(objective, model, batch), by_hand(logits)),
        spec=adam(1e-3),
        optimizer=torch.optim.Adam(theirs.parameters(), lr=1e-3, fused=False, foreach=False),
    )


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_outputs_gradients_and_step(scenario: str, prove) -> None:
    found = in_both(lambda: compared(scenario))
    if scenario == "task":
        prove("continual", "parity", reference="torch's layers, and the penalty by hand", **found)


def test_without_a_task_before_there_is_no_penalty() -> None:
    model, batch = net("class"), Some(5).batch(torch.arange(5))
    plain = first_loss(Stream("class", NAMES, 2), model, batch)
    strong = first_loss(Stream("class", NAMES, 2, 1e7), model, batch)
    assert plain == strong
    expected = torch.nn.functional.cross_entropy(model(batch.image)[:, :4], batch.label)
    assert relative(plain, expected) < 1e-12


def test_what_is_remembered_is_no_state_of_the_stage() -> None:
    """It is made again at a resume; a checkpoint would hold it once for each stage."""
    memory = [(torch.ones(3), torch.zeros(3))]
    objective = Stream("task", NAMES, 2, 1.0, memory)
    assert objective.fisher_P.tolist() == [1, 1, 1]
    assert not objective.state_dict()


def test_tasks_are_disjoint_and_whole() -> None:
    images = digits()
    order = torch.tensor([3, 7, 0, 9, 2, 4, 5, 1, 8, 6])
    splits: list[Any] = [images.train, images.test]
    for split in splits:
        tasks = [of_tasks(split, order, t, t + 1) for t in range(5)]
        assert sum(map(len, tasks)) == len(split)
        for t, task in enumerate(tasks):
            expected = [i for i, c in enumerate(split.label.tolist()) if c in order[2 * t : 2 * t + 2].tolist()]
            assert torch.equal(task.image, split.image[expected])
            assert [int(order[place]) for place in task.label] == split.label[expected].tolist()
        assert torch.equal(of_tasks(split, order, 0, 5).image, split.image)
        assert set(of_tasks(split, order, 1, 3).label.tolist()) == {2, 3, 4, 5}


def test_tasks_count_alike() -> None:
    average = TaskAverage(3)
    average.update(torch.tensor([True, True, False]), torch.tensor([0, 0, 0]))
    average.update(torch.tensor([True, False]), torch.tensor([0, 1]))
    assert average.by_task()[:2].tolist() == [3 / 4, 0]
    assert average.value() == pytest.approx((3 / 4 + 0) / 2)  # and not 3 of 5; the third had no image
    assert average.count == 5


def test_forgetting_by_hand() -> None:
    assert forgetting([[0.9], [0.7, 0.8], [0.8, 0.6, 0.95]]) == pytest.approx(((0.9 - 0.8) + (0.8 - 0.6)) / 2)
    assert forgetting([[0.6], [0.9, 1.0], [0.5, 1.0, 1.0]]) == pytest.approx((0.4 + 0.0) / 2)  # the best, not the first
    assert forgetting([[0.5], [0.75, 1.0]]) == -0.25  # a task may be helped by the next
    assert forgetting([[0.7]]) == 0


def test_evaluation_of_the_whole_and_of_a_task() -> None:
    model, objective = net("class").float(), Stream("class", NAMES, 2)
    image = torch.randint(256, (50, 1, 3, 3), dtype=torch.uint8)
    split = ImageSplit(image, torch.tensor([0] * 30 + [1] * 5 + [2] * 10 + [3] * 5))
    guess = model(split.batch(torch.arange(50)).image)[:, :4].argmax(1)
    by_task = [(guess[:35] == split.label[:35]).double().mean(), (guess[35:] == split.label[35:]).double().mean()]
    assert measure(model, objective, split, 7)["accuracy"] == pytest.approx(float(sum(by_task)) / 2)
    assert measure(model, objective, split.part(slice(35, 50)), 4)["accuracy"] == pytest.approx(float(by_task[1]))


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[dict[str, float]]]:
    """Of two seeds each, which assign the digits to tasks differently."""
    folder = tmp_path_factory.mktemp("runs")
    return {
        name: [
            run("continual", quick=True, parent=folder, name=f"{name}-{seed}", strategy=name, seed=seed).metrics
            for seed in (0, 1)
        ]
        for name in ("none", "ewc", "joint")
    }


@pytest.mark.slow
def test_a_net_forgets_and_consolidation_helps(runs: dict[str, list[dict[str, float]]]) -> None:
    def mean(name: str, metric: str) -> float:
        return sum(metrics[metric] for metrics in runs[name]) / len(runs[name])

    assert mean("none", "forgetting") > 0.05
    assert mean("ewc", "forgetting") < mean("none", "forgetting") / 2
    assert mean("none", "test/accuracy") < mean("ewc", "test/accuracy") < mean("joint", "test/accuracy")


@pytest.mark.slow
def test_what_a_run_returns_is_what_the_engine_measured(runs: dict[str, list[dict[str, float]]]) -> None:
    for metrics in (metrics for made in runs.values() for metrics in made):
        for t in range(1, 6):
            after = [metrics[f"after-{t}/task-{k}/accuracy"] for k in range(1, t + 1)]
            assert sum(after) / t == pytest.approx(metrics[f"task-{t}/test/accuracy"])
        matrix = [[metrics[f"after-{t}/task-{k}/accuracy"] for k in range(1, t + 1)] for t in range(1, 6)]
        assert metrics["forgetting"] == forgetting(matrix)
