"""A dataset's YAML file: the message in it, where each field stands, and what cannot be read."""

from __future__ import annotations

import datetime
import difflib
import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from google.protobuf import json_format
from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.message import Message
from yaml.constructor import SafeConstructor

from headrace.v1 import dataset_pb2
from preprocessor_server.authoring.mistake import Mistake, Place
from preprocessor_server.authoring.syntax import UNREADABLE, place_of, read
from preprocessor_server.errors import DatasetError

ROOT = "dataset"
# How alike a key must be to a field to be read as it: then what stands in it is checked too.
ALIKE = 0.75
# Less alike is no suggestion.
_LIKE = 0.65

_FEATURE = dataset_pb2.Feature.DESCRIPTOR
_INTEGERS = {
    FieldDescriptor.CPPTYPE_INT32: "an integer from -2^31 to 2^31 - 1",
    FieldDescriptor.CPPTYPE_INT64: "an integer from -2^63 to 2^63 - 1",
    FieldDescriptor.CPPTYPE_UINT32: "an integer from 0 to 2^32 - 1",
    FieldDescriptor.CPPTYPE_UINT64: "an integer from 0 to 2^64 - 1",
}
# What YAML makes of a plain value that looks like one.
_KINDS = {
    bool: "a truth value",
    int: "an integer",
    float: "a number",
    datetime.date: "a date",
    datetime.datetime: "a time",
}
_START = Place(1, 1, 1, 1)


@dataclass(slots=True)
class DatasetFile:
    """What a file holds, as far as it can be read: what is wrong stands in mistakes.

    places has the place of every field that is given, by its path. damaged are the fields that are
    not what the file says, so that what is wrong with their values follows from a mistake; lost
    are those of which nothing is known, whatever lies in them.
    left_out says that some lines are not YAML, complete that it is known which fields they hold.
    """

    name: str
    spec: dataset_pb2.DatasetSpec = field(default_factory=dataset_pb2.DatasetSpec)
    mistakes: list[Mistake] = field(default_factory=list)
    places: dict[str, Place] = field(default_factory=lambda: {ROOT: _START})
    damaged: set[str] = field(default_factory=set)
    lost: set[str] = field(default_factory=set)
    left_out: bool = False
    complete: bool = True

    def place(self, path: str) -> Place:
        """Where a field stands, or the innermost one around it that is there."""
        return next(self.places[each] for each in _outwards(path) if each in self.places)

    def place_in_text(self, path: str, text: str, character: int) -> Place:
        """Where a character (from 1) of a field's text stands; of a text over lines its start."""
        place = self.place(path)
        beside = place.end_column - place.column - len(text)
        # Without quotes, or with them and nothing escaped inside.
        if place.line != place.end_line or beside not in {0, 2}:
            return place
        column = place.column + beside // 2 + character - 1
        return Place(place.line, column, place.line, column + 1)

    def follows(self, path: str) -> bool:
        """Whether a fault of a field follows from a mistake that was noted already."""
        missing = path not in self.places
        if path in self.damaged or (missing and not self.complete):
            return True
        return any(each in self.lost for each in _outwards(path))


def read_file(path: Path) -> DatasetFile:
    """The dataset in a file. Raises OSError if it cannot be read at all."""
    content = path.read_bytes()
    try:
        text = content.decode()
    except UnicodeDecodeError as error:
        file = DatasetFile(str(path), left_out=True, complete=False)
        before = content[: error.start]
        line, column = before.count(b"\n") + 1, error.start - before.rfind(b"\n")
        file.mistakes.append(
            Mistake(
                Place(line, column, line, column + 1),
                ROOT,
                f"byte 0x{content[error.start]:02x} is not UTF-8; save the file as UTF-8",
            )
        )
        return file
    return read_text(text, str(path))


def read_text(text: str, name: str) -> DatasetFile:
    """The dataset in a text; name is the file's, for messages."""
    file = DatasetFile(name)
    syntax = read(text)
    file.mistakes += syntax.mistakes
    file.left_out = bool(syntax.mistakes)
    file.complete = syntax.complete
    if syntax.root is not None:
        _Reading(file).message(syntax.root, file.spec, ROOT, ROOT)
    elif not file.mistakes:
        file.mistakes.append(
            Mistake(_START, ROOT, "the file is empty; a dataset has at least source and features")
        )
    return file


def load_dataset(path: Path) -> dataset_pb2.DatasetSpec:
    """The dataset of a YAML file: the canonical JSON form of DatasetSpec, written as YAML.

    Raises DatasetError that names the file, the line and the field of the first mistake.
    """
    try:
        file = read_file(path)
    except OSError as error:
        raise DatasetError("PATH_UNREADABLE", f"{path}: {error.strerror}") from error
    if not file.mistakes:
        return file.spec
    first = min(file.mistakes, key=lambda mistake: mistake.place)
    more = len(file.mistakes) - 1
    raise DatasetError(
        "DATASET_INVALID",
        f"{path}:{first}" + (f" (and {more} more: preprocessor-server check)" if more else ""),
    )


@dataclass(slots=True)
class _Reading:
    """Fills a message from nodes, and notes what does not fit."""

    file: DatasetFile
    open: set[int] = field(default_factory=set)

    def message(
        self, node: yaml.Node, message: Message, path: str, inner: str, parent: str | None = None
    ) -> None:
        """Fills a message from its node; its fields have paths that start with inner."""
        self.file.places.setdefault(path, place_of(node))
        # The stubs know two classes of descriptors, one of them private.
        descriptor: Any = message.DESCRIPTOR
        if node.tag == UNREADABLE:
            self.file.lost.add(inner)
            return
        if not isinstance(node, yaml.MappingNode):
            self.refuse(node, path, _wanted_mapping(node, descriptor), parent)
            self.file.lost.add(inner)
            return
        if id(node) in self.open:
            self.refuse(node, path, "it holds itself, by an alias; write it out", parent)
            return
        self.open.add(id(node))
        self.fields(node, message, path, inner)
        self.open.remove(id(node))

    def fields(self, node: yaml.MappingNode, message: Message, path: str, inner: str) -> None:
        """Fills the fields of a message from its mapping."""
        descriptor: Any = message.DESCRIPTOR
        fields = {name: each for each in descriptor.fields for name in _names(each)}
        given: dict[str, yaml.Node] = {}
        for key, value in node.value:
            known = fields.get(key.value) if isinstance(key, yaml.ScalarNode) else None
            if known is None:
                known = self.unknown(key, path, inner, descriptor, node)
            if known is None:
                continue
            child = f"{inner}.{known.name}"
            target = message
            earlier = _rival(known, given)
            if earlier is not None:
                self.note(key, child, _given_before(known, earlier, given[earlier]))
                # Its content is looked at all the same.
                target = type(message)()
            else:
                given[known.name] = key
            self.field(key, value, target, known, path, child)

    def field(
        self,
        key: yaml.Node,
        value: yaml.Node,
        message: Message,
        known: FieldDescriptor,
        parent: str,
        path: str,
    ) -> None:
        """Fills a field of a message. parent is the path of the message."""
        if isinstance(value, yaml.ScalarNode) and value.tag == "tag:yaml.org,2002:null":
            self.file.places.setdefault(path, place_of(key))
            way_out = "give a value"
            if _is_message(known) and not known.is_repeated:
                kind: Any = known.message_type
                names = ", ".join(each.name for each in kind.fields)
                way_out = f"indent its fields below it ({names})"
                way_out = way_out if names else f"write {known.name}: {{}}"
            self.refuse(key, path, f"it is empty; {way_out}, or leave the line out", parent)
            return
        self.file.places.setdefault(path, place_of(value))
        if not known.is_repeated or _is_map(known):
            self.value(value, message, known, parent, path)
            return
        items = [value]
        if value.tag == UNREADABLE:
            self.damage(path, parent)
            return
        if isinstance(value, yaml.SequenceNode):
            items = value.value
        else:
            way_out = "start each item with '- '"
            if not _is_message(known) and not isinstance(value, yaml.ScalarNode):
                self.refuse(value, path, f"a list is wanted; {way_out}", parent)
                return
            if isinstance(value, yaml.ScalarNode):
                way_out = f"write [{json.dumps(value.value, ensure_ascii=False)}]"
            # It is read as a list of one.
            self.note(value, path, f"a list is wanted; {way_out}")
        for index, item in enumerate(items):
            self.value(item, message, known, path, f"{path}[{index}]")

    def value(
        self, node: yaml.Node, message: Message, known: FieldDescriptor, parent: str, path: str
    ) -> None:
        """Fills a field with a value, or adds it to a list. parent is the path around it."""
        if _is_message(known) and not _is_map(known):
            child: Any = getattr(message, known.name)
            if known.is_repeated:
                child = child.add()
            else:
                child.SetInParent()
            # Errors of a dataset leave out the kind of a feature.
            is_kind = message.DESCRIPTOR is _FEATURE
            self.message(node, child, path, parent if is_kind else path, parent)
            return
        self.file.places.setdefault(path, place_of(node))
        part = type(message)()
        if node.tag == UNREADABLE:
            self.damage(path, parent)
        else:
            problem = _parse(node, part, known)
            if problem is not None:
                self.refuse(node, path, problem, parent)
        if known.is_repeated and not _is_map(known) and not part.ListFields():
            # Its place in the list stays taken.
            is_text = known.cpp_type == FieldDescriptor.CPPTYPE_STRING
            getattr(part, known.name).append("" if is_text else 0)
        message.MergeFrom(part)

    def unknown(
        self, key: yaml.Node, path: str, inner: str, descriptor: Descriptor, around: yaml.Node
    ) -> FieldDescriptor | None:
        """Refuses a key that is no field; the field that it is taken for, if it is clear."""
        text = key.value if isinstance(key, yaml.ScalarNode) else "a list or mapping"
        names = [each.name for each in descriptor.fields]
        near = difflib.get_close_matches(str(text), names, n=1, cutoff=_LIKE)
        known = ", ".join(names) or "nothing ({})"
        hint = f"did you mean {near[0]!r}?" if near else f"there is {known}"
        self.note(key, path, f"{text!r} is no field of {descriptor.name}; {hint}")
        self.damage(path)
        given = {each.value for each, _ in around.value}
        if near and near[0] not in given:
            alike = difflib.SequenceMatcher(None, str(text), near[0]).ratio()
            if alike >= ALIKE:
                return descriptor.fields_by_name[near[0]]
        # It may stand for any field that is missing.
        self.file.damaged.update(f"{inner}.{name}" for name in names if name not in given)
        return None

    def refuse(self, node: yaml.Node, path: str, message: str, parent: str | None = None) -> None:
        """Notes that a field's value cannot be read."""
        self.note(node, path, message)
        self.damage(path, parent)

    def note(self, node: yaml.Node, path: str, message: str) -> None:
        self.file.mistakes.append(Mistake(place_of(node), path, message))

    def damage(self, path: str, parent: str | None = None) -> None:
        """Remembers that a field, and so what holds it, is not what the file says."""
        self.file.damaged.add(path)
        if parent is not None and parent != ROOT:
            self.file.damaged.add(parent)


def _outwards(path: str) -> Iterator[str]:
    """A path, and those of all that is around it."""
    while path:
        yield path
        path = path[: max(path.rfind("."), path.rfind("["), 0)]


def _names(known: FieldDescriptor) -> tuple[str, str]:
    return known.name, known.json_name


def _is_message(known: FieldDescriptor) -> bool:
    """Whether a field holds a message whose fields are written out."""
    kind = known.message_type
    return kind is not None and not kind.full_name.startswith("google.protobuf.")


def _is_map(known: FieldDescriptor) -> bool:
    return known.message_type is not None and known.message_type.GetOptions().map_entry


def _rival(known: FieldDescriptor, given: dict[str, yaml.Node]) -> str | None:
    """The field that a field may not stand beside: itself, or another one of its oneof."""
    oneof = known.containing_oneof
    rivals = [each.name for each in oneof.fields] if oneof is not None else [known.name]
    return next((name for name in rivals if name in given), None)


def _given_before(known: FieldDescriptor, earlier: str, key: yaml.Node) -> str:
    line = key.start_mark.line + 1
    if earlier == known.name:
        return f"it is given in line {line} already; leave one of the two out"
    return f"{earlier!r} is given in line {line} already, and it may be only one; leave one out"


def _wanted_mapping(node: yaml.Node, descriptor: Descriptor) -> str:
    names = ", ".join(each.name for each in descriptor.fields)
    wanted = f"a mapping of {names} is wanted" if names else "an empty mapping is wanted"
    if descriptor is dataset_pb2.Scalar.DESCRIPTOR and isinstance(node, yaml.ScalarNode):
        kinds = {"tag:yaml.org,2002:int": "integer", "tag:yaml.org,2002:float": "number"}
        return f"{wanted}; write {{{kinds.get(node.tag, 'text')}: {node.value}}}"
    return f"{wanted}; write it as one" if names else f"{wanted}; write {{}}"


def _parse(node: yaml.Node, message: Message, known: FieldDescriptor) -> str | None:
    """Puts a value into a field of an empty message; what is wrong if it is none."""
    try:
        value = SafeConstructor().construct_document(node)
    except yaml.YAMLError:
        return f"it has the tag {node.tag!r}, which says nothing here; leave it out"
    except ValueError as error:
        return f"it is {node.value!r}, which YAML cannot read ({error}); write it in quotes"
    shown = f"it is {node.value!r}" if isinstance(node, yaml.ScalarNode) else f"it is {value!r}"
    is_text = known.cpp_type == FieldDescriptor.CPPTYPE_STRING
    if is_text and not isinstance(value, str):
        if not isinstance(node, yaml.ScalarNode):
            return f"{shown}; give a string"
        kind = _KINDS.get(type(value), "no string")
        return f"{shown}, {kind}; write it as the string {json.dumps(node.value)}"
    try:
        single = not known.is_repeated or _is_map(known)
        json_format.ParseDict({known.name: value if single else [value]}, message)
    except (json_format.ParseError, TypeError, ValueError, AttributeError):
        message.Clear()
        return f"{shown}; give {_wanted(known, value)}"
    return None


def _wanted(known: FieldDescriptor, value: object) -> str:
    if known.enum_type is not None:
        nothing, *values = known.enum_type.values
        prefix = nothing.name.removesuffix("UNSPECIFIED")
        names = [each.name.removeprefix(prefix) for each in values]
        near = difflib.get_close_matches(str(value).upper().removeprefix(prefix), names, n=1)
        hint = f" (did you mean {prefix}{near[0]}?)" if near else ""
        return f"one of {', '.join(each.name for each in values)}{hint}"
    if known.cpp_type in _INTEGERS:
        return _INTEGERS[known.cpp_type]
    if known.cpp_type == FieldDescriptor.CPPTYPE_BOOL:
        return "true or false"
    if known.cpp_type in {FieldDescriptor.CPPTYPE_DOUBLE, FieldDescriptor.CPPTYPE_FLOAT}:
        return 'a number, or "NaN", "Infinity" or "-Infinity" in quotes'
    return f"the JSON form of {known.message_type.full_name if known.message_type else 'a string'}"
