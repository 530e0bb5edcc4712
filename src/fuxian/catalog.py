"""Which methods there are, and what each says of itself: read from the source text, without importing it or torch.

A method is a file `methods/<family>/<name>.py` (no leading underscore), or a user's own file. Its title, `PAPER`,
`SOURCE`, `CLAIMS`, `QUICK` and its knobs, the parameters of `recipe`, are literals; the comment at the end of a
parameter's line is its help. So `fuxian list` and every `--help` answer at once, and one broken import breaks one method.
"""

from __future__ import annotations

import ast
import hashlib
import importlib
import importlib.util
import re
import sys
import tokenize
import traceback
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from types import ModuleType
from typing import Any

from fuxian.errors import FuxianError, WrongInput
from fuxian.facts import RESERVED_KNOBS, SHARED_KNOBS, Claim, Paper
from fuxian.knobs import Knob, listed, nearest, shown_as
from fuxian.literals import NotLiteral, code_hash, comments_of, knob_type, literal, objectives, yields

METHODS = Path(__file__).parent / "methods"


# ── entries ─────────────────────────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True)
class Entry:
    """A method: what its file says of itself. `module` and `family` are None and "" for a user's own file."""

    name: str
    family: str
    path: Path
    module: str | None
    title: str
    zh: str  # the title in Chinese, from a docstring line that begins with 中文
    doc: str
    paper: Paper | None
    source: str  # the textbook or notes of a technique that has no paper
    claims: list[Claim]
    quick: dict[str, Any]
    knobs: list[Knob]
    learns: list[str]  # the classes of its stages' objectives
    lines: int
    code: str  # the hash of what it does

    @property
    def key(self) -> str:
        """`graph.gcn`; a user's file: its name without `.py`."""
        return f"{self.family}.{self.name}" if self.family else self.name

    @property
    def called(self) -> str:
        """How the command line names it: `gcn`, or the path of a user's file."""
        return self.name if self.module else _shown(self.path)

    def knob(self, name: str, origin: str = "python", others: Iterable[str] = ()) -> Knob:
        """The knob of this name; `others` are flags that a slip may have meant. Raises WrongInput."""
        for knob in self.knobs:
            if knob.name == name:
                return knob
        written = (lambda n: n) if origin == "python" else (lambda n: "--" + n.replace("_", "-"))
        defaults = dict.fromkeys(others, "")
        defaults |= {written(knob.name): f" (default {shown_as(knob.default)})" for knob in self.knobs}
        near = nearest(written(name), defaults, "{}")
        hint = f"; the nearest is {near}{defaults[near]}" if near else ""
        raise WrongInput(f"{self.called} has no knob {written(name)}{hint}. All: fuxian info {self.called}")

    def resolve(self, given: Mapping[str, Any], origin: str = "python", quick: bool = False) -> dict[str, tuple[Any, str]]:
        """Every knob's value, and where it came from: `default`, `quick`, or `origin` for what is `given`.

        Raises WrongInput for an unknown name, a wrong type, or a value that is not among the choices or in the range.
        """
        resolved = {knob.name: (knob.default, "default") for knob in self.knobs}
        for values, source in ((self.quick if quick else {}, "quick"), (given, origin)):
            for name, value in values.items():
                spoken = "command line" if source == "command line" else "python"
                try:
                    resolved[name] = (self.knob(name, spoken).check(value, spoken), source)
                except WrongInput as error:
                    if source in ("quick", "claim"):
                        raise WrongInput(f"{_shown(self.path)}, knobs of its {source}: {error}") from None
                    raise
        return resolved

    def load(self) -> ModuleType:
        """Imports the file. Raises WrongInput where something that it needs is missing, or a user's file fails."""
        if self.module is None:
            return _load_file(self.path)
        try:
            return importlib.import_module(self.module)
        except ModuleNotFoundError as error:
            missing = (error.name or "").partition(".")[0]
            if missing in ("", "fuxian"):
                raise
            raise WrongInput(
                f"{self.name} needs the package {missing}, which is not here", do=install_command(missing)
            ) from error


def install_command(package: str) -> str:
    """The command that installs a package: by the smallest extra that holds it, if one does."""
    from importlib.metadata import PackageNotFoundError, requires

    try:
        needed = requires("fuxian") or []
    except PackageNotFoundError:  # run from a source tree that is not installed
        needed = []
    extras: dict[str, set[str]] = {}
    for line in needed:
        name, extra = re.match(r"[\w.-]+", line), re.search(r"extra == ['\"]([\w-]+)['\"]", line)
        if name and extra:
            extras.setdefault(extra[1], set()).add(name[0].replace("-", "_").lower())
    holding = [extra for extra, packages in extras.items() if package.lower() in packages]
    return f'pip install "fuxian[{min(holding, key=lambda e: len(extras[e]))}]"' if holding else f"pip install {package}"


def _load_file(path: Path) -> ModuleType:
    """Runs a user's file as a module with a name of its own."""
    name = f"{path.stem}_{hashlib.sha256(str(path).encode()).hexdigest()[:8]}"
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    if str(path.parent) not in sys.path:
        sys.path.insert(0, str(path.parent))  # for the files beside it
    sys.modules[name] = module  # before it runs: dataclasses look their module up there
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        del sys.modules[name]
        raise (blame(error, path) or error) from error
    return module


def blame(error: BaseException, path: Path) -> WrongInput | None:
    """An exception that passed through a user's file, told by its last frame there; None if it did not."""
    if isinstance(error, FuxianError):
        return None
    frames = [f for f in traceback.extract_tb(error.__traceback__) if Path(f.filename) == path]
    if isinstance(error, SyntaxError) and error.filename == str(path):
        return WrongInput(f"{_shown(path)} does not parse: line {error.lineno}: {error.msg}")
    if not frames:
        return None
    last = frames[-1]
    what = " ".join(str(error).split())
    inside = "" if last.name == "<module>" else f", in {last.name}"
    missing = error.name if isinstance(error, ModuleNotFoundError) and error.name else ""
    return WrongInput(
        f"{_shown(path)}, line {last.lineno}{inside}: {type(error).__name__}{': ' if what else ''}{what}",
        where=last.line or "",
        do=install_command(missing.partition(".")[0]) if missing else "",
    )


# ── finding ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def _files() -> list[Path]:
    return sorted(METHODS.glob("[!_]*/[!_]*.py"))


def families() -> list[str]:
    return list(dict.fromkeys(path.parent.name for path in _files()))


def names() -> list[str]:
    """How the methods that ship are called, without reading them: `gcn`, or `graph.gcn` where two have a name."""
    stems = [path.stem for path in _files()]
    return [path.stem if stems.count(path.stem) == 1 else f"{path.parent.name}.{path.stem}" for path in _files()]


def methods(family: str | None = None) -> list[Entry]:
    """All methods that ship, by family and name. Raises WrongInput for a family that there is not."""
    if family is not None and family not in families():
        near = nearest(family, families())
        raise WrongInput(f"there is no family {family}{near}. All: fuxian list")
    return [_read(path) for path in _files() if family in (None, path.parent.name)]


def find(name_or_path: str | Path) -> Entry:
    """The method called `gcn`, `graph.gcn` or `graph/gcn`, or a user's file (`./mine.py`). Raises WrongInput."""
    name = str(name_or_path)
    if name.endswith(".py"):
        return _read(_file(Path(name).expanduser()))
    parts = name.replace("/", ".").split(".")
    files = [path for path in _files() if [path.parent.name, path.stem][-len(parts) :] == parts]
    if len(files) == 1:
        return _read(files[0])
    if files:
        raise WrongInput(f"there are {len(files)} methods {name}: {listed(f'{p.parent.name}.{p.stem}' for p in files)}")
    if Path(name).with_suffix(".py").is_file():
        raise WrongInput(f"there is no method {name}; a file of your own is called by its path: {name}.py")
    by_name = {path.stem: path.parent.name for path in _files()}
    near = nearest(parts[-1], by_name, "{}")
    hint = f"; the nearest is {near} ({by_name[near]})" if near else ""
    raise WrongInput(f"there is no method {name}{hint}. All: fuxian list")


def _file(path: Path) -> Path:
    if path.is_file():
        return path.resolve()
    if path.is_dir():
        raise WrongInput(f"{path} is a folder; a method is one file")
    near = nearest(path.name, (other.name for other in path.parent.glob("*.py")))
    raise WrongInput(f"there is no file {path}{near}")


def _shown(path: Path) -> str:
    """A path as the user would write it: relative to where they are, if it is there."""
    try:
        return str(path.relative_to(Path.cwd()))
    except ValueError:
        return str(path)


# ── reading ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def _read(path: Path) -> Entry:
    """What a method's file says. Raises WrongInput where it does not parse or breaks a rule, with the line."""
    try:
        with tokenize.open(path) as file:
            source = file.read()
        tree = ast.parse(source)
    except SyntaxError as error:
        raise WrongInput(f"{_shown(path)} does not parse: line {error.lineno or 1}: {error.msg}") from None
    except (UnicodeDecodeError, ValueError) as error:
        raise WrongInput(f"{_shown(path)} does not parse: {error}") from None

    names: dict[str, Any] = {}
    failed: dict[str, NotLiteral] = {}
    recipe: ast.FunctionDef | None = None
    for node in tree.body:
        match node:
            case ast.FunctionDef(name="recipe"):
                recipe = node
            case (
                ast.Assign(targets=[ast.Name(id=name)], value=value) | ast.AnnAssign(target=ast.Name(id=name), value=value)
            ):
                names.pop(name, None)
                failed.pop(name, None)
                try:
                    names[name] = literal(value, names) if value is not None else None
                except NotLiteral as error:
                    failed[name] = error

    def fact(name: str, kinds: type | tuple[type, ...], default: Any, kind_in_words: str) -> Any:
        if name in failed:
            error = failed[name]
            raise WrongInput(f"{_shown(path)}, line {getattr(error.node, 'lineno', 1)}: {name} {error.what}")
        value = names.get(name, default)
        if not isinstance(value, kinds):
            raise WrongInput(f"{_shown(path)}: {name} is not {kind_in_words}")
        return value

    claims = list(fact("CLAIMS", (list, tuple), [], "a list of Claim"))
    if not all(isinstance(claim, Claim) for claim in claims):
        raise WrongInput(f"{_shown(path)}: CLAIMS is not a list of Claim")
    if recipe is None:
        raise WrongInput(f"{_shown(path)} has no function recipe; a method is `def recipe(…): … yield Stage(…)`")
    if not yields(recipe):
        raise WrongInput(f"{_shown(path)}, line {recipe.lineno}: recipe has no yield; a recipe yields its stages")
    doc = ast.get_docstring(tree) or ""
    title, *rest = doc.splitlines() or [""]
    zh = next((line[2:].strip(" :：\u3000") for line in map(str.strip, rest) if line.startswith("中文")), "")
    shipped = METHODS in path.parents
    return Entry(
        name=path.stem,
        family=path.parent.name if shipped else "",
        path=path,
        module=".".join(["fuxian", "methods", path.parent.name, path.stem]) if shipped else None,
        title=title.rstrip("."),
        zh=zh,
        doc=doc,
        paper=fact("PAPER", (Paper, type(None)), None, "a Paper, or None"),
        source=fact("SOURCE", str, "", "a string"),
        claims=claims,
        quick=fact("QUICK", dict, {}, "a dict of knobs"),
        knobs=list(_knobs(path, source, recipe, names)),
        learns=objectives(tree),
        lines=len(source.splitlines()),
        code=code_hash(source, tree),
    )


def _knobs(path: Path, source: str, recipe: ast.FunctionDef, names: Mapping[str, Any]) -> Iterator[Knob]:
    arguments = recipe.args
    positional = [*arguments.posonlyargs, *arguments.args]
    missing = [None] * (len(positional) - len(arguments.defaults))
    defaults = [*missing, *arguments.defaults, *arguments.kw_defaults]
    comments = comments_of(source, recipe.lineno, max(recipe.lineno, recipe.body[0].lineno - 1))

    def wrong(node: ast.arg, what: str) -> WrongInput:
        return WrongInput(f"{_shown(path)}, line {node.lineno}: knob {node.arg} {what}")

    for rest in (arguments.vararg, arguments.kwarg):
        if rest is not None:
            raise wrong(rest, "stands for any number of values; a recipe names each of its knobs")
    for node, default in zip([*positional, *arguments.kwonlyargs], defaults, strict=True):
        if node.arg in RESERVED_KNOBS:
            raise wrong(node, "has a name that the command line keeps for itself; give it another")
        if default is None:
            raise wrong(node, "has no default; every knob has one")
        if node.annotation is None:
            raise wrong(node, f"has no type; write `{node.arg}: int = …`")
        try:
            value, of = literal(default, names), knob_type(node.annotation, names)
        except NotLiteral as error:
            raise wrong(node, f"has a default that {error.what}" if error.node is default else error.what) from None
        of.setdefault("within", SHARED_KNOBS.get(node.arg))
        knob = Knob(node.arg, value, comments.get(default.end_lineno or 0, ""), **of)
        try:
            value = knob.check(value) if not knob.path and knob.kind is not Path else value
        except WrongInput as error:
            raise wrong(node, f"has a default that it may not take: {error}") from None
        yield replace(knob, default=value)
