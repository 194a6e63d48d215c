"""The functions and casts that SQL expressions may use, and why others are refused.

An expression decides which rows a batch holds, so it must give the same on every server: only
functions whose result is fixed by their arguments, to the last bit, on every CPU.
"""

from __future__ import annotations

import difflib

from preprocessor_server.transform import duck


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


_NUMBERS = _words(
    "+ - * / // % abs floor ceil ceiling round trunc sign sqrt greatest least mod fmod isnan isinf "
    "isfinite"
)
_PATTERNS = _words(
    "~~ !~~ ~~* !~~* like_escape not_like_escape ilike_escape not_ilike_escape starts_with prefix "
    "ends_with suffix contains"
)
_STRINGS = _PATTERNS | _words(
    "|| concat lower upper length len substring substr trim ltrim rtrim replace strpos position "
    "instr left right"
)
_TIMES = _words(
    "date_part datepart date_trunc datetrunc date_diff datediff date_sub datesub epoch epoch_ms "
    "epoch_us epoch_ns year month day hour minute second dayofweek isodow dayofyear week quarter "
    "to_years to_months to_weeks to_days to_hours to_minutes to_seconds to_milliseconds "
    "to_microseconds"
)
# Their first argument may be a column of lists.
LIST_FUNCTIONS = _words(
    "len length array_length contains list_contains list_has list_position list_indexof "
    "list_extract list_element array_extract list_min list_max list_sum list_avg"
)
FUNCTIONS = _NUMBERS | _STRINGS | _TIMES | LIST_FUNCTIONS | _words("nullif ifnull if")
# What they give is a truth value.
TRUTHS = _PATTERNS | _words("list_contains list_has isnan isinf isfinite")
# The types that values may be cast to.
CASTS = _words(
    "BOOLEAN BOOL LOGICAL TINYINT INT1 SMALLINT INT2 SHORT INTEGER INT INT4 SIGNED BIGINT INT8 "
    "LONG UTINYINT UINT8 USMALLINT UINT16 UINTEGER UINT32 UBIGINT UINT64 INT16 INT32 INT64 HUGEINT "
    "UHUGEINT FLOAT FLOAT4 REAL DOUBLE FLOAT8 DECIMAL NUMERIC DEC VARCHAR TEXT STRING CHAR BPCHAR "
    "BLOB BYTEA BINARY VARBINARY DATE TIME TIMESTAMP DATETIME TIMESTAMP_S TIMESTAMP_MS "
    "TIMESTAMP_US TIMESTAMP_NS TIMESTAMPTZ INTERVAL"
) | {"TIMESTAMP WITH TIME ZONE"}

# Their last bits are the C library's, which takes other routines on other CPUs.
_INEXACT = _words(
    "ln log log2 log10 exp pow power ^ ** cbrt sin cos tan cot asin acos atan atan2 sinh cosh tanh "
    "asinh acosh atanh gamma lgamma degrees radians"
)
_MIRRORS = {
    **dict.fromkeys(("ln", "log", "log2", "log10"), "x > 1000 in place of log10(x) > 3"),
    "exp": "x > 2.302585093 in place of exp(x) > 10",
    **dict.fromkeys(("pow", "power", "^", "**"), "x * x in place of x ** 2"),
}
# How people call what else is not supported, and the way out.
UNSUPPORTED = {
    "SUBQUERY": ("a subquery", "list the values, x IN (1, 2), or take list_contains(column, x)"),
    "WINDOW": ("a window function", "write what other rows tell as a column"),
    "PARAMETER": ("a parameter", "write the value itself"),
    "STAR": ("*", "name the columns"),
    "LAMBDA": ("a lambda", "name the elements of a list by their position, as in column[1]"),
    "COLLATE": ("COLLATE", "strings compare by their bytes; take lower(column)"),
    "DEFAULT": ("DEFAULT", "write the value itself"),
    "POSITIONAL_REFERENCE": ("a positional reference", "name the column"),
}
# Words that stand for a function call without brackets.
CLOCKS = _words(
    "current_date current_time current_timestamp localtime localtimestamp get_current_timestamp "
    "now today"
)


def why_refused(name: str) -> tuple[str, str]:
    """Why a function that is not in FUNCTIONS is refused, and the way out ("": none of its own)."""
    agree = "and servers must agree on every row"
    if name in _INEXACT:
        mirror = _MIRRORS.get(name)
        instead = f", as in {mirror}" if mirror else ""
        why = f"{name!r} is not supported, since its last bits differ between CPUs, {agree}"
        way_out = f"write it with exact arithmetic, or compare its argument{instead}"
        return why, f"{way_out}; features have Log1p, Logit and BoxCox, the same everywhere"
    kinds = _kinds(name)
    if any(kind == "aggregate" for kind, _ in kinds):
        why = f"the aggregate {name!r} is not supported, since an expression sees one row at a time"
        way_out = "of the elements of a list column, take list_min, list_max, list_sum, list_avg"
        return why, f"{way_out} or len"
    if name in CLOCKS or (kinds and all(s and s != "CONSISTENT" for _, s in kinds)):
        why = f"{name!r} is not supported, since it gives something else each time, {agree}"
        if any(stability == "VOLATILE" for _, stability in kinds):
            return why, "draw rows with sampling, whose seed makes that repeatable"
        return why, "write the date or time as a literal, as in DATE '2026-01-31'"
    if not kinds and name.isidentifier():
        close = difflib.get_close_matches(name, FUNCTIONS, n=3)
        guess = f"did you mean {' or '.join(map(repr, close))}?" if close else ""
        return f"there is no function {name!r}", guess
    return f"the function or operator {name!r} is not supported", ""


def _kinds(name: str) -> list[tuple[str, str | None]]:
    """What DuckDB calls a function's overloads: (scalar, aggregate, macro …; its stability)."""
    with duck.cursor() as cursor:
        return cursor.execute(
            "SELECT DISTINCT function_type, stability FROM duckdb_functions() "
            "WHERE function_name = ?",
            [name],
        ).fetchall()
