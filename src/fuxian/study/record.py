"""What is kept of a comparison, for the tables of the docs: `python -m fuxian.study.record FOLDER METRIC…`.

It writes `results/comparisons/<name>.json`, which `fuxian.proof.table` puts where a document has `<!-- <name> -->`.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from fuxian.errors import WrongInput
from fuxian.proof.record import record_comparison
from fuxian.study.outcome import Comparison
from fuxian.study.plan import read


def keep(folder: Path, metrics: Sequence[str]) -> Path:
    """Writes the record of a finished comparison and returns its file.

    `metrics` are the columns beside that of the comparison; what a method does not measure is left open.
    Raises WrongInput where a run is not finished, or a metric is measured by none.
    """
    told = Comparison(read(folder))
    if told.failed:
        raise WrongInput(f"{folder}: {told.failed} of its runs are not finished", do=f"fuxian resume {folder}")
    columns = list(dict.fromkeys([told.metric, *metrics]))
    for metric in columns:
        if not any(row.values(metric) for row in told.rows):
            raise WrongInput(f"no method of {folder} measures {metric}")
    rows = []
    for row in told.rows:
        facts = ("commit", "dirty", "versions", "machine", "threads", "device", "precision", "created")
        rows.append({
            "called": row.member.called,
            "knobs": {name: knob["value"] for name, knob in row.info["knobs"].items()},
            "values": {metric: list(row.values(metric).values()) for metric in columns if row.values(metric)},
            "published": row.paper(told.metric),
            "seconds": round(row.seconds, 1),
            "parameters": row.parameters,
            **{name: row.info[name] for name in facts},
        })  # fmt: skip
    return record_comparison(folder.name, {
        "command": told.study.command, "data": told.data, "count": told.count, "better": told.better,
        "seeds": list(told.study.seeds), "columns": columns, "rows": rows,
    })  # fmt: skip


if __name__ == "__main__":
    print(keep(Path(sys.argv[1]), sys.argv[2:]))
