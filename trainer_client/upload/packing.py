"""From a function of a running program to the modules that servers need to run it.

A function of a local module takes that module along, as a whole. Of a script or a notebook, which
nobody may run a second time, it takes what it uses: functions and classes by their source, modules
by import, plain values as they are now.
"""

from __future__ import annotations

import ast
import builtins
import inspect
import sys
from collections.abc import Callable, Iterator
from types import FunctionType, ModuleType
from typing import Any

from trainer_client.upload.archive import SCRIPT, ArchivedModule, PackedFunction, Text
from trainer_client.upload.definition import (
    Definition,
    NoSourceError,
    attributes_of,
    find_definition,
    global_names,
)
from trainer_client.upload.literals import literal
from trainer_client.upload.local_modules import (
    LocalModules,
    ModuleProblemError,
    find_local,
    imported_names,
)

# Annotations may name what servers do not have; nothing asks for them there.
_HEADER = "from __future__ import annotations"
# multiprocessing calls a script so that it runs once more in a process that it has spawned.
_SCRIPTS = (SCRIPT, "__mp_main__")


class UnpackableError(Exception):
    """A function cannot be sent; the message names what is in the way, and the way out."""


def pack(function: Callable[..., Any]) -> PackedFunction:
    """The source of a function and of what it uses. Raises UnpackableError."""
    try:
        return _pack(function)
    except (ModuleProblemError, NoSourceError) as error:
        raise UnpackableError(str(error)) from error


def _pack(function: Callable[..., Any]) -> PackedFunction:
    inner = inspect.unwrap(function)
    if not isinstance(inner, FunctionType) or inner.__name__ == "<lambda>":
        what = "a lambda" if isinstance(inner, FunctionType) else type(inner).__name__
        raise UnpackableError(f"it is {what}: write it as a function, with def")
    modules = LocalModules()
    home = _home(inner)
    if home is not None:
        if not modules.add(home):
            raise UnpackableError(
                f"module {home} is installed, not of this program: name the function by its path, "
                f'"{home}:{inner.__name__}", and start servers with --udf-module {home}'
            )
        return PackedFunction(f"{home}:{inner.__name__}", modules.archived())
    script = _Script(inner.__globals__, modules)
    script.add(inner.__name__, function, inner)
    own = ArchivedModule(SCRIPT, package=False, parts=tuple(script.parts()))
    return PackedFunction(f"{SCRIPT}:{inner.__name__}", (own, *modules.archived()))


def _home(value: FunctionType | type) -> str | None:
    """The module that a function or a class can be imported from, None for those of a script."""
    module = sys.modules.get(value.__module__ or "")
    if module is None or value.__module__ in _SCRIPTS or "<locals>" in value.__qualname__:
        return None
    return value.__module__ if _unwrapped(getattr(module, value.__name__, None)) is value else None


def _unwrapped(value: object) -> object:
    """What decorators have wrapped; @udf does, too."""
    return inspect.unwrap(value) if callable(value) else value


class _Script:
    """What some functions of a script, or a notebook, use of it; namespace has its names."""

    def __init__(self, namespace: dict[str, Any], modules: LocalModules) -> None:
        self._namespace = namespace
        self._modules = modules
        self._seen: set[str] = set()
        # Import and assignment statements; definitions, each after those that it uses.
        self._imports: set[str] = set()
        self._values: dict[str, str] = {}
        self._definitions: list[Text] = []

    def parts(self) -> Iterator[Text]:
        """The text of a module that has all of it."""
        values = [f"{name} = {value}" for name, value in sorted(self._values.items())]
        yield Text("\n".join([_HEADER, *sorted(self._imports), *values]) + "\n")
        yield from self._definitions

    def add(self, name: str, value: object, user: FunctionType | type) -> None:
        """Adds what a name stands for in user. Raises UnpackableError."""
        if name in self._seen:
            return
        self._seen.add(name)
        inner = _unwrapped(value)
        if isinstance(value, ModuleType):
            self._import_module(name, value)
        elif (text := literal(value)) is not None:
            self._values[name] = text
        elif isinstance(inner, FunctionType | type) and self._is_of_script(inner):
            self._define(name, inner)
        elif (origin := self._origin(name, inner)) is not None:
            self._modules.add(origin[0])
            self._imports.add(_import("from {} import {}".format(*origin), origin[1], name))
        else:
            raise UnpackableError(
                f"{user.__name__} uses {name}, which is {_kind(value)}: what is sent along is "
                "functions, classes, modules and plain values (numbers, texts, and lists, tuples, "
                "sets and dicts of these); make it inside of the function, or in a module that "
                "you import"
            )

    def _import_module(self, name: str, module: ModuleType) -> None:
        self._modules.add(module.__name__)
        self._imports.add(_import(f"import {module.__name__}", module.__name__, name))

    def _is_of_script(self, value: FunctionType | type) -> bool:
        if isinstance(value, FunctionType):
            return value.__globals__ is self._namespace and _home(value) is None
        return value.__module__ == self._namespace.get("__name__") and _home(value) is None

    def _origin(self, name: str, value: object) -> tuple[str, str] | None:
        """The module, and the name there, that something can be imported from."""
        for holder in (value, type(value)):
            module_name = getattr(holder, "__module__", None) or ""
            module = sys.modules.get(module_name)
            if module is None or module_name in (*_SCRIPTS, "builtins"):
                continue
            for known in (getattr(value, "__name__", name), name):
                if _unwrapped(getattr(module, known, None)) is value:
                    return module_name, known
        return None

    def _define(self, name: str, value: FunctionType | type) -> None:
        if isinstance(value, FunctionType) and value.__closure__:
            variables = ", ".join(value.__code__.co_freevars)
            raise UnpackableError(
                f"{value.__name__} uses {variables} of the function around it, which is not sent "
                "along: give it what it needs as a constant of the script, or make it inside"
            )
        definition = find_definition(value)
        node = definition.node
        while any(map(self._is_own, node.decorator_list)):
            # What stands above @udf gets no function, but what @udf made of it.
            del node.decorator_list[0]
        self._add_used(definition, value)
        self._definitions.append(definition.text())
        if name != node.name:
            self._definitions.append(Text(f"{name} = {node.name}\n"))

    def _is_own(self, decorator: ast.expr) -> bool:
        """Whether a decorator is that of this package."""
        while isinstance(decorator, ast.Call):
            decorator = decorator.func
        parts = ast.unparse(decorator).split(".")
        found = self._namespace.get(parts[0])
        for part in parts[1:]:
            found = getattr(found, part, None)
        return getattr(found, "__module__", "").partition(".")[0] == __name__.partition(".")[0]

    def _add_used(self, definition: Definition, user: FunctionType | type) -> None:
        node = definition.node
        for name in global_names(node):
            if name in self._namespace and not name.startswith("__"):
                self.add(name, self._namespace[name], user)
            elif name.startswith("__") and name != "__name__":
                raise UnpackableError(
                    f"{user.__name__} uses {name}, which code on a server does not have"
                )
            elif name != node.name and not hasattr(builtins, name):
                raise UnpackableError(
                    f"{user.__name__} uses {name}, which is not there (yet): define it before the "
                    "dataset is made"
                )
        modules = {n for n in global_names(node) if isinstance(self._namespace.get(n), ModuleType)}
        for first, *attributes in attributes_of(node, modules):
            self._import_submodules(self._namespace[first], attributes)
        for each in ast.walk(node):
            if isinstance(each, ast.ImportFrom) and each.level:
                raise UnpackableError(
                    f"{user.__name__} imports {'.' * each.level}{each.module or ''}: write the "
                    "module's whole name"
                )
        for module in imported_names(node, ""):
            self._modules.add(module)

    def _import_submodules(self, module: ModuleType, attributes: list[str]) -> None:
        """Sees to it that what is used as an attribute of a package is imported, too."""
        for attribute in attributes:
            found = getattr(module, attribute, None)
            name = f"{module.__name__}.{attribute}"
            if not isinstance(found, ModuleType) or found.__name__ != name:
                return
            if find_local(name) is not None:
                self._modules.add(name)
            self._imports.add(f"import {name}")
            module = found


def _import(statement: str, imported: str, name: str) -> str:
    return statement if imported == name else f"{statement} as {name}"


def _kind(value: object) -> str:
    kind = type(value)
    where = "" if kind.__module__ == "builtins" else f"{kind.__module__}."
    if isinstance(value, FunctionType | type):
        return f"a {kind.__name__} of another place ({value.__module__}.{value.__qualname__})"
    return f"a {where}{kind.__qualname__}"
