"""Text: corpora and labelled sentences as strings, encodings by byte pairs and by characters, and splits of tokens."""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from pydoc_data.topics import topics
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from typing_extensions import Self

from fuxian.contract import Batch, Splits
from fuxian.data import own, sheets
from fuxian.data.sources import cache_folder, digest, hashes, read
from fuxian.errors import DataMissing, WrongInput

if TYPE_CHECKING:
    from tokenizers import Tokenizer

UNCOUNTED = -100  # the target of padding: what torch's cross entropy ignores


# ── strings ─────────────────────────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True)
class Corpus:
    """Running text. Joined, the lines of a split are the published text: each keeps its end. No lines: no such split."""

    train: list[str]
    val: list[str]
    test: list[str]
    name: str
    hashes: dict[str, str]


def lower(corpus: Corpus) -> Corpus:
    """The text in small letters."""
    return replace(corpus, **{part: [row.lower() for row in getattr(corpus, part)] for part in ("train", "val", "test")})


@dataclass(frozen=True)
class Labelled:
    """Sentences with the number of their class, an index into `names`."""

    train: list[tuple[str, int]]
    val: list[tuple[str, int]]
    test: list[tuple[str, int]]
    name: str
    names: tuple[str, ...]
    hashes: dict[str, str]


def wikitext2() -> Corpus:
    """WikiText-2, tokenized by words, rare ones replaced by <unk>: 2,051,910 / 213,886 / 241,211 words. Raises DataMissing.

    Merity et al., Pointer Sentinel Mixture Models, ICLR 2017, arXiv:1609.07843, Table 1 (which counts a line's end too).
    """
    content = {name: data.decode() for name, data in read("wikitext-2").items()}
    # Not str.splitlines: the text has other characters that it would take for line ends.
    train, val, test = (
        [line + "\n" for line in content[f"{part}.txt"].removesuffix("\n").split("\n")]
        for part in ("train", "valid", "test")
    )
    return Corpus(train, val, test, "wikitext-2", hashes("wikitext-2"))


def tiny_shakespeare() -> Corpus:
    """Tiny Shakespeare: 40,000 lines of his plays, 65 characters, of which 1,003,854 / 111,540 / 0. Raises DataMissing.

    The first nine tenths train, and no test split exists: karpathy/nanoGPT @ 3adf61e, data/shakespeare_char/prepare.py.
    """
    text = read("tinyshakespeare")["input.txt"].decode()
    end = int(len(text) * 0.9)
    train, val = (part.splitlines(keepends=True) for part in (text[:end], text[end:]))
    return Corpus(train, val, [], "tinyshakespeare", hashes("tinyshakespeare"))


def python_topics() -> Corpus:
    """The language reference that Python's `help()` shows: some 500 kB of English, always at hand.

    Of ten topics, longest first, the fifth is in `val`, the tenth in `test`, the others in `train`. The content changes
    with the version of Python, so a number on it is comparable on one version only; the hash says which.
    """
    texts = sorted({str(text) for text in topics.values()}, key=lambda text: (-len(text), text))
    train, val, test = (
        [line for place, text in enumerate(texts) if place % 10 in places for line in text.splitlines(keepends=True)]
        for places in ((0, 1, 2, 3, 5, 6, 7, 8), (4,), (9,))
    )
    content = digest(*("".join(part).encode() for part in (train, val, test)))
    return Corpus(train, val, test, "python-topics", {"pydoc_data.topics": content})


def sst2() -> Labelled:
    """SST-2, whole sentences of film reviews: 6,920 / 872 / 1,821, negative or positive. Raises DataMissing.

    Not the longer list of phrases that GLUE trains on. Socher et al., EMNLP 2013.
    """
    content = read("sst2")
    parts = [_labelled(content[f"{part}.tsv"].decode(), f"{part}.tsv") for part in ("train", "dev", "test")]
    return Labelled(*parts, name="sst2", names=("negative", "positive"), hashes=hashes("sst2"))


def _labelled(text: str, name: str) -> list[tuple[str, int]]:
    rows = [line.rsplit("\t", 1) for line in text.removesuffix("\n").split("\n")]
    for number, row in enumerate(rows, 1):
        if len(row) != 2 or row[1] not in ("0", "1"):
            raise DataMissing(f"{name}, line {number}: not a sentence, a tab and 0 or 1: {chr(9).join(row)[:60]!r}")
    return [(sentence, int(label)) for sentence, label in rows]


_SUBJECTS = ["the film", "this story", "the acting", "every scene", "the music", "the script", "its ending", "the dialogue"]
_VERBS = ["is", "was", "feels", "seems", "remains", "turned out"]
_DEGREES = ["", "very", "quite", "truly", "rather", "simply", "always"]
_WORDS = (
    ["dull", "tedious", "clumsy", "lifeless", "hollow", "annoying", "predictable", "messy"],
    ["moving", "brilliant", "charming", "fresh", "graceful", "gripping", "delightful", "clever"],
)
_ENDS = ["", "from start to finish", "to watch", "for once", "after all", "in every way", "as usual"]


def templated(train: int = 800, val: int = 100, test: int = 100) -> Labelled:
    """Made-up film reviews: "the film was truly moving to watch", negative or positive by one word. Always the same.

    No sentence occurs twice, so the splits share none.
    """
    parts = (_SUBJECTS, _VERBS, _DEGREES, _WORDS[0] + _WORDS[1], _ENDS)
    sizes = torch.tensor([len(part) for part in parts])
    if train + val + test > sizes.prod():
        raise WrongInput(f"there are {int(sizes.prod()):,} sentences, not {train + val + test:,}")
    drawn = torch.randperm(int(sizes.prod()), generator=torch.Generator().manual_seed(0))[: train + val + test]
    rows = []
    for number in drawn.tolist():
        words, label = [], 0
        for part in parts:
            number, choice = divmod(number, len(part))
            words.append(part[choice])
            if part is parts[3]:
                label = choice // len(_WORDS[0])
        rows.append((" ".join(filter(None, words)), label))
    content = digest(repr(rows).encode())
    return Labelled(
        rows[:train], rows[train : train + val], rows[train + val :],
        name="templated", names=("negative", "positive"), hashes={"templated": content},
    )  # fmt: skip


_CORPORA = {"wikitext-2": wikitext2, "tinyshakespeare": tiny_shakespeare, "python-topics": python_topics}
_LABELLED = {"sst2": sst2, "templated": templated}


def corpus(name: str | Path) -> Corpus:
    """Running text by name: wikitext-2, tinyshakespeare or python-topics; or one's own (`own_corpus`) by its path."""
    return _named(name, _CORPORA)() if isinstance(name, str) else own_corpus(name)


def labelled(name: str | Path) -> Labelled:
    """Labelled sentences by name: sst2 or templated; or one's own (`own_sentences`) by its path."""
    return _named(name, _LABELLED)() if isinstance(name, str) else own_sentences(name)


def _named(name: str, sets: dict[str, Callable[[], Any]]) -> Callable[[], Any]:
    if name not in sets:
        raise WrongInput(f"there is no text named {name!r}", do=f"one of {', '.join(sets)}, or a path")
    return sets[name]


def own_corpus(path: Path) -> Corpus:
    """A `.txt` in UTF-8, split 80/10/10 by passages: of some 64 lines in a long text, of fewer in one below 16,384 lines.

    A passage ends after a line whose hash says so, and its own hash says where it goes: a change in the text moves no
    other passage. Raises DataMissing where it has fewer than three.
    """
    own.kind(path, ".txt")
    (written, sha256), where = own.text(path), own.shown(path)
    lines = [line + "\n" for line in written.removesuffix("\n").split("\n")]
    spacing = 1 << min(6, max(0, (len(lines) // 256).bit_length() - 1))  # lines a passage, about
    passages: list[list[str]] = [[]]
    for line in lines:
        passages[-1].append(line)
        if line.strip() and hashlib.sha256(line.encode()).digest()[0] % spacing == 0:
            passages.append([])
    passages = [passage for passage in passages if any(map(str.strip, passage))]
    if len({tuple(passage) for passage in passages}) < 3:
        raise DataMissing(f"{where} has {len(lines):,} lines of text; a line is the least that can be split off")
    parts = own.split(["".join(passage).encode() for passage in passages], [0] * len(passages), where)
    train, val, test = ([line for i in sorted(part.tolist()) for line in passages[i]] for part in parts)
    return Corpus(train, val, test, path.name, own.recorded(path, sha256))


def own_sentences(path: Path) -> Labelled:
    """A `.csv` with a column of sentences and one of classes, which `--target` names, split 80/10/10 by the sentence.

    Columns of numbers alone are passed over. Sentences that differ by blanks or capitals only count as equal.
    """
    own.kind(path, ".csv")
    sheet, where = sheets.sheet(path), own.shown(path)
    if not (target := sheet.target()):
        raise sheet.ask_for_target()
    wordy = [
        column
        for place, column in enumerate(sheet.columns)
        if column != target and any(sheets.as_number(row[place]) is None for row in sheet.rows)
    ]
    if len(wordy) != 1:
        has = f"has the columns {', '.join(wordy)}" if wordy else "has none"
        raise DataMissing(f"{where}: one column of sentences is needed beside {target}, and it {has}")
    texts = sheet.cells(wordy[0])
    names, label = own.classes(sheet.cells(target), f"{where}, column {target}")
    parts = own.split([" ".join(text.lower().split()).encode() for text in texts], label, where)
    rows = ([(texts[i], label[i]) for i in part.tolist()] for part in parts)
    return Labelled(*rows, name=path.name, names=names, hashes=own.recorded(path, sheet.sha256))


# ── encoding ────────────────────────────────────────────────────────────────────────────────────────────────────────


def bpe(texts: Iterable[str], vocabulary: int, specials: Sequence[str] = ()) -> Tokenizer:
    """A byte-level byte-pair encoding of at most `vocabulary` tokens, learned from `texts`; `specials` come first, from 0.

    It encodes any text and decodes it again exactly. The same texts give the same encoding; it is kept in `FUXIAN_CACHE`
    under a hash of them. Sennrich et al., ACL 2016, arXiv:1508.07909; over bytes as GPT-2 does.
    Raises WrongInput when the package tokenizers is missing, or `vocabulary` is too small for the 256 bytes.
    """
    try:
        from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    except ImportError:
        raise WrongInput("the package tokenizers is not installed", do='pip install "fuxian[text]"') from None
    if vocabulary < 256 + len(specials):
        raise WrongInput(
            f"a vocabulary of {vocabulary} is too small", do=f"{256 + len(specials)} or more: 256 bytes and the specials"
        )
    texts = list(texts)
    key = digest(repr(("byte-level", vocabulary, list(specials), texts)).encode())
    path = cache_folder() / "bpe" / f"{key}.json"
    try:
        return Tokenizer.from_file(str(path))
    except Exception:  # not there, or cut short: tokenizers raises no narrower class
        pass
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary, special_tokens=list(specials), initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(texts, trainer)
    try:  # a cache only: without it the next call learns again
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile("w", dir=path.parent, suffix=".part", delete=False, encoding="utf-8") as file:
            file.write(tokenizer.to_str())
        os.replace(file.name, path)
    except OSError:
        pass
    return tokenizer


@dataclass(frozen=True)
class Characters:
    """An encoding by single characters: the number of each is its place in `alphabet`."""

    alphabet: str

    def encode(self, text: str) -> Tensor:
        """(characters,) int32. Raises WrongInput for a character that is not in the alphabet."""
        numbers = {character: number for number, character in enumerate(self.alphabet)}
        if strange := sorted(set(text) - set(numbers)):
            shown = " ".join(map(repr, strange[:5])) + (" …" if len(strange) > 5 else "")
            raise WrongInput(f"the model has never seen the character{'s' * (len(strange) > 1)} {shown}")
        return torch.tensor([numbers[character] for character in text], dtype=torch.int32)

    def decode(self, tokens: Iterable[int]) -> str:
        return "".join(self.alphabet[token] for token in tokens)


# ── tokens ──────────────────────────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True)
class Windows(Batch):
    """Pieces of one long text. `target` at a place is the token after the one in `token` there."""

    token: Tensor  # (batch, length) int64
    target: Tensor  # (batch, length) int64, UNCOUNTED in the padding of the last window


class WindowSplit:
    """One long text, cut into windows of `length` tokens that do not overlap; the last is padded with `start`.

    Each token is a target once: the first one is foretold from `start` alone, the first of every other window from the
    token before it, which is that window's first input.
    """

    def __init__(self, tokens: Tensor, length: int, start: int) -> None:
        """`tokens` (tokens,) of any integer type."""
        if not len(tokens):
            raise WrongInput("a text without tokens cannot be cut into windows")
        self.tokens, self.length, self.start = tokens, length, start

    @property
    def device(self) -> torch.device:
        return self.tokens.device

    def to(self, device: torch.device | str) -> Self:
        """Moves this split, as a module's `to` does."""
        self.tokens = self.tokens.to(device)
        return self

    def __len__(self) -> int:
        return -(-len(self.tokens) // self.length)

    def batch(self, indices: Tensor) -> Windows:
        place = indices[:, None] * self.length + torch.arange(self.length, device=indices.device)  # of the target
        last = len(self.tokens) - 1
        target = self.tokens[place.clamp(max=last)].long().masked_fill_(place > last, UNCOUNTED)
        token = self.tokens[(place - 1).clamp(min=0, max=last)].long()
        return Windows(token.masked_fill_((place == 0) | (place > last), self.start), target)


class ShiftedWindows(WindowSplit):
    """One long text to train on: a window begins anywhere in its own stretch of `length` tokens, drawn anew each time.

    So any place may begin a window, in an epoch one of each stretch does, and none is padded. Drawn from torch's default
    generator, which the engine seeds for each batch.
    """

    def __init__(self, tokens: Tensor, length: int) -> None:
        """`tokens` (tokens,) of any integer type, two windows of them at least: else raises WrongInput."""
        if len(tokens) < 2 * length:
            raise WrongInput(
                f"a text of {len(tokens):,} tokens is too short to train on windows of {length:,}",
                do=f"take a longer text, or a context of {max(1, len(tokens) // 2):,} at most",
            )
        super().__init__(tokens, length, start=0)

    def __len__(self) -> int:
        return len(self.tokens) // self.length - 1  # the last one, shifted, still ends within the text

    def batch(self, indices: Tensor) -> Windows:
        first = indices * self.length + torch.randint(self.length, indices.shape, device=indices.device)
        row = self.tokens[first[:, None] + torch.arange(self.length + 1, device=indices.device)].long()
        return Windows(row[:, :-1], row[:, 1:])


@dataclass(frozen=True)
class Sentences(Batch):
    """Sentences, padded at the end to the longest of the batch."""

    token: Tensor  # (batch, longest) int64
    length: Tensor  # (batch,) int64, tokens that are not padding
    label: Tensor  # (batch,) int64


class SentenceSplit:
    """Sentences of their own lengths, each at least one token, with a label; `pad` fills the shorter ones of a batch."""

    def __init__(self, tokens: Sequence[Sequence[int]], labels: Sequence[int], pad: int) -> None:
        self.length = torch.tensor([len(row) for row in tokens])
        if not len(tokens) or int(self.length.min()) < 1:
            raise WrongInput("a sentence without tokens cannot be classified")
        self.pad = pad
        self.token = torch.full((len(tokens), int(self.length.max())), pad)
        self.token[torch.arange(self.token.shape[1]) < self.length[:, None]] = torch.tensor(
            [token for row in tokens for token in row]
        )
        self.label = torch.tensor(labels)

    @property
    def device(self) -> torch.device:
        return self.token.device

    def to(self, device: torch.device | str) -> Self:
        """Moves this split, as a module's `to` does."""
        self.token, self.length, self.label = (t.to(device) for t in (self.token, self.length, self.label))
        return self

    def __len__(self) -> int:
        return len(self.label)

    def batch(self, indices: Tensor) -> Sentences:
        length = self.length[indices]
        return Sentences(self.token[indices, : int(length.max())], length, self.label[indices])


class TextSplits(Splits):
    """Tokens of a `vocabulary`; labelled sentences have `classes` too (0 for running text)."""

    def __init__(
        self,
        train: WindowSplit | SentenceSplit,
        val: WindowSplit | SentenceSplit | None,
        test: WindowSplit | SentenceSplit | None,
        *,
        name: str,
        vocabulary: int,
        classes: int = 0,
        hashes: dict[str, str] | None = None,
        encode: Callable[[Sequence[str]], list[list[int]]] | None = None,
        about: Mapping[str, Any] | None = None,
    ) -> None:
        """`encode` makes tokens of sentences as the splits' were made, and `about` says how."""
        super().__init__(train, val, test, name=name, hashes=hashes)
        self.vocabulary, self.classes = vocabulary, classes
        self.encode = encode
        self.told = dict(about or {})

    def about(self) -> dict[str, Any]:
        return self.told

    def read(self, words: Sequence[str]) -> Batch:
        """Sentences, each a word here; the label is 0."""
        if self.encode is None:
            raise WrongInput(f"{self.name} is running text; there is nothing to predict of a sentence")
        for word in words:
            if not word.strip():
                raise WrongInput("a sentence is empty")
        split: Any = self.train
        return SentenceSplit(self.encode(words), [0] * len(words), split.pad).batch(torch.arange(len(words)))


class CharacterSplits(TextSplits):
    """Running text by `characters`, in windows of `length`; `read` takes a beginning of such a text."""

    def __init__(self, corpus: Corpus, characters: Characters, length: int) -> None:
        train, *others = (characters.encode("".join(part)) for part in (corpus.train, corpus.val, corpus.test))
        start = characters.alphabet.index("\n")
        val, test = (WindowSplit(tokens, length, start) if len(tokens) else None for tokens in others)
        super().__init__(
            ShiftedWindows(train, length), val, test,
            name=corpus.name, vocabulary=len(characters.alphabet), hashes=corpus.hashes,
            about={"values": "a token is its character's place in the alphabet, from 0", "alphabet": characters.alphabet},
        )  # fmt: skip
        self.characters, self.length = characters, length

    def read(self, words: Sequence[str]) -> Batch:
        """The words, one blank between them, as one row of at most the last `length` characters, without targets."""
        token = self.characters.encode(" ".join(words))[None, -self.length :].long()
        if not token.numel():
            raise WrongInput("there is no text to go on from")
        return Windows(token, torch.full_like(token, UNCOUNTED))


def by_character(corpus: Corpus, length: int) -> CharacterSplits:
    """Splits of `Windows` of single characters: training windows begin anywhere, those to be judged by count each once.

    The alphabet is that of the whole text and the end of a line, which is what the first window of a split begins with.
    """
    whole = {character for part in (corpus.train, corpus.val, corpus.test) for line in part for character in line}
    return CharacterSplits(corpus, Characters("".join(sorted(whole | {"\n"}))), length)


def windows(corpus: Corpus, tokenizer: Tokenizer, length: int, start: str) -> TextSplits:
    """Splits of `Windows`: the lines of each split as one row of tokens, cut into `length`; `start` is a special token."""
    parts = []
    for lines in (corpus.train, corpus.val, corpus.test):
        encoded = tokenizer.encode_batch_fast(lines)
        tokens = torch.tensor([token for line in encoded for token in line.ids], dtype=torch.int32)
        parts.append(WindowSplit(tokens, length, _id(tokenizer, start)) if lines else None)
    about = {
        "values": "tokens of the tokenizer, as the package tokenizers reads it; a text begins with start",
        "start": _id(tokenizer, start),
        "tokenizer": json.loads(tokenizer.to_str()),
    }
    return TextSplits(*parts, name=corpus.name, vocabulary=tokenizer.get_vocab_size(), hashes=corpus.hashes, about=about)


def sentences(
    labelled: Labelled,
    tokenizer: Tokenizer,
    *,
    longest: int,
    start: str = "",
    end: str = "",
    pad: str = "",
    prepare: Callable[[str], str] = str,
) -> TextSplits:
    """Splits of `Sentences`: `start`, the tokens, `end` (special tokens; "" for none), cut to at most `longest` in all.

    The cut is at the end of the sentence's own tokens. `pad` defaults to `end`; `prepare` is done to each sentence first.
    """
    before = [_id(tokenizer, start)] if start else []
    after = [_id(tokenizer, end)] if end else []
    room = longest - len(before) - len(after)
    if room < 1:
        raise WrongInput(f"longest={longest} leaves no room for a sentence beside its special tokens")

    def encode(texts: Sequence[str]) -> list[list[int]]:
        return [before + row.ids[:room] + after for row in tokenizer.encode_batch_fast([prepare(text) for text in texts])]

    padding = _id(tokenizer, pad or end) if pad or end else 0
    about = {
        "values": "tokens of the tokenizer, as the package tokenizers reads it: start, the sentence, end; then pad",
        "start": before,
        "end": after,
        "pad": padding,
        "longest": longest,
        "prepared by": getattr(prepare, "__qualname__", ""),
        "classes": labelled.names,
        "tokenizer": json.loads(tokenizer.to_str()),
    }
    parts = [
        SentenceSplit(encode([sentence for sentence, _ in rows]), [label for _, label in rows], padding)
        for rows in (labelled.train, labelled.val, labelled.test)
    ]
    return TextSplits(
        *parts,
        name=labelled.name,
        vocabulary=tokenizer.get_vocab_size(),
        classes=len(labelled.names),
        hashes=labelled.hashes,
        encode=encode,
        about=about,
    )


def _id(tokenizer: Tokenizer, token: str) -> int:
    if (number := tokenizer.token_to_id(token)) is None:
        raise WrongInput(f"the tokenizer has no token {token!r}", do="name it in specials= when the tokenizer is made")
    return number
