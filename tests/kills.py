"""Kills runs at any instruction and compares what they come to with a run that was left alone.

A run plays in a child process. In the child `sys.settrace` counts the lines that the engine executes, and at the chosen
one the process ends itself with SIGKILL: no handler, no `finally`, no buffer survives. The line to die at is chosen by the
function it lies in, so that every phase of a step, of an evaluation and of a checkpoint's write is met.

Children come from a fork server that has imported torch and computed nothing, so one costs milliseconds and its threads are
its own; two play at a time.
"""

from __future__ import annotations

import hashlib
import json
import multiprocessing
import os
import random
import shutil
import signal
import socket
import sys
import threading
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from multiprocessing import connection
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from torch import Tensor, nn

import fuxian
from fuxian.engine import loop, world
from fuxian.engine.run import resume, run
from fuxian.errors import FuxianError

SOURCE = str(Path(fuxian.__file__).parent)
TRACED = (os.path.join(SOURCE, "engine") + os.sep, os.path.join(SOURCE, "evaluation.py"))

# Where a run may be killed, by the functions (file:name) whose lines count; () is any line at all.
ANYWHERE: tuple[str, ...] = ()
STEP = ("loop.py:_step", "loop.py:_turns", "players.py:begin", "players.py:step", "players.py:after_step")
WRITE = ("state.py:write",)  # about fifteen lines a write: each is a phase
SAVE = ("running.py:save", "folder.py:save", "folder.py:log_length", "state.py:write", "state.py:_flush", "folder.py:log")
EVALUATION = ("evaluation.py:measure", "evaluation.py:judging", "running.py:judged", "judge.py:validate", "judge.py:final")
FINISH = ("folder.py:finish", "folder.py:write_info", "folder.py:write_result")
BETWEEN = ("work.py:play", "loop.py:drive", "work.py:train_stage")
PLACES = (ANYWHERE, STEP, WRITE, SAVE, EVALUATION, FINISH, BETWEEN)

_fork = multiprocessing.get_context("forkserver")
_fork.set_forkserver_preload(
    ["tests.kills", "torch._dynamo", "sklearn.datasets", "fuxian.figures"]
)  # dynamo: by optimizers
_one, _two = threading.Lock(), threading.BoundedSemaphore(2)


@dataclass(frozen=True)
class Job:
    """A run to play: a method's name or a file, and the options of `fuxian.run`."""

    method: str
    options: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Kill:
    """At the `number`-th line (from 1) among those of `places`; another signal than SIGKILL can be handled."""

    places: tuple[str, ...]
    number: int
    signal: int = signal.SIGKILL


def play(job: Job, folder: Path, kill: Kill | None = None, again: bool = False, count: bool = False) -> int:
    """Plays a run in `folder` (`again`: resumes it) in a child; its exit code, -9 where it was killed, or its error's."""
    with _two:
        child = _fork.Process(target=_child, args=(job, folder, kill, again, count))
        with _one:  # starting a process polls the others, which must not happen while another thread does
            child.start()
        connection.wait([child.sentinel])
        with _one:
            child.join()
    assert child.exitcode not in (None, 1), f"{job.method} failed in its child: see above"
    return child.exitcode


def play_together(
    job: Job, folder: Path, processes: int, kills: Mapping[int, Kill] | None = None, again: bool = False
) -> list:
    """Plays a run in several processes, as torchrun would start them; the exit code of each. `kills` are by rank."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port = found.getsockname()[1]
    ranks = range(processes)
    children = [
        _fork.Process(target=_member, args=(rank, processes, port, job, folder, (kills or {}).get(rank), again))
        for rank in ranks
    ]
    for child in children:
        child.start()
    for child in children:
        child.join(120)
        child.kill()
    return [child.exitcode for child in children]


def _member(rank: int, size: int, port: int, *words: Any) -> None:
    facts = dict(RANK=rank, LOCAL_RANK=rank, WORLD_SIZE=size, MASTER_ADDR="127.0.0.1", MASTER_PORT=port)
    os.environ.update({name: str(value) for name, value in facts.items()})
    _child(*words, count=False)


def _child(job: Job, folder: Path, kill: Kill | None, again: bool, count: bool) -> None:
    torch.set_num_threads(1)
    stages: list[Any] = []
    drive = loop.drive

    def watched(*args: Any) -> Any:
        found = drive(*args)
        stages.extend(found[2])
        return found

    loop.drive = watched
    lines: dict[str, int] = {}  # how many were executed in each function
    if kill is not None or count:
        sys.settrace(_tracer(kill, lines))
    try:
        if again:
            resume(folder, save_seconds=0.0)
        else:
            run(job.method, parent=folder.parent, name=folder.name, save_seconds=0.0, **job.options)
    except FuxianError as error:
        sys.exit(error.code)
    sys.settrace(None)
    other = f"-{world.rank()}" if world.rank() else ""  # of several processes
    (folder / f"lines{other}.json").write_text(json.dumps(lines))
    digests = [digest(stage.model, stage.objective) for stage in stages]
    (folder / f"digest{other}.json").write_text(json.dumps(digests, indent=1))


def _tracer(kill: Kill | None, lines: dict[str, int]) -> Callable[..., Any]:
    left = kill.number if kill else 0

    def of_lines(frame: FrameType, event: str, _: Any) -> Any:
        nonlocal left
        if event == "line":
            name = f"{os.path.basename(frame.f_code.co_filename)}:{frame.f_code.co_name}"
            lines[name] = lines.get(name, 0) + 1
            if kill and (not kill.places or name in kill.places):
                left -= 1
                if not left:
                    os.kill(os.getpid(), kill.signal)
        return of_lines

    return lambda frame, event, _: of_lines if frame.f_code.co_filename.startswith(TRACED) else None


# ── what must be equal ──────────────────────────────────────────────────────────────────────────────────────────────


def digest(*modules: nn.Module) -> dict[str, str]:
    """All that the modules hold as attributes, by path: numbers and strings as they are, tensors by their bytes."""
    found = {}
    for root in modules:
        for path, part in root.named_modules():
            held = {**vars(part), **vars(part).get("_parameters", {}), **vars(part).get("_buffers", {})}
            for key, value in held.items():
                if key not in _MODULE:
                    found[".".join(filter(None, [type(root).__name__, path, key]))] = _digest(value)
    return found


_MODULE = frozenset(vars(nn.Module())) - {"training"}


def _digest(value: Any) -> str:
    if isinstance(value, Tensor):
        content = value.detach().cpu().contiguous().view(-1)
        raw = (content.view(torch.uint8) if content.numel() else content).numpy().tobytes()
        return f"{value.dtype} {tuple(value.shape)} {value.stride()} {hashlib.sha256(raw).hexdigest()[:16]}"
    if isinstance(value, Mapping):
        return str({str(key): _digest(item) for key, item in value.items()})
    if isinstance(value, list | tuple):
        return str([_digest(item) for item in value])
    return repr(value) if isinstance(value, bool | int | float | str | None) else type(value).__name__


def outcome(folder: Path, digests: bool = True) -> dict[str, str]:
    """Everything that a finished run must have the same bits of, by name."""
    files = [folder / "metrics.jsonl", folder / "result.json", *folder.glob("checkpoints/*-done/tensors.safetensors")]
    files += folder.glob("pictures/*")
    found = {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}
    for number, stage in enumerate(json.loads((folder / "digest.json").read_text()) if digests else []):
        found |= {f"stage {number + 1}: {name}": value for name, value in stage.items()}
    left = [path.name for path in (folder / "checkpoints").iterdir() if not path.name.endswith("-done")]
    return {**found, "left over": str(left), "status": json.loads((folder / "run.json").read_text())["status"]}


def alone(job: Job, folder: Path) -> dict[str, int]:
    """Plays a run without killing it; how many lines it executed in each function."""
    assert play(job, folder, count=True) == 0
    return json.loads((folder / "lines.json").read_text())


def chain(job: Job, folder: Path, kills: Iterable[Kill]) -> int:
    """Plays a run, killed and resumed in turn, at last to its end; how many times it was killed."""
    killed = 0
    for kill in [*kills, None]:
        again = (folder / "run.json").is_file()
        if not again:  # killed before there was anything to resume
            shutil.rmtree(folder, ignore_errors=True)
        if play(job, folder, kill, again) == 0:
            break
        killed += 1
    return killed


def plans(lines: Mapping[str, int], chains: int, length: int, seed: int = 0) -> list[list[Kill]]:
    """Chains of kills that meet every place in turn, none so late that a run would be over before its last kill."""
    draw = random.Random(f"{seed} {sorted(lines.items())}")  # the same for the same code, unlike for unlike
    there = [place for place in PLACES if within(lines, place)]
    found = []
    for number in range(chains):
        plan = []
        for position in range(length):
            place = there[(number * length + position) % len(there)]
            plan.append(Kill(place, draw.randint(1, max(1, 2 * within(lines, place) // length))))
        found.append(plan)
    return found


def within(lines: Mapping[str, int], places: tuple[str, ...]) -> int:
    return sum(count for name, count in lines.items() if not places or name in places)


def check(job: Job, folder: Path, chains: int = 2, length: int = 6, least: int = 6, seed: int = 0) -> int:
    """Asserts that `chains` runs, each killed up to `length` times, come to what an uninterrupted run comes to.

    Returns how many times a run was killed. There are more chains where short runs were over before `least` kills.
    """
    lines = alone(job, folder / "alone")
    wanted = outcome(folder / "alone")
    made = plans(lines, 5 * chains, length, seed)
    with ThreadPoolExecutor(2) as pool:
        killed = list(pool.map(lambda n: chain(job, folder / f"killed-{n}", made[n]), range(chains)))
    while sum(killed) < least and len(killed) < len(made):
        killed.append(chain(job, folder / f"killed-{len(killed)}", made[len(killed)]))
    for number in range(len(killed)):
        got = outcome(folder / f"killed-{number}")
        names = wanted.keys() | got.keys()
        if not any(name.startswith("stage ") for name in got):  # killed once it was done: no stage was played again
            names = {name for name in names if not name.startswith("stage ")}
        different = sorted(name for name in names if wanted.get(name) != got.get(name))
        where = f"{job.method} killed at {made[number]}"
        assert not different, f"{where}: {different[:5]} differ from the run that was left alone"
    return sum(killed)
