"""What data say of themselves for an exported model is enough to make its inputs without them."""

import json
from typing import Any

import torch
from tokenizers import Tokenizer

from fuxian.data.graphs import citation_graph
from fuxian.data.images import image_data
from fuxian.data.tabular import TableSplits, iris
from fuxian.data.text import bpe, by_character, python_topics, sentences, templated, windows


def told(data: Any) -> dict[str, Any]:
    return json.loads(json.dumps(data.about()))


def test_pixels():
    data = image_data("digits", mean=[0.3], std=[0.25])
    about, split = told(data), data.train
    byte = split.image[:5].float()
    mean, std = (torch.tensor(about[name]).view(-1, 1, 1) for name in ("mean", "std"))
    torch.testing.assert_close((byte / 255 - mean) / std, split.batch(torch.arange(5)).image)
    assert (about["channels"], about["size"], about["classes"]) == (1, 8, list("0123456789"))


def test_columns():
    plain = iris()
    data = TableSplits(
        plain.train, name="x", columns=plain.columns, names=plain.names, hashes={}, mean=[1] * 4, std=[2] * 4
    )
    about = told(data)
    number = (torch.tensor([5.0, 3.0, 1.0, 0.0]) - torch.tensor(about["mean"])) / torch.tensor(about["std"])
    assert data.read(["5,3,1,0"]).x[0].tolist() == number.tolist()
    assert about["columns"] == list(plain.columns)


def test_characters_and_tokens():
    corpus = python_topics()
    data = by_character(corpus, 8)
    text = "".join(corpus.train)[:40]
    alphabet = told(data)["alphabet"]
    assert [alphabet.index(character) for character in text] == data.characters.encode(text).tolist()

    tokenizer = bpe(corpus.train, 300, ["<start>", "<end>"])
    about = told(windows(corpus, tokenizer, 8, "<start>"))
    assert about["start"] == 0
    assert Tokenizer.from_str(json.dumps(about["tokenizer"])).encode(text).ids == tokenizer.encode(text).ids

    labelled = templated(20, 5, 5)
    data = sentences(labelled, tokenizer, longest=30, start="<start>", end="<end>", prepare=str.lower)
    about, sentence = told(data), "A Film."
    read = data.read([sentence]).token[0].tolist()  # type: ignore[attr-defined]
    ids = Tokenizer.from_str(json.dumps(about["tokenizer"])).encode(sentence.lower()).ids
    assert about["start"] + ids + about["end"] == read
    assert (about["prepared by"], about["classes"], about["longest"]) == ("str.lower", list(labelled.names), 30)


def test_a_graph():
    about = told(citation_graph("karate"))
    assert (about["nodes"], about["features"], len(about["classes"])) == (34, 34, 2)
