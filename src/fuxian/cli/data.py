"""The command `data`: which published data sets there are and which are here; to get one, and to check its files."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.progress import BarColumn, DownloadColumn, Progress, TimeRemainingColumn, TransferSpeedColumn

from fuxian import catalog
from fuxian.cli.options import Parser
from fuxian.cli.show import table_of
from fuxian.cli.terminal import MARKS, Terminal
from fuxian.errors import DataMissing, WrongInput
from fuxian.knobs import listed, nearest
from fuxian.numbers import NONE, plural, size

if TYPE_CHECKING:
    from fuxian.data import sources

ACTIONS = ("list", "get", "check")


def data(words: Sequence[str], terminal: Terminal) -> int:
    """0; of `check` 1 where a file is not the published one, and 4 where one is not here; of `get` 4."""
    about = "Published data sets: list them, get some, or check every file of theirs by its hash."
    parser = Parser("data", about, "data list|get|check [NAME…] [--json]")
    parser.add_argument("action", nargs="?", metavar="list|get|check", help="check without a NAME: all that are here")
    parser.add_argument("names", nargs="*", metavar="NAME", help="cora, mnist, …: fuxian data list")
    parser.add_common(json=True)
    options = parser.read(words)
    if options.action is None:
        raise WrongInput("list, get or check is missing. Help: fuxian data --help")
    if options.action not in ACTIONS:
        raise WrongInput(f"data {options.action} is not one of {listed(ACTIONS)}{nearest(options.action, ACTIONS)}")
    from fuxian.data import sources

    for name in options.names:
        if name not in sources.SOURCES:
            raise WrongInput(f"there is no data set {name}{nearest(name, sources.SOURCES)}. All: fuxian data list")
    if options.action == "get":
        if not options.names:
            raise WrongInput("data get needs a NAME. All: fuxian data list")
        return _get(options.names, terminal)
    names = options.names or list(sources.SOURCES)
    if options.action == "check":
        return _check(names, terminal, asked=bool(options.names))
    return _list(names, terminal)


# ── list ────────────────────────────────────────────────────────────────────────────────────────────────────────────


def _list(names: Sequence[str], terminal: Terminal) -> int:
    from fuxian.data.sources import SOURCES

    using = _users()
    if terminal.wants_json:
        terminal.json({"sets": [_facts(name, using) for name in names]})
        return 0
    table = table_of("name", "size", "where", "used by", "licence")
    for name in names:
        bytes_ = sum(file.size for file in SOURCES[name].files)
        table.add_row(name, size(bytes_), _where(name), ", ".join(using.get(name, [])) or NONE, SOURCES[name].licence)
    terminal.say(table)
    terminal.say("What ships with a package, or is generated, needs no file. To have one here: fuxian data get NAME")
    return 0


def _users() -> dict[str, list[str]]:
    """The methods that take each data set, by the choices of their knobs."""
    using: dict[str, list[str]] = {}
    for entry in catalog.methods():
        for choice in {choice for knob in entry.knobs for choice in knob.choices}:
            using.setdefault(choice, []).append(entry.name)
    return using


def _where(name: str) -> str:
    from fuxian.data.sources import present

    there = list(present(name).values())
    here = [path for path in there if path]
    if not here:
        return "not here"
    return _short(here[0].parent) if len(here) == len(there) else f"{len(here)} of {plural(len(there), 'file')}"


def _short(folder: Path) -> str:
    """`$FUXIAN_DATA/mnist`, `~/.cache/fuxian/mnist`."""
    from fuxian.data.sources import data_folder

    for name, parent in (("$FUXIAN_DATA", data_folder()), ("~", Path.home())):
        if parent and folder.is_relative_to(parent):
            return f"{name}/{folder.relative_to(parent)}"
    return str(folder)


def _facts(name: str, using: dict[str, list[str]]) -> dict[str, Any]:
    from fuxian.data.sources import SOURCES, present

    source, there = SOURCES[name], present(name)
    return {
        "name": name,
        "title": source.title,
        "size": sum(file.size for file in source.files),
        "licence": source.licence,
        "citation": source.citation,
        "methods": using.get(name, []),
        "folder": source.folder,
        "from": source.bases,
        "here": all(there.values()),
        "files": [{**_file(file), "path": there[file.name]} for file in source.files],
    }


def _file(file: sources.File) -> dict[str, Any]:
    unpacked = {"size": file.unpacked[0], "sha256": file.unpacked[1]} if file.unpacked else None
    return {"name": file.name, "size": file.size, "sha256": file.sha256, "unpacked": unpacked}


# ── get ─────────────────────────────────────────────────────────────────────────────────────────────────────────────


def _get(names: Sequence[str], terminal: Terminal) -> int:
    """Downloads what is not here, and checks what is. One set that cannot be had does not stop the others."""
    from fuxian.data.sources import SOURCES, find

    code, told = 0, []
    for name in names:
        source = SOURCES[name]
        terminal.say(f"{name}  {source.title}, {size(sum(file.size for file in source.files))}")
        terminal.say(f"  licence  {source.licence}")
        terminal.say(f"  cite     {source.citation}")
        try:
            with _downloads(terminal) as (note, progress):
                paths = find(name, note=note, progress=progress)
        except DataMissing as error:
            told.append({"name": name, "error": error.message, **error.lines})
            code = error.code if terminal.wants_json else terminal.error(error)
            continue
        told.append({"name": name, "files": paths})
        terminal.say(f"{MARKS['ok']} {plural(len(paths), 'file')} in {next(iter(paths.values())).parent}, hashes verified")
    if terminal.wants_json:
        terminal.json({"sets": told})
    return code


@contextmanager
def _downloads(terminal: Terminal) -> Iterator[tuple[Any, Any]]:
    """A bar for the file that comes; where there is no terminal, its name as it begins."""
    columns = ["{task.description}", BarColumn(24), DownloadColumn(), TransferSpeedColumn(), TimeRemainingColumn()]
    with Progress(*columns, console=terminal.console, disable=not terminal.console.is_terminal) as bar:
        tasks: dict[str, Any] = {}

        def progress(name: str, done: int, total: int) -> None:
            if name not in tasks:
                tasks[name] = bar.add_task(name, total=total)
            bar.update(tasks[name], completed=done)

        def note(message: str) -> None:
            if not terminal.console.is_terminal:
                terminal.say(f"  getting  {message.partition('; licence')[0].partition(': ')[2]}")

        yield note, progress


# ── check ───────────────────────────────────────────────────────────────────────────────────────────────────────────


def _check(names: Sequence[str], terminal: Terminal, asked: bool) -> int:
    """Every file with the hash that it should have and the one that it has."""
    from fuxian.data.sources import SOURCES, present

    told, absent = [], []
    for name in names:
        there = present(name)
        if not asked and not any(there.values()):
            absent.append(name)
            continue
        rows = [_row(name, file, there[file.name]) for file in SOURCES[name].files]
        told.append({"name": name, "files": rows})
        if not terminal.wants_json:
            _tell(name, rows, terminal)
    states = {row["state"] for one in told for row in one["files"]}
    if terminal.wants_json:
        terminal.json({"sets": told, "not_here": absent})
    elif absent:
        terminal.say(f"{MARKS['none']} not here: {', '.join(absent)}")
    return 1 if "wrong" in states else DataMissing.code if "not here" in states else 0


def _row(name: str, file: sources.File, path: Path | None) -> dict[str, Any]:
    from fuxian.data.sources import found_hash

    row: dict[str, Any] = {**_file(file), "path": path, "found": None, "state": "not here"}
    if path is not None:
        try:
            row["found"] = found_hash(name, file, path)
        except DataMissing as error:
            row["found"] = error.message
        row["state"] = "right" if row["found"] == file.content[1] else "wrong"
    return row


def _tell(name: str, rows: Sequence[dict[str, Any]], terminal: Terminal) -> None:
    from fuxian.data.sources import SOURCES

    source = SOURCES[name]
    right = sum(row["state"] == "right" for row in rows)
    terminal.say(f"{name}  {source.title}: {right} of {plural(len(rows), 'file')} as published")
    marks = {"right": MARKS["ok"], "wrong": MARKS["short"], "not here": MARKS["none"]}
    for row in rows:
        terminal.say(f"{marks[row['state']]} {row['name']}, {row['size']:,} bytes: {row['path'] or 'not here'}")
        unpacked = row["unpacked"]
        if row["state"] == "not here" or not unpacked:
            terminal.say(f"    SHA-256     {row['sha256']}")
        if unpacked:
            terminal.say(f"    unpacked    {unpacked['sha256']}, {unpacked['size']:,} bytes")
        if row["state"] == "wrong":
            terminal.say(f"    found       {row['found']}")
    if right < len(rows):
        wrong = "delete what is wrong, then: " * any(row["state"] == "wrong" for row in rows)
        terminal.say(f"  do    {wrong}fuxian data get {name}")
        terminal.say(f"  or    put the files into a folder {source.folder} and set FUXIAN_DATA to its parent; they are at")
        for base in source.bases:
            terminal.say(f"        {base}")
