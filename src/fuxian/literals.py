"""Literals, types of knobs and comments, read from source text without running it."""

from __future__ import annotations

import ast
import tokenize
from collections.abc import Iterator, Mapping
from hashlib import sha256
from itertools import accumulate
from pathlib import Path
from typing import Any

from fuxian.facts import Claim, Paper, Within

_MAKERS = {"dict": dict, "Paper": Paper, "Claim": Claim, "Within": Within}
_TYPES = {"int": int, "float": float, "str": str, "bool": bool, "Path": Path}


class NotLiteral(Exception):
    """Holds the node that is not a literal, and what is wrong with it."""

    def __init__(self, node: ast.AST, what: str = "is not a literal") -> None:
        super().__init__(what)
        self.node, self.what = node, what


def literal(node: ast.AST, names: Mapping[str, Any]) -> Any:
    """The value of a constant, a container, a signed number, a call of one of `_MAKERS`, or one of `names`."""
    match node:
        case ast.Constant():
            return node.value
        case ast.Name(id=name) if name in names:
            return names[name]
        case ast.Tuple(elts=parts):
            return tuple(literal(part, names) for part in parts)
        case ast.List(elts=parts):
            return [literal(part, names) for part in parts]
        case ast.Set(elts=parts):
            return {literal(part, names) for part in parts}
        case ast.Dict(keys=keys, values=values) if None not in keys:
            return {literal(k, names): literal(v, names) for k, v in zip(keys, values, strict=True) if k is not None}
        case ast.UnaryOp(op=ast.USub() | ast.UAdd() as sign, operand=ast.Constant(value=int() | float() as value)):
            return -value if isinstance(sign, ast.USub) else value
        case ast.Call(func=ast.Name(id=maker), args=args, keywords=keywords) if maker in _MAKERS:
            positional = [literal(arg, names) for arg in args]
            named = {word.arg: literal(word.value, names) for word in keywords if word.arg is not None}
            if len(named) == len(keywords):  # no **rest
                try:
                    return _MAKERS[maker](*positional, **named)
                except (TypeError, ValueError) as error:
                    raise NotLiteral(node, str(error).replace(".__init__()", "").replace("__init__()", maker)) from None
    raise NotLiteral(node)


def knob_type(node: ast.AST | None, names: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of a Knob that a parameter's type gives. Raises NotLiteral for a type that no knob has."""
    match node:
        case ast.Name(id=name) if name in _TYPES:
            return dict(kind=_TYPES[name])
        case ast.Subscript(value=ast.Name(id="Literal"), slice=slice):
            choices = literal(slice, names)
            choices = choices if isinstance(choices, tuple) else (choices,)
            return dict(kind=type(choices[0]), choices=choices)
        case ast.Subscript(value=ast.Name(id="Annotated"), slice=ast.Tuple(elts=[of, *notes])):
            within = next((note for n in notes if isinstance(note := literal(n, names), Within)), None)
            return {**knob_type(of, names), "within": within}
        case ast.Subscript(value=ast.Name(id="tuple"), slice=slice):
            parts = slice.elts if isinstance(slice, ast.Tuple) else [slice]
            endless = isinstance(parts[-1], ast.Constant) and parts[-1].value is ...
            kinds = {part.id for part in (parts[:-1] if endless else parts) if isinstance(part, ast.Name)}
            if len(kinds) == 1 and kinds <= {"int", "float", "str"}:
                return dict(kind=tuple, items=_TYPES[kinds.pop()], length=None if endless else len(parts))
        case ast.BinOp(op=ast.BitOr(), left=left, right=ast.Constant(value=None)):
            return {**knob_type(left, names), "optional": True}
        case ast.BinOp(op=ast.BitOr(), left=left, right=ast.Name(id="Path")):
            return {**knob_type(left, names), "path": True}
    raise NotLiteral(
        node or ast.Constant(None),
        "has a type that no knob has; it is int, float, str, bool, Path, Literal[…] or tuple[…], also `| None` or `| Path`",
    )


def comments_of(source: str, first: int, last: int) -> dict[int, str]:
    """Comments of the lines `first` to `last`, by line."""
    return {row: comment.lstrip("# ").rstrip() for (row, _), comment in _comments(source.splitlines(True), first, last)}


def _comments(lines: list[str], first: int, last: int) -> Iterator[tuple[tuple[int, int], str]]:
    """Line and column of each comment, and its text."""
    part = iter(lines[first - 1 : last])
    try:
        for token in tokenize.generate_tokens(lambda: next(part, "")):
            if token.type == tokenize.COMMENT:
                yield (first - 1 + token.start[0], token.start[1]), token.string
    except (tokenize.TokenError, IndentationError):  # cut inside a statement of several lines: its comments come first
        return


def yields(node: ast.AST) -> bool:
    """Whether a function yields itself, not in a function inside it."""
    return any(
        isinstance(child, ast.Yield | ast.YieldFrom)
        or (not isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda | ast.ClassDef) and yields(child))
        for child in ast.iter_child_nodes(node)
    )


def objectives(tree: ast.Module) -> list[str]:
    """In what ways a method's stages learn: the classes of their objectives, in the order of the text."""
    made: dict[str, ast.AST] = {}
    stages: list[ast.Call] = []
    functions = [node for node in tree.body if isinstance(node, ast.FunctionDef)]  # no class, no table of claims
    for node in (inside for function in functions for inside in ast.walk(function)):
        match node:
            case ast.Assign(targets=[ast.Name(id=name)], value=ast.Call() as value):
                made[name] = value
            case ast.Call() if _called(node) == "Stage":
                stages.append(node)
    found = []
    for stage in sorted(stages, key=lambda node: node.lineno):
        given = [*stage.args[2:3], *(word.value for word in stage.keywords if word.arg == "objective")]
        found += [made.get(value.id, value) if isinstance(value, ast.Name) else value for value in given]
    return list(dict.fromkeys(_called(value) for value in found if isinstance(value, ast.Call)))


def _called(node: ast.Call) -> str:
    match node.func:
        case ast.Name(id=name) | ast.Attribute(attr=name):
            return name
    return ""


def code_hash(source: str, tree: ast.Module) -> str:
    """SHA-256 of what a method's file does: of its text without what it says.

    Said are its docstring, PAPER, SOURCE and CLAIMS, and of a knob its help and which values it may take: what was measured
    holds whatever they become. Every other change of the text asks for new measurements.
    """
    text, lines = source.encode(), source.splitlines(keepends=True)
    starts = [0, *accumulate(map(len, text.splitlines(keepends=True)))]
    spans = [(len(text), len(text))]

    def said(row: int, begin: int, end_row: int, end: int) -> None:
        spans.append((starts[row - 1] + begin, starts[end_row - 1] + end))

    for node in tree.body:
        match node:
            case ast.FunctionDef(name="recipe", args=knobs, lineno=first, body=[does, *_]):
                for knob in [*knobs.posonlyargs, *knobs.args, *knobs.kwonlyargs]:
                    if of := knob.annotation:
                        said(of.lineno, of.col_offset, of.end_lineno or 0, of.end_col_offset or 0)
                for (row, column), comment in _comments(lines, first, does.lineno - 1):
                    begin = len(lines[row - 1][:column].encode())
                    said(row, begin, row, begin + len(comment.encode()))
            case ast.Assign(targets=[ast.Name(id="PAPER" | "SOURCE" | "CLAIMS")]) | ast.Expr(value=ast.Constant()):
                said(node.lineno, node.col_offset, node.end_lineno or 0, node.end_col_offset or 0)
    spans.sort()
    ends = [0, *(end for _, end in spans)]
    kept = b"".join(text[after:begin] for after, (begin, _) in zip(ends, spans, strict=False))
    return sha256(b"\n".join(line.rstrip() for line in kept.split(b"\n"))).hexdigest()
