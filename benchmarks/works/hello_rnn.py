"""hello → ohlol: the training of a hundred nets side by side, beside a hundred nn.RNN, which the notes have one of."""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.pairing import Side, Work
from benchmarks.sides import Engine, repeated

GIVEN, WANTED, NETS, LR, EPOCHS = "hello", "ohlol", 100, 0.05, 15
NAMES = dict(weight_ih_l0="w_x_SVV", weight_hh_l0="w_h_SVV", bias_ih_l0="b_x_SV", bias_hh_l0="b_h_SV")


def ours() -> Side:
    from fuxian.contract import Stage
    from fuxian.methods.sequence.hello_rnn import RNNs, Spelling, Word
    from fuxian.optim import adam

    word = Word(GIVEN, WANTED)
    model = RNNs(NETS, len(word.alphabet))
    weights = {name: weight.detach().clone() for name, weight in model.named_parameters()}
    objective = Spelling(word.alphabet, EPOCHS, NETS, len(GIVEN))
    engine = Engine(Stage(model, word, objective, adam(LR), epochs=EPOCHS))

    def train() -> None:
        objective.update_count.zero_()  # it keeps what was said before each of so many updates
        engine(EPOCHS)

    def losses() -> Tensor:
        train()
        return objective.loss_US

    return Side(repeated(train), losses, weights)


def peer(weights: Mapping[str, Tensor]) -> Side:
    alphabet = sorted(set(GIVEN + WANTED))
    given, wanted = (torch.tensor([alphabet.index(letter) for letter in word]) for word in (GIVEN, WANTED))
    letters, wanted = F.one_hot(given).float()[:, None], wanted.expand(NETS, -1)
    nets = [nn.RNN(len(alphabet), len(alphabet)) for _ in range(NETS)]
    with torch.no_grad():
        for place, net in enumerate(nets):
            for theirs, name in NAMES.items():
                getattr(net, theirs).copy_(weights[name][place])
    optimizer = torch.optim.Adam([weight for net in nets for weight in net.parameters()], LR, fused=True)

    def train() -> Tensor:
        found, said = [], []
        for _ in range(EPOCHS):
            optimizer.zero_grad()
            score = torch.cat([net(letters)[0] for net in nets], 1).transpose(0, 1)
            loss = F.cross_entropy(score.mT, wanted, reduction="none").mean(1)
            loss.sum().backward()  # of all at once: a third faster than net after net
            optimizer.step()
            found.append(loss.detach())
            said.append(score.argmax(2))
        return torch.stack(found)

    return Side(repeated(train), train)


WORKS = [
    Work(
        "hello-rnn", "15 epochs of a hundred nets that learn hello → ohlol", ours, peer, "nn.RNN, a hundred of them",
        method="hello_rnn", agree=1e-5, note="ours has the weights of all nets in one tensor",
    ),
]  # fmt: skip
