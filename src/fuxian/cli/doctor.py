"""The command `doctor`: what is wrong here, and what to do. A package that breaks is loaded in a process of its own."""

from __future__ import annotations

import importlib.util
import json
import os
import platform
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from fuxian.cli.options import Parser
from fuxian.cli.terminal import MARKS, Terminal
from fuxian.errors import FuxianError
from fuxian.knobs import nearest
from fuxian.numbers import plural, size

VARIABLES = ("FUXIAN_RUNS", "FUXIAN_DATA", "FUXIAN_CACHE", "FUXIAN_OFFLINE", "FUXIAN_MIRROR")

_TORCH = """
import json, torch
cuda = torch.cuda.is_available()
print(json.dumps({
    "version": torch.__version__, "threads": torch.get_num_threads(),
    "accelerators": [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())] if cuda else
                    ["Apple GPU (mps)"] if torch.backends.mps.is_available() else [],
    "bf16": torch.cuda.get_device_capability() >= (8, 0) if cuda else None,
}))
"""


@dataclass
class Finding:
    """One line of the doctor. `lines` follow it; `stops` says that Fuxian cannot run."""

    mark: str
    name: str
    text: str
    lines: dict[str, str] = field(default_factory=dict)
    stops: bool = False


def doctor(words: Sequence[str], terminal: Terminal) -> int:
    """Exit code 1 where something stops Fuxian."""
    parser = Parser("doctor", "What is wrong here, and what to do.", "doctor [--json]")
    parser.add_common(json=True)
    parser.read(words)
    findings = []
    for found in _findings():
        findings.append(found)
        if not terminal.wants_json:
            terminal.say(f"{MARKS[found.mark]} {found.name:<12} {found.text}")
            for name, text in found.lines.items():
                terminal.say(f"  {'':<12} {name:<14} {text}")
    problems = [found for found in findings if found.mark == "short"]
    stopping = [found for found in problems if found.stops]
    if terminal.wants_json:
        told = [{"name": f.name, "mark": f.mark, "text": f.text, **f.lines} for f in findings]
        terminal.json({"findings": told, "problems": len(problems), "stops": bool(stopping)})
    elif not problems:
        terminal.say("No problem.")
    else:
        stop = f"{len(stopping)} of them {'stops' if len(stopping) == 1 else 'stop'}" if stopping else "none that stops"
        terminal.say(f"{plural(len(problems), 'problem')}, {stop} Fuxian.")
    return 1 if stopping else 0


def _findings() -> Iterator[Finding]:
    old = sys.version_info < (3, 10)
    yield Finding("short" if old else "ok", "python", platform.python_version(), stops=old)
    torch, found = _torch()
    yield found
    yield _installed("numpy")
    if importlib.util.find_spec("torchvision") is not None:
        yield _torchvision(torch)
    yield _disk()
    yield from _variables()
    yield from _data()


def _python(code: str) -> tuple[str, str]:
    """What a fresh Python prints, and the last line of its complaint (empty if it ended well)."""
    try:
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=False)
    except subprocess.TimeoutExpired:
        return "", "no answer in 120 s"
    complaint = (done.stderr.strip().splitlines() or [f"it ended with code {done.returncode}"])[-1]
    return done.stdout, complaint if done.returncode else ""


def _torch() -> tuple[str, Finding]:
    if importlib.util.find_spec("torch") is None:
        return "", Finding("short", "torch", "not installed", {"do": "pip install torch"}, stops=True)
    printed, complaint = _python(_TORCH)
    if complaint:
        do = "install it anew: pip install --force-reinstall torch"
        return "", Finding("short", "torch", f"{_version('torch')} cannot be imported: {complaint}", {"do": do}, stops=True)
    seen = json.loads(printed.splitlines()[-1])
    where = ", ".join(seen["accelerators"]) or "no accelerator"
    bf16 = {True: "yes", False: "no", None: "not known"}[_cpu_has_bf16() if seen["bf16"] is None else seen["bf16"]]
    text = f"{seen['version']}, {plural(seen['threads'], 'thread')}, {where}, bf16 in hardware: {bf16}"
    return seen["version"], Finding("ok", "torch", text)


def _cpu_has_bf16() -> bool | None:
    """Whether the processor multiplies bfloat16 itself: AMX or AVX-512 on x86, the bf16 extension on Arm. Linux only."""
    try:
        flags = re.search(r"^(?:flags|Features)\s*:(.*)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    except OSError:
        return None
    return bool({"amx_bf16", "avx512_bf16", "bf16"} & set(flags[1].split())) if flags else None


def _torchvision(torch: str) -> Finding:
    """A wheel of torchvision fits one build of torch; beside another its operators are missing, and its users break."""
    _, complaint = _python("import torch, torchvision; torchvision.ops.nms(torch.zeros(1, 4), torch.zeros(1), 0.5)")
    if not complaint:
        return Finding("ok", "torchvision", f"{_version('torchvision')}; Fuxian does not use it")
    what = complaint.partition(": ")[2] or complaint
    lines = {
        "what it breaks": "timm, open_clip, torch-fidelity, when they are imported",
        "Fuxian itself": "does not use it; every method runs",
        "do": "pip uninstall torchvision",
    }
    return Finding("short", "torchvision", f"{_version('torchvision')} is broken beside torch {torch}: {what}", lines)


def _installed(package: str) -> Finding:
    found = _version(package)
    missing = {} if found else {"do": f"pip install {package}"}
    return Finding("ok" if found else "short", package, found or "not installed", missing, stops=not found)


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return ""


def _disk() -> Finding:
    runs = Path(os.environ.get("FUXIAN_RUNS") or "runs")
    there = next(path for path in (runs.absolute(), *runs.absolute().parents) if path.is_dir())
    free = shutil.disk_usage(there).free
    if not os.access(there, os.W_OK):
        do = "set FUXIAN_RUNS to a folder that can be written"
        return Finding("short", "disk", f"{there} cannot be written", {"do": do}, stops=True)
    little = free < 2**30
    text = f"{size(free)} free at {runs if runs.is_absolute() else f'./{runs}'}"
    return Finding("short" if little else "ok", "disk", text, {"do": "make room, or set FUXIAN_RUNS"} if little else {})


def _variables() -> Iterator[Finding]:
    for name in sorted(name for name in os.environ if name.startswith("FUXIAN_")):
        if name not in VARIABLES:
            yield Finding("short", "environment", f"Fuxian does not read {name}{nearest(name, VARIABLES)}")
        elif name == "FUXIAN_DATA" and not Path(os.environ[name]).expanduser().is_dir():
            yield Finding("short", "environment", f"{name} is {os.environ[name]}, and there is no such folder")
        else:
            yield Finding("ok", "environment", f"{name}={os.environ[name]}")
    if not any(name.startswith("FUXIAN_") for name in os.environ):
        yield Finding("none", "environment", "no FUXIAN_ variable is set")


def _data() -> Iterator[Finding]:
    """Which published data sets are here; those that are, with every hash checked."""
    from fuxian.data import sources

    verified, absent = [], 0
    for name in sources.SOURCES:
        places = sources.present(name).values()
        if not all(places):
            here = sum(place is not None for place in places)
            absent += here == 0
            if here:
                yield Finding("short", "data", f"{name}: {here} of its {len(places)} files are here")
            continue
        try:
            sources.find(name)
            verified.append(name)
        except FuxianError as error:
            yield Finding("short", "data", error.message, error.lines)
    rest = f"{plural(absent, 'set')} not here" if absent else ""
    told = f"{', '.join(verified)} verified" if verified else ""
    yield Finding("ok" if verified else "none", "data", "; ".join(filter(None, [told, rest])))
