"""User-defined functions: columns that the servers make with Python code before the filter."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from headrace.v1 import dataset_pb2
from trainer_client.errors import InvalidDatasetError

MAX_BLOCK_ROWS = 1 << 24
_FUNCTION = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)*:[^\W\d]\w*")
_SCALARS = (
    *("bool", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64"),
    *("float32", "float64", "string", "binary"),
)
TYPES = frozenset((*_SCALARS, *(f"list<{name}>" for name in _SCALARS)))


@dataclass(frozen=True, slots=True, init=False)
class Udf:
    """A function from pyarrow.RecordBatch to pyarrow.RecordBatch, by its import path.

    function is "package.module:function", which the servers import; inputs are the columns that it
    is handed, outputs the columns that it makes, with their types ("float32", "list<int64>", …).
    With random it is also handed rng=, a seeded numpy.random.Generator. docs/udfs.md has the rest.
    Raises InvalidDatasetError that names what is wrong.
    """

    function: str
    inputs: tuple[str, ...]
    outputs: tuple[tuple[str, str], ...]
    random: bool

    def __init__(
        self,
        function: str,
        *,
        inputs: Iterable[str],
        outputs: Mapping[str, str],
        random: bool = False,
    ) -> None:
        if not isinstance(function, str) or not _FUNCTION.fullmatch(function):
            raise InvalidDatasetError(
                f"Udf({function!r}): name a function that servers can import, as in "
                '"package.module:function"'
            )
        if isinstance(inputs, str):
            raise InvalidDatasetError(f"Udf({function!r}) inputs is {inputs!r}: give a list")
        names = tuple(inputs)
        if not isinstance(outputs, Mapping):
            raise InvalidDatasetError(
                f"Udf({function!r}) outputs is {outputs!r}: give a mapping of names to types"
            )
        for what, given in (("inputs", names), ("outputs", tuple(outputs))):
            if not given:
                raise InvalidDatasetError(f"Udf({function!r}) {what}: at least one is needed")
            for name in given:
                if not isinstance(name, str) or not name:
                    raise InvalidDatasetError(
                        f"Udf({function!r}) {what}: {name!r} is no name; give non-empty strings"
                    )
        for name, kind in outputs.items():
            if kind not in TYPES:
                raise InvalidDatasetError(
                    f"Udf({function!r}) outputs {name!r} is {kind!r}: it must be one of "
                    f"{', '.join(_SCALARS)}, or list<T> of one of these"
                )
        if not isinstance(random, bool):
            raise InvalidDatasetError(f"Udf({function!r}) random is {random!r}: True or False")
        object.__setattr__(self, "function", function)
        object.__setattr__(self, "inputs", names)
        object.__setattr__(self, "outputs", tuple(outputs.items()))
        object.__setattr__(self, "random", random)

    def to_proto(self) -> dataset_pb2.Udf:
        """The message of this function."""
        return dataset_pb2.Udf(
            function=self.function,
            inputs=self.inputs,
            outputs=[dataset_pb2.UdfOutput(name=name, type=kind) for name, kind in self.outputs],
            random=self.random,
        )

    @classmethod
    def from_proto(cls, message: dataset_pb2.Udf) -> Udf:
        """The function of a message. Raises InvalidDatasetError if it is none."""
        outputs = {output.name: output.type for output in message.outputs}
        if len(outputs) != len(message.outputs):
            raise InvalidDatasetError(f"Udf({message.function!r}) outputs: a name is there twice")
        return cls(message.function, inputs=message.inputs, outputs=outputs, random=message.random)
