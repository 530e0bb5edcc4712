"""Plays the runs of a study: one after another in this process, or several side by side, each in a process of its own.

The numbers are the same either way: every run has as many threads as it would have had alone, `options["threads"]`.
"""

from __future__ import annotations

import json
import os
import queue
import signal
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Generator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock, Timeout

import fuxian
from fuxian import catalog
from fuxian.engine.run import Run, mark_seeds, read_seeds, run_seed
from fuxian.engine.signals import CODES, Signals
from fuxian.engine.watch import Watch
from fuxian.errors import FuxianError, Interrupted, RunUnusable
from fuxian.study.monitor import Monitor
from fuxian.study.outcome import agree
from fuxian.study.plan import Failure, Study, Task

AGAIN = 2.0  # seconds after which a worker that has not stopped is asked again: it may have been between two runs
PATIENCE = 60.0  # seconds that a worker gets to save


def play(study: Study, *, monitor: Monitor | None = None, changed_code: bool = False) -> list[Failure]:
    """Plays every run that is not finished, seed by seed, and returns those that failed: they do not stop the others.

    Raises Interrupted by a signal, WrongInput once the first runs show that the members cannot be compared, RunUnusable
    where another process plays this study or a method's file has changed.
    """
    monitor = monitor or Monitor()
    try:
        held = FileLock(study.folder / "lock").acquire(timeout=0)
    except Timeout:
        raise RunUnusable(f"{study.folder} is in use by another process", do="wait for it") from None
    with held:
        everything = [Task(member, seed) for seed in study.seeds for member in range(len(study.members))]
        finished = {task: run for task in everything if (run := finished_run(study, task)) is not None}
        left = [task for task in everything if task not in finished]
        monitor.began(study, len(finished))
        if left and not changed_code:
            study.unchanged()
        first: dict[int, Run] = {}  # of each member
        for task, run in finished.items():
            first.setdefault(task.member, run)
        agree(study, first)
        _mark(study, "running")
        threads = torch.get_num_threads()
        torch.set_num_threads(study.options["threads"])
        side_by_side = study.options["jobs"] > 1 and len(left) > 1
        failures = []
        try:
            with Signals() as signals:
                runs = (_workers if side_by_side else _here)(study, left, monitor, changed_code, signals)
                try:
                    for task, came in runs:
                        if isinstance(came, Failure):
                            failures.append(came)
                        elif task.member not in first:
                            first[task.member] = came
                            agree(study, first)
                        monitor.ended(task, came)
                finally:
                    runs.close()
        except Interrupted as error:
            _mark(study, "stopped")
            done = sum(finished_run(study, task) is not None for task in everything)
            raise Interrupted(
                f"stopped by {_name(error.code)} with {done} of {len(everything)} runs finished",
                error.code,
                saved="all of them, and the last step of what was running",
                do=f"fuxian resume {study.folder}     goes on, to the same numbers",
            ) from None
        except BaseException:
            _mark(study, "failed")
            raise
        finally:
            torch.set_num_threads(threads)
        _mark(study, "failed" if failures else "done")
        return failures


def finished_run(study: Study, task: Task) -> Run | None:
    path = study.place(study.members[task.member]) / f"seed-{task.seed}"
    if not (path / "result.json").is_file():
        return None
    run = Run(path)
    return run if run.info["status"] == "done" else None


def _mark(study: Study, status: str) -> None:
    """Writes how the study stands, and each of its members."""
    study.status = status
    study.write()
    for i, member in enumerate(study.members):
        done = all(finished_run(study, Task(i, seed)) is not None for seed in study.seeds)
        mark_seeds(study.place(member), "done" if done else status)


def _name(code: int) -> str:
    return next(name for name, number in CODES.items() if number == code)


# ── one after another ───────────────────────────────────────────────────────────────────────────────────────────────


def _here(
    study: Study, tasks: Sequence[Task], monitor: Monitor, changed_code: bool, signals: Signals
) -> Generator[tuple[Task, Run | Failure], None, None]:
    for task in tasks:
        if signals.asked:
            raise Interrupted(f"stopped by {signals.asked}", CODES[signals.asked])
        watch = Teller(lambda now, task=task: monitor.working(task, now), monitor.note)
        came = attempt(study.place(study.members[task.member]), task.seed, watch, changed_code)
        yield task, came if isinstance(came, Run) else Failure(task.member, task.seed, **came)


def attempt(folder: Path, seed: int, watch: Watch, changed_code: bool) -> Run | dict[str, Any]:
    """Plays one run; what went wrong is `{message, code, lines}`. Raises Interrupted."""
    try:
        return run_seed(folder, seed, watch=watch, changed_code=changed_code)
    except Interrupted:
        raise
    except Exception as error:
        told = error
        if not isinstance(error, FuxianError):
            method = read_seeds(folder)["method"]
            told = catalog.blame(error, Path(method)) if method.endswith(".py") else None
        if isinstance(told, FuxianError):
            return dict(message=told.message, code=told.code, lines=told.lines)
        traceback.print_exc()
        return dict(message=f"{type(error).__name__}: {error}".rstrip(": "), code=70, lines={})


class Teller(Watch):
    """Tells how far a run is, a few times a second at most."""

    def __init__(self, working: Any, note: Any) -> None:
        self.working, self.note = working, note
        self.steps, self.told = 0, 0.0

    def stage_started(self, stage: Mapping[str, Any]) -> None:
        self.steps = stage["steps"]

    def stepped(self, step: int, losses: Mapping[str, float], rate: float, waited: float) -> None:
        self._tell(f"step {step:,}/{self.steps:,}")

    def reading(self, split: str, done: int, of: int) -> None:
        self._tell(f"{split} {done:,} of {of:,}")

    def _tell(self, now: str) -> None:
        if time.monotonic() - self.told > 0.3:
            self.told = time.monotonic()
            self.working(now)


# ── side by side ────────────────────────────────────────────────────────────────────────────────────────────────────


class _Worker:
    """A process that plays one run at a time; fuxian/study/worker.py is its other end."""

    def __init__(self, threads: int, heard: queue.Queue[tuple[_Worker, Any]]) -> None:
        root = str(Path(fuxian.__file__).parent.parent)
        paths = [root, *filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))]
        self.process = subprocess.Popen(
            [sys.executable, "-m", "fuxian.study.worker", str(threads)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,  # Ctrl-C comes from the parent, once
            env={**os.environ, "PYTHONPATH": os.pathsep.join(dict.fromkeys(paths))},
        )
        self.task: Task | None = None
        self.listening = threading.Thread(target=self._listen, args=(heard,), daemon=True)
        self.listening.start()

    def _listen(self, heard: queue.Queue[tuple[_Worker, Any]]) -> None:
        assert self.process.stdout is not None
        with self.process.stdout as lines:
            for line in lines:
                heard.put((self, json.loads(line)))
        self.process.wait()
        heard.put((self, None))

    def give(self, task: Task, folder: Path, changed_code: bool) -> None:
        assert self.process.stdin is not None
        self.task = task
        words = {"folder": str(folder.absolute()), "seed": task.seed, "changed_code": changed_code}
        with suppress(BrokenPipeError):  # it is dead, which is heard next
            print(json.dumps(words), file=self.process.stdin, flush=True)

    def dismiss(self) -> None:
        """It ends when it reads no more; in the middle of a run it saves first."""
        assert self.process.stdin is not None
        with suppress(BrokenPipeError):
            self.process.stdin.close()


def _workers(
    study: Study, tasks: Sequence[Task], monitor: Monitor, changed_code: bool, signals: Signals
) -> Generator[tuple[Task, Run | Failure], None, None]:
    heard: queue.Queue[tuple[_Worker, Any]] = queue.Queue()
    waiting = list(tasks)
    workers = [_Worker(study.options["threads"], heard) for _ in range(min(study.options["jobs"], len(tasks)))]

    def next_task(worker: _Worker) -> None:
        worker.task = None
        if waiting and not signals.asked:
            task = waiting.pop(0)
            worker.give(task, study.place(study.members[task.member]), changed_code)

    try:
        for worker in workers:
            next_task(worker)
        asked = 0.0  # when the workers were last asked to stop
        while any(worker.task for worker in workers):
            if signals.asked and time.monotonic() - asked > AGAIN:
                name = signal.SIGTERM if asked or signals.asked == "SIGTERM" else signal.SIGINT
                asked = time.monotonic()
                for worker in workers:
                    if worker.task and worker.process.poll() is None:
                        worker.process.send_signal(name)
            try:
                worker, said = heard.get(timeout=0.2)
            except queue.Empty:
                continue
            task = worker.task
            if said is None:  # it died
                worker.dismiss()
                workers.remove(worker)
                if task is None:
                    continue
                code = worker.process.returncode
                if not signals.asked:
                    workers.append(_Worker(study.options["threads"], heard))
                    next_task(workers[-1])
                yield task, Failure(task.member, task.seed, **_death(code))
            elif "note" in said:
                monitor.note(said["note"])
            elif task is None:
                continue
            elif "now" in said:
                monitor.working(task, said["now"])
            elif said["ended"] == "stopped":
                worker.task = None
            else:
                next_task(worker)  # first: it works while this process reads the result
                came = finished_run(study, task) if said["ended"] == "done" else None
                yield task, came or Failure(task.member, task.seed, **said["error"])
        if signals.asked:
            raise Interrupted(f"stopped by {signals.asked}", CODES[signals.asked])
    finally:
        for worker in workers:
            worker.dismiss()
        impatient = isinstance(sys.exc_info()[1], KeyboardInterrupt)
        until = time.monotonic() + (0 if impatient else PATIENCE)
        for worker in workers:
            try:
                worker.process.wait(max(0.0, until - time.monotonic()))
            except subprocess.TimeoutExpired:
                worker.process.kill()
                worker.process.wait()
            worker.listening.join()


def _death(code: int) -> dict[str, Any]:
    """What is said of a worker that died in the middle of a run."""
    if code >= 0:
        return dict(message=f"its process ended with code {code} in the middle of the run", code=70)
    why = ", as the system does where memory runs out" if -code == signal.SIGKILL else ""
    return dict(message=f"its process was killed by {signal.Signals(-code).name}{why}", code=5)
