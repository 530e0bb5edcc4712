"""The table of proofs in the READMEs, made from `results/`: `python -m fuxian.proof.table` writes it anew."""

from __future__ import annotations

import sys
from pathlib import Path

from fuxian import catalog
from fuxian.proof.card import card

SIGNS = {"ok": "●", "short": "◆", "part": "◐", "scale": "○", "none": "–"}
BEGIN, END = "<!-- proofs -->", "<!-- /proofs -->"


def markdown() -> str:
    """One row a method: its paper, and a mark and a word for each of the five proofs."""
    rows = ["| method | paper | parity | claim | speed | resume | export |", "|---|---|---|---|---|---|---|"]
    for entry in catalog.methods():
        paper = f"{entry.paper.authors} {entry.paper.year}" if entry.paper else entry.source
        cells = [
            SIGNS[proof.mark] if proof.mark == "none" else f"{SIGNS[proof.mark]} {proof.word}" for proof in card(entry)
        ]
        rows.append(
            f"| [{entry.name}](src/fuxian/methods/{entry.family}/{entry.name}.py) | {' | '.join([paper, *cells])} |"
        )
    return "\n".join(rows)


def refreshed(text: str) -> str:
    """A README with the table that the evidence gives today. Raises ValueError where it has no place for one."""
    before, rest = text.split(BEGIN)
    return f"{before}{BEGIN}\n{markdown()}\n{END}{rest.split(END)[1]}"


if __name__ == "__main__":
    for path in map(Path, sys.argv[1:]):
        path.write_text(refreshed(path.read_text(encoding="utf-8")), encoding="utf-8")
