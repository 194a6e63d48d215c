"""The YAML form of messages: canonical protobuf JSON, with the line of what is wrong in it."""

from __future__ import annotations

import contextlib
import difflib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml
from google.protobuf import json_format
from google.protobuf.descriptor import EnumDescriptor
from google.protobuf.message import Message
from yaml.constructor import SafeConstructor

from headrace.v1 import dataset_pb2
from trainer_client.errors import InvalidDatasetError


def dump(message: dataset_pb2.DatasetSpec) -> str:
    """The message as YAML, with the field names of the .proto files."""
    value = json_format.MessageToDict(message, preserving_proto_field_name=True)
    return str(yaml.dump(value, Dumper=_Dumper, sort_keys=False, allow_unicode=True))


class _Dumper(yaml.SafeDumper):
    """Writes texts of several lines, as source code is, line by line."""


def _write_text(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    style = "|" if "\n" in text else None
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=style)


_Dumper.add_representer(str, _write_text)


def load(source: str | os.PathLike[str]) -> tuple[dataset_pb2.DatasetSpec, str]:
    """The message in a file, or in text with a line break, and what to call where it stood.

    Raises InvalidDatasetError that names the file, the line and the field.
    """
    if isinstance(source, str) and "\n" in source:
        name, text = "YAML text", source
    else:
        name = os.fspath(source)
        try:
            text = Path(source).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise InvalidDatasetError(f"{name}: the dataset cannot be read: {error}") from error
    with located(name):
        try:
            node = yaml.compose(text, Loader=yaml.SafeLoader)
            value = yaml.safe_load(text)
        except yaml.YAMLError as error:
            raise InvalidDatasetError(f"not YAML: {error}") from error
        if node is None:
            raise InvalidDatasetError("empty; a dataset has at least source and features")
        _check_message(node, dataset_pb2.DatasetSpec(), "")
        message = dataset_pb2.DatasetSpec()
        try:
            json_format.ParseDict(value, message)
        except json_format.ParseError as error:
            raise InvalidDatasetError(str(error)) from error
    return message, name


@contextlib.contextmanager
def located(name: str) -> Iterator[None]:
    """Puts a file's name before the message of an InvalidDatasetError."""
    try:
        yield
    except InvalidDatasetError as error:
        raise InvalidDatasetError(f"{name}: {error.message}") from error


def _check_message(node: yaml.Node, message: Message, path: str) -> None:
    """Raises InvalidDatasetError at the first key or value that the (empty) message cannot hold."""
    descriptor = message.DESCRIPTOR
    known = ", ".join(field.name for field in descriptor.fields) or "nothing ({})"
    if not isinstance(node, yaml.MappingNode):
        raise _at(node, f"{path or 'the dataset'} must be a mapping of {known}")
    fields = {name: field for field in descriptor.fields for name in (field.name, field.json_name)}
    seen: set[str] = set()
    for key, value in node.value:
        field = fields.get(key.value) if isinstance(key, yaml.ScalarNode) else None
        where = f"{path}.{key.value}".lstrip(".")
        if field is None:
            near = difflib.get_close_matches(str(key.value), list(fields), n=1)
            hint = f"did you mean {near[0]!r}?" if near else f"there is {known}"
            raise _at(key, f"{where} is no field of {descriptor.name}: {hint}")
        if field.name in seen:
            raise _at(key, f"{where} is given twice")
        seen.add(field.name)
        if not field.is_repeated:
            _check_value(value, message, field, where)
        elif not isinstance(value, yaml.SequenceNode):
            raise _at(value, f"{where} must be a list")
        else:
            for i, item in enumerate(value.value):
                _check_value(item, message, field, f"{where}[{i}]")


def _check_value(node: yaml.Node, parent: Message, field: Any, path: str) -> None:
    if field.message_type is not None:
        child = getattr(parent, field.name)
        _check_message(node, child.add() if field.is_repeated else child, path)
        return
    value: Any = SafeConstructor().construct_document(node)
    if value is None:
        raise _at(node, f"{path} is empty: give a value or leave the line out")
    try:
        json_format.ParseDict({field.name: [value] if field.is_repeated else value}, type(parent)())
    except json_format.ParseError as error:
        why = error if field.enum_type is None else _hint(value, field.enum_type)
        raise _at(node, f"{path} is {value!r}: {why}") from error


def _hint(value: Any, known: EnumDescriptor) -> str:
    """What was meant by a value that an enum does not have."""
    nothing, *values = known.values
    prefix = nothing.name.removesuffix("UNSPECIFIED")
    names = [each.name.removeprefix(prefix) for each in values]
    near = difflib.get_close_matches(str(value).upper().removeprefix(prefix), names, n=1)
    if near:
        return f"did you mean {prefix}{near[0]}?"
    return f"there is {', '.join(each.name for each in values)}"


def _at(node: yaml.Node, message: str) -> InvalidDatasetError:
    return InvalidDatasetError(f"line {node.start_mark.line + 1}: {message}")
