"""The command `table`: what runs measured, as a table for a paper."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path

from fuxian.cli.options import Parser
from fuxian.cli.terminal import Terminal
from fuxian.errors import OutOfRoom, WrongInput
from fuxian.knobs import listed, nearest


def table(words: Sequence[str], terminal: Terminal) -> int:
    about = "What runs measured as a table: one row a method, one column a metric; mean ± standard deviation, best in bold."
    parser = Parser("table", about, "table RUN… [--format markdown|csv|latex] [--metric NAME]… [--output FILE]")
    parser.add_argument("runs", nargs="+", metavar="RUN", help="folder of a run, of its seeds, of a comparison or a sweep")
    parser.add_argument("--format", metavar="markdown|csv|latex", help="default: as FILE ends, else markdown")
    parser.add_argument("--metric", action="append", default=[], metavar="NAME", help="a column; default: the test split's")
    parser.add_argument("--output", metavar="FILE", help="write it there and not on the terminal")
    parser.add_common()
    options = parser.read(words)
    from fuxian.report import tables

    output = Path(options.output).expanduser() if options.output else None
    form = options.format or tables.ENDINGS.get(output.suffix if output else "", "markdown")
    if form not in tables.FORMATS:
        raise WrongInput(f"--format {form} is not one of {listed(tables.FORMATS)}{nearest(form, tables.FORMATS)}")
    folders = [Path(run).expanduser() for run in options.runs]
    for folder in folders:
        if not any((folder / f"{kind}.json").is_file() for kind in ("run", "seeds", *tables.KINDS)):
            what = "holds no run, no seeds, no comparison and no sweep" if folder.is_dir() else "is not there"
            raise WrongInput(f"{folder} {what}")
    text = tables.FORMATS[form](tables.table(folders, options.metric, shlex.join(["fuxian", "table", *words])))
    if output is None:
        print(text, end="")
        return 0
    if not output.parent.is_dir():
        raise WrongInput(f"there is no folder {output.parent}")
    try:
        output.write_text(text, encoding="utf-8")
    except OSError as error:
        raise OutOfRoom(f"{output} cannot be written: {error.strerror or error}") from None
    terminal.say(f"wrote {output}")
    return 0
