"""Generates the JSON Schema of a dataset's YAML form, for editors, from the contract.

    python proto/json_schema.py             rewrites the committed file
    python proto/json_schema.py --out FILE  writes it to FILE instead, to compare the two

The form is protobuf's JSON mapping with the field names of the .proto files; descriptions are their
comments. What a schema cannot say (what is required, bounds) the comments say, and
`preprocessor-server check` holds. Draft 7 is what editors know best.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from itertools import combinations
from pathlib import Path
from typing import Any, TypeAlias

from google.protobuf import descriptor_pb2

from generate import PROTO, run_protoc

ROOT = "headrace.v1.DatasetSpec"
SCHEMA = PROTO / "headrace" / "v1" / "dataset.schema.json"

Json: TypeAlias = dict[str, Any]
_Field: TypeAlias = descriptor_pb2.FieldDescriptorProto

# Numbers beyond 2^53 may be written as strings, so that no tool rounds them.
_DIGITS = "^-?[0-9]+$"
_NUMBER: Json = {"anyOf": [{"type": "number"}, {"enum": ["NaN", "Infinity", "-Infinity"]}]}
_SCALARS: dict[int, Json] = {
    _Field.TYPE_BOOL: {"type": "boolean"},
    _Field.TYPE_STRING: {"type": "string"},
    _Field.TYPE_BYTES: {"type": "string"},
    _Field.TYPE_DOUBLE: _NUMBER,
    _Field.TYPE_FLOAT: _NUMBER,
}
_INTEGERS: dict[int, tuple[int, int]] = {
    **dict.fromkeys((_Field.TYPE_INT32, _Field.TYPE_SINT32, _Field.TYPE_SFIXED32), (32, 1)),
    **dict.fromkeys((_Field.TYPE_INT64, _Field.TYPE_SINT64, _Field.TYPE_SFIXED64), (64, 1)),
    **dict.fromkeys((_Field.TYPE_UINT32, _Field.TYPE_FIXED32), (32, 0)),
    **dict.fromkeys((_Field.TYPE_UINT64, _Field.TYPE_FIXED64), (64, 0)),
}


class Schema:
    """Writes the definitions of a message and of all that it is made of."""

    def __init__(self, files: descriptor_pb2.FileDescriptorSet) -> None:
        self._messages: dict[str, descriptor_pb2.DescriptorProto] = {}
        self._enums: dict[str, descriptor_pb2.EnumDescriptorProto] = {}
        self._comments: dict[str, str] = {}
        self.definitions: dict[str, Json] = {}
        for file in files.file:
            self._index(file)

    def of(self, name: str) -> Json:
        """The schema of a message type, by reference to its definition."""
        short = name.rpartition(".")[2]
        if short not in self.definitions:
            self.definitions[short] = {}
            self.definitions[short] = self._message(name)
        return {"$ref": f"#/definitions/{short}"}

    def _index(self, file: descriptor_pb2.FileDescriptorProto) -> None:
        comments = {
            tuple(each.path): " ".join(each.leading_comments.split())
            for each in file.source_code_info.location
        }

        def index(
            message: descriptor_pb2.DescriptorProto, scope: str, path: tuple[int, ...]
        ) -> None:
            name = f"{scope}.{message.name}"
            self._messages[name] = message
            self._enums |= {f"{name}.{each.name}": each for each in message.enum_type}
            self._comments[name] = comments.get(path, "")
            for i, field in enumerate(message.field):
                self._comments[f"{name}.{field.name}"] = comments.get((*path, 2, i), "")
            for i, nested in enumerate(message.nested_type):
                index(nested, name, (*path, 3, i))

        # The numbers are those of the fields of FileDescriptorProto and DescriptorProto.
        for i, message in enumerate(file.message_type):
            index(message, file.package, (4, i))
        self._enums |= {f"{file.package}.{each.name}": each for each in file.enum_type}

    def _message(self, name: str) -> Json:
        message = self._messages[name]
        schema: Json = {
            "type": "object",
            "description": self._comments[name],
            "properties": {
                field.name: {
                    "description": self._comments[f"{name}.{field.name}"],
                    **self._field(field),
                }
                for field in message.field
            },
            "additionalProperties": False,
        }
        for index in range(len(message.oneof_decl)):
            names = [
                field.name
                for field in message.field
                if field.HasField("oneof_index") and field.oneof_index == index
            ]
            if len(names) == len(message.field):
                schema["maxProperties"] = 1
            elif len(names) > 1:
                pairs = [{"not": {"required": pair}} for pair in combinations(names, 2)]
                schema.setdefault("allOf", []).extend(pairs)
        return schema

    def _field(self, field: descriptor_pb2.FieldDescriptorProto) -> Json:
        entry = self._messages.get(field.type_name.removeprefix("."))
        if entry is not None and entry.options.map_entry:
            schema: Json = {"type": "object", "additionalProperties": self._value(entry.field[1])}
        elif field.label == field.LABEL_REPEATED:
            schema = {"type": "array", "items": self._value(field)}
        else:
            schema = self._value(field)
        if "$ref" in schema:
            # Draft 7 ignores what stands beside a reference.
            schema = {"allOf": [schema]}
        return schema

    def _value(self, field: descriptor_pb2.FieldDescriptorProto) -> Json:
        name = field.type_name.removeprefix(".")
        if name.startswith("google.protobuf."):
            raise SystemExit(f"{field.name}: say here what {name} is in JSON")
        if field.type == field.TYPE_MESSAGE:
            return self.of(name)
        if field.type == field.TYPE_ENUM:
            # The first value says that none was given.
            return {"enum": [value.name for value in self._enums[name].value if value.number]}
        if field.type in _INTEGERS:
            bits, signed = _INTEGERS[field.type]
            kind = ["integer", "string"] if bits == 64 else "integer"
            bounds = {"minimum": -signed << (bits - 1), "maximum": (1 << (bits - signed)) - 1}
            return {"type": kind, **bounds, **({"pattern": _DIGITS} if bits == 64 else {})}
        return _SCALARS[field.type]


def generate(out: Path) -> None:
    """Writes the schema; raises CalledProcessError when protoc refuses the contract."""
    with tempfile.NamedTemporaryFile() as found:
        run_protoc(
            "--include_source_info",
            "--include_imports",
            f"--descriptor_set_out={found.name}",
            "headrace/v1/dataset.proto",
        )
        files = descriptor_pb2.FileDescriptorSet.FromString(Path(found.name).read_bytes())
    schema = Schema(files)
    whole = {
        "$schema": "http://json-schema.org/draft-07/schema#",
        "title": "A dataset of Headrace",
        "allOf": [schema.of(ROOT)],
        "definitions": schema.definitions,
    }
    out.write_text(json.dumps(whole, indent=2, ensure_ascii=False) + "\n")


def main() -> None:
    """Runs from the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", type=Path, default=SCHEMA, help="file to write")
    generate(parser.parse_args().out.resolve())


if __name__ == "__main__":
    main()
