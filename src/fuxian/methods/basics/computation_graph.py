"""A computation graph: build it, compile it, and only then compute; imperative against symbolic programs.

One function is written once and called three times: on tensors it computes at once; on nodes it builds our graph; on
torch.fx's proxies it is traced. Compiling drops what the results do not need and plans which values share memory.

中文     计算图：命令式与符号式编程
Paper    Chen et al., arXiv:1512.01274: sec. 2 (two ways to program), sec. 3.1 (in place, co-share), Fig. 7 (what they save)
Code     apache/mxnet, docs: program_model.md @ 579d173 (the notes' a, b, c, d; 320 bytes or 160), note_memory.md @ 2dc607d
         (the plan: uses to come are counted, and memory that has none left goes to the next value that needs some)
         the notes, programming paradigms (符号式与命令式): the same example
Departs  a transpose is a view and takes no memory, as in torch; shapes are equal, or one of two is a number, so nets
         have no biases. What is called at once holds all that has a name; torch, which frees the rest, is measured
         beside it, and in training needs no more than the plan: its kernels for gradients make fewer values on the way
"""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partialmethod
from itertools import pairwise
from math import prod
from typing import Annotated, Any

import torch
import torch.nn.functional as F
from matplotlib.figure import Figure
from torch import Tensor, fx, nn

from fuxian import figures
from fuxian.contract import Batch, Objective, Splits, Stage
from fuxian.data.images import digits
from fuxian.data.sources import digest
from fuxian.errors import WrongInput
from fuxian.facts import Claim, Paper, Within
from fuxian.metrics.memory import Live
from fuxian.numbers import MINUS

PAPER = Paper("MXNet: A Flexible and Efficient Machine Learning Library for Heterogeneous Distributed Systems",
              "Chen et al.", 2015, arxiv="1512.01274")  # fmt: skip
CLAIMS = [  # counts, and shares of values that are the same to 1e-10: exact
    Claim("train/equal", 1.0, where="a net, compiled and at once", seeds=1, better="equal"),
    Claim("d", 3.0, where="the notes: a, b, c, d", seeds=1, better="equal"),
    Claim("grad_a", 2.0, where="program_model.md: gradient of a", seeds=1, better="equal"),
    Claim("grad_b", 1.0, where="program_model.md: gradient of b", seeds=1, better="equal"),
    Claim("bytes_at_once", 320, where="program_model.md: imperative", seeds=1, better="equal"),
    Claim("bytes_compiled", 160, where="program_model.md: symbolic", seeds=1, better="equal"),
    Claim("layers_held", 2, where="program_model.md: forward through n layers", seeds=1, better="equal"),
    Claim("gradients", 1.0, where="the backward graph against autograd", seeds=1, better="equal"),
    Claim("traced", 1.0, where="our graph against torch.fx's", seeds=1, better="equal"),
    Claim("saved_in_training", 2.0, where="Fig. 7, training", seeds=1, comparison="of three convolutional nets"),
    Claim("saved_in_prediction", 4.0, where="Fig. 7, prediction", seeds=1, comparison="of three convolutional nets"),
]  # fmt: skip
QUICK = dict(depth=3)
SEEDLESS = True

WAYS = {"apart": (False, False), "in place": (True, False), "shared": (False, True), "both": (True, True)}  # as in Fig. 7
SIGNS = {"add": "+", "sub": MINUS, "mul": "×", "matmul": "@", "sum": "Σ", "fill": "all"}  # as they are drawn

# Shape letters: N examples, F features, C classes.


@dataclass(frozen=True, eq=False)
class Node:
    """A value to come, made by `op` of nodes and numbers. Operators add further nodes to its graph; nothing is computed."""

    graph: "Graph"
    op: str
    inputs: tuple[Any, ...]
    shape: tuple[int, ...]
    name: str

    def make(self, op: str, *inputs: Any, shape: tuple[int, ...]) -> "Node":
        self.graph.append(Node(self.graph, op, inputs, shape, f"{op}_{len(self.graph)}"))
        return self.graph[-1]

    def each(self, op: str, *others: Any) -> "Node":
        """Element by element."""
        for other in others:
            if isinstance(other, Node) and other.shape != self.shape:
                raise WrongInput(f"{op} of shapes {self.shape} and {other.shape}", do="equal shapes, or a number")
        return self.make(op, self, *others, shape=self.shape)

    __add__, __sub__ = partialmethod(each, "add"), partialmethod(each, "sub")
    __mul__, tanh = partialmethod(each, "mul"), partialmethod(each, "tanh")

    def __matmul__(self, other: "Node") -> "Node":
        if len(self.shape) != 2 or len(other.shape) != 2 or self.shape[1] != other.shape[0]:
            raise WrongInput(f"matmul of shapes {self.shape} and {other.shape}", do="(N, F) and (F, C)")
        return self.make("matmul", self, other, shape=(self.shape[0], other.shape[1]))

    def t(self) -> "Node":
        return self.make("t", self, shape=self.shape[::-1])

    def sum(self) -> "Node":
        return self.make("sum", self, shape=())

    def fill(self, value: Any) -> "Node":
        """A number, or a node that holds one, everywhere in this node's shape."""
        return self.make("fill", value, shape=self.shape)


class Graph(list[Node]):
    """Every node that was made, in order."""

    def variable(self, name: str, *shape: int) -> Node:
        self.append(Node(self, "input", (), shape, name))
        return self[-1]


# What an operation writes into `out`, and which may do so over one of its inputs; the gradients of inputs, as more nodes.
KERNELS: dict[str, Callable[..., Any]] = {
    "add": torch.add, "sub": torch.sub, "mul": torch.mul, "tanh": torch.tanh, "matmul": torch.matmul,
    "sum": lambda x, out: out.copy_(x.sum()), "fill": lambda x, out: out.copy_(torch.as_tensor(x)),
}  # fmt: skip
IN_PLACE = {"add", "sub", "mul", "tanh"}
GRADIENTS: dict[str, Callable[..., tuple[Any, ...]]] = {
    "add": lambda y, g, a, b: (g, g), "sub": lambda y, g, a, b: (g, g * -1.0), "mul": lambda y, g, a, b: (g * b, g * a),
    "tanh": lambda y, g, x: (g - g * (y * y),), "matmul": lambda y, g, a, b: (g @ b.t(), a.t() @ g),
    "t": lambda y, g, x: (g.t(),), "sum": lambda y, g, x: (x.fill(g),), "fill": lambda y, g, x: (g.sum(),),
}  # fmt: skip


def built(function: Callable[..., Any], given: Mapping[str, Tensor]) -> Node:
    """What a function builds of variables with these names and shapes, in a graph of its own."""
    graph = Graph()
    return function(*[graph.variable(name, *tensor.shape) for name, tensor in given.items()])


def variables(node: Node) -> list[Node]:
    """The inputs of a node's graph, needed or not."""
    return [x for x in node.graph if x.op == "input"]


def needed(outputs: Sequence[Node]) -> list[Node]:
    """The nodes that the outputs are made of, in the order in which they were made: what is not among them is dead code."""
    found, waiting = set[Node](), list[Any](outputs)
    while waiting:
        node = waiting.pop()
        if isinstance(node, Node) and node not in found:
            found.add(node)
            waiting.extend(node.inputs)
    return [node for node in outputs[0].graph if node in found]


def gradients(y: Node, wrt: Sequence[Node]) -> list[Node]:
    """The backward graph: new nodes that hold the gradient of y, or of the sum of its elements, by each of `wrt`."""
    forward, found = needed([y]), {y: y.fill(1.0)}
    for node in reversed(forward):
        if node.inputs and node in found:
            for x, g in zip(node.inputs, GRADIENTS[node.op](node, found[node], *node.inputs), strict=True):
                if isinstance(x, Node):
                    found[x] = found[x] + g if x in found else g
    return [found[x] if x in found else x.fill(0.0) for x in wrt]


def held(x: Any) -> Any:
    """What a node's values lie in: of a transpose, what it is a view of."""
    return held(x.inputs[0]) if isinstance(x, Node) and x.op == "t" else x


class Program(nn.Module):
    """The nodes that `outputs` need, in order, and where in memory each is. `kept` inputs are never written over.

    `in_place`: a value takes the memory of an input that has no other use; `share`: or memory that has no use left, the
    smallest that it fits in. Without both each has its own, as where any of them may still be asked for.
    """

    def __init__(
        self, outputs: Sequence[Node], kept: Sequence[Node] = (), in_place: bool = True, share: bool = True
    ) -> None:
        super().__init__()
        nodes = [node for node in needed(outputs) if node.op != "t"]
        self.inputs = [node for node in nodes if node.op == "input"]  # there from the beginning
        self.order = self.inputs + [node for node in nodes if node.op != "input"]
        self.outputs, self.place, self.sizes, free = list(outputs), dict[Node, int](), list[int](), list[int]()
        self.reads = {node: Counter(held(x) for x in node.inputs if isinstance(x, Node)) for node in self.order}
        uses: Counter[Node] = sum(self.reads.values(), Counter(map(held, [*outputs, *kept])))  # of which one never ends
        for node in self.order:
            reads, size = self.reads[node], prod(node.shape)
            mine = [self.place[x] for x in node.inputs  # no transpose: it is read in another order than it is written
                    if isinstance(x, Node) and uses[x] == reads[x] == node.inputs.count(x)]  # fmt: skip
            fits = sorted((place for place in free if self.sizes[place] >= size), key=self.sizes.__getitem__)
            if in_place and node.op in IN_PLACE and mine:
                place = mine[0]
            elif share and fits:
                free.remove(place := fits[0])
            else:
                place = len(self.sizes)
                self.sizes.append(size)
            self.place[node] = place
            uses.subtract(reads)
            free += [self.place[x] for x in reads if not uses[x] and self.place[x] != place]

    def bytes(self, inputs: bool = True) -> int:
        """Of float64, with the inputs' or beside them."""
        return 8 * (sum(self.sizes) - (0 if inputs else sum(prod(node.shape) for node in self.inputs)))

    def run(self, **given: Tensor) -> list[Tensor]:
        """The outputs, of inputs by name. Raises WrongInput where one is missing or has another shape."""
        memory = [torch.empty(size, dtype=torch.float64) for size in self.sizes]

        def value(x: Any) -> Any:
            if not isinstance(x, Node):
                return x
            return value(x.inputs[0]).t() if x.op == "t" else memory[self.place[x]][: prod(x.shape)].view(x.shape)

        for node in self.order:
            if node.op != "input":
                KERNELS[node.op](*map(value, node.inputs), out=value(node))
            elif node.name not in given or given[node.name].shape != node.shape:
                raise WrongInput(f"{node.name} is not given, or not in its shape", do=f"a tensor of the shape {node.shape}")
            else:
                value(node).copy_(given[node.name])
        return [value(node) for node in self.outputs]


def traced(function: Callable[..., Any], graph: Graph) -> bool:
    """Whether torch.fx, tracing the function, writes a program that builds our graph again."""
    inputs, seen, again = variables(graph[0]), fx.Graph(), Graph()
    seen.output(function(*[fx.Proxy(seen.placeholder(node.name)) for node in inputs]).node)
    fx.GraphModule({}, seen)(*[again.variable(node.name, *node.shape) for node in inputs])
    lines = lambda nodes: [(n.name, n.shape, *(x.name if isinstance(x, Node) else x for x in n.inputs)) for n in nodes]
    return lines(graph) == lines(again)


def notes(a: Any, b: Any) -> Any:
    """The notes' c and then d, of whatever can be multiplied and added."""
    return b * a + 1


def net(x: Any, *weights: Any) -> Any:
    """A perceptron: (N, F) to (N, C)."""
    for w in weights[:-1]:
        x = (x @ w).tanh()
    return x @ weights[-1]


def error(x: Any, t: Any, *weights: Any) -> Any:
    """Σ (y - t)²"""
    off = net(x, *weights) - t
    return (off * off).sum()


@dataclass(frozen=True)
class Rows(Batch):
    index: Tensor  # (N,) int64


class Given(Splits):
    """Tensors by name; the rows of the first are the examples."""

    def __init__(self, name: str, tensors: Mapping[str, Tensor]) -> None:
        self.tensors = dict(tensors)
        super().__init__(self, name=name, hashes={name: digest(*(one.numpy().tobytes() for one in tensors.values()))})

    def __len__(self) -> int:
        return len(next(iter(self.tensors.values())))

    def batch(self, indices: Tensor) -> Rows:
        return Rows(indices)


def examples(batch: int, hidden: int, depth: int) -> Given:
    """Images of digits `x`, and which digit each is `t`; and weights of variance 1/F, sines of 0, 1, 2, …"""
    first: Any = digits().train.batch(torch.arange(batch))
    x, t = first.image.flatten(1).double(), F.one_hot(first.label, 10).double()
    widths = pairwise([x.shape[1], *[hidden] * (depth - 1), t.shape[1]])
    waves = [torch.arange(f * c).double().sin().view(f, c) * (2 / f) ** 0.5 for f, c in widths]
    return Given("digits", {"x": x, "t": t, **{f"w{i + 1}": weight for i, weight in enumerate(waves)}})


class AsAtOnce(Objective):
    """Whether a program comes to what the function comes to on tensors, row by row."""

    def __init__(self, function: Callable[..., Tensor], given: Given, **drawn: Callable[[], Figure]) -> None:
        self.function, self.tensors, self.drawn = function, given.tensors, drawn

    def evaluate(self, model: Program, batch: Rows) -> Iterator[tuple[str, Tensor]]:
        (found,) = model.run(**self.tensors)
        expected = self.function(*(self.tensors[node.name] for node in model.inputs))
        yield "equal", same(found, expected)[batch.index].view(len(batch), -1).amin(1)

    def pictures(self, model: Any, split: Any) -> dict[str, Any]:
        return {name: draw() for name, draw in self.drawn.items()}


def same(one: Tensor, other: Tensor) -> Tensor:
    """1 where two values are equal to 1e-10, else 0."""
    return ((one - other).abs() < 1e-10).double()


def drawn(program: Program) -> Figure:
    """The whole graph that a program was compiled from: what it needs, and where in memory; dashed what it does not."""
    level: dict[Node, int] = {}
    for node in program.outputs[0].graph:
        level[node] = 1 + max((level[x] for x in node.inputs if isinstance(x, Node)), default=-1)
    columns = [[node for node in level if level[node] == across] for across in range(max(level.values()) + 1)]
    places = {node.name: (across, (len(column) - 1) / 2 - i) for across, column in enumerate(columns)
              for i, node in enumerate(column)}  # fmt: skip
    arrows = [(x.name, node.name) for node in level for x in node.inputs if isinstance(x, Node)]
    numbers: dict[Node, list[str]] = {node: [f"{x:g}" for x in node.inputs if not isinstance(x, Node)] for node in level}
    labels = {node.name: " ".join([SIGNS.get(node.op, node.name), *numbers[node]]) for node in level}
    below = {node.name: f"memory {place + 1}" for node, place in program.place.items()}
    return figures.diagram(places, arrows, labels=labels, below=below, faint=labels.keys() - below.keys())


def lifetimes(program: Program) -> Figure:
    """Which memory, beside that of kept inputs, holds a value from when to when: until the last operation that reads it."""
    step = {node: i - len(program.inputs) for i, node in enumerate(program.order)}
    ends = {x: step[node] + 1 for node in program.order for x in (node, *program.reads[node])}
    ends |= {held(node): max(ends.values()) for node in program.outputs}
    bars = [(program.place[x] - len(program.inputs), begun, ends[x]) for x, begun in step.items() if begun >= 0]
    return figures.spans(bars, x="operation", y="memory, beside that of inputs and weights")


def recipe(
    depth: Annotated[int, Within(2)] = 8,          # matrices of the net
    hidden: int = 64,                              # units
    batch: Annotated[int, Within(1, 1000)] = 64,   # images of digits that it reads
) -> Iterator[Stage]:  # fmt: skip
    given = Given("a, b", dict(a=torch.ones(10).double(), b=2 * torch.ones(10).double()))
    d = built(notes, given.tensors)
    alike = [traced(notes, d.graph)]
    forward, backward, apart = Program([d]), Program(gradients(d, variables(d))), Program([d], (), *WAYS["apart"])
    yield Stage(forward, given, AsAtOnce(notes, given, graph=lambda: drawn(forward)), steps=0, name="notes")
    values = forward.run(**given.tensors) + backward.run(**given.tensors)
    found = {name: float(value.mean()) for name, value in zip(("d", "grad_a", "grad_b"), values, strict=True)}
    found |= dict(bytes_at_once=apart.bytes(), bytes_compiled=forward.bytes(), dropped=len(d.graph) - len(forward.order))
    given = examples(batch, hidden, depth)
    x, t, *weights = given.tensors.values()
    loss = built(error, given.tensors)
    y = built(net, {name: tensor for name, tensor in given.tensors.items() if name != "t"})
    alike += [traced(net, y.graph), traced(error, loss.graph)]
    goals = [loss, *gradients(loss, variables(loss)[2:])]
    plans = {name: (Program([y], variables(y), *way), Program(goals, variables(loss), *way)) for name, way in WAYS.items()}
    sizes = {name: (one.bytes(inputs=False), other.bytes(inputs=False)) for name, (one, other) in plans.items()}
    leaves = [weight.clone().requires_grad_() for weight in weights]
    with Live([x, *leaves]) as predicting, torch.no_grad():
        net(x, *leaves)
    with Live([x, t, *leaves]) as training:
        expected = torch.autograd.grad(error(x, t, *leaves), leaves)
    shown = sizes | {"torch, at once": (predicting.most, training.most)}
    table = {name: [f"{size:,}" for size in pair] for name, pair in shown.items()}
    (predict, train), (predicted, trained) = plans["both"], sizes["both"]
    yield Stage(predict, given, AsAtOnce(net, given, plan=lambda: lifetimes(train), bytes=lambda: figures.table(
        table, ["to predict, bytes", "to train, bytes"])), steps=0, name="net")  # fmt: skip
    exact = [same(one, other).flatten() for one, other in zip(train.run(**given.tensors)[1:], expected, strict=True)]
    found |= dict(gradients=float(torch.cat(exact).mean()), traced=sum(alike) / len(alike))
    found |= dict(saved_in_prediction=sizes["apart"][0] / predicted, saved_in_training=sizes["apart"][1] / trained)
    return found | dict(layers_held=len(predict.sizes) - len(predict.inputs), torch_in_training=training.most / trained)
