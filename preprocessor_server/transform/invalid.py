"""Errors of a dataset's structure: which field, and the way out."""

from __future__ import annotations

import difflib
from collections.abc import Sequence

from preprocessor_server.errors import DatasetError


def invalid(field: str, message: str) -> DatasetError:
    """The error for a malformed field; short in the message, whole in the field path."""
    return DatasetError("DATASET_INVALID", f"{shorten(field)}: {message}", field=field)


def shorten(field: str) -> str:
    """A field path as messages give it."""
    return field.removeprefix("dataset.")


def name_fault(field: str, name: str, names: Sequence[str]) -> DatasetError | None:
    """Why the name that a field gives is not that of one column, None if it is; names has all."""
    count = names.count(name)
    if count == 0:
        return DatasetError(
            "FEATURE_UNMATCHED",
            f"{shorten(field)}: {name!r} is no column; {suggest(name, names)}",
            field=field,
        )
    if count > 1:
        return invalid(field, f"the source has {count} columns called {name!r}; rename all but one")
    return None


def suggest(name: str, names: Sequence[str]) -> str:
    """A way out for a name that no column has."""
    close = difflib.get_close_matches(name.strip("*?"), names, n=3)
    if close:
        return "did you mean " + " or ".join(map(repr, close)) + "?"
    if not names:
        return "the source has no columns"
    shown = ", ".join(names[:10]) + (", …" if len(names) > 10 else "")
    return f"the source has {shown}"
