"""One batch of per-feature tensors as bytes, and back: the formats that people send batches in.

A batch is a dict: each dense feature and label a float32 tensor [B], each sparse feature its values
int64 [n] and lengths int32 [B] (as "name.values", "name.lengths").
"""

from __future__ import annotations

import io
import pickle
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import torch
import zstandard
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from torch.utils.dlpack import from_dlpack

from trainer_client import Batch

Features = dict[str, torch.Tensor]
VALUES, LENGTHS = ".values", ".lengths"


def features_of(batch: Batch) -> Features:
    """A batch as a dict of tensors that own their memory (else pickle takes whole arenas along)."""
    found: Features = {}
    for name in batch:
        feature = batch[name]
        if isinstance(feature, torch.Tensor):
            found[name] = feature.clone()
        else:
            found[name + VALUES] = feature.values.clone()
            found[name + LENGTHS] = feature.lengths.clone()
    return found


def same(left: Features, right: Features) -> bool:
    """Whether both hold the same tensors of the same types."""
    return left.keys() == right.keys() and all(
        tensor.dtype == right[name].dtype and torch.equal(tensor, right[name])
        for name, tensor in left.items()
    )


class Format(ABC):
    """A way to write a batch; name says which, for people."""

    name: str

    @abstractmethod
    def encode(self, features: Features) -> bytes:
        """The bytes of a batch."""

    @abstractmethod
    def decode(self, data: bytes) -> Features:
        """The batch of some bytes."""


class Zstd(Format):
    """Another format in one ZSTD frame."""

    def __init__(self, inner: Format, level: int) -> None:
        self._inner = inner
        self._compressor = zstandard.ZstdCompressor(level=level)
        self._decompressor = zstandard.ZstdDecompressor()
        self.name = f"{inner.name} + zstd {level}"

    def encode(self, features: Features) -> bytes:
        """The frame."""
        return self._compressor.compress(self._inner.encode(features))

    def decode(self, data: bytes) -> Features:
        """The batch in the frame."""
        return self._inner.decode(self._decompressor.decompress(data))


class TorchPickle(Format):
    """The dict of tensors, pickled (protocol 5)."""

    name = "pickle of torch tensors"

    def encode(self, features: Features) -> bytes:
        """One pickle."""
        return pickle.dumps(features, protocol=5)

    def decode(self, data: bytes) -> Features:
        """Unpickled."""
        found: Features = pickle.loads(data)  # noqa: S301 - what was pickled a moment ago
        return found


class NumpyPickle(Format):
    """The dict as numpy arrays, pickled (protocol 5)."""

    name = "pickle of numpy arrays"

    def encode(self, features: Features) -> bytes:
        """One pickle."""
        return pickle.dumps({name: each.numpy() for name, each in features.items()}, protocol=5)

    def decode(self, data: bytes) -> Features:
        """Unpickled, as tensors that share the arrays' memory."""
        arrays = pickle.loads(data)  # noqa: S301 - what was pickled a moment ago
        return {name: torch.from_numpy(array) for name, array in arrays.items()}


class TorchSave(Format):
    """torch.save of the dict."""

    name = "torch.save"

    def encode(self, features: Features) -> bytes:
        """One zip file, stored."""
        file = io.BytesIO()
        torch.save(features, file)
        return file.getvalue()

    def decode(self, data: bytes) -> Features:
        """Loaded."""
        found: Features = torch.load(io.BytesIO(data), weights_only=True)
        return found


class ArrowIpc(Format):
    """One record batch as an Arrow IPC stream: dense as float32, sparse as list<int64>.

    level is Arrow's own ZSTD compression of each buffer; None for plain buffers.
    """

    def __init__(self, level: int | None = None) -> None:
        codec = None if level is None else pa.Codec("zstd", compression_level=level)
        self._options = pa.ipc.IpcWriteOptions(compression=codec, use_threads=False)
        self.name = "Arrow IPC" + ("" if level is None else f" + zstd {level}")

    def encode(self, features: Features) -> bytes:
        """One stream."""
        columns: dict[str, pa.Array] = {}
        for name, tensor in features.items():
            if name.endswith(LENGTHS):
                continue
            if name.endswith(VALUES):
                key = name.removesuffix(VALUES)
                lengths = features[key + LENGTHS].numpy()
                offsets = np.zeros(len(lengths) + 1, np.int32)
                np.cumsum(lengths, out=offsets[1:])
                columns[key] = pa.ListArray.from_arrays(pa.array(offsets), pa.array(tensor.numpy()))
            else:
                columns[name] = pa.array(tensor.numpy())
        batch = pa.record_batch(columns)
        sink = pa.BufferOutputStream()
        with pa.ipc.new_stream(sink, batch.schema, options=self._options) as writer:
            writer.write_batch(batch)
        return bytes(sink.getvalue())

    def decode(self, data: bytes) -> Features:
        """The columns as tensors that share Arrow's memory."""
        options = pa.ipc.IpcReadOptions(use_threads=False)
        with pa.ipc.open_stream(data, options=options) as reader:
            batch = reader.read_next_batch()
        found: Features = {}
        for name, column in zip(batch.schema.names, batch.columns, strict=True):
            if pa.types.is_list(column.type):
                found[name + VALUES] = from_dlpack(column.values)
                lengths = np.diff(column.offsets.to_numpy())
                found[name + LENGTHS] = torch.from_numpy(lengths)
            else:
                found[name] = from_dlpack(column)
        return found


class TfExample(Format):
    """A tf.train.Example a row, framed as TFRecord, by Python's protobuf (without its CRCs)."""

    name = "tf.train.Example"
    _FRAME_BYTES = 16

    def __init__(self) -> None:
        self._type = _example_class()

    def encode(self, features: Features) -> bytes:
        """The records one after the other."""
        columns = self._columns(features)
        records = []
        for row in range(len(next(iter(columns.values())))):
            example = self._type()
            entries = example.features.feature
            for name, column in columns.items():
                if name.endswith(VALUES):
                    entries[name.removesuffix(VALUES)].int64_list.value.extend(column[row])
                else:
                    entries[name].float_list.value.append(column[row])
            record = example.SerializeToString()
            records.append(len(record).to_bytes(8, "little") + bytes(4) + record + bytes(4))
        return b"".join(records)

    def decode(self, data: bytes) -> Features:
        """The records, column by column."""
        numbers: dict[str, list[float]] = {}
        ids: dict[str, list[int]] = {}
        lengths: dict[str, list[int]] = {}
        at = 0
        while at < len(data):
            size = int.from_bytes(data[at : at + 8], "little")
            example = self._type.FromString(data[at + 12 : at + 12 + size])
            at += size + self._FRAME_BYTES
            for name, feature in example.features.feature.items():
                if feature.WhichOneof("kind") == "float_list":
                    numbers.setdefault(name, []).extend(feature.float_list.value)
                else:
                    found = feature.int64_list.value
                    ids.setdefault(name, []).extend(found)
                    lengths.setdefault(name, []).append(len(found))
        tensors = {name: torch.tensor(values) for name, values in numbers.items()}
        for name, values in ids.items():
            tensors[name + VALUES] = torch.tensor(values, dtype=torch.int64)
            tensors[name + LENGTHS] = torch.tensor(lengths[name], dtype=torch.int32)
        return tensors

    @staticmethod
    def _columns(features: Features) -> dict[str, list[Any]]:
        columns: dict[str, list[Any]] = {}
        for name, tensor in features.items():
            if name.endswith(VALUES):
                lengths = features[name.removesuffix(VALUES) + LENGTHS].tolist()
                columns[name] = [part.tolist() for part in torch.split(tensor, lengths)]
            elif not name.endswith(LENGTHS):
                columns[name] = tensor.tolist()
        return columns


def _example_class() -> Any:
    """The message class of tensorflow.Example, as tensorflow/core/example/*.proto define it."""
    field = descriptor_pb2.FieldDescriptorProto
    file = descriptor_pb2.FileDescriptorProto(
        name="bench/example.proto", package="bench", syntax="proto3"
    )
    for name, scalar in (("FloatList", field.TYPE_FLOAT), ("Int64List", field.TYPE_INT64)):
        values = file.message_type.add(name=name)
        values.field.add(name="value", number=1, type=scalar, label=field.LABEL_REPEATED)
    feature = file.message_type.add(name="Feature")
    feature.oneof_decl.add(name="kind")
    for name, number, kind in (("float_list", 2, "FloatList"), ("int64_list", 3, "Int64List")):
        feature.field.add(
            name=name,
            number=number,
            type=field.TYPE_MESSAGE,
            type_name=f".bench.{kind}",
            label=field.LABEL_OPTIONAL,
            oneof_index=0,
        )
    features = file.message_type.add(name="Features")
    entry = features.nested_type.add(name="FeatureEntry")
    entry.options.map_entry = True
    entry.field.add(name="key", number=1, type=field.TYPE_STRING, label=field.LABEL_OPTIONAL)
    for message, name, label, kind in (
        (entry, "value", field.LABEL_OPTIONAL, "Feature"),
        (features, "feature", field.LABEL_REPEATED, "Features.FeatureEntry"),
        (file.message_type.add(name="Example"), "features", field.LABEL_OPTIONAL, "Features"),
    ):
        message.field.add(
            name=name,
            number=2 if message is entry else 1,
            type=field.TYPE_MESSAGE,
            type_name=f".bench.{kind}",
            label=label,
        )
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("bench.Example"))


def formats(levels: Sequence[int]) -> list[Format]:
    """Every format, plain and compressed at ZSTD levels."""
    found: list[Format] = [ArrowIpc(), *map(ArrowIpc, levels)]
    for each in (NumpyPickle(), TorchPickle(), TorchSave(), TfExample()):
        found += [each, *(Zstd(each, level) for level in levels)]
    return found
