"""What is kept of a comparison, for the tables of the docs: `python -m fuxian.study.record FOLDER [METRIC …]`.

It writes `results/comparisons/<name>.json`, which `fuxian.proof.table` puts where a document has `<!-- <name> -->`. Rows
of other methods that are there stay: a method may be added later, in a comparison of the same name.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from math import isfinite
from pathlib import Path

from fuxian.errors import FuxianError, WrongInput
from fuxian.proof.record import comparisons, record_comparison
from fuxian.study.outcome import Comparison
from fuxian.study.plan import read


def keep(folder: Path, metrics: Sequence[str]) -> Path:
    """Writes the record of a finished comparison and returns its file.

    `metrics` are the columns beside that of the comparison; what a method does not measure is left open.
    Raises WrongInput where a run is not finished, a metric is measured by none or not finite, or the record is of other
    data or seeds.
    """
    told = Comparison(read(folder))
    if told.failed:
        raise WrongInput(f"{folder}: {told.failed} of its runs are not finished", do=f"fuxian resume {folder}")
    columns = list(dict.fromkeys([told.metric, *metrics]))
    for metric in columns:
        if not any(row.values(metric) for row in told.rows):
            raise WrongInput(f"no method of {folder} measures {metric}")
        for row in told.rows:
            if not all(map(isfinite, row.values(metric).values())):
                raise WrongInput(f"{metric} of {row.member.called} is not finite in every run of {folder}")
    rows = []
    for row in told.rows:
        facts = ("commit", "dirty", "versions", "machine", "threads", "device", "precision", "created")
        rows.append({
            "called": row.member.called,
            "command": told.study.command,
            "knobs": {name: knob["value"] for name, knob in row.info["knobs"].items()},
            "values": {metric: list(row.values(metric).values()) for metric in columns if row.values(metric)},
            "published": row.paper(told.metric),
            "seconds": round(row.seconds, 1),
            "parameters": row.parameters,
            **{name: row.info[name] for name in facts},
        })  # fmt: skip
    about = {"data": told.data, "count": told.count, "seeds": list(told.study.seeds), "columns": columns}
    before = comparisons().get(folder.name, about)
    for name, value in about.items():
        if before[name] != value:
            raise WrongInput(f"{folder} has the {name} {value}; the record of that name has {before[name]}")
    new = {row["called"] for row in rows}
    others = [row for row in before.get("rows", []) if row["called"] not in new]
    return record_comparison(folder.name, {**about, "rows": [*others, *rows]})


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="of a comparison that has ended")
    parser.add_argument("metric", nargs="*", help="columns beside its own metric")
    given = parser.parse_args()
    try:
        print(keep(given.folder, given.metric))
    except FuxianError as error:
        parser.exit(error.code, f"{error}\n")
