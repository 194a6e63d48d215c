from headrace.v1 import dataset_pb2 as _dataset_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class Codec(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    CODEC_UNSPECIFIED: _ClassVar[Codec]
    CODEC_NONE: _ClassVar[Codec]
    CODEC_ZSTD: _ClassVar[Codec]

class BlockKind(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    BLOCK_KIND_UNSPECIFIED: _ClassVar[BlockKind]
    BLOCK_KIND_DENSE: _ClassVar[BlockKind]
    BLOCK_KIND_SPARSE: _ClassVar[BlockKind]
    BLOCK_KIND_LABEL: _ClassVar[BlockKind]
    BLOCK_KIND_META: _ClassVar[BlockKind]

class BufferRole(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    BUFFER_ROLE_UNSPECIFIED: _ClassVar[BufferRole]
    BUFFER_ROLE_VALUES: _ClassVar[BufferRole]
    BUFFER_ROLE_LENGTHS: _ClassVar[BufferRole]
    BUFFER_ROLE_RUN_LENGTHS: _ClassVar[BufferRole]
    BUFFER_ROLE_WEIGHTS: _ClassVar[BufferRole]

class BufferLayout(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    BUFFER_LAYOUT_UNSPECIFIED: _ClassVar[BufferLayout]
    BUFFER_LAYOUT_BYTE_PLANES: _ClassVar[BufferLayout]
    BUFFER_LAYOUT_CONSTANT: _ClassVar[BufferLayout]
    BUFFER_LAYOUT_DICTIONARY: _ClassVar[BufferLayout]
    BUFFER_LAYOUT_TOP_DICTIONARY: _ClassVar[BufferLayout]
CODEC_UNSPECIFIED: Codec
CODEC_NONE: Codec
CODEC_ZSTD: Codec
BLOCK_KIND_UNSPECIFIED: BlockKind
BLOCK_KIND_DENSE: BlockKind
BLOCK_KIND_SPARSE: BlockKind
BLOCK_KIND_LABEL: BlockKind
BLOCK_KIND_META: BlockKind
BUFFER_ROLE_UNSPECIFIED: BufferRole
BUFFER_ROLE_VALUES: BufferRole
BUFFER_ROLE_LENGTHS: BufferRole
BUFFER_ROLE_RUN_LENGTHS: BufferRole
BUFFER_ROLE_WEIGHTS: BufferRole
BUFFER_LAYOUT_UNSPECIFIED: BufferLayout
BUFFER_LAYOUT_BYTE_PLANES: BufferLayout
BUFFER_LAYOUT_CONSTANT: BufferLayout
BUFFER_LAYOUT_DICTIONARY: BufferLayout
BUFFER_LAYOUT_TOP_DICTIONARY: BufferLayout

class Cursor(_message.Message):
    __slots__ = ("split", "parquet_row", "offset", "batch")
    SPLIT_FIELD_NUMBER: _ClassVar[int]
    PARQUET_ROW_FIELD_NUMBER: _ClassVar[int]
    OFFSET_FIELD_NUMBER: _ClassVar[int]
    BATCH_FIELD_NUMBER: _ClassVar[int]
    split: int
    parquet_row: int
    offset: int
    batch: int
    def __init__(self, split: _Optional[int] = ..., parquet_row: _Optional[int] = ..., offset: _Optional[int] = ..., batch: _Optional[int] = ...) -> None: ...

class BatchSchema(_message.Message):
    __slots__ = ("encoding_version", "blocks", "tables")
    ENCODING_VERSION_FIELD_NUMBER: _ClassVar[int]
    BLOCKS_FIELD_NUMBER: _ClassVar[int]
    TABLES_FIELD_NUMBER: _ClassVar[int]
    encoding_version: int
    blocks: _containers.RepeatedCompositeFieldContainer[BlockSchema]
    tables: _containers.RepeatedCompositeFieldContainer[EmbeddingTable]
    def __init__(self, encoding_version: _Optional[int] = ..., blocks: _Optional[_Iterable[_Union[BlockSchema, _Mapping]]] = ..., tables: _Optional[_Iterable[_Union[EmbeddingTable, _Mapping]]] = ...) -> None: ...

class EmbeddingTable(_message.Message):
    __slots__ = ("name", "features", "num_embeddings", "embedding_dim")
    NAME_FIELD_NUMBER: _ClassVar[int]
    FEATURES_FIELD_NUMBER: _ClassVar[int]
    NUM_EMBEDDINGS_FIELD_NUMBER: _ClassVar[int]
    EMBEDDING_DIM_FIELD_NUMBER: _ClassVar[int]
    name: str
    features: _containers.RepeatedScalarFieldContainer[str]
    num_embeddings: int
    embedding_dim: int
    def __init__(self, name: _Optional[str] = ..., features: _Optional[_Iterable[str]] = ..., num_embeddings: _Optional[int] = ..., embedding_dim: _Optional[int] = ...) -> None: ...

class BlockSchema(_message.Message):
    __slots__ = ("name", "kind", "dtype", "features", "weights_dtype")
    NAME_FIELD_NUMBER: _ClassVar[int]
    KIND_FIELD_NUMBER: _ClassVar[int]
    DTYPE_FIELD_NUMBER: _ClassVar[int]
    FEATURES_FIELD_NUMBER: _ClassVar[int]
    WEIGHTS_DTYPE_FIELD_NUMBER: _ClassVar[int]
    name: str
    kind: BlockKind
    dtype: _dataset_pb2.ScalarType
    features: _containers.RepeatedScalarFieldContainer[str]
    weights_dtype: _dataset_pb2.ScalarType
    def __init__(self, name: _Optional[str] = ..., kind: _Optional[_Union[BlockKind, str]] = ..., dtype: _Optional[_Union[_dataset_pb2.ScalarType, str]] = ..., features: _Optional[_Iterable[str]] = ..., weights_dtype: _Optional[_Union[_dataset_pb2.ScalarType, str]] = ...) -> None: ...

class CompactBatch(_message.Message):
    __slots__ = ("shard", "index", "row_count", "cursor", "next_cursor", "blocks", "codec", "uncompressed_size_bytes", "payload_checksum", "header_checksum", "payload")
    SHARD_FIELD_NUMBER: _ClassVar[int]
    INDEX_FIELD_NUMBER: _ClassVar[int]
    ROW_COUNT_FIELD_NUMBER: _ClassVar[int]
    CURSOR_FIELD_NUMBER: _ClassVar[int]
    NEXT_CURSOR_FIELD_NUMBER: _ClassVar[int]
    BLOCKS_FIELD_NUMBER: _ClassVar[int]
    CODEC_FIELD_NUMBER: _ClassVar[int]
    UNCOMPRESSED_SIZE_BYTES_FIELD_NUMBER: _ClassVar[int]
    PAYLOAD_CHECKSUM_FIELD_NUMBER: _ClassVar[int]
    HEADER_CHECKSUM_FIELD_NUMBER: _ClassVar[int]
    PAYLOAD_FIELD_NUMBER: _ClassVar[int]
    shard: int
    index: int
    row_count: int
    cursor: Cursor
    next_cursor: Cursor
    blocks: _containers.RepeatedCompositeFieldContainer[Block]
    codec: Codec
    uncompressed_size_bytes: int
    payload_checksum: int
    header_checksum: int
    payload: bytes
    def __init__(self, shard: _Optional[int] = ..., index: _Optional[int] = ..., row_count: _Optional[int] = ..., cursor: _Optional[_Union[Cursor, _Mapping]] = ..., next_cursor: _Optional[_Union[Cursor, _Mapping]] = ..., blocks: _Optional[_Iterable[_Union[Block, _Mapping]]] = ..., codec: _Optional[_Union[Codec, str]] = ..., uncompressed_size_bytes: _Optional[int] = ..., payload_checksum: _Optional[int] = ..., header_checksum: _Optional[int] = ..., payload: _Optional[bytes] = ...) -> None: ...

class Block(_message.Message):
    __slots__ = ("parts",)
    PARTS_FIELD_NUMBER: _ClassVar[int]
    parts: _containers.RepeatedCompositeFieldContainer[Part]
    def __init__(self, parts: _Optional[_Iterable[_Union[Part, _Mapping]]] = ...) -> None: ...

class Part(_message.Message):
    __slots__ = ("features", "run_count", "buffers")
    FEATURES_FIELD_NUMBER: _ClassVar[int]
    RUN_COUNT_FIELD_NUMBER: _ClassVar[int]
    BUFFERS_FIELD_NUMBER: _ClassVar[int]
    features: _containers.RepeatedScalarFieldContainer[int]
    run_count: int
    buffers: _containers.RepeatedCompositeFieldContainer[Buffer]
    def __init__(self, features: _Optional[_Iterable[int]] = ..., run_count: _Optional[int] = ..., buffers: _Optional[_Iterable[_Union[Buffer, _Mapping]]] = ...) -> None: ...

class Buffer(_message.Message):
    __slots__ = ("role", "layout", "type", "offset_bytes", "size_bytes", "element_count", "width_bits", "base", "dictionary_size")
    ROLE_FIELD_NUMBER: _ClassVar[int]
    LAYOUT_FIELD_NUMBER: _ClassVar[int]
    TYPE_FIELD_NUMBER: _ClassVar[int]
    OFFSET_BYTES_FIELD_NUMBER: _ClassVar[int]
    SIZE_BYTES_FIELD_NUMBER: _ClassVar[int]
    ELEMENT_COUNT_FIELD_NUMBER: _ClassVar[int]
    WIDTH_BITS_FIELD_NUMBER: _ClassVar[int]
    BASE_FIELD_NUMBER: _ClassVar[int]
    DICTIONARY_SIZE_FIELD_NUMBER: _ClassVar[int]
    role: BufferRole
    layout: BufferLayout
    type: _dataset_pb2.ScalarType
    offset_bytes: int
    size_bytes: int
    element_count: int
    width_bits: int
    base: int
    dictionary_size: int
    def __init__(self, role: _Optional[_Union[BufferRole, str]] = ..., layout: _Optional[_Union[BufferLayout, str]] = ..., type: _Optional[_Union[_dataset_pb2.ScalarType, str]] = ..., offset_bytes: _Optional[int] = ..., size_bytes: _Optional[int] = ..., element_count: _Optional[int] = ..., width_bits: _Optional[int] = ..., base: _Optional[int] = ..., dictionary_size: _Optional[int] = ...) -> None: ...
