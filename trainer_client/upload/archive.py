"""What is sent of a function: its name, and the modules that make it."""

from __future__ import annotations

import sys
from dataclasses import dataclass

from headrace.v1 import dataset_pb2

# Of a script, or a notebook, what a function needs makes a module of this name.
SCRIPT = "__main__"


@dataclass(frozen=True, slots=True)
class Text:
    """A piece of a module, and where it stood: file, and its first line there, from 1."""

    text: str
    file: str = ""
    first_line: int = 1


@dataclass(frozen=True, slots=True)
class ArchivedModule:
    """A module, as whose text its parts are run one after the other."""

    name: str
    package: bool
    parts: tuple[Text, ...]

    @property
    def size_bytes(self) -> int:
        """The size of its text in bytes."""
        return sum(len(part.text.encode()) for part in self.parts)


@dataclass(frozen=True, slots=True)
class PackedFunction:
    """A function by its name, "module:function", and the modules that it is made of, by name.

    python_version is that of the Python it was packed in, "3.12".
    """

    function: str
    modules: tuple[ArchivedModule, ...]
    python_version: str = "{}.{}".format(*sys.version_info)

    def to_proto(self) -> dataset_pb2.UdfArchive:
        """The message of its code."""
        return dataset_pb2.UdfArchive(
            python_version=self.python_version,
            modules=[
                dataset_pb2.UdfModule(
                    name=module.name,
                    package=module.package,
                    parts=[
                        dataset_pb2.UdfText(
                            text=part.text, file=part.file, first_line=part.first_line
                        )
                        for part in module.parts
                    ],
                )
                for module in self.modules
            ],
        )

    @classmethod
    def from_proto(cls, function: str, message: dataset_pb2.UdfArchive) -> PackedFunction:
        """The function of a message."""
        modules = tuple(
            ArchivedModule(
                module.name,
                module.package,
                tuple(Text(part.text, part.file, part.first_line) for part in module.parts),
            )
            for module in message.modules
        )
        return cls(function, modules, message.python_version)
