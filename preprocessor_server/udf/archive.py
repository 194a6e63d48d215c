"""Code that a dataset carries: modules made of texts, imported from memory."""

from __future__ import annotations
import __future__ as future_statements

import ast
import hashlib
import importlib.abc
import importlib.machinery
import json
import linecache
import sys
from collections.abc import Iterable, Sequence
from types import ModuleType
from typing import Any, NamedTuple

# What was taken from a script is named so; there is another module of that name in every process.
SCRIPT = "__main__"
_SCRIPT_AS_IMPORTED = "__udf_main__"
_FUTURE_FLAGS = [getattr(future_statements, name) for name in future_statements.all_feature_names]


class Text(NamedTuple):
    """A piece of a module, and where it stood: file, and its first line there, from 1."""

    text: str
    file: str
    first_line: int


class ArchivedModule(NamedTuple):
    """A module, as whose text its parts are run one after the other."""

    name: str
    package: bool
    parts: tuple[Text, ...]


class Code(NamedTuple):
    """A function, and the modules that its dataset carries; without any, it is installed."""

    function: str
    archive: tuple[ArchivedModule, ...] = ()


def from_json(modules: Sequence[Any]) -> tuple[ArchivedModule, ...]:
    """The modules that a JSON form of them stands for: lists in place of tuples."""
    return tuple(
        ArchivedModule(name, package, tuple(Text(*part) for part in parts))
        for name, package, parts in modules
    )


def fingerprint(archive: Iterable[ArchivedModule]) -> str:
    """Identifies the texts of modules, wherever they stood."""
    content = sorted(
        (module.name, module.package, [part.text for part in module.parts]) for module in archive
    )
    return "sha256:" + hashlib.sha256(json.dumps(content).encode()).hexdigest()


def import_from(archive: Sequence[ArchivedModule], name: str) -> ModuleType:
    """Imports one of the modules, and with it those of them that it imports.

    They replace what another archive has left in this process. Raises whatever the modules do, and
    ImportError for a name that this process itself uses for another module.
    """
    for former in [each for each in sys.meta_path if isinstance(each, _Finder)]:
        sys.meta_path.remove(former)
    for each, module in list(sys.modules.items()):
        if isinstance(getattr(module, "__loader__", None), _Finder):
            del sys.modules[each]
    finder = _Finder(archive)
    taken = sorted(finder.modules.keys() & sys.modules.keys())
    if taken:
        raise ImportError(
            f"the archive has a module {taken[0]!r}, and servers have another one of that name: "
            "rename it"
        )
    # Before all that looks for files: what the server has lies behind what the dataset carries.
    sys.meta_path.insert(0, finder)
    return importlib.import_module(_as_imported(name))


def _as_imported(name: str) -> str:
    return _SCRIPT_AS_IMPORTED if name == SCRIPT else name


class _Finder(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Finds modules in an archive, and runs their texts."""

    def __init__(self, archive: Iterable[ArchivedModule]) -> None:
        self.modules = {_as_imported(module.name): module for module in archive}

    def find_spec(
        self, fullname: str, path: object, target: object = None
    ) -> importlib.machinery.ModuleSpec | None:
        del path, target
        module = self.modules.get(fullname)
        if module is None:
            return None
        return importlib.machinery.ModuleSpec(fullname, self, is_package=module.package)

    def exec_module(self, module: ModuleType) -> None:
        # As in one file, a future statement holds for all that comes after it.
        flags = 0
        for part in self.modules[module.__name__].parts:
            file = part.file or f"<{module.__name__}>"
            tree = ast.parse(part.text, file)
            ast.increment_lineno(tree, part.first_line - 1)
            _remember_lines(part, file)
            code = compile(tree, file, "exec", flags, dont_inherit=True)
            for feature in _FUTURE_FLAGS:
                flags |= code.co_flags & feature.compiler_flag
            exec(code, module.__dict__)  # noqa: S102 - it is what the server was told to run


def _remember_lines(part: Text, file: str) -> None:
    """Lets tracebacks and debuggers show lines of a file that is not here."""
    known = linecache.cache.get(file)
    lines = list(known[2]) if known is not None and len(known) > 1 else []
    own = part.text.splitlines(keepends=True)
    end = part.first_line - 1 + len(own)
    lines += ["\n"] * (end - len(lines))
    lines[part.first_line - 1 : end] = own
    # Without a time of change it is not compared with a file.
    linecache.cache[file] = (sum(map(len, lines)), None, lines, file)
