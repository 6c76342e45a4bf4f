"""Mutation operators, fixed in advance: each is a plausible mistake in a formula.

sign            a + b <-> a - b, and -a -> a
factor 2        a product or quotient that is returned or assigned: e -> 2 e
dropped term    a + b -> a and a - b -> a
N and N-1       n -> n - 1 for a name that counts, and n - 1 -> n
kappa           kappa0 <-> kappa1 (which the code writes as 1 - one_minus_kappa1)
index           x[i] -> x[i + 1] and x[i - 1], for a constant i
square root     sqrt(x) -> x, and x**0.5 -> x
"""

from __future__ import annotations

import ast
import copy
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace

OPERATORS = ("sign", "factor 2", "dropped term", "N and N-1", "kappa", "index", "square root")

COUNTS = {
    "b", "batch", "channels", "count", "dof", "features", "group", "group_size", "m", "n",
    "positions", "rank", "s", "samples", "size", "width",
}  # fmt: skip
SWAPPED = {
    "kappa0": "one_minus_kappa1",
    "one_minus_kappa1": "kappa0",
    "one_minus_kappa1_scalar": "kappa0",
}


@dataclass(frozen=True)
class Mutant:
    """One changed expression: where, how, and the module's source with it."""

    path: str
    function: str
    line: int
    operator: str
    before: str
    after: str
    statement: str
    source: str
    # Which one, from 1, of those that read the same.
    occurrence: int = 1

    @property
    def key(self) -> str:
        """What identifies it while lines move."""
        where = " ".join(self.statement.split())
        again = f" ({self.occurrence})" if self.occurrence > 1 else ""
        return f"{self.path}:{self.function}: {where}: {self.before} -> {self.after}{again}"


def mutants(path: str, source: str) -> list[Mutant]:
    """All mutants of the functions in one module."""
    tree, lines = ast.parse(source), source.split("\n")
    found = []
    for function, node in _expressions(tree):
        for operator, changed in _changes(node):
            text = _with(source, node, changed)
            before, after = ast.unparse(node), ast.unparse(changed)
            line = lines[node.lineno - 1]
            found.append(Mutant(path, function, node.lineno, operator, before, after, line, text))
    different = {(m.line, m.operator, m.source): m for m in found}.values()
    seen: Counter[str] = Counter()
    numbered = []
    for mutant in different:
        seen[mutant.key] += 1
        numbered.append(replace(mutant, occurrence=seen[mutant.key]))
    return numbered


def _expressions(tree: ast.Module) -> Iterator[tuple[str, ast.expr]]:
    """Expressions inside of functions, with the function's name; no annotations, decorators, raises."""

    def visit(node: ast.AST, function: str | None) -> Iterator[tuple[str, ast.expr]]:
        for field, value in ast.iter_fields(node):
            if field in ("annotation", "returns", "decorator_list", "exc", "bases", "type_params"):
                continue
            for child in value if isinstance(value, list) else [value]:
                if not isinstance(child, ast.AST) or isinstance(child, ast.arguments):
                    continue
                # Types, slices of types, messages and assertions are no formulas.
                if isinstance(child, ast.JoinedStr | ast.Assert | ast.Raise):
                    continue
                inner = function
                if isinstance(child, ast.FunctionDef):
                    inner = child.name
                if isinstance(child, ast.expr) and function is not None:
                    if field == "value" and isinstance(node, ast.Return | ast.Assign):
                        child.top = True  # type: ignore[attr-defined]
                    yield function, child
                yield from visit(child, inner)

    yield from visit(tree, None)


def _changes(node: ast.expr) -> Iterator[tuple[str, ast.expr]]:
    match node:
        case ast.BinOp(left, ast.Add() | ast.Sub() as op, right):
            if not _is_text(left) and not _is_text(right):
                flipped = ast.Sub() if isinstance(op, ast.Add) else ast.Add()
                yield "sign", ast.BinOp(left, flipped, right)
                yield "dropped term", left
                if isinstance(op, ast.Sub) and _is_number(right, 1) and _name(left) in COUNTS:
                    yield "N and N-1", left
        case ast.UnaryOp(ast.USub(), operand) if not isinstance(operand, ast.Constant):
            yield "sign", operand
        case ast.BinOp(left, ast.Pow(), right) if _is_number(right, 0.5):
            yield "square root", left
        case ast.BinOp(_, ast.Mult() | ast.Div(), _) if getattr(node, "top", False):
            yield "factor 2", ast.BinOp(ast.Constant(2.0), ast.Mult(), copy.deepcopy(node))
        case ast.Call(function, [argument], []) if _name(function) == "sqrt":
            yield "square root", argument
        case ast.Call(function, [argument, *rest], keywords) if _name(function) in SWAPPED:
            other = copy.deepcopy(function)
            new = SWAPPED[_name(function)]
            if isinstance(other, ast.Attribute):
                other.attr = new
            elif isinstance(other, ast.Name):
                other.id = new
            call = ast.Call(other, [argument, *rest], keywords)
            yield "kappa", ast.BinOp(ast.Constant(1.0), ast.Sub(), call)
        case ast.Name(name, ast.Load()) | ast.Attribute(_, name, ast.Load()) if name in COUNTS:
            yield "N and N-1", ast.BinOp(copy.deepcopy(node), ast.Sub(), ast.Constant(1))
        case ast.Subscript(value, index, context):
            for step in (1, -1):
                moved = _moved(index, step)
                if moved is not None:
                    yield "index", ast.Subscript(copy.deepcopy(value), moved, context)


def _moved(index: ast.expr, step: int) -> ast.expr | None:
    """A constant index, or the bounds of a slice, moved by ``step``."""
    match index:
        case ast.Constant(int(value)) if not isinstance(value, bool):
            return ast.Constant(value + step) if value + step >= 0 else None
        case ast.UnaryOp(ast.USub(), ast.Constant(int(value))):
            return ast.UnaryOp(ast.USub(), ast.Constant(value - step)) if value > step else None
        case ast.Slice(ast.Constant(int(low)), upper, by) if low + step >= 0:
            return ast.Slice(ast.Constant(low + step), upper, by)
        case ast.Slice(None, ast.UnaryOp(ast.USub(), ast.Constant(int(high))), by) if high > step:
            return ast.Slice(None, ast.UnaryOp(ast.USub(), ast.Constant(high - step)), by)
    return None


def _name(node: ast.expr) -> str:
    return node.id if isinstance(node, ast.Name) else getattr(node, "attr", "")


def _is_number(node: ast.expr, value: float) -> bool:
    return isinstance(node, ast.Constant) and node.value == value


def _is_text(node: ast.expr) -> bool:
    text = isinstance(node, ast.Constant) and isinstance(node.value, str)
    return text or isinstance(node, ast.JoinedStr | ast.Tuple | ast.List)


def _with(source: str, node: ast.expr, changed: ast.expr) -> str:
    """The source with the text of ``node`` replaced; lines keep their numbers."""
    lines = source.encode().split(b"\n")
    first, last = node.lineno - 1, (node.end_lineno or node.lineno) - 1
    text = b"(" + ast.unparse(changed).encode() + b")" + b"\n" * (last - first)
    head, tail = lines[first][: node.col_offset], lines[last][node.end_col_offset :]
    # Newlines inside of brackets only: they are put before the closing one.
    if last > first:
        text = b"(" + ast.unparse(changed).encode() + b"\n" * (last - first) + b")"
    return b"\n".join([*lines[:first], head + text + tail, *lines[last + 1 :]]).decode()
