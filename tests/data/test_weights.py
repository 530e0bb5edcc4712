"""Weights from the hub's cache, from a mirror and from folders; files that would run code, and what does not fit."""

from __future__ import annotations

import json
import os
import pickle
import subprocess
import sys
import threading
from collections.abc import Iterator
from hashlib import sha256
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from fuxian.data.weights import fill, pretrained, renamed, save, tensors_of, tokenizer
from fuxian.errors import DataMissing, WrongInput

REPO, COMMIT, LATER = "someone/small", "a" * 40, "b" * 40


def model(folder: Path, shards: int = 1) -> dict[str, Tensor]:
    """A config and four tensors, in one file or several."""
    torch.manual_seed(0)
    tensors = {f"body.{name}": torch.randn(3, n + 1) for n, name in enumerate("abcd")}
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text('{"model_type": "small", "width": 3}')
    if shards == 1:
        save_file(tensors, folder / "model.safetensors")
        return tensors
    where = {name: f"model-{n % shards}.safetensors" for n, name in enumerate(tensors)}
    for file in set(where.values()):
        save_file({name: tensor for name, tensor in tensors.items() if where[name] == file}, folder / file)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": where}))
    return tensors


def same(found: dict[str, Tensor], tensors: dict[str, Tensor], prefix: str = "") -> bool:
    return set(found) == {n.removeprefix(prefix) for n in tensors} and all(
        torch.equal(found[name.removeprefix(prefix)], tensor) for name, tensor in tensors.items()
    )


@pytest.mark.parametrize("shards", [1, 3])
def test_a_folder(shards: int, tmp_path: Path) -> None:
    tensors = model(tmp_path, shards)
    config, found = pretrained(tmp_path, dict(model_type="small", act="relu"), prefix="body.")
    assert config == {"model_type": "small", "width": 3}
    assert same(found, tensors, "body.")
    assert same(pretrained(str(tmp_path), {})[1], tensors)


def test_safetensors_come_before_a_pickle(tmp_path: Path) -> None:
    tensors = model(tmp_path)
    torch.save({"body.a": torch.zeros(1)}, tmp_path / "pytorch_model.bin")
    assert same(pretrained(tmp_path, {})[1], tensors)


@pytest.mark.parametrize("zipped", [True, False])
def test_a_pickle_of_tensors_is_read_and_a_sharded_one(zipped: bool, tmp_path: Path) -> None:
    tensors = model(tmp_path)
    (tmp_path / "model.safetensors").unlink()
    torch.save(tensors, tmp_path / "pytorch_model.bin", _use_new_zipfile_serialization=zipped)
    assert same(pretrained(tmp_path, {})[1], tensors)
    (tmp_path / "pytorch_model.bin").rename(tmp_path / "part-1.bin")
    (tmp_path / "pytorch_model.bin.index.json").write_text(json.dumps({"weight_map": dict.fromkeys(tensors, "part-1.bin")}))
    assert same(pretrained(tmp_path, {})[1], tensors)


class Runs:
    """What would write a file when it is read."""

    def __init__(self, path: Path) -> None:
        self.path = str(path)

    def __reduce__(self) -> tuple[object, tuple[str, int]]:
        return os.mkdir, (self.path, 0o700)


@pytest.mark.parametrize("inside", [True, False])
@pytest.mark.parametrize("zipped", [True, False])
def test_a_pickle_that_would_run_code_runs_none(inside: bool, zipped: bool, tmp_path: Path) -> None:
    made, path = tmp_path / "made", tmp_path / "pytorch_model.bin"
    held = {"a": torch.zeros(2), "b": Runs(made)} if inside else Runs(made)
    torch.save(held, path, _use_new_zipfile_serialization=zipped)
    with pytest.raises(WrongInput, match=r"pytorch_model.bin is refused, since it is no file of tensors alone") as error:
        tensors_of(path)
    assert len(error.value.message.splitlines()) == 1
    assert not made.exists()
    torch.load(path, weights_only=False)  # it was a loaded one
    assert made.exists()


def test_a_pickle_of_other_things_is_refused(tmp_path: Path) -> None:
    for held in ({"state": {"a": torch.zeros(2)}}, [torch.zeros(2)], {"a": 1.0}, torch.nn.Linear(2, 2)):
        torch.save(held, tmp_path / "a.pt")
        with pytest.raises(WrongInput, match=r"a.pt is refused, since it is no file of tensors alone"):
            tensors_of(tmp_path / "a.pt")
    (tmp_path / "b.bin").write_bytes(pickle.dumps(Runs(tmp_path / "made"), protocol=2))
    (tmp_path / "c.bin").write_bytes(b"")
    (tmp_path / "d.bin").write_bytes(b"PK\x03\x04 and no more")
    (tmp_path / "e.bin").write_bytes(b"\x80\x02h\x07.")  # asks for what it has not kept
    for file in "bcde":
        with pytest.raises(WrongInput, match="is refused"):
            tensors_of(tmp_path / f"{file}.bin")
    assert not (tmp_path / "made").exists()


def test_damaged_files(tmp_path: Path) -> None:
    model(tmp_path)
    path = tmp_path / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-5])
    with pytest.raises(DataMissing, match="is damaged"):
        pretrained(tmp_path, {})
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(DataMissing, match=r"config.json is no JSON"):
        pretrained(tmp_path, {})


@pytest.mark.parametrize("file", ["../secret.safetensors", "/etc/passwd"])
def test_an_index_names_no_file_elsewhere(file: str, tmp_path: Path) -> None:
    model(tmp_path / "model", 2)
    save_file({"secret": torch.zeros(1)}, tmp_path / "secret.safetensors")
    (tmp_path / "model" / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"secret": file}}))
    with pytest.raises(WrongInput, match="does not lie beside it"):
        pretrained(tmp_path / "model", {})


def test_what_is_not_there(tmp_path: Path) -> None:
    for source in (tmp_path / "none", "./none", "~/no-such-folder-here"):
        with pytest.raises(WrongInput, match="there is no folder"):
            pretrained(source, {})
    with pytest.raises(WrongInput, match="is no folder, and no name of a repository"):
        pretrained("a/b/c", {})
    with pytest.raises(DataMissing, match=r"has no config.json"):
        pretrained(tmp_path, {})
    model(tmp_path, 2)
    (tmp_path / "model-1.safetensors").unlink()
    with pytest.raises(DataMissing, match=r"has no model-1.safetensors"):
        pretrained(tmp_path, {})
    (tmp_path / "model.safetensors.index.json").unlink()
    with pytest.raises(DataMissing, match=r"no model.safetensors and no model.safetensors.index.json and no pytorch_model"):
        pretrained(tmp_path, {})


def test_what_does_not_fit_is_named_three_by_three() -> None:
    own = {name: torch.zeros(2, 3) for name in ("a", "b", "c", "d", "e", "f", "g")}
    there = {"f": torch.zeros(3, 2), "g": torch.zeros(2, 3).char(), "x": torch.zeros(1), "h.1.bias": torch.zeros(1)}
    with pytest.raises(WrongInput) as error:
        fill(own, there, "someone/small", unused=r"h\.\d+\.bias")
    assert error.value.message == (
        "the weights of someone/small are not this model's: without a, b, c and 2 more; with x; "
        "of another shape or type f (2, 3), there (3, 2), g (2, 3), there (2, 3)"
    )
    assert not any(tensor.any() for tensor in own.values())  # nothing is half read


def test_fill_writes_through_views_and_turns_types() -> None:
    weight = torch.zeros(2, 3)
    fill({"w": weight.T}, {"w": torch.arange(6).view(3, 2).half()}, "it")
    assert weight.tolist() == [[0, 2, 4], [1, 3, 5]]


def test_parts_of_names_are_renamed_whole() -> None:
    names = {"norm": "ln", "norm_1": "ln_1", "mlp.0": "fc", "blocks": "h"}
    tensors = dict.fromkeys(["norm.weight", "blocks.0.norm_1.bias", "blocks.9.mlp.0.weight", "xnorm.norms"], torch.ones(1))
    assert list(renamed(tensors, names, "h.")) == ["ln.weight", "h.0.ln_1.bias", "h.9.fc.weight", "xnorm.norms"]


def test_matrices_of_a_block_are_turned_as_views() -> None:
    own = {"blocks.0.w": torch.zeros(2, 3), "blocks.0.b": torch.zeros(2), "token": torch.zeros(5, 3)}
    found = renamed(own, {"blocks": "h"}, "h.")
    assert [(name, *tensor.shape) for name, tensor in found.items()] == [("h.0.w", 3, 2), ("h.0.b", 2), ("token", 5, 3)]
    found["h.0.w"][2, 1] = 7
    assert own["blocks.0.w"][1, 2] == 7


def test_what_is_written_is_apart_and_nothing_is_overwritten(tmp_path: Path) -> None:
    one = torch.arange(6.0).view(2, 3)
    save(tmp_path / "new", {"width": 3}, {"a": one, "b": one.T})  # one storage, twice
    config, found = pretrained(tmp_path / "new", {})
    assert config == {"width": 3}
    assert same(found, {"a": one, "b": one.T})
    for file in ("pytorch_model.bin", "model.safetensors.index.json"):
        (tmp_path / file).mkdir()
        (tmp_path / file / file).touch()
        with pytest.raises(WrongInput, match=f"has a {file} already"):
            save(tmp_path / file, {}, {})


def test_a_tokenizer(tmp_path: Path) -> None:
    tokenizers = pytest.importorskip("tokenizers")
    bpe = tokenizers.Tokenizer(tokenizers.models.BPE())
    bpe.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = tokenizers.decoders.ByteLevel()
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=300, initial_alphabet=tokenizers.pre_tokenizers.ByteLevel.alphabet(), show_progress=False
    )
    bpe.train_from_iterator(["to be or not to be"] * 9, trainer)
    bpe.save(str(tmp_path / "tokenizer.json"))
    found = tokenizer(tmp_path)
    assert found.decode(found.encode("or not, to be: 词").ids) == "or not, to be: 词"
    assert len(found.encode(" not").ids) == 1


# ── the hub, in a process of its own: its client reads the environment once ─────────────────────────────────────────


def asked(code: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """What a new process says to `code`; errors as the command line shows them."""
    text = f"""
import sys
from fuxian.data.weights import hub_weights, pretrained
from fuxian.errors import FuxianError
sums = lambda tensors: dict(sorted((name, float(tensor.sum())) for name, tensor in tensors.items()))
try:
    {code}
except FuxianError as error:
    print(error)
    sys.exit(error.code)
"""
    clean = {name: value for name, value in os.environ.items() if not name.upper().startswith(("HF_", "HUGGINGFACE"))}
    return subprocess.run(
        [sys.executable, "-c", text],
        env=clean | {"NO_PROXY": "127.0.0.1", "no_proxy": "127.0.0.1"} | environment,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def cached(home: Path, shards: int = 1, commit: str = COMMIT) -> dict[str, Tensor]:
    """A repository in HF_HOME, as the client keeps it."""
    repo = home / "hub" / "models--someone--small"
    (repo / "refs").mkdir(parents=True, exist_ok=True)
    (repo / "refs" / "main").write_text(commit)
    return model(repo / "snapshots" / commit, shards)


SUMS = "config, tensors = pretrained({source!r}, {{}}); print(config['width'], sums(tensors))"


def sums(tensors: dict[str, Tensor]) -> str:
    return f"3 { {name: float(tensor.sum()) for name, tensor in tensors.items()} }\n"


@pytest.mark.parametrize("shards", [1, 2])
def test_the_hub_s_cache_is_enough_when_offline(shards: int, tmp_path: Path) -> None:
    tensors = cached(tmp_path, shards)
    said = asked(SUMS.format(source=REPO), HF_HOME=str(tmp_path), HF_HUB_OFFLINE="1")
    assert (said.returncode, said.stdout) == (0, sums(tensors)), said.stdout + said.stderr


@pytest.mark.slow
def test_what_is_not_in_the_cache_is_missing_when_offline(tmp_path: Path) -> None:
    cached(tmp_path)
    for code in (SUMS.format(source="someone/other"), SUMS.format(source=f"{REPO}@{'f' * 40}")):
        said = asked(code, HF_HOME=str(tmp_path), HF_HUB_OFFLINE="1")
        assert said.returncode == 4, said.stdout + said.stderr
        first, *others = said.stdout.splitlines()
        assert first.startswith("the weights someone/")
        assert "are not here and cannot be downloaded" in first
        assert [line.split()[0] for line in others] == ["do"]
        assert "HF_HOME" in others[0]


class Hub(BaseHTTPRequestHandler):
    """A mirror with one repository, whose branch moves on as soon as its config has been fetched."""

    folder: Path
    paths: list[str]
    main = ""

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        self.paths.append(f"{self.command} {self.path}")
        head, _, place = self.path.lstrip("/").partition("/resolve/")
        revision, _, file = place.partition("/")
        commit = self.main if revision == "main" else revision
        path = self.folder / commit / file
        if head != REPO or not path.is_file():
            self.send_response(404)
            self.send_header("X-Error-Code", "EntryNotFound" if head == REPO else "RepoNotFound")
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        content = path.read_bytes()
        self.send_response(200)
        self.send_header("X-Repo-Commit", commit)
        self.send_header("ETag", f'"{sha256(content).hexdigest()}"')
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(content)
            if file == "config.json":
                Hub.main = LATER

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[str]:
    Hub.folder, Hub.paths, Hub.main = tmp_path / "hub", [], COMMIT
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.mark.slow
def test_all_files_from_a_mirror_are_of_one_commit(hub: str, tmp_path: Path) -> None:
    model(Hub.folder / LATER)
    tensors = model(Hub.folder / COMMIT, shards=2)
    home = dict(HF_HOME=str(tmp_path / "home"), HF_ENDPOINT=hub, HF_HUB_DISABLE_TELEMETRY="1")
    said = asked(SUMS.format(source=REPO), **home)
    assert (said.returncode, said.stdout) == (0, sums(tensors)), said.stdout + said.stderr
    assert f"GET /{REPO}/resolve/{COMMIT}/model-1.safetensors" in Hub.paths
    count = len(Hub.paths)
    again = asked(SUMS.format(source=f"{REPO}@{COMMIT}"), **home, HF_HUB_OFFLINE="1")
    assert again.stdout == said.stdout
    assert len(Hub.paths) == count
    one = asked(f"print(sums(hub_weights({REPO!r}, {COMMIT!r}, 'body.', file='model-1.safetensors')))", **home)
    assert eval(one.stdout) == {name: float(tensors[f"body.{name}"].sum()) for name in "bd"}


@pytest.mark.slow
def test_what_a_mirror_has_not_is_missing(hub: str, tmp_path: Path) -> None:
    model(Hub.folder / COMMIT, shards=2)
    (Hub.folder / COMMIT / "model.safetensors.index.json").unlink()
    home = dict(HF_HOME=str(tmp_path / "home"), HF_ENDPOINT=hub, HF_HUB_DISABLE_TELEMETRY="1")
    for source, asked_for in (("someone/other", "config.json"), (REPO, "pytorch_model.bin.index.json")):
        said = asked(SUMS.format(source=source), **home)
        assert said.returncode == 4, said.stdout + said.stderr
        assert said.stdout.startswith(f"the weights {source} are not here and cannot be downloaded: ")
        assert any(path.endswith(asked_for) for path in Hub.paths)
