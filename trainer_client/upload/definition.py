"""Where a function or a class of a running program is written."""

from __future__ import annotations

import ast
import linecache
import symtable
import sys
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from types import FunctionType

from trainer_client.upload.archive import Text


class NoSourceError(Exception):
    """The source of something cannot be found; the message says why."""


@dataclass(frozen=True, slots=True)
class Definition:
    """A def or class statement, and the file (or notebook cell) that it stands in."""

    node: ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef
    file: str

    def text(self) -> Text:
        """The statement, with those decorators that the node still has."""
        node = self.node
        start = min([node.lineno, *(each.lineno for each in node.decorator_list)])
        lines = linecache.getlines(self.file)[start - 1 : node.end_lineno]
        if node.col_offset:
            # It stands in another statement; taking its indentation away could change strings.
            return Text("if True:\n" + _ended(lines), self.file, start - 1)
        return Text(_ended(lines), self.file, start)


def _ended(lines: list[str]) -> str:
    """Lines as a text whose last line ends, as it may not in its file."""
    return "".join(lines).removesuffix("\n") + "\n"


def find_definition(value: FunctionType | type) -> Definition:
    """The statement that has made a function or a class. Raises NoSourceError."""
    for file in _files_of(value):
        lines = linecache.getlines(file)
        if not lines:
            continue
        try:
            tree = ast.parse("".join(lines))
        except SyntaxError as error:
            raise NoSourceError(
                f"{file} cannot be parsed (line {error.lineno}): has it changed since it was run? "
                "Run it again"
            ) from None
        for node in ast.walk(tree):
            if _is_definition_of(node, value):
                assert isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef)
                return Definition(node, file)
        raise NoSourceError(
            f"{value.__name__} is not where it was in {file}: has the file changed since it was "
            "run? Run it again"
        )
    raise NoSourceError(
        f"the source of {value.__name__} cannot be found: write it in a script, a notebook or a "
        "module"
    )


def _is_definition_of(node: ast.AST, value: FunctionType | type) -> bool:
    if isinstance(value, type):
        return isinstance(node, ast.ClassDef) and node.name == value.__name__
    if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
        return False
    first = min([node.lineno, *(each.lineno for each in node.decorator_list)])
    return node.name == value.__name__ and first == value.__code__.co_firstlineno


def _files_of(value: FunctionType | type) -> Iterator[str]:
    if isinstance(value, FunctionType):
        yield value.__code__.co_filename
        return
    # Of a notebook's class only the methods know the cell; some may be made by a decorator.
    for each in vars(value).values():
        function = getattr(each, "__func__", getattr(each, "fget", each))
        if isinstance(function, FunctionType) and function.__module__ == value.__module__:
            yield function.__code__.co_filename
    yield getattr(sys.modules.get(value.__module__), "__file__", None) or ""


def global_names(node: ast.AST) -> list[str]:
    """The global names that a statement uses, once it runs and when it is called, sorted.

    Annotations of functions do not count: they are not evaluated.
    """
    statement = _Unannotated().visit(ast.parse(ast.unparse(node)))
    table = symtable.symtable(ast.unparse(statement), "<udf>", "exec")
    return sorted(set(_global_names(table)))


def _global_names(table: symtable.SymbolTable) -> Iterator[str]:
    top = table.get_type() == "module"
    for symbol in table.get_symbols():
        if (symbol.is_referenced() and not symbol.is_assigned()) if top else symbol.is_global():
            yield symbol.get_name()
    for child in table.get_children():
        yield from _global_names(child)


class _Unannotated(ast.NodeTransformer):
    """Takes annotations away but those of a class, which dataclasses and the like read."""

    _in_function = False

    def visit(self, node: ast.AST) -> ast.AST:
        if isinstance(node, ast.arg):
            node.annotation = None
        elif isinstance(node, ast.AnnAssign) and self._in_function:
            node.annotation = ast.Constant(None)
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            node.returns = None
        before = self._in_function
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            self._in_function = not isinstance(node, ast.ClassDef)
        self.generic_visit(node)
        self._in_function = before
        return node


def attributes_of(node: ast.AST, names: Collection[str]) -> Iterator[list[str]]:
    """The dotted names in a statement that begin with one of some names, as their parts."""
    for each in ast.walk(node):
        parts = []
        inner = each
        while isinstance(inner, ast.Attribute):
            parts.append(inner.attr)
            inner = inner.value
        if parts and isinstance(inner, ast.Name) and inner.id in names:
            yield [inner.id, *reversed(parts)]
