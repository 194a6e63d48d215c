"""A dataset's features and filter, bound to a source schema: checked once, then applied to rows."""

from __future__ import annotations

from preprocessor_server.transform.blocks import Output
from preprocessor_server.transform.distinct import (
    distinct_faults,
    find_firsts,
    number_values,
)
from preprocessor_server.transform.features import (
    Transform,
    bind_features,
    compile_features,
)
from preprocessor_server.transform.filter import Filter
from preprocessor_server.transform.from_arrow import arrow_to_column
from preprocessor_server.transform.sampling import Sampler, bind_sampling, with_weight
from preprocessor_server.transform.validate import validate_spec
from preprocessor_server.transform.where import bind_where, compile_where

__all__ = [
    "Filter",
    "Output",
    "Sampler",
    "Transform",
    "arrow_to_column",
    "bind_features",
    "bind_sampling",
    "bind_where",
    "compile_features",
    "compile_where",
    "distinct_faults",
    "find_firsts",
    "number_values",
    "validate_spec",
    "with_weight",
]
