"""The table of data sets, and the one place that looks for their files."""

import bz2
import gzip
import hashlib
import lzma

import numpy as np
import pytest

from fuxian.data import sources
from fuxian.data.fetch import NotFetched
from fuxian.data.sources import SOURCES, File, Source, digest_of, find, hashes, present, read
from fuxian.errors import DataMissing, WrongInput

CONTENT = b"some rows\n" * 1000
PACKED = gzip.compress(CONTENT, mtime=0)


def sha(content):
    return hashlib.sha256(content).hexdigest()


@pytest.fixture(autouse=True)
def toy(monkeypatch):
    """Two made-up data sets: one published packed, one plain."""
    packed = File("rows.gz", len(PACKED), sha(PACKED), (len(CONTENT), sha(CONTENT)))
    plain = File("rows", len(CONTENT), sha(CONTENT))
    for name, file in (("packed", packed), ("plain", plain)):
        bases = ("https://example.org/rows/", "https://huggingface.co/datasets/rows/")
        monkeypatch.setitem(SOURCES, name, Source("Rows", "rows", bases, "CC0", "nobody", (file,)))


@pytest.mark.parametrize("name", ["packed", "plain"])
@pytest.mark.parametrize(
    ("suffix", "pack"), [("", bytes), (".gz", gzip.compress), (".xz", lzma.compress), (".bz2", bz2.compress)]
)
@pytest.mark.parametrize("variable", ["FUXIAN_DATA", "FUXIAN_CACHE"])
def test_a_file_counts_by_what_it_unpacks_to(name, suffix, pack, variable, tmp_path, monkeypatch):
    monkeypatch.setenv(variable, str(tmp_path))
    path = tmp_path / "rows" / f"rows{suffix}"
    path.parent.mkdir()
    path.write_bytes(pack(CONTENT))
    assert read(name) == {"rows": CONTENT}
    assert list(find(name).values()) == list(present(name).values()) == [path]
    assert hashes(name) == {"rows": sha(CONTENT)}


def test_the_users_folder_comes_before_the_cache(tmp_path, monkeypatch):
    for variable in ("FUXIAN_DATA", "FUXIAN_CACHE"):
        monkeypatch.setenv(variable, str(tmp_path / variable))
        (tmp_path / variable / "rows").mkdir(parents=True)
        (tmp_path / variable / "rows" / "rows").write_bytes(CONTENT)
    assert find("plain")["rows"] == tmp_path / "FUXIAN_DATA" / "rows" / "rows"


@pytest.mark.parametrize(
    ("name", "content", "message", "detail"),
    [
        ("rows", CONTENT[:-1], "not the published file", sha(CONTENT[:-1])),
        ("rows", CONTENT + b"x", "not the published file", "more than 10,000 bytes"),
        ("rows.gz", gzip.compress(bytes(10**7), mtime=0), "not the published file", "more than 10,000 bytes"),
        ("rows.gz", gzip.compress(CONTENT, mtime=0)[:-20], "cannot be read", "rows.gz"),
        ("rows.gz", CONTENT, "cannot be read", "rows.gz"),
        ("rows.xz", lzma.compress(CONTENT)[:-20], "cannot be read", "rows.xz"),
        ("rows.xz", CONTENT, "cannot be read", "rows.xz"),
        ("rows.bz2", bz2.compress(CONTENT)[:-20], "cannot be read", "rows.bz2"),
    ],
)
def test_a_wrong_file_is_named(name, content, message, detail, tmp_path, monkeypatch):
    monkeypatch.setenv("FUXIAN_DATA", str(tmp_path))
    (tmp_path / "rows").mkdir()
    (tmp_path / "rows" / name).write_bytes(content)
    with pytest.raises(DataMissing, match=message) as caught:
        read("plain")
    assert str(tmp_path / "rows" / name) in caught.value.lines["where"]
    assert detail in caught.value.lines["where"]
    with pytest.raises(DataMissing):
        find("plain")


def test_offline_never_touches_the_network(monkeypatch, tmp_path):
    monkeypatch.setattr(sources, "download", lambda *_: pytest.fail("downloaded"))
    with pytest.raises(DataMissing) as caught:
        read("cora")
    assert str(caught.value).splitlines() == [
        "Cora is not here and cannot be downloaded: FUXIAN_OFFLINE is set",
        f"  where  looked in $FUXIAN_DATA (not set) and {tmp_path}/cache/planetoid",
        "  do     put the 8 files ind.cora.* into a folder planetoid and set FUXIAN_DATA to its parent",
        "  or     a method's --quick form needs no download",
    ]


def test_what_a_download_says(monkeypatch):
    """Mirrors in order, the licence in the note, the reason in the error; nothing unchecked is used."""
    monkeypatch.setenv("FUXIAN_OFFLINE", "0")
    monkeypatch.setenv("FUXIAN_MIRROR", "https://mirror.example/data/")
    monkeypatch.setenv("HF_ENDPOINT", "https://hub.example")
    notes, asked = [], []

    def unreachable(urls, *_):
        asked.extend(urls)
        raise NotFetched("no answer from example.org (3 tries, 31 s)")

    monkeypatch.setattr(sources, "download", unreachable)
    with pytest.raises(DataMissing, match=r"cannot be downloaded: no answer from example.org \(3 tries, 31 s\)"):
        read("packed", note=notes.append)
    assert asked == [
        "https://mirror.example/data/rows/rows.gz",
        "https://example.org/rows/rows.gz",
        "https://hub.example/datasets/rows/rows.gz",
    ]
    assert notes == [f"Rows: rows.gz, {len(PACKED):,} bytes; licence: CC0"]

    monkeypatch.setattr(sources, "download", lambda urls, to, *_: (to.parent.mkdir(parents=True), to.write_bytes(PACKED)))
    assert read("packed") == {"rows": CONTENT}


def test_an_unknown_name():
    with pytest.raises(WrongInput, match="there is no data set named 'coral'"):
        find("coral")


def test_the_table_is_whole():
    for entry in SOURCES.values():
        assert entry.licence
        assert entry.citation
        assert all(base.startswith("http") and base.endswith("/") for base in entry.bases)
        for file in entry.files:
            assert len(file.sha256) == len(file.content[1]) == 64
            packed = file.name.endswith(".gz") and not file.name.endswith(".tar.gz")  # a loader reads an archive itself
            assert (file.unpacked is not None) == packed


def test_last_bits_of_computed_numbers_are_not_hashed():
    x = np.linspace(-3, 3, 50) / 7
    assert digest_of(np.nextafter(x, 1)) == digest_of(x) != digest_of(x + 1e-5)
    assert digest_of(-x[:1] * 0) == digest_of(x[:1] * 0)


@pytest.mark.parametrize(
    "name",
    [
        "mnist",
        "fashion-mnist",
        "cora",
        "citeseer",
        "pubmed",
        "wikitext-2",
        "tinyshakespeare",
        "sst2",
        "paintings",
        "photographs",
    ],
)
def test_the_published_files(name, published):
    assert {file: sha(content) for file, content in read(name).items()} == hashes(name)


@pytest.mark.parametrize("name", ["mnist", "fashion-mnist", "paintings", "photographs"])
def test_files_as_published_have_the_size_and_hash_that_a_download_must_have(name, published):
    for file in SOURCES[name].files:
        content = (published / SOURCES[name].folder / file.name).read_bytes()
        assert (len(content), sha(content)) == (file.size, file.sha256)
