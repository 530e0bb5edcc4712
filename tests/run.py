"""Runs the suite in two processes where there are two cores, prints the ten slowest tests, and fails above a bound."""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, required=True, help="fail when the suite takes longer")
    options, rest = parser.parse_known_args()
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONWARNINGS": os.environ.get("PYTHONWARNINGS", "")}
    environment.pop("PYTHONDONTWRITEBYTECODE", None)  # else each command that a test starts compiles the package anew
    processes = ["-n", str(min(2, os.cpu_count() or 1)), "--dist", "loadgroup"]
    command = [sys.executable, "-m", "pytest", *processes, "--durations=10", "-ra", *rest]
    began = time.perf_counter()
    code = subprocess.run(command, env=environment).returncode
    minutes = (time.perf_counter() - began) / 60
    if code == 0 and minutes > options.minutes:
        print(f"the suite took {minutes:.1f} min, more than its {options.minutes:g}")
        return 1
    return code


if __name__ == "__main__":
    sys.exit(main())
