"""The SQL that a filter may be made of, read by DuckDB's own parser.

The first form: comparisons, BETWEEN, IS [NOT] NULL, [NOT] IN (literals), AND, OR, NOT over columns
and literals. DuckDB's tree is checked node by node, columns get the names c0, c1, … (DuckDB takes
"a" and "A" for the same, Arrow does not), and DuckDB writes the SQL that is run.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from preprocessor_server.errors import DatasetError
from preprocessor_server.transform import duck
from preprocessor_server.transform.invalid import suggest

Node = dict[str, Any]

TABLE = "split"
_PREFIX = "SELECT 1 FROM split WHERE "
_NOWHERE = 2**64 - 1
_ALLOWED = (
    "a filter is made of comparisons, BETWEEN, IN (literals), IS NULL, AND, OR, NOT, columns and "
    "literals"
)

_COMPARISONS = (
    "COMPARE_EQUAL",
    "COMPARE_NOTEQUAL",
    "COMPARE_LESSTHAN",
    "COMPARE_GREATERTHAN",
    "COMPARE_LESSTHANOREQUALTO",
    "COMPARE_GREATERTHANOREQUALTO",
    "COMPARE_DISTINCT_FROM",
    "COMPARE_NOT_DISTINCT_FROM",
)
# Where the operands of a node stand.
_PARTS = {
    "COMPARE_BETWEEN": ("input", "lower", "upper"),
    **dict.fromkeys(_COMPARISONS, ("left", "right")),
}
_LOGIC = {"OPERATOR_NOT", "CONJUNCTION_AND", "CONJUNCTION_OR"}
_TRUTH_VALUES = {"BOOLEAN", "NULL_LITERAL"}
_NULL_TESTS = {"OPERATOR_IS_NULL", "OPERATOR_IS_NOT_NULL"}
# How people call what is not supported.
_NAMES = {
    "SUBQUERY": "a subquery",
    "WINDOW": "a window function",
    "PARAMETER": "a parameter",
    "STAR": "*",
    "LAMBDA": "a lambda",
    "CASE": "CASE",
    "CAST": "a cast of something that is not a literal",
    "COLLATE": "COLLATE",
    "DEFAULT": "DEFAULT",
    "POSITIONAL_REFERENCE": "a positional reference",
}


class FilterError(DatasetError):
    """Fix the filter, at a character of it (from 1; None: not known)."""

    character: int | None = None


@dataclass(frozen=True, slots=True)
class Expression:
    """A checked filter: its SQL over columns c0, c1, …, and the source columns these stand for.

    columns are in the order of the source schema. values are those whose values matter, the others
    are only asked whether they are null; conditions are those that stand for a truth value.
    """

    sql: str
    columns: tuple[str, ...]
    values: frozenset[str]
    conditions: frozenset[str]


@dataclass(slots=True)
class _Walk:
    where: str
    # None: not known, so any name is one.
    names: Sequence[str] | None
    refs: list[Node] = field(default_factory=list)
    values: set[str] = field(default_factory=set)
    conditions: set[str] = field(default_factory=set)
    errors: list[DatasetError] = field(default_factory=list)
    unknown: set[str] = field(default_factory=set)

    @property
    def columns(self) -> list[str]:
        return list(self.names or ())

    def visit(self, node: Node) -> None:
        """Checks an expression and all it is made of, and keeps the columns and the errors."""
        try:
            self._visit(node)
        except DatasetError as error:
            self.errors.append(error)

    def _visit(self, node: Node) -> None:
        kind, type_ = node["class"], node["type"]
        if kind == "COLUMN_REF":
            self.values.add(self.reference(node))
        elif _is_literal(node):
            return
        elif type_ in _PARTS:
            for part in _PARTS[type_]:
                self.visit(node[part])
        elif type_ in _NULL_TESTS and node["children"][0]["class"] == "COLUMN_REF":
            self.reference(node["children"][0])
        elif type_ in _NULL_TESTS:
            self.visit(node["children"][0])
        elif type_ == "COMPARE_IN":
            self.visit(node["children"][0])
            for child in node["children"][1:]:
                if not _is_literal(child):
                    raise self.unsupported(child, "an IN list of anything but literals")
        elif type_ in _LOGIC:
            for child in node["children"]:
                self.condition(child)
        else:
            raise self.unsupported(node, _describe(node))

    def condition(self, node: Node) -> None:
        """Visits what must be a truth value; DuckDB would make one of numbers and strings."""
        if node["class"] == "COLUMN_REF":
            self.conditions.add(node["column_names"][0])
        elif node["class"] == "CONSTANT" and node["literal"]["kind"] not in _TRUTH_VALUES:
            self.errors.append(
                self.unsupported(node, f"{node['literal']['text']!r} as a condition")
            )
            return
        self.visit(node)

    def reference(self, node: Node) -> str:
        """Checks a column reference and keeps it; returns the column's name."""
        path = node["column_names"]
        if len(path) > 1:
            raise self.unsupported(node, f"the qualified name {'.'.join(path)!r}")
        name = str(path[0])
        count = 1 if self.names is None else self.names.count(name)
        if count != 1 and name not in self.unknown:
            self.unknown.add(name)
            why = (
                f"the source has {count} columns called {name!r}; rename all but one"
                if count
                else f"column {name!r} is not in the source; {suggest(name, self.columns)}"
            )
            raise filter_invalid(why, self.position(node))
        self.refs.append(node)
        return name

    def position(self, node: Node) -> int:
        before = (_PREFIX + self.where).encode()[: node["query_location"]]
        return len(before.decode(errors="replace")) - len(_PREFIX) + 1

    def unsupported(self, node: Node, what: str) -> DatasetError:
        known = node["query_location"] != _NOWHERE
        at = self.position(node) if known else None
        return filter_invalid(f"{what} is not supported", at, _ALLOWED)


def parse_filter(where: str, names: Sequence[str]) -> Iterator[Expression | DatasetError]:
    """Reads a filter over columns of the given names.

    Gives the expression, or else every DatasetError (FILTER_INVALID) that says what does not parse,
    is not supported, or names no column, and where.
    """
    try:
        tree, walk = _walk(where, names)
    except DatasetError as error:
        yield error
        return
    if walk.errors:
        yield from walk.errors
        return
    used = {node["column_names"][0] for node in walk.refs}
    columns = tuple(name for name in names if name in used)
    for node in walk.refs:
        node["column_names"] = [f"c{columns.index(node['column_names'][0])}"]
    with duck.cursor() as cursor:
        row = cursor.execute("SELECT json_deserialize_sql(?::JSON)", [json.dumps(tree)]).fetchone()
    assert row is not None
    yield Expression(
        sql=str(row[0]).removeprefix(_PREFIX),
        columns=columns,
        values=frozenset(walk.values),
        conditions=frozenset(walk.conditions),
    )


def find_syntax_faults(where: str) -> Iterator[DatasetError]:
    """What is wrong in a filter, whatever the columns of the source."""
    if not where.strip():
        return
    try:
        _, walk = _walk(where, None)
    except DatasetError as error:
        yield error
        return
    yield from walk.errors


def _walk(where: str, names: Sequence[str] | None) -> tuple[Node, _Walk]:
    """DuckDB's tree of a filter, and what a walk over it found; None for names not known."""
    walk = _Walk(where, names)
    try:
        tree = _parse(where)
        walk.condition(tree["statements"][0]["node"]["where_clause"])
    except RecursionError as error:
        raise filter_invalid(
            "the expression is nested too deeply; write alternatives as one IN list"
        ) from error
    return tree, walk


def filter_invalid(message: str, character: int | None = None, way_out: str = "") -> FilterError:
    """The error for a filter at fault, with the character at which the fault is, from 1."""
    at = "" if character is None else f" (at character {character})"
    end = f"; {way_out}" if way_out else ""
    error = FilterError("FILTER_INVALID", f"where: {message}{at}{end}", field="dataset.where")
    error.character = character
    return error


def _parse(where: str) -> Node:
    """DuckDB's tree of a statement that has the filter as its WHERE clause and nothing else."""
    tree = _serialize(_PREFIX + where)
    if tree["error"]:
        position = int(tree.get("position", len(_PREFIX))) - len(_PREFIX) + 1
        raise filter_invalid(tree["error_message"], position, _ALLOWED)
    # What parses after WHERE, but not in brackets, is an expression and something more.
    if len(tree["statements"]) != 1 or _serialize(f"{_PREFIX}(\n{where}\n)")["error"]:
        raise filter_invalid(f"something follows the expression; {_ALLOWED}")
    return tree


def _serialize(statement: str) -> Node:
    with duck.cursor() as cursor:
        row = cursor.execute("SELECT json_serialize_sql(?::VARCHAR)", [statement]).fetchone()
    assert row is not None
    tree: Node = json.loads(row[0])
    return tree


def _is_literal(node: Node) -> bool:
    """Whether a node is a constant, or one cast to a type, as in DATE '2026-01-01'."""
    if node["class"] == "CAST":
        return node["child"]["class"] == "CONSTANT" and not node["try_cast"]
    return bool(node["class"] == "CONSTANT")


def _describe(node: Node) -> str:
    if node["class"] == "FUNCTION":
        return f"the function or operator {node['function_name']!r}"
    return _NAMES.get(node["class"], str(node["type"]))
