"""Several seeds in one folder: stopped in one of them, the folder is what goes on."""

from __future__ import annotations

import json
import os
import signal

import pytest

from fuxian.engine.run import resume, run_seeds
from fuxian.engine.watch import Watch
from fuxian.errors import Interrupted


class CtrlC(Watch):
    """Presses Ctrl-C when the second seed begins."""

    def started(self, folder, info) -> None:
        if info["seed"] == 1:
            os.kill(os.getpid(), signal.SIGINT)


def test_a_stopped_set_of_seeds_names_its_folder_and_goes_on(tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("FUXIAN_RUNS", str(tmp_path))
    with pytest.raises(Interrupted) as stopped:
        run_seeds("kmeans", [0, 1, 2], name="three", watch=CtrlC(), steps=5)
    folder = tmp_path / "basics.kmeans" / "three"
    assert stopped.value.code == 130
    assert stopped.value.lines["do"].startswith(f"fuxian resume {folder} ")
    assert json.loads((folder / "seeds.json").read_text())["status"] == "stopped"
    assert not (folder / "seed-2").exists()

    runs = resume(folder)
    assert [run.info["seed"] for run in runs] == [0, 1, 2]
    assert all(run.info["status"] == "done" for run in runs)
    assert json.loads((folder / "seeds.json").read_text())["status"] == "done"


def test_the_command_of_a_set_of_seeds_names_its_knobs(tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("FUXIAN_RUNS", str(tmp_path))
    runs = run_seeds("kmeans", [0, 1], name="two", steps=5)
    saved = json.loads((runs[0].folder.parent / "seeds.json").read_text())
    assert saved["command"] == "fuxian run kmeans --steps 5 --seeds 2"
    runs = run_seeds("kmeans", [3, 5], name="others", quick=True)
    saved = json.loads((runs[0].folder.parent / "seeds.json").read_text())
    assert saved["command"] == "fuxian run kmeans --quick --seeds 3,5"
