"""hello → ohlol: our cell against torch.nn.RNNCell, a hundred nets against the notes' code mended, one net at a time."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

import fuxian
from fuxian.engine.players import Player
from fuxian.errors import WrongInput
from fuxian.evaluation import measure
from fuxian.methods.sequence.hello_rnn import RNNs, Spelling, Word, floor, surprise
from fuxian.optim import adam

from .compare import TOLERANCE, Differences, first_loss, in_both, relative

HELLO = Word("hello", "ohlol")
NAMES = dict(weight_ih="w_x_SVV", weight_hh="w_h_SVV", bias_ih="b_x_SV", bias_hh="b_h_SV")


def mended(seed: int | None) -> nn.RNN:
    """The notes' net: torch's own layer, with its own first weights."""
    if seed is not None:
        torch.manual_seed(seed)
    return nn.RNN(4, 4)


def side_by_side(nets: list[nn.RNN]) -> RNNs:
    model = RNNs(len(nets), 4)
    with torch.no_grad():
        for theirs, ours in NAMES.items():
            getattr(model, ours).copy_(torch.stack([getattr(net, f"{theirs}_l0") for net in nets]))
    return model


def trained(net: nn.RNN, epochs: int) -> Tensor:
    """The notes' loop. Returns what the net says then, as indices."""
    one_hot = torch.eye(4)[[1, 0, 2, 2, 3]].view(-1, 1, 4)
    labels = torch.tensor([3, 1, 2, 3, 2])
    optimizer = torch.optim.Adam(net.parameters(), lr=0.05)
    for _ in range(epochs):
        optimizer.zero_grad()
        outputs, _ = net(one_hot, torch.zeros(1, 1, 4))
        nn.CrossEntropyLoss()(outputs.view(-1, 4), labels).backward()
        optimizer.step()
    return net(one_hot, torch.zeros(1, 1, 4))[0].view(-1, 4).argmax(1)


def train(model: RNNs, epochs: int) -> Spelling:
    objective = Spelling(HELLO.alphabet, epochs, len(model.b_x_SV), 5)
    player = Player("model", adam(0.05), dict(model.named_parameters()), alone=True)
    for epoch in range(epochs):
        player.begin(epoch, epochs, [])
        first_loss(objective, model, HELLO.words).backward()
        player.step()
    return objective


def test_outputs_gradients_and_step(prove) -> None:
    """Every net side by side is torch.nn.RNNCell alone: scores, gradients and one step of Adam."""

    def compare() -> Differences:
        torch.manual_seed(0)
        cells = [nn.RNNCell(4, 4) for _ in range(3)]
        model = RNNs(3, 4)
        with torch.no_grad():
            for theirs, ours in NAMES.items():
                getattr(model, ours).copy_(torch.stack([getattr(cell, theirs) for cell in cells]))
        before = {name: weight.detach().clone() for name, weight in model.named_parameters()}
        states = []
        for cell in cells:
            h = torch.zeros(1, 4)
            said = [h := cell(x[None], h) for x in torch.eye(4)[HELLO.words.given[0]]]
            states.append(torch.cat(said))
            nn.functional.cross_entropy(states[-1], HELLO.words.wanted[0]).backward()
        outputs = relative(model(HELLO.words.given)[0], torch.stack(states))
        train(model, 1)
        gradients = {name: torch.stack([getattr(cell, name).grad for cell in cells]) for name in NAMES}
        gradient = max(relative(getattr(model, ours).grad, gradients[theirs]) for theirs, ours in NAMES.items())
        for cell in cells:
            torch.optim.Adam(cell.parameters(), lr=0.05).step()
        steps = [
            relative(
                getattr(model, ours) - before[ours], torch.stack([getattr(cell, theirs) for cell in cells]) - before[ours]
            )
            for theirs, ours in NAMES.items()
        ]
        found = Differences(outputs, gradient, max(steps), str(model.b_x_SV.dtype).removeprefix("torch."))
        assert max(found.outputs, found.gradients, found.step) < TOLERANCE[model.b_x_SV.dtype], found
        return found

    prove("hello_rnn", "parity", reference="torch.nn.RNNCell and torch's Adam", **in_both(compare))


@pytest.mark.parametrize(("epochs", "learned"), [(15, 61), (30, 80)])
def test_sixty_one_of_the_notes_hundred_seeds_learn(epochs: int, learned: int) -> None:
    model = side_by_side([mended(seed) for seed in range(100)])
    objective = train(model, epochs)
    for seed in range(0, 100, 25):  # what each says is what it says when it is trained alone
        expected = trained(mended(seed), epochs)
        assert model(HELLO.words.given)[0, seed].argmax(1).tolist() == expected.tolist()
    assert measure(model, objective, HELLO)["rate"] == pytest.approx(learned / 100, abs=1e-6)


def test_first_weights_are_drawn_as_torch_draws_them() -> None:
    """Uniform between ±1/√hidden: the same deviation and the same bounds as a thousand of torch's."""
    torch.manual_seed(0)
    ours = torch.cat([weight.flatten() for weight in RNNs(1000, 4).parameters()])
    theirs = torch.cat([weight.flatten() for _ in range(1000) for weight in nn.RNNCell(4, 4).parameters()])
    assert ours.std().item() == pytest.approx(theirs.std().item(), rel=0.02)
    assert ours.abs().max().item() == pytest.approx(0.5, abs=1e-3)
    assert abs(ours.mean().item()) < 0.01


def test_as_many_weights_for_any_length(tmp_path) -> None:
    for length in (1, 4):
        run = fuxian.run("hello_rnn", given="hello" * length, wanted="ohlol" * length, nets=2, epochs=1, parent=tmp_path)
        assert run.metrics["weights"] == sum(weight.numel() for weight in nn.RNN(4, 4).parameters()) == 40


def test_cross_entropy_is_torchs_and_has_a_floor() -> None:
    torch.manual_seed(0)
    score = torch.rand(2, 3, 5, 4, dtype=torch.float64)
    wanted = torch.randint(4, (2, 5))
    for net in range(3):
        expected = nn.functional.cross_entropy(score[:, net].mT, wanted, reduction="none")
        torch.testing.assert_close(surprise(score, wanted)[:, net], expected)
    best = 2 * nn.functional.one_hot(wanted, 4)[:, None].double() - 1  # the wanted letter at 1, the others at -1
    assert surprise(best, wanted).mean().item() == pytest.approx(floor(4), rel=1e-6)
    assert floor(4) == pytest.approx(math.log(1 + 3 * math.exp(-2)), rel=1e-6)


def test_what_is_kept_on_the_way_is_what_was_said() -> None:
    model = side_by_side([mended(seed) for seed in range(3)])
    objective = train(model, 4)
    assert objective.update_count == 4
    for seed in range(3):
        said = [trained(mended(seed), epochs).tolist() for epochs in range(4)]
        assert objective.said_USL[:, seed].tolist() == said


def test_words_that_cannot_be_read_are_refused() -> None:
    with pytest.raises(WrongInput, match="for each letter read"):
        Word("hello", "ohl")
    with pytest.raises(WrongInput, match="for each letter read"):
        Word("", "")
    with pytest.raises(WrongInput, match="has w; the alphabet is e h l o"):
        HELLO.read(["howl"])
    with pytest.raises(WrongInput, match="same length"):
        HELLO.read(["he", "hello"])
    assert HELLO.read(["hole", "heel"]).given.tolist() == [[1, 3, 2, 0], [1, 0, 0, 2]]
