"""What an operation costs a value, beside numpy or pyarrow doing the same single step.

    python benchmarks/bench_ops.py [--quick] [--json FILE] [name ...]

A column is in memory as a server holds it after reading; the peer gets the same values as a numpy
or an Arrow array. Both give a new array, on one thread; CPU time of this process, which keeps freed
memory as a server's does. The two take turns, a run is as many calls as take a while, and the ratio
is that of the medians. Results are checked to agree before anything is timed, but for rounding:
numpy rounds at every step, and its logarithms are others (docs/decisions/011-log1p.md).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from benchmarks.harness import Measured, arguments, measured, report, runs_of, shown, table
from headrace.v1 import dataset_pb2
from preprocessor_server.allocator import keep_freed_memory
from preprocessor_server.frame import Column, Flat, Jagged
from preprocessor_server.transform import arrow_to_column
from preprocessor_server.transform.column_type import column_type
from preprocessor_server.transform.deliver import deliver_classes
from preprocessor_server.transform.ops import compile_op
from preprocessor_server.transform.place import Place
from trainer_client import ops
from trainer_client.ops import Op

LEAST_RUNS = 5
RUN_S = 0.05
EPSILON, LMBDA, HOURS = 1e-6, 0.3, 24
NEW_YORK = "America/New_York"
_GOLDEN = np.uint64(0x9E3779B97F4A7C15)

Values = npt.NDArray[Any]
Peer = Callable[[], Any]


class Case(NamedTuple):
    """An operation on a column, and the peer that does the same to the same values."""

    name: str
    op: Op
    array: pa.Array
    peer_name: str
    peer: Peer


def cases(count: int) -> list[Case]:
    """Every operation, of count values each."""
    rng = np.random.default_rng(7)
    wide = rng.lognormal(1, 2, count)
    return [
        *_numbers("float32", wide.astype(np.float32), rng),
        *_numbers("float64", wide, rng),
        *_integers(rng.integers(0, 1 << 40, count)),
        *_vocabularies(count, rng),
        *_lists(rng.integers(0, 1 << 40, count), rng),
        *_dates(rng.integers(0, 365 * 86_400_000_000, count)),
        _classes(rng.integers(0, HOURS, count)),
    ]


def _numbers(dtype: str, x: Values, rng: np.random.Generator) -> list[Case]:
    # None that is limited: in float32 numpy's limit is another one.
    array, shares = pa.array(x), rng.uniform(1e-5, 1 - 1e-5, len(x)).astype(x.dtype)
    holes = pa.array(x, mask=rng.uniform(size=len(x)) < 0.1)
    one = x.dtype.type
    edges = np.quantile(x, np.linspace(0.01, 0.99, 100)).astype(x.dtype)

    def logit(values: Values) -> Values:
        of = values.dtype.type
        near = np.clip(values, of(EPSILON), of(1 - EPSILON))
        limited: Values = np.log(near / (of(1) - near))
        return limited

    def power(values: Values) -> Values:
        of = values.dtype.type
        raised: Values = (np.power(values, of(LMBDA)) - of(1)) / of(LMBDA)
        return raised

    arithmetic: list[tuple[str, Op, Values, str, Callable[[Values], Values]]] = [
        ("Log1p", ops.Log1p(), x, "log1p", np.log1p),
        ("Logit", ops.Logit(EPSILON), shares, "log(c / (1 - c))", logit),
        ("BoxCox 0", ops.BoxCox(0), x, "log", np.log),
        ("BoxCox 0.3", ops.BoxCox(LMBDA), x, "(power - 1) / l", power),
        ("Normalize", ops.Normalize(3, 7), x, "(x - m) / s", lambda v: (v - one(3)) / one(7)),
        ("MinMax", ops.MinMax(1, 9), x, "(x - a) / w", lambda v: (v - one(1)) / one(8)),
    ]
    cases = [
        Case(f"{name} {dtype}", op, pa.array(given), f"numpy {words}", partial(step, given))
        for name, op, given, words, step in arithmetic
    ]
    return [
        Case(
            f"FillNull {dtype}",
            ops.FillNull(0.5),
            holes,
            "pyarrow fill_null",
            lambda: pc.fill_null(holes, one(0.5)),
        ),
        Case(
            f"Clip {dtype}", ops.Clip(0, 9), array, "numpy clip", lambda: np.clip(x, one(0), one(9))
        ),
        *cases,
        Case(
            f"Bucketize 100 {dtype}",
            ops.Bucketize(edges.astype(np.float64).tolist()),
            array,
            "numpy searchsorted",
            lambda: np.searchsorted(edges, x, side="right"),
        ),
    ]


def _integers(x: Values) -> list[Case]:
    array, edges = pa.array(x), np.quantile(x, np.linspace(0.01, 0.99, 10)).astype(np.int64)
    return [
        Case(
            "Cast int64 float32",
            ops.Cast("float32"),
            array,
            "numpy astype",
            lambda: x.astype(np.float32),
        ),
        Case(
            "Normalize int64",
            ops.Normalize(3, 7),
            array,
            "numpy (x - m) / s",
            lambda: (x - 3.0) / 7.0,
        ),
        Case(
            "Bucketize 10 int64",
            ops.Bucketize([float(edge) for edge in edges]),
            array,
            "numpy searchsorted",
            lambda: np.searchsorted(edges, x, side="right"),
        ),
        Case("HashBucket int64", ops.HashBucket(1 << 20), array, "numpy mix", lambda: _hashed(x)),
    ]


def _hashed(x: Values) -> Values:
    """The hash of docs/ops.md, step by step."""
    with np.errstate(over="ignore"):
        return _bucket(_mixed(x.astype(np.uint64) + _GOLDEN))


def _mixed(z: Values) -> Values:
    with np.errstate(over="ignore"):
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        z ^= z >> np.uint64(31)
    return z


def _bucket(z: Values) -> Values:
    """One of 2^20 for each hash."""
    buckets: Values = (((z >> np.uint64(32)) << np.uint64(20)) >> np.uint64(32)).astype(np.int64)
    return buckets


def _vocabularies(count: int, rng: np.random.Generator) -> list[Case]:
    """Of 10,000 values, all of which are listed, or half of them."""
    every = rng.permutation(20_000) * 1_000_003
    listed = every[:10_000]
    known, half = rng.choice(listed, count), rng.choice(every, count)
    values, array = pa.array(listed), pa.array(half)

    def with_buckets() -> Values:
        found = pc.fill_null(pc.index_in(array, value_set=values), -1).to_numpy()
        return np.where(found < 0, len(listed) + _hashed(half), found)

    return [
        Case(
            "Vocabulary 10k",
            ops.Vocabulary(listed.tolist()),
            pa.array(known),
            "pyarrow index_in",
            lambda: pc.index_in(pa.array(known), value_set=values),
        ),
        Case(
            "Vocabulary 10k, half unknown",
            ops.Vocabulary(listed.tolist(), 1 << 20),
            array,
            "pyarrow index_in, numpy mix",
            with_buckets,
        ),
    ]


def _lists(x: Values, rng: np.random.Generator) -> list[Case]:
    cuts = np.sort(rng.integers(0, len(x), len(x) // 20))
    offsets = np.concatenate([[0], cuts, [len(x)]]).astype(np.int64)
    lists = pa.LargeListArray.from_arrays(pa.array(offsets), pa.array(x))

    def tails() -> Values:
        kept = np.minimum(np.diff(offsets), 10)
        ends = np.cumsum(kept)
        kept_values: Values = x[np.arange(ends[-1]) + np.repeat(offsets[1:] - ends, kept)]
        return kept_values

    return [
        Case("Tail 10 int64", ops.Tail(10), lists, "numpy take", tails),
        *_whole_lists(x, np.unique(offsets)),
    ]


def _whole_lists(x: Values, offsets: Values) -> list[Case]:
    """Of lists of which none is empty: numpy's reduceat has no empty ones."""
    few = x % 16
    sizes = np.diff(offsets)
    rows = np.repeat(np.arange(len(sizes)), sizes)
    lists, of_few = (
        pa.LargeListArray.from_arrays(pa.array(offsets), pa.array(values)) for values in (x, few)
    )
    keys = rows * 16 + few

    def first_of_each() -> Values:
        _, firsts = np.unique(keys, return_index=True)
        found: Values = few[np.sort(firsts)]
        return found

    def padded() -> Values:
        wider = np.maximum(sizes, 30)
        starts = np.cumsum(wider) - wider
        made = np.zeros(wider.sum(), np.int64)
        made[np.arange(len(x)) + np.repeat(starts - offsets[:-1], sizes)] = x
        return made

    def pairs_hashed() -> Values:
        """The bigrams of docs/ops.md, step by step."""
        start = _mixed(np.array([_GOLDEN], np.uint64))
        ids = x.view(np.uint64)
        with np.errstate(over="ignore"):
            first = _mixed((start ^ ids[:-1]) + _GOLDEN)
            second = _mixed((first ^ ids[1:]) + _GOLDEN)
        return _bucket(second[rows[:-1] == rows[1:]])

    return [
        Case("Head 10", ops.Head(10), lists, "pyarrow list_slice", lambda: _sliced(lists, 0, 10)),
        Case(
            "Slice 2 12",
            ops.Slice(2, 12),
            lists,
            "pyarrow list_slice",
            lambda: _sliced(lists, 2, 12),
        ),
        Case("Deduplicate", ops.Deduplicate(), of_few, "numpy unique", first_of_each),
        Case("Sort", ops.Sort(), lists, "numpy lexsort", lambda: x[np.lexsort((x, rows))]),
        Case("Pad 30", ops.Pad(30, 0), lists, "numpy scatter", padded),
        Case("NGram 2", ops.NGram(2, 1 << 20), lists, "numpy mix", pairs_hashed),
        *(
            Case(
                f"ListAggregate {by}",
                ops.ListAggregate(by),
                lists,
                "numpy reduceat",
                lambda reduce=reduce: reduce.reduceat(x, offsets[:-1]),  # type: ignore[misc]
            )
            for by, reduce in (("sum", np.add), ("max", np.maximum))
        ),
    ]


def _sliced(lists: pa.Array, start: int, stop: int) -> pa.Array:
    return pc.list_slice(lists, start, stop).flatten()


def _dates(x: Values) -> list[Case]:
    # Rows of a log are in the order of time, or nearly.
    x = np.sort(x) + 1_767_225_600_000_000
    naive = pa.array(x, pa.timestamp("us"))
    local = pa.array(x, pa.timestamp("us", tz=NEW_YORK))
    functions: dict[str, Callable[[pa.Array], Any]] = {
        "hour": pc.hour,
        "minute": pc.minute,
        "day_of_week": pc.day_of_week,
        "day_of_month": pc.day,
        "day_of_year": pc.day_of_year,
        "month": pc.month,
        "year": pc.year,
    }

    def case(part: str, zone: str, array: pa.Array) -> Case:
        function = functions[part]
        name = f"DateParts {part}{'' if zone == 'UTC' else ' ' + zone}"
        op = ops.DateParts(part, zone)
        return Case(name, op, array, f"pyarrow {function.__name__}", lambda: function(array))

    return [
        *(case(part, "UTC", naive) for part in functions),
        *(case(part, NEW_YORK, local) for part in ("hour", "day_of_week")),
    ]


def _classes(x: Values) -> Case:
    def features() -> Values:
        made = np.zeros(HOURS * len(x), np.float32)
        made[x * len(x) + np.arange(len(x))] = 1
        return made

    return Case(f"OneHot {HOURS}", ops.OneHot(HOURS), pa.array(x), "numpy zeros and ones", features)


def compiled(case: Case) -> Callable[[], Sequence[Column]]:
    """The operation, ready to be called on its column; it gives one, but OneHot."""
    given = column_type(case.array.type)
    assert given is not None
    step, _ = compile_op(case.op.to_proto(), given)
    column, place = arrow_to_column(case.array), Place(case.name, None)
    if isinstance(case.op, ops.OneHot):
        spread = deliver_classes(HOURS, dataset_pb2.SCALAR_TYPE_FLOAT32)
        return lambda: spread(step(column, place))
    return lambda: [step(column, place)]


def check(case: Case, own: Callable[[], Sequence[Column]]) -> None:
    """Raises AssertionError where the two do not agree."""
    columns, theirs = own(), case.peer()
    made = [column.values if isinstance(column, Jagged) else column for column in columns]
    values = np.concatenate([flat.values for flat in made if isinstance(flat, Flat)])
    expected = theirs.to_numpy(zero_copy_only=False) if isinstance(theirs, pa.Array) else theirs
    # The peer's arithmetic in float32 rounds at every step.
    tolerance = 2e-5 if expected.dtype == np.float32 else 1e-12
    np.testing.assert_allclose(values, expected, rtol=tolerance, atol=tolerance)


def ns_a_value(function: Callable[[], Any], calls: int, count: int) -> float:
    """CPU nanoseconds a value of some calls."""
    began_ns = time.process_time_ns()
    for _ in range(calls):
        function()
    return (time.process_time_ns() - began_ns) / calls / count


def measure(case: Case, count: int, runs: int) -> tuple[Measured, Measured]:
    """Nanoseconds a value, own and the peer's."""
    own = compiled(case)
    check(case, own)
    sides: tuple[Callable[[], Any], ...] = (own, case.peer)
    calls = [max(1, int(RUN_S * 1e9 / (ns_a_value(side, 1, count) * count))) for side in sides]
    took: tuple[list[float], list[float]] = ([], [])
    for _ in range(runs):
        for side, number, times in zip(sides, calls, took, strict=True):
            times.append(ns_a_value(side, number, count))
    return measured(took[0], "ns/value"), measured(took[1], "ns/value")


def main() -> None:
    """Measures and reports."""
    parser = arguments("Operations beside numpy and pyarrow")
    parser.add_argument("names", nargs="*", metavar="name", help="how names of cases begin")
    options = parser.parse_args()
    count, runs = 100_000 if options.quick else 1_000_000, max(LEAST_RUNS, runs_of(options))
    keep_freed_memory()
    # numpy is of one thread, and so is each of a server's workers.
    pa.set_cpu_count(1)
    results = []
    for case in cases(count):
        if options.names and not any(case.name.startswith(name) for name in options.names):
            continue
        own, peer = measure(case, count, runs)
        results.append(
            {
                "operation": case.name,
                "peer": case.peer_name,
                "values": count,
                "ns_per_value": own,
                "peer_ns_per_value": peer,
                "ratio": own["median"] / peer["median"],
            }
        )
    table(
        f"CPU ns a value, {count:,} values: median (least-most) of {runs} runs",
        ("operation", "own", "peer", "", "ratio"),
        [
            (
                result["operation"],
                shown(result["ns_per_value"], 2),
                shown(result["peer_ns_per_value"], 2),
                result["peer"],
                f"{result['ratio']:.2f}",
            )
            for result in results
        ],
    )
    report(options, "bench_ops", results)


if __name__ == "__main__":
    main()
