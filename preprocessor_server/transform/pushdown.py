"""What the bounds of columns prove about a condition: that no row of a row group can meet it.

Of the parts of a condition that compare a column with a literal, or ask it for null, the bounds are
compared instead, by the same engine and in the same types, so that both follow one order. Whatever
else a condition is made of may be true. So a proof is never wrong; that there is none says nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import duckdb
import numpy as np
import pyarrow as pa

from preprocessor_server.frame import Mask
from preprocessor_server.transform.column_type import (
    BYTES,
    NUMBERS,
    ColumnType,
    Family,
    column_type,
)
from preprocessor_server.transform.expression import comparable, run
from preprocessor_server.transform.filter_syntax import TABLE, Expression, Node, write_sql

_FLIPPED = {
    "COMPARE_EQUAL": "COMPARE_EQUAL",
    "COMPARE_NOTEQUAL": "COMPARE_NOTEQUAL",
    "COMPARE_LESSTHAN": "COMPARE_GREATERTHAN",
    "COMPARE_GREATERTHAN": "COMPARE_LESSTHAN",
    "COMPARE_LESSTHANOREQUALTO": "COMPARE_GREATERTHANOREQUALTO",
    "COMPARE_GREATERTHANOREQUALTO": "COMPARE_LESSTHANOREQUALTO",
}
_BELOW = {"COMPARE_LESSTHAN", "COMPARE_LESSTHANOREQUALTO"}
_AT_LEAST, _AT_MOST = "COMPARE_GREATERTHANOREQUALTO", "COMPARE_LESSTHANOREQUALTO"
_DATED = {"DATE", "TIMESTAMP", "TIMESTAMPTZ", "TIMESTAMP WITH TIME ZONE"}
_BETWEEN = ("input", "lower", "upper")


@dataclass(frozen=True, slots=True)
class Pushdown:
    """A test of bounds. columns are those whose bounds it needs, in the order of the schema."""

    columns: tuple[str, ...]
    sql: str

    def may_pass(self, bounds: pa.Table) -> Mask:
        """Of which row groups some row may meet the condition, bool [row groups].

        bounds has, for the column of number n, lo<n> and hi<n> of its type, none<n> (no value but
        null) and full<n> (no null): one value a row group, null for what is not known.
        """
        plain = {
            name: comparable(bounds.column(name)) if name[:2] in {"lo", "hi"} else column
            for name, column in zip(bounds.column_names, bounds.columns, strict=True)
        }
        try:
            (found,) = run(f"SELECT {self.sql} AS value FROM {TABLE}", pa.table(plain))  # noqa: S608
        except duckdb.Error:
            # What cannot be compared proves nothing; a row tells what is wrong with it.
            return np.ones(bounds.num_rows, np.bool_)
        mask: Mask = found.to_numpy().astype(np.bool_)
        return mask


def compile_pushdown(expression: Expression, stored: pa.Schema) -> Pushdown | None:
    """The test of a condition's bounds; None if they can prove nothing.

    stored has the columns that files hold: of those that are computed there are no bounds.
    """
    compiler = _Compiler(expression.columns, stored)
    may = compiler.may(expression.tree)
    if may is None:
        return None
    columns = tuple(name for name in expression.columns if name in compiler.used)
    for node in compiler.refs:
        kind, _, name = node["column_names"][0].partition(" ")
        node["column_names"] = [f"{kind}{columns.index(name)}"]
    return Pushdown(columns, write_sql(may))


@dataclass(slots=True)
class _Compiler:
    columns: Sequence[str]
    stored: pa.Schema
    used: set[str] = field(default_factory=set)
    refs: list[Node] = field(default_factory=list)

    def may(self, node: Node) -> Node | None:
        """Whether a condition may be true, of bounds; None if that is not known."""
        if node["type"] == "CONJUNCTION_AND":
            known = [may for child in node["children"] if (may := self.may(child)) is not None]
            return _join("CONJUNCTION_AND", known) if known else None
        if node["type"] == "CONJUNCTION_OR":
            parts = [self.may(child) for child in node["children"]]
            known = [may for may in parts if may is not None]
            return _join("CONJUNCTION_OR", known) if len(known) == len(parts) else None
        test = _TESTS.get(node["type"])
        return None if test is None else test(self, node)

    def _comparison(self, node: Node) -> Node | None:
        type_, column, literal = node["type"], node["left"], node["right"]
        if column["class"] != "COLUMN_REF":
            type_, column, literal = _FLIPPED[type_], literal, column
        kind = self._comparable(column, [literal])
        if kind is None:
            return None
        if type_ == "COMPARE_EQUAL":
            return self._proof(column, self._within(column, literal, literal))
        if type_ in _BELOW:
            return self._proof(column, _compare(type_, self._ref("lo", column), literal))
        if kind.family is Family.FLOAT:
            # NaN is above every number, and bounds leave it out.
            return None
        if type_ == "COMPARE_NOTEQUAL":
            sides = (("COMPARE_LESSTHAN", "lo"), ("COMPARE_GREATERTHAN", "hi"))
            other = [_compare(sign, self._ref(bound, column), literal) for sign, bound in sides]
            return self._proof(column, _join("CONJUNCTION_OR", other))
        return self._proof(column, _compare(type_, self._ref("hi", column), literal))

    def _between(self, node: Node) -> Node | None:
        column, lower, upper = (node[part] for part in _BETWEEN)
        if self._comparable(column, [lower, upper]) is None:
            return None
        return self._proof(column, self._within(column, lower, upper))

    def _among(self, node: Node) -> Node | None:
        column, *literals = node["children"]
        if self._comparable(column, literals) is None:
            return None
        each = [self._within(column, literal, literal) for literal in literals]
        return self._proof(column, _join("CONJUNCTION_OR", each))

    def _null(self, node: Node) -> Node | None:
        return self._null_test(node, "full")

    def _not_null(self, node: Node) -> Node | None:
        return self._null_test(node, "none")

    def _null_test(self, node: Node, proof: str) -> Node | None:
        (column,) = node["children"]
        if self._kind(column) is None:
            return None
        return _or_true(_not(self._ref(proof, column)))

    def _truth(self, node: Node) -> Node | None:
        return self._proof(node, self._ref("hi", node)) if self._is_boolean(node) else None

    def _untruth(self, node: Node) -> Node | None:
        (column,) = node["children"]
        if not self._is_boolean(column):
            return None
        return self._proof(column, _not(self._ref("lo", column)))

    def _is_boolean(self, node: Node) -> bool:
        kind = self._kind(node)
        return kind is not None and kind.family is Family.BOOLEAN

    def _comparable(self, column: Node, literals: Sequence[Node]) -> ColumnType | None:
        """The type of a column if it is compared with literals in its own order."""
        kind = self._kind(column)
        if kind is None or not all(_fits(kind.family, literal) for literal in literals):
            return None
        return kind

    def _kind(self, node: Node) -> ColumnType | None:
        """The type of a column of the files that holds one value a row; None for all else."""
        if node["class"] != "COLUMN_REF" or self._name(node) not in self.stored.names:
            return None
        kind = column_type(self.stored.field(self._name(node)).type)
        return None if kind is None or kind.is_list else kind

    def _within(self, column: Node, lower: Node, upper: Node) -> Node:
        return _join(
            "CONJUNCTION_AND",
            [
                _compare(_AT_MOST, self._ref("lo", column), upper),
                _compare(_AT_LEAST, self._ref("hi", column), lower),
            ],
        )

    def _proof(self, column: Node, test: Node) -> Node:
        """A test of bounds, true where they are not known and false where all values are null."""
        some = _not(self._ref("none", column))
        return _or_true(_join("CONJUNCTION_AND", [some, test]))

    def _name(self, column: Node) -> str:
        return self.columns[int(column["column_names"][0][1:])]

    def _ref(self, bound: str, column: Node) -> Node:
        name = self._name(column)
        self.used.add(name)
        node = {**column, "column_names": [f"{bound} {name}"]}
        self.refs.append(node)
        return node


_TESTS: dict[str, Callable[[_Compiler, Node], Node | None]] = {
    **dict.fromkeys(_FLIPPED, _Compiler._comparison),
    "COMPARE_BETWEEN": _Compiler._between,
    "COMPARE_IN": _Compiler._among,
    "OPERATOR_IS_NULL": _Compiler._null,
    "OPERATOR_IS_NOT_NULL": _Compiler._not_null,
    "OPERATOR_NOT": _Compiler._untruth,
    "COLUMN_REF": _Compiler._truth,
}


def _fits(family: Family, literal: Node) -> bool:
    """Whether a literal becomes a value of a column's order, or both a value of a wider one.

    Numbers and strings have orders of their own: a column of strings compared with a number is
    ordered as numbers, its bounds as strings.
    """
    if literal["class"] == "CAST":
        named = str(literal["type_expr"].get("type_name", "")).upper()
        plain = literal["child"]["class"] == "CONSTANT" and not literal["try_cast"]
        return plain and family is Family.TIME and named in _DATED
    if literal["class"] != "CONSTANT":
        return False
    kind = literal["literal"]["kind"]
    if kind == "STRING":
        # 'nan' is one that a column of floating-point numbers may hold beside its bounds.
        return family in BYTES or family in {Family.TIME, Family.INTEGER, Family.DECIMAL}
    if kind == "BOOLEAN":
        return family is Family.BOOLEAN
    return kind != "NULL_LITERAL" and family in {*NUMBERS, Family.DECIMAL}


def _node(class_: str, type_: str, **parts: object) -> Node:
    return {"class": class_, "type": type_, "alias": "", "query_location": 2**64 - 1, **parts}


def _compare(type_: str, left: Node, right: Node) -> Node:
    return _node("COMPARISON", type_, left=left, right=right)


def _join(type_: str, children: Sequence[Node]) -> Node:
    return children[0] if len(children) == 1 else _node("CONJUNCTION", type_, children=children)


def _not(child: Node) -> Node:
    return _node("OPERATOR", "OPERATOR_NOT", children=[child])


def _or_true(child: Node) -> Node:
    literal = {"kind": "BOOLEAN", "text": "true"}
    true = _node("CONSTANT", "VALUE_CONSTANT", literal=literal)
    return _node("OPERATOR", "OPERATOR_COALESCE", children=[child, true])
