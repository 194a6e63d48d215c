"""What a dataset declares of its functions: checked, and bound to the columns of its rows."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from itertools import chain

import pyarrow as pa
import xxhash

from headrace.v1 import dataset_pb2
from preprocessor_server.errors import DatasetError
from preprocessor_server.transform.invalid import invalid, suggest
from preprocessor_server.udf.archive import ArchivedModule, Code, Text
from preprocessor_server.udf.types import arrow_type, row_bytes

DEFAULT_BLOCK_ROWS = 65_536
MAX_BLOCK_ROWS = 1 << 24
MAX_ARCHIVE_BYTES = 1 << 20
_MODULE = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)*")
_FUNCTION = re.compile(rf"{_MODULE.pattern}:[^\W\d]\w*")
_PYTHON = re.compile(r"\d+\.\d+")


@dataclass(frozen=True, slots=True)
class UdfOutput:
    """A column that a function makes."""

    name: str
    type_name: str
    type: pa.DataType


@dataclass(frozen=True)
class DeclaredUdf:
    """A function and the columns that it takes and makes; index is its place in the dataset.

    python_version is that of code that the dataset carries, else "".
    """

    index: int
    code: Code
    inputs: tuple[str, ...]
    outputs: tuple[UdfOutput, ...]
    random: bool
    python_version: str = ""

    @property
    def function(self) -> str:
        """Its name, "package.module:function"."""
        return self.code.function

    @property
    def module(self) -> str:
        """The module that it is imported from."""
        return self.function.partition(":")[0]

    @property
    def typed_outputs(self) -> list[tuple[str, str]]:
        """The name of each output and that of its type."""
        return [(output.name, output.type_name) for output in self.outputs]

    @cached_property
    def seed_word(self) -> int:
        """Tells the random numbers of functions apart: XXH64 of the name, seed 0."""
        return xxhash.xxh64_intdigest(self.function.encode())


@dataclass(frozen=True)
class DeclaredUdfs:
    """The functions of a dataset in the order in which they run; schema has all columns of rows."""

    udfs: tuple[DeclaredUdf, ...]
    schema: pa.Schema
    block_rows: int

    def needed(self, names: Collection[str]) -> tuple[DeclaredUdf, ...]:
        """The functions that named columns need, directly or through others, in order."""
        wanted, found = set(names), []
        for udf in reversed(self.udfs):
            if any(output.name in wanted for output in udf.outputs):
                found.append(udf)
                wanted |= set(udf.inputs)
        return tuple(reversed(found))

    def sources(self, names: Collection[str]) -> set[str]:
        """The columns of the source that named columns need."""
        needed = self.needed(names)
        made = {output.name for udf in self.udfs for output in udf.outputs}
        return {*names, *(name for udf in needed for name in udf.inputs)} - made

    def made(self, names: Collection[str]) -> list[str]:
        """The columns that the functions make that named columns need."""
        return [output.name for udf in self.needed(names) for output in udf.outputs]

    def row_bytes(self, names: Collection[str]) -> int:
        """What the columns made for named ones take up in memory, in bytes a row; an estimate."""
        needed = self.needed(names)
        return sum(row_bytes(output.type) for udf in needed for output in udf.outputs)


def declaration_errors(spec: dataset_pb2.DatasetSpec) -> Iterator[DatasetError]:
    """All that is wrong with the declarations themselves, whatever the source has."""
    if spec.udf_block_rows > MAX_BLOCK_ROWS:
        yield invalid(
            "dataset.udf_block_rows",
            f"udf_block_rows is {spec.udf_block_rows:,}; it lies between 1 and "
            f"{MAX_BLOCK_ROWS:,}, or is 0 for the default ({DEFAULT_BLOCK_ROWS:,})",
        )
    size = sum(
        len(part.text.encode())
        for udf in spec.udfs
        for module in udf.archive.modules
        for part in module.parts
    )
    if size > MAX_ARCHIVE_BYTES:
        yield invalid(
            "dataset.udfs",
            f"the dataset carries {size:,} bytes of source code, and may carry "
            f"{MAX_ARCHIVE_BYTES:,}; install what is large on the servers",
        )
    functions: list[str] = []
    for i, udf in enumerate(spec.udfs):
        at = f"dataset.udfs[{i}]"
        if not _FUNCTION.fullmatch(udf.function):
            yield invalid(
                f"{at}.function",
                f"{udf.function!r} is no function; write package.module:function",
            )
        elif udf.function in functions:
            yield invalid(
                f"{at}.function",
                f"{udf.function} is named twice; name it once, with all it makes",
            )
        functions.append(udf.function)
        if udf.HasField("archive"):
            yield from _archive_errors(udf, f"{at}.archive")
        if not udf.inputs:
            yield invalid(
                f"{at}.inputs", f"{udf.function} is handed no column; give it at least one"
            )
        if not udf.outputs:
            yield invalid(f"{at}.outputs", f"{udf.function} makes no column; declare at least one")
        for j, output in enumerate(udf.outputs):
            if not output.name:
                yield invalid(f"{at}.outputs[{j}].name", "an empty column; name it")
            try:
                arrow_type(output.type)
            except ValueError as error:
                yield invalid(f"{at}.outputs[{j}].type", f"column {output.name!r}: {error}")


def _archive_errors(udf: dataset_pb2.Udf, at: str) -> Iterator[DatasetError]:
    archive = udf.archive
    if not _PYTHON.fullmatch(archive.python_version):
        yield invalid(
            f"{at}.python_version",
            f"{archive.python_version!r} is no version of Python; write it as in 3.12",
        )
    names: set[str] = set()
    for i, module in enumerate(archive.modules):
        if not _MODULE.fullmatch(module.name) or module.name in names:
            problem = "is there twice" if module.name in names else "is no name of a module"
            yield invalid(f"{at}.modules[{i}].name", f"{module.name!r} {problem}")
        names.add(module.name)
    if udf.function.partition(":")[0] not in names:
        yield invalid(f"{at}.modules", f"the archive lacks the module of {udf.function}")


def identity_of(spec: dataset_pb2.DatasetSpec) -> bytes:
    """What fixes a dataset: all of it, but where the code that it carries stood and was written."""
    bare = dataset_pb2.DatasetSpec()
    bare.CopyFrom(spec)
    for udf in bare.udfs:
        if udf.HasField("archive"):
            udf.archive.ClearField("python_version")
        for part in (part for module in udf.archive.modules for part in module.parts):
            part.ClearField("file")
            part.ClearField("first_line")
    return bare.SerializeToString(deterministic=True)


def binding_errors(spec: dataset_pb2.DatasetSpec, source: pa.Schema) -> Iterator[DatasetError]:
    """What is wrong with the declarations beside the columns of a source's rows."""
    schema = source
    for i, udf in enumerate(spec.udfs):
        at = f"dataset.udfs[{i}]"
        for j, name in enumerate(udf.inputs):
            count = len(schema.get_all_field_indices(name))
            if count != 1:
                yield invalid(
                    f"{at}.inputs[{j}]",
                    f"there are {count} columns called {name!r}, which {udf.function} is to be "
                    f"handed; {suggest(name, list(schema.names))}",
                )
        for j, output in enumerate(udf.outputs):
            if output.name in schema.names:
                origin = "the source" if output.name in source.names else "an earlier output"
                yield invalid(
                    f"{at}.outputs[{j}].name",
                    f"{udf.function} makes column {output.name!r}, which {origin} has already; a "
                    "UDF replaces no column, so give it another name",
                )
        schema = _with_outputs(schema, udf)


def output_schema(spec: dataset_pb2.DatasetSpec, source: pa.Schema) -> pa.Schema:
    """The columns of a source's rows, and those that functions make."""
    for udf in spec.udfs:
        source = _with_outputs(source, udf)
    return source


def _with_outputs(schema: pa.Schema, udf: dataset_pb2.Udf) -> pa.Schema:
    for output in udf.outputs:
        # Of a type that is none, the name is known all the same.
        kind = pa.null()
        with suppress(ValueError):
            kind = arrow_type(output.type)
        if output.name not in schema.names:
            schema = schema.append(pa.field(output.name, kind))
    return schema


def _modules(archive: dataset_pb2.UdfArchive) -> tuple[ArchivedModule, ...]:
    return tuple(
        ArchivedModule(
            module.name,
            module.package,
            tuple(Text(part.text, part.file, part.first_line or 1) for part in module.parts),
        )
        for module in archive.modules
    )


def declare_udfs(spec: dataset_pb2.DatasetSpec, source: pa.Schema) -> DeclaredUdfs:
    """Binds a dataset's functions to the columns of its rows.

    Raises DatasetError (DATASET_INVALID) for a declaration that is wrong in itself, an input that
    there is not, and an output that there is already.
    """
    for error in chain(declaration_errors(spec), binding_errors(spec, source)):
        raise error
    udfs = tuple(
        DeclaredUdf(
            index=i,
            code=Code(message.function, _modules(message.archive)),
            inputs=tuple(dict.fromkeys(message.inputs)),
            outputs=tuple(
                UdfOutput(output.name, output.type, arrow_type(output.type))
                for output in message.outputs
            ),
            random=message.random,
            python_version=message.archive.python_version,
        )
        for i, message in enumerate(spec.udfs)
    )
    block_rows = spec.udf_block_rows or DEFAULT_BLOCK_ROWS
    return DeclaredUdfs(udfs, output_schema(spec, source), block_rows)
