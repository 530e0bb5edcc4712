"""A run on the terminal: a live bar; where stdout is no terminal, a line for each tenth of a stage."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from fuxian.cli.terminal import MARKS, Terminal, loss, measured, shown
from fuxian.engine.watch import Watch
from fuxian.numbers import THIN, duration, plural, rate
from fuxian.study.monitor import Monitor
from fuxian.study.outcome import main_metric
from fuxian.study.plan import Failure, Study, Task

if TYPE_CHECKING:
    from fuxian.engine.run import Run

BAR = 24  # cells at most
QUIET = 10.0  # seconds without a line after which an evaluation gets one


class Progress(Watch):
    """Shows a run, or several `runs`. `title` stands in the first line; `brief` leaves out what stands above the bar."""

    def __init__(self, terminal: Terminal, title: str = "", runs: int = 1, brief: bool = False) -> None:
        self.terminal, self.title, self.runs, self.brief = terminal, title, runs, brief
        console = terminal.console
        self.live = (
            Live(console=console, auto_refresh=False) if console.is_terminal and not console.is_dumb_terminal else None
        )
        self.folder, self.info = Path(), {}
        self.run = 0
        self.stage: Mapping[str, Any] = {}
        self.told = ""  # of the data, once
        self.read = ""  # of a split that is being judged
        self.drawn = 0.0  # when the bar was

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, *_: object) -> None:
        self._hide()

    # ── what the engine calls ───────────────────────────────────────────────────────────────────────────────────────

    def started(self, folder: Path, info: Mapping[str, Any]) -> None:
        self.folder, self.info = folder, info
        self.run += 1

    def stage_started(self, stage: Mapping[str, Any]) -> None:
        self.stage, self.losses, self.found, self.rate, self.waited = stage, {}, {}, 0.0, 0.0
        self.step = self.first = stage["step"]
        self.total = self._steps()
        self.began = self.last_line = time.monotonic()
        self._head()
        if self.live:
            if not self.live.is_started:
                self.live.start()
            self._draw()

    def stepped(self, step: int, losses: Mapping[str, float], rate: float, waited: float) -> None:
        before, self.step, self.rate, self.waited = self.step, step, rate, waited
        self.losses = losses or self.losses
        if self.live:
            self._draw()
        elif step < self.total and 10 * step // self.total > 10 * before // self.total:  # the last has `stage_ended`
            self._line()

    def reading(self, split: str, done: int, of: int) -> None:
        self.read = f"{split} {done:,} of {of:,}" if done < of else ""
        if self.live:
            self._draw()
        elif self.read and time.monotonic() - self.last_line > QUIET:
            self._line()

    def evaluated(self, step: int, metrics: Mapping[str, float]) -> None:
        self.step, self.found = max(self.step, step), metrics
        if self.live:
            self._draw()
        elif time.monotonic() - self.last_line > QUIET:
            self._line()

    def stage_ended(self, stage: Mapping[str, Any], metrics: Mapping[str, float]) -> None:
        if self.stage.get("name") != stage["name"]:  # finished before a resume
            self.terminal.say(f"{stage['name']}  finished before, {stage['step']:,} steps")
            return
        self.step = stage["step"]
        if self.live:
            self._draw(done=True)
        else:
            self._line(done=True)
        self._hide()
        if stage.get("stopped_early"):
            self.terminal.say(f"{stage['name']}  stopped early by its rule, at step {self.step:,} of {self.total:,}")
        self.stage = {}

    def note(self, message: str) -> None:
        self.terminal.say(f"{MARKS['short']} {message}")

    # ── how it looks ────────────────────────────────────────────────────────────────────────────────────────────────

    def _steps(self) -> int:
        limit = self.info.get("limit")
        return self.stage["steps"] if limit is None else min(self.stage["steps"], limit)

    def _head(self) -> None:
        """Before a stage: what it learns from, how large it is, where the run is. Once for the same of several runs."""
        stage, info = self.stage, self.info
        told = f"{stage['data']} {stage['train']} {stage['parameters']}"
        if self.brief or told == self.told:
            return
        first, self.told = not self.told, told
        where = [
            info["device"],
            info["precision"],
            *([plural(info["threads"], "thread")] if info["device"] == "cpu" else []),
            *([plural(info["processes"], "", "processes")] if info.get("processes", 1) > 1 else []),
        ]
        seed = f"seed {info['seed']}" if self.runs == 1 else f"{self.runs} seeds"
        size = f"{stage['parameters']:,} parameters"
        place = shown(self.folder if self.runs == 1 else self.folder.parent)
        if self.live is None:
            data = [stage["data"]] if stage["data"] else []
            self.terminal.say(f"{info['method']} " + ", ".join([*data, size, *where[:2], seed, place]))
            return
        if first and self.title:
            self.terminal.say(f"{info['method']:<6} {self.title}")
        if stage["data"]:
            self.terminal.say(f"data   {stage['data']}: {_sizes(stage)}")
        self.terminal.say(f"model  {', '.join([size, *where, seed])}")
        if first:
            self.terminal.say(f"run    {place}")
            self.terminal.say()

    def _numbers(self, done: bool = False) -> list[str]:
        left = (self.total - self.step) / self.rate if self.rate else 0
        until = f"{duration(left) if left >= 60 else f'{round(left)} s'} left"
        when = f"in {duration(time.monotonic() - self.began)}" if done else until if round(left) else ""
        losses = [f"{name.removesuffix('/loss')} {loss(value)}" for name, value in self.losses.items()]
        return [
            f"step {self.step:,}/{self.total:,}",
            *([self.read] if self.read else []),
            *losses[:3],
            *([rate(self.rate)] if self.rate else []),
            *([when] if when else []),
        ]

    def _draw(self, done: bool = False) -> None:
        """Draws the bar, some 10 times a second at most: a full batch may be stepped and judged in a millisecond."""
        assert self.live is not None
        if not done and self.drawn > time.monotonic() - 0.1:
            return
        self.drawn = time.monotonic()
        share = self.step / self.total if self.total else 1.0
        name = self.stage["name"] if self.runs == 1 else f"{self.run}/{self.runs} {self.stage['name']}"
        numbers = [f"{100 * share:3.0f} %", *self._numbers(done), f"waited {100 * self.waited:.0f} %"]
        if self.brief:
            name = f"{self.info['method']} {name}"
        width = self.terminal.console.width
        while len(numbers) > 2 and len(name) + 12 + len("  ".join(numbers)) > width:  # a narrow terminal: fewer numbers
            numbers.pop()
        text = "  ".join(numbers).replace(THIN, " ")
        room = max(4, min(BAR, width - len(name) - len(text) - 4))
        bar = ProgressBar(max(1, self.total), self.step if self.total else 1, width=room, complete_style="blue")
        row = Table.grid(padding=(0, 2, 0, 0))
        row.add_row(Text(name), bar, Text(text, no_wrap=True))
        self.live.update(row, refresh=True)

    def _line(self, done: bool = False) -> None:
        if self.brief:
            return
        self.last_line = time.monotonic()
        found = [f"{name} {measured(name, [value])}" for name, value in self.found.items()]
        name = [self.stage["name"]] if self.stage["name"] != "train" else []
        seed = [f"seed {self.info['seed']}"] if self.runs > 1 else []
        self.terminal.say("  ".join([*seed, *name, *self._numbers(done), *found[:2]]))

    def _hide(self) -> None:
        """Leaves the bar where it is and gives the cursor back."""
        if self.live and self.live.is_started:
            self.live.stop()
            console = self.terminal.console
            self.live = Live(console=console, auto_refresh=False)


def _sizes(stage: Mapping[str, Any]) -> str:
    val = f"{stage['val']:,} validation" if stage.get("val") else "no validation split"
    test = f"{stage['test']:,} test examples" if stage.get("test") else "no test split"
    files = len(stage.get("hashes") or ())
    checked = f"; {files} {'file' if files == 1 else 'files'}, hashes verified" if files else ""
    return f"{stage['train']:,} train, {val}, {test}{checked}"


class Bar(Monitor):
    """A study: one bar over all of its runs; where stdout is no terminal, a line a run."""

    def __init__(self, terminal: Terminal) -> None:
        self.terminal = terminal
        console = terminal.console
        self.live = (
            Live(console=console, auto_refresh=False) if console.is_terminal and not console.is_dumb_terminal else None
        )
        self.total = self.done = self.before = 0
        self.now = ""  # what runs

    def __enter__(self) -> Bar:
        return self

    def __exit__(self, *_: object) -> None:
        if self.live and self.live.is_started:
            self.live.stop()

    def began(self, study: Study, done: int) -> None:
        self.study, self.done, self.before = study, done, done
        self.total = len(study.members) * len(study.seeds)
        self.start = time.monotonic()
        if done:
            self.terminal.say(f"{done} of {plural(self.total, 'run')} finished before")
        if self.live and done < self.total:
            self.live.start()
            self._draw()

    def working(self, task: Task, now: str) -> None:
        self.now = f"{self._of(task)}, {now}"
        if self.live:
            self._draw()

    def ended(self, task: Task, run: Run | Failure) -> None:
        self.done += 1
        self.now = ""
        if isinstance(run, Failure):
            self.terminal.say(f"{MARKS['short']} {self._of(task)}: {run.message}")
        elif self.live is None:
            claimed = [claim.metric for entry in self.study.entries() for claim in entry.claims]
            metric = self.study.metric if self.study.metric in run.metrics else main_metric(run.metrics, claimed)
            found = f"{metric} {measured(metric, [run.metrics[metric]], run.counts.get(metric))}" if metric else "done"
            seconds = sum(stage["seconds"] or 0 for stage in run.info["stages"])
            self.terminal.say(f"run {self.done}/{self.total}  {self._of(task)}  {found}  in {duration(seconds)}")
        if self.live:
            self._draw()

    def note(self, message: str) -> None:
        self.terminal.say(message)

    def _of(self, task: Task) -> str:
        return f"{self.study.members[task.member].called}, seed {task.seed}"

    def _draw(self) -> None:
        assert self.live is not None
        passed, here = time.monotonic() - self.start, self.done - self.before
        left = passed / here * (self.total - self.done) if here else 0.0
        until = f"{duration(left) if left >= 60 else f'{round(left)} s'} left" if here else ""
        when = f"in {duration(passed)}" if self.done == self.total else until
        words = [f"{100 * self.done // self.total:3} %", f"run {self.done}/{self.total}", when, self.now]
        text = "  ".join(filter(None, words)).replace(THIN, " ")
        name, width = self.study.kind, self.terminal.console.width
        room = max(4, min(BAR, width - len(name) - len(text) - 4))
        row = Table.grid(padding=(0, 2, 0, 0))
        row.add_row(
            Text(name),
            ProgressBar(self.total, self.done, width=room, complete_style="blue"),
            Text(text, no_wrap=True, overflow="ellipsis"),
        )
        self.live.update(row, refresh=True)
