"""State on disk: comes back with the same bits, is written all or nothing, and says what is wrong with it."""

from __future__ import annotations

import json
import math
import pickle
import resource
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor

from fuxian import load, resume
from fuxian.engine import state
from fuxian.engine.watch import Watch
from fuxian.errors import ContractError, OutOfRoom, RunUnusable

from .. import kills
from . import toys

# ── trees ───────────────────────────────────────────────────────────────────────────────────────────────────────────

DTYPES = [torch.float32, torch.float64, torch.float16, torch.bfloat16, torch.int64, torch.int8, torch.uint8, torch.bool]
DTYPES += [torch.complex64, torch.float8_e4m3fn]


@st.composite
def tensors(draw: Any) -> Tensor:
    shape = draw(st.lists(st.integers(0, 3), max_size=3))
    raw = torch.tensor(draw(st.lists(st.integers(0, 255), min_size=8, max_size=8)), dtype=torch.float32)
    made = raw[torch.arange(math.prod(shape)) % 8].view(shape).to(draw(st.sampled_from(DTYPES)))
    return made.transpose(0, -1) if made.dim() > 1 and draw(st.booleans()) else made


leaves = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=4) | tensors()
trees = st.recursive(
    leaves,
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text("ab/0", max_size=3) | st.integers(0, 2), inner, max_size=4)
    ),
    max_leaves=8,
)


def same(a: Any, b: Any) -> bool:
    if isinstance(a, Tensor):
        if not isinstance(b, Tensor) or a.dtype != b.dtype or a.shape != b.shape:
            return False
        return a.numel() == 0 or torch.equal(*(x.contiguous().view(-1).view(torch.uint8) for x in (a, b)))
    if isinstance(a, dict):
        return isinstance(b, dict) and list(a) == list(b) and all(same(a[key], b[key]) for key in a)
    if isinstance(a, list):
        return isinstance(b, list) and len(a) == len(b) and all(map(same, a, b))
    return type(a) is type(b) and (a == b or (a != a and b != b))


@given(tree=st.dictionaries(st.text("ab/", max_size=3), trees, max_size=4))
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_tree_comes_back(tree: dict[str, Any], tmp_path: Path) -> None:
    state.write(tmp_path / "tree", tree)
    assert same(tree, state.read(tmp_path / "tree"))


def test_keys_that_read_alike_are_kept_apart(tmp_path: Path) -> None:
    tree = {"a": {"b": torch.ones(1), 0: torch.ones(2), "0": torch.ones(3)}, "a/b": torch.ones(4)}
    state.write(tmp_path / "tree", tree)
    assert same(tree, state.read(tmp_path / "tree"))


def test_what_cannot_be_saved_is_named() -> None:
    with pytest.raises(TypeError, match="/a/1 is a function"):
        state.pack({"a": [1, lambda: 0]}, {})
    with pytest.raises(ContractError, match="adjacency is a sparse tensor"):
        state.pack({"adjacency": torch.eye(3).to_sparse()}, {})


def test_what_is_read_is_aligned_as_torch_does_it(tmp_path: Path) -> None:
    state.write(tmp_path / "t", {str(n): torch.ones(n) for n in range(1, 20)})
    assert {tensor.data_ptr() % 64 for tensor in state.read(tmp_path / "t").values()} == {0}


def test_saved_weights_that_do_not_fit_are_named() -> None:
    with pytest.raises(RunUnusable, match=r"do not fit .* a \(2,\), b \(1,\)"):
        state.copy_into({"a": torch.ones(2)}, {"a": torch.ones(3), "b": torch.ones(1)}, "weights")


# ── damage ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-7])


DAMAGE: dict[str, tuple[Callable[[Path], Any], str]] = {
    "truncated": (lambda folder: cut(folder / "tensors.safetensors"), "tensors.safetensors does not match its hash"),
    "flipped": (lambda folder: flip(folder / "tensors.safetensors"), "tensors.safetensors does not match its hash"),
    "skeleton": (lambda folder: flip(folder / "state.json"), "state.json does not match its hash"),
    "missing": (lambda folder: (folder / "state.json").unlink(), "state.json is missing"),
    "manifest": (lambda folder: (folder / "manifest.json").unlink(), "manifest.json is missing"),
    "garbled": (lambda folder: (folder / "manifest.json").write_text("{"), "manifest.json cannot be read"),
    "list": (lambda folder: (folder / "manifest.json").write_text("[]"), "manifest.json cannot be read"),
    "hashes": (lambda folder: (folder / "manifest.json").write_text('{"format": 1, "sha256": 3}'), "cannot be read"),
}  # fmt: skip


@pytest.mark.parametrize("damage", DAMAGE)
def test_damage_is_named(damage: str, tmp_path: Path) -> None:
    harm, words = DAMAGE[damage]
    state.write(tmp_path / "c", {"weight": torch.randn(9), "step": 3})
    harm(tmp_path / "c")
    with pytest.raises(state.Damaged, match=words):
        state.read(tmp_path / "c")


def test_a_newer_format_is_refused(tmp_path: Path) -> None:
    state.write(tmp_path / "c", {"step": 3})
    manifest = json.loads((tmp_path / "c/manifest.json").read_text())
    (tmp_path / "c/manifest.json").write_text(json.dumps({**manifest, "format": 2}))
    with pytest.raises(RunUnusable, match="format 2; this Fuxian reads up to 1"):
        state.read(tmp_path / "c")


class Notes(Watch):
    def __init__(self) -> None:
        self.notes: list[str] = []

    def note(self, message: str) -> None:
        self.notes.append(message)


@pytest.fixture(scope="module")
def killed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """A run of two stages that was killed in the second, and what it comes to when it is left alone."""
    folder = tmp_path_factory.mktemp("killed")
    job = kills.Job(toys.file_of(toys.shared, folder))
    lines = kills.alone(job, folder / "alone")
    last = kills.Kill(kills.STEP, int(kills.within(lines, kills.STEP) * 0.97))
    assert kills.play(job, folder / "killed", last) == -9
    return {"job": job, "folder": folder / "killed", "wanted": kills.outcome(folder / "alone")}


@pytest.mark.parametrize("which", ["newest", "all", "done", "done and all", "done gone"])
def test_a_damaged_checkpoint_is_passed_over(which: str, killed: dict[str, Any], tmp_path: Path) -> None:
    folder = tmp_path / "run"
    shutil.copytree(killed["folder"], folder)
    steps = sorted((folder / "checkpoints").glob("fine-tune-0*"))
    assert [path.name for path in steps] == ["fine-tune-000003", "fine-tune-000004"]
    chosen = {"newest": steps[1:], "all": steps, "done": [], "done and all": steps, "done gone": []}[which]
    for path in chosen:
        flip(path / "tensors.safetensors")
    if which == "done gone":
        shutil.rmtree(folder / "checkpoints/pretrain-done")
    elif which.startswith("done"):
        flip(folder / "checkpoints/pretrain-done/tensors.safetensors")
    watch = Notes()
    resume(folder, watch=watch, save_seconds=0.0)
    harm = "is damaged: tensors.safetensors does not match its hash"
    if which == "newest":
        assert watch.notes == [f"checkpoint fine-tune-000004 {harm}; using step 3 instead"]
    if which == "done":
        assert watch.notes == [f"checkpoint pretrain-done {harm}; training the stage again from its beginning"]
    assert len(watch.notes) == {"newest": 1, "all": 2, "done": 1, "done and all": 1, "done gone": 0}[which]
    got = kills.outcome(folder, digests=False)
    assert got == {name: value for name, value in killed["wanted"].items() if name in got}


def test_a_finished_stage_is_not_trained_again(killed: dict[str, Any], tmp_path: Path) -> None:
    folder = tmp_path / "run"
    shutil.copytree(killed["folder"], folder)
    done = folder / "checkpoints/pretrain-done"
    before = done.stat().st_ino
    resume(folder, save_seconds=0.0)
    assert done.stat().st_ino == before  # the bits would be the same, and the time lost


def test_a_kill_while_a_damaged_stage_is_trained_again(killed: dict[str, Any], tmp_path: Path) -> None:
    folder = tmp_path / "shared"
    job = killed["job"]
    lines = kills.alone(job, folder)  # both stages are done; then the run is called unfinished, and the first is damaged
    info = json.loads((folder / "run.json").read_text())
    (folder / "run.json").write_text(json.dumps({**info, "status": "running"}))
    flip(folder / "checkpoints/pretrain-done/tensors.safetensors")
    assert kills.play(job, folder, kills.Kill(kills.FINISH, 4), again=True) == -9
    assert kills.play(job, folder, kills.Kill(kills.BETWEEN, lines["work.py:play"] + 9), again=True) == -9
    assert kills.play(job, folder, again=True) == 0
    assert kills.outcome(folder) == killed["wanted"]


def test_losses_that_wait_for_the_log_come_back(tmp_path: Path) -> None:
    job = kills.Job(toys.file_of(toys.long, tmp_path), dict(limit=28))
    lines = kills.alone(job, tmp_path / "alone")
    assert kills.play(job, tmp_path / "killed", kills.Kill(kills.STEP, int(kills.within(lines, kills.STEP) * 0.9))) == -9
    newest = max((tmp_path / "killed/checkpoints").iterdir())
    assert state.read(newest)["pending"], "the kill did not come between two lines of the log"
    assert kills.play(job, tmp_path / "killed", again=True) == 0
    assert kills.outcome(tmp_path / "killed") == kills.outcome(tmp_path / "alone")


def test_damaged_steps_do_not_push_good_ones_out(killed: dict[str, Any], tmp_path: Path) -> None:
    folder = tmp_path / "run"
    shutil.copytree(killed["folder"], folder)
    flip(folder / "checkpoints/fine-tune-000004/state.json")
    again = state.read(folder / "checkpoints/fine-tune-000003")
    assert again["step"] == 3
    from fuxian.engine.folder import RunFolder

    with RunFolder(folder) as there:
        saved, damaged = there.newest("fine-tune")
        assert saved is not None
        assert len(damaged) == 1
        assert there.newest_path("fine-tune") == folder / "checkpoints/fine-tune-000003"


def test_a_finished_run_is_not_loaded_from_damaged_weights(tmp_path: Path) -> None:
    run = toys.play(toys.one(), tmp_path)
    cut(run.folder / "checkpoints/train-done/tensors.safetensors")
    with pytest.raises(RunUnusable, match="train-done is damaged"):
        load(run)


@pytest.mark.parametrize("content", ["{", "[1]", '"text"'])
def test_a_damaged_run_json_is_named(content: str, tmp_path: Path) -> None:
    run = toys.play(toys.one(), tmp_path)
    (run.folder / "run.json").write_text(content)
    with pytest.raises(RunUnusable, match=r"run\.json is damaged"):
        resume(run.folder)


def test_a_run_of_a_newer_format_is_refused(tmp_path: Path) -> None:
    run = toys.play(toys.one(), tmp_path)
    (run.folder / "run.json").write_text(json.dumps({**run.info, "format": 99, "status": "stopped"}))
    with pytest.raises(RunUnusable, match="format 99"):
        resume(run.folder)


def test_a_log_that_was_cut_short_is_named(killed: dict[str, Any], tmp_path: Path) -> None:
    folder = tmp_path / "run"
    shutil.copytree(killed["folder"], folder)
    (folder / "metrics.jsonl").write_text("")
    with pytest.raises(RunUnusable, match=r"metrics\.jsonl is truncated: 0 bytes"):
        resume(folder)


# ── no room ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_write_that_fails_leaves_the_last_good_one(tmp_path: Path) -> None:
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    state.write(tmp_path / "c-1", {"weight": torch.ones(10)})
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, limits[1]))
    try:
        with pytest.raises(OutOfRoom) as caught:
            state.write(tmp_path / "c-2", {"weight": torch.ones(100_000)})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert "a checkpoint could not be written" in caught.value.message
    assert [path.name for path in tmp_path.iterdir()] == ["c-1"]
    assert torch.equal(state.read(tmp_path / "c-1")["weight"], torch.ones(10))


@pytest.mark.parametrize("room", [0, 100, 600, 1500])
def test_a_disk_that_fills_up_while_a_run_writes(room: int, tmp_path: Path) -> None:
    """At whatever file it happens, the run says that there is no room, and goes on to the same bits once there is."""
    wanted = toys.play(toys.plain, tmp_path / "alone", name="run")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)

    class Fill(Watch):
        def stepped(self, step: int, losses: Any, rate: float, waited: float) -> None:
            resource.setrlimit(resource.RLIMIT_FSIZE, (room, limits[1]))

    from fuxian.engine import loop

    shown, loop.SHOW_SECONDS = loop.SHOW_SECONDS, -1.0
    try:
        with pytest.raises(OutOfRoom):
            toys.play(toys.plain, tmp_path / "full", name="run", watch=Fill())
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        loop.SHOW_SECONDS = shown
    again = resume(tmp_path / "full/run", save_seconds=0.0)[0]
    for name in ("metrics.jsonl", "result.json", "checkpoints/train-done/tensors.safetensors"):
        assert (again.folder / name).read_bytes() == (wanted.folder / name).read_bytes(), name


def test_a_folder_that_cannot_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "mkdir", refuse)
    with pytest.raises(OutOfRoom, match="Permission denied"):
        state.write(tmp_path / "c", {"weight": torch.ones(1)})


# ── no pickle ───────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_run_pickles_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any, **__: Any) -> Any:
        raise AssertionError("something was pickled")

    for name in ("load", "loads", "dump", "dumps", "Unpickler", "Pickler"):
        monkeypatch.setattr(pickle, name, refuse)
    run = toys.play(toys.gan, tmp_path, name="run")
    (run.folder / "run.json").write_text(json.dumps({**run.info, "status": "stopped"}))
    shutil.rmtree(run.folder / "checkpoints/train-done")
    assert resume(run.folder)[0].metrics == run.metrics
    load(run)
