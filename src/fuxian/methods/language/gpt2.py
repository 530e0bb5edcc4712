"""GPT-2: a language model of pre-norm blocks, here by characters, that writes on from any beginning.

中文     语言模型 GPT-2
Paper    Radford, Wu, Child, Luan, Amodei & Sutskever, OpenAI, 2019: sec. 2.3 (what differs from GPT-1), Table 2 (sizes)
Code     openai/gpt-2 @ 9b63575: src/model.py; karpathy/nanoGPT @ 3adf61e: model.py, train.py, sample.py and
         config/train_shakespeare_char.py are the protocol of the claims
Departs  characters of one small text, for byte pairs of WebText. From nanoGPT: GELU by tanh, as OpenAI has it, for the
         exact one; a step's windows begin in different stretches of the text, for places drawn with replacement; those
         that are judged do not overlap; the rate is highest at step 100, for 101. From OpenAI's code: positions begin
         from N(0, 0.02), as nanoGPT has it, for 0.01
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fuxian import figures
from fuxian.contract import Metric, Objective, Stage
from fuxian.data.text import UNCOUNTED, Characters, Windows, by_character, corpus
from fuxian.data.weights import fill, pretrained, renamed, save
from fuxian.errors import WrongInput
from fuxian.facts import Claim, Paper, Within
from fuxian.methods.language import gpt1
from fuxian.methods.language.gpt1 import line, matrices
from fuxian.optim import adamw, cosine

PAPER = Paper("Language Models are Unsupervised Multitask Learners", "Radford et al.", 2019, venue="OpenAI")
CLAIMS = [
    # One run is published, to two digits; means of 20 random batches of one network spread by 0.014, twice that is allowed.
    Claim("val/estimate", 1.88, where="nanoGPT, README, on a CPU", tolerance=0.03, seeds=5, better="lower"),
    # One run is published. Here 20 batches hold every window: the estimate is the mean.
    Claim("val/estimate", 1.4697, where="nanoGPT, README, on a GPU", tolerance=0.02, seeds=3, better="lower",
          knobs=dict(context=256, batch=64, depth=6, width=384, heads=6, dropout=0.2, steps=5000), needs="a GPU"),
]  # fmt: skip
QUICK = dict(data="python-topics", depth=2, width=64, steps=150, warmup=15, lr=5e-3)

EVALUATE_EVERY, ESTIMATE_BATCHES = 250, 20  # train_shakespeare_char.py; README, --eval_iters
LENGTH, TEMPERATURE, TOP_K = 500, 0.8, 200  # of a sample: sample.py

# Shape letters: B batch, T tokens, D units, H heads, V vocabulary, C context.


class Attention(nn.Module):
    """Each token attends to itself and to those before it. (B, T, D) to (B, T, D); src/model.py, attn."""

    def __init__(self, width: int, heads: int, dropout: float, bias: bool) -> None:
        super().__init__()
        self.qkv = nn.Linear(width, 3 * width, bias)
        self.output = nn.Linear(width, width, bias)
        self.heads = heads
        self.dropout = dropout

    def forward(self, x_BTD: Tensor, past: Tensor | None = None) -> Tensor:
        """`past` (2, B, H, C, D / H) takes the keys and values of the tokens."""
        qkv = self.qkv(x_BTD).unflatten(2, (3, self.heads, -1))
        q, k, v = (part.transpose(1, 2) for part in qkv.unbind(2))  # (B, H, T, D / H) each
        if past is not None:
            past[:, :, :, : x_BTD.shape[1]] = torch.stack([k, v])
        a = F.scaled_dot_product_attention(q, k, v, dropout_p=self.dropout if self.training else 0.0, is_causal=True)
        return F.dropout(self.output(a.transpose(1, 2).flatten(2)), self.dropout, self.training)


class Block(nn.Module):
    """Attention, then two layers with a GELU between, each on its normalized input and added to it. Sec. 2.3; block."""

    def __init__(self, width: int, heads: int, dropout: float, bias: bool) -> None:
        super().__init__()
        self.norm_1 = nn.LayerNorm(width, eps=1e-5, bias=bias)
        self.attention = Attention(width, heads, dropout, bias)
        self.norm_2 = nn.LayerNorm(width, eps=1e-5, bias=bias)
        self.mlp = nn.Sequential(
            nn.Linear(width, 4 * width, bias), nn.GELU("tanh"), nn.Linear(4 * width, width, bias), nn.Dropout(dropout)
        )

    def forward(self, x_BTD: Tensor, past: Tensor | None = None) -> Tensor:
        x_BTD = x_BTD + self.attention(self.norm_1(x_BTD), past)
        return x_BTD + self.mlp(self.norm_2(x_BTD))


class GPT2(nn.Module):
    """Token ids (B, T) to logits (B, T, V) of the token after each. 124,439,808 weights as the smallest of Table 2."""

    def __init__(
        self, vocabulary: int, context: int, depth: int, width: int, heads: int, dropout: float, bias: bool = True
    ) -> None:
        super().__init__()
        if width % heads:
            raise WrongInput(f"width={width} cannot be split into {heads} heads", do="make it a multiple of heads")
        self.token = nn.Embedding(vocabulary, width)  # on both ends
        self.position = nn.Embedding(context, width)
        self.dropout = nn.Dropout(dropout)
        self.blocks = nn.ModuleList(Block(width, heads, dropout, bias) for _ in range(depth))
        self.norm = nn.LayerNorm(width, eps=1e-5, bias=bias)
        self.heads = heads
        for name, weight in self.named_parameters():
            if weight.dim() > 1:  # 1 / √N of N residual layers, two in a block: sec. 2.3
                added = name.endswith(("attention.output.weight", "mlp.2.weight"))
                nn.init.normal_(weight, std=0.02 / (2 * depth) ** 0.5 if added else 0.02)
            elif name.endswith("bias"):
                nn.init.zeros_(weight)

    def states(self, token_BT: Tensor, past: Tensor | None = None) -> Tensor:
        """What the logits are made of (B, T, D). `past` of a Cache takes the keys and values of the tokens."""
        h_BTD = self.dropout(self.token(token_BT) + self.position.weight[: token_BT.shape[1]])
        for place, block in enumerate(self.blocks):
            h_BTD = block(h_BTD, past[place] if past is not None else None)
        return self.norm(h_BTD)

    def forward(self, token_BT: Tensor) -> Tensor:
        return F.linear(self.states(token_BT), self.token.weight)

    def next(self, token_BT: Tensor, past: Tensor | None = None) -> Tensor:
        """Logits (B, V) of the token after the last."""
        return F.linear(self.states(token_BT, past)[:, -1], self.token.weight)

    @classmethod
    def from_pretrained(cls, source: str | Path, dropout: float = 0.1) -> "GPT2":
        """The published weights: "openai-community/gpt2" of the hub, or a folder, in the files of transformers.

        In evaluation mode; `dropout` is for training. Raises WrongInput for another kind of model, DataMissing where it
        cannot be had.

            model, tokenizer = GPT2.from_pretrained("openai-community/gpt2"), weights.tokenizer("openai-community/gpt2")
            begun = torch.tensor([tokenizer.encode("To be, or not to be,").ids])
            print(tokenizer.decode([int(token) for token in generate(model, begun, length=50, top_k=40)]))
        """
        config, tensors = pretrained(source, IMPLEMENTED, prefix="transformer.")
        vocabulary, context = config["vocab_size"], config["n_positions"]
        model = cls(vocabulary, context, config["n_layer"], config["n_embd"], config["n_head"], dropout)
        fill(renamed(model.state_dict(), NAMES, turned="h."), tensors, source, gpt1.UNUSED)
        return model.eval()

    def save_pretrained(self, folder: str | Path) -> None:
        """Writes what `transformers.AutoModelForCausalLM.from_pretrained(folder)` reads; biases that are none as zeros."""
        config = dict(architectures=["GPT2LMHeadModel"], **IMPLEMENTED, **gpt1.sizes(self, self.dropout.p))
        tensors = renamed(self.state_dict(), NAMES, turned="h.")
        for name, weight in list(tensors.items()):
            if not name.startswith(("wte", "wpe")):
                tensors.setdefault(name.replace("weight", "bias"), weight.new_zeros(weight.shape[-1]))
        save(folder, config, tensors)


# What transformers calls it: configuration_gpt2.py and modeling_gpt2.py.
IMPLEMENTED = dict(
    model_type="gpt2", activation_function="gelu_new", layer_norm_epsilon=1e-5, scale_attn_weights=True,
    scale_attn_by_inverse_layer_idx=False, add_cross_attention=False, tie_word_embeddings=True,
)  # fmt: skip
NAMES = gpt1.NAMES | {"token": "wte", "position": "wpe", "norm": "ln_f"}


class Cache:
    """Keys and values of the tokens that a model has read, so that the next one costs one position; for a whole context.

    What one row costs is to read all weights and to make all calls. So the weights lie here column by column, as they are
    read fastest, and `step` is the model's forward in evaluation, for one token, in few calls.
    """

    def __init__(self, model: GPT2, batch: int) -> None:
        context, width = model.position.weight.shape
        shape = len(model.blocks), 2, batch, model.heads, context, width // model.heads
        self.model, self.length, self.past = model, 0, model.token.weight.new_empty(shape)

        def laid(block: Any) -> list[tuple[Tensor, Tensor]]:
            attention, mlp = block.attention, block.mlp
            parts = block.norm_1, attention.qkv, attention.output, block.norm_2, mlp[0], mlp[2]
            return [(part.weight.t().contiguous().t(), part.bias) for part in parts]

        with torch.no_grad():
            self.layers = [laid(block) for block in model.blocks]

    def start(self, token_BT: Tensor) -> Tensor:
        """Reads the first tokens. Logits (B, V) of the one after them."""
        self.length = token_BT.shape[1]
        return self.model.next(token_BT, self.past)

    def step(self, token_B: Tensor) -> Tensor:
        """Reads one more token. Logits (B, V) of the one after it."""
        model, n, (_, _, batch, heads, _, _) = self.model, self.length, self.past.shape
        norm = lambda x_BD, gain, bias: F.layer_norm(x_BD, gain.shape, gain, bias, 1e-5)
        news, seen = self.past[..., n, :].unbind(), self.past[..., : n + 1, :].unbind()
        h_BD = F.embedding(token_B, model.token.weight) + model.position.weight[n]
        for (norm_1, qkv, output, norm_2, up, down), new, (k, v) in zip(self.layers, news, seen, strict=True):
            made = F.linear(norm(h_BD, *norm_1), *qkv).view(batch, 3, heads, -1).transpose(0, 1)  # (3, B, H, D / H)
            new.copy_(made[1:])
            a = F.scaled_dot_product_attention(made[0].unsqueeze(2), k, v)
            h_BD = h_BD + F.linear(a.view(batch, -1), *output)
            h_BD = h_BD + F.linear(F.gelu(F.linear(norm(h_BD, *norm_2), *up), approximate="tanh"), *down)
        self.length = n + 1
        return F.linear(model.norm(h_BD), model.token.weight)


@torch.inference_mode()
def generate(
    model: GPT2, token_BT: Tensor, length: int, temperature: float = 1.0, top_k: int | None = None
) -> Iterator[Tensor]:
    """`length` tokens (B,), one after another, that go on from `token_BT`; the model is in evaluation mode.

    Drawn from the softmax of logits / temperature, of the `top_k` most likely alone; temperature 0: the most likely one.

    Beyond the context the model sees its last tokens only (model.py, generate). Each of them then has another position at
    every step, so that no key and no value can be kept: the whole context is read for each token.
    """
    context, first = model.position.num_embeddings, token_BT.shape[1]
    cache = Cache(model, len(token_BT))
    text_BN = torch.cat([token_BT, token_BT.new_empty(len(token_BT), length)], dim=1)
    for n in range(first, first + length):
        if n <= context:
            logits_BV = cache.step(text_BN[:, n - 1]) if cache.length else cache.start(text_BN[:, :n])
        else:
            logits_BV = model.next(text_BN[:, n - context : n])
        text_BN[:, n] = choose(logits_BV, temperature, top_k)
        yield text_BN[:, n]


def choose(logits_BV: Tensor, temperature: float, top_k: int | None) -> Tensor:
    """Tokens (B,): see `generate`."""
    if temperature == 0:
        return logits_BV.argmax(1)
    logits_BV = logits_BV / temperature
    if top_k is not None and top_k < logits_BV.shape[1]:
        least_B1 = logits_BV.topk(top_k).values[:, -1:]
        logits_BV = logits_BV.masked_fill(logits_BV < least_B1, -torch.inf)
    return torch.multinomial(logits_BV.softmax(1), 1)[:, 0]


class Estimate(Metric):
    """The mean loss of so many windows, drawn at random: what train.py prints, from as many tokens (estimate_loss).

    Theirs begin anywhere and are drawn anew at each evaluation, so the best of several is partly luck. These are windows of
    the split, the same at each evaluation of a run, since evaluation has one seed.
    """

    def __init__(self, windows: int) -> None:
        self.windows = windows
        self.sums: list[Tensor] = []
        self.counts: list[Tensor] = []

    def update(self, sums_B: Tensor, counts_B: Tensor) -> None:
        self.sums.append(sums_B.double().cpu())
        self.counts.append(counts_B.cpu())

    def value(self) -> float:
        sums, counts = torch.cat(self.sums), torch.cat(self.counts)
        drawn = torch.randperm(len(sums))[: self.windows]
        self.count = int(counts[drawn].sum())
        return sums[drawn].sum().item() / self.count


def token_losses(model: GPT2, batch: Windows) -> Tensor:
    """-log P (B, T) of the targets, zero where there is none."""
    logits_NV = model(batch.token).flatten(0, 1)
    return F.cross_entropy(logits_NV, batch.target.flatten(), ignore_index=UNCOUNTED, reduction="none").view_as(batch.token)


class NextCharacter(Objective):
    """Cross-entropy of each character given those before it in its window; an estimate is of `estimate` windows."""

    def __init__(self, characters: Characters, estimate: int) -> None:
        self.characters = characters
        self.estimate = estimate

    def inputs(self, batch: Windows) -> tuple[Tensor, ...]:
        return (batch.token,)

    def losses(self, model: GPT2, batch: Windows) -> Iterator[tuple[str, Tensor]]:
        yield "model", F.cross_entropy(model(batch.token).flatten(0, 1), batch.target.flatten())

    def evaluate(self, model: GPT2, batch: Windows) -> Iterator[tuple[str, Tensor, Tensor]]:
        sums_B, counts_B = token_losses(model, batch).sum(1), (batch.target != UNCOUNTED).sum(1)
        yield "loss", sums_B, counts_B
        yield "estimate", sums_B, counts_B

    def metrics(self, model: GPT2) -> dict[str, Metric]:
        return {"estimate": Estimate(self.estimate)}

    def sample(self, model: GPT2, count: int, prompt: str = "") -> Iterator[str]:
        """Texts that begin with `prompt`, one after another, a rule between them."""
        first = self.characters.encode(prompt or "\n").long().to(model.token.weight.device)[None]
        for number in range(count):
            yield ("\n" + "─" * 40 + "\n") * (number > 0) + prompt
            for token in generate(model, first, LENGTH, TEMPERATURE, TOP_K):
                yield self.characters.decode(token.tolist())
        yield "\n"

    def predict(self, model: GPT2, batch: Windows) -> Sequence[dict[str, Any]]:
        """The most likely next character, how likely it is, and the next best."""
        best = model.next(batch.token).softmax(1).topk(min(5, model.token.num_embeddings))
        rows = []
        for likely, tokens in zip(best.values.tolist(), best.indices.tolist(), strict=True):
            (first, p), *others = [(repr(self.characters.alphabet[t]), p) for t, p in zip(tokens, likely, strict=True)]
            rows.append({"next": first, "probability": p, "others": dict(others)})
        return rows

    def pictures(self, model: GPT2, split: Any) -> dict[str, Any]:
        """How the model goes on from the beginnings of three windows, and how its loss falls with what it has seen."""
        device, context = model.token.weight.device, model.position.num_embeddings

        def spread(count: int) -> Tensor:
            """Numbers of at most `count` windows, evenly over the split."""
            count = min(count, len(split))
            return torch.arange(count, device=getattr(split, "device", None)) * len(split) // count

        token_BT = split.batch(spread(3)).token[:, : max(1, context // 4)].to(device)
        written = torch.stack(list(generate(model, token_BT, LENGTH // 2, TEMPERATURE, TOP_K)), dim=1)
        prompts, texts = ([self.characters.decode(row) for row in rows.tolist()] for rows in (token_BT, written))
        named = {f"{n}. {line(prompt)} …": text for n, (prompt, text) in enumerate(zip(prompts, texts, strict=True), 1)}

        sums_T, counts_T = torch.zeros(2, context, dtype=torch.double)
        for place in spread(1000).split(100):
            batch = split.batch(place).to(device)
            sums_T += token_losses(model, batch).sum(0).cpu()
            counts_T += (batch.target != UNCOUNTED).sum(0).cpu()
        curve = {"": (torch.arange(1, context + 1), sums_T / counts_T)}
        return {
            "samples": figures.passages(named),
            "loss-by-place": figures.lines(curve, x="characters seen", y="loss (nats a character)"),
        }


def recipe(
    data: Literal["tinyshakespeare", "python-topics"] | Path = "tinyshakespeare",  # running text
    context: int = 64,            # characters that the model sees; the paper: 1,024 byte pairs
    depth: int = 4,               # blocks; the paper: 12 and more
    width: int = 128,             # units; the paper: 768 and more
    heads: int = 4,               # of attention; the paper: 12 and more
    dropout: float = 0.0,         # probability: embeddings, attention, residual paths
    bias: bool = False,           # in linear and normalizing layers; the paper: true
    steps: int = 2000,            # README, --max_iters
    batch: int = 12,              # windows a step; README, --batch_size
    lr: float = 1e-3,             # AdamW, highest, then along a cosine to a tenth; train_shakespeare_char.py
    warmup: Annotated[int, Within(0)] = 100,         # steps; train_shakespeare_char.py
    weight_decay: float = 0.1,    # matrices only; train.py and model.py, configure_optimizers
) -> Iterator[Stage]:  # fmt: skip
    text = by_character(corpus(data), context)
    model = GPT2(text.vocabulary, context, depth, width, heads, dropout, bias)
    yield Stage(model, text, NextCharacter(text.characters, ESTIMATE_BATCHES * batch),
                adamw(lr, betas=(0.9, 0.99), decay=[(matrices(model), weight_decay)], clip=1.0,
                      schedule=cosine(warmup, floor=0.1)),
                steps=steps, batch=batch, evaluate_every=EVALUATE_EVERY, select="-estimate")  # fmt: skip
