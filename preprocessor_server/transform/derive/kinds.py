"""All kinds of derived columns, and what is wrong with one whatever the columns are."""

from __future__ import annotations

from collections.abc import Iterator

from headrace.v1 import dataset_pb2
from preprocessor_server.errors import DatasetError
from preprocessor_server.transform.derive import choose, cross, expression, times
from preprocessor_server.transform.derive.base import Rule
from preprocessor_server.transform.invalid import invalid

RULES: dict[str, Rule] = {**cross.RULES, **times.RULES, **choose.RULES, **expression.RULES}


def derived_faults(derived: dataset_pb2.Derived, path: str) -> Iterator[DatasetError]:
    """What is wrong with a derived column, whatever the columns that it is made of."""
    if not derived.name:
        yield invalid(f"{path}.name", "the derived column has no name; give it one")
    kind = derived.WhichOneof("kind")
    if kind is None:
        yield invalid(path, f"the derived column has no kind; make it one of {', '.join(RULES)}")
        return
    yield from RULES[kind].check(getattr(derived, kind), f"{path}.{kind}")


def kind_title(derived: dataset_pb2.Derived) -> str:
    """The name of a derived column's kind as the client's builders spell it."""
    kind = derived.WhichOneof("kind")
    assert kind is not None
    return type(getattr(derived, kind)).__name__
