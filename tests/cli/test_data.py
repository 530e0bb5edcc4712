"""`fuxian data`: list, get and check, on made-up sets that a small server gives."""

from __future__ import annotations

import gzip
import hashlib
import json
import threading
from collections.abc import Callable, Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from fuxian.data import sources
from fuxian.data.sources import SOURCES, File, Source

Fuxian = Callable[..., tuple[int, str, str]]
ROWS = b"some rows\n" * 1000
PACKED = gzip.compress(ROWS, mtime=0)


def sha(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


@pytest.fixture(autouse=True)
def published(here: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Three sets, `rows` (two files), `curve` and `gone`, the first two of them on a server; nothing is here yet."""
    served = here / "served"
    served.mkdir()
    (served / "rows.gz").write_bytes(PACKED)
    (served / "names").write_bytes(b"a\nb\n")

    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(served)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    base = f"http://127.0.0.1:{server.server_port}/"
    files = File("rows.gz", len(PACKED), sha(PACKED), (len(ROWS), sha(ROWS))), File("names", 4, sha(b"a\nb\n"))
    made = {
        "rows": Source("Rows", "rows", (base,), "CC0", "Nobody. On rows. 1901.", files),
        "curve": Source("A curve", "curve", (base,), "MIT", "Nobody. On curves. 1902.", files[1:]),
        "gone": Source("Gone", "gone", (base,), "MIT", "Nobody. On loss. 1903.", (File("gone", 3, sha(b"xyz")),)),
    }
    monkeypatch.setattr(sources, "SOURCES", made)
    for variable in ("FUXIAN_DATA", "FUXIAN_OFFLINE", "FUXIAN_MIRROR"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setenv("FUXIAN_CACHE", str(here / "cache"))
    monkeypatch.setenv("NO_PROXY", "*")
    yield here / "cache"
    server.shutdown()
    server.server_close()


# ── list ────────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_list_says_where_each_set_is_and_who_uses_it(fuxian: Fuxian, shelf: Path, published: Path) -> None:
    lines = fuxian("data", "list")[1].splitlines()
    assert lines[0].split() == ["name", "size", "where", "used", "by", "licence"]
    assert lines[1].split() == "rows 0.1 KiB not here – CC0".split()
    assert lines[2].split() == "curve 0.0 KiB not here gat, gcn, lenet MIT".split()  # a choice of their knob `kind`
    (published / "rows").mkdir(parents=True)
    (published / "rows" / "names").write_bytes(b"a\nb\n")
    assert "1 of 2 files" in fuxian("data", "list")[1].splitlines()[1]
    fuxian("data", "get", "rows")
    told = json.loads(fuxian("data", "list", "--json")[1])["sets"]
    assert [(one["name"], one["here"], one["methods"]) for one in told] == [
        ("rows", True, []), ("curve", False, ["gat", "gcn", "lenet"]), ("gone", False, [])
    ]  # fmt: skip
    assert told[0]["size"] == len(PACKED) + 4


def test_a_folder_is_told_from_its_variable(fuxian: Fuxian, here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fuxian("data", "get", "curve")
    monkeypatch.setenv("HOME", str(here))
    assert "~/cache/curve" in fuxian("data", "list")[1]
    monkeypatch.setenv("FUXIAN_DATA", str(here / "cache"))
    assert "$FUXIAN_DATA/curve" in fuxian("data", "list")[1]


def test_every_set_that_ships_is_listed_within_100_columns(fuxian: Fuxian, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sources, "SOURCES", SOURCES)
    lines = fuxian("data", "list")[1].splitlines()
    assert set(SOURCES) <= {line.split(" ")[0] for line in lines}
    assert max(map(len, lines)) <= 100
    cora = next(line for line in lines if line.startswith("cora "))
    assert " gcn" in cora


# ── get ─────────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_get_shows_licence_and_citation_and_downloads(fuxian: Fuxian, published: Path) -> None:
    code, out, err = fuxian("data", "get", "rows")
    assert (code, err) == (0, "")
    assert out.splitlines() == [
        "rows  Rows, 0.1 KiB",
        "  licence  CC0",
        "  cite     Nobody. On rows. 1901.",
        f"  getting  rows.gz, {len(PACKED)} bytes",
        "  getting  names, 4 bytes",
        f"● 2 files in {published}/rows, hashes verified",
    ]
    assert (published / "rows" / "rows.gz").read_bytes() == PACKED
    assert "getting" not in fuxian("data", "get", "rows")[1]


def test_a_set_that_cannot_be_had_does_not_stop_the_others(fuxian: Fuxian, published: Path) -> None:
    code, out, err = fuxian("data", "get", "gone", "curve")
    assert code == 4
    assert err.startswith("fuxian: Gone is not here and cannot be downloaded: 127.0.0.1 answered 404\n")
    assert out.endswith(f"● 1 file in {published}/curve, hashes verified\n")
    code, out, _ = fuxian("data", "get", "gone", "curve", "--json")
    first, second = json.loads(out)["sets"]
    assert (code, "answered 404" in first["error"], list(second["files"])) == (4, True, ["names"])


def test_get_shows_a_bar_on_a_terminal(fuxian: Fuxian, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in dict(FORCE_COLOR="1", TERM="xterm", COLUMNS="100", NO_COLOR="1").items():
        monkeypatch.setenv(name, value)
    out = fuxian("data", "get", "rows")[1]
    assert "getting" not in out
    assert f"{len(PACKED)}/{len(PACKED)} bytes" in out


# ── check ───────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_check_of_what_is_right(fuxian: Fuxian, published: Path) -> None:
    fuxian("data", "get", "rows")
    code, out, err = fuxian("data", "check", "rows")
    assert (code, err) == (0, "")
    assert out.splitlines() == [
        "rows  Rows: 2 of 2 files as published",
        f"● rows.gz, {len(PACKED)} bytes: {published}/rows/rows.gz",
        f"    unpacked    {sha(ROWS)}, 10,000 bytes",
        f"● names, 4 bytes: {published}/rows/names",
        f"    SHA-256     {sha(b'a' + bytes([10]) + b'b' + bytes([10]))}",
    ]


@pytest.mark.parametrize(
    ("content", "found"),
    [(b"a\nc\n", sha(b"a\nc\n")), (b"a\nb\nc\n", "more than 4 bytes"), (b"a\n", sha(b"a\n"))],
    ids=["changed", "longer", "shorter"],
)
def test_check_of_what_is_wrong(fuxian: Fuxian, published: Path, content: bytes, found: str) -> None:
    fuxian("data", "get", "curve")
    (published / "curve" / "names").write_bytes(content)
    for words in (["check", "curve"], ["check"]):
        code, out, _ = fuxian("data", *words)
        assert code == 1
        assert f"◆ names, 4 bytes: {published}/curve/names\n    SHA-256     {sha(b'a%cb%c' % (10, 10))}\n" in out
        assert f"    found       {found}\n" in out
        assert "  do    delete what is wrong, then: fuxian data get curve\n" in out
    row = json.loads(fuxian("data", "check", "curve", "--json")[1])["sets"][0]["files"][0]
    assert (row["state"], row["found"]) == ("wrong", found)


def test_a_packed_file_that_cannot_be_read_is_wrong(fuxian: Fuxian, published: Path) -> None:
    fuxian("data", "get", "rows")
    (published / "rows" / "rows.gz").write_bytes(PACKED[:-9])
    code, out, _ = fuxian("data", "check", "rows")
    assert code == 1
    assert "    found       Rows: rows.gz cannot be read: " in out


def test_check_of_what_is_not_here_tells_all_that_one_needs(fuxian: Fuxian) -> None:
    code, out, _ = fuxian("data", "check", "rows")
    assert code == 4
    for needed in (
        f"– rows.gz, {len(PACKED)} bytes: not here",
        sha(PACKED),
        sha(ROWS),
        "http://127.0.0.1:",
        "a folder rows",
    ):
        assert needed in out
    assert fuxian("data", "check", "gone", "curve")[0] == 4


def test_check_without_names_is_of_what_is_here(fuxian: Fuxian) -> None:
    assert fuxian("data", "check") == (0, "– not here: rows, curve, gone\n", "")
    fuxian("data", "get", "curve")
    code, out, _ = fuxian("data", "check")
    assert (code, out.splitlines()[-1]) == (0, "– not here: rows, gone")


# ── wrong input ─────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("data", "list, get or check is missing. Help: fuxian data --help"),
        ("data lst", "data lst is not one of list, get, check; the nearest is list"),
        ("data get", "data get needs a NAME. All: fuxian data list"),
        ("data check row", "there is no data set row; the nearest is rows. All: fuxian data list"),
        ("data list curve grow", "there is no data set grow; the nearest is rows. All: fuxian data list"),
    ],
)
def test_wrong_input_is_one_line(fuxian: Fuxian, words: str, message: str) -> None:
    assert fuxian(*words.split()) == (2, "", f"fuxian: {message}\n")
