"""The READMEs and the docs are true: their examples run, and their tables are what the evidence gives."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from fuxian.cli import main
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


@pytest.mark.parametrize("name", [*READMES, "docs/proofs.md"])
def test_the_tables_of_proofs_are_what_the_evidence_gives(name: str) -> None:
    text = (ROOT / name).read_text(encoding="utf-8")
    assert text == refreshed(text), "run: python -m fuxian.proof.table README.md README.zh-CN.md docs/proofs.md"


def test_a_document_without_a_place_for_a_table_is_refused() -> None:
    with pytest.raises(ValueError, match="no place"):
        refreshed("# Proofs\n")


def test_the_docs_on_exporting_run(tmp_path: Path, monkeypatch) -> None:
    """Its commands and its Python, in the order in which they stand there."""
    pytest.importorskip("onnxruntime")
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("FUXIAN_RUNS", raising=False)
    text = (ROOT / "docs" / "exporting.md").read_text(encoding="utf-8")
    for language, code in re.findall(r"```(\w+)\n(.*?)```", text, re.DOTALL):
        if language == "python":
            exec(code, {})
            continue
        for line in code.splitlines():
            words = shlex.split(line, comments=True)
            if words[:1] == ["fuxian"]:
                assert main(words[1:]) == 0, line


def test_every_page_of_the_docs_leads_to_files() -> None:
    for page in (ROOT / "docs").glob("*.md"):
        for link in re.findall(r"\]\(([^)#:]+)\)", page.read_text(encoding="utf-8")):
            assert (page.parent / link).exists(), f"{page.name}: {link}"


@pytest.mark.parametrize("name", READMES)
def test_its_links_and_make_targets_exist(name: str) -> None:
    text = (ROOT / name).read_text(encoding="utf-8")
    for link in re.findall(r"\]\(([^)#]+)\)", text):
        assert (ROOT / link).exists(), link
    targets = set(re.findall(r"^make ([a-z-]+)", text, re.MULTILINE))
    assert targets
    assert targets <= set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
