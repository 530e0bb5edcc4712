"""Our work beside that of other libraries, as ratios.

    python benchmarks/run.py [gpt unet …] [--pairs 9] [--threads 2] [--record]

Two processes do the same work by turns; ours / peer is the median over the pairs, with what the middle half of them lies
between. On a busy machine take --threads 1: two threads that wait for each other measure the neighbours.
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "src")]

from benchmarks import pairing, table  # noqa: E402


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", help="works, or the beginnings of their names; default: all")
    parser.add_argument("--pairs", type=int, default=9, help="two or more, seven for a record; 0 compares only")
    parser.add_argument("--threads", type=int, default=min(2, os.cpu_count() or 1), help="of each side")
    parser.add_argument("--record", action="store_true", help="write results/bench/, docs/benchmarks.md and the cards")
    given = parser.parse_args()
    known = pairing.works()
    chosen = [name for name in known if not given.names or any(name.startswith(word) for word in given.names)]
    if unknown := [word for word in given.names if not any(name.startswith(word) for name in known)]:
        parser.error(f"there is no work {unknown[0]!r}; there are: {', '.join(known)}")
    if given.pairs < (pairing.FEWEST if given.record else 2) and (given.pairs or given.record):
        parser.error(f"--pairs {given.pairs}: a record takes {pairing.FEWEST} or more, a look two, 0 only compares")
    found = []
    for name in sorted(chosen, key=lambda name: (known[name].goal is None, name)):
        print(f"{name} …", end="", file=sys.stderr, flush=True)
        record = pairing.measure(known[name], given.pairs, given.threads)
        said = record.get("reason") or f"the sides agree to {record['difference']:.0e}"
        print(f"\r{name}: {said}", file=sys.stderr)
        found.append(record)
        if given.record and not table.write(record):
            print(f"{name}: the record of before stays", file=sys.stderr)
    if not given.pairs:
        return 0
    print(table.terminal(found))
    print(table.summary(found))
    print("\n".join(table.to_result()))
    if given.record:
        table.refresh()
    return 0


if __name__ == "__main__":
    sys.exit(main())
