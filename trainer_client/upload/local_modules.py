"""Modules of a user's own, beside the script: whole files, with those that they import."""

from __future__ import annotations

import ast
import importlib.util
import sys
import sysconfig
import tokenize
from collections.abc import Iterator
from importlib.machinery import EXTENSION_SUFFIXES, ModuleSpec, PathFinder
from pathlib import Path

from trainer_client.upload.archive import ArchivedModule, Text

# What servers have of the project itself.
_OWN = frozenset(("headrace", "preprocessor_server", "trainer_client"))
_TRAINING = "trainer_client"
_INSTALLED = frozenset(("site-packages", "dist-packages"))


class ModuleProblemError(Exception):
    """A module cannot be sent; the message names it and the way out."""


class LocalModules:
    """The local modules that were asked for, and those that they import."""

    def __init__(self) -> None:
        self._found: dict[str, ArchivedModule] = {}

    def archived(self) -> tuple[ArchivedModule, ...]:
        """All of them, by name."""
        return tuple(self._found[name] for name in sorted(self._found))

    def add(self, name: str) -> bool:
        """Adds a module, unless it is installed; whether it is local. Raises ModuleProblemError."""
        if name in self._found:
            return True
        spec = find_local(name)
        if spec is None:
            return False
        parent = name.rpartition(".")[0]
        if parent:
            self.add(parent)
        package = spec.submodule_search_locations is not None
        # In its place before its imports are followed: they may lead back to it.
        self._found[name] = ArchivedModule(name, package, ())
        if spec.origin is not None and spec.has_location:
            text, tree = _served(spec.origin)
            self._found[name] = ArchivedModule(name, package, (Text(text, spec.origin),))
            self.add_imports(tree, name if package else parent)
        return True

    def add_imports(self, tree: ast.AST, package: str) -> None:
        """Adds the local modules that a text imports, anywhere in it; package is what it lies in.

        Raises ModuleProblemError.
        """
        for name in imported_names(tree, package):
            self.add(name)


def find_local(name: str) -> ModuleSpec | None:
    """Where a module lies, None if it is installed, or nowhere.

    Raises ModuleProblemError for a local one that is no Python source.
    """
    if name.partition(".")[0] in _OWN:
        return None
    spec = _find(name)
    if spec is None:
        return None
    # A folder without __init__.py is a package without a file.
    places = [spec.origin] if spec.has_location else list(spec.submodule_search_locations or ())
    if not places or not all(place is not None and _is_own(place) for place in places):
        return None
    if spec.origin is not None and spec.origin.endswith(tuple(EXTENSION_SUFFIXES)):
        raise ModuleProblemError(
            f"module {name} is compiled ({spec.origin}), and only Python source is sent: install "
            "it on the servers and name the function by its import path"
        )
    return spec


def _find(name: str) -> ModuleSpec | None:
    loaded = sys.modules.get(name)
    spec = getattr(loaded, "__spec__", None)
    if isinstance(spec, ModuleSpec):
        return spec
    parent = name.rpartition(".")[0]
    if not parent:
        return PathFinder.find_spec(name)
    # importlib.util.find_spec would run the packages around it.
    around = _find(parent)
    if around is None or around.submodule_search_locations is None:
        return None
    return PathFinder.find_spec(name, list(around.submodule_search_locations))


def _is_own(place: str) -> bool:
    path = Path(place).resolve()
    library = (Path(sysconfig.get_path(each)).resolve() for each in ("stdlib", "platstdlib"))
    return _INSTALLED.isdisjoint(path.parts) and not any(map(path.is_relative_to, library))


def imported_names(tree: ast.AST, package: str) -> Iterator[str]:
    """The modules that a text may import: of "from a import b", a and a.b."""
    for node in _statements(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                try:
                    base = importlib.util.resolve_name("." * node.level + base, package)
                except ImportError:
                    continue
            yield base
            yield from (f"{base}.{alias.name}" for alias in node.names)


def _statements(tree: ast.AST) -> Iterator[ast.AST]:
    """All nodes, but those that only type checkers look at."""
    yield tree
    for child in ast.iter_child_nodes(tree):
        if isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test):
            for other in child.orelse:
                yield from _statements(other)
        else:
            yield from _statements(child)


def _served(path: str) -> tuple[str, ast.Module]:
    """The text of a file without what only trainers have: @udf, and the import of it.

    Raises ModuleProblemError if more of it is used.
    """
    try:
        with tokenize.open(path) as file:
            text = file.read()
        tree = ast.parse(text)
    except (OSError, SyntaxError, UnicodeDecodeError) as error:
        raise ModuleProblemError(f"{path} cannot be read as Python: {error}") from None
    lines = text.splitlines(keepends=True)
    names: set[str] = set()
    for node in _statements(tree):
        if isinstance(node, ast.Import | ast.ImportFrom):
            gone = [each for each in node.names if _is_of_trainers(node, each)]
            if not gone:
                continue
            names |= {(each.asname or each.name).partition(".")[0] for each in gone}
            rest = [ast.unparse(each) for each in node.names if each not in gone]
            _blank(lines, node, f"import {', '.join(rest)}" if rest else "pass")
    for node in ast.walk(tree):
        for decorator in getattr(node, "decorator_list", ()):
            if _root(decorator) in names:
                _blank(lines, decorator, "")
    served = "".join(lines)
    tree = ast.parse(served)
    for node in ast.walk(tree):
        if isinstance(node, ast.Name) and node.id in names:
            raise ModuleProblemError(
                f"{path}, line {node.lineno} uses {node.id} of trainer_client, which servers do "
                "not have: keep functions and what they use in modules that need no more of it "
                "than @udf"
            )
    return served, tree


def _is_of_trainers(node: ast.Import | ast.ImportFrom, alias: ast.alias) -> bool:
    if isinstance(node, ast.ImportFrom):
        return node.level == 0 and (node.module or "").partition(".")[0] == _TRAINING
    return alias.name.partition(".")[0] == _TRAINING


def _root(node: ast.expr) -> str:
    while isinstance(node, ast.Call | ast.Attribute):
        node = node.func if isinstance(node, ast.Call) else node.value
    return node.id if isinstance(node, ast.Name) else ""


def _blank(lines: list[str], node: ast.stmt | ast.expr, instead: str) -> None:
    """Replaces a statement, or a decorator with its "@"; all lines keep their numbers."""
    assert node.end_lineno is not None
    assert node.end_col_offset is not None
    first, last = node.lineno - 1, node.end_lineno - 1
    # Offsets count bytes.
    before = lines[first].encode()[: node.col_offset].decode()
    after = lines[last].encode()[node.end_col_offset :].decode()
    if not instead:
        before = before.rstrip().removesuffix("@")
    lines[first : last + 1] = (
        [before + instead + "\n"] * (first < last)
        + ["\n"] * (last - first - 1)
        + [after if first < last else before + instead + after]
    )
