"""Downloads from servers that misbehave."""

import hashlib
import http.server
import multiprocessing
import os
import threading
import time
from pathlib import Path

import pytest

from fuxian.data.fetch import Limits, NotFetched, download
from fuxian.errors import DataMissing, OutOfRoom

CONTENT = hashlib.shake_128(b"content").digest(300_000)
SHA256 = hashlib.sha256(CONTENT).hexdigest()
QUICK = Limits(connect=2, read=0.3, tries=2, pause=0.01)


class Handler(http.server.BaseHTTPRequestHandler):
    """The first part of the path says how to misbehave; `server.log` keeps (path, range) of each request."""

    def do_GET(self):
        ranged = self.headers.get("Range")
        self.server.log.append((self.path, ranged))
        begin = int(ranged.removeprefix("bytes=").removesuffix("-")) if ranged else 0
        how = self.path.split("/")[1]
        getattr(self, how)(begin)

    def answer(self, status, body, length=None, **headers):
        self.send_response(status)
        self.send_header("Content-Length", str(len(body) if length is None else length))
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        self.wfile.write(body)

    def good(self, begin):
        if begin:
            self.answer(206, CONTENT[begin:], Content_Range=f"bytes {begin}-{len(CONTENT) - 1}/{len(CONTENT)}")
        else:
            self.answer(200, CONTENT)

    def slow(self, begin):
        time.sleep(0.2)
        self.good(begin)

    def no_ranges(self, begin):
        self.answer(200, CONTENT)

    def other_range(self, begin):
        self.answer(206, CONTENT[:100], Content_Range=f"bytes 0-99/{len(CONTENT)}") if begin else self.good(0)

    def no_such_range(self, begin):
        self.answer(416, b"") if begin else self.good(0)

    def truncates(self, begin):
        """Closes after 100,000 bytes each time; gives the rest by range."""
        self.close_connection = True
        piece = CONTENT[begin : begin + 100_000]
        if begin:
            self.answer(206, piece, len(CONTENT) - begin, Content_Range=f"bytes {begin}-{len(CONTENT) - 1}/{len(CONTENT)}")
        else:
            self.answer(200, piece, len(CONTENT))

    def claims_less(self, begin):
        self.close_connection = True
        self.answer(200, CONTENT[:50_000], 50_000)

    def claims_more(self, begin):
        self.close_connection = True
        self.answer(200, CONTENT, len(CONTENT) + 1000)

    def longer(self, begin):
        self.answer(200, CONTENT + b"more")

    def stalls(self, begin):
        self.close_connection = True
        self.answer(200, CONTENT[:1000], len(CONTENT))
        self.server.released.wait(60)

    def wrong(self, begin):
        body = bytes(len(CONTENT))[begin:]
        self.answer(206 if begin else 200, body, Content_Range=f"bytes {begin}-{len(CONTENT) - 1}/{len(CONTENT)}")

    def missing(self, begin):
        self.answer(404, b"not here")

    def busy(self, begin):
        self.answer(503, b"later")

    def log_message(self, *_):
        pass


@pytest.fixture
def server():
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.log, server.released = [], threading.Event()
    server.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, kwargs=dict(poll_interval=0.01))
    thread.start()
    yield server
    server.released.set()
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.fixture
def to(tmp_path) -> Path:
    return tmp_path / "cache" / "set" / "file.bin"


def get(server, to, *how, **changes):
    urls = [f"{server.url}/{each}/file.bin" for each in how]
    download(urls, to, **dict(size=len(CONTENT), sha256=SHA256, limits=QUICK) | changes)


def test_a_good_server(server, to):
    seen = []
    get(server, to, "good", progress=lambda done, total: seen.append((done, total)))
    assert to.read_bytes() == CONTENT
    assert not to.with_name("file.bin.part").exists()
    assert seen[-1] == (len(CONTENT), len(CONTENT))


def test_what_is_there_is_not_fetched_again(server, to):
    get(server, to, "good")
    get(server, to, "good")
    assert len(server.log) == 1


@pytest.mark.parametrize("how", ["no_ranges", "other_range", "no_such_range", "good"])
def test_resuming_a_part(server, to, how):
    to.parent.mkdir(parents=True)
    to.with_name("file.bin.part").write_bytes(CONTENT[:70_000])
    get(server, to, how)
    assert to.read_bytes() == CONTENT
    assert server.log[0][1] == "bytes=70000-"
    assert len(server.log) == (1 if how in ("good", "no_ranges") else 2)


@pytest.mark.parametrize("part", [bytes(70_000), bytes(len(CONTENT)), bytes(len(CONTENT) + 1)])
def test_a_part_of_something_else_is_thrown_away(server, to, part):
    to.parent.mkdir(parents=True)
    to.with_name("file.bin.part").write_bytes(part)
    get(server, to, "good")
    assert to.read_bytes() == CONTENT


def test_a_server_that_cuts_off_is_asked_for_the_rest(server, to):
    get(server, to, "truncates", limits=Limits(read=0.3, tries=3, pause=0.01))
    assert to.read_bytes() == CONTENT
    assert [ranged for _, ranged in server.log] == [None, "bytes=100000-", "bytes=200000-"]


def test_what_came_before_a_failure_is_kept_for_the_next_call(server, to):
    with pytest.raises(NotFetched, match=r"127.0.0.1 stopped after 200,000 of 300,000 bytes \(2 tries, \d+ s\)"):
        get(server, to, "truncates")
    assert to.with_name("file.bin.part").stat().st_size == 200_000
    get(server, to, "good")
    assert server.log[-1][1] == "bytes=200000-"
    assert to.read_bytes() == CONTENT


def test_a_length_that_is_too_long_does_no_harm(server, to):
    get(server, to, "claims_more")
    assert to.read_bytes() == CONTENT


@pytest.mark.parametrize(
    ("how", "message", "requests"),
    [
        ("claims_less", "stopped after 50,000 of 300,000 bytes", 2),
        ("stalls", "stopped after 1,000 of 300,000 bytes", 2),
        ("longer", "sent a longer file than the published one", 1),
        ("wrong", "sent another file than the published one", 1),
        ("missing", "answered 404", 1),
        ("busy", "answered 503", 2),
    ],
)
def test_a_bad_server_is_named_and_the_next_mirror_asked(server, to, how, message, requests):
    start = time.monotonic()
    with pytest.raises(NotFetched, match=message):
        get(server, to, how)
    assert time.monotonic() - start < 30  # a server that stalls is left after limits.read
    assert not to.exists()
    assert len(server.log) == requests
    get(server, to, how, "good")
    assert to.read_bytes() == CONTENT


def test_mirrors_are_asked_in_order(server, to):
    get(server, to, "missing", "wrong", "good", "busy")
    assert [path.split("/")[1] for path, _ in server.log] == ["missing", "wrong", "good"]


def test_no_answer(to):
    with pytest.raises(NotFetched, match=r"^no answer from 127.0.0.1 \(2 tries, 0 s\)$"):
        download(["http://127.0.0.1:9/file.bin"], to, len(CONTENT), SHA256, QUICK)


def _process(url, to, done):
    download([url], Path(to), len(CONTENT), SHA256, Limits())
    done.put(Path(to).read_bytes() == CONTENT)


def test_two_processes_download_once(server, to):
    context = multiprocessing.get_context("spawn")
    done = context.Queue()
    processes = [context.Process(target=_process, args=(f"{server.url}/slow/file.bin", str(to), done)) for _ in range(2)]
    for process in processes:
        process.start()
    assert [done.get(timeout=60), done.get(timeout=60)] == [True, True]
    for process in processes:
        process.join()
    assert len(server.log) == 1


def test_a_full_disk(server, to, monkeypatch):
    class Full:
        def __getattr__(self, name):
            raise OSError(28, "No space left on device")

        def __enter__(self):
            return self

        def __exit__(self, *_):
            pass

    original = Path.open
    monkeypatch.setattr(Path, "open", lambda path, mode="r": Full() if mode == "wb" else original(path, mode))
    with pytest.raises(OutOfRoom, match=r"no room for file\.bin, 300,000 bytes"):
        get(server, to, "good")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no /dev/full")
def test_a_disk_that_is_really_full(server, to):
    to.parent.mkdir(parents=True)
    os.symlink("/dev/full", to.with_name("file.bin.part"))
    with pytest.raises(OutOfRoom, match="FUXIAN_CACHE"):
        get(server, to, "good")


def test_a_folder_that_cannot_be_written(server, tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(DataMissing, match="cannot be written") as caught:
        get(server, tmp_path / "file" / "set" / "file.bin", "good")
    assert "FUXIAN_CACHE" in caught.value.lines["do"]
    assert server.log == []
