"""The doctor finds what is wrong and lives: packages that break are loaded in a process of their own."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path

import pytest

from fuxian.cli import doctor
from fuxian.data import sources

Fuxian = Callable[..., tuple[int, str, str]]
SEEN = '{"version": "2.13.0+cpu", "threads": 2, "accelerators": [], "bf16": true}'


@pytest.fixture
def healthy(monkeypatch: pytest.MonkeyPatch) -> None:
    """A torch that answers at once, no torchvision, no published data."""
    monkeypatch.setattr(doctor, "_python", lambda code: (SEEN, ""))
    find_spec = doctor.importlib.util.find_spec
    monkeypatch.setattr(doctor.importlib.util, "find_spec", lambda name: None if name == "torchvision" else find_spec(name))
    monkeypatch.setattr(sources, "SOURCES", {})


@pytest.mark.usefixtures("healthy")
def test_all_is_well(fuxian: Fuxian) -> None:
    code, out, _ = fuxian("doctor")
    assert code == 0
    assert "● torch        2.13.0+cpu, 2 threads, no accelerator, bf16 in hardware: yes\n" in out
    assert "– environment  no FUXIAN_ variable is set\n" in out
    assert out.endswith("No problem.\n")


@pytest.mark.usefixtures("healthy")
def test_variables(fuxian: Fuxian, here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FUXIAN_RUN", "x")
    monkeypatch.setenv("FUXIAN_DATA", "nowhere")
    monkeypatch.setenv("FUXIAN_RUNS", str(here / "elsewhere"))
    code, out, _ = fuxian("doctor")
    assert code == 0
    assert "◆ environment  Fuxian does not read FUXIAN_RUN; the nearest is FUXIAN_RUNS\n" in out
    assert "◆ environment  FUXIAN_DATA is nowhere, and there is no such folder\n" in out
    assert f"free at {here / 'elsewhere'}\n" in out
    assert out.endswith("2 problems, none that stops Fuxian.\n")


@pytest.mark.usefixtures("healthy")
def test_data_that_is_here_is_verified(fuxian: Fuxian, here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def source(name: str, *contents: bytes) -> sources.Source:
        files = tuple(sources.File(f"{i}.txt", len(c), hashlib.sha256(c).hexdigest()) for i, c in enumerate(contents))
        return sources.Source(name, name, (), "", "", files)

    for path in ("whole/0.txt", "half/0.txt", "bad/0.txt"):
        (here / path).parent.mkdir()
        (here / path).write_bytes(b"content")
    table = dict(whole=(b"content",), half=(b"content", b"more"), bad=(b"CONTENT",), none=(b"content",))
    monkeypatch.setattr(sources, "SOURCES", {name: source(name, *contents) for name, contents in table.items()})
    monkeypatch.setenv("FUXIAN_DATA", str(here))
    monkeypatch.setenv("FUXIAN_CACHE", str(here / "cache"))
    out = fuxian("doctor")[1]
    assert "◆ data         half: 1 of its 2 files are here\n" in out
    assert "◆ data         bad: 0.txt is not the published file\n" in out
    assert "● data         whole verified; 1 set not here\n" in out


@pytest.mark.slow
def test_a_broken_torchvision_is_named(outside: Fuxian, here: Path) -> None:
    (here / "packages/torchvision").mkdir(parents=True)
    said = "raise RuntimeError('operator torchvision::nms does not exist')\n"
    (here / "packages/torchvision/__init__.py").write_text(said)
    code, out, err = outside("-m", "fuxian", "doctor", PYTHONPATH=str(here / "packages"))
    assert (code, err) == (0, "")
    assert "is broken beside torch 2." in out
    assert ": operator torchvision::nms does not exist\n" in out
    assert "pip uninstall torchvision\n" in out
    assert "1 problem, none that stops Fuxian.\n" in out


def test_a_torch_that_crashes_does_not_crash_the_doctor(outside: Fuxian, here: Path) -> None:
    (here / "packages").mkdir()
    (here / "packages/torch.py").write_text("import os\nos.abort()\n")
    code, out, _ = outside("-m", "fuxian", "doctor", "--json", PYTHONPATH=str(here / "packages"))
    told = json.loads(out)
    torch = next(finding for finding in told["findings"] if finding["name"] == "torch")
    assert (code, told["stops"], torch["mark"]) == (1, True, "short")
    assert "cannot be imported" in torch["text"]
