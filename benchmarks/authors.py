"""The code of papers' authors, at the commits that the methods cite: peers that no package has.

    python -m benchmarks.authors

clones them into .peers/, which git ignores. Nothing of them is copied into this project.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

from benchmarks.pairing import ROOT, Missing

PLACE = ROOT / ".peers"
COMMITS = {
    "ermongroup/CSDI": "7f24a43",
    "lucidrains/linear-attention-transformer": "24ecf20",  # 0.19.1
    "LiYuxin321/TMDM": "e44bde8",
    "thuml/Nonstationary_Transformers": "c4ec406",
    "wwy155/NsDiff": "0686624",
    "yuqinie98/PatchTST": "204c21e",
    "zalandoresearch/pytorch-ts": "7860c96",
}


def named(repository: str) -> str:
    """As a row of the table names it, with its commit."""
    return f"{repository} @ {COMMITS[repository]}"


def code(repository: str, folder: str = "") -> Path:
    """Lets `import` find a folder of that repository, and returns it. Raises Missing where it was not cloned, or is at
    another commit."""
    place = PLACE / repository.split("/")[1]
    if not place.is_dir():
        raise Missing(f"{named(repository)} is not there; make peers clones it")
    at = subprocess.run(["git", "-C", place, "rev-parse", "HEAD"], capture_output=True, text=True, check=True).stdout
    if not at.startswith(COMMITS[repository]):
        raise Missing(f".peers/{place.name} is at {at[:7]}, not at {COMMITS[repository]}; make peers mends it")
    sys.path.insert(0, str(place / folder))
    return place / folder


class StandIn(ModuleType):
    """A module that is not there. What it was not given is an empty class, which is inherited from or never used."""

    def __getattr__(self, name: str) -> type:
        if name.startswith("__"):
            raise AttributeError(name)
        return type(name, (), {})


def stand_in(module: str, **members: Any) -> None:
    """What `import` finds in the place of a package of which authors' code calls little or nothing. With a `__path__` it
    is a folder of modules whose `__init__.py` is not run."""
    sys.modules[module] = StandIn(module)
    vars(sys.modules[module]).update(members)


def clone(repository: str) -> bool:
    """Whether it is there, at its commit."""
    folder = PLACE / repository.split("/")[1]
    if not folder.is_dir():
        subprocess.run(["git", "clone", "-q", f"https://github.com/{repository}", folder])
    at = ["git", "-C", folder, "checkout", "-q", "--detach", COMMITS[repository]]
    return subprocess.run(at).returncode == 0


if __name__ == "__main__":
    PLACE.mkdir(exist_ok=True)
    if lacking := [named(repository) for repository in COMMITS if not clone(repository)]:
        sys.exit(f"not to be had: {', '.join(lacking)}")
