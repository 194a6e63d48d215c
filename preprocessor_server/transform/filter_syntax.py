"""The SQL that an expression over a row may be made of, read by DuckDB's own parser.

DuckDB's tree is checked node by node against what is allowed, columns get the names c0, c1, …
(DuckDB takes "a" and "A" for the same, Arrow does not), and DuckDB writes the SQL that is run.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from preprocessor_server.errors import DatasetError
from preprocessor_server.transform import duck
from preprocessor_server.transform.filter_functions import (
    CASTS,
    CLOCKS,
    FUNCTIONS,
    LIST_FUNCTIONS,
    TRUTHS,
    UNSUPPORTED,
    why_refused,
)
from preprocessor_server.transform.invalid import suggest

Node = dict[str, Any]

TABLE = "split"
_PREFIX = "SELECT 1 FROM split WHERE "
_NOWHERE = 2**64 - 1
_ALLOWED = "docs/ops.md lists what an expression may be made of"

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
_NULL_TESTS = {"OPERATOR_IS_NULL", "OPERATOR_IS_NOT_NULL"}
# What gives a truth value, whatever it is made of.
_TRUTHS = {*_PARTS, *_LOGIC, *_NULL_TESTS, "COMPARE_IN"}
_TRUTH_VALUES = {"BOOLEAN", "NULL_LITERAL"}
_BOOLEAN_NAMES = {"BOOLEAN", "BOOL", "LOGICAL"}


@dataclass(frozen=True, slots=True)
class Site:
    """Where an expression stands in a dataset: what messages call it, and its field."""

    label: str
    field: str


WHERE = Site("where", "dataset.where")


class FilterError(DatasetError):
    """Fix the expression, at a character of it (from 1; None: not known)."""

    character: int | None = None


@dataclass(frozen=True, slots=True)
class Expression:
    """A checked expression: its SQL over columns c0, c1, …, and the source columns they stand for.

    columns are in the order of the source schema. values are those whose values matter, the others
    are only asked whether they are null; conditions are those that stand for a truth value, lists
    those that may hold lists. tree is DuckDB's, with columns called c0, c1, ….
    """

    sql: str
    columns: tuple[str, ...]
    values: frozenset[str]
    conditions: frozenset[str]
    lists: frozenset[str]
    tree: Node
    site: Site


@dataclass(slots=True)
class _Walk:
    text: str
    # None: not known, so any name is one.
    names: Sequence[str] | None
    site: Site
    refs: list[Node] = field(default_factory=list)
    values: set[str] = field(default_factory=set)
    conditions: set[str] = field(default_factory=set)
    lists: set[str] = field(default_factory=set)
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
        if kind in _OWN:
            _OWN[kind](self, node)
        elif type_ in _PARTS:
            for part in _PARTS[type_]:
                self.visit(node[part])
        elif type_ in _NULL_TESTS and node["children"][0]["class"] == "COLUMN_REF":
            self.reference(node["children"][0])
        elif type_ in _NULL_TESTS or type_ in {"COMPARE_IN", "OPERATOR_COALESCE"}:
            for child in node["children"]:
                self.visit(child)
        elif type_ == "ARRAY_EXTRACT":
            self._arguments(node["children"], lists=True)
        elif type_ in _LOGIC:
            for child in node["children"]:
                self.condition(child)
        else:
            what, way_out = UNSUPPORTED.get(kind, (str(type_), ""))
            raise self.unsupported(node, what, way_out)

    def _column(self, node: Node) -> None:
        self.values.add(self.reference(node))

    def _constant(self, node: Node) -> None:
        """Any will do."""

    def _case(self, node: Node) -> None:
        for check in node["case_checks"]:
            self.condition(check["when_expr"])
            self.visit(check["then_expr"])
        self.visit(node["else_expr"])

    def condition(self, node: Node) -> None:
        """Visits what must be a truth value; DuckDB would make one of numbers and strings."""
        kind, type_ = node["class"], node["type"]
        if kind == "COLUMN_REF":
            self.conditions.add(node["column_names"][0])
        elif kind == "CONSTANT" and node["literal"]["kind"] not in _TRUTH_VALUES:
            what = f"{node['literal']['text']!r} as a condition"
            self.errors.append(self.unsupported(node, what, "compare it with something"))
            return
        elif kind == "CASE" or type_ == "OPERATOR_COALESCE":
            for child in _results(node):
                self.condition(child)
            for check in node.get("case_checks", ()):
                self.condition(check["when_expr"])
            return
        elif not _may_be_truth(node):
            self.errors.append(
                self.invalid(f"{_describe(node)} gives no truth value", node, "compare it")
            )
        self.visit(node)

    def _call(self, node: Node) -> None:
        name = _name(node)
        if node["schema"] or node["catalog"]:
            dotted = ".".join([*filter(None, (node["catalog"], node["schema"])), name])
            raise self.unsupported(
                node, f"the qualified function {dotted!r}", "write function(column)"
            )
        if name not in FUNCTIONS:
            why, way_out = why_refused(name)
            raise self.invalid(why, node, way_out or _ALLOWED)
        extras = node["filter"], node["order_bys"]["orders"], node["distinct"]
        if any(extras) or any(argument.get("name") for argument in node["arguments"]):
            raise self.unsupported(
                node, f"more than values between the brackets of {name!r}", "leave it out"
            )
        arguments = [argument["expression"] for argument in node["arguments"]]
        if name == "if" and arguments:
            self.condition(arguments.pop(0))
        self._arguments(arguments, lists=name in LIST_FUNCTIONS)

    def _arguments(self, arguments: Sequence[Node], *, lists: bool) -> None:
        """Visits arguments, of which the first one may be a column of lists."""
        for index, argument in enumerate(arguments):
            if lists and index == 0 and argument["class"] == "COLUMN_REF":
                try:
                    self.lists.add(self.reference(argument))
                except DatasetError as error:
                    self.errors.append(error)
            else:
                self.visit(argument)

    def _cast(self, node: Node) -> None:
        target = node["type_expr"]
        children = target.get("children", ())
        plain = all(child["class"] == "CONSTANT" for child in children)
        if not plain or str(target.get("type_name", "")).upper() not in CASTS:
            raise self.unsupported(
                node,
                f"a cast to {target.get('type_name') or 'that type'}",
                "cast to a plain type: BIGINT, DOUBLE, DECIMAL(18, 2), VARCHAR, TIMESTAMP, …",
            )
        self.visit(node["child"])

    def reference(self, node: Node) -> str:
        """Checks a column reference and keeps it; returns the column's name."""
        path = node["column_names"]
        if len(path) > 1:
            raise self.unsupported(
                node,
                f"the qualified name {'.'.join(path)!r}",
                "write the column alone, in double quotes if it has a dot",
            )
        name = str(path[0])
        count = 1 if self.names is None else self.names.count(name)
        if count == 0 and name.lower() in CLOCKS:
            why, way_out = why_refused(name.lower())
            raise self.invalid(why, node, way_out)
        if count != 1 and name not in self.unknown:
            self.unknown.add(name)
            why = (
                f"the source has {count} columns called {name!r}; rename all but one"
                if count
                else f"column {name!r} is not in the source; {suggest(name, self.columns)}"
            )
            raise self.invalid(why, node)
        self.refs.append(node)
        return name

    def unsupported(self, node: Node, what: str, way_out: str = "") -> DatasetError:
        return self.invalid(f"{what} is not supported", node, way_out or _ALLOWED)

    def invalid(self, why: str, node: Node, way_out: str = "") -> DatasetError:
        known = node["query_location"] != _NOWHERE
        return filter_invalid(why, self._position(node) if known else None, way_out, self.site)

    def _position(self, node: Node) -> int:
        before = (_PREFIX + self.text).encode()[: node["query_location"]]
        return len(before.decode(errors="replace")) - len(_PREFIX) + 1


_OWN: dict[str, Callable[[_Walk, Node], None]] = {
    "COLUMN_REF": _Walk._column,
    "CONSTANT": _Walk._constant,
    "FUNCTION": _Walk._call,
    "CAST": _Walk._cast,
    "CASE": _Walk._case,
}


def parse_expression(
    text: str, names: Sequence[str], site: Site = WHERE, *, truth: bool = True
) -> Iterator[Expression | DatasetError]:
    """Reads an expression over columns of the given names; truth says that it is a condition.

    Gives the expression, or else every DatasetError (FILTER_INVALID) that says what does not parse,
    is not supported, or names no column, and where.
    """
    try:
        tree, walk = _walk(text, names, site, truth)
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
    condition = tree["statements"][0]["node"]["where_clause"]
    yield Expression(
        sql=write_sql(condition),
        columns=columns,
        values=frozenset(walk.values),
        conditions=frozenset(walk.conditions),
        lists=frozenset(walk.lists),
        tree=condition,
        site=site,
    )


def named_columns(text: str) -> tuple[str, ...]:
    """The columns that an expression names, in order; none of one that does not parse."""
    try:
        _, walk = _walk(text, None, WHERE, truth=False)
    except DatasetError:
        return ()
    return tuple(dict.fromkeys(str(node["column_names"][0]) for node in walk.refs))


def syntax_faults(text: str, site: Site = WHERE, *, truth: bool = True) -> Iterator[DatasetError]:
    """What is wrong in an expression, whatever the columns; truth says that it is a condition."""
    if not text.strip():
        return
    try:
        _, walk = _walk(text, None, site, truth)
    except DatasetError as error:
        yield error
        return
    yield from walk.errors


def write_sql(node: Node) -> str:
    """The SQL of an expression's tree."""
    statement = _serialize(f"{_PREFIX}true")
    statement["statements"][0]["node"]["where_clause"] = node
    with duck.cursor() as cursor:
        row = cursor.execute(
            "SELECT json_deserialize_sql(?::JSON)", [json.dumps(statement)]
        ).fetchone()
    assert row is not None
    return str(row[0]).removeprefix(_PREFIX)


def _walk(text: str, names: Sequence[str] | None, site: Site, truth: bool) -> tuple[Node, _Walk]:
    """DuckDB's tree of an expression, and what a walk over it found; None for names not known."""
    walk = _Walk(text, names, site)
    try:
        tree = _parse(text, site)
        (walk.condition if truth else walk.visit)(tree["statements"][0]["node"]["where_clause"])
    except RecursionError as error:
        raise filter_invalid(
            "the expression is nested too deeply; write alternatives as one IN list", site=site
        ) from error
    return tree, walk


def filter_invalid(
    message: str, character: int | None = None, way_out: str = "", site: Site = WHERE
) -> FilterError:
    """The error for an expression at fault, with the character of the fault, from 1."""
    at = "" if character is None else f" (at character {character})"
    end = f"; {way_out}" if way_out else ""
    error = FilterError("FILTER_INVALID", f"{site.label}: {message}{at}{end}", field=site.field)
    error.character = character
    return error


def _parse(text: str, site: Site) -> Node:
    """DuckDB's tree of a statement that has the text as its WHERE clause and nothing else."""
    tree = _serialize(_PREFIX + text)
    if tree["error"]:
        position = int(tree.get("position", len(_PREFIX))) - len(_PREFIX) + 1
        raise filter_invalid(tree["error_message"], position, _ALLOWED, site)
    # What parses after WHERE, but not in brackets, is an expression and something more.
    if len(tree["statements"]) != 1 or _serialize(f"{_PREFIX}(\n{text}\n)")["error"]:
        raise filter_invalid(f"something follows the expression; {_ALLOWED}", site=site)
    return tree


def _serialize(statement: str) -> Node:
    with duck.cursor() as cursor:
        row = cursor.execute("SELECT json_serialize_sql(?::VARCHAR)", [statement]).fetchone()
    assert row is not None
    tree: Node = json.loads(row[0])
    return tree


def _name(call: Node) -> str:
    """The name of a function or operator; DuckDB takes upper and lower case for the same."""
    return str(call["function_name"]).lower()


def _results(node: Node) -> list[Node]:
    """What a CASE or COALESCE may give."""
    if node["class"] == "CASE":
        return [*(check["then_expr"] for check in node["case_checks"]), node["else_expr"]]
    children: list[Node] = node["children"]
    return children


def _may_be_truth(node: Node) -> bool:
    """Whether a node gives a truth value, or is refused anyway."""
    kind = node["class"]
    if kind == "FUNCTION":
        return _name(node) in TRUTHS or _name(node) not in FUNCTIONS
    if kind == "CAST":
        return str(node["type_expr"].get("type_name", "")).upper() in _BOOLEAN_NAMES
    return kind == "CONSTANT" or kind in UNSUPPORTED or node["type"] in _TRUTHS


def _describe(node: Node) -> str:
    if node["class"] == "FUNCTION":
        return repr(_name(node))
    return "a cast" if node["class"] == "CAST" else "an element of a list"
