"""Text: corpora, the encoding and its cache, windows that count each token once, sentences."""

import subprocess
import sys

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fuxian.data import text
from fuxian.data.sources import SOURCES, cache_folder
from fuxian.data.text import (
    UNCOUNTED,
    Characters,
    Corpus,
    SentenceSplit,
    ShiftedWindows,
    WindowSplit,
    bpe,
    by_character,
    corpus,
    python_topics,
    sentences,
    sst2,
    templated,
    tiny_shakespeare,
    wikitext2,
    windows,
)
from fuxian.errors import DataMissing, WrongInput

LINES = ["the cat sat on the mat\n", "the dog sat on the log\n", "\n"] * 5


@given(tokens=st.lists(st.integers(1, 99), min_size=1, max_size=40), length=st.integers(1, 12))
def test_each_token_is_a_target_once_and_follows_its_input(tokens, length):
    split = WindowSplit(torch.tensor(tokens, dtype=torch.int32), length, start=0)
    batch = split.batch(torch.arange(len(split)))
    assert batch.token.shape == batch.target.shape == (len(split), length)
    counted = batch.target != UNCOUNTED
    assert batch.target[counted].tolist() == tokens
    assert batch.token[counted].tolist() == [0, *tokens[:-1]]
    assert set(batch.token[~counted].tolist()) <= {0}
    assert counted[:-1].all()


def test_windows_follow_the_order_of_indices():
    split = WindowSplit(torch.arange(1, 12), length=4, start=0)
    batch = split.batch(torch.tensor([2, 0]))
    assert batch.token.tolist() == [[8, 9, 10, 0], [0, 1, 2, 3]]
    assert batch.target.tolist() == [[9, 10, 11, UNCOUNTED], [1, 2, 3, 4]]
    assert batch.token.dtype == batch.target.dtype == torch.int64
    assert split.to("cpu").device.type == "cpu"
    with pytest.raises(WrongInput, match="without tokens"):
        WindowSplit(torch.tensor([]), 4, 0)


@pytest.mark.parametrize(("count", "length", "stretches"), [(2, 1, 1), (24, 8, 2), (31, 8, 2), (32, 8, 3), (16, 8, 1)])
def test_a_shifted_window_begins_anywhere_in_its_stretch(count, length, stretches):
    split = ShiftedWindows(torch.arange(count, dtype=torch.int32), length)
    assert len(split) == stretches
    torch.manual_seed(0)
    order = torch.arange(stretches).flip(0)
    draws = [split.batch(order) for _ in range(100)]
    assert all(torch.equal(batch.token, batch.token[:, :1] + torch.arange(length)) for batch in draws)
    assert all(torch.equal(batch.target, batch.token + 1) for batch in draws)
    assert draws[0].token.dtype == draws[0].target.dtype == torch.int64
    begins = torch.stack([batch.token[:, 0] for batch in draws]) - order * length
    assert [column.unique().tolist() for column in begins.T] == [list(range(length))] * stretches


def test_a_text_too_short_to_train_on():
    with pytest.raises(WrongInput, match="a text of 15 tokens is too short to train on windows of 8") as caught:
        ShiftedWindows(torch.arange(15), 8)
    assert caught.value.lines["do"] == "take a longer text, or a context of 7 at most"


def test_shifted_windows_are_drawn_from_the_default_generator():
    split = ShiftedWindows(torch.arange(1000), 50)
    torch.manual_seed(1)
    first, other = (split.batch(torch.arange(19)).token for _ in range(2))
    torch.manual_seed(1)
    assert torch.equal(split.batch(torch.arange(19)).token, first)
    assert not torch.equal(first, other)
    assert len(set((first[:, 0] - torch.arange(19) * 50).tolist())) > 5  # one for each window


def test_sentences_are_padded_to_the_longest_of_the_batch():
    split = SentenceSplit([[1, 2, 3], [4], [5, 6]], [1, 0, 1], pad=9)
    batch = split.batch(torch.tensor([2, 1]))
    assert batch.token.tolist() == [[5, 6], [4, 9]]
    assert batch.length.tolist() == [2, 1]
    assert batch.label.tolist() == [1, 0]
    assert split.batch(torch.tensor([0])).token.tolist() == [[1, 2, 3]]
    assert split.to("cpu").device.type == "cpu"
    with pytest.raises(WrongInput, match="without tokens"):
        SentenceSplit([[1], []], [0, 1], pad=0)


def test_bpe_gives_any_text_back():
    tokenizer = bpe(LINES, 280, ["<end>"])
    assert tokenizer.token_to_id("<end>") == 0
    assert tokenizer.get_vocab_size() <= 280
    for line in ("the cat sat", "  the\n\t mat \n", "héllo wörld 复现", ""):
        assert tokenizer.decode(tokenizer.encode(line).ids) == line
    assert len(tokenizer.encode("the cat sat on the mat").ids) < 10


def test_bpe_is_learned_once_and_again_after_any_change():
    tokenizer = bpe(LINES, 280)
    first = tokenizer.to_str()
    (path,) = (cache_folder() / "bpe").iterdir()
    tokenizer.add_tokens(["<mark>"])
    tokenizer.save(str(path))
    assert bpe(LINES, 280).token_to_id("<mark>")  # the file is what is read
    path.write_text(first[:100])
    assert bpe(LINES, 280).to_str() == first  # cut short: learned again
    for changed in ((LINES[1:], 280), (LINES, 281), (LINES, 280, ["<end>"])):
        bpe(*changed)
    assert len(list((cache_folder() / "bpe").iterdir())) == 4


@pytest.mark.slow
def test_bpe_is_the_same_in_another_process(tmp_path, monkeypatch):
    code = """
import hashlib
from fuxian.data.text import bpe, python_topics
print(hashlib.sha256(bpe(python_topics().val, 600).to_str().encode()).hexdigest())
"""
    seen = set()
    for process, threads in enumerate("14"):
        monkeypatch.setenv("RAYON_NUM_THREADS", threads)
        monkeypatch.setenv("PYTHONHASHSEED", str(process))
        monkeypatch.setenv("FUXIAN_CACHE", str(tmp_path / str(process)))
        seen.add(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout)
    assert len(seen) == 1


def test_bpe_without_a_cache_that_can_be_written(monkeypatch, tmp_path):
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("FUXIAN_CACHE", str(tmp_path / "file"))
    assert bpe(LINES, 280).get_vocab_size() <= 280


def test_bpe_without_tokenizers(monkeypatch):
    monkeypatch.setitem(sys.modules, "tokenizers", None)
    with pytest.raises(WrongInput, match="the package tokenizers is not installed") as caught:
        bpe(LINES, 280)
    assert caught.value.lines["do"] == 'pip install "fuxian[text]"'


def test_bpe_needs_room_for_the_bytes():
    with pytest.raises(WrongInput, match="a vocabulary of 256 is too small"):
        bpe(LINES, 256, ["<end>"])


def test_topics_of_python():
    topic = python_topics()
    parts = [topic.train, topic.val, topic.test]
    sizes = [sum(map(len, part)) for part in parts]
    assert sizes[0] > 5 * sizes[1] > 0
    assert sizes[0] > 5 * sizes[2] > 0
    assert sum(sizes) == sum(map(len, set(text.topics.values())))
    assert python_topics() == topic
    tokenizer = bpe(topic.val, 300, ["<end>"])
    data = windows(topic, tokenizer, 64, "<end>")
    assert data.vocabulary == 300
    assert data.hashes == topic.hashes
    target = torch.cat([data.val.batch(torch.tensor([i])).target for i in range(len(data.val))]).flatten()
    assert tokenizer.decode(target[target != UNCOUNTED].tolist()) == "".join(topic.val)
    with pytest.raises(WrongInput, match="no token '<start>'"):
        windows(topic, tokenizer, 64, "<start>")


def test_characters_are_numbered_in_the_order_of_their_codes():
    data = by_character(Corpus(["be\n", "a bee"], ["ab\n", "é"], [], "made up", {"file": "hash"}), 4)
    assert data.characters.alphabet == "\n abeé"
    assert (data.vocabulary, data.name, data.hashes, data.test) == (6, "made up", {"file": "hash"}, None)
    assert data.train.tokens.tolist() == [3, 4, 0, 2, 1, 3, 4, 4]
    assert data.characters.decode(data.val.tokens) == "ab\né"
    batch = data.val.batch(torch.tensor([0]))
    assert batch.token.tolist() == [[0, 2, 3, 0]]  # a split begins after the end of a line
    assert batch.target.tolist() == [[2, 3, 0, 5]]
    assert "\n" in by_character(Corpus(["ab" * 9], ["a"], [], "one line", {}), 4).characters.alphabet


def test_what_a_user_writes_is_read_by_character():
    data = by_character(Corpus(["to be or not\n"], ["to"], [], "made up", {}), 6)
    batch = data.read(["to", "be"])
    assert data.characters.decode(batch.token[0]) == "to be"
    assert set(batch.target.flatten().tolist()) == {UNCOUNTED}
    assert data.characters.decode(data.read(["not to be"]).token[0]) == " to be"  # the last six
    with pytest.raises(WrongInput, match=r"never seen the characters 'h' 's' 'x'$"):
        data.read(["to", "hxs"])
    with pytest.raises(WrongInput, match="never seen the character '!'"):
        Characters("ab").encode("a!")
    with pytest.raises(WrongInput, match="no text to go on from"):
        data.read([])


def test_tiny_shakespeare(published):
    """The counts that nanoGPT's prepare.py ends with."""
    book = tiny_shakespeare()
    train, val = "".join(book.train), "".join(book.val)
    assert (len(train), len(val), book.test) == (1_003_854, 111_540, [])
    assert train.startswith("First Citizen:\nBefore we proceed")
    assert train[-20:] + val[:20] in text.read("tinyshakespeare")["input.txt"].decode()
    data = by_character(book, 64)
    assert data.characters.alphabet == "\n !$&',-.3:;?ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
    assert (data.vocabulary, len(data.train), len(data.val)) == (65, 15_684, 1_743)
    batch = data.val.batch(torch.arange(1743))
    assert data.characters.decode(batch.target[batch.target != UNCOUNTED]) == val


def test_a_corpus_by_its_name():
    assert corpus("python-topics") == python_topics()
    with pytest.raises(WrongInput, match="there is no text named 'wikitext'") as caught:
        corpus("wikitext")
    assert caught.value.lines["do"] == "one of wikitext-2, tinyshakespeare, python-topics, or a path"


def test_made_up_reviews():
    data = templated()
    parts = [data.train, data.val, data.test]
    assert [len(part) for part in parts] == [800, 100, 100]
    said = [sentence for part in parts for sentence, _ in part]
    assert len(set(said)) == 1000  # so the splits share none
    assert templated() == data
    for sentence, label in data.train:
        assert [any(word in sentence.split() for word in words) for words in text._WORDS] == [label == 0, label == 1]
    assert 0.4 < sum(label for _, label in data.train) / 800 < 0.6
    with pytest.raises(WrongInput, match="there are 37,632 sentences"):
        templated(40_000)


def test_sentences_with_special_tokens_and_a_cut():
    data, tokenizer = templated(20, 5, 5), bpe(LINES, 300, ["<start>", "<end>"])
    splits = sentences(data, tokenizer, longest=6, start="<start>", end="<end>")
    batch = splits.train.batch(torch.arange(20))
    assert batch.token.shape == (20, 6)
    assert batch.length.tolist() == [6] * 20
    assert set(batch.token[:, 0].tolist()) == {0}
    assert set(batch.token[:, -1].tolist()) == {1}
    assert batch.token[:, 1:-1].min() > 1
    assert (splits.classes, splits.hashes) == (2, data.hashes)
    whole = sentences(data, tokenizer, longest=500)
    row = whole.test.batch(torch.tensor([3]))
    assert tokenizer.decode(row.token[0].tolist()) == data.test[3][0]
    assert row.label.tolist() == [data.test[3][1]]
    with pytest.raises(WrongInput, match="leaves no room"):
        sentences(data, tokenizer, longest=2, start="<start>", end="<end>")


@pytest.mark.parametrize("line", ["no label", "a sentence\t2", "a sentence\t", "a sentence\t1\n\nmore\t0"])
def test_a_wrong_line_of_labelled_sentences(line):
    with pytest.raises(DataMissing, match=r"train\.tsv, line 2: not a sentence, a tab and 0 or 1|line 3: not a sentence"):
        text._labelled(f"good\t1\n{line}\n", "train.tsv")


def test_sst2(published):
    data = sst2()
    counts = [(len(part), sum(label for _, label in part)) for part in (data.train, data.val, data.test)]
    assert counts == [(6920, 3610), (872, 444), (1821, 909)]
    assert data.train[0][0].startswith("a stirring , funny and finally transporting")
    assert data.train[0][1] == 1


def test_wikitext2(published):
    import lzma

    book = wikitext2()
    parts = dict(train=book.train, valid=book.val, test=book.test)
    assert [len(part) for part in parts.values()] == [36_718, 3_760, 4_358]
    assert [sum(len(line.split()) for line in part) for part in parts.values()] == [2_051_910, 213_886, 241_211]
    assert len(book.hashes) == len(SOURCES["wikitext-2"].files)
    for name, part in parts.items():
        whole = lzma.decompress((published / "wikitext-2" / f"{name}.txt.xz").read_bytes()).decode()
        assert "".join(part) == whole
