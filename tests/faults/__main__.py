"""Plants every fault of the catalogue, two at a time, and prints what caught it. Fails where one escapes.

    python -m tests.faults [WORD…] [--record]

WORDS choose the faults that have one of them in their name, file or tests. `--record` puts what was found into
`results/faults.json`.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from queue import SimpleQueue

from tests.faults.catalogue import FAULTS
from tests.faults.plant import ROOT, Fault, Runner, Verdict

RECORD = ROOT / "results" / "faults.json"


def chosen(words: Sequence[str]) -> list[Fault]:
    return [f for f in FAULTS if not words or any(word in " ".join([f.name, f.file, *f.tests]) for word in words)]


def row(fault: Fault, verdict: Verdict) -> str:
    caught = ", ".join(test.rpartition("::")[2] for test in fault.tests)
    line = f"{'✓' if verdict.caught else '✗'} {fault.name:<58}  {fault.file.rpartition('/')[2]:<19}  {caught}"
    return line if verdict.caught else f"{line}\n  escaped: {verdict.why}"


def record(judged: Mapping[str, Verdict]) -> None:
    """Writes what was judged now, and what was recorded before of the others."""
    before = json.loads(RECORD.read_text(encoding="utf-8"))["faults"] if RECORD.is_file() else []
    known = {one["fault"]: one for one in before}
    for fault in FAULTS:
        if fault.name in judged:
            facts = {"file": fault.file, "tests": list(fault.tests), "caught": judged[fault.name].caught}
            known[fault.name] = {"fault": fault.name, **facts}
    faults = [known[fault.name] for fault in FAULTS if fault.name in known]
    RECORD.write_text(json.dumps({"faults": faults}, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.faults", description=__doc__)
    parser.add_argument("words", nargs="*", metavar="WORD")
    parser.add_argument("--record", action="store_true", help="into results/faults.json")
    options = parser.parse_args()
    faults, began = chosen(options.words), time.perf_counter()
    clean: dict[str, str] = {}
    verdicts: list[Verdict] = []
    with ExitStack() as stack:
        runners = [stack.enter_context(Runner(faults, clean=clean)) for _ in range(min(2, os.cpu_count() or 1))]
        pool = stack.enter_context(ThreadPoolExecutor(len(runners)))
        free: SimpleQueue[Runner] = SimpleQueue()
        for runner in runners:
            free.put(runner)

        def judge(fault: Fault) -> Verdict:
            runner = free.get()
            try:
                return runner.judge(fault)
            finally:
                free.put(runner)

        print(f"  {'fault':<58}  {'where':<19}  caught by")
        try:
            for fault, verdict in zip(faults, pool.map(judge, faults), strict=True):
                verdicts.append(verdict)
                print(row(fault, verdict), flush=True)
        except KeyboardInterrupt:
            pool.shutdown(wait=False, cancel_futures=True)
            return 130
    caught = sum(verdict.caught for verdict in verdicts)
    print(f"\n{caught} of {len(faults)} planted faults caught, in {(time.perf_counter() - began) / 60:.1f} min")
    if options.record:
        record(dict(zip((fault.name for fault in faults), verdicts, strict=True)))
    return 0 if caught == len(faults) else 1


if __name__ == "__main__":
    sys.exit(main())
