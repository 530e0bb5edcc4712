"""The READMEs are true: their example runs, and their table is what the evidence gives."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from fuxian.proof.table import refreshed

ROOT = Path(__file__).parents[1]
READMES = ["README.md", "README.zh-CN.md"]


@pytest.mark.parametrize("name", READMES)
def test_the_example_runs(name: str, tmp_path, monkeypatch, capsys) -> None:
    monkeypatch.setenv("FUXIAN_RUNS", str(tmp_path))
    (code,) = re.findall(r"```python\n(.*?)```", (ROOT / name).read_text(encoding="utf-8"), re.DOTALL)
    names: dict = {}
    exec(code, names)
    assert str(tmp_path) in capsys.readouterr().out
    assert names["model"].first.weight.shape[1] == 32


@pytest.mark.parametrize("name", READMES)
def test_the_table_of_proofs_is_what_the_evidence_gives(name: str) -> None:
    text = (ROOT / name).read_text(encoding="utf-8")
    assert text == refreshed(text), "run: python -m fuxian.proof.table README.md README.zh-CN.md"


@pytest.mark.parametrize("name", READMES)
def test_its_links_and_make_targets_exist(name: str) -> None:
    text = (ROOT / name).read_text(encoding="utf-8")
    for link in re.findall(r"\]\(([^)#]+)\)", text):
        assert (ROOT / link).exists(), link
    targets = set(re.findall(r"^make ([a-z-]+)", text, re.MULTILINE))
    assert targets
    assert targets <= set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
