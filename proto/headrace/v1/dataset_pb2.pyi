from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class TimeUnit(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    TIME_UNIT_UNSPECIFIED: _ClassVar[TimeUnit]
    TIME_UNIT_NANOSECOND: _ClassVar[TimeUnit]
    TIME_UNIT_MICROSECOND: _ClassVar[TimeUnit]
    TIME_UNIT_MILLISECOND: _ClassVar[TimeUnit]
    TIME_UNIT_SECOND: _ClassVar[TimeUnit]
    TIME_UNIT_MINUTE: _ClassVar[TimeUnit]
    TIME_UNIT_HOUR: _ClassVar[TimeUnit]
    TIME_UNIT_DAY: _ClassVar[TimeUnit]

class Comparison(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    COMPARISON_UNSPECIFIED: _ClassVar[Comparison]
    COMPARISON_EQUAL: _ClassVar[Comparison]
    COMPARISON_NOT_EQUAL: _ClassVar[Comparison]
    COMPARISON_LESS: _ClassVar[Comparison]
    COMPARISON_LESS_EQUAL: _ClassVar[Comparison]
    COMPARISON_GREATER: _ClassVar[Comparison]
    COMPARISON_GREATER_EQUAL: _ClassVar[Comparison]

class ScalarType(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    SCALAR_TYPE_UNSPECIFIED: _ClassVar[ScalarType]
    SCALAR_TYPE_INT32: _ClassVar[ScalarType]
    SCALAR_TYPE_INT64: _ClassVar[ScalarType]
    SCALAR_TYPE_FLOAT32: _ClassVar[ScalarType]
    SCALAR_TYPE_FLOAT64: _ClassVar[ScalarType]
    SCALAR_TYPE_FLOAT16: _ClassVar[ScalarType]
    SCALAR_TYPE_BFLOAT16: _ClassVar[ScalarType]

class DatePart(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    DATE_PART_UNSPECIFIED: _ClassVar[DatePart]
    DATE_PART_HOUR: _ClassVar[DatePart]
    DATE_PART_MINUTE: _ClassVar[DatePart]
    DATE_PART_DAY_OF_WEEK: _ClassVar[DatePart]
    DATE_PART_DAY_OF_MONTH: _ClassVar[DatePart]
    DATE_PART_DAY_OF_YEAR: _ClassVar[DatePart]
    DATE_PART_MONTH: _ClassVar[DatePart]
    DATE_PART_YEAR: _ClassVar[DatePart]

class Aggregation(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    AGGREGATION_UNSPECIFIED: _ClassVar[Aggregation]
    AGGREGATION_COUNT: _ClassVar[Aggregation]
    AGGREGATION_SUM: _ClassVar[Aggregation]
    AGGREGATION_MEAN: _ClassVar[Aggregation]
    AGGREGATION_MIN: _ClassVar[Aggregation]
    AGGREGATION_MAX: _ClassVar[Aggregation]
    AGGREGATION_FIRST: _ClassVar[Aggregation]
    AGGREGATION_LAST: _ClassVar[Aggregation]

class Filling(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    FILLING_UNSPECIFIED: _ClassVar[Filling]
    FILLING_MEAN: _ClassVar[Filling]
    FILLING_MEDIAN: _ClassVar[Filling]
TIME_UNIT_UNSPECIFIED: TimeUnit
TIME_UNIT_NANOSECOND: TimeUnit
TIME_UNIT_MICROSECOND: TimeUnit
TIME_UNIT_MILLISECOND: TimeUnit
TIME_UNIT_SECOND: TimeUnit
TIME_UNIT_MINUTE: TimeUnit
TIME_UNIT_HOUR: TimeUnit
TIME_UNIT_DAY: TimeUnit
COMPARISON_UNSPECIFIED: Comparison
COMPARISON_EQUAL: Comparison
COMPARISON_NOT_EQUAL: Comparison
COMPARISON_LESS: Comparison
COMPARISON_LESS_EQUAL: Comparison
COMPARISON_GREATER: Comparison
COMPARISON_GREATER_EQUAL: Comparison
SCALAR_TYPE_UNSPECIFIED: ScalarType
SCALAR_TYPE_INT32: ScalarType
SCALAR_TYPE_INT64: ScalarType
SCALAR_TYPE_FLOAT32: ScalarType
SCALAR_TYPE_FLOAT64: ScalarType
SCALAR_TYPE_FLOAT16: ScalarType
SCALAR_TYPE_BFLOAT16: ScalarType
DATE_PART_UNSPECIFIED: DatePart
DATE_PART_HOUR: DatePart
DATE_PART_MINUTE: DatePart
DATE_PART_DAY_OF_WEEK: DatePart
DATE_PART_DAY_OF_MONTH: DatePart
DATE_PART_DAY_OF_YEAR: DatePart
DATE_PART_MONTH: DatePart
DATE_PART_YEAR: DatePart
AGGREGATION_UNSPECIFIED: Aggregation
AGGREGATION_COUNT: Aggregation
AGGREGATION_SUM: Aggregation
AGGREGATION_MEAN: Aggregation
AGGREGATION_MIN: Aggregation
AGGREGATION_MAX: Aggregation
AGGREGATION_FIRST: Aggregation
AGGREGATION_LAST: Aggregation
FILLING_UNSPECIFIED: Filling
FILLING_MEAN: Filling
FILLING_MEDIAN: Filling

class DatasetSpec(_message.Message):
    __slots__ = ("source", "where", "features", "max_split_bytes", "udfs", "udf_block_rows", "derive", "sampling", "blocks", "distinct_by")
    SOURCE_FIELD_NUMBER: _ClassVar[int]
    WHERE_FIELD_NUMBER: _ClassVar[int]
    FEATURES_FIELD_NUMBER: _ClassVar[int]
    MAX_SPLIT_BYTES_FIELD_NUMBER: _ClassVar[int]
    UDFS_FIELD_NUMBER: _ClassVar[int]
    UDF_BLOCK_ROWS_FIELD_NUMBER: _ClassVar[int]
    DERIVE_FIELD_NUMBER: _ClassVar[int]
    SAMPLING_FIELD_NUMBER: _ClassVar[int]
    BLOCKS_FIELD_NUMBER: _ClassVar[int]
    DISTINCT_BY_FIELD_NUMBER: _ClassVar[int]
    source: Source
    where: str
    features: _containers.RepeatedCompositeFieldContainer[Feature]
    max_split_bytes: int
    udfs: _containers.RepeatedCompositeFieldContainer[Udf]
    udf_block_rows: int
    derive: _containers.RepeatedCompositeFieldContainer[Derived]
    sampling: Sampling
    blocks: _containers.RepeatedCompositeFieldContainer[OutputBlock]
    distinct_by: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, source: _Optional[_Union[Source, _Mapping]] = ..., where: _Optional[str] = ..., features: _Optional[_Iterable[_Union[Feature, _Mapping]]] = ..., max_split_bytes: _Optional[int] = ..., udfs: _Optional[_Iterable[_Union[Udf, _Mapping]]] = ..., udf_block_rows: _Optional[int] = ..., derive: _Optional[_Iterable[_Union[Derived, _Mapping]]] = ..., sampling: _Optional[_Union[Sampling, _Mapping]] = ..., blocks: _Optional[_Iterable[_Union[OutputBlock, _Mapping]]] = ..., distinct_by: _Optional[_Iterable[str]] = ...) -> None: ...

class Sampling(_message.Message):
    __slots__ = ("rate", "when", "key", "seed", "weight")
    RATE_FIELD_NUMBER: _ClassVar[int]
    WHEN_FIELD_NUMBER: _ClassVar[int]
    KEY_FIELD_NUMBER: _ClassVar[int]
    SEED_FIELD_NUMBER: _ClassVar[int]
    WEIGHT_FIELD_NUMBER: _ClassVar[int]
    rate: float
    when: str
    key: str
    seed: int
    weight: str
    def __init__(self, rate: _Optional[float] = ..., when: _Optional[str] = ..., key: _Optional[str] = ..., seed: _Optional[int] = ..., weight: _Optional[str] = ...) -> None: ...

class OutputBlock(_message.Message):
    __slots__ = ("name", "dtype")
    NAME_FIELD_NUMBER: _ClassVar[int]
    DTYPE_FIELD_NUMBER: _ClassVar[int]
    name: str
    dtype: ScalarType
    def __init__(self, name: _Optional[str] = ..., dtype: _Optional[_Union[ScalarType, str]] = ...) -> None: ...

class Udf(_message.Message):
    __slots__ = ("function", "inputs", "outputs", "random", "archive")
    FUNCTION_FIELD_NUMBER: _ClassVar[int]
    INPUTS_FIELD_NUMBER: _ClassVar[int]
    OUTPUTS_FIELD_NUMBER: _ClassVar[int]
    RANDOM_FIELD_NUMBER: _ClassVar[int]
    ARCHIVE_FIELD_NUMBER: _ClassVar[int]
    function: str
    inputs: _containers.RepeatedScalarFieldContainer[str]
    outputs: _containers.RepeatedCompositeFieldContainer[UdfOutput]
    random: bool
    archive: UdfArchive
    def __init__(self, function: _Optional[str] = ..., inputs: _Optional[_Iterable[str]] = ..., outputs: _Optional[_Iterable[_Union[UdfOutput, _Mapping]]] = ..., random: bool = ..., archive: _Optional[_Union[UdfArchive, _Mapping]] = ...) -> None: ...

class UdfArchive(_message.Message):
    __slots__ = ("python_version", "modules")
    PYTHON_VERSION_FIELD_NUMBER: _ClassVar[int]
    MODULES_FIELD_NUMBER: _ClassVar[int]
    python_version: str
    modules: _containers.RepeatedCompositeFieldContainer[UdfModule]
    def __init__(self, python_version: _Optional[str] = ..., modules: _Optional[_Iterable[_Union[UdfModule, _Mapping]]] = ...) -> None: ...

class UdfModule(_message.Message):
    __slots__ = ("name", "package", "parts")
    NAME_FIELD_NUMBER: _ClassVar[int]
    PACKAGE_FIELD_NUMBER: _ClassVar[int]
    PARTS_FIELD_NUMBER: _ClassVar[int]
    name: str
    package: bool
    parts: _containers.RepeatedCompositeFieldContainer[UdfText]
    def __init__(self, name: _Optional[str] = ..., package: bool = ..., parts: _Optional[_Iterable[_Union[UdfText, _Mapping]]] = ...) -> None: ...

class UdfText(_message.Message):
    __slots__ = ("text", "file", "first_line")
    TEXT_FIELD_NUMBER: _ClassVar[int]
    FILE_FIELD_NUMBER: _ClassVar[int]
    FIRST_LINE_FIELD_NUMBER: _ClassVar[int]
    text: str
    file: str
    first_line: int
    def __init__(self, text: _Optional[str] = ..., file: _Optional[str] = ..., first_line: _Optional[int] = ...) -> None: ...

class UdfOutput(_message.Message):
    __slots__ = ("name", "type")
    NAME_FIELD_NUMBER: _ClassVar[int]
    TYPE_FIELD_NUMBER: _ClassVar[int]
    name: str
    type: str
    def __init__(self, name: _Optional[str] = ..., type: _Optional[str] = ...) -> None: ...

class Derived(_message.Message):
    __slots__ = ("name", "cross", "time_since", "mask", "top_k", "expression")
    NAME_FIELD_NUMBER: _ClassVar[int]
    CROSS_FIELD_NUMBER: _ClassVar[int]
    TIME_SINCE_FIELD_NUMBER: _ClassVar[int]
    MASK_FIELD_NUMBER: _ClassVar[int]
    TOP_K_FIELD_NUMBER: _ClassVar[int]
    EXPRESSION_FIELD_NUMBER: _ClassVar[int]
    name: str
    cross: Cross
    time_since: TimeSince
    mask: Mask
    top_k: TopK
    expression: Expression
    def __init__(self, name: _Optional[str] = ..., cross: _Optional[_Union[Cross, _Mapping]] = ..., time_since: _Optional[_Union[TimeSince, _Mapping]] = ..., mask: _Optional[_Union[Mask, _Mapping]] = ..., top_k: _Optional[_Union[TopK, _Mapping]] = ..., expression: _Optional[_Union[Expression, _Mapping]] = ...) -> None: ...

class Cross(_message.Message):
    __slots__ = ("columns", "num_buckets", "seed")
    COLUMNS_FIELD_NUMBER: _ClassVar[int]
    NUM_BUCKETS_FIELD_NUMBER: _ClassVar[int]
    SEED_FIELD_NUMBER: _ClassVar[int]
    columns: _containers.RepeatedScalarFieldContainer[str]
    num_buckets: int
    seed: int
    def __init__(self, columns: _Optional[_Iterable[str]] = ..., num_buckets: _Optional[int] = ..., seed: _Optional[int] = ...) -> None: ...

class TimeSince(_message.Message):
    __slots__ = ("column", "event_time", "unit", "whole_units", "column_unit", "event_time_unit")
    COLUMN_FIELD_NUMBER: _ClassVar[int]
    EVENT_TIME_FIELD_NUMBER: _ClassVar[int]
    UNIT_FIELD_NUMBER: _ClassVar[int]
    WHOLE_UNITS_FIELD_NUMBER: _ClassVar[int]
    COLUMN_UNIT_FIELD_NUMBER: _ClassVar[int]
    EVENT_TIME_UNIT_FIELD_NUMBER: _ClassVar[int]
    column: str
    event_time: str
    unit: TimeUnit
    whole_units: bool
    column_unit: TimeUnit
    event_time_unit: TimeUnit
    def __init__(self, column: _Optional[str] = ..., event_time: _Optional[str] = ..., unit: _Optional[_Union[TimeUnit, str]] = ..., whole_units: bool = ..., column_unit: _Optional[_Union[TimeUnit, str]] = ..., event_time_unit: _Optional[_Union[TimeUnit, str]] = ...) -> None: ...

class Mask(_message.Message):
    __slots__ = ("column", "by", "comparison", "values")
    COLUMN_FIELD_NUMBER: _ClassVar[int]
    BY_FIELD_NUMBER: _ClassVar[int]
    COMPARISON_FIELD_NUMBER: _ClassVar[int]
    VALUES_FIELD_NUMBER: _ClassVar[int]
    column: str
    by: str
    comparison: Comparison
    values: _containers.RepeatedCompositeFieldContainer[Scalar]
    def __init__(self, column: _Optional[str] = ..., by: _Optional[str] = ..., comparison: _Optional[_Union[Comparison, str]] = ..., values: _Optional[_Iterable[_Union[Scalar, _Mapping]]] = ...) -> None: ...

class TopK(_message.Message):
    __slots__ = ("column", "by", "count")
    COLUMN_FIELD_NUMBER: _ClassVar[int]
    BY_FIELD_NUMBER: _ClassVar[int]
    COUNT_FIELD_NUMBER: _ClassVar[int]
    column: str
    by: str
    count: int
    def __init__(self, column: _Optional[str] = ..., by: _Optional[str] = ..., count: _Optional[int] = ...) -> None: ...

class Expression(_message.Message):
    __slots__ = ("sql",)
    SQL_FIELD_NUMBER: _ClassVar[int]
    sql: str
    def __init__(self, sql: _Optional[str] = ...) -> None: ...

class Source(_message.Message):
    __slots__ = ("parquet",)
    PARQUET_FIELD_NUMBER: _ClassVar[int]
    parquet: ParquetSource
    def __init__(self, parquet: _Optional[_Union[ParquetSource, _Mapping]] = ...) -> None: ...

class ParquetSource(_message.Message):
    __slots__ = ("paths", "group_by", "rows")
    PATHS_FIELD_NUMBER: _ClassVar[int]
    GROUP_BY_FIELD_NUMBER: _ClassVar[int]
    ROWS_FIELD_NUMBER: _ClassVar[int]
    paths: _containers.RepeatedScalarFieldContainer[str]
    group_by: _containers.RepeatedScalarFieldContainer[str]
    rows: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, paths: _Optional[_Iterable[str]] = ..., group_by: _Optional[_Iterable[str]] = ..., rows: _Optional[_Iterable[str]] = ...) -> None: ...

class Feature(_message.Message):
    __slots__ = ("dense", "sparse", "label", "meta")
    DENSE_FIELD_NUMBER: _ClassVar[int]
    SPARSE_FIELD_NUMBER: _ClassVar[int]
    LABEL_FIELD_NUMBER: _ClassVar[int]
    META_FIELD_NUMBER: _ClassVar[int]
    dense: DenseFeature
    sparse: SparseFeature
    label: LabelFeature
    meta: MetaFeature
    def __init__(self, dense: _Optional[_Union[DenseFeature, _Mapping]] = ..., sparse: _Optional[_Union[SparseFeature, _Mapping]] = ..., label: _Optional[_Union[LabelFeature, _Mapping]] = ..., meta: _Optional[_Union[MetaFeature, _Mapping]] = ...) -> None: ...

class DenseFeature(_message.Message):
    __slots__ = ("columns", "ops", "block")
    COLUMNS_FIELD_NUMBER: _ClassVar[int]
    OPS_FIELD_NUMBER: _ClassVar[int]
    BLOCK_FIELD_NUMBER: _ClassVar[int]
    columns: _containers.RepeatedScalarFieldContainer[str]
    ops: _containers.RepeatedCompositeFieldContainer[Op]
    block: str
    def __init__(self, columns: _Optional[_Iterable[str]] = ..., ops: _Optional[_Iterable[_Union[Op, _Mapping]]] = ..., block: _Optional[str] = ...) -> None: ...

class SparseFeature(_message.Message):
    __slots__ = ("columns", "ops", "block", "num_embeddings", "embedding_dim", "table", "weights")
    COLUMNS_FIELD_NUMBER: _ClassVar[int]
    OPS_FIELD_NUMBER: _ClassVar[int]
    BLOCK_FIELD_NUMBER: _ClassVar[int]
    NUM_EMBEDDINGS_FIELD_NUMBER: _ClassVar[int]
    EMBEDDING_DIM_FIELD_NUMBER: _ClassVar[int]
    TABLE_FIELD_NUMBER: _ClassVar[int]
    WEIGHTS_FIELD_NUMBER: _ClassVar[int]
    columns: _containers.RepeatedScalarFieldContainer[str]
    ops: _containers.RepeatedCompositeFieldContainer[Op]
    block: str
    num_embeddings: int
    embedding_dim: int
    table: str
    weights: str
    def __init__(self, columns: _Optional[_Iterable[str]] = ..., ops: _Optional[_Iterable[_Union[Op, _Mapping]]] = ..., block: _Optional[str] = ..., num_embeddings: _Optional[int] = ..., embedding_dim: _Optional[int] = ..., table: _Optional[str] = ..., weights: _Optional[str] = ...) -> None: ...

class LabelFeature(_message.Message):
    __slots__ = ("columns", "ops", "block")
    COLUMNS_FIELD_NUMBER: _ClassVar[int]
    OPS_FIELD_NUMBER: _ClassVar[int]
    BLOCK_FIELD_NUMBER: _ClassVar[int]
    columns: _containers.RepeatedScalarFieldContainer[str]
    ops: _containers.RepeatedCompositeFieldContainer[Op]
    block: str
    def __init__(self, columns: _Optional[_Iterable[str]] = ..., ops: _Optional[_Iterable[_Union[Op, _Mapping]]] = ..., block: _Optional[str] = ...) -> None: ...

class MetaFeature(_message.Message):
    __slots__ = ("columns", "ops", "block")
    COLUMNS_FIELD_NUMBER: _ClassVar[int]
    OPS_FIELD_NUMBER: _ClassVar[int]
    BLOCK_FIELD_NUMBER: _ClassVar[int]
    columns: _containers.RepeatedScalarFieldContainer[str]
    ops: _containers.RepeatedCompositeFieldContainer[Op]
    block: str
    def __init__(self, columns: _Optional[_Iterable[str]] = ..., ops: _Optional[_Iterable[_Union[Op, _Mapping]]] = ..., block: _Optional[str] = ...) -> None: ...

class Op(_message.Message):
    __slots__ = ("fill_null", "log1p", "clip", "cast", "hash_bucket", "tail", "logit", "box_cox", "normalize", "min_max", "bucketize", "date_parts", "head", "slice", "list_length", "positive_modulus", "map_id", "vocabulary", "list_aggregate", "deduplicate", "sort", "pad", "enumerate", "n_gram", "sample", "one_hot", "fit_fill_null", "fit_normalize", "fit_min_max", "fit_bucketize", "fit_vocabulary")
    FILL_NULL_FIELD_NUMBER: _ClassVar[int]
    LOG1P_FIELD_NUMBER: _ClassVar[int]
    CLIP_FIELD_NUMBER: _ClassVar[int]
    CAST_FIELD_NUMBER: _ClassVar[int]
    HASH_BUCKET_FIELD_NUMBER: _ClassVar[int]
    TAIL_FIELD_NUMBER: _ClassVar[int]
    LOGIT_FIELD_NUMBER: _ClassVar[int]
    BOX_COX_FIELD_NUMBER: _ClassVar[int]
    NORMALIZE_FIELD_NUMBER: _ClassVar[int]
    MIN_MAX_FIELD_NUMBER: _ClassVar[int]
    BUCKETIZE_FIELD_NUMBER: _ClassVar[int]
    DATE_PARTS_FIELD_NUMBER: _ClassVar[int]
    HEAD_FIELD_NUMBER: _ClassVar[int]
    SLICE_FIELD_NUMBER: _ClassVar[int]
    LIST_LENGTH_FIELD_NUMBER: _ClassVar[int]
    POSITIVE_MODULUS_FIELD_NUMBER: _ClassVar[int]
    MAP_ID_FIELD_NUMBER: _ClassVar[int]
    VOCABULARY_FIELD_NUMBER: _ClassVar[int]
    LIST_AGGREGATE_FIELD_NUMBER: _ClassVar[int]
    DEDUPLICATE_FIELD_NUMBER: _ClassVar[int]
    SORT_FIELD_NUMBER: _ClassVar[int]
    PAD_FIELD_NUMBER: _ClassVar[int]
    ENUMERATE_FIELD_NUMBER: _ClassVar[int]
    N_GRAM_FIELD_NUMBER: _ClassVar[int]
    SAMPLE_FIELD_NUMBER: _ClassVar[int]
    ONE_HOT_FIELD_NUMBER: _ClassVar[int]
    FIT_FILL_NULL_FIELD_NUMBER: _ClassVar[int]
    FIT_NORMALIZE_FIELD_NUMBER: _ClassVar[int]
    FIT_MIN_MAX_FIELD_NUMBER: _ClassVar[int]
    FIT_BUCKETIZE_FIELD_NUMBER: _ClassVar[int]
    FIT_VOCABULARY_FIELD_NUMBER: _ClassVar[int]
    fill_null: FillNull
    log1p: Log1p
    clip: Clip
    cast: Cast
    hash_bucket: HashBucket
    tail: Tail
    logit: Logit
    box_cox: BoxCox
    normalize: Normalize
    min_max: MinMax
    bucketize: Bucketize
    date_parts: DateParts
    head: Head
    slice: Slice
    list_length: ListLength
    positive_modulus: PositiveModulus
    map_id: MapId
    vocabulary: Vocabulary
    list_aggregate: ListAggregate
    deduplicate: Deduplicate
    sort: Sort
    pad: Pad
    enumerate: Enumerate
    n_gram: NGram
    sample: Sample
    one_hot: OneHot
    fit_fill_null: FitFillNull
    fit_normalize: FitNormalize
    fit_min_max: FitMinMax
    fit_bucketize: FitBucketize
    fit_vocabulary: FitVocabulary
    def __init__(self, fill_null: _Optional[_Union[FillNull, _Mapping]] = ..., log1p: _Optional[_Union[Log1p, _Mapping]] = ..., clip: _Optional[_Union[Clip, _Mapping]] = ..., cast: _Optional[_Union[Cast, _Mapping]] = ..., hash_bucket: _Optional[_Union[HashBucket, _Mapping]] = ..., tail: _Optional[_Union[Tail, _Mapping]] = ..., logit: _Optional[_Union[Logit, _Mapping]] = ..., box_cox: _Optional[_Union[BoxCox, _Mapping]] = ..., normalize: _Optional[_Union[Normalize, _Mapping]] = ..., min_max: _Optional[_Union[MinMax, _Mapping]] = ..., bucketize: _Optional[_Union[Bucketize, _Mapping]] = ..., date_parts: _Optional[_Union[DateParts, _Mapping]] = ..., head: _Optional[_Union[Head, _Mapping]] = ..., slice: _Optional[_Union[Slice, _Mapping]] = ..., list_length: _Optional[_Union[ListLength, _Mapping]] = ..., positive_modulus: _Optional[_Union[PositiveModulus, _Mapping]] = ..., map_id: _Optional[_Union[MapId, _Mapping]] = ..., vocabulary: _Optional[_Union[Vocabulary, _Mapping]] = ..., list_aggregate: _Optional[_Union[ListAggregate, _Mapping]] = ..., deduplicate: _Optional[_Union[Deduplicate, _Mapping]] = ..., sort: _Optional[_Union[Sort, _Mapping]] = ..., pad: _Optional[_Union[Pad, _Mapping]] = ..., enumerate: _Optional[_Union[Enumerate, _Mapping]] = ..., n_gram: _Optional[_Union[NGram, _Mapping]] = ..., sample: _Optional[_Union[Sample, _Mapping]] = ..., one_hot: _Optional[_Union[OneHot, _Mapping]] = ..., fit_fill_null: _Optional[_Union[FitFillNull, _Mapping]] = ..., fit_normalize: _Optional[_Union[FitNormalize, _Mapping]] = ..., fit_min_max: _Optional[_Union[FitMinMax, _Mapping]] = ..., fit_bucketize: _Optional[_Union[FitBucketize, _Mapping]] = ..., fit_vocabulary: _Optional[_Union[FitVocabulary, _Mapping]] = ...) -> None: ...

class Scalar(_message.Message):
    __slots__ = ("number", "integer", "text")
    NUMBER_FIELD_NUMBER: _ClassVar[int]
    INTEGER_FIELD_NUMBER: _ClassVar[int]
    TEXT_FIELD_NUMBER: _ClassVar[int]
    number: float
    integer: int
    text: str
    def __init__(self, number: _Optional[float] = ..., integer: _Optional[int] = ..., text: _Optional[str] = ...) -> None: ...

class FillNull(_message.Message):
    __slots__ = ("value",)
    VALUE_FIELD_NUMBER: _ClassVar[int]
    value: Scalar
    def __init__(self, value: _Optional[_Union[Scalar, _Mapping]] = ...) -> None: ...

class Log1p(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class Clip(_message.Message):
    __slots__ = ("min", "max")
    MIN_FIELD_NUMBER: _ClassVar[int]
    MAX_FIELD_NUMBER: _ClassVar[int]
    min: Scalar
    max: Scalar
    def __init__(self, min: _Optional[_Union[Scalar, _Mapping]] = ..., max: _Optional[_Union[Scalar, _Mapping]] = ...) -> None: ...

class Cast(_message.Message):
    __slots__ = ("to",)
    TO_FIELD_NUMBER: _ClassVar[int]
    to: ScalarType
    def __init__(self, to: _Optional[_Union[ScalarType, str]] = ...) -> None: ...

class HashBucket(_message.Message):
    __slots__ = ("num_buckets", "seed")
    NUM_BUCKETS_FIELD_NUMBER: _ClassVar[int]
    SEED_FIELD_NUMBER: _ClassVar[int]
    num_buckets: int
    seed: int
    def __init__(self, num_buckets: _Optional[int] = ..., seed: _Optional[int] = ...) -> None: ...

class Tail(_message.Message):
    __slots__ = ("count",)
    COUNT_FIELD_NUMBER: _ClassVar[int]
    count: int
    def __init__(self, count: _Optional[int] = ...) -> None: ...

class Logit(_message.Message):
    __slots__ = ("epsilon",)
    EPSILON_FIELD_NUMBER: _ClassVar[int]
    epsilon: float
    def __init__(self, epsilon: _Optional[float] = ...) -> None: ...

class BoxCox(_message.Message):
    __slots__ = ("lmbda",)
    LMBDA_FIELD_NUMBER: _ClassVar[int]
    lmbda: float
    def __init__(self, lmbda: _Optional[float] = ...) -> None: ...

class Normalize(_message.Message):
    __slots__ = ("mean", "std")
    MEAN_FIELD_NUMBER: _ClassVar[int]
    STD_FIELD_NUMBER: _ClassVar[int]
    mean: float
    std: float
    def __init__(self, mean: _Optional[float] = ..., std: _Optional[float] = ...) -> None: ...

class MinMax(_message.Message):
    __slots__ = ("min", "max")
    MIN_FIELD_NUMBER: _ClassVar[int]
    MAX_FIELD_NUMBER: _ClassVar[int]
    min: float
    max: float
    def __init__(self, min: _Optional[float] = ..., max: _Optional[float] = ...) -> None: ...

class Bucketize(_message.Message):
    __slots__ = ("boundaries",)
    BOUNDARIES_FIELD_NUMBER: _ClassVar[int]
    boundaries: _containers.RepeatedScalarFieldContainer[float]
    def __init__(self, boundaries: _Optional[_Iterable[float]] = ...) -> None: ...

class DateParts(_message.Message):
    __slots__ = ("part", "time_zone")
    PART_FIELD_NUMBER: _ClassVar[int]
    TIME_ZONE_FIELD_NUMBER: _ClassVar[int]
    part: DatePart
    time_zone: str
    def __init__(self, part: _Optional[_Union[DatePart, str]] = ..., time_zone: _Optional[str] = ...) -> None: ...

class Head(_message.Message):
    __slots__ = ("count",)
    COUNT_FIELD_NUMBER: _ClassVar[int]
    count: int
    def __init__(self, count: _Optional[int] = ...) -> None: ...

class Slice(_message.Message):
    __slots__ = ("start", "stop")
    START_FIELD_NUMBER: _ClassVar[int]
    STOP_FIELD_NUMBER: _ClassVar[int]
    start: int
    stop: int
    def __init__(self, start: _Optional[int] = ..., stop: _Optional[int] = ...) -> None: ...

class ListLength(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class PositiveModulus(_message.Message):
    __slots__ = ("divisor",)
    DIVISOR_FIELD_NUMBER: _ClassVar[int]
    divisor: int
    def __init__(self, divisor: _Optional[int] = ...) -> None: ...

class MapId(_message.Message):
    __slots__ = ("keys", "values", "default")
    KEYS_FIELD_NUMBER: _ClassVar[int]
    VALUES_FIELD_NUMBER: _ClassVar[int]
    DEFAULT_FIELD_NUMBER: _ClassVar[int]
    keys: _containers.RepeatedScalarFieldContainer[int]
    values: _containers.RepeatedScalarFieldContainer[int]
    default: int
    def __init__(self, keys: _Optional[_Iterable[int]] = ..., values: _Optional[_Iterable[int]] = ..., default: _Optional[int] = ...) -> None: ...

class Vocabulary(_message.Message):
    __slots__ = ("integers", "strings", "num_oov_buckets", "file", "sha256")
    INTEGERS_FIELD_NUMBER: _ClassVar[int]
    STRINGS_FIELD_NUMBER: _ClassVar[int]
    NUM_OOV_BUCKETS_FIELD_NUMBER: _ClassVar[int]
    FILE_FIELD_NUMBER: _ClassVar[int]
    SHA256_FIELD_NUMBER: _ClassVar[int]
    integers: _containers.RepeatedScalarFieldContainer[int]
    strings: _containers.RepeatedScalarFieldContainer[str]
    num_oov_buckets: int
    file: str
    sha256: str
    def __init__(self, integers: _Optional[_Iterable[int]] = ..., strings: _Optional[_Iterable[str]] = ..., num_oov_buckets: _Optional[int] = ..., file: _Optional[str] = ..., sha256: _Optional[str] = ...) -> None: ...

class ListAggregate(_message.Message):
    __slots__ = ("by",)
    BY_FIELD_NUMBER: _ClassVar[int]
    by: Aggregation
    def __init__(self, by: _Optional[_Union[Aggregation, str]] = ...) -> None: ...

class Deduplicate(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class Sort(_message.Message):
    __slots__ = ("descending",)
    DESCENDING_FIELD_NUMBER: _ClassVar[int]
    descending: bool
    def __init__(self, descending: bool = ...) -> None: ...

class Pad(_message.Message):
    __slots__ = ("length", "value")
    LENGTH_FIELD_NUMBER: _ClassVar[int]
    VALUE_FIELD_NUMBER: _ClassVar[int]
    length: int
    value: Scalar
    def __init__(self, length: _Optional[int] = ..., value: _Optional[_Union[Scalar, _Mapping]] = ...) -> None: ...

class Enumerate(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class NGram(_message.Message):
    __slots__ = ("n", "num_buckets", "seed")
    N_FIELD_NUMBER: _ClassVar[int]
    NUM_BUCKETS_FIELD_NUMBER: _ClassVar[int]
    SEED_FIELD_NUMBER: _ClassVar[int]
    n: int
    num_buckets: int
    seed: int
    def __init__(self, n: _Optional[int] = ..., num_buckets: _Optional[int] = ..., seed: _Optional[int] = ...) -> None: ...

class Sample(_message.Message):
    __slots__ = ("count", "seed")
    COUNT_FIELD_NUMBER: _ClassVar[int]
    SEED_FIELD_NUMBER: _ClassVar[int]
    count: int
    seed: int
    def __init__(self, count: _Optional[int] = ..., seed: _Optional[int] = ...) -> None: ...

class OneHot(_message.Message):
    __slots__ = ("num_classes",)
    NUM_CLASSES_FIELD_NUMBER: _ClassVar[int]
    num_classes: int
    def __init__(self, num_classes: _Optional[int] = ...) -> None: ...

class FitFillNull(_message.Message):
    __slots__ = ("by",)
    BY_FIELD_NUMBER: _ClassVar[int]
    by: Filling
    def __init__(self, by: _Optional[_Union[Filling, str]] = ...) -> None: ...

class FitNormalize(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class FitMinMax(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class FitBucketize(_message.Message):
    __slots__ = ("num_buckets",)
    NUM_BUCKETS_FIELD_NUMBER: _ClassVar[int]
    num_buckets: int
    def __init__(self, num_buckets: _Optional[int] = ...) -> None: ...

class FitVocabulary(_message.Message):
    __slots__ = ("min_count", "max_size", "num_oov_buckets")
    MIN_COUNT_FIELD_NUMBER: _ClassVar[int]
    MAX_SIZE_FIELD_NUMBER: _ClassVar[int]
    NUM_OOV_BUCKETS_FIELD_NUMBER: _ClassVar[int]
    min_count: int
    max_size: int
    num_oov_buckets: int
    def __init__(self, min_count: _Optional[int] = ..., max_size: _Optional[int] = ..., num_oov_buckets: _Optional[int] = ...) -> None: ...
