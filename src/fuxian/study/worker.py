"""A process that plays runs for `jobs.py`: `python -m fuxian.study.worker THREADS`.

It reads one JSON object a line, `{folder, seed, changed_code}`, and writes what it has to tell: `{now}`, `{note}`,
`{ended: done | failed | stopped, error}`. When there is no more to read it ends; a run that is going on then is saved
first, so nothing is left behind by a parent that was killed.
"""

from __future__ import annotations

import json
import logging
import os
import queue
import signal
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch

from fuxian.engine.run import Run
from fuxian.engine.signals import Signals
from fuxian.errors import Interrupted
from fuxian.study.jobs import AGAIN, Teller, attempt


def main() -> None:
    torch.set_num_threads(int(sys.argv[1]))
    channel = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what a method prints must not be taken for our words

    def tell(**words: Any) -> None:
        with suppress(BrokenPipeError):  # the parent is gone: this run is about to be stopped
            print(json.dumps(words), file=channel, flush=True)

    class Notes(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            tell(note=record.getMessage())

    logging.getLogger("fuxian.data").addHandler(Notes())
    logging.getLogger("fuxian.data").setLevel(logging.INFO)
    tasks: queue.Queue[str] = queue.Queue()
    threading.Thread(target=_listen, args=(tasks,), daemon=True).start()
    watch = Teller(lambda now: tell(now=now), lambda message: tell(note=message))
    with Signals() as signals:
        while (line := tasks.get()) and not signals.asked:
            task = json.loads(line)
            try:
                came = attempt(Path(task["folder"]), task["seed"], watch, task["changed_code"])
            except Interrupted:
                tell(ended="stopped")
                return
            tell(ended="done") if isinstance(came, Run) else tell(ended="failed", error=came)
    if signals.asked:
        tell(ended="stopped")


def _listen(tasks: queue.Queue[str]) -> None:
    for line in sys.stdin:
        tasks.put(line)
    tasks.put("")
    while True:  # the main thread is still here: a run goes on that nobody waits for
        time.sleep(AGAIN / 2)
        os.kill(os.getpid(), signal.SIGTERM)


if __name__ == "__main__":
    main()
