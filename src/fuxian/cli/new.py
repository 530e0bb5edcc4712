"""The command `new`: a file of one's own that starts as one of the methods, and runs as it is."""

from __future__ import annotations

import ast
import importlib.util
import shlex
from collections.abc import Sequence
from pathlib import Path

from fuxian import catalog
from fuxian.catalog import Entry
from fuxian.cli.options import Parser
from fuxian.cli.terminal import Terminal
from fuxian.errors import OutOfRoom, WrongInput


def new(words: Sequence[str], terminal: Terminal) -> int:
    parser = Parser("new", "Writes a file of your own that starts as one of the methods.", "new FILE.py --like METHOD")
    parser.add_argument("file", metavar="FILE.py", help="the file to write; nothing is overwritten")
    parser.add_argument("--like", required=True, metavar="METHOD", help="what it starts as: fuxian list")
    parser.add_common()
    options = parser.read(words)
    path, entry = Path(options.file).expanduser(), catalog.find(options.like)
    if path.suffix != ".py":
        raise WrongInput(f"{path} does not end in .py")
    if not path.parent.is_dir():
        raise WrongInput(f"there is no folder {path.parent}")
    if not path.exists() and importlib.util.find_spec(path.stem.partition(".")[0]) is not None:
        raise WrongInput(f"{path.name} would hide the package {path.stem} from the files beside it; give it another name")
    text = adapted(entry, path.stem)
    try:
        with path.open("x", encoding="utf-8") as file:
            file.write(text)
    except FileExistsError:
        raise WrongInput(f"{path} exists already, and nothing is overwritten") from None
    except OSError as error:
        raise OutOfRoom(f"{path} cannot be written: {error.strerror or error}") from None
    called = shlex.quote(str(path))
    terminal.say(f"wrote {path}, {len(text.splitlines())} lines, like {entry.name}")
    terminal.say(f"  see its knobs   fuxian info {called}")
    terminal.say(f"  run it          fuxian run {called}{' --quick' if entry.quick else ''}")
    return 0


def adapted(entry: Entry, name: str) -> str:
    """The text of a method with another header: no paper and no claim of its own yet; all else as it is."""
    source = entry.path.read_text(encoding="utf-8")
    tree = ast.parse(source)
    like = f" ({entry.paper.authors} {entry.paper.year})" if entry.paper else ""
    header = f'"""{name}: what it does, in one line.\n\nLike     {entry.called}{like}\nDeparts  where yours differs\n"""'
    replaced: dict[tuple[int, int], str] = {}  # first and last line: what stands there now
    for node in tree.body:
        span = node.lineno, node.end_lineno or node.lineno
        match node:
            case ast.Expr(value=ast.Constant(value=str())) if node is tree.body[0]:
                replaced[span] = header
            case ast.Assign(targets=[ast.Name(id="PAPER" | "SOURCE" | "CLAIMS" as fact)]):
                replaced[span] = "PAPER = None" if fact == "PAPER" else ""
    kept = [node for node in tree.body if (node.lineno, node.end_lineno) not in replaced]
    used = {node.id for statement in kept for node in ast.walk(statement) if isinstance(node, ast.Name)}
    for node in kept:  # `Paper` and `Claim` are not used any more
        if isinstance(node, ast.ImportFrom) and node.module == "fuxian.facts":
            names = [alias.name for alias in node.names if (alias.asname or alias.name) in used]
            line = f"from fuxian.facts import {', '.join(names)}" if names else ""
            replaced[node.lineno, node.end_lineno or node.lineno] = line
    lines = source.splitlines()
    for (first, last), text in sorted(replaced.items(), reverse=True):
        lines[first - 1 : last] = [text] if text else []
    if not any(text == header for text in replaced.values()):
        lines.insert(0, header)
    return "\n".join(lines) + "\n"
