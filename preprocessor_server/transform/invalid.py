"""Errors of a dataset's structure: which field, and the way out."""

from __future__ import annotations

from preprocessor_server.errors import DatasetError


def invalid(field: str, message: str) -> DatasetError:
    """The error for a malformed field; short in the message, whole in the field path."""
    return DatasetError("DATASET_INVALID", f"{shorten(field)}: {message}", field=field)


def shorten(field: str) -> str:
    """A field path as messages give it."""
    return field.removeprefix("dataset.")
