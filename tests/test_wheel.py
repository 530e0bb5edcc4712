"""The wheel works outside the checkout: methods, templates and results are in it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.mark.slow
def test_a_run_and_a_listing_from_the_wheel(tmp_path: Path) -> None:
    build = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path)]
    subprocess.run(build, cwd=ROOT, check=True, capture_output=True)
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path / "site")
    environment = {**os.environ, "PYTHONPATH": str(tmp_path / "site"), "FUXIAN_RUNS": str(tmp_path / "runs")}

    def fuxian(*words: str) -> dict:
        command = [sys.executable, "-m", "fuxian", *words, "--json"]
        done = subprocess.run(command, cwd=tmp_path, env=environment, check=True, capture_output=True, text=True)
        return json.loads(done.stdout)

    where = [sys.executable, "-c", "import fuxian; print(fuxian.__file__)"]
    assert (
        str(tmp_path)
        in subprocess.run(where, cwd=tmp_path, env=environment, check=True, capture_output=True, text=True).stdout
    )
    here = json.loads(
        subprocess.run([sys.executable, "-m", "fuxian", "list", "--json"], capture_output=True, check=True).stdout
    )
    for methods in (there := fuxian("list")["methods"], here["methods"]):
        for method in methods:
            method.pop("file")
    assert there == here["methods"], "the wheel shows the same methods and the same proofs"
    done = fuxian("run", "gcn", "--quick", "--epochs", "5")
    assert Path(done["folder"], "report.html").is_file()
