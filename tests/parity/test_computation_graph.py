"""What a program and its backward graph come to, however memory is shared: against torch at once, and its autograd."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import fx

import fuxian
from fuxian.errors import WrongInput
from fuxian.methods.basics.computation_graph import (
    WAYS,
    Graph,
    Program,
    built,
    error,
    examples,
    gradients,
    needed,
    net,
    notes,
    same,
    traced,
    variables,
)
from fuxian.metrics.memory import Live

from .compare import relative

each_way = pytest.mark.parametrize("way", WAYS.values(), ids=list(WAYS))


@each_way
def test_outputs_and_gradients_are_those_of_torch(way: tuple[bool, bool], prove) -> None:
    given = examples(batch=7, hidden=5, depth=4).tensors
    loss = built(error, given)
    made = Program([loss, *gradients(loss, variables(loss))], variables(loss), *way).run(**given)
    leaves = [tensor.clone().requires_grad_() for tensor in given.values()]
    expected = error(*leaves)
    grads = torch.autograd.grad(expected, leaves)
    worst = dict(outputs=relative(made[0], expected.detach()))
    worst["gradients"] = max(relative(ours, theirs) for ours, theirs in zip(made[1:], grads, strict=True))
    assert max(worst.values()) < 1e-12, worst
    if way == WAYS["both"]:
        prove("computation_graph", "parity", reference="torch at once, and its autograd", dtype="float64", **worst)


def random(seed: int) -> Any:
    """A function of a, b and c, square matrices, of every operation that there is, in an order drawn from the seed."""

    def function(*values: Any) -> Any:
        draw, made = torch.Generator().manual_seed(seed), list(values)

        def pick(n: int) -> int:
            return int(torch.randint(n, (), generator=draw))

        steps = [
            lambda x, y: x + y, lambda x, y: x - y, lambda x, y: x * y, lambda x, y: (x @ y).tanh(), lambda x, y: x.t(),
            lambda x, y: x.tanh(), lambda x, y: x * 0.5 + 1,
        ]  # fmt: skip
        for _ in range(4 + pick(9)):
            made.append(steps[pick(len(steps))](made[pick(len(made))], made[pick(len(made))]))
        return made[-1] * made[len(made) // 2].t()

    return function


@each_way
def test_a_hundred_random_programs_and_their_gradients(way: tuple[bool, bool]) -> None:
    torch.manual_seed(0)
    given = {name: torch.randn(3, 3, dtype=torch.float64) for name in "abc"}
    for seed in range(100):
        function = random(seed)
        y = built(function, given)
        program = Program([y, *gradients(y, variables(y))], (), *way)
        leaves = [tensor.clone().requires_grad_() for tensor in given.values()]
        expected = function(*leaves)
        grads = torch.autograd.grad(expected.sum(), leaves, allow_unused=True, materialize_grads=True)
        used = {node.name: given[node.name] for node in program.inputs}
        for ours, theirs in zip(program.run(**used), [expected, *grads], strict=True):
            assert same(ours, theirs.detach()).all(), f"program {seed}"


def test_the_notes_program(tmp_path) -> None:
    run = fuxian.run("computation_graph", quick=True, parent=tmp_path)
    assert [run.metrics[name] for name in ("d", "grad_a", "grad_b")] == [3, 2, 1]
    assert [run.metrics[name] for name in ("bytes_at_once", "bytes_compiled", "dropped")] == [320, 160, 3]
    assert [run.metrics[name] for name in ("gradients", "traced", "train/equal", "notes/train/equal")] == [1] * 4
    assert run.metrics["layers_held"] == 2
    assert run.counts["train/equal"] == 64


def test_nothing_is_computed_until_it_runs_and_then_only_what_is_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    from fuxian.methods.basics import computation_graph

    called = []
    kernels = {
        op: lambda *x, out, op=op, kernel=kernel: (called.append(op), kernel(*x, out=out))
        for op, kernel in computation_graph.KERNELS.items()
    }
    monkeypatch.setattr(computation_graph, "KERNELS", kernels)
    given = dict(a=torch.ones(2, dtype=torch.float64), b=torch.ones(2, dtype=torch.float64))
    d = built(notes, given)
    d.tanh().sum()
    program = Program([d])
    assert not called
    program.run(**given)
    assert called == ["mul", "add"]


def test_dead_code_is_what_torch_fx_finds_dead() -> None:
    def wasteful(a: Any, b: Any) -> Any:
        kept = a * b
        (kept + a).tanh()
        a @ b
        return kept.tanh()

    given = dict.fromkeys("ab", torch.ones(2, 2))
    y = built(wasteful, given)
    graph = fx.Graph()
    graph.output(wasteful(*(fx.Proxy(graph.placeholder(name)) for name in "ab")).node)
    assert len(y.graph) == len(graph.nodes) - 1 == 7
    graph.eliminate_dead_code()
    assert [node.op for node in needed([y])] == ["input", "input", "mul", "tanh"]
    assert len(graph.nodes) - 1 == 4


def test_torch_fx_traces_the_same_graph_and_not_another() -> None:
    given = examples(batch=3, hidden=4, depth=3).tensors
    assert traced(error, built(error, given).graph)
    assert not traced(error, built(lambda x, t, *w: (net(x, *w) - t).sum(), given).graph)
    pair = dict.fromkeys("ab", torch.ones(2))
    assert not traced(notes, built(lambda a, b: a * b + 1, pair).graph)  # in the other order
    assert not traced(notes, built(lambda a, b: b * a + 2, pair).graph)


def places(program: Program) -> list[int]:
    return [program.place[node] for node in program.order]


def test_memory_is_given_as_the_note_says() -> None:
    one = dict(a=torch.ones(4))
    chain = built(lambda a: a.tanh().tanh().tanh().tanh(), one)
    assert places(Program([chain])) == [0] * 5  # any number of them in place
    assert places(Program([chain], variables(chain))) == [0, 1, 1, 1, 1]  # not over what is kept
    trap = built(lambda a: (b := a.tanh()).tanh() + b, one)
    assert places(Program([trap])) == [0, 0, 1, 1]  # b is still needed when its tanh is made: that is elsewhere
    shared = built(lambda a, b: (a @ b).sum(), dict(a=torch.ones(3, 2), b=torch.ones(2, 5)))
    program = Program([shared])
    assert (places(program), program.sizes) == ([0, 1, 2, 0], [6, 10, 15])  # of two that are free the smaller
    assert Program([shared], (), *WAYS["apart"]).bytes() == 8 * (6 + 10 + 15 + 1)
    assert Program([shared], variables(shared)).bytes(inputs=False) == 8 * (15 + 1)


def test_a_transpose_takes_no_memory_and_is_not_written_over() -> None:
    given = dict(a=torch.arange(9.0).double().view(3, 3), b=torch.ones(3, 3).double())
    y = built(lambda a, b: a.t() * b.t() - b, given)
    program = Program([y, y.t()])
    made, turned = program.run(**given)
    assert len(program.sizes) == 3
    assert made.tolist() == (given["a"].T - 1).tolist()
    assert turned.tolist() == (given["a"] - 1).tolist()


@each_way
def test_an_output_that_others_are_made_of_keeps_its_memory(way: tuple[bool, bool]) -> None:
    graph = Graph()
    a = graph.variable("a", 2, 2)
    first = a * 2
    second = first + 1
    last = (second @ second).tanh() + 5
    made = Program([first, second, last], (), *way).run(a=torch.ones(2, 2).double())
    assert [float(value[0, 0]) for value in made] == [2, 3, pytest.approx(6)]


def test_what_is_given_stays_as_it_was() -> None:
    given = dict(a=torch.ones(3).double(), b=torch.ones(3).double() * 2)
    Program([built(notes, given)]).run(**given)
    assert (given["a"].tolist(), given["b"].tolist()) == ([1] * 3, [2] * 3)


def test_shapes_that_do_not_fit_are_one_clear_line() -> None:
    graph = Graph()
    a, b = graph.variable("a", 2, 3), graph.variable("b", 3, 4)
    with pytest.raises(WrongInput, match=r"add of shapes \(2, 3\) and \(3, 4\)"):
        a + b
    with pytest.raises(WrongInput, match=r"matmul of shapes \(3, 4\) and \(2, 3\)"):
        b @ a
    program = Program([a @ b])
    for given in (dict(a=torch.ones(2, 3)), dict(a=torch.ones(2, 3), b=torch.ones(4))):
        with pytest.raises(WrongInput, match="b is not given, or not in its shape"):
            program.run(**given)


def test_the_gradient_of_what_plays_no_part_is_zero() -> None:
    given = dict(a=torch.ones(2).double(), b=torch.ones(2).double())
    y = built(lambda a, b: a * 3.0, given)
    by_a, by_b = Program(gradients(y, variables(y))).run(**given)
    assert (by_a.tolist(), by_b.tolist()) == ([3, 3], [0, 0])


def test_live_bytes_are_those_made_and_not_yet_freed() -> None:
    given = torch.ones(100)
    with Live([given]) as live:
        assert given.view(10, 10).t().sum().item() == 100
        first = given * 2
        assert live.now == 400  # views are of what was given, and the sum is gone
        second = torch.stack([first, first])
        del first
        assert (live.now, live.most) == (800, 1200)
        second.add_(1).split(50)
        assert (live.now, live.most) == (800, 1200)
    del second
    assert live.now == 0


def test_torch_holds_every_layer_for_its_gradients_and_three_without() -> None:
    given = examples(batch=8, hidden=64, depth=6).tensors
    del given["t"]
    x, *weights = given.values()
    layer = 8 * 64 * 8
    with Live([x, *weights]) as live:
        net(x, *weights)
    assert live.most == 3 * layer  # what is read, its product, and the tanh of that
    y = built(net, given)
    assert Program([y], variables(y)).bytes(inputs=False) == 2 * layer
    leaves = [weight.requires_grad_() for weight in weights]
    with Live([x, *leaves]) as live:
        out = net(x, *leaves)
    assert live.now == 5 * layer + out.untyped_storage().nbytes()
