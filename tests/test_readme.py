"""The READMEs and the docs are true: their examples run, and their tables are what the evidence gives."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from fuxian.cli import main
from fuxian.proof.table import makers, refreshed

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


def pages() -> dict[str, str]:
    paths = [*(ROOT / name for name in READMES), *sorted((ROOT / "docs").glob("*.md"))]
    return {str(path.relative_to(ROOT)): path.read_text(encoding="utf-8") for path in paths}


@pytest.mark.parametrize(
    "name", [name for name, text in pages().items() if name in READMES or any(f"<!-- {k} -->" in text for k in makers())]
)
def test_the_table_of_proofs_is_what_the_evidence_gives(name: str) -> None:
    text = pages()[name]
    assert text == refreshed(text), f"run: python -m fuxian.proof.table {name}"


@pytest.mark.parametrize("name", [name for name in pages() if name != "docs/log.md"])  # which tells what happened, when
def test_results_stand_only_in_tables_that_are_made_from_the_evidence(name: str) -> None:
    """Whoever quotes a result by hand quotes it wrong one day: `81.6 %`, `0.053 ± 0.004`, `25.8 perplexity`."""
    assert quoted(pages()[name]) == []


def quoted(text: str) -> list[str]:
    """Measured numbers outside of code and of tables between `<!-- name -->` and `<!-- /name -->`."""
    made = re.sub(r"<!-- (\w+) -->.*?<!-- /\1 -->|```.*?```|`[^`\n]*`", "", text, flags=re.DOTALL)
    return re.findall(r"\d+\.\d+\s*%|\d[\d.]*\s*±\s*\d[\d.]*|\d+\.\d+ (?:accuracy|error|perplexity|nats)", made)


def test_a_quoted_result_is_found() -> None:
    assert quoted("It reaches 81.6 % and 0.053 ± 0.004, at 25.8 perplexity.") == [
        "81.6 %",
        "0.053 ± 0.004",
        "25.8 perplexity",
    ]
    assert (
        quoted("`81.6 %`\n<!-- proofs -->\n81.6 %\n<!-- /proofs -->\n```\n81.6 %\n```\nPython 3.10, 80/10/10, 95 %") == []
    )


def test_a_document_without_a_place_for_a_table_is_refused() -> None:
    with pytest.raises(ValueError, match="no place"):
        refreshed("# Proofs\n")


@pytest.mark.slow
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
