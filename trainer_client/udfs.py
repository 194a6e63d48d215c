"""User-defined functions: columns that the servers make with Python code before the filter."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from headrace.v1 import dataset_pb2
from trainer_client.errors import InvalidDatasetError
from trainer_client.upload import PackedFunction, UnpackableError, pack

MAX_BLOCK_ROWS = 1 << 24
MAX_ARCHIVE_BYTES = 1 << 20
_FUNCTION = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)*:[^\W\d]\w*")
_SCALARS = (
    *("bool", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64"),
    *("float32", "float64", "string", "binary"),
)
TYPES = frozenset((*_SCALARS, *(f"list<{name}>" for name in _SCALARS)))


@dataclass(frozen=True, slots=True, init=False)
class Udf:
    """A function from pyarrow.RecordBatch to pyarrow.RecordBatch: itself, or by its import path.

    A function is sent to the servers, as source code, with the dataset; "package.module:function"
    is one that they import. inputs are the columns that it is handed, outputs the columns that it
    makes, with their types ("float32", "list<int64>", …). With random it is also handed rng=, a
    seeded numpy.random.Generator. docs/udfs.md has the rest.
    Raises InvalidDatasetError that names what is wrong.
    """

    function: str
    inputs: tuple[str, ...]
    outputs: tuple[tuple[str, str], ...]
    random: bool
    # The function itself until it is packed; None for one that the servers import.
    code: Callable[..., Any] | PackedFunction | None

    def __init__(
        self,
        function: str | Callable[..., Any],
        *,
        inputs: Iterable[str],
        outputs: Mapping[str, str],
        random: bool = False,
    ) -> None:
        code = None if isinstance(function, str) else function
        name = function if isinstance(function, str) else _name(function)
        if code is None and not _FUNCTION.fullmatch(name):
            raise InvalidDatasetError(
                f"Udf({function!r}): give a function, or name one that servers can import, as in "
                '"package.module:function"'
            )
        if isinstance(inputs, str):
            raise InvalidDatasetError(f"Udf({name!r}) inputs is {inputs!r}: give a list")
        names = tuple(inputs)
        if not isinstance(outputs, Mapping):
            raise InvalidDatasetError(
                f"Udf({name!r}) outputs is {outputs!r}: give a mapping of names to types"
            )
        for what, given in (("inputs", names), ("outputs", tuple(outputs))):
            if not given:
                raise InvalidDatasetError(f"Udf({name!r}) {what}: at least one is needed")
            for each in given:
                if not isinstance(each, str) or not each:
                    raise InvalidDatasetError(
                        f"Udf({name!r}) {what}: {each!r} is no name; give non-empty strings"
                    )
        for column, kind in outputs.items():
            if kind not in TYPES:
                raise InvalidDatasetError(
                    f"Udf({name!r}) outputs {column!r} is {kind!r}: it must be one of "
                    f"{', '.join(_SCALARS)}, or list<T> of one of these"
                )
        if not isinstance(random, bool):
            raise InvalidDatasetError(f"Udf({name!r}) random is {random!r}: True or False")
        self._set(name, code)
        object.__setattr__(self, "inputs", names)
        object.__setattr__(self, "outputs", tuple(outputs.items()))
        object.__setattr__(self, "random", random)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Calls the function here, as if it were not declared."""
        return self.__wrapped__(*args, **kwargs)

    @property
    def __wrapped__(self) -> Callable[..., Any]:
        """The function itself, as functools.wraps() has it."""
        if not callable(self.code):
            raise AttributeError(f"Udf({self.function!r}) has no function here: servers have it")
        return self.code

    def packed(self) -> Udf:
        """The same with the source code of its function, which is read now.

        Raises InvalidDatasetError that names what keeps it from being sent, and the way out.
        """
        if not callable(self.code):
            return self
        try:
            code = pack(self.code)
        except UnpackableError as error:
            raise InvalidDatasetError(
                f"Udf({self.function!r}) cannot be sent to servers: {error}"
            ) from error
        return self._with(code.function, code)

    def to_proto(self) -> dataset_pb2.Udf:
        """The message of this function. Raises InvalidDatasetError as packed() does."""
        packed = self.packed()
        return dataset_pb2.Udf(
            function=packed.function,
            inputs=self.inputs,
            outputs=[dataset_pb2.UdfOutput(name=name, type=kind) for name, kind in self.outputs],
            random=self.random,
            archive=packed.code.to_proto() if isinstance(packed.code, PackedFunction) else None,
        )

    @classmethod
    def from_proto(cls, message: dataset_pb2.Udf) -> Udf:
        """The function of a message. Raises InvalidDatasetError if it is none."""
        outputs = {output.name: output.type for output in message.outputs}
        if len(outputs) != len(message.outputs):
            raise InvalidDatasetError(f"Udf({message.function!r}) outputs: a name is there twice")
        udf = cls(message.function, inputs=message.inputs, outputs=outputs, random=message.random)
        if not message.HasField("archive"):
            return udf
        code = PackedFunction.from_proto(message.function, message.archive)
        return udf._with(message.function, code)

    def _with(self, function: str, code: PackedFunction) -> Udf:
        other = Udf(function, inputs=self.inputs, outputs=dict(self.outputs), random=self.random)
        other._set(function, code)
        return other

    def _set(self, function: str, code: Callable[..., Any] | PackedFunction | None) -> None:
        object.__setattr__(self, "function", function)
        object.__setattr__(self, "code", code)


def udf(
    *, inputs: Iterable[str], outputs: Mapping[str, str], random: bool = False
) -> Callable[[Callable[..., Any]], Udf]:
    """Declares a function for Dataset(udfs=[...]), as Udf does; it can still be called.

    @udf(inputs=["price"], outputs={"relative_price": "float32"})
    def relative_price(batch): ...
    """
    return lambda function: Udf(function, inputs=inputs, outputs=outputs, random=random)


def check_size(udfs: Sequence[Udf]) -> None:
    """Raises InvalidDatasetError if packed functions have more source than a dataset may carry."""
    packed = [udf.code for udf in udfs if isinstance(udf.code, PackedFunction)]
    modules = [module for code in packed for module in code.modules]
    size = sum(module.size_bytes for module in modules)
    if size > MAX_ARCHIVE_BYTES:
        largest = max(modules, key=lambda module: module.size_bytes)
        raise InvalidDatasetError(
            f"udfs: their source is {size:,} bytes, and a dataset may carry "
            f"{MAX_ARCHIVE_BYTES:,}; the largest module is {largest.name} "
            f"({largest.size_bytes:,}): import less of it, or install it on the servers"
        )


def identity_of(message: dataset_pb2.DatasetSpec) -> bytes:
    """What fixes a dataset: all of it, but where the code that it carries stood and was written."""
    bare = dataset_pb2.DatasetSpec()
    bare.CopyFrom(message)
    for each in bare.udfs:
        if each.HasField("archive"):
            each.archive.ClearField("python_version")
        for part in (part for module in each.archive.modules for part in module.parts):
            part.ClearField("file")
            part.ClearField("first_line")
    return bare.SerializeToString(deterministic=True)


def _name(function: object) -> str:
    name = getattr(function, "__name__", None)
    if not callable(function) or isinstance(function, Udf) or not isinstance(name, str):
        raise InvalidDatasetError(
            f"Udf({function!r}): give a function, or name one that servers can import, as in "
            '"package.module:function"'
        )
    return f"{getattr(function, '__module__', None) or '__main__'}:{name}"
