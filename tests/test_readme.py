"""The READMEs are true: their example runs, and their table is what the evidence gives."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from fuxian.proof.table import BEGIN, refreshed

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


@pytest.mark.parametrize("name", [name for name, text in pages().items() if name in READMES or BEGIN in text])
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


@pytest.mark.parametrize("name", READMES)
def test_its_links_and_make_targets_exist(name: str) -> None:
    text = (ROOT / name).read_text(encoding="utf-8")
    for link in re.findall(r"\]\(([^)#]+)\)", text):
        assert (ROOT / link).exists(), link
    targets = set(re.findall(r"^make ([a-z-]+)", text, re.MULTILINE))
    assert targets
    assert targets <= set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
